/*
 * test_layer.c - indexing layers and reading from them, on a scripted source and a real directory
 *
 * The tar archives are made here, entry by entry, so that the tests know what must come out.  The
 * source can be short, wrong, failing, slow to be cancelled; the disk can be full.
 */
#include "cache/layer_gate.h"
#include "cache/layer_priv.h"

#include <dirent.h>
#include <ftw.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include "cache/crc.h"
#include "cache/sealed.h"
#include "util/clock.h"
#include "util/stats.h"
#include "unit.h"

#define MANY (256u << 20)

/* ---- a directory for the store */

static int remove_one(const char *path, const struct stat *st _unused_, int type _unused_,
		      struct FTW *f _unused_)
{
	return remove(path);
}

struct dir {
	char path[64];
	struct ca_store *s;
};

static void dir_open(struct dir *d, uint64_t max_bytes)
{
	(void)snprintf(d->path, sizeof(d->path), "/tmp/test-layer-XXXXXX");
	if (!mkdtemp(d->path))
		abort();
	struct ca_opts o = { .dir = d->path, .max_bytes = max_bytes, .min_free = 1 };
	CHECK_OK(ca_store_new(&o, &d->s, NULL));
}

static void dir_reopen(struct dir *d)
{
	struct ca_opts o = { .dir = d->path, .min_free = 1 };

	(void)ca_store_free(d->s);
	CHECK_OK(ca_store_new(&o, &d->s, NULL));
}

