/*
 * deadline.h - a cancellation token that also fires when a time is over
 *
 *	struct deadline d;
 *	r = deadline_start(&d, c, 300 * NSEC_PER_MSEC, e);
 *	if (r == 0) {
 *		r = work(&d.token, e);
 *		if (deadline_stop(&d))
 *			r = too late
 *	}
 *
 * For one piece of work that must not take as long as what it is part of.  It costs a thread for
 * that time.  c, which may be NULL, must have no other wake function meanwhile.
 */
#pragma once

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/cancel.h"

struct deadline {
	struct cancel token;
	struct cancel *parent;
	pthread_t thread;
	sem_t woken;
	uint64_t ns;
	atomic_bool stopped;
	bool passed;
};

errint_t deadline_start(struct deadline *d, struct cancel *parent, uint64_t ns, struct err *e) _must_check_;
/* Ends it; true: the time was over before. */
bool deadline_stop(struct deadline *d);
