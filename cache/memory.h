/*
 * memory.h - bytes by name, for when the disk does not take them (private to cache/)
 *
 * The second home of objects: what a fill produced stays here when it cannot be written.  All
 * bytes that are alive are counted, also those still being filled and those in use, and never
 * exceed the ceiling; to make room, idle objects go, least recently used first.  When what is
 * in use leaves too little, the answer is -ENOSPC and nothing is evicted in vain.
 *
 * Threads: any.  One lock, a leaf.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "util/cleanup.h"
#include "util/err.h"

struct ca_memory;
struct ca_mem;	/* one object; its bytes are immutable once put */

struct ca_memory *ca_memory_new(uint64_t max);	/* NULL: no memory */
struct ca_memory *ca_memory_free(struct ca_memory *m);	/* all objects must have been released */

/* A new object of len bytes that nobody else sees yet: fill ca_mem_data, then put or unref it. */
errint_t ca_memory_alloc(struct ca_memory *m, const char *name, size_t len, struct ca_mem **ret,
			 struct err *e) _must_check_;
/* Makes it visible in place of an older one of its name; takes over the caller's reference. */
errint_t ca_memory_put(struct ca_mem *x, struct err *e) _must_check_;
struct ca_mem *ca_memory_get(struct ca_memory *m, const char *name);	/* NULL: not here */
void ca_memory_drop(struct ca_memory *m, const char *name);
uint64_t ca_memory_bytes(struct ca_memory *m);

struct ca_mem *ca_mem_unref(struct ca_mem *x);
DEFINE_CLEANUP(struct ca_mem *, ca_mem_unref)
void *ca_mem_data(struct ca_mem *x);
size_t ca_mem_len(const struct ca_mem *x);
