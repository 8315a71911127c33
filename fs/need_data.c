/*
 * need_data.c - blobs, configs, layers and merged trees a handler asks for (see need.h)
 *
 * The cache does the work; what is here says which fills run under which key, so that everyone who
 * waits for the same layer waits for one stream.  Keys carry the repository: another repository's
 * permissions are not ours.
 */
#include "fs/need.h"

#include "fs/need_priv.h"
#include "util/clock.h"
#include "util/stats.h"

/* ---- blobs ---- */

static errint_t fill_blob(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct ask *a = arg;
	struct wire_source ws = { a->site->reg, a->repo };
	struct ca_source src = wire_source(&ws);

	return ca_blob_fill(fs->cache, &a->digest, a->size, &src, c, e);
}

static struct ask *ask_blob(struct image *img, const struct oci_descriptor *d)
{
	struct ask *a = ask_new(img->site, img->repo, NULL, &d->digest);

	if (a)
		a->size = d->size;
	return a;
}

static errint_t fact_of(const char *what, const struct image *img, const struct digest *d, struct buf *out)
{
	char text[DIGEST_TEXT_MAX];

	return buf_addf(out, "%s %s@%s", what, img->repo, digest_text(d, text));
}

static void blob_unref(void *p)
{
	(void)ca_blob_unref(p);
}

errint_t need_blob(struct op *op, struct image *img, const struct oci_descriptor *d, struct ca_blob **ret)
{
	_cleanup_buf_ struct buf fact = BUF_INIT(1024);
	errint_t r = ca_blob_get(op->fs->cache, &d->digest, d->size, ret, &op->err);

	if (r == 0)
		return op_pin(op, ca_blob_ref(*ret), blob_unref);
	if (r != -ENOENT)
		return r;
	err_clear(&op->err);
	fact_of("blob", img, &d->digest, &fact);
	return ask_want(op, img->site, buf_str(&fact), fill_blob, ask_blob(img, d));
}

/* A descriptor may carry its content; it is checked like any other bytes. */
static bool inline_data(const struct oci_descriptor *d)
{
	struct digest got;

	if (!d->data || d->data_len != d->size)
		return false;
	digest_of((enum digest_alg)d->digest.alg, d->data, d->data_len, &got);
	return digest_eq(&got, &d->digest);
}

errint_t need_blob_data(struct op *op, struct image *img, const struct oci_descriptor *d, uint64_t off,
			size_t len, struct buf *ret)
{
	_cleanup_(ca_blob_unrefp) struct ca_blob *b = NULL;
	size_t n = 0;
	errint_t r;

	if (off > d->size || len > d->size - off)
		return -EINVAL;
	if (inline_data(d))
		return buf_add(ret, d->data + off, len);
	r = need_blob(op, img, d, &b);
	if (r == 0)
		r = buf_reserve(ret, len);
	if (r < 0)
		return r;
	r = ca_blob_read(b, off, ret->data + ret->len, len, &n, &op->err);
	if (r == -EBADMSG) {	/* damaged on disk and dropped: fetch it again */
		_cleanup_buf_ struct buf fact = BUF_INIT(1024);

		err_clear(&op->err);
		fact_of("blob", img, &d->digest, &fact);
		return ask_want(op, img->site, buf_str(&fact), fill_blob, ask_blob(img, d));
	}
	if (r < 0)
		return r;
	ret->len += n;
	ret->data[ret->len] = '\0';
	return 0;
}

errint_t need_bytes(struct op *op, struct image *img, const struct oci_descriptor *d, size_t max, struct buf *ret)
{
	if (d->size > max)
		return err_set(&op->err, EFBIG, ERR_LIMIT, "a blob of %llu bytes is too large for its purpose (limit %zu)",
			       (unsigned long long)d->size, max);
	return need_blob_data(op, img, d, 0, d->size, ret);
}

errint_t need_config(struct op *op, struct image *img, struct oci_config **ret)
{
	_cleanup_buf_ struct buf b = BUF_INIT(OCI_CONFIG_MAX);
	errint_t r;

	if (img->m->kind != OCI_IMAGE || !img->m->config.digest.len)
		return -ENOENT;
	r = need_bytes(op, img, &img->m->config, OCI_CONFIG_MAX, &b);
	return r < 0 ? r : oci_config_parse(buf_str(&b), b.len, ret, &op->err);
}

/* ---- layers ---- */

static errint_t fill_layer(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct ask *a = arg;
	struct wire_source ws = { a->site->reg, a->repo };
	struct ca_source src = wire_source(&ws);
	struct ca_layer *there = NULL;
	errint_t r;

	/* Somebody may have finished between the handler's look and this flight. */
	if (ca_layer_get(fs->cache, &a->digest, &there, NULL) == 0) {
		(void)ca_layer_unref(there);
		return 0;
	}
	r = ca_layer_fill(fs->cache, &a->digest, a->size, NULL, &src, c, e);
	return err_wrap(e, r, "layer %s", a->name);
}

/* The image keeps its layers open while it lives: reads find them without a look-up. */
static struct ca_layer *keep_layer(struct image *img, size_t i, struct ca_layer *l)
{
	struct ca_layer *none = NULL;

	if (atomic_compare_exchange_strong(&img->layers[i], &none, l))
		return l;
	(void)ca_layer_unref(l);
	return none;
}

