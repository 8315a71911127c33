/*
 * fuzz_manifest.c - manifests and indexes; what was parsed is written again and must parse again
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "registry/oci_write.h"
#include "util/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(bool ok)
{
	if (!ok)
		abort();
}

static void check_descriptor(const struct oci_descriptor *d)
{
	char name[256];

	expect(d->media_type != NULL && (!d->data || d->data_len == d->size));
	(void)oci_is_tree_layer(d->media_type);
	(void)oci_is_attestation(d);
	if (oci_platform_name(d, name, sizeof(name)) == 0)
		expect(name[0] && name[0] != '.' && !strchr(name, '/') &&
		       strlen(name) < sizeof(name));
}

static void check_again(const struct oci_manifest *m)
{
	_cleanup_(oci_manifest_freep) struct oci_manifest *again = NULL;
	_cleanup_buf_ struct buf b = BUF_INIT(OCI_MANIFEST_MAX);

	index_begin(&b);
	for (size_t i = 0; i < m->n_children; i++)
		index_add(&b, &m->children[i], i == 0);
	index_end(&b);
	if (buf_check(&b) == 0) {
		expect(oci_manifest_parse(b.data, b.len, OCI_TYPE_INDEX, &again, NULL) == 0);
		expect(again->n_children == m->n_children);
	}
}

static bool keep_some(void *ctx, size_t i)
{
	(void)ctx;
	return i % 3 != 1;
}

/* What others wrote, edited: still JSON, with the same list but for what was taken out and added. */
static void check_edit(const char *data, size_t size)
{
	_cleanup_buf_ struct buf b = BUF_INIT(OCI_MANIFEST_MAX);
	_cleanup_(json_freep) struct json *doc = NULL, *after = NULL;
	size_t n;

	if (json_parse(data, size, &doc, NULL) < 0 ||
	    index_edit(data, size, keep_some, NULL, "{\"added\":[]}", &b) < 0)
		return;
	expect(json_parse(b.data, b.len, &after, NULL) == 0);
	n = json_len(json_get(doc, "manifests"));
	expect(json_len(json_get(after, "manifests")) == n - (n + 1) / 3 + 1);
	expect(json_len(after) == json_len(doc));
}

static void check_set(const char *data, size_t size)
{
	static const char *const path[] = { "annotations", "a", NULL };
	_cleanup_buf_ struct buf b = BUF_INIT(OCI_MANIFEST_MAX);
	_cleanup_(json_freep) struct json *doc = NULL, *after = NULL;

	if (json_parse(data, size, &doc, NULL) < 0 || oci_set(data, size, path, "v", &b) < 0)
		return;
	expect(json_parse(b.data, b.len, &after, NULL) == 0);
	expect(strcmp(json_str(json_get(after, "annotations"), "a"), "v") == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const types[] = { NULL, OCI_TYPE_INDEX, OCI_TYPE_DOCKER_MANIFEST };

	for (size_t t = 0; t < ARRAY_SIZE(types); t++) {
		_cleanup_(oci_manifest_freep) struct oci_manifest *m = NULL;
		struct err e = { 0 };

		if (oci_manifest_parse((const char *)data, size, types[t], &m, &e) < 0) {
			expect(!m && e.eno > 0 && e.msg[0]);
			continue;
		}
		expect(m->kind != OCI_UNSET && m->media_type && oci_artifact_type(m));
		for (size_t i = 0; i < m->n_layers; i++)
			check_descriptor(&m->layers[i]);
		for (size_t i = 0; i < m->n_children; i++)
			check_descriptor(&m->children[i]);
		(void)oci_is_container_image(m);
		check_again(m);
	}
	check_edit((const char *)data, size);
	check_set((const char *)data, size);
	return 0;
}
