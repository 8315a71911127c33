/*
 * names.h - building a struct rg_names (private to registry/)
 *
 * Names are added in any order, duplicates included; the end sorts bytewise, drops duplicates, and
 * leaves all text in one arena.  Made for a million names: two allocations in the result, no
 * allocation per name, no sort when the names came sorted (registries list that way).
 *
 *	struct names_builder b = { 0 };		a zeroed builder is empty
 *	names_add(&b, s, len, e) ...
 *	names_finish(&b, ret, e)		the builder is empty again, also on failure
 *	names_abort(&b)				instead of finish
 */
#pragma once

#include "registry/registry.h"

struct names_builder {
	char *text;		/* NUL-terminated names, one after the other */
	size_t text_len, text_cap;
	size_t n;		/* names in text */
};

/* Over RG_TAGS_MAX names: -EFBIG, class LIMIT.  s must not contain NUL; "" is a name. */
errint_t names_add(struct names_builder *b, const char *s, size_t len, struct err *e) _must_check_;
errint_t names_finish(struct names_builder *b, struct rg_names *ret, struct err *e) _must_check_;
void names_abort(struct names_builder *b);
