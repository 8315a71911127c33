/*
 * ztoc_span.c - fetching a span of a layer with a SOCI index
 *
 * The span's compressed bytes come by one Range request; they are hashed and, from its checkpoint
 * on, decoded while they come.  The hash is over exactly these bytes, so once it is right, decoding is
 * a function of what the zTOC's digest vouches for.  Then the headers of the tar that lie in the span
 * are compared with what the zTOC says of them: a mistake in it would show wrong files.
 *
 * Bytes that do not match are fetched once more.  If they are wrong again, or do not decode to what
 * the zTOC says, the index is not about this blob: the layer is refuted, as with a TOC.
 *
 * The gzip header before the first span and the trailer, of which nothing is kept, are not needed to
 * read files; the last span's hash reaches to the blob's end.
 *
 * Threads: a fill belongs to its thread.
 */
#include <string.h>

#include "cache/inflate.h"
#include "cache/layer_gate.h"
#include "cache/layer_priv.h"
#include "cache/tar.h"
#include "cache/ztoc_index.h"
#include "util/stats.h"

#define TRIES 2

struct span_fill {
	struct ca_layer *l;
	struct cancel *cancel;
	uint32_t granule;
	struct toc_chunk *chunk;
	struct toc_span span;
	uint8_t *window;
	uint64_t in;		/* place in the blob */
	struct inflate *z;	/* NULL: plain, or the first byte has not come yet */
	struct digest_ctx *sum;
	struct buf data;
	struct layer_gate gate;
	bool broken;		/* it does not decode; the hash will tell whose fault it is */
	bool wrong;		/* other bytes than those that the zTOC is about */
};

static errint_t object_read(void *ctx, uint64_t off, void *dst, size_t len, struct err *e)
{
	return ca_object_read(ctx, off, dst, len, e);
}

/* ---- bytes */

/* What comes behind the archive's end marker does not count. */
static errint_t decoded(void *ctx, const void *data, size_t len, struct err *e)
{
	struct span_fill *f = ctx;
	size_t n = MIN_OF(len, f->chunk->len - f->data.len);

	return n && buf_add(&f->data, data, n) < 0 ? err_errno(e, ENOMEM, "reading a layer") : 0;
}

/* The first byte of a span may be the last one of the span before it, too. */
static errint_t enter(struct span_fill *f, uint8_t byte, struct err *e)
{
	const struct toc_chunk *c = f->chunk;
	size_t known = (size_t)MIN_OF(c->out, (uint64_t)TOC_WINDOW_BYTES);
	const uint8_t *window = f->span.window ? f->span.window + (TOC_WINDOW_BYTES - known) : NULL;

	return inflate_enter(c->in + (c->inner > 0), c->out, byte, c->inner, window, window ? known : 0, decoded, f, &f->z, e);
}

static errint_t decode(struct span_fill *f, const uint8_t *p, size_t len, struct err *e)
{
	errint_t r = 0;

	if (f->broken)
		return 0;
	if (f->l->toc->format == TOC_SOCI_PLAIN)
		return decoded(f, p, len, e);
	if (!f->z) {
		r = enter(f, p[0], e);
		if (f->chunk->inner) {	/* it has gone in */
			p++;
			len--;
		}
	}
	if (r == 0)
		r = inflate_push(f->z, p, len, e);
	if (r != -EBADMSG && r != -EFBIG)
		return r;
	f->broken = true;
	return 0;
}

static errint_t blob_bytes(void *ctx, const void *data, size_t len, struct err *e)
{
	struct span_fill *f = ctx;
	errint_t r = layer_check_cancel(f->cancel, e);

	if (r < 0)
		return r;
	if (len > f->chunk->in_end - f->in) {
		f->wrong = true;
		return err_set(e, EIO, ERR_INTEGRITY, "part of layer %s is longer than what was asked for", f->l->key);
	}
	f->in += len;
	digest_ctx_add(f->sum, data, len);
	return len ? decode(f, data, len, e) : 0;
}

static errint_t fetch(struct span_fill *f, const struct ca_source *src, struct err *e)
{
	struct ca_layer *l = f->l;
	const struct toc_chunk *c = f->chunk;
	struct digest d;
	errint_t r;

	f->in = c->in;
	stat_add(STAT_TOC_BYTES_IN, (int64_t)(c->in_end - c->in));
	r = layer_source_read(l->s, &l->digest, l->toc->packed, c->in, c->in_end - c->in, src, blob_bytes, f,
			      f->cancel, e);
	if (r < 0)
		return r;
	digest_ctx_end(f->sum, &d);
	if (f->in == c->in_end && memcmp(d.raw, c->sha256, sizeof(c->sha256)) == 0)
		return 0;
	f->wrong = true;
	return err_set(e, EIO, ERR_INTEGRITY, "part of layer %s does not match its hash", l->key);
}

/* ---- headers */

struct compare {
	uint64_t base;		/* of the reader's stream, in the tar */
	uint32_t left, sum;
};

static errint_t header(void *ctx, const struct tree_entry *en, struct err *e)
{
	struct compare *c = ctx;

	c->sum = ztoc_sum(c->sum, en, c->base + en->data_off);
	return --c->left ? 0 : err_set(e, ECANCELED, ERR_CANCELLED, "that is all");
}

