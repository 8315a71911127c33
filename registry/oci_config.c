/*
 * oci_config.c - image configs: platform, diff ids, history with layer numbers
 *
 * Every member is optional and may be null.  History and layers are paired in order, skipping
 * empty_layer entries; when one list is longer than the other, what is left over has no partner.
 */
#include "registry/oci.h"

#include <string.h>

#include "util/clock.h"
#include "util/json.h"

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory while reading an image config");
}

static errint_t copy_str(const struct json *obj, const char *key, char **ret, struct err *e)
{
	const char *s = json_str(obj, key);

	if (!s)
		return 0;
	*ret = strdup(s);
	return *ret ? 0 : no_memory(e);
}

static errint_t parse_diff_id(const struct json *v, struct digest *ret, struct err *e)
{
	size_t len = 0;
	const char *s = json_text(v, &len);
	errint_t r = s ? digest_parse(s, len, ret) : -EINVAL;

	if (r == -EOPNOTSUPP) {
		*ret = (struct digest){ 0 };
		return 0;
	}
	if (r < 0)
		return err_set(e, EINVAL, ERR_INPUT, "diff id \"%.100s\" is not a digest",
			       s ? s : "");
	return 0;
}

static errint_t parse_diff_ids(const struct json *doc, struct oci_config *c, struct err *e)
{
	const struct json *list = json_get(json_get(doc, "rootfs"), "diff_ids");
	size_t n = json_is_array(list) ? json_len(list) : 0;

	if (n > OCI_LAYERS_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "%zu diff ids, more than %d", n,
			       OCI_LAYERS_MAX);
	c->diff_ids = calloc(n ? n : 1, sizeof(*c->diff_ids));
	if (!c->diff_ids)
		return no_memory(e);
	for (; c->n_diff_ids < n; c->n_diff_ids++) {
		errint_t r = parse_diff_id(json_at(list, c->n_diff_ids),
					   &c->diff_ids[c->n_diff_ids], e);

		if (r < 0)
			return r;
	}
	return 0;
}

/* next counts the layers that history has named so far. */
static errint_t parse_entry(const struct json *v, struct oci_history *h, size_t *next,
			    size_t n_layers, struct err *e)
{
	errint_t r;

	h->layer = -1;
	if (!json_bool(v, "empty_layer", false) && *next < n_layers)
		h->layer = (int)(*next)++;
	r = copy_str(v, "created", &h->created, e);
	if (r == 0)
		r = copy_str(v, "created_by", &h->created_by, e);
	if (r == 0)
		r = copy_str(v, "comment", &h->comment, e);
	if (r == 0)
		r = copy_str(v, "author", &h->author, e);
	return r;
}

static errint_t parse_history(const struct json *doc, struct oci_config *c, struct err *e)
{
	const struct json *list = json_get(doc, "history");
	size_t n = json_is_array(list) ? json_len(list) : 0, next = 0;

	if (n > OCI_HISTORY_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "%zu history entries, more than %d", n,
			       OCI_HISTORY_MAX);
	c->history = calloc(n ? n : 1, sizeof(*c->history));
	if (!c->history)
		return no_memory(e);
	for (size_t i = 0; i < n; i++) {
		errint_t r;

		c->n_history++;
		r = parse_entry(json_at(list, i), &c->history[i], &next, c->n_diff_ids, e);
		if (r < 0)
			return r;
	}
	return 0;
}

static int64_t created_seconds(const char *created)
{
	int64_t s = 0;
	uint32_t ns = 0;

	if (!created || !clock_parse_rfc3339(created, &s, &ns))
		return 0;
	return MAX_OF(s, (int64_t)0);
}

static errint_t parse_members(const struct json *doc, struct oci_config *c, struct err *e)
{
	errint_t r;

	if (!json_is_object(doc))
		return err_set(e, EINVAL, ERR_INPUT, "not a JSON object");
	r = copy_str(doc, "created", &c->created, e);
	if (r == 0)
		r = copy_str(doc, "os", &c->os, e);
	if (r == 0)
		r = copy_str(doc, "architecture", &c->arch, e);
	if (r == 0)
		r = copy_str(doc, "variant", &c->variant, e);
	if (r == 0)
		r = parse_diff_ids(doc, c, e);
	if (r == 0)
		r = parse_history(doc, c, e);
	c->created_s = created_seconds(c->created);
	return r;
}

errint_t oci_config_parse(const char *data, size_t len, struct oci_config **ret, struct err *e)
{
	_cleanup_(oci_config_freep) struct oci_config *c = NULL;
	_cleanup_(json_freep) struct json *doc = NULL;
	errint_t r;

	*ret = NULL;
	if (len > OCI_CONFIG_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "image config of %zu bytes, more than %u", len,
			       OCI_CONFIG_MAX);
	r = json_parse(data, len, &doc, e);
	if (r < 0)
		return err_wrap(e, r, "image config");
	c = calloc(1, sizeof(*c));
	if (!c)
		return no_memory(e);
	r = parse_members(doc, c, e);
	if (r < 0)
		return err_wrap(e, r, "image config");
	*ret = steal_ptr(&c);
	return 0;
}

static void history_free(struct oci_history *h, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(h[i].created);
		free(h[i].created_by);
		free(h[i].comment);
		free(h[i].author);
	}
	free(h);
}

struct oci_config *oci_config_free(struct oci_config *c)
{
	if (!c)
		return NULL;
	free(c->created);
	free(c->os);
	free(c->arch);
	free(c->variant);
	free(c->diff_ids);
	history_free(c->history, c->n_history);
	free(c);
	return NULL;
}
