/*
 * auth_token.c - one conversation with a token service (registry.md 2.1)
 *
 * GET with Basic (or nothing) first, POST where only that can work: identity tokens.  A service
 * without OAuth2 answers POST with 404 and is then asked by GET; one without GET the other way
 * round.  No state; all buffers with secrets are wiped.
 */
#include "registry/auth.h"

#include <string.h>

#include "util/clock.h"
#include "util/json.h"
#include "util/stats.h"

#define CLIENT_ID "registryfs"
#define FORM_MAX (128u << 10)

static void wipe_buf(struct buf *b)
{
	if (b->data)
		explicit_bzero(b->data, b->cap);
	buf_done(b);
}

#define _cleanup_secret_ _cleanup_(wipe_buf)

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "no memory for a token");
}

static void add_field(struct buf *b, const char *name, const char *value)
{
	if (b->len > 0)
		(void)buf_addc(b, '&');
	(void)buf_addf(b, "%s=", name);
	(void)url_escape(b, value, "");
}

/* ---- asking ---- */

errint_t auth_basic_header(const struct cred *cr, struct buf *out)
{
	_cleanup_secret_ struct buf pair = BUF_INIT(AUTH_TOKEN_MAX);
	_cleanup_secret_ struct buf b64 = BUF_INIT(2 * AUTH_TOKEN_MAX);

	(void)buf_reserve(&pair, strlen(cr->user ? cr->user : "") + strlen(cr->secret) + 2);
	(void)buf_addf(&pair, "%s:%s", cr->user ? cr->user : "", cr->secret);
	if (buf_check(&pair) < 0 || buf_reserve(&b64, (pair.len + 2) / 3 * 4 + 1) < 0)
		return -ENOMEM;
	(void)base64_encode(pair.data, pair.len, b64.data);
	(void)buf_reserve(out, strlen(b64.data) + 32);
	return buf_addf(out, "Authorization: Basic %s", b64.data);
}

static void add_scopes(struct buf *b, const char *scopes)
{
	while (*scopes) {
		size_t n = strcspn(scopes, " ");
		char one[AUTH_SCOPES_MAX];

		(void)snprintf(one, sizeof(one), "%.*s", (int)n, scopes);
		if (n > 0)
			add_field(b, "scope", one);
		scopes += n + (scopes[n] == ' ');
	}
}

/* The realm with our parameters behind those it has. */
static errint_t get_url(const struct token_query *q, struct buf *b)
{
	_cleanup_buf_ struct buf params = BUF_INIT(URL_MAX);

	if (q->service)
		add_field(&params, "service", q->service);
	add_scopes(&params, q->scopes);
	add_field(&params, "client_id", CLIENT_ID);
	if (q->cred->kind == CRED_BASIC)
		add_field(&params, "account", q->cred->user);
	(void)url_add(b, q->realm);
	(void)buf_addf(b, "%c%s", strchr(q->realm->target, '?') ? '&' : '?', buf_str(&params));
	return buf_check(&params) < 0 ? buf_check(&params) : buf_check(b);
}

static errint_t post_form(const struct token_query *q, struct buf *b)
{
	bool identity = q->cred->kind == CRED_IDENTITY;

	(void)buf_reserve(b, 4096);
	add_field(b, "grant_type", identity ? "refresh_token" : "password");
	if (q->service)
		add_field(b, "service", q->service);
	add_field(b, "client_id", CLIENT_ID);
	if (*q->scopes)
		add_field(b, "scope", q->scopes);
	if (identity) {
		add_field(b, "refresh_token", q->cred->secret);
	} else {
		add_field(b, "username", q->cred->user);
		add_field(b, "password", q->cred->secret);
	}
	return buf_check(b);
}

static errint_t send(const struct token_query *q, struct http_req *req, struct http_res *res,
		     struct cancel *c, struct err *e)
{
	_cleanup_buf_ struct buf host = BUF_INIT(URL_MAX);
	struct http_tls tls = { 0 };
	bool same = url_same_origin(q->realm, q->ask->url);
	errint_t r;

