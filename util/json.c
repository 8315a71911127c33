/*
 * json.c - the jansson side of json.h
 *
 * A struct json is a json_t under another name.  Nesting is checked before parsing: jansson
 * recurses (its own limit is 2048, fixed when it was built) and our threads have small stacks.  The
 * same scan counts values: jansson knows no ceiling and takes a hundred bytes and more for each.
 */
#include <jansson.h>

/* jansson has these as macros; ours are functions. */
#undef json_is_object
#undef json_is_array

#include "util/json.h"

#include <string.h>

static const json_t *in(const struct json *v)
{
	return (const json_t *)v;
}

static const struct json *out(const json_t *v)
{
	return (const struct json *)v;
}

static bool is_type(const struct json *v, json_type type)
{
	return v && json_typeof(in(v)) == type;
}

/* The offset just behind the string that starts at data[i] == '"'. */
static size_t skip_string(const char *data, size_t len, size_t i)
{
	for (i++; i < len && data[i] != '"'; i++)
		if (data[i] == '\\')
			i++;
	return i + 1;
}

/* The offset of the first bracket that nests too deep; len when there is none.  *ret_values: at
 * least as many as there are (in front of that). */
static size_t find_too_deep(const char *data, size_t len, size_t *ret_values)
{
	size_t depth = 0, i = 0;

	*ret_values = 1;
	while (i < len) {
		char c = data[i];

		if (c == '"') {
			i = skip_string(data, len, i);
			continue;
		}
		if ((c == '{' || c == '[') && ++depth > JSON_DEPTH_MAX)
			return i;
		*ret_values += c == ',' || c == '{' || c == '[';
		if ((c == '}' || c == ']') && depth > 0)
			depth--;
		i++;
	}
	return len;
}

static errint_t too_deep(const char *data, size_t at, struct err *e)
{
	size_t line = 1, column = 1;

	for (size_t i = 0; i < at; i++) {
		column = data[i] == '\n' ? 1 : column + 1;
		line += data[i] == '\n';
	}
	return err_set(e, EINVAL, ERR_INPUT,
		       "invalid JSON at line %zu, column %zu: nested more than %d deep", line,
		       column, JSON_DEPTH_MAX);
}

errint_t json_parse(const char *data, size_t len, struct json **ret, struct err *e)
{
	return json_parse_max(data, len, JSON_VALUES_MAX, ret, e);
}

errint_t json_parse_max(const char *data, size_t len, size_t max_values, struct json **ret,
			struct err *e)
{
	json_error_t je;
	size_t values, deep = find_too_deep(data, len, &values);

	*ret = NULL;
	if (deep < len)
		return too_deep(data, deep, e);
	if (values > max_values)
		return err_set(e, EFBIG, ERR_LIMIT, "JSON with more than %zu values", max_values);

	json_t *doc = json_loadb(len > 0 ? data : "", len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL,
				 &je);

	if (!doc && json_error_code(&je) == json_error_out_of_memory)
		return err_set(e, ENOMEM, ERR_LOCAL, "out of memory while reading JSON");
	if (!doc)
		return err_set(e, EINVAL, ERR_INPUT, "invalid JSON at line %d, column %d: %s",
			       je.line, je.column, je.text);
	*ret = (struct json *)doc;
	return 0;
}

struct json *json_free(struct json *doc)
{
	json_decref((json_t *)doc);
	return NULL;
}

static const struct json *null_to_none(const json_t *v)
{
	return v && json_typeof(v) != JSON_NULL ? out(v) : NULL;
}

const struct json *json_get(const struct json *obj, const char *key)
{
	return is_type(obj, JSON_OBJECT) ? null_to_none(json_object_get(in(obj), key)) : NULL;
}

const char *json_text(const struct json *v, size_t *ret_len)
{
	size_t len = 0;
	const char *s = is_type(v, JSON_STRING) ? json_string_value(in(v)) : NULL;

	if (s)
		len = json_string_length(in(v));
	/* Nobody asked for the length: a string with a NUL inside would read as its beginning. */
	if (s && !ret_len && memchr(s, '\0', len))
		return NULL;
	if (ret_len)
		*ret_len = len;
	return s;
}

const char *json_str(const struct json *obj, const char *key)
{
	return json_text(json_get(obj, key), NULL);
}

const char *json_strn(const struct json *obj, const char *key, size_t *ret_len)
{
	return json_text(json_get(obj, key), ret_len);
}

int64_t json_int(const struct json *obj, const char *key, int64_t def)
{
	const struct json *v = json_get(obj, key);

	return is_type(v, JSON_INTEGER) ? (int64_t)json_integer_value(in(v)) : def;
}

bool json_bool(const struct json *obj, const char *key, bool def)
{
	const struct json *v = json_get(obj, key);

	if (is_type(v, JSON_TRUE))
		return true;
	return is_type(v, JSON_FALSE) ? false : def;
}

bool json_is_object(const struct json *v)
{
	return is_type(v, JSON_OBJECT);
}

bool json_is_array(const struct json *v)
{
	return is_type(v, JSON_ARRAY);
}

size_t json_len(const struct json *v)
{
	if (is_type(v, JSON_ARRAY))
		return json_array_size(in(v));
	return is_type(v, JSON_OBJECT) ? json_object_size(in(v)) : 0;
}

const struct json *json_at(const struct json *array, size_t i)
{
	return is_type(array, JSON_ARRAY) ? null_to_none(json_array_get(in(array), i)) : NULL;
}

const struct json *json_next(const struct json *obj, void **it, const char **ret_key)
{
	/* jansson iterates over a mutable object, although it changes nothing. */
	json_t *o = is_type(obj, JSON_OBJECT) ? (json_t *)(uintptr_t)obj : NULL;

	if (!o)
		return NULL;
	*it = *it ? json_object_iter_next(o, *it) : json_object_iter(o);
	if (!*it)
		return NULL;
	if (ret_key)
		*ret_key = json_object_iter_key(*it);
	return out(json_object_iter_value(*it));
}
