/*
 * http.c - the network engine: the thread that drives libcurl, its inbox and its lanes
 *
 * Threads: the network thread alone calls curl_multi_* and curl_easy_pause, and owns every easy
 * handle from START to the end of its transfer.  Callers make the easy handle, post an action
 * (START, RESUME, ABORT) to the inbox, wake the thread, and sleep on their transfer's condition.
 *
 * Lanes: requests of one kind to one host share a limit; blobs and small requests never share one,
 * so a manifest does not queue behind layers.
 */
#include "registry/http_priv.h"

#include <curl/curl.h>
#include <signal.h>
#include <string.h>

#include "util/clock.h"
#include "util/stats.h"

#define TICK_MS 250
#define IDLE_CONNECTIONS 64L

/* Transfers of one kind to one host. */
struct lane {
	struct lane *next;
	char *key;
	enum rg_lane kind;
	unsigned active;
	struct xfer *wait, **wait_end;
};

struct http {
	CURLM *multi;
	pthread_t thread;
	struct http_conf conf;
	unsigned host_transfers;

	pthread_mutex_t lock;
	pthread_cond_t idle;		/* stopping: a caller left or posted */
	struct xfer *inbox, **inbox_end;
	unsigned callers;
	bool stop;

	/* network thread only */
	struct xfer *active;
	struct lane *lanes;
};

/* ---- the inbox ---- */

void xfer_post(struct http *h, struct xfer *x, unsigned action)
{
	{
		LOCK_SCOPE(&h->lock);
		x->actions |= action;
		if (!x->inboxed) {
			x->inboxed = true;
			x->inbox_next = NULL;
			*h->inbox_end = x;
			h->inbox_end = &x->inbox_next;
			atomic_fetch_add(&x->refs, 1);
		}
		if (h->stop)
			pthread_cond_broadcast(&h->idle);
	}
	(void)curl_multi_wakeup(h->multi);
}

/* ---- the network thread ---- */

static struct lane *lane_of(struct http *h, const struct xfer *x)
{
	struct lane *l;

	for (l = h->lanes; l; l = l->next)
		if (l->kind == x->lane_kind && strcmp(l->key, x->lane_key) == 0)
			return l;
	l = calloc(1, sizeof(*l));
	if (!l)
		return NULL;
	l->key = strdup(x->lane_key);
	if (!l->key) {
		free(l);
		return NULL;
	}
	l->kind = x->lane_kind;
	l->wait_end = &l->wait;
	l->next = h->lanes;
	h->lanes = l;
	return l;
}

static void lane_drop_if_idle(struct http *h, struct lane *l)
{
	if (l->active > 0 || l->wait)
		return;
	for (struct lane **p = &h->lanes; *p; p = &(*p)->next)
		if (*p == l) {
			*p = l->next;
			free(l->key);
			free(l);
			return;
		}
}

static enum xfer_end end_of(const struct xfer *x, CURLcode code)
{
	if (x->refused && (code == CURLE_COULDNT_CONNECT || code == CURLE_ABORTED_BY_CALLBACK))
		return XFER_REFUSED;
	switch ((int)code) {
	case CURLE_OK:
		return XFER_OK;
	case CURLE_COULDNT_RESOLVE_HOST:
		return XFER_DNS;
	case CURLE_COULDNT_RESOLVE_PROXY:
		return XFER_PROXY_DNS;
	case CURLE_COULDNT_CONNECT:
		return XFER_CONNECT;
	case CURLE_OPERATION_TIMEDOUT:
		return XFER_CONNECT_TIMEOUT;
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_ISSUER_ERROR:
		return XFER_TLS;
	case CURLE_OUT_OF_MEMORY:
		return XFER_MEMORY;
	default:
		return XFER_BROKEN;
	}
}

/* The transfer is over: tell the caller, drop the network thread's reference. */
static void finish(struct xfer *x, enum xfer_end end)
{
	long os_errno = 0;

	(void)curl_easy_getinfo(x->easy, CURLINFO_OS_ERRNO, &os_errno);
	{
		LOCK_SCOPE(&x->lock);
		if (x->end == XFER_OK)
			x->end = end;
		x->os_errno = (int)os_errno;
		x->done = true;
		pthread_cond_broadcast(&x->cond);
	}
	xfer_unref(x);
}

