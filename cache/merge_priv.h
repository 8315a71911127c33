/*
 * merge_priv.h - the pieces of tree_merge (private to cache/merge*.c)
 *
 *	merge_union.c	one directory: what a name means over a stack of directories
 *	merge_link.c	hard links to files of lower layers
 *	merge.c		the merged tree, breadth first
 *
 * A stack is the list of directories, one per layer that takes part, top first, whose children make
 * up one merged directory.  Stacks live in one arena and are named by place and length, because the
 * arena moves when it grows.
 */
#pragma once

#include "cache/tree_write.h"

#define MERGE_NONE UINT32_MAX	/* as a layer: no such node */

/* A node of a layer's tree. */
struct merge_ref {
	uint32_t layer, node;
};

struct merge_stack {
	uint32_t at, n;		/* in merge.arena */
};

/* One layer's children of a directory, or its whiteouts there, in ascending order of names. */
struct merge_cursor {
	uint32_t at, end, skip_at, skip_to;
	uint32_t layer, rank;	/* rank: position in the stack * 2, + 1 for whiteouts */
	const char *name;
	size_t len;
};

struct merge {
	struct tree *const *layers;
	struct cancel *cancel;
	uint64_t max_bytes;		/* of the merged tree */
	size_t n_layers;
	struct merge_ref *arena;
	size_t n_arena, cap_arena;
	struct merge_cursor *cursors;	/* heap; room for two per layer */
	size_t n_cursors;
	struct merge_ref **links;	/* per layer with TREE_LINKs: by ino, what they stand for; NULL:
					   not resolved */
	uint64_t link_steps;
	struct tree_writer w;
	struct merge_stack *stacks;	/* by merged node */
	size_t cap_stacks;
	uint8_t **hollow;	/* per layer, by node: merge_hollow, or NULL */
	uint32_t **first;	/* per layer, by ino: the merged node that has its attributes */
	uint32_t **xsets;	/* per layer, by set: 1 + the merged set, or TREE_NONE: not yet */
};

/* What a name means, found by looking at the layers of a stack from the top. */
struct merge_name {
	const char *name;
	size_t len;
	bool found, is_dir;
	bool done;		/* nothing further below can change anything */
	bool cut;		/* directory: what is below gives attributes, but no children */
	bool explicit;		/* directory: src has attributes of its own */
	bool linked;		/* ends at a hard link that nobody has resolved yet (tree_stack.c) */
	struct merge_ref src;	/* the file, or the directory that gives the attributes */
	struct merge_stack stack; /* directory: its children come from here */
};

static inline const struct tree_node *merge_node(const struct merge *m, struct merge_ref r)
{
	const struct tree *t = m->layers[r.layer];

	return &t->nodes[t->nodes[r.node].ino];
}

/* Asked now and then, about once per directory or thousand names: -ECANCELED. */
static inline errint_t merge_check(const struct merge *m)
{
	return cancel_fired(m->cancel) ? -ECANCELED : 0;
}

/* The next layer down has r under that name (markers are never asked about). */
errint_t merge_name_entry(struct merge *m, struct merge_name *n, struct merge_ref r) _must_check_;
/* The next layer down has a whiteout for that name; comes after its entry. */
static inline void merge_name_whiteout(struct merge_name *n)
{
	n->done = true;
}

/* Names that are never seen in a merged tree. */
bool merge_is_marker_name(const char *name, size_t len);
/* By node: 1 for implicit directories in which only markers are; NULL when there are none. */
errint_t merge_hollow(const struct tree *t, uint8_t **ret) _must_check_;
/* The merged root of layers 0 .. n_layers - 1. */
errint_t merge_root(struct merge *m, size_t n_layers, struct merge_name *ret) _must_check_;
/* One name in a merged directory. */
errint_t merge_lookup(struct merge *m, struct merge_stack dir, const char *name, size_t len,
		      struct merge_name *ret) _must_check_;
/* All names in a merged directory in ascending order; fn must not call back. */
typedef errint_t (*merge_each_fn)(struct merge *m, void *ctx, const struct merge_name *n);
errint_t merge_each(struct merge *m, struct merge_stack dir, merge_each_fn fn, void *ctx) _must_check_;

/* Fills m->links, bottom layer first. */
errint_t merge_links(struct merge *m) _must_check_;
