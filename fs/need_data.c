/*
 * need_data.c - blobs, configs, layers and merged trees a handler asks for (see need.h)
 *
 * The cache does the work; what is here says which fills run under which key, so that everyone who
 * waits for the same layer waits for one stream.  Keys carry the repository: another repository's
 * permissions are not ours.
 *
 * What the cache loses as soon as it has been fetched (a disk that spoils what is written, a cache
 * that is much too small) is not fetched for ever: see lost().
 *
 * An image keeps its layers open while it lives: reads find them without a look-up.  One that turns
 * out wrong (-EBADMSG of a span's fill) is taken out and indexed again; whoever uses it at that time
 * has a reference of his own.
 */
#include "fs/need.h"

#include <string.h>

#include "fs/ahead.h"
#include "fs/need_priv.h"
#include "util/clock.h"

#define CONDEMNED_MAX 3		/* times that an image has layers indexed again; then it is our bug */
#define EVICTED_MAX 3		/* times that one operation fetches what others then push out: whole */
#define SPAN_EVICTED_MAX 8	/* and a small part */

static pthread_mutex_t layers_lock = PTHREAD_MUTEX_INITIALIZER;	/* layers of all images; a leaf but for refs */

/* ---- failures ---- */

static errint_t fact_name(const char *what, const char *repo, const struct digest *d, struct buf *out)
{
	char text[DIGEST_TEXT_MAX];

	return buf_addf(out, "%s %s@%s", what, repo, digest_text(d, text));
}

/* Passes r on.  A failure is remembered for a moment, so that a `find` over an image whose layer
 * does not come asks once, not once per name. */
static errint_t note(const struct ask *a, const char *what, errint_t r, const struct err *e)
{
	_cleanup_buf_ struct buf fact = BUF_INIT(1024);

	if (r < 0 && e && fact_name(what, a->repo, &a->digest, &fact) == 0)
		return ask_failed(a->site, buf_str(&fact), r, e);
	return r;
}

/* The cache has not got it, as op->err says (class INTEGRITY: it was damaged).  Is it worth fetching,
 * or has that been done for this operation before?  failure: under which fact to remember that. */
static errint_t lost(struct op *op, struct image *img, const char *fact, const char *failure)
{
	const char *dir = ca_store_dir(op->fs->cache);
	unsigned times = ask_times(op, img->site, fact);
	bool damaged = op->err.cls == ERR_INTEGRITY;
	errint_t r = 0;

	err_clear(&op->err);
	if (damaged && times > 0)
		r = err_set(&op->err, EIO, ERR_INTEGRITY, "what is written to the cache is damaged when it is "
			    "read again; check the disk that holds %s", dir);
	else if (times >= (strcmp(fact, failure) == 0 ? EVICTED_MAX : SPAN_EVICTED_MAX))
		r = err_set(&op->err, EIO, ERR_LOCAL, "the cache does not keep what is fetched for this; give "
			    "%s more room (cache_size, cache_free)", dir);
	return r < 0 ? ask_failed(img->site, failure, r, &op->err) : 0;
}

/* Wants the fact, unless that has just failed. */
static errint_t want(struct op *op, struct image *img, const char *fact, work_fn work, struct ask *a)
{
	errint_t r = lost(op, img, fact, fact);

	if (r == 0)
		r = recent_failure(op, img->site, fact);
	if (r == 0)
		return ask_want(op, img->site, fact, work, a);
	ask_free(a);
	return r;
}

/* ---- blobs ---- */

static errint_t fill_blob(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct ask *a = arg;
	struct wire_source ws = { a->site->reg, a->repo };
	struct ca_source src = wire_source(&ws);

	return note(a, "blob", ca_blob_fill(fs->cache, &a->digest, a->size, &src, c, e), e);
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
	return fact_name(what, img->repo, d, out);
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
	fact_of("blob", img, &d->digest, &fact);
	return want(op, img, buf_str(&fact), fill_blob, ask_blob(img, d));
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

		fact_of("blob", img, &d->digest, &fact);
		return want(op, img, buf_str(&fact), fill_blob, ask_blob(img, d));
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
	if (r == 0)
		r = need_nonsense(oci_config_parse(buf_str(&b), b.len, ret, &op->err), "config", &op->err);
	return r;
}

/* ---- layers ---- */

static errint_t fill_layer(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct ask *a = arg;
	struct wire_source ws = { .reg = a->site->reg, .repo = a->repo, .got = &a->img->streamed[a->layer_no] };
	struct ca_source src = wire_source(&ws);
	struct ca_layer *there = NULL;
	errint_t r;

	/* Somebody may have finished between the handler's look and this flight. */
	if (ca_layer_get(fs->cache, &a->digest, &there, NULL) == 0) {
		(void)ca_layer_unref(there);
		return 0;
	}
	r = ca_layer_fill(fs->cache, &a->digest, a->size, NULL, &src, c, e);
	return note_layer(a, "layer", r, e);
}

