/*
 * warm.h - all the data of an image, or of a part of it, here for use offline
 *
 * Two extended attributes of directories and files, not listed, that `registryfs warm` asks for:
 *
 *	user.registryfs.warm	answers when everything is in the cache, with the number of its
 *				compressed bytes; whoever goes away meanwhile ends the fetching
 *	user.registryfs.held	"HAVE TOTAL": how much of it is there, at once; only for orientation
 *				while it is fetched
 *
 * So the bytes never pass the kernel, no state is left when the caller dies, and what readers want
 * is shared with them like any fetch.
 */
#pragma once

#include "fs/need.h"
#include "fs/op.h"

#define WARM_XATTR "user.registryfs.warm"
#define HELD_XATTR "user.registryfs.held"

bool warm_asked(const char *xattr);
/* For the directory of an image (or index). */
errint_t warm_image(struct op *op, struct image *img, const char *xattr, struct buf *ret) _must_check_;
/* For file n of t, a tree of img's (layer: whose, or PLAN_MERGED), and all below it.  t NULL: it is not
 * there yet; only HELD_XATTR has an answer to that. */
errint_t warm_files(struct op *op, struct image *img, struct tree *t, size_t layer, uint32_t n,
		    const char *xattr, struct buf *ret) _must_check_;
/* For a blob. */
errint_t warm_blob(struct op *op, struct image *img, const struct oci_descriptor *d, const char *xattr,
		   struct buf *ret) _must_check_;
/* The same answer as HELD_XATTR's for an image, in numbers. */
errint_t warm_held(struct op *op, struct image *img, uint64_t *ret_have, uint64_t *ret_total) _must_check_;
