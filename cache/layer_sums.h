/*
 * layer_sums.h - what is hashed of a blob while it is streamed: its digest, and a mark at each unit's
 * start (private to cache/)
 *
 * The marks are places in the SHA-256 of the whole, so a blob that is known by that is hashed once.
 * Bytes and marks come in order; one stream, one thread at a time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/digest.h"
#include "util/err.h"

struct layer_sums {
	struct digest_ctx *digest;	/* NULL: chain is it */
	struct digest_ctx *chain;
	struct digest_mark *marks;
	size_t n_marks, cap;
	bool no_memory;			/* sticky: marks are missing */
};

/* False: no memory.  layer_sums_done in any case. */
bool layer_sums_init(struct layer_sums *s, enum digest_alg alg);
void layer_sums_done(struct layer_sums *s);
void layer_sums_add(struct layer_sums *s, const void *data, size_t len);
void layer_sums_mark(struct layer_sums *s);
/* The last mark, of the whole, and the digest. */
void layer_sums_end(struct layer_sums *s, struct digest *ret);
