/*
 * op_want.c - what operations wait for: wants, the works behind them, pins
 *
 * A handler's wants belong to the thread that runs it, until op.c joins their flights.  A work
 * belongs to its flight: made by the want that starts it, it runs once on the I/O pool, publishes
 * its result, completes the flight and is gone.  Wants that find a flight under way drop theirs.
 *
 * engine.works lists the works under way, under engine.lock, for the ticker's question whether one
 * of them gets on.
 */
#include "fs/op.h"

#include <stdlib.h>
#include <string.h>

#include "fs/op_priv.h"
#include "util/clock.h"

static _Thread_local struct work *current_work;

/* ---- works ---- */

void work_free(void *arg)
{
	struct work *w = arg;

	if (w && w->free_arg)
		w->free_arg(w->arg);
	free(w);
}

static void enter_work(struct work *w)
{
	struct engine *e = w->eng;

	atomic_store(&w->progress_ns, clock_mono_ns());
	LOCK_SCOPE(&e->lock);
	w->next = e->works;
	w->prev = &e->works;
	if (w->next)
		w->next->prev = &w->next;
	e->works = w;
}

static void leave_work(struct work *w)
{
	LOCK_SCOPE(&w->eng->lock);
	*w->prev = w->next;
	if (w->next)
		w->next->prev = w->prev;
}

static void complete(struct work *w, errint_t r, const struct err *e)
{
	struct flight *f = w->flight;

	leave_work(w);
	work_free(w);
	flight_complete(f, r, e);
}

static void run_work(void *arg)
{
	struct work *w = arg;
	struct cancel *c = flight_cancel(w->flight);
	struct err e = { 0 };
	errint_t r;

	if (cancel_fired(c)) {
		r = err_set(&e, ECANCELED, ERR_CANCELLED, "nobody waits for it any more");
	} else {
		op_work_progress();
		current_work = w;
		r = w->fn(w->eng->fs, w->arg, c, &e);
		current_work = NULL;
	}
	if (r < 0 && e.eno == 0)
		(void)err_set(&e, -r, ERR_UNSET, "%s", strerror(-r));
	complete(w, r, &e);
}

void op_work_progress(void)
{
	if (current_work)
		atomic_store_explicit(&current_work->progress_ns, clock_mono_ns(),
				      memory_order_relaxed);
}

uint64_t works_progress(struct engine *e, const char *key)
{
	uint64_t last = 0;

	for (struct work *w = e->works; w; w = w->next) {
		uint64_t ns = atomic_load_explicit(&w->progress_ns, memory_order_relaxed);

		if (strcmp(flight_key(w->flight), key) == 0)
			last = MAX_OF(last, ns);
	}
	return last;
}

/* A flight begins: on the I/O pool. */
void work_start(struct flight *f, void *arg)
{
	struct work *w = arg;
	struct err e = { 0 };
	errint_t r;

	w->flight = f;
	enter_work(w);
	r = pool_submit(w->eng->io, POOL_NORMAL, run_work, w);
	if (r < 0)
		complete(w, err_set(&e, -r, ERR_LOCAL, "cannot start a fetch: %s", strerror(-r)),
			 &e);
}

/* ---- wanting ---- */

static struct wait *find_wait(struct op *op, const char *key)
{
	struct wait *w = op->priv->waits;

	while (w && strcmp(w->key, key) != 0)
		w = w->next;
	return w;
}

/* Forgets what went well before the last run: nobody asks op_waited_for about it any more. */
static void forget_old_waits(struct op *op)
{
	struct op_private *p = op->priv;

	for (struct wait **at = &p->waits, *w; (w = *at);) {
		if (w->state != WAIT_DONE || w->r < 0 || w->done_after + 1 >= p->runs) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		p->n_waits--;
		work_free(w->work);
		free(w->err);
		free(w);
	}
}

static struct wait *add_wait(struct op *op, const char *key)
{
	size_t len = strlen(key);
	struct wait *w;

