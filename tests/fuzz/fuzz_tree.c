/*
 * fuzz_tree.c - images: what tree_open lets pass must be safe for every accessor
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cache/tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned char sink;

static void expect(bool ok)
{
	if (!ok)
		abort();
}

static void touch(const void *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		sink ^= ((const unsigned char *)p)[i];
}

static void walk_lists(const struct tree *t, uint32_t n, const struct tree_attr *a)
{
	const char *name;
	const void *value;
	size_t name_len, value_len;
	struct tree_extent x;
	uint64_t end = 0;

	for (size_t i = 0; tree_xattr(t, n, i, &name, &name_len, &value, &value_len); i++) {
		touch(name, name_len);
		touch(value, value_len);
	}
	for (size_t i = 0; tree_extent(t, n, i, &x); i++) {
		expect(x.off >= end && x.len > 0 && x.len <= a->size - x.off);
		end = x.off + x.len;
	}
}

static void walk_node(const struct tree *t, uint32_t n)
{
	struct tree_attr a, child;

	tree_get(t, n, &a);
	touch(a.name, a.name_len);
	expect(a.ino < tree_count(t) && a.parent < tree_count(t) && (a.parent < n || n == 0));
	expect(a.type > TREE_UNSET && a.type <= TREE_LINK && a.nlink > 0);
	if (a.target) {
		touch(a.target, a.target_len + 1);
		expect(strlen(a.target) == a.target_len);
	}
	for (uint32_t i = 0; i < a.n_children; i++) {
		tree_get(t, a.first_child + i, &child);
		expect(child.parent == n);
		expect(tree_lookup(t, n, child.name, child.name_len) == a.first_child + i);
	}
	walk_lists(t, n, &a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_buf_ struct buf path = BUF_INIT(TREE_PATH_MAX);
	struct tree *t = NULL;
	struct err e = { 0 };
	void *image = malloc(size + 1);
	size_t len;

	memcpy(image, data, size);
	if (tree_open_mem(image, size, &t, &e) < 0) {
		expect(e.eno == EBADMSG && e.cls == ERR_INTEGRITY);
		return 0;
	}
	for (uint32_t n = 0; n < tree_count(t); n++) {
		walk_node(t, n);
		buf_clear(&path);
		if (tree_path(t, n, &path) == 0)
			expect(tree_lookup_path(t, buf_str(&path), path.len) == n);
	}
	(void)tree_data_bytes(t);
	expect(tree_image(t, &len) == image && len == size);

	/* A layer from a cache is merged, too. */
	_cleanup_buf_ struct buf merged = BUF_INIT(64u << 20);
	struct tree *twice[] = { t, t }, *m = NULL;

	if (tree_merge(twice, 2, &merged, NULL, NULL) == 0) {
		image = buf_take(&merged, &len);
		expect(tree_open_mem(image, len, &m, NULL) == 0);
	}
	(void)tree_unref(m);
	(void)tree_unref(t);
	return 0;
}