	if (same && q->ask->tls)
		tls = *q->ask->tls;
	else if ((r = hosts_tls(q->hosts, q->realm, &tls, e)) < 0)
		return r;
	/* a host that was configured as insecure may keep its token service beside it */
	if (q->ask->tls && strcmp(q->realm->host, q->ask->url->host) == 0)
		tls.insecure = q->ask->tls->insecure;
	if (url_add_origin(&host, q->realm) < 0)
		return no_memory(e);
	req->host = strstr(buf_str(&host), "://") + 3;
	req->tls = &tls;
	req->lane = RG_LANE_SMALL;
	req->no_link_local = !same;
	req->no_loopback = !same && !q->from_loopback;
	req->max_body = AUTH_TOKEN_BODY_MAX;
	stat_inc(STAT_HTTP_TOKENS);
	return err_wrap(e, http_perform(q->http, req, res, c, e), "token for %s", q->ask->host);
}

static errint_t ask_get(const struct token_query *q, struct http_res *res, struct cancel *c,
			struct err *e)
{
	_cleanup_buf_ struct buf url = BUF_INIT(2 * URL_MAX);
	_cleanup_secret_ struct buf basic = BUF_INIT(AUTH_HEADER_MAX);
	const char *headers[] = { NULL };
	struct http_req req = { .method = "GET", .headers = headers };

	if (get_url(q, &url) < 0)
		return no_memory(e);
	if (q->cred->kind != CRED_NONE) {
		if (auth_basic_header(q->cred, &basic) < 0)
			return no_memory(e);
		headers[0] = buf_str(&basic);
		req.n_headers = 1;
	}
	req.url = buf_str(&url);
	return send(q, &req, res, c, e);
}

static errint_t ask_post(const struct token_query *q, struct http_res *res, struct cancel *c,
			 struct err *e)
{
	_cleanup_buf_ struct buf url = BUF_INIT(2 * URL_MAX);
	_cleanup_secret_ struct buf form = BUF_INIT(FORM_MAX);
	const char *headers[] = { "Content-Type: application/x-www-form-urlencoded", "Expect:" };
	struct http_req req = { .method = "POST", .headers = headers, .n_headers = 2 };

	if (url_add(&url, q->realm) < 0 || post_form(q, &form) < 0)
		return no_memory(e);
	req.url = buf_str(&url);
	req.body = buf_str(&form);
	req.body_len = form.len;
	return send(q, &req, res, c, e);
}

static bool not_offered(int status)
{
	return status == 404 || status == 405;
}

static errint_t ask(const struct token_query *q, struct http_res *res, struct cancel *c,
		    struct err *e)
{
	errint_t r;

	if (q->cred->kind == CRED_IDENTITY) {
		r = ask_post(q, res, c, e);
		return r < 0 || !not_offered(res->status) ? r : ask_get(q, res, c, e);
	}
	r = ask_get(q, res, c, e);
	if (r < 0 || q->cred->kind != CRED_BASIC || !not_offered(res->status))
		return r;
	return ask_post(q, res, c, e);
}

/* ---- the answer ---- */

static bool token_ok(const char *s)
{
	if (!s || !*s || strlen(s) > AUTH_TOKEN_MAX)
		return false;
	for (; *s; s++)
		if ((unsigned char)*s <= ' ' || (unsigned char)*s >= 0x7f)
			return false;
	return true;
}

/* How long from now: what the service says, by our own clock when its clock makes no sense. */
static int64_t seconds_left(const struct json *doc)
{
	int64_t life = json_int(doc, "expires_in", AUTH_LIFETIME_MIN_S), issued, age;
	const char *at = json_str(doc, "issued_at");
	uint32_t ns;

	life = MIN_OF(MAX_OF(life, (int64_t)AUTH_LIFETIME_MIN_S), (int64_t)AUTH_LIFETIME_MAX_S);
	if (at && clock_parse_rfc3339(at, &issued, &ns)) {
		age = clock_real_s() - issued;
		if (age > 0 && age < life - AUTH_RENEW_AHEAD_S)
			life -= age;
	}
	return life - AUTH_RENEW_AHEAD_S;
}

