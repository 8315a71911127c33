/*
 * test_transport_net.c - the network engine and tokens against a scripted server on 127.0.0.1
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "registry/http_priv.h"
#include "registry/ref.h"
#include "registry/registry.h"
#include "tests/unit/unit.h"
#include "util/clock.h"

/* ---- libcurl with a fault ---- */

static atomic_int add_failures;

/* Takes the place of libcurl's. */
int curl_multi_add_handle(void *multi, void *easy);
int curl_multi_add_handle(void *multi, void *easy)
{
	static int (*real)(void *, void *);

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "curl_multi_add_handle");
	if (atomic_load(&add_failures) > 0) {
		atomic_fetch_sub(&add_failures, 1);
		return 3; /* CURLM_OUT_OF_MEMORY */
	}
	return real(multi, easy);
}

/* ---- the server ---- */

struct server {
	int fd;
	char host[32];
	void (*answer)(struct server *s, int fd, const char *head);
	pthread_t thread, conns[64];
	atomic_uint n_conns;
	int fds[64];
	atomic_int requests, hold, slow;
	pthread_mutex_t lock;
	char seen[64][160];	/* guarded by lock: request line and Authorization */
};

struct conn {
	struct server *s;
	int fd;
};

static void say(int fd, const char *text)
{
	size_t n = strlen(text);

	if (send(fd, text, n, MSG_NOSIGNAL) != (ssize_t)n)
		return;
}

static void answer(int fd, const char *status, const char *headers, const char *body)
{
	char text[4096];

	(void)snprintf(text, sizeof(text), "HTTP/1.1 %s\r\n%sContent-Length: %zu\r\n\r\n%s", status,
		       headers, strlen(body), body);
	say(fd, text);
}

static void note(struct server *s, const char *head)
{
	const char *auth = strstr(head, "Authorization: ");
	int line = (int)strcspn(head, "\r");
	LOCK_SCOPE(&s->lock);

	(void)snprintf(s->seen[s->requests % 64], sizeof(s->seen[0]), "%.*s|%.*s", line, head,
		       auth ? (int)strcspn(auth, "\r") : 0, auth ? auth : "");
	s->requests++;
}

static bool saw(struct server *s, int i, const char *text)
{
	LOCK_SCOPE(&s->lock);

	return strstr(s->seen[i % 64], text) != NULL;
}

static void *serve_conn(void *arg)
{
	struct conn c = *(struct conn *)arg;
	char head[8192] = "";
	size_t n = 0;

	free(arg);
	for (;;) {
		ssize_t got = recv(c.fd, head + n, sizeof(head) - 1 - n, 0);

		if (got <= 0)
			return NULL;
		n += (size_t)got;
		head[n] = '\0';
		if (!strstr(head, "\r\n\r\n"))
			continue;
		note(c.s, head);
		c.s->answer(c.s, c.fd, head);
		n = 0;
	}
}

static void *serve(void *arg)
{
	struct server *s = arg;
	int fd;

	while ((fd = accept(s->fd, NULL, NULL)) >= 0 && s->n_conns < ARRAY_SIZE(s->conns)) {
		struct conn *c = malloc(sizeof(*c));

		*c = (struct conn){ s, fd };
		s->fds[s->n_conns] = fd;
		pthread_create(&s->conns[s->n_conns], NULL, serve_conn, c);
		s->n_conns++;
	}
	return NULL;
}

static void server_start(struct server *s, void (*fn)(struct server *, int, const char *))
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);

	*s = (struct server){ .answer = fn, .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) };
	if (s->fd < 0 || bind(s->fd, (struct sockaddr *)&a, len) < 0 || listen(s->fd, 64) < 0 ||
	    getsockname(s->fd, (struct sockaddr *)&a, &len) < 0)
		abort();
	(void)snprintf(s->host, sizeof(s->host), "127.0.0.1:%u", ntohs(a.sin_port));
	pthread_mutex_init(&s->lock, NULL);
	pthread_create(&s->thread, NULL, serve, s);
}

