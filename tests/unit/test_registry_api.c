/*
 * test_registry_api.c - the OCI protocol over a scripted transport
 */
#include "tests/unit/apiunit.h"

#include <pthread.h>

/* {"tags":["t0","t1",..]} with n names from `from`, zero-padded so that they are in order. */
static char *page_of(const char *member, const char *prefix, unsigned from, unsigned n)
{
	struct buf b = BUF_INIT(64u << 20);

	(void)buf_addf(&b, "{\"name\":\"x\",\"%s\":[", member);
	for (unsigned i = from; i < from + n; i++)
		(void)buf_addf(&b, "%s\"%s%06u\"", i > from ? "," : "", prefix, i);
	(void)buf_adds(&b, "]}");
	return buf_take(&b, NULL);
}

static const char *sha256_text(const void *data, size_t len)
{
	static char text[DIGEST_TEXT_MAX];
	struct digest d;

	digest_of(DIGEST_SHA256, data, len, &d);
	return digest_text(&d, text);
}

/* --- listings --- */

TEST(tags_null_and_odd_names)
{
	struct rg_registry *g = open_source("fake.example");
	struct rg_names n = { 0 };

	reply(200, "{\"name\":\"app\",\"tags\":null}");
	CHECK_OK(rg_list_tags(g, "app", &n, NULL, NULL));
	CHECK_EQ_INT(n.n, 0);
	rg_names_done(&n);
	reply(200, "{\"tags\":[\"b\",\"../x\",\"a\",17,null,\"b\",\".h\",\"a\\u0000b\"]}");
	CHECK_OK(rg_list_tags(g, "app", &n, NULL, NULL));
	REQUIRE(n.n == 2);
	CHECK_EQ_STR(n.names[0], "a");
	CHECK_EQ_STR(fake_request(0)->path, "tags/list");
	CHECK_EQ_STR(fake_request(0)->query, "n=1000");
	CHECK_EQ_STR(fake_request(0)->repo, "app");
	rg_names_done(&n);
	(void)rg_close(g);
}

TEST(tags_that_are_no_list_are_an_error)
{
	static const char *const bad[] = { "<html>",	    "{}", "{\"errors\":[]}",
					   "{\"tags\":{}}", "[]", "",
					   "null" };
	struct rg_registry *g = open_source("fake.example");
	struct rg_names n = { 0 };
	struct err e = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		reply(200, bad[i]);
		if (!CHECK_ERR(rg_list_tags(g, "app", &n, NULL, &e), -EIO))
			printf("# %s\n", bad[i]);
		CHECK_EQ_INT(e.cls, ERR_INPUT);
	}
	(void)rg_close(g);
}

TEST(tags_follow_links)
{
	struct rg_registry *g = open_source("fake.example");
	char *p1 = page_of("tags", "t", 0, 3), *p2 = page_of("tags", "t", 3, 2);
	struct rg_names n = { 0 };

	fake_push((struct fake_answer){
		.status = 200, .body = p1, .link = "/v2/app/tags/list?n=3&last=t2" });
	fake_push((struct fake_answer){
		.status = 200, .body = "{\"tags\":[]}", .link = "https://fake.example/x" });
	reply(200, p2);
	CHECK_OK(rg_list_tags(g, "app", &n, NULL, NULL));
	CHECK_EQ_INT(n.n, 5);
	CHECK_EQ_INT(fake_n_requests(), 3);
	CHECK_EQ_STR(fake_request(1)->next_url, "/v2/app/tags/list?n=3&last=t2");
	CHECK_EQ_STR(fake_request(2)->next_url, "https://fake.example/x");
	rg_names_done(&n);
	free(p1);
	free(p2);
	(void)rg_close(g);
}

