/*
 * inflate_ahead.c - see inflate_ahead.h
 *
 * Bytes are gathered in runs: from a place where a member or frame (seems to) begin to the first
 * such place inflate_ahead_run_min bytes or more behind it.  What comes between, because a single one is larger
 * than RUN_MAX or nobody knows where one begins, is a run as well, which nobody decodes ahead.
 * Runs wait in a ring, oldest first.  When the ring is full, the stream comes to the oldest one;
 * while another thread still decodes that, this one decodes another.
 *
 * A run counts as decoded when a decoder that began at its start stands between two members or
 * frames exactly at its end.
 *
 * Threads: the owner's and a pool's.  A run belongs to whom its state says; the lock is for states.
 */
#include "cache/inflate_ahead.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "cache/inflate_scan.h"
#include "util/pool.h"
#include "util/stats.h"

#define RUN_MAX (4u << 20)
#define RUN_OUT_MAX (9u << 20)		/* pzstd's frames have 8 MiB */
#define RUN_KEEP (2u << 20)		/* larger buffers are not kept for the next run */
#define THREADS_MAX 7
#define RUNS_MAX (THREADS_MAX + 3)
#define FAILS_MAX 4			/* and more than were right: the guesses are not good here */

enum mode { WATCHING, RUNNING, PASSING };
/* Of the owner: FREE, FILLING, PLAIN, READY, FAILED.  WAITING: of who takes it.  BUSY: of a thread. */
enum run_state { FREE = 0, FILLING, PLAIN, WAITING, BUSY, READY, FAILED };

struct run {
	struct ahead *a;
	enum run_state state;	/* under the lock while there is a pool */
	bool begins;		/* with a member or frame, as far as we know */
	uint64_t start;
	struct buf in, out;
};

struct ahead {
	const struct inflate *z;
	const struct ahead_ops *ops;
	void *ctx;
	enum mode mode;
	struct inflate_scan scan;
	uint64_t in;		/* bytes that came */
	unsigned fails, hits;
	long cores;
	atomic_size_t bytes;	/* in all buffers of runs */
	struct pool *pool;
	size_t n_runs, oldest, filling;	/* counted up for ever; the ring has those modulo n_runs */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct run runs[RUNS_MAX];
};

long inflate_ahead_cores;
size_t inflate_ahead_run_min = 256u << 10;	/* compressed */
bool inflate_ahead_patient;
static atomic_long streams;	/* all of them, also those that pass through */
static atomic_long helpers;	/* threads of all pools */

/* ---- decoding a run, on any thread */

static errint_t run_out(void *ctx, const void *data, size_t len, struct err *e)
{
	struct run *u = ctx;

	if (atomic_fetch_add(&u->a->bytes, len) > AHEAD_BYTES_MAX || buf_add(&u->out, data, len) < 0) {
		atomic_fetch_sub(&u->a->bytes, len);
		return err_set(e, ENOMEM, ERR_LOCAL, "a part is too large to be decoded ahead");
	}
	return 0;
}

static bool run_decode(struct run *u)
{
	_cleanup_(inflate_freep) struct inflate *w = NULL;

	if (inflate_resume(inflate_format(u->a->z), u->start, 0, NULL, 0, run_out, u, &w, NULL) < 0)
		return false;
	return inflate_push(w, u->in.data, u->in.len, NULL) == 0 && inflate_between(w) &&
	       inflate_in(w) == u->start + u->in.len;
}

/* Lock held, and again at the end. */
static void run_work(struct run *u)
{
	struct ahead *a = u->a;

	u->state = BUSY;
	(void)pthread_mutex_unlock(&a->lock);
	bool ok = run_decode(u);
	(void)pthread_mutex_lock(&a->lock);
	u->state = ok ? READY : FAILED;
	(void)pthread_cond_broadcast(&a->changed);
}

static void run_job(void *arg)
{
	struct run *u = arg;

	LOCK_SCOPE(&u->a->lock);
	if (u->state == WAITING)	/* else the owner was faster */
		run_work(u);
}

/* ---- the ring */

static struct run *run_at(struct ahead *a, size_t no)
{
	return &a->runs[no % a->n_runs];
}

static void empty(struct buf *b)
{
	if (b->cap > RUN_KEEP)
		buf_done(b);
	else
		buf_clear(b);
}

