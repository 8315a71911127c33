/*
 * flatbuf.h - reading FlatBuffers without trusting them (private to cache/)
 *
 * A buffer holds tables that refer to each other by offsets.  Nothing here follows more than one
 * offset at a time, so there is neither recursion nor a cycle; every place is checked before it is
 * read.  A field that a table does not have is its default: 0, "", a vector of none.  Functions
 * return false when a place lies outside of the buffer or of its table.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FLATBUF_MAX (UINT32_C(1) << 31)	/* offsets have 31 bits */

struct flatbuf {
	const uint8_t *data;
	uint32_t len;
};

struct flatbuf_table {
	const struct flatbuf *b;
	uint32_t at;
	uint32_t fields;	/* where the places of its fields are */
	uint16_t n_fields;
	uint16_t size;		/* of its inline data */
};

struct flatbuf_vector {
	const struct flatbuf *b;
	uint32_t at, n;		/* of the first element; how many */
};

/* data must stay.  False: too short or too long. */
bool flatbuf_open(struct flatbuf *b, const void *data, size_t len);
bool flatbuf_root(const struct flatbuf *b, struct flatbuf_table *ret);

bool flatbuf_u8(const struct flatbuf_table *t, unsigned slot, uint8_t absent, uint8_t *ret);
bool flatbuf_u32(const struct flatbuf_table *t, unsigned slot, uint32_t *ret);
bool flatbuf_u64(const struct flatbuf_table *t, unsigned slot, uint64_t *ret);
/* Not NUL-terminated. */
bool flatbuf_string(const struct flatbuf_table *t, unsigned slot, const char **ret, size_t *ret_len);
/* It has to be there. */
bool flatbuf_table(const struct flatbuf_table *t, unsigned slot, struct flatbuf_table *ret);
/* Of elements of that many bytes each. */
bool flatbuf_vector(const struct flatbuf_table *t, unsigned slot, uint32_t elem, struct flatbuf_vector *ret);
/* Element i < v->n of a vector of tables, or of strings. */
bool flatbuf_table_at(const struct flatbuf_vector *v, uint32_t i, struct flatbuf_table *ret);
bool flatbuf_string_at(const struct flatbuf_vector *v, uint32_t i, const char **ret, size_t *ret_len);
