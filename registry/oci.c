/*
 * oci.c - manifests and indexes, from bytes to structs
 *
 * One pass over a parsed document; what is kept is copied, so the document is freed before the
 * call returns.  Which of the two kinds a body is, is decided once (decide_type) from its own
 * mediaType, the registry's Content-Type and its members, and contradictions are refused: a body
 * that reads as an image here and as an index elsewhere would be a way to hide content.
 */
#include "registry/oci.h"

#include <string.h>
#include <strings.h>

#include "util/json.h"

struct known_type {
	const char *name;
	enum oci_kind kind;
};

static const struct known_type known_types[] = {
	{ OCI_TYPE_INDEX, OCI_INDEX },
	{ OCI_TYPE_DOCKER_LIST, OCI_INDEX },
	{ OCI_TYPE_MANIFEST, OCI_IMAGE },
	{ OCI_TYPE_DOCKER_MANIFEST, OCI_IMAGE },
};

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory while reading a manifest");
}

/* Parameters (";...") and case do not count. */
static const struct known_type *find_type(const char *name)
{
	size_t n = name ? strcspn(name, "; \t") : 0;

	for (size_t i = 0; i < ARRAY_SIZE(known_types); i++)
		if (strlen(known_types[i].name) == n &&
		    strncasecmp(known_types[i].name, name, n) == 0)
			return &known_types[i];
	return NULL;
}

/* Copies a string member; *ret stays NULL when it is absent. */
static errint_t copy_str(const struct json *obj, const char *key, char **ret, struct err *e)
{
	const char *s = json_str(obj, key);

	if (!s)
		return 0;
	*ret = strdup(s);
	return *ret ? 0 : no_memory(e);
}

/* --- annotations --- */

static void annotations_free(struct oci_annotation *a, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(a[i].key);
		free(a[i].value);
	}
	free(a);
}

static errint_t add_annotation(struct oci_annotation *a, size_t *n, const char *key,
			       const char *value, struct err *e)
{
	a[*n].key = strdup(key);
	a[*n].value = strdup(value);
	(*n)++;	/* also on failure: whoever frees finds what there is */
	return a[*n - 1].key && a[*n - 1].value ? 0 : no_memory(e);
}

static errint_t parse_annotations(const struct json *obj, struct oci_annotation **ret,
				  size_t *ret_n, struct err *e)
{
	const struct json *map = json_get(obj, "annotations"), *v;
	const char *key, *value;
	void *it = NULL;
	size_t n = json_is_object(map) ? json_len(map) : 0;

	if (n == 0)
		return 0;
	if (n > OCI_ANNOTATIONS_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "%zu annotations in one place, more than %d", n,
			       OCI_ANNOTATIONS_MAX);
	*ret = calloc(n, sizeof(**ret));
	if (!*ret)
		return no_memory(e);
	while ((v = json_next(map, &it, &key))) {
		errint_t r;

		value = json_text(v, NULL);
		r = value ? add_annotation(*ret, ret_n, key, value, e) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

const char *oci_annotation(const struct oci_annotation *a, size_t n, const char *key)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(a[i].key, key) == 0)
			return a[i].value;
	return NULL;
}

/* --- descriptors --- */

void oci_descriptor_done(struct oci_descriptor *d)
{
	free(d->media_type);
	free(d->artifact_type);
	free(d->os);
	free(d->arch);
	free(d->variant);
	free(d->os_version);
	annotations_free(d->annotations, d->n_annotations);
	free(d->data);
	*d = (struct oci_descriptor){ 0 };
}

static errint_t parse_platform(const struct json *obj, struct oci_descriptor *d, struct err *e)
{
	const struct json *p = json_get(obj, "platform");
	errint_t r;

	r = copy_str(p, "os", &d->os, e);
	if (r == 0)
		r = copy_str(p, "architecture", &d->arch, e);
	if (r == 0)
		r = copy_str(p, "variant", &d->variant, e);
	if (r == 0)
		r = copy_str(p, "os.version", &d->os_version, e);
	return r;
}

/* Data that is not base64 or not `size` long is worth nothing; the blob itself can be fetched. */
static errint_t parse_data(const struct json *obj, struct oci_descriptor *d, struct err *e)
{
	_cleanup_free_ char *out = NULL;
	size_t len = 0;
	const char *s = json_strn(obj, "data", &len);
	long n;

	if (!s)
		return 0;
	out = malloc(len / 4 * 3 + 4);
	if (!out)
		return no_memory(e);
	n = base64_decode(s, len, out);
	if (n < 0 || (uint64_t)n != d->size)
		return 0;
	d->data_len = (size_t)n;
	d->data = steal_ptr(&out);
	return 0;
}

