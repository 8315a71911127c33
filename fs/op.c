/*
 * op.c - the engine: run, park, resume, answer
 *
 *	op_start -> run -> finish				everything was there
 *	               \-> park -> (flights) -> wake -> resume pool -> run ...
 *	                       \-> claimed by the ticker or by engine_halt -> answered at once
 *
 * Threads: handlers run on the thread that started the operation and on the resume pool; works run
 * on the I/O pool (op_want.c); wakes come on whichever thread completes a flight.  While an
 *operation runs it belongs to its thread alone, so nothing in it needs a lock; see op_priv.h for
 *the rest.
 *
 * Why joining is bracketed by `pending + 1`: a flight may complete while the next key is still
 *being joined, and the operation must not run before this thread has let go of it.  Why by
 *`joining`: engine_halt must not stop the pools under a thread that is about to start a flight.
 */
#include "fs/op.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "fs/fs.h"
#include "fs/op_priv.h"
#include "util/clock.h"
#include "util/stats.h"

#define IO_THREADS 128
#define PARK_TIMEOUT_NS (120 * NSEC_PER_SEC)
#define XATTR_OUT_MAX (64u << 10)	/* XATTR_SIZE_MAX of the kernel */
#define LINK_OUT_MAX 4096u

/* ---- an operation's life ---- */

static size_t out_max(enum op_type type)
{
	return type == OP_READLINK ? LINK_OUT_MAX : XATTR_OUT_MAX;
}

struct op *op_new(struct engine *e, enum op_type type, struct node *node, uint32_t sub)
{
	_cleanup_free_ struct op *op = calloc(1, sizeof(*op));
	struct op_private *p = op ? calloc(1, sizeof(*p)) : NULL;

	if (!p) {
		(void)node_unref(node);
		return NULL;
	}
	atomic_init(&p->refs, 1);
	op->type = type;
	op->begun_ns = clock_mono_ns();
	op->eng = e;
	op->fs = e->fs;
	op->node = node;
	op->sub = sub;
	op->priv = p;
	buf_init(&op->out, out_max(type));
	return steal_ptr(&op);
}

/* Back to how it was before the handler ran. */
static void reset_outputs(struct op *op)
{
	(void)node_unref(op->entry.node);
	(void)handle_free(op->open.handle);
	op->entry = (struct fs_entry){ 0 };
	op->attr = (struct fs_attr){ 0 };
	op->open = (struct fs_open){ 0 };
	buf_clear(&op->out);
	err_clear(&op->err);
}

void op_unref(struct op *op)
{
	struct op_private *p = op->priv;

	if (atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) != 1)
		return;
	reset_outputs(op);
	op_drop_pins(op);
	op_drop_waits(op);
	if (op->task_free)
		op->task_free(op->task_arg);
	(void)node_unref(op->node);
	buf_done(&op->out);
	free(op->name);
	free(op->data);
	free(p);
	free(op);
}

static void op_ref(struct op *op)
{
	(void)atomic_fetch_add_explicit(&op->priv->refs, 1, memory_order_relaxed);
}

void op_free(struct op *op)
{
	if (op)
		op_unref(op);
}

/* ---- handlers: what each type of operation asks of the node's kind ---- */

/* Attributes are looked at before as well, so that nothing is wanted after the side effect. */
static errint_t handle_setattr(struct op *op)
{
	errint_t r = kind_attr(op, op->node, op->sub, &op->attr);
	struct fs_attr after;

	if (r == 0)
		r = kind_truncate(op, op->node, op->off);
	if (r == 0 && kind_attr(op, op->node, op->sub, &after) == 0)
		op->attr = after;
	return r;
}

static errint_t handle_read(struct op *op)
{
	errint_t r;

	op->out.max = op->size;
	r = buf_reserve(&op->out, op->size);
	return r < 0 ? r
		     : kind_read(op, op->node, op->sub, op->handle, op->off, op->size, &op->out);
}

