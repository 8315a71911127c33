/*
 * soci.h - building SOCI indexes and putting them next to their images
 *
 * An index of version 1 has the image as its subject: it is found among the image's referrers, and the
 * image stays as it is.  One of version 2 is named by an annotation of the image's manifest, which makes
 * that another image: it is put under a tag of its own, in an index with its SOCI index beside it.
 *
 * Blocking calls for a command; layers are read by several threads.  No kernel, no cache.
 */
#pragma once

#include <stdatomic.h>

#include "registry/push.h"

#define SOCI_MIN_LAYER (10u << 20)	/* as the SOCI tools have it */

struct soci_layer {
	const struct oci_descriptor *desc;
	bool indexed;
	struct digest ztoc;
	uint64_t ztoc_size;
	uint32_t n_spans, n_files;
	char why[ERR_MSG_MAX];		/* it is left out */
};

struct soci_job {
	struct rg_registry *reg;
	const char *repo;
	uint64_t span, min_layer;	/* bytes */
	atomic_uint_fast64_t moved;	/* bytes of layers so far */
	/* Layer i of n is done; from any thread, one at a time. */
	void (*tell)(struct soci_job *j, size_t i, size_t n, const struct soci_layer *l);
	void *ctx;
};

/* A small blob, verified, into b. */
errint_t soci_read_blob(struct soci_job *j, const struct oci_descriptor *d, struct buf *b, struct err *e) _must_check_;

struct soci_index {
	struct digest digest;
	uint64_t size;			/* of its manifest */
	size_t n_layers;		/* that have a zTOC */
	uint64_t ztoc_bytes;		/* of all of them */
};

/* Builds the index of one image and puts it there.  version: 1 or 2.  -ENODATA (INPUT): no layer can
 * have a zTOC, and nothing was put. */
errint_t soci_index(struct soci_job *j, unsigned version, const struct rg_manifest *image,
		    const struct oci_manifest *m, struct soci_index *ret, struct err *e) _must_check_;

/* soci_convert.c.  One image of those that are converted. */
struct soci_image {
	struct rg_manifest bytes;
	struct oci_manifest *m;
	struct oci_descriptor at;	/* in the index it is in; only the platform when it is in none.  Borrowed. */
	struct soci_index index;	/* version 2 */
};
/* Puts the images with the annotation of their index, and under tag an index of all: what top (an image
 * or an index) has, with these replaced, and the SOCI indexes. */
errint_t soci_convert(struct soci_job *j, const struct rg_manifest *top, const struct oci_manifest *m,
		      const struct soci_image *images, size_t n, const char *tag, struct digest *ret,
		      struct err *e) _must_check_;
