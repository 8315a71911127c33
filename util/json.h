/*
 * json.h - reading JSON from strangers (the only place that includes jansson is json.c)
 *
 * Documents are parsed with named limits (size by the caller's buffer, depth JSON_DEPTH_MAX, number
 * of values) and duplicate keys are refused (image-spec: JSON must have none).  The number is
 * limited because a value of three bytes costs two hundred in memory.  Values are borrowed:
 * everything reached from a document lives as long as the document.
 *
 * The getters are forgiving on purpose: a missing member, null, or a member of another type gives
 * the default, because registries write `null` where lists belong.  Callers that need a member
 * check for the default.
 *
 * A string with a NUL inside (legal JSON) is only given out together with its length: where no
 * length is asked for, such a string counts as absent, so that nobody reads a shortened one.
 *
 * No name here may be one of jansson's (it has a json_string): ours would win over the library's.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/cleanup.h"
#include "util/err.h"

#define JSON_DEPTH_MAX 64
#define JSON_VALUES_MAX 200000	/* of json_parse: manifests, configs, tokens */

struct json; /* a value; never dereferenced by callers */

/* -EINVAL with class INPUT and line and column in the message; over JSON_VALUES_MAX values -EFBIG,
 * class LIMIT, before memory is spent.  An array or object counts as two values. */
errint_t json_parse(const char *data, size_t len, struct json **ret, struct err *e) _must_check_;
/* With a ceiling of the caller's, for listings. */
errint_t json_parse_max(const char *data, size_t len, size_t max_values, struct json **ret,
			struct err *e) _must_check_;
struct json *json_free(struct json *doc); /* the whole document; accepts NULL, returns NULL */
DEFINE_CLEANUP(struct json *, json_free)

const struct json *json_get(const struct json *obj, const char *key);	/* NULL if absent/null */
const char *json_str(const struct json *obj, const char *key);		/* NULL if not a string */
const char *json_strn(const struct json *obj, const char *key, size_t *ret_len);
int64_t json_int(const struct json *obj, const char *key, int64_t def);
bool json_bool(const struct json *obj, const char *key, bool def);

bool json_is_object(const struct json *v);
bool json_is_array(const struct json *v);
size_t json_len(const struct json *array_or_object);
const struct json *json_at(const struct json *array, size_t i);	/* NULL if absent/null */
const char *json_text(const struct json *v, size_t *ret_len);	/* of a string value, else NULL */

/* Members of an object in document order: void *it = NULL; while ((v = json_next(o, &it, &key)))
 * A null member does not end the loop: v is then a value for which every getter has the default. */
const struct json *json_next(const struct json *obj, void **it, const char **ret_key);
