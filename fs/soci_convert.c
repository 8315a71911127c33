/*
 * soci_convert.c - an image that names its SOCI index, as version 2 has it
 *
 * Manifests are changed as text: the annotation is set, Docker's types of manifest and config become
 * OCI's (some registries refuse an OCI index over Docker manifests), all else stays as it was.  The
 * layers are the same blobs.
 */
#include "fs/soci.h"

#include <string.h>

#include "registry/oci_write.h"
#include "util/json.h"

#define TEXT_MAX RG_MANIFEST_PUSH_MAX

static errint_t text_error(errint_t r, struct err *e)
{
	if (r == -EINVAL)
		return err_set(e, EINVAL, ERR_INPUT, "the image's manifest is not built as one should be");
	if (r == -EFBIG)
		return err_set(e, EFBIG, ERR_LIMIT, "the manifest would have more than %u bytes", TEXT_MAX);
	return r < 0 ? err_set(e, ENOMEM, ERR_LOCAL, "out of memory") : 0;
}

/* Replaces the text in b. */
static errint_t set(struct buf *b, const char *const *path, const char *value, struct err *e)
{
	_cleanup_buf_ struct buf out = BUF_INIT(TEXT_MAX);
	errint_t r = oci_set(buf_str(b), b->len, path, value, &out);

	if (r < 0)
		return text_error(r, e);
	buf_done(b);
	*b = out;
	out = (struct buf)BUF_INIT(TEXT_MAX);
	return 0;
}

static const char *const type_path[] = { "mediaType", NULL };

static errint_t rewrite(const struct soci_image *x, struct buf *b, struct err *e)
{
	static const char *const config_path[] = { "config", "mediaType", NULL },
		*const note_path[] = { "annotations", OCI_SOCI_INDEX, NULL };
	char text[DIGEST_TEXT_MAX];
	errint_t r = text_error(buf_add(b, buf_str(&x->bytes.bytes), x->bytes.bytes.len), e);

	if (r == 0)
		r = set(b, note_path, digest_text(&x->index.digest, text), e);
	if (r == 0 && strcmp(x->m->config.media_type, OCI_TYPE_DOCKER_CONFIG) == 0)
		r = set(b, config_path, OCI_TYPE_CONFIG, e);
	return r < 0 ? r : set(b, type_path, OCI_TYPE_MANIFEST, e);
}

static errint_t put_image(struct soci_job *j, const struct soci_image *x, struct digest *ret,
			  uint64_t *ret_size, struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(TEXT_MAX);
	struct rg_put p = { .media_type = OCI_TYPE_MANIFEST, .child = true };
	errint_t r = rewrite(x, &b, e);

	if (r < 0)
		return r;
	p.bytes = b.data;
	p.len = *ret_size = b.len;
	return rg_put_manifest(j->reg, j->repo, &p, ret, NULL, e);
}

/* The image and its index as two more elements of the list. */
static errint_t add_pair(struct soci_job *j, const struct soci_image *x, struct buf *list, struct err *e)
{
	static char image_key[] = OCI_SOCI_IMAGE, index_key[] = OCI_SOCI_INDEX;
	static char manifest_type[] = OCI_TYPE_MANIFEST, index_type[] = OCI_TYPE_SOCI_V2;
	char image_text[DIGEST_TEXT_MAX], index_text[DIGEST_TEXT_MAX];
	struct oci_annotation to_index = { index_key, index_text }, to_image = { image_key, image_text };
	struct oci_descriptor d = x->at, s = x->at;
	errint_t r = put_image(j, x, &d.digest, &d.size, e);

	if (r < 0)
		return r;
	digest_text(&d.digest, image_text);
	digest_text(&x->index.digest, index_text);
	d.media_type = manifest_type;
	d.annotations = &to_index;
	d.n_annotations = 1;
	index_add(list, &d, list->len == 0);
	s.digest = x->index.digest;
	s.size = x->index.size;
	s.media_type = manifest_type;
	s.artifact_type = index_type;
	s.annotations = &to_image;
	s.n_annotations = 1;
	index_add(list, &s, false);
	return text_error(buf_check(list), e);
}

struct replaced {
	const struct oci_manifest *m;
	const struct soci_image *images;
	size_t n;
};

static bool same(const char *a, const char *b)
{
	return strcmp(a ? a : "", b ? b : "") == 0;
}

/* An image that is converted, or the SOCI index of its platform from an earlier time? */
static bool is_replaced(const struct replaced *r, const struct oci_descriptor *d)
{
	for (size_t i = 0; i < r->n; i++) {
		const struct oci_descriptor *x = &r->images[i].at;

		if (digest_eq(&d->digest, &x->digest))
			return true;
		if (same(d->artifact_type, OCI_TYPE_SOCI_V2) && same(d->os, x->os) && same(d->arch, x->arch) &&
		    same(d->variant, x->variant))
			return true;
	}
	return false;
}

static bool keep(void *ctx, size_t i)
{
	const struct replaced *r = ctx;

	return i >= r->m->n_children || !is_replaced(r, &r->m->children[i]);
}

/* Children are left out of m when nobody here can verify them; then numbers do not match. */
static errint_t check_children(const struct rg_manifest *top, const struct oci_manifest *m, struct err *e)
{
	_cleanup_(json_freep) struct json *doc = NULL;
	errint_t r = json_parse(buf_str(&top->bytes), top->bytes.len, &doc, e);

	if (r < 0 || json_len(json_get(doc, "manifests")) == m->n_children)
		return r;
	return err_set(e, EOPNOTSUPP, ERR_UNSUPPORTED, "the image's index has entries that cannot be verified here");
}

static errint_t compose(const struct rg_manifest *top, const struct oci_manifest *m, struct replaced *what,
			const struct buf *list, struct buf *out, struct err *e)
{
	errint_t r;

	if (m->kind != OCI_INDEX) {
		index_begin(out);
		(void)buf_adds(out, buf_str(list));
		index_end(out);
		return text_error(buf_check(out), e);
	}
	r = check_children(top, m, e);
	if (r < 0)
		return r;
	r = index_edit(buf_str(&top->bytes), top->bytes.len, keep, what, buf_str(list), out);
	return r < 0 ? text_error(r, e) : set(out, type_path, OCI_TYPE_INDEX, e);
}

errint_t soci_convert(struct soci_job *j, const struct rg_manifest *top, const struct oci_manifest *m,
		      const struct soci_image *images, size_t n, const char *tag, struct digest *ret,
		      struct err *e)
{
	_cleanup_buf_ struct buf list = BUF_INIT(TEXT_MAX), out = BUF_INIT(TEXT_MAX);
	struct replaced what = { m, images, n };
	struct rg_put p = { .reference = tag, .media_type = OCI_TYPE_INDEX };
	errint_t r = 0;

	for (size_t i = 0; r == 0 && i < n; i++)
		r = add_pair(j, &images[i], &list, e);
	if (r == 0)
		r = compose(top, m, &what, &list, &out, e);
	if (r < 0)
		return r;
	p.bytes = out.data;
	p.len = out.len;
	return rg_put_manifest(j->reg, j->repo, &p, ret, NULL, e);
}
