/*
 * evict.c - room for new bytes
 *
 * Two limits: what is used, reserved and written by others must stay below max_bytes; what the file
 * system has free must, after everything reserved has been written, stay above min_free.
 *
 * Eviction takes the least recently used objects, but only those that were last used before the
 * writer's `since` and that nobody in this process has open (unlinking an open file frees nothing).
 * It first adds up whether that is enough: when it is not, nothing is evicted and the reservation
 * fails.  So a set of objects that is larger than the cache cannot push itself (or everything else)
 * out in vain.  When it is enough, 1/CA_LOW_WATER_DIV of what is used is freed beyond the need, so
 * that the sorting is paid for once per many objects.
 *
 * Some file systems (btrfs) give space back only seconds after an unlink.  What an eviction freed
 * and statvfs does not show yet is a credit for CREDIT_S; without it each writer would evict again.
 * The credit shrinks as the space turns up: what is free now, and what was written since, is
 * compared with what was free then.
 *
 * Locks: store_i.h.  The list of victims is made under `evicting`, which keeps its entries alive;
 * each victim is looked at again before it goes.
 */
#include "cache/store_i.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/statvfs.h>

#include "util/clock.h"
#include "util/stats.h"

#define CREDIT_S 35	/* btrfs commits every 30 s */
#define ROUNDS_MAX 8	/* of eviction for one reservation; others may take what was freed */

struct victim {
	struct ca_entry *en;
	uint64_t used, bytes;
};

static int by_use(const void *a, const void *b)
{
	const struct victim *x = a, *y = b;

	return (x->used > y->used) - (x->used < y->used);
}

static bool evictable_locked(const struct ca_entry *en, uint64_t since)
{
	return en->state != CA_GONE && en->used < since && !(en->open && en->open->users > 0);
}

/* The list of all that may go; evicting is held. */
static size_t collect(struct ca_store *s, uint64_t since, struct victim **ret, uint64_t *ret_bytes)
{
	size_t n = 0, it = 0, len;
	const void *key;
	struct ca_entry *en;
	struct victim *v;

	*ret_bytes = 0;
	LOCK_SCOPE(&s->lock);
	v = malloc((hmap_count(s->index) + 1) * sizeof(*v));
	*ret = v;
	while (v && (en = hmap_next(s->index, &it, &key, &len))) {
		if (!evictable_locked(en, since))
			continue;
		v[n++] = (struct victim){ .en = en, .used = en->used, .bytes = en->bytes };
		*ret_bytes += en->bytes;
	}
	return n;
}

static bool still_evictable(struct ca_store *s, const struct victim *v)
{
	LOCK_SCOPE(&s->lock);
	return v->en->used == v->used && evictable_locked(v->en, UINT64_MAX);
}

static uint64_t evict_one(struct ca_store *s, const struct victim *v)
{
	struct ca_object *idle;
	uint64_t freed;

	LOCK_SCOPE(ca_name_lock(s, v->en->path));
	if (!still_evictable(s, v))
		return 0;
	if (ca_sys_unlinkat(s->dirfd, v->en->path) < 0 && errno != ENOENT)
		return 0;
	{
		LOCK_SCOPE(&s->lock);
		freed = v->en->bytes;
		idle = ca_entry_detach_locked(v->en);
		(void)hmap_takes(s->index, v->en->path);
	}
	(void)ca_object_close(idle);	/* now its bytes are free, and may be said to be */
	{
		LOCK_SCOPE(&s->lock);
		ca_entry_bytes_locked(s, v->en, 0);
	}
	free(v->en);
	stat_add(STAT_CACHE_EVICTED, (int64_t)freed);
	return freed;
}

uint64_t ca_evict(struct ca_store *s, uint64_t must, uint64_t want, size_t n_want, uint64_t since)
{
	_cleanup_free_ struct victim *v = NULL;
	uint64_t total, freed = 0;
	size_t n, gone = 0;

	LOCK_SCOPE(&s->evicting);
	n = collect(s, since, &v, &total);
	if (!v || total < must)
		return 0;
	qsort(v, n, sizeof(*v), by_use);
	for (size_t i = 0; i < n && (freed < want || gone < n_want); i++) {
		uint64_t k = evict_one(s, &v[i]);

		freed += k;
		gone += k > 0;
	}
	return freed;
}

/* Bytes that may still be written before min_free is reached; negative below it. */
static int64_t disk_room(struct ca_store *s)
{
	struct statvfs v;

	if (fstatvfs(s->dirfd, &v) < 0)
		return INT64_MAX / 2;
	return (int64_t)MIN_OF((uint64_t)v.f_bavail * v.f_frsize, (uint64_t)INT64_MAX / 2) -
	       (int64_t)MIN_OF(s->min_free, (uint64_t)INT64_MAX / 2);
}

