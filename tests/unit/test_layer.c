/*
 * test_layer.c - indexing layers and reading from them: spans that go and come back
 */
#include "tests/unit/layerrig.h"

static void fill_and_read(enum how how)
{
	_cleanup_(rig_down) struct rig g = RIG;

	rig_up(&g, 40, 450000, how);
	CHECK_ERR(rig_get(&g, &g.l), -ENOENT);
	REQUIRE(rig_fill(&g));
	CHECK_EQ_INT(g.f.calls, 1);
	compare_all(&g);
	compare_files(&g, 40, 450000);
	CHECK_EQ_INT(g.f.calls, 1);

	/* all spans gone: each comes back by Range */
	rig_drop_spans(&g);
	g.f.asked = 0;
	compare_all(&g);
	printf("# %d: %u units, %zu bytes of blob, %llu fetched again in %llu calls\n", how,
	       g.l->file.n_units, g.f.blob.len, (unsigned long long)g.f.asked,
	       (unsigned long long)g.f.calls - 1);
	rig_drop_spans(&g);
	compare_random(&g, 200);

	/* and after a restart, nothing is fetched */
	g.l = ca_layer_unref(g.l);
	dir_reopen(&g.d);
	g.f.calls = 0;
	REQUIRE(rig_get(&g, &g.l) == 0);
	compare_all(&g);
	CHECK_EQ_INT(g.f.calls, 0);
}

TEST(plain) { fill_and_read(PLAIN); }
TEST(gzip) { fill_and_read(GZIP); }
TEST(gzip_members) { fill_and_read(GZIP_MANY); }
TEST(zstd_frame) { fill_and_read(ZSTD_ONE); }
TEST(zstd_frames) { fill_and_read(ZSTD_MANY); }

TEST(units_follow_spans)
{
	_cleanup_(rig_down) struct rig g = RIG;

	rig_up(&g, 40, 450000, GZIP);
	REQUIRE(rig_fill(&g));
	if (strncmp(inflate_build_id(), "zlib", 4)) {
		CHECK_EQ_INT(g.l->file.n_units, g.l->file.n_spans);
		for (uint32_t i = 0; i < g.l->file.n_units; i++)
			CHECK_EQ_INT(g.l->file.units[i].out, (uint64_t)i * CA_SPAN_BYTES);
	}
}

TEST(empty_layers)
{
	static const enum how hows[] = { PLAIN, GZIP, ZSTD_ONE };

	for (size_t i = 0; i < ARRAY_SIZE(hows) + 1; i++) {
		_cleanup_(rig_down) struct rig g = RIG;

		if (i < ARRAY_SIZE(hows))	/* else zero bytes */
			(void)buf_add(&g.tar, (char[1024]){ 0 }, 1024);
		rig_open(&g, i < ARRAY_SIZE(hows) ? hows[i] : PLAIN, 0);
		REQUIRE(rig_fill(&g));
		CHECK_EQ_INT(count_nodes(g.l), 1);
		CHECK_EQ_INT(ca_layer_size(g.l), g.tar.len);
		compare_all(&g);
	}
}

TEST(layers_are_shared)
{
	_cleanup_(rig_down) struct rig g = RIG;
	struct ca_layer *a = NULL, *b = NULL;

	rig_up(&g, 2, 1000, GZIP);
	CHECK_OK(rig_try_fill(&g, NULL));
	REQUIRE(rig_get(&g, &a) == 0);
	REQUIRE(rig_get(&g, &b) == 0);
	CHECK(a == b);
	(void)ca_layer_unref(a);
	CHECK_EQ_INT(count_nodes(b), 5);
	(void)ca_layer_unref(ca_layer_ref(b));
	(void)ca_layer_unref(b);
}

TEST(cached_blob_is_the_source)
{
	_cleanup_(rig_down) struct rig g = RIG;

	rig_up(&g, 10, 900000, GZIP);
	CHECK_OK(ca_blob_fill(g.d.s, &g.f.digest, g.f.blob.len, &g.f.src, NULL, NULL));
	g.f.fail = -EHOSTUNREACH;
	REQUIRE(rig_fill(&g));
	rig_drop_spans(&g);
	compare_all(&g);
	CHECK_OK(ca_layer_fill_span(g.l, 0, NULL, NULL, NULL));
}

