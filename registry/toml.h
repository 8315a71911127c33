/*
 * toml.h - the part of TOML 1.0 that registries.conf and hosts.toml use
 *
 * Tables, arrays of tables, dotted and quoted keys, the four kinds of strings, booleans, integers,
 * arrays, inline tables, comments.  Floats and dates are refused, as is everything TOML refuses
 * (a key twice, a table defined twice).  Bounded in bytes, values and depth.  Values are borrowed
 * from the document.  Getters give the default for what is missing or of another type.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/cleanup.h"
#include "util/err.h"

#define TOML_BYTES_MAX (1u << 20)
#define TOML_VALUES_MAX 16384
#define TOML_DEPTH_MAX 16

enum toml_kind { TOML_UNSET = 0, TOML_STRING, TOML_INT, TOML_BOOL, TOML_ARRAY, TOML_TABLE };

struct toml;

/* -EINVAL with the line number in the message, -EFBIG, -ENOMEM. */
errint_t toml_parse(const char *data, size_t len, struct toml **ret, struct err *e) _must_check_;
struct toml *toml_free(struct toml *doc);
DEFINE_CLEANUP(struct toml *, toml_free)

enum toml_kind toml_kind(const struct toml *v);			/* of NULL: TOML_UNSET */
const struct toml *toml_get(const struct toml *table, const char *key);
const char *toml_str(const struct toml *table, const char *key);	/* NULL if not a string */
bool toml_bool(const struct toml *table, const char *key, bool def);
int64_t toml_int(const struct toml *table, const char *key, int64_t def);
const char *toml_string(const struct toml *v);			/* of a string value */
/* Elements of an array, or members of a table in document order. */
size_t toml_len(const struct toml *v);
const struct toml *toml_at(const struct toml *v, size_t i);
const char *toml_key_at(const struct toml *table, size_t i);
