/*
 * flight.h - one shared fetch per key, any number of waiters
 *
 * A flight is work that is under way for a key ("manifest r/app@sha256:..").  Whoever wants the
 * result joins it; the first one starts it.  When the work completes, each waiter's wake function
 * is called exactly once with the outcome, outside the table's lock, on the completing thread.
 *
 *	join(key) -> no flight: makes one, adds the waiter, calls start(flight, start_arg)
 *	          -> flight:    adds the waiter; start_arg is freed with free_arg
 *	flight_complete(f, r, &err) -> wakes all; f is gone afterwards
 *	flight_leave(t, key, waiter) -> true: removed, will not be woken; false: wake is under way
 *
 * The work must publish its result (in a cache) before it completes, because a woken waiter looks
 * there again; and a new flight must look there first, because the result may have been published
 * between a caller's miss and its join.  When the last waiter leaves, the flight's cancel token is
 * fired: the work may stop early (and still must complete).  Such a flight can no longer be joined;
 * the next join for its key starts a new one, and both may be under way for a while.
 *
 * start may complete the flight at once, and may find its token fired already.  The work removes
 * its wake function from the token before it completes.  This file counts STAT_FLIGHTS and
 * STAT_FLIGHTS_SHARED.
 *
 * Lock order: the table's lock is a leaf; no callback runs under it.
 */
#pragma once

#include <stddef.h>

#include "util/cancel.h"
#include "util/err.h"

struct flight_table;
struct flight;

typedef void (*flight_start_fn)(struct flight *f, void *start_arg); /* must not block */
typedef void (*flight_wake_fn)(void *waiter, errint_t r, const struct err *e);

struct flight_table *flight_table_new(void);
/* All flights must have completed (see flight_cancel_all). */
struct flight_table *flight_table_free(struct flight_table *t);

/* -ENOMEM: nothing happened and start_arg was freed.  start is called outside the lock.  free_arg
 * may be NULL. */
errint_t flight_join(struct flight_table *t, const char *key, flight_wake_fn wake, void *waiter,
		     flight_start_fn start, void *start_arg, void (*free_arg)(void *)) _must_check_;
bool flight_leave(struct flight_table *t, const char *key, void *waiter);
void flight_complete(struct flight *f, errint_t r, const struct err *e);

struct cancel *flight_cancel(struct flight *f);	/* lives until flight_complete */
const char *flight_key(const struct flight *f);

void flight_cancel_all(struct flight_table *t);	/* fires every token; does not wait */
size_t flight_count(struct flight_table *t);	/* started and not completed, cancelled ones too */
