/*
 * ztoc_gzip.c - zlib with Z_BLOCK, as in its examples/zran.c
 *
 * ISA-L, with which layers are inflated otherwise, does not stop between blocks.  The window is a ring
 * that zlib writes its output into; what was put there since the last look goes to the sink.
 */
#include "cache/ztoc_gzip.h"

#include <string.h>
#include <zlib.h>

#include "cache/le.h"
#include "cache/ztoc.h"

#define POINTS_MAX ((size_t)ZTOC_MAX)
#define AUTO_HEADER 47		/* gzip or zlib, found by zlib */
#define STEP_MAX (1u << 30)

struct ztoc_gzip {
	z_stream s;
	uint64_t span;
	inflate_sink_fn sink;
	void *ctx;
	uint64_t in, out, last;		/* totals; output at the last checkpoint */
	bool ended;			/* at the end of a member, and of all so far */
	uint8_t last_byte;
	struct digest_ctx *hash;	/* of the span under way */
	struct digest *digests;
	size_t n, cap;
	struct buf points;
	uint8_t window[ZTOC_WINDOW];
};

struct ztoc_gzip *ztoc_gzip_new(uint64_t span, inflate_sink_fn sink, void *ctx)
{
	struct ztoc_gzip *z = calloc(1, sizeof(*z));

	if (!z)
		return NULL;
	z->span = span;
	z->sink = sink;
	z->ctx = ctx;
	buf_init(&z->points, POINTS_MAX);
	z->hash = digest_ctx_new(DIGEST_SHA256);
	if (!z->hash || inflateInit2(&z->s, AUTO_HEADER) != Z_OK) {
		(void)digest_ctx_free(z->hash);
		free(z);
		return NULL;
	}
	return z;
}

struct ztoc_gzip *ztoc_gzip_free(struct ztoc_gzip *z)
{
	if (!z)
		return NULL;
	(void)inflateEnd(&z->s);
	(void)digest_ctx_free(z->hash);
	free(z->digests);
	buf_done(&z->points);
	free(z);
	return NULL;
}

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory while indexing a layer");
}

/* The digest of the span that ends here; the first checkpoint ends none. */
static errint_t end_span(struct ztoc_gzip *z, struct err *e)
{
	size_t cap = MAX_OF(2 * z->cap, (size_t)64);
	struct digest *v;

	if (z->n == z->cap) {
		v = reallocarray(z->digests, cap, sizeof(*v));
		if (!v)
			return no_memory(e);
		z->digests = v;
		z->cap = cap;
	}
	digest_ctx_end(z->hash, &z->digests[z->n++]);
	digest_ctx_reset(z->hash);
	return 0;
}

static bool has_points(const struct ztoc_gzip *z)
{
	return z->points.len > 0;
}

/* The ring from its oldest byte on. */
static void add_window(struct ztoc_gzip *z)
{
	size_t left = z->s.avail_out;

	(void)buf_add(&z->points, z->window + ZTOC_WINDOW - left, left);
	(void)buf_add(&z->points, z->window, ZTOC_WINDOW - left);
}

static errint_t add_point(struct ztoc_gzip *z, struct err *e)
{
	uint8_t head[17], bits = (uint8_t)(z->s.data_type & 7);
	errint_t r = has_points(z) ? end_span(z, e) : 0;

	if (r < 0)
		return r;
	digest_ctx_reset(z->hash);
	if (bits)
		digest_ctx_add(z->hash, &z->last_byte, 1);
	if (!has_points(z))
		(void)buf_add(&z->points, (const uint8_t[ZTOC_POINTS_HEAD]){ 0 }, ZTOC_POINTS_HEAD);
	le64_put(head, z->in);
	le64_put(head + 8, z->out);
	head[16] = bits;
	(void)buf_add(&z->points, head, sizeof(head));
	add_window(z);
	z->last = z->out;
	r = buf_check(&z->points);
	if (r == -EFBIG)
		return err_set(e, EOPNOTSUPP, ERR_UNSUPPORTED, "it would have too many checkpoints; make spans larger");
	return r < 0 ? no_memory(e) : 0;
}

static bool wants_point(const struct ztoc_gzip *z)
{
	bool between = (z->s.data_type & 128) && !(z->s.data_type & 64);

	return between && (z->out == 0 || z->out - z->last > z->span);
}

static errint_t damaged(const struct ztoc_gzip *z, int r, struct err *e)
{
	if (r == Z_MEM_ERROR)
		return no_memory(e);
	return err_set(e, EOPNOTSUPP, ERR_UNSUPPORTED, "its gzip stream is damaged near byte %llu (%s)",
		       (unsigned long long)z->in, z->s.msg ? z->s.msg : "cut off");
}

/* One call of inflate, up to a boundary, the end of the ring, or of the input. */
static errint_t step(struct ztoc_gzip *z, int *ret, struct err *e)
{
	const uint8_t *in = z->s.next_in, *out;
	size_t used, made;

	if (z->s.avail_out == 0) {
		z->s.avail_out = ZTOC_WINDOW;
		z->s.next_out = z->window;
	}
	out = z->s.next_out;
	*ret = inflate(&z->s, Z_BLOCK);
	used = (size_t)(z->s.next_in - in);
	made = (size_t)(z->s.next_out - out);
	z->in += used;
	z->out += made;
	if (used > 0) {
		z->last_byte = in[used - 1];
		if (has_points(z))
			digest_ctx_add(z->hash, in, used);
	}
	return made > 0 ? z->sink(z->ctx, out, made, e) : 0;
}

static errint_t advance(struct ztoc_gzip *z, struct err *e)
{
	int code = Z_OK;
	errint_t r;

	if (z->ended && inflateReset2(&z->s, AUTO_HEADER) != Z_OK)
		return no_memory(e);
	z->ended = false;
	r = step(z, &code, e);
	if (r < 0)
		return r;
	if (code != Z_OK && code != Z_BUF_ERROR && code != Z_STREAM_END)
		return damaged(z, code, e);
	z->ended = code == Z_STREAM_END;
	return !z->ended && wants_point(z) ? add_point(z, e) : 0;
}

errint_t ztoc_gzip_push(struct ztoc_gzip *z, const void *data, size_t len, struct err *e)
{
	const uint8_t *p = data;
	errint_t r = 0;

	while (r == 0 && len > 0) {
		size_t n = MIN_OF(len, (size_t)STEP_MAX);

		z->s.next_in = (Bytef *)(uintptr_t)p;
		z->s.avail_in = (uInt)n;
		while (r == 0 && (z->s.avail_in > 0 || (z->s.avail_out == 0 && !z->ended)))
			r = advance(z, e);
		p += n;
		len -= n;
	}
	return r;
}

errint_t ztoc_gzip_end(struct ztoc_gzip *z, struct err *e)
{
	uint8_t head[ZTOC_POINTS_HEAD];
	errint_t r;

	if (!z->ended || !has_points(z))
		return damaged(z, Z_DATA_ERROR, e);
	r = end_span(z, e);
	if (r < 0)
		return r;
	le32_put(head, (uint32_t)z->n);
	le64_put(head + 4, z->span);
	memcpy(z->points.data, head, sizeof(head));
	return 0;
}

const struct buf *ztoc_gzip_points(const struct ztoc_gzip *z)
{
	return &z->points;
}

const struct digest *ztoc_gzip_digests(const struct ztoc_gzip *z, size_t *ret_n)
{
	*ret_n = z->n;
	return z->digests;
}
