/*
 * toc_index.h - from the entries of a TOC to a tree and a table of chunks (private to cache/)
 *
 * Entries go into the tree as those of a tar would, in the TOC's order, so that hard links,
 * duplicates, missing parents and markers mean the same.  On the way everything is checked that can
 * be checked without the data: chunks lie one behind the other in the blob before the TOC, those of a
 * file cover it exactly, numbers are within their ceilings.  Whoever fails that is not used at all.
 */
#pragma once

#include "cache/toc_entry.h"
#include "cache/toc_file.h"

struct toc_index {
	struct tree_builder *tree;
	struct toc_chunk *chunks;
	size_t n_chunks, cap_chunks;
	uint64_t limit;		/* chunks end before it, in the blob */
	uint64_t out;		/* bytes of all chunks so far */
	uint64_t landmark;	/* of them, those before the file that marks what is read first; 0: no mark */
	size_t member;		/* first chunk of the present member */
	size_t n_entries;
	bool estargz;		/* the archive ends with the index, which the TOC does not say */
	bool toc_last;		/* the last entry is TOC_NAME */
	bool has_file;		/* `file` is one whose chunks may still come */
	struct toc_entry file;
	size_t first;		/* its first chunk */
	uint64_t covered;	/* how much of it has been described */
	bool holes;		/* it has some: extents describe it */
	struct tree_extent *extents;
	size_t n_extents, cap_extents;
};

errint_t toc_index_init(struct toc_index *x, enum toc_format format, uint64_t limit, struct err *e) _must_check_;
void toc_index_done(struct toc_index *x);
/* Takes over what en holds.  -EBADMSG (INPUT, LIMIT): it cannot be used. */
errint_t toc_index_add(struct toc_index *x, struct toc_entry *en, struct err *e) _must_check_;
/* All entries have come. */
errint_t toc_index_end(struct toc_index *x, struct err *e) _must_check_;
uint64_t toc_index_bytes(const struct toc_index *x);	/* memory */

/* Files that belong to the formats, not to the image: they do not show.  toc_last: the archive's last
 * entry is TOC_NAME, so it is the index. */
#define TOC_NAME "stargz.index.json"
void toc_hide(struct tree_builder *b, bool toc_last);
