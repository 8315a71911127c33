/*
 * fuzz_ztoc.c - any bytes as a zTOC: read, checked, written as an object, read again
 *
 * What is accepted must be sound: spans and files lie where ztoc.h says, the tree opens, the object
 * loads, and every granule has its span.  The time for it is bounded by the length.
 */
#include <stdint.h>
#include <string.h>

#include "cache/ztoc_index.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static errint_t read_image(void *ctx, uint64_t off, void *dst, size_t len, struct err *e)
{
	const struct buf *b = ctx;

	(void)e;
	must(off <= b->len && len <= b->len - off);
	memcpy(dst, b->data + off, len);
	return 0;
}

static void check_object(struct buf *image)
{
	struct toc_file f;
	uint8_t window[TOC_WINDOW_BYTES];

	must(toc_file_load(&f, image->len, read_image, image, NULL) == 0);
	must(toc_is_soci(f.format) && f.n_granules == f.n_chunks);
	for (uint32_t g = 0; g < f.n_granules; g++) {
		struct toc_chunk *c = NULL;
		struct toc_span s;

		must(toc_file_chunks(&f, g, g + 1, read_image, image, &c, NULL) == 0);
		must(c->out == f.granules[g].out && c->inner <= 7 && c->in_end <= f.packed);
		must(toc_file_span(&f, g, read_image, image, window, &s, NULL) == 0);
		must(!s.n_headers || (s.header >= c->out && s.header < c->out + c->len));
		must(g == 0 || f.format == TOC_SOCI_PLAIN || s.window);
		free(c);
	}
	toc_file_done(&f);
}

static void check_index(const struct ztoc *z, struct ztoc_index *x)
{
	struct buf image = BUF_INIT(LAYER_IMAGE_MAX);
	struct toc_file f = {
		.format = z->algorithm == ZTOC_GZIP ? TOC_SOCI_GZIP : TOC_SOCI_PLAIN, .size = z->size,
		.packed = z->packed, .n_chunks = x->n_chunks,
	};
	struct tree *t = NULL;
	void *copy;

	must(tree_builder_finish(x->tree, &image, NULL) == 0);
	copy = malloc(image.len);
	memcpy(copy, image.data, image.len);
	must(tree_open_mem(copy, image.len, &t, NULL) == 0);
	(void)tree_unref(t);
	must(toc_file_finish(&f, x->chunks, x->spans, &image) == 0);
	toc_file_done(&f);
	check_object(&image);
	buf_done(&image);
}

static errint_t no_limit(void *ctx, uint64_t bytes, struct err *e)
{
	(void)ctx;
	(void)bytes;
	(void)e;
	return 0;
}

static void check_spans(const struct ztoc *z)
{
	uint64_t len = 0;

	must(z->n_spans > 0 && z->spans[z->n_spans - 1].in_end == z->packed);
	for (uint32_t i = 0; i < z->n_spans; i++) {
		const struct ztoc_span *s = &z->spans[i];

		must(s->in < s->in_end && s->in_end <= z->packed && s->bits <= 7);
		must(s->len == 0 || s->out == len);
		must(!s->window || (s->window >= z->data && s->window + ZTOC_WINDOW <= z->data + z->len));
		len += s->len;
	}
	must(len == z->size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct ztoc z;
	struct ztoc_index x = { 0 };
	struct err e = { 0 };
	errint_t r = ztoc_parse(data, len, &z, &e);

	if (r == 0) {
		check_spans(&z);
		r = ztoc_index(&x, &z, no_limit, NULL, &e);
	}
	must(r == 0 || (r == -EBADMSG && e.msg[0]));
	if (r == 0)
		check_index(&z, &x);
	ztoc_index_done(&x);
	ztoc_done(&z);
	return 0;
}
