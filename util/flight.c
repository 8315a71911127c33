/*
 * flight.c - one shared fetch per key
 *
 * by_key holds the flights that can be joined.  `flights` lists all that have not completed: those
 * in by_key and the abandoned ones, which the last waiter took out of by_key as it left.
 *
 * A flight is freed with its last reference: the work has one until it completes, and whoever fires
 * the token holds one meanwhile, because firing happens outside of the lock and the work may
 * complete at that very moment.
 */
#include "util/flight.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/hmap.h"
#include "util/stats.h"

struct waiter {
	struct waiter *next;
	flight_wake_fn wake;
	void *arg;
};

struct flight {
	struct flight_table *table;
	struct cancel cancel;
	atomic_uint refs;

	/* Under the table's lock: */
	struct waiter *waiters, **waiters_tail; /* in the order they came */
	struct flight *next, **prev;		/* table->flights */
	struct flight *fire_next;		/* list of the one who fires */
	bool joinable;				/* in by_key */
	bool fired;				/* somebody fires the token or has done so */

	char key[];
};

struct flight_table {
	pthread_mutex_t lock;
	struct hmap *by_key;
	struct flight *flights;
	size_t count;
};

struct flight_table *flight_table_new(void)
{
	_cleanup_free_ struct flight_table *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->by_key = hmap_new(NULL);
	if (!t->by_key)
		return NULL;
	(void)pthread_mutex_init(&t->lock, NULL);
	return steal_ptr(&t);
}

struct flight_table *flight_table_free(struct flight_table *t)
{
	if (!t)
		return NULL;
	assert(t->count == 0);
	(void)hmap_free(t->by_key);
	(void)pthread_mutex_destroy(&t->lock);
	free(t);
	return NULL;
}

static void flight_unref(struct flight *f)
{
	if (atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) != 1)
		return;
	cancel_done(&f->cancel);
	free(f);
}

/* Makes a flight and enters it.  Lock held; NULL without memory. */
static struct flight *enter(struct flight_table *t, const char *key)
{
	size_t len = strlen(key);
	struct flight *f = calloc(1, sizeof(*f) + len + 1);

	if (!f)
		return NULL;
	if (hmap_put(t->by_key, key, len, f) < 0) {
		free(f);
		return NULL;
	}
	memcpy(f->key, key, len + 1);
	f->table = t;
	cancel_init(&f->cancel);
	atomic_init(&f->refs, 1);
	f->waiters_tail = &f->waiters;
	f->joinable = true;
	f->prev = &t->flights;
	f->next = t->flights;
	if (f->next)
		f->next->prev = &f->next;
	t->flights = f;
	t->count++;
	return f;
}

/* Nobody can join f any more.  Lock held. */
static void make_unjoinable(struct flight *f)
{
	if (f->joinable)
		(void)hmap_takes(f->table->by_key, f->key);
	f->joinable = false;
}

static void add_waiter(struct flight *f, struct waiter *w)
{
	*f->waiters_tail = w;
	f->waiters_tail = &w->next;
}

/* Joins or makes the flight; NULL without memory. */
static struct flight *board(struct flight_table *t, const char *key, struct waiter *w,
			    bool *ret_new)
{
	LOCK_SCOPE(&t->lock);
	struct flight *f = hmap_gets(t->by_key, key);

	*ret_new = !f;
	if (!f)
		f = enter(t, key);
	if (f)
		add_waiter(f, w);
	return f;
}

static void drop_arg(void *arg, void (*free_arg)(void *))
{
	if (free_arg)
		free_arg(arg);
}

errint_t flight_join(struct flight_table *t, const char *key, flight_wake_fn wake, void *waiter,
		     flight_start_fn start, void *start_arg, void (*free_arg)(void *))
{
	struct waiter *w = malloc(sizeof(*w));
	struct flight *f = NULL;
	bool is_new = false;

	if (w) {
		*w = (struct waiter){ .wake = wake, .arg = waiter };
		f = board(t, key, w, &is_new);
	}
	if (!f) {
		free(w);
		drop_arg(start_arg, free_arg);
		return -ENOMEM;
	}
	/* From here on f and w may be gone unless this call is the one that starts f. */
	stat_inc(is_new ? STAT_FLIGHTS : STAT_FLIGHTS_SHARED);
	if (is_new)
		start(f, start_arg);
	else
		drop_arg(start_arg, free_arg);
	return 0;
}

static struct waiter *remove_waiter(struct flight *f, const void *arg)
{
	for (struct waiter **p = &f->waiters; *p; p = &(*p)->next) {
		struct waiter *w = *p;

		if (w->arg != arg)
			continue;
		*p = w->next;
		if (!w->next)
			f->waiters_tail = p;
		return w;
	}
	return NULL;
}

/* Claims the right to fire the token, with a reference.  Lock held. */
static bool claim_fire(struct flight *f)
{
	if (f->fired)
		return false;
	f->fired = true;
	(void)atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
	return true;
}

static void fire(struct flight *f)
{
	cancel_fire(&f->cancel);
	flight_unref(f);
}

/* Takes the waiter out.  *ret_fire is set when it was the last one and the token is to be fired. */
static struct waiter *alight(struct flight_table *t, const char *key, const void *waiter,
			     struct flight **ret_fire)
{
	LOCK_SCOPE(&t->lock);
	struct flight *f = hmap_gets(t->by_key, key);
	struct waiter *w = f ? remove_waiter(f, waiter) : NULL;

	if (!w || f->waiters)
		return w;
	make_unjoinable(f);
	if (claim_fire(f))
		*ret_fire = f;
	return w;
}

bool flight_leave(struct flight_table *t, const char *key, void *waiter)
{
	struct flight *abandoned = NULL;
	struct waiter *w = alight(t, key, waiter, &abandoned);

	if (abandoned)
		fire(abandoned);
	free(w);
	return w != NULL;
}

/* Takes f out of the table for good and returns those who wait for it. */
static struct waiter *depart(struct flight *f)
{
	LOCK_SCOPE(&f->table->lock);
	make_unjoinable(f);
	*f->prev = f->next;
	if (f->next)
		f->next->prev = f->prev;
	f->table->count--;
	return steal_ptr(&f->waiters);
}

void flight_complete(struct flight *f, errint_t r, const struct err *e)
{
	struct waiter *w = depart(f);

	while (w) {
		struct waiter *next = w->next;

		w->wake(w->arg, r, e);
		free(w);
		w = next;
	}
	flight_unref(f);
}

struct cancel *flight_cancel(struct flight *f)
{
	return &f->cancel;
}

const char *flight_key(const struct flight *f)
{
	return f->key;
}

/* All flights whose token nobody has fired yet, claimed. */
static struct flight *claim_all(struct flight_table *t)
{
	struct flight *list = NULL;

	LOCK_SCOPE(&t->lock);
	for (struct flight *f = t->flights; f; f = f->next) {
		if (!claim_fire(f))
			continue;
		f->fire_next = list;
		list = f;
	}
	return list;
}

void flight_cancel_all(struct flight_table *t)
{
	struct flight *f = claim_all(t);

	while (f) {
		struct flight *next = f->fire_next;

		fire(f);
		f = next;
	}
}

size_t flight_count(struct flight_table *t)
{
	LOCK_SCOPE(&t->lock);
	return t->count;
}
