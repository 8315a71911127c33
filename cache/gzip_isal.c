/*
 * gzip_isal.c - raw deflate and CRC-32 by ISA-L (the only file with ISA-L; see gzip_zlib.c)
 *
 * ISA-L keeps no pointers between two calls, so a copy of its state is a checkpoint at any byte: it
 * holds the bits read ahead, the Huffman tables of the block, and 32 KiB or more of history.  The
 * copy is tidied (what is not in use is zeroed, it packs better) and packed.
 *
 * Tables and counters of a state are indexes into memory for ISA-L, which does not check them: its
 * headers and streams are where it expects lies.  state_ok() therefore accepts only what cannot
 * lead it out of its arrays.  It knows the table format of igzip_inflate.c (2.30 to 2.32, unchanged
 * for years); a state is tested when it is taken too, so a version with another format gets fewer
 * checkpoints, not wrong ones.
 */
#include "cache/crc.h"
#include "cache/inflate_priv.h"

#if defined(HAVE_ISAL) && HAVE_ISAL

#include <isa-l.h>
#include <string.h>

#define STEP_MAX (1u << 30)	/* its counts have 32 bits */
#define LONG_BITS_MAX 21	/* lit/len code with the extra bits of a length */
#define DIST_BITS_MAX 15
#define HISTORY_MAX (32u << 10)
#define LIT_SYM_MAX 512		/* 254 + longest match */
#define DIST_SYMS 30
#define DIST_EXTRA_MAX 13

struct rawinf {
	struct inflate_state s;
};

const bool rawinf_anywhere = true;
const size_t rawinf_state_bytes = sizeof(struct inflate_state);

uint32_t crc32_add(uint32_t crc, const void *data, size_t len)
{
	return crc32_gzip_refl(crc, data, len);
}

const char *rawinf_name(void)
{
#define STR_(x) #x
#define STR(x) STR_(x)
	return "isal-" STR(ISAL_MAJOR_VERSION) "." STR(ISAL_MINOR_VERSION) "." STR(
		ISAL_PATCH_VERSION) "-1";
}

struct rawinf *rawinf_new(void)
{
	struct rawinf *d = calloc(1, sizeof(*d));

	if (d)
		rawinf_reset(d);
	return d;
}

void rawinf_free(struct rawinf *d)
{
	free(d);
}

void rawinf_reset(struct rawinf *d)
{
	isal_inflate_init(&d->s);
	d->s.crc_flag = ISAL_GZIP_NO_HDR;	/* count the CRC, leave the wrapper to us */
}

static errint_t inflate_error(int r, struct err *e)
{
	switch (r) {
	case ISAL_INVALID_BLOCK:
		return inflate_bad(e, "deflate stream: invalid block");
	case ISAL_INVALID_SYMBOL:
		return inflate_bad(e, "deflate stream: invalid symbol");
	case ISAL_INVALID_LOOKBACK:
		return inflate_bad(e, "deflate stream: distance too far back");
	default:
		return inflate_bad(e, "deflate stream is damaged");
	}
}

errint_t rawinf_step(struct rawinf *d, struct inflate_io *io, bool *ret_done, struct err *e)
{
	struct inflate_state *s = &d->s;
	uint32_t in = (uint32_t)MIN_OF(io->in_len, STEP_MAX);
	uint32_t out = (uint32_t)MIN_OF(io->out_len, STEP_MAX);

	s->next_in = (uint8_t *)io->in;
	s->avail_in = in;
	s->next_out = io->out;
	s->avail_out = out;
	int r = isal_inflate(s);
	io->in += in - s->avail_in;
	io->in_len -= in - s->avail_in;
	io->out += out - s->avail_out;
	io->out_len -= out - s->avail_out;
	*ret_done = s->block_state == ISAL_BLOCK_FINISH;
	return r == ISAL_DECOMP_OK ? 0 : inflate_error(r, e);
}

