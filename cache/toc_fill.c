/*
 * toc_fill.c - reading a table of contents: requests, digests, and what becomes of it
 *
 *	source -> (hash of the bytes) -> inflate -> (tar reader) -> hash of the JSON -> toc_scan
 *		-> toc_entry -> toc_index -> tree, chunks
 *
 * The text is parsed while it comes, before its digest is known; nothing is published before that is
 * right.  Whatever is wrong with the contents may be the transfer's fault, so it is fetched once
 * more; then it is the TOC's (-EBADMSG).  Errors of the source are passed on.
 *
 * eStargz: one request for the blob's tail, which nearly always holds footer and TOC; a second one for
 * what is missing of a large TOC.  zstd:chunked: the annotation says the exact place, one request.
 *
 * Threads: the caller's.
 */
#include <string.h>

#include "cache/inflate.h"
#include "cache/layer_gate.h"
#include "cache/layer_priv.h"
#include "cache/tar.h"
#include "cache/toc_foot.h"
#include "cache/toc_index.h"
#include "cache/toc_scan.h"
#include "util/stats.h"

#define TOC_PACKED_MAX (128u << 20)
#define TOC_JSON_MAX (UINT64_C(512) << 20)
#define TAIL_MIN (32u << 10)
#define TAIL_MAX (1u << 20)
#define TAIL_SHARE 128		/* of the blob: TOCs have about that size */
#define TRIES 2

struct toc_fill {
	struct ca_store *s;
	const struct digest *want;
	uint64_t size;
	const struct ca_toc *toc;
	const struct ca_source *src;
	struct cancel *cancel;
	struct toc_foot at;
	struct inflate *z;
	struct tar_reader *tar;		/* eStargz: the TOC is an entry of a tar */
	uint64_t json_off, json_len;	/* there; len 0: not seen yet */
	uint64_t json_got;
	struct digest_ctx *json_sum, *packed_sum;
	struct toc_scan *scan;
	struct toc_index index;
	struct layer_gate gate;
	struct buf tail;
};

static errint_t bad(struct err *e, enum err_class cls, const char *what)
{
	return err_set(e, EBADMSG, cls, "the table of contents %s", what);
}

/* ---- the text */

static errint_t element(void *ctx, const char *json, size_t len, struct err *e)
{
	struct toc_fill *f = ctx;
	struct toc_entry en;
	errint_t r = toc_entry_parse(json, len, &en, e);

	if (r == 0)
		r = toc_index_add(&f->index, &en, e);
	toc_entry_done(&en);
	return r;
}

static errint_t json_bytes(struct toc_fill *f, const void *data, size_t len, struct err *e)
{
	f->json_got += len;
	digest_ctx_add(f->json_sum, data, len);
	return toc_scan_push(f->scan, data, len, e);
}

/* The archive at the end of an eStargz blob has one entry. */
static errint_t tar_entry(void *ctx, const struct tree_entry *en, struct err *e)
{
	struct toc_fill *f = ctx;

	if (f->json_len || en->type != TREE_REG || en->extents || en->size == 0 ||
	    en->path_len != strlen(TOC_NAME) || memcmp(en->path, TOC_NAME, en->path_len) != 0)
		return bad(e, ERR_INPUT, "is not where the footer says");
	f->json_off = en->data_off;
	f->json_len = en->size;
	return 0;
}

/* One piece of that archive; the JSON's part of it is passed on. */
static errint_t tar_bytes(struct toc_fill *f, uint64_t off, const uint8_t *p, size_t len, struct err *e)
{
	errint_t r = tar_reader_push(f->tar, p, len, e);

	if (r < 0 || !f->json_len)
		return r;
	uint64_t from = MAX_OF(off, f->json_off), to = MIN_OF(off + len, f->json_off + f->json_len);
	return from < to ? json_bytes(f, p + (from - off), (size_t)(to - from), e) : 0;
}

static errint_t inflated(void *ctx, const void *data, size_t len, struct err *e)
{
	struct toc_fill *f = ctx;
	errint_t r = layer_check_cancel(f->cancel, e);

	if (r == 0 && inflate_out(f->z) > TOC_JSON_MAX)
		r = bad(e, ERR_LIMIT, "is too long");
	if (r == 0)
		r = layer_gate_grow(&f->gate, toc_index_bytes(&f->index) + inflate_memory(f->z), f->cancel, e);
	if (r < 0)
		return r;
	return f->tar ? tar_bytes(f, inflate_out(f->z) - len, data, len, e) : json_bytes(f, data, len, e);
}

