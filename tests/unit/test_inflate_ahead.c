/*
 * test_inflate_ahead.c - members and frames on several threads give what one thread gives
 *
 * Each stream is decoded twice, alone and with threads that decode ahead, and everything must be the
 * same: output, where it ends, and whether it is damaged.
 */
#include "cache/inflate_ahead.h"

#include <zlib.h>
#include <zstd.h>

#include "unit.h"
#include "util/stats.h"

#define MANY (64u << 20)

static void words(struct buf *b, size_t len, uint32_t seed)
{
	while (b->len < len) {
		seed = seed * 1664525 + 1013904223;
		(void)buf_addf(b, "%s %x ", seed & 4 ? "usr/share" : "lib", seed >> 20);
	}
	b->len = len;
}

static void add_member(struct buf *out, const void *data, size_t len, int level)
{
	z_stream z = { 0 };
	size_t bound;

	(void)deflateInit2(&z, level, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY);
	bound = deflateBound(&z, len) + 64;
	(void)buf_reserve(out, bound);
	z.next_in = (Bytef *)data;
	z.avail_in = (uInt)len;
	z.next_out = (Bytef *)out->data + out->len;
	z.avail_out = (uInt)bound;
	(void)deflate(&z, Z_FINISH);
	out->len += z.total_out;
	(void)deflateEnd(&z);
}

static void add_frame(struct buf *out, const void *data, size_t len, bool checksum)
{
	ZSTD_CCtx *c = ZSTD_createCCtx();
	size_t bound = ZSTD_compressBound(len);

	(void)ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, checksum);
	(void)ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, !checksum);
	(void)buf_reserve(out, bound);
	out->len += ZSTD_compress2(c, out->data + out->len, bound, data, len);
	(void)ZSTD_freeCCtx(c);
}

/* len bytes in members or frames of `each`. */
static void add_many(struct buf *out, size_t len, size_t each, bool zstd)
{
	_cleanup_buf_ struct buf data = BUF_INIT(MANY);

	words(&data, len, 1);
	for (size_t i = 0; i < len; i += each) {
		size_t n = MIN_OF(each, len - i);

		if (zstd)
			add_frame(out, data.data + i, n, i / each % 2);
		else
			add_member(out, data.data + i, n, 1 + (int)(i / each % 9));
	}
}

/* ---- decoding both ways */

struct result {
	struct buf out;
	errint_t r;
	struct inflate *z;
	uint64_t stop;		/* the sink fails from there on */
	uint64_t in, at;	/* the last checkpoint */
	struct buf state;
};

static errint_t sink(void *ctx, const void *data, size_t len, struct err *e)
{
	struct result *x = ctx;

	if (x->out.len >= x->stop)
		return err_set(e, ECANCELED, ERR_CANCELLED, "enough");
	(void)buf_add(&x->out, data, len);
	x->state.len = 0;
	if (inflate_format(x->z) == INFLATE_ZSTD)
		(void)inflate_checkpoint(x->z, &x->in, &x->at, &x->state);
	return 0;
}

static errint_t on_push(void *ctx, const void *data, size_t len, struct err *e)
{
	return inflate_push(((struct result *)ctx)->z, data, len, e);
}

static errint_t on_take(void *ctx, const void *data _unused_, size_t len, const void *out, size_t out_len,
			struct err *e)
{
	return inflate_take(((struct result *)ctx)->z, len, out, out_len, e);
}

static const struct ahead_ops ops = { on_push, on_take };

static struct result run(const struct buf *in, size_t piece, bool threads, uint64_t stop)
{
	struct result x = { .out = BUF_INIT(MANY), .stop = stop, .state = BUF_INIT(1 << 20) };

	x.z = inflate_new(sink, &x);
	struct ahead *a = threads ? inflate_ahead_new(x.z, &ops, &x) : NULL;

	for (size_t i = 0; i < in->len && x.r == 0; i += piece) {
		size_t n = MIN_OF(piece, in->len - i);

		x.r = a ? inflate_ahead_push(a, in->data + i, n, NULL) : inflate_push(x.z, in->data + i, n, NULL);
	}
	if (x.r == 0 && a)
		x.r = inflate_ahead_end(a, NULL);
	if (x.r == 0)
		x.r = inflate_end(x.z, NULL);
	(void)inflate_ahead_free(a);
	return x;
}