static void dir_close(struct dir *d)
{
	(void)ca_store_free(d->s);
	(void)nftw(d->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Removes all files of a kind, behind the store's back. */
static unsigned wipe(struct dir *d, const char *kind)
{
	char cmd[256];
	unsigned n = 0;

	(void)snprintf(cmd, sizeof(cmd), "find %s/%s -type f -print -delete 2>/dev/null | wc -l",
		       d->path, kind);
	FILE *f = popen(cmd, "r");
	if (f && fscanf(f, "%u", &n) != 1)
		n = 0;
	if (f)
		(void)pclose(f);
	return n;
}

/* Evicts the spans of a layer the way the store would. */
static void drop_spans(struct dir *d, const struct digest *digest, uint32_t n)
{
	char key[CA_KEY_MAX];

	for (uint32_t i = 0; i < n; i++)
		ca_object_drop(d->s, CA_SPAN, layer_span_key(digest, i, key));
}

/* ---- archives */

static void tar_file(struct buf *tar, const char *name, const void *data, size_t len)
{
	char h[512] = { 0 };
	unsigned sum = 0;

	(void)snprintf(h, 100, "%s", name);
	(void)snprintf(h + 100, 8, "%07o", 0644);
	(void)snprintf(h + 108, 8, "%07o", 0);
	(void)snprintf(h + 116, 8, "%07o", 0);
	(void)snprintf(h + 124, 12, "%011zo", len);
	(void)snprintf(h + 136, 12, "%011o", 1700000000);
	memset(h + 148, ' ', 8);
	h[156] = '0';
	memcpy(h + 257, "ustar\00000", 8);
	for (size_t i = 0; i < sizeof(h); i++)
		sum += (unsigned char)h[i];
	(void)snprintf(h + 148, 8, "%06o", sum);
	(void)buf_add(tar, h, sizeof(h));
	if (len)
		(void)buf_add(tar, data, len);
	static const char zero[512];
	(void)buf_add(tar, zero, -len % 512);
}

static void noise(char *p, size_t len, uint32_t seed)
{
	for (size_t i = 0; i < len; i++) {
		seed = seed * 1664525 + 1013904223;
		p[i] = seed >> 28 < 12 ? "etaoin shrdlu/.\n"[seed >> 24 & 15] : (char)(seed >> 20);
	}
}

static void make_tar(struct buf *tar, size_t files, size_t each)
{
	_cleanup_free_ char *data = malloc(each + 1);
	char name[64];

	for (size_t i = 0; i < files; i++) {
		noise(data, each, (uint32_t)i * 7919 + 1);
		(void)snprintf(name, sizeof(name), "usr/lib/file%zu", i);
		tar_file(tar, name, data, each - i % 7);
	}
	(void)buf_add(tar, (char[1024]){ 0 }, 1024);
}

static void add_gzip(struct buf *out, const void *data, size_t len, int level)
{
	z_stream z = { .next_in = (Bytef *)data, .avail_in = (uInt)len };

	(void)deflateInit2(&z, level, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY);
	size_t bound = deflateBound(&z, len);
	(void)buf_reserve(out, bound);
	z.next_out = (Bytef *)out->data + out->len;
	z.avail_out = (uInt)bound;
	(void)deflate(&z, Z_FINISH);
	out->len += z.total_out;
	(void)deflateEnd(&z);
}

static void add_frame(struct buf *out, const void *data, size_t len)
{
	size_t bound = ZSTD_compressBound(len);

	(void)buf_reserve(out, bound);
	out->len += ZSTD_compress(out->data + out->len, bound, data, len, 1);
}

/* ---- the source */

struct fake {
	struct ca_source src;
	struct buf blob;
	struct digest digest, diff;
	size_t piece;
	uint64_t cut;		/* deliver no more than this (0: all) */
	int64_t flip;		/* damage this byte of what is delivered (-1: none) */
	uint64_t extra;		/* deliver so many bytes too much */
	uint64_t cancel_at;	/* fire the token there */
	struct cancel *cancel;
	errint_t fail;
	uint64_t asked, calls;	/* statistics */
};

static errint_t fake_piece(struct fake *f, uint64_t off, size_t n, ca_sink_fn sink, void *ctx,
			   struct err *e)
{
	_cleanup_free_ char *copy = malloc(n + 1);

	memcpy(copy, f->blob.data + off, n);
	if (f->flip >= (int64_t)off && f->flip < (int64_t)(off + n))
		copy[f->flip - (int64_t)off] ^= 1;
	return sink(ctx, copy, n, e);
}

static errint_t fake_read(void *ctx, const struct digest *d, uint64_t size, uint64_t off,
			  uint64_t len, ca_sink_fn sink, void *sink_ctx, struct cancel *c _unused_,
			  struct err *e)
{
	struct fake *f = ctx;
	errint_t r = 0;

	CHECK(digest_eq(d, &f->digest));
	CHECK_EQ_INT(size, f->blob.len);
	CHECK(off + len <= size);
	len = len ? len : size - off;
	f->calls++;
	f->asked += len;
	if (f->fail)
		return err_set(e, -f->fail, ERR_NET, "scripted failure");
	if (f->cut)
		len = MIN_OF(len, f->cut);
	for (uint64_t at = 0; at < len && r == 0; at += f->piece) {
		if (f->cancel && off + at >= f->cancel_at)
			cancel_fire(f->cancel);
		r = fake_piece(f, off + at, (size_t)MIN_OF(f->piece, len - at), sink, sink_ctx, e);
	}
	for (uint64_t i = 0; i < f->extra && r == 0; i++)
		r = sink(sink_ctx, "", 1, e);
	return r;
}

enum how { PLAIN, GZIP, GZIP_MANY, ZSTD_ONE, ZSTD_MANY };

static void fake_init(struct fake *f, const struct buf *tar, enum how how)
{
	*f = (struct fake){
		.src = { fake_read, f }, .blob = BUF_INIT(MANY), .piece = 50000, .flip = -1
	};
	size_t step = how == GZIP_MANY || how == ZSTD_MANY ? 1000003 : tar->len + 1;

	for (size_t at = 0; at < tar->len; at += step) {
		size_t n = MIN_OF(step, tar->len - at);

		if (how == PLAIN)
			(void)buf_add(&f->blob, tar->data + at, n);
		else if (how == GZIP || how == GZIP_MANY)
			add_gzip(&f->blob, tar->data + at, n, 1);
		else
			add_frame(&f->blob, tar->data + at, n);
	}
	digest_of(DIGEST_SHA256, f->blob.data ? f->blob.data : "", f->blob.len, &f->digest);
	digest_of(DIGEST_SHA256, tar->data ? tar->data : "", tar->len, &f->diff);
}

static errint_t fake_fill(struct fake *f, struct dir *d, struct err *e)
{
	return ca_layer_fill(d->s, &f->digest, f->blob.len, &f->diff, &f->src, f->cancel, e);
}

/* ---- comparing */

static size_t read_at(struct ca_layer *l, struct fake *f, uint64_t off, char *dst, size_t len)
{
	size_t n = 0;
	uint32_t span = 0;
	struct err e = { 0 };

	for (int tries = 0; tries < 2; tries++) {
		errint_t r = ca_layer_read(l, off, dst, len, &n, &span, &e);

		if (r == 0)
			return n;
		CHECK_ERR(r, -ENODATA);
		CHECK_EQ_INT(span, off / CA_SPAN_BYTES);
		if (!CHECK_OK(ca_layer_fill_span(l, span, &f->src, NULL, &e)))
			printf("# %s\n", e.msg);
	}
	(void)CHECK(!"the span is there");
	return 0;
}

static void compare_all(struct ca_layer *l, struct fake *f, const struct buf *tar)
{
	_cleanup_free_ char *p = malloc(1u << 20);
	uint64_t off = 0;

	CHECK_EQ_INT(ca_layer_size(l), tar->len);
	while (off < tar->len) {
		size_t n = read_at(l, f, off, p, 1u << 20);

		if (!n || !CHECK(memcmp(p, tar->data + off, n) == 0))
			return;
		off += n;
	}
	CHECK_EQ_INT(read_at(l, f, off, p, 10), 0);
	CHECK_EQ_INT(read_at(l, f, off + 99999999, p, 10), 0);
}

static void compare_random(struct ca_layer *l, struct fake *f, const struct buf *tar,
			   unsigned times)
{
	_cleanup_free_ char *p = malloc(200000);
	uint32_t seed = 42;

	while (times--) {
		seed = seed * 1664525 + 1013904223;
		uint64_t off = (uint64_t)seed * tar->len >> 32;
		size_t len = 1 + (seed >> 8) % 199999;
		size_t n = read_at(l, f, off, p, len);

		CHECK(n > 0 && n <= len);
		CHECK(off / CA_SPAN_BYTES == (off + n - 1) / CA_SPAN_BYTES);
		CHECK(n == len || (off + n) % CA_SPAN_BYTES == 0 || off + n == tar->len);
		CHECK(memcmp(p, tar->data + off, n) == 0);
	}
}

static void compare_files(struct ca_layer *l, struct fake *f, size_t files, size_t each)
{
	_cleanup_free_ char *want = malloc(each + 1), *got = malloc(each + 1);
	struct tree *t = ca_layer_tree(l);
	char name[64];

	CHECK_EQ_INT(tree_count(t), files + 3);
	for (size_t i = 0; i < files; i++) {
		struct tree_attr a;
		size_t have = 0;

		int k = snprintf(name, sizeof(name), "usr/lib/file%zu", i);
		uint32_t n = tree_lookup_path(t, name, (size_t)k);
		if (!CHECK(n != TREE_NONE))
			return;
		tree_get(t, n, &a);
		CHECK_EQ_INT(a.size, each - i % 7);
		noise(want, each, (uint32_t)i * 7919 + 1);
		while (have < a.size) {
			size_t m =
				read_at(l, f, a.data_off + have, got + have, (size_t)a.size - have);

			if (!m)
				return;
			have += m;
		}
		CHECK(memcmp(want, got, (size_t)a.size) == 0);
	}
}

/* ---- tests */

static void fill_and_read(enum how how)
{
	_cleanup_buf_ struct buf tar = BUF_INIT(MANY);
	struct dir d;
	struct fake f;
	struct ca_layer *l = NULL;
	struct err e = { 0 };

	make_tar(&tar, 40, 450000);
	fake_init(&f, &tar, how);
	dir_open(&d, 0);
	CHECK_ERR(ca_layer_get(d.s, &f.digest, &l, NULL), -ENOENT);
	if (!CHECK_OK(fake_fill(&f, &d, &e)))
		printf("# %s\n", e.msg);
	REQUIRE(ca_layer_get(d.s, &f.digest, &l, NULL) == 0);
	CHECK_EQ_INT(f.calls, 1);
	compare_all(l, &f, &tar);
	compare_files(l, &f, 40, 450000);
	CHECK_EQ_INT(f.calls, 1);

	/* all spans gone: each comes back by Range */
	drop_spans(&d, &f.digest, l->file.n_spans);
	f.asked = 0;
	compare_all(l, &f, &tar);
	printf("# %d: %u units, %zu bytes of blob, %llu fetched again in %llu calls\n", how,
	       l->file.n_units, f.blob.len, (unsigned long long)f.asked,
	       (unsigned long long)f.calls - 1);
	drop_spans(&d, &f.digest, l->file.n_spans);
	compare_random(l, &f, &tar, 200);

	/* and after a restart, nothing is fetched */
	(void)ca_layer_unref(l);
	dir_reopen(&d);
	f.calls = 0;
	REQUIRE(ca_layer_get(d.s, &f.digest, &l, NULL) == 0);
	compare_all(l, &f, &tar);
	CHECK_EQ_INT(f.calls, 0);
	(void)ca_layer_unref(l);
	buf_done(&f.blob);
	dir_close(&d);
}

TEST(plain) { fill_and_read(PLAIN); }
TEST(gzip) { fill_and_read(GZIP); }
TEST(gzip_members) { fill_and_read(GZIP_MANY); }
TEST(zstd_frame) { fill_and_read(ZSTD_ONE); }
TEST(zstd_frames) { fill_and_read(ZSTD_MANY); }

TEST(units_follow_spans)
{
	_cleanup_buf_ struct buf tar = BUF_INIT(MANY);
	struct dir d;
	struct fake f;
	struct ca_layer *l = NULL;

	make_tar(&tar, 40, 450000);
	fake_init(&f, &tar, GZIP);
	dir_open(&d, 0);
	CHECK_OK(fake_fill(&f, &d, NULL));
	REQUIRE(ca_layer_get(d.s, &f.digest, &l, NULL) == 0);
	if (strncmp(inflate_build_id(), "zlib", 4)) {
		CHECK_EQ_INT(l->file.n_units, l->file.n_spans);
		for (uint32_t i = 0; i < l->file.n_units; i++)
			CHECK_EQ_INT(l->file.units[i].out, (uint64_t)i * CA_SPAN_BYTES);
	}
	(void)ca_layer_unref(l);
	buf_done(&f.blob);
	dir_close(&d);
}

TEST(empty_layers)
{
	static const enum how hows[] = { PLAIN, GZIP, ZSTD_ONE };

	for (size_t i = 0; i < ARRAY_SIZE(hows) + 1; i++) {
		_cleanup_buf_ struct buf tar = BUF_INIT(MANY);
		struct dir d;
		struct fake f;
		struct ca_layer *l = NULL;

		if (i < ARRAY_SIZE(hows))	/* else zero bytes */
			(void)buf_add(&tar, (char[1024]){ 0 }, 1024);
		fake_init(&f, &tar, i < ARRAY_SIZE(hows) ? hows[i] : PLAIN);
		dir_open(&d, 0);
		CHECK_OK(fake_fill(&f, &d, NULL));
		REQUIRE(ca_layer_get(d.s, &f.digest, &l, NULL) == 0);
		CHECK_EQ_INT(tree_count(ca_layer_tree(l)), 1);
		CHECK_EQ_INT(ca_layer_size(l), tar.len);
		compare_all(l, &f, &tar);
		(void)ca_layer_unref(l);
		buf_done(&f.blob);
		dir_close(&d);
	}
}

struct bad_case {
	const char *what;
	errint_t want;
	enum err_class cls;
};

static void expect_bad(struct dir *d, struct fake *f, const struct bad_case *c)
{
	struct err e = { 0 };
	struct ca_layer *l = NULL;

	if (!CHECK_ERR(fake_fill(f, d, &e), c->want) || !CHECK_EQ_INT(e.cls, c->cls))
		printf("# %s: %s\n", c->what, e.msg);
	CHECK_ERR(ca_layer_get(d->s, &f->digest, &l, NULL), -ENOENT);
	CHECK_EQ_INT(wipe(d, "span"), 0);
	CHECK_EQ_INT(wipe(d, "tmp"), 0);
}

TEST(bad_sources)
{
	_cleanup_buf_ struct buf tar = BUF_INIT(MANY);
	struct dir d;
	struct fake f;

	make_tar(&tar, 10, 900000);
	dir_open(&d, 0);
	fake_init(&f, &tar, GZIP);
	struct fake good = f;

	f.cut = f.blob.len / 2;
	expect_bad(&d, &f, &(struct bad_case){ "short", -EIO, ERR_INTEGRITY });
	f.cut = f.blob.len - 1;
	expect_bad(&d, &f, &(struct bad_case){ "one byte short", -EIO, ERR_INTEGRITY });
	f = good;
	f.src.ctx = &f;
	f.extra = 1;
	expect_bad(&d, &f, &(struct bad_case){ "long", -EIO, ERR_INTEGRITY });
	f.extra = 0;
	for (size_t at = 0; at < f.blob.len; at += f.blob.len / 20) {
		f.flip = (int64_t)at;
		expect_bad(&d, &f, &(struct bad_case){ "flipped", -EIO, ERR_INTEGRITY });
	}
	f.flip = -1;
	f.fail = -EHOSTUNREACH;
	expect_bad(&d, &f, &(struct bad_case){ "unreachable", -EHOSTUNREACH, ERR_NET });
	f.fail = 0;
	f.diff.raw[0] ^= 1;
	expect_bad(&d, &f, &(struct bad_case){ "diff id", -EIO, ERR_INTEGRITY });
	f.diff.raw[0] ^= 1;
	struct cancel c;
	cancel_init(&c);
	f.cancel = &c;
	f.cancel_at = f.blob.len / 2;
	expect_bad(&d, &f, &(struct bad_case){ "cancelled", -ECANCELED, ERR_CANCELLED });
	cancel_done(&c);
	f.cancel = NULL;
	CHECK_OK(fake_fill(&f, &d, NULL));
	buf_done(&f.blob);
	dir_close(&d);
}

/* The blob is what its digest says, and no layer: not the transfer's fault. */
TEST(bad_layers)
{
	_cleanup_buf_ struct buf tar = BUF_INIT(MANY);
	struct dir d;
	struct fake f;

	make_tar(&tar, 3, 900000);
	dir_open(&d, 0);
	fake_init(&f, &tar, GZIP);
	f.blob.len -= 9;	/* cut off before it was pushed */
	digest_of(DIGEST_SHA256, f.blob.data, f.blob.len, &f.digest);
	expect_bad(&d, &f, &(struct bad_case){ "cut gzip", -EIO, ERR_INPUT });
	f.blob.data[f.blob.len / 2] ^= 0x55;
	digest_of(DIGEST_SHA256, f.blob.data, f.blob.len, &f.digest);
	expect_bad(&d, &f, &(struct bad_case){ "bad gzip", -EIO, ERR_INPUT });
	buf_done(&f.blob);

	tar.len = 700000;	/* a file cut off */
	fake_init(&f, &tar, GZIP);
	expect_bad(&d, &f, &(struct bad_case){ "cut tar", -EIO, ERR_INPUT });
	buf_done(&f.blob);

	buf_clear(&tar);
	(void)buf_reserve(&tar, 60u << 20);
	memset(tar.data, 0, 60u << 20);
	tar.len = 60u << 20;
	fake_init(&f, &tar, ZSTD_ONE);
	expect_bad(&d, &f, &(struct bad_case){ "bomb", -EFBIG, ERR_LIMIT });
	buf_done(&f.blob);
	dir_close(&d);
}

TEST(bad_ranges)
{
	_cleanup_buf_ struct buf tar = BUF_INIT(MANY);
	struct dir d;
	struct fake f;
	struct ca_layer *l = NULL;
	struct err e = { 0 };
	char c;
	size_t n;
	uint32_t span;

	make_tar(&tar, 20, 900000);
	fake_init(&f, &tar, GZIP);
	dir_open(&d, 0);
	CHECK_OK(fake_fill(&f, &d, NULL));
	REQUIRE(ca_layer_get(d.s, &f.digest, &l, NULL) == 0);
	drop_spans(&d, &f.digest, l->file.n_spans);
	f.flip = (int64_t)l->file.units[1].in + 1000;
	CHECK_ERR(ca_layer_fill_span(l, 1, &f.src, NULL, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	f.flip = -1;
	f.cut = 1000;
	CHECK_ERR(ca_layer_fill_span(l, 1, &f.src, NULL, &e), -EIO);
	f.cut = 0;
	f.extra = 3;
	CHECK_ERR(ca_layer_fill_span(l, 1, &f.src, NULL, &e), -EIO);
	f.extra = 0;
	f.fail = -ETIMEDOUT;
	CHECK_ERR(ca_layer_fill_span(l, 1, &f.src, NULL, &e), -ETIMEDOUT);
	f.fail = 0;
	CHECK_ERR(ca_layer_fill_span(l, 999, &f.src, NULL, &e), -EINVAL);
	CHECK_ERR(ca_layer_read(l, CA_SPAN_BYTES, &c, 1, &n, &span, &e), -ENODATA);
	CHECK_EQ_INT(wipe(&d, "span"), 0);
	CHECK_OK(ca_layer_fill_span(l, 1, &f.src, NULL, &e));
	compare_all(l, &f, &tar);
	(void)ca_layer_unref(l);
	buf_done(&f.blob);
	dir_close(&d);
}

/* Our own table is wrong: the layer is dropped, and can be indexed again. */
TEST(wrong_index_is_dropped)
{
	_cleanup_buf_ struct buf tar = BUF_INIT(MANY);
	struct dir d;
	struct fake f;
	struct ca_layer *l = NULL, *again = NULL;

	make_tar(&tar, 20, 900000);
	fake_init(&f, &tar, GZIP);
	dir_open(&d, 0);
	CHECK_OK(fake_fill(&f, &d, NULL));
	REQUIRE(ca_layer_get(d.s, &f.digest, &l, NULL) == 0);
	drop_spans(&d, &f.digest, l->file.n_spans);
	l->file.crcs[2] ^= 1;
	CHECK_ERR(ca_layer_fill_span(l, 2, &f.src, NULL, NULL), -EBADMSG);
	CHECK_ERR(ca_layer_get(d.s, &f.digest, &again, NULL), -ENOENT);
	CHECK_OK(fake_fill(&f, &d, NULL));
	REQUIRE(ca_layer_get(d.s, &f.digest, &again, NULL) == 0);
	CHECK(again != l);
	compare_all(again, &f, &tar);
	/* who still has the old one is told, and does no harm to the new one */
	drop_spans(&d, &f.digest, l->file.n_spans);
	CHECK_ERR(ca_layer_fill_span(l, 1, &f.src, NULL, NULL), -EBADMSG);
	again = ca_layer_unref(again);
	REQUIRE(ca_layer_get(d.s, &f.digest, &again, NULL) == 0);
	compare_all(again, &f, &tar);
	(void)ca_layer_unref(again);
	(void)ca_layer_unref(l);
	buf_done(&f.blob);
	dir_close(&d);
}

TEST(layers_are_shared)
{
	_cleanup_buf_ struct buf tar = BUF_INIT(MANY);
	struct dir d;
	struct fake f;
	struct ca_layer *a = NULL, *b = NULL;

	make_tar(&tar, 2, 1000);
	fake_init(&f, &tar, GZIP);
	dir_open(&d, 0);
	CHECK_OK(fake_fill(&f, &d, NULL));
	REQUIRE(ca_layer_get(d.s, &f.digest, &a, NULL) == 0);
	REQUIRE(ca_layer_get(d.s, &f.digest, &b, NULL) == 0);
	CHECK(a == b);
	(void)ca_layer_unref(a);
	CHECK_EQ_INT(tree_count(ca_layer_tree(b)), 5);
	(void)ca_layer_unref(ca_layer_ref(b));
	(void)ca_layer_unref(b);
	buf_done(&f.blob);
	dir_close(&d);
}

/* A cache that is far too small for the spans: the index is kept, reads go on from memory. */
TEST(no_room)
{
	_cleanup_buf_ struct buf tar = BUF_INIT(MANY);
	struct dir d;
	struct fake f;
	struct ca_layer *l = NULL;
	struct err e = { 0 };

	make_tar(&tar, 30, 900000);
	fake_init(&f, &tar, GZIP);
	dir_open(&d, 10000);	/* nothing fits */
	CHECK_OK(fake_fill(&f, &d, &e));
	REQUIRE(ca_layer_get(d.s, &f.digest, &l, NULL) == 0);
	compare_all(l, &f, &tar);
	compare_random(l, &f, &tar, 50);
	(void)ca_layer_unref(l);
	dir_close(&d);

	dir_open(&d, 12u << 20);	/* two spans do */
	CHECK_OK(fake_fill(&f, &d, &e));
	REQUIRE(ca_layer_get(d.s, &f.digest, &l, NULL) == 0);
	compare_all(l, &f, &tar);
	(void)ca_layer_unref(l);
	buf_done(&f.blob);
	dir_close(&d);
}

static ssize_t no_space(int fd _unused_, const void *p _unused_, size_t n _unused_,
			off_t off _unused_)
{
	errno = ENOSPC;
	return -1;
}

/* The disk takes nothing: spans come and go in memory, also when little of that is left. */
TEST(reads_go_on_without_a_disk)
{
	static const struct ca_faults full = { .pwrite = no_space };
	_cleanup_buf_ struct buf tar = BUF_INIT(MANY);
	_cleanup_free_ char *big = calloc(1, 22u << 20);
	struct ca_object *held = NULL;
	struct dir d;
	struct fake f;
	struct ca_layer *l = NULL;

	make_tar(&tar, 90, 900000);	/* 20 spans */
	fake_init(&f, &tar, PLAIN);
	dir_open(&d, 0);
	ca_store_set_faults(&full);
	CHECK_OK(fake_fill(&f, &d, NULL));
	REQUIRE(ca_layer_get(d.s, &f.digest, &l, NULL) == 0);
	CHECK_EQ_INT(l->file.n_spans, 20);
	compare_all(l, &f, &tar);
	compare_all(l, &f, &tar);
	CHECK_OK(ca_object_put(d.s, CA_BLOB, "big", big, 22u << 20, NULL));
	REQUIRE(ca_object_open(d.s, CA_BLOB, "big", &held, NULL) == 0);
	compare_all(l, &f, &tar);	/* room for two spans, which are both kept */
	(void)ca_object_unref(held);
	(void)ca_layer_unref(l);
	ca_store_set_faults(NULL);
	buf_done(&f.blob);
	dir_close(&d);
}

/* A span whose file cannot be opened is not "there": it comes again, into memory. */
TEST(out_of_descriptors)
{
	_cleanup_buf_ struct buf tar = BUF_INIT(MANY);
	struct rlimit old, none;
	struct dir d;
	struct fake f;
	struct ca_layer *l = NULL;

	make_tar(&tar, 10, 900000);
	fake_init(&f, &tar, GZIP);
	dir_open(&d, 0);
	CHECK_OK(fake_fill(&f, &d, NULL));
	REQUIRE(ca_layer_get(d.s, &f.digest, &l, NULL) == 0);
	(void)getrlimit(RLIMIT_NOFILE, &old);
	none = (struct rlimit){ 0, old.rlim_max };
	(void)setrlimit(RLIMIT_NOFILE, &none);
	compare_all(l, &f, &tar);
	(void)setrlimit(RLIMIT_NOFILE, &old);
	(void)ca_layer_unref(l);
	buf_done(&f.blob);
	dir_close(&d);
}

/* Over the ceilings of a layer's index: an error while it is made, and the layer's fault. */
TEST(too_many_parts)
{
	_cleanup_buf_ struct buf tar = BUF_INIT(MANY);
	static const enum how hows[] = { PLAIN, GZIP, GZIP_MANY, ZSTD_ONE, ZSTD_MANY };

	make_tar(&tar, 10, 900000);
	for (size_t i = 0; i < ARRAY_SIZE(hows); i++) {
		struct dir d;
		struct fake f;

		fake_init(&f, &tar, hows[i]);
		dir_open(&d, 0);
		layer_units_max = 2;	/* 8 MiB */
		expect_bad(&d, &f, &(struct bad_case){ "parts", -EFBIG, ERR_LIMIT });
		layer_units_max = 3;
		if (hows[i] == ZSTD_MANY)
			expect_bad(&d, &f, &(struct bad_case){ "parts", -EFBIG, ERR_LIMIT });
		else
			CHECK_OK(fake_fill(&f, &d, NULL));
		layer_units_max = LAYER_UNITS_MAX;
		buf_done(&f.blob);
		dir_close(&d);
	}
}

static struct cancel *fire_at_write;

static ssize_t fire(int fd, const void *p, size_t n, off_t off)
{
	cancel_fire(fire_at_write);
	return pwrite(fd, p, n, off);
}

/* All compressed bytes are there at once, and what they inflate to is long. */
TEST(cancelled_while_inflating)
{
	static const struct ca_faults faults = { .pwrite = fire };
	_cleanup_buf_ struct buf tar = BUF_INIT(MANY);
	_cleanup_free_ char *zeros = calloc(1, 60u << 20);
	struct cancel c;
	struct dir d;
	struct fake f;

	cancel_init(&c);
	fire_at_write = &c;
	tar_file(&tar, "zeros", zeros, 60u << 20);
	fake_init(&f, &tar, GZIP);
	f.piece = f.blob.len;
	f.cancel = &c;
	f.cancel_at = UINT64_MAX;
	dir_open(&d, 0);
	ca_store_set_faults(&faults);
	expect_bad(&d, &f, &(struct bad_case){ "cancelled", -ECANCELED, ERR_CANCELLED });
	ca_store_set_faults(NULL);
	cancel_done(&c);
	buf_done(&f.blob);
	dir_close(&d);
}

static void *grow_huge(void *arg)
{
	struct layer_gate g = { 0 };
	errint_t r = layer_gate_grow(&g, GATE_HUGE_BYTES + 1, arg, NULL);

	layer_gate_done(&g);
	return (void *)(intptr_t)r;
}

TEST(few_need_much_memory_at_once)
{
	struct layer_gate g[GATE_HUGE] = { 0 }, small = { 0 };
	struct cancel c;
	pthread_t t;
	void *ret;

	cancel_init(&c);
	for (size_t i = 0; i < GATE_HUGE; i++) {
		CHECK_OK(layer_gate_grow(&g[i], GATE_HEAVY_BYTES + 1, NULL, NULL));
		CHECK_OK(layer_gate_grow(&g[i], GATE_HUGE_BYTES + 1, NULL, NULL));
		CHECK_OK(layer_gate_grow(&g[i], UINT64_MAX, NULL, NULL));
	}
	CHECK_OK(layer_gate_grow(&small, GATE_HEAVY_BYTES, NULL, NULL));
	CHECK_EQ_INT(small.level, 0);
	(void)pthread_create(&t, NULL, grow_huge, &c);
	(void)cancel_sleep_ns(NULL, 100 * NSEC_PER_MSEC, NULL);
	cancel_fire(&c);
	(void)pthread_join(t, &ret);
	CHECK_EQ_INT((intptr_t)ret, -ECANCELED);
	(void)pthread_create(&t, NULL, grow_huge, NULL);
	(void)cancel_sleep_ns(NULL, 50 * NSEC_PER_MSEC, NULL);
	layer_gate_done(&g[0]);
	(void)pthread_join(t, &ret);
	CHECK_EQ_INT((intptr_t)ret, 0);
	for (size_t i = 0; i < GATE_HUGE; i++)
		layer_gate_done(&g[i]);
	cancel_done(&c);
}

/* A layer's tree has its ceiling while it is read: 120 sparse files of one long map. */
static void add_sparse(struct buf *tar, const struct buf *map, unsigned i)
{
	struct buf x = BUF_INIT(4096);
	char name[16];

	(void)snprintf(name, sizeof(name), "f%u", i);
	(void)buf_adds(&x, "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
			   "31 GNU.sparse.realsize=1400010\n");
	tar_file(tar, name, x.data, x.len);
	tar->data[tar->len - 1024 + 156] = 'x';	/* header and one block */
	tar->data[tar->len - 1024 + 153] = '\0';
	unsigned sum = 8 * ' ';
	for (size_t k = 0; k < 512; k++)
		sum += k - 148 < 8 ? 0 : (unsigned char)tar->data[tar->len - 1024 + k];
	(void)snprintf(tar->data + tar->len - 1024 + 148, 8, "%06o", sum);
	tar->data[tar->len - 1024 + 155] = ' ';
	tar_file(tar, name, map->data, map->len);
	buf_done(&x);
}

TEST(sparse_maps_without_end)
{
	_cleanup_buf_ struct buf tar = BUF_INIT(1u << 30), map = BUF_INIT(32u << 20);
	const unsigned n = 700000;
	struct dir d;
	struct fake f;

	(void)buf_addf(&map, "%u\n", n);
	for (unsigned i = 0; i < n; i++)
		(void)buf_addf(&map, "%u\n1\n", 2 * i);
	while (map.len % 512)
		(void)buf_addc(&map, '\0');
	(void)buf_reserve(&map, n);
	memset(map.data + map.len, 0, n);
	map.len += n;
	for (unsigned i = 0; i < 25; i++)
		add_sparse(&tar, &map, i);
	fake_init(&f, &tar, ZSTD_ONE);
	dir_open(&d, 0);
	expect_bad(&d, &f, &(struct bad_case){ "sparse", -EFBIG, ERR_LIMIT });
	struct rusage u;
	(void)getrusage(RUSAGE_SELF, &u);
	printf("# %zu bytes of blob, %ld MiB resident at most\n", f.blob.len, u.ru_maxrss / 1024);
	buf_done(&f.blob);
	dir_close(&d);
}

TEST(cached_blob_is_the_source)
{
	_cleanup_buf_ struct buf tar = BUF_INIT(MANY);
	struct dir d;
	struct fake f;
	struct ca_layer *l = NULL;

	make_tar(&tar, 10, 900000);
	fake_init(&f, &tar, GZIP);
	dir_open(&d, 0);
	CHECK_OK(ca_blob_fill(d.s, &f.digest, f.blob.len, &f.src, NULL, NULL));
	f.fail = -EHOSTUNREACH;
	CHECK_OK(fake_fill(&f, &d, NULL));
	REQUIRE(ca_layer_get(d.s, &f.digest, &l, NULL) == 0);
	drop_spans(&d, &f.digest, l->file.n_spans);
	compare_all(l, &f, &tar);
	CHECK_OK(ca_layer_fill_span(l, 0, NULL, NULL, NULL));
	(void)ca_layer_unref(l);
	buf_done(&f.blob);
	dir_close(&d);
}

TEST(damaged_index_file)
{
	_cleanup_buf_ struct buf tar = BUF_INIT(MANY);
	struct dir d;
	struct fake f;
	struct ca_layer *l = NULL;
	char key[CA_KEY_MAX];

	make_tar(&tar, 2, 1000);
	fake_init(&f, &tar, GZIP);
	dir_open(&d, 0);
	CHECK_OK(fake_fill(&f, &d, NULL));
	_cleanup_buf_ struct buf image = BUF_INIT(MANY);
	CHECK_OK(ca_object_load(d.s, CA_LAYER, layer_key(&f.digest, key), &image, NULL));
	for (size_t i = 0; i < image.len; i += 1 + image.len / 300) {
		image.data[i] ^= 0x10;
		CHECK_OK(ca_object_put(d.s, CA_LAYER, key, image.data, image.len, NULL));
		errint_t r = ca_layer_get(d.s, &f.digest, &l, NULL);
		if (r == 0)	/* a bit without meaning for the structure */
			l = ca_layer_unref(l);
		else
			CHECK_ERR(r, -ENOENT);
		image.data[i] ^= 0x10;
	}
	for (size_t len = 0; len < image.len; len += 1 + image.len / 50) {
		CHECK_OK(ca_object_put(d.s, CA_LAYER, key, image.data, len, NULL));
		CHECK_ERR(ca_layer_get(d.s, &f.digest, &l, NULL), -ENOENT);
	}
	buf_done(&f.blob);
	dir_close(&d);
}

TEST(merged_trees)
{
	_cleanup_buf_ struct buf low = BUF_INIT(MANY), high = BUF_INIT(MANY);
	struct dir d;
	struct fake f[2];
	struct ca_layer *l[2] = { 0 };
	struct tree *t = NULL;

	make_tar(&low, 5, 1000);
	tar_file(&high, "usr/lib/.wh.file0", NULL, 0);
	tar_file(&high, "etc/os-release", "x\n", 2);
	fake_init(&f[0], &low, GZIP);
	fake_init(&f[1], &high, ZSTD_ONE);
	dir_open(&d, 0);
	for (int i = 0; i < 2; i++) {
		CHECK_OK(fake_fill(&f[i], &d, NULL));
		REQUIRE(ca_layer_get(d.s, &f[i].digest, &l[i], NULL) == 0);
	}
	CHECK_ERR(ca_tree_get(d.s, &f[0].diff, &t, NULL), -ENOENT);
	struct cancel c = CANCEL_INIT;
	cancel_fire(&c);
	CHECK_ERR(ca_tree_build(d.s, &f[0].diff, l, 2, &t, &c, NULL), -ECANCELED);
	CHECK_OK(ca_tree_build(d.s, &f[0].diff, l, 2, &t, NULL, NULL));
	CHECK_EQ_INT(tree_lookup_path(t, "usr/lib/file0", 13), TREE_NONE);
	CHECK(tree_lookup_path(t, "usr/lib/file1", 13) != TREE_NONE);
	CHECK(tree_lookup_path(t, "etc/os-release", 14) != TREE_NONE);
	t = tree_unref(t);
	(void)ca_layer_unref(l[0]);
	(void)ca_layer_unref(l[1]);
	dir_reopen(&d);
	CHECK_OK(ca_tree_get(d.s, &f[0].diff, &t, NULL));
	CHECK(tree_lookup_path(t, "etc/os-release", 14) != TREE_NONE);

	/* what was made by other rules, under the names of its time, is not used */
	size_t len;
	char key[CA_KEY_MAX];
	const void *image = tree_image(t, &len);
	CHECK_OK(ca_object_put(d.s, CA_TREE, ca_digest_key(&f[1].diff, key), image, len, NULL));
	struct tree *old = NULL;
	CHECK_ERR(ca_tree_get(d.s, &f[1].diff, &old, NULL), -ENOENT);
	char rules[16];
	(void)snprintf(rules, sizeof(rules), "-%u-", TREE_RULES);
	CHECK(strstr(layer_key(&f[0].digest, key), rules) != NULL);
	t = tree_unref(t);
	dir_close(&d);
	buf_done(&f[0].blob);
	buf_done(&f[1].blob);
}
