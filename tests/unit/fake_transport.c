/*
 * fake_transport.c - see fake_transport.h; replaces transport.c and errmap.c at link time
 */
#include "tests/unit/fake_transport.h"

#include <stdio.h>
#include <string.h>

#define SINK_STEP 7	/* an odd step, so that every boundary is hit */
#define SINK_BIG 65536

struct rg_host {
	int refs;
};

static struct rg_host the_host;
static struct fake_answer answers[FAKE_MAX];
static struct fake_request requests[FAKE_MAX];
static size_t n_answers, n_requests;

void fake_reset(void)
{
	n_answers = n_requests = 0;
}

void fake_push(struct fake_answer a)
{
	if (n_answers < FAKE_MAX)
		answers[n_answers++] = a;
}

size_t fake_n_requests(void)
{
	return n_requests;
}

const struct fake_request *fake_request(size_t i)
{
	static const struct fake_request none;

	return i < n_requests ? &requests[i] : &none;
}

struct rg_host *fake_host(void)
{
	return &the_host;
}

/* What would be sent, as far as there is room. */
static void record_body(struct fake_request *q, const struct rg_call *c)
{
	size_t n = MIN_OF(sizeof(q->sent) - 1, c->read ? (size_t)c->read_len : c->body_len);

	if (c->read && c->read(c->read_ctx, 0, q->sent, n, NULL) < 0)
		n = 0;
	else if (!c->read && n > 0)
		memcpy(q->sent, c->body, n);
	q->sent_len = c->read ? c->read_len : c->body_len;
}

static void record(const struct rg_call *c)
{
	struct fake_request *q = &requests[n_requests++];

	*q = (struct fake_request){ .scope = c->scope, .ranged = c->ranged, .mirrors = c->mirrors,
				    .by_digest = c->by_digest, .off = c->off, .len = c->len,
				    .lane = c->lane };
	(void)snprintf(q->at, sizeof(q->at), "%s", c->at ? c->at : "");
	(void)snprintf(q->type, sizeof(q->type), "%s", c->content_type ? c->content_type : "");
	(void)snprintf(q->content_range, sizeof(q->content_range), "%s",
		       c->content_range ? c->content_range : "");
	(void)snprintf(q->wanted, sizeof(q->wanted), "%s", c->scope ? c->scope : "");
	record_body(q, c);
	(void)snprintf(q->method, sizeof(q->method), "%s", c->method);
	(void)snprintf(q->path, sizeof(q->path), "%s", c->path);
	(void)snprintf(q->query, sizeof(q->query), "%s", c->query ? c->query : "");
	(void)snprintf(q->next_url, sizeof(q->next_url), "%s", c->next_url ? c->next_url : "");
	(void)snprintf(q->repo, sizeof(q->repo), "%s", c->repo ? c->repo : "");
	(void)snprintf(q->accept, sizeof(q->accept), "%s", c->accept ? c->accept : "");
}

static char *dup_or_null(const char *s)
{
	return s ? strdup(s) : NULL;
}

static errint_t pour(const struct rg_call *call, struct rg_reply *reply, const char *body,
		     size_t len, struct err *e)
{
	size_t step = len > 4096 ? SINK_BIG : SINK_STEP;

	for (size_t i = 0; i < len; i += step) {
		size_t n = MIN_OF(step, len - i);
		errint_t r = call->sink(call->sink_ctx, body + i, n, e);

		if (r < 0)
			return r;
		reply->sunk += n;
	}
	return 0;
}

errint_t rg_transport_call(struct rg_host *h, const struct rg_call *call, struct rg_reply *reply,
			   struct cancel *c, struct err *e)
{
	const struct fake_answer *a;
	const char *body;
	size_t len;
	errint_t r = 0;