static bool headers_ok(const struct span_fill *f)
{
	struct compare c = { .base = f->span.header, .left = f->span.n_headers };
	size_t from = (size_t)(f->span.header - f->chunk->out);

	if (!c.left)
		return true;
	_cleanup_(tar_reader_freep) struct tar_reader *t = tar_reader_new(header, &c);
	return t && tar_reader_push(t, f->data.data + from, f->data.len - from, NULL) == -ECANCELED &&
	       c.left == 0 && c.sum == f->span.sum;
}

/* The next span is decoded from what the zTOC says is before it: does it say so rightly? */
static bool next_window_ok(const struct span_fill *f)
{
	const struct toc_file *t = f->l->toc;
	_cleanup_free_ uint8_t *window = malloc(TOC_WINDOW_BYTES);
	struct toc_span next;

	if (t->format != TOC_SOCI_GZIP || f->granule + 1 == t->n_granules || f->data.len < TOC_WINDOW_BYTES)
		return true;
	if (!window || toc_file_span(t, f->granule + 1, object_read, f->l->object, window, &next, NULL) < 0)
		return true;	/* the next fill says why */
	return memcmp(window, f->data.data + f->data.len - TOC_WINDOW_BYTES, TOC_WINDOW_BYTES) == 0;
}

/* ---- */

static errint_t publish(struct span_fill *f, struct err *e)
{
	struct ca_object *o = NULL;
	char key[CA_KEY_MAX];
	errint_t r;

	(void)toc_granule_key(f->l, f->granule, key);
	r = layer_object_put(f->l->s, CA_SPAN, key, f->data.data, f->data.len, e);
	if (r < 0)
		return r;
	stat_inc(STAT_TOC_GRANULES);
	stat_add(STAT_TOC_BYTES_OUT, (int64_t)f->data.len);
	if (ca_object_open(f->l->s, CA_SPAN, key, &o, NULL) == 0)
		layer_keep_recent(f->l, o);
	return 0;
}

static void reset(struct span_fill *f)
{
	f->z = inflate_free(f->z);
	f->sum = digest_ctx_free(f->sum);
	buf_clear(&f->data);
	f->broken = f->wrong = false;
}

static errint_t attempt(struct span_fill *f, const struct ca_source *src, struct err *e)
{
	reset(f);
	f->sum = digest_ctx_new(DIGEST_SHA256);
	if (!f->sum || buf_reserve(&f->data, f->chunk->len) < 0)
		return err_errno(e, ENOMEM, "reading a layer");
	return fetch(f, src, e);
}

static errint_t load(struct span_fill *f, struct err *e)
{
	const struct toc_file *t = f->l->toc;
	errint_t r;

	f->window = malloc(TOC_WINDOW_BYTES);
	if (!f->window)
		return err_errno(e, ENOMEM, "reading a layer");
	r = toc_file_chunks(t, f->granule, f->granule + 1, object_read, f->l->object, &f->chunk, e);
	if (r == 0)
		r = toc_file_span(t, f->granule, object_read, f->l->object, f->window, &f->span, e);
	if (r == 0)
		f->data.max = f->chunk->len;
	return r;
}

static errint_t fill(struct span_fill *f, const struct ca_source *src, struct err *e)
{
	errint_t r = load(f, e);

	if (r == -EBADMSG)
		return toc_dropped(f->l, e);
	if (r == 0)
		r = attempt(f, src, e);
	for (int i = 1; i < TRIES && f->wrong; i++) {
		stat_inc(STAT_INTEGRITY_FAILURES);
		if (src && src->bad)
			(void)src->bad(src->ctx, &f->l->digest);	/* another mirror, if there is one */
		r = attempt(f, src, e);
	}
	if (f->wrong)
		return toc_refuted(f->l, "the registry's bytes do not match it", e);
	if (r == 0 && (f->broken || f->data.len != f->chunk->len))
		return toc_refuted(f->l, "decoding from its checkpoints fails", e);
	if (r == 0 && !next_window_ok(f))
		return toc_refuted(f->l, "the bytes before a checkpoint are others", e);
	if (r == 0 && !headers_ok(f))
		return toc_refuted(f->l, "the tar has other files than it says", e);
	return r < 0 ? r : publish(f, e);
}

static errint_t fill_one(struct ca_layer *l, uint32_t granule, const struct ca_source *src, struct cancel *c,
			 struct err *e)
{
	struct span_fill f = { .l = l, .cancel = c, .granule = granule };
	errint_t r = layer_gate_grow(&f.gate, toc_granule_len(l, granule), c, e);

	if (r == 0)
		r = fill(&f, src, e);
	reset(&f);
	free(f.chunk);
	free(f.window);
	buf_done(&f.data);
	layer_gate_done(&f.gate);
	return r;
}

/* A request each: a span is large enough for one. */
errint_t ztoc_layer_fill_run(struct ca_layer *l, uint32_t first, uint32_t n, const struct ca_source *src,
			     struct cancel *c, struct err *e)
{
	errint_t r = fill_one(l, first, src, c, e);

	for (uint32_t i = 1; r == 0 && i < n && fill_one(l, first + i, src, c, NULL) == 0; i++)
		;
	return r;
}
