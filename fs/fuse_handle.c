/*
 * fuse_handle.c - file handle numbers
 *
 * fh = generation << 32 | slot + 1.  The number goes to the kernel and comes back; it is looked up,
 * never followed, so that a wrong one is EBADF.  An operation holds the entry while it runs: should
 * a RELEASE come meanwhile, the handle is freed when the operation lets go.
 *
 * Lock: table.lock, a leaf; handles are freed outside of it.
 */
#include "fs/fuse_priv.h"

#include <stdlib.h>

#include "util/cleanup.h"

struct slot {
	struct handle *handle;
	uint32_t gen;
	uint32_t holders;
	uint32_t next_free;		/* index + 1 */
	bool closed;
};

struct handle_table {
	pthread_mutex_t lock;
	struct slot *slots;
	uint32_t n, cap, free_list;	/* free_list: index + 1 */
	size_t count;
};

struct handle_table *handle_table_new(void)
{
	struct handle_table *t = calloc(1, sizeof(*t));

	if (t)
		(void)pthread_mutex_init(&t->lock, NULL);
	return t;
}

struct handle_table *handle_table_free(struct handle_table *t)
{
	if (!t)
		return NULL;
	for (uint32_t i = 0; i < t->n; i++)
		(void)handle_free(t->slots[i].handle);
	free(t->slots);
	(void)pthread_mutex_destroy(&t->lock);
	free(t);
	return NULL;
}

/* Lock held for all of these. */
static bool room(struct handle_table *t)
{
	uint32_t cap = t->cap ? 2 * t->cap : 64;
	struct slot *slots;

	if (t->n < t->cap)
		return true;
	if (t->n >= FUSE_HANDLES_MAX)
		return false;
	slots = reallocarray(t->slots, cap, sizeof(*slots));
	if (!slots)
		return false;
	t->slots = slots;
	t->cap = cap;
	return true;
}

static struct slot *take_slot(struct handle_table *t)
{
	struct slot *s;

	if (t->free_list) {
		s = &t->slots[t->free_list - 1];
		t->free_list = s->next_free;
		return s;
	}
	if (!room(t))
		return NULL;
	s = &t->slots[t->n++];
	*s = (struct slot){ .gen = 1 };
	return s;
}

static struct slot *find(struct handle_table *t, uint64_t fh)
{
	uint32_t i = (uint32_t)fh;
	struct slot *s = i > 0 && i <= t->n ? &t->slots[i - 1] : NULL;

	return s && s->handle && s->gen == fh >> 32 ? s : NULL;
}

/* The handle of an entry that nobody needs any more; a slot whose generations are used up stays. */
static struct handle *reap(struct handle_table *t, struct slot *s)
{
	if (!s->closed || s->holders > 0)
		return NULL;
	t->count--;
	if (++s->gen != 0) {
		s->next_free = t->free_list;
		t->free_list = (uint32_t)(s - t->slots) + 1;
	}
	return steal_ptr(&s->handle);
}

uint64_t handle_add(struct handle_table *t, struct handle *h)
{
	{
		LOCK_SCOPE(&t->lock);
		struct slot *s = take_slot(t);

		if (s) {
			s->handle = h;
			s->holders = 0;
			s->closed = false;
			t->count++;
			return (uint64_t)s->gen << 32 | ((uint64_t)(s - t->slots) + 1);
		}
	}
	(void)handle_free(h);
	return 0;
}

struct handle *handle_hold(struct handle_table *t, uint64_t fh)
{
	LOCK_SCOPE(&t->lock);
	struct slot *s = find(t, fh);

	if (!s || s->closed)
		return NULL;
	s->holders++;
	return s->handle;
}

static struct handle *leave(struct handle_table *t, uint64_t fh, bool close)
{
	LOCK_SCOPE(&t->lock);
	struct slot *s = find(t, fh);

	if (!s || (close && s->closed))
		return NULL;
	if (close)
		s->closed = true;
	else
		s->holders--;
	return reap(t, s);
}

void handle_let_go(struct handle_table *t, uint64_t fh)
{
	(void)handle_free(leave(t, fh, false));
}

void handle_close(struct handle_table *t, uint64_t fh)
{
	(void)handle_free(leave(t, fh, true));
}

size_t handle_count(struct handle_table *t)
{
	LOCK_SCOPE(&t->lock);
	return t->count;
}
