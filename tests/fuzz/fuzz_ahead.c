/*
 * fuzz_ahead.c - any bytes as a stream whose members and frames are decoded ahead
 *
 * Must give what the stream gives alone: the same output, or the same error.  The
 * first two bytes choose the size of pieces and of runs; then the rest comes several times over, so
 * that one good member makes many.
 */
#include <stdint.h>
#include <string.h>

#include "cache/inflate_ahead.h"

#define OUT_MAX (4u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct result {
	struct inflate *z;
	struct buf out;
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static errint_t collect(void *ctx, const void *data, size_t len, struct err *e)
{
	struct result *x = ctx;

	return buf_add(&x->out, data, len) < 0 ? err_set(e, E2BIG, ERR_LIMIT, "enough") : 0;
}

static errint_t on_push(void *ctx, const void *data, size_t len, struct err *e)
{
	return inflate_push(((struct result *)ctx)->z, data, len, e);
}

static errint_t on_take(void *ctx, const void *data, size_t len, const void *out, size_t out_len, struct err *e)
{
	(void)data;
	return inflate_take(((struct result *)ctx)->z, len, out, out_len, e);
}

static errint_t run(struct result *x, const uint8_t *data, size_t len, size_t piece, unsigned times, bool ahead)
{
	static const struct ahead_ops ops = { on_push, on_take };
	struct ahead *a = ahead ? inflate_ahead_new(x->z, &ops, x) : NULL;
	errint_t r = 0;

	for (unsigned k = 0; k < times; k++)
		for (size_t i = 0; i < len && r == 0; i += piece) {
			size_t n = MIN_OF(piece, len - i);

			r = a ? inflate_ahead_push(a, data + i, n, NULL) : inflate_push(x->z, data + i, n, NULL);
		}
	if (a && r == 0)
		r = inflate_ahead_end(a, NULL);
	if (r == 0)
		r = inflate_end(x->z, NULL);
	(void)inflate_ahead_free(a);
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct result one = { .out = BUF_INIT(OUT_MAX) }, many = { .out = BUF_INIT(OUT_MAX) };

	if (len < 2)
		return 0;
	size_t piece = 1 + data[0] * (size_t)data[0];
	unsigned times = 1 + (data[1] & 7);
	inflate_ahead_cores = 3;
	inflate_ahead_run_min = 1 + (data[1] >> 3) * 20u;
	data += 2;
	len -= 2;
	one.z = inflate_new(collect, &one);
	many.z = inflate_new(collect, &many);
	errint_t r = run(&one, data, len, piece, times, false);
	errint_t r_many = run(&many, data, len, piece, times, true);
	size_t n = MIN_OF(one.out.len, many.out.len);
	/* too large for its bytes: which of them count as read differs within a run */
	must(r == r_many || r == -EFBIG || r_many == -EFBIG);
	must(r < 0 || r_many < 0 || one.out.len == many.out.len);
	must(!n || memcmp(one.out.data, many.out.data, n) == 0);
	(void)inflate_free(one.z);
	(void)inflate_free(many.z);
	buf_done(&one.out);
	buf_done(&many.out);
	return 0;
}
