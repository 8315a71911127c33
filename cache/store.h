/*
 * store.h - the cache directory: sealed, immutable objects by key (private to cache/)
 *
 * DIR/<kind>/<xx>/<key>	published objects; never changed, only unlinked
 * DIR/tmp/<pid>.<n>		being written; a dead writer's files are removed at start
 *
 * An object is published by rename and is then complete.  It is a sealed file (sealed.h): a CRC-32
 * of each 64 KiB block, checked when the block is first read by this process, and a footer.  That
 * makes fsync unnecessary for safety: after a power cut a torn object fails its check, is removed,
 * counted (cache_corrupt) and fetched again.  The data starts at offset 0, so an object can be
 * handed to the kernel as a plain file.  A disk that cannot read an object back is treated like a
 * corrupt object: whoever reads it is told to fetch it again.
 *
 * Space: `max_bytes` is a ceiling on the sum of allocated object bytes, `min_free` a floor on the
 * file system's free space.  Before bytes are written they are reserved; reserving evicts the least
 * recently used objects that this process has not open (another one's stay readable: an unlinked
 * file lives on until closed).  When that does not help, or on ENOSPC, EDQUOT, EIO, EROFS, the
 * write fails and the caller goes on without storing; after a failure of the disk no write is tried
 * for CA_PAUSE_S seconds.  ca_object_put keeps the object in memory instead (CA_MEMORY_MAX for
 * all), and ca_object_open and friends find it there.
 *
 * A fill never pushes out its own objects: a writer evicts only what was last used before its
 * `since` (ca_store_stamp), by default its own start.  Whoever writes a set of objects takes a
 * stamp before the first one and makes the writers with ca_writer_new_since; a set larger than the
 * cache then ends in -ENOSPC with its first part kept, instead of going round in circles.
 *
 * Two daemons may share a directory: each counts by scanning at start and, while it is busy, every
 * minute; eviction tolerates files that went away, publishing over an existing object is harmless.
 * CA_META is for values that change: their files are opened anew each time.
 *
 * Threads: all functions are safe from any thread.  No data is read or written under a lock;
 * rename and unlink of one key are ordered by a lock that readers do not take (store_i.h).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cache.h"

enum ca_kind {
	CA_MANIFEST = 0, CA_BLOB, CA_LAYER, CA_SPAN, CA_TREE, CA_META, CA_KINDS
};

#define CA_KEY_MAX 160		/* file-name-safe bytes: [A-Za-z0-9._-] */
#define CA_BLOCK (64u << 10)
#define CA_PAUSE_S 5		/* no writes for so long after the disk failed one */

/* ---- writing */
struct ca_writer;
/* expected: bytes to reserve now (0 = reserve while writing).  -ENOSPC when there is no room. */
errint_t ca_writer_new(struct ca_store *s, enum ca_kind kind, const char *key, uint64_t expected,
		       struct ca_writer **ret, struct err *e) _must_check_;
/* "Now" in the order of last uses; for the writers of a set of objects, see above. */
uint64_t ca_store_stamp(struct ca_store *s);
errint_t ca_writer_new_since(struct ca_store *s, enum ca_kind kind, const char *key,
			     uint64_t expected, uint64_t since, struct ca_writer **ret,
			     struct err *e) _must_check_;
errint_t ca_writer_add(struct ca_writer *w, const void *data, size_t len, struct err *e)
	_must_check_;
uint64_t ca_writer_len(const struct ca_writer *w);
/* Seals the file but leaves it unpublished. */
errint_t ca_writer_seal(struct ca_writer *w, struct err *e) _must_check_;
/* Publishes the file (seals it first if need be); frees w whatever happens. */
errint_t ca_writer_publish(struct ca_writer *w, struct err *e) _must_check_;
/* Drops what was written; frees w.  Accepts NULL, returns NULL. */
struct ca_writer *ca_writer_abort(struct ca_writer *w);

/* One-shot; on disk or else in memory.  -ENOSPC: neither. */
errint_t ca_object_put(struct ca_store *s, enum ca_kind kind, const char *key, const void *data,
		       size_t len, struct err *e) _must_check_;

/* ---- reading */
struct ca_object;	/* an open object, reference counted */
/* -ENOENT: not there (or just found corrupt).  Counts a hit or miss; touches the LRU order. */
errint_t ca_object_open(struct ca_store *s, enum ca_kind kind, const char *key,
			struct ca_object **ret, struct err *e) _must_check_;
struct ca_object *ca_object_ref(struct ca_object *o);
struct ca_object *ca_object_unref(struct ca_object *o);
DEFINE_CLEANUP(struct ca_object *, ca_object_unref)
uint64_t ca_object_len(const struct ca_object *o);
/* Did the disk not take it?  Then what holds it open holds a part of CA_MEMORY_MAX. */
bool ca_object_in_memory(const struct ca_object *o);
/* Borrowed; bytes [0, ca_object_len) are the data, unverified.  An object that lives in memory is
 * copied into a memfd on the first call; -1 when that fails. */
int ca_object_fd(struct ca_object *o);
/* Reads exactly len bytes (bounds are the caller's duty).  -EBADMSG: corrupt or unreadable; the
 * object has been removed and counted, fetch it again.  Else -ENOMEM. */
errint_t ca_object_read(struct ca_object *o, uint64_t off, void *dst, size_t len, struct err *e)
	_must_check_;
/* Checks all of it, for who goes on to use ca_object_fd.  Errors as for ca_object_read. */
errint_t ca_object_verify(struct ca_object *o, struct err *e) _must_check_;
/* Appends the whole object to *ret (within its max: -EFBIG).  -ENOENT: not there, or just found
 * corrupt. */
errint_t ca_object_load(struct ca_store *s, enum ca_kind kind, const char *key, struct buf *ret,
			struct err *e) _must_check_;
bool ca_object_exists(struct ca_store *s, enum ca_kind kind, const char *key);	/* no statistics */
/* Corrupt: removes and counts it. */
void ca_object_drop(struct ca_store *s, enum ca_kind kind, const char *key);

/* "sha256-<hex>", safe as a file name. */
const char *ca_digest_key(const struct digest *d, char out[static CA_KEY_MAX]);
