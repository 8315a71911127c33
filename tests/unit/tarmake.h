/*
 * tarmake.h - tar archives and trees for tests, made in memory
 *
 *	struct buf tar = BUF_INIT(1 << 20);
 *	tm_dir(&tar, "usr/");
 *	tm_file(&tar, "usr/a", "hello");
 *	tm_link(&tar, "usr/b", "usr/a");
 *	tm_end(&tar);
 *	struct tree *t = tm_tree(&tar);
 *
 * Every writer appends whole blocks.  What the short forms cannot say, tm_header with a struct
 * tm_head says, down to raw bytes in the block (tm_patch fixes the checksum afterwards).
 */
#pragma once

#include "cache/tar.h"
#include "cache/tree.h"

enum tm_format { TM_USTAR = 0, TM_GNU, TM_V7 };

struct tm_head {
	const char *name, *link, *prefix;
	char type;			/* 0: '\0' */
	enum tm_format format;
	unsigned mode, uid, gid, major, minor;
	int64_t size, mtime;		/* negative or large: base-256 */
};

/* Header block only; returns its offset in b. */
size_t tm_header(struct buf *b, const struct tm_head *h);
/* Overwrites bytes of the header at `at` and computes its checksum again. */
void tm_patch(struct buf *b, size_t at, size_t field, const void *bytes, size_t len);
/* Data with padding. */
void tm_data(struct buf *b, const void *data, size_t len);

void tm_file(struct buf *b, const char *name, const char *data);
void tm_dir(struct buf *b, const char *name);
void tm_symlink(struct buf *b, const char *name, const char *target);
void tm_link(struct buf *b, const char *name, const char *target);
void tm_end(struct buf *b);

/* PAX: collect records, then write them as an 'x' or 'g' header. */
void tm_record(struct buf *rec, const char *key, const void *value, size_t len);
void tm_records(struct buf *rec, const char *key, const char *value);
void tm_pax(struct buf *b, char type, const struct buf *rec);
/* GNU long name ('L') or link ('K'). */
void tm_long(struct buf *b, char type, const char *s);

/* Reads the archive, pushed in pieces of step bytes (0: at once).  *ret is NULL on failure. */
errint_t tm_read(const struct buf *tar, size_t step, struct tree **ret, uint64_t *ret_refused, struct err *e);
/* The same at once; prints the error and returns NULL. */
struct tree *tm_tree(const struct buf *tar);

/* From a builder; frees it. */
struct tree *tm_finish(struct tree_builder *b);
/* Merge of n trees (borrowed). */
struct tree *tm_merge(struct tree *const *layers, size_t n);

/* Attributes by path; false: not there. */
bool tm_get(const struct tree *t, const char *path, struct tree_attr *ret);
/* All paths in node order, one a line, directories with a final '/', symlinks with " -> target",
 * further hard links with " = first name". */
const char *tm_list(const struct tree *t, struct buf *ret);
