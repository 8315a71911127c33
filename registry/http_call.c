/*
 * http_call.c - a caller's side of a transfer: waiting, draining the ring, errors as sentences
 *
 * Runs on the caller's thread only.  Bytes in the ring between its tail and its fill belong to the
 * caller until consume() returns them, so the sink reads them without the lock.
 */
#include "registry/http_priv.h"

#include <string.h>
#include <strings.h>

#include "util/clock.h"

#define SINK_CHUNK (256u << 10)		/* bytes given to a sink at once */

/* ---- waiting ---- */

static void wake_caller(void *arg)
{
	struct xfer *x = arg;

	LOCK_SCOPE(&x->lock);
	pthread_cond_broadcast(&x->cond);
}

/* Waits for the head (data == NULL) or for bytes; *ret_len 0 = no more will come. */
static errint_t await(struct xfer *x, const struct cancel *c, const char **data, size_t *ret_len)
{
	LOCK_SCOPE(&x->lock);
	while (!cancel_fired(c) && !x->done && (data ? x->fill == 0 : !x->head_done))
		pthread_cond_wait(&x->cond, &x->lock);
	if (cancel_fired(c))
		return -ECANCELED;
	if (data) {
		size_t tail = (x->head + x->cap - x->fill) % x->cap;

		*data = x->ring + tail;
		*ret_len = MIN_OF(MIN_OF(x->fill, x->cap - tail), SINK_CHUNK);
	}
	return 0;
}

static void consume(struct http *h, struct xfer *x, size_t n)
{
	bool resume;

	{
		LOCK_SCOPE(&x->lock);
		x->fill -= n;
		resume = x->paused && x->fill <= x->cap / 2;
		if (resume)
			x->paused = false;
	}
	if (resume)
		xfer_post(h, x, XFER_RESUME);
}

static errint_t tls_error(const struct xfer *x, const struct http_req *req, struct err *e)
{
	if (strstr(x->detail, "wrong version number") ||
	    strstr(x->detail, "packet length too long"))
		return err_set(e, EIO, ERR_NET,
			       "%s does not speak TLS; write http://%s if it is a plain registry",
			       req->host, req->host);
	return err_set(e, EIO, ERR_NET,
		       "no trusted TLS connection to %s (%.90s); its CA certificate belongs in "
		       "~/.config/containers/certs.d/%s/ca.crt",
		       req->host, x->detail, req->host);
}

static errint_t stall_error(const struct xfer *x, const struct http_req *req, struct err *e)
{
	return err_set(e, ETIMEDOUT, ERR_TIMEOUT, "%s sent nothing for %llu seconds", req->host,
		       (unsigned long long)(x->stall_ns / NSEC_PER_SEC));
}

static errint_t connect_error(const struct xfer *x, const struct http_req *req, struct err *e)
{
	return err_set(e, EHOSTUNREACH, ERR_NET, "%s cannot be reached%s%s", req->host,
		       x->os_errno ? ": " : "", x->os_errno ? strerror(x->os_errno) : "");
}

errint_t http_cancelled(const struct http_req *req, struct err *e)
{
	return err_set(e, ECANCELED, ERR_CANCELLED, "the request to %s was cancelled", req->host);
}

static errint_t no_memory(const struct http_req *req, struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "no memory for a request to %s", req->host);
}

static errint_t end_error(const struct xfer *x, const struct http_req *req, struct err *e)
{
	switch (x->end) {
	case XFER_OK:
		return x->head_done ? 0 : err_set(e, EIO, ERR_NET, "%s sent no answer", req->host);
	case XFER_CANCELLED:
		return http_cancelled(req, e);
	case XFER_STALLED:
		return stall_error(x, req, e);
	case XFER_SLOW:
		return err_set(e, ETIMEDOUT, ERR_TIMEOUT, "%s sends its answer too slowly (less "
			       "than %d bytes a second)", req->host, HTTP_SMALL_RATE);
	case XFER_HEADERS:
		return err_set(e, EFBIG, ERR_LIMIT,
			       "%s sent more than %u bytes or %d lines of headers", req->host,
			       HTTP_HEADERS_MAX, HTTP_HEADER_LINES_MAX);
	case XFER_DNS:
		return err_set(e, EHOSTUNREACH, ERR_NET, "DNS has no address for %s", req->host);
	case XFER_PROXY_DNS:
		return err_set(e, EHOSTUNREACH, ERR_NET,
			       "DNS has no address for the proxy (%.120s)", x->detail);
	case XFER_CONNECT:
		return connect_error(x, req, e);
	case XFER_CONNECT_TIMEOUT:
		return err_set(e, ETIMEDOUT, ERR_TIMEOUT, "%s did not accept a connection in time",
			       req->host);
	case XFER_REFUSED:
		return err_set(e, EACCES, ERR_AUTH,
			       "an answer pointed at %s, whose address is local; refused",
			       req->host);
	case XFER_TLS:
		return tls_error(x, req, e);
	case XFER_MEMORY:
		return no_memory(req, e);
	case XFER_BROKEN:
		break;
	}
	return err_set(e, EIO, ERR_NET, "the connection to %s broke (%.120s)", req->host,
		       x->detail);
}

