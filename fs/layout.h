/*
 * layout.h - a repository, or one image of it, as the parts of an OCI image layout
 *
 * A snapshot: which manifests and blobs belong to it, with the exact index.json that names them.
 * image-spec image-layout.md.  Shared by kind_oci.c (the layout as directories) and kind_tar.c (one
 * image as an archive).  Immutable and reference counted.
 */
#pragma once

#include "fs/kinds.h"

#define LAYOUT_PARTS_MAX 1000000
#define LAYOUT_WANTS_MAX 1000	/* asked for at once; the rest in the next run */
#define LAYOUT_DEPTH_MAX 8	/* indexes and referrers inside each other */

/* A blob of the layout: the bytes of a manifest, or a blob named by one. */
struct layout_part {
	struct digest digest;
	uint64_t size;
	struct image *img;		/* a ref: the manifest itself, or the one that names the blob */
	const struct oci_descriptor *d;	/* inside img->m; NULL: the manifest's own bytes */
};

struct layout {
	_Atomic unsigned refs;
	struct buf index;		/* index.json */
	struct layout_part *parts;	/* sorted by digest, no duplicates */
	size_t n_parts;
	struct image *top;		/* layout of one image: that image; a ref */
	uint64_t ident;			/* hash of index.json */
	int64_t since_s;		/* when it was first seen to be so; 0: nobody asked */
};

struct layout *layout_ref(struct layout *l);
struct layout *layout_unref(struct layout *l);
DEFINE_CLEANUP(struct layout *, layout_unref)

/* All tags of a repository with children and referrers (tag NULL), or one tag with its children.
 * full_name: also write the image's full name for tools that load archives. */
errint_t layout_need(struct op *op, struct site *s, const char *repo, const char *tag, bool full_name,
		     struct layout **ret) _must_check_;
/* NULL: no such part. */
const struct layout_part *layout_find(const struct layout *l, const struct digest *d);
/* Appends [off, off + len) of a part. */
errint_t layout_read(struct op *op, const struct layout_part *p, uint64_t off, size_t len, struct buf *ret);

#define OCI_LAYOUT_FILE "{\"imageLayoutVersion\":\"1.0.0\"}"
