/*
 * transport.c - one exchange with a registry: endpoints, authentication, redirects, retries
 *
 * Four loops, one inside the other: over endpoints (mirrors first), over attempts (bounded by the
 * retry policy), over restarts (a signed URL that has expired), over hops (redirects and 401s).
 * Authorization and configured headers go to the endpoint's own origin only.  Nothing is repeated
 * once the sink has had a byte: the caller knows what it has and asks for the rest.
 *
 * Runs on the caller's thread; a struct trip lives on its stack.
 */
#include "registry/transport.h"

#include <inttypes.h>
#include <string.h>

#include "registry/client.h"
#include "registry/reply.h"
#include "util/clock.h"
#include "util/stats.h"

#define HOPS_MAX 10
#define RESTARTS_MAX 2		/* after a redirect target refused its own signed URL */
#define ATTEMPTS_MAX 20		/* whatever the policy says */
#define DELAY_MAX_NS (60 * NSEC_PER_SEC)
#define HEADERS_MAX (HEADERS_OWN + 32)
#define HEADERS_OWN 5

struct trip {
	struct rg_client *client;
	const struct rg_call *call;
	const struct endpoint *ep;
	struct rg_reply *reply;
	struct cancel *cancel;
	struct auth_try auth;
	struct http_res res;
	struct url start, url;		/* the registry's address, where it is */
	struct url upload;		/* call->at when that is elsewhere: where it begins */
	bool at_origin;			/* url is the endpoint's own origin */
	bool from_loopback;		/* whoever sent us to url is on this machine */
	bool head_read;			/* of the last request */
	bool answered;			/* the registry itself has said something */
	bool sink_failed;		/* the error is the sink's or the body's: final */
	bool named;			/* the answer was given to somebody, see struct rg_reply */
	bool once;			/* no second attempt: there is another place to ask */
};

static errint_t no_memory(const struct trip *t, struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "no memory for a request to %s", t->ep->host);
}

/* ---- the request ---- */

/* <root>/[<repo>/]<path>[?query][ns=..] */
static errint_t build_target(const struct trip *t, struct buf *b)
{
	const struct rg_call *c = t->call;
	const char *repo = t->ep->repo;

	(void)url_add(b, &t->ep->url);
	(void)buf_addc(b, '/');
	if (repo && *repo) {
		(void)url_escape(b, repo, "/");
		(void)buf_addc(b, '/');
	}
	(void)url_escape(b, c->path ? c->path : "", "/:+=");
	if (c->query && *c->query)
		(void)buf_addf(b, "?%s", c->query);
	if (t->ep->ns)
		(void)buf_addf(b, "%cns=%s", c->query && *c->query ? '&' : '?', t->ep->ns);
	return buf_check(b);
}

/* The next page: any spelling of this host will do (proxies that end TLS get scheme and port
 * wrong), but the request goes to the origin that we know. */
static errint_t follow_link(struct trip *t, struct err *e)
{
	_cleanup_url_ struct url link = { 0 };
	errint_t r = url_resolve(&t->start, t->call->next_url, &link, e);

	if (r < 0)
		return err_wrap(e, r, "the next page of %s", t->ep->host);
	if (strcmp(link.host, t->start.host) != 0)
		return err_set(e, EIO, ERR_INPUT,
			       "%s names another host (%s) for its next page; refused", t->ep->host,
			       link.host);
	free(t->start.target);
	t->start.target = steal_ptr(&link.target);
	return 0;
}

/* Where an upload goes on.  A proxy that ends TLS makes registries believe that they speak plain http. */
static errint_t follow_upload(struct trip *t, struct err *e)
{
	_cleanup_url_ struct url at = { 0 };
	bool from_loopback = url_is_loopback(&t->start);
	errint_t r = url_parse(t->call->at, &at, e);

	if (r < 0)
		return err_wrap(e, r, "the address for an upload to %s", t->ep->host);
	if (url_same_origin(&at, &t->start) ||
	    (t->start.https && !at.https && strcmp(at.host, t->start.host) == 0)) {
		free(t->start.target);
		t->start.target = steal_ptr(&at.target);
		return 0;
	}
	r = url_guard(&t->start, from_loopback, &at, "upload", e);
	if (r < 0)
		return r;
	t->from_loopback = from_loopback;
	t->upload = at;
	at = (struct url){ 0 };
	return 0;
}