/* fuse.c encodes the listing; here it is only taken when opendir has not, and renewed when somebody
 * has rewound the directory. */
static errint_t handle_readdir(struct op *op)
{
	struct handle *h = op->handle;

	if (atomic_load(&h->listed) && (op->off != 0 || !atomic_exchange(&h->begun, true)))
		return 0;
	return kind_relist(op, op->node, op->sub, h);
}

static errint_t call_kind(struct op *op)
{
	struct node *n = op->node;

	switch (op->type) {
	case OP_LOOKUP:
		return kind_lookup(op, n, op->sub, op->name, &op->entry);
	case OP_GETATTR:
		return kind_attr(op, n, op->sub, &op->attr);
	case OP_SETATTR:
		return handle_setattr(op);
	case OP_READLINK:
		return kind_readlink(op, n, op->sub, &op->out);
	case OP_OPEN:
		return kind_open(op, n, op->sub, op->flags, &op->open);
	case OP_READ:
		return handle_read(op);
	case OP_WRITE:
		return kind_write(op, n, op->handle, op->off, op->data, op->size);
	case OP_FLUSH:
		return kind_flush(op, n, op->handle);
	case OP_OPENDIR:
		return kind_opendir(op, n, op->sub, &op->open);
	case OP_READDIR:
	case OP_READDIRPLUS:
		return handle_readdir(op);
	case OP_GETXATTR:
		return kind_getxattr(op, n, op->sub, op->name, &op->out);
	case OP_LISTXATTR:
		return kind_listxattr(op, n, op->sub, &op->out);
	case OP_PREPARE:
		return kind_prepare(op, n);
	case OP_TASK:
		return op->task(op, op->task_arg);
	case OP_UNSET:
	case OP_TYPES:
		break;
	}
	return err_set(&op->err, EIO, ERR_BUG, "a bug in registryfs: operation %d", (int)op->type);
}

static bool has_effects(const struct op *op)
{
	return op->type == OP_WRITE || op->type == OP_SETATTR || op->type == OP_FLUSH ||
	       (op->type == OP_OPEN && (op->flags & (O_ACCMODE | O_TRUNC)) != O_RDONLY);
}

static errint_t run_handler(struct op *op)
{
	errint_t r;

	op->priv->runs++;
	op->priv->n_wanted = 0;
	reset_outputs(op);
	r = call_kind(op);
	if (r == 0 && op->eng->rerun && !has_effects(op)) {
		reset_outputs(op);
		r = call_kind(op);
	}
	return r;
}

/* ---- the answer ---- */

/* What is worth remembering: not the everyday answers, not what the caller ended himself. */
static bool is_failure(const struct op *op, errint_t r)
{
	if (op->type == OP_GETXATTR && r == -EOPNOTSUPP)
		return false;
	return r < 0 && op->err.cls != ERR_CANCELLED && r != -ENOENT && r != -ENODATA &&
	       r != -EINTR && r != -ERANGE;
}

static bool is_halting(struct engine *e)
{
	LOCK_SCOPE(&e->lock);
	return e->halting;
}

static errint_t halted(struct op *op)
{
	return err_set(&op->err, ENOTCONN, ERR_CANCELLED, "registryfs is being stopped");
}

static errint_t settle_result(struct op *op, errint_t r)
{
	if (r > 0)
		r = err_set(&op->err, EIO, ERR_BUG, "a bug in registryfs: positive result %d", r);
	if (r == -EINPROGRESS && !op->no_wait)
		r = err_set(&op->err, EIO, ERR_BUG, "a bug in registryfs: waits for nothing");
	if (r == -ECANCELED && is_halting(op->eng))
		r = halted(op);
	if (r == -ECANCELED)
		r = err_set(&op->err, EINTR, ERR_CANCELLED, "cancelled");
	if (is_failure(op, r) && op->err.eno == 0)
		(void)err_set(&op->err, -r, ERR_UNSET, "%s", strerror(-r));
	return r;
}

