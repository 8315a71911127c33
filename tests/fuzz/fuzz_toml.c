/*
 * fuzz_toml.c - configuration files: refused with a line number, or a well-formed bounded tree
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "registry/toml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(bool ok)
{
	if (!ok)
		abort();
}

static void walk(const struct toml *v, size_t *values)
{
	expect(v != NULL && ++*values <= TOML_VALUES_MAX);
	switch (toml_kind(v)) {
	case TOML_STRING:
		expect(toml_string(v) != NULL);
		break;
	case TOML_TABLE:
	case TOML_ARRAY:
		for (size_t i = 0; i < toml_len(v); i++) {
			if (toml_kind(v) == TOML_TABLE)
				expect(toml_get(v, toml_key_at(v, i)) == toml_at(v, i));
			walk(toml_at(v, i), values);
		}
		break;
	case TOML_INT:
	case TOML_BOOL:
		break;
	case TOML_UNSET:
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct toml *doc = NULL;
	struct err e = { 0 };
	size_t values = 0;

	if (toml_parse((const char *)data, size, &doc, &e) < 0) {
		expect(doc == NULL && e.eno > 0 && e.msg[0]);
		return 0;
	}
	expect(toml_kind(doc) == TOML_TABLE);
	walk(doc, &values);
	toml_free(doc);
	return 0;
}
