/*
 * pool.h - a pool of worker threads
 *
 * Two pools exist in a mount: the *resume* pool (one thread per core, never blocks on the network:
 * runs parked operations) and the *I/O* pool (grows to a ceiling, blocks at will: runs fetches).
 * Jobs run in submission order within a priority; HIGH goes before NORMAL before LOW.  Threads are
 * made on demand up to max and end after some idle seconds when more than min exist.
 */
#pragma once

#include <stddef.h>

#include "util/err.h"

enum pool_prio { POOL_HIGH = 0, POOL_NORMAL, POOL_LOW, POOL_PRIOS };

typedef void (*pool_fn)(void *arg);
struct pool;

struct pool *pool_new(const char *name, unsigned min_threads, unsigned max_threads);
/* -ENOMEM, or -ESHUTDOWN after pool_stop: then fn never runs and the caller keeps arg. */
errint_t pool_submit(struct pool *p, enum pool_prio prio, pool_fn fn, void *arg) _must_check_;
/* Runs what is queued, waits for all threads, frees.  Not from a job of this pool, and nobody may
 * use the pool once this has returned.  Accepts NULL, returns NULL. */
struct pool *pool_stop(struct pool *p);

size_t pool_queued(struct pool *p);
size_t pool_threads(struct pool *p);