static errint_t read_token(const struct token_query *q, const struct http_res *res,
			   struct token *ret, struct err *e)
{
	_cleanup_(json_freep) struct json *doc = NULL;
	const char *value = NULL;

	if (json_parse(buf_str(&res->body), res->body.len, &doc, NULL) == 0) {
		value = json_str(doc, "token");
		if (!value || !*value)
			value = json_str(doc, "access_token");
	}
	if (!token_ok(value))
		return err_set(e, EIO, ERR_INPUT, "the token service %s of %s sent no usable token",
			       q->realm->host, q->ask->host);
	ret->value = strdup(value);
	ret->expires_ns = clock_mono_ns() + (uint64_t)seconds_left(doc) * NSEC_PER_SEC;
	return ret->value ? 0 : no_memory(e);
}

/* Some services refuse the token when the repository is private or does not exist. */
static errint_t refused_repo(const struct token_query *q, int status, struct err *e)
{
	const struct cred *cr = q->cred;

	if (cr->kind == CRED_NONE)
		return err_set(e, EACCES, ERR_AUTH, "%s wants credentials for %.100s (HTTP %d): it does not "
			       "exist or is not public; check the name, or log in with \"podman login %s\"",
			       q->ask->host, q->ask->repo, status, q->ask->host);
	return err_set(e, EACCES, ERR_AUTH, "%s gives %s%s from %s no access to %.100s (HTTP %d): check the "
		       "name, or log in as another user", q->ask->host,
		       cr->kind == CRED_BASIC ? "user " : "", cr->kind == CRED_BASIC ? cr->user :
		       "the identity token", cr->origin, q->ask->repo, status);
}

static errint_t refused(const struct token_query *q, int status, struct err *e)
{
	const struct cred *cr = q->cred;
	errint_t r;

	if (status == 429 || status == 408 || status >= 500)
		r = err_set(e, EIO, status == 429 ? ERR_RATE : ERR_NET,
			    "the token service %s of %s answered HTTP %d", q->realm->host,
			    q->ask->host, status);
	else if (status >= 300 && status < 400)
		r = err_set(e, EIO, ERR_INPUT,
			    "the token service %s of %s sent a redirect, which is "
			    "not followed",
			    q->realm->host, q->ask->host);
	else if (status != 400 && status != 401 && status != 403)
		r = err_set(e, EIO, ERR_INPUT, "the token service %s of %s answered HTTP %d, which says nothing "
			    "about the credentials", q->realm->host, q->ask->host, status);
	else if (q->ask->repo && (cr->kind == CRED_NONE || status == 403))
		r = refused_repo(q, status, e);
	else if (cr->kind == CRED_NONE)
		r = err_set(e, EACCES, ERR_AUTH, "%s wants credentials (HTTP %d); log in with "
			    "\"podman login %s\" or \"docker login %s\"", q->ask->host, status,
			    q->ask->host, q->ask->host);
	else
		r = err_set(e, EACCES, ERR_AUTH,
			    "%s refused the credentials of %s%s from %s (HTTP %d); "
			    "log in again",
			    q->ask->host, cr->kind == CRED_BASIC ? "user " : "",
			    cr->kind == CRED_BASIC ? cr->user : "the identity token", cr->origin,
			    status);
	if (e)
		e->http = status;
	return r;
}

errint_t token_fetch(const struct token_query *q, struct token *ret, struct cancel *c,
		     struct err *e)
{
	struct http_res res = { 0 };
	errint_t r = ask(q, &res, c, e);

	if (r == 0)
		r = res.status == 200 ? read_token(q, &res, ret, e) : refused(q, res.status, e);
	if (res.body.data)
		explicit_bzero(res.body.data, res.body.cap);
	http_res_done(&res);
	return r;
}
