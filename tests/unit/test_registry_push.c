/*
 * test_registry_push.c - writing: what is asked of a registry and in which order, and what others find
 * in a layout afterwards
 */
#include "tests/unit/apiunit.h"

#include <pthread.h>

#include "registry/oci_write.h"
#include "registry/push.h"
#include "tests/unit/layoutmake.h"

#define SESSION "https://fake.example/v2/app/blobs/uploads/1"
#define UNKNOWN "{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\"}]}"
#define ONES "1111111111111111111111111111111111111111111111111111111111111111"
#define SUBJECT "sha256:" ONES
#define ARTIFACT                                                                                    \
	"{\"schemaVersion\":2,\"mediaType\":\"" OCI_TYPE_MANIFEST                                   \
	"\",\"config\":{\"mediaType\":\"a/b\",\"digest\":\"sha256:" ZEROS                           \
	"\",\"size\":2},\"layers\":[],\"subject\":{\"mediaType\":\"" OCI_TYPE_MANIFEST              \
	"\",\"digest\":\"" SUBJECT "\",\"size\":7},\"annotations\":{\"k\":\"v\"}}"
#define IMAGE "{\"schemaVersion\":2,\"mediaType\":\"" OCI_TYPE_MANIFEST "\",\"layers\":[]}"

static const char *digest_of_text(const char *s, char out[static DIGEST_TEXT_MAX])
{
	struct digest d;

	digest_of(DIGEST_SHA256, s, strlen(s), &d);
	digest_text(&d, out);
	return out;
}

static errint_t push(struct rg_registry *g, const char *text, const char *from, struct err *e)
{
	struct rg_body b = rg_body_of(text, strlen(text));

	return rg_put_blob(g, "app", &b, from, NULL, e);
}

static void session(const char *location)
{
	fake_push((struct fake_answer){ .status = 202, .location = location });
}

/* ---- blobs ---- */

TEST(a_blob_that_is_there_costs_one_request)
{
	struct rg_registry *g = open_source("fake.example");
	char d[DIGEST_TEXT_MAX], path[256];

	reply(200, "");
	CHECK_OK(push(g, "hello", NULL, NULL));
	CHECK_EQ_INT(fake_n_requests(), 1);
	(void)snprintf(path, sizeof(path), "blobs/%s", digest_of_text("hello", d));
	CHECK_EQ_STR(fake_request(0)->method, "HEAD");
	CHECK_EQ_STR(fake_request(0)->path, path);
	CHECK_EQ_STR(fake_request(0)->wanted, "repository:app:pull,push");
	CHECK(!fake_request(0)->mirrors);
	(void)rg_close(g);
}

TEST(a_small_blob_goes_in_one_request_until_the_registry_does_not_take_it)
{
	struct rg_registry *g = open_source("fake.example");
	char want[256], d[DIGEST_TEXT_MAX];

	reply(404, "");
	reply(201, "");
	CHECK_OK(push(g, "hello", NULL, NULL));
	CHECK_EQ_INT(fake_n_requests(), 2);
	CHECK_EQ_STR(fake_request(1)->method, "POST");
	CHECK_EQ_STR(fake_request(1)->sent, "hello");
	CHECK_EQ_STR(fake_request(1)->type, "application/octet-stream");
	(void)snprintf(want, sizeof(want), "digest=sha256%%3A%s", digest_of_text("hello", d) + 7);
	CHECK_EQ_STR(fake_request(1)->query, want);
	reply(404, "");
	session(SESSION "?_state=x");
	reply(201, "");
	CHECK_OK(push(g, "again", NULL, NULL));
	(void)snprintf(want, sizeof(want), SESSION "?_state=x&digest=sha256%%3A%s",
		       digest_of_text("again", d) + 7);
	CHECK_EQ_STR(fake_request(4)->method, "PUT");
	CHECK_EQ_STR(fake_request(4)->at, want);
	CHECK_EQ_STR(fake_request(4)->sent, "again");
	reply(404, "");
	session(SESSION);
	reply(204, "");
	CHECK_OK(push(g, "third", NULL, NULL));
	CHECK_EQ_INT(fake_request(6)->sent_len, 0);
	(void)snprintf(want, sizeof(want), SESSION "?digest=sha256%%3A%s", digest_of_text("third", d) + 7);
	CHECK_EQ_STR(fake_request(7)->at, want);
	(void)rg_close(g);
}

