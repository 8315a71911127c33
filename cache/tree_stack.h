/*
 * tree_stack.h - what a path means over a stack of layers of which only the upper ones are known
 *
 * A merged tree needs all layers; one name often does not: the first layer from the top that
 * decides is the answer (image-spec layer.md).  A stack takes an image's layers from the top down
 * as they come and says of a path what tree_merge will say of it when all layers are there, or
 * that a further layer is needed to know.  It is the code of the merge itself (merge_union.c) that
 * decides each component, so the two cannot disagree about a rule.
 *
 * What is answered never changes by further layers.  Where more than "the next layer" is needed,
 * the answer is TREE_STACK_MERGE: a hard link into other layers lies on the path (merge_link.c), or
 * the file may have further names, so that its link count is known to the merge alone.
 *
 * Threads: pushing needs a lock of the caller's that also keeps lookups out; lookups may run at
 * the same time.
 */
#pragma once

#include "cache/tree.h"

enum tree_stack_says {
	TREE_STACK_FOUND = 0,
	TREE_STACK_ABSENT,
	TREE_STACK_LOWER,	/* the next layer down has to be known */
	TREE_STACK_MERGE,	/* ask the merged tree */
};

struct tree_stack_name {
	bool is_dir;
	bool has_attrs;		/* always, but for directories whose attributes a lower layer may give */
	uint32_t layer, node;	/* the file; of a directory its place in the topmost layer that has it */
	uint32_t attr_layer, attr_node;	/* has_attrs: the node that gives attributes and xattrs (nlink
					   of directories: the merge's) */
};

struct tree_stack;

/* Of an image with n layers; NULL: no memory. */
struct tree_stack *tree_stack_new(size_t n);
struct tree_stack *tree_stack_free(struct tree_stack *s);	/* accepts and returns NULL */
DEFINE_CLEANUP(struct tree_stack *, tree_stack_free)
size_t tree_stack_known(const struct tree_stack *s);
/* The next layer down: number n - 1 first, then n - 2 ...  Takes a reference. */
errint_t tree_stack_push(struct tree_stack *s, struct tree *t) _must_check_;
/* A known layer's tree, borrowed. */
struct tree *tree_stack_tree(const struct tree_stack *s, uint32_t layer);

/* path: relative to the root, components separated by '/', "" for the root; links are not followed.
 * An enum tree_stack_says, or -ENOMEM. */
int tree_stack_lookup(const struct tree_stack *s, const char *path, size_t len, struct tree_stack_name *ret) _must_check_;

/* Is an extended attribute of a layer left out of the merged tree? */
bool tree_merge_hides_xattr(const char *name, size_t len);
