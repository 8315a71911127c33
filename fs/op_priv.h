/*
 * op_priv.h - what op.c and op_interrupt.c share (private to them and their tests)
 *
 * An operation is in one of these states:
 *
 *	RUNNING	 its handler runs, or it is on its way to or from parking; it belongs to one thread
 *	PARKED	 in engine.parked; belongs to whoever takes it out of there, under engine.lock
 *	ENDED	 is being answered or has been
 *
 * It has one reference of its own until it is answered and one for every flight it has joined and
 * not yet left: a wake may still be under way when the answer is out.
 *
 * Lock order: engine.lock is a leaf.  No flight, pool, node or kind function is called under it.
 */
#pragma once

#include <pthread.h>

#include "fs/op.h"

/* One key an operation has asked for.  It stays until the operation is gone: a handler that got
 * over a failure (and served something stale) must meet it again in its next run. */
struct wait {
	struct wait *next;
	struct op *op;
	enum { WAIT_WANTED, WAIT_JOINED, WAIT_DONE } state;
	unsigned done_after;		/* the run that waited for it */
	unsigned times;			/* that it succeeded */
	errint_t r;
	struct err *err;		/* why; NULL: it succeeded, or there was no memory */
	struct work *work;		/* while WANTED */
	char key[];
};

/* What a flight does. */
struct work {
	struct work *next, **prev;	/* engine.works, while the flight is under way */
	struct engine *eng;
	struct flight *flight;
	_Atomic uint64_t progress_ns;
	work_fn fn;
	void *arg;
	void (*free_arg)(void *);
};

struct pin {
	void *obj;
	void (*unref)(void *);
};

struct op_private {
	atomic_uint refs;
	atomic_bool interrupted;
	unsigned runs;
	struct wait *waits;
	unsigned n_waits, n_wanted;
	struct pin *pins;
	size_t n_pins, cap_pins;

	/* Under engine.lock: */
	enum { OP_STATE_RUNNING, OP_STATE_PARKED, OP_STATE_ENDED } state;
	unsigned pending;		/* flights that have not woken us, and one while joining */
	uint64_t since_ns;		/* of the last progress */
	struct op *next, **prev;	/* engine.parked */

	/* The ticker's: */
	uint64_t interrupted_ns;	/* when it first saw the mark */
	struct op *next_suspect;
};

struct engine {
	struct fs *fs;
	struct pool *resume, *io;
	struct flight_table *flights;
	uint64_t park_timeout_ns;
	bool rerun;
	int ticker_fd;			/* eventfd; wakes the ticker */

	pthread_mutex_t lock;
	pthread_cond_t changed;		/* active or joining has become 0 */
	struct op *parked;
	struct work *works;
	size_t n_parked, n_own;		/* own: nobody hears of them */
	size_t active;			/* started, not yet answered */
	size_t joining;			/* between deciding to park and being parked */
	bool halting;
	bool ticker_runs, ticker_sleeps, ticker_ends;
	pthread_t ticker;
};

/* Takes a parked operation out; true: it is the caller's to end. */
bool op_claim(struct op *op);
/* Leaves all flights and answers a claimed operation. */
void op_end_parked(struct op *op, errint_t r);
void op_unref(struct op *op);

/* op_want.c.  work_start is a flight_start_fn for a struct work. */
void work_start(struct flight *f, void *work);
void work_free(void *work);
void op_drop_waits(struct op *op);
void op_drop_pins(struct op *op);
/* When a work for this key last got on; 0: there is none.  Lock held. */
uint64_t works_progress(struct engine *e, const char *key);

/* op_interrupt.c.  Lock held for the first; it starts the ticker when there is none. */
void ticker_start(struct engine *e);
void ticker_kick(struct engine *e);
void ticker_stop(struct engine *e);

/* What /proc/TID/status (its text) says: is a signal pending that will end the thread? */
bool op_status_is_fatal(const char *status);
