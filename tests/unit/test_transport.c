/*
 * test_transport.c - the parts of the transport that can be tested without a registry: readers of
 * headers, URLs and TOML, guards, the words of errors, and the network engine's ends
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "registry/challenge.h"
#include "registry/reply.h"
#include "registry/toml.h"
#include "registry/url.h"
#include "tests/unit/unit.h"
#include "util/clock.h"

/* ---- challenges ---- */

TEST(challenge_reads_quotes_commas_and_escapes)
{
	struct challenges cs = { .n = 0 };
	const struct challenge *c;

	CHECK_EQ_INT(challenges_parse(&cs, "Bearer realm=\"https://a.example/t?x=1,2\",service=\"s "
					   "\\\"q\\\"\", scope=\"repository:a/b:pull,push\""), 0);
	REQUIRE(cs.n == 1);
	c = challenges_find(&cs, "bearer");
	REQUIRE(c != NULL);
	CHECK_EQ_STR(challenge_get(c, "realm"), "https://a.example/t?x=1,2");
	CHECK_EQ_STR(challenge_get(c, "service"), "s \"q\"");
	CHECK_EQ_STR(challenge_get(c, "scope"), "repository:a/b:pull,push");
	CHECK(challenge_get(c, "error") == NULL);
	challenges_free(&cs);
}

TEST(challenge_several_in_one_header_and_in_two)
{
	struct challenges cs = { .n = 0 };

	CHECK_EQ_INT(challenges_parse(&cs, "Negotiate, NTLM TlRMTVNTUAAB==, Basic realm = \"x\" , "
					   "charset=UTF-8"), 0);
	CHECK_EQ_INT(challenges_parse(&cs, "BEARER realm=https://t.example/token"), 0);
	REQUIRE(cs.n == 4);
	CHECK_EQ_STR(cs.v[0].scheme, "negotiate");
	CHECK_EQ_INT(cs.v[0].n_params, 0);
	CHECK_EQ_STR(cs.v[1].token68, "TlRMTVNTUAAB==");
	CHECK_EQ_STR(challenge_get(&cs.v[2], "realm"), "x");
	CHECK_EQ_STR(challenge_get(&cs.v[2], "charset"), "UTF-8");
	CHECK_EQ_STR(challenge_get(challenges_find(&cs, "bearer"), "realm"),
		     "https://t.example/token");
	challenges_free(&cs);
}

TEST(challenge_malformed_tail_keeps_what_was_before)
{
	struct challenges cs = { .n = 0 };

	CHECK_EQ_INT(challenges_parse(&cs, "Basic realm=\"x\", Bearer realm=\"never ends"),
		     -EINVAL);
	CHECK(challenges_find(&cs, "basic") != NULL);
	challenges_free(&cs);
	CHECK_EQ_INT(challenges_parse(&cs, "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q"), -EFBIG);
	CHECK_EQ_INT(cs.n, CHALLENGES_MAX);
	challenges_free(&cs);
}

/* ---- links and URLs ---- */

static void check_link(const char *header, const char *want)
{
	char *got = link_next(header);

	if (want)
		CHECK_EQ_STR(got ? got : "(none)", want);
	else
		CHECK(got == NULL);
	free(got);
}

TEST(link_next_is_found_among_others)
{
	check_link("</v2/a/tags/list?last=x&n=2>; rel=\"next\"", "/v2/a/tags/list?last=x&n=2");
	check_link("<a>; rel=prev, <b>; title=\"x, y; rel=next\"; REL=\"first Next\"", "b");
	check_link("<b>;rel=next", "b");
	check_link("<b>; rel=\"nextish\"", NULL);
	check_link("<b>; rel=prev; rel=next", NULL);
	check_link("<b", NULL);
	check_link("b; rel=next", NULL);
	check_link("", NULL);
}

