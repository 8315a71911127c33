/*
 * test_inflate.c - decompression: formats, cuts, damage, bombs, checkpoints
 *
 * Streams are made here with zlib and libzstd.  Wherever a stream may be cut, tests cut it at odd
 * places; wherever a checkpoint may be taken, the rest of the stream is decoded from it and
 * compared.
 */
#include "cache/inflate.h"

#include <zlib.h>
#include <zstd.h>

#include "cache/crc.h"
#include "unit.h"

#define MANY (64u << 20)

/* Half text-like, half noise; the same for the same seed. */
static void fill_mixed(struct buf *b, size_t len, uint32_t seed)
{
	static const char *const words[] = { "usr/",   "lib/",	"share", "x86_64",
					     "-linux", ".so\n", "0000",	 "python3",
					     "doc/",   "the ",	"of ",	 "registry " };

	while (b->len < len) {
		seed = seed * 1664525 + 1013904223;
		if (seed >> 30 == 0) {
			(void)buf_add(b, &seed, 4);
			(void)buf_add(b, (char *)&seed + 1, 3);
		} else {
			(void)buf_adds(b, words[(seed >> 20) % ARRAY_SIZE(words)]);
		}
	}
	b->len = len;
}

struct gz_opts {
	int level;
	size_t flush_every;	/* 0: never */
	int flush;
	gz_header *head;
	int strategy;
};

static void add_member(struct buf *out, const void *data, size_t len, const struct gz_opts *o)
{
	z_stream z = { 0 };
	uint8_t tmp[1 << 16], none = 0;
	const uint8_t *p = data ? data : &none;
	int r;

	(void)deflateInit2(&z, o->level, Z_DEFLATED, 31, 8, o->strategy);
	if (o->head)
		(void)deflateSetHeader(&z, o->head);
	do {
		size_t n = o->flush_every ? MIN_OF(o->flush_every, len) : len;
		int flush = n == len ? Z_FINISH : o->flush;

		z.next_in = (Bytef *)p;
		z.avail_in = (uInt)n;
		p += n;
		len -= n;
		do {
			z.next_out = tmp;
			z.avail_out = sizeof(tmp);
			r = deflate(&z, flush);
			(void)buf_add(out, tmp, sizeof(tmp) - z.avail_out);
		} while (z.avail_out == 0);
	} while (r != Z_STREAM_END);
	(void)deflateEnd(&z);
}

static void add_gzip(struct buf *out, const struct buf *data, int level)
{
	add_member(out, data->data, data->len, &(struct gz_opts){ .level = level });
}

static void add_frame(struct buf *out, const void *data, size_t len, int level)
{
	size_t bound = ZSTD_compressBound(len);

	(void)buf_reserve(out, bound);
	out->len += ZSTD_compress(out->data + out->len, bound, data, len, level);
}

static errint_t collect(void *ctx, const void *data, size_t len, struct err *e _unused_)
{
	return buf_add(ctx, data, len);
}

static errint_t count(void *ctx, const void *data _unused_, size_t len, struct err *e _unused_)
{
	*(uint64_t *)ctx += len;
	return 0;
}

/* Pushes in pieces of `piece` bytes. */
static errint_t push_all(struct inflate *z, const void *data, size_t len, size_t piece,
			 struct err *e)
{
	for (size_t at = 0; at < len; at += piece) {
		errint_t r = inflate_push(z, (const char *)data + at, MIN_OF(piece, len - at), e);

		if (r < 0)
			return r;
	}
	return inflate_end(z, e);
}

static errint_t decode(const struct buf *in, size_t piece, struct buf *out, struct err *e)
{
	_cleanup_(inflate_freep) struct inflate *z = inflate_new(collect, out);

	return push_all(z, in->data, in->len, piece, e);
}

