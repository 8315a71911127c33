/*
 * early.c - see early.h
 *
 * A file is known by (layer, number in that layer's tree), which is one and the same for all its
 * visible names: files with several are left to the tree.  A directory is known by its place in the
 * topmost layer that has it.  Either has a path in that layer, which is its path in the merged tree.
 *
 * Layers are taken in from the top as they are needed: first one at a time, since a name may be
 * decided by any; from STEP_ONE on as many as are known already, since an operation must not run
 * again too often (OP_RERUNS_MAX).
 */
#include "fs/early.h"

#include <stdlib.h>
#include <string.h>

#include "cache/tree_stack.h"
#include "util/cleanup.h"
#include "util/hmap.h"

#define STEP_ONE 32

struct place {
	uint32_t layer, node;
};

struct entry {
	struct place at;
	bool is_dir;
};

struct shown {
	uint32_t in_tree, sub;
};

struct early {
	bool raw_links;
	pthread_mutex_t lock;
	struct tree_stack *stack;	/* NULL once settled */
	uint64_t bytes;			/* of the trees in it */
	struct hmap *numbers;		/* struct place -> entry number + 1 */
	struct entry *entries;
	size_t n, cap;

	/* Constant once settled: */
	uint32_t *in_tree;		/* by entry */
	struct shown *shown;		/* by ascending in_tree */
	atomic_bool settled;
};

struct early *early_new(size_t n_layers, bool raw_links)
{
	struct early *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	(void)pthread_mutex_init(&e->lock, NULL);
	e->raw_links = raw_links;
	e->stack = tree_stack_new(n_layers);
	e->numbers = hmap_new(NULL);
	return e->stack && e->numbers ? e : early_free(e);
}

struct early *early_free(struct early *e)
{
	if (!e)
		return NULL;
	(void)tree_stack_free(e->stack);
	(void)hmap_free(e->numbers);
	free(e->entries);
	free(e->in_tree);
	free(e->shown);
	(void)pthread_mutex_destroy(&e->lock);
	free(e);
	return NULL;
}

/* ---- numbers; lock held ---- */

static struct entry *find_entry(struct early *e, uint32_t sub)
{
	return sub >= EARLY_SUB && sub - EARLY_SUB < e->n ? &e->entries[sub - EARLY_SUB] : NULL;
}

static bool room_for_entry(struct early *e)
{
	size_t cap = e->cap ? 2 * e->cap : 16;
	struct entry *entries;

	if (e->n < e->cap)
		return true;
	entries = reallocarray(e->entries, cap, sizeof(*entries));
	if (!entries)
		return false;
	e->entries = entries;
	e->cap = cap;
	return true;
}

static errint_t number_of(struct early *e, const struct tree_stack_name *name, uint32_t *ret)
{
	struct place at = { name->layer, name->node };
	uintptr_t known = (uintptr_t)hmap_get(e->numbers, &at, sizeof(at));
	errint_t r;

	if (known) {
		*ret = EARLY_SUB + (uint32_t)(known - 1);
		return 0;
	}
	if (e->n >= EARLY_MAX)
		return -EAGAIN;
	if (!room_for_entry(e))
		return -ENOMEM;
	r = hmap_put(e->numbers, &at, sizeof(at), (void *)(uintptr_t)(e->n + 1));
	if (r < 0)
		return r;
	*ret = EARLY_SUB + (uint32_t)e->n;
	e->entries[e->n++] = (struct entry){ at, name->is_dir };
	return 0;
}

static errint_t path_of(struct early *e, uint32_t sub, struct buf *out)
{
	const struct entry *x = find_entry(e, sub);

	if (sub == TREE_ROOT)
		return 0;
	return x ? tree_path(tree_stack_tree(e->stack, x->at.layer), x->at.node, out) : -ESTALE;
}

/* ---- looking ---- */

static void show(const struct early *e, const struct tree_stack_name *name, struct early_file *ret)
{
	ret->t = tree_ref(tree_stack_tree(e->stack, name->attr_layer));
	ret->node = name->attr_node;
	ret->layer = name->attr_layer;
	ret->is_dir = name->is_dir;
}

static bool needs_tree(const struct early *e, const struct tree_stack_name *name)
{
	struct tree_attr a;

	tree_get(tree_stack_tree(e->stack, name->attr_layer), name->attr_node, &a);
	return a.type == TREE_SYMLINK && !e->raw_links;
}

/* -ENODATA: the next layer is needed. */
static errint_t look(struct early *e, const struct buf *path, struct early_file *ret)
{
	struct tree_stack_name name;
	errint_t r = tree_stack_lookup(e->stack, buf_str(path), path->len, &name);

	switch (r) {
	case TREE_STACK_FOUND:
		break;
	case TREE_STACK_ABSENT:
		return 0;
	case TREE_STACK_LOWER:
		return -ENODATA;
	case TREE_STACK_MERGE:
		return -EAGAIN;
	default:
		return r;
	}
	if (!name.has_attrs)
		return -ENODATA;
	if (needs_tree(e, &name))
		return -EAGAIN;
	r = path->len ? number_of(e, &name, &ret->sub) : 0;
	if (r == 0)
		show(e, &name, ret);
	return r;
}

/* The child `name` of sub, or sub itself when there is no name. */
static errint_t look_up(struct early *e, uint32_t sub, const char *name, size_t len, struct early_file *ret,
			size_t *ret_known)
{
	_cleanup_buf_ struct buf path = BUF_INIT(2 * TREE_PATH_MAX);
	errint_t r;

	LOCK_SCOPE(&e->lock);
	if (!e->stack)
		return -EAGAIN;
	*ret_known = tree_stack_known(e->stack);
	r = path_of(e, sub, &path);
	if (r == 0 && len && path.len)
		r = buf_addc(&path, '/');
	if (r == 0 && len)
		r = buf_add(&path, name, len);
	return r < 0 ? r : look(e, &path, ret);
}