size_t rawinf_rest(struct rawinf *d, uint8_t ret[static 8])
{
	struct inflate_state *s = &d->s;
	size_t n = (size_t)s->read_in_length / 8;
	uint64_t bits = s->read_in >> (s->read_in_length % 8);

	for (size_t i = 0; i < n; i++)
		ret[i] = (uint8_t)(bits >> (8 * i));
	s->read_in = 0;
	s->read_in_length = 0;
	return n;
}

uint32_t rawinf_crc(const struct rawinf *d)
{
	return d->s.crc;
}

uint32_t rawinf_total(const struct rawinf *d)
{
	return d->s.total_out;
}

/* ---- checkpoints */

/* Entry: bits 0..24 symbols, 25 hint, 26..27 number of symbols, 28..31 code length; or, with the
 * hint bit, 0..24 index into the long table, 26..31 longest code that starts with these bits. */
static bool lit_long_ok(const struct inflate_huff_code_large *t, uint32_t entry)
{
	uint32_t bits = entry >> 26, at = entry & 0x1ffffff;

	if (bits <= ISAL_DECODE_LONG_BITS || bits > LONG_BITS_MAX)
		return false;
	uint32_t n = 1u << (bits - ISAL_DECODE_LONG_BITS);
	if (at > ARRAY_SIZE(t->long_code_lookup) || n > ARRAY_SIZE(t->long_code_lookup) - at)
		return false;
	for (uint32_t i = at; i < at + n; i++) {
		uint32_t len = t->long_code_lookup[i] >> 10, sym = t->long_code_lookup[i] & 0x3ff;

		if (len && (len > LONG_BITS_MAX || sym > LIT_SYM_MAX))
			return false;
	}
	return true;
}

static bool lit_table_ok(const struct inflate_huff_code_large *t)
{
	for (size_t i = 0; i < ARRAY_SIZE(t->short_code_lookup); i++) {
		uint32_t entry = t->short_code_lookup[i];

		if (entry & (1u << 25)) {
			if (!lit_long_ok(t, entry))
				return false;
		} else if (entry >> 28) {	/* 0 is "no such code" */
			uint32_t n = entry >> 26 & 3, last = entry & 0x1ffffff;

			if (!n || entry >> 28 > ISAL_DECODE_LONG_BITS ||
			    last >> (8 * (n - 1)) > LIT_SYM_MAX)
				return false;
		}
	}
	return true;
}

static bool dist_sym_ok(uint32_t sym)
{
	return (sym & 31) < DIST_SYMS && (sym >> 5) <= DIST_EXTRA_MAX;
}

/* Entry: bits 0..8 symbol with its extra bits, 10 hint, 11..15 code length or longest code. */
static bool dist_long_ok(const struct inflate_huff_code_small *t, uint32_t entry)
{
	uint32_t bits = entry >> 11, at = entry & 0x1ff;

	if (bits <= ISAL_DECODE_SHORT_BITS || bits > DIST_BITS_MAX)
		return false;
	uint32_t n = 1u << (bits - ISAL_DECODE_SHORT_BITS);
	if (at > ARRAY_SIZE(t->long_code_lookup) || n > ARRAY_SIZE(t->long_code_lookup) - at)
		return false;
	for (uint32_t i = at; i < at + n; i++) {
		uint32_t code = t->long_code_lookup[i];

		if (code >> 10 && (code >> 10 > DIST_BITS_MAX || !dist_sym_ok(code & 0x1ff)))
			return false;
	}
	return true;
}

static bool dist_table_ok(const struct inflate_huff_code_small *t)
{
	for (size_t i = 0; i < ARRAY_SIZE(t->short_code_lookup); i++) {
		uint32_t entry = t->short_code_lookup[i];

		if (entry & (1u << 10)) {
			if (!dist_long_ok(t, entry))
				return false;
		} else if (entry >> 11) {
			if (entry >> 11 > ISAL_DECODE_SHORT_BITS || !dist_sym_ok(entry & 0x1ff))
				return false;
		}
	}
	return true;
}

