/*
 * test_layer_bad.c - layers that cannot be indexed: wrong sources, wrong archives, ceilings, cancels
 */
#include "cache/layer_gate.h"
#include "tests/unit/layerrig.h"

static void expect_bad(struct rig *g, const char *what, errint_t want, enum err_class cls)
{
	struct err e = { 0 };
	struct ca_layer *l = NULL;

	if (!CHECK_ERR(rig_try_fill(g, &e), want) || !CHECK_EQ_INT(e.cls, cls))
		printf("# %s: %s\n", what, e.msg);
	CHECK_ERR(rig_get(g, &l), -ENOENT);
	CHECK_EQ_INT(wipe(&g->d, "span"), 0);
	CHECK_EQ_INT(wipe(&g->d, "tmp"), 0);
}

TEST(bad_sources)
{
	_cleanup_(rig_down) struct rig g = RIG;

	rig_up(&g, 10, 900000, GZIP);
	struct fake good = g.f;

	g.f.cut = g.f.blob.len / 2;
	expect_bad(&g, "short", -EIO, ERR_INTEGRITY);
	g.f.cut = g.f.blob.len - 1;
	expect_bad(&g, "one byte short", -EIO, ERR_INTEGRITY);
	g.f = good;
	g.f.extra = 1;
	expect_bad(&g, "long", -EIO, ERR_INTEGRITY);
	g.f.extra = 0;
	for (size_t at = 0; at < g.f.blob.len; at += g.f.blob.len / 20) {
		g.f.flip = (int64_t)at;
		expect_bad(&g, "flipped", -EIO, ERR_INTEGRITY);
	}
	g.f.flip = -1;
	g.f.fail = -EHOSTUNREACH;
	expect_bad(&g, "unreachable", -EHOSTUNREACH, ERR_NET);
	g.f.fail = 0;
	g.f.diff.raw[0] ^= 1;
	expect_bad(&g, "diff id", -EIO, ERR_INTEGRITY);
	g.f.diff.raw[0] ^= 1;
	struct cancel c;
	cancel_init(&c);
	g.f.cancel = &c;
	g.f.cancel_at = g.f.blob.len / 2;
	expect_bad(&g, "cancelled", -ECANCELED, ERR_CANCELLED);
	cancel_done(&c);
	g.f.cancel = NULL;
	CHECK_OK(rig_try_fill(&g, NULL));
}

/* The blob is what its digest says, and no layer: not the transfer's fault. */
TEST(bad_layers)
{
	_cleanup_(rig_down) struct rig g = RIG;

	rig_up(&g, 3, 900000, GZIP);
	g.f.blob.len -= 9;	/* cut off before it was pushed */
	digest_of(DIGEST_SHA256, g.f.blob.data, g.f.blob.len, &g.f.digest);
	expect_bad(&g, "cut gzip", -EIO, ERR_INPUT);
	g.f.blob.data[g.f.blob.len / 2] ^= 0x55;
	digest_of(DIGEST_SHA256, g.f.blob.data, g.f.blob.len, &g.f.digest);
	expect_bad(&g, "bad gzip", -EIO, ERR_INPUT);
	buf_done(&g.f.blob);

	g.tar.len = 700000;	/* a file cut off */
	fake_init(&g.f, &g.tar, GZIP);
	expect_bad(&g, "cut tar", -EIO, ERR_INPUT);
	buf_done(&g.f.blob);

	buf_clear(&g.tar);
	(void)buf_reserve(&g.tar, 60u << 20);
	memset(g.tar.data, 0, 60u << 20);
	g.tar.len = 60u << 20;
	fake_init(&g.f, &g.tar, ZSTD_ONE);
	expect_bad(&g, "bomb", -EFBIG, ERR_LIMIT);
}

