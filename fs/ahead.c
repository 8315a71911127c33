/*
 * ahead.c - see ahead.h
 */
#include "fs/ahead.h"

#include <pthread.h>

#include "fs/need_priv.h"
#include "policy/readahead.h"
#include "util/stats.h"

#define AHEAD_MAX 4u		/* spans ahead of one reader */
#define UNDER_WAY_MAX 6u	/* of all; some 4 MiB of memory each */

struct ahead {
	size_t n;
	struct ahead_layer {
		pthread_mutex_t lock;	/* a leaf: covers readers */
		struct po_readahead readers;
		atomic_uint last;	/* the span that somebody was in last, and one */
	} layers[];
};

static atomic_uint under_way;

struct ahead *ahead_free(struct ahead *a)
{
	for (size_t i = 0; a && i < a->n; i++)
		pthread_mutex_destroy(&a->layers[i].lock);
	free(a);
	return NULL;
}

static struct ahead *the_ahead(struct image *img)
{
	struct ahead *a = atomic_load(&img->ahead), *none = NULL;

	if (a)
		return a;
	a = calloc(1, sizeof(*a) + img->m->n_layers * sizeof(a->layers[0]));
	if (!a)
		return NULL;
	a->n = img->m->n_layers;
	for (size_t i = 0; i < a->n; i++)
		pthread_mutex_init(&a->layers[i].lock, NULL);
	if (!atomic_compare_exchange_strong(&img->ahead, &none, a)) {
		(void)ahead_free(a);
		a = none;
	}
	return a;
}

struct task {
	struct image *img;
	struct ca_layer *l;
	size_t layer;
	uint32_t from, end;
	bool wanted;
};

static void task_free(void *arg)
{
	struct task *t = arg;

	(void)atomic_fetch_sub(&under_way, t->end - t->from);
	(void)ca_layer_unref(t->l);
	image_unref(t->img);
	free(t);
}

static errint_t fetch(struct op *op, void *arg)
{
	struct task *t = arg;
	errint_t r = 0;

	for (uint32_t i = t->from; !t->wanted && i < t->end && (r == 0 || r == -EINPROGRESS); i++) {
		if (ca_layer_piece_here(t->l, i))
			continue;
		r = want_span(op, t->img, t->layer, t->l, i);
		if (r == -EINPROGRESS)
			stat_inc(STAT_READ_AHEAD);
	}
	t->wanted = true;
	return r;
}

static bool any_missing(struct ca_layer *l, uint32_t from, uint32_t end)
{
	for (uint32_t i = from; i < end; i++)
		if (!ca_layer_piece_here(l, i))
			return true;
	return false;
}

static void start(struct op *op, struct image *img, size_t i, struct ca_layer *l, uint32_t from, uint32_t end)
{
	struct task *t;

	if (!any_missing(l, from, end))
		return;
	if (atomic_fetch_add(&under_way, end - from) + (end - from) > UNDER_WAY_MAX || !(t = calloc(1, sizeof(*t)))) {
		(void)atomic_fetch_sub(&under_way, end - from);
		return;
	}
	*t = (struct task){ image_ref(img), ca_layer_ref(l), i, from, end, false };
	(void)op_task(op->eng, op->node, fetch, t, task_free);
}

void read_ahead(struct op *op, struct image *img, size_t i, struct ca_layer *l, uint64_t off, size_t len)
{
	struct ahead *a = len ? the_ahead(img) : NULL;
	struct ahead_layer *x = a ? &a->layers[i] : NULL;
	uint32_t at, from, end;
	bool more;

	if (!x || (at = ca_layer_piece_at(l, off + len - 1)) == ca_layer_pieces(l) ||
	    atomic_load_explicit(&x->last, memory_order_relaxed) == at + 1)
		return;
	atomic_store_explicit(&x->last, at + 1, memory_order_relaxed);
	{
		LOCK_SCOPE(&x->lock);
		more = po_readahead(&x->readers, at, ca_layer_pieces(l), AHEAD_MAX, &from, &end);
	}
	if (more)
		start(op, img, i, l, from, end);
}
