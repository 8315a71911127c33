/*
 * test_registry_referrers.c - who refers to a digest, by the API and by the fallback tag
 */
#include "tests/unit/apiunit.h"

static errint_t referrers(struct rg_registry *g, struct buf *out, struct err *e)
{
	struct digest d = { .alg = DIGEST_SHA256, .len = 32 };

	return rg_list_referrers(g, "app", &d, out, NULL, e);
}

#define CHILD(c)                                                                                   \
	"{\"mediaType\":\"" OCI_TYPE_MANIFEST "\",\"digest\":\"sha256:" c                          \
	"\",\"size\":1,\"artifactType\":\"a/b\"}"
#define INDEX(children) "{\"schemaVersion\":2,\"manifests\":[" children "]}"
#define ONES "1111111111111111111111111111111111111111111111111111111111111111"

TEST(referrers_api)
{
	struct rg_registry *g = open_source("fake.example");
	struct buf out = { 0 };
	struct oci_manifest *m = NULL;

	fake_push((struct fake_answer){
		.status = 200, .content_type = OCI_TYPE_INDEX, .body = INDEX(CHILD(ZEROS)) });
	CHECK_OK(referrers(g, &out, NULL));
	CHECK_EQ_STR(buf_str(&out), INDEX(CHILD(ZEROS)));
	CHECK_EQ_STR(fake_request(0)->path, "referrers/sha256:" ZEROS);
	fake_push((struct fake_answer){ .status = 200,
					.content_type = OCI_TYPE_INDEX,
					.body = INDEX(CHILD(ZEROS)),
					.link = "/next" });
	fake_push((struct fake_answer){
		.status = 200, .content_type = OCI_TYPE_INDEX, .body = INDEX(CHILD(ONES)) });
	CHECK_OK(referrers(g, &out, NULL));
	CHECK_EQ_STR(fake_request(2)->next_url, "/next");
	REQUIRE(oci_manifest_parse(out.data, out.len, OCI_TYPE_INDEX, &m, NULL) == 0);
	CHECK_EQ_INT(m->n_children, 2);
	CHECK_EQ_STR(m->children[1].artifact_type, "a/b");
	(void)oci_manifest_free(m);
	buf_done(&out);
	(void)rg_close(g);
}

TEST(referrers_fallback_and_memory)
{
	struct rg_registry *g = open_source("fake.example");
	struct buf out = { 0 };
	struct oci_manifest *m = NULL;

	clock_set_fake(1000 * NSEC_PER_SEC, 1);
	reply(404, "404 page not found");
	reply(404, "{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\"}]}");
	CHECK_OK(referrers(g, &out, NULL));
	CHECK_EQ_STR(fake_request(1)->path, "manifests/sha256-" ZEROS);
	REQUIRE(oci_manifest_parse(out.data, out.len, OCI_TYPE_INDEX, &m, NULL) == 0);
	CHECK_EQ_INT(m->n_children, 0);
	(void)oci_manifest_free(m);
	reply(200, INDEX(CHILD(ONES)));
	CHECK_OK(referrers(g, &out, NULL));
	CHECK_EQ_STR(fake_request(2)->path, "manifests/sha256-" ZEROS);
	CHECK_EQ_STR(buf_str(&out), INDEX(CHILD(ONES)));
	clock_set_fake(1301 * NSEC_PER_SEC, 1);
	fake_push((struct fake_answer){
		.status = 200, .content_type = OCI_TYPE_INDEX, .body = INDEX("") });
	CHECK_OK(referrers(g, &out, NULL));
	CHECK_EQ_STR(fake_request(3)->path, "referrers/sha256:" ZEROS);
	clock_set_fake(0, 0);
	buf_done(&out);
	(void)rg_close(g);
}

TEST(referrers_failures)
{
	struct rg_registry *g = open_source("fake.example");
	struct buf out = { 0 };
	struct err e = { 0 };

	reply(503, "");
	CHECK_ERR(referrers(g, &out, &e), -EIO);
	fake_push((struct fake_answer){
		.status = 200, .content_type = OCI_TYPE_INDEX, .body = "<html>" });
	CHECK_ERR(referrers(g, &out, &e), -EIO);
	fake_push((struct fake_answer){
		.status = 200, .content_type = "application/json", .body = "{}" });
	reply(200, MANIFEST);
	CHECK_ERR(referrers(g, &out, &e), -EIO);
	CHECK(strstr(e.msg, "not an index"));
	buf_done(&out);
	(void)rg_close(g);
}