errint_t note_layer(const struct ask *a, const char *what, errint_t r, struct err *e)
{
	return note(a, what, err_wrap(e, r, "layer %s", a->name), e);
}

struct ca_layer *kept_layer(struct image *img, size_t slot)
{
	LOCK_SCOPE(&layers_lock);
	struct ca_layer *l = atomic_load(&img->layers[slot]);

	return l ? ca_layer_ref(l) : NULL;
}

void keep_layer(struct image *img, size_t slot, struct ca_layer *l)
{
	LOCK_SCOPE(&layers_lock);
	if (!atomic_load(&img->layers[slot]))
		atomic_store(&img->layers[slot], ca_layer_ref(l));
}

/* The index of l was wrong: who comes next has it made again.  False: not once more. */
static bool drop_layer(struct image *img, struct ca_layer *l)
{
	size_t n = 0;

	{
		LOCK_SCOPE(&layers_lock);
		for (size_t i = 0; i < 2 * img->m->n_layers; i++) {
			if (atomic_load(&img->layers[i]) != l)
				continue;
			atomic_store(&img->layers[i], NULL);
			n++;
		}
	}
	for (size_t i = 0; i < n; i++)
		(void)ca_layer_unref(l);	/* the caller has one, too */
	return atomic_fetch_add(&img->condemned, n > 0) < CONDEMNED_MAX;
}

errint_t want_layer(struct op *op, struct image *img, size_t i, const char *what, work_fn work,
		    const struct ca_toc *toc)
{
	const struct oci_descriptor *d = &img->m->layers[i];
	_cleanup_buf_ struct buf fact = BUF_INIT(1024);
	char text[DIGEST_TEXT_MAX];
	struct ask *a = ask_new(img->site, img->repo, digest_text(&d->digest, text), &d->digest);

	if (a) {
		a->size = d->size;
		a->layer_no = i;
		a->img = image_ref(img);
	}
	if (a && toc)
		a->toc = *toc;
	fact_of(what, img, &d->digest, &fact);
	return want(op, img, buf_str(&fact), work, a);
}

errint_t open_streamed(struct op *op, struct image *img, size_t i, struct ca_layer **ret)
{
	errint_t r;

	*ret = kept_layer(img, i);
	if (*ret)
		return 0;
	r = ca_layer_get(op->fs->cache, &img->m->layers[i].digest, ret, &op->err);
	if (r == 0) {
		keep_layer(img, i, *ret);
		return 0;
	}
	if (r != -ENOENT)
		return r;
	return want_layer(op, img, i, "layer", fill_layer, NULL);
}

/* A new reference in *ret, in the flavour in which the layer is read. */
static errint_t open_layer(struct op *op, struct image *img, size_t i, struct ca_layer **ret)
{
	if (i >= img->m->n_layers)
		return -ENOENT;
	return lazy_wanted(op->fs, img, i) ? open_lazy(op, img, i, ret) : open_streamed(op, img, i, ret);
}

errint_t need_data_layer(struct op *op, struct image *img, size_t i, uint64_t off, struct ca_layer **ret)
{
	errint_t r = off >= CA_TOC_DATA ? soci_decide(op, img) : 0;

	if (r < 0 || i >= img->m->n_layers)
		return r < 0 ? r : -ENOENT;
	return off >= CA_TOC_DATA && lazy_can_be(img, i) ? open_lazy(op, img, i, ret) : open_streamed(op, img, i, ret);
}

errint_t need_layer(struct op *op, struct image *img, size_t layer, struct ca_layer **ret)
{
	errint_t r = soci_decide(op, img);

	return r < 0 ? r : open_layer(op, img, layer, ret);
}

errint_t need_layer_tree(struct op *op, struct image *img, size_t layer, struct tree **ret)
{
	for (;;) {
		_cleanup_(ca_layer_unrefp) struct ca_layer *l = NULL;
		errint_t r = need_layer(op, img, layer, &l);

		if (r == 0)
			r = ca_layer_tree(l, ret, &op->err);
		if (r != -EBADMSG)
			return r;
		if (!drop_layer(img, l))
			return err_set(&op->err, EIO, ERR_INTEGRITY, "its index is damaged in the cache again and again");
		err_clear(&op->err);
	}
}

/* Two flavours of a layer have spans of the same numbers. */
static const char *span_word(const struct ca_layer *l)
{
	return ca_layer_is_lazy(l) ? "part" : "span";
}

errint_t need_filled(struct fs *fs, struct image *img, size_t i, struct ca_layer *l, errint_t r, struct err *e)
{
	if (r == 0 && ca_layer_is_lazy(l))
		lazy_check_parts(img, i);
	if (r == -EILSEQ) {
		lazy_refuse(fs, img, i, e);
		return 0;	/* the handler looks again, and wants the whole layer */
	}
	if (r == -EBADMSG && drop_layer(img, l))
		return 0;	/* the handler looks again, and wants the whole layer */
	if (r == -EBADMSG)
		r = err_set(e, EIO, ERR_INTEGRITY, "its index in the cache is wrong again and again");
	return r;
}

