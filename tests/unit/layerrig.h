/*
 * layerrig.h - layers for tests: archives made entry by entry, a scripted source, a real directory
 *
 *	_cleanup_(rig_down) struct rig g = RIG;
 *
 *	rig_up(&g, 20, 900000, GZIP);		twenty files in a gzip layer, an empty store
 *	REQUIRE(rig_fill(&g));			indexed; g.l is the layer
 *	rig_drop_spans(&g);
 *	compare_all(&g);			what is read is what was put in
 *
 * The source can be short, wrong, failing, slow to be cancelled.  One program is one .c file that
 * includes this once.
 */
#pragma once

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

static _unused_ void dir_reopen(struct dir *d)
{
	struct ca_opts o = { .dir = d->path, .min_free = 1 };

	(void)ca_store_free(d->s);
	CHECK_OK(ca_store_new(&o, &d->s, NULL));
}

static void dir_close(struct dir *d)
{
	d->s = ca_store_free(d->s);
	(void)nftw(d->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Removes all files of a kind, behind the store's back. */
static _unused_ unsigned wipe(struct dir *d, const char *kind)
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
	unsigned told;		/* that it was wrong */
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
		.src = { .read = fake_read, .ctx = f }, .blob = BUF_INIT(MANY), .piece = 50000, .flip = -1
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

static _unused_ errint_t fake_fill(struct fake *f, struct dir *d, struct err *e)
{
	return ca_layer_fill(d->s, &f->digest, f->blob.len, &f->diff, &f->src, f->cancel, e);
}

/* ---- comparing */

/* ---- an archive, a source that has it, a store, and the layer in there */

struct rig {
	struct buf tar;
	struct fake f;
	struct dir d;
	struct ca_layer *l;	/* NULL until rig_fill */
};

#define RIG { .tar = BUF_INIT(MANY) }

/* The source has g->tar now; the store is new.  max_bytes 0: as much as it likes. */
static void rig_open(struct rig *g, enum how how, uint64_t max_bytes)
{
	fake_init(&g->f, &g->tar, how);
	dir_open(&g->d, max_bytes);
}

/* Everything but the archive goes. */
static void rig_close(struct rig *g)
{
	g->l = ca_layer_unref(g->l);
	if (g->d.s)
		dir_close(&g->d);
	buf_done(&g->f.blob);
}

static void rig_up(struct rig *g, size_t files, size_t each, enum how how)
{
	make_tar(&g->tar, files, each);
	rig_open(g, how, 0);
}

static void rig_down(struct rig *g)
{
	rig_close(g);
	buf_done(&g->tar);
}

static errint_t rig_try_fill(struct rig *g, struct err *e)
{
	return fake_fill(&g->f, &g->d, e);
}

static _unused_ errint_t rig_get(struct rig *g, struct ca_layer **ret)
{
	return ca_layer_get(g->d.s, &g->f.digest, ret, NULL);
}

/* Indexes the layer and opens it. */
static _unused_ bool rig_fill(struct rig *g)
{
	struct err e = { 0 };

	if (!CHECK_OK(rig_try_fill(g, &e)))
		printf("# %s\n", e.msg);
	return CHECK_OK(rig_get(g, &g->l));
}

static _unused_ errint_t rig_fill_span(struct rig *g, uint32_t span, struct err *e)
{
	return ca_layer_fill_span(g->l, span, &g->f.src, NULL, e);
}

/* Evicts all spans. */
static _unused_ void rig_drop_spans(struct rig *g)
{
	drop_spans(&g->d, &g->f.digest, g->l->file.n_spans);
}

static size_t read_at(struct rig *g, uint64_t off, char *dst, size_t len)
{
	size_t n = 0;
	uint32_t span = 0;
	struct err e = { 0 };

	for (int tries = 0; tries < 2; tries++) {
		errint_t r = ca_layer_read(g->l, off, dst, len, &n, &span, &e);

		if (r == 0)
			return n;
		CHECK_ERR(r, -ENODATA);
		CHECK_EQ_INT(span, off / CA_SPAN_BYTES);
		if (!CHECK_OK(ca_layer_fill_span(g->l, span, &g->f.src, NULL, &e)))
			printf("# %s\n", e.msg);
	}
	(void)CHECK(!"the span is there");
	return 0;
}

static _unused_ void compare_all(struct rig *g)
{
	const struct buf *tar = &g->tar;
	_cleanup_free_ char *p = malloc(1u << 20);
	uint64_t off = 0;

	CHECK_EQ_INT(ca_layer_size(g->l), tar->len);
	while (off < tar->len) {
		size_t n = read_at(g, off, p, 1u << 20);

		if (!n || !CHECK(memcmp(p, tar->data + off, n) == 0))
			return;
		off += n;
	}
	CHECK_EQ_INT(read_at(g, off, p, 10), 0);
	CHECK_EQ_INT(read_at(g, off + 99999999, p, 10), 0);
}

static _unused_ void compare_random(struct rig *g, unsigned times)
{
	const struct buf *tar = &g->tar;
	_cleanup_free_ char *p = malloc(200000);
	uint32_t seed = 42;

	while (times--) {
		seed = seed * 1664525 + 1013904223;
		uint64_t off = (uint64_t)seed * tar->len >> 32;
		size_t len = 1 + (seed >> 8) % 199999;
		size_t n = read_at(g, off, p, len);

		CHECK(n > 0 && n <= len);
		CHECK(off / CA_SPAN_BYTES == (off + n - 1) / CA_SPAN_BYTES);
		CHECK(n == len || (off + n) % CA_SPAN_BYTES == 0 || off + n == tar->len);
		CHECK(memcmp(p, tar->data + off, n) == 0);
	}
}

static _unused_ uint32_t count_nodes(struct ca_layer *l)
{
	_cleanup_(tree_unrefp) struct tree *t = NULL;

	CHECK_OK(ca_layer_tree(l, &t, NULL));
	return t ? tree_count(t) : 0;
}

static _unused_ void compare_files(struct rig *g, size_t files, size_t each)
{
	_cleanup_free_ char *want = malloc(each + 1), *got = malloc(each + 1);
	_cleanup_(tree_unrefp) struct tree *t = NULL;
	char name[64];

	REQUIRE(ca_layer_tree(g->l, &t, NULL) == 0);
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
				read_at(g, a.data_off + have, got + have, (size_t)a.size - have);

			if (!m)
				return;
			have += m;
		}
		CHECK(memcmp(want, got, (size_t)a.size) == 0);
	}
}
