/*
 * flatbuf.c - see flatbuf.h
 *
 * Places are uint32_t and the buffer has at most 2^31 bytes: a sum of two of them never wraps.
 */
#include "cache/flatbuf.h"

#include "cache/le.h"

#define OFFSET_BYTES 4u		/* of an offset, and of the length of a vector */
#define SLOTS_HEAD 4u		/* of a table of fields: its own size and the inline data's */
#define SLOT_BYTES 2u

static uint16_t le16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static bool within(const struct flatbuf *b, uint32_t at, uint32_t len)
{
	return at <= b->len && len <= b->len - at;
}

/* What the offset at that place points to; it is never negative. */
static bool follow(const struct flatbuf *b, uint32_t at, uint32_t *ret)
{
	if (!within(b, at, OFFSET_BYTES))
		return false;
	uint32_t off = le32_get(b->data + at);

	if (off == 0 || !within(b, at, off))
		return false;
	*ret = at + off;
	return true;
}

static bool table_open(const struct flatbuf *b, uint32_t at, struct flatbuf_table *ret)
{
	if (!within(b, at, OFFSET_BYTES))
		return false;
	/* signed, and it counts backwards; two's complement makes that a plain subtraction */
	uint32_t slots = at - le32_get(b->data + at);

	if (!within(b, slots, SLOTS_HEAD))
		return false;
	uint16_t len = le16(b->data + slots), size = le16(b->data + slots + SLOT_BYTES);

	if (len < SLOTS_HEAD || len % SLOT_BYTES || !within(b, slots, len) || size < OFFSET_BYTES ||
	    !within(b, at, size))
		return false;
	*ret = (struct flatbuf_table){ b, at, slots + SLOTS_HEAD, (uint16_t)((len - SLOTS_HEAD) / SLOT_BYTES), size };
	return true;
}

bool flatbuf_open(struct flatbuf *b, const void *data, size_t len)
{
	*b = (struct flatbuf){ data, (uint32_t)len };
	return len >= OFFSET_BYTES && len < FLATBUF_MAX;
}

bool flatbuf_root(const struct flatbuf *b, struct flatbuf_table *ret)
{
	uint32_t at;

	return follow(b, 0, &at) && table_open(b, at, ret);
}

/* Where a field of `bytes` is; *ret 0: the table does not have it. */
static bool field(const struct flatbuf_table *t, unsigned slot, uint32_t bytes, uint32_t *ret)
{
	*ret = 0;
	if (slot >= t->n_fields)
		return true;
	uint16_t off = le16(t->b->data + t->fields + SLOT_BYTES * slot);

	if (off == 0)
		return true;
	*ret = t->at + off;
	return off >= OFFSET_BYTES && off + bytes <= t->size;
}

bool flatbuf_u8(const struct flatbuf_table *t, unsigned slot, uint8_t absent, uint8_t *ret)
{
	uint32_t at;

	if (!field(t, slot, 1, &at))
		return false;
	*ret = at ? t->b->data[at] : absent;
	return true;
}

bool flatbuf_u32(const struct flatbuf_table *t, unsigned slot, uint32_t *ret)
{
	uint32_t at;

	if (!field(t, slot, 4, &at))
		return false;
	*ret = at ? le32_get(t->b->data + at) : 0;
	return true;
}

bool flatbuf_u64(const struct flatbuf_table *t, unsigned slot, uint64_t *ret)
{
	uint32_t at;

	if (!field(t, slot, 8, &at))
		return false;
	*ret = at ? le64_get(t->b->data + at) : 0;
	return true;
}

/* The vector that the offset at that place points to. */
static bool vector_open(const struct flatbuf *b, uint32_t at, uint32_t elem, struct flatbuf_vector *ret)
{
	if (!follow(b, at, &at) || !within(b, at, OFFSET_BYTES))
		return false;
	*ret = (struct flatbuf_vector){ b, at + OFFSET_BYTES, le32_get(b->data + at) };
	return ret->n <= (b->len - ret->at) / elem;
}

bool flatbuf_vector(const struct flatbuf_table *t, unsigned slot, uint32_t elem, struct flatbuf_vector *ret)
{
	uint32_t at;

	*ret = (struct flatbuf_vector){ .b = t->b };
	return field(t, slot, OFFSET_BYTES, &at) && (!at || vector_open(t->b, at, elem, ret));
}

static void as_string(const struct flatbuf_vector *v, const char **ret, size_t *ret_len)
{
	*ret = v->n ? (const char *)v->b->data + v->at : "";
	*ret_len = v->n;
}

bool flatbuf_string(const struct flatbuf_table *t, unsigned slot, const char **ret, size_t *ret_len)
{
	struct flatbuf_vector v;

	if (!flatbuf_vector(t, slot, 1, &v))
		return false;
	as_string(&v, ret, ret_len);
	return true;
}

bool flatbuf_table(const struct flatbuf_table *t, unsigned slot, struct flatbuf_table *ret)
{
	uint32_t at;

	return field(t, slot, OFFSET_BYTES, &at) && at && follow(t->b, at, &at) && table_open(t->b, at, ret);
}

bool flatbuf_table_at(const struct flatbuf_vector *v, uint32_t i, struct flatbuf_table *ret)
{
	uint32_t at;

	return follow(v->b, v->at + OFFSET_BYTES * i, &at) && table_open(v->b, at, ret);
}

bool flatbuf_string_at(const struct flatbuf_vector *v, uint32_t i, const char **ret, size_t *ret_len)
{
	struct flatbuf_vector s;

	if (!vector_open(v->b, v->at + OFFSET_BYTES * i, 1, &s))
		return false;
	as_string(&s, ret, ret_len);
	return true;
}
