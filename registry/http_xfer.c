/*
 * http_xfer.c - a transfer as libcurl sees it: how it is set up, and what libcurl calls back
 *
 * The callbacks run on the network thread.  They copy body bytes into the ring and pause the
 * transfer when it is full; they never block.
 */
#include "registry/http_priv.h"

#include <curl/curl.h>
#include <string.h>
#include <sys/socket.h>

#include "registry/ref.h"
#include "util/clock.h"
#include "util/stats.h"

#ifndef REGISTRYFS_VERSION
#define REGISTRYFS_VERSION "0.1.0"
#endif

#define RING_SMALL (64u << 10)		/* at least twice CURL_MAX_WRITE_SIZE */
#define RING_BLOB (1u << 20)
#define RECV_BUFFER_BLOB (512L << 10)
#define RECV_BUFFER_SMALL (32L << 10)
#define STALL_BYTES 256			/* fewer than this in a stall timeout is no progress */

void xfer_progress(struct xfer *x, size_t n, bool phase)
{
	x->progress_bytes += n;
	x->total += n;
	if (!phase && x->progress_bytes < STALL_BYTES)
		return;
	x->progress_bytes = 0;
	x->progress_ns = clock_mono_ns();
}

/* ---- libcurl's callbacks, on the network thread ---- */

static void headers_complete(struct xfer *x)
{
	const char *ip = NULL;
	long status = 0;

	curl_easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(x->easy, CURLINFO_PRIMARY_IP, &ip);
	xfer_progress(x, 0, true);
	if (status < 200)
		return;
	LOCK_SCOPE(&x->lock);
	x->status = (int)status;
	x->peer_loopback = ip && ref_host_is_loopback(ip);
	x->head_done = true;
	pthread_cond_broadcast(&x->cond);
}

static errint_t store_header(struct xfer *x, const char *p, size_t n)
{
	char *grown;

	if (x->headers_len + n + 1 > HTTP_HEADERS_MAX)
		return -EFBIG;
	grown = realloc(x->headers, x->headers_len + n + 1);
	if (!grown)
		return -ENOMEM;
	x->headers = grown;
	memcpy(x->headers + x->headers_len, p, n);
	x->headers[x->headers_len + n] = '\0';
	x->headers_len += n + 1;
	return 0;
}

static size_t on_header(char *p, size_t size, size_t nmemb, void *arg)
{
	struct xfer *x = arg;
	size_t len = size * nmemb, n = len;
	errint_t r;

	xfer_progress(x, len, x->headers_len == 0);
	if (x->head_done)
		return len; /* trailers say nothing that we use */
	while (n > 0 && (p[n - 1] == '\r' || p[n - 1] == '\n'))
		n--;
	if (n == 0) {
		headers_complete(x);
		return len;
	}
	/* interim answers (1xx) start a new head, but the lines are counted over all of them */
	r = ++x->header_lines > HTTP_HEADER_LINES_MAX ? -EFBIG : 0;
	if (n >= 5 && memcmp(p, "HTTP/", 5) == 0)
		x->headers_len = 0;
	else if (r == 0 && !memchr(p, '\0', n))
		r = store_header(x, p, n);
	if (r < 0) {
		LOCK_SCOPE(&x->lock);
		x->end = r == -EFBIG ? XFER_HEADERS : XFER_MEMORY;
		return 0;
	}
	return len;
}

static size_t on_body(char *p, size_t size, size_t nmemb, void *arg)
{
	struct xfer *x = arg;
	size_t len = size * nmemb, first;

	LOCK_SCOPE(&x->lock);
	if (x->abandoned)
		return 0;
	if (x->cap - x->fill < len) {
		x->paused = true;
		return CURL_WRITEFUNC_PAUSE;
	}
	xfer_progress(x, len, false);
	first = MIN_OF(len, x->cap - x->head);
	memcpy(x->ring + x->head, p, first);
	memcpy(x->ring, p + first, len - first);
	x->head = (x->head + len) % x->cap;
	x->fill += len;
	stat_add(STAT_HTTP_BYTES, (int64_t)len);
	pthread_cond_broadcast(&x->cond);
	return len;
}