static errint_t outcome(struct xfer *x, const struct http_req *req, struct err *e)
{
	LOCK_SCOPE(&x->lock);
	return end_error(x, req, e);
}

/* The status of an error or redirect counts even when its page breaks off: docker-registry 2.8
 * announces a whole blob behind a 416. */
static errint_t error_outcome(struct xfer *x, const struct http_req *req, struct err *e)
{
	{
		LOCK_SCOPE(&x->lock);
		if (x->end == XFER_BROKEN || x->end == XFER_STALLED || x->end == XFER_SLOW)
			return 0;
	}
	return outcome(x, req, e);
}

/* One piece of body: to the sink, or into the buffer.  1 = enough, stop reading. */
static errint_t deliver(const struct http_req *req, struct http_res *res, bool sink, const char *p,
			size_t n, struct err *e)
{
	errint_t r;

	if (sink) {
		r = req->sink(req->ctx, p, n, e);
		res->sunk += n;
		return r < 0 ? r : 0;
	}
	if (res->status >= 300 && res->body.len + n >= HTTP_ERROR_BODY_MAX) {
		r = buf_add(&res->body, p, HTTP_ERROR_BODY_MAX - res->body.len);
		return r < 0 ? err_set(e, -r, ERR_LOCAL, "no memory for an error page") : 1;
	}
	r = buf_add(&res->body, p, n);
	if (r == -EFBIG)
		return err_set(e, EFBIG, ERR_LIMIT,
			       "%s sent more than %zu bytes where less is allowed", req->host,
			       req->max_body);
	return r < 0 ? err_set(e, -r, ERR_LOCAL, "no memory for an answer of %s", req->host) : 0;
}

static errint_t read_body(struct http *h, struct xfer *x, const struct http_req *req,
			  struct http_res *res, bool sink, struct cancel *c, struct err *e)
{
	for (;;) {
		const char *p = NULL;
		size_t n = 0;
		errint_t r = await(x, c, &p, &n);

		if (r < 0)
			return http_cancelled(req, e);
		if (n == 0)
			return res->status >= 300 ? error_outcome(x, req, e) : outcome(x, req, e);
		r = deliver(req, res, sink, p, n, e);
		if (r != 0)
			return r;
		consume(h, x, n);
	}
}

static errint_t read_answer(struct http *h, struct xfer *x, const struct http_req *req,
			    struct http_res *res, struct cancel *c, struct err *e)
{
	errint_t r = await(x, c, NULL, NULL);

	if (r < 0)
		return http_cancelled(req, e);
	if (!x->head_done)
		return outcome(x, req, e);
	res->status = x->status;
	res->peer_loopback = x->peer_loopback && !x->has_proxy;
	res->headers = steal_ptr(&x->headers);
	res->headers_len = x->headers_len;
	res->body.max = MAX_OF(req->max_body, res->status >= 300 ? HTTP_ERROR_BODY_MAX : 0);
	r = req->on_head ? req->on_head(req->ctx, res, e) : 0;
	if (r < 0)
		return r;
	r = read_body(h, x, req, res, r == 1 && req->sink, c, e);
	return r == 1 ? 0 : r;
}

/* Leaves the transfer to the network thread, which ends it if it still runs. */
static void abandon(struct http *h, struct xfer *x)
{
	bool done;

	{
		LOCK_SCOPE(&x->lock);
		x->abandoned = true;
		done = x->done;
	}
	if (!done)
		xfer_post(h, x, XFER_ABORT);
	xfer_unref(x);
}

errint_t http_perform(struct http *h, const struct http_req *req, struct http_res *res,
		      struct cancel *c, struct err *e)
{
	struct xfer *x;
	errint_t r;

	http_res_done(res);
	if (cancel_fired(c) || !http_enter(h))
		return http_cancelled(req, e);
	x = xfer_new(http_conf(h), req);
	if (!x) {
		http_leave(h);
		return no_memory(req, e);
	}
	if (c)
		cancel_set_wake(c, wake_caller, x);
	xfer_post(h, x, XFER_START);
	r = req->read ? http_send_body(h, x, req, c, e) : 0;
	if (r == 0)
		r = read_answer(h, x, req, res, c, e);
	if (c)
		cancel_set_wake(c, NULL, NULL);
	abandon(h, x);
	http_leave(h);
	return r;
}

/* ---- answers ---- */

void http_res_done(struct http_res *res)
{
	free(res->headers);
	buf_done(&res->body);
	*res = (struct http_res){ 0 };
}

const char *http_header_next(const struct http_res *res, const char *name, size_t *it)
{
	size_t n = strlen(name);

	while (*it < res->headers_len) {
		const char *line = res->headers + *it;

		*it += strlen(line) + 1;
		if (strncasecmp(line, name, n) == 0 && line[n] == ':')
			return line + n + 1 + strspn(line + n + 1, " \t");
	}
	return NULL;
}

const char *http_header(const struct http_res *res, const char *name)
{
	size_t it = 0;

	return http_header_next(res, name, &it);
}
