/*
 * hmap.h - hash map from byte strings to pointers
 *
 * Keys are copied; values belong to the caller unless a free function was given.  Open addressing,
 * SipHash-free: the hash is seeded per process, so that hostile names cannot aim at one bucket.
 * Not thread-safe: the owner's lock covers it.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

typedef void (*hmap_free_fn)(void *value);

struct hmap;

struct hmap *hmap_new(hmap_free_fn free_value);	/* NULL: no memory */
struct hmap *hmap_free(struct hmap *m);		/* accepts NULL, returns NULL */

size_t hmap_count(const struct hmap *m);
void *hmap_get(const struct hmap *m, const void *key, size_t len);
/* Replaces (and frees) an earlier value.  -ENOMEM leaves the map unchanged; the caller then still
 * owns value.  NULL is no value (-EINVAL): it would read as absent. */
errint_t hmap_put(struct hmap *m, const void *key, size_t len, void *value) _must_check_;
/* Removes the key and returns its value without freeing it; NULL when absent. */
void *hmap_take(struct hmap *m, const void *key, size_t len);

static inline void *hmap_gets(const struct hmap *m, const char *key)
{
	return hmap_get(m, key, __builtin_strlen(key));
}
static inline errint_t hmap_puts(struct hmap *m, const char *key, void *value)
{
	return hmap_put(m, key, __builtin_strlen(key), value);
}
static inline void *hmap_takes(struct hmap *m, const char *key)
{
	return hmap_take(m, key, __builtin_strlen(key));
}

/* Iteration in no particular order: size_t it = 0; while ((v = hmap_next(m, &it, &key, &len))) ...
 * The map must not change while it runs. */
void *hmap_next(const struct hmap *m, size_t *it, const void **ret_key, size_t *ret_len);

/* The seeded hash itself, for tables of other shapes. */
uint64_t hmap_hash(const void *key, size_t len);