static void result_done(struct result *x)
{
	(void)inflate_free(x->z);
	buf_done(&x->out);
	buf_done(&x->state);
}

/* Returns how many bytes other threads made. */
static int64_t check_same(const struct buf *in, size_t piece, uint64_t stop)
{
	struct result one = run(in, piece, false, stop);
	int64_t before = stat_get(STAT_INFLATED_AHEAD);
	struct result many = run(in, piece, true, stop);
	int64_t ahead = stat_get(STAT_INFLATED_AHEAD) - before;

	CHECK_EQ_INT(many.r, one.r);
	size_t n = MIN_OF(one.out.len, many.out.len);	/* how much comes before an error depends on the cuts */
	CHECK(!n || memcmp(many.out.data, one.out.data, n) == 0);
	if (one.r == 0) {
		CHECK_EQ_INT(many.out.len, one.out.len);
		CHECK_EQ_INT(inflate_out(many.z), inflate_out(one.z));
		CHECK_EQ_INT(inflate_in(many.z), inflate_in(one.z));
	}
	result_done(&one);
	result_done(&many);
	return ahead;
}

static void with_cores(long cores, size_t run_min)
{
	inflate_ahead_cores = cores;
	inflate_ahead_patient = true;
	inflate_ahead_run_min = run_min;
}

/* ---- tests */

TEST(members_and_frames_are_inflated_ahead)
{
	static const size_t each[] = { 5000, 100000, 1 << 20, 3 << 20 };
	static const size_t piece[] = { 1000, 128 << 10, 300000 };

	with_cores(3, 20000);
	for (size_t i = 0; i < ARRAY_SIZE(each); i++)
		for (int zstd = 0; zstd < 2; zstd++) {
			_cleanup_buf_ struct buf in = BUF_INIT(MANY);

			add_many(&in, 12 << 20, each[i], zstd);
			for (size_t k = 0; k < ARRAY_SIZE(piece); k++)
				if (!CHECK(check_same(&in, piece[k], MANY) > 1 << 20))
					printf("# %zu bytes each, zstd %d, pieces of %zu\n", each[i], zstd, piece[k]);
		}
}

/* Who of them is first is the scheduler's choice. */
TEST(the_owner_and_the_threads_may_take_turns)
{
	with_cores(3, 20000);
	inflate_ahead_patient = false;
	for (int zstd = 0; zstd < 2; zstd++) {
		_cleanup_buf_ struct buf in = BUF_INIT(MANY);

		add_many(&in, 12 << 20, 100000, zstd);
		for (int i = 0; i < 5; i++)
			(void)check_same(&in, 70000, MANY);
	}
}

TEST(one_member_or_frame_passes_through)
{
	with_cores(8, 1000);
	for (int zstd = 0; zstd < 2; zstd++) {
		_cleanup_buf_ struct buf in = BUF_INIT(MANY);

		add_many(&in, 3 << 20, MANY, zstd);
		CHECK_EQ_INT(check_same(&in, 70000, MANY), 0);
	}
}

TEST(nothing_is_done_ahead_where_no_core_is_idle)
{
	_cleanup_buf_ struct buf in = BUF_INIT(MANY);

	with_cores(1, 1000);
	add_many(&in, 1 << 20, 5000, false);
	CHECK_EQ_INT(check_same(&in, 70000, MANY), 0);
	with_cores(2, 1000);
	struct ahead *other = inflate_ahead_new(NULL, &ops, NULL);
	CHECK_EQ_INT(check_same(&in, 70000, MANY), 0);
	(void)inflate_ahead_free(other);
	CHECK(check_same(&in, 70000, MANY) > 0);
}

/* Files that are archives themselves, stored as they are: their headers are no members of the stream. */
TEST(what_only_looks_like_a_member_changes_nothing)
{
	_cleanup_buf_ struct buf in = BUF_INIT(MANY), inner = BUF_INIT(MANY);

	with_cores(3, 3000);
	add_many(&inner, 2 << 20, 4000, false);
	for (size_t i = 0; i < 8; i++)
		add_member(&in, inner.data, inner.len - i, 0);
	(void)check_same(&in, 50000, MANY);
}

