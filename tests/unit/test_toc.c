/*
 * test_toc.c - tables of contents: cutting, reading and checking them; granules from a scripted source
 *
 * The blobs are made here: a gzip member per chunk, a TOC as eStargz has it, its footer.  The source can
 * be short, wrong and cancelled; tests/test_toc.py has blobs of the formats' own tools.
 */
#include "cache/layer_priv.h"

#include <ftw.h>
#include <pthread.h>
#include <zlib.h>

#include "cache/sealed.h"
#include "cache/toc_foot.h"
#include "cache/toc_index.h"
#include "cache/toc_json.h"
#include "cache/toc_scan.h"
#include "cache/toc_text.h"
#include "util/stats.h"
#include "unit.h"

#define MANY (64u << 20)

/* ---- the reader of JSON */

static bool reads(const char *text, size_t len)
{
	_cleanup_free_ char *copy = malloc(len + 1);
	struct toc_json r = { .p = copy, .end = copy + len };
	struct toc_json_value v;
	char *key;
	size_t n;

	memcpy(copy, text, len);
	(void)toc_json_enter(&r);
	while (toc_json_member(&r, &key, &n))
		if (toc_json_value(&r, &v) && v.kind == TOC_JSON_NESTED)
			(void)toc_json_skip(&r);
	return toc_json_left(&r);
}

TEST(json_that_is_read_and_json_that_is_not)
{
	static const char *const good[] = {
		"{}", " { \"a\" : 1 , \"b\" : [ {} , \"]\" ] }\n", "{\"a\":-0.5e+7}", "{\"a\":null,\"b\":true,\"c\":false}",
		"{\"\\u00e4\\ud83d\\ude00\\n\\\"\":\"\xc3\xa4\"}", "{\"a\":9223372036854775807}", "{\"a\":99999999999999999999}",
	};
	static const char *const bad[] = {
		"", "{", "}", "[]", "{a:1}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{,\"a\":1}", "{\"a\":1 \"b\":2}", "{\"a\":01}",
		"{\"a\":1.}", "{\"a\":.5}", "{\"a\":1e}", "{\"a\":-}", "{\"a\":nul}", "{\"a\":\"\\x\"}", "{\"a\":\"\\u12\"}",
		"{\"a\":\"\\ud800\"}", "{\"a\":\"\\udc00\"}", "{\"a\":\"\\ud800\\u0041\"}", "{\"a\":\"\xff\"}", "{\"a\":\"\xc0\x80\"}",
		"{\"a\":\"\xed\xa0\x80\"}", "{\"a\":\"\n\"}", "{\"a\":\"", "{\"a\":[}", "{} x", "{\"a\":1}}", "{\"a\":\"\xe4\"}",
	};

	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		if (!CHECK(reads(good[i], strlen(good[i]))))
			printf("# %s\n", good[i]);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (!CHECK(!reads(bad[i], strlen(bad[i]))))
			printf("# %s\n", bad[i]);
}

static size_t plain_slowly(const char *p, size_t len)
{
	size_t n = 0;

	while (n < len && p[n] >= 0x20 && p[n] != '"' && p[n] != '\\')
		n++;
	return n;
}

/* Every byte at every place of a word, alone and in front of one that ends it, too. */
TEST(plain_text_ends_where_it_should)
{
	char text[24];

	for (int c = 0; c < 256; c++) {
		for (size_t at = 0; at < 17; at++) {
			for (size_t off = 0; off < 3; off++) {
				memset(text, 'x', sizeof(text));
				text[at] = (char)c;
				text[at + 1] = (char)(c + 1);
				CHECK_EQ_INT(toc_plain(text + off, 20 - off), plain_slowly(text + off, 20 - off));
			}
		}
	}
	CHECK_EQ_INT(toc_plain("\"", 0), 0);
	CHECK_EQ_INT(toc_between(" :,1\"", 5), 4);
	CHECK_EQ_INT(toc_between("]", 1), 0);
	CHECK_EQ_INT(toc_between("\\x\xff", 3), 3);
}