static errint_t fill_span(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct ask *a = arg;
	struct wire_source ws = { a->site->reg, a->repo };
	struct ca_source src = wire_source(&ws);

	errint_t r;

	r = ca_layer_fill_span(a->layer, a->span, &src, c, e);
	r = need_filled(fs, a->img, a->layer_no, a->layer, r, e);
	return note(a, span_word(a->layer), err_wrap(e, r, "layer %s", a->name), e);
}

errint_t want_span(struct op *op, struct image *img, size_t layer, struct ca_layer *l, uint32_t span)
{
	const struct digest *d = &img->m->layers[layer].digest;
	_cleanup_buf_ struct buf one = BUF_INIT(1024), all = BUF_INIT(1024);
	char text[DIGEST_TEXT_MAX];
	struct ask *a = ask_new(img->site, img->repo, digest_text(d, text), d);
	errint_t r;

	if (a) {
		a->img = image_ref(img);
		a->layer = ca_layer_ref(l);
		a->layer_no = layer;
		a->span = span;
	}
	fact_of(span_word(l), img, d, &one);
	buf_addf(&one, " %u", span);
	fact_of(span_word(l), img, d, &all);
	r = lost(op, img, buf_str(&one), buf_str(&all));
	if (r == 0)
		r = recent_failure(op, img->site, buf_str(&all));
	if (r == 0)
		return ask_want(op, img->site, buf_str(&one), fill_span, a);
	ask_free(a);
	return r;
}

errint_t need_layer_data(struct op *op, struct image *img, size_t layer, uint64_t off, size_t len,
			 struct buf *ret)
{
	_cleanup_(ca_layer_unrefp) struct ca_layer *l = NULL;
	errint_t r = need_data_layer(op, img, layer, off, &l);

	if (r == 0)
		r = buf_reserve(ret, len);
	if (r == 0 && off >= CA_TOC_DATA && !ca_layer_is_lazy(l)) /* of a SOCI index: the tar's own */
		off -= CA_TOC_DATA;
	if (r == 0 && !ca_layer_is_lazy(l))
		read_ahead(op, img, layer, l, off, len);
	while (r == 0 && len) {
		uint32_t span = 0;
		size_t n = 0;

		r = ca_layer_read(l, off, ret->data + ret->len, len, &n, &span, &op->err);
		if (r == -ENODATA && ca_layer_is_lazy(l) && (ca_layer_refuted(l) || lazy_refused(img, layer))) {
			err_clear(&op->err);
			return lazy_from_streamed(op, img, layer, l, off, len, ret);
		}
		if (r == -ENODATA)
			return want_span(op, img, layer, l, span);
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
	size_t n = 0;
	_cleanup_free_ struct ca_layer **layers = calloc(img->m->n_layers + 1, sizeof(*layers));
	_cleanup_(tree_unrefp) struct tree *t = NULL;
	errint_t r = layers ? 0 : err_set(e, ENOMEM, ERR_LOCAL, "out of memory");

	while (r == 0 && n < img->m->n_layers && (layers[n] = kept_layer(img, lazy_slot(fs, img, n))))
		n++;
	/* One that was condemned meanwhile: the handler looks again and wants it. */
	if (r == 0 && n == img->m->n_layers)
		r = ca_tree_build(fs->cache, &img->digest, layers, n, &t, c, e);
	for (size_t i = 0; r == -EBADMSG && i < n; i++)
		if (ca_layer_is_condemned(layers[i]) && drop_layer(img, layers[i]))
			r = 0;
	if (r == -EBADMSG)
		r = err_set(e, EIO, ERR_INTEGRITY, "the index of a layer is damaged in the cache again and again");
	if (t)
		site_tree_put(a->site, &img->digest, t);
	while (n > 0)
		(void)ca_layer_unref(layers[--n]);
	return r;
}

static errint_t open_tree(struct op *op, struct image *img, struct tree **ret)
{
	struct tree *t = site_tree_get(img->site, &img->digest);
	size_t n = img->m->n_layers;
	_cleanup_free_ uint32_t *how = t || !soci_decided(img) ? NULL : calloc(n + 1, sizeof(*how));

	for (size_t i = 0; how && i < n; i++)
		how[i] = lazy_id(op->fs, img, i);
	if (how && ca_tree_get(op->fs->cache, &img->digest, how, n, &t, NULL) == 0)
		site_tree_put(img->site, &img->digest, t);
	*ret = t;
	return t ? 0 : -ENOENT;
}

errint_t need_tree_here(struct op *op, struct image *img, struct tree **ret)
{
	return img->m->kind == OCI_IMAGE ? open_tree(op, img, ret) : -ENOENT;
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
	if (!soci_decided(img)) {
		errint_t r = soci_decide(op, img);

		if (r < 0)
			return r;
		if (open_tree(op, img, ret) == 0)
			return 0;
	}
	/* All layers at once. */
	for (size_t i = 0; i < img->m->n_layers; i++) {
		_cleanup_(ca_layer_unrefp) struct ca_layer *l = NULL;
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
