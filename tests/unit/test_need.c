/*
 * test_need.c - a whole mount without a kernel: what handlers do when the cache fails them
 *
 * The registry is a layout on disk, the operations are what the kernel would send.  The cache spoils
 * (or loses) what it is given, through ca_store_set_faults.
 */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <unistd.h>

#include "cache/sealed.h"
#include "fs/fs.h"
#include "tests/unit/layoutmake.h"
#include "tests/unit/tarmake.h"
#include "util/clock.h"

static struct fs *fs;
static struct fs_config config;

/* Objects of this kind (a folder's name in the cache) turn out different from what was written. */
static const char *spoilt, *lost;
static atomic_int published;	/* how many of them were written by the present operation */
static int most;		/* by any */

static bool is_of(int fd, const char *kind)
{
	char link[64], path[512] = "", part[64];
	ssize_t n;

	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	(void)snprintf(part, sizeof(part), "/cache/%s/", kind);
	return n > 0 && strstr(path, part);
}

static ssize_t spoil(int fd, void *p, size_t n, off_t off)
{
	ssize_t k = pread(fd, p, n, off);

	if (off == 0 && k > 0 && spoilt && is_of(fd, spoilt))
		*(char *)p ^= 1;
	return k;
}

static int publish(int from_dir, const char *from, int to_dir, const char *to)
{
	const char *kind = spoilt ? spoilt : lost;
	int r = renameat(from_dir, from, to_dir, to);

	if (r < 0 || !kind || strncmp(to, kind, strlen(kind)) != 0)
		return r;
	atomic_fetch_add(&published, 1);
	if (lost)
		(void)unlinkat(to_dir, to, 0);
	return r;
}

/* ---- the mount ---- */

static void put_image(void)
{
	struct buf tar = BUF_INIT(1 << 20);
	char manifest[2048];
	const char *config_json = "{\"architecture\":\"amd64\",\"os\":\"linux\"}";

	tm_dir(&tar, "etc/");
	tm_file(&tar, "etc/motd", "hello\n");
	tm_end(&tar);
	(void)snprintf(manifest, sizeof(manifest),
		       "{\"schemaVersion\":2,\"mediaType\":\"" OCI_TYPE_MANIFEST "\",\"config\":{"
		       "\"mediaType\":\"" OCI_TYPE_CONFIG "\",\"digest\":\"%s\",\"size\":%zu},"
		       "\"layers\":[{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\","
		       "\"digest\":\"%s\",\"size\":%zu}]}",
		       put_blob("reg/app", config_json), strlen(config_json),
		       put_blob_bytes("reg/app", tar.data, tar.len), tar.len);
	put_layout("reg/app", entry(put_blob("reg/app", manifest), strlen(manifest), "1.0"));
	buf_done(&tar);
}

static void begin(void)
{
	static const struct ca_faults faults = { .pread = spoil, .renameat = publish };
	static char source[80], cache[80];

	layout_top();
	(void)snprintf(source, sizeof(source), "dir:%s/reg", top);
	(void)snprintf(cache, sizeof(cache), "%s/cache", top);
	put_image();
	config = (struct fs_config){
		.source = source,
		.cache_dir = cache,
		.cache_size = 1 << 30,
		.tag_ttl_ns = 30 * NSEC_PER_SEC,
		.timeout_ns = 30 * NSEC_PER_SEC,
	};
	ca_store_set_faults(&faults);
	most = 0;
	CHECK_OK(fs_new(&config, &fs, NULL));
}

static void end(void)
{
	fs = fs_free(fs);
	clock_set_fake(0, 0);
	ca_store_set_faults(NULL);
	spoilt = lost = NULL;
	layout_remove();
}

static errint_t run(struct op *op)
{
	errint_t r;

	atomic_store(&published, 0);
	r = op_call(op);
	most = MAX_OF(most, atomic_load(&published));
	return r;
}

static errint_t look_up(struct node **n, uint32_t *sub, const char *name, struct err *e)
{
	struct op *op = op_new(fs->engine, OP_LOOKUP, node_ref(*n), *sub);
	errint_t r;

	op->name = strdup(name);
	r = run(op);
	*e = op->err;
	if (r == 0) {
		(void)node_unref(*n);
		*n = steal_ptr(&op->entry.node);
		*sub = op->entry.sub;
	}
	op_free(op);
	return r;
}

static errint_t read_node(struct node *n, uint32_t sub, struct buf *out, struct err *e)
{
	struct op *op = op_new(fs->engine, OP_OPEN, node_ref(n), sub);
	struct handle *h = NULL;
	errint_t r = run(op);

	*e = op->err;
	if (r == 0)
		h = steal_ptr(&op->open.handle);
	op_free(op);
	if (r < 0)
		return r;
	op = op_new(fs->engine, OP_READ, node_ref(n), sub);
	op->handle = h;
	op->size = 65536;
	r = run(op);
	*e = op->err;
	if (r == 0)
		buf_add(out, buf_str(&op->out), op->out.len);
	op_free(op);
	(void)handle_free(h);
	return r;
}

/* `cat MNT/path` */
static errint_t cat(const char *path, struct buf *out, struct err *e)
{
	_cleanup_(node_unrefp) struct node *n = node_root(fs->nodes);
	char copy[256], *save = NULL;
	uint32_t sub = 0;
	errint_t r = 0;

	(void)snprintf(copy, sizeof(copy), "%s", path);
	for (char *s = strtok_r(copy, "/", &save); s && r == 0; s = strtok_r(NULL, "/", &save))
		r = look_up(&n, &sub, s, e);
	return r < 0 ? r : read_node(n, sub, out, e);
}

/* ---- */

static void forget_failures(void)
{
	clock_set_fake(clock_mono_ns() + 10 * NSEC_PER_SEC, clock_real_s() + 10);
}

TEST(a_file_is_read_through_everything)
{
	_cleanup_buf_ struct buf out = BUF_INIT(1 << 20);
	struct err e = { 0 };

	begin();
	CHECK_OK(cat("app/1.0/rootfs/etc/motd", &out, &e));
	CHECK_EQ_STR(buf_str(&out), "hello\n");
	end();
}

static const struct {
	const char *kind, *path;
} places[] = {
	{ "blob", "app/1.0/config.json" },
	{ "blob", "app/1.0/layers/00.tar" },
	{ "layer", "app/1.0/rootfs/etc/motd" },
	{ "span", "app/1.0/rootfs/etc/motd" },
};

TEST(what_the_disk_spoils_each_time_is_fetched_once_and_then_an_error)
{
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		_cleanup_buf_ struct buf out = BUF_INIT(1 << 20);
		struct err e = { 0 };

		spoilt = places[i].kind;
		begin();
		CHECK_ERR(cat(places[i].path, &out, &e), -EIO);
		CHECK(strstr(e.msg, "damaged when it is read again; check the disk") != NULL);
		CHECK_EQ_INT(most, 1);
		spoilt = NULL;
		forget_failures();
		CHECK_OK(cat(places[i].path, &out, &e));
		end();
	}
}

TEST(what_the_cache_loses_each_time_is_fetched_a_few_times_and_then_an_error)
{
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		_cleanup_buf_ struct buf out = BUF_INIT(1 << 20);
		struct err e = { 0 };

		lost = places[i].kind;
		begin();
		CHECK_ERR(cat(places[i].path, &out, &e), -EIO);
		CHECK(strstr(e.msg, "the cache does not keep what is fetched") != NULL);
		CHECK(most > 1 && most < 10);
		lost = NULL;
		forget_failures();
		CHECK_OK(cat(places[i].path, &out, &e));
		end();
	}
}
