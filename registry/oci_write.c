/*
 * oci_write.c - the JSON of an OCI index, member by member
 *
 * All strings go through buf_add_json, so the result is valid JSON whatever the input was.
 */
#include "registry/oci_write.h"

#include <inttypes.h>
#include <string.h>

static void add_member(struct buf *b, const char *key, const char *value, bool first)
{
	if (!first)
		(void)buf_addc(b, ',');
	(void)buf_add_json(b, key, strlen(key));
	(void)buf_addc(b, ':');
	(void)buf_add_json(b, value, strlen(value));
}

static void add_platform(struct buf *b, const struct oci_descriptor *d)
{
	if (!d->os && !d->arch)
		return;
	(void)buf_adds(b, ",\"platform\":{");
	add_member(b, "architecture", d->arch ? d->arch : "", true);
	add_member(b, "os", d->os ? d->os : "", false);
	if (d->variant)
		add_member(b, "variant", d->variant, false);
	if (d->os_version)
		add_member(b, "os.version", d->os_version, false);
	(void)buf_addc(b, '}');
}

static void add_annotations(struct buf *b, const struct oci_descriptor *d)
{
	if (d->n_annotations == 0)
		return;
	(void)buf_adds(b, ",\"annotations\":{");
	for (size_t i = 0; i < d->n_annotations; i++)
		add_member(b, d->annotations[i].key, d->annotations[i].value, i == 0);
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
	add_member(b, "mediaType", d->media_type ? d->media_type : "", true);
	add_member(b, "digest", digest_text(&d->digest, text), false);
	(void)buf_addf(b, ",\"size\":%" PRIu64, d->size);
	if (d->artifact_type)
		add_member(b, "artifactType", d->artifact_type, false);
	add_platform(b, d);
	add_annotations(b, d);
	(void)buf_addc(b, '}');
}

void index_end(struct buf *b)
{
	(void)buf_adds(b, "]}");
}