static void one_less_active(struct engine *e)
{
	LOCK_SCOPE(&e->lock);
	e->active--;
	if (e->active == 0)
		(void)pthread_cond_broadcast(&e->changed);
}

static bool is_own(const struct op *op)
{
	return op->type == OP_PREPARE || op->type == OP_TASK;
}

/* The one place from which answers go out; op may be gone when it returns. */
static void finish(struct op *op, errint_t r)
{
	struct engine *e = op->eng;

	r = settle_result(op, r);
	if (r < 0 && !is_own(op))
		stat_inc(STAT_FUSE_ERRORS);
	if (r == -EINTR)
		stat_inc(STAT_FUSE_INTERRUPTED);
	if (is_failure(op, r) && e->fs && op->type != OP_TASK)
		fs_note_error(e->fs, op->node, &op->err);
	op->reply(op, r);
	op_drop_pins(op);
	op_unref(op);
	one_less_active(e);
}

/* ---- waking and resuming ---- */

static void park(struct op *op);

static void run(void *arg)
{
	struct op *op = arg;
	errint_t r = run_handler(op);

	if (r == -EINPROGRESS && !op->no_wait)
		park(op);
	else
		finish(op, r);
}

static void resume(struct op *op)
{
	if (pool_submit(op->eng->resume, POOL_HIGH, run, op) < 0)
		run(op);
}

/* Lock held. */
static void unpark(struct engine *e, struct op *op)
{
	struct op_private *p = op->priv;

	*p->prev = p->next;
	if (p->next)
		p->next->priv->prev = p->prev;
	e->n_parked--;
	e->n_own -= is_own(op);
	stat_dec(STAT_FUSE_PARKED);
}

/* One thing less to wait for; true: the operation is the caller's to resume.  Lock held. */
static bool one_less_pending(struct engine *e, struct op *op)
{
	struct op_private *p = op->priv;

	p->since_ns = clock_mono_ns();
	if (--p->pending > 0 || p->state == OP_STATE_ENDED)
		return false;
	if (p->state == OP_STATE_PARKED)
		unpark(e, op);
	p->state = OP_STATE_RUNNING;
	return true;
}

static struct err *copy_err(errint_t r, const struct err *e)
{
	struct err *copy = r < 0 && e ? malloc(sizeof(*copy)) : NULL;

	if (copy)
		*copy = *e;
	return copy;
}

static void wake(void *waiter, errint_t r, const struct err *e)
{
	struct wait *w = waiter;
	struct op *op = w->op;
	struct err *copy = copy_err(r, e);
	bool ready;

	{
		LOCK_SCOPE(&op->eng->lock);
		w->state = WAIT_DONE;
		w->r = MIN_OF(r, 0);
		w->times += r >= 0;
		w->err = copy;
		ready = one_less_pending(op->eng, op);
	}
	if (ready)
		resume(op);
	op_unref(op);
}

/* ---- parking ---- */

/* May it wait?  Then it is counted as joining. */
static errint_t may_park(struct op *op)
{
	struct engine *e = op->eng;
	struct op_private *p = op->priv;

	if (p->n_wanted == 0)
		return err_set(&op->err, EIO, ERR_BUG, "a bug in registryfs: waits for nothing");
	if (p->runs >= OP_RERUNS_MAX)
		return err_set(&op->err, EIO, ERR_BUG,
			       "a bug in registryfs: still incomplete after %u runs", p->runs);
	LOCK_SCOPE(&e->lock);
	if (e->halting)
		return halted(op);
	if (e->n_parked + e->joining >= OP_PARKED_MAX)
		return err_set(&op->err, EIO, ERR_LIMIT, "more than %u operations are waiting",
			       OP_PARKED_MAX);
	e->joining++;
	p->pending = p->n_wanted + 1;
	p->since_ns = clock_mono_ns();
	return 0;
}

