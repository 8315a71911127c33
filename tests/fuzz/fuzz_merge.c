/*
 * fuzz_merge.c - stacks of layers: the merged tree is sound and shows no marker and no open link
 *
 * The input is a list of entries: one byte for the type (0xff: the next layer), then path and
 * target, each ending with a newline.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cache/tree.h"

#define LAYERS 8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(bool ok)
{
	if (!ok)
		abort();
}

static struct tree *open_image(struct buf *b)
{
	struct tree *t = NULL;
	size_t len;
	char *image = buf_take(b, &len);

	expect(tree_open_mem(image, len, &t, NULL) == 0);
	return t;
}

static const char *take_line(const uint8_t **p, const uint8_t *end, size_t *ret_len)
{
	const char *s = (const char *)*p;
	const uint8_t *nl = memchr(*p, '\n', (size_t)(end - *p));

	*ret_len = (size_t)((nl ? nl : end) - *p);
	*p = nl ? nl + 1 : end;
	return s;
}

/* One layer; stops behind the byte 0xff. */
static struct tree *read_layer(const uint8_t **p, const uint8_t *end)
{
	_cleanup_(tree_builder_freep) struct tree_builder *b = tree_builder_new();
	_cleanup_buf_ struct buf image = BUF_INIT(16u << 20);

	while (*p < end) {
		uint8_t op = *(*p)++;
		struct tree_entry en = { .type = 1 + op % TREE_LINK, .mode = op, .size = op };

		if (op == 0xff || *p == end)
			break;
		en.path = take_line(p, end, &en.path_len);
		en.target = take_line(p, end, &en.target_len);
		expect(tree_builder_add(b, &en, NULL) == 0);
	}
	expect(tree_builder_finish(b, &image, NULL) == 0);
	return open_image(&image);
}

static void check(const struct tree *t)
{
	for (uint32_t i = 0; i < tree_count(t); i++) {
		struct tree_attr a;

		tree_get(t, i, &a);
		expect(a.type != TREE_LINK);
		expect(a.name_len < 4 || memcmp(a.name, ".wh.", 4) != 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_buf_ struct buf image = BUF_INIT(64u << 20);
	const uint8_t *p = data, *end = data + size;
	struct tree *layers[LAYERS], *t;
	size_t n = 0;

	while (n < LAYERS && p < end)
		layers[n++] = read_layer(&p, end);
	expect(tree_merge(layers, n, &image, NULL, NULL) == 0);
	t = open_image(&image);
	check(t);
	(void)tree_unref(t);
	for (size_t i = 0; i < n; i++)
		(void)tree_unref(layers[i]);
	return 0;
}
