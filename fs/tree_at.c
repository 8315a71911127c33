/*
 * tree_at.c - see tree_at.h
 *
 * The tree is found once and kept in the node's data.  Before that, what an early answer needs is
 * one or a few layers; those that it does not wait for must come all the same, and flights end when
 * nobody waits for them: so an operation of our own waits for the tree (op_start_later).
 *
 * Nothing here blocks; the only side effects before an answer are that operation, one in the life
 * of a node, and numbers in the early table, which are the same however often they are asked.
 */
#include "fs/tree_at.h"

#include <string.h>

#include "fs/early.h"
#include "fs/fuse.h"
#include "fs/prefetch.h"

#define ALONE_MAX (1u << 20)	/* compressed bytes: milliseconds, where they are worth saving */

/* The tree behind a node; the reference is the caller's. */
static errint_t find_tree(struct op *op, struct image_at *at, struct tree **ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	errint_t r = image_at_need(op, at, &img);

	if (r < 0)
		return r;
	return at->merged ? need_tree(op, img, ret) : need_layer_tree(op, img, at->layer, ret);
}

/* The tree has come: what was answered before is now part of it, and directories know their links. */
static errint_t settle(struct op *op, const struct node *n, const struct tree *t)
{
	struct image_at *at = n->data;
	size_t i = 0;
	uint32_t sub;
	bool first = false;
	errint_t r = at->early ? early_settle(at->early, t, &first) : 0;

	if (r < 0)
		return err_set(&op->err, -r, ERR_LOCAL, "out of memory");
	while (first && early_next_dir(at->early, &i, &sub))
		notify_inval_node(op->fs->notifier, node_sub_id(n, sub));
	if (i > 0)
		notify_inval_node(op->fs->notifier, node_sub_id(n, TREE_ROOT));
	return 0;
}

/* Keeps the tree that was found, and returns another reference to what is kept. */
static errint_t keep_found(struct op *op, const struct node *n, struct tree *t, struct tree **ret)
{
	struct image_at *at = n->data;
	struct tree *none = NULL;
	errint_t r = settle(op, n, t);

	if (r < 0) {
		(void)tree_unref(t);
		return r;
	}
	if (!atomic_compare_exchange_strong(&at->tree, &none, t)) {
		(void)tree_unref(t);
		t = none;
	} else if (at->merged) {
		prefetch_begin(op, (struct node *)n);
	}
	*ret = tree_ref(t);
	return 0;
}

errint_t tree_at(struct op *op, const struct node *n, struct tree **ret)
{
	struct image_at *at = n->data;
	struct tree *t = atomic_load(&at->tree);
	errint_t r;

	if (t) {
		*ret = tree_ref(t);
		return 0;
	}
	r = find_tree(op, at, &t);
	return r < 0 ? r : keep_found(op, n, t, ret);
}

/* ---- before the merged tree is there (early.h) ---- */

/* The reply of an operation that nobody waits for. */
static void prepared(struct op *op, errint_t r)
{
	(void)op;
	(void)r;
}

/* Sees to it that the tree comes, also when whoever asks needs only a part and goes.  Once: a layer
 * that does not come is tried again by those who need it, not behind the back of those who do not. */
static void prepare_tree(struct op *op, struct node *n)
{
	struct image_at *at = n->data;
	struct op *other;

	if (atomic_exchange(&at->preparing, true))
		return;
	other = op_new(op->eng, OP_PREPARE, node_ref(n), TREE_ROOT);
	if (!other)
		return;
	other->reply = prepared;
	op_start_later(other);
}

errint_t tree_at_prepare(struct op *op, struct node *n)
{
	_cleanup_(tree_unrefp) struct tree *t = NULL;

	return tree_at(op, n, &t);
}

/* A small top layer goes alone: it is there sooner, and the others hardly later. */
static bool goes_alone(struct early *e, const struct image *img)
{
	return early_layers(e) == 0 && img->m->layers[img->m->n_layers - 1].size <= ALONE_MAX;
}

/* Like tree_at, but -EAGAIN when it is not there and early answers are possible. */
static errint_t tree_or_early(struct op *op, const struct node *n, struct image **ret_img, struct tree **ret)
{
	struct image_at *at = n->data;
	struct tree *t = atomic_load(&at->tree);
	errint_t r;

	if (t || !at->merged || !at->early || op->no_wait)
		return tree_at(op, n, ret);
	r = image_at_need(op, at, ret_img);
	if (r < 0)
		return r;
	if ((*ret_img)->m->n_layers == 0)
		return tree_at(op, n, ret);
	r = need_tree_here(op, *ret_img, &t);
	return r < 0 ? -EAGAIN : keep_found(op, n, t, ret);
}

void seen_done(struct seen *s)
{
	(void)tree_unref(s->t);
}

static errint_t see_early(struct op *op, struct node *n, struct image *img, uint32_t sub, const char *name,
			  struct seen *ret)
{
	struct image_at *at = n->data;
	struct early_file f = { 0 };
	errint_t r = name ? early_find(op, at->early, img, sub, name, strlen(name), &f) :
			    early_get(op, at->early, img, sub, &f);

	if (r == 0 || (r == -EINPROGRESS && !goes_alone(at->early, img)))
		prepare_tree(op, n);
	*ret = (struct seen){ .t = f.t, .n = f.node, .sub = f.sub, .layer = f.layer, .early = true };
	return r;
}

bool tree_is_link(const struct tree_attr *a)
{
	return a->type == TREE_SYMLINK || a->type == TREE_LINK;
}

bool tree_shown_raw(const struct op *op, const struct tree_attr *a)
{
	return op->fs->config->raw_links && a->type == TREE_SYMLINK;
}

uint32_t tree_file_of(const struct op *op, const struct tree_attr *a, uint32_t n)
{
	return tree_is_link(a) && !tree_shown_raw(op, a) ? n : a->ino;
}

/* In the tree: the kernel's number, or name in it. */
static errint_t see_in_tree(struct op *op, struct node *n, uint32_t sub, const char *name, struct seen *s)
{
	const struct image_at *at = n->data;
	struct tree_attr a;
	uint32_t i = early_in_tree(at->early, sub);

	if (i >= tree_count(s->t))
		return -ESTALE;
	if (name) {
		i = tree_lookup(s->t, i, name, strlen(name));
		if (i == TREE_NONE) {
			s->t = tree_unref(s->t);
			return 0;
		}
		tree_get(s->t, i, &a);
		i = tree_file_of(op, &a, i);
	}
	s->n = i;
	s->sub = early_shown(at->early, i);
	return 0;
}

errint_t tree_see(struct op *op, struct node *n, uint32_t sub, const char *name, struct seen *ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	errint_t r = tree_or_early(op, n, &img, &ret->t);

	if (r == -EAGAIN)
		r = see_early(op, n, img, sub, name, ret);
	else if (r == 0)
		return see_in_tree(op, n, sub, name, ret);
	if (r != -EAGAIN)
		return r;
	r = tree_at(op, n, &ret->t);
	return r < 0 ? r : see_in_tree(op, n, sub, name, ret);
}

