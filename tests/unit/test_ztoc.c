/*
 * test_ztoc.c - zTOCs: reading them, what is refused, and spans from a scripted source
 *
 * They are made here, field by field, with checkpoints by zlib; tests/test_soci.py has those of the
 * SOCI snapshotter's own library.
 */
#include "layerrig.h"

#include "cache/le.h"
#include "cache/ztoc_index.h"

#define SPAN 300000u
#define FILES_MAX 64u
#define POINTS_MAX 256u

/* ---- a FlatBuffer, each field in 8 bytes, what is referred to behind what refers */

static size_t fb_table(struct buf *b, unsigned fields)
{
	uint8_t raw[64] = { 0 };
	size_t slots = b->len, size = 4 + 2UL * fields;

	raw[0] = (uint8_t)size;
	raw[2] = (uint8_t)(4 + 8 * fields);
	for (unsigned i = 0; i < fields; i++)
		raw[4 + 2 * i] = (uint8_t)(4 + 8 * i);
	le32_put(raw + size, (uint32_t)size);	/* back to the slots */
	(void)buf_add(b, raw, size + 4);
	(void)buf_add(b, (uint8_t[128]){ 0 }, 8UL * fields);
	return slots + size;
}

static void fb_number(struct buf *b, size_t table, unsigned field, uint64_t n)
{
	le64_put((uint8_t *)b->data + table + 4 + 8 * field, n);
}

static void fb_refer(struct buf *b, size_t at)
{
	le32_put((uint8_t *)b->data + at, (uint32_t)(b->len - at));
}

static void fb_bytes(struct buf *b, const void *data, size_t len)
{
	uint8_t n[4];

	le32_put(n, (uint32_t)len);
	(void)buf_add(b, n, sizeof(n));
	(void)buf_add(b, len ? data : "", len);
}

static void fb_text(struct buf *b, size_t table, unsigned field, const char *s)
{
	fb_refer(b, table + 4 + 8UL * field);
	fb_bytes(b, s, strlen(s));
}

/* Room for n references; returns the first one's place. */
static size_t fb_vector(struct buf *b, size_t table, unsigned field, size_t n)
{
	static const uint8_t zeros[4 * POINTS_MAX];
	uint8_t raw[4];

	fb_refer(b, table + 4 + 8UL * field);
	le32_put(raw, (uint32_t)n);
	(void)buf_add(b, raw, sizeof(raw));
	(void)buf_add(b, zeros, 4 * n);
	return b->len - 4 * n;
}

/* ---- what a zTOC says */

struct said {
	const char *version;
	uint64_t packed, size, span_size;
	unsigned algorithm;
	uint32_t max_span, have;
	bool v1;
	size_t n_points, n_digests;
	struct {
		uint64_t in, out;
		uint8_t bits, window[ZTOC_WINDOW];
	} points[POINTS_MAX];
	char digests[POINTS_MAX][DIGEST_TEXT_MAX];
	size_t n_files;
	struct {
		char name[64];
		const char *type, *link, *mtime, *key, *value;
		uint64_t off, size, mode;
		uint32_t uid;
	} files[FILES_MAX];
};

static void put_points(struct buf *b, const struct said *s)
{
	uint8_t head[17];

	le32_put(head, s->have);
	le64_put(head + 4, s->span_size);
	(void)buf_add(b, head, 12);
	for (size_t i = s->v1; i < s->n_points; i++) {
		le64_put(head, s->points[i].in);
		le64_put(head + 8, s->points[i].out);
		head[16] = s->points[i].bits;
		(void)buf_add(b, head, 17);
		(void)buf_add(b, s->points[i].window, ZTOC_WINDOW);
	}
}

static void put_tar_points(struct buf *b, const struct said *s)
{
	(void)buf_add(b, "\4\0\0\0", 4);
	b->data[0] = 4 + 10;	/* root: behind the slots of three fields */
	size_t t = fb_table(b, 3);
	fb_number(b, t, ZTOC_TAR_VERSION, 2);
	fb_number(b, t, ZTOC_TAR_SPAN_SIZE, s->span_size);
	fb_number(b, t, ZTOC_TAR_SIZE, s->packed);
}

