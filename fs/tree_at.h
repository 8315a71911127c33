/*
 * tree_at.h - the tree behind a rootfs or a layer's directory, and the files in it as the kernel
 * knows them
 *
 * Kinds ask here for a file by the kernel's number (sub).  A rootfs answers some of them before its
 * merged tree is there (early.h); then the file is seen in the tree of the layer that has it.
 */
#pragma once

#include "fs/kinds.h"

/* A file as it is seen. */
struct seen {
	struct tree *t;		/* a ref; NULL: there is no such name */
	uint32_t n;		/* in t */
	uint32_t sub;		/* what the kernel knows it by */
	uint32_t layer;		/* early: whose tree t is */
	bool early;
};
void seen_done(struct seen *s);

/* The whole tree; the reference is the caller's.  A rootfs waits for all layers. */
errint_t tree_at(struct op *op, const struct node *n, struct tree **ret) _must_check_;
/* The file known as sub or, with a name, what that means in it; ret is zeroed by the caller. */
errint_t tree_see(struct op *op, struct node *n, uint32_t sub, const char *name, struct seen *ret) _must_check_;
/* OP_PREPARE: waits for the tree. */
errint_t tree_at_prepare(struct op *op, struct node *n) _must_check_;

bool tree_is_link(const struct tree_attr *a);
/* Does it show the image's bytes? */
bool tree_shown_raw(const struct op *op, const struct tree_attr *a);
/* The file that name n stands for.  What a link shows depends on where its name is, so that each of
 * several names is a file of its own, unless the image's bytes are shown. */
uint32_t tree_file_of(const struct op *op, const struct tree_attr *a, uint32_t n);