static errint_t open_layer(struct op *op, struct image *img, size_t i, struct ca_layer **ret)
{
	const struct oci_descriptor *d;
	_cleanup_buf_ struct buf fact = BUF_INIT(1024);
	char text[DIGEST_TEXT_MAX];
	struct ca_layer *l;
	struct ask *a;
	errint_t r;

	if (i >= img->m->n_layers)
		return -ENOENT;
	l = atomic_load(&img->layers[i]);
	if (l) {
		*ret = l;
		return 0;
	}
	d = &img->m->layers[i];
	r = ca_layer_get(op->fs->cache, &d->digest, &l, &op->err);
	if (r == 0) {
		*ret = keep_layer(img, i, l);
		return 0;
	}
	if (r != -ENOENT)
		return r;
	err_clear(&op->err);
	a = ask_new(img->site, img->repo, digest_text(&d->digest, text), &d->digest);
	if (a)
		a->size = d->size;
	fact_of("layer", img, &d->digest, &fact);
	return ask_want(op, img->site, buf_str(&fact), fill_layer, a);
}

errint_t need_layer(struct op *op, struct image *img, size_t layer, struct ca_layer **ret)
{
	struct ca_layer *l;
	errint_t r = open_layer(op, img, layer, &l);

	if (r == 0)
		*ret = ca_layer_ref(l);
	return r;
}

static errint_t fill_span(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct ask *a = arg;
	struct wire_source ws = { a->site->reg, a->repo };
	struct ca_source src = wire_source(&ws);

	(void)fs;
	stat_inc(STAT_SPANS_REFILLED);
	return err_wrap(e, ca_layer_fill_span(a->layer, a->span, &src, c, e), "layer %s", a->name);
}

static errint_t want_span(struct op *op, struct image *img, size_t layer, struct ca_layer *l, uint32_t span)
{
	const struct digest *d = &img->m->layers[layer].digest;
	_cleanup_buf_ struct buf fact = BUF_INIT(1024);
	char text[DIGEST_TEXT_MAX];
	struct ask *a = ask_new(img->site, img->repo, digest_text(d, text), d);

	if (a) {
		a->img = image_ref(img);
		a->layer = l;
		a->span = span;
	}
	fact_of("span", img, d, &fact);
	buf_addf(&fact, " %u", span);
	return ask_want(op, img->site, buf_str(&fact), fill_span, a);
}

errint_t need_layer_data(struct op *op, struct image *img, size_t layer, uint64_t off, size_t len,
			 struct buf *ret)
{
	struct ca_layer *l = NULL;
	errint_t r = open_layer(op, img, layer, &l);

	if (r == 0)
		r = buf_reserve(ret, len);
	while (r == 0 && len) {
		uint32_t span = 0;
		size_t n = 0;

		r = ca_layer_read(l, off, ret->data + ret->len, len, &n, &span, &op->err);
		if (r == -ENODATA) {
			err_clear(&op->err);
			return want_span(op, img, layer, l, span);
		}
		if (r < 0)
			return r;
		if (n == 0)
			return err_set(&op->err, EIO, ERR_INTEGRITY, "a file reaches beyond the end of its layer");
		ret->len += n;
		off += n;
		len -= n;
	}
	if (ret->data)
		ret->data[ret->len] = '\0';
	return r;
}

/* ---- merged trees ---- */

static errint_t build_tree(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct ask *a = arg;
	struct image *img = a->img;
	_cleanup_free_ struct ca_layer **layers = calloc(img->m->n_layers + 1, sizeof(*layers));
	_cleanup_(tree_unrefp) struct tree *t = NULL;
	errint_t r;

	(void)c;
	if (!layers)
		return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
	for (size_t i = 0; i < img->m->n_layers; i++) {
		layers[i] = atomic_load(&img->layers[i]);
		if (!layers[i])
			return err_set(e, EIO, ERR_BUG, "layer %zu is not open", i);
	}
	r = ca_tree_build(fs->cache, &img->digest, layers, img->m->n_layers, &t, e);
	if (r == 0)
		site_tree_put(a->site, &img->digest, t);
	return r;
}

static errint_t open_tree(struct op *op, struct image *img, struct tree **ret)
{
	struct tree *t = site_tree_get(img->site, &img->digest);

	if (!t && ca_tree_get(op->fs->cache, &img->digest, &t, NULL) == 0)
		site_tree_put(img->site, &img->digest, t);
	*ret = t;
	return t ? 0 : -ENOENT;
}

errint_t need_tree(struct op *op, struct image *img, struct tree **ret)
{
	_cleanup_buf_ struct buf fact = BUF_INIT(1024);
	errint_t waiting = 0;
	struct ask *a;

	if (img->m->kind != OCI_IMAGE)
		return -ENOENT;
	if (open_tree(op, img, ret) == 0)
		return 0;
	/* All layers at once. */
	for (size_t i = 0; i < img->m->n_layers; i++) {
		struct ca_layer *l;
		errint_t r = open_layer(op, img, i, &l);

		if (r == -EINPROGRESS)
			waiting = r;
		else if (r < 0)
			return r;
	}
	if (waiting)
		return waiting;
	a = ask_new(img->site, img->repo, NULL, &img->digest);
	if (a)
		a->img = image_ref(img);
	fact_of("tree", img, &img->digest, &fact);
	return ask_want(op, img->site, buf_str(&fact), build_tree, a);
}