static void put_info(struct buf *b, size_t root, const struct said *s)
{
	_cleanup_buf_ struct buf points = BUF_INIT(MANY);

	fb_refer(b, root + 4 + 8UL * ZTOC_F_INFO);
	le32_put((uint8_t *)b->data + root + 4 + 8UL * ZTOC_F_INFO,
		 (uint32_t)(b->len + 12 - (root + 4 + 8UL * ZTOC_F_INFO)));
	size_t t = fb_table(b, 4);
	fb_number(b, t, ZTOC_INFO_ALGORITHM, s->algorithm);
	fb_number(b, t, ZTOC_INFO_MAX_SPAN, s->max_span);
	size_t v = fb_vector(b, t, ZTOC_INFO_DIGESTS, s->n_digests);
	for (size_t i = 0; i < s->n_digests; i++) {
		fb_refer(b, v + 4 * i);
		fb_bytes(b, s->digests[i], strlen(s->digests[i]));
	}
	if (s->algorithm == ZTOC_PLAIN)
		put_tar_points(&points, s);
	else
		put_points(&points, s);
	fb_refer(b, t + 4 + 8UL * ZTOC_INFO_CHECKPOINTS);
	fb_bytes(b, points.data, points.len);
}

static void put_file(struct buf *b, size_t at, const struct said *s, size_t i)
{
	le32_put((uint8_t *)b->data + at, (uint32_t)(b->len + 32 - at));
	size_t t = fb_table(b, 14);
	fb_number(b, t, ZTOC_FILE_OFF, s->files[i].off);
	fb_number(b, t, ZTOC_FILE_SIZE, s->files[i].size);
	fb_number(b, t, ZTOC_FILE_MODE, s->files[i].mode);
	fb_number(b, t, ZTOC_FILE_UID, s->files[i].uid);
	fb_text(b, t, ZTOC_FILE_NAME, s->files[i].name);
	fb_text(b, t, ZTOC_FILE_TYPE, s->files[i].type);
	fb_text(b, t, ZTOC_FILE_LINK, s->files[i].link ? s->files[i].link : "");
	fb_text(b, t, ZTOC_FILE_UNAME, "root");
	fb_text(b, t, ZTOC_FILE_GNAME, "");
	fb_text(b, t, ZTOC_FILE_MTIME, s->files[i].mtime);
	size_t v = fb_vector(b, t, ZTOC_FILE_PAX, s->files[i].key ? 1 : 0);
	if (!s->files[i].key)
		return;
	le32_put((uint8_t *)b->data + v, (uint32_t)(b->len + 8 - v));
	t = fb_table(b, 2);
	fb_text(b, t, ZTOC_PAX_KEY, s->files[i].key);
	fb_text(b, t, ZTOC_PAX_VALUE, s->files[i].value);
}

static void write_ztoc(struct buf *b, const struct said *s)
{
	buf_clear(b);
	(void)buf_add(b, (uint8_t[]){ 4 + 16, 0, 0, 0 }, 4);
	size_t root = fb_table(b, 6);
	fb_number(b, root, ZTOC_F_PACKED, s->packed);
	fb_number(b, root, ZTOC_F_SIZE, s->size);
	fb_text(b, root, ZTOC_F_VERSION, s->version);
	fb_text(b, root, ZTOC_F_TOOL, "test");
	le32_put((uint8_t *)b->data + root + 4 + 8UL * ZTOC_F_TOC,
		 (uint32_t)(b->len + 6 - (root + 4 + 8UL * ZTOC_F_TOC)));
	size_t toc = fb_table(b, 1);
	size_t v = fb_vector(b, toc, ZTOC_TOC_FILES, s->n_files);
	for (size_t i = 0; i < s->n_files; i++)
		put_file(b, v + 4 * i, s, i);
	put_info(b, root, s);
}

/* ---- what is true of a layer */

static void add_digests(struct said *s, const struct buf *blob)
{
	for (size_t i = 0; i < s->n_points; i++) {
		uint64_t from = s->points[i].in - (s->points[i].bits > 0);
		uint64_t to = i + 1 < s->n_points ? s->points[i + 1].in : blob->len;
		struct digest d;

		digest_of(DIGEST_SHA256, blob->data + from, (size_t)(to - from), &d);
		(void)digest_text(&d, s->digests[i]);
	}
	s->n_digests = s->n_points;
	s->max_span = (uint32_t)s->n_points - 1;
	s->have = (uint32_t)s->n_points;
}