static bool same(const struct buf *a, const struct buf *b)
{
	return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

static bool decodes_to(const struct buf *in, size_t piece, const struct buf *want)
{
	_cleanup_buf_ struct buf out = BUF_INIT(MANY);
	struct err e = { 0 };
	errint_t r = decode(in, piece, &out, &e);

	if (r < 0)
		printf("# %s\n", e.msg);
	return r == 0 && same(&out, want);
}

TEST(plain_and_short)
{
	for (size_t len = 0; len < 20; len++) {
		_cleanup_buf_ struct buf in = BUF_INIT(MANY);

		(void)buf_add(&in, "etc/passwd\0\0\0\0\0\0\0\0\0\0\0", len);
		CHECK(decodes_to(&in, 1, &in));
		CHECK(decodes_to(&in, 100, &in));
	}
	_cleanup_buf_ struct buf big = BUF_INIT(MANY);
	fill_mixed(&big, 1000001, 1);
	CHECK(decodes_to(&big, 70001, &big));
}

TEST(format_is_found_from_the_bytes)
{
	static const struct {
		const char *bytes;
		size_t len;
		enum inflate_format want;
	} cases[] = {
		{ "\x1f\x8b\x08\x00", 4, INFLATE_GZIP },  { "\x28\xb5\x2f\xfd", 4, INFLATE_ZSTD },
		{ "\x50\x2a\x4d\x18", 4, INFLATE_ZSTD },  { "\x5f\x2a\x4d\x18", 4, INFLATE_ZSTD },
		{ "\x1f\x8b\x07\x00", 4, INFLATE_PLAIN }, { "\x60\x2a\x4d\x18", 4, INFLATE_PLAIN },
		{ "./et", 4, INFLATE_PLAIN },		  { "\0\0\0\0", 4, INFLATE_PLAIN },
		{ "BZh9", 4, INFLATE_PLAIN },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_buf_ struct buf out = BUF_INIT(MANY);
		_cleanup_(inflate_freep) struct inflate *z = inflate_new(collect, &out);

		CHECK_EQ_INT(inflate_push(z, cases[i].bytes, cases[i].len, NULL), 0);
		CHECK_EQ_INT(inflate_format(z), cases[i].want);
	}
}

TEST(gzip_levels_and_cuts)
{
	_cleanup_buf_ struct buf data = BUF_INIT(MANY);
	static const size_t pieces[] = { 1, 7, 4096, 100003, MANY };

	fill_mixed(&data, 700000, 7);
	for (int level = 0; level <= 9; level += 3) {
		_cleanup_buf_ struct buf in = BUF_INIT(MANY);

		add_gzip(&in, &data, level);
		for (size_t i = level == 6 ? 0 : 1; i < ARRAY_SIZE(pieces); i++)
			CHECK(decodes_to(&in, pieces[i], &data));
	}
}

TEST(gzip_strategies_and_flushes)
{
	static const int flushes[] = { Z_NO_FLUSH, Z_PARTIAL_FLUSH, Z_SYNC_FLUSH, Z_FULL_FLUSH,
				       Z_BLOCK };
	static const int strategies[] = { Z_DEFAULT_STRATEGY, Z_FIXED, Z_RLE, Z_HUFFMAN_ONLY };
	static const size_t every[] = { 13, 5000, 66000 };
	_cleanup_buf_ struct buf data = BUF_INIT(MANY);

	fill_mixed(&data, 150000, 9);
	for (size_t f = 0; f < ARRAY_SIZE(flushes); f++)
		for (size_t s = 0; s < ARRAY_SIZE(strategies); s++)
			for (size_t n = 0; n < ARRAY_SIZE(every); n++) {
				_cleanup_buf_ struct buf in = BUF_INIT(MANY);

				add_member(&in, data.data, data.len,
					   &(struct gz_opts){ .level = 6, .flush = flushes[f],
							      .flush_every = every[n],
							      .strategy = strategies[s] });
				CHECK(decodes_to(&in, 1001, &data));
			}
}

TEST(gzip_members_and_what_follows)
{
	_cleanup_buf_ struct buf data = BUF_INIT(MANY), in = BUF_INIT(MANY), none = BUF_INIT(1);

	fill_mixed(&data, 300000, 11);
	for (size_t at = 0; at < data.len; at += 30000) {
		add_member(&in, data.data + at, 30000, &(struct gz_opts){ .level = 6 });
		if (at % 90000 == 0)
			add_gzip(&in, &none, 9);
	}
	CHECK(decodes_to(&in, 1, &data));
	CHECK(decodes_to(&in, 997, &data));
	static const char *const tails[] = {
		"x", "\x1f", "\x1f\x8b", "\x1fzz", "\x1f\x8b\x07zzz", "garbage"
	};
	for (size_t i = 0; i < ARRAY_SIZE(tails); i++) {
		size_t len = in.len;

		(void)buf_adds(&in, tails[i]);
		CHECK(decodes_to(&in, 1, &data));
		CHECK(decodes_to(&in, MANY, &data));
		in.len = len;
	}
	(void)buf_add(&in, (char[600]){ 0 }, 600);
	CHECK(decodes_to(&in, 512, &data));
}

TEST(gzip_header_fields)
{
	_cleanup_buf_ struct buf data = BUF_INIT(MANY);

	fill_mixed(&data, 5000, 3);
	for (int flags = 0; flags < 16; flags++) {
		_cleanup_buf_ struct buf in = BUF_INIT(MANY), out = BUF_INIT(MANY);
		gz_header h = { .extra = flags & 1 ? (Bytef *)"abcdefgh" : NULL,
				.extra_len = flags & 1 ? 8 : 0,
				.name = flags & 2 ? (Bytef *)"layer.tar" : NULL,
				.comment = flags & 4 ? (Bytef *)"hello" : NULL,
				.hcrc = flags >> 3 };

		add_member(&in, data.data, data.len, &(struct gz_opts){ .level = 6, .head = &h });
		CHECK(decodes_to(&in, 1, &data));
		CHECK(decodes_to(&in, MANY, &data));
		if (!h.hcrc)
			continue;
		in.data[4] ^= 1;	/* the time: only the header's CRC can notice */
		CHECK_ERR(decode(&in, 11, &out, NULL), -EBADMSG);
	}
}

/* What decodes must be a prefix, and the end must be refused. */
static void check_cut(const struct buf *in, size_t len, const struct buf *data)
{
	struct buf cut = { .data = in->data, .len = len };
	_cleanup_buf_ struct buf out = BUF_INIT(MANY);

	CHECK_ERR(decode(&cut, 4096, &out, NULL), -EBADMSG);
	CHECK(out.len <= data->len && memcmp(out.data ? out.data : "", data->data, out.len) == 0);
}

TEST(truncated_everywhere)
{
	_cleanup_buf_ struct buf data = BUF_INIT(MANY), gz = BUF_INIT(MANY), zs = BUF_INIT(MANY);

	fill_mixed(&data, 60000, 5);
	add_gzip(&gz, &data, 6);
	add_frame(&zs, data.data, data.len, 3);
	for (size_t len = 3; len < gz.len; len += len < 200 || len + 30 > gz.len ? 1 : 97)
		check_cut(&gz, len, &data);
	for (size_t len = 4; len < zs.len; len += len < 200 || len + 30 > zs.len ? 1 : 97)
		check_cut(&zs, len, &data);
}

/* The CRC finds every flip, except in the padding behind the last block. */
TEST(damaged_everywhere)
{
	_cleanup_buf_ struct buf data = BUF_INIT(MANY), gz = BUF_INIT(MANY);
	unsigned undetected = 0;

	fill_mixed(&data, 60000, 6);
	add_gzip(&gz, &data, 6);
	for (size_t i = 10; i < gz.len; i += i + 20 > gz.len ? 1 : 13) {
		_cleanup_buf_ struct buf out = BUF_INIT(MANY);
		char old = gz.data[i];

		gz.data[i] ^= (char)(1 << i % 8);
		errint_t r = decode(&gz, 3001, &out, NULL);
		undetected += r == 0 && !same(&out, &data);
		CHECK(r == 0 || r == -EBADMSG || r == -EFBIG);
		gz.data[i] = old;
	}
	CHECK_EQ_INT(undetected, 0);
}

TEST(failure_is_sticky)
{
	_cleanup_buf_ struct buf out = BUF_INIT(MANY);
	_cleanup_(inflate_freep) struct inflate *z = inflate_new(collect, &out);

	CHECK_ERR(inflate_push(z, "\x1f\x8b\x08\xff\0\0\0\0\0\0\0", 11, NULL), -EBADMSG);
	CHECK_ERR(inflate_push(z, "more", 4, NULL), -EBADMSG);
	CHECK_ERR(inflate_end(z, NULL), -EBADMSG);
}

/* Streams of all formats, whole, cut off and damaged, one after the other through one decoder. */
TEST(another_stream_begins_as_if_nothing_had_been)
{
	struct buf in[3] = { BUF_INIT(MANY), BUF_INIT(MANY), BUF_INIT(MANY) };
	_cleanup_buf_ struct buf data = BUF_INIT(MANY), out = BUF_INIT(MANY);
	_cleanup_(inflate_freep) struct inflate *z = inflate_new(collect, &out);

	fill_mixed(&data, 700000, 5);
	(void)buf_add(&in[0], data.data, data.len);
	add_gzip(&in[1], &data, 6);
	add_frame(&in[2], data.data, data.len, 3);
	for (unsigned i = 0; i < 36; i++) {
		const struct buf *b = &in[i % 3 * (i / 6 + 1) % 3];
		bool cut = i % 4 == 1;

		inflate_restart(z);
		buf_clear(&out);
		CHECK_EQ_INT(inflate_out(z), 0);
		if (i % 4 == 2)
			CHECK_ERR(inflate_push(z, "\x1f\x8b\x08\xff\0\0\0\0\0\0\0", 11, NULL), -EBADMSG);
		if (i % 4 == 2)
			inflate_restart(z);
		errint_t r = push_all(z, b->data, cut ? b->len / 2 : b->len, 10000, NULL);
		if (cut && b != &in[0])
			CHECK_ERR(r, -EBADMSG);
		else
			CHECK_OK(r);
		if (!cut)
			CHECK(same(&out, &data));
	}
	for (size_t i = 0; i < 3; i++)
		buf_done(&in[i]);
}

TEST(zstd_frames)
{
	_cleanup_buf_ struct buf data = BUF_INIT(MANY), in = BUF_INIT(MANY), out = BUF_INIT(MANY);

	fill_mixed(&data, 900000, 13);
	for (size_t at = 0; at < data.len; at += 100000) {
		add_frame(&in, data.data + at, 100000, at % 200000 ? 1 : 19);
		(void)buf_add(&in, "\x51\x2a\x4d\x18\x05\0\0\0skip!", 13);
		add_frame(&in, "", 0, 3);
	}
	CHECK(decodes_to(&in, 1, &data));
	CHECK(decodes_to(&in, 12345, &data));
	CHECK(decodes_to(&in, MANY, &data));
	(void)buf_adds(&in, "garbage");
	CHECK_ERR(decode(&in, 4096, &out, NULL), -EBADMSG);
}

TEST(zstd_window_is_limited)
{
	_cleanup_buf_ struct buf out = BUF_INIT(MANY);
	struct err e = { 0 };
	/* Frame header: no content size, window descriptor 2^30. */
	_cleanup_buf_ struct buf in = BUF_INIT(MANY);

	(void)buf_add(&in, "\x28\xb5\x2f\xfd\x00\xa0\x01\x00\x00", 9);
	CHECK_ERR(decode(&in, 9, &out, &e), -EFBIG);
	CHECK_EQ_INT(e.cls, ERR_LIMIT);
}

TEST(bombs)
{
	_cleanup_free_ char *zeros = calloc(1, 50u << 20);
	_cleanup_buf_ struct buf gz = BUF_INIT(MANY), zs = BUF_INIT(MANY);
	uint64_t n = 0;
	struct err e = { 0 };

	add_member(&gz, zeros, 10u << 20, &(struct gz_opts){ .level = 9 });
	struct inflate *z = inflate_new(count, &n);
	CHECK_OK(push_all(z, gz.data, gz.len, 4096, NULL));
	CHECK_EQ_INT(n, 10u << 20);
	inflate_free(z);

	add_frame(&zs, zeros, 50u << 20, 19);
	n = 0;
	z = inflate_new(count, &n);
	CHECK_ERR(push_all(z, zs.data, zs.len, 4096, &e), -EFBIG);
	CHECK_EQ_INT(e.cls, ERR_LIMIT);
	CHECK(n <= (64u << 20));
	inflate_free(z);
}

/* ---- checkpoints */

struct point {
	uint64_t in, out;
	struct buf state;
};

struct taker {
	struct inflate *z;
	struct buf out;
	uint64_t every;
	bool in_sink;
	struct point *points;
	size_t n, cap;
};

static void take(struct taker *t)
{
	uint64_t last = t->n ? t->points[t->n - 1].out : 0;

	if (inflate_out(t->z) < last + t->every)
		return;
	if (t->n == t->cap) {
		t->cap = t->cap * 2 + 8;
		t->points = realloc(t->points, t->cap * sizeof(*t->points));
	}
	struct point *p = &t->points[t->n];
	*p = (struct point){ .state = BUF_INIT(INFLATE_STATE_MAX * 2) };
	if (inflate_checkpoint(t->z, &p->in, &p->out, &p->state))
		t->n++;
	else
		buf_done(&p->state);
}

static errint_t take_sink(void *ctx, const void *data, size_t len, struct err *e _unused_)
{
	struct taker *t = ctx;
	errint_t r = buf_add(&t->out, data, len);

	if (t->in_sink)
		take(t);
	return r;
}

/* Decodes in pieces, takes checkpoints, resumes at each, compares.  Returns how many there were. */
static size_t check_resume(const struct buf *in, size_t piece, uint64_t every, bool in_sink,
			   const struct buf *data)
{
	struct taker t = { .out = BUF_INIT(MANY), .every = every, .in_sink = in_sink };

	t.z = inflate_new(take_sink, &t);
	for (size_t at = 0; at < in->len; at += piece) {
		CHECK_OK(inflate_push(t.z, in->data + at, MIN_OF(piece, in->len - at), NULL));
		if (!in_sink)
			take(&t);
	}
	CHECK_OK(inflate_end(t.z, NULL));
	CHECK(same(&t.out, data));
	for (size_t i = 0; i < t.n; i++) {
		struct point *p = &t.points[i];
		_cleanup_buf_ struct buf out = BUF_INIT(MANY);
		_cleanup_(inflate_freep) struct inflate *z = NULL;
		struct err e = { 0 };

		CHECK_OK(inflate_resume(inflate_format(t.z), p->in, p->out, p->state.data,
					p->state.len, collect, &out, &z, &e));
		CHECK_OK(push_all(z, in->data + p->in, in->len - p->in, piece + i, &e));
		CHECK_EQ_INT(out.len, data->len - p->out);
		CHECK(out.len == 0 || memcmp(out.data, data->data + p->out, out.len) == 0);
		CHECK_EQ_INT(inflate_out(z), data->len);
		buf_done(&p->state);
	}
	inflate_free(t.z);
	buf_done(&t.out);
	free(t.points);
	return t.n;
}

TEST(gzip_checkpoints)
{
	_cleanup_buf_ struct buf data = BUF_INIT(MANY);

	fill_mixed(&data, 3000000, 21);
	for (int level = 0; level <= 9; level += 3) {
		_cleanup_buf_ struct buf in = BUF_INIT(MANY);

		add_gzip(&in, &data, level);
		CHECK(check_resume(&in, 5003, 300000, false, &data) > 0 ||
		      !strncmp(inflate_build_id(), "zlib", 4));
		CHECK(check_resume(&in, 5003, 300000, true, &data) > 0);
		CHECK(check_resume(&in, 400001, 250000, true, &data) > 0);
	}
}

TEST(gzip_checkpoints_everywhere)
{
	_cleanup_buf_ struct buf data = BUF_INIT(MANY), in = BUF_INIT(MANY);
	gz_header h = { .extra = (Bytef *)"abcd", .extra_len = 4, .name = (Bytef *)"n",
			.comment = (Bytef *)"c", .hcrc = 1 };

	fill_mixed(&data, 3000, 22);
	for (size_t at = 0; at < data.len; at += 500)
		add_member(
			&in, data.data + at, 500,
			&(struct gz_opts){ .level = (int)(at / 500) * 2 % 10,
					   .head = &h,
					   .strategy = at % 1000 ? Z_FIXED : Z_DEFAULT_STRATEGY });
	(void)buf_adds(&in, "\x1f?tail");
	CHECK(check_resume(&in, 1, 0, false, &data) > 100);
	CHECK(check_resume(&in, 3, 0, true, &data) > 0);
}

TEST(gzip_checkpoints_in_flushed_streams)
{
	static const int flushes[] = { Z_PARTIAL_FLUSH, Z_SYNC_FLUSH, Z_FULL_FLUSH, Z_BLOCK };
	_cleanup_buf_ struct buf data = BUF_INIT(MANY);

	fill_mixed(&data, 400000, 23);
	for (size_t f = 0; f < ARRAY_SIZE(flushes); f++) {
		_cleanup_buf_ struct buf in = BUF_INIT(MANY);

		add_member(
			&in, data.data, data.len,
			&(struct gz_opts){ .level = 6, .flush = flushes[f], .flush_every = 3001 });
		CHECK(check_resume(&in, 1009, 30000, false, &data) > 0 ||
		      !strncmp(inflate_build_id(), "zlib", 4));
		CHECK(check_resume(&in, 1009, 30000, true, &data) > 0);
	}
}

TEST(long_runs_and_far_copies)
{
	_cleanup_buf_ struct buf data = BUF_INIT(MANY), in = BUF_INIT(MANY);
	_cleanup_free_ char *run = calloc(1, 1u << 20);

	for (uint32_t i = 0; i < 6; i++) {
		fill_mixed(&data, data.len + 32768 + i, 77); /* repeats at the edge of the window */
		(void)buf_add(&data, run, 1u << 20);
	}
	add_gzip(&in, &data, 9);
	CHECK(check_resume(&in, 100, 100000, true, &data) >
	      (strncmp(inflate_build_id(), "zlib", 4) ? 5 : 0));
	CHECK(check_resume(&in, MANY, 100000, true, &data) > 0);
}

TEST(zstd_checkpoints)
{
	_cleanup_buf_ struct buf data = BUF_INIT(MANY), in = BUF_INIT(MANY);

	fill_mixed(&data, 1000000, 24);
	for (size_t at = 0; at < data.len; at += 50000)
		add_frame(&in, data.data + at, 50000, 3);
	CHECK(check_resume(&in, 7001, 60000, true, &data) > 5);
	CHECK(check_resume(&in, 1, 10000, false, &data) > 5);
}

TEST(plain_checkpoints)
{
	_cleanup_buf_ struct buf data = BUF_INIT(MANY);

	fill_mixed(&data, 1000000, 25);
	CHECK_EQ_INT(check_resume(&data, 50000, 100000, false, &data), 10);
}

TEST(pieces_never_cross_the_grid)
{
	_cleanup_buf_ struct buf data = BUF_INIT(MANY), in = BUF_INIT(MANY);
	struct taker t = { .out = BUF_INIT(MANY), .in_sink = true, .every = INFLATE_PIECE };

	fill_mixed(&data, 2000000, 26);
	add_gzip(&in, &data, 6);
	if (!strncmp(inflate_build_id(), "zlib", 4))
		return;
	t.z = inflate_new(take_sink, &t);
	CHECK_OK(push_all(t.z, in.data, in.len, 60000, NULL));
	CHECK_EQ_INT(t.n, data.len / INFLATE_PIECE);
	for (size_t i = 0; i < t.n; i++) {
		CHECK_EQ_INT(t.points[i].out, (i + 1) * INFLATE_PIECE);
		buf_done(&t.points[i].state);
	}
	inflate_free(t.z);
	buf_done(&t.out);
	free(t.points);
}

/* A state that was tampered with is refused or decodes to something, in bounds. */
TEST(damaged_states)
{
	_cleanup_buf_ struct buf data = BUF_INIT(MANY), in = BUF_INIT(MANY), state = BUF_INIT(MANY);
	_cleanup_buf_ struct buf out = BUF_INIT(MANY);
	uint64_t at_in, at_out;
	unsigned accepted = 0;

	fill_mixed(&data, 500000, 27);
	add_gzip(&in, &data, 6);
	struct inflate *z = inflate_new(collect, &out);
	CHECK_OK(inflate_push(z, in.data, 100000, NULL));
	REQUIRE(inflate_checkpoint(z, &at_in, &at_out, &state) ||
		!strncmp(inflate_build_id(), "zlib", 4));
	inflate_free(z);
	for (size_t i = 0; i < state.len * 8; i += i < 400 ? 1 : 1009) {
		_cleanup_buf_ struct buf got = BUF_INIT(MANY);

		state.data[i / 8] ^= (char)(1 << i % 8);
		if (inflate_resume(INFLATE_GZIP, at_in, at_out, state.data, state.len, collect,
				   &got, &z, NULL) == 0) {
			(void)push_all(z, in.data + at_in, in.len - at_in, 9999, NULL);
			inflate_free(z);
			accepted++;
		}
		state.data[i / 8] ^= (char)(1 << i % 8);
	}
	printf("# %u damaged states accepted\n", accepted);
	for (size_t len = 1; len < state.len; len += 1 + len / 9)
		CHECK_ERR(inflate_resume(INFLATE_GZIP, at_in, at_out, state.data, len, collect,
					 &out, &z, NULL),
			  -EBADMSG);
	CHECK_ERR(inflate_resume(INFLATE_ZSTD, 1, 1, "x", 1, collect, &out, &z, NULL), -EBADMSG);
	CHECK_ERR(inflate_resume(INFLATE_PLAIN, 1, 1, "x", 1, collect, &out, &z, NULL), -EBADMSG);
	CHECK_ERR(inflate_resume(INFLATE_UNSET, 0, 0, NULL, 0, collect, &out, &z, NULL), -EBADMSG);
	CHECK_ERR(inflate_resume(99, 0, 0, NULL, 0, collect, &out, &z, NULL), -EBADMSG);
}

static errint_t refuse(void *ctx, const void *data _unused_, size_t len _unused_, struct err *e)
{
	return ++*(int *)ctx > 2 ? err_set(e, ECANCELED, ERR_CANCELLED, "enough") : 0;
}

TEST(sink_aborts)
{
	_cleanup_buf_ struct buf data = BUF_INIT(MANY), in = BUF_INIT(MANY);
	int calls = 0;
	struct err e = { 0 };

	fill_mixed(&data, 3000000, 28);
	add_gzip(&in, &data, 1);
	_cleanup_(inflate_freep) struct inflate *z = inflate_new(refuse, &calls);
	CHECK_ERR(inflate_push(z, in.data, in.len, &e), -ECANCELED);
	CHECK_EQ_STR(e.msg, "enough");
	CHECK_EQ_INT(calls, 3);
}

TEST(crc)
{
	CHECK_EQ_INT(crc32_add(0, "123456789", 9), 0xcbf43926);
	CHECK_EQ_INT(crc32_add(crc32_add(0, "1234", 4), "56789", 5), 0xcbf43926);
	CHECK_EQ_INT(crc32_add(0, NULL, 0), 0);
}
