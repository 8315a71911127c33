/* need_priv.h - what need.c and the other need_*.c share */
#pragma once

#include "fs/need.h"
#include "fs/site_priv.h"

/* What a piece of work is about; freed by the engine through ask_free. */
struct ask {
	struct site *site;
	char *repo;
	char *name;		/* a tag, or the name of the fact to publish */
	struct digest digest;
	uint64_t size;
	struct image *img;	/* a ref, or NULL */
	struct ca_layer *layer;	/* a ref, or NULL */
	size_t layer_no;
	struct tree *tree;	/* a ref, or NULL */
	uint32_t span;
	struct ca_toc toc;
};

/* NULL: no memory.  repo, name and d may be NULL. */
struct ask *ask_new(struct site *s, const char *repo, const char *name, const struct digest *d);
void ask_free(void *p);
/* How often this operation has waited for the fact with success. */
unsigned ask_times(struct op *op, struct site *s, const char *fact);
/* Wants "<site>|<fact>"; takes over a (NULL: -ENOMEM). */
errint_t ask_want(struct op *op, struct site *s, const char *fact, work_fn work, struct ask *a) _must_check_;

/* Publishes a failure under that name; returns r. */
errint_t ask_failed(struct site *s, const char *fact, errint_t r, const struct err *e);
/* A failure published a moment ago, as op->err and -errno; 0: none. */
errint_t recent_failure(struct op *op, struct site *s, const char *fact);

/* A document that cannot be parsed is the registry's fault: EIO, as EINVAL would say that the caller
 * did something wrong.  Other results pass through. */
errint_t need_nonsense(errint_t r, const char *what, struct err *e);

/* How to ask for a fact: what ask_new is given once somebody has to. */
struct question {
	work_fn work;
	const char *repo, *name;
	const struct digest *digest;
};
/* A fact with text, by the pattern of need.c; *ret is given back with fact_done. */
errint_t need_fact_text(struct op *op, struct site *s, const char *name, const struct question *q,
			struct fact *ret) _must_check_;

/* need_data.c: layers that an image keeps open, by their place in image.layers */
struct ca_layer *kept_layer(struct image *img, size_t slot);	/* a new reference, or NULL */
void keep_layer(struct image *img, size_t slot, struct ca_layer *l);
/* The whole layer, streamed. */
errint_t open_streamed(struct op *op, struct image *img, size_t i, struct ca_layer **ret) _must_check_;
/* The flavour of layer i that a data offset is about. */
errint_t need_data_layer(struct op *op, struct image *img, size_t i, uint64_t off, struct ca_layer **ret) _must_check_;
/* One piece of it, unless it has just failed. */
errint_t want_span(struct op *op, struct image *img, size_t layer, struct ca_layer *l, uint32_t span) _must_check_;
/* What a fill of pieces of layer i came to: 0 also when the handler has to look again. */
errint_t need_filled(struct fs *fs, struct image *img, size_t i, struct ca_layer *l, errint_t r, struct err *e);
/* A fill of layer i as work, unless it has just failed: name and fact are "<what> <repo>@<digest>". */
errint_t want_layer(struct op *op, struct image *img, size_t i, const char *what, work_fn work,
		    const struct ca_toc *toc) _must_check_;
/* Remembers a failure of such work for a moment; returns r. */
errint_t note_layer(const struct ask *a, const char *what, errint_t r, struct err *e);

/* need_toc.c: layers that are read by their table of contents */
enum lazy { LAZY_UNKNOWN = 0, LAZY_NO, LAZY_YES, LAZY_REFUSED };
/* Where image.layers has layer i, in the flavour in which it is read. */
size_t lazy_slot(struct fs *fs, struct image *img, size_t i);
static inline bool lazy_wanted(struct fs *fs, struct image *img, size_t i)
{
	return lazy_slot(fs, img, i) != i;
}
/* Does the descriptor's manifest say that the blob has a table of contents, sense or nonsense? */
bool lazy_annotated(const struct oci_descriptor *d);
/* ca_toc_id of what layer i is read by; 0: it is streamed. */
uint32_t lazy_id(struct fs *fs, struct image *img, size_t i);
/* Is there anything by which layer i could be read in parts?  Not: a data offset from CA_TOC_DATA on is about a
 * SOCI index that is gone; less that, it is a place in the tar. */
bool lazy_can_be(const struct image *img, size_t i);
errint_t open_lazy(struct op *op, struct image *img, size_t i, struct ca_layer **ret) _must_check_;
/* The table of contents turned out unusable: the layer is streamed from now on, which is counted, said
 * once, and remembered. */
void lazy_refuse(struct fs *fs, struct image *img, size_t i, const struct err *why);
/* Has that happened to it?  Then what is missing of it comes from the streamed layer. */
static inline bool lazy_refused(const struct image *img, size_t i)
{
	return atomic_load(&img->lazy[i]) == LAZY_REFUSED;
}
/* After a part has come: a registry that ignores Range is not asked for more of them. */
void lazy_check_parts(struct image *img, size_t i);
/* Appends at most len bytes of what a refuted or refused layer l has at off, from the streamed layer. */
errint_t lazy_from_streamed(struct op *op, struct image *img, size_t i, struct ca_layer *l, uint64_t off,
			    size_t len, struct buf *ret) _must_check_;

/* need_soci.c: whether a SOCI index says where the image's files are.  0: that is decided, once and for
 * all; before it is, nobody may ask in which flavour a layer is read. */
errint_t soci_decide(struct op *op, struct image *img) _must_check_;
bool soci_decided(const struct image *img);
/* Of layer i, borrowed from img; NULL: no index, or not decided. */
const struct ca_toc *soci_toc(const struct image *img, size_t i);

/* wire.c: the registry as a source of the cache.  ctx must stay valid while the source is used. */
struct wire_source {
	struct rg_registry *reg;
	const char *repo;
	uint64_t began_ns;	/* the last read */
	struct pace *pace;	/* nobody waits (pace.h); NULL: as fast as it can */
	bool yields;		/* and others go first */
	const atomic_uint *hurry;	/* not 0: somebody waits after all; or NULL */
	_Atomic uint64_t *got;	/* counts what has come; NULL: nobody wants to know */
};
struct ca_source wire_source(struct wire_source *ctx);
