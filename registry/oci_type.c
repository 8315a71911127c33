/*
 * oci_type.c - what media types and platforms mean
 *
 * Pure questions about parsed descriptors; no input is refused here.  Media types are compared
 * without regard to case and parameters.
 */
#include "registry/oci.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

struct layer_ending {
	const char *ending;
	const char *suffix;
};

static const struct layer_ending layer_endings[] = {
	{ "tar+gzip", "tar.gz" },
	{ "tar.gzip", "tar.gz" },
	{ "tar+zstd", "tar.zst" },
	{ "tar", "tar" },
};

static bool is_word_char(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Ends the media type with this word ("avatar" does not end with the word "tar")? */
static bool ends_with_word(const char *type, size_t len, const char *word)
{
	size_t n = strlen(word);

	if (len < n || strncasecmp(type + len - n, word, n) != 0)
		return false;
	return len == n || !is_word_char(type[len - n - 1]);
}

static const struct layer_ending *find_ending(const char *media_type)
{
	size_t len = media_type ? strcspn(media_type, "; \t") : 0;

	for (size_t i = 0; i < ARRAY_SIZE(layer_endings); i++)
		if (ends_with_word(media_type, len, layer_endings[i].ending))
			return &layer_endings[i];
	return NULL;
}

bool oci_is_tree_layer(const char *media_type)
{
	return media_type && find_ending(media_type) != NULL;
}

const char *oci_layer_suffix(const char *media_type)
{
	const struct layer_ending *l = media_type ? find_ending(media_type) : NULL;

	return l ? l->suffix : "blob";
}

const char *oci_artifact_type(const struct oci_manifest *m)
{
	if (m->artifact_type)
		return m->artifact_type;
	return m->config.media_type ? m->config.media_type : "";
}

static bool is_image_config(const char *media_type)
{
	return media_type && (strcmp(media_type, OCI_TYPE_CONFIG) == 0 ||
			      strcmp(media_type, OCI_TYPE_DOCKER_CONFIG) == 0);
}

bool oci_is_container_image(const struct oci_manifest *m)
{
	if (m->kind != OCI_IMAGE)
		return false;
	for (size_t i = 0; i < m->n_layers; i++)
		if (!oci_is_tree_layer(m->layers[i].media_type))
			return false;
	return m->n_layers > 0 || is_image_config(m->config.media_type);
}

static char safe_char(char c)
{
	return is_word_char(c) || c == '.' || c == '_' || c == '-' || c == '+' ? c : '_';
}

/* Appends "-part" (or "part" at the start) with safe characters; n is the length so far. */
static size_t add_part(char *out, size_t out_len, size_t n, const char *part)
{
	if (n > 0 && n < out_len)
		out[n++] = '-';
	for (; *part && n < out_len; part++, n++)
		out[n] = safe_char(*part);
	return n;
}

static const char *or_unknown(const char *s)
{
	return s && *s ? s : "unknown";
}

static bool names_variant(const struct oci_descriptor *d)
{
	if (!d->variant || !*d->variant)
		return false;
	return !(d->arch && strcmp(d->arch, "arm64") == 0 && strcmp(d->variant, "v8") == 0);
}

errint_t oci_platform_name(const struct oci_descriptor *d, char *out, size_t out_len)
{
	size_t n;

	n = add_part(out, out_len, 0, or_unknown(d->os));
	n = add_part(out, out_len, n, or_unknown(d->arch));
	if (names_variant(d))
		n = add_part(out, out_len, n, d->variant);
	if (d->os_version && *d->os_version)
		n = add_part(out, out_len, n, d->os_version);
	if (n >= out_len)
		return -ENAMETOOLONG;
	out[n] = '\0';
	if (out[0] == '.')	/* names with a dot in front are ours */
		out[0] = '_';
	return 0;
}

static bool is_unknown(const char *s)
{
	return !s || strcmp(s, "unknown") == 0;
}

bool oci_is_attestation(const struct oci_descriptor *d)
{
	return is_unknown(d->os) && is_unknown(d->arch) &&
	       oci_annotation(d->annotations, d->n_annotations, "vnd.docker.reference.type");
}