TEST(tags_page_loop_ends)
{
	struct rg_registry *g = open_source("fake.example");
	struct rg_names n = { 0 };
	struct err e = { 0 };

	for (int i = 0; i < 6; i++)
		fake_push((struct fake_answer){
			.status = 200, .body = "{\"tags\":[\"a\"]}", .link = i % 2 ? "/b" : "/a" });
	CHECK_ERR(rg_list_tags(g, "app", &n, NULL, &e), -EIO);
	CHECK(strstr(e.msg, "circle"));
	CHECK(fake_n_requests() <= 3);
	(void)rg_close(g);
}

TEST(tags_a_failing_page_fails_all)
{
	struct rg_registry *g = open_source("fake.example");
	struct rg_names n = { 0 };
	struct err e = { 0 };

	fake_push(
		(struct fake_answer){ .status = 200, .body = "{\"tags\":[\"a\"]}", .link = "/a" });
	reply(503, "<html>");
	CHECK_ERR(rg_list_tags(g, "app", &n, NULL, &e), -EIO);
	CHECK(!n.names && strstr(e.msg, "page 2"));
	(void)rg_close(g);
}

TEST(tags_exactly_a_page_asks_once_more)
{
	struct rg_registry *g = open_source("fake.example");
	char *p1 = page_of("tags", "t", 0, 1000), *p2 = page_of("tags", "t", 1000, 10);
	struct rg_names n = { 0 };

	reply(200, p1);
	reply(200, p2);
	CHECK_OK(rg_list_tags(g, "app", &n, NULL, NULL));
	CHECK_EQ_INT(n.n, 1010);
	CHECK_EQ_STR(fake_request(1)->query, "n=1000&last=t000999");
	rg_names_done(&n);

	/* a server that ignores n and last has the same thousand again */
	fake_reset();
	reply(200, p1);
	reply(200, p1);
	CHECK_OK(rg_list_tags(g, "app", &n, NULL, NULL));
	CHECK_EQ_INT(n.n, 1000);
	CHECK_EQ_INT(fake_n_requests(), 2);
	rg_names_done(&n);
	free(p1);
	free(p2);
	(void)rg_close(g);
}

TEST(tags_of_nothing)
{
	struct rg_registry *g = open_source("fake.example");
	struct rg_names n = { 0 };
	struct err e = { 0 };

	reply(404, "{\"errors\":[{\"code\":\"NAME_UNKNOWN\"}]}");
	CHECK_ERR(rg_list_tags(g, "app", &n, NULL, &e), -ENOENT);
	reply(404, "<html>not found</html>");
	CHECK_ERR(rg_list_tags(g, "app", &n, NULL, &e), -EIO);
	CHECK_ERR(rg_list_tags(g, "", &n, NULL, &e), -ENOENT);
	CHECK_ERR(rg_list_tags(g, "../x", &n, NULL, &e), -EINVAL);
	(void)rg_close(g);
}

TEST(catalog_below_a_prefix)
{
	struct rg_registry *g = open_source("fake.example/team");
	struct rg_names n = { 0 };

	reply(200, "{\"repositories\":[\"team\",\"team/a\",\"team/b/c\",\"teamster\",\"x/team/"
		   "d\",\"BAD\"]}");
	CHECK_OK(rg_list_repos(g, &n, NULL, NULL));
	REQUIRE(n.n == 3);
	CHECK_EQ_STR(n.names[0], "");
	CHECK_EQ_STR(n.names[1], "a");
	CHECK_EQ_STR(n.names[2], "b/c");
	CHECK_EQ_STR(fake_request(0)->path, "_catalog");
	CHECK_EQ_STR(fake_request(0)->scope, "registry:catalog:*");
	rg_names_done(&n);
	reply(200, "{\"repositories\":null}");
	CHECK_OK(rg_list_repos(g, &n, NULL, NULL));
	CHECK_EQ_INT(n.n, 0);
	rg_names_done(&n);
	(void)rg_close(g);
}

