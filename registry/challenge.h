/*
 * challenge.h - WWW-Authenticate (RFC 9110 11.3, 11.6.1), read leniently within bounds
 *
 * One header may hold several challenges and a response several headers; all are collected.  A
 * malformed tail does not spoil the challenges before it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "util/err.h"

#define CHALLENGES_MAX 16
#define CHALLENGE_PARAMS_MAX 16

struct challenge_param {
	char *name;	/* lower case */
	char *value;	/* unquoted */
};

struct challenge {
	char *scheme;	/* lower case: "basic", "bearer" */
	char *token68;	/* NULL when there is none */
	struct challenge_param params[CHALLENGE_PARAMS_MAX];
	size_t n_params;
};

struct challenges {
	struct challenge v[CHALLENGES_MAX];
	size_t n;
};

/* Adds the challenges of one header value.  -EINVAL malformed, -EFBIG too many, -ENOMEM; what was
 * read before stays. */
errint_t challenges_parse(struct challenges *cs, const char *value);
void challenges_free(struct challenges *cs);
const struct challenge *challenges_find(const struct challenges *cs, const char *scheme);
/* NULL when absent; the first of several. */
const char *challenge_get(const struct challenge *c, const char *name);