TEST(a_blob_of_another_repository_moves_no_byte)
{
	struct rg_registry *g = open_source("fake.example/org");
	char want[256], d[DIGEST_TEXT_MAX];

	reply(404, "");
	reply(201, "");
	CHECK_OK(push(g, "hello", "base", NULL));
	CHECK_EQ_INT(fake_n_requests(), 2);
	(void)snprintf(want, sizeof(want), "mount=sha256%%3A%s&from=org%%2Fbase",
		       digest_of_text("hello", d) + 7);
	CHECK_EQ_STR(fake_request(1)->query, want);
	CHECK_EQ_INT(fake_request(1)->sent_len, 0);
	CHECK_EQ_STR(fake_request(1)->wanted,
		     "repository:org/app:pull,push repository:org/base:pull");
	reply(404, "");
	reply(400, "{\"errors\":[{\"code\":\"UNSUPPORTED\"}]}"); /* Quay */
	session(SESSION);
	reply(201, "");
	CHECK_OK(push(g, "other", "base", NULL));
	CHECK_EQ_STR(fake_request(4)->query, "");
	CHECK_EQ_STR(fake_request(5)->sent, "other");
	(void)rg_close(g);
}

static errint_t zeros(void *ctx, uint64_t off, void *dst, size_t len, struct err *e)
{
	(void)ctx;
	(void)off;
	(void)e;
	memset(dst, 0, len);
	return 0;
}

TEST(a_body_that_is_too_large_for_a_proxy_goes_in_chunks)
{
	struct rg_registry *g = open_source("fake.example");
	struct rg_body b = { .digest = { .alg = DIGEST_SHA256, .len = 32 }, .size = 20 << 20,
			     .read = zeros };

	reply(404, "");
	session(SESSION "a");
	reply(413, "<html>");
	fake_push((struct fake_answer){ .status = 202, .location = SESSION "b", .chunk_min = 9 << 20 });
	fake_push((struct fake_answer){ .status = 202, .location = SESSION "c",
					.upload_range = "0-9437183" });
	/* keeps half of the second */
	fake_push((struct fake_answer){ .status = 202, .location = SESSION "d",
					.upload_range = "0-15728639" });
	fake_push((struct fake_answer){ .status = 201, .upload_range = "0-20971519" });
	reply(201, "");
	CHECK_OK(rg_put_blob(g, "app", &b, NULL, NULL, NULL));
	CHECK_EQ_INT(fake_n_requests(), 8);
	CHECK_EQ_STR(fake_request(4)->method, "PATCH");
	CHECK_EQ_STR(fake_request(4)->content_range, "0-9437183");
	CHECK_EQ_STR(fake_request(5)->at, SESSION "c");
	CHECK_EQ_STR(fake_request(5)->content_range, "9437184-18874367");
	CHECK_EQ_STR(fake_request(6)->at, SESSION "d");
	CHECK_EQ_STR(fake_request(6)->content_range, "15728640-20971519");
	CHECK_EQ_INT(fake_request(7)->sent_len, 0);
	(void)rg_close(g);
}

TEST(chunks_that_do_not_arrive_are_an_error)
{
	struct rg_registry *g = open_source("fake.example");
	struct rg_body b = { .digest = { .alg = DIGEST_SHA256, .len = 32 }, .size = 20 << 20,
			     .read = zeros };
	struct err e = { 0 };

	reply(404, "");
	session(SESSION);
	reply(405, "");
	session(SESSION);
	for (int i = 0; i < 10; i++)
		fake_push((struct fake_answer){ .status = 202, .upload_range = "0-0" });
	CHECK_ERR(rg_put_blob(g, "app", &b, NULL, NULL, &e), -EIO);
	CHECK(strstr(e.msg, "keeps nothing"));
	(void)rg_close(g);
}

TEST(a_broken_upload_begins_again_and_a_lost_answer_is_looked_up)
{
	struct rg_registry *g = open_source("fake.example");
	struct fake_answer broken = { .fail = -EIO, .fail_cls = ERR_NET };

	reply(404, "");
	fake_push(broken);
	reply(404, "");
	session(SESSION);
	fake_push(broken);
	reply(200, "");
	CHECK_OK(push(g, "hello", NULL, NULL));
	CHECK_EQ_INT(fake_n_requests(), 6);
	CHECK_EQ_STR(fake_request(5)->method, "HEAD");
	(void)rg_close(g);
}