static void add_point(struct said *s, const z_stream *z, uint64_t in, uint64_t out, const struct buf *tar)
{
	size_t i = s->n_points++, known = (size_t)MIN_OF(out, (uint64_t)ZTOC_WINDOW);

	if (s->n_points > POINTS_MAX)
		abort();
	s->points[i].in = in;
	s->points[i].out = out;
	s->points[i].bits = (uint8_t)(z->data_type & 7);
	memset(s->points[i].window, 0, ZTOC_WINDOW);
	memcpy(s->points[i].window + ZTOC_WINDOW - known, tar->data + out - known, known);
}

/* As the SOCI library does it: at the first block that begins more than SPAN behind the last one. */
static void gzip_points(struct said *s, const struct buf *blob, const struct buf *tar)
{
	_cleanup_free_ uint8_t *out = malloc(1u << 20);
	z_stream z = { .next_in = (Bytef *)blob->data, .avail_in = (uInt)blob->len };
	uint64_t made = 0, last = 0;
	int r = inflateInit2(&z, 31);

	while (r == Z_OK || r == Z_BUF_ERROR) {
		z.next_out = out;
		z.avail_out = 1u << 20;
		r = inflate(&z, Z_BLOCK);
		made += (1u << 20) - z.avail_out;
		if (r == Z_STREAM_END && z.avail_in)
			r = inflateReset(&z);
		else if (r == Z_OK && (z.data_type & 128) && !(z.data_type & 64) && (!s->n_points || made - last > SPAN)) {
			add_point(s, &z, blob->len - z.avail_in, made, tar);
			last = made;
		}
	}
	(void)inflateEnd(&z);
}

static void plain_points(struct said *s, const struct buf *tar)
{
	for (uint64_t at = 0; at < tar->len; at += SPAN) {
		s->points[s->n_points].in = at;
		s->points[s->n_points++].bits = 0;
	}
}

static struct said *say(const struct buf *blob, const struct buf *tar, bool plain, size_t files, size_t each)
{
	struct said *s = calloc(1, sizeof(*s));
	uint64_t off = 0;

	if (!s)
		abort();
	s->version = "0.9";
	s->packed = blob->len;
	s->size = tar->len;
	s->span_size = SPAN;
	s->algorithm = plain ? ZTOC_PLAIN : ZTOC_GZIP;
	if (plain)
		plain_points(s, tar);
	else
		gzip_points(s, blob, tar);
	add_digests(s, blob);
	for (size_t i = 0; i < files; i++) {
		uint64_t size = each - i % 7;

		(void)snprintf(s->files[i].name, sizeof(s->files[i].name), "usr/lib/file%zu", i);
		s->files[i].type = "reg";
		s->files[i].mtime = "2023-11-14T22:13:20Z";
		s->files[i].mode = 0100644;
		s->files[i].off = off + 512;
		s->files[i].size = size;
		off += 512 + (size + 511) / 512 * 512;
	}
	s->n_files = files;
	return s;
}

/* ---- reading */

static errint_t no_limit(void *ctx _unused_, uint64_t bytes _unused_, struct err *e _unused_)
{
	return 0;
}

/* Parses, walks, indexes. */
static errint_t accepts(const struct said *s, struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(MANY);
	struct ztoc_index x = { 0 };
	struct ztoc z;

	write_ztoc(&b, s);
	errint_t r = ztoc_parse(b.data, b.len, &z, e);
	if (r == 0)
		r = ztoc_index(&x, &z, no_limit, NULL, e);
	ztoc_index_done(&x);
	ztoc_done(&z);
	return r;
}

static void refuses(const struct said *s, const char *why)
{
	struct err e = { 0 };
	errint_t r = accepts(s, &e);

	if (!CHECK_ERR(r, -EBADMSG) || !CHECK(strstr(e.msg, why)))
		printf("# wanted \"%s\", got \"%s\"\n", why, e.msg);
}