#define UNKNOWN(what) "{\"errors\":[{\"code\":\"" what "_UNKNOWN\"}]}"

/* The tag has been asked after the API, n requests in all. */
static void check_tag_asked(size_t n)
{
	CHECK_EQ_INT(fake_n_requests(), n);
	CHECK_EQ_STR(fake_request(n - 2)->path, "referrers/sha256:" ZEROS);
	CHECK_EQ_STR(fake_request(n - 1)->path, "manifests/sha256-" ZEROS);
}

TEST(referrers_any_404_of_the_api_makes_us_ask_the_tag)
{
	static const struct fake_answer pages[] = {
		{ .status = 404, .content_type = "text/html", .body = "<html>" },
		{ .status = 404, .content_type = "text/html", .body = "not here" },
		{ .status = 404, .body = "no such route" },
		{ .status = 404, .body = "" },
		{ .status = 404, .body = UNKNOWN("NAME") },
		{ .status = 404, .body = UNKNOWN("MANIFEST") },
	};
	struct rg_registry *g = open_source("fake.example");
	struct buf out = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		fake_push(pages[i]);
		reply(200, INDEX(CHILD(ONES)));
		CHECK_OK(referrers(g, &out, NULL));
		CHECK_EQ_STR(buf_str(&out), INDEX(CHILD(ONES)));
		check_tag_asked(2 * i + 2); /* nothing is kept: it may have been a proxy */
	}
	reply(404, UNKNOWN("METHOD")); /* go-containerregistry's words for "no API" */
	reply(404, UNKNOWN("MANIFEST"));
	CHECK_OK(referrers(g, &out, NULL));
	check_tag_asked(2 * ARRAY_SIZE(pages) + 2);
	reply(200, INDEX(CHILD(ONES)));
	CHECK_OK(referrers(g, &out, NULL));
	CHECK_EQ_INT(fake_n_requests(), 2 * ARRAY_SIZE(pages) + 3);
	buf_done(&out);
	(void)rg_close(g);
}

TEST(referrers_behind_a_proxy_without_backend_are_an_error)
{
	static const struct fake_answer page = { .status = 404, .content_type = "text/html",
						 .body = "<html>" };
	struct rg_registry *g = open_source("fake.example");
	struct buf out = { 0 };

	fake_push(page);
	fake_push(page);
	CHECK_ERR(referrers(g, &out, NULL), -EIO);
	check_tag_asked(2);
	buf_done(&out);
	(void)rg_close(g);
}

TEST(referrers_other_web_pages_say_nothing_about_the_api)
{
	static const struct fake_answer pages[] = {
		{ .status = 200, .content_type = "text/html", .body = "<html>" },
		{ .status = 200, .body = "\n<!doctype html>" },
		{ .status = 400, .body = "<html>" },
		{ .status = 405, .content_type = "text/html", .body = "<html>" },
		{ .status = 501, .body = "<html>" },
		{ .status = 502, .body = "<html>" },
	};
	struct rg_registry *g = open_source("fake.example");
	struct buf out = { 0 };
	struct err e = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		fake_push(pages[i]);
		CHECK_ERR(referrers(g, &out, &e), -EIO);
		CHECK_EQ_STR(fake_request(i)->path, "referrers/sha256:" ZEROS);
	}
	CHECK_EQ_INT(fake_n_requests(), ARRAY_SIZE(pages));
	buf_done(&out);
	(void)rg_close(g);
}

TEST(referrers_api_is_not_given_up_before_the_tag_has_been_answered)
{
	struct rg_registry *g = open_source("fake.example");
	struct buf out = { 0 };

	reply(404, "404 page not found\n"); /* Traefik, while the backend restarts */
	reply(404, "404 page not found\n");
	CHECK_ERR(referrers(g, &out, NULL), -EIO);
	fake_push((struct fake_answer){
		.status = 200, .content_type = OCI_TYPE_INDEX, .body = INDEX(CHILD(ONES)) });
	CHECK_OK(referrers(g, &out, NULL));
	CHECK_EQ_STR(fake_request(2)->path, "referrers/sha256:" ZEROS);
	buf_done(&out);
	(void)rg_close(g);
}
