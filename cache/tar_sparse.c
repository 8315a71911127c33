/*
 * tar_sparse.c - from the four ways to write a sparse map to extents
 *
 *	old GNU 'S'	fields in the header, continued in blocks behind it
 *	PAX 0.0, 0.1	records (read by tar_pax.c)
 *	PAX 1.0		decimal numbers, one a line, in whole blocks in front of the data
 */
#include "cache/tar_sparse.h"

#include <string.h>

#define BLOCK 512
#define OLD_HEADER_AT 386
#define OLD_HEADER_N 4
#define OLD_HEADER_MORE 482
#define OLD_SIZE_AT 483
#define OLD_EXT_N 21
#define OLD_EXT_MORE 504
#define OLD_FIELD 12
#define DIGITS_MAX 19

void sparse_clear(struct sparse *s)
{
	*s = (struct sparse){ .x = s->x, .cap = s->cap };
}

void sparse_done(struct sparse *s)
{
	free(s->x);
	*s = (struct sparse){ 0 };
}

static errint_t piece_add(struct sparse *s, uint64_t off, uint64_t len)
{
	errint_t r = tree_vec_grow(&s->x, &s->cap, s->n, TAR_META_MAX, sizeof(*s->x));

	if (r == 0)
		s->x[s->n++] = (struct tree_extent){ .off = off, .len = len };
	return r;
}

/* ---- numbers -------------------------------------------------------------------------------- */

/* Two's complement, big endian, behind the marking top bit; the next bit is the sign. */
static bool base256(const unsigned char *s, size_t len, int64_t *ret)
{
	unsigned char inv = s[0] & 0x40 ? 0xff : 0;
	uint64_t v = 0;

	for (size_t i = 0; i < len; i++) {
		unsigned char c = s[i] ^ inv;

		if (v >> 56)
			return false;
		v = v << 8 | (i == 0 ? c & 0x7f : c);
	}
	*ret = inv ? -(int64_t)(v & INT64_MAX) - 1 : (int64_t)v;
	return v <= INT64_MAX;
}

bool tar_number(const unsigned char *s, size_t len, int64_t *ret)
{
	uint64_t v = 0;
	size_t i = 0;

	if (s[0] & 0x80)
		return base256(s, len, ret);
	while (i < len && (s[i] == ' ' || s[i] == '\0'))
		i++;
	for (; i < len && s[i] >= '0' && s[i] <= '7'; i++) {
		if (v >> 60)
			return false;
		v = v << 3 | (uint64_t)(s[i] - '0');
	}
	*ret = (int64_t)v;
	return i == len || s[i] == ' ' || s[i] == '\0';
}

/* ---- old GNU -------------------------------------------------------------------------------- */

static errint_t old_entries(struct sparse *s, const unsigned char *p, size_t n)
{
	errint_t r = 0;

	for (size_t i = 0; r == 0 && i < n; i++, p += 2 * OLD_FIELD) {
		int64_t off, len;

		if (p[0] == '\0' || p[OLD_FIELD] == '\0')
			break;
		if (!tar_number(p, OLD_FIELD, &off) || off < 0 ||
		    !tar_number(p + OLD_FIELD, OLD_FIELD, &len) || len < 0)
			return -EINVAL;
		r = piece_add(s, (uint64_t)off, (uint64_t)len);
	}
	return r;
}

errint_t sparse_old_header(struct sparse *s, const unsigned char *block)
{
	int64_t size;

	sparse_clear(s);
	if (!tar_number(block + OLD_SIZE_AT, OLD_FIELD, &size) || size < 0)
		return -EINVAL;
	s->size = (uint64_t)size;
	s->more = block[OLD_HEADER_MORE] != 0;
	return old_entries(s, block + OLD_HEADER_AT, OLD_HEADER_N);
}

errint_t sparse_old_extension(struct sparse *s, const unsigned char *block)
{
	if (++s->blocks > TAR_META_MAX / BLOCK)
		return -EFBIG;
	s->more = block[OLD_EXT_MORE] != 0;
	return old_entries(s, block, OLD_EXT_N);
}

/* ---- PAX ------------------------------------------------------------------------------------ */

errint_t sparse_from_pax(struct sparse *s, const struct pax *p)
{
	errint_t r = 0;

	sparse_clear(s);
	if (!(p->has & PAX_SPARSE_SIZE))
		return -EINVAL;
	if (p->has & PAX_SPARSE_BLOCKS && p->sparse_blocks != p->n_map)
		return -EINVAL;
	s->size = p->sparse_size;
	for (size_t i = 0; r == 0 && i < p->n_map; i++)
		r = piece_add(s, p->map[i].off, p->map[i].len);
	return r;
}

void sparse_map10_begin(struct sparse *s, uint64_t size)
{
	sparse_clear(s);
	s->size = size;
	s->want = UINT64_MAX;
}

static errint_t map10_number(struct sparse *s)
{
	if (s->digits == 0 || s->number > INT64_MAX)
		return -EINVAL;
	if (s->want == UINT64_MAX) {
		s->want = s->number;
		return 0;
	}
	s->have_off = !s->have_off;
	if (s->have_off)
		return piece_add(s, s->number, 0);
	s->x[s->n - 1].len = s->number;
	s->want--;
	return 0;
}

errint_t sparse_map10_block(struct sparse *s, const unsigned char *block, bool *ret_done)
{
	*ret_done = false;
	if (++s->blocks > TAR_META_MAX / BLOCK)
		return -EFBIG;
	for (size_t i = 0; i < BLOCK && s->want > 0; i++) {
		if (block[i] == '\n') {
			errint_t r = map10_number(s);

			if (r < 0)
				return r;
			s->number = s->digits = 0;
			continue;
		}
		if (block[i] < '0' || block[i] > '9' || ++s->digits > DIGITS_MAX)
			return -EINVAL;
		s->number = s->number * 10 + (uint64_t)(block[i] - '0');
	}
	*ret_done = s->want == 0;
	return 0;
}

/* ---- all ------------------------------------------------------------------------------------ */

/* Empty pieces (GNU tar ends a map with one) go; neighbours become one. */
errint_t sparse_place(struct sparse *s, uint64_t data_off, uint64_t stored)
{
	uint64_t end = 0;
	size_t out = 0;

	for (size_t i = 0; i < s->n; i++) {
		struct tree_extent x = s->x[i];

		if (x.off < end || x.off > s->size || x.len > s->size - x.off || x.len > stored)
			return -EINVAL;
		if (x.len == 0)
			continue;
		x.data_off = data_off;
		if (out > 0 && x.off == end)
			s->x[out - 1].len += x.len;
		else
			s->x[out++] = x;
		end = x.off + x.len;
		stored -= x.len;
		data_off += x.len;
	}
	s->n = out;
	return 0;
}