TEST(what_makes_no_sense_is_refused)
{
	_cleanup_(rig_down) struct rig g = RIG;

	make_tar(&g.tar, 12, 100000);
	fake_init(&g.f, &g.tar, GZIP);
	_cleanup_free_ struct said *true_one = say(&g.f.blob, &g.tar, false, 12, 100000), *s = malloc(sizeof(*s));
	REQUIRE(true_one->n_points >= 3);
	CHECK_OK(accepts(true_one, NULL));
#define LIE(what, why)                               \
	do {                                         \
		memcpy(s, true_one, sizeof(*s));     \
		what;                                \
		refuses(s, why);                     \
	} while (0)
	LIE(s->version = "1.0", "version");
	LIE(s->packed = 0, "sizes");
	LIE(s->size = UINT64_MAX, "sizes");
	LIE(s->algorithm = 3, "compression");
	LIE(s->max_span = 0, "digests");
	LIE(s->n_digests--, "digests");
	LIE(s->max_span = INT32_MAX, "too many spans");
	LIE(s->have++, "checkpoints");
	LIE(s->have--, "checkpoints");
	LIE(s->n_points -= 2, "checkpoints");
	LIE(s->digests[1][12] = 0, "SHA-256");
	LIE(s->digests[0][0] = 'x', "SHA-256");
	LIE(s->points[0].out = 1, "beginning");
	LIE(s->points[0].bits = 3, "beginning");
	LIE(s->points[1].bits = 8, "checkpoint");
	LIE(s->points[1].in = 5, "checkpoint");
	LIE(s->points[1].in = UINT64_MAX, "checkpoint");
	LIE(s->points[1].in = s->points[2].in, "follow");
	LIE(s->points[2].in = s->packed, "follow");
	LIE(s->points[1].out = s->points[2].out + 1, "follow");
	LIE(s->files[3].off += 100, "archive");
	LIE(s->files[3].off -= 512, "archive");
	LIE(s->files[3].size += 1000, "archive");
	LIE(s->files[11].size = UINT64_MAX, "archive");
	LIE(s->files[11].off = UINT64_MAX - 511, "archive");
	LIE(s->files[3].type = "file", "type");
	LIE(s->files[3].mtime = "", "time");
	LIE(s->files[3].mtime = "2023-11-14", "time");
	LIE((s->files[3].key = "GNU.sparse.major", s->files[3].value = "1"), "sparse");
	LIE((s->files[3].key = "uid", s->files[3].value = "4294967296"), "owner");
	LIE((s->files[3].key = "mtime", s->files[3].value = "x"), "PAX");
#undef LIE
}

TEST(cut_and_damaged_ztocs)
{
	_cleanup_(rig_down) struct rig g = RIG;
	_cleanup_buf_ struct buf b = BUF_INIT(MANY);
	struct ztoc z;

	make_tar(&g.tar, 3, 1000);
	fake_init(&g.f, &g.tar, GZIP);
	_cleanup_free_ struct said *s = say(&g.f.blob, &g.tar, false, 3, 1000);
	write_ztoc(&b, s);
	for (size_t len = 0; len < b.len; len += len < 4096 ? 1 : 97) {
		_cleanup_free_ char *copy = malloc(len + 1);	/* the sanitizer sees its end */

		memcpy(copy, b.data, len);
		CHECK_ERR(ztoc_parse(copy, len, &z, NULL), -EBADMSG);
		ztoc_done(&z);
	}
	for (size_t at = 0; at < 4096 && at < b.len; at++) {
		struct ztoc_index x = { 0 };

		b.data[at] ^= (char)0x81;
		errint_t r = ztoc_parse(b.data, b.len, &z, NULL);
		if (r == 0)
			r = ztoc_index(&x, &z, no_limit, NULL, NULL);
		CHECK(r == 0 || r == -EBADMSG);
		ztoc_index_done(&x);
		ztoc_done(&z);
		b.data[at] ^= (char)0x81;
	}
}

/* ---- layers */

struct soci {
	struct rig g;
	struct said *said;
	struct buf ztoc;
	struct ca_toc toc;
	struct ca_source src;
	struct ca_layer *l;
};

static errint_t soci_read(void *ctx, const struct digest *d, uint64_t size, uint64_t off, uint64_t len,
			  ca_sink_fn sink, void *sink_ctx, struct cancel *c, struct err *e)
{
	struct soci *s = ctx;

	if (!digest_eq(d, &s->toc.ztoc))
		return fake_read(&s->g.f, d, size, off, len, sink, sink_ctx, c, e);
	CHECK(off == 0 && len == 0);
	return sink(sink_ctx, s->ztoc.data, s->ztoc.len, e);
}

static errint_t soci_fill(struct soci *s, struct err *e)
{
	return ca_toc_layer_fill(s->g.d.s, &s->g.f.digest, &s->toc, &s->src, NULL, e);
}

/* The zTOC as s->said is now. */
static void soci_say(struct soci *s)
{
	write_ztoc(&s->ztoc, s->said);
	s->toc = (struct ca_toc){ .blob = s->g.f.blob.len, .packed = s->ztoc.len };
	digest_of(DIGEST_SHA256, s->ztoc.data, s->ztoc.len, &s->toc.ztoc);
}

