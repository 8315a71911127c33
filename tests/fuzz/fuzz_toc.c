/*
 * fuzz_toc.c - any text as a table of contents: cut, read, checked, written as an object, read again
 *
 * What is accepted must be sound: the tree opens, the object loads, every granule's chunks are there.
 * In how many pieces the text comes makes no difference.
 */
#include <stdint.h>
#include <string.h>

#include "cache/toc_index.h"
#include "cache/toc_scan.h"

#define BLOB (1u << 30)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static errint_t element(void *ctx, const char *json, size_t len, struct err *e)
{
	struct toc_entry en;
	errint_t r = toc_entry_parse(json, len, &en, e);

	if (r == 0)
		r = toc_index_add(ctx, &en, e);
	toc_entry_done(&en);
	return r;
}

static errint_t read_image(void *ctx, uint64_t off, void *dst, size_t len, struct err *e)
{
	const struct buf *b = ctx;

	(void)e;
	must(off <= b->len && len <= b->len - off);
	memcpy(dst, b->data + off, len);
	return 0;
}

static void check_file(struct buf *image)
{
	struct toc_file f;

	must(toc_file_load(&f, image->len, read_image, image, NULL) == 0);
	for (uint32_t g = 0; g < f.n_granules; g++) {
		struct toc_chunk *c = NULL;

		must(toc_file_chunks(&f, g, g + 1, read_image, image, &c, NULL) == 0);
		must(toc_file_granule(&f, f.granules[g].out) == g);
		must(c[0].out == f.granules[g].out);
		free(c);
	}
	must(!f.n_granules || toc_file_granule(&f, f.size - 1) == f.n_granules - 1);
	toc_file_done(&f);
}

static void check_index(struct toc_index *x)
{
	struct buf image = BUF_INIT(LAYER_IMAGE_MAX);
	struct toc_file f = { .format = TOC_ZSTD, .size = x->out, .packed = BLOB, .n_chunks = (uint32_t)x->n_chunks };
	struct tree *t = NULL;
	void *copy;

	must(tree_builder_finish(x->tree, &image, NULL) == 0);
	copy = malloc(image.len);
	memcpy(copy, image.data, image.len);
	must(tree_open_mem(copy, image.len, &t, NULL) == 0);
	(void)tree_unref(t);
	must(toc_file_finish(&f, x->chunks, NULL, &image) == 0);
	toc_file_done(&f);
	check_file(&image);
	buf_done(&image);
}

static errint_t run(const uint8_t *data, size_t len, size_t step, struct toc_index *x)
{
	struct err e = { 0 };
	struct toc_scan *s = toc_scan_new(element, x);
	errint_t r = toc_index_init(x, TOC_ESTARGZ, BLOB - 100, &e);

	for (size_t at = 0; r == 0 && at < len; at += step)
		r = toc_scan_push(s, data + at, MIN_OF(step, len - at), &e);
	if (r == 0)
		r = toc_scan_end(s, &e);
	if (r == 0)
		r = toc_index_end(x, &e);
	must(r == 0 || r == -EBADMSG);
	must(r == 0 || e.msg[0]);
	(void)toc_scan_free(s);
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct toc_index a, b;
	errint_t r = run(data, len, len + 1, &a);

	must(run(data, len, 1 + len % 7, &b) == r);
	must(r < 0 || (a.n_chunks == b.n_chunks && a.out == b.out));
	if (r == 0)
		check_index(&a);
	toc_index_done(&a);
	toc_index_done(&b);
	return 0;
}
