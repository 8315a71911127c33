/*
 * fuzz_merge.c - stacks of layers: the merged tree is sound and shows no marker and no open link,
 * and what a tree_stack says of a path while only upper layers are known is what that tree says
 *
 * The input is a list of entries: one byte for the type (0xff: the next layer), then path and
 * target, each ending with a newline.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cache/tree_stack.h"

#define LAYERS 8
#define ASKED_MAX 256	/* paths of a tree: an input may make many */

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

static void found_is_right(const struct tree_stack *s, const struct tree_stack_name *n, const struct tree *merged,
			   uint32_t i)
{
	struct tree_attr want, place, got;

	expect(i != TREE_NONE);
	tree_get(merged, i, &want);
	tree_get(tree_stack_tree(s, n->layer), n->node, &place);
	expect(n->is_dir == (want.type == TREE_DIR));
	expect(place.type == want.type);
	expect(want.type != TREE_REG || n->layer == want.layer);
	if (!n->has_attrs) {
		expect(n->is_dir);
		return;
	}
	tree_get(tree_stack_tree(s, n->attr_layer), n->attr_node, &got);
	expect(got.type == want.type && got.mode == want.mode && got.size == want.size);
	expect(got.target_len == want.target_len);
	expect(!want.target_len || memcmp(got.target, want.target, want.target_len) == 0);
}

static void ask(const struct tree_stack *s, bool all_known, const struct tree *merged, const char *path, size_t len)
{
	struct tree_stack_name n = { 0 };
	uint32_t i = tree_lookup_path(merged, path, len);

	switch (tree_stack_lookup(s, path, len, &n)) {
	case TREE_STACK_FOUND:
		found_is_right(s, &n, merged, i);
		break;
	case TREE_STACK_ABSENT:
		expect(i == TREE_NONE);
		break;
	case TREE_STACK_LOWER:
		expect(!all_known);
		break;
	case TREE_STACK_MERGE:
		break;
	default:
		abort();
	}
}

/* Asks for all that is in a tree; paths that are too long for one have no answer to compare. */
static void ask_all(const struct tree_stack *s, bool all_known, const struct tree *merged, const struct tree *of)
{
	for (uint32_t i = 0; i < tree_count(of) && i < ASKED_MAX; i++) {
		_cleanup_buf_ struct buf path = BUF_INIT(1u << 20);

		if (tree_path(of, i, &path) == 0)
			ask(s, all_known, merged, path.len ? path.data : "", path.len);
	}
}

static void check_early(struct tree *const *layers, size_t n, const struct tree *merged)
{
	_cleanup_(tree_stack_freep) struct tree_stack *s = tree_stack_new(n);

	for (size_t known = 1; known <= n; known++) {
		expect(tree_stack_push(s, layers[n - known]) == 0);
		ask_all(s, known == n, merged, merged);
		for (size_t i = 0; i < n; i++)
			ask_all(s, known == n, merged, layers[i]);
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
	check_early(layers, n, t);
	(void)tree_unref(t);
	for (size_t i = 0; i < n; i++)
		(void)tree_unref(layers[i]);
	return 0;
}