static void soci_up(struct soci *s, enum how how, size_t files, size_t each)
{
	*s = (struct soci){ .g = RIG, .ztoc = BUF_INIT(MANY), .src = { .read = soci_read, .ctx = s } };
	rig_up(&s->g, files, each, how);
	s->said = say(&s->g.f.blob, &s->g.tar, how == PLAIN, files, each);
	soci_say(s);
}

static bool soci_open(struct soci *s)
{
	struct err e = { 0 };

	if (!CHECK_OK(soci_fill(s, &e)))
		printf("# %s\n", e.msg);
	s->l = ca_layer_unref(s->l);
	return CHECK_OK(ca_toc_layer_get(s->g.d.s, &s->g.f.digest, &s->toc, &s->l, NULL));
}

static void soci_down(struct soci *s)
{
	s->l = ca_layer_unref(s->l);
	rig_down(&s->g);
	buf_done(&s->ztoc);
	free(s->said);
}

static errint_t soci_read_at(struct soci *s, uint64_t off, size_t len, struct err *e)
{
	_cleanup_free_ char *p = malloc(len);
	uint32_t span = 0;
	size_t n = 0;
	errint_t r;

	for (int i = 0; i < 2; i++) {
		r = ca_layer_read(s->l, CA_TOC_DATA + off, p, len, &n, &span, e);
		if (r == 0)
			CHECK(n > 0 && memcmp(p, s->g.tar.data + off, n) == 0);
		if (r != -ENODATA)
			return r;
		r = ca_layer_fill_span(s->l, span, &s->src, NULL, e);
		if (r < 0)
			return r;
	}
	return CHECK(!"the span is there") ? 0 : -EIO;
}

static void every_byte(enum how how)
{
	_cleanup_(soci_down) struct soci s;
	_cleanup_(tree_unrefp) struct tree *t = NULL;
	struct tree_attr a;
	size_t each = 200001;

	soci_up(&s, how, 20, each);
	REQUIRE(soci_open(&s));
	CHECK_EQ_STR(ca_layer_how(s.l), "soci");
	CHECK_EQ_INT(ca_layer_size(s.l), s.g.tar.len);
	CHECK_EQ_INT(s.g.f.calls, 0);
	REQUIRE(CHECK_OK(ca_layer_tree(s.l, &t, NULL)));
	tree_get(t, tree_lookup_path(t, "usr/lib/file3", 13), &a);
	CHECK(a.size == each - 3 && a.data_off == CA_TOC_DATA + s.said->files[3].off && a.mode == 0644 &&
	      a.mtime_s == 1700000000);
	CHECK_OK(soci_read_at(&s, s.g.tar.len / 2, 1, NULL));
	CHECK(s.g.f.calls == 1 && s.g.f.asked < s.g.f.blob.len / 5);
	for (uint64_t off = 0; off < s.g.tar.len; off += 44444)
		CHECK_OK(soci_read_at(&s, off, (size_t)MIN_OF(60000, s.g.tar.len - off), NULL));
	CHECK_EQ_INT(s.g.f.calls, s.said->n_points);
}

TEST(every_byte_of_a_gzip_layer)
{
	every_byte(GZIP);
}

TEST(every_byte_of_many_members)
{
	every_byte(GZIP_MANY);
}

TEST(every_byte_of_a_plain_layer)
{
	every_byte(PLAIN);
}

TEST(the_first_checkpoint_may_be_left_out)
{
	_cleanup_(soci_down) struct soci s;

	soci_up(&s, GZIP, 10, 100001);
	s.said->v1 = true;
	soci_say(&s);
	REQUIRE(soci_open(&s));
	for (uint64_t off = 0; off < s.g.tar.len; off += 77777)
		CHECK_OK(soci_read_at(&s, off, 1, NULL));
}

TEST(the_end_of_the_archive_may_come_before_that_of_the_stream)
{
	_cleanup_(soci_down) struct soci s;

	soci_up(&s, GZIP, 10, 100001);
	s.said->size = s.said->files[9].off + 100352 + 512;
	soci_say(&s);
	REQUIRE(soci_open(&s));
	CHECK_OK(soci_read_at(&s, s.said->size - 1, 1, NULL));
}

