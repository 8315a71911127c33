/*
 * early.h - the names of a rootfs while its merged tree is not there yet
 *
 * A name that an upper layer decides is answered as soon as that layer is there, complete and
 * verified; the merged tree, which needs all layers, comes later (tree_stack.h says what is
 * decided).  The kernel must not notice: what it was told early keeps its node id, inode number and
 * handles for ever.  So files found early get numbers (subs of the rootfs node, EARLY_SUB and up)
 * from a table, and when the tree comes each of them is given its place there, once: from then on
 * the number is another name for a node of the tree, in both directions.
 *
 * Answered early are names, absence of names, attributes, extended attributes and data, exactly as
 * the tree will have them; only link counts of directories are 1 ("not known", as overlayfs has it)
 * until the tree tells.  All else waits for the tree: listings, symbolic links (what one shows is
 * found in the tree), files with several names.
 *
 * Functions that may want layers are for op handlers.  Threads: any; one lock, a leaf but for
 * hmap's and the tree's own references.
 */
#pragma once

#include "cache/tree.h"
#include "fs/need.h"
#include "fs/op.h"

#define EARLY_SUB (1u << 31)	/* no tree has so many nodes */
#define EARLY_MAX 65536		/* files known by early numbers; later ones wait for the tree */
#define EARLY_BYTES_MAX (64u << 20)	/* trees of layers in memory meanwhile, a million entries; the same */

struct early;
/* raw_links: links show their bytes, and so need no tree.  NULL: no memory. */
struct early *early_new(size_t n_layers, bool raw_links);
struct early *early_free(struct early *e);	/* accepts and returns NULL */

/* A file as the layer that has it shows it. */
struct early_file {
	struct tree *t;		/* a ref */
	uint32_t node;		/* in t: its attributes and xattrs, and the place of its data */
	uint32_t layer;		/* whose tree t is */
	uint32_t sub;		/* what the kernel knows it by: 0 for the root, else EARLY_SUB + n */
	bool is_dir;
};

/* How many layers it has taken in. */
size_t early_layers(struct early *e);
/* What name means in the directory dir (TREE_ROOT or an early number).  0 with ret->t NULL: there is
 * no such name.  -EAGAIN: the tree has to be asked. */
errint_t early_find(struct op *op, struct early *e, struct image *img, uint32_t dir, const char *name, size_t len,
		    struct early_file *ret) _must_check_;
/* The file with that number; the same results. */
errint_t early_get(struct op *op, struct early *e, struct image *img, uint32_t sub, struct early_file *ret) _must_check_;

/* The tree is there: everything found so far gets its place in it, and nothing more is found.
 * *ret_first: this call did that. */
errint_t early_settle(struct early *e, const struct tree *t, bool *ret_first) _must_check_;
/* After early_settle: the tree's number of what the kernel knows as sub (TREE_NONE: nobody has been
 * given that), and what the kernel knows the tree's n as.  Other numbers pass through. */
uint32_t early_in_tree(const struct early *e, uint32_t sub);
uint32_t early_shown(const struct early *e, uint32_t n);
/* After early_settle: the next directory among the early numbers; *at is 0 at first; false past the last. */
bool early_next_dir(const struct early *e, size_t *at, uint32_t *ret_sub);
