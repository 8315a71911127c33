/*
 * tarunit.h - what the tests of the tar reader share
 *
 * Each test writes an archive with tarmake.c and looks at the tree that comes out.  Every good
 * archive is also pushed byte by byte (tree_of), which must make no difference.  One program is one
 * .c file that includes this once.
 */
#pragma once

#include "cache/tar_pax.h"
#include "tarmake.h"
#include "unit.h"

#define TAR(name) _cleanup_buf_ struct buf name = BUF_INIT(64u << 20)
#define REC(name) _cleanup_buf_ struct buf name = BUF_INIT(1u << 20)	/* PAX records */
#define TREE(name) _cleanup_(tree_unrefp) struct tree *name

/* Ends the archive, reads it in three ways, returns the tree. */
static _unused_ struct tree *tree_of(struct buf *tar)
{
	static const size_t steps[] = { 1, 511, 513 };
	struct tree *whole, *again;
	size_t a, b;

	tm_end(tar);
	whole = tm_tree(tar);
	for (size_t i = 0; whole && i < ARRAY_SIZE(steps); i++) {
		struct err e = { 0 };

		if (tar->len > 1u << 20 && steps[i] == 1)
			continue;
		CHECK_OK(tm_read(tar, steps[i], &again, NULL, &e));
		if (!again)
			continue;

		const void *x = tree_image(whole, &a), *y = tree_image(again, &b);

		CHECK(a == b && memcmp(x, y, a) == 0);
		(void)tree_unref(again);
	}
	return whole;
}

static _unused_ struct tree_attr attr(const struct tree *t, const char *path)
{
	struct tree_attr a = { 0 };

	if (t)
		(void)tm_get(t, path, &a);
	return a;
}

static _unused_ int read_error(const struct buf *tar)
{
	struct err e = { 0 };
	struct tree *t;
	errint_t r = tm_read(tar, 0, &t, NULL, &e);

	CHECK(r == 0 || e.eno == -r);
	CHECK(r == 0 || e.msg[0] != '\0');
	(void)tree_unref(t);
	return r;
}

/* One file behind an x header with these records. */
static _unused_ void pax_file(struct buf *tar, const struct buf *rec, const char *name, size_t size)
{
	_cleanup_free_ char *data = calloc(1, size + 1);

	tm_pax(tar, 'x', rec);
	(void)tm_header(tar, &(struct tm_head){ .name = name, .type = '0', .mode = 0600,
						.uid = 1, .gid = 2, .size = (int64_t)size,
						.mtime = 5 });
	tm_data(tar, data, size);
}

static _unused_ const void *xattr(const struct tree *t, const char *path, const char *name, size_t *ret_len)
{
	uint32_t n = tree_lookup_path(t, path, strlen(path));
	const char *key;
	const void *value;
	size_t key_len;

	for (size_t i = 0; n != TREE_NONE && tree_xattr(t, n, i, &key, &key_len, &value, ret_len); i++)
		if (key_len == strlen(name) && memcmp(key, name, key_len) == 0)
			return value;
	return NULL;
}