	(void)h;
	if (cancel_fired(c))
		return err_set(e, ECANCELED, ERR_CANCELLED, "cancelled");
	if (n_requests >= n_answers)
		return err_set(e, EIO, ERR_BUG, "no scripted answer for request %zu", n_requests);
	a = &answers[n_requests];
	record(call);
	body = a->body ? a->body : "";
	len = a->body_len ? a->body_len : strlen(body);
	*reply = (struct rg_reply){
		.status = a->status,
		.content_type = dup_or_null(a->content_type),
		.digest = dup_or_null(a->digest),
		.link_next = dup_or_null(a->link),
		.location = dup_or_null(a->location),
		.oci_subject = dup_or_null(a->subject),
		.upload_range = dup_or_null(a->upload_range),
		.chunk_min = a->chunk_min,
		.writing = strcmp(call->method, "GET") != 0 && strcmp(call->method, "HEAD") != 0,
		.content_length = a->content_length ? a->content_length : (int64_t)len,
		.has_range = a->has_range,
		.from_mirror = a->from_mirror && call->mirrors,
		.range_start = a->range_start,
		.range_total = a->range_total,
		.body = BUF_INIT(call->max_body ? call->max_body : 65536),
	};
	if (a->status == 0)
		return err_set(e, -a->fail, a->fail_cls, "scripted failure");
	if (call->sink && (a->status == 200 || a->status == 206))
		r = pour(call, reply, body, len, e);
	else if (strcmp(call->method, "HEAD") != 0)
		r = buf_add(&reply->body, body, len);
	if (r == -EFBIG && !call->sink)
		return err_set(e, EFBIG, ERR_LIMIT, "body over the ceiling");
	if (r == 0 && a->fail)
		return err_set(e, -a->fail, a->fail_cls, "scripted failure");
	return r;
}

void rg_reply_done(struct rg_reply *r)
{
	free(r->content_type);
	free(r->digest);
	free(r->link_next);
	free(r->oci_filters);
	free(r->oci_subject);
	free(r->location);
	free(r->upload_range);
	buf_done(&r->body);
	*r = (struct rg_reply){ 0 };
}

/* Enough of errmap.c for these tests: a 404 counts only with the registry's words. */
errint_t rg_errmap(const struct rg_reply *reply, const char *host, const char *what, struct err *e)
{
	char code[40] = "";
	const char *at = strstr(buf_str(&reply->body), "\"code\":\"");
	errint_t r;

	if (at)
		(void)sscanf(at, "\"code\":\"%39[A-Z_]", code);
	if (reply->status == 404 && strstr(code, "_UNKNOWN"))
		r = err_set(e, ENOENT, ERR_NOTFOUND, "%s has no %s", host, what);
	else if (reply->status == 401 || reply->status == 403)
		r = err_set(e, EACCES, ERR_AUTH, "%s refused %s", host, what);
	else
		r = err_set(e, EIO, ERR_NET, "%s answered %d for %s", host, reply->status, what);
	if (e) {
		e->http = reply->status;
		(void)snprintf(e->code, sizeof(e->code), "%s", code);
	}
	return r;
}

errint_t rg_host_get(struct rg_client *c, const char *host, bool plain, struct rg_host **ret,
		     struct err *e)
{
	(void)c;
	(void)host;
	(void)plain;
	(void)e;
	*ret = &the_host;
	the_host.refs++;
	return 0;
}

void rg_host_put(struct rg_host *h)
{
	h->refs--;
}

const char *rg_host_name(const struct rg_host *h)
{
	(void)h;
	return "fake.example";
}

void rg_host_describe_auth(struct rg_host *h, struct buf *out)
{
	(void)h;
	(void)buf_adds(out, "anonymous\n");
}

static bool retry(unsigned attempt, enum err_class cls, int http, int64_t retry_after_s,
		  uint64_t *ret_delay_ns)
{
	(void)cls;
	(void)http;
	(void)retry_after_s;
	*ret_delay_ns = 1;
	return attempt <= 3;
}

const struct rg_opts *rg_client_opts(const struct rg_client *c)
{
	static const struct rg_opts opts = { .retry = retry };

	(void)c;
	return &opts;
}
