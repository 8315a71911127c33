/*
 * tarmake.c - a small tar writer that can also write what no tar should contain
 */
#include "tarmake.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 512

static void put_number(char *field, size_t len, int64_t v)
{
	if (v >= 0 && v < (INT64_C(1) << (3 * (len - 1)))) {
		char tmp[32];

		(void)snprintf(tmp, sizeof(tmp), "%0*" PRIo64, (int)len - 1, (uint64_t)v);
		memcpy(field, tmp, len);
		return;
	}
	for (size_t i = 0; i < len; i++) {
		size_t shift = 8 * (len - 1 - i);

		field[i] = (char)(shift > 63 ? (v < 0 ? 0xff : 0) : (uint64_t)v >> shift);
	}
	field[0] = (char)(field[0] | 0x80);
	if (v >= 0)
		field[0] = (char)0x80;
}

static void put_string(char *field, size_t max, const char *s)
{
	if (s)
		memcpy(field, s, MIN_OF(strlen(s), max));
}

static void checksum(char *h)
{
	unsigned sum = 0;
	char tmp[16];

	memset(h + 148, ' ', 8);
	for (size_t i = 0; i < BLOCK; i++)
		sum += (unsigned char)h[i];
	(void)snprintf(tmp, sizeof(tmp), "%06o", sum);
	memcpy(h + 148, tmp, 7);
}

size_t tm_header(struct buf *b, const struct tm_head *head)
{
	char h[BLOCK] = { 0 };
	size_t at = b->len;

	put_string(h, 100, head->name);
	put_number(h + 100, 8, head->mode);
	put_number(h + 108, 8, head->uid);
	put_number(h + 116, 8, head->gid);
	put_number(h + 124, 12, head->size);
	put_number(h + 136, 12, head->mtime);
	h[156] = head->type;
	put_string(h + 157, 100, head->link);
	if (head->format != TM_V7)
		memcpy(h + 257, head->format == TM_GNU ? "ustar  " : "ustar\00000", 8);
	if (head->format != TM_V7) {
		put_number(h + 329, 8, head->major);
		put_number(h + 337, 8, head->minor);
	}
	put_string(h + 345, 155, head->prefix);
	checksum(h);
	(void)buf_add(b, h, sizeof(h));
	return at;
}

void tm_patch(struct buf *b, size_t at, size_t field, const void *bytes, size_t len)
{
	memcpy(b->data + at + field, bytes, len);
	checksum(b->data + at);
}

void tm_data(struct buf *b, const void *data, size_t len)
{
	static const char zero[BLOCK];

	(void)buf_add(b, data, len);
	(void)buf_add(b, zero, -len & (BLOCK - 1));
}

void tm_file(struct buf *b, const char *name, const char *data)
{
	(void)tm_header(b, &(struct tm_head){ .name = name, .type = '0', .mode = 0644,
					      .size = (int64_t)strlen(data), .mtime = 1000 });
	tm_data(b, data, strlen(data));
}

void tm_dir(struct buf *b, const char *name)
{
	(void)tm_header(b, &(struct tm_head){ .name = name, .type = '5', .mode = 0750, .uid = 7,
					      .gid = 8, .mtime = 2000 });
}

void tm_symlink(struct buf *b, const char *name, const char *target)
{
	(void)tm_header(b, &(struct tm_head){ .name = name, .link = target, .type = '2',
					      .mode = 0777, .mtime = 3000 });
}

void tm_link(struct buf *b, const char *name, const char *target)
{
	(void)tm_header(b, &(struct tm_head){ .name = name, .link = target, .type = '1',
					      .mode = 0644, .mtime = 4000 });
}

void tm_end(struct buf *b)
{
	static const char zero[2 * BLOCK];

	(void)buf_add(b, zero, sizeof(zero));
}

void tm_record(struct buf *rec, const char *key, const void *value, size_t len)
{
	size_t body = strlen(key) + len + 3, total = body + 1;
	char digits[24];

	while (total != body + (size_t)snprintf(digits, sizeof(digits), "%zu", total))
		total++;
	(void)buf_addf(rec, "%s %s=", digits, key);
	(void)buf_add(rec, value, len);
	(void)buf_addc(rec, '\n');
}

void tm_records(struct buf *rec, const char *key, const char *value)
{
	tm_record(rec, key, value, strlen(value));
}