static void check_resolve(const char *base, const char *ref, const char *want)
{
	struct url b = { 0 }, u = { 0 };
	struct buf out = BUF_INIT(URL_MAX);

	CHECK_EQ_INT(url_parse(base, &b, NULL), 0);
	if (!want) {
		CHECK(url_resolve(&b, ref, &u, NULL) < 0);
	} else if (CHECK_EQ_INT(url_resolve(&b, ref, &u, NULL), 0)) {
		(void)url_add(&out, &u);
		CHECK_EQ_STR(buf_str(&out), want);
	}
	buf_done(&out);
	url_done(&b);
	url_done(&u);
}

TEST(url_resolves_relative_references)
{
	const char *base = "https://R.example:443/v2/a/list?n=1";

	check_resolve(base, "https://x.example/y#frag", "https://x.example/y");
	check_resolve(base, "//x.example:8443/y", "https://x.example:8443/y");
	check_resolve(base, "/token?a=b", "https://r.example/token?a=b");
	check_resolve(base, "other", "https://r.example/v2/a/other");
	check_resolve(base, "?last=z", "https://r.example/v2/a/list?last=z");
	check_resolve("http://[::1]:5000", "x", "http://[::1]:5000/x");
}

TEST(url_refuses_what_it_does_not_understand)
{
	static const char *const bad[] = {"ftp://a/b",	    "file:///etc/passwd",
					  "https://u:p@a/", "https://",
					  "https://a:0/",   "https://a:65536/",
					  "https://a:/",    "https://a b/",
					  "https://a/x y",  "https://a/\r\nX: y",
					  "https://[::1",   "https://a%00b/",
					  "javascript:x",   "//",
					  "https://-a/"};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		check_resolve("https://r.example/", bad[i], NULL);
}

static int guard(const char *from, bool loopback, const char *to)
{
	struct url f = { 0 }, t = { 0 };
	int r;

	if (url_parse(from, &f, NULL) < 0 || url_parse(to, &t, NULL) < 0)
		return 1;
	r = url_guard(&f, loopback, &t, "redirect", NULL);
	url_done(&f);
	url_done(&t);
	return r;
}