TEST(bad_ranges)
{
	_cleanup_(rig_down) struct rig g = RIG;
	struct err e = { 0 };
	char c;
	size_t n;
	uint32_t span;

	rig_up(&g, 20, 900000, GZIP);
	REQUIRE(rig_fill(&g));
	rig_drop_spans(&g);
	g.f.flip = (int64_t)g.l->file.units[1].in + 1000;
	CHECK_ERR(rig_fill_span(&g, 1, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	g.f.flip = -1;
	g.f.cut = 1000;
	CHECK_ERR(rig_fill_span(&g, 1, &e), -EIO);
	g.f.cut = 0;
	g.f.extra = 3;
	CHECK_ERR(rig_fill_span(&g, 1, &e), -EIO);
	g.f.extra = 0;
	g.f.fail = -ETIMEDOUT;
	CHECK_ERR(rig_fill_span(&g, 1, &e), -ETIMEDOUT);
	g.f.fail = 0;
	CHECK_ERR(rig_fill_span(&g, 999, &e), -EINVAL);
	CHECK_ERR(ca_layer_read(g.l, CA_SPAN_BYTES, &c, 1, &n, &span, &e), -ENODATA);
	CHECK_EQ_INT(wipe(&g.d, "span"), 0);
	CHECK_OK(rig_fill_span(&g, 1, &e));
	compare_all(&g);
}

static void run_of_pieces(enum how how)
{
	_cleanup_(rig_down) struct rig g = RIG;
	struct ca_piece p;
	uint64_t packed = 0, out = 0;
	uint32_t n;

	rig_up(&g, 60, 900000, how);
	REQUIRE(rig_fill(&g));
	n = ca_layer_pieces(g.l);
	REQUIRE(n > 8);
	for (uint32_t i = 0; i < n; i++) {
		ca_layer_piece(g.l, i, &p);
		CHECK_EQ_INT(p.off, out);
		CHECK_EQ_INT(ca_layer_piece_at(g.l, p.off), i);
		CHECK_EQ_INT(ca_layer_piece_at(g.l, p.off + p.len - 1), i);
		CHECK(ca_layer_piece_here(g.l, i));
		out += p.len;
		packed += p.packed;
	}
	CHECK_EQ_INT(out, ca_layer_size(g.l));
	CHECK_EQ_INT(packed, g.f.blob.len);
	CHECK_EQ_INT(ca_layer_piece_at(g.l, out), n);
	rig_drop_spans(&g);
	g.f.calls = 0;
	CHECK_OK(ca_layer_fill_run(g.l, 2, 5, &(struct ca_run){ 0 }, &g.f.src, NULL, NULL));
	CHECK_EQ_INT(g.f.calls, 1);
	for (uint32_t i = 2; i < 7; i++)
		CHECK(ca_layer_piece_here(g.l, i));
	CHECK(!ca_layer_piece_here(g.l, 1));
	CHECK_OK(ca_layer_fill_run(g.l, n - 1, 1000, &(struct ca_run){ 0 }, &g.f.src, NULL, NULL));
	CHECK(ca_layer_piece_here(g.l, n - 1));
	CHECK_ERR(ca_layer_fill_run(g.l, n, 1, &(struct ca_run){ 0 }, &g.f.src, NULL, NULL), -EINVAL);
	compare_all(&g);
}

TEST(a_run_of_pieces_is_one_request)
{
	run_of_pieces(PLAIN);
	run_of_pieces(GZIP);
	run_of_pieces(ZSTD_MANY);
}

TEST(a_run_that_comes_damaged_leaves_nothing_wrong)
{
	_cleanup_(rig_down) struct rig g = RIG;

	rig_up(&g, 40, 900000, GZIP);
	REQUIRE(rig_fill(&g));
	rig_drop_spans(&g);
	g.f.flip = (int64_t)g.l->file.units[4].in + 1000;
	CHECK_ERR(ca_layer_fill_run(g.l, 1, 6, &(struct ca_run){ 0 }, &g.f.src, NULL, NULL), -EIO);
	for (uint32_t i = 4; i < 7; i++)
		CHECK(!ca_layer_piece_here(g.l, i));
	g.f.flip = -1;
	compare_all(&g);
}

TEST(how_much_a_store_can_hold)
{
	_cleanup_(rig_down) struct rig g = RIG;

	make_tar(&g.tar, 4, 1000);
	rig_open(&g, GZIP, 50u << 20);
	CHECK_EQ_INT(ca_store_room(g.d.s), 50u << 20);
	REQUIRE(rig_fill(&g));
	CHECK_EQ_INT(ca_store_room(g.d.s), 50u << 20);
}

/* Another place is asked, and has the right bytes. */
static bool ask_elsewhere(void *ctx, const struct digest *d)
{
	struct fake *f = ctx;

	CHECK(digest_eq(d, &f->digest));
	f->flip = -1;
	return f->told++ == 0;
}

TEST(a_source_that_is_wrong_is_told_and_asked_once_more)
{
	_cleanup_(rig_down) struct rig g = RIG;
	int64_t bad;

	rig_up(&g, 20, 900000, GZIP);
	REQUIRE(rig_fill(&g));
	rig_drop_spans(&g);
	g.f.src.bad = ask_elsewhere;
	bad = (int64_t)g.l->file.units[1].in + 1000;
	g.f.flip = bad;
	g.f.calls = 0;
	CHECK_OK(rig_fill_span(&g, 1, NULL));
	CHECK_EQ_INT(g.f.calls, 2);
	CHECK_EQ_INT(g.f.told, 1);
	rig_drop_spans(&g);
	g.f.flip = bad;	/* there is no third place */
	CHECK_ERR(rig_fill_span(&g, 1, NULL), -EIO);
	CHECK_EQ_INT(g.f.calls, 3);
	g.f.fail = -ETIMEDOUT;	/* which is not its fault */
	CHECK_ERR(rig_fill_span(&g, 1, NULL), -ETIMEDOUT);
	CHECK_EQ_INT(g.f.told, 2);
}

/* Our own table is wrong: the layer is dropped, and can be indexed again. */
TEST(wrong_index_is_dropped)
{
	_cleanup_(rig_down) struct rig g = RIG;
	struct ca_layer *old;

	rig_up(&g, 20, 900000, GZIP);
	REQUIRE(rig_fill(&g));
	rig_drop_spans(&g);
	g.l->file.crcs[2] ^= 1;
	CHECK_ERR(rig_fill_span(&g, 2, NULL), -EBADMSG);
	old = steal_ptr(&g.l);
	CHECK_ERR(rig_get(&g, &g.l), -ENOENT);
	CHECK(rig_fill(&g));
	CHECK(g.l != old);
	compare_all(&g);
	/* who still has the old one is told, and does no harm to the new one */
	rig_drop_spans(&g);
	CHECK_ERR(ca_layer_fill_span(old, 1, &g.f.src, NULL, NULL), -EBADMSG);
	g.l = ca_layer_unref(g.l);
	CHECK_OK(rig_get(&g, &g.l));
	compare_all(&g);
	(void)ca_layer_unref(old);
}

/* A cache that is far too small for the spans: the index is kept, reads go on from memory. */
TEST(no_room)
{
	_cleanup_(rig_down) struct rig g = RIG;

	make_tar(&g.tar, 30, 900000);
	rig_open(&g, GZIP, 10000);	/* nothing fits */
	REQUIRE(rig_fill(&g));
	compare_all(&g);
	compare_random(&g, 50);
	rig_close(&g);

	rig_open(&g, GZIP, 12u << 20);	/* two spans do */
	REQUIRE(rig_fill(&g));
	compare_all(&g);
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
	_cleanup_(rig_down) struct rig g = RIG;
	_cleanup_free_ char *big = calloc(1, 22u << 20);
	struct ca_object *held = NULL;

	rig_up(&g, 90, 900000, PLAIN);	/* 20 spans */
	ca_store_set_faults(&full);
	REQUIRE(rig_fill(&g));
	CHECK_EQ_INT(g.l->file.n_spans, 20);
	compare_all(&g);
	compare_all(&g);
	CHECK_OK(ca_object_put(g.d.s, CA_BLOB, "big", big, 22u << 20, NULL));
	REQUIRE(ca_object_open(g.d.s, CA_BLOB, "big", &held, NULL) == 0);
	compare_all(&g);	/* room for two spans, which are both kept */
	(void)ca_object_unref(held);
	rig_close(&g);
	ca_store_set_faults(NULL);
}

/* A span whose file cannot be opened is not "there": it comes again, into memory. */
TEST(out_of_descriptors)
{
	_cleanup_(rig_down) struct rig g = RIG;
	struct rlimit old, none;

	rig_up(&g, 10, 900000, GZIP);
	REQUIRE(rig_fill(&g));
	(void)getrlimit(RLIMIT_NOFILE, &old);
	none = (struct rlimit){ 0, old.rlim_max };
	(void)setrlimit(RLIMIT_NOFILE, &none);
	compare_all(&g);
	(void)setrlimit(RLIMIT_NOFILE, &old);
}

/* The lengths of the layers' trees are known: none is read for a sum that is too large. */
static void check_sum_has_a_ceiling(struct dir *d, const struct digest *manifest, struct ca_layer *const l[2])
{
	struct ca_layer *const often[] = { l[0], l[0], l[0] };
	struct tree *t = NULL;
	struct err e = { 0 };

	tree_bytes_set = ca_layer_tree_bytes(l[0]) + ca_layer_tree_bytes(l[1]) - 1;
	CHECK_ERR(ca_tree_build(d->s, manifest, l, 2, &t, NULL, &e), -EFBIG);
	CHECK_EQ_INT(e.cls, ERR_LIMIT);
	CHECK(strstr(e.msg, "2 layers need") != NULL);
	CHECK(!l[0]->tree && !l[1]->tree);
	CHECK_ERR(ca_tree_build(d->s, manifest, often, 3, &t, NULL, &e), -EFBIG);	/* one tree; merging needs more */
	CHECK(strstr(e.msg, "layers need") == NULL);
	tree_bytes_set = 0;
}

static void check_tree_is_shared(struct ca_layer *l)
{
	struct tree *a = NULL, *b = NULL;

	REQUIRE(ca_layer_tree(l, &a, NULL) == 0 && ca_layer_tree(l, &b, NULL) == 0);
	CHECK(a == b && l->tree == a);
	a = tree_unref(a);
	CHECK(l->tree == b);
	b = tree_unref(b);
	CHECK(!l->tree);
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
	CHECK_ERR(ca_tree_get(d.s, &f[0].diff, NULL, 0, &t, NULL), -ENOENT);
	struct cancel c = CANCEL_INIT;
	cancel_fire(&c);
	CHECK_ERR(ca_tree_build(d.s, &f[0].diff, l, 2, &t, &c, NULL), -ECANCELED);
	check_sum_has_a_ceiling(&d, &f[0].diff, l);
	CHECK_OK(ca_tree_build(d.s, &f[0].diff, l, 2, &t, NULL, NULL));
	CHECK_EQ_INT(tree_lookup_path(t, "usr/lib/file0", 13), TREE_NONE);
	CHECK(tree_lookup_path(t, "usr/lib/file1", 13) != TREE_NONE);
	CHECK(tree_lookup_path(t, "etc/os-release", 14) != TREE_NONE);
	t = tree_unref(t);
	CHECK(!l[0]->tree && !l[1]->tree);	/* in memory once, merged */
	CHECK_EQ_INT(count_nodes(l[0]), 8);
	CHECK(!l[0]->tree);			/* and no longer than somebody looks */
	check_tree_is_shared(l[0]);
	REQUIRE(ca_layer_tree(l[0], &t, NULL) == 0);
	(void)ca_layer_unref(l[0]);
	(void)ca_layer_unref(l[1]);
	t = tree_unref(t);	/* its layer has gone before */
	dir_reopen(&d);
	CHECK_OK(ca_tree_get(d.s, &f[0].diff, NULL, 0, &t, NULL));
	CHECK(tree_lookup_path(t, "etc/os-release", 14) != TREE_NONE);

	/* what was made by other rules, under the names of its time, is not used */
	size_t len;
	char key[CA_KEY_MAX];
	const void *image = tree_image(t, &len);
	CHECK_OK(ca_object_put(d.s, CA_TREE, ca_digest_key(&f[1].diff, key), image, len, NULL));
	struct tree *old = NULL;
	CHECK_ERR(ca_tree_get(d.s, &f[1].diff, NULL, 0, &old, NULL), -ENOENT);
	char rules[16];
	(void)snprintf(rules, sizeof(rules), "-%u-", TREE_RULES);
	CHECK(strstr(layer_key(&f[0].digest, key), rules) != NULL);
	t = tree_unref(t);
	dir_close(&d);
	buf_done(&f[0].blob);
	buf_done(&f[1].blob);
}
