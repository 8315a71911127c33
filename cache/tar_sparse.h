/*
 * tar_sparse.h - maps of sparse files (private to cache/tar*.c)
 *
 * Four formats say the same: which pieces of a file are stored, one behind the other, everything
 * else being zeros.  A struct sparse collects pieces, then sparse_place checks them and computes
 * where each one's bytes are in the archive.
 *
 * The pieces follow each other without padding.  GNU tar pads each to 512 bytes when it writes, but
 * its pieces are multiples of that (except the last one), so all readers agree.
 */
#pragma once

#include "cache/tar_pax.h"

struct sparse {
	struct tree_extent *x;
	size_t n, cap;
	uint64_t size;		/* of the file with its holes */
	size_t blocks;		/* old GNU: extension blocks; 1.0: map blocks seen */
	bool more;		/* old GNU: an extension block follows */
	uint64_t want;		/* 1.0: entries still to come; UINT64_MAX: not even their number */
	bool have_off;		/* 1.0: an offset waits for its length */
	uint64_t number;	/* 1.0: digits of the number that is being read */
	unsigned digits;
};

void sparse_clear(struct sparse *s);
void sparse_done(struct sparse *s);

/* All of these: -EINVAL (malformed), -EFBIG (over TAR_META_MAX), -ENOMEM. */
errint_t sparse_old_header(struct sparse *s, const unsigned char *block) _must_check_;
errint_t sparse_old_extension(struct sparse *s, const unsigned char *block) _must_check_;
errint_t sparse_from_pax(struct sparse *s, const struct pax *p) _must_check_;
void sparse_map10_begin(struct sparse *s, uint64_t size);
/* One block of the map at the start of the data; *ret_done: it was the last one. */
errint_t sparse_map10_block(struct sparse *s, const unsigned char *block, bool *ret_done) _must_check_;

/* Offsets ascend, nothing overlaps or lies beyond the size, and stored bytes suffice. */
errint_t sparse_place(struct sparse *s, uint64_t data_off, uint64_t stored) _must_check_;

/* Number in a header field: octal, or base-256 when the top bit says so.  False: malformed. */
bool tar_number(const unsigned char *s, size_t len, int64_t *ret);
