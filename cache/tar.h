/*
 * tar.h - streaming tar reader: bytes in, entries out (private to cache/)
 *
 * Push parser for the formats found in image layers: ustar, GNU (L, K, base-256, old sparse 'S'),
 * PAX (x and g records, SCHILY.xattr.*, LIBARCHIVE.xattr.*, GNU.sparse.* 0.0, 0.1, 1.0).  It sees
 * every byte of the uncompressed stream once and in order, keeps no file data, and hands each entry
 * with its data offset to the callback.  POSIX.1-2017 pax; GNU tar manual "Tar Internals".
 *
 * Ceilings: TAR_META_MAX for one PAX or GNU extension block, TREE_PATH_MAX for paths.  A checksum
 * error, a negative or overflowing size, or a record that runs over its block is -EINVAL (INPUT).
 * Two zero blocks, or the end of the stream at a block boundary, end the archive; what follows the
 * end marker is ignored.
 */
#pragma once

#include "cache/tree.h"

#define TAR_META_MAX (8u << 20)

/* The entry and what it points to are valid during the call only. */
typedef errint_t (*tar_entry_fn)(void *ctx, const struct tree_entry *en, struct err *e);

struct tar_reader;
struct tar_reader *tar_reader_new(tar_entry_fn fn, void *ctx);
struct tar_reader *tar_reader_free(struct tar_reader *t);	/* accepts and returns NULL */
DEFINE_CLEANUP(struct tar_reader *, tar_reader_free)
errint_t tar_reader_push(struct tar_reader *t, const void *data, size_t len, struct err *e) _must_check_;
size_t tar_reader_bytes(const struct tar_reader *t);	/* memory that headers made it take */
uint64_t tar_reader_offset(const struct tar_reader *t);	/* bytes pushed, up to the end marker's end */

/* More about the entry that is being handed out, valid as long as that. */
struct tar_raw {
	const unsigned char *header;	/* its block; NULL for sparse files that have several */
	const char *pax;		/* records of its `x` header */
	size_t pax_len;
	bool sparse;
	bool odd;			/* so far in the archive: a `g` header, a volume label, Solaris' 'X' */
};
void tar_reader_raw(const struct tar_reader *t, struct tar_raw *ret);
/* The stream has ended: -EINVAL when an entry or its data is cut off. */
errint_t tar_reader_end(struct tar_reader *t, struct err *e) _must_check_;