static bool allowed(const struct xfer *x, enum addr_class class)
{
	return !(x->no_link_local && class == ADDR_FORBIDDEN) &&
	       !(x->no_loopback && class == ADDR_LOOPBACK);
}

/* The address behind the name, which is what a hostile DNS answer cannot disguise. */
static curl_socket_t on_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *sa)
{
	struct xfer *x = arg;

	if (purpose != CURLSOCKTYPE_IPCXN)
		return CURL_SOCKET_BAD;
	if (!allowed(x, ref_addr_class(&sa->addr))) {
		x->refused = true;
		return CURL_SOCKET_BAD;
	}
	return socket(sa->family, sa->socktype | SOCK_CLOEXEC, sa->protocol);
}

/* Before the request goes out: a connection from the pool has made its socket for somebody else,
 * with other guards. */
static int on_connected(void *arg, char *ip, char *local_ip, int port, int local_port)
{
	struct xfer *x = arg;
	enum addr_class class = ADDR_USUAL;

	(void)local_ip;
	(void)port;
	(void)local_port;
	if (!ip || !*ip || ref_host_is_link_local(ip))
		class = ADDR_FORBIDDEN;
	else if (ref_host_is_loopback(ip))
		class = ADDR_LOOPBACK;
	x->refused = !allowed(x, class);
	return x->refused ? CURL_PREREQFUNC_ABORT : CURL_PREREQFUNC_OK;
}

/* ---- making and freeing ---- */

void xfer_unref(struct xfer *x)
{
	if (atomic_fetch_sub(&x->refs, 1) != 1)
		return;
	if (x->easy)
		curl_easy_cleanup(x->easy);
	for (struct curl_slist *l = x->slist; l; l = l->next)
		explicit_bzero(l->data, strlen(l->data)); /* Authorization is among them */
	curl_slist_free_all(x->slist);
	pthread_cond_destroy(&x->cond);
	pthread_mutex_destroy(&x->lock);
	free(x->ring);
	free(x->up.ring);
	free(x->headers);
	free(x->lane_key);
	free(x);
}

static CURLcode set_tls(const struct http_conf *conf, CURL *c, const struct http_tls *t)
{
	struct curl_blob blob = { .flags = CURL_BLOB_COPY };
	bool insecure = conf->insecure || (t && t->insecure);
	CURLcode r = CURLE_OK;

	curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, insecure ? 0L : 1L);
	curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, insecure ? 0L : 2L);
	curl_easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	if (conf->ca_file && *conf->ca_file)
		r = curl_easy_setopt(c, CURLOPT_CAINFO, conf->ca_file);
	if (t && t->ca_pem && r == CURLE_OK) {
		/* replaces CAINFO; the system's CAPATH stays trusted beside it */
		blob.data = (void *)(uintptr_t)t->ca_pem;
		blob.len = strlen(t->ca_pem);
		r = curl_easy_setopt(c, CURLOPT_CAINFO_BLOB, &blob);
	}
	if (t && t->cert && r == CURLE_OK)
		r = curl_easy_setopt(c, CURLOPT_SSLCERT, t->cert);
	if (t && t->key && r == CURLE_OK)
		r = curl_easy_setopt(c, CURLOPT_SSLKEY, t->key);
	return r;
}

static errint_t set_headers(struct xfer *x, const struct http_req *req)
{
	for (size_t i = 0; i < req->n_headers; i++) {
		struct curl_slist *l = curl_slist_append(x->slist, req->headers[i]);

		if (!l)
			return -ENOMEM;
		x->slist = l;
	}
	return 0;
}