static errint_t packed_bytes(void *ctx, const void *data, size_t len, struct err *e)
{
	struct toc_fill *f = ctx;

	digest_ctx_add(f->packed_sum, data, len);
	return inflate_push(f->z, data, len, e);
}

/* ---- requests */

static errint_t collect(void *ctx, const void *data, size_t len, struct err *e)
{
	struct toc_fill *f = ctx;

	if (buf_add(&f->tail, data, len) == 0)
		return 0;
	return f->tail.failed == -ENOMEM ? err_errno(e, ENOMEM, "reading a table of contents") :
					   bad(e, ERR_INTEGRITY, "is longer than what was asked for");
}

static uint64_t tail_bytes(uint64_t size)
{
	return MIN_OF(size, MIN_OF(MAX_OF(size / TAIL_SHARE, (uint64_t)TAIL_MIN), (uint64_t)TAIL_MAX));
}

static errint_t fetch(struct toc_fill *f, uint64_t off, uint64_t len, ca_sink_fn sink, struct err *e)
{
	return layer_source_read(f->s, f->want, f->size, off, len, f->src, sink, f, f->cancel, e);
}

/* Finds the TOC; f->tail is the blob's end then. */
static errint_t find_by_footer(struct toc_fill *f, struct err *e)
{
	uint64_t n = tail_bytes(f->size);

	if (n == 0)
		return bad(e, ERR_INPUT, "is missing: the layer is empty");
	buf_clear(&f->tail);
	f->tail.max = (size_t)n;
	errint_t r = fetch(f, f->size - n, n, collect, e);
	if (r < 0)
		return r;
	if (f->tail.len != n)
		return bad(e, ERR_INTEGRITY, "is cut off");
	return toc_foot_parse((const uint8_t *)f->tail.data, f->tail.len, f->size, &f->at, e);
}

static errint_t find(struct toc_fill *f, struct err *e)
{
	const struct ca_toc *t = f->toc;

	if (!t->packed)
		return find_by_footer(f, e);
	f->at = (struct toc_foot){ TOC_ZSTD, t->off, t->packed, t->size };
	if (t->off >= f->size || t->packed > f->size - t->off)
		return bad(e, ERR_INPUT, "is said to lie outside of the blob");
	return 0;
}

/* The TOC's bytes, from the tail as far as it has them. */
static errint_t read_packed(struct toc_fill *f, struct err *e)
{
	uint64_t end = f->at.off + f->at.packed, tail_at = f->size - f->tail.len;
	errint_t r = 0;

	if (f->at.off < tail_at)
		r = fetch(f, f->at.off, MIN_OF(end, tail_at) - f->at.off, packed_bytes, e);
	if (r < 0 || end <= tail_at)
		return r;
	uint64_t from = MAX_OF(f->at.off, tail_at);
	return packed_bytes(f, f->tail.data + (from - tail_at), (size_t)(end - from), e);
}

/* ---- the end */

static bool matches(struct digest_ctx *sum, const struct digest *want)
{
	struct digest got;

	digest_ctx_end(sum, &got);
	return want->alg == DIGEST_UNSET || digest_eq(&got, want);
}

static errint_t verify(struct toc_fill *f, struct err *e)
{
	bool right = matches(f->packed_sum, &f->toc->packed_sum) && matches(f->json_sum, &f->toc->json);

	if (!right)
		return bad(e, ERR_INTEGRITY, "does not match its digest in the manifest");
	if ((f->json_len && f->json_got != f->json_len) || (f->at.size && f->json_got != f->at.size))
		return bad(e, ERR_INPUT, "has another length than it says");
	return 0;
}

static errint_t end_streams(struct toc_fill *f, struct err *e)
{
	errint_t r = inflate_end(f->z, e);

	if (r == 0 && f->tar)
		r = tar_reader_end(f->tar, e);
	if (r == 0)
		r = toc_scan_end(f->scan, e);
	if (r == 0)
		r = toc_index_end(&f->index, e);
	return r;
}

