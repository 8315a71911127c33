/*
 * tree_write.h - what builder and merge share: pools and the way into an image (private to cache/)
 *
 * A writer collects strings, attribute sets, extents and nodes, each interned or numbered as they
 * will be in the image, and then lays them down in one piece.  It checks ceilings, not sense: the
 * caller numbers the nodes breadth first as tree_image.h wants it.
 *
 * Failing adds set `failed` (a negative errno, sticky), so that a long run of adds needs one check.
 */
#pragma once

#include "cache/tree_image.h"

struct tree_slot {
	uint32_t hash;
	uint32_t at;		/* 1 + index of what is interned; 0 = free */
};

/* Open addressing over indices; the things themselves live elsewhere. */
struct tree_index {
	struct tree_slot *slots;
	size_t cap, count;
};

/* Returns true when the interned thing number `at` is the one that is looked for. */
typedef bool (*tree_index_eq)(const void *ctx, uint32_t at);
uint32_t tree_index_find(const struct tree_index *x, uint32_t hash, tree_index_eq eq, const void *ctx);
/* The thing must not be there yet. */
errint_t tree_index_add(struct tree_index *x, uint32_t hash, uint32_t at) _must_check_;
void tree_index_done(struct tree_index *x);

struct tree_str {
	uint32_t at, len;	/* in the string pool */
};

struct tree_writer {
	char *image;			/* the head's place, then nodes */
	struct tree_node *nodes;
	size_t n_nodes, cap_nodes;
	struct tree_extent *extents;
	size_t n_extents, cap_extents;
	struct tree_xset *xsets;
	size_t n_xsets, cap_xsets;
	struct tree_xattr *xattrs;
	size_t n_xattrs, cap_xattrs;
	struct tree_str *strs;
	size_t n_strs, cap_strs;
	char *pool;
	size_t pool_len, pool_cap;
	struct tree_index str_index, xset_index;
	int failed;
};

void tree_writer_done(struct tree_writer *w);
/* Memory; at least what the image will have. */
uint64_t tree_writer_bytes(const struct tree_writer *w);

/* Interns a string and returns its number in strs[]; 0 on failure (number 0 is ""). */
uint32_t tree_writer_str(struct tree_writer *w, const char *s, size_t len);
/* Only looks; TREE_NONE when the string has not been interned. */
uint32_t tree_writer_find_str(const struct tree_writer *w, const char *s, size_t len);
/* Interns a set of attributes: 1 + its number, 0 for the empty set or on failure.  Later members
 * win over earlier ones of the same name; what Linux could not hold is left out. */
uint32_t tree_writer_xset(struct tree_writer *w, const struct tree_xattr_in *in, size_t n);
errint_t tree_writer_extents(struct tree_writer *w, const struct tree_extent *x, size_t n) _must_check_;
/* A zeroed node at the end; NULL on failure. */
struct tree_node *tree_writer_node(struct tree_writer *w);
/* The nodes are where they belong already; the rest follows, and w is empty then. */
errint_t tree_writer_finish(struct tree_writer *w, struct buf *ret, struct err *e) _must_check_;
/* Words for a sticky failure. */
errint_t tree_writer_error(errint_t failed, struct err *e);

/* Room for one more element of *vec, doubling; -ENOMEM, or -EFBIG when n has reached max. */
errint_t tree_vec_grow(void *vec, size_t *cap, size_t n, size_t max, size_t elem) _must_check_;
