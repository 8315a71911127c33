/*
 * toc_file.c - writing and checking the object of a layer with a TOC (layout in toc_file.h)
 *
 * The reader trusts nothing: every length is checked against the object's before anything is
 * allocated, so that users of a struct toc_file need no checks of their own.
 */
#include "cache/toc_file.h"

#include <string.h>

#include "cache/le.h"

static const char magic[8] = "RGFSTOC1";

/* Where the head's fields are. */
enum {
	AT_MAGIC = 0,
	AT_SIZE = 8,
	AT_PACKED = 16,
	AT_TREE_LEN = 24,
	AT_N_CHUNKS = 32,
	AT_N_GRANULES = 36,
	AT_FORMAT = 40,
	AT_FIRST = 48,
};

/* Where a chunk's fields are. */
enum {
	AT_IN = 0,
	AT_IN_END = 8,
	AT_OUT = 16,
	AT_INNER = 24,
	AT_LEN = 28,
	AT_SHA = 32,
};

/* Where a span's fields are. */
enum { AT_HEADER = 0, AT_N_HEADERS = 8, AT_SUM = 12 };

/* ---- granules */

/* Does chunk c, which follows p, begin a new granule, when the present one has that much? */
static bool breaks(const struct toc_chunk *p, const struct toc_chunk *c, uint64_t bytes, uint32_t n)
{
	bool same_member = c->in == p->in;

	if (n >= TOC_GRANULE_CHUNKS || (c->in > p->in_end && c->in - p->in_end > TOC_GAP_MAX))
		return true;
	return bytes + c->len > (same_member ? TOC_GRANULE_MEMBER : TOC_GRANULE_AIM);
}

static uint32_t count_granules(enum toc_format format, const struct toc_chunk *chunks, uint32_t n,
			       struct toc_granule *out)
{
	uint32_t first = 0, count = 0;

	for (uint32_t i = 0; i < n; i++) {
		if (i > 0 && !toc_is_soci(format) &&
		    !breaks(&chunks[i - 1], &chunks[i], chunks[i].out - chunks[first].out, i - first))
			continue;
		first = i;
		if (out)
			out[count] = (struct toc_granule){ chunks[i].out, i };
		count++;
	}
	return count;
}

static errint_t make_granules(struct toc_file *f, const struct toc_chunk *chunks)
{
	f->n_granules = count_granules(f->format, chunks, f->n_chunks, NULL);
	f->granules = calloc(f->n_granules + 1UL, sizeof(*f->granules));
	if (!f->granules)
		return -ENOMEM;
	(void)count_granules(f->format, chunks, f->n_chunks, f->granules);
	f->granules[f->n_granules] = (struct toc_granule){ f->size, f->n_chunks };
	return 0;
}