TEST(guard_no_downgrade_no_local_addresses)
{
	static const char *const loop[] = {
		"https://127.0.0.1/",	       "https://localhost/",   "https://127.1/",
		"https://0x7f000001/",	       "https://2130706433/",  "https://[::1]/",
		"https://[::ffff:127.0.0.1]/", "https://x.localhost/", "https://localhost./"};
	static const char *const link[] = { "https://169.254.169.254/", "https://0xa9fea9fe/",
		"https://[fe80::1]/", "https://[::ffff:169.254.169.254]/", "https://0.0.0.0/",
		"https://[::]/", "https://2852039166/" };

	CHECK_EQ_INT(guard("https://r.example/", false, "http://r.example/"), -EACCES);
	CHECK_EQ_INT(guard("https://r.example/", false, "https://cdn.example/"), 0);
	CHECK_EQ_INT(guard("http://r.example/", false, "https://cdn.example/"), 0);
	for (size_t i = 0; i < ARRAY_SIZE(loop); i++) {
		CHECK_EQ_INT(guard("https://r.example/", false, loop[i]), -EACCES);
		CHECK_EQ_INT(guard("https://127.0.0.1:5000/", true, loop[i]), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(link); i++)
		CHECK_EQ_INT(guard("https://127.0.0.1:5000/", true, link[i]), -EACCES);
}

/* ---- heads of answers ---- */

static struct http_res head(int status, const char *lines, size_t len)
{
	struct http_res res = { .status = status, .headers_len = len };

	res.headers = malloc(len);
	memcpy(res.headers, lines, len);
	return res;
}

#define HEAD(status, lines) head(status, lines, sizeof(lines))

TEST(reply_reads_type_digest_length_and_link)
{
	struct http_res res =
		HEAD(200, "Content-Type: Application/JSON; charset=utf-8\0content-length: 12\0"
			  "docker-content-digest: sha256:ab \0Link: <x>; rel=\"next\"");
	struct rg_call call = { .method = "GET" };
	struct rg_reply r = { 0 };

	reply_read_head(&res, &call, &r);
	CHECK_EQ_STR(r.content_type, "application/json");
	CHECK_EQ_INT(r.content_length, 12);
	CHECK_EQ_STR(r.digest, "sha256:ab");
	CHECK_EQ_STR(r.link_next, "x");
	CHECK(!r.has_range);
	rg_reply_done(&r);
	http_res_done(&res);
}

static bool range_fits(int status, const char *value, uint64_t off, uint64_t len)
{
	char line[128];
	int n = snprintf(line, sizeof(line), "Content-Range: %s", value);
	struct http_res res = head(status, line, (size_t)n + 1);
	struct rg_call call = { .method = "GET", .ranged = true, .off = off, .len = len };
	struct rg_reply r = { 0 };
	bool fits;

	reply_read_head(&res, &call, &r);
	fits = r.has_range;
	rg_reply_done(&r);
	http_res_done(&res);
	return fits;
}

TEST(reply_206_must_be_the_range_that_was_asked)
{
	CHECK(range_fits(206, "bytes 10-19/100", 10, 10));
	CHECK(range_fits(206, "bytes 10-99/100", 10, 0));
	CHECK(range_fits(206, "bytes 10-15/*", 10, 10));
	CHECK(!range_fits(206, "bytes 11-19/100", 10, 10));
	CHECK(!range_fits(206, "bytes 10-20/100", 10, 10));
	CHECK(!range_fits(206, "bytes 10-9/100", 10, 10));
	CHECK(!range_fits(206, "bytes 10-100/100", 10, 0));
	CHECK(!range_fits(206, "bytes 10-19/99999999999999999999999", 10, 10));
	CHECK(!range_fits(206, "bytes -1-19/100", 10, 10));
	CHECK(!range_fits(206, "10-19", 10, 10));
	CHECK(!range_fits(200, "bytes 10-19/100", 10, 10));
}

static int64_t retry_after(const char *value)
{
	char line[128];
	int n = snprintf(line, sizeof(line), "Retry-After: %s", value);
	struct http_res res = head(429, line, (size_t)n + 1);
	int64_t s = reply_retry_after(&res);

	http_res_done(&res);
	return s;
}

TEST(retry_after_seconds_dates_and_bounds)
{
	struct http_res none = { 0 };

	CHECK_EQ_INT(reply_retry_after(&none), -1);
	CHECK_EQ_INT(retry_after("7"), 7);
	CHECK_EQ_INT(retry_after("86400"), 86400);
	CHECK_EQ_INT(retry_after("99999999"), 7 * 86400);
	CHECK_EQ_INT(retry_after("soon"), -1);
	CHECK_EQ_INT(retry_after("-5"), -1);
	clock_set_fake(NSEC_PER_SEC, 784111767); /* Sun, 06 Nov 1994 08:49:27 GMT */
	CHECK_EQ_INT(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), 10);
	CHECK_EQ_INT(retry_after("Sun, 06 Nov 1994 08:49:17 GMT"), 0);
	CHECK_EQ_INT(retry_after("Sun, 06 Nov 1994 18:49:37 GMT"), 36010);
	clock_set_fake(0, 0);
}

/* ---- errors of registries ---- */

static struct err map(int status, const char *body)
{
	struct rg_reply r = { .status = status, .body = BUF_INIT(65536) };
	struct err e = { 0 };

	(void)buf_adds(&r.body, body);
	CHECK(rg_errmap(&r, "r.example", "tag x of app", &e) == -e.eno);
	CHECK_EQ_INT(e.http, status);
	rg_reply_done(&r);
	return e;
}

static void check_map(int status, const char *body, int eno, enum err_class cls)
{
	struct err e = map(status, body);

	CHECK_EQ_INT(e.eno, eno);
	CHECK_EQ_STR(err_class_name(e.cls), err_class_name(cls));
}

