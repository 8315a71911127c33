/*
 * cancel.c - cancellation tokens
 *
 * fired is set and the wake function called under the token's lock.  That makes removal a barrier
 * (afterwards no call is running), and lets cancel_sleep_ns wait on the very same lock.
 */
#include "util/cancel.h"

#include <time.h>

#include "util/cleanup.h"
#include "util/clock.h"

void cancel_init(struct cancel *c)
{
	atomic_init(&c->fired, false);
	(void)pthread_mutex_init(&c->lock, NULL);
	c->wake = NULL;
	c->wake_arg = NULL;
}

void cancel_done(struct cancel *c)
{
	(void)pthread_mutex_destroy(&c->lock);
}

void cancel_fire(struct cancel *c)
{
	LOCK_SCOPE(&c->lock);
	atomic_store_explicit(&c->fired, true, memory_order_release);
	if (c->wake)
		c->wake(c->wake_arg);
}

void cancel_set_wake(struct cancel *c, void (*fn)(void *arg), void *arg)
{
	LOCK_SCOPE(&c->lock);
	c->wake = fn;
	c->wake_arg = arg;
}

/* The real clock even when tests have a fake one: a sleep must end. */
static struct timespec deadline_in(uint64_t ns)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	ns = MIN_OF(ns, UINT64_C(1000000000) * NSEC_PER_SEC) + (uint64_t)ts.tv_nsec;
	ts.tv_sec += (time_t)(ns / NSEC_PER_SEC);
	ts.tv_nsec = (long)(ns % NSEC_PER_SEC);
	return ts;
}

static void wake_sleeper(void *cond)
{
	(void)pthread_cond_signal(cond);
}

static void sleep_until(struct cancel *c, const struct timespec *deadline)
{
	pthread_condattr_t attr;
	pthread_cond_t cond;
	int r = 0;

	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&cond, &attr);
	(void)pthread_condattr_destroy(&attr);
	{
		LOCK_SCOPE(&c->lock);
		c->wake = wake_sleeper;
		c->wake_arg = &cond;
		while (!cancel_fired(c) && r == 0)
			r = pthread_cond_timedwait(&cond, &c->lock, deadline);
		c->wake = NULL;
		c->wake_arg = NULL;
	}
	(void)pthread_cond_destroy(&cond);
}

errint_t cancel_sleep_ns(struct cancel *c, uint64_t ns, struct err *e)
{
	struct timespec deadline = deadline_in(ns);

	if (c)
		sleep_until(c, &deadline);
	else
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, NULL) == EINTR)
			;
	if (cancel_fired(c))
		return err_set(e, ECANCELED, ERR_CANCELLED, "cancelled while waiting");
	return 0;
}