static errint_t store(struct toc_fill *f, struct err *e)
{
	struct toc_file file = {
		.format = f->at.format, .size = f->index.out, .packed = f->size,
		.first = f->index.landmark,
		.n_chunks = (uint32_t)f->index.n_chunks,
	};
	_cleanup_buf_ struct buf image = BUF_INIT(LAYER_TREE_MAX);
	char key[CA_KEY_MAX];
	errint_t r = tree_builder_finish(f->index.tree, &image, e);

	if (r < 0)
		return r;
	image.max = LAYER_IMAGE_MAX;
	r = toc_file_finish(&file, f->index.chunks, NULL, &image);
	toc_file_done(&file);
	if (r < 0)
		return err_errno(e, -r, "indexing a layer");
	r = layer_object_put(f->s, CA_LAYER, toc_layer_key(f->want, f->toc, key), image.data, image.len, e);
	if (r < 0)
		return err_wrap(e, r, "the index of %zu bytes of layer %s", image.len, key);
	stat_inc(STAT_TOC_LAYERS);
	return 0;
}

/* ---- */

static errint_t open_streams(struct toc_fill *f, struct err *e)
{
	f->json_sum = digest_ctx_new(f->toc->json.alg ? f->toc->json.alg : DIGEST_SHA256);
	f->packed_sum = digest_ctx_new(f->toc->packed_sum.alg ? f->toc->packed_sum.alg : DIGEST_SHA256);
	f->z = inflate_new(inflated, f);
	f->scan = toc_scan_new(element, f);
	if (f->at.format == TOC_ESTARGZ)
		f->tar = tar_reader_new(tar_entry, f);
	if (!f->json_sum || !f->packed_sum || !f->z || !f->scan || (f->at.format == TOC_ESTARGZ && !f->tar))
		return err_errno(e, ENOMEM, "reading a table of contents");
	return toc_index_init(&f->index, f->at.format, f->at.off, e);
}

static void close_streams(struct toc_fill *f)
{
	toc_index_done(&f->index);
	f->scan = toc_scan_free(f->scan);
	f->tar = tar_reader_free(f->tar);
	f->z = inflate_free(f->z);
	f->json_sum = digest_ctx_free(f->json_sum);
	f->packed_sum = digest_ctx_free(f->packed_sum);
	f->json_len = f->json_off = f->json_got = 0;
	layer_gate_done(&f->gate);
}

static errint_t try(void *ctx, struct err *e)
{
	struct toc_fill *f = ctx;
	errint_t r = find(f, e);

	if (r == 0 && f->at.packed > TOC_PACKED_MAX)
		r = bad(e, ERR_LIMIT, "is too large");
	if (r == 0)
		r = open_streams(f, e);
	if (r == 0)
		r = read_packed(f, e);
	if (r == 0)
		r = end_streams(f, e);
	if (r == 0)
		r = verify(f, e);
	if (r == 0)
		r = store(f, e);
	close_streams(f);
	return r;
}

/* Is it the contents' fault?  The decoder, the tar reader and the tree have their own words. */
static bool is_contents(errint_t r, const struct err *e)
{
	return r == -EBADMSG || ((r == -EINVAL || r == -EFBIG) && (e->cls == ERR_INPUT || e->cls == ERR_LIMIT));
}

errint_t toc_attempts(toc_attempt_fn attempt, void *ctx, const struct digest *d, const struct ca_source *src,
		      struct err *e)
{
	struct err why = { 0 };
	errint_t r = -EBADMSG;

	for (int i = 0; i < TRIES && (i == 0 || is_contents(r, &why)); i++) {
		if (i > 0 && src && src->bad)
			(void)src->bad(src->ctx, d);	/* another mirror, if there is one */
		err_clear(&why);
		r = attempt(ctx, &why);
	}
	if (r == 0)
		return 0;
	if (is_contents(r, &why))
		r = -EBADMSG;
	why.eno = -r;
	if (e)
		*e = why;
	return r;
}

errint_t ca_toc_layer_fill(struct ca_store *s, const struct digest *d, const struct ca_toc *toc,
			   const struct ca_source *src, struct cancel *c, struct err *e)
{
	struct toc_fill f = { .s = s, .want = d, .size = toc->blob, .toc = toc, .src = src, .cancel = c };
	errint_t r;

	if (toc->ztoc.alg != DIGEST_UNSET)
		return ztoc_layer_fill(s, d, toc, src, c, e);
	if (toc->json.alg == DIGEST_UNSET && toc->packed_sum.alg == DIGEST_UNSET)
		return err_set(e, EINVAL, ERR_BUG, "a table of contents that nothing authenticates");
	buf_init(&f.tail, TAIL_MAX);
	r = toc_attempts(try, &f, d, src, e);
	buf_done(&f.tail);
	return r;
}