TEST(json_strings_and_numbers)
{
	char text[] = "{\"k\\t\":\"\\u00e4\\ud83d\\ude00\\u0000x\",\"n\":12,\"m\":-1,\"f\":1.0,\"o\":9223372036854775808}";
	struct toc_json r = { .p = text, .end = text + strlen(text) };
	struct toc_json_value v;
	static const int64_t numbers[] = { 12, -1, -1, -1 };
	char *key;
	size_t n;

	REQUIRE(toc_json_enter(&r) && toc_json_member(&r, &key, &n) && toc_json_value(&r, &v));
	CHECK(n == 2 && memcmp(key, "k\t", 3) == 0);
	CHECK(v.kind == TOC_JSON_STRING && v.len == 8 && memcmp(v.s, "\xc3\xa4\xf0\x9f\x98\x80\0x", 9) == 0);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		REQUIRE(toc_json_member(&r, &key, &n) && toc_json_value(&r, &v));
		CHECK(v.kind == TOC_JSON_NUMBER && v.n == numbers[i]);
	}
	CHECK(!toc_json_member(&r, &key, &n) && toc_json_left(&r));
}

/* ---- cutting */

static errint_t collect(void *ctx, const char *json, size_t len, struct err *e _unused_)
{
	(void)buf_add(ctx, json, len);
	return buf_addc(ctx, '|');
}

static errint_t cut(const char *text, size_t len, size_t step, struct buf *out)
{
	_cleanup_(toc_scan_freep) struct toc_scan *s = toc_scan_new(collect, out);
	struct err e = { 0 };
	errint_t r = 0;

	for (size_t at = 0; r == 0 && at < len; at += step)
		r = toc_scan_push(s, text + at, MIN_OF(step, len - at), &e);
	return r < 0 ? r : toc_scan_end(s, &e);
}

TEST(entries_are_cut_out_at_every_place)
{
	static const char text[] = " {\"tarSplitDigest\" : \"x]}\\\"\", \"version\":1 , \"x\":[{\"entries\":[]}],\"n\":12.5,\n"
				   "\"entries\" : [ {\"a\":\"}]\\\\\"} , {\"b\":[{},[1]]},{}\t]}\n";
	static const char want[] = "{\"a\":\"}]\\\\\"}|{\"b\":[{},[1]]}|{}|";

	for (size_t step = 1; step < sizeof(text); step++) {
		_cleanup_buf_ struct buf out = BUF_INIT(MANY);

		CHECK_OK(cut(text, strlen(text), step, &out));
		CHECK_EQ_STR(buf_str(&out), want);
	}
	for (size_t len = 0; len < strlen(text) - 1; len++) {
		_cleanup_buf_ struct buf out = BUF_INIT(MANY);

		CHECK_ERR(cut(text, len, 1000, &out), -EBADMSG);
	}
}

TEST(what_is_no_table)
{
	static const char *const bad[] = {
		"[]", "{}", "{\"version\":1}", "{\"entries\":{}}", "{\"entries\":[1]}", "{\"entries\":[{},]}", "{\"entries\":[{} {}]}",
		"{\"entries\":[,{}]}", "{\"entries\":[]} x", "{\"entries\":[],\"entries\":[]}", "{\"Entries\":[],\"entries\":[]}",
		"{\"version\":2,\"entries\":[]}", "{\"version\":\"1\",\"entries\":[]}", "{\"version\":1,\"version\":1,\"entries\":[]}",
		"{\"entr\\u0069es\":[],\"entries\":[]}", "{\"entries\" []}", "{\"entries\":[]", "{\"entries\":[]]",
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_buf_ struct buf out = BUF_INIT(MANY);

		if (!CHECK_ERR(cut(bad[i], strlen(bad[i]), 3, &out), -EBADMSG))
			printf("# %s\n", bad[i]);
	}
}

/* ---- footers */

static void footer(uint8_t p[static 51], uint64_t off)
{
	static const uint8_t head[16] = { 0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, 'S', 'G', 22, 0 };
	static const uint8_t tail[13] = { 1, 0, 0, 0xff, 0xff };
	char text[32];

	(void)snprintf(text, sizeof(text), "%016llxSTARGZ", (unsigned long long)off);
	memcpy(p, head, 16);
	memcpy(p + 16, text, 22);
	memcpy(p + 38, tail, 13);
}