uint32_t toc_file_granule(const struct toc_file *f, uint64_t out)
{
	uint32_t lo = 0, hi = f->n_granules;	/* granules[lo].out <= out < granules[hi].out */

	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (f->granules[mid].out <= out)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

/* ---- writing */

static void put_chunk(const struct toc_chunk *c, uint8_t p[static TOC_CHUNK_BYTES])
{
	le64_put(p + AT_IN, c->in);
	le64_put(p + AT_IN_END, c->in_end);
	le64_put(p + AT_OUT, c->out);
	le32_put(p + AT_INNER, c->inner);
	le32_put(p + AT_LEN, c->len);
	memcpy(p + AT_SHA, c->sha256, sizeof(c->sha256));
}

static void put_head(const struct toc_file *f, uint8_t p[static TOC_HEAD_BYTES])
{
	memset(p, 0, TOC_HEAD_BYTES);
	memcpy(p + AT_MAGIC, magic, sizeof(magic));
	le64_put(p + AT_SIZE, f->size);
	le64_put(p + AT_PACKED, f->packed);
	le64_put(p + AT_TREE_LEN, f->tree_len);
	le32_put(p + AT_N_CHUNKS, f->n_chunks);
	le32_put(p + AT_N_GRANULES, f->n_granules);
	le32_put(p + AT_FORMAT, f->format);
	le64_put(p + AT_FIRST, f->first);
}

/* of a span */
static uint64_t span_bytes(const struct toc_file *f)
{
	if (!toc_is_soci(f->format))
		return 0;
	return TOC_SPAN_HEAD + (f->format == TOC_SOCI_GZIP ? TOC_WINDOW_BYTES : 0);
}

static uint64_t table_bytes(const struct toc_file *f)
{
	return (uint64_t)f->n_chunks * (TOC_CHUNK_BYTES + span_bytes(f)) +
	       (uint64_t)f->n_granules * TOC_GRANULE_BYTES;
}

static void put_span(const struct toc_file *f, const struct toc_span *x, struct buf *image)
{
	static const uint8_t zeros[TOC_WINDOW_BYTES];
	uint8_t head[TOC_SPAN_HEAD];

	le64_put(head + AT_HEADER, x->header);
	le32_put(head + AT_N_HEADERS, x->n_headers);
	le32_put(head + AT_SUM, x->sum);
	(void)buf_add(image, head, sizeof(head));
	if (f->format == TOC_SOCI_GZIP)
		(void)buf_add(image, x->window ? x->window : zeros, TOC_WINDOW_BYTES);
}

errint_t toc_file_finish(struct toc_file *f, const struct toc_chunk *chunks, const struct toc_span *spans,
			 struct buf *image)
{
	uint8_t chunk[TOC_CHUNK_BYTES], granule[TOC_GRANULE_BYTES] = { 0 }, head[TOC_HEAD_BYTES];
	errint_t r = make_granules(f, chunks);

	if (r < 0)
		return r;
	f->tree_len = image->len;
	(void)buf_reserve(image, table_bytes(f) + sizeof(head));
	for (uint32_t i = 0; i < f->n_chunks; i++) {
		put_chunk(&chunks[i], chunk);
		(void)buf_add(image, chunk, sizeof(chunk));
	}
	for (uint32_t i = 0; toc_is_soci(f->format) && i < f->n_chunks; i++)
		put_span(f, &spans[i], image);
	for (uint32_t i = 0; i < f->n_granules; i++) {
		le64_put(granule, f->granules[i].out);
		le32_put(granule + 8, f->granules[i].first);
		(void)buf_add(image, granule, sizeof(granule));
	}
	put_head(f, head);
	(void)buf_add(image, head, sizeof(head));
	return buf_check(image);
}

/* ---- reading */

static errint_t bad(struct err *e)
{
	return err_set(e, EBADMSG, ERR_INTEGRITY, "the cached index of the layer is damaged");
}

static bool get_head(struct toc_file *f, const uint8_t p[static TOC_HEAD_BYTES], uint64_t len)
{
	uint32_t format = le32_get(p + AT_FORMAT);

	if (memcmp(p + AT_MAGIC, magic, sizeof(magic)) != 0 || format < TOC_ESTARGZ || format >= TOC_FORMATS)
		return false;
	f->format = format;
	f->size = le64_get(p + AT_SIZE);
	f->packed = le64_get(p + AT_PACKED);
	f->tree_len = le64_get(p + AT_TREE_LEN);
	f->n_chunks = le32_get(p + AT_N_CHUNKS);
	f->n_granules = le32_get(p + AT_N_GRANULES);
	f->first = le64_get(p + AT_FIRST);
	return f->first <= f->size && f->size <= TOC_SIZE_MAX && f->tree_len <= LAYER_TREE_MAX && f->n_chunks <= TOC_CHUNKS_MAX &&
	       f->n_granules <= f->n_chunks && !f->n_granules == !f->n_chunks &&
	       !f->size == !f->n_chunks && len == f->tree_len + table_bytes(f) + TOC_HEAD_BYTES;
}

/* A granule's bytes are our memory when it is filled. */
static bool granule_ok(const struct toc_granule *g, const struct toc_granule *next)
{
	return next->out > g->out && next->first > g->first &&
	       next->first - g->first <= TOC_GRANULE_CHUNKS && next->out - g->out <= TOC_CHUNK_MAX;
}

static bool get_granules(struct toc_file *f, const uint8_t *p)
{
	for (uint32_t i = 0; i < f->n_granules; i++, p += TOC_GRANULE_BYTES)
		f->granules[i] = (struct toc_granule){ le64_get(p), le32_get(p + 8) };
	f->granules[f->n_granules] = (struct toc_granule){ f->size, f->n_chunks };
	if (f->granules[0].out != 0 || f->granules[0].first != 0)
		return false;
	for (uint32_t i = 0; i < f->n_granules; i++)
		if (!granule_ok(&f->granules[i], &f->granules[i + 1]))
			return false;
	return true;
}

errint_t toc_file_load(struct toc_file *f, uint64_t len, layer_read_fn read, void *ctx, struct err *e)
{
	_cleanup_free_ uint8_t *table = NULL;
	uint8_t head[TOC_HEAD_BYTES];
	size_t n;

	*f = (struct toc_file){ 0 };
	if (len < sizeof(head))
		return bad(e);
	errint_t r = read(ctx, len - sizeof(head), head, sizeof(head), e);
	if (r < 0)
		return r;
	if (!get_head(f, head, len))
		return bad(e);
	n = (size_t)f->n_granules * TOC_GRANULE_BYTES;
	table = malloc(n + 1);
	f->granules = calloc(f->n_granules + 1UL, sizeof(*f->granules));
	if (!table || !f->granules)
		return err_errno(e, ENOMEM, "opening a layer");
	r = n ? read(ctx, len - sizeof(head) - n, table, n, e) : 0;
	if (r < 0)
		return r;
	return get_granules(f, table) ? 0 : bad(e);
}

void toc_file_done(struct toc_file *f)
{
	free(f->granules);
	*f = (struct toc_file){ 0 };
}

static bool get_chunk(const struct toc_file *f, struct toc_chunk *c, const uint8_t p[static TOC_CHUNK_BYTES])
{
	c->in = le64_get(p + AT_IN);
	c->in_end = le64_get(p + AT_IN_END);
	c->out = le64_get(p + AT_OUT);
	c->inner = le32_get(p + AT_INNER);
	c->len = le32_get(p + AT_LEN);
	memcpy(c->sha256, p + AT_SHA, sizeof(c->sha256));
	return c->in < c->in_end && c->in_end <= f->packed && c->inner <= TOC_INNER_MAX && c->len > 0 &&
	       c->len <= TOC_CHUNK_MAX;
}

static bool follows(const struct toc_chunk *p, const struct toc_chunk *c)
{
	if (c->out != p->out + p->len)
		return false;
	if (c->in == p->in)
		return c->inner >= (uint64_t)p->inner + p->len;
	return c->in >= p->in_end;
}

static errint_t get_chunks(const struct toc_file *f, const struct toc_granule *g, const struct toc_granule *end,
			   const uint8_t *p, struct toc_chunk *out)
{
	uint32_t n = end->first - g->first;

	for (uint32_t i = 0; i < n; i++, p += TOC_CHUNK_BYTES)
		if (!get_chunk(f, &out[i], p) || (i > 0 && !follows(&out[i - 1], &out[i])))
			return -EBADMSG;
	if (out[0].out != g->out || out[n - 1].out + out[n - 1].len != end->out)
		return -EBADMSG;
	for (; g < end; g++)
		if (out[g->first - (end->first - n)].out != g->out)
			return -EBADMSG;
	return 0;
}

errint_t toc_file_chunks(const struct toc_file *f, uint32_t from, uint32_t to, layer_read_fn read,
			 void *ctx, struct toc_chunk **ret, struct err *e)
{
	const struct toc_granule *g = &f->granules[from], *end = &f->granules[to];
	size_t n = end->first - g->first;
	_cleanup_free_ uint8_t *table = malloc(n * TOC_CHUNK_BYTES);
	_cleanup_free_ struct toc_chunk *chunks = calloc(n, sizeof(*chunks));

	if (!table || !chunks)
		return err_errno(e, ENOMEM, "reading a layer");
	errint_t r = read(ctx, f->tree_len + (uint64_t)g->first * TOC_CHUNK_BYTES, table,
			  n * TOC_CHUNK_BYTES, e);
	if (r < 0)
		return r;
	if (get_chunks(f, g, end, table, chunks) < 0)
		return bad(e);
	*ret = steal_ptr(&chunks);
	return 0;
}

errint_t toc_file_span(const struct toc_file *f, uint32_t n, layer_read_fn read, void *ctx,
		       uint8_t window[static TOC_WINDOW_BYTES], struct toc_span *ret, struct err *e)
{
	uint64_t at = f->tree_len + (uint64_t)f->n_chunks * TOC_CHUNK_BYTES + n * span_bytes(f);
	uint8_t head[TOC_SPAN_HEAD];
	errint_t r = read(ctx, at, head, sizeof(head), e);

	*ret = (struct toc_span){
		.header = le64_get(head + AT_HEADER), .n_headers = le32_get(head + AT_N_HEADERS),
		.sum = le32_get(head + AT_SUM),
	};
	if (r == 0 && f->format == TOC_SOCI_GZIP && f->granules[n].out > 0) {
		r = read(ctx, at + TOC_SPAN_HEAD, window, TOC_WINDOW_BYTES, e);
		ret->window = window;
	}
	if (r == 0 && ret->n_headers &&
	    (ret->header < f->granules[n].out || ret->header >= f->granules[n + 1].out))
		return bad(e);
	return r;
}
