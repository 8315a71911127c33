/*
 * writer.c - writing objects: temp file, reservation, publication
 *
 * A temp file is locked (flock) from its creation to its end; a scan removes those that it can
 * lock, because their writers are dead.  Between creating and locking, a scan can come first: then
 * the lock is taken or the file has no name any more, and the writer makes another one.
 *
 * Bytes are reserved before they are written, and the reservation is exchanged for the entry's
 * bytes in one step when the file is published.  Any failure leaves w->failed: nothing is
 * published then. A failure of the disk (not of our limits) pauses all writing for CA_PAUSE_S, so
 * that a dead disk costs one attempt and not one per object.
 *
 * Threads: a writer has one owner.  Locks: store_i.h.
 */
#include "cache/store_i.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "util/clock.h"
#include "util/stats.h"

#define TMP_TRIES 100

struct ca_writer {
	struct ca_store *s;
	struct sealed_writer *out;
	uint64_t since;
	uint64_t reserved;		/* our part of s->reserved */
	uint64_t written;		/* reserved - written is our part of s->unwritten */
	uint64_t len;			/* of the data, when sealed */
	int fd;
	errint_t failed;
	bool sealed;
	char tmp[CA_TMP_MAX];		/* "" when there is none (any more) */
	char path[CA_PATH_MAX];
};

/* ---- failures ------------------------------------------------------------------------------ */

static bool is_disk_failure(int eno)
{
	return eno != ENOMEM && eno != EMFILE && eno != ENFILE && eno != EFBIG && eno != EINVAL;
}

/* Counts a failed write, and pauses writing when it was the disk. */
static errint_t failed(struct ca_store *s, errint_t r)
{
	stat_inc(STAT_CACHE_WRITE_ERRORS);
	if (is_disk_failure(-r)) {
		LOCK_SCOPE(&s->lock);
		s->paused_until_ns = clock_mono_ns() + CA_PAUSE_S * NSEC_PER_SEC;
		s->paused_errno = -r;
	}
	return r;
}

static errint_t check_paused(struct ca_store *s, struct err *e)
{
	int eno;

	{
		LOCK_SCOPE(&s->lock);
		if (clock_mono_ns() >= s->paused_until_ns)
			return 0;
		eno = s->paused_errno;
	}
	return err_errno(e, eno, "not written to the cache in %s, which has just failed", s->dir);
}

/* ---- temp files ---------------------------------------------------------------------------- */

static bool lock_new_file(int fd)
{
	struct stat st;

	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno != EWOULDBLOCK; /* a file system without locks: go on without */
	return fstat(fd, &st) == 0 && st.st_nlink > 0;
}

/* 0, 1 (try another name), or an error. */
static int tmp_try(struct ca_writer *w)
{
	static atomic_ullong counter;
	_cleanup_close_ int fd = -1;

	(void)snprintf(w->tmp, sizeof(w->tmp), CA_TMP_DIR "/%ld.%llu", (long)getpid(),
		       atomic_fetch_add(&counter, 1ULL));
	fd = openat(w->s->dirfd, w->tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 && errno == EEXIST)
		return 1;
	if (fd < 0 && errno == ENOENT)
		return mkdirat(w->s->dirfd, CA_TMP_DIR, 0700) == 0 || errno == EEXIST ? 1 : -errno;
	if (fd < 0)
		return -errno;
	if (!lock_new_file(fd))
		return 1;
	w->fd = steal_fd(&fd);
	return 0;
}

static errint_t tmp_open(struct ca_writer *w, struct err *e)
{
	int r = 1;

	for (int i = 0; r == 1 && i < TMP_TRIES; i++)
		r = tmp_try(w);
	if (r == 0)
		return 0;
	w->tmp[0] = '\0';
	return err_errno(e, r < 0 ? -r : EEXIST, "cannot write to the cache in %s", w->s->dir);
}

/* ---- reservations -------------------------------------------------------------------------- */

/* What a file with len bytes of data takes on disk. */
static uint64_t disk_size(uint64_t len)
{
	return (sealed_size(len) + 4095) & ~UINT64_C(4095);
}

static errint_t reserve(struct ca_writer *w, uint64_t total, struct err *e)
{
	errint_t r;

	if (total <= w->reserved)
		return 0;
	r = ca_reserve(w->s, total - w->reserved, w->since, e);
	if (r == 0)
		w->reserved = total;
	return r;
}

static void note_written(struct ca_writer *w)
{
	uint64_t len = MIN_OF(sealed_writer_len(w->out), w->reserved);

	LOCK_SCOPE(&w->s->lock);
	w->s->unwritten -= len - w->written;
	w->s->written += len - w->written;
	w->written = len;
}