uint64_t ca_credit_locked(const struct ca_store *s, int64_t room)
{
	int64_t came = room - s->credit_room + (int64_t)(s->written - s->credit_written);

	if (clock_mono_ns() >= s->credit_until_ns)
		return 0;
	return s->credit - MIN_OF(s->credit, (uint64_t)MAX_OF(came, 0));
}

/* How much has to go before n more bytes fit; <= 0: they fit. */
static int64_t excess_locked(struct ca_store *s, uint64_t n, int64_t room)
{
	int64_t over_max = (int64_t)(s->used + s->reserved + s->foreign + n) -
			   (int64_t)MIN_OF(s->max_bytes, (uint64_t)INT64_MAX / 2);
	int64_t credit = (int64_t)ca_credit_locked(s, room);
	int64_t over_room = (int64_t)(s->unwritten + n) - room - credit;

	return MAX_OF(over_max, over_room);
}

/* Reserves if there is room, else says how much is missing (bytes, objects). */
static bool try_reserve(struct ca_store *s, uint64_t n, uint64_t *ret_excess, size_t *ret_objects)
{
	int64_t room = disk_room(s), excess;
	bool full;

	LOCK_SCOPE(&s->lock);
	excess = excess_locked(s, n, room);
	*ret_excess = (uint64_t)MAX_OF(excess, 0);
	full = hmap_count(s->index) >= CA_OBJECTS_MAX;
	*ret_objects = full ? CA_OBJECTS_MAX / CA_LOW_WATER_DIV : 0;
	if (excess > 0 || full)
		return false;
	s->reserved += n;
	s->unwritten += n;
	return true;
}

static errint_t no_room(struct ca_store *s, uint64_t n, struct err *e)
{
	return err_set(e, ENOSPC, ERR_LOCAL,
		       "no room for %llu bytes in the cache %s (limit %llu, %llu to be left free)",
		       (unsigned long long)n, s->dir, (unsigned long long)s->max_bytes,
		       (unsigned long long)s->min_free);
}

uint64_t ca_store_room(struct ca_store *s)
{
	int64_t room = disk_room(s);
	uint64_t used;

	ca_store_usage(s, &used, NULL);
	return MIN_OF((uint64_t)MAX_OF((int64_t)MIN_OF(used, (uint64_t)INT64_MAX / 2) + room, 0), s->max_bytes);
}

uint64_t ca_slack(struct ca_store *s)
{
	LOCK_SCOPE(&s->lock);
	return s->used / CA_LOW_WATER_DIV;
}

/* Evicts, and notes what the file system has not given back yet. */
static uint64_t evict_for_room(struct ca_store *s, uint64_t must, uint64_t want, size_t n_want,
			       uint64_t since)
{
	int64_t before = disk_room(s);
	uint64_t freed = ca_evict(s, must, want, n_want, since);
	int64_t after = disk_room(s);
	uint64_t shown = (uint64_t)MAX_OF(after - before, 0);

	LOCK_SCOPE(&s->lock);
	s->credit = ca_credit_locked(s, before);
	s->credit_room = after;
	s->credit_written = s->written;
	if (freed > shown) {
		s->credit += freed - shown;
		s->credit_until_ns = clock_mono_ns() + CREDIT_S * NSEC_PER_SEC;
	}
	return freed;
}

errint_t ca_reserve(struct ca_store *s, uint64_t n, uint64_t since, struct err *e)
{
	if (n > s->max_bytes)
		return no_room(s, n, e);
	for (int round = 0; round < ROUNDS_MAX; round++) {
		uint64_t excess;
		size_t objects;

		if (try_reserve(s, n, &excess, &objects))
			return 0;
		if (evict_for_room(s, excess, excess + ca_slack(s), objects, since) == 0 &&
		    !ca_scan_wait(s))
			break;
	}
	return no_room(s, n, e);
}

void ca_trim(struct ca_store *s)
{
	uint64_t excess;
	size_t objects = 0;
	int64_t room = disk_room(s);

	{
		LOCK_SCOPE(&s->lock);
		excess = (uint64_t)MAX_OF(excess_locked(s, 0, room), 0);
		if (hmap_count(s->index) > CA_OBJECTS_MAX)
			objects = hmap_count(s->index) - CA_OBJECTS_MAX;
	}
	if (excess > 0 || objects > 0)
		(void)evict_for_room(s, 0, excess ? excess + ca_slack(s) : 0, objects, UINT64_MAX);
}
