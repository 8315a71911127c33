/*
 * buf.h - a growable byte buffer with a ceiling
 *
 * Invariants: data is NUL-terminated whenever it is not NULL (the NUL is not counted in len); len
 * never exceeds max.  An append that would exceed max, or that finds no memory, leaves the buffer
 * as it was, sets `failed`, and returns -EFBIG or -ENOMEM; further appends fail the same way, so a
 * long run of appends needs one check at its end:
 *
 *	struct buf b = BUF_INIT(MAX_MANIFEST);
 *	buf_addf(&b, ...); buf_addf(&b, ...);
 *	r = buf_check(&b);
 *
 * A zeroed struct buf with a max is a valid empty buffer.  Not thread-safe.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "util/cleanup.h"
#include "util/err.h"

struct buf {
	char *data;
	size_t len;
	size_t cap;
	size_t max;	/* bytes; appends beyond it fail */
	int failed;	/* 0 or a negative errno, sticky */
};

#define BUF_INIT(limit) { .max = (limit) }
#define _cleanup_buf_ _cleanup_(buf_done)

void buf_init(struct buf *b, size_t max);
void buf_done(struct buf *b);			/* frees; the buffer is empty and usable again */
void buf_clear(struct buf *b);			/* len = 0, failed = 0; keeps the memory */

errint_t buf_reserve(struct buf *b, size_t more);
errint_t buf_add(struct buf *b, const void *data, size_t len);
errint_t buf_addc(struct buf *b, char c);
errint_t buf_adds(struct buf *b, const char *s);
errint_t buf_addf(struct buf *b, const char *fmt, ...) _printf_(2, 3);
errint_t buf_addv(struct buf *b, const char *fmt, va_list ap) _printf_(2, 0);

/* Appends s as a JSON string with its quotes; bytes that are not UTF-8 become U+FFFD. */
errint_t buf_add_json(struct buf *b, const char *s, size_t len);
/* Appends "key":"value", after a comma unless it is the first member of its object. */
errint_t buf_add_member(struct buf *b, const char *key, const char *value, bool first);

/* Appends s for people: control characters (C0, DEL, C1 in UTF-8) and bytes that are not UTF-8 as
 * \xNN, backslash as \\. */
errint_t buf_add_text(struct buf *b, const char *s, size_t len);

/* The contents as a NUL-terminated string; "" when empty.  Owned by the buffer. */
const char *buf_str(const struct buf *b);

/* Takes over cap malloc'ed bytes, of which len count, in place of what it has; len < cap, len <= max. */
void buf_give(struct buf *b, char *data, size_t len, size_t cap);

/* Gives the allocation to the caller (NULL only when out of memory); the buffer becomes empty. */
char *buf_take(struct buf *b, size_t *ret_len);

static inline errint_t buf_check(const struct buf *b)
{
	return b->failed;
}