static errint_t build_start(struct trip *t, struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(URL_MAX);
	errint_t r;

	if (build_target(t, &b) < 0)
		return err_set(e, ENAMETOOLONG, ERR_LIMIT, "the URL for %s would be too long",
			       t->ep->host);
	r = url_parse(buf_str(&b), &t->start, e);
	if (r == 0 && t->call->at)
		return follow_upload(t, e);
	return r < 0 || !t->call->next_url ? r : follow_link(t, e);
}

static errint_t go_to_start(struct trip *t, struct err *e)
{
	const struct url *from = t->upload.host ? &t->upload : &t->start;

	url_done(&t->url);
	t->url = *from;
	t->url.host = strdup(from->host);
	t->url.target = strdup(from->target);
	t->at_origin = !t->upload.host;
	return t->url.host && t->url.target ? 0 : no_memory(t, e);
}

static bool is_write(const struct rg_call *c)
{
	return strcmp(c->method, "GET") != 0 && strcmp(c->method, "HEAD") != 0;
}

static void count_request(const struct rg_call *c)
{
	const char *p = c->path ? c->path : "";

	if (is_write(c))
		stat_inc(STAT_HTTP_PUSHES);
	else if (strncmp(p, "manifests/", 10) == 0)
		stat_inc(STAT_HTTP_MANIFESTS);
	else if (strncmp(p, "blobs/", 6) == 0)
		stat_inc(STAT_HTTP_BLOBS);
	else if (*p)
		stat_inc(STAT_HTTP_LISTS);
}

struct head {
	char own[HEADERS_OWN][512];
	const char *v[HEADERS_MAX];
	size_t n;
};

static void add_own(struct head *h, const char *fmt, ...) _printf_(2, 3);
static void add_own(struct head *h, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (vsnprintf(h->own[h->n], sizeof(h->own[0]), fmt, ap) < (int)sizeof(h->own[0])) {
		h->v[h->n] = h->own[h->n];
		h->n++;
	}
	va_end(ap);
}

static void build_head(const struct trip *t, struct head *h)
{
	const struct rg_call *c = t->call;

	h->n = 0;
	if (c->accept)
		add_own(h, "Accept: %s", c->accept);
	if (c->content_type)
		add_own(h, "Content-Type: %s", c->content_type);
	if (c->content_range)
		add_own(h, "Content-Range: %s", c->content_range);
	if (c->if_none_match)
		add_own(h, "If-None-Match: \"%s\"", c->if_none_match);
	if (c->ranged && c->len > 0)
		add_own(h, "Range: bytes=%" PRIu64 "-%" PRIu64, c->off, c->off + c->len - 1);
	else if (c->ranged)
		add_own(h, "Range: bytes=%" PRIu64 "-", c->off);
	if (!t->at_origin)
		return;
	for (size_t i = 0; i < t->ep->n_headers && h->n < HEADERS_MAX - 1; i++)
		h->v[h->n++] = t->ep->headers[i];
	if (t->auth.header)
		h->v[h->n++] = t->auth.header;
}

static errint_t choose_tls(const struct trip *t, struct http_tls *ret, struct err *e)
{
	errint_t r;

	if (t->at_origin) {
		*ret = t->ep->tls;
		return 0;
	}
	r = hosts_tls(t->client->hosts, &t->url, ret, e);
	if (r == 0 && strcmp(t->url.host, t->ep->url.host) == 0)
		ret->insecure = t->ep->tls.insecure;
	return r;
}

/* ---- the answer ---- */

static errint_t on_head(void *ctx, const struct http_res *res, struct err *e)
{
	struct trip *t = ctx;

	(void)e;
	reply_read_head(res, t->call, t->reply);
	t->reply->from_mirror = t->ep->is_mirror;
	t->head_read = true;
	t->answered |= t->at_origin;
	return t->call->sink && (res->status == 200 || res->status == 206) ? 1 : 0;
}

static errint_t on_data(void *ctx, const void *data, size_t len, struct err *e)
{
	struct trip *t = ctx;
	errint_t r;

	t->reply->sunk += len;
	r = t->call->sink(t->call->sink_ctx, data, len, e);
	if (r < 0)
		t->sink_failed = true;
	return r;
}

