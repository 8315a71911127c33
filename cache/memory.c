/*
 * memory.c - the in-memory fallback of the store (contract: memory.h)
 *
 * An object is in one of these states, all under the lock:
 *	private	listed = false, users >= 1: being filled, or replaced while somebody reads it
 *	in use	listed = true, users >= 1
 *	idle	listed = true, users = 0: on the idle list, may be evicted
 * `bytes` counts all three, `idle_bytes` the last.  An object that is neither listed nor used is
 * freed at once.
 */
#include "cache/memory.h"

#include <stdbool.h>
#include <string.h>

#include "util/hmap.h"

struct ca_mem {
	struct ca_memory *m;
	struct ca_mem *prev, *next;	/* idle list */
	unsigned users;
	bool listed;
	size_t len, cost;
	char *data;
	char name[];
};

struct ca_memory {
	pthread_mutex_t lock;
	uint64_t max, bytes, idle_bytes;
	struct hmap *table;
	struct ca_mem *oldest, *newest;	/* idle list */
};

struct ca_memory *ca_memory_new(uint64_t max)
{
	struct ca_memory *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->table = hmap_new(NULL);
	if (!m->table) {
		free(m);
		return NULL;
	}
	m->max = max;
	(void)pthread_mutex_init(&m->lock, NULL);
	return m;
}

static void destroy(struct ca_mem *x)
{
	x->m->bytes -= x->cost;
	free(x->data);
	free(x);
}

static void idle_add(struct ca_mem *x)
{
	struct ca_memory *m = x->m;

	x->prev = m->newest;
	x->next = NULL;
	*(m->newest ? &m->newest->next : &m->oldest) = x;
	m->newest = x;
	m->idle_bytes += x->cost;
}

static void idle_remove(struct ca_mem *x)
{
	struct ca_memory *m = x->m;

	*(x->prev ? &x->prev->next : &m->oldest) = x->next;
	*(x->next ? &x->next->prev : &m->newest) = x->prev;
	m->idle_bytes -= x->cost;
}

/* Takes x out of the table; it lives on as long as it has users. */
static void unlist(struct ca_mem *x)
{
	x->listed = false;
	if (x->users > 0)
		return;
	idle_remove(x);
	destroy(x);
}

static void drop_locked(struct ca_memory *m, const char *name)
{
	struct ca_mem *x = hmap_takes(m->table, name);

	if (x)
		unlist(x);
}

struct ca_memory *ca_memory_free(struct ca_memory *m)
{
	if (!m)
		return NULL;
	while (m->oldest)
		drop_locked(m, m->oldest->name);
	(void)hmap_free(m->table);
	(void)pthread_mutex_destroy(&m->lock);
	free(m);
	return NULL;
}

static bool make_room(struct ca_memory *m, size_t cost)
{
	if (cost > m->max || m->bytes - m->idle_bytes > m->max - cost)
		return false;
	while (m->bytes > m->max - cost)
		drop_locked(m, m->oldest->name);
	m->bytes += cost;
	return true;
}

static struct ca_mem *mem_new(const char *name, size_t len, size_t cost)
{
	size_t name_len = strlen(name);
	struct ca_mem *x = calloc(1, sizeof(*x) + name_len + 1);

	if (!x)
		return NULL;
	x->data = malloc(len ? len : 1);
	if (!x->data) {
		free(x);
		return NULL;
	}
	x->users = 1;
	x->len = len;
	x->cost = cost;
	memcpy(x->name, name, name_len);
	return x;
}

errint_t ca_memory_alloc(struct ca_memory *m, const char *name, size_t len, struct ca_mem **ret,
			 struct err *e)
{
	size_t cost = len + sizeof(struct ca_mem) + 2 * strlen(name);
	struct ca_mem *x;

	if (len > m->max)
		return err_set(e, ENOSPC, ERR_LOCAL, "%zu bytes do not fit into memory", len);
	x = mem_new(name, len, cost);
	if (!x)
		return err_errno(e, ENOMEM, "keeping %zu bytes in memory", len);
	{
		LOCK_SCOPE(&m->lock);

		if (make_room(m, cost))
			x->m = m;
	}
	if (!x->m) {
		free(x->data);
		free(x);
		return err_set(e, ENOSPC, ERR_LOCAL,
			       "no room for %zu bytes in memory (the cache's limit is %llu)", len,
			       (unsigned long long)m->max);
	}
	*ret = x;
	return 0;
}

static void unref_locked(struct ca_mem *x)
{
	if (--x->users > 0)
		return;
	if (x->listed)
		idle_add(x);
	else
		destroy(x);
}

errint_t ca_memory_put(struct ca_mem *x, struct err *e)
{
	struct ca_memory *m = x->m;
	errint_t r;

	LOCK_SCOPE(&m->lock);
	drop_locked(m, x->name);
	r = hmap_puts(m->table, x->name, x);
	x->listed = r == 0;
	unref_locked(x);
	return r == 0 ? 0 : err_errno(e, -r, "keeping an object in memory");
}

struct ca_mem *ca_memory_get(struct ca_memory *m, const char *name)
{
	struct ca_mem *x;

	LOCK_SCOPE(&m->lock);
	x = hmap_gets(m->table, name);
	if (x && x->users++ == 0)
		idle_remove(x);
	return x;
}

void ca_memory_drop(struct ca_memory *m, const char *name)
{
	LOCK_SCOPE(&m->lock);
	drop_locked(m, name);
}

uint64_t ca_memory_bytes(struct ca_memory *m)
{
	LOCK_SCOPE(&m->lock);
	return m->bytes;
}

struct ca_mem *ca_mem_unref(struct ca_mem *x)
{
	if (x) {
		LOCK_SCOPE(&x->m->lock);
		unref_locked(x);
	}
	return NULL;
}

void *ca_mem_data(struct ca_mem *x)
{
	return x->data;
}

size_t ca_mem_len(const struct ca_mem *x)
{
	return x->len;
}
