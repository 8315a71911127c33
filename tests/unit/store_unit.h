/*
 * store_unit.h - what the unit tests of the store share: directories, objects, faults
 *
 * Every object's bytes follow from its name, so whatever is read can be checked without remembering
 * what was written.  Each test has a directory of its own (fresh_dir); clocks are stopped where
 * order matters.  One program is one .c file that includes this once.
 */
#pragma once

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/crc.h"
#include "cache/store_i.h"
#include "tests/unit/unit.h"
#include "util/clock.h"
#include "util/stats.h"

#define KIB 1024u
#define MIB (1024u * KIB)

/* Stands in where the inflate files are not linked. */
__attribute__((weak)) uint32_t crc32_add(uint32_t crc, const void *data, size_t len)
{
	static uint32_t table[256];
	static atomic_int ready;
	const uint8_t *p = data;

	if (!atomic_load(&ready)) {
		static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

		LOCK_SCOPE(&lock);
		for (uint32_t i = 0; i < 256 && !atomic_load(&ready); i++) {
			uint32_t c = i;

			for (int k = 0; k < 8; k++)
				c = c & 1 ? UINT32_C(0xedb88320) ^ c >> 1 : c >> 1;
			table[i] = c;
		}
		atomic_store(&ready, 1);
	}
	crc = ~crc;
	while (len-- > 0)
		crc = table[(crc ^ *p++) & 0xff] ^ crc >> 8;
	return ~crc;
}

/* ---- helpers ------------------------------------------------------------------------------- */

static char dir[64];

static _unused_ int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
	(void)st;
	(void)type;
	(void)f;
	return remove(path);
}

static _unused_ void remove_tree(const char *path)
{
	(void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static _unused_ void clean_up(void)
{
	remove_tree(dir);
}

static _unused_ const char *fresh_dir(void)
{
	static bool registered;

	if (!registered)
		(void)atexit(clean_up);
	registered = true;
	if (dir[0])
		remove_tree(dir);
	(void)snprintf(dir, sizeof(dir), "/tmp/test_store.XXXXXX");
	if (!mkdtemp(dir))
		abort();
	return dir;
}

static _unused_ struct ca_store *store_at(const char *path, uint64_t max, uint64_t min_free)
{
	struct ca_opts o = { .dir = path, .max_bytes = max, .min_free = min_free };
	struct ca_store *s = NULL;
	struct err e = { 0 };

	if (ca_store_new(&o, &s, &e) < 0) {
		(void)unit_fail(__FILE__, __LINE__, "ca_store_new: %s", e.msg);
		abort();
	}
	return s;
}

static _unused_ struct ca_store *store(uint64_t max)
{
	return store_at(dir, max, 1);
}

static _unused_ uint64_t seed_of(const char *key)
{
	uint64_t h = UINT64_C(1469598103934665603);

	while (*key)
		h = (h ^ (uint8_t)*key++) * UINT64_C(1099511628211);
	return h | 1;
}

static _unused_ uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

/* The bytes that an object of this name and length has. */
static _unused_ void *bytes_of(const char *key, size_t len)
{
	uint64_t x = seed_of(key);
	uint8_t *p = malloc(len + 8);

	if (!p)
		abort();
	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = next_random(&x);

		memcpy(p + i, &v, 8);
	}
	return p;
}

static _unused_ errint_t put(struct ca_store *s, enum ca_kind kind, const char *key, size_t len)
{
	_cleanup_free_ void *data = bytes_of(key, len);

	return ca_object_put(s, kind, key, data, len, NULL);
}

/* Only on disk. */
static _unused_ errint_t write_object(struct ca_store *s, enum ca_kind kind, const char *key,
				      size_t len, uint64_t expected)
{
	_cleanup_free_ uint8_t *data = bytes_of(key, len);
	struct ca_writer *w = NULL;
	errint_t r = ca_writer_new(s, kind, key, expected, &w, NULL);

	for (size_t off = 0; r == 0 && off < len; off += 50000)
		r = ca_writer_add(w, data + off, MIN_OF(50000u, len - off), NULL);
	if (r < 0) {
		(void)ca_writer_abort(w);
		return r;
	}
	return ca_writer_publish(w, NULL);
}

/* 0: there and right; -ENOENT; anything else is a failure. */
static _unused_ errint_t check_object(struct ca_store *s, enum ca_kind kind, const char *key)
{
	_cleanup_buf_ struct buf b = BUF_INIT(64 * MIB);
	_cleanup_free_ void *want = NULL;
	errint_t r = ca_object_load(s, kind, key, &b, NULL);

	if (r < 0)
		return r;
	want = bytes_of(key, b.len);
	return b.len == 0 || memcmp(want, b.data, b.len) == 0 ? 0 : -EILSEQ;
}

static uint64_t disk_sum;
static unsigned disk_files;

static _unused_ int add_size(const char *path, const struct stat *st, int type, struct FTW *f)
{
	(void)path;
	(void)f;
	if (type == FTW_F) {
		disk_sum += (uint64_t)st->st_blocks * 512;
		disk_files++;
	}
	return 0;
}

static _unused_ uint64_t disk_usage(const char *path)
{
	disk_sum = 0;
	disk_files = 0;
	(void)nftw(path, add_size, 16, FTW_PHYS);
	return disk_sum;
}

static _unused_ const char *file_of(enum ca_kind kind, const char *key)
{
	static char out[512];
	char path[CA_PATH_MAX];

	if (ca_path(kind, key, path, NULL) < 0)
		abort();
	(void)snprintf(out, sizeof(out), "%s/%s", dir, path);
	return out;
}

static _unused_ void put_file(const char *path, const void *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd < 0 || (len > 0 && write(fd, data, len) != (ssize_t)len))
		abort();
	(void)close(fd);
}

static _unused_ uint64_t used(struct ca_store *s)
{
	uint64_t n;

	ca_store_usage(s, &n, NULL);
	return n;
}

/* ---- faults -------------------------------------------------------------------------------- */

static atomic_int fail_errno;
static atomic_long fail_after, write_calls;

static _unused_ ssize_t failing_pwrite(int fd, const void *p, size_t n, off_t off)
{
	atomic_fetch_add(&write_calls, 1);
	if (atomic_fetch_sub(&fail_after, 1) <= 0) {
		errno = atomic_load(&fail_errno);
		return -1;
	}
	return pwrite(fd, p, n > 7 ? n / 2 : n, off); /* short writes are legal */
}

static _unused_ ssize_t failing_pread(int fd, void *p, size_t n, off_t off)
{
	if (atomic_fetch_sub(&fail_after, 1) <= 0) {
		errno = atomic_load(&fail_errno);
		return -1;
	}
	return pread(fd, p, n > 7 ? n / 2 : n, off);
}

static _unused_ int failing_rename(int a, const char *from, int b, const char *to)
{
	(void)a, (void)from, (void)b, (void)to;
	errno = atomic_load(&fail_errno);
	return -1;
}

static _unused_ int failing_unlink(int a, const char *name, int flags)
{
	(void)a, (void)name, (void)flags;
	errno = EROFS;
	return -1;
}

static _unused_ const struct ca_faults write_faults = { .pwrite = failing_pwrite };
static _unused_ const struct ca_faults read_faults = { .pread = failing_pread };
static _unused_ const struct ca_faults rename_faults = { .renameat = failing_rename };
static _unused_ const struct ca_faults unlink_faults = { .unlinkat = failing_unlink };

static _unused_ void inject(const struct ca_faults *f, int eno, long after)
{
	atomic_store(&fail_errno, eno);
	atomic_store(&fail_after, after);
	ca_store_set_faults(f);
}

