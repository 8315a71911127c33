/*
 * oci_write.c - the JSON of an OCI index, member by member, and changes in one that exists
 *
 * All strings go through buf_add_json, so the result is valid JSON whatever the input was.
 */
#include "registry/oci_write.h"

#include <inttypes.h>
#include <string.h>

static void add_platform(struct buf *b, const struct oci_descriptor *d)
{
	if (!d->os && !d->arch)
		return;
	(void)buf_adds(b, ",\"platform\":{");
	buf_add_member(b, "architecture", d->arch ? d->arch : "", true);
	buf_add_member(b, "os", d->os ? d->os : "", false);
	if (d->variant)
		buf_add_member(b, "variant", d->variant, false);
	if (d->os_version)
		buf_add_member(b, "os.version", d->os_version, false);
	(void)buf_addc(b, '}');
}

static void add_annotations(struct buf *b, const struct oci_descriptor *d)
{
	if (d->n_annotations == 0)
		return;
	(void)buf_adds(b, ",\"annotations\":{");
	for (size_t i = 0; i < d->n_annotations; i++)
		buf_add_member(b, d->annotations[i].key, d->annotations[i].value, i == 0);
	(void)buf_addc(b, '}');
}

void index_begin(struct buf *b)
{
	(void)buf_adds(b,
		       "{\"schemaVersion\":2,\"mediaType\":\"" OCI_TYPE_INDEX "\",\"manifests\":[");
}

void index_add(struct buf *b, const struct oci_descriptor *d, bool first)
{
	char text[DIGEST_TEXT_MAX];

	(void)buf_adds(b, first ? "{" : ",{");
	buf_add_member(b, "mediaType", d->media_type ? d->media_type : "", true);
	buf_add_member(b, "digest", digest_text(&d->digest, text), false);
	(void)buf_addf(b, ",\"size\":%" PRIu64, d->size);
	if (d->artifact_type)
		buf_add_member(b, "artifactType", d->artifact_type, false);
	add_platform(b, d);
	add_annotations(b, d);
	(void)buf_addc(b, '}');
}

void index_end(struct buf *b)
{
	(void)buf_adds(b, "]}");
}

struct oci_descriptor index_referrer(const struct oci_manifest *m, const struct digest *d, uint64_t size)
{
	struct oci_descriptor out = {
		.digest = *d,
		.size = size,
		.media_type = m->media_type,
		.artifact_type = (char *)(uintptr_t)oci_artifact_type(m),
		.annotations = m->annotations,
		.n_annotations = m->n_annotations,
	};

	if (out.artifact_type && !*out.artifact_type)
		out.artifact_type = NULL;
	return out;
}

/* --- editing --- */

static const char *skip_blanks(const char *p, const char *end)
{
	while (p < end && strchr(" \t\r\n", *p))
		p++;
	return p;
}

static const char *skip_string(const char *p, const char *end)
{
	for (p++; p < end && *p != '"'; p++)
		if (*p == '\\')
			p++;
	return MIN_OF(p + 1, end);
}

/* Of valid JSON: behind the value at p. */
static const char *skip_value(const char *p, const char *end)
{
	unsigned depth = 0;

	do {
		if (*p == '"') {
			p = skip_string(p, end);
			continue;
		}
		if (*p == '{' || *p == '[')
			depth++;
		else if (*p == '}' || *p == ']')
			depth--;
		p++;
	} while (p < end && (depth > 0 || !strchr(",]} \t\r\n", *p)));
	return p;
}

/* Behind the '[' of the top-level member `manifests`; NULL: there is none. */
static const char *find_manifests(const char *p, const char *end)
{
	static const char key[] = "\"manifests\"";

	p = skip_blanks(p, end);
	if (p == end || *p != '{')
		return NULL;
	for (p = skip_blanks(p + 1, end); p < end && *p == '"'; p = skip_blanks(p, end)) {
		const char *name = p;
		size_t n;

		p = skip_string(p, end);
		n = (size_t)(p - name);
		p = skip_blanks(skip_blanks(p, end) + 1, end);
		if (p >= end)
			return NULL;
		if (n == sizeof(key) - 1 && memcmp(name, key, n) == 0)
			return *p == '[' ? p + 1 : NULL;
		p = skip_blanks(skip_value(p, end), end);
		if (p < end && *p == ',')
			p++;
	}
	return NULL;
}

errint_t index_edit(const char *json, size_t len, index_keep_fn keep, void *ctx, const char *add,
		    struct buf *out)
{
	const char *end = json + len, *p = find_manifests(json, end);
	bool first = true;

	if (!p)
		return -EINVAL;
	(void)buf_add(out, json, (size_t)(p - json));
	p = skip_blanks(p, end);
	for (size_t i = 0; p < end && *p != ']'; i++) {
		const char *to = skip_value(p, end);

		if (!keep || keep(ctx, i)) {
			(void)buf_adds(out, first ? "" : ",");
			(void)buf_add(out, p, (size_t)(to - p));
			first = false;
		}
		p = skip_blanks(to, end);
		if (p < end && *p == ',')
			p = skip_blanks(p + 1, end);
	}
	(void)buf_addf(out, "%s%s", first || !*add ? "" : ",", add);
	(void)buf_add(out, p, (size_t)(end - p));
	return buf_check(out);
}

/* --- setting members --- */

struct member {
	const char *value, *end;	/* NULL: the object has no such member */
	const char *inside;		/* behind its '{' */
	bool empty;
};

/* p: at the '{' of an object in valid JSON. */
static struct member find_member(const char *p, const char *end, const char *key)
{
	struct member m = { .inside = p + 1 };
	size_t len = strlen(key);

	p = skip_blanks(p + 1, end);
	m.empty = p >= end || *p == '}';
	while (p < end && *p == '"') {
		const char *name = p + 1;
		size_t n;

		p = skip_string(p, end);
		n = (size_t)(p - name) - 1;
		p = skip_blanks(skip_blanks(p, end) + 1, end);
		if (p >= end)
			break;
		m.value = p;
		m.end = p = skip_value(p, end);
		if (n == len && memcmp(name, key, n) == 0)
			return m;
		p = skip_blanks(p, end);
		if (p < end && *p == ',')
			p = skip_blanks(p + 1, end);
	}
	m.value = m.end = NULL;
	return m;
}

static void add_new_member(struct buf *out, const char *const *path, const char *value, bool empty)
{
	(void)buf_add_json(out, path[0], strlen(path[0]));
	(void)buf_addc(out, ':');
	if (path[1]) {
		(void)buf_addc(out, '{');
		add_new_member(out, path + 1, value, true);
		(void)buf_addc(out, '}');
	} else {
		(void)buf_add_json(out, value, strlen(value));
	}
	(void)buf_adds(out, empty ? "" : ",");
}

errint_t oci_set(const char *json, size_t len, const char *const *path, const char *value, struct buf *out)
{
	const char *end = json + len, *at = skip_blanks(json, end), *from = json;
	struct member m;

	for (;; path++) {
		if (at >= end || *at != '{')
			return -EINVAL;
		m = find_member(at, end, path[0]);
		if (!m.value || !path[1])
			break;
		at = m.value;
	}
	if (m.value) {
		(void)buf_add(out, from, (size_t)(m.value - from));
		(void)buf_add_json(out, value, strlen(value));
		from = m.end;
	} else {
		(void)buf_add(out, from, (size_t)(m.inside - from));
		add_new_member(out, path, value, m.empty);
		from = m.inside;
	}
	(void)buf_add(out, from, (size_t)(end - from));
	return buf_check(out);
}
