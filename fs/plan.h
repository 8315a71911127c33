/*
 * plan.h - data of an image that is to be here before anybody reads it, and having it fetched
 *
 * A plan is a set of pieces of an image's layers (cache.h), in the order in which they are wanted.
 * A handler fills it, asks what is missing, and wants that fetched: a few works on the I/O pool take
 * run after run of neighbouring pieces, one request each, until nothing is left or nobody waits any
 * more.  Pieces that are lost meanwhile are the handler's to notice: it makes another plan when it
 * runs again.
 *
 * Threads: a plan belongs to the handler that makes it until plan_want; from then on it is constant
 * but for what its works count.
 */
#pragma once

#include "fs/need.h"
#include "fs/op.h"

#define PLAN_WORKS 4u			/* for one plan, of the I/O pool's threads */
#define PLAN_RUN_MAX (8u << 20)		/* compressed bytes of one request */
#define PLAN_RUN_MIN (1u << 20)		/* but not less, to keep all works busy */

struct plan;
struct plan *plan_new(struct image *img);	/* NULL: no memory */
struct plan *plan_unref(struct plan *p);	/* accepts and returns NULL */
DEFINE_CLEANUP(struct plan *, plan_unref)

/* All of these open the layers that are needed.  -EINPROGRESS: one of them has to come first; what can
 * be added is, so that all that are needed are wanted at once. */
errint_t plan_add_layer(struct op *op, struct plan *p, size_t layer) _must_check_;
errint_t plan_add_layers(struct op *op, struct plan *p) _must_check_;	/* every layer of the image */
#define PLAN_MERGED SIZE_MAX
/* The contents of file n of t and of all below it; layer: whose tree t is, or PLAN_MERGED. */
errint_t plan_add_files(struct op *op, struct plan *p, struct tree *t, size_t layer, uint32_t n) _must_check_;
/* The first n pieces of a layer. */
errint_t plan_add_first(struct op *op, struct plan *p, size_t layer, uint32_t n) _must_check_;

struct plan_sum {
	uint64_t bytes, packed;			/* uncompressed; compressed, about */
	uint64_t missing, missing_packed;	/* of these */
};
void plan_sum(const struct plan *p, struct plan_sum *ret);

enum plan_haste {
	PLAN_WAITED = 0,	/* somebody waits for all of it */
	PLAN_EARLY,		/* readers will soon: keeps to background_rate alone */
	PLAN_QUIET,		/* nobody does: readers go first as well (pace.h) */
};
/* Wants what is missing, at most `most` compressed bytes of it, under keys that begin with `key`.  works
 * says how many requests at once, at most PLAN_WORKS.  0: nothing is missing. */
errint_t plan_want(struct op *op, struct plan *p, const char *key, unsigned works, enum plan_haste haste,
		   uint64_t most) _must_check_;
/* How often this operation has waited for that. */
unsigned plan_times(struct op *op, const char *key);