static void run_free(struct run *u)
{
	(void)atomic_fetch_sub(&u->a->bytes, u->in.len + u->out.len);
	empty(&u->in);
	empty(&u->out);
	LOCK_SCOPE(&u->a->lock);
	u->state = FREE;
}

/* The oldest that waits for a thread; lock held. */
static struct run *waiting_run(struct ahead *a)
{
	for (size_t i = a->oldest; i < a->filling; i++)
		if (run_at(a, i)->state == WAITING)
			return run_at(a, i);
	return NULL;
}

/* Makes u the owner's; it is READY, FAILED or PLAIN then. */
static void claim(struct ahead *a, struct run *u)
{
	LOCK_SCOPE(&a->lock);
	if (u->state == WAITING && !inflate_ahead_patient)
		u->state = PLAIN;	/* quicker than a detour over its buffer */
	while (u->state == BUSY || u->state == WAITING) {
		struct run *other = inflate_ahead_patient ? NULL : waiting_run(a);

		if (other)
			run_work(other);
		else
			(void)pthread_cond_wait(&a->changed, &a->lock);
	}
}

/* The stream comes to the oldest run. */
static errint_t advance(struct ahead *a, struct err *e)
{
	struct run *u = run_at(a, a->oldest);
	errint_t r;

	claim(a, u);
	if (u->state == READY && inflate_between(a->z)) {
		a->hits++;
		stat_add(STAT_INFLATED_AHEAD, (int64_t)u->out.len);
		r = a->ops->take(a->ctx, u->in.data, u->in.len, buf_str(&u->out), u->out.len, e);
	} else {
		a->fails += u->state != PLAIN;
		r = u->in.len ? a->ops->push(a->ctx, u->in.data, u->in.len, e) : 0;
	}
	run_free(u);
	a->oldest++;
	return r;
}

static void begin_run(struct ahead *a, bool begins)
{
	struct run *u = run_at(a, a->filling);

	u->begins = begins;
	u->start = a->in;
	LOCK_SCOPE(&a->lock);
	u->state = FILLING;
}

/* Ends the run that is being filled, with a whole member or frame or not, and begins the next. */
static errint_t next_run(struct ahead *a, bool whole, struct err *e)
{
	struct run *u = run_at(a, a->filling);
	bool ahead = whole && u->begins && u->in.len > 0;
	errint_t r = 0;

	{
		LOCK_SCOPE(&a->lock);
		u->state = ahead ? WAITING : PLAIN;
	}
	a->filling++;
	if (ahead && pool_submit(a->pool, POOL_NORMAL, run_job, u) < 0) {
		LOCK_SCOPE(&a->lock);
		if (u->state == WAITING)	/* an older job may have found it */
			u->state = PLAIN;
	}
	while (r == 0 && a->oldest < a->filling &&
	       (a->filling - a->oldest == a->n_runs || atomic_load(&a->bytes) > AHEAD_BYTES_MAX / 2))
		r = advance(a, e);
	begin_run(a, whole);
	return r;
}

static errint_t gather(struct ahead *a, const uint8_t *p, size_t len, struct err *e)
{
	errint_t r = 0;

	while (r == 0 && len) {
		struct buf *in = &run_at(a, a->filling)->in;
		size_t n = MIN_OF(len, RUN_MAX - in->len);

		if (buf_add(in, p, n) < 0)
			return err_errno(e, ENOMEM, "inflating a layer");
		(void)atomic_fetch_add(&a->bytes, n);
		a->in += n;
		p += n;
		len -= n;
		if (in->len == RUN_MAX)
			r = next_run(a, false, e);
	}
	return r;
}

/* ---- from one mode to another */

/* How many threads no other stream has work for. */
static long idle_cores(const struct ahead *a)
{
	return MIN_OF(a->cores - atomic_load(&streams) - atomic_load(&helpers), (long)THREADS_MAX);
}

static void start(struct ahead *a)
{
	long n = idle_cores(a);

	if (n < 1 || !(a->pool = pool_new("inflate", 0, (unsigned)n)))
		return;
	(void)atomic_fetch_add(&helpers, n);
	a->n_runs = (size_t)n + 3;
	a->mode = RUNNING;
	begin_run(a, inflate_between(a->z));
}

