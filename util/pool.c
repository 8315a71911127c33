/*
 * pool.c - worker threads with a queue per priority
 *
 * One lock covers everything.  Idle workers wait on their own condition in a stack: the one that
 * went idle last is woken first, so that the rest of a burst really becomes idle and ends (with one
 * shared condition a trickle of jobs would go round all threads and keep each of them alive).
 *
 * Threads are joined, not detached: one that ends early leaves its id in `ended` and first joins
 * the one it finds there, so at most one ended thread waits to be joined.
 */
#include "util/pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "util/cleanup.h"

#define IDLE_SECONDS 10

/* Our call depth is small and nothing here recurses; sanitizers need room for their frames. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define POOL_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define POOL_SANITIZED 1
#endif
#if defined(POOL_SANITIZED)
#define STACK_SIZE ((size_t)2 << 20)
#else
#define STACK_SIZE ((size_t)512 << 10)
#endif

struct job {
	struct job *next;
	pool_fn fn;
	void *arg;
};

struct queue {
	struct job *head;
	struct job **tail;
};

struct idler { /* on the stack of an idle worker */
	pthread_cond_t cond;
	struct idler *next;
	bool called;
};

struct pool {
	pthread_mutex_t lock;
	pthread_cond_t all_gone;
	struct queue queues[POOL_PRIOS];
	struct idler *idle;
	size_t queued;
	unsigned threads, min, max;
	bool stopping;
	bool have_ended;
	pthread_t ended;
	char name[16]; /* the kernel's limit */
};

struct pool *pool_new(const char *name, unsigned min_threads, unsigned max_threads)
{
	struct pool *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	(void)pthread_mutex_init(&p->lock, NULL);
	(void)pthread_cond_init(&p->all_gone, NULL);
	for (size_t i = 0; i < POOL_PRIOS; i++)
		p->queues[i].tail = &p->queues[i].head;
	p->max = MAX_OF(max_threads, 1u);
	p->min = MIN_OF(min_threads, p->max);
	(void)snprintf(p->name, sizeof(p->name), "%s", name);
	return p;
}

static void queue_push(struct pool *p, enum pool_prio prio, struct job *job)
{
	struct queue *q = &p->queues[prio];

	*q->tail = job;
	q->tail = &job->next;
	p->queued++;
}

static struct job *queue_pop(struct pool *p)
{
	for (size_t i = 0; i < POOL_PRIOS; i++) {
		struct queue *q = &p->queues[i];
		struct job *job = q->head;

		if (!job)
			continue;
		q->head = job->next;
		if (!q->head)
			q->tail = &q->head;
		p->queued--;
		return job;
	}
	return NULL;
}

static void idle_remove(struct pool *p, const struct idler *me)
{
	for (struct idler **i = &p->idle; *i; i = &(*i)->next) {
		if (*i != me)
			continue;
		*i = me->next;
		return;
	}
}

static void idle_call(struct pool *p)
{
	struct idler *i = p->idle;

	p->idle = i->next;
	i->called = true;
	(void)pthread_cond_signal(&i->cond);
}

static void idle_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(cond, &attr);
	(void)pthread_condattr_destroy(&attr);
}

/* Waits for a call; false when none came for a while and this thread is not among the first min. */
static bool idle_wait(struct pool *p)
{
	struct idler me = { .next = p->idle };
	struct timespec until;
	int r = 0;

	idle_cond_init(&me.cond);
	p->idle = &me;
	(void)clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += IDLE_SECONDS;
	while (!me.called && r == 0)
		r = pthread_cond_timedwait(&me.cond, &p->lock, &until);
	if (!me.called)
		idle_remove(p, &me);
	(void)pthread_cond_destroy(&me.cond);
	return me.called || p->threads <= p->min;
}

/* Runs one job; false when there is none.  Called and returns with the lock held. */
static bool run_one(struct pool *p)
{
	struct job *job = queue_pop(p);

	if (!job)
		return false;

	pool_fn fn = job->fn;
	void *arg = job->arg;

	(void)pthread_mutex_unlock(&p->lock);
	free(job);
	fn(arg);
	(void)pthread_mutex_lock(&p->lock);
	return true;
}

/* The last thing a worker does; the pool may be gone as soon as the lock is released. */
static void leave(struct pool *p)
{
	bool join = p->have_ended;
	pthread_t other = p->ended;

	p->ended = pthread_self();
	p->have_ended = true;
	p->threads--;
	if (p->threads == 0)
		(void)pthread_cond_signal(&p->all_gone);
	(void)pthread_mutex_unlock(&p->lock);
	if (join)
		(void)pthread_join(other, NULL);
}

static void *worker(void *arg)
{
	struct pool *p = arg;

	(void)pthread_setname_np(pthread_self(), p->name);
	(void)pthread_mutex_lock(&p->lock);
	while (run_one(p) || (!p->stopping && idle_wait(p)))
		;
	leave(p);
	return NULL;
}

/* Signals belong to the FUSE loop.  Those that a faulty instruction raises stay deliverable. */
static void block_signals(sigset_t *old)
{
	static const int keep[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT };
	sigset_t set;

	(void)sigfillset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(keep); i++)
		(void)sigdelset(&set, keep[i]);
	(void)pthread_sigmask(SIG_SETMASK, &set, old);
}

static bool spawn(struct pool *p)
{
	pthread_attr_t attr;
	pthread_t id;
	sigset_t old;

	if (pthread_attr_init(&attr) != 0)
		return false;
	(void)pthread_attr_setstacksize(&attr, STACK_SIZE);
	block_signals(&old); /* the thread inherits the mask, without a window */
	int r = pthread_create(&id, &attr, worker, p);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	(void)pthread_attr_destroy(&attr);
	if (r == 0)
		p->threads++;
	return r == 0;
}

errint_t pool_submit(struct pool *p, enum pool_prio prio, pool_fn fn, void *arg)
{
	_cleanup_free_ struct job *job = malloc(sizeof(*job));

	if (!job)
		return -ENOMEM;
	*job = (struct job){ .fn = fn, .arg = arg };

	LOCK_SCOPE(&p->lock);
	if (p->stopping)
		return -ESHUTDOWN;
	/* Too few threads is a delay, none at all is a failure. */
	if (!p->idle && p->threads < p->max && !spawn(p) && p->threads == 0)
		return -ENOMEM;
	queue_push(p, prio, steal_ptr(&job));
	if (p->idle)
		idle_call(p);
	return 0;
}

struct pool *pool_stop(struct pool *p)
{
	if (!p)
		return NULL;
	(void)pthread_mutex_lock(&p->lock);
	p->stopping = true;
	while (p->idle)
		idle_call(p);
	while (p->threads > 0)
		(void)pthread_cond_wait(&p->all_gone, &p->lock);
	(void)pthread_mutex_unlock(&p->lock);
	if (p->have_ended)
		(void)pthread_join(p->ended, NULL);
	(void)pthread_cond_destroy(&p->all_gone);
	(void)pthread_mutex_destroy(&p->lock);
	free(p);
	return NULL;
}

size_t pool_queued(struct pool *p)
{
	LOCK_SCOPE(&p->lock);
	return p->queued;
}

size_t pool_threads(struct pool *p)
{
	LOCK_SCOPE(&p->lock);
	return p->threads;
}
