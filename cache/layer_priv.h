/*
 * layer_priv.h - what layer*.c and toc_*.c share
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "cache/layer_file.h"
#include "cache/store.h"
#include "cache/toc_file.h"

struct ca_layer {
	struct ca_store *s;
	unsigned refs;			/* under the lock of layer.c's table */
	char key[CA_KEY_MAX];		/* of the layer object */
	struct digest digest;
	struct layer_file file;		/* without a TOC */
	struct toc_file *toc;		/* with one; else NULL */
	struct ca_object *object;	/* for the states, or the chunks */
	pthread_mutex_t tree_lock;	/* held while the tree is read, so that this happens once */
	struct tree *tree;		/* weak (tree_image.h); NULL: not in memory */
	atomic_bool condemned;
	atomic_bool refuted;		/* a chunk was not what the TOC says */
	atomic_uint ahead, next_granule; /* how many were fetched at once, and up to which */
	struct toc_twins *_Atomic twins; /* toc_twin.c; NULL: nobody has asked */
};

/* Layer object and span object of a digest. */
const char *layer_key(const struct digest *d, char out[static CA_KEY_MAX]);
const char *layer_span_key(const struct digest *d, uint32_t span, char out[static CA_KEY_MAX]);

/* Keeps a span that was just filled from being evicted, until some others have been.  Takes over o. */
void layer_keep_recent(struct ca_layer *l, struct ca_object *o);
/* ca_object_put, for which kept spans that are in memory give way. */
errint_t layer_object_put(struct ca_store *s, enum ca_kind kind, const char *key, const void *data,
			  size_t len, struct err *e) _must_check_;

/* The layer object of a layer with its TOC; granules append "-<n>". */
const char *toc_layer_key(const struct digest *d, const struct ca_toc *toc, char out[static CA_KEY_MAX]);

/* Runs attempt until it succeeds or fails for another reason than that the contents make no sense, but
 * twice at most: then they do not (-EBADMSG).  d: the blob that may come damaged. */
typedef errint_t (*toc_attempt_fn)(void *ctx, struct err *e);
errint_t toc_attempts(toc_attempt_fn attempt, void *ctx, const struct digest *d, const struct ca_source *src,
		      struct err *e) _must_check_;
/* ca_toc_layer_fill for a zTOC (ztoc_fill.c). */
errint_t ztoc_layer_fill(struct ca_store *s, const struct digest *d, const struct ca_toc *toc,
			 const struct ca_source *src, struct cancel *c, struct err *e) _must_check_;

/* ca_toc_id, by the key of such a layer. */
uint32_t layer_key_id(const char *key);

/* What ca_layer_read and ca_layer_fill_span are for layers with a TOC (toc_granule.c). */
errint_t toc_layer_read(struct ca_layer *l, uint64_t off, void *dst, size_t len, size_t *ret_n,
			uint32_t *ret_granule, struct err *e) _must_check_;
errint_t toc_layer_fill_granule(struct ca_layer *l, uint32_t granule, const struct ca_source *src,
				struct cancel *c, struct err *e) _must_check_;

/* The object of a granule, and ca_layer_fill_run for such layers. */
const char *toc_granule_key(const struct ca_layer *l, uint32_t granule, char out[static CA_KEY_MAX]);
errint_t toc_layer_fill_run(struct ca_layer *l, uint32_t first, uint32_t n, const struct ca_source *src,
			    struct cancel *c, struct err *e) _must_check_;
/* Returns when the piece is here, or is not about to come with a run.  That it is here does not say that it can be read. */
void layer_run_wait(struct ca_layer *l, uint32_t piece, struct cancel *c);
/* ca_layer_fill_run for streamed layers (layer_span.c). */
errint_t layer_fill_spans(struct ca_layer *l, uint32_t first, uint32_t n, const struct ca_source *src,
			  struct cancel *c, struct err *e) _must_check_;
/* The same for spans of a SOCI index (ztoc_span.c). */
errint_t ztoc_layer_fill_run(struct ca_layer *l, uint32_t first, uint32_t n, const struct ca_source *src,
			     struct cancel *c, struct err *e) _must_check_;
uint64_t toc_granule_len(const struct ca_layer *l, uint32_t granule);
/* -EILSEQ from now on: the index is not about this blob, as `how` says. */
errint_t toc_refuted(struct ca_layer *l, const char *how, struct err *e);
/* -EBADMSG: our own object is wrong, and gone now. */
errint_t toc_dropped(struct ca_layer *l, struct err *e);

/* -ENOENT: not here; -EBADMSG: it had the wrong length and was dropped. */
errint_t layer_span_open(struct ca_layer *l, uint32_t span, struct ca_object **ret) _must_check_;

/* The object has turned out wrong although its checksums hold: drops it, and nobody gets l any
 * more.  Only the first call for l does so. */
void layer_condemn(struct ca_layer *l);

extern uint32_t layer_units_max;	/* LAYER_UNITS_MAX; tests lower it */

/* -ECANCELED when c has fired. */
errint_t layer_check_cancel(struct cancel *c, struct err *e);

/* Bytes [off, off + len) of a blob, from the cache when it is there whole, else from src. */
errint_t layer_source_read(struct ca_store *s, const struct digest *d, uint64_t size, uint64_t off,
			   uint64_t len, const struct ca_source *src, ca_sink_fn sink, void *ctx,
			   struct cancel *c, struct err *e) _must_check_;

/* ---- spans on their way to the disk (layer_span.c)
 *
 * Written while the bytes come, published when they have been verified.  Once the disk does not
 * take one, no more are written; that is no error.
 */
struct span_set {
	struct ca_store *s;
	const struct digest *digest;
	uint64_t since; /* stamp before the first one: they do not evict each other */
	struct ca_writer *writer;	/* of the present span, or NULL */
	struct ca_writer **sealed;
	size_t n_sealed, cap;
	bool stopped;
};

void span_set_init(struct span_set *p, struct ca_store *s, const struct digest *d);
/* off: where data belong in the uncompressed tar.  A piece never crosses two spans. */
void span_set_add(struct span_set *p, uint64_t off, const void *data, size_t len);
void span_set_publish(struct span_set *p);
void span_set_done(struct span_set *p);	/* drops what is not published */
