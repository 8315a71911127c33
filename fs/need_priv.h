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
	uint32_t span;
};

/* NULL: no memory.  repo, name and d may be NULL. */
struct ask *ask_new(struct site *s, const char *repo, const char *name, const struct digest *d);
void ask_free(void *p);
/* Wants "<site>|<fact>"; takes over a (NULL: -ENOMEM). */
/* How often this operation has waited for the fact with success. */
unsigned ask_times(struct op *op, struct site *s, const char *fact);
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

/* wire.c: the registry as a source of the cache.  ctx must stay valid while the source is used. */
struct wire_source {
	struct rg_registry *reg;
	const char *repo;
};
struct ca_source wire_source(struct wire_source *ctx);