static void join_flight(struct op *op, struct wait *w)
{
	struct work *work = steal_ptr(&w->work);

	w->state = WAIT_JOINED;
	w->done_after = op->priv->runs;
	op_ref(op);
	if (flight_join(op->eng->flights, w->key, wake, w, work_start, work, work_free) < 0)
		wake(w, -ENOMEM, NULL);
}

static void link_parked(struct engine *e, struct op *op)
{
	struct op_private *p = op->priv;

	p->state = OP_STATE_PARKED;
	p->next = e->parked;
	p->prev = &e->parked;
	if (p->next)
		p->next->priv->prev = &p->next;
	e->parked = op;
	e->n_parked++;
	e->n_own += is_own(op);
	stat_inc(STAT_FUSE_PARKED);
	if (!e->ticker_runs)
		ticker_start(e);
	if (e->ticker_sleeps || atomic_load(&p->interrupted))
		ticker_kick(e);
}

enum outcome { IS_PARKED, IS_READY, IS_HALTED };

/* The end of joining: from here on the operation belongs to whoever wakes or claims it. */
static enum outcome commit_park(struct op *op)
{
	struct engine *e = op->eng;

	LOCK_SCOPE(&e->lock);
	e->joining--;
	if (e->halting && e->joining == 0)
		(void)pthread_cond_broadcast(&e->changed);
	if (one_less_pending(e, op))
		return IS_READY;
	if (e->halting) {
		op->priv->state = OP_STATE_ENDED;
		return IS_HALTED;
	}
	link_parked(e, op);
	return IS_PARKED;
}

static void park(struct op *op)
{
	errint_t r = may_park(op);

	if (r < 0) {
		finish(op, r);
		return;
	}
	for (struct wait *w = op->priv->waits; w; w = w->next)
		if (w->state == WAIT_WANTED)
			join_flight(op, w);
	switch (commit_park(op)) {
	case IS_READY:
		resume(op);
		break;
	case IS_HALTED:
		op_end_parked(op, halted(op));
		break;
	case IS_PARKED:
		break;
	}
}

bool op_claim(struct op *op)
{
	struct engine *e = op->eng;

	LOCK_SCOPE(&e->lock);
	if (op->priv->state != OP_STATE_PARKED)
		return false;
	unpark(e, op);
	op->priv->state = OP_STATE_ENDED;
	return true;
}

void op_end_parked(struct op *op, errint_t r)
{
	/* One that is not in its flight any more has been woken, or is being woken just now. */
	for (struct wait *w = op->priv->waits; w; w = w->next)
		if (flight_leave(op->eng->flights, w->key, w))
			op_unref(op);
	finish(op, r);
}

/* ---- the engine ---- */

static bool engine_parts(struct engine *e, const struct engine_opts *o)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	e->flights = flight_table_new();
	e->resume = pool_new("op", 0,
			     o->resume_threads ? o->resume_threads : (unsigned)MAX_OF(cores, 1L));
	e->io = pool_new("io", 0, o->io_threads ? o->io_threads : IO_THREADS);
	e->ticker_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return e->flights && e->resume && e->io && e->ticker_fd >= 0;
}

static void engine_dispose(struct engine *e)
{
	(void)flight_table_free(e->flights);
	if (e->ticker_fd >= 0)
		(void)close(e->ticker_fd);
	(void)pthread_cond_destroy(&e->changed);
	(void)pthread_mutex_destroy(&e->lock);
	free(e);
}

struct engine *engine_new(struct fs *fs, const struct engine_opts *o)
{
	struct engine *e = calloc(1, sizeof(*e));
	const struct engine_opts none = { 0 };
	const char *env = getenv("OP_RERUN");

	if (!e)
		return NULL;
	o = o ? o : &none;
	e->fs = fs;
	e->park_timeout_ns = o->park_timeout_ns ? o->park_timeout_ns : PARK_TIMEOUT_NS;
	e->rerun = o->rerun || (env && strcmp(env, "1") == 0);
	(void)pthread_mutex_init(&e->lock, NULL);
	(void)pthread_cond_init(&e->changed, NULL);
	if (!engine_parts(e, o)) {
		e->io = pool_stop(e->io);
		e->resume = pool_stop(e->resume);
		engine_dispose(e);
		return NULL;
	}
	return e;
}