static void release_locked(struct ca_writer *w)
{
	w->s->reserved -= w->reserved;
	w->s->unwritten -= w->reserved - w->written;
	w->reserved = 0;
	w->written = 0;
}

/* ---- writing ------------------------------------------------------------------------------- */

static struct ca_writer *writer_free(struct ca_writer *w)
{
	if (w->tmp[0] != '\0')
		(void)ca_sys_unlinkat(w->s->dirfd, w->tmp);
	{
		LOCK_SCOPE(&w->s->lock);
		release_locked(w);
	}
	if (w->fd >= 0)
		(void)close(w->fd);
	(void)sealed_writer_free(w->out);
	free(w);
	return NULL;
}

struct ca_writer *ca_writer_abort(struct ca_writer *w)
{
	return w ? writer_free(w) : NULL;
}

DEFINE_CLEANUP(struct ca_writer *, ca_writer_abort)

static errint_t writer_start(struct ca_writer *w, uint64_t expected, struct err *e)
{
	errint_t r = reserve(w, disk_size(expected), e);

	if (r < 0) {
		stat_inc(STAT_CACHE_WRITE_ERRORS);
		return r;
	}
	r = tmp_open(w, e);
	if (r < 0)
		return failed(w->s, r);
	w->out = sealed_writer_new(w->fd, ca_ident(w->path));
	return w->out ? 0 : err_errno(e, ENOMEM, "writing to the cache");
}

errint_t ca_writer_new_since(struct ca_store *s, enum ca_kind kind, const char *key,
			     uint64_t expected, uint64_t since, struct ca_writer **ret,
			     struct err *e)
{
	_cleanup_(ca_writer_abortp) struct ca_writer *w = NULL;
	char path[CA_PATH_MAX];
	errint_t r = ca_path(kind, key, path, e);

	ca_scan_start(s);
	if (r == 0)
		r = check_paused(s, e);
	if (r < 0)
		return r;
	if (expected > SEALED_LEN_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "%s is too large for the cache", path);
	w = calloc(1, sizeof(*w));
	if (!w)
		return err_errno(e, ENOMEM, "writing to the cache");
	w->s = s;
	w->fd = -1;
	w->since = since;
	memcpy(w->path, path, sizeof(path));
	r = writer_start(w, expected, e);
	if (r == 0)
		*ret = steal_ptr(&w);
	return r;
}

errint_t ca_writer_new(struct ca_store *s, enum ca_kind kind, const char *key, uint64_t expected,
		       struct ca_writer **ret, struct err *e)
{
	return ca_writer_new_since(s, kind, key, expected, ca_store_stamp(s), ret, e);
}

/* Runs a step again after a full disk when something could be evicted (quotas, other users). */
static bool made_room(struct ca_writer *w, errint_t r)
{
	if (r != -ENOSPC && r != -EDQUOT)
		return false;
	return ca_evict(w->s, 0, MAX_OF(ca_slack(w->s), CA_RESERVE_STEP), 0, w->since) > 0;
}

static errint_t write_failed(struct ca_writer *w, errint_t r, struct err *e)
{
	w->failed = failed(w->s, r);
	return err_wrap(e, r, "%s", w->s->dir);
}

errint_t ca_writer_add(struct ca_writer *w, const void *data, size_t len, struct err *e)
{
	uint64_t need = disk_size(ca_writer_len(w) + len);
	errint_t r;

	if (w->failed < 0 || w->sealed)
		return err_errno(e, w->failed < 0 ? -w->failed : EBUSY, "writing to the cache");
	if (need > w->reserved) {
		r = reserve(w, MAX_OF(need, w->reserved + CA_RESERVE_STEP), e);
		if (r == -ENOSPC)
			r = reserve(w, need, e);
		if (r < 0) {
			stat_inc(STAT_CACHE_WRITE_ERRORS);
			w->failed = r;
			return r;
		}
	}
	r = sealed_writer_add(w->out, &data, &len, e);
	if (r < 0 && made_room(w, r))
		r = sealed_writer_add(w->out, &data, &len, e);
	note_written(w);
	return r < 0 ? write_failed(w, r, e) : 0;
}

uint64_t ca_writer_len(const struct ca_writer *w)
{
	return w->sealed ? w->len : sealed_writer_len(w->out);
}

/* Many sealed files may wait for their publication: the block's memory goes now. */
errint_t ca_writer_seal(struct ca_writer *w, struct err *e)
{
	errint_t r;

	if (w->failed < 0)
		return err_errno(e, -w->failed, "writing to the cache");
	if (w->sealed)
		return 0;
	r = sealed_writer_end(w->out, e);
	if (r < 0 && made_room(w, r))
		r = sealed_writer_end(w->out, e);
	if (r < 0)
		return write_failed(w, r, e);
	w->len = sealed_writer_len(w->out);
	w->sealed = true;
	w->out = sealed_writer_free(w->out);
	return 0;
}

