/*
 * fuzz_erofs.c - any tree that tree_open lets pass becomes an image that shows exactly that tree, or
 * is refused
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/erofsread.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct digest id = { .alg = DIGEST_SHA256, .len = 32 };
	_cleanup_buf_ struct buf image = BUF_INIT(64u << 20);
	_cleanup_(tree_unrefp) struct tree *t = NULL;
	void *copy = malloc(size + 1);
	struct err e;

	if (!copy)
		return 0;
	memcpy(copy, data, size);
	if (tree_open_mem(copy, size, &t, &e) < 0 || erofs_write(t, &id, &image, NULL, &e) < 0)
		return 0;

	const char *wrong = er_compare(t, &image);

	if (wrong) {
		fprintf(stderr, "%s\n", wrong);
		abort();
	}
	return 0;
}
