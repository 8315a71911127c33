/*
 * layer_file.c - writing and checking the layer object (layout in layer_file.h)
 *
 * The reader trusts nothing: every length is checked against the object's before anything is
 * allocated, so that users of a struct layer_file need no checks of their own.
 */
#include "cache/layer_file.h"

#include <string.h>

#include "cache/le.h"

static const char magic[8] = "RGFSLAY2";

/* Where the head's fields are. */
enum {
	AT_MAGIC = 0,
	AT_FORMAT = 8,
	AT_SPAN_BYTES = 12,
	AT_SIZE = 16,
	AT_PACKED = 24,
	AT_TREE_LEN = 32,
	AT_STATES_LEN = 40,
	AT_N_UNITS = 48,
	AT_N_SPANS = 52,
	AT_DIFF_ALG = 56,
	AT_DIFF_RAW = 64,
	AT_END = 128,
	AT_ZERO = AT_END + DIGEST_MARK_BYTES,
};

/* Where a unit's fields are. */
enum {
	AT_IN = 0,
	AT_OUT = 8,
	AT_STATE_OFF = 16,
	AT_STATE_LEN = 24,
	AT_HAS_STATE = 28,
	AT_MARK = 32
};

uint32_t layer_spans(uint64_t size)
{
	return (uint32_t)((size + CA_SPAN_BYTES - 1) / CA_SPAN_BYTES);
}

static uint64_t table_bytes(uint32_t n_units, uint32_t n_spans)
{
	return (uint64_t)n_units * LAYER_UNIT_BYTES + (uint64_t)n_spans * 4;
}

/* ---- writing */

static void put_unit(const struct layer_unit *u, uint8_t p[static LAYER_UNIT_BYTES])
{
	le64_put(p + AT_IN, u->in);
	le64_put(p + AT_OUT, u->out);
	le64_put(p + AT_STATE_OFF, u->state_off);
	le32_put(p + AT_STATE_LEN, u->state_len);
	le32_put(p + AT_HAS_STATE, u->has_state);
	memcpy(p + AT_MARK, u->mark.raw, sizeof(u->mark.raw));
}

static void put_head(const struct layer_file *f, uint8_t p[static LAYER_HEAD_BYTES])
{
	memset(p, 0, LAYER_HEAD_BYTES);
	memcpy(p + AT_MAGIC, magic, sizeof(magic));
	le32_put(p + AT_FORMAT, f->format);
	le32_put(p + AT_SPAN_BYTES, CA_SPAN_BYTES);
	le64_put(p + AT_SIZE, f->size);
	le64_put(p + AT_PACKED, f->packed);
	le64_put(p + AT_TREE_LEN, f->tree_len);
	le64_put(p + AT_STATES_LEN, f->states_len);
	le32_put(p + AT_N_UNITS, f->n_units);
	le32_put(p + AT_N_SPANS, f->n_spans);
	p[AT_DIFF_ALG] = f->diff_id.alg;
	p[AT_DIFF_ALG + 1] = f->diff_id.len;
	memcpy(p + AT_DIFF_RAW, f->diff_id.raw, DIGEST_RAW_MAX);
	memcpy(p + AT_END, f->end.raw, sizeof(f->end.raw));
}

errint_t layer_file_finish(struct layer_file *f, const struct buf *states, struct buf *image)
{
	uint8_t unit[LAYER_UNIT_BYTES], head[LAYER_HEAD_BYTES], crc[4];

	f->tree_len = image->len;
	f->states_off = image->len;
	f->states_len = states->len;
	(void)buf_reserve(image, states->len + table_bytes(f->n_units, f->n_spans) + sizeof(head));
	(void)buf_add(image, states->data, states->len);
	for (uint32_t i = 0; i < f->n_units; i++) {
		put_unit(&f->units[i], unit);
		(void)buf_add(image, unit, sizeof(unit));
	}
	for (uint32_t i = 0; i < f->n_spans; i++) {
		le32_put(crc, f->crcs[i]);
		(void)buf_add(image, crc, sizeof(crc));
	}
	put_head(f, head);
	(void)buf_add(image, head, sizeof(head));
	return buf_check(image);
}

/* ---- reading */

static errint_t bad(struct err *e)
{
	return err_set(e, EBADMSG, ERR_INTEGRITY, "the cached index of the layer is damaged");
}

static bool diff_ok(const struct digest *d)
{
	static const uint8_t len[] = {
		[DIGEST_UNSET] = 0, [DIGEST_SHA256] = 32, [DIGEST_SHA512] = 64
	};

	return d->alg < ARRAY_SIZE(len) && d->len == len[d->alg];
}