static errint_t parse_digest(const struct json *obj, struct digest *ret, struct err *e)
{
	size_t len = 0;
	const char *s = json_strn(obj, "digest", &len);
	errint_t r;

	if (!s)
		return err_set(e, EINVAL, ERR_INPUT, "a descriptor has no digest");
	r = digest_parse(s, len, ret);
	if (r == -EOPNOTSUPP)
		return err_set(e, EOPNOTSUPP, ERR_UNSUPPORTED,
			       "digest %.100s: only sha256 and sha512 can be verified here", s);
	if (r < 0)
		return err_set(e, EINVAL, ERR_INPUT, "\"%.100s\" is not a digest", s);
	return 0;
}

/* Fills *d, which the caller frees also on failure. */
static errint_t parse_descriptor(const struct json *obj, struct oci_descriptor *d, struct err *e)
{
	int64_t size = json_int(obj, "size", -1);
	errint_t r;

	if (!json_is_object(obj))
		return err_set(e, EINVAL, ERR_INPUT, "a descriptor is not a JSON object");
	r = parse_digest(obj, &d->digest, e);
	if (r < 0)
		return r;
	if (size < 0)
		return err_set(e, EINVAL, ERR_INPUT, "a descriptor has no size, or a negative one");
	d->size = (uint64_t)size;
	r = copy_str(obj, "mediaType", &d->media_type, e);
	if (r == 0 && !d->media_type) {
		d->media_type = strdup("");
		r = d->media_type ? 0 : no_memory(e);
	}
	if (r == 0)
		r = copy_str(obj, "artifactType", &d->artifact_type, e);
	if (r == 0)
		r = parse_platform(obj, d, e);
	if (r == 0)
		r = parse_annotations(obj, &d->annotations, &d->n_annotations, e);
	if (r == 0)
		r = parse_data(obj, d, e);
	return r;
}

/* A list of descriptors.  skip_unverifiable: leave out what has an unknown digest algorithm. */
static errint_t parse_list(const struct json *list, size_t max, bool skip_unverifiable,
			   struct oci_descriptor **ret, size_t *ret_n, struct err *e)
{
	size_t n = json_len(list);

	if (n > max)
		return err_set(e, EFBIG, ERR_LIMIT, "%zu entries in one manifest, more than %zu", n,
			       max);
	*ret = calloc(n ? n : 1, sizeof(**ret));
	if (!*ret)
		return no_memory(e);
	for (size_t i = 0; i < n; i++) {
		struct oci_descriptor *d = &(*ret)[*ret_n];
		errint_t r = parse_descriptor(json_at(list, i), d, e);

		if (r == -EOPNOTSUPP && skip_unverifiable) {
			oci_descriptor_done(d);
			continue;
		}
		(*ret_n)++;	/* also on failure, for the free */
		if (r < 0)
			return err_wrap(e, r, "entry %zu", i);
	}
	return 0;
}

/* --- kinds --- */

/* A list member; null counts as empty, another type is refused. */
static errint_t get_list(const struct json *doc, const char *key, const struct json **ret,
			 struct err *e)
{
	*ret = json_get(doc, key);
	if (*ret && !json_is_array(*ret))
		return err_set(e, EINVAL, ERR_INPUT, "\"%s\" is not a list", key);
	return 0;
}

static errint_t parse_image(const struct json *doc, struct oci_manifest *m, struct err *e)
{
	const struct json *config = json_get(doc, "config"), *layers;
	errint_t r;

	r = get_list(doc, "layers", &layers, e);
	if (r < 0)
		return r;
	if (config)
		r = parse_descriptor(config, &m->config, e);
	else if (!(m->config.media_type = strdup("")))
		r = no_memory(e);
	if (r < 0)
		return err_wrap(e, r, "config");
	r = parse_list(layers, OCI_LAYERS_MAX, false, &m->layers, &m->n_layers, e);
	return r < 0 ? err_wrap(e, r, "layers") : 0;
}

static errint_t parse_index(const struct json *doc, struct oci_manifest *m, struct err *e)
{
	const struct json *list;
	errint_t r;

	r = get_list(doc, "manifests", &list, e);
	if (r < 0)
		return r;
	r = parse_list(list, OCI_CHILDREN_MAX, true, &m->children, &m->n_children, e);
	return r < 0 ? err_wrap(e, r, "manifests") : 0;
}

static errint_t parse_subject(const struct json *doc, struct oci_manifest *m, struct err *e)
{
	const struct json *s = json_get(doc, "subject");
	errint_t r;

	if (!s)
		return 0;
	r = parse_descriptor(s, &m->subject, e);
	if (r < 0)
		return err_wrap(e, r, "subject");
	m->has_subject = true;
	return 0;
}