	if (op->priv->n_waits >= OP_KEYS_MAX)
		forget_old_waits(op);
	w = op->priv->n_waits < OP_KEYS_MAX ? calloc(1, sizeof(*w) + len + 1) : NULL;
	if (!w)
		return NULL;
	memcpy(w->key, key, len + 1);
	w->op = op;
	w->state = WAIT_DONE;
	w->next = op->priv->waits;
	op->priv->waits = w;
	op->priv->n_waits++;
	return w;
}

/* Notes the key for parking. */
static errint_t note(struct op *op, struct wait *w, const char *key, struct work **work)
{
	if (!w)
		w = add_wait(op, key);
	if (!w)
		return err_set(&op->err, ENOMEM, ERR_LOCAL, "no memory to wait for %s", key);
	if (w->state == WAIT_DONE) {
		w->state = WAIT_WANTED;
		op->priv->n_wanted++;
	}
	if (!w->work)
		w->work = steal_ptr(work);
	return -EINPROGRESS;
}

static errint_t failed_before(struct op *op, const struct wait *w)
{
	if (w->err)
		op->err = *w->err;
	else
		(void)err_set(&op->err, -w->r, ERR_LOCAL, "%s", strerror(-w->r));
	return w->r;
}

DEFINE_CLEANUP(struct work *, work_free)

errint_t op_want(struct op *op, const char *key, work_fn fn, void *arg, void (*free_arg)(void *))
{
	_cleanup_(work_freep) struct work *work = calloc(1, sizeof(*work));
	struct wait *w = find_wait(op, key);

	if (!work) {
		if (free_arg)
			free_arg(arg);
		return err_set(&op->err, ENOMEM, ERR_LOCAL, "no memory to wait for %s", key);
	}
	*work = (struct work){ .eng = op->eng, .fn = fn, .arg = arg, .free_arg = free_arg };
	if (w && w->state == WAIT_DONE && w->r < 0)
		return failed_before(op, w);
	if (op->no_wait)
		return -EINPROGRESS;
	return note(op, w, key, &work);
}

bool op_waited_for(struct op *op, const char *key)
{
	const struct wait *w = find_wait(op, key);

	return w && w->state == WAIT_DONE && w->r == 0 && w->done_after + 1 == op->priv->runs;
}

bool op_only_looks(const struct op *op)
{
	return op->no_wait && !op->priv->waits;
}

unsigned op_times_waited(struct op *op, const char *key)
{
	const struct wait *w = find_wait(op, key);

	return w ? w->times : 0;
}

static bool is_pinned(const struct op_private *p, const struct pin *pin)
{
	for (size_t i = 0; i < p->n_pins; i++)
		if (p->pins[i].obj == pin->obj && p->pins[i].unref == pin->unref)
			return true;
	return false;
}

static bool room_for_pin(struct op_private *p)
{
	size_t cap = p->cap_pins ? 2 * p->cap_pins : 8;
	struct pin *pins;

	if (p->n_pins < p->cap_pins)
		return true;
	pins = reallocarray(p->pins, cap, sizeof(*pins));
	if (!pins)
		return false;
	p->pins = pins;
	p->cap_pins = cap;
	return true;
}

errint_t op_pin(struct op *op, void *obj, void (*unref)(void *))
{
	struct op_private *p = op->priv;
	struct pin pin = { obj, unref };
	bool pinned = is_pinned(p, &pin);

	if (!pinned && room_for_pin(p)) {
		p->pins[p->n_pins++] = pin;
		return 0;
	}
	unref(obj);
	return pinned ? 0 : err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
}

/* ---- the end ---- */

void op_drop_waits(struct op *op)
{
	for (struct wait *w = op->priv->waits, *next; w; w = next) {
		next = w->next;
		work_free(w->work);
		free(w->err);
		free(w);
	}
}

void op_drop_pins(struct op *op)
{
	struct op_private *p = op->priv;

	while (p->n_pins > 0) {
		p->n_pins--;
		p->pins[p->n_pins].unref(p->pins[p->n_pins].obj);
	}
	free(p->pins);
	p->pins = NULL;
	p->cap_pins = 0;
}
