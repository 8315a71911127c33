/*
 * http.h - the network engine: one thread that owns libcurl (private to registry/)
 *
 * http_perform blocks its caller for one exchange: no redirects, no authentication, no retries
 * (transport.c and auth.c do these).  Body bytes cross from the network thread to the caller in a
 * bounded ring, so the head function and the sink run on the caller's thread and a slow sink slows
 * the server down, not the memory up.
 *
 * Time: connecting is bounded by the connect timeout; after that the server must keep sending.  A
 * transfer that is paused because its caller is busy is not the server's fault and does not count.
 * After a body has been sent whole, the server may think about it for HTTP_THINK_NS.
 * There is no bound on the whole of a blob, since layers have any size; a small request must have
 * moved HTTP_SMALL_RATE bytes a second on average once HTTP_SMALL_GRACE_NS (or four stall timeouts)
 * are over, so that nobody holds a caller by sending a little now and then.
 */
#pragma once

#include "registry/transport.h"
#include "util/clock.h"

#define HTTP_HEADERS_MAX (64u << 10)		/* bytes of all response headers */
#define HTTP_HEADER_LINES_MAX 256
#define HTTP_ERROR_BODY_MAX (64u << 10)		/* of a status >= 300; the rest is not read */
#define HTTP_SMALL_PER_HOST 16			/* requests at once in the small lane */
#define HTTP_BLOBS_PER_HOST 8			/* default for the blob lane */
#define HTTP_THINK_NS (300 * NSEC_PER_SEC)	/* ECR puts the parts of a layer together then */
#define HTTP_SMALL_GRACE_NS (120 * NSEC_PER_SEC)
#define HTTP_SMALL_RATE 8192			/* bytes a second: what a modem does */

struct http;

/* Files and PEM text are borrowed for the duration of the call. */
struct http_tls {
	const char *ca_pem;	/* trusted besides the system's; NULL = none */
	const char *cert, *key;	/* client pair, file names; NULL = none */
	bool insecure;		/* certificates are not checked */
};

struct http_res {
	int status;
	char *headers;		/* "Name: value" lines, each ended by NUL */
	size_t headers_len;
	struct buf body;	/* what was not given to the sink */
	uint64_t sunk;
	bool peer_loopback;	/* the answer came from this machine */
};

/* Fills dst with bytes [off, off + len) of a request's body.  The same bytes may be asked for again. */
typedef errint_t (*http_read_fn)(void *ctx, uint64_t off, void *dst, size_t len, struct err *e);

/* Sees status and headers before any body byte: 1 = body to the sink, 0 = to res->body, negative =
 * give up with this error. */
typedef errint_t (*http_head_fn)(void *ctx, const struct http_res *res, struct err *e);

struct http_req {
	const char *method;		/* "GET", "HEAD", "POST", "PUT", "PATCH" */
	const char *url;		/* from url_add */
	const char *host;		/* host[:port] for messages and for the lane */
	const char *const *headers;	/* "Name: value" */
	size_t n_headers;
	const void *body;		/* of all but GET and HEAD; may be secret */
	size_t body_len;
	http_read_fn read;		/* instead, for bodies of any size; called on the caller's
					   thread, and for the last time before http_perform returns */
	void *read_ctx;
	uint64_t read_len;		/* bytes, at least one */
	enum rg_lane lane;
	const struct http_tls *tls;	/* NULL = system defaults */
	uint64_t connect_timeout_ns;	/* 0: the engine's */
	/* refuse such addresses, whatever the name and whoever made the connection; not what a
	 * proxy connects to, which only the proxy knows */
	bool no_link_local, no_loopback;
	size_t max_body;		/* ceiling of a buffered body: -EFBIG */
	http_head_fn on_head;		/* or NULL */
	rg_sink_fn sink;
	void *ctx;			/* of both */
};

/* Timeouts, lane width and the switch for certificates come from opts. */
errint_t http_new(const struct rg_opts *opts, struct http **ret, struct err *e) _must_check_;
/* Ends every transfer with -ECANCELED, waits for their callers, joins the thread. */
struct http *http_stop(struct http *h);

/* res is zeroed or from an earlier call (and then emptied first); http_res_done in any case. */
errint_t http_perform(struct http *h, const struct http_req *req, struct http_res *res,
		      struct cancel *c, struct err *e) _must_check_;
void http_res_done(struct http_res *res);

/* The value of the next header of that name, NULL when there are no more; *it starts at 0. */
const char *http_header_next(const struct http_res *res, const char *name, size_t *it);
/* The first of that name. */
const char *http_header(const struct http_res *res, const char *name);