/* False: libcurl would not have it, and it has ended. */
static bool activate(struct http *h, struct xfer *x)
{
	if (curl_multi_add_handle(h->multi, x->easy) != CURLM_OK) {
		x->lane = NULL;
		finish(x, XFER_MEMORY);
		return false;
	}
	x->active = true;
	x->next = h->active;
	h->active = x;
	x->progress_ns = x->start_ns = clock_mono_ns();
	stat_inc(STAT_HTTP_REQUESTS);
	stat_inc(STAT_HTTP_ACTIVE);
	return true;
}

/* The lane may be gone afterwards. */
static void lane_run(struct http *h, struct lane *l)
{
	unsigned limit = l->kind == RG_LANE_BLOB ? h->host_transfers : HTTP_SMALL_PER_HOST;

	while (l->wait && l->active < limit) {
		struct xfer *x = l->wait;

		l->wait = x->next;
		if (!l->wait)
			l->wait_end = &l->wait;
		if (activate(h, x))
			l->active++;
	}
	lane_drop_if_idle(h, l);
}

static void unlink_xfer(struct xfer **list, struct xfer *x)
{
	for (; *list; list = &(*list)->next)
		if (*list == x) {
			*list = x->next;
			return;
		}
}

static void end_xfer(struct http *h, struct xfer *x, enum xfer_end end)
{
	struct lane *l = x->lane;

	if (x->active) {
		unlink_xfer(&h->active, x);
		(void)curl_multi_remove_handle(h->multi, x->easy);
		x->active = false;
		l->active--;
		stat_dec(STAT_HTTP_ACTIVE);
	} else {
		unlink_xfer(&l->wait, x);
		for (l->wait_end = &l->wait; *l->wait_end; l->wait_end = &(*l->wait_end)->next)
			;
	}
	x->lane = NULL;
	finish(x, end);
	lane_run(h, l);
}

static void start(struct http *h, struct xfer *x)
{
	x->lane = lane_of(h, x);
	atomic_fetch_add(&x->refs, 1);
	if (!x->lane) {
		finish(x, XFER_MEMORY);
		return;
	}
	x->next = NULL;
	*x->lane->wait_end = x;
	x->lane->wait_end = &x->next;
	lane_run(h, x->lane);
}

static void act(struct http *h, struct xfer *x, unsigned actions)
{
	if (actions & XFER_START && !(actions & XFER_ABORT))
		start(h, x);
	if (actions & XFER_ABORT && x->lane)
		end_xfer(h, x, XFER_CANCELLED);
	else if (actions & XFER_RESUME && x->lane && x->active) {
		xfer_progress(x, 0, true);
		(void)curl_easy_pause(x->easy, CURLPAUSE_CONT);
	}
}

/* Returns false when the engine is to stop. */
static bool read_inbox(struct http *h)
{
	for (;;) {
		struct xfer *x;
		unsigned actions;

		{
			LOCK_SCOPE(&h->lock);
			if (!h->inbox)
				return !h->stop;
			x = h->inbox;
			h->inbox = x->inbox_next;
			if (!h->inbox)
				h->inbox_end = &h->inbox;
			actions = x->actions;
			x->actions = 0;
			x->inboxed = false;
		}
		act(h, x, actions);
		xfer_unref(x);
	}
}

static void read_results(struct http *h)
{
	CURLMsg *m;
	int left;

	while ((m = curl_multi_info_read(h->multi, &left))) {
		struct xfer *x = NULL;

		if (m->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &x);
		end_xfer(h, x, end_of(x, m->data.result));
	}
}

/* Enough to count as progress, and yet it would take for ever. */
static bool is_trickle(const struct http *h, const struct xfer *x, uint64_t now)
{
	uint64_t grace = MAX_OF(HTTP_SMALL_GRACE_NS, 4 * h->conf.stall_ns), age;

	if (x->lane_kind == RG_LANE_BLOB || now <= x->start_ns + grace)
		return false;
	age = (now - x->start_ns) / NSEC_PER_SEC;
	return x->total / HTTP_SMALL_RATE < age;
}