TEST(a_session_that_was_forgotten_is_begun_again)
{
	struct rg_registry *g = open_source("fake.example");

	reply(404, "");
	session(SESSION "1");
	reply(404, "{\"errors\":[{\"code\":\"BLOB_UPLOAD_UNKNOWN\"}]}");
	reply(404, "");
	session(SESSION "2");
	reply(201, "");
	CHECK_OK(push(g, "hello", NULL, NULL));
	CHECK_EQ_INT(fake_n_requests(), 6);
	CHECK(strncmp(fake_request(5)->at, SESSION "2", strlen(SESSION) + 1) == 0);
	(void)rg_close(g);
}

TEST(refusals_are_final)
{
	struct rg_registry *g = open_source("fake.example");
	struct err e = { 0 };

	reply(404, "");
	reply(403, "{\"errors\":[{\"code\":\"DENIED\"}]}");
	CHECK_ERR(push(g, "hello", NULL, &e), -EACCES);
	CHECK_EQ_INT(fake_n_requests(), 2);
	reply(401, "");
	CHECK_ERR(push(g, "hello", NULL, &e), -EACCES);
	reply(404, "");
	fake_push((struct fake_answer){ .status = 201, .digest = "sha256:" ZEROS });
	CHECK_ERR(push(g, "hello", NULL, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	reply(404, "");
	reply(202, "");
	CHECK_ERR(push(g, "hello", NULL, &e), -EIO);
	CHECK(strstr(e.msg, "names no place"));
	(void)rg_close(g);
}

static errint_t no_bytes(void *ctx, uint64_t off, void *dst, size_t len, struct err *e)
{
	(void)ctx;
	(void)off;
	memset(dst, 0, len);
	return err_set(e, EBADMSG, ERR_LOCAL, "no bytes");
}

TEST(has_blob)
{
	struct rg_registry *g = open_source("fake.example");
	struct rg_body b = rg_body_of("x", 1);
	bool there = true;

	b.read = no_bytes;
	reply(404, "");
	CHECK_OK(rg_has_blob(g, "app", &b.digest, &there, NULL, NULL));
	CHECK(!there);
	reply(200, "");
	CHECK_OK(rg_has_blob(g, "app", &b.digest, &there, NULL, NULL));
	CHECK(there);
	reply(503, "");
	CHECK_ERR(rg_has_blob(g, "app", &b.digest, &there, NULL, NULL), -EIO);
	(void)rg_close(g);
}

/* ---- manifests ---- */

static errint_t put_manifest(struct rg_registry *g, const char *text, const char *tag, struct err *e)
{
	struct rg_put p = { .reference = tag, .bytes = text, .len = strlen(text),
			    .media_type = OCI_TYPE_MANIFEST };
	struct digest d;
	errint_t r = rg_put_manifest(g, "app", &p, &d, NULL, e);
	char a[DIGEST_TEXT_MAX], b[DIGEST_TEXT_MAX];

	if (r == 0)
		CHECK_EQ_STR(digest_text(&d, a), digest_of_text(text, b));
	return r;
}

TEST(manifests_by_tag_and_by_digest)
{
	struct rg_registry *g = open_source("fake.example");
	char d[DIGEST_TEXT_MAX], path[256];
	struct err e = { 0 };

	fake_push((struct fake_answer){ .status = 201, .digest = digest_of_text(IMAGE, d) });
	CHECK_OK(put_manifest(g, IMAGE, "1.0", NULL));
	CHECK_EQ_STR(fake_request(0)->method, "PUT");
	CHECK_EQ_STR(fake_request(0)->path, "manifests/1.0");
	CHECK_EQ_STR(fake_request(0)->type, OCI_TYPE_MANIFEST);
	CHECK_EQ_STR(fake_request(0)->sent, IMAGE);
	reply(201, "");
	CHECK_OK(put_manifest(g, IMAGE, NULL, NULL));
	(void)snprintf(path, sizeof(path), "manifests/%s", d);
	CHECK_EQ_STR(fake_request(1)->path, path);
	fake_push((struct fake_answer){ .status = 201, .digest = "sha256:" ZEROS });
	CHECK_ERR(put_manifest(g, IMAGE, "1.0", &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	CHECK_ERR(put_manifest(g, IMAGE, "no:tag", &e), -EINVAL);
	CHECK_ERR(put_manifest(g, "{", "1.0", &e), -EINVAL);
	CHECK_EQ_INT(fake_n_requests(), 3);
	(void)rg_close(g);
}

TEST(a_referrer_that_the_registry_lists_is_one_request)
{
	struct rg_registry *g = open_source("fake.example");

	fake_push((struct fake_answer){ .status = 201, .subject = SUBJECT });
	CHECK_OK(put_manifest(g, ARTIFACT, NULL, NULL));
	CHECK_EQ_INT(fake_n_requests(), 1);
	(void)rg_close(g);
}

#define CHILD "{\"mediaType\":\"x/y\",\"digest\":\"blake3:00\",\"size\":1,\"unknown\":[1,\"]\"]}"

TEST(without_the_api_the_index_under_the_tag_is_kept_with_what_others_wrote)
{
	struct rg_registry *g = open_source("fake.example");
	char d[DIGEST_TEXT_MAX], want[1024], listed[1024];

	digest_of_text(ARTIFACT, d);
	(void)snprintf(want, sizeof(want),
		       "{ \"top\":{\"manifests\":[]},\"schemaVersion\":2,\"manifests\" : [" CHILD
		       ",{\"mediaType\":\"" OCI_TYPE_MANIFEST
		       "\",\"digest\":\"%s\",\"size\":%zu,\"artifactType\":\"a/b\",\"annotations\":{\"k\":\"v\"}}]}",
		       d, strlen(ARTIFACT));
	reply(201, "");
	fake_push((struct fake_answer){ .status = 200, .content_type = OCI_TYPE_INDEX,
		.body = "{ \"top\":{\"manifests\":[]},\"schemaVersion\":2,\"manifests\" : [ " CHILD " ]}" });
	reply(201, "");
	for (int i = 0; i < 2; i++)
		fake_push((struct fake_answer){
			.status = 200, .content_type = OCI_TYPE_INDEX, .body = want });
	CHECK_OK(put_manifest(g, ARTIFACT, NULL, NULL));
	CHECK_EQ_INT(fake_n_requests(), 5);
	CHECK_EQ_STR(fake_request(1)->path, "manifests/sha256-" ONES);
	CHECK(!fake_request(1)->mirrors);	/* whose list may be an old one */
	CHECK_EQ_STR(fake_request(2)->path, "manifests/sha256-" ONES);
	CHECK_EQ_STR(fake_request(2)->type, OCI_TYPE_INDEX);
	CHECK_EQ_STR(fake_request(2)->sent, want);
	/* listed already: nothing is written */
	reply(201, "");
	(void)snprintf(listed, sizeof(listed), "%s", want);
	fake_push((struct fake_answer){ .status = 200, .content_type = OCI_TYPE_INDEX, .body = listed });
	CHECK_OK(put_manifest(g, ARTIFACT, NULL, NULL));
	CHECK_EQ_INT(fake_n_requests(), 7);
	(void)rg_close(g);
}

TEST(a_lost_update_of_the_index_is_made_again)
{
	struct rg_registry *g = open_source("fake.example");
	struct err e = { 0 };

	reply(201, "");
	reply(404, UNKNOWN);
	reply(201, "");
	/* somebody else's index has replaced ours */
	fake_push((struct fake_answer){ .status = 200, .content_type = OCI_TYPE_INDEX,
		.body = "{\"schemaVersion\":2,\"manifests\":[" CHILD "]}" });
	reply(201, "");
	reply(404, "<html>");
	CHECK_ERR(put_manifest(g, ARTIFACT, NULL, &e), -EIO);
	CHECK_EQ_STR(fake_request(4)->method, "PUT");
	CHECK(strstr(fake_request(4)->sent, "blake3"));
	CHECK(strstr(fake_request(4)->sent, "a/b"));
	/* what is under the tag is no index: nobody's image is overwritten */
	reply(201, "");
	fake_push((struct fake_answer){ .status = 200, .content_type = OCI_TYPE_MANIFEST, .body = IMAGE });
	CHECK_ERR(put_manifest(g, ARTIFACT, NULL, &e), -EIO);
	CHECK(strstr(e.msg, "not an index"));
	(void)rg_close(g);
}

/* ---- editing indexes ---- */

static bool drop_second(void *ctx, size_t i)
{
	(void)ctx;
	return i != 1;
}

static void check_edit(const char *in, index_keep_fn keep, const char *add, const char *want)
{
	_cleanup_buf_ struct buf b = BUF_INIT(4096);
	errint_t r = index_edit(in, strlen(in), keep, NULL, add, &b);

	CHECK_EQ_INT(r, want ? 0 : -EINVAL);
	if (want)
		CHECK_EQ_STR(buf_str(&b), want);
}

TEST(index_edit_leaves_the_rest_as_it_is)
{
	check_edit("{\"manifests\":[]}", NULL, "1", "{\"manifests\":[1]}");
	check_edit("{\"manifests\":[ ]}", NULL, "", "{\"manifests\":[]}");
	check_edit(" { \"a\" : [1, {\"manifests\":[]}], \"manifests\" :\n[ 1 , [2,\"]\"] ,{\"x\":\"\\\"}\"} ], \"z\":0 }\n",
		   drop_second, "9",
		   " { \"a\" : [1, {\"manifests\":[]}], \"manifests\" :\n[1,{\"x\":\"\\\"}\"},9], \"z\":0 }\n");
	check_edit("{\"manifests\":[1,2]}", drop_second, "", "{\"manifests\":[1]}");
	check_edit("{\"manifests\":null}", NULL, "1", NULL);
	check_edit("{\"a\":\"manifests\"}", NULL, "1", NULL);
	check_edit("{}", NULL, "1", NULL);
	check_edit("[\"manifests\",[]]", NULL, "1", NULL);
}

static void check_set(const char *in, const char *a, const char *b, const char *want)
{
	const char *path[] = { a, b, NULL };
	_cleanup_buf_ struct buf out = BUF_INIT(4096);

	CHECK_EQ_INT(oci_set(in, strlen(in), path, "new", &out), want ? 0 : -EINVAL);
	if (want)
		CHECK_EQ_STR(buf_str(&out), want);
}

TEST(oci_set_leaves_the_rest_as_it_is)
{
	check_set("{}", "a", NULL, "{\"a\":\"new\"}");
	check_set(" { } ", "a", "b", " {\"a\":{\"b\":\"new\"} } ");
	check_set("{\"x\":[1,{\"a\":2}], \"a\" : 1 ,\"z\":0}", "a", NULL,
		  "{\"x\":[1,{\"a\":2}], \"a\" : \"new\" ,\"z\":0}");
	check_set("{\"a\":{\"c\":\"}\",\"b\":\"old\"}}", "a", "b", "{\"a\":{\"c\":\"}\",\"b\":\"new\"}}");
	check_set("{\"x\":1}", "a", "b", "{\"a\":{\"b\":\"new\"},\"x\":1}");
	check_set("{\"a\":{}}", "a", "b", "{\"a\":{\"b\":\"new\"}}");
	check_set("{\"a\":null}", "a", "b", NULL);
	check_set("[]", "a", NULL, NULL);
}

/* ---- layouts ---- */

static struct rg_registry *open_layouts(void)
{
	char source[128];

	layout_top();
	(void)snprintf(source, sizeof(source), "dir:%s", top);
	return open_source(source);
}

static void read_index(const char *repo, struct buf *out)
{
	char path[256];
	FILE *f;
	int c;

	(void)snprintf(path, sizeof(path), "%s/%s/index.json", top, repo);
	f = fopen(path, "r");
	buf_clear(out);
	while (f && (c = fgetc(f)) != EOF)
		(void)buf_addc(out, (char)c);
	if (f)
		(void)fclose(f);
}

static size_t found;

static int count_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
	(void)st;
	(void)f;
	found += type == FTW_F && strstr(path, ".registryfs-") != NULL;
	return 0;
}

/* What was written aside and left there. */
static size_t count_files(void)
{
	found = 0;
	(void)nftw(top, count_one, 16, FTW_PHYS);
	return found;
}

TEST(layout_blobs_and_tags)
{
	struct rg_registry *g = open_layouts();
	_cleanup_buf_ struct buf b = BUF_INIT(65536);
	struct rg_manifest m = { 0 };
	struct digest d, want;
	struct err e = { 0 };
	bool there = false;

	CHECK_ERR(push(g, "hello", NULL, &e), -ENOENT);
	put_layout("app", entry(put_blob("app", "{}"), 2, "0.9"));
	CHECK_OK(push(g, "hello", NULL, &e));
	digest_of(DIGEST_SHA256, "hello", 5, &d);
	CHECK_OK(rg_has_blob(g, "app", &d, &there, NULL, &e));
	CHECK(there);
	CHECK_OK(push(g, "hello", NULL, &e));
	CHECK_OK(put_manifest(g, IMAGE, "1.0", &e));
	CHECK_OK(put_manifest(g, IMAGE, "2.0", &e));
	CHECK_OK(put_manifest(g, IMAGE " ", "1.0", &e));
	CHECK_OK(rg_get_manifest(g, "app", "1.0", &m, NULL, &e));
	CHECK_EQ_STR(buf_str(&m.bytes), IMAGE " ");
	CHECK_EQ_STR(m.media_type, OCI_TYPE_MANIFEST);
	rg_manifest_done(&m);
	CHECK_OK(rg_resolve(g, "app", "2.0", &d, NULL, &e));
	digest_of(DIGEST_SHA256, IMAGE, strlen(IMAGE), &want);
	CHECK(digest_eq(&d, &want));
	read_index("app", &b);
	CHECK(strstr(buf_str(&b), "\"0.9\""));
	CHECK_EQ_INT(count_files(), 0);
	(void)rg_close(g);
	layout_remove();
}

TEST(layout_refuses_wrong_bytes_and_leaves_nothing)
{
	struct rg_registry *g = open_layouts();
	struct rg_body b = rg_body_of("hello", 5);
	struct err e = { 0 };
	bool there = true;

	put_layout("app", "");
	b.digest.raw[0] ^= 1;
	CHECK_ERR(rg_put_blob(g, "app", &b, NULL, NULL, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	CHECK_OK(rg_has_blob(g, "app", &b.digest, &there, NULL, &e));
	CHECK(!there);
	b.read = no_bytes;
	CHECK_ERR(rg_put_blob(g, "app", &b, NULL, NULL, &e), -EBADMSG);
	CHECK_EQ_INT(count_files(), 0);
	(void)rg_close(g);
	layout_remove();
}

TEST(layout_takes_a_blob_from_another_repository)
{
	struct rg_registry *g = open_layouts();
	struct rg_body b = rg_body_of("hello", 5);

	put_layout("app", "");
	put_layout("base", "");
	(void)put_blob("base", "hello");
	b.read = no_bytes;
	CHECK_OK(rg_put_blob(g, "app", &b, "base", NULL, NULL));
	b = rg_body_of("other", 5);
	CHECK_OK(rg_put_blob(g, "app", &b, "base", NULL, NULL));
	CHECK_EQ_INT(count_files(), 0);
	(void)rg_close(g);
	layout_remove();
}

TEST(layout_referrers_and_children)
{
	struct rg_registry *g = open_layouts();
	_cleanup_buf_ struct buf b = BUF_INIT(65536);
	struct rg_put child = { .bytes = IMAGE, .len = strlen(IMAGE), .media_type = OCI_TYPE_MANIFEST,
				.child = true };
	struct buf list = { 0 };
	struct digest d;
	struct err e = { 0 };

	put_layout("app", "");
	CHECK_OK(put_manifest(g, ARTIFACT, NULL, &e));
	CHECK_OK(put_manifest(g, ARTIFACT, NULL, &e));
	REQUIRE(digest_parse(SUBJECT, strlen(SUBJECT), &d) == 0);
	CHECK_OK(rg_list_referrers(g, "app", &d, &list, NULL, &e));
	CHECK(strstr(buf_str(&list), "\"artifactType\":\"a/b\""));
	buf_done(&list);
	read_index("app", &b);
	CHECK_OK(rg_put_manifest(g, "app", &child, &d, NULL, &e));
	{
		_cleanup_buf_ struct buf after = BUF_INIT(65536);

		read_index("app", &after);
		CHECK_EQ_STR(buf_str(&after), buf_str(&b));
	}
	(void)rg_close(g);
	layout_remove();
}

static void *write_many(void *arg)
{
	struct rg_registry *g = NULL;
	const int *n = arg;
	char source[128], tag[32];

	(void)snprintf(source, sizeof(source), "dir:%s", top);
	CHECK_OK(rg_open(NULL, source, &g, NULL));
	for (int i = 0; g && i < 20; i++) {
		(void)snprintf(tag, sizeof(tag), "t%d-%d", *n, i);
		CHECK_OK(put_manifest(g, IMAGE, tag, NULL));
	}
	(void)rg_close(g);
	return NULL;
}

TEST(layout_writers_do_not_lose_each_others_tags)
{
	struct rg_registry *g = open_layouts();
	struct rg_names names = { 0 };
	int v[4] = { 0, 1, 2, 3 };
	pthread_t t[4];

	put_layout("app", "");
	for (int i = 0; i < 4; i++)
		CHECK_OK(pthread_create(&t[i], NULL, write_many, &v[i]));
	for (int i = 0; i < 4; i++)
		CHECK_OK(pthread_join(t[i], NULL));
	CHECK_OK(rg_list_tags(g, "app", &names, NULL, NULL));
	CHECK_EQ_INT(names.n, 80);
	rg_names_done(&names);
	CHECK_EQ_INT(count_files(), 0);
	(void)rg_close(g);
	layout_remove();
}
