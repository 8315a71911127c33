/*
 * http_send.c - the body of a request: from its caller through a ring to libcurl
 *
 * The other way round than an answer's: the caller's thread fills the ring from its read function,
 * the network thread empties it into libcurl and pauses the transfer when it is empty.  Bytes behind
 * the ring's head belong to the caller until supply() gives them over, so reading needs no lock.
 * Short bodies go to libcurl whole.
 *
 * A server may answer before it has read everything, with an error: then nobody wants the rest.
 */
#include "registry/http_priv.h"

#include <curl/curl.h>
#include <string.h>

#include "util/clock.h"
#include "util/stats.h"

#define RING_SEND (1u << 20)
#define SEND_PIECE (256u << 10)		/* bytes asked of the read function at once */
#define SEND_BUFFER (512L << 10)

/* ---- libcurl's side, on the network thread ---- */

static size_t on_read(char *dst, size_t size, size_t nmemb, void *arg)
{
	struct xfer *x = arg;
	size_t n, tail;

	LOCK_SCOPE(&x->lock);
	if (x->abandoned)
		return CURL_READFUNC_ABORT;
	if (x->up.left == 0)
		return 0;
	x->up.starving = x->up.fill == 0;
	if (x->up.starving)
		return CURL_READFUNC_PAUSE;
	tail = (x->up.head + RING_SEND - x->up.fill) % RING_SEND;
	n = MIN_OF(MIN_OF(size * nmemb, x->up.fill), RING_SEND - tail);
	memcpy(dst, x->up.ring + tail, n);
	x->up.fill -= n;
	x->up.left -= n;
	if (x->up.left == 0)
		x->stall_ns = MAX_OF(x->stall_ns, HTTP_THINK_NS);
	xfer_progress(x, n, x->up.left == 0);
	stat_add(STAT_HTTP_SENT, (int64_t)n);
	pthread_cond_broadcast(&x->cond);
	return n;
}

/* ---- setting up ---- */

/* No "Expect: 100-continue": registries seldom answer it, and libcurl would wait a second. */
static errint_t expect_nothing(struct xfer *x)
{
	struct curl_slist *l = curl_slist_append(x->slist, "Expect:");

	if (!l)
		return -ENOMEM;
	x->slist = l;
	return 0;
}

static CURLcode set_ring(struct xfer *x, const struct http_req *req)
{
	x->up.ring = malloc(RING_SEND);
	x->up.left = req->read_len;
	if (!x->up.ring)
		return CURLE_OUT_OF_MEMORY;
	curl_easy_setopt(x->easy, CURLOPT_UPLOAD, 1L);
	curl_easy_setopt(x->easy, CURLOPT_UPLOAD_BUFFERSIZE, SEND_BUFFER);
	curl_easy_setopt(x->easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)req->read_len);
	curl_easy_setopt(x->easy, CURLOPT_READFUNCTION, on_read);
	return curl_easy_setopt(x->easy, CURLOPT_READDATA, x);
}

static CURLcode set_whole(struct xfer *x, const struct http_req *req)
{
	curl_easy_setopt(x->easy, CURLOPT_POST, 1L);
	curl_easy_setopt(x->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)req->body_len);
	stat_add(STAT_HTTP_SENT, (int64_t)req->body_len);
	return curl_easy_setopt(x->easy, CURLOPT_COPYPOSTFIELDS, req->body ? req->body : "");
}

int http_send_setup(struct xfer *x, const struct http_req *req)
{
	CURLcode r = expect_nothing(x) < 0 ? CURLE_OUT_OF_MEMORY : CURLE_OK;

	if (r == CURLE_OK)
		r = curl_easy_setopt(x->easy, CURLOPT_HTTPHEADER, x->slist);
	if (r == CURLE_OK)
		r = req->read ? set_ring(x, req) : set_whole(x, req);
	if (r == CURLE_OK)
		r = curl_easy_setopt(x->easy, CURLOPT_CUSTOMREQUEST, req->method);
	return (int)r;
}

/* ---- the caller's side ---- */

/* Waits for room in the ring; *ret_n 0: no more is wanted. */
static errint_t await_room(struct xfer *x, const struct cancel *c, char **ret, size_t *ret_n)
{
	LOCK_SCOPE(&x->lock);
	while (!cancel_fired(c) && !x->done && !x->head_done && x->up.fill == RING_SEND)
		pthread_cond_wait(&x->cond, &x->lock);
	if (cancel_fired(c))
		return -ECANCELED;
	*ret = x->up.ring + x->up.head;
	*ret_n = x->done || x->head_done ? 0 :
		 MIN_OF(MIN_OF(RING_SEND - x->up.fill, RING_SEND - x->up.head), SEND_PIECE);
	return 0;
}

static void supply(struct http *h, struct xfer *x, size_t n)
{
	bool resume;

	{
		LOCK_SCOPE(&x->lock);
		x->up.head = (x->up.head + n) % RING_SEND;
		x->up.fill += n;
		resume = x->up.starving;
		x->up.starving = false;
	}
	if (resume)
		xfer_post(h, x, XFER_RESUME);
}

errint_t http_send_body(struct http *h, struct xfer *x, const struct http_req *req, struct cancel *c,
			struct err *e)
{
	for (uint64_t at = 0; at < req->read_len;) {
		size_t n = 0;
		char *dst;
		errint_t r = await_room(x, c, &dst, &n);

		if (r < 0)
			return http_cancelled(req, e);
		if (n == 0)
			return 0;
		n = (size_t)MIN_OF((uint64_t)n, req->read_len - at);
		r = req->read(req->read_ctx, at, dst, n, e);
		if (r < 0)
			return r;
		supply(h, x, n);
		at += n;
	}
	return 0;
}
