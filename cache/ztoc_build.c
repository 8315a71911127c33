/*
 * ztoc_build.c - a blob through the decoder, the archive's reader and the encoder, once
 *
 * The format is found from the first bytes.  Of a plain archive the spans are of equal size, and are
 * hashed here; of a gzip blob ztoc_gzip.c does it.  Nothing is given out unless the whole blob had its
 * digest.
 */
#include "cache/ztoc_build.h"

#include <string.h>

#include "cache/ztoc_gzip.h"
#include "cache/ztoc_tar.h"
#include "util/stats.h"

#define SNIFF 4

struct build {
	uint64_t span, at;		/* bytes of the blob so far */
	struct ztoc_encoder *out;
	struct ztoc_tar *tar;
	struct digest_ctx *whole;
	struct ztoc_gzip *gzip;
	bool begun;
	uint8_t first[SNIFF];		/* until the format is known */
	/* plain: */
	struct digest_ctx *hash;
	struct digest *digests;
	size_t n, cap;
	bool refused;			/* the failure is that this layer cannot be indexed */
};

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory while indexing a layer");
}

void ca_ztoc_done(struct ca_ztoc *z)
{
	buf_done(&z->bytes);
	*z = (struct ca_ztoc){ 0 };
}

/* ---- plain archives ---- */

static errint_t end_plain_span(struct build *b, struct err *e)
{
	size_t cap = MAX_OF(2 * b->cap, (size_t)64);
	struct digest *v;

	if (b->n == b->cap) {
		v = reallocarray(b->digests, cap, sizeof(*v));
		if (!v)
			return no_memory(e);
		b->digests = v;
		b->cap = cap;
	}
	digest_ctx_end(b->hash, &b->digests[b->n++]);
	digest_ctx_reset(b->hash);
	return 0;
}

static errint_t push_plain(struct build *b, const uint8_t *p, size_t len, struct err *e)
{
	errint_t r = ztoc_tar_push(b->tar, p, len, e);

	while (r == 0 && len > 0) {
		uint64_t left = b->span - b->at % b->span;
		size_t n = (size_t)MIN_OF((uint64_t)len, left);

		digest_ctx_add(b->hash, p, n);
		b->at += n;
		p += n;
		len -= n;
		if (n == left)
			r = end_plain_span(b, e);
	}
	return r;
}

/* ---- both ---- */

static errint_t to_tar(void *ctx, const void *data, size_t len, struct err *e)
{
	struct build *b = ctx;

	return ztoc_tar_push(b->tar, data, len, e);
}

static errint_t begin(struct build *b, struct err *e)
{
	b->begun = true;
	if (memcmp(b->first, "\x28\xb5\x2f\xfd", 4) == 0 || memcmp(b->first + 1, "\x2a\x4d\x18", 3) == 0)
		return err_set(e, EOPNOTSUPP, ERR_UNSUPPORTED, "it is compressed with zstd");
	if (memcmp(b->first, "\x1f\x8b", 2) != 0)
		return 0;
	b->gzip = ztoc_gzip_new(b->span, to_tar, b);
	return b->gzip ? 0 : no_memory(e);
}

static errint_t push_known(struct build *b, const void *data, size_t len, struct err *e)
{
	if (!b->gzip)
		return push_plain(b, data, len, e);
	b->at += len;
	return ztoc_gzip_push(b->gzip, data, len, e);
}

/* Keeps the first bytes until there are enough to know the format by. */
static errint_t push(struct build *b, const uint8_t *p, size_t len, struct err *e)
{
	size_t n;
	errint_t r;

	if (!b->begun) {
		n = MIN_OF((size_t)(SNIFF - b->at), len);
		memcpy(b->first + b->at, p, n);
		b->at += n;
		p += n;
		len -= n;
		if (b->at < SNIFF)
			return 0;
		b->at = 0;
		r = begin(b, e);
		if (r == 0)
			r = push_known(b, b->first, SNIFF, e);
		if (r < 0)
			return r;
	}
	return len > 0 ? push_known(b, p, len, e) : 0;
}