static void server_stop(struct server *s)
{
	(void)shutdown(s->fd, SHUT_RDWR);
	pthread_join(s->thread, NULL);
	for (unsigned i = 0; i < s->n_conns; i++)
		(void)shutdown(s->fds[i], SHUT_RDWR);
	for (unsigned i = 0; i < s->n_conns; i++) {
		pthread_join(s->conns[i], NULL);
		(void)close(s->fds[i]);
	}
	(void)close(s->fd);
}

static void no_proxies(void)
{
	static const char *const names[] = { "http_proxy", "https_proxy", "HTTPS_PROXY",
					     "all_proxy",  "ALL_PROXY",	  "no_proxy",
					     "NO_PROXY" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		unsetenv(names[i]);
}

static struct http *open_http(unsigned blobs)
{
	struct rg_opts o = { .stall_timeout_ns = 30 * NSEC_PER_SEC,
			     .connect_timeout_ns = 5 * NSEC_PER_SEC, .host_transfers = blobs };
	struct http *h = NULL;

	return http_new(&o, &h, NULL) < 0 ? NULL : h;
}

static int get(struct http *h, const char *url, bool guarded, struct err *e)
{
	struct http_req req = { .method = "GET", .url = url, .host = "test", .max_body = 1 << 20,
				.no_link_local = guarded, .no_loopback = guarded };
	struct http_res res = { 0 };
	int r = http_perform(h, &req, &res, NULL, e);

	if (r == 0)
		r = res.status;
	http_res_done(&res);
	return r;
}

static void say_ok(struct server *s, int fd, const char *head)
{
	(void)head;
	while (atomic_load(&s->hold))
		(void)poll(NULL, 0, 5);
	answer(fd, "200 OK", "", "ok");
}

/* ---- guards ---- */

TEST(http_guards_hold_on_connections_from_the_pool)
{
	struct server s;
	struct http *h;
	struct err e = { 0 };
	char url[64];

	no_proxies();
	server_start(&s, say_ok);
	h = open_http(1);
	(void)snprintf(url, sizeof(url), "http://localhost:%s/", strchr(s.host, ':') + 1);
	CHECK_EQ_INT(get(h, url, false, NULL), 200);
	CHECK_EQ_INT(get(h, url, false, NULL), 200);
	CHECK_EQ_INT(s.n_conns, 1); /* there is a pool */
	CHECK_ERR(get(h, url, true, &e), -EACCES);
	CHECK_EQ_INT(e.cls, ERR_AUTH);
	CHECK_EQ_INT(s.requests, 2); /* nothing was sent */
	http_stop(h);
	server_stop(&s);
}

TEST(http_guards_hold_where_a_proxy_variable_does_not_apply)
{
	static const char *const useless[][2] = {
		{ "https_proxy", "http://127.0.0.1:1" },
		{ "no_proxy", "127.0.0.1, localhost" },
	};
	struct server s;
	struct http *h;
	char url[64];

	no_proxies();
	server_start(&s, say_ok);
	(void)snprintf(url, sizeof(url), "http://localhost:%s/", strchr(s.host, ':') + 1);
	for (size_t i = 0; i < ARRAY_SIZE(useless); i++) {
		if (i == 1)
			setenv("http_proxy", "http://127.0.0.1:1", 1);
		setenv(useless[i][0], useless[i][1], 1);
		h = open_http(1);
		CHECK_ERR(get(h, url, true, NULL), -EACCES);
		CHECK_EQ_INT(get(h, url, false, NULL), 200);
		http_stop(h);
	}
	no_proxies();
	server_stop(&s);
}

TEST(http_a_proxy_that_applies_is_used)
{
	struct server s;
	struct http *h;
	char proxy[64];

	no_proxies();
	server_start(&s, say_ok);
	(void)snprintf(proxy, sizeof(proxy), "http://%s", s.host);
	setenv("http_proxy", proxy, 1);
	h = open_http(1);
	CHECK_EQ_INT(get(h, "http://nowhere.example/x", true, NULL), 200);
	CHECK(saw(&s, 0, "GET http://nowhere.example/x "));
	http_stop(h);
	no_proxies();
	server_stop(&s);
}

static bool proxied(const char *no_proxy, const char *url)
{
	setenv("no_proxy", no_proxy, 1);
	return http_proxy_for(url) != NULL;
}

TEST(proxy_rules_are_libcurls)
{
	no_proxies();
	CHECK(!http_proxy_for("http://a.example/"));
	setenv("HTTP_PROXY", "http://p:1", 1);
	CHECK(!http_proxy_for("http://a.example/")); /* a CGI client could set it */
	unsetenv("HTTP_PROXY");
	setenv("https_proxy", "", 1);
	setenv("HTTPS_PROXY", "http://p:2", 1);
	CHECK_EQ_STR(http_proxy_for("https://a.example/"), "http://p:2");
	CHECK(!http_proxy_for("http://a.example/"));
	setenv("all_proxy", "socks5h://p:3", 1);
	CHECK_EQ_STR(http_proxy_for("http://a.example/"), "socks5h://p:3");
	CHECK(!proxied("*", "http://a.example/"));
	CHECK(!proxied("x, example", "http://a.example/"));
	CHECK(!proxied(".A.example.", "https://a.example.:8443/x"));
	CHECK(proxied("ample", "http://a.example/"));
	CHECK(proxied("b.a.example", "http://a.example/"));
	CHECK(!proxied("10.0.0.0/8 fd00::/8", "http://10.1.2.3:5000/"));
	CHECK(!proxied("10.0.0.0/8 fd00::/8", "http://[fd12::1]:5000/"));
	CHECK(proxied("10.0.0.0/8", "http://11.1.2.3/"));
	CHECK(proxied("10.0.0.0/99", "http://10.1.2.3/"));
	CHECK(proxied("2.3", "http://1.1.2.3/"));
	CHECK(!proxied("[::1]", "http://[::1]/"));
	no_proxies();
}

/* ---- lanes ---- */

struct caller {
	struct http *h;
	const char *url;
	int r;
	atomic_bool done;
};

static void *call_blob(void *arg)
{
	struct caller *c = arg;
	struct http_req req = { .method = "GET", .url = c->url, .host = "test", .max_body = 100,
				.lane = RG_LANE_BLOB };
	struct http_res res = { 0 };

	c->r = http_perform(c->h, &req, &res, NULL, NULL);
	http_res_done(&res);
	c->done = true;
	return NULL;
}

TEST(http_a_request_that_cannot_start_does_not_strand_those_behind_it)
{
	struct server s;
	struct caller c[3];
	pthread_t t[3];
	char url[64];
	struct http *h;

	no_proxies();
	server_start(&s, say_ok);
	h = open_http(1);
	(void)snprintf(url, sizeof(url), "http://%s/", s.host);
	s.hold = 1;
	for (int i = 0; i < 3; i++) {
		c[i] = (struct caller){ .h = h, .url = url };
		pthread_create(&t[i], NULL, call_blob, &c[i]);
		for (int k = 0; k < 400 && s.requests == 0; k++)
			(void)poll(NULL, 0, 5);
		(void)poll(NULL, 0, 50);
	}
	add_failures = 1;
	s.hold = 0;
	for (int k = 0; k < 600 && !(c[0].done && c[1].done && c[2].done); k++)
		(void)poll(NULL, 0, 5);
	CHECK(c[2].done);
	if (!c[2].done)
		http_stop(h); /* sets it free */
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	CHECK_EQ_INT(c[0].r, 0);
	CHECK_EQ_INT(c[1].r, -ENOMEM);
	CHECK_EQ_INT(c[2].r, 0);
	add_failures = 1; /* alone in its lane, which goes with it */
	CHECK_ERR(get(h, url, false, NULL), -ENOMEM);
	CHECK_EQ_INT(get(h, url, false, NULL), 200);
	http_stop(h);
	server_stop(&s);
}

/* ---- time ---- */

static atomic_ullong now_s;

static void trickle(struct server *s, int fd, const char *head)
{
	char part[301];

	(void)head;
	memset(part, 'x', 300);
	part[300] = '\0';
	say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
	for (int i = 0; i < 100 && atomic_load(&s->slow); i++) {
		say(fd, part);
		(void)poll(NULL, 0, 60);
		clock_set_fake((now_s += 10) * NSEC_PER_SEC, 1);
		(void)poll(NULL, 0, 60);
	}
}

TEST(http_a_small_answer_that_trickles_is_given_up)
{
	struct server s;
	struct http *h;
	struct err e = { 0 };
	char url[64];

	no_proxies();
	now_s = 1000;
	clock_set_fake(now_s * NSEC_PER_SEC, 1);
	server_start(&s, trickle);
	s.slow = 1;
	h = open_http(1);
	(void)snprintf(url, sizeof(url), "http://%s/", s.host);
	CHECK_ERR(get(h, url, false, &e), -ETIMEDOUT);
	CHECK_EQ_INT(e.cls, ERR_TIMEOUT);
	CHECK(strstr(e.msg, "too slowly"));
	CHECK(now_s >= 1120 && now_s < 1400);
	s.slow = 0;
	http_stop(h);
	server_stop(&s);
	clock_set_fake(0, 0);
}

/* ---- tokens ---- */

static void registry_with_tokens(struct server *s, int fd, const char *head)
{
	char text[256];

	if (strncmp(head, "GET /token", 10) == 0) {
		while (atomic_load(&s->hold))
			(void)poll(NULL, 0, 5);
		(void)snprintf(text, sizeof(text), "{\"token\":\"T%d\",\"expires_in\":60}",
			       atomic_fetch_add(&s->slow, 1));
		answer(fd, "200 OK", "", text);
	} else if (!strstr(head, "Authorization: Bearer T")) {
		(void)snprintf(text, sizeof(text),
			       "WWW-Authenticate: Bearer realm=\"http://%s/token\"\r\n", s->host);
		answer(fd, "401 Unauthorized", text, "");
	} else {
		answer(fd, "200 OK", "", "{\"tags\":[\"a\"]}");
	}
}

struct lister {
	struct rg_registry *g;
	struct cancel *c;
	int r;
};

static void *list(void *arg)
{
	struct lister *l = arg;
	struct rg_names n = { 0 };

	l->r = rg_list_tags(l->g, "app", &n, l->c, NULL);
	rg_names_done(&n);
	return NULL;
}

TEST(auth_an_expired_token_is_not_used_after_a_cancelled_fetch)
{
	struct rg_opts o = { .config_home = "/nonexistent" };
	struct rg_client *client = NULL;
	struct lister a = { 0 }, b = { 0 }, first = { 0 };
	struct cancel stop;
	struct server s;
	pthread_t ta, tb;
	char source[64];
	int before;

	no_proxies();
	setenv("HOME", "/nonexistent", 1);
	unsetenv("REGISTRY_AUTH_FILE");
	clock_set_fake(1000 * NSEC_PER_SEC, 1);
	server_start(&s, registry_with_tokens);
	(void)snprintf(source, sizeof(source), "http://%s", s.host);
	REQUIRE(rg_client_new(&o, &client, NULL) == 0);
	REQUIRE(rg_open(client, source, &first.g, NULL) == 0);
	(void)list(&first);
	CHECK_EQ_INT(first.r, 0);
	clock_set_fake(1200 * NSEC_PER_SEC, 1); /* T0 has expired */
	before = s.requests;
	s.hold = 1;
	a.g = b.g = first.g;
	cancel_init(&stop);
	a.c = &stop;
	pthread_create(&ta, NULL, list, &a);
	for (int i = 0; i < 400 && s.requests == before; i++)
		(void)poll(NULL, 0, 5);
	pthread_create(&tb, NULL, list, &b);
	(void)poll(NULL, 0, 100);
	cancel_fire(a.c);
	pthread_join(ta, NULL);
	s.hold = 0;
	pthread_join(tb, NULL);
	CHECK_EQ_INT(a.r, -ECANCELED);
	CHECK_EQ_INT(b.r, 0);
	for (int i = before; i < s.requests; i++)
		CHECK(!saw(&s, i, "Bearer T0"));
	cancel_done(&stop);
	rg_close(first.g);
	rg_client_stop(client);
	server_stop(&s);
	clock_set_fake(0, 0);
}