#define CODE(c) "{\"errors\":[{\"code\":\"" c "\",\"message\":\"m\"}]}"

TEST(errmap_only_the_registry_says_that_something_does_not_exist)
{
	check_map(404, CODE("MANIFEST_UNKNOWN"), ENOENT, ERR_NOTFOUND);
	check_map(404, CODE("NAME_UNKNOWN"), ENOENT, ERR_NOTFOUND);
	check_map(400, CODE("BLOB_UNKNOWN"), ENOENT, ERR_NOTFOUND);
	check_map(404, "<html>404</html>", EIO, ERR_INPUT);
	check_map(404, "", EIO, ERR_INPUT);
	check_map(404, "{\"message\":\"no route\"}", EIO, ERR_INPUT);
	check_map(404, "{\"errors\":[]}", EIO, ERR_INPUT);
	check_map(404, "{\"errors\":[{\"code\":17}]}", EIO, ERR_INPUT);
	check_map(404, "{\"errors\":\"MANIFEST_UNKNOWN\"}", EIO, ERR_INPUT);
	check_map(404, CODE("UNKNOWN"), EIO, ERR_INPUT);
	check_map(500, CODE("MANIFEST_UNKNOWN"), EIO, ERR_NET);
	check_map(401, CODE("NAME_UNKNOWN"), EACCES, ERR_AUTH);
	check_map(200, CODE("MANIFEST_UNKNOWN"), EIO, ERR_INPUT);
}

TEST(errmap_statuses_and_codes)
{
	check_map(401, CODE("UNAUTHORIZED"), EACCES, ERR_AUTH);
	check_map(403, "", EACCES, ERR_AUTH);
	check_map(400, CODE("DENIED"), EACCES, ERR_AUTH);
	check_map(405, "", EOPNOTSUPP, ERR_UNSUPPORTED);
	check_map(404, CODE("UNSUPPORTED"), EOPNOTSUPP, ERR_UNSUPPORTED);
	check_map(429, "<html>", EIO, ERR_RATE);
	check_map(503, CODE("UNAVAILABLE"), EIO, ERR_NET);
	check_map(504, CODE("TOOMANYREQUESTS"), EIO, ERR_NET);
	check_map(400, CODE("NAME_INVALID"), EINVAL, ERR_INPUT);
	check_map(413, "", EFBIG, ERR_LIMIT);
	check_map(416, "", EIO, ERR_INTEGRITY);
	check_map(302, "", EIO, ERR_INPUT);
}

static void check_hint(enum rg_speaker speaker, bool named, const char *hint)
{
	for (int status = 401; status <= 403; status += 2) {
		struct rg_reply r = { .status = status, .speaker = speaker, .named = named };
		struct err e = { 0 };

		CHECK_ERR(rg_errmap(&r, "r.example", "tag x of app", &e), -EACCES);
		CHECK(strstr(e.msg, hint) != NULL);
	}
}

TEST(errmap_says_what_to_do_about_a_refusal)
{
	check_hint(RG_REPOSITORY, false, "does not exist or is not public: check the name, or log in with");
	check_hint(RG_REPOSITORY, true, "your user may not read it: check the name, or log in as another");
	check_hint(RG_REGISTRY, false, "; log in with");
	check_hint(RG_REGISTRY, true, "; your user may not do that");
	check_hint(RG_ELSEWHERE, true, "; the server that it redirects to refuses");
}

TEST(errmap_quotes_the_registry_bounded_and_escaped)
{
	struct err e =
		map(404, "{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\",\"message\":\"a\\u001b[31m"
			 "\\nb\",\"detail\":{}}]}");

	CHECK_EQ_STR(e.code, "MANIFEST_UNKNOWN");
	CHECK_EQ_STR(e.msg,
		     "tag x of app: r.example says MANIFEST_UNKNOWN: a\\x1b[31m\\x0ab (HTTP 404)");
	e = map(404, "{\"errors\":[{\"code\":\"evil\\ncode\",\"message\":\"x\"}]}");
	CHECK_EQ_STR(e.code, "");
}