/* ---- publication --------------------------------------------------------------------------- */

/* "blob/3f/key": makes blob and blob/3f. */
static errint_t make_parents(struct ca_store *s, const char *path)
{
	char dir[CA_PATH_MAX];

	for (const char *p = strchr(path, '/'); p; p = strchr(p + 1, '/')) {
		(void)snprintf(dir, sizeof(dir), "%.*s", (int)(p - path), path);
		if (mkdirat(s->dirfd, dir, 0700) < 0 && errno != EEXIST)
			return -errno;
	}
	return 0;
}

static errint_t rename_into_place(struct ca_writer *w)
{
	struct ca_store *s = w->s;
	errint_t r;

	if (ca_sys_renameat(s->dirfd, w->tmp, s->dirfd, w->path) == 0)
		return 0;
	if (errno != ENOENT)
		return -errno;
	r = make_parents(s, w->path);
	if (r < 0)
		return r;
	return ca_sys_renameat(s->dirfd, w->tmp, s->dirfd, w->path) == 0 ? 0 : -errno;
}

/* The index learns of the file; returns an object to be closed. */
static struct ca_object *enter(struct ca_writer *w, const struct stat *st)
{
	struct ca_store *s = w->s;
	struct ca_object *old = NULL;
	struct ca_entry *en;

	LOCK_SCOPE(&s->lock);
	release_locked(w);
	ca_scan_note_locked(s, ca_stat_bytes(st));
	en = ca_entry_get_locked(s, w->path, true);
	if (!en)
		return NULL; /* no memory: the next scan finds it */
	old = ca_entry_detach_locked(en);
	en->state = CA_HERE;
	en->version = ++s->versions;
	en->used = ca_stamp_locked(s);
	en->saved_s = clock_real_s();
	en->seen = s->scan_no;
	ca_entry_bytes_locked(s, en, ca_stat_bytes(st));
	return old;
}

static errint_t publish(struct ca_writer *w)
{
	struct ca_object *old;
	struct stat st;
	errint_t r;

	if (fstat(w->fd, &st) < 0)
		return -errno;
	{
		LOCK_SCOPE(ca_name_lock(w->s, w->path));
		r = rename_into_place(w);
		if (r < 0)
			return r;
		w->tmp[0] = '\0';
		old = enter(w, &st);
		ca_memory_drop(w->s->mem, w->path);
	}
	(void)ca_object_close(old);
	return 0;
}

errint_t ca_writer_publish(struct ca_writer *w, struct err *e)
{
	_cleanup_(ca_writer_abortp) _unused_ struct ca_writer *guard = w;
	errint_t r = ca_writer_seal(w, e);

	if (r < 0)
		return r;
	r = publish(w);
	if (r < 0)
		return err_errno(e, -failed(w->s, r), "cannot publish a file in the cache %s",
				 w->s->dir);
	return 0;
}

/* ---- one-shot ------------------------------------------------------------------------------ */

static errint_t put_on_disk(struct ca_store *s, enum ca_kind kind, const char *key,
			    const void *data, size_t len, struct err *e)
{
	_cleanup_(ca_writer_abortp) struct ca_writer *w = NULL;
	errint_t r = ca_writer_new(s, kind, key, len, &w, e);

	if (r == 0)
		r = ca_writer_add(w, data, len, e);
	return r < 0 ? r : ca_writer_publish(steal_ptr(&w), e);
}

static errint_t put_in_memory(struct ca_store *s, enum ca_kind kind, const char *key,
			      const void *data, size_t len, struct err *e)
{
	_cleanup_(ca_mem_unrefp) struct ca_mem *x = NULL;
	char path[CA_PATH_MAX];
	errint_t r = ca_path(kind, key, path, e);

	if (r == 0)
		r = ca_memory_alloc(s->mem, path, len, &x, e);
	if (r < 0)
		return r;
	if (len > 0)
		memcpy(ca_mem_data(x), data, len);
	return ca_memory_put(steal_ptr(&x), e);
}

errint_t ca_object_put(struct ca_store *s, enum ca_kind kind, const char *key, const void *data,
		       size_t len, struct err *e)
{
	struct err disk = { 0 };
	errint_t r = put_on_disk(s, kind, key, data, len, &disk);

	if (r == 0)
		return 0;
	r = put_in_memory(s, kind, key, data, len, e);
	if (r == 0)
		return 0;
	return err_wrap(e, r, "%s, and in memory", disk.msg);
}
