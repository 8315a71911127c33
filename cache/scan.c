/*
 * scan.c - what is really in the directory
 *
 * One thread per store looks through it: at once when the store is first used, and again after
 * CA_RESCAN_S while this process writes to it, or earlier when it has written a good part of the
 * limit.  An idle store is left alone.  The thread is started by the first use and not by
 * ca_store_new, because a daemon opens its store before it forks.
 *
 * A scan enters files that the index does not have (written by another process or another run),
 * with their mtime as the last use; corrects sizes; removes entries whose file is gone; adds up
 * other processes' temp files and removes those of dead ones; and evicts when that leaves too much.
 * What is published while it runs carries the number of the scan and survives it.
 *
 * Until the first scan is done, objects are found all the same, and a writer that finds no room
 * waits for it.  Locks: store_i.h; nothing here holds `lock` across a system call.
 */
#include "cache/store_i.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "util/clock.h"

#define SCAN_PAUSE_S 1		/* between two scans, whatever happens */
#define STALE_TMP_S 86400	/* temp files where there are no locks */

DEFINE_CLEANUP(DIR *, closedir)

static DIR *dir_open(int at, const char *name)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

	if (!d && fd >= 0)
		(void)close(fd);
	return d;
}

static bool stopping(struct ca_store *s)
{
	LOCK_SCOPE(&s->lock);
	return s->stop;
}

/* ---- objects ------------------------------------------------------------------------------- */

static void found(struct ca_store *s, const char *path, const struct stat *st)
{
	int64_t now_s = clock_real_s();
	struct ca_entry *en;
	uint64_t used;

	used = (uint64_t)MAX_OF(MIN_OF((int64_t)st->st_mtim.tv_sec, now_s), 0) * NSEC_PER_SEC;
	LOCK_SCOPE(&s->lock);
	en = ca_entry_get_locked(s, path, true);
	if (!en)
		return;
	if (en->state == CA_GONE)
		en->state = CA_HERE;
	en->seen = s->scan_no;
	en->saved_s = MIN_OF((int64_t)st->st_mtim.tv_sec, now_s);
	if (en->used / NSEC_PER_SEC < used / NSEC_PER_SEC)
		en->used = used;
	ca_entry_bytes_locked(s, en, ca_stat_bytes(st));
}

static void scan_leaf(struct ca_store *s, int kind_fd, const char *kind, const char *sub)
{
	_cleanup_(closedirp) DIR *d = dir_open(kind_fd, sub);
	const struct dirent *de;

	while (d && (de = readdir(d))) {
		char path[CA_PATH_MAX];
		struct stat st;

		if (de->d_name[0] == '.' || strlen(de->d_name) >= CA_KEY_MAX)
			continue;
		if (fstatat(dirfd(d), de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		    !S_ISREG(st.st_mode))
			continue;
		(void)snprintf(path, sizeof(path), "%s/%.2s/%.*s", kind, sub,
			       CA_KEY_MAX - 1, de->d_name);
		found(s, path, &st);
	}
}

static void scan_kind(struct ca_store *s, const char *kind)
{
	_cleanup_(closedirp) DIR *d = dir_open(s->dirfd, kind);
	const struct dirent *de;

	while (d && (de = readdir(d)) && !stopping(s))
		if (strlen(de->d_name) == 2 && de->d_name[0] != '.')
			scan_leaf(s, dirfd(d), kind, de->d_name);
}

/* ---- temp files ---------------------------------------------------------------------------- */

/* Removes the temp file of a dead writer; else returns its bytes if it is another process's. */
static uint64_t scan_tmp_file(int dir, const char *name)
{
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;
	bool dead;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return 0;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		dead = true;
	else
		dead = errno != EWOULDBLOCK && clock_real_s() - st.st_mtim.tv_sec > STALE_TMP_S;
	if (dead) {
		(void)unlinkat(dir, name, 0);
		return 0;
	}
	return strtol(name, NULL, 10) == (long)getpid() ? 0 : ca_stat_bytes(&st);
}

static uint64_t scan_tmp(struct ca_store *s)
{
	_cleanup_(closedirp) DIR *d = dir_open(s->dirfd, CA_TMP_DIR);
	const struct dirent *de;
	uint64_t bytes = 0;

	while (d && (de = readdir(d)))
		if (de->d_name[0] >= '0' && de->d_name[0] <= '9')
			bytes += scan_tmp_file(dirfd(d), de->d_name);
	return bytes;
}

/* ---- a scan -------------------------------------------------------------------------------- */

/* Takes one entry that this scan has not seen out of the index; NULL: there is none left. */
static struct ca_entry *take_unseen(struct ca_store *s, size_t *it, struct ca_object **ret_idle)
{
	struct ca_entry *en;
	const void *key;
	size_t len;

	LOCK_SCOPE(&s->lock);
	while ((en = hmap_next(s->index, it, &key, &len)))
		if (en->seen != s->scan_no || en->state == CA_GONE)
			break;
	if (!en)
		return NULL;
	*ret_idle = ca_entry_detach_locked(en);
	ca_entry_bytes_locked(s, en, 0);
	(void)hmap_takes(s->index, en->path);
	return en;
}

/* Frees the entries of files that are gone.  Taking one may move others past the iterator, so the
 * walk is repeated until it finds none. */
static void sweep(struct ca_store *s)
{
	bool any = true;

	LOCK_SCOPE(&s->evicting);
	while (any) {
		struct ca_object *idle = NULL;
		struct ca_entry *en;
		size_t it = 0;

		for (any = false; (en = take_unseen(s, &it, &idle)); any = true) {
			(void)ca_object_close(idle);
			free(en);
			idle = NULL;
		}
	}
}

/* Somebody removed the whole directory: make it anew under the same descriptor. */
static void revive_dir(struct ca_store *s)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (fstat(s->dirfd, &st) < 0 || st.st_nlink > 0)
		return;
	if (mkdir(s->dir, 0700) < 0 && errno != EEXIST)
		return;
	fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_uid == geteuid() && !(st.st_mode & 022))
		(void)dup3(fd, s->dirfd, O_CLOEXEC);
}

