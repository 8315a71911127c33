/*
 * fuzz_inflate.c - any bytes as a compressed stream
 *
 * The first two bytes choose piece sizes, the place of a checkpoint and what is done to its state;
 *the rest is the stream.  Pushed in odd pieces it must give what it gives at once; resumed at the
 * checkpoint it must give the rest of that; and a state that was tampered with, packed or unpacked,
 * must be refused or decode to anything, in bounds.
 *
 *	clang -fsanitize=fuzzer,address,undefined -DHAVE_ISAL=1 ... fuzz_inflate.c
 *		cache/{inflate,gzip,gzip_isal,zstd}.c util/{buf,err}.c -lisal -lzstd
 */
#include <stdint.h>
#include <string.h>

#include "cache/inflate_priv.h"

#define OUT_MAX (4u << 20)
#define MEMBER_STATE 36	/* what gzip.c puts in front of the packed state */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct point {
	uint64_t in, out;
	struct buf state;
	bool taken;
};

static errint_t collect(void *ctx, const void *data, size_t len, struct err *e)
{
	return buf_add(ctx, data, len) < 0 ? err_set(e, E2BIG, ERR_LIMIT, "enough") : 0;
}

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* An exact copy, so that reading past its end is seen. */
static errint_t push_copy(struct inflate *z, const uint8_t *data, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);

	must(copy);
	memcpy(copy, data, len);
	errint_t r = inflate_push(z, copy, len, NULL);
	free(copy);
	return r;
}

static errint_t run(struct inflate *z, const uint8_t *data, size_t len, size_t piece, size_t at,
		    struct point *p)
{
	for (size_t i = 0; i < len; i += piece) {
		errint_t r = push_copy(z, data + i, MIN_OF(piece, len - i));

		if (r < 0)
			return r;
		if (p && !p->taken && i + piece > at)
			p->taken = inflate_checkpoint(z, &p->in, &p->out, &p->state);
	}
	return inflate_end(z, NULL);
}

static errint_t resume(enum inflate_format fmt, const struct point *p, const uint8_t *data,
		       size_t len, size_t piece, struct buf *out)
{
	struct inflate *z = NULL;

	if (p->in > len)
		return -EBADMSG;
	errint_t r = inflate_resume(fmt, p->in, p->out, p->state.data, p->state.len, collect, out,
				    &z, NULL);
	if (r < 0)
		return r;
	r = inflate_push(z, NULL, 0, NULL);
	if (r == 0)
		r = run(z, data + p->in, len - p->in, piece, 0, NULL);
	(void)inflate_free(z);
	return r;
}

static void scribble(void *dst, size_t len, const uint8_t *data, size_t n)
{
	for (size_t i = 0; len && i + 3 < n && i < 64; i += 4) {
		size_t at = (data[i] | (size_t)data[i + 1] << 8 | (size_t)data[i + 2] << 16) % len;

		((uint8_t *)dst)[at] ^= data[i + 3];
	}
}

/* Tampers with the library's own state behind the packing. */
static bool scribble_raw(struct point *p, const uint8_t *data, size_t n)
{
	_cleanup_buf_ struct buf packed = BUF_INIT(INFLATE_STATE_MAX * 2);
	_cleanup_free_ uint8_t *raw = malloc(rawinf_state_bytes);

	must(raw);
	if (p->state.len <= MEMBER_STATE ||
	    inflate_unpack(p->state.data + MEMBER_STATE, p->state.len - MEMBER_STATE, raw,
			   rawinf_state_bytes) < 0)
		return false;
	scribble(raw, rawinf_state_bytes, data, n);
	must(buf_add(&packed, p->state.data, MEMBER_STATE) == 0);
	must(inflate_pack(raw, rawinf_state_bytes, &packed) == 0);
	buf_clear(&p->state);
	must(buf_add(&p->state, packed.data, packed.len) == 0);
	return true;
}

static void tamper(enum inflate_format fmt, struct point *p, bool raw, const uint8_t *data,
		   size_t len)
{
	struct buf out = BUF_INIT(OUT_MAX);
	size_t n = MIN_OF(len, (size_t)64);

	if (!raw || !scribble_raw(p, data + len - n, n))
		scribble(p->state.data, p->state.len, data + len - n, n);
	(void)!resume(fmt, p, data, len, 1000, &out);
	buf_done(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct buf whole = BUF_INIT(OUT_MAX), odd = BUF_INIT(OUT_MAX), rest = BUF_INIT(OUT_MAX);
	struct point p = { .state = BUF_INIT(INFLATE_STATE_MAX * 2) };

	if (len < 2)
		return 0;
	size_t piece = 1 + (data[0] & 15) * (data[0] & 15), at = data[1] * len / 256;
	bool raw = data[0] & 0x80;
	data += 2;
	len -= 2;
	struct inflate *z = inflate_new(collect, &whole);
	errint_t r = run(z, data, len, len ? len : 1, 0, NULL);
	(void)inflate_free(z);

	z = inflate_new(collect, &odd);
	errint_t r_odd = run(z, data, len, piece, at, &p);
	must((r == 0) == (r_odd == 0));
	must(r < 0 ||
	     (whole.len == odd.len && (!odd.len || memcmp(whole.data, odd.data, odd.len) == 0)));
	if (p.taken) {
		errint_t r_rest = resume(inflate_format(z), &p, data, len, piece + 1, &rest);

		must((r == 0) == (r_rest == 0));
		must(r < 0 ||
		     (rest.len == whole.len - p.out &&
		      (!rest.len || memcmp(rest.data, whole.data + p.out, rest.len) == 0)));
		tamper(inflate_format(z), &p, raw, data, len);
	}
	(void)inflate_free(z);
	buf_done(&whole);
	buf_done(&odd);
	buf_done(&rest);
	buf_done(&p.state);
	return 0;
}