static errint_t read_body(void *ctx, uint64_t off, void *dst, size_t len, struct err *e)
{
	struct trip *t = ctx;
	errint_t r = t->call->read(t->call->read_ctx, off, dst, len, e);

	if (r < 0)
		t->sink_failed = true;
	return r;
}

static errint_t send_once(struct trip *t, struct err *e)
{
	_cleanup_buf_ struct buf url = BUF_INIT(URL_MAX);
	_cleanup_buf_ struct buf origin = BUF_INIT(URL_MAX);
	struct http_tls tls = { 0 };
	struct head head;
	struct http_req req = {
		.method = t->call->method, .lane = t->call->lane, .tls = &tls,
		.connect_timeout_ns = t->ep->connect_timeout_ns,
		.no_link_local = !t->at_origin, .no_loopback = !t->at_origin && !t->from_loopback,
		.max_body = t->call->sink ? 0 : t->call->max_body,
		.on_head = on_head, .sink = on_data, .ctx = t,
		.body = t->call->body, .body_len = t->call->body_len,
		.read = t->call->read ? read_body : NULL, .read_ctx = t, .read_len = t->call->read_len,
	};
	errint_t r;

	if (url_add(&url, &t->url) < 0 || url_add_origin(&origin, &t->url) < 0)
		return no_memory(t, e);
	r = choose_tls(t, &tls, e);
	if (r < 0)
		return r;
	build_head(t, &head);
	req.url = buf_str(&url);
	req.host = t->at_origin ? t->ep->host : strstr(buf_str(&origin), "://") + 3;
	req.headers = head.v;
	req.n_headers = head.n;
	t->head_read = false;
	if (t->at_origin)
		count_request(t->call);
	return http_perform(t->client->http, &req, &t->res, t->cancel, e);
}

/* ---- hops: redirects and 401s ---- */

