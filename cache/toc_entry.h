/*
 * toc_entry.h - one entry of a table of contents (private to cache/)
 *
 * Both dialects have the same members (layers.md 5.1, 5.2).  What cannot be taken at its word makes
 * the whole TOC unusable: numbers that are none or out of range, names with U+FFFD in them (that is
 * what the formats' writers make of bytes that are not UTF-8: the tar has the true ones), members
 * that differ from ours in case only (the formats' readers would accept them), members that are there
 * twice.
 */
#pragma once

#include "cache/tree.h"
#include "util/digest.h"

struct toc_entry {
	bool is_chunk;		/* a further piece of the file before it; only what is below `en` counts */
	struct tree_entry en;	/* borrows from text and memory; data_off and extents are not set */
	const char *name;	/* as written, NUL-terminated */
	size_t name_len;
	uint64_t offset;	/* in the blob */
	uint64_t end_offset;	/* of the file's bytes in the blob; 0: not said */
	uint64_t inner, chunk_offset, chunk_size;	/* size 0: to the end of the file */
	bool zeros;		/* a hole: no bytes */
	struct digest chunk;	/* of the piece; alg 0: not said */
	struct digest file;	/* of the whole file; alg 0: not said */
	char *text;
	struct tree_xattr_in *xattrs;
	void *memory;		/* xattr values */
};

/* -EBADMSG (INPUT).  The caller frees with toc_entry_done, also after an error. */
errint_t toc_entry_parse(const char *json, size_t len, struct toc_entry *ret, struct err *e) _must_check_;
void toc_entry_done(struct toc_entry *en);
