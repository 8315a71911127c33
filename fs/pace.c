/*
 * pace.c - see pace.h
 *
 * The rate is kept by a clock that runs ahead of time with each byte; who brings bytes sleeps until
 * time has caught up with what it said before.  So the rate holds for all of them together.
 */
#include "fs/pace.h"

#include <pthread.h>

#include "fs/op.h"
#include "util/clock.h"

#define YIELD_STEP_NS (10 * NSEC_PER_MSEC)
#define YIELD_MAX_NS NSEC_PER_SEC	/* for one portion */
#define SLEEP_MAX_NS NSEC_PER_SEC	/* at once: whoever waits for the work sees that it lives */

struct pace {
	struct engine *eng;
	uint64_t rate;
	pthread_mutex_t lock;
	uint64_t due_ns;	/* when all bytes so far would have come at that rate */
};

struct pace *pace_new(struct engine *e, uint64_t bytes_per_s)
{
	struct pace *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->eng = e;
	p->rate = bytes_per_s;
	pthread_mutex_init(&p->lock, NULL);
	return p;
}

struct pace *pace_free(struct pace *p)
{
	if (p)
		pthread_mutex_destroy(&p->lock);
	free(p);
	return NULL;
}

static uint64_t account(struct pace *p, size_t len)
{
	uint64_t now = clock_mono_ns();
	LOCK_SCOPE(&p->lock);

	p->due_ns = MAX_OF(p->due_ns, now) + (uint64_t)((double)len / (double)p->rate * (double)NSEC_PER_SEC);
	return p->due_ns;
}

static errint_t sleep_until(uint64_t end, struct cancel *c, struct err *e)
{
	uint64_t now;
	errint_t r = 0;

	while (r == 0 && (now = clock_mono_ns()) < end) {
		r = cancel_sleep_ns(c, MIN_OF(end - now, SLEEP_MAX_NS), e);
		op_work_progress();
	}
	return r;
}

errint_t pace_bytes(struct pace *p, size_t len, bool yields, struct cancel *c, struct err *e)
{
	errint_t r = 0;

	for (uint64_t waited = 0; yields && r == 0 && waited < YIELD_MAX_NS && engine_waiting(p->eng) > 0;
	     waited += YIELD_STEP_NS)
		r = cancel_sleep_ns(c, YIELD_STEP_NS, e);
	op_work_progress();
	if (r == 0 && p->rate)
		r = sleep_until(account(p, len), c, e);
	return r;
}