/* Any parked operation, taken out; NULL when there is none. */
static struct op *take_parked(struct engine *e)
{
	LOCK_SCOPE(&e->lock);
	struct op *op = e->parked;

	if (op) {
		unpark(e, op);
		op->priv->state = OP_STATE_ENDED;
	}
	return op;
}

static void halt_parking(struct engine *e)
{
	LOCK_SCOPE(&e->lock);
	e->halting = true;
	while (e->joining > 0)
		(void)pthread_cond_wait(&e->changed, &e->lock);
}

static void await_answers(struct engine *e)
{
	LOCK_SCOPE(&e->lock);
	while (e->active > 0)
		(void)pthread_cond_wait(&e->changed, &e->lock);
}

void engine_halt(struct engine *e)
{
	struct op *op;

	halt_parking(e);
	while ((op = take_parked(e)))
		op_end_parked(op, halted(op));
	flight_cancel_all(e->flights);
}

void engine_drain(struct engine *e)
{
	engine_halt(e);
	await_answers(e);
}

struct engine *engine_stop(struct engine *e)
{
	if (!e)
		return NULL;
	engine_drain(e);
	ticker_stop(e);
	/* I/O first: the last wakes resume nothing any more, but they look at operations. */
	e->io = pool_stop(e->io);
	e->resume = pool_stop(e->resume);
	engine_dispose(e);
	return NULL;
}

struct pool *engine_io_pool(struct engine *e)
{
	return e->io;
}

size_t engine_parked(struct engine *e)
{
	LOCK_SCOPE(&e->lock);
	return e->n_parked;
}

size_t engine_waiting(struct engine *e)
{
	LOCK_SCOPE(&e->lock);
	return e->n_parked - e->n_own;
}

void op_start(struct op *op)
{
	{
		LOCK_SCOPE(&op->eng->lock);
		op->eng->active++;
	}
	run(op);
}

void op_start_later(struct op *op)
{
	{
		LOCK_SCOPE(&op->eng->lock);
		op->eng->active++;
	}
	if (pool_submit(op->eng->resume, POOL_NORMAL, run, op) < 0)
		run(op);
}

static void no_reply(struct op *op, errint_t r)
{
	(void)op;
	(void)r;
}

errint_t op_task(struct engine *e, struct node *n, errint_t (*task)(struct op *op, void *arg), void *arg,
		 void (*free_arg)(void *arg))
{
	struct op *op = op_new(e, OP_TASK, node_ref(n), 0);

	if (!op) {
		if (free_arg)
			free_arg(arg);
		return -ENOMEM;
	}
	op->reply = no_reply;
	op->task = task;
	op->task_arg = arg;
	op->task_free = free_arg;
	op_start_later(op);
	return 0;
}

/* ---- op_call ---- */

struct call {
	pthread_mutex_t lock;
	pthread_cond_t answered;
	bool done;
	errint_t r;
};

static void call_reply(struct op *op, errint_t r)
{
	struct call *c = op->req;

	LOCK_SCOPE(&c->lock);
	c->r = r;
	c->done = true;
	(void)pthread_cond_signal(&c->answered);
}

errint_t op_call(struct op *op)
{
	struct call c = { .lock = PTHREAD_MUTEX_INITIALIZER, .answered = PTHREAD_COND_INITIALIZER };

	op->req = &c;
	op->reply = call_reply;
	op_ref(op);
	op_start(op);
	{
		LOCK_SCOPE(&c.lock);
		while (!c.done)
			(void)pthread_cond_wait(&c.answered, &c.lock);
	}
	(void)pthread_mutex_destroy(&c.lock);
	(void)pthread_cond_destroy(&c.answered);
	return c.r;
}