/* Over the ceilings of a layer's index: an error while it is made, and the layer's fault. */
TEST(too_many_parts)
{
	static const enum how hows[] = { PLAIN, GZIP, GZIP_MANY, ZSTD_ONE, ZSTD_MANY };
	_cleanup_(rig_down) struct rig g = RIG;

	make_tar(&g.tar, 10, 900000);
	for (size_t i = 0; i < ARRAY_SIZE(hows); i++) {
		rig_open(&g, hows[i], 0);
		layer_units_max = 2;	/* 8 MiB */
		expect_bad(&g, "parts", -EFBIG, ERR_LIMIT);
		layer_units_max = 3;
		if (hows[i] == ZSTD_MANY)
			expect_bad(&g, "parts", -EFBIG, ERR_LIMIT);
		else
			CHECK_OK(rig_try_fill(&g, NULL));
		layer_units_max = LAYER_UNITS_MAX;
		rig_close(&g);
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
	_cleanup_(rig_down) struct rig g = RIG;
	_cleanup_free_ char *zeros = calloc(1, 60u << 20);
	struct cancel c;

	cancel_init(&c);
	fire_at_write = &c;
	tar_file(&g.tar, "zeros", zeros, 60u << 20);
	rig_open(&g, GZIP, 0);
	g.f.piece = g.f.blob.len;
	g.f.cancel = &c;
	g.f.cancel_at = UINT64_MAX;
	ca_store_set_faults(&faults);
	expect_bad(&g, "cancelled", -ECANCELED, ERR_CANCELLED);
	ca_store_set_faults(NULL);
	cancel_done(&c);
}

static uint64_t gate_goal;

static void *grow_huge(void *arg)
{
	struct layer_gate g = { 0 };
	errint_t r = layer_gate_grow(&g, gate_goal, arg, NULL);

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
		CHECK_OK(layer_gate_grow(&g[i], GATE_ONE_BYTES, NULL, NULL));
	}
	gate_goal = GATE_HUGE_BYTES + 1;
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
	CHECK_OK(layer_gate_grow(&g[1], UINT64_MAX, NULL, NULL));
	gate_goal = GATE_ONE_BYTES + 1;
	(void)pthread_create(&t, NULL, grow_huge, &c);	/* cancelled already: it does not wait */
	(void)pthread_join(t, &ret);
	CHECK_EQ_INT((intptr_t)ret, -ECANCELED);
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
	_cleanup_(rig_down) struct rig g = { .tar = BUF_INIT(1u << 30) };
	_cleanup_buf_ struct buf map = BUF_INIT(32u << 20);
	const unsigned n = 700000;

	(void)buf_addf(&map, "%u\n", n);
	for (unsigned i = 0; i < n; i++)
		(void)buf_addf(&map, "%u\n1\n", 2 * i);
	while (map.len % 512)
		(void)buf_addc(&map, '\0');
	(void)buf_reserve(&map, n);
	memset(map.data + map.len, 0, n);
	map.len += n;
	for (unsigned i = 0; i < 25; i++)
		add_sparse(&g.tar, &map, i);
	rig_open(&g, ZSTD_ONE, 0);
	tree_bytes_set = TREE_BYTES_MIN;
	expect_bad(&g, "sparse", -EFBIG, ERR_LIMIT);
	tree_bytes_set = 0;
	struct rusage u;
	(void)getrusage(RUSAGE_SELF, &u);
	printf("# %zu bytes of blob, %ld MiB resident at most\n", g.f.blob.len, u.ru_maxrss / 1024);
}

/* The tree is looked at when it is asked for: a layer with a bad one is gone from then on.  A bit may also be
 * without meaning for the structure. */
static bool tree_is_sound(struct rig *g)
{
	_cleanup_(tree_unrefp) struct tree *t = NULL;
	errint_t r = ca_layer_tree(g->l, &t, NULL);

	CHECK_EQ_INT(ca_layer_is_condemned(g->l), r < 0);
	g->l = ca_layer_unref(g->l);
	if (r < 0) {
		CHECK_ERR(r, -EBADMSG);
		CHECK_ERR(rig_get(g, &g->l), -ENOENT);
	}
	return r == 0;
}

TEST(damaged_index_file)
{
	_cleanup_(rig_down) struct rig g = RIG;
	unsigned bad_trees = 0;
	char key[CA_KEY_MAX];

	rig_up(&g, 2, 1000, GZIP);
	CHECK_OK(rig_try_fill(&g, NULL));
	_cleanup_buf_ struct buf image = BUF_INIT(MANY);
	CHECK_OK(ca_object_load(g.d.s, CA_LAYER, layer_key(&g.f.digest, key), &image, NULL));
	for (size_t i = 0; i < image.len; i += 1 + image.len / 300) {
		image.data[i] ^= 0x10;
		CHECK_OK(ca_object_put(g.d.s, CA_LAYER, key, image.data, image.len, NULL));
		errint_t r = rig_get(&g, &g.l);
		if (r < 0)
			CHECK_ERR(r, -ENOENT);
		else
			bad_trees += !tree_is_sound(&g);
		image.data[i] ^= 0x10;
	}
	CHECK(bad_trees > 0);
	for (size_t len = 0; len < image.len; len += 1 + image.len / 50) {
		CHECK_OK(ca_object_put(g.d.s, CA_LAYER, key, image.data, len, NULL));
		CHECK_ERR(rig_get(&g, &g.l), -ENOENT);
	}
}
