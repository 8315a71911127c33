/*
 * cleanup.h - scope guards and ownership transfer
 *
 *	_cleanup_free_ char *name = strdup(x);		freed when the scope ends
 *	_cleanup_close_ int fd = open(...);		closed when >= 0
 *	LOCK_SCOPE(&t->lock);				unlocked when the scope ends
 *	*ret_name = steal_ptr(&name);			the caller owns it from here on
 *
 * Every guarded variable is initialised where it is declared.
 */
#pragma once

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(fn) __attribute__((cleanup(fn)))
#define _unused_ __attribute__((unused))

/* Defines fn##p, the form that __attribute__((cleanup)) wants, for a destructor fn(type). */
#define DEFINE_CLEANUP(type, fn)                       \
	static inline _unused_ void fn##p(type *p)     \
	{                                              \
		if (*p)                                \
			(void)fn(*p);                  \
	}

static inline void cleanup_freep(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_closep(const int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		(void)close(*fd);
	errno = saved;
}

static inline void cleanup_fclosep(FILE **f)
{
	if (*f)
		(void)fclose(*f);
}

static inline void cleanup_unlockp(pthread_mutex_t **m)
{
	if (*m)
		(void)pthread_mutex_unlock(*m);
}

#define _cleanup_free_ _cleanup_(cleanup_freep)
#define _cleanup_close_ _cleanup_(cleanup_closep)
#define _cleanup_fclose_ _cleanup_(cleanup_fclosep)

#define CLEANUP_CAT_(a, b) a##b
#define CLEANUP_CAT(a, b) CLEANUP_CAT_(a, b)
#define LOCK_SCOPE(m)                                                                            \
	_cleanup_(cleanup_unlockp) _unused_ pthread_mutex_t *CLEANUP_CAT(lock_, __LINE__) = (m); \
	(void)pthread_mutex_lock(CLEANUP_CAT(lock_, __LINE__))

#define steal_ptr(pp)                                 \
	({                                            \
		__typeof__(*(pp)) steal_tmp_ = *(pp); \
		*(pp) = NULL;                         \
		steal_tmp_;                           \
	})

static inline int steal_fd(int *fd)
{
	int r = *fd;

	*fd = -1;
	return r;
}

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN_OF(a, b) ((a) < (b) ? (a) : (b))
#define MAX_OF(a, b) ((a) > (b) ? (a) : (b))