/* To write is to write there too, which only these two promise. */
static bool is_redirect(int status, bool writing)
{
	if (writing)
		return status == 307 || status == 308;
	return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

static errint_t next_hop(struct trip *t, struct err *e)
{
	const char *location = http_header(&t->res, "Location");
	struct url to = { 0 };
	errint_t r;

	if (!location || !*location)
		return err_set(e, EIO, ERR_INPUT, "%s sent a redirect that leads nowhere",
			       t->url.host);
	r = url_resolve(&t->url, location, &to, e);
	if (r < 0)
		return err_wrap(e, r, "a redirect of %s", t->url.host);
	t->from_loopback = url_is_loopback(&t->url) || t->res.peer_loopback;
	r = url_guard(&t->url, t->from_loopback, &to, "redirect", e);
	if (r < 0) {
		url_done(&to);
		return r;
	}
	/* once away it stays away: a stranger must not make us send credentials somewhere */
	t->at_origin = t->at_origin && url_same_origin(&to, &t->start);
	url_done(&t->url);
	t->url = to;
	return 0;
}

static struct auth_ask ask_of(const struct trip *t, char scope[static 512])
{
	if (t->call->scope)
		(void)snprintf(scope, 512, "%s", t->call->scope);
	else if (t->ep->repo && *t->ep->repo)
		(void)snprintf(scope, 512, "repository:%s:pull", t->ep->repo);
	else
		scope[0] = '\0';
	return (struct auth_ask){ .url = &t->start, .host = t->ep->host, .repo = t->ep->repo,
				  .scope = scope, .tls = &t->ep->tls };
}

/* 1 = go on from t->url, 0 = the answer in t->res is final. */
static int step(struct trip *t, const struct auth_ask *ask, unsigned *hops, struct err *e)
{
	int status = t->res.status, r;

	if (status == 401 && t->at_origin) {
		r = auth_answer(t->client->auth, ask, &t->res, &t->auth, t->cancel, e);
		if (r <= 0)
			return r;
		*hops = 0;
		r = go_to_start(t, e);
		return r < 0 ? r : 1;
	}
	if (!is_redirect(status, is_write(t->call)))
		return 0;
	if (++*hops > HOPS_MAX)
		return err_set(e, EIO, ERR_INPUT, "%s redirects more than %d times", t->ep->host,
			       HOPS_MAX);
	r = next_hop(t, e);
	return r < 0 ? r : 1;
}

static errint_t walk(struct trip *t, const struct auth_ask *ask, struct err *e)
{
	unsigned hops = 0;
	int r = go_to_start(t, e);

	while (r == 0) {
		r = send_once(t, e);
		if (r < 0)
			return r;
		r = step(t, ask, &hops, e);
		if (r <= 0)
			return r;
		r = 0;
	}
	return r;
}

static bool is_stale_link(const struct trip *t)
{
	int s = t->res.status;

	return !t->at_origin && !t->upload.host && (s == 400 || s == 401 || s == 403);
}

/* From the first request to a final answer or an error. */
static errint_t exchange(struct trip *t, struct err *e)
{
	char scope[512];
	struct auth_ask ask;
	errint_t r = 0;

	if (!t->start.host)
		r = build_start(t, e);
	if (r < 0)
		return r;
	ask = ask_of(t, scope);
	r = auth_prepare(t->client->auth, &ask, &t->auth, t->cancel, e);
	for (unsigned restarts = 0; r == 0; restarts++) {
		r = walk(t, &ask, e);
		if (r < 0 || !is_stale_link(t) || restarts >= RESTARTS_MAX)
			break;
		stat_inc(STAT_HTTP_RETRIES);
	}
	t->named = t->auth.named;
	auth_try_done(&t->auth);
	return r;
}

/* ---- attempts ---- */

static bool status_is_transient(int s)
{
	return s == 408 || s == 429 || s == 499 || s == 500 || s == 502 || s == 503 || s == 504 ||
	       s == 522;
}

/* Is another attempt in order, and with what class? */
static bool is_transient(const struct trip *t, errint_t r, const struct err *e, enum err_class *cls)
{
	if (t->sink_failed || t->reply->sunk > 0 || cancel_fired(t->cancel))
		return false;
	if (r == 0) {
		*cls = t->res.status == 429 ? ERR_RATE : ERR_NET;
		return status_is_transient(t->res.status);
	}
	*cls = e->cls;
	return e->cls == ERR_NET || e->cls == ERR_TIMEOUT || e->cls == ERR_RATE;
}

static bool wants_retry(struct trip *t, unsigned attempt, errint_t r, const struct err *e,
			uint64_t *delay)
{
	rg_retry_fn retry = t->client->opts.retry;
	int http = r == 0 ? t->res.status : e->http;
	enum err_class cls;

	if (!retry || attempt >= ATTEMPTS_MAX || !is_transient(t, r, e, &cls))
		return false;
	*delay = 0;
	if (!retry(attempt, cls, http, t->res.headers ? reply_retry_after(&t->res) : -1, delay))
		return false;
	*delay = MIN_OF(*delay, DELAY_MAX_NS);
	return true;
}

static errint_t attempts(struct trip *t, struct err *e)
{
	for (unsigned attempt = 1;; attempt++) {
		uint64_t delay;
		errint_t r;

		err_clear(e);
		http_res_done(&t->res);
		r = exchange(t, e);
		if (t->once || !wants_retry(t, attempt, r, e, &delay))
			return r;
		stat_inc(STAT_HTTP_RETRIES);
		r = cancel_sleep_ns(t->cancel, delay, e);
		if (r < 0)
			return r;
	}
}

/* ---- endpoints ---- */

/* Of an upload: the next request goes there. */
static char *location_of(const struct trip *t)
{
	_cleanup_buf_ struct buf b = BUF_INIT(URL_MAX);
	_cleanup_url_ struct url to = { 0 };
	const char *s = http_header(&t->res, "Location");

	if (t->res.status >= 300 || !s || url_resolve(&t->url, s, &to, NULL) < 0 || url_add(&b, &to) < 0)
		return NULL;
	return buf_take(&b, NULL);
}

/* Moves the body into the reply when this is the final answer. */
static void finish(struct trip *t)
{
	if (!t->head_read)
		reply_read_head(&t->res, t->call, t->reply);
	t->reply->named = t->named;
	t->reply->writing = is_write(t->call);
	t->reply->location = location_of(t);
	if (t->at_origin)
		t->reply->speaker = t->call->repo && *t->call->repo ? RG_REPOSITORY : RG_REGISTRY;
	t->reply->body = t->res.body;
	t->res.body = (struct buf)BUF_INIT(0);
}

static void trip_done(struct trip *t)
{
	auth_try_done(&t->auth);
	http_res_done(&t->res);
	url_done(&t->start);
	url_done(&t->url);
	url_done(&t->upload);
}

static errint_t try_endpoint(struct trip *t, struct err *e)
{
	errint_t r = attempts(t, e);

	if (r == 0)
		finish(t);
	return r;
}

static bool no_answer(const struct trip *t, errint_t r, const struct err *e)
{
	return r < 0 && !t->answered && e->cls == ERR_NET && !cancel_fired(t->cancel);
}

/* Insecure hosts may speak plain http only.  A TLS server that is spoken to in plain text says 400
 * or hangs up. */
static bool answers_plainly(struct trip *t, struct endpoint *ep)
{
	struct err unused = { 0 };
	bool default_port = ep->url.port == 443;

	trip_done(t);
	ep->url.https = false;
	ep->url.port = default_port ? 80 : ep->url.port;
	if (try_endpoint(t, &unused) == 0 && t->reply->status != 400) {
		hosts_note_plain(t->client->hosts, ep->host);
		return true;
	}
	if (t->sink_failed || t->reply->sunk > 0)
		return false;
	trip_done(t);
	ep->url.https = true;
	ep->url.port = default_port ? 443 : ep->url.port;
	return false;
}

static errint_t try_both(struct trip *t, struct endpoint *ep, struct err *e)
{
	errint_t r;

	t->once = true;
	r = try_endpoint(t, e);
	if (!no_answer(t, r, e))
		return r;
	if (answers_plainly(t, ep))
		return 0;
	t->once = ep->is_mirror || t->call->once;
	return t->once || t->sink_failed || t->reply->sunk > 0 ? r : try_endpoint(t, e);
}

static errint_t call_endpoint(struct rg_host *h, const struct rg_call *call, struct endpoint *ep,
			      struct rg_reply *reply, struct cancel *c, bool *ret_final,
			      struct err *e)
{
	_cleanup_(trip_done) struct trip t = { .client = h->client, .call = call, .ep = ep,
					       .reply = reply, .cancel = c, .once = ep->is_mirror || call->once };
	errint_t r = ep->plain_fallback ? try_both(&t, ep, e) : try_endpoint(&t, e);

	*ret_final = !ep->is_mirror || t.sink_failed || reply->sunk > 0 || cancel_fired(c) ||
		     (r == 0 && (reply->status < 400 || reply->status == 416));
	if (!*ret_final && r < 0 && (e->cls == ERR_NET || e->cls == ERR_TIMEOUT))
		hosts_note_down(h->client->hosts, ep->host);
	return r;
}

static errint_t call_endpoints(struct rg_host *h, const struct rg_call *call, struct endpoints *eps,
			       struct rg_reply *reply, struct cancel *c, struct err *e)
{
	errint_t r = -EIO;
	bool final = false;

	for (size_t i = 0; i < eps->n && !final; i++) {
		rg_reply_done(reply);
		err_clear(e);
		r = call_endpoint(h, call, &eps->v[i], reply, c, &final, e);
	}
	return r;
}

static void count_failure(errint_t r, const struct rg_reply *reply)
{
	if (r == -ECANCELED)
		return;
	if (r < 0 || reply->status >= 500 || reply->status == 429)
		stat_inc(STAT_HTTP_ERRORS);
}

errint_t rg_transport_call(struct rg_host *h, const struct rg_call *call, struct rg_reply *reply,
			   struct cancel *c, struct err *e)
{
	struct hosts_query q = { .host = h->host, .plain = h->plain, .repo = call->repo,
				 .mirrors = call->mirrors, .by_digest = call->by_digest };
	struct endpoints eps = { .n = 0 };
	struct err mine = { 0 };
	errint_t r = hosts_resolve(h->client->hosts, &q, &eps, &mine);

	if (r == 0)
		r = call_endpoints(h, call, &eps, reply, c, &mine);
	endpoints_done(&eps);
	count_failure(r, reply);
	if (h->client->opts.progress)
		h->client->opts.progress();
	if (r < 0 && e)
		*e = mine;
	return r;
}