TEST(footers)
{
	uint8_t p[51];
	struct toc_foot f;

	footer(p, 0x123);
	CHECK_OK(toc_foot_parse(p, sizeof(p), 1000, &f, NULL));
	CHECK(f.format == TOC_ESTARGZ && f.off == 0x123 && f.packed == 1000 - 51 - 0x123);
	for (size_t i = 0; i < sizeof(p); i++) {	/* only MTIME, XFL and OS mean nothing */
		p[i] ^= 0x40;
		errint_t r = toc_foot_parse(p, sizeof(p), 1000, &f, NULL);
		CHECK_EQ_INT(r, i >= 4 && i < 10 ? 0 : -EBADMSG);
		p[i] ^= 0x40;
	}
	for (size_t n = 0; n < sizeof(p); n++)
		CHECK_ERR(toc_foot_parse(p + sizeof(p) - n, n, 1000, &f, NULL), -EBADMSG);
	footer(p, 949);
	CHECK_ERR(toc_foot_parse(p, sizeof(p), 1000, &f, NULL), -EBADMSG);
	footer(p, UINT64_MAX);
	CHECK_ERR(toc_foot_parse(p, sizeof(p), 1000, &f, NULL), -EBADMSG);
}

/* ---- a store and blobs */

static int remove_one(const char *path, const struct stat *st _unused_, int type _unused_, struct FTW *f _unused_)
{
	return remove(path);
}

struct rig {
	char path[64];
	struct ca_store *s;
	struct ca_source src;
	struct buf blob, data, json;
	uint64_t toc_at;
	struct digest digest;
	struct ca_toc toc;
	int64_t flip;		/* this byte comes damaged, -1: none */
	unsigned flips;		/* so often */
	uint64_t cut;		/* so many bytes come at most; 0: all */
	bool lenient;		/* who asks may be wrong */
	struct cancel *cancel;
	_Atomic unsigned calls;
	_Atomic uint64_t asked;
};

static errint_t rig_read(void *ctx, const struct digest *d, uint64_t size, uint64_t off, uint64_t len, ca_sink_fn sink,
			 void *sink_ctx, struct cancel *c _unused_, struct err *e)
{
	struct rig *g = ctx;
	errint_t r = 0;

	if (g->lenient && (size != g->blob.len || off > size || len > size - off))
		return err_set(e, EIO, ERR_INTEGRITY, "nonsense");
	CHECK(digest_eq(d, &g->digest) && size == g->blob.len && off <= size && len <= size - off);
	len = len ? len : size - off;
	atomic_fetch_add(&g->calls, 1);
	atomic_fetch_add(&g->asked, len);
	if (g->cut)
		len = MIN_OF(len, g->cut);
	for (uint64_t at = 0; at < len && r == 0; at += 1000) {
		char piece[1000];
		size_t n = (size_t)MIN_OF(len - at, 1000ULL);

		memcpy(piece, g->blob.data + off + at, n);
		if (g->flips && g->flip >= (int64_t)(off + at) && g->flip < (int64_t)(off + at + n)) {
			piece[g->flip - (int64_t)(off + at)] ^= 1;
			g->flips--;
		}
		if (g->cancel)
			cancel_fire(g->cancel);
		r = sink(sink_ctx, piece, n, e);
	}
	return r;
}

static void add_gzip(struct buf *out, const void *data, size_t len)
{
	z_stream z = { .next_in = (Bytef *)data, .avail_in = (uInt)len };

	(void)deflateInit2(&z, 1, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY);
	size_t bound = deflateBound(&z, len);
	(void)buf_reserve(out, bound);
	z.next_out = (Bytef *)out->data + out->len;
	z.avail_out = (uInt)bound;
	(void)deflate(&z, Z_FINISH);
	out->len += z.total_out;
	(void)deflateEnd(&z);
}

static void noise(struct buf *out, size_t len, uint32_t seed)
{
	for (size_t i = 0; i < len; i++) {
		seed = seed * 1664525 + 1013904223;
		(void)buf_addc(out, (char)(seed >> 24));
	}
}

