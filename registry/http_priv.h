/*
 * http_priv.h - one transfer, shared by the network thread and its caller
 *
 * http.c drives transfers, http_xfer.c sets them up and takes what libcurl delivers, http_call.c is
 * the caller's side, http_send.c both sides of a request's body, http_proxy.c knows which of them a proxy carries.
 *
 * A transfer is referenced by its caller, by the network thread while it is active or waits in a
 * lane, and by the inbox.  A caller that gives up posts ABORT and leaves at once; the ring lives
 * until the last reference goes.  x->lock is held neither across a sink nor across a call to
 * libcurl.  Lock order: cancel.lock -> x->lock; the engine's own lock is a leaf.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "registry/http.h"

#define XFER_DETAIL_MAX 256	/* as CURL_ERROR_SIZE */

/* Why a transfer ended. */
enum xfer_end {
	XFER_OK = 0,
	XFER_CANCELLED,
	XFER_STALLED,		/* no progress for the stall timeout */
	XFER_SLOW,		/* a small request that trickles */
	XFER_HEADERS,		/* over the ceiling for headers */
	XFER_DNS,
	XFER_PROXY_DNS,
	XFER_CONNECT,
	XFER_CONNECT_TIMEOUT,
	XFER_REFUSED,		/* the name stands for an address that the request excludes */
	XFER_TLS,
	XFER_MEMORY,
	XFER_BROKEN,		/* anything else: reset, closed early, not HTTP */
};

struct lane;
struct curl_slist;

struct xfer {
	atomic_int refs;
	pthread_mutex_t lock;
	pthread_cond_t cond;

	/* guarded by lock */
	char *ring;
	size_t cap, head, fill;		/* head: next byte to write; fill: bytes not yet consumed */
	bool paused, head_done, done, abandoned;
	int status;
	enum xfer_end end;
	int os_errno;
	bool peer_loopback;

	/* a body that the caller supplies bit by bit (http_send.c); guarded by lock */
	struct {
		char *ring;			/* set before START; NULL: none */
		size_t head, fill;		/* next byte to write; bytes not yet sent */
		uint64_t left;			/* bytes that libcurl has not asked for yet */
		bool starving;			/* it waits for more */
	} up;

	/* network thread until head_done, then the caller */
	char *headers;
	size_t headers_len, header_lines;

	/* set before START */
	char *lane_key;
	enum rg_lane lane_kind;
	struct curl_slist *slist;
	bool no_link_local, no_loopback, has_proxy;
	uint64_t stall_ns;		/* the network thread raises it when a body is out */
	char detail[XFER_DETAIL_MAX];	/* libcurl's words; complete when done */

	/* network thread only */
	void *easy;
	struct lane *lane;
	struct xfer *next;		/* in the list of active ones or in a lane's queue */
	bool active, refused;
	uint64_t start_ns;		/* when it became active */
	uint64_t total;			/* bytes of head and body */
	uint64_t progress_ns;		/* time of the last progress */
	size_t progress_bytes;		/* since then */

	/* guarded by the engine's lock */
	struct xfer *inbox_next;
	unsigned actions;
	bool inboxed;
};

/* Settings of the engine that each transfer gets; immutable. */
struct http_conf {
	uint64_t connect_ns, stall_ns;
	bool insecure;			/* no certificate is checked */
	const char *ca_file;		/* $SSL_CERT_FILE or NULL */
};

enum { XFER_START = 1, XFER_RESUME = 2, XFER_ABORT = 4 };

/* false: the engine is stopping.  Each true is followed by one http_leave. */
bool http_enter(struct http *h);
void http_leave(struct http *h);
/* NULL: no memory.  Referenced once; post XFER_START to begin. */
struct xfer *xfer_new(const struct http_conf *conf, const struct http_req *req);
void xfer_unref(struct xfer *x);
/* Network thread: n bytes came, or (phase) the transfer reached its next stage. */
void xfer_progress(struct xfer *x, size_t n, bool phase);
const struct http_conf *http_conf(const struct http *h);
void xfer_post(struct http *h, struct xfer *x, unsigned action);
/* The proxy for this URL by $https_proxy, $http_proxy, $all_proxy and $no_proxy; NULL = none. */
const char *http_proxy_for(const char *url);

/* ---- http_send.c ---- */

/* Sets method and body of a request that has one.  Nonzero: a CURLcode. */
int http_send_setup(struct xfer *x, const struct http_req *req);
/* The caller's side: supplies the body until it is out, or the answer or the end has come. */
errint_t http_send_body(struct http *h, struct xfer *x, const struct http_req *req, struct cancel *c,
			struct err *e) _must_check_;
errint_t http_cancelled(const struct http_req *req, struct err *e);
