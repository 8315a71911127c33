/*
 * fuzz_challenge.c - WWW-Authenticate: whatever comes, bounded and readable
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "registry/challenge.h"
#include "util/cleanup.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(bool ok)
{
	if (!ok)
		abort();
}

static void check(const struct challenge *c, size_t input)
{
	expect(c->scheme && *c->scheme && !strpbrk(c->scheme, " \t,=\"ABCDEFGHIJKLMNOPQRSTUVWXYZ"));
	expect(c->n_params <= CHALLENGE_PARAMS_MAX);
	expect(!c->token68 || c->n_params == 0);
	for (size_t i = 0; i < c->n_params; i++) {
		expect(c->params[i].name && *c->params[i].name);
		expect(c->params[i].value && strlen(c->params[i].value) <= input);
		expect(challenge_get(c, c->params[i].name) != NULL);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = strndup((const char *)data, size);
	struct challenges cs = { .n = 0 };
	errint_t r;

	if (!text)
		return 0;
	r = challenges_parse(&cs, text);
	expect(r == 0 || r == -EINVAL || r == -EFBIG);
	r = challenges_parse(&cs, text); /* a second header of the same response */
	expect(cs.n <= CHALLENGES_MAX);
	for (size_t i = 0; i < cs.n; i++) {
		check(&cs.v[i], size);
		expect(challenges_find(&cs, cs.v[i].scheme) != NULL);
	}
	challenges_free(&cs);
	return 0;
}
