/*
 * ztoc_fill.c - reading the zTOC of a layer, a blob of its own
 *
 * It is read whole, since its digest is over the whole and a FlatBuffer is read in any order: some
 * 200 bytes a file and 32 KiB a span, for the time that this takes.  What is kept is the object of
 * toc_file.h.
 *
 * Threads: the caller's.
 */
#include "cache/layer_gate.h"
#include "cache/layer_priv.h"
#include "cache/ztoc_index.h"
#include "util/stats.h"

struct ztoc_fill {
	struct ca_store *s;
	const struct digest *want;
	const struct ca_toc *toc;
	const struct ca_source *src;
	struct cancel *cancel;
	struct buf data;
	struct layer_gate gate;
};

static errint_t bad(struct err *e, enum err_class cls, const char *what)
{
	return err_set(e, EBADMSG, cls, "the SOCI index: %s", what);
}

static errint_t collect(void *ctx, const void *data, size_t len, struct err *e)
{
	struct ztoc_fill *f = ctx;
	errint_t r = layer_check_cancel(f->cancel, e);

	if (r < 0)
		return r;
	if (f->data.len + len > f->toc->packed)
		return bad(e, ERR_INTEGRITY, "it is longer than its descriptor says");
	return buf_add(&f->data, data, len) == 0 ? 0 : err_errno(e, ENOMEM, "reading a SOCI index");
}

static errint_t check_memory(void *ctx, uint64_t bytes, struct err *e)
{
	struct ztoc_fill *f = ctx;
	errint_t r = layer_check_cancel(f->cancel, e);

	return r < 0 ? r : layer_gate_grow(&f->gate, f->toc->packed + bytes, f->cancel, e);
}

static errint_t fetch(struct ztoc_fill *f, struct err *e)
{
	struct digest got;
	errint_t r = check_memory(f, 0, e);

	if (r == 0 && buf_reserve(&f->data, (size_t)f->toc->packed) < 0)
		return err_errno(e, ENOMEM, "reading a SOCI index");
	if (r == 0)
		r = layer_source_read(f->s, &f->toc->ztoc, f->toc->packed, 0, 0, f->src, collect, f, f->cancel, e);
	if (r < 0)
		return r;
	digest_of((enum digest_alg)f->toc->ztoc.alg, f->data.data, f->data.len, &got);
	if (!digest_eq(&got, &f->toc->ztoc))
		return bad(e, ERR_INTEGRITY, "it does not match its digest");
	return 0;
}

static errint_t store(struct ztoc_fill *f, const struct ztoc *z, const struct ztoc_index *x, struct err *e)
{
	struct toc_file file = {
		.format = z->algorithm == ZTOC_GZIP ? TOC_SOCI_GZIP : TOC_SOCI_PLAIN,
		.size = z->size, .packed = z->packed, .n_chunks = x->n_chunks,
	};
	_cleanup_buf_ struct buf image = BUF_INIT(LAYER_TREE_MAX);
	char key[CA_KEY_MAX];
	errint_t r = tree_builder_finish(x->tree, &image, e);

	if (r < 0)
		return r;
	image.max = LAYER_IMAGE_MAX + ZTOC_MAX;
	r = toc_file_finish(&file, x->chunks, x->spans, &image);
	toc_file_done(&file);
	if (r < 0)
		return err_errno(e, -r, "indexing a layer");
	r = layer_object_put(f->s, CA_LAYER, toc_layer_key(f->want, f->toc, key), image.data, image.len, e);
	if (r < 0)
		return err_wrap(e, r, "the index of %zu bytes of layer %s", image.len, key);
	stat_inc(STAT_TOC_LAYERS);
	return 0;
}

static errint_t read_ztoc(struct ztoc_fill *f, struct err *e)
{
	struct ztoc_index x = { 0 };
	struct ztoc z;
	errint_t r = ztoc_parse(f->data.data, f->data.len, &z, e);

	if (r == 0 && z.packed != f->toc->blob)
		r = bad(e, ERR_INPUT, "it is about a layer of another size");
	if (r == 0)
		r = ztoc_index(&x, &z, check_memory, f, e);
	if (r == 0)
		r = store(f, &z, &x, e);
	ztoc_index_done(&x);
	ztoc_done(&z);
	return r;
}

static errint_t attempt(void *ctx, struct err *e)
{
	struct ztoc_fill *f = ctx;
	errint_t r = fetch(f, e);

	if (r == 0)
		r = read_ztoc(f, e);
	buf_done(&f->data);
	layer_gate_done(&f->gate);
	return r;
}

errint_t ztoc_layer_fill(struct ca_store *s, const struct digest *d, const struct ca_toc *toc,
			 const struct ca_source *src, struct cancel *c, struct err *e)
{
	struct ztoc_fill f = { .s = s, .want = d, .toc = toc, .src = src, .cancel = c };

	if (toc->packed == 0 || toc->packed > ZTOC_MAX)
		return bad(e, ERR_LIMIT, "it is too large");
	buf_init(&f.data, (size_t)toc->packed);
	return toc_attempts(attempt, &f, &toc->ztoc, src, e);
}
