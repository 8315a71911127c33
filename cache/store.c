/*
 * store.c - the cache directory: opening it, names in it, and what is known of them
 *
 * The directory is reached through one descriptor.  It must be ours and closed to writing by
 * others, or somebody could exchange what has been verified.  Nothing is read here: scan.c fills
 * the index in the background, object.c opens objects whether the index knows them or not.
 *
 * Locks: store_i.h.
 */
#include "cache/store_i.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cache/crc.h"
#include "util/clock.h"
#include "util/stats.h"

#define DEFAULT_MAX_BYTES (UINT64_C(10) << 30)
#define DEFAULT_MIN_FREE (UINT64_C(1) << 30)

_Static_assert(CA_BLOCK == SEALED_BLOCK, "one block size");

/* ---- names --------------------------------------------------------------------------------- */

const char *ca_kind_name(enum ca_kind kind)
{
	static const char *const names[CA_KINDS] = {
		[CA_MANIFEST] = "manifest", [CA_BLOB] = "blob", [CA_LAYER] = "layer",
		[CA_SPAN] = "span", [CA_TREE] = "tree", [CA_META] = "meta",
	};

	return names[kind];
}

static bool key_ok(const char *key)
{
	size_t n = strspn(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

	return n > 0 && n < CA_KEY_MAX && key[n] == '\0' && key[0] != '.';
}

errint_t ca_path(enum ca_kind kind, const char *key, char out[static CA_PATH_MAX], struct err *e)
{
	if ((unsigned)kind >= CA_KINDS || !key_ok(key))
		return err_set(e, EINVAL, ERR_BUG, "not a cache key: %s", key);
	(void)snprintf(out, CA_PATH_MAX, "%s/%02x/%s", ca_kind_name(kind),
		       (unsigned)(crc32_add(0, key, strlen(key)) & 0xff), key);
	return 0;
}

uint32_t ca_ident(const char *path)
{
	return crc32_add(0, path, strlen(path));
}

pthread_mutex_t *ca_name_lock(struct ca_store *s, const char *path)
{
	return &s->names[ca_ident(path) % CA_NAME_LOCKS];
}

const char *ca_digest_key(const struct digest *d, char out[static CA_KEY_MAX])
{
	char hex[DIGEST_TEXT_MAX];

	(void)snprintf(out, CA_KEY_MAX, "%s-%s", digest_alg_name(d), digest_hex(d, hex));
	return out;
}

uint64_t ca_stat_bytes(const struct stat *st)
{
	uint64_t size = ((uint64_t)st->st_size + 4095) & ~UINT64_C(4095);

	return MAX_OF((uint64_t)st->st_blocks * 512, size);
}

/* ---- the store ----------------------------------------------------------------------------- */

static errint_t make_dirs(const char *dir, struct err *e)
{
	_cleanup_free_ char *path = strdup(dir);

	if (!path)
		return err_errno(e, ENOMEM, "cache directory %s", dir);
	for (char *p = path + 1;; p++) {
		char c = *p;

		if (c != '/' && c != '\0')
			continue;
		*p = '\0';
		if (mkdir(path, 0700) < 0 && errno != EEXIST)
			return err_errno(e, errno, "cannot create %s for the cache", path);
		*p = c;
		if (c == '\0')
			return 0;
	}
}

/* Others must not be able to put files there, nor to take the directory away from us. */
static errint_t check_dir(int fd, const char *dir, struct err *e)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_errno(e, errno, "cache directory %s", dir);
	if (st.st_uid != geteuid())
		return err_set(e, EPERM, ERR_LOCAL,
			       "cache directory %s belongs to another user (%u)", dir,
			       (unsigned)st.st_uid);
	if (st.st_mode & 022)
		return err_set(e, EPERM, ERR_LOCAL,
			       "cache directory %s can be written by others; chmod 700 it", dir);
	if (faccessat(fd, ".", R_OK | W_OK | X_OK, AT_EACCESS) < 0)
		return err_errno(e, errno, "cache directory %s cannot be used", dir);
	return 0;
}

static errint_t open_dir(struct ca_store *s, struct err *e)
{
	_cleanup_close_ int fd = -1;
	errint_t r;

	if (s->dir[0] != '/')
		return err_set(e, EINVAL, ERR_INPUT, "cache directory %s is not an absolute path",
			       s->dir);
	r = make_dirs(s->dir, e);
	if (r < 0)
		return r;
	fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "cache directory %s", s->dir);
	r = check_dir(fd, s->dir, e);
	if (r == 0)
		s->dirfd = steal_fd(&fd);
	return r;
}

static uint64_t default_min_free(int fd)
{
	struct statvfs v;

	if (fstatvfs(fd, &v) < 0)
		return 0;
	return MIN_OF(DEFAULT_MIN_FREE, (uint64_t)v.f_blocks * v.f_frsize / 20);
}