static errint_t sink(void *ctx, const void *data, size_t len, struct err *e)
{
	struct build *b = ctx;
	errint_t r;

	digest_ctx_add(b->whole, data, len);
	stat_add(STAT_LAYER_BYTES_IN, (int64_t)len);
	r = push(b, data, len, e);
	b->refused = r == -EOPNOTSUPP;
	return r;
}

static errint_t finish(struct build *b, const struct digest *d, uint64_t size, const char *tool,
		       struct ca_ztoc *ret, struct err *e)
{
	struct ztoc_frame f = { .tool = tool, .algorithm = b->gzip ? ZTOC_GZIP : ZTOC_PLAIN,
				.packed = size, .span_size = b->span };
	struct digest have;
	errint_t r;

	digest_ctx_end(b->whole, &have);
	if (!digest_eq(&have, d)) {
		stat_inc(STAT_INTEGRITY_FAILURES);
		return err_set(e, EIO, ERR_INTEGRITY, "the layer has other bytes than its digest says");
	}
	if (!b->begun)
		return err_set(e, EOPNOTSUPP, ERR_UNSUPPORTED, "it has only %llu bytes",
			       (unsigned long long)size);
	if (b->gzip)
		r = ztoc_gzip_end(b->gzip, e);
	else
		r = b->at % b->span > 0 ? end_plain_span(b, e) : 0;
	if (r == 0)
		r = ztoc_tar_end(b->tar, e);
	if (r < 0)
		return r;
	f.size = ztoc_tar_size(b->tar);
	f.digests = b->gzip ? ztoc_gzip_digests(b->gzip, &f.n_spans) : b->digests;
	f.n_spans = b->gzip ? f.n_spans : b->n;
	f.points = b->gzip ? ztoc_gzip_points(b->gzip)->data : NULL;
	f.points_len = b->gzip ? ztoc_gzip_points(b->gzip)->len : 0;
	buf_init(&ret->bytes, ZTOC_MAX);
	r = ztoc_encode_finish(b->out, &f, &ret->bytes);
	ret->n_spans = (uint32_t)f.n_spans;
	ret->n_files = ztoc_encode_n_files(b->out);
	ret->tar_bytes = f.size;
	if (r == -EFBIG)
		return err_set(e, EOPNOTSUPP, ERR_UNSUPPORTED, "its zTOC would have more than %u bytes", ZTOC_MAX);
	return r < 0 ? no_memory(e) : 0;
}

static void build_done(struct build *b)
{
	(void)ztoc_encoder_free(b->out);
	(void)ztoc_tar_free(b->tar);
	(void)ztoc_gzip_free(b->gzip);
	(void)digest_ctx_free(b->whole);
	(void)digest_ctx_free(b->hash);
	free(b->digests);
}

errint_t ca_ztoc_build(const struct digest *d, uint64_t size, uint64_t span, const char *tool,
		       const struct ca_source *src, struct ca_ztoc *ret, struct cancel *c,
		       struct err *e)
{
	_cleanup_(build_done) struct build b = {
		.span = span, .out = ztoc_encoder_new(), .whole = digest_ctx_new((enum digest_alg)d->alg),
		.hash = digest_ctx_new(DIGEST_SHA256),
	};
	errint_t r;

	if (span < ZTOC_SPAN_MIN || span > ZTOC_SPAN_MAX)
		return err_set(e, EINVAL, ERR_INPUT, "spans have %u to %u bytes", ZTOC_SPAN_MIN, ZTOC_SPAN_MAX);
	b.tar = b.out ? ztoc_tar_new(b.out) : NULL;
	if (!b.tar || !b.whole || !b.hash)
		return no_memory(e);
	*ret = (struct ca_ztoc){ 0 };
	r = src->read(src->ctx, d, size, 0, 0, sink, &b, c, e);
	if (r == 0)
		r = finish(&b, d, size, tool, ret, e);
	if (r < 0)
		ca_ztoc_done(ret);
	if (r == -EOPNOTSUPP && !b.refused && e && e->cls != ERR_UNSUPPORTED)
		return -EIO;
	return r;
}