static void sha(const void *p, size_t n, char out[static DIGEST_TEXT_MAX])
{
	struct digest d;

	digest_of(DIGEST_SHA256, p, n, &d);
	(void)digest_text(&d, out);
}

static void add_toc(struct rig *g)
{
	_cleanup_buf_ struct buf tar = BUF_INIT(MANY);
	char h[512] = "stargz.index.json";
	unsigned sum = 0;
	uint8_t foot[51];

	(void)snprintf(h + 124, 12, "%011zo", g->json.len);
	memset(h + 148, ' ', 8);
	h[156] = '0';
	memcpy(h + 257, "ustar\00000", 8);
	for (size_t i = 0; i < sizeof(h); i++)
		sum += (unsigned char)h[i];
	(void)snprintf(h + 148, 8, "%06o", sum);
	(void)buf_add(&tar, h, sizeof(h));
	(void)buf_add(&tar, g->json.data, g->json.len);
	while (tar.len % 512)
		(void)buf_addc(&tar, '\0');
	(void)buf_add(&tar, (char[1024]){ 0 }, 1024);
	g->toc_at = g->blob.len;
	add_gzip(&g->blob, tar.data, tar.len);
	footer(foot, g->toc_at);
	(void)buf_add(&g->blob, foot, sizeof(foot));
}

/* Files of `each` bytes in chunks of 100000, every fifth in a shared member. */
static void rig_init(struct rig *g, size_t files, size_t each)
{
	struct ca_opts o = { .dir = g->path, .min_free = 1 };

	*g = (struct rig){ .blob = BUF_INIT(MANY), .data = BUF_INIT(MANY), .json = BUF_INIT(MANY), .flip = -1 };
	g->src = (struct ca_source){ rig_read, g };
	(void)snprintf(g->path, sizeof(g->path), "/tmp/test-toc-XXXXXX");
	if (!mkdtemp(g->path))
		abort();
	CHECK_OK(ca_store_new(&o, &g->s, NULL));
	(void)buf_adds(&g->json, "{\"version\":1,\"entries\":[{\"name\":\"d/\",\"type\":\"dir\",\"mode\":493}");
	for (size_t i = 0; i < files; i++) {
		size_t start = g->data.len;

		noise(&g->data, each, (uint32_t)i + 1);
		for (size_t at = 0; at < each; at += 100000) {
			size_t n = MIN_OF(each - at, (size_t)100000);
			char sum[DIGEST_TEXT_MAX];
			_cleanup_buf_ struct buf member = BUF_INIT(MANY);
			size_t inner = i % 5 == 0 ? 700 : 0;

			noise(&member, inner, 99);
			(void)buf_add(&member, g->data.data + start + at, n);
			(void)buf_adds(&member, "padding and headers");
			sha(g->data.data + start + at, n, sum);
			(void)buf_addf(&g->json, ",{\"name\":\"d/f%zu\",\"type\":\"%s\",\"size\":%zu,\"offset\":%zu,\"innerOffset\":%zu,"
				       "\"chunkOffset\":%zu,\"chunkSize\":%zu,\"chunkDigest\":\"%s\"}",
				       i, at ? "chunk" : "reg", each, g->blob.len, inner, at, n, sum);
			add_gzip(&g->blob, member.data, member.len);
		}
	}
	(void)buf_adds(&g->json, ",{\"name\":\"link\",\"type\":\"hardlink\",\"linkName\":\"d/f0\"}]}");
	add_toc(g);
	digest_of(DIGEST_SHA256, g->json.data, g->json.len, &g->toc.json);
	digest_of(DIGEST_SHA256, g->blob.data, g->blob.len, &g->digest);
}

