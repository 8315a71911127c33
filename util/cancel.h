/*
 * cancel.h - "nobody waits for this any more"
 *
 * A token that long-running functions poll, and that can wake one sleeper.  Whoever may sleep
 * (a transfer waiting for bytes, a back-off) registers a wake function for the time of the sleep.
 * cancel_fire may be called from any thread, any number of times.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/err.h"

struct cancel {
	atomic_bool fired;
	pthread_mutex_t lock;
	void (*wake)(void *arg);	/* called with lock held; must not block or call back */
	void *wake_arg;
};

#define CANCEL_INIT { .lock = PTHREAD_MUTEX_INITIALIZER }

void cancel_init(struct cancel *c);
void cancel_done(struct cancel *c);
void cancel_fire(struct cancel *c);
static inline bool cancel_fired(const struct cancel *c)
{
	return c && atomic_load_explicit(&((struct cancel *)c)->fired, memory_order_acquire);
}
/* Sets or (fn == NULL) removes the wake function.  One at a time.  Look at cancel_fired after
 * setting it: a token that has fired before does not call it.  After removal no call is running. */
void cancel_set_wake(struct cancel *c, void (*fn)(void *arg), void *arg);
/* Sleeps; -ECANCELED (class CANCELLED) as soon as the token fires, else 0.  c may be NULL. */
errint_t cancel_sleep_ns(struct cancel *c, uint64_t ns, struct err *e);