static bool get_head(struct layer_file *f, const uint8_t p[static LAYER_HEAD_BYTES], uint64_t len)
{
	uint32_t format = le32_get(p + AT_FORMAT);

	if (memcmp(p + AT_MAGIC, magic, sizeof(magic)) != 0 || format < INFLATE_PLAIN ||
	    format > INFLATE_ZSTD || le32_get(p + AT_SPAN_BYTES) != CA_SPAN_BYTES)
		return false;
	f->format = format;
	f->size = le64_get(p + AT_SIZE);
	f->packed = le64_get(p + AT_PACKED);
	f->tree_len = le64_get(p + AT_TREE_LEN);
	f->states_len = le64_get(p + AT_STATES_LEN);
	f->states_off = f->tree_len;
	f->n_units = le32_get(p + AT_N_UNITS);
	f->n_spans = le32_get(p + AT_N_SPANS);
	f->diff_id.alg = p[AT_DIFF_ALG];
	f->diff_id.len = p[AT_DIFF_ALG + 1];
	memcpy(f->diff_id.raw, p + AT_DIFF_RAW, DIGEST_RAW_MAX);
	memcpy(f->end.raw, p + AT_END, sizeof(f->end.raw));
	return diff_ok(&f->diff_id) && f->n_units >= 1 && f->n_units <= LAYER_UNITS_MAX &&
	       f->size <= (uint64_t)LAYER_UNITS_MAX * CA_SPAN_BYTES &&
	       f->n_spans == layer_spans(f->size) && f->tree_len <= LAYER_TREE_MAX &&
	       f->states_len <= len &&
	       len == f->tree_len + f->states_len + table_bytes(f->n_units, f->n_spans) +
			      LAYER_HEAD_BYTES;
}

static bool get_unit(const struct layer_file *f, uint32_t i,
		     const uint8_t p[static LAYER_UNIT_BYTES])
{
	struct layer_unit *u = &f->units[i];
	uint32_t has_state = le32_get(p + AT_HAS_STATE);

	u->in = le64_get(p + AT_IN);
	u->out = le64_get(p + AT_OUT);
	u->state_off = le64_get(p + AT_STATE_OFF);
	u->state_len = le32_get(p + AT_STATE_LEN);
	u->has_state = has_state == 1;
	memcpy(u->mark.raw, p + AT_MARK, sizeof(u->mark.raw));
	if (has_state > 1 || u->in > f->packed || u->out > f->size ||
	    u->state_len > INFLATE_STATE_MAX || (!u->has_state && u->state_len) ||
	    u->state_off > f->states_len || u->state_len > f->states_len - u->state_off)
		return false;
	if (i == 0)
		return u->in == 0 && u->out == 0 && u->has_state && u->state_len == 0;
	return u->in >= u[-1].in && u->out > u[-1].out;
}

static errint_t get_tables(struct layer_file *f, const uint8_t *p, struct err *e)
{
	f->units = calloc(f->n_units, sizeof(*f->units));
	f->crcs = calloc(f->n_spans + 1, sizeof(*f->crcs));
	if (!f->units || !f->crcs)
		return err_errno(e, ENOMEM, "opening a layer");
	for (uint32_t i = 0; i < f->n_units; i++, p += LAYER_UNIT_BYTES)
		if (!get_unit(f, i, p))
			return bad(e);
	for (uint32_t i = 0; i < f->n_spans; i++, p += 4)
		f->crcs[i] = le32_get(p);
	return 0;
}

errint_t layer_file_load(struct layer_file *f, uint64_t len, layer_read_fn read, void *ctx,
			 struct err *e)
{
	_cleanup_free_ uint8_t *table = NULL;
	uint8_t head[LAYER_HEAD_BYTES];

	*f = (struct layer_file){ 0 };
	if (len < sizeof(head))
		return bad(e);
	errint_t r = read(ctx, len - sizeof(head), head, sizeof(head), e);
	if (r < 0)
		return r;
	if (!get_head(f, head, len))
		return bad(e);
	size_t n = (size_t)table_bytes(f->n_units, f->n_spans);
	table = malloc(n);
	if (!table)
		return err_errno(e, ENOMEM, "opening a layer");
	r = read(ctx, f->tree_len + f->states_len, table, n, e);
	return r < 0 ? r : get_tables(f, table, e);
}

void layer_file_done(struct layer_file *f)
{
	free(f->units);
	free(f->crcs);
	*f = (struct layer_file){ 0 };
}