static void rig_done(struct rig *g)
{
	(void)ca_store_free(g->s);
	(void)nftw(g->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	buf_done(&g->blob);
	buf_done(&g->data);
	buf_done(&g->json);
}

static errint_t rig_fill(struct rig *g, struct err *e)
{
	g->toc.blob = g->blob.len;
	return ca_toc_layer_fill(g->s, &g->digest, &g->toc, &g->src, g->cancel, e);
}

static bool read_some(struct rig *g, struct ca_layer *l, uint64_t off, size_t len)
{
	_cleanup_free_ char *p = malloc(len + 1);
	uint32_t granule = 0;
	size_t n = 0;

	for (int tries = 0; tries < 3; tries++) {
		errint_t r = ca_layer_read(l, CA_TOC_DATA + off, p, len, &n, &granule, NULL);

		if (r == 0)
			return CHECK(n > 0 && memcmp(p, g->data.data + off, n) == 0);
		CHECK_ERR(r, -ENODATA);
		if (!CHECK_OK(ca_layer_fill_span(l, granule, &g->src, NULL, NULL)))
			return false;
	}
	return CHECK(!"it is there");
}

static struct ca_layer *rig_open(struct rig *g)
{
	struct ca_layer *l = NULL;
	struct err e = { 0 };

	if (!CHECK_OK(rig_fill(g, &e)))
		printf("# %s\n", e.msg);
	CHECK_OK(ca_toc_layer_get(g->s, &g->digest, &g->toc, &l, NULL));
	return l;
}

/* Evicts them the way the store would. */
static void drop_granules(struct rig *g)
{
	char layer[CA_KEY_MAX], key[CA_KEY_MAX];

	(void)toc_layer_key(&g->digest, &g->toc, layer);
	for (unsigned i = 0; i < 16; i++) {
		(void)snprintf(key, sizeof(key), "%.120s-%u", layer, i);
		ca_object_drop(g->s, CA_SPAN, key);
	}
}

TEST(a_layer_is_read_by_its_table)
{
	struct rig g;
	struct tree_attr a;

	rig_init(&g, 40, 250001);
	struct ca_layer *l = rig_open(&g);
	REQUIRE(l);
	CHECK(g.calls <= 2 && g.asked < g.blob.len / 20);
	CHECK_EQ_STR(ca_layer_how(l), "estargz");
	CHECK_EQ_INT(ca_layer_size(l), g.data.len);
	_cleanup_(tree_unrefp) struct tree *t = NULL;
	REQUIRE(ca_layer_tree(l, &t, NULL) == 0);
	CHECK_EQ_INT(tree_count(t), 43);
	tree_get(t, tree_lookup_path(t, "link", 4), &a);
	CHECK(a.nlink == 2 && a.size == 250001 && a.data_off == CA_TOC_DATA);
	uint64_t before = g.asked;
	CHECK(read_some(&g, l, 123456, 10));
	CHECK(g.asked - before < 1300000);
	for (uint64_t off = 0; off < g.data.len; off += 77777)
		CHECK(read_some(&g, l, off, MIN_OF(90000, g.data.len - off)));
	unsigned calls = g.calls;
	for (uint64_t off = 0; off < g.data.len; off += 7777)
		CHECK(read_some(&g, l, off, 1));
	CHECK_EQ_INT(g.calls, calls);
	(void)ca_layer_unref(l);
	rig_done(&g);
}

TEST(another_table_is_another_layer)
{
	struct rig g;
	struct ca_layer *l = NULL, *other = NULL;

	rig_init(&g, 2, 1000);
	l = rig_open(&g);
	g.toc.json.raw[0] ^= 1;
	CHECK_ERR(ca_toc_layer_get(g.s, &g.digest, &g.toc, &other, NULL), -ENOENT);
	CHECK(!ca_toc_layer_exists(g.s, &g.digest, &g.toc));
	struct err e = { 0 };
	g.calls = 0;
	CHECK_ERR(rig_fill(&g, &e), -EBADMSG);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	CHECK_EQ_INT(g.calls, 2);	/* the transfer's fault? once more */
	(void)ca_layer_unref(l);
	rig_done(&g);
}

/* A registry can serve anything under a digest; a blob that ends in the same table, but is longer than the
 * one that others have under it, is nobody else's. */
TEST(a_blob_of_another_size_is_another_layer)
{
	struct rig g;
	struct ca_layer *l = NULL;

	rig_init(&g, 2, 1000);
	size_t sound = g.blob.len;
	g.blob.len = g.toc_at;
	noise(&g.blob, 5000, 1);
	add_toc(&g);
	CHECK_OK(rig_fill(&g, NULL));
	g.blob.len = (size_t)g.toc_at - 5000;
	add_toc(&g);
	REQUIRE(g.blob.len == sound);
	g.toc.blob = sound;
	if (ca_toc_layer_get(g.s, &g.digest, &g.toc, &l, NULL) == -ENOENT)
		l = rig_open(&g);
	REQUIRE(l);
	CHECK(read_some(&g, l, 100, 10));
	(void)ca_layer_unref(l);
	rig_done(&g);
}

TEST(damage_on_the_way)
{
	struct rig g;

	rig_init(&g, 10, 250001);
	for (size_t at = (size_t)g.toc_at; at < g.blob.len; at += 37) {
		g.flip = (int64_t)at;
		g.flips = 2;

		errint_t r = rig_fill(&g, NULL);
		CHECK_ERR(r, g.flips == 2 ? 0 : -EBADMSG);	/* not read, or read twice */
	}
	g.flips = 1;
	struct ca_layer *l = rig_open(&g);
	REQUIRE(l);
	g.flip = 50000;
	g.flips = 1;
	CHECK(read_some(&g, l, 49000, 2000));
	CHECK(!ca_layer_refuted(l));
	drop_granules(&g);
	g.cut = 999;
	CHECK_ERR(ca_layer_fill_span(l, 0, &g.src, NULL, NULL), -EILSEQ);
	(void)ca_layer_unref(l);
	rig_done(&g);
}

TEST(a_refuted_layer_has_a_twin)
{
	struct rig g;
	struct ca_layer *l, *s = NULL;
	struct ca_twin t;
	struct err e = { 0 };

	rig_init(&g, 10, 250001);
	l = rig_open(&g);
	REQUIRE(l);
	g.flip = 50000;
	g.flips = 9;
	CHECK_ERR(ca_layer_fill_span(l, 0, &g.src, NULL, &e), -EILSEQ);
	CHECK(ca_layer_refuted(l));
	CHECK_ERR(ca_layer_fill_span(l, 0, &g.src, NULL, &e), -EILSEQ);
	g.flips = 0;
	CHECK_ERR(ca_layer_fill(g.s, &g.digest, g.blob.len, NULL, &g.src, NULL, &e), -EIO);	/* no tar here */
	CHECK_ERR(ca_layer_get(g.s, &g.digest, &s, NULL), -ENOENT);
	CHECK_OK(ca_layer_twin(l, CA_TOC_DATA + 250001 + 7, l, &t, &e));
	CHECK(t.off == CA_TOC_DATA + 250008 && t.len == 250001 - 7 && !t.zeros);
	CHECK_ERR(ca_layer_twin(l, CA_TOC_DATA + g.data.len, l, &t, &e), -EIO);
	(void)ca_layer_unref(l);
	rig_done(&g);
}

TEST(cancelled)
{
	struct cancel c = CANCEL_INIT;
	struct rig g;
	struct ca_layer *l;

	rig_init(&g, 10, 250001);
	l = rig_open(&g);
	REQUIRE(l);
	g.cancel = &c;
	CHECK_ERR(ca_layer_fill_span(l, 0, &g.src, &c, NULL), -ECANCELED);
	CHECK_ERR(rig_fill(&g, NULL), -ECANCELED);
	(void)ca_layer_unref(l);
	rig_done(&g);
}

static ssize_t no_space(int fd _unused_, const void *p _unused_, size_t n _unused_, off_t off _unused_)
{
	errno = ENOSPC;
	return -1;
}

TEST(reads_go_on_without_a_disk)
{
	static const struct ca_faults full = { .pwrite = no_space };
	struct rig g;

	rig_init(&g, 200, 250001);
	ca_store_set_faults(&full);
	struct ca_layer *l = rig_open(&g);
	REQUIRE(l);
	for (uint64_t off = 0; off < g.data.len; off += 333333)
		CHECK(read_some(&g, l, off, 1000));
	(void)ca_layer_unref(l);
	ca_store_set_faults(NULL);
	rig_done(&g);
}

struct reader {
	struct rig *g;
	struct ca_layer *l;
	uint32_t seed;
};

static void *reader_main(void *arg)
{
	struct reader *r = arg;

	for (int i = 0; i < 60; i++) {
		r->seed = r->seed * 1664525 + 1013904223;
		CHECK(read_some(r->g, r->l, r->seed % (r->g->data.len - 5000), 5000));
	}
	return NULL;
}

TEST(readers_side_by_side)
{
	struct rig g;
	pthread_t t[6];
	struct reader r[6];

	rig_init(&g, 40, 250001);
	struct ca_layer *l = rig_open(&g);
	REQUIRE(l);
	for (uint32_t i = 0; i < 6; i++) {
		r[i] = (struct reader){ &g, l, i };
		(void)pthread_create(&t[i], NULL, reader_main, &r[i]);
	}
	for (size_t i = 0; i < 6; i++)
		(void)pthread_join(t[i], NULL);
	(void)ca_layer_unref(l);
	rig_done(&g);
}

struct intruder {
	struct rig *g;
	struct ca_layer *l;
	errint_t read;		/* as it went */
};

/* While a run is under way, somebody needs a piece of it. */
static errint_t intrude(void *ctx, const struct digest *d, uint64_t size, uint64_t off, uint64_t len, ca_sink_fn sink,
			void *sink_ctx, struct cancel *c, struct err *e)
{
	struct intruder *x = ctx;
	struct ca_piece second;
	uint32_t span;
	size_t n;
	char b;

	ca_layer_piece(x->l, 1, &second);
	x->read = ca_layer_fill_span(x->l, 1, &x->g->src, NULL, NULL);
	if (x->read == 0)
		x->read = ca_layer_read(x->l, second.off, &b, 1, &n, &span, NULL);
	return x->g->src.read(x->g, d, size, off, len, sink, sink_ctx, c, e);
}

TEST(a_damaged_piece_under_a_run_is_fetched_at_once)
{
	struct rig g;
	char key[CA_KEY_MAX];

	rig_init(&g, 40, 250001);
	struct ca_layer *l = rig_open(&g);
	REQUIRE(l && ca_layer_pieces(l) > 2);
	struct intruder x = { &g, l, -EAGAIN };
	struct ca_source src = { intrude, &x };

	CHECK_OK(ca_object_put(g.s, CA_SPAN, toc_granule_key(l, 1, key), "short", 5, NULL));
	CHECK(ca_layer_piece_here(l, 1));
	CHECK_OK(ca_layer_fill_run(l, 0, 2, &(struct ca_run){ 0 }, &src, NULL, NULL));
	CHECK_OK(x.read);
	(void)ca_layer_unref(l);
	rig_done(&g);
}

TEST(damaged_object)
{
	struct rig g;
	char key[CA_KEY_MAX];
	_cleanup_buf_ struct buf image = BUF_INIT(MANY);

	rig_init(&g, 4, 250001);
	g.lenient = true;
	struct ca_layer *l = rig_open(&g);
	l = ca_layer_unref(l);
	CHECK_OK(ca_object_load(g.s, CA_LAYER, toc_layer_key(&g.digest, &g.toc, key), &image, NULL));
	for (size_t i = 0; i < image.len; i += 1 + image.len / 400) {
		uint32_t span = 0;
		size_t n;
		char c;

		image.data[i] ^= 0x11;
		CHECK_OK(ca_object_put(g.s, CA_LAYER, key, image.data, image.len, NULL));
		image.data[i] ^= 0x11;
		drop_granules(&g);
		errint_t r = ca_toc_layer_get(g.s, &g.digest, &g.toc, &l, NULL);
		if (r < 0) {
			CHECK_ERR(r, -ENOENT);
			continue;
		}
		if (ca_layer_read(l, CA_TOC_DATA, &c, 1, &n, &span, NULL) == -ENODATA) {
			r = ca_layer_fill_span(l, span, &g.src, NULL, NULL);
			CHECK(r == 0 || r == -EBADMSG || r == -EILSEQ || r == -EIO);
		}
		l = ca_layer_unref(l);
	}
	rig_done(&g);
}