static int set_method(struct xfer *x, const struct http_req *req)
{
	if (strcmp(req->method, "HEAD") == 0)
		return (int)curl_easy_setopt(x->easy, CURLOPT_NOBODY, 1L);
	if (strcmp(req->method, "GET") == 0)
		return (int)curl_easy_setopt(x->easy, CURLOPT_HTTPGET, 1L);
	return http_send_setup(x, req);
}

/* "" = none, whatever the environment says: libcurl must not decide otherwise than we did. */
static CURLcode set_proxy(CURL *c, const char *proxy)
{
	CURLcode r = curl_easy_setopt(c, CURLOPT_NOPROXY, "");

	return r != CURLE_OK ? r : curl_easy_setopt(c, CURLOPT_PROXY, proxy ? proxy : "");
}

static uint64_t connect_ns(const struct http_conf *conf, const struct http_req *req)
{
	return req->connect_timeout_ns ? req->connect_timeout_ns : conf->connect_ns;
}

static void set_fixed(const struct http_conf *conf, struct xfer *x, const struct http_req *req)
{
	bool blob = req->lane == RG_LANE_BLOB;
	CURL *c = x->easy;

	curl_easy_setopt(c, CURLOPT_PRIVATE, x);
	curl_easy_setopt(c, CURLOPT_ERRORBUFFER, x->detail);
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c, CURLOPT_NOPROGRESS, 1L);
	/* otherwise giving up on a slow DNS answer makes the network thread wait for it */
	curl_easy_setopt(c, CURLOPT_QUICK_EXIT, 1L);
	curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(c, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	curl_easy_setopt(c, CURLOPT_USERAGENT, "registryfs/" REGISTRYFS_VERSION);
	curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS,
			 (long)(connect_ns(conf, req) / NSEC_PER_MSEC));
	curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(c, CURLOPT_BUFFERSIZE, blob ? RECV_BUFFER_BLOB : RECV_BUFFER_SMALL);
	curl_easy_setopt(c, CURLOPT_HTTPHEADER, x->slist);
	curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(c, CURLOPT_HEADERDATA, x);
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, x);
	curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, on_socket);
	curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, x);
	curl_easy_setopt(c, CURLOPT_PREREQFUNCTION, on_connected);
	curl_easy_setopt(c, CURLOPT_PREREQDATA, x);
}

static errint_t xfer_setup(const struct http_conf *conf, struct xfer *x, const struct http_req *req)
{
	const char *proxy = http_proxy_for(req->url);

	x->lane_kind = req->lane;
	x->stall_ns = MAX_OF(conf->stall_ns, connect_ns(conf, req));
	x->lane_key = strdup(req->host);
	x->cap = req->lane == RG_LANE_BLOB ? RING_BLOB : RING_SMALL;
	x->ring = malloc(x->cap);
	x->easy = curl_easy_init();
	/* behind a proxy the address that we connect to says nothing about the target */
	x->has_proxy = proxy != NULL;
	x->no_link_local = req->no_link_local && !proxy;
	x->no_loopback = req->no_loopback && !proxy;
	if (!x->lane_key || !x->ring || !x->easy || set_headers(x, req) < 0)
		return -ENOMEM;
	set_fixed(conf, x, req);
	if (set_method(x, req) != CURLE_OK ||
	    curl_easy_setopt(x->easy, CURLOPT_URL, req->url) != CURLE_OK ||
	    set_proxy(x->easy, proxy) != CURLE_OK ||
	    set_tls(conf, x->easy, req->tls) != CURLE_OK)
		return -ENOMEM;
	return 0;
}

struct xfer *xfer_new(const struct http_conf *conf, const struct http_req *req)
{
	struct xfer *x = calloc(1, sizeof(*x));

	if (!x)
		return NULL;
	atomic_init(&x->refs, 1);
	pthread_mutex_init(&x->lock, NULL);
	pthread_cond_init(&x->cond, NULL);
	if (xfer_setup(conf, x, req) < 0) {
		xfer_unref(x);
		return NULL;
	}
	return x;
}
