/*
 * object.c - open objects of the store, and reading them
 *
 * An object is open once per process while anybody uses it: entry->open.  When the last user
 * leaves, it becomes idle and stays open for the next one, up to idle_max of them; the
 * least recently used is closed.  An object is *detached* from its entry when its file is
 * replaced, evicted or dropped: its users go on reading the unlinked file, new ones get the new
 * file.
 *
 *	users > 0, entry	shared		users = 0, entry	idle, on the list
 *	users > 0, no entry	detached	users = 0, no entry	closed at once
 *
 * Objects in memory (memory.h) come first when something is opened: they are newer than the file,
 * because publishing a file drops them.
 *
 * Locks: store_i.h.
 */
#include "cache/store_i.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util/clock.h"
#include "util/stats.h"

/* ---- use ----------------------------------------------------------------------------------- */

/* Marks the use; true when it is time to write it to the file. */
static bool entry_touch_locked(struct ca_store *s, struct ca_entry *en)
{
	int64_t now_s = clock_real_s();

	en->used = ca_stamp_locked(s);
	if (now_s - en->saved_s < CA_SAVE_USE_S && now_s >= en->saved_s)
		return false;
	en->saved_s = now_s;
	return true;
}

static void save_use(const struct ca_object *o)
{
	struct timespec t[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = (time_t)clock_real_s() } };

	(void)futimens(sealed_fd(o->file), t); /* best effort: only the order of eviction suffers */
}

/* ---- open objects -------------------------------------------------------------------------- */

struct ca_object *ca_object_close(struct ca_object *o)
{
	int fd;

	if (!o)
		return NULL;
	fd = atomic_load(&o->memfd);
	if (fd >= 0)
		(void)close(fd);
	(void)sealed_free(o->file);
	(void)ca_mem_unref(o->mem);
	free(o);
	return NULL;
}

DEFINE_CLEANUP(struct ca_object *, ca_object_close)

static void idle_add(struct ca_object *o)
{
	struct ca_store *s = o->s;

	o->prev = s->newest;
	o->next = NULL;
	*(s->newest ? &s->newest->next : &s->oldest) = o;
	s->newest = o;
	s->n_idle++;
}

static void idle_remove(struct ca_object *o)
{
	struct ca_store *s = o->s;

	*(o->prev ? &o->prev->next : &s->oldest) = o->next;
	*(o->next ? &o->next->prev : &s->newest) = o->prev;
	s->n_idle--;
}

struct ca_object *ca_entry_detach_locked(struct ca_entry *en)
{
	struct ca_object *o = en->open;

	if (!o)
		return NULL;
	en->open = NULL;
	o->entry = NULL;
	if (o->users > 0)
		return NULL;
	idle_remove(o);
	return o;
}

struct ca_object *ca_object_ref(struct ca_object *o)
{
	LOCK_SCOPE(&o->s->lock);
	o->users++;
	return o;
}

/* Drops a use; returns an object that has to be closed now: this one, or the longest idle one. */
static struct ca_object *unref_locked(struct ca_object *o)
{
	struct ca_store *s = o->s;

	if (--o->users > 0)
		return NULL;
	if (!o->entry)
		return o;
	idle_add(o);
	if (!o->keep)
		return ca_entry_detach_locked(o->entry);
	return s->n_idle > s->idle_max ? ca_entry_detach_locked(s->oldest->entry) : NULL;
}

struct ca_object *ca_object_unref(struct ca_object *o)
{
	struct ca_object *victim;

	if (!o)
		return NULL;
	{
		LOCK_SCOPE(&o->s->lock);
		victim = unref_locked(o);
	}
	return ca_object_close(victim);
}

/* Closes all idle objects: we are out of file descriptors. */
static bool close_idle(struct ca_store *s)
{
	bool any = false;

	for (;;) {
		struct ca_object *o;

		{
			LOCK_SCOPE(&s->lock);
			o = s->oldest ? ca_entry_detach_locked(s->oldest->entry) : NULL;
		}
		if (!o)
			return any;
		any = true;
		(void)ca_object_close(o);
	}
}

static struct ca_object *object_new(struct ca_store *s, const char *path)
{
	struct ca_object *o = calloc(1, sizeof(*o));

	if (!o)
		return NULL;
	o->s = s;
	o->users = 1;
	atomic_init(&o->memfd, -1);
	(void)snprintf(o->path, sizeof(o->path), "%s", path);
	return o;
}