/* ---- TOML ---- */

static struct toml *toml(const char *text)
{
	struct toml *t = NULL;
	struct err e = { 0 };

	if (toml_parse(text, strlen(text), &t, &e) < 0)
		printf("# %s\n", e.msg);
	return t;
}

TEST(toml_tables_keys_and_values)
{
	struct toml *t =
		toml("a = 1 # c\nb.c.d = \"x\\t\\u00e9\"\n\"q k\" = 'C:\\raw'\nneg = -1_000\n"
		     "[s]\nt = true\nf = false\n[s.sub.'d.e']\nl = [1, 2,\n # c\n 3,]\n"
		     "[[arr]]\nn = 1\n[[arr.in]]\nx = 1\n[[arr]]\nn = 2\n"
		     "[i]\nin = { a = 'b', c.d = [ {} ] }\n"
		     "m = \"\"\"\nl1\nl2 \\\n   l3 \"\"q\"\"\"\nlit = '''\n'a'\\n'''\n");
	const struct toml *arr;

	REQUIRE(t != NULL);
	CHECK_EQ_INT(toml_int(t, "a", 0), 1);
	CHECK_EQ_STR(toml_str(toml_get(toml_get(t, "b"), "c"), "d"), "x\t\xc3\xa9");
	CHECK_EQ_STR(toml_str(t, "q k"), "C:\\raw");
	CHECK_EQ_INT(toml_int(t, "neg", 0), -1000);
	CHECK(toml_bool(toml_get(t, "s"), "t", false));
	CHECK_EQ_INT(toml_len(toml_get(toml_get(toml_get(toml_get(t, "s"), "sub"), "d.e"), "l")),
		     3);
	arr = toml_get(t, "arr");
	CHECK_EQ_INT(toml_len(arr), 2);
	CHECK_EQ_INT(toml_len(toml_get(toml_at(arr, 0), "in")), 1);
	CHECK_EQ_INT(toml_int(toml_at(arr, 1), "n", 0), 2);
	CHECK_EQ_STR(toml_str(toml_get(toml_get(t, "i"), "in"), "a"), "b");
	CHECK_EQ_STR(toml_str(toml_get(t, "i"), "m"), "l1\nl2 l3 \"\"q");
	CHECK_EQ_STR(toml_str(toml_get(t, "i"), "lit"), "'a'\\n");
	toml_free(t);
}

TEST(toml_is_strict_and_names_the_line)
{
	static const char *const bad[] = {"a = 1\na = 2",
					  "[t]\n[t]",
					  "a = 1\n[a]",
					  "a.b = 1\n[a]",
					  "a = [1",
					  "a = {b = 1,}",
					  "a = {\nb = 1}",
					  "a = \"x",
					  "a = 'x\n'",
					  "a = \"\\q\"",
					  "a = \"\\ud800\"",
					  "a = 1 b = 2",
					  "= 1",
					  "a",
					  "a = ",
					  "a = tru",
					  "a = 1.5",
					  "a = 2026-01-01",
					  "a = 007",
					  "[a",
					  "[[a]",
					  "a = [1]\n[[a]]",
					  "[a]\nb.c = 1\n[a.b]",
					  "x = {y = 1}\n[x.z]",
					  "a = \"\x01\"",
					  "a = 99999999999999999999"};
	struct err e = { 0 };
	struct toml *t = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (!CHECK_EQ_INT(toml_parse(bad[i], strlen(bad[i]), &t, &e), -EINVAL)) {
			printf("# accepted: %s\n", bad[i]);
			t = toml_free(t);
		}
	CHECK_EQ_INT(toml_parse("a = 1\n\n[b\n", 10, &t, &e), -EINVAL);
	CHECK(strstr(e.msg, "line 3") != NULL);
}

