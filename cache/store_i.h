/*
 * store_i.h - what the files of the store share (private to them and their tests)
 *
 * The index maps the path of each known object ("blob/3f/sha256-...") to an entry: its bytes, its
 * last use, the open object if there is one.  It is a cache of the directory, corrected by scans:
 * a file without an entry can be opened, an entry without a file is found out when it is used.
 *
 * Last uses are stamps: seconds since 1970 in ns, plus a count within the second, so that they
 * order strictly within a process and to the second between processes (through files' mtimes).
 *
 * Locks, outermost first; no I/O under `lock`:
 *	scanning	one scan at a time
 *	evicting	one eviction at a time; entries are freed only under evicting + lock, so
 *			that a list of entries made under evicting stays valid
 *	names[i]	orders rename, unlink and what the index says of one path; never taken by
 *			who only reads a sound object
 *	lock		everything in struct ca_store below it; entries; users and links of objects
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "cache/memory.h"
#include "cache/sealed.h"
#include "cache/store.h"
#include "util/hmap.h"

#define CA_PATH_MAX (CA_KEY_MAX + 24)
#define CA_OPEN_IDLE_MAX 4096	/* objects kept open while nobody uses them (16 GiB of spans) */
#define CA_OPEN_IDLE_DIV 4	/* but no more than this part of the limit on open files */
#define CA_OBJECTS_MAX (1u << 18)	/* in the index */
#define CA_NAME_LOCKS 16
#define CA_RESERVE_STEP (UINT64_C(1) << 20)	/* when the size is not known beforehand */
#define CA_LOW_WATER_DIV 20		/* eviction frees 1/20 more than is needed */
#define CA_SAVE_USE_S 60		/* a last use is written to the file so often */
#define CA_RESCAN_S 60			/* while the store is being written to */
#define CA_SCAN_WAIT_S 10		/* how long a writer waits for the first scan */
#define CA_TMP_DIR "tmp"
#define CA_TMP_MAX 48			/* length of a temp file's path */

enum ca_state {
	CA_HERE = 0,
	CA_GONE,	/* the file is not there any more; the next scan frees the entry */
	CA_BAD,		/* the file is damaged and cannot be removed: as if it were not there */
};

struct ca_entry {
	struct ca_object *open;	/* shared by all who open it; NULL if nobody has */
	uint64_t bytes;		/* counted in ca_store.used */
	uint64_t used;		/* stamp of the last use */
	int64_t saved_s;	/* last use as the file's mtime has it */
	uint64_t version;	/* changes with every publication */
	uint64_t seen;		/* number of the last scan that found it */
	enum ca_state state;
	char path[];
};

struct ca_object {
	struct ca_store *s;
	struct ca_entry *entry;		/* NULL: not shared (any more) */
	struct ca_object *prev, *next;	/* idle list */
	unsigned users;
	bool keep;			/* may stay open while idle */
	atomic_bool damaged;
	struct sealed *file;		/* one of file and mem */
	struct ca_mem *mem;
	atomic_int memfd;
	dev_t dev;
	ino_t ino;
	char path[CA_PATH_MAX];
};

struct ca_store {
	char *dir;
	int dirfd;			/* dup3'ed over when the directory is made anew */
	uint64_t max_bytes, min_free;	/* constant */
	size_t idle_max;		/* constant: objects kept open while idle */
	struct ca_memory *mem;
	pthread_mutex_t scanning;
	pthread_mutex_t evicting;
	pthread_mutex_t names[CA_NAME_LOCKS];

	pthread_mutex_t lock;
	struct hmap *index;
	struct ca_object *oldest, *newest;	/* idle list */
	size_t n_idle;
	uint64_t used;			/* sum of entries' bytes */
	uint64_t reserved;		/* by writers; temp files are within it */
	uint64_t unwritten;		/* the part of reserved that is not on disk yet */
	uint64_t foreign;		/* temp files of other processes, at the last scan */
	uint64_t credit;		/* evicted, but not shown as free then (evict.c) */
	uint64_t credit_until_ns;
	int64_t credit_room;		/* then; and `written` at that time */
	uint64_t credit_written;
	uint64_t written;		/* bytes since the start */
	uint64_t last_stamp;
	uint64_t versions;
	uint64_t paused_until_ns;	/* monotonic; writes fail until then */
	int paused_errno;

	pthread_t scanner;
	pthread_cond_t scan_cond;	/* any change of the following */
	bool scanner_runs, stop;
	bool scan_wanted;		/* soon, not only after CA_RESCAN_S */
	bool active;			/* something was written since the last scan */
	uint64_t published;		/* bytes since the last scan */
	uint64_t scans_done, scan_no;
};

/* ---- store.c */
/* "blob/3f/<key>"; -EINVAL (BUG) for a key that is none. */
errint_t ca_path(enum ca_kind kind, const char *key, char out[static CA_PATH_MAX], struct err *e)
	_must_check_;
const char *ca_kind_name(enum ca_kind kind);
uint32_t ca_ident(const char *path);
pthread_mutex_t *ca_name_lock(struct ca_store *s, const char *path);
uint64_t ca_stamp_locked(struct ca_store *s);
struct ca_entry *ca_entry_get_locked(struct ca_store *s, const char *path, bool add);
void ca_entry_bytes_locked(struct ca_store *s, struct ca_entry *en, uint64_t bytes);
void ca_entry_state_locked(struct ca_store *s, struct ca_entry *en, enum ca_state state);
uint64_t ca_stat_bytes(const struct stat *st);

/* ---- object.c */
/* Nobody gets the open object any more; returns it when it has to be closed after unlocking. */
struct ca_object *ca_entry_detach_locked(struct ca_entry *en);
struct ca_object *ca_object_close(struct ca_object *o);

/* ---- evict.c */
/* Room for n more bytes, made by evicting objects last used before since. */
errint_t ca_reserve(struct ca_store *s, uint64_t n, uint64_t since, struct err *e) _must_check_;
/* What is left of the credit, with so much room shown now. */
uint64_t ca_credit_locked(const struct ca_store *s, int64_t room);
/* Frees about `want` bytes and at least `must`, or nothing at all; returns what was freed. */
uint64_t ca_evict(struct ca_store *s, uint64_t must, uint64_t want, size_t n_want, uint64_t since);
uint64_t ca_slack(struct ca_store *s);	/* how much to evict beyond the need */
void ca_trim(struct ca_store *s);	/* to below the limits, after a scan */

/* ---- scan.c */
void ca_scan_start(struct ca_store *s);	/* the thread; the first user of the store does */
void ca_scan_stop(struct ca_store *s);
void ca_scan_now(struct ca_store *s);	/* in this thread; tests */
bool ca_scan_wait(struct ca_store *s);	/* for the first one; false: it was done already */
void ca_scan_note_locked(struct ca_store *s, uint64_t published);
