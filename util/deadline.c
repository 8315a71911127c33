/*
 * deadline.c - see deadline.h
 *
 * The thread sleeps on a semaphore, which a token's wake function may post: it neither blocks nor
 * takes locks.
 */
#include "util/deadline.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

#include "util/clock.h"

static void post(void *sem)
{
	(void)sem_post(sem);
}

/* True: the time is over. */
static bool wait_for_it(struct deadline *d)
{
	struct timespec ts;
	int r;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	d->ns += (uint64_t)ts.tv_nsec;
	ts.tv_sec += (time_t)(d->ns / NSEC_PER_SEC);
	ts.tv_nsec = (long)(d->ns % NSEC_PER_SEC);
	do {
		r = sem_clockwait(&d->woken, CLOCK_MONOTONIC, &ts);
	} while (r < 0 && errno == EINTR);
	return r < 0 && errno == ETIMEDOUT;
}

static void *deadline_main(void *arg)
{
	struct deadline *d = arg;
	bool over = wait_for_it(d);

	if (atomic_load(&d->stopped))
		return NULL;
	d->passed = over;
	cancel_fire(&d->token);
	return NULL;
}

static void clean_up(struct deadline *d)
{
	(void)sem_destroy(&d->woken);
	cancel_done(&d->token);
}

errint_t deadline_start(struct deadline *d, struct cancel *parent, uint64_t ns, struct err *e)
{
	sigset_t all, old;
	int r;

	*d = (struct deadline){ .parent = parent, .ns = ns };
	cancel_init(&d->token);
	(void)sem_init(&d->woken, 0, 0);
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&d->thread, NULL, deadline_main, d);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r != 0) {
		clean_up(d);
		return err_errno(e, r, "starting a thread");
	}
	if (parent)
		cancel_set_wake(parent, post, &d->woken);
	if (cancel_fired(parent))
		post(&d->woken);
	return 0;
}

bool deadline_stop(struct deadline *d)
{
	if (d->parent)
		cancel_set_wake(d->parent, NULL, NULL);
	atomic_store(&d->stopped, true);
	post(&d->woken);
	(void)pthread_join(d->thread, NULL);
	clean_up(d);
	return d->passed;
}