static bool counters_ok(const struct inflate_state *s)
{
	return s->read_in_length >= 0 && s->read_in_length <= 64 && s->tmp_in_size >= 0 &&
	       s->tmp_in_size < ISAL_DEF_MAX_HDR_SIZE && s->tmp_out_processed >= 0 &&
	       s->tmp_out_valid >= s->tmp_out_processed &&
	       s->tmp_out_valid <= (int32_t)sizeof(s->tmp_out_buffer) - ISAL_LOOK_AHEAD &&
	       s->write_overflow_len == 0 && s->write_overflow_lits == 0 &&
	       s->copy_overflow_length == 0 && s->copy_overflow_distance == 0 &&
	       s->crc_flag == ISAL_GZIP_NO_HDR && s->wrapper_flag == 0 && s->hist_bits == 0 &&
	       s->dict_length == 0 && s->bfinal <= 1;
}

static bool state_ok(const struct inflate_state *s)
{
	if (!counters_ok(s))
		return false;
	switch ((unsigned)s->block_state) {
	case ISAL_BLOCK_NEW_HDR:
	case ISAL_BLOCK_INPUT_DONE:
		return s->tmp_in_size == 0;
	case ISAL_BLOCK_HDR:
		return true;
	case ISAL_BLOCK_TYPE0:
		return s->tmp_in_size == 0 && s->type0_block_len >= 0 &&
		       s->type0_block_len <= UINT16_MAX;
	case ISAL_BLOCK_CODED:
		return s->tmp_in_size == 0 && lit_table_ok(&s->lit_huff_code) &&
		       dist_table_ok(&s->dist_huff_code);
	default:
		return false;
	}
}

/* Takes away the caller's pointers and all that has no meaning in this state. */
static void tidy(struct inflate_state *s)
{
	s->next_in = NULL;
	s->next_out = NULL;
	s->avail_in = 0;
	s->avail_out = 0;
	if (s->read_in_length < 64)
		s->read_in &= (UINT64_C(1) << s->read_in_length) - 1;
	if (s->block_state != ISAL_BLOCK_TYPE0)
		s->type0_block_len = 0;
	if (s->block_state != ISAL_BLOCK_CODED) {
		memset(&s->lit_huff_code, 0, sizeof(s->lit_huff_code));
		memset(&s->dist_huff_code, 0, sizeof(s->dist_huff_code));
	}
	memset(s->tmp_in_buffer + s->tmp_in_size, 0,
	       sizeof(s->tmp_in_buffer) - (size_t)s->tmp_in_size);
	memset(s->tmp_out_buffer + s->tmp_out_valid, 0,
	       sizeof(s->tmp_out_buffer) - (size_t)s->tmp_out_valid);
}

bool rawinf_save(struct rawinf *d, struct buf *ret)
{
	if (!state_ok(&d->s))
		return false;
	_cleanup_free_ struct inflate_state *copy = malloc(sizeof(*copy));
	if (!copy)
		return false;
	*copy = d->s;
	tidy(copy);
	return inflate_pack(copy, sizeof(*copy), ret) == 0;
}

errint_t rawinf_load(struct rawinf *d, const void *state, size_t len, struct err *e)
{
	if (inflate_unpack(state, len, &d->s, sizeof(d->s)) < 0 || !state_ok(&d->s)) {
		rawinf_reset(d);
		return inflate_bad(e, "not a checkpoint of this decompressor");
	}
	tidy(&d->s);
	return 0;
}

errint_t rawinf_enter(struct rawinf *d, uint8_t byte, unsigned bits, const void *window, size_t len,
		      struct err *e)
{
	rawinf_reset(d);
	if (bits > 7 || len > HISTORY_MAX ||
	    (len && isal_inflate_set_dict(&d->s, (uint8_t *)window, (uint32_t)len) != ISAL_DECOMP_OK))
		return inflate_bad(e, "not a place within a deflate stream");
	d->s.read_in = bits ? (uint64_t)byte >> (8 - bits) : 0;
	d->s.read_in_length = (int32_t)bits;
	return 0;
}

#endif