void tm_pax(struct buf *b, char type, const struct buf *rec)
{
	(void)tm_header(b, &(struct tm_head){ .name = "pax", .type = type, .mode = 0644,
					      .size = (int64_t)rec->len });
	tm_data(b, buf_str(rec), rec->len);
}

void tm_long(struct buf *b, char type, const char *s)
{
	(void)tm_header(b, &(struct tm_head){ .name = "././@LongLink", .type = type,
					      .format = TM_GNU, .size = (int64_t)strlen(s) + 1 });
	tm_data(b, s, strlen(s) + 1);
}

/* ---- reading -------------------------------------------------------------------------------- */

static errint_t add_entry(void *ctx, const struct tree_entry *en, struct err *e)
{
	return tree_builder_add(ctx, en, e);
}

static errint_t open_buf(struct buf *b, struct tree **ret, struct err *e)
{
	size_t len;
	void *image = buf_take(b, &len);

	return tree_open_mem(image, len, ret, e);
}

errint_t tm_read(const struct buf *tar, size_t step, struct tree **ret, uint64_t *ret_refused, struct err *e)
{
	_cleanup_(tree_builder_freep) struct tree_builder *b = tree_builder_new();
	_cleanup_(tar_reader_freep) struct tar_reader *t = tar_reader_new(add_entry, b);
	_cleanup_buf_ struct buf image = BUF_INIT(1u << 30);
	errint_t r = 0;

	*ret = NULL;
	step = step ? step : tar->len;
	for (size_t at = 0; r == 0 && at < tar->len; at += step) {
		/* A copy of exact size: reading past the piece is seen by the sanitizer. */
		size_t n = MIN_OF(step, tar->len - at);
		_cleanup_free_ char *piece = malloc(n);

		memcpy(piece, tar->data + at, n);
		r = tar_reader_push(t, piece, n, e);
	}
	if (r == 0)
		r = tar_reader_end(t, e);
	if (ret_refused)
		*ret_refused = tree_builder_refused(b);
	if (r == 0)
		r = tree_builder_finish(b, &image, e);
	return r == 0 ? open_buf(&image, ret, e) : r;
}

struct tree *tm_tree(const struct buf *tar)
{
	struct err e = { 0 };
	struct tree *t;

	if (tm_read(tar, 0, &t, NULL, &e) < 0)
		printf("# tm_tree: %s\n", e.msg);
	return t;
}

struct tree *tm_finish(struct tree_builder *b)
{
	_cleanup_buf_ struct buf image = BUF_INIT(1u << 30);
	struct err e = { 0 };
	struct tree *t = NULL;

	if (tree_builder_finish(b, &image, &e) < 0 || open_buf(&image, &t, &e) < 0)
		printf("# tm_finish: %s\n", e.msg);
	(void)tree_builder_free(b);
	return t;
}

struct tree *tm_merge(struct tree *const *layers, size_t n)
{
	_cleanup_buf_ struct buf image = BUF_INIT(1u << 30);
	struct err e = { 0 };
	struct tree *t = NULL;

	if (tree_merge(layers, n, &image, NULL, &e) < 0 || open_buf(&image, &t, &e) < 0)
		printf("# tm_merge: %s\n", e.msg);
	return t;
}

bool tm_get(const struct tree *t, const char *path, struct tree_attr *ret)
{
	uint32_t n = tree_lookup_path(t, path, strlen(path));

	if (n == TREE_NONE)
		return false;
	tree_get(t, n, ret);
	return true;
}

const char *tm_list(const struct tree *t, struct buf *ret)
{
	buf_clear(ret);
	for (uint32_t i = 1; i < tree_count(t); i++) {
		struct tree_attr a;

		tree_get(t, i, &a);
		(void)tree_path(t, i, ret);
		if (a.type == TREE_DIR)
			(void)buf_addc(ret, '/');
		if (a.type == TREE_SYMLINK || a.type == TREE_LINK)
			(void)buf_addf(ret, " %s %s", a.type == TREE_LINK ? "=>" : "->", a.target);
		if (a.ino != i) {
			(void)buf_adds(ret, " = ");
			(void)tree_path(t, a.ino, ret);
		}
		(void)buf_addc(ret, '\n');
	}
	return buf_str(ret);
}