TEST(damage_on_the_way_is_fetched_once_more)
{
	_cleanup_(soci_down) struct soci s;
	struct err e = { 0 };

	soci_up(&s, GZIP, 10, 100001);
	REQUIRE(soci_open(&s));
	s.g.f.flip = (int64_t)s.said->points[1].in + 100;
	CHECK_ERR(soci_read_at(&s, s.said->points[1].out, 1, &e), -EILSEQ);
	CHECK(ca_layer_refuted(s.l));
	CHECK_EQ_INT(s.g.f.calls, 2);
}

TEST(short_and_long_answers)
{
	_cleanup_(soci_down) struct soci s;

	soci_up(&s, GZIP, 10, 100001);
	REQUIRE(soci_open(&s));
	s.g.f.cut = 1000;
	CHECK_ERR(soci_read_at(&s, 0, 1, NULL), -EILSEQ);
	s.g.f.cut = 0;
	CHECK_ERR(soci_read_at(&s, 0, 1, NULL), -EILSEQ);
}

TEST(an_index_of_another_layer)
{
	_cleanup_(soci_down) struct soci s;
	struct err e = { 0 };

	soci_up(&s, GZIP, 10, 100001);
	s.said->packed++;
	soci_say(&s);
	CHECK_ERR(soci_fill(&s, &e), -EBADMSG);
	CHECK(strstr(e.msg, "another size"));
	s.said->packed--;
	s.said->digests[1][20] ^= 1;
	soci_say(&s);
	REQUIRE(soci_open(&s));
	CHECK_OK(soci_read_at(&s, 0, 1, NULL));
	CHECK_ERR(soci_read_at(&s, s.said->points[1].out, 1, &e), -EILSEQ);
}

TEST(checkpoints_that_do_not_decode)
{
	_cleanup_(soci_down) struct soci s;
	struct err e = { 0 };

	soci_up(&s, GZIP, 10, 100001);
	s.said->points[1].out += 512;
	soci_say(&s);
	REQUIRE(soci_open(&s));
	CHECK_ERR(soci_read_at(&s, 0, 1, &e), -EILSEQ);
	CHECK(strstr(e.msg, "checkpoints"));
}

TEST(headers_are_compared_with_the_tar)
{
	_cleanup_(soci_down) struct soci s;
	struct err e = { 0 };

	soci_up(&s, GZIP, 10, 100001);
	s.said->files[1].mode = 0100755;
	soci_say(&s);
	REQUIRE(soci_open(&s));
	CHECK_ERR(soci_read_at(&s, s.said->files[1].off, 1, &e), -EILSEQ);
	CHECK(strstr(e.msg, "other files"));
	s.said->files[1].mode = 0100644;
	s.said->files[1].name[12] = 0;
	soci_say(&s);
	REQUIRE(soci_open(&s));
	CHECK_ERR(soci_read_at(&s, s.said->files[1].off, 1, &e), -EILSEQ);
}

TEST(a_refuted_layer_has_a_twin)
{
	_cleanup_(soci_down) struct soci s;
	struct ca_twin t;

	soci_up(&s, GZIP, 10, 100001);
	REQUIRE(soci_open(&s));
	REQUIRE(rig_fill(&s.g));
	CHECK_OK(ca_layer_twin(s.l, CA_TOC_DATA + s.said->files[4].off + 7, s.g.l, &t, NULL));
	CHECK(t.off == s.said->files[4].off + 7 && t.len == s.said->files[4].size - 7 && !t.zeros);
}

TEST(a_ztoc_that_comes_damaged)
{
	_cleanup_(soci_down) struct soci s;
	struct err e = { 0 };

	soci_up(&s, GZIP, 3, 100001);
	s.ztoc.data[200] ^= 1;
	CHECK_ERR(soci_fill(&s, &e), -EBADMSG);
	CHECK(strstr(e.msg, "digest"));
	s.ztoc.data[200] ^= 1;
	s.ztoc.len--;
	CHECK_ERR(soci_fill(&s, &e), -EBADMSG);
	s.ztoc.len++;
	CHECK_OK(soci_fill(&s, &e));
}

TEST(cancelled)
{
	_cleanup_(soci_down) struct soci s;
	struct cancel c = CANCEL_INIT;

	soci_up(&s, GZIP, 3, 100001);
	REQUIRE(soci_open(&s));
	s.g.f.cancel = &c;
	CHECK_ERR(ca_layer_fill_span(s.l, 0, &s.src, &c, NULL), -ECANCELED);
}
