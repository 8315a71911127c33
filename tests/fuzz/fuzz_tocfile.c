/*
 * fuzz_tocfile.c - any bytes as the object of a layer with a TOC, and as the tail of a blob
 *
 * What loads must be sound: granules in order and within their ceilings, and so are the chunks that
 * are read for them.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cache/toc_file.h"
#include "cache/toc_foot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct image {
	const uint8_t *data;
	size_t len;
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static errint_t read_image(void *ctx, uint64_t off, void *dst, size_t len, struct err *e)
{
	const struct image *m = ctx;

	(void)e;
	must(off <= m->len && len <= m->len - off);
	memcpy(dst, m->data + off, len);
	return 0;
}

static void check(const struct toc_file *f, uint32_t g, struct image *m)
{
	const struct toc_granule *p = &f->granules[g];
	struct toc_chunk *c = NULL;
	uint64_t out = p->out;

	must(p[1].out > out && p[1].out - out <= TOC_CHUNK_MAX && p[1].first > p->first && p[1].first <= f->n_chunks);
	if (toc_file_chunks(f, g, g + 1, read_image, m, &c, NULL) < 0)
		return;
	for (uint32_t i = 0; i < p[1].first - p->first; i++) {
		must(c[i].out == out && c[i].in < c[i].in_end && c[i].in_end <= f->packed && c[i].len <= TOC_CHUNK_MAX);
		must(i == 0 || c[i].in >= c[i - 1].in);
		out += c[i].len;
	}
	must(out == p[1].out);
	free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct image m = { data, len };
	struct toc_file f;
	struct toc_foot foot;

	if (toc_foot_parse(data, len, (uint64_t)len + 1000000, &foot, NULL) == 0)
		must(foot.packed > 0 && foot.off + foot.packed <= (uint64_t)len + 1000000);
	if (toc_file_load(&f, len, read_image, &m, NULL) == 0)
		for (uint32_t g = 0; g < f.n_granules; g++)
			check(&f, g, &m);
	toc_file_done(&f);
	return 0;
}