static void check_stalls(struct http *h)
{
	uint64_t now = clock_mono_ns();
	struct xfer *x, *next;

	for (x = h->active; x; x = next) {
		bool paused;

		next = x->next;
		{
			LOCK_SCOPE(&x->lock);
			paused = x->paused || x->up.starving;
		}
		if (paused)
			x->progress_ns = now;
		else if (now > x->progress_ns && now - x->progress_ns > x->stall_ns)
			end_xfer(h, x, XFER_STALLED);
		else if (is_trickle(h, x, now))
			end_xfer(h, x, XFER_SLOW);
	}
}

static void *net_thread(void *arg)
{
	struct http *h = arg;
	uint64_t tick = 0;
	int running;

	while (read_inbox(h)) {
		(void)curl_multi_perform(h->multi, &running);
		read_results(h);
		if (clock_mono_ns() - tick > TICK_MS * NSEC_PER_MSEC) {
			tick = clock_mono_ns();
			check_stalls(h);
		}
		(void)curl_multi_poll(h->multi, NULL, 0, h->active ? TICK_MS : 10000, NULL);
	}
	while (h->active)
		end_xfer(h, h->active, XFER_CANCELLED);
	while (h->lanes && h->lanes->wait)
		end_xfer(h, h->lanes->wait, XFER_CANCELLED);
	return NULL;
}

/* ---- starting and stopping ---- */

static errint_t spawn_thread(struct http *h)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&h->thread, NULL, net_thread, h);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r == 0)
		(void)pthread_setname_np(h->thread, "rfs-net");
	return -r;
}

static void http_free(struct http *h)
{
	if (h->multi)
		(void)curl_multi_cleanup(h->multi);
	pthread_cond_destroy(&h->idle);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

errint_t http_new(const struct rg_opts *opts, struct http **ret, struct err *e)
{
	struct http *h = calloc(1, sizeof(*h));

	if (!h)
		return err_set(e, ENOMEM, ERR_LOCAL, "no memory for the network engine");
	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->idle, NULL);
	h->inbox_end = &h->inbox;
	h->host_transfers = opts->host_transfers ? opts->host_transfers : HTTP_BLOBS_PER_HOST;
	h->conf.connect_ns =
		opts->connect_timeout_ns ? opts->connect_timeout_ns : 10 * NSEC_PER_SEC;
	h->conf.stall_ns = opts->stall_timeout_ns ? opts->stall_timeout_ns : 30 * NSEC_PER_SEC;
	h->conf.insecure = opts->tls_verify_off;
	h->conf.ca_file = getenv("SSL_CERT_FILE");
	if (curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK)
		h->multi = curl_multi_init();
	if (h->multi)
		(void)curl_multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, IDLE_CONNECTIONS);
	if (!h->multi || spawn_thread(h) < 0) {
		http_free(h);
		return err_set(e, ENOMEM, ERR_LOCAL, "the network thread could not be started");
	}
	*ret = h;
	return 0;
}

/* Answers what was posted after the network thread had gone. */
static void fail_inbox(struct http *h)
{
	while (h->inbox) {
		struct xfer *x = h->inbox;

		h->inbox = x->inbox_next;
		if (x->actions & XFER_START) {
			atomic_fetch_add(&x->refs, 1);
			finish(x, XFER_CANCELLED);
		}
		xfer_unref(x);
	}
	h->inbox_end = &h->inbox;
}

struct http *http_stop(struct http *h)
{
	if (!h)
		return NULL;
	pthread_mutex_lock(&h->lock);
	h->stop = true;
	pthread_mutex_unlock(&h->lock);
	(void)curl_multi_wakeup(h->multi);
	pthread_join(h->thread, NULL);
	pthread_mutex_lock(&h->lock);
	fail_inbox(h);
	while (h->callers > 0) {
		pthread_cond_wait(&h->idle, &h->lock);
		fail_inbox(h);
	}
	pthread_mutex_unlock(&h->lock);
	http_free(h);
	return NULL;
}

bool http_enter(struct http *h)
{
	LOCK_SCOPE(&h->lock);
	if (h->stop)
		return false;
	h->callers++;
	return true;
}

void http_leave(struct http *h)
{
	LOCK_SCOPE(&h->lock);
	if (--h->callers == 0)
		pthread_cond_broadcast(&h->idle);
}

const struct http_conf *http_conf(const struct http *h)
{
	return &h->conf;
}
