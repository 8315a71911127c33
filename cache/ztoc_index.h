/*
 * ztoc_index.h - from a zTOC to a tree and a table of spans (private to cache/)
 *
 * Its files go into the tree as the tar's would, in their order, with what their PAX records say; data
 * offsets are places in the tar, from CA_TOC_DATA on.  What a zTOC cannot say right, sparse files and
 * owners beyond 32 bits, makes it unusable: the tar knows better.
 */
#pragma once

#include "cache/toc_file.h"
#include "cache/ztoc.h"

struct ztoc_index {
	struct tree_builder *tree;
	struct toc_chunk *chunks;
	struct toc_span *spans;		/* one a chunk; windows are borrowed from the zTOC */
	uint32_t n_chunks;
};

/* -EBADMSG (INPUT, LIMIT): it cannot be used.  ztoc_index_done also after an error.  check is asked now
 * and then with the memory that is in use, and may end it. */
typedef errint_t (*ztoc_check_fn)(void *ctx, uint64_t bytes, struct err *e);
errint_t ztoc_index(struct ztoc_index *x, const struct ztoc *z, ztoc_check_fn check, void *ctx, struct err *e)
	_must_check_;
void ztoc_index_done(struct ztoc_index *x);

/* Adds what an entry says to a sum: of a zTOC's files, and of the headers of the tar.  off: where its
 * bytes are, in the tar. */
uint32_t ztoc_sum(uint32_t sum, const struct tree_entry *en, uint64_t off);
