/*
 * fuzz_tar.c - archives: any bytes, in pieces of any size, must give the same sound tree or error
 *
 * Byte 0 chooses the size of the pieces and (top bit) whether the checksums of all blocks are put
 * right first, so that changed headers are read and not only refused.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/tar.h"

#define IMAGE_MAX (64u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(bool ok)
{
	if (!ok)
		abort();
}

static void fix_checksums(unsigned char *p, size_t len)
{
	for (; len >= 512; p += 512, len -= 512) {
		unsigned sum = 8 * ' ';
		char text[8];

		if (p[0] == 0 && memcmp(p, p + 1, 511) == 0)
			continue;
		for (size_t i = 0; i < 512; i++)
			sum += i - 148 < 8 ? 0 : p[i];
		(void)snprintf(text, sizeof(text), "%06o", sum);
		memcpy(p + 148, text, 8);
	}
}

static errint_t add(void *ctx, const struct tree_entry *en, struct err *e)
{
	return tree_builder_add(ctx, en, e);
}

static errint_t read_tar(const unsigned char *p, size_t len, size_t step, struct buf *image)
{
	_cleanup_(tree_builder_freep) struct tree_builder *b = tree_builder_new();
	_cleanup_(tar_reader_freep) struct tar_reader *t = tar_reader_new(add, b);
	struct err e = { 0 };
	errint_t r = 0;

	for (size_t at = 0; r == 0 && at < len; at += step)
		r = tar_reader_push(t, p + at, MIN_OF(step, len - at), &e);
	if (r == 0)
		r = tar_reader_end(t, &e);
	if (r == 0)
		r = tree_builder_finish(b, image, &e);
	expect(r == 0 || (e.eno == -r && e.msg[0] && e.cls != ERR_BUG));
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_buf_ struct buf whole = BUF_INIT(IMAGE_MAX), pieces = BUF_INIT(IMAGE_MAX);
	struct tree *t = NULL;
	size_t len;

	if (size < 1)
		return 0;

	_cleanup_free_ unsigned char *copy = malloc(size);

	memcpy(copy, data + 1, size - 1);
	if (data[0] & 0x80)
		fix_checksums(copy, size - 1);

	errint_t r = read_tar(copy, size - 1, size, &whole);

	expect(read_tar(copy, size - 1, (data[0] & 0x7fu) * 9 + 1, &pieces) == r);
	if (r < 0)
		return 0;
	expect(whole.len == pieces.len && memcmp(whole.data, pieces.data, whole.len) == 0);

	char *image = buf_take(&whole, &len);

	expect(tree_open_mem(image, len, &t, NULL) == 0);
	(void)tree_unref(t);
	return 0;
}