void ca_scan_now(struct ca_store *s)
{
	uint64_t foreign;

	LOCK_SCOPE(&s->scanning);
	{
		LOCK_SCOPE(&s->lock);
		s->scan_no++;
		s->active = false;
		s->scan_wanted = false;
		s->published = 0;
	}
	revive_dir(s);
	for (int k = 0; k < CA_KINDS; k++)
		scan_kind(s, ca_kind_name((enum ca_kind)k));
	foreign = scan_tmp(s);
	if (stopping(s))
		return;
	sweep(s);
	{
		LOCK_SCOPE(&s->lock);
		s->foreign = foreign;
		s->scans_done++;
		(void)pthread_cond_broadcast(&s->scan_cond);
	}
	ca_trim(s);
}

/* ---- the thread ---------------------------------------------------------------------------- */

static struct timespec after_s(time_t s)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t); /* not clock.h's: tests stop that one */
	t.tv_sec += s;
	return t;
}

/* Sleeps until the time has come or (wake != NULL) *wake is set; false: the store is closing. */
static bool sleep_locked(struct ca_store *s, const struct timespec *until, const bool *wake)
{
	while (!s->stop && !(wake && *wake)) {
		int r = until ? pthread_cond_timedwait(&s->scan_cond, &s->lock, until) :
				pthread_cond_wait(&s->scan_cond, &s->lock);

		if (r == ETIMEDOUT)
			break;
	}
	return !s->stop;
}

static bool wait_for_work(struct ca_store *s)
{
	struct timespec soon = after_s(SCAN_PAUSE_S), later = after_s(CA_RESCAN_S);

	LOCK_SCOPE(&s->lock);
	return sleep_locked(s, &soon, NULL) && sleep_locked(s, NULL, &s->active) &&
	       sleep_locked(s, &later, &s->scan_wanted);
}

static void *scanner_main(void *arg)
{
	struct ca_store *s = arg;

	do
		ca_scan_now(s);
	while (wait_for_work(s));
	return NULL;
}

void ca_scan_start(struct ca_store *s)
{
	sigset_t all, old;

	LOCK_SCOPE(&s->lock);
	if (s->scanner_runs || s->stop)
		return;
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	s->scanner_runs = pthread_create(&s->scanner, NULL, scanner_main, s) == 0;
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void ca_scan_stop(struct ca_store *s)
{
	bool runs;

	{
		LOCK_SCOPE(&s->lock);
		s->stop = true;
		runs = s->scanner_runs;
		(void)pthread_cond_broadcast(&s->scan_cond);
	}
	if (runs)
		(void)pthread_join(s->scanner, NULL);
}

bool ca_scan_wait(struct ca_store *s)
{
	struct timespec until = after_s(CA_SCAN_WAIT_S);
	bool waited = false;

	LOCK_SCOPE(&s->lock);
	while (s->scans_done == 0 && s->scanner_runs && !s->stop) {
		if (pthread_cond_timedwait(&s->scan_cond, &s->lock, &until) == ETIMEDOUT)
			return false;
		waited = true;
	}
	return waited;
}

void ca_scan_note_locked(struct ca_store *s, uint64_t published)
{
	bool wake = !s->active;

	s->active = true;
	s->published += published;
	if (!s->scan_wanted && s->published > s->max_bytes / CA_LOW_WATER_DIV)
		wake = s->scan_wanted = true;
	if (wake)
		(void)pthread_cond_broadcast(&s->scan_cond);
}