TEST(toml_is_bounded)
{
	struct buf b = BUF_INIT(1 << 20);
	struct toml *t = NULL;

	(void)buf_adds(&b, "a = ");
	for (int i = 0; i < 100000; i++)
		(void)buf_addc(&b, '[');
	CHECK_EQ_INT(toml_parse(buf_str(&b), b.len, &t, NULL), -EINVAL);
	buf_clear(&b);
	(void)buf_adds(&b, "a = [");
	for (int i = 0; i < 50000; i++)
		(void)buf_adds(&b, "1,");
	(void)buf_adds(&b, "]");
	CHECK_EQ_INT(toml_parse(buf_str(&b), b.len, &t, NULL), -EFBIG);
	buf_done(&b);
}

/* ---- the engine ---- */

/* Takes connections and never says anything. */
static int silent_server(char host[static 32])
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) < 0 || listen(fd, 8) < 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		abort();
	(void)snprintf(host, 32, "127.0.0.1:%u", ntohs(a.sin_port));
	return fd;
}

static struct http *open_http(void)
{
	struct rg_opts o = {.stall_timeout_ns = 2 * NSEC_PER_SEC,
			    .connect_timeout_ns = NSEC_PER_SEC};
	struct http *h = NULL;

	return http_new(&o, &h, NULL) < 0 ? NULL : h;
}

TEST(http_refuses_local_addresses_whatever_their_name)
{
	struct http *h = open_http();
	char host[32], url[64];
	int fd = silent_server(host);
	struct http_req req = { .method = "GET", .url = url, .host = host, .no_loopback = true };
	struct http_res res = { 0 };
	struct err e = { 0 };

	REQUIRE(h != NULL);
	(void)snprintf(url, sizeof(url), "http://localhost:%s/", strchr(host, ':') + 1);
	CHECK_EQ_INT(http_perform(h, &req, &res, NULL, &e), -EACCES);
	CHECK_EQ_INT(e.cls, ERR_AUTH);
	http_res_done(&res);
	http_stop(h);
	(void)close(fd);
}

TEST(http_a_server_that_never_answers_times_out)
{
	struct http *h = open_http();
	char host[32], url[64];
	int fd = silent_server(host);
	struct http_req req = { .method = "GET", .url = url, .host = host };
	struct http_res res = { 0 };
	struct err e = { 0 };

	REQUIRE(h != NULL);
	(void)snprintf(url, sizeof(url), "http://%s/", host);
	CHECK_EQ_INT(http_perform(h, &req, &res, NULL, &e), -ETIMEDOUT);
	CHECK_EQ_INT(e.cls, ERR_TIMEOUT);
	http_res_done(&res);
	http_stop(h);
	(void)close(fd);
}

struct waiter {
	struct http *h;
	const char *url, *host;
	int r;
};

static void *wait_for_answer(void *arg)
{
	struct waiter *w = arg;
	struct http_req req = { .method = "GET", .url = w->url, .host = w->host };
	struct http_res res = { 0 };

	w->r = http_perform(w->h, &req, &res, NULL, NULL);
	http_res_done(&res);
	return NULL;
}

TEST(http_stop_ends_transfers_that_run_and_that_wait)
{
	struct http *h = open_http();
	char host[32], url[64];
	int fd = silent_server(host);
	struct waiter w[HTTP_SMALL_PER_HOST + 8];
	pthread_t t[ARRAY_SIZE(w)];

	REQUIRE(h != NULL);
	(void)snprintf(url, sizeof(url), "http://%s/", host);
	for (size_t i = 0; i < ARRAY_SIZE(w); i++) {
		w[i] = (struct waiter){ .h = h, .url = url, .host = host };
		pthread_create(&t[i], NULL, wait_for_answer, &w[i]);
	}
	usleep(200000);
	http_stop(h);
	for (size_t i = 0; i < ARRAY_SIZE(w); i++) {
		pthread_join(t[i], NULL);
		CHECK_EQ_INT(w[i].r, -ECANCELED);
	}
	(void)close(fd);
}