/* ---- layers ---- */

static errint_t take_layer(struct early *e, size_t known, struct tree *t)
{
	LOCK_SCOPE(&e->lock);
	size_t len;
	errint_t r;

	if (!e->stack || tree_stack_known(e->stack) != known)
		return 0;	/* somebody else was faster */
	r = tree_stack_push(e->stack, t);
	if (r == 0) {
		(void)tree_image(t, &len);
		e->bytes += len;
	}
	return r;
}

/* An image that the merge will refuse for its size costs no more than this until then, or after. */
static bool has_room(struct early *e, const struct ca_layer *l)
{
	LOCK_SCOPE(&e->lock);
	return e->bytes + ca_layer_tree_bytes(l) <= EARLY_BYTES_MAX;
}

/* Takes the next layer in, or wants it and as many more as is sensible. */
static errint_t next_layer(struct op *op, struct early *e, struct image *img, size_t known)
{
	size_t n = img->m->n_layers, more = known < STEP_ONE ? 1 : known;
	errint_t first = -EAGAIN;

	for (size_t i = 0; i < more && known + i < n; i++) {
		_cleanup_(ca_layer_unrefp) struct ca_layer *l = NULL;
		_cleanup_(tree_unrefp) struct tree *t = NULL;
		size_t layer = n - 1 - known - i;
		errint_t r = need_layer(op, img, layer, &l);

		if (i == 0 && r == 0)
			r = has_room(e, l) ? need_layer_tree(op, img, layer, &t) : -EAGAIN;
		if (i == 0 && r == 0)
			return take_layer(e, known, t);
		if (i == 0)
			first = r;
		if (r < 0 && r != -EINPROGRESS)
			break;
	}
	return first;
}

size_t early_layers(struct early *e)
{
	LOCK_SCOPE(&e->lock);
	return e->stack ? tree_stack_known(e->stack) : 0;
}

static errint_t find(struct op *op, struct early *e, struct image *img, uint32_t sub, const char *name, size_t len,
		     struct early_file *ret)
{
	size_t known = 0;
	errint_t r;

	*ret = (struct early_file){ .sub = TREE_ROOT };
	while ((r = look_up(e, sub, name, len, ret, &known)) == -ENODATA) {
		r = next_layer(op, e, img, known);
		if (r < 0)
			return r;
	}
	return r;
}

errint_t early_find(struct op *op, struct early *e, struct image *img, uint32_t dir, const char *name, size_t len,
		    struct early_file *ret)
{
	return find(op, e, img, dir, name, len, ret);
}

errint_t early_get(struct op *op, struct early *e, struct image *img, uint32_t sub, struct early_file *ret)
{
	return find(op, e, img, sub, "", 0, ret);
}

/* ---- the tree is there ---- */

static int by_place_in_tree(const void *a, const void *b)
{
	const struct shown *x = a, *y = b;

	return (x->in_tree > y->in_tree) - (x->in_tree < y->in_tree);
}

/* A file is known by its own number there, a directory has no other. */
static uint32_t place_in_tree(struct early *e, const struct tree *t, size_t i)
{
	_cleanup_buf_ struct buf path = BUF_INIT(2 * TREE_PATH_MAX);
	struct tree_attr a;
	uint32_t n;

	if (path_of(e, EARLY_SUB + (uint32_t)i, &path) < 0)
		return TREE_NONE;
	n = tree_lookup_path(t, buf_str(&path), path.len);
	if (n == TREE_NONE)
		return n;
	tree_get(t, n, &a);
	return a.ino;
}

errint_t early_settle(struct early *e, const struct tree *t, bool *ret_first)
{
	_cleanup_free_ uint32_t *in_tree = NULL;
	_cleanup_free_ struct shown *shown = NULL;

	*ret_first = false;
	if (atomic_load(&e->settled))
		return 0;
	LOCK_SCOPE(&e->lock);
	if (!e->stack)
		return 0;
	in_tree = calloc(e->n + 1, sizeof(*in_tree));
	shown = calloc(e->n + 1, sizeof(*shown));
	if (!in_tree || !shown)
		return -ENOMEM;
	for (size_t i = 0; i < e->n; i++) {
		in_tree[i] = place_in_tree(e, t, i);
		shown[i] = (struct shown){ in_tree[i], EARLY_SUB + (uint32_t)i };
	}
	qsort(shown, e->n, sizeof(*shown), by_place_in_tree);
	e->in_tree = steal_ptr(&in_tree);
	e->shown = steal_ptr(&shown);
	e->stack = tree_stack_free(e->stack);
	atomic_store(&e->settled, true);
	*ret_first = true;
	return 0;
}

uint32_t early_in_tree(const struct early *e, uint32_t sub)
{
	if (sub < EARLY_SUB)
		return sub;
	return e && sub - EARLY_SUB < e->n ? e->in_tree[sub - EARLY_SUB] : TREE_NONE;
}

uint32_t early_shown(const struct early *e, uint32_t n)
{
	const struct shown key = { .in_tree = n }, *x;

	if (!e || e->n == 0)
		return n;
	x = bsearch(&key, e->shown, e->n, sizeof(*x), by_place_in_tree);
	return x ? x->sub : n;
}

bool early_next_dir(const struct early *e, size_t *at, uint32_t *ret_sub)
{
	while (*at < e->n && !e->entries[*at].is_dir)
		++*at;
	if (*at == e->n)
		return false;
	*ret_sub = EARLY_SUB + (uint32_t)(*at)++;
	return true;
}
