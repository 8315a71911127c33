/*
 * fuzz_ztocbuild.c - any blob as a layer that is to be indexed: a zTOC that our reader takes, or a
 * reason why not
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cache/ztoc.h"
#include "cache/ztoc_build.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct blob {
	const uint8_t *data;
	size_t size;
};

/* In pieces of 1, 2, 3 .. bytes, so that every boundary is hit. */
static errint_t give(void *ctx, const struct digest *d, uint64_t size, uint64_t off, uint64_t len,
		     ca_sink_fn sink, void *sink_ctx, struct cancel *c, struct err *e)
{
	const struct blob *b = ctx;
	size_t at = 0;
	errint_t r = 0;

	(void)d;
	(void)size;
	(void)off;
	(void)len;
	(void)c;
	for (size_t n = 1; r == 0 && at < b->size; n++) {
		n = MIN_OF(n, b->size - at);
		r = sink(sink_ctx, b->data + at, n, e);
		at += n;
	}
	return r;
}

static void expect(bool ok)
{
	if (!ok)
		abort();
}

static void check(const struct ca_ztoc *made, size_t size)
{
	struct ztoc_walk w;
	struct ztoc_file f;
	struct ztoc z = { 0 };
	struct err e = { 0 };
	uint32_t n = 0;
	int r;

	expect(made->bytes.len % 8 == 0 && made->n_spans > 0);
	expect(ztoc_parse(made->bytes.data, made->bytes.len, &z, &e) == 0);
	expect(z.packed == size && z.size == made->tar_bytes && z.n_spans == made->n_spans);
	ztoc_walk_init(&w, &z);
	while ((r = ztoc_walk_next(&w, &f, &e)) > 0)
		n++;
	expect(r < 0 || n == made->n_files);
	ztoc_walk_done(&w);
	ztoc_done(&z);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct blob b = { data, size };
	struct ca_source src = { .read = give, .ctx = &b };
	struct ca_ztoc z = { 0 };
	struct err e = { 0 };
	struct digest d;
	errint_t r;

	digest_of(DIGEST_SHA256, data, size, &d);
	r = ca_ztoc_build(&d, size, ZTOC_SPAN_MIN, "fuzz", &src, &z, NULL, &e);
	if (r == 0)
		check(&z, size);
	else
		expect(r == -EOPNOTSUPP && e.msg[0] && z.bytes.len == 0);
	ca_ztoc_done(&z);
	return 0;
}
