/*
 * layer_side.c - the bounded queue and the thread of layer_side.h
 *
 * One producer, one consumer.  `done` counts pieces handled, `given` pieces queued; a slot belongs
 * to the consumer while done <= its number < given, so the lock covers the counts only.
 */
#include "cache/layer_side.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"

struct slot {
	int what;
	uint64_t off;
	size_t len;
	uint8_t data[SIDE_PIECE_BYTES];
};

struct side {
	side_fn fn;
	void *ctx;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	size_t given, done;	/* under lock, as is ended */
	bool ended;
	struct slot slots[SIDE_PIECES];
};

static atomic_long running;	/* side threads */

/* The next piece to handle; NULL at the end. */
static struct slot *next(struct side *s)
{
	LOCK_SCOPE(&s->lock);
	while (s->done == s->given && !s->ended)
		(void)pthread_cond_wait(&s->changed, &s->lock);
	return s->done < s->given ? &s->slots[s->done % SIDE_PIECES] : NULL;
}

static void *side_main(void *arg)
{
	struct side *s = arg;
	struct slot *p;

	while ((p = next(s))) {
		s->fn(s->ctx, p->what, p->off, p->data, p->len);
		LOCK_SCOPE(&s->lock);
		s->done++;
		(void)pthread_cond_signal(&s->changed);
	}
	return NULL;
}

static void side_free(struct side *s)
{
	(void)pthread_cond_destroy(&s->changed);
	(void)pthread_mutex_destroy(&s->lock);
	free(s);
	(void)atomic_fetch_sub(&running, 1);
}

/* Signals are for the threads of fs/. */
static int start(struct side *s)
{
	sigset_t all, old;

	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	int r = pthread_create(&s->thread, NULL, side_main, s);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

struct side *side_new(side_fn fn, void *ctx)
{
	struct side *s = NULL;

	if (atomic_fetch_add(&running, 1) < sysconf(_SC_NPROCESSORS_ONLN) / 2)
		s = malloc(sizeof(*s));
	if (!s) {
		(void)atomic_fetch_sub(&running, 1);
		return NULL;
	}
	s->fn = fn;
	s->ctx = ctx;
	s->given = s->done = 0;
	s->ended = false;
	(void)pthread_mutex_init(&s->lock, NULL);
	(void)pthread_cond_init(&s->changed, NULL);
	if (start(s) == 0)
		return s;
	side_free(s);
	return NULL;
}

void side_push(struct side *s, int what, uint64_t off, const void *data, size_t len)
{
	struct slot *p;

	{
		LOCK_SCOPE(&s->lock);
		while (s->given - s->done == SIDE_PIECES)
			(void)pthread_cond_wait(&s->changed, &s->lock);
		p = &s->slots[s->given % SIDE_PIECES];
	}
	p->what = what;
	p->off = off;
	p->len = len;
	if (len)
		memcpy(p->data, data, len);
	LOCK_SCOPE(&s->lock);
	s->given++;
	(void)pthread_cond_signal(&s->changed);
}

struct side *side_end(struct side *s)
{
	if (!s)
		return NULL;
	{
		LOCK_SCOPE(&s->lock);
		s->ended = true;
		(void)pthread_cond_signal(&s->changed);
	}
	(void)pthread_join(s->thread, NULL);
	side_free(s);
	return NULL;
}