TEST(catalog_refused)
{
	struct rg_registry *g = open_source("fake.example");
	struct rg_names n = { 0 };
	struct err e = { 0 };

	reply(401, "");
	CHECK_ERR(rg_list_repos(g, &n, NULL, &e), -EOPNOTSUPP);
	CHECK_EQ_INT(e.cls, ERR_UNSUPPORTED);
	CHECK_EQ_INT(e.http, 401);
	reply(404, "");
	CHECK_ERR(rg_list_repos(g, &n, NULL, &e), -EOPNOTSUPP);
	fake_push((struct fake_answer){ .fail = -EACCES, .fail_cls = ERR_AUTH });
	CHECK_ERR(rg_list_repos(g, &n, NULL, &e), -EOPNOTSUPP);
	fake_push((struct fake_answer){ .fail = -EHOSTUNREACH, .fail_cls = ERR_NET });
	CHECK_ERR(rg_list_repos(g, &n, NULL, &e), -EHOSTUNREACH);
	(void)rg_close(g);
}

TEST(docker_hub_names)
{
	struct rg_registry *g = open_source("docker.io");
	struct rg_names n = { 0 };

	reply(200, "{\"tags\":[]}");
	CHECK_OK(rg_list_tags(g, "alpine", &n, NULL, NULL));
	CHECK_EQ_STR(fake_request(0)->repo, "library/alpine");
	rg_names_done(&n);
	reply(200, "{\"tags\":[]}");
	CHECK_OK(rg_list_tags(g, "me/x", &n, NULL, NULL));
	CHECK_EQ_STR(fake_request(1)->repo, "me/x");
	rg_names_done(&n);
	(void)rg_close(g);
}

/* --- manifests --- */

TEST(resolve_by_head)
{
	struct rg_registry *g = open_source("fake.example/team");
	const char *text = sha256_text(MANIFEST, strlen(MANIFEST));
	char have[DIGEST_TEXT_MAX];
	struct digest d = { 0 };

	fake_push((struct fake_answer){ .status = 200, .digest = text });
	CHECK_OK(rg_resolve(g, "", "1.0", &d, NULL, NULL));
	CHECK_EQ_STR(digest_text(&d, have), text);
	CHECK_EQ_STR(fake_request(0)->method, "HEAD");
	CHECK_EQ_STR(fake_request(0)->repo, "team");
	CHECK_EQ_STR(fake_request(0)->path, "manifests/1.0");
	CHECK(strstr(fake_request(0)->accept, OCI_TYPE_INDEX) &&
	      strstr(fake_request(0)->accept, OCI_TYPE_MANIFEST) &&
	      strstr(fake_request(0)->accept, OCI_TYPE_DOCKER_LIST) &&
	      strstr(fake_request(0)->accept, OCI_TYPE_DOCKER_MANIFEST));
	(void)rg_close(g);
}

TEST(resolve_falls_back_to_get)
{
	static const struct fake_answer heads[] = {
		{ .status = 200 }, { .status = 200, .digest = "sha256:short" },
		{ .status = 405 }, { .status = 501 },
		{ .status = 404 }, { .status = 200, .digest = "blake3:" ZEROS },
	};
	struct rg_registry *g = open_source("fake.example");
	const char *text = sha256_text(MANIFEST, strlen(MANIFEST));
	char have[DIGEST_TEXT_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(heads); i++) {
		struct digest d = { 0 };

		fake_reset();
		fake_push(heads[i]);
		reply(200, MANIFEST);
		CHECK_OK(rg_resolve(g, "app", "1.0", &d, NULL, NULL));
		CHECK_EQ_STR(digest_text(&d, have), text);
		CHECK_EQ_STR(fake_request(1)->method, "GET");
	}
	(void)rg_close(g);
}