static void init_locks(struct ca_store *s)
{
	pthread_condattr_t attr;

	(void)pthread_mutex_init(&s->scanning, NULL);
	(void)pthread_mutex_init(&s->evicting, NULL);
	(void)pthread_mutex_init(&s->lock, NULL);
	for (size_t i = 0; i < CA_NAME_LOCKS; i++)
		(void)pthread_mutex_init(&s->names[i], NULL);
	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&s->scan_cond, &attr);
	(void)pthread_condattr_destroy(&attr);
}

DEFINE_CLEANUP(struct ca_store *, ca_store_free)

/* What is opened anew is checked anew: whoever reads here and there in much should find it open. */
static size_t idle_max(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
		return CA_OPEN_IDLE_MAX / 16;
	return (size_t)MIN_OF(lim.rlim_cur / CA_OPEN_IDLE_DIV, (rlim_t)CA_OPEN_IDLE_MAX);
}

errint_t ca_store_new(const struct ca_opts *o, struct ca_store **ret, struct err *e)
{
	_cleanup_(ca_store_freep) struct ca_store *s = calloc(1, sizeof(*s));
	errint_t r;

	if (!s)
		return err_errno(e, ENOMEM, "opening the cache");
	init_locks(s);
	s->dirfd = -1;
	s->dir = strdup(o->dir);
	s->index = hmap_new(NULL);
	s->mem = ca_memory_new(CA_MEMORY_MAX);
	if (!s->dir || !s->index || !s->mem)
		return err_errno(e, ENOMEM, "opening the cache");
	r = open_dir(s, e);
	if (r < 0)
		return r;
	s->idle_max = idle_max();
	s->max_bytes = o->max_bytes ? o->max_bytes : DEFAULT_MAX_BYTES;
	s->min_free = o->min_free ? o->min_free : default_min_free(s->dirfd);
	*ret = steal_ptr(&s);
	return 0;
}

static void free_index(struct ca_store *s)
{
	size_t it = 0, len;
	const void *key;
	struct ca_entry *en;

	while (s->index && (en = hmap_next(s->index, &it, &key, &len))) {
		(void)ca_object_close(ca_entry_detach_locked(en));
		stat_add(STAT_CACHE_BYTES, -(int64_t)en->bytes);
		free(en);
	}
	s->index = hmap_free(s->index);
}

struct ca_store *ca_store_free(struct ca_store *s)
{
	if (!s)
		return NULL;
	ca_scan_stop(s);
	free_index(s);
	(void)ca_memory_free(s->mem);
	if (s->dirfd >= 0)
		(void)close(s->dirfd);
	for (size_t i = 0; i < CA_NAME_LOCKS; i++)
		(void)pthread_mutex_destroy(&s->names[i]);
	(void)pthread_mutex_destroy(&s->scanning);
	(void)pthread_mutex_destroy(&s->evicting);
	(void)pthread_mutex_destroy(&s->lock);
	(void)pthread_cond_destroy(&s->scan_cond);
	free(s->dir);
	free(s);
	return NULL;
}

const char *ca_store_dir(const struct ca_store *s)
{
	return s->dir;
}

void ca_store_usage(struct ca_store *s, uint64_t *ret_used, uint64_t *ret_max)
{
	ca_scan_start(s);
	LOCK_SCOPE(&s->lock);
	if (ret_used)
		*ret_used = s->used + s->reserved + s->foreign;
	if (ret_max)
		*ret_max = s->max_bytes;
}

/* ---- entries ------------------------------------------------------------------------------- */

uint64_t ca_stamp_locked(struct ca_store *s)
{
	uint64_t now = (uint64_t)MAX_OF(clock_real_s(), 0) * NSEC_PER_SEC;

	s->last_stamp = MAX_OF(now, s->last_stamp + 1);
	return s->last_stamp;
}

uint64_t ca_store_stamp(struct ca_store *s)
{
	LOCK_SCOPE(&s->lock);
	return ca_stamp_locked(s);
}

/* NULL: not known (add = false), or no memory. */
struct ca_entry *ca_entry_get_locked(struct ca_store *s, const char *path, bool add)
{
	struct ca_entry *en = hmap_gets(s->index, path);
	size_t len = strlen(path);

	if (en || !add)
		return en;
	en = calloc(1, sizeof(*en) + len + 1);
	if (!en)
		return NULL;
	memcpy(en->path, path, len);
	en->seen = s->scan_no;
	if (hmap_puts(s->index, path, en) < 0) {
		free(en);
		return NULL;
	}
	return en;
}

void ca_entry_bytes_locked(struct ca_store *s, struct ca_entry *en, uint64_t bytes)
{
	stat_add(STAT_CACHE_BYTES, (int64_t)bytes - (int64_t)en->bytes);
	s->used += bytes - en->bytes;
	en->bytes = bytes;
}

void ca_entry_state_locked(struct ca_store *s, struct ca_entry *en, enum ca_state state)
{
	en->state = state;
	if (state == CA_GONE)
		ca_entry_bytes_locked(s, en, 0);
}