static bool has_member(const struct json *doc, const char *key)
{
	return json_get(doc, key) != NULL;
}

/* The kind that the members say: UNSET = they do not say. */
static errint_t kind_of_members(const struct json *doc, enum oci_kind *ret, struct err *e)
{
	bool index = has_member(doc, "manifests");
	bool image = has_member(doc, "config") || has_member(doc, "layers");

	if (index && image)
		return err_set(
			e, EINVAL, ERR_INPUT,
			"ambiguous: it lists manifests like an index and layers like an image");
	*ret = index ? OCI_INDEX : image ? OCI_IMAGE : OCI_UNSET;
	return 0;
}

static errint_t no_kind(const struct json *doc, const char *name, struct err *e)
{
	if (json_int(doc, "schemaVersion", 2) == 1)
		return err_set(
			e, EOPNOTSUPP, ERR_UNSUPPORTED,
			"a Docker schema 1 manifest; push the image again with a current client");
	return err_set(e, EOPNOTSUPP, ERR_UNSUPPORTED,
		       "neither an image nor an index (media type \"%.100s\")", name);
}

/* Decides kind and media type of the body; see the top of this file. */
static errint_t decide_type(const struct json *doc, const char *content_type,
			    struct oci_manifest *m, struct err *e)
{
	const char *own = json_str(doc, "mediaType");
	const struct known_type *a = find_type(own), *b = find_type(content_type);
	enum oci_kind members = OCI_UNSET;
	errint_t r;

	if (a && b && a != b)
		return err_set(e, EINVAL, ERR_INPUT,
			       "the registry calls it %s, but it calls itself %s", b->name,
			       a->name);
	r = kind_of_members(doc, &members, e);
	if (r < 0)
		return r;
	if (!a)
		a = b;
	if (a && members != OCI_UNSET && members != a->kind)
		return err_set(e, EINVAL, ERR_INPUT, "it is called %s, but has the members of %s",
			       a->name, members == OCI_INDEX ? "an index" : "an image");
	m->kind = a ? a->kind : members;
	if (m->kind == OCI_UNSET || json_int(doc, "schemaVersion", 2) != 2)
		return no_kind(doc, own ? own : content_type ? content_type : "", e);
	if (a)
		own = a->name;
	else if (!own)
		own = m->kind == OCI_INDEX ? OCI_TYPE_INDEX : OCI_TYPE_MANIFEST;
	m->media_type = strdup(own);
	return m->media_type ? 0 : no_memory(e);
}

static errint_t parse_members(const struct json *doc, const char *content_type,
			      struct oci_manifest *m, struct err *e)
{
	errint_t r;

	if (!json_is_object(doc))
		return err_set(e, EINVAL, ERR_INPUT, "not a JSON object");
	r = decide_type(doc, content_type, m, e);
	if (r < 0)
		return r;
	r = m->kind == OCI_INDEX ? parse_index(doc, m, e) : parse_image(doc, m, e);
	if (r == 0)
		r = parse_subject(doc, m, e);
	if (r == 0)
		r = copy_str(doc, "artifactType", &m->artifact_type, e);
	if (r == 0)
		r = parse_annotations(doc, &m->annotations, &m->n_annotations, e);
	return r;
}

errint_t oci_manifest_parse(const char *data, size_t len, const char *content_type,
			    struct oci_manifest **ret, struct err *e)
{
	_cleanup_(oci_manifest_freep) struct oci_manifest *m = NULL;
	_cleanup_(json_freep) struct json *doc = NULL;
	errint_t r;

	*ret = NULL;
	if (len > OCI_MANIFEST_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "manifest of %zu bytes, more than %u", len,
			       OCI_MANIFEST_MAX);
	r = json_parse(data, len, &doc, e);
	if (r < 0)
		return err_wrap(e, r, "manifest");
	m = calloc(1, sizeof(*m));
	if (!m)
		return no_memory(e);
	r = parse_members(doc, content_type, m, e);
	if (r < 0)
		return err_wrap(e, r, "manifest");
	*ret = steal_ptr(&m);
	return 0;
}

static void descriptors_free(struct oci_descriptor *d, size_t n)
{
	for (size_t i = 0; i < n; i++)
		oci_descriptor_done(&d[i]);
	free(d);
}

struct oci_manifest *oci_manifest_free(struct oci_manifest *m)
{
	if (!m)
		return NULL;
	free(m->media_type);
	free(m->artifact_type);
	oci_descriptor_done(&m->config);
	oci_descriptor_done(&m->subject);
	descriptors_free(m->layers, m->n_layers);
	descriptors_free(m->children, m->n_children);
	annotations_free(m->annotations, m->n_annotations);
	free(m);
	return NULL;
}