TEST(resolve_failures)
{
	struct rg_registry *g = open_source("fake.example");
	struct digest d = { 0 };
	struct err e = { 0 };

	reply(404, "");
	reply(404, "{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\"}]}");
	CHECK_ERR(rg_resolve(g, "app", "1.0", &d, NULL, &e), -ENOENT);
	reply(401, "");
	CHECK_ERR(rg_resolve(g, "app", "1.0", &d, NULL, &e), -EACCES);
	CHECK_ERR(rg_resolve(g, "app", "a b", &d, NULL, &e), -EINVAL);
	CHECK_ERR(rg_resolve(g, "app", "blake3:" ZEROS, &d, NULL, &e), -EOPNOTSUPP);
	fake_push((struct fake_answer){ .status = 200, .digest = sha256_text("x", 1) });
	CHECK_ERR(rg_resolve(g, "app", "sha256:" ZEROS, &d, NULL, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	(void)rg_close(g);
}

TEST(manifest_bytes_and_digests)
{
	struct rg_registry *g = open_source("fake.example");
	const char *text = sha256_text(MANIFEST, strlen(MANIFEST));
	struct rg_manifest m = { 0 };
	struct err e = { 0 };

	fake_push((struct fake_answer){ .status = 200,
					.body = MANIFEST,
					.digest = text,
					.content_type = OCI_TYPE_MANIFEST });
	CHECK_OK(rg_get_manifest(g, "app", "1.0", &m, NULL, NULL));
	CHECK_EQ_STR(buf_str(&m.bytes), MANIFEST);
	CHECK_EQ_STR(m.media_type, OCI_TYPE_MANIFEST);
	rg_manifest_done(&m);
	reply(200, MANIFEST);
	CHECK_OK(rg_get_manifest(g, "app", text, &m, NULL, NULL));
	CHECK_EQ_STR(m.media_type, "");
	CHECK(fake_request(1)->by_digest && fake_request(1)->mirrors);
	rg_manifest_done(&m);
	reply(200, MANIFEST " ");
	CHECK_ERR(rg_get_manifest(g, "app", text, &m, NULL, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	fake_push((struct fake_answer){ .status = 200, .body = MANIFEST " ", .digest = text });
	CHECK_ERR(rg_get_manifest(g, "app", "1.0", &m, NULL, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	CHECK(!m.media_type && !m.bytes.data);
	(void)rg_close(g);
}

TEST(manifest_too_large)
{
	struct rg_registry *g = open_source("fake.example");
	struct rg_manifest m = { 0 };
	struct err e = { 0 };
	char *body = calloc(1, OCI_MANIFEST_MAX + 1);

	REQUIRE(body);
	fake_push((struct fake_answer){
		.status = 200, .body = body, .body_len = OCI_MANIFEST_MAX + 1 });
	CHECK_ERR(rg_get_manifest(g, "app", "1.0", &m, NULL, &e), -EFBIG);
	CHECK_EQ_INT(e.cls, ERR_LIMIT);
	free(body);
	(void)rg_close(g);
}

/* --- blobs --- */

static const char blob[] = "0123456789abcdefghijklmnopqrstuvwxyz";
#define BLOB_LEN (sizeof(blob) - 1)

static errint_t collect(void *ctx, const void *data, size_t len, struct err *e)
{
	(void)e;
	return buf_add(ctx, data, len);
}

static errint_t get(struct rg_registry *g, uint64_t off, uint64_t len, struct buf *out,
		    struct err *e)
{
	struct digest d;

	digest_of(DIGEST_SHA256, blob, BLOB_LEN, &d);
	buf_clear(out);
	return rg_get_blob(g, "app", &d, BLOB_LEN, off, len, collect, out, NULL, e);
}

static void part(size_t off, size_t len, uint64_t total, errint_t fail)
{
	fake_push((struct fake_answer){ .status = 206,
					.has_range = true,
					.range_start = off,
					.range_total = total,
					.body = blob + off,
					.body_len = len,
					.fail = fail,
					.fail_cls = ERR_NET });
}

TEST(blob_whole_and_parts)
{
	struct rg_registry *g = open_source("fake.example");
	struct buf out = BUF_INIT(4096);

	reply(200, blob);
	CHECK_OK(get(g, 0, 0, &out, NULL));
	CHECK_EQ_STR(buf_str(&out), blob);
	CHECK(!fake_request(0)->ranged && fake_request(0)->lane == RG_LANE_SMALL_BLOB);
	part(10, 5, BLOB_LEN, 0);
	CHECK_OK(get(g, 10, 5, &out, NULL));
	CHECK_EQ_STR(buf_str(&out), "abcde");
	CHECK(fake_request(1)->ranged && fake_request(1)->off == 10 && fake_request(1)->len == 5);
	part(34, 2, 0, 0);
	CHECK_OK(get(g, 34, 0, &out, NULL));
	CHECK_EQ_STR(buf_str(&out), "yz");
	CHECK_EQ_INT(fake_n_requests(), 3);
	CHECK_OK(get(g, BLOB_LEN, 0, &out, NULL));
	CHECK_ERR(get(g, BLOB_LEN, 1, &out, NULL), -EINVAL);
	CHECK_ERR(get(g, 1, UINT64_MAX, &out, NULL), -EINVAL);
	CHECK_EQ_INT(fake_n_requests(), 3);
	buf_done(&out);
	(void)rg_close(g);
}

TEST(blob_range_ignored)
{
	struct rg_registry *g = open_source("fake.example");
	struct buf out = BUF_INIT(4096);

	reply(200, blob);
	CHECK_OK(get(g, 10, 5, &out, NULL));
	CHECK_EQ_STR(buf_str(&out), "abcde");
	reply(200, blob);
	CHECK_OK(get(g, 30, 0, &out, NULL));
	CHECK_EQ_STR(buf_str(&out), "uvwxyz");
	buf_done(&out);
	(void)rg_close(g);
}

TEST(blob_resumes)
{
	struct rg_registry *g = open_source("fake.example");
	struct buf out = BUF_INIT(4096);

	fake_push((struct fake_answer){ .status = 200,
					.body = blob,
					.body_len = 8,
					.content_length = BLOB_LEN,
					.fail = -EIO,
					.fail_cls = ERR_NET });
	part(8, 4, BLOB_LEN, -EIO);
	fake_push((struct fake_answer){ .status = 200,
					.body = blob,
					.body_len = 20,
					.content_length = BLOB_LEN,
					.fail = -ETIMEDOUT,
					.fail_cls = ERR_TIMEOUT });
	part(20, 16, BLOB_LEN, 0);
	CHECK_OK(get(g, 0, 0, &out, NULL));
	CHECK_EQ_STR(buf_str(&out), blob);
	CHECK(fake_request(1)->ranged && fake_request(1)->off == 8 &&
	      fake_request(1)->len == BLOB_LEN - 8);
	CHECK_EQ_INT(fake_request(3)->off, 20);

	/* a part shorter than asked for is continued too */
	fake_reset();
	part(2, 3, BLOB_LEN, 0);
	part(5, 5, BLOB_LEN, 0);
	CHECK_OK(get(g, 2, 8, &out, NULL));
	CHECK_EQ_STR(buf_str(&out), "23456789");
	buf_done(&out);
	(void)rg_close(g);
}

TEST(blob_gives_up)
{
	struct rg_registry *g = open_source("fake.example");
	struct buf out = BUF_INIT(4096);
	struct err e = { 0 };

	for (size_t i = 0; i < 20; i++)
		part(i, 1, BLOB_LEN, -EIO);
	CHECK_ERR(get(g, 0, 30, &out, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_NET);
	CHECK_EQ_INT(fake_n_requests(), 4);

	/* nothing arrived: the transport has retried already */
	fake_reset();
	fake_push((struct fake_answer){ .fail = -EHOSTUNREACH, .fail_cls = ERR_NET });
	CHECK_ERR(get(g, 0, 0, &out, &e), -EHOSTUNREACH);
	CHECK_EQ_INT(fake_n_requests(), 1);
	buf_done(&out);
	(void)rg_close(g);
}

TEST(blob_progress_earns_resumes)
{
	enum { STEP = 1 << 20, STEPS = 20, TOTAL = STEP * STEPS };
	struct rg_registry *g = open_source("fake.example");
	char *big = calloc(1, TOTAL);
	struct buf out = BUF_INIT(TOTAL);
	struct digest d = { .alg = DIGEST_SHA256, .len = 32 };

	REQUIRE(big);
	for (size_t i = 0; i < STEPS; i++)
		fake_push((struct fake_answer){ .status = i ? 206 : 200,
						.has_range = i > 0,
						.range_start = i * STEP,
						.range_total = TOTAL,
						.body = big,
						.body_len = STEP,
						.content_length = i ? -1 : TOTAL,
						.fail = i < STEPS - 1 ? -EIO : 0,
						.fail_cls = ERR_NET });
	CHECK_OK(rg_get_blob(g, "app", &d, TOTAL, 0, 0, collect, &out, NULL, NULL));
	CHECK_EQ_INT(out.len, TOTAL);
	buf_done(&out);
	free(big);
	(void)rg_close(g);
}

TEST(blob_of_wrong_size)
{
	struct rg_registry *g = open_source("fake.example");
	struct buf out = BUF_INIT(4096);
	static const struct fake_answer bad[] = {
		{ .status = 200, .body = "0123" },
		{ .status = 200, .body = "0123456789abcdefghijklmnopqrstuvwxyz+" },
		{ .status = 200, .body = "0123", .content_length = -1 },
		{ .status = 200,
		  .body = "0123456789abcdefghijklmnopqrstuvwxyz+",
		  .content_length = -1 },
		{ .status = 200, .body = "" },
	};
	struct err e = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		fake_reset();
		fake_push(bad[i]);
		CHECK_ERR(get(g, 0, 0, &out, &e), -EIO);
		CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
		CHECK_EQ_INT(fake_n_requests(), 1);
	}
	fake_reset();
	part(10, 5, BLOB_LEN + 1, 0);
	CHECK_ERR(get(g, 10, 5, &out, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	CHECK_EQ_INT(out.len, 0);
	part(10, 6, BLOB_LEN, 0);
	CHECK_ERR(get(g, 10, 5, &out, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	reply(416, "");
	CHECK_ERR(get(g, 10, 5, &out, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	buf_done(&out);
	(void)rg_close(g);
}

TEST(blob_unasked_range_is_asked_whole)
{
	struct rg_registry *g = open_source("fake.example");
	struct buf out = BUF_INIT(4096);

	part(0, 5, BLOB_LEN, 0);
	reply(200, blob);
	CHECK_OK(get(g, 10, 5, &out, NULL));
	CHECK_EQ_STR(buf_str(&out), "abcde");
	CHECK(!fake_request(1)->ranged);
	buf_done(&out);
	(void)rg_close(g);
}

static errint_t refuse(void *ctx, const void *data, size_t len, struct err *e)
{
	(void)ctx;
	(void)data;
	(void)len;
	return err_set(e, ENOSPC, ERR_LOCAL, "disk full");
}

TEST(blob_sink_and_cancel)
{
	struct rg_registry *g = open_source("fake.example");
	struct digest d = { .alg = DIGEST_SHA256, .len = 32 };
	struct buf out = BUF_INIT(4096);
	struct cancel c = CANCEL_INIT;
	struct err e = { 0 };

	reply(200, blob);
	CHECK_ERR(rg_get_blob(g, "app", &d, BLOB_LEN, 0, 0, refuse, NULL, NULL, &e), -ENOSPC);
	CHECK_EQ_STR(e.msg, "disk full");
	cancel_fire(&c);
	CHECK_ERR(rg_get_blob(g, "app", &d, BLOB_LEN, 0, 0, collect, &out, &c, &e), -ECANCELED);
	reply(404, "{\"errors\":[{\"code\":\"BLOB_UNKNOWN\"}]}");
	CHECK_ERR(get(g, 0, 0, &out, &e), -ENOENT);
	buf_done(&out);
	(void)rg_close(g);
}

/* --- mirrors --- */

#define OTHER "{\"schemaVersion\":2,\"layers\":[],\"x\":1}"

static void mirror_reply(const char *body, const char *digest)
{
	fake_push((struct fake_answer){
		.status = 200, .body = body, .digest = digest, .from_mirror = true });
}

TEST(manifest_wrong_bytes_of_a_mirror_are_asked_of_the_registry)
{
	struct rg_registry *g = open_source("fake.example");
	struct rg_manifest m = { 0 };
	struct digest d;
	struct err e = { 0 };
	const char *text = sha256_text(MANIFEST, strlen(MANIFEST));

	mirror_reply(OTHER, NULL);
	reply(200, MANIFEST);
	CHECK_OK(rg_get_manifest(g, "app", text, &m, NULL, &e));
	CHECK_EQ_STR(buf_str(&m.bytes), MANIFEST);
	CHECK_EQ_INT(fake_n_requests(), 2);
	CHECK(fake_request(0)->mirrors && !fake_request(1)->mirrors);
	rg_manifest_done(&m);
	mirror_reply(OTHER, text); /* by tag, with a header that does not fit */
	reply(200, MANIFEST);
	CHECK_OK(rg_get_manifest(g, "app", "1.0", &m, NULL, &e));
	rg_manifest_done(&m);
	mirror_reply("", "sha256:" ZEROS); /* HEAD */
	mirror_reply(OTHER, NULL);
	reply(200, MANIFEST);
	CHECK_OK(rg_resolve(g, "app", text, &d, NULL, &e));
	CHECK_EQ_INT(fake_n_requests(), 7);
	reply(200, OTHER); /* the registry itself: final */
	CHECK_ERR(rg_get_manifest(g, "app", text, &m, NULL, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	CHECK_EQ_INT(fake_n_requests(), 8);
	(void)rg_close(g);
}

static errint_t add_to_buf(void *ctx, const void *data, size_t len, struct err *e)
{
	(void)e;
	return buf_add(ctx, data, len);
}

static errint_t whole_blob(struct rg_registry *g, const char *content, struct buf *b, struct err *e)
{
	struct digest d;

	buf_clear(b);
	digest_of(DIGEST_SHA256, content, strlen(content), &d);
	return rg_get_blob(g, "app", &d, strlen(content), 0, 0, add_to_buf, b, NULL, e);
}

TEST(blob_wrong_bytes_of_a_mirror_are_asked_of_the_registry_next_time)
{
	struct rg_registry *g = open_source("fake.example");
	struct buf b = BUF_INIT(100);
	struct err e = { 0 };

	clock_set_fake(1000 * NSEC_PER_SEC, 1);
	mirror_reply("right bytes", NULL);
	CHECK_OK(whole_blob(g, "right bytes", &b, &e));
	mirror_reply("wrong bytes", NULL);
	CHECK_ERR(whole_blob(g, "right bytes", &b, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	CHECK(fake_request(1)->mirrors);
	reply(200, "right bytes");
	CHECK_OK(whole_blob(g, "right bytes", &b, &e));
	CHECK(!fake_request(2)->mirrors);
	mirror_reply("other", NULL);
	CHECK_OK(whole_blob(g, "other", &b, &e));
	CHECK(fake_request(3)->mirrors); /* only that blob */
	clock_set_fake(1301 * NSEC_PER_SEC, 1);
	mirror_reply("right bytes", NULL);
	CHECK_OK(whole_blob(g, "right bytes", &b, &e));
	CHECK(fake_request(4)->mirrors);
	clock_set_fake(0, 0);
	buf_done(&b);
	(void)rg_close(g);
}

TEST(parts_that_the_cache_finds_wrong_are_asked_of_the_registry)
{
	struct rg_registry *g = open_source("fake.example");
	struct buf b = BUF_INIT(100);
	struct digest d, other;
	struct fake_answer part = { .status = 206, .body = "wrong", .has_range = true,
				    .range_start = 6, .range_total = 11, .from_mirror = true };

	digest_of(DIGEST_SHA256, "bytes wanted", 12, &d);
	digest_of(DIGEST_SHA256, "another", 7, &other);
	fake_push(part);
	CHECK_OK(rg_get_blob(g, "app", &d, 11, 6, 5, add_to_buf, &b, NULL, NULL));
	CHECK(fake_request(0)->mirrors);
	CHECK(rg_blob_was_bad(g, &d, clock_mono_ns()));
	CHECK(!rg_blob_was_bad(g, &d, clock_mono_ns())); /* said before: the registry itself is wrong */
	fake_push(part);
	CHECK_OK(rg_get_blob(g, "app", &d, 11, 6, 5, add_to_buf, &b, NULL, NULL));
	CHECK(!fake_request(1)->mirrors);
	fake_push(part);
	CHECK_OK(rg_get_blob(g, "app", &other, 11, 6, 5, add_to_buf, &b, NULL, NULL));
	CHECK(fake_request(2)->mirrors);
	buf_done(&b);
	(void)rg_close(g);
}

TEST(blob_of_another_length_at_a_mirror_is_asked_of_the_registry_at_once)
{
	struct rg_registry *g = open_source("fake.example");
	struct buf b = BUF_INIT(100);
	struct err e = { 0 };

	mirror_reply("a page about something else", NULL);
	reply(200, "right bytes");
	CHECK_OK(whole_blob(g, "right bytes", &b, &e));
	CHECK_EQ_STR(buf_str(&b), "right bytes");
	CHECK(!fake_request(1)->mirrors);
	buf_done(&b);
	(void)rg_close(g);
}

TEST(tags_page_of_a_million_crumbs_is_refused_before_it_is_parsed)
{
	struct rg_registry *g = open_source("fake.example");
	struct buf b = BUF_INIT(16u << 20);
	struct rg_names n = { 0 };
	struct err e = { 0 };

	(void)buf_adds(&b, "{\"tags\":[");
	for (int i = 0; i < API_LIST_VALUES_MAX; i++)
		(void)buf_adds(&b, "1,");
	(void)buf_adds(&b, "1]}");
	reply(200, buf_str(&b));
	CHECK_ERR(rg_list_tags(g, "app", &n, NULL, &e), -EFBIG);
	CHECK_EQ_INT(e.cls, ERR_LIMIT);
	CHECK(strstr(e.msg, "the tags of app"));
	_Static_assert(API_LIST_BODY_MAX <= RG_TAGS_MAX * UINT64_C(135), "a body holds the names");
	buf_done(&b);
	(void)rg_close(g);
}

TEST(ping_and_untagged)
{
	struct rg_registry *g = open_source("fake.example");
	struct buf out = { 0 };

	reply(200, "{}");
	CHECK_OK(rg_ping(g, NULL, NULL));
	reply(401, "");
	CHECK_ERR(rg_ping(g, NULL, NULL), -EACCES);
	CHECK_ERR(rg_list_untagged(g, "app", &out, NULL, NULL), -EOPNOTSUPP);
	CHECK_EQ_STR(rg_key(g), "https://fake.example");
	(void)rg_close(g);
}

/* ---- threads ---- */

static void *report_many(void *arg)
{
	for (unsigned i = 0; i < 5000; i++) {
		struct digest d = { .alg = DIGEST_SHA256, .len = 32 };

		memcpy(d.raw, &i, sizeof(i));
		(void)rg_blob_was_bad(arg, &d, clock_mono_ns());
	}
	return NULL;
}

TEST(bad_blobs_are_remembered_by_many_threads_beyond_the_ceiling)
{
	struct rg_registry *g = open_source("fake.example");
	pthread_t t[4];

	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		REQUIRE(pthread_create(&t[i], NULL, report_many, g) == 0);
	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		(void)pthread_join(t[i], NULL);
	(void)rg_close(g);
}
