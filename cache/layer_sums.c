/*
 * layer_sums.c - see layer_sums.h
 */
#include "cache/layer_sums.h"

#include <stdlib.h>

bool layer_sums_init(struct layer_sums *s, enum digest_alg alg)
{
	*s = (struct layer_sums){ .chain = digest_ctx_new(DIGEST_SHA256) };
	if (alg != DIGEST_SHA256)
		s->digest = digest_ctx_new(alg);
	return s->chain && (s->digest || alg == DIGEST_SHA256);
}

void layer_sums_done(struct layer_sums *s)
{
	(void)digest_ctx_free(s->digest);
	(void)digest_ctx_free(s->chain);
	free(s->marks);
	*s = (struct layer_sums){ 0 };
}

void layer_sums_add(struct layer_sums *s, const void *data, size_t len)
{
	digest_ctx_add(s->chain, data, len);
	if (s->digest)
		digest_ctx_add(s->digest, data, len);
}

void layer_sums_mark(struct layer_sums *s)
{
	if (s->n_marks == s->cap) {
		size_t cap = s->cap ? 2 * s->cap : 64;
		struct digest_mark *p = reallocarray(s->marks, cap, sizeof(*p));

		if (!p) {
			s->no_memory = true;
			return;
		}
		s->marks = p;
		s->cap = cap;
	}
	digest_ctx_mark(s->chain, &s->marks[s->n_marks++]);
}

void layer_sums_end(struct layer_sums *s, struct digest *ret)
{
	layer_sums_mark(s);
	digest_ctx_end(s->digest ? s->digest : s->chain, ret);
}