static void stop(struct ahead *a)
{
	a->mode = PASSING;
	if (!a->pool)
		return;
	{
		LOCK_SCOPE(&a->lock);
		for (struct run *u = waiting_run(a); u; u = waiting_run(a))
			u->state = PLAIN;
	}
	a->pool = pool_stop(a->pool);
	(void)atomic_fetch_sub(&helpers, (long)a->n_runs - 3);
}

errint_t inflate_ahead_end(struct ahead *a, struct err *e)
{
	errint_t r = a->mode == RUNNING ? next_run(a, true, e) : 0;

	while (r == 0 && a->mode == RUNNING && a->oldest < a->filling)
		r = advance(a, e);
	stop(a);
	return r;
}

/* ---- bytes that come */

static errint_t pass(struct ahead *a, const uint8_t *p, size_t len, struct err *e)
{
	a->in += len;
	return len ? a->ops->push(a->ctx, p, len, e) : 0;
}

static size_t scan(struct ahead *a, const uint8_t *p, size_t from, size_t len)
{
	if (!a->scan.lost)	/* zstd, or nobody knows yet */
		return inflate_scan_zstd(&a->scan, p, from, len);
	if (a->mode == RUNNING && inflate_format(a->z) == INFLATE_GZIP)
		return inflate_scan_gzip(&a->scan, p, from, len);
	return SCAN_NONE;
}

/* Something (seems to) begin after these bytes. */
static errint_t up_to_boundary(struct ahead *a, const uint8_t *p, size_t len, struct err *e)
{
	errint_t r;

	if (a->mode == WATCHING) {
		r = pass(a, p, len, e);
		if (r == 0 && inflate_between(a->z))
			start(a);
		return r;
	}
	r = gather(a, p, len, e);
	if (r < 0)
		return r;
	struct run *u = run_at(a, a->filling);
	if (u->in.len == 0)
		u->begins = true;
	else if (u->in.len >= inflate_ahead_run_min || !u->begins)
		r = next_run(a, true, e);
	return r;
}

static errint_t rest(struct ahead *a, const uint8_t *p, size_t len, struct err *e)
{
	if (a->mode == RUNNING)
		return gather(a, p, len, e);
	errint_t r = pass(a, p, len, e);
	if (r == 0 && a->mode == WATCHING && inflate_format(a->z) == INFLATE_GZIP &&
	    inflate_starts(a->z) > 1)
		start(a);
	return r;
}

errint_t inflate_ahead_push(struct ahead *a, const void *data, size_t len, struct err *e)
{
	const uint8_t *p = data;
	size_t done = 0, at = 0;
	errint_t r = 0;

	if (a->mode == RUNNING && a->fails >= FAILS_MAX && a->fails > a->hits)
		r = inflate_ahead_end(a, e);
	while (r == 0 && a->mode != PASSING && (at = scan(a, p, at, len)) != SCAN_NONE) {
		if (a->mode == WATCHING && idle_cores(a) < 1)
			continue;
		r = up_to_boundary(a, p + done, at - done, e);
		done = at;
	}
	return r < 0 ? r : rest(a, p + done, len - done, e);
}

size_t inflate_ahead_memory(struct ahead *a)
{
	return atomic_load(&a->bytes);
}

/* ---- */

struct ahead *inflate_ahead_new(const struct inflate *z, const struct ahead_ops *ops, void *ctx)
{
	struct ahead *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->z = z;
	a->ops = ops;
	a->ctx = ctx;
	a->cores = inflate_ahead_cores ? inflate_ahead_cores : sysconf(_SC_NPROCESSORS_ONLN);
	inflate_scan_init(&a->scan);
	(void)pthread_mutex_init(&a->lock, NULL);
	(void)pthread_cond_init(&a->changed, NULL);
	for (size_t i = 0; i < RUNS_MAX; i++) {
		a->runs[i].a = a;
		buf_init(&a->runs[i].in, RUN_MAX);
		buf_init(&a->runs[i].out, RUN_OUT_MAX);
	}
	(void)atomic_fetch_add(&streams, 1);
	return a;
}

struct ahead *inflate_ahead_free(struct ahead *a)
{
	if (!a)
		return NULL;
	stop(a);
	for (size_t i = 0; i < RUNS_MAX; i++) {
		buf_done(&a->runs[i].in);
		buf_done(&a->runs[i].out);
	}
	(void)pthread_cond_destroy(&a->changed);
	(void)pthread_mutex_destroy(&a->lock);
	(void)atomic_fetch_sub(&streams, 1);
	free(a);
	return NULL;
}