/* False: the file of that path is another one by now (ino = 0: whichever it is). */
static bool is_file(struct ca_store *s, const char *path, dev_t dev, ino_t ino)
{
	struct stat st;

	return ino == 0 || fstatat(s->dirfd, path, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	       (st.st_ino == ino && st.st_dev == dev);
}

/* A file is damaged or unreadable: nobody opens it any more, and it is removed, unless another
 * process has replaced it. */
static void drop_file(struct ca_store *s, const char *path, dev_t dev, ino_t ino)
{
	enum ca_state state = CA_HERE;
	struct ca_object *idle = NULL;

	LOCK_SCOPE(ca_name_lock(s, path));
	if (is_file(s, path, dev, ino))
		state = ca_sys_unlinkat(s->dirfd, path) == 0 || errno == ENOENT ? CA_GONE : CA_BAD;
	{
		LOCK_SCOPE(&s->lock);
		struct ca_entry *en = ca_entry_get_locked(s, path, state == CA_BAD);

		if (en && (ino == 0 || !en->open || (en->open->ino == ino && en->open->dev == dev)))
			idle = ca_entry_detach_locked(en);
		if (en)
			ca_entry_state_locked(s, en, state);
	}
	(void)ca_object_close(idle);
	stat_inc(STAT_CACHE_CORRUPT);
}

void ca_object_drop(struct ca_store *s, enum ca_kind kind, const char *key)
{
	char path[CA_PATH_MAX];

	if (ca_path(kind, key, path, NULL) < 0)
		return;
	ca_memory_drop(s->mem, path);
	drop_file(s, path, 0, 0);
}

/* ---- opening ------------------------------------------------------------------------------- */

static struct ca_object *open_in_memory(struct ca_store *s, const char *path)
{
	struct ca_mem *mem = ca_memory_get(s->mem, path);
	struct ca_object *o = mem ? object_new(s, path) : NULL;

	if (o)
		o->mem = mem;
	else
		(void)ca_mem_unref(mem);
	return o;
}

/* *ret_bad: the file is known to be unusable.  *ret_version is for share_object. */
static struct ca_object *open_shared(struct ca_store *s, const char *path, bool *ret_bad,
				     uint64_t *ret_version)
{
	struct ca_object *o = NULL;
	bool save = false;

	{
		LOCK_SCOPE(&s->lock);
		struct ca_entry *en = ca_entry_get_locked(s, path, false);

		*ret_bad = en && en->state == CA_BAD;
		*ret_version = en ? en->version : 0;
		if (en && en->open) {
			o = en->open;
			if (o->users++ == 0)
				idle_remove(o);
			save = entry_touch_locked(s, en);
		}
	}
	if (save)
		save_use(o);
	return o;
}

static int open_file(struct ca_store *s, const char *path)
{
	const int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
	int fd = openat(s->dirfd, path, flags);

	if (fd < 0 && (errno == EMFILE || errno == ENFILE) && close_idle(s))
		fd = openat(s->dirfd, path, flags);
	return fd;
}

/* The file is not there: somebody else removed it. */
static void note_vanished(struct ca_store *s, const char *path)
{
	LOCK_SCOPE(&s->lock);
	struct ca_entry *en = ca_entry_get_locked(s, path, false);

	if (en && !en->open && en->state == CA_HERE)
		ca_entry_state_locked(s, en, CA_GONE);
}

/* Makes the object known to others, unless its file was replaced in the meantime (then it serves
 * this caller only) or somebody was faster (then theirs is used). */
static struct ca_object *share_object(struct ca_store *s, struct ca_object *o, uint64_t version,
				      const struct stat *st)
{
	_cleanup_(ca_object_closep) struct ca_object *ours = o;
	bool save;

	{
		LOCK_SCOPE(&s->lock);
		struct ca_entry *en = ca_entry_get_locked(s, o->path, true);

		if (!en || en->version != version || en->state == CA_BAD)
			return steal_ptr(&ours);
		save = entry_touch_locked(s, en);
		if (en->open) {
			if (en->open->users++ == 0)
				idle_remove(en->open);
			return en->open;
		}
		en->state = CA_HERE;
		en->seen = s->scan_no;
		ca_scan_note_locked(s, 0);
		ca_entry_bytes_locked(s, en, ca_stat_bytes(st));
		en->open = o;
		o->entry = en;
	}
	if (save)
		save_use(o);
	return steal_ptr(&ours);
}

static struct ca_object *open_disk(struct ca_store *s, enum ca_kind kind, const char *path,
				   uint64_t version, struct err *e)
{
	_cleanup_(ca_object_closep) struct ca_object *o = object_new(s, path);
	_cleanup_close_ int fd = o ? open_file(s, path) : -1;
	struct stat st;
	errint_t r;

	if (fd < 0) {
		if (o && errno == ENOENT)
			note_vanished(s, path);
		return NULL;
	}
	if (fstat(fd, &st) < 0)
		return NULL;
	r = sealed_open(fd, ca_ident(path), &o->file, e);
	if (r == -ENOMEM)
		return NULL;
	if (r < 0) {
		drop_file(s, path, st.st_dev, st.st_ino);
		return NULL;
	}
	(void)steal_fd(&fd);
	o->keep = kind != CA_META;
	o->dev = st.st_dev;
	o->ino = st.st_ino;
	return share_object(s, steal_ptr(&o), version, &st);
}

errint_t ca_object_open(struct ca_store *s, enum ca_kind kind, const char *key,
			struct ca_object **ret, struct err *e)
{
	char path[CA_PATH_MAX];
	errint_t r = ca_path(kind, key, path, e);
	struct ca_object *o;
	uint64_t version;
	bool bad = false;

	if (r < 0)
		return r;
	ca_scan_start(s);
	o = open_in_memory(s, path);
	if (!o)
		o = open_shared(s, path, &bad, &version);
	if (!o && !bad)
		o = open_disk(s, kind, path, version, NULL);
	stat_inc(o ? STAT_CACHE_HITS : STAT_CACHE_MISSES);
	if (!o)
		return err_set(e, ENOENT, ERR_LOCAL, "%s is not in the cache", path);
	*ret = o;
	return 0;
}

bool ca_object_exists(struct ca_store *s, enum ca_kind kind, const char *key)
{
	char path[CA_PATH_MAX];
	struct ca_mem *mem;

	if (ca_path(kind, key, path, NULL) < 0)
		return false;
	mem = ca_memory_get(s->mem, path);
	(void)ca_mem_unref(mem);
	if (mem)
		return true;
	{
		LOCK_SCOPE(&s->lock);
		struct ca_entry *en = ca_entry_get_locked(s, path, false);

		if (en && (en->state == CA_BAD || en->open))
			return en->state != CA_BAD;
	}
	return faccessat(s->dirfd, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* ---- reading ------------------------------------------------------------------------------- */

uint64_t ca_object_len(const struct ca_object *o)
{
	return o->mem ? ca_mem_len(o->mem) : sealed_len(o->file);
}

bool ca_object_in_memory(const struct ca_object *o)
{
	return o->mem != NULL;
}

static int make_memfd(struct ca_object *o)
{
	const uint8_t *p = ca_mem_data(o->mem);
	size_t left = ca_mem_len(o->mem);
	_cleanup_close_ int fd = memfd_create("registryfs-cache", MFD_CLOEXEC);

	while (fd >= 0 && left > 0) {
		ssize_t k = write(fd, p, left);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return -1;
		p += k;
		left -= (size_t)k;
	}
	return steal_fd(&fd);
}

int ca_object_fd(struct ca_object *o)
{
	int fd = o->mem ? atomic_load(&o->memfd) : sealed_fd(o->file);
	int made, none = -1;

	if (fd >= 0)
		return fd;
	made = make_memfd(o);
	if (made < 0 || atomic_compare_exchange_strong(&o->memfd, &none, made))
		return made;
	(void)close(made);
	return none;
}

/* What a read of the file returned, for callers: whatever makes it unreadable is damage. */
static errint_t settle(struct ca_object *o, errint_t r, struct err *e)
{
	if (r == 0 || r == -ENOMEM || (r == -EINVAL))
		return r;
	if (!atomic_exchange(&o->damaged, true))
		drop_file(o->s, o->path, o->dev, o->ino);
	if (e) {
		e->eno = EBADMSG;
		e->cls = ERR_INTEGRITY;
	}
	return err_wrap(e, -EBADMSG, "%s", o->path);
}

errint_t ca_object_read(struct ca_object *o, uint64_t off, void *dst, size_t len, struct err *e)
{
	if (o->file)
		return settle(o, sealed_read(o->file, off, dst, len, e), e);
	if (len > ca_mem_len(o->mem) || off > ca_mem_len(o->mem) - len)
		return err_set(e, EINVAL, ERR_BUG, "read beyond the end of a cache object");
	memcpy(dst, (const char *)ca_mem_data(o->mem) + off, len);
	return 0;
}

errint_t ca_object_verify(struct ca_object *o, struct err *e)
{
	return o->file ? settle(o, sealed_verify(o->file, e), e) : 0;
}

errint_t ca_object_load(struct ca_store *s, enum ca_kind kind, const char *key, struct buf *ret,
			struct err *e)
{
	_cleanup_(ca_object_unrefp) struct ca_object *o = NULL;
	errint_t r = ca_object_open(s, kind, key, &o, e);
	size_t len;

	if (r < 0)
		return r;
	if (ca_object_len(o) > ret->max)
		return err_set(e, EFBIG, ERR_LIMIT, "%s has %llu bytes, the limit is %zu", key,
			       (unsigned long long)ca_object_len(o), ret->max);
	len = (size_t)ca_object_len(o);
	r = buf_reserve(ret, len);
	if (r < 0)
		return err_errno(e, -r, "reading %s from the cache", key);
	r = ca_object_read(o, 0, ret->data + ret->len, len, e);
	if (r == -EBADMSG)
		return err_set(e, ENOENT, ERR_LOCAL, "%s was damaged in the cache", key);
	if (r == 0) {
		ret->len += len;
		ret->data[ret->len] = '\0';
	}
	return r;
}