TEST(what_follows_the_last_member_is_ignored)
{
	_cleanup_buf_ struct buf in = BUF_INIT(MANY);
	char zeros[30000] = { 0 };

	with_cores(3, 10000);
	add_many(&in, 2 << 20, 50000, false);
	(void)buf_add(&in, zeros, sizeof(zeros));
	CHECK(check_same(&in, 12345, MANY) > 0);
	add_many(&in, 1 << 20, 50000, false);	/* garbage as well: gzip(1) does not look further */
	CHECK(check_same(&in, 12345, MANY) > 0);
}

TEST(skippable_frames)
{
	static const uint8_t skip[] = { 0x5e, 0x2a, 0x4d, 0x18, 5, 0, 0, 0, 'h', 'e', 'l', 'l', 'o' };
	_cleanup_buf_ struct buf in = BUF_INIT(MANY);

	with_cores(3, 8000);
	for (int i = 0; i < 40; i++) {
		(void)buf_add(&in, skip, sizeof(skip));
		add_many(&in, 200000, 60000, true);
	}
	for (size_t piece = 1; piece < 20000; piece = piece * 7 + 1)
		CHECK(check_same(&in, piece, MANY) > 0);
}

TEST(damage_is_found_where_it_is)
{
	for (int zstd = 0; zstd < 2; zstd++) {
		_cleanup_buf_ struct buf in = BUF_INIT(MANY);

		with_cores(3, 4000);
		add_many(&in, 1 << 20, 20000, zstd);
		for (size_t at = 11; at < in.len; at += in.len / 60) {
			in.data[at] ^= 0x11;
			(void)check_same(&in, 9000, MANY);
			in.data[at] ^= 0x11;
		}
		for (size_t n = 60; n; n--) {
			in.len -= in.len / 60;
			(void)check_same(&in, 9000, MANY);
		}
	}
}

TEST(parts_too_large_to_hold_are_decoded_as_they_come)
{
	_cleanup_buf_ struct buf in = BUF_INIT(MANY), zeros = BUF_INIT(MANY);

	with_cores(3, 4000);
	(void)buf_reserve(&zeros, 20 << 20);
	memset(zeros.data, 0, 20 << 20);
	for (int i = 0; i < 2; i++) {
		add_many(&in, 500000, 20000, true);
		add_frame(&in, zeros.data, 20 << 20, false);	/* few bytes, much output */
	}
	(void)check_same(&in, 100000, MANY);
}

TEST(a_sink_that_gives_up_ends_it)
{
	_cleanup_buf_ struct buf in = BUF_INIT(MANY);

	with_cores(4, 4000);
	add_many(&in, 4 << 20, 20000, false);
	for (uint64_t stop = 0; stop < 4 << 20; stop += 700000)
		(void)check_same(&in, 30000, stop);
}

/* The last one that was had goes on to the same end. */
TEST(checkpoints_stand_between_runs)
{
	_cleanup_buf_ struct buf in = BUF_INIT(MANY);

	with_cores(3, 50000);
	add_many(&in, 6 << 20, 30000, true);
	in.len -= 10;	/* so that the last checkpoint is not the end */
	struct result x = run(&in, 60000, true, MANY), y = { .out = BUF_INIT(MANY), .stop = MANY, .state = BUF_INIT(100) };
	CHECK_ERR(x.r, -EBADMSG);
	CHECK(x.in > 0 && x.at < x.out.len + 1);
	CHECK_OK(inflate_resume(INFLATE_ZSTD, x.in, x.at, NULL, 0, sink, &y, &y.z, NULL));
	CHECK_OK(inflate_push(y.z, in.data + x.in, in.len - x.in, NULL));
	CHECK_EQ_INT(x.at + y.out.len, x.out.len);
	CHECK(memcmp(x.out.data + x.at, y.out.data ? y.out.data : "", y.out.len) == 0);
	result_done(&x);
	result_done(&y);
}


