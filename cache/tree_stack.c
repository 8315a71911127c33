/*
 * tree_stack.c - see tree_stack.h
 *
 * A lookup walks the path from the root.  For each component the directories that make up its
 * parent are known as far as the known layers go; merge_lookup decides over them, and tells by
 * `done` whether what is below could still matter.  A directory is open while unknown layers may
 * add children to it: when nothing has cut it off (opaque marker, whiteout, file below) and its
 * own parent is open.
 */
#include "cache/tree_stack.h"

#include <string.h>

#include "cache/crc.h"
#include "cache/merge_priv.h"

/* Links into other layers are few.  A path that shares its bit with one is left to the merge, which costs
 * time only, and an image of nothing but such links costs no more memory than any other. */
#define TARGET_BITS (1u << 19)

struct tree_stack {
	size_t n, known;
	struct tree **layers;	/* known ones: n - known .. n - 1 */
	uint8_t **hollow;	/* as in struct merge */
	uint8_t *targets;	/* bits by hash of what hard links of known layers point to in other ones; NULL: none do */
};

struct tree_stack *tree_stack_new(size_t n)
{
	_cleanup_(tree_stack_freep) struct tree_stack *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->n = n;
	s->layers = calloc(n + 1, sizeof(struct tree *));
	s->hollow = calloc(n + 1, sizeof(uint8_t *));
	return s->layers && s->hollow ? steal_ptr(&s) : NULL;
}

struct tree_stack *tree_stack_free(struct tree_stack *s)
{
	if (!s)
		return NULL;
	for (size_t i = s->n - s->known; i < s->n; i++) {
		(void)tree_unref(s->layers[i]);
		free(s->hollow[i]);
	}
	free(s->layers);
	free(s->hollow);
	free(s->targets);
	free(s);
	return NULL;
}

size_t tree_stack_known(const struct tree_stack *s)
{
	return s->known;
}

struct tree *tree_stack_tree(const struct tree_stack *s, uint32_t layer)
{
	return s->layers[layer];
}

static uint32_t target_bit(const char *path, size_t len)
{
	return crc32_add(0, path, len) % TARGET_BITS;
}

static errint_t note_targets(struct tree_stack *s, const struct tree *t)
{
	for (uint32_t i = 0; i < tree_count(t); i++) {
		const struct tree_node *n = &t->nodes[i];

		if (n->type != TREE_LINK || n->ino != i)
			continue;
		if (!s->targets && !(s->targets = calloc(TARGET_BITS / 8, 1)))
			return -ENOMEM;
		uint32_t bit = target_bit(t->strings + lo32(n->u), hi32(n->u));
		s->targets[bit / 8] |= (uint8_t)(1u << bit % 8);
	}
	return 0;
}

static bool is_target(const struct tree_stack *s, const char *path, size_t len)
{
	uint32_t bit = s->targets ? target_bit(path, len) : 0;

	return s->targets && s->targets[bit / 8] & 1u << bit % 8;
}

errint_t tree_stack_push(struct tree_stack *s, struct tree *t)
{
	size_t i = s->n - s->known - 1;
	errint_t r;

	if (s->known == s->n)
		return -EINVAL;
	r = merge_hollow(t, &s->hollow[i]);
	if (r == 0)
		r = note_targets(s, t);
	if (r < 0) {
		free(s->hollow[i]);
		s->hollow[i] = NULL;
		return r;
	}
	s->layers[i] = tree_ref(t);
	s->known++;
	return 0;
}

/* A place on the path. */
struct place {
	struct merge_name name;
	bool open;		/* unknown layers may say more about the name itself */
};

/* May unknown layers add to its children? */
static bool children_open(const struct place *p)
{
	return p->open && !p->name.cut;
}

static errint_t step(struct merge *m, struct place *p, const char *name, size_t len)
{
	bool open = children_open(p);
	errint_t r = merge_lookup(m, p->name.stack, name, len, &p->name);

	p->open = open && !p->name.done;
	return r;
}

static enum tree_stack_says file_says(const struct tree_stack *s, const struct tree_node *f, const char *path,
				      size_t len)
{
	return f->nlink > 1 || is_target(s, path, len) ? TREE_STACK_MERGE : TREE_STACK_FOUND;
}

/* What is known at the end of the path. */
static enum tree_stack_says answer(const struct tree_stack *s, const struct merge *m, const struct place *p,
				   const char *path, size_t len, struct tree_stack_name *ret)
{
	const struct merge_name *n = &p->name;

	if (!n->found)
		return p->open ? TREE_STACK_LOWER : TREE_STACK_ABSENT;
	*ret = (struct tree_stack_name){
		.is_dir = n->is_dir,
		.has_attrs = !n->is_dir || n->explicit || !p->open,
		.layer = n->src.layer,
		.node = n->src.node,
		.attr_layer = n->src.layer,
		.attr_node = n->src.node,
	};
	if (!n->is_dir)
		return file_says(s, merge_node(m, n->src), path, len);
	ret->layer = m->arena[n->stack.at].layer;
	ret->node = m->arena[n->stack.at].node;
	return TREE_STACK_FOUND;
}

static errint_t begin(const struct tree_stack *s, struct merge *m, struct place *p)
{
	errint_t r = 0;

	*p = (struct place){ .name.stack.at = (uint32_t)m->n_arena };
	for (size_t i = s->n; r == 0 && i-- > s->n - s->known;)
		r = merge_name_entry(m, &p->name, (struct merge_ref){ (uint32_t)i, TREE_ROOT });
	p->open = s->known < s->n && !p->name.done;
	return r;
}

/* No merged tree has such a name, whatever the layers say. */
static bool has_marker(const char *path, size_t len)
{
	const char *end = path + len;

	while (path < end) {
		const char *slash = memchr(path, '/', (size_t)(end - path));

		if (merge_is_marker_name(path, (size_t)(end - path)))
			return true;
		path = slash ? slash + 1 : end;
	}
	return false;
}

/* -EAGAIN: what is known does not lead to the end. */
static errint_t walk(struct merge *m, struct place *p, const char *path, size_t len)
{
	const char *end = path + len;
	errint_t r = 0;

	while (r == 0 && path < end) {
		const char *slash = memchr(path, '/', (size_t)(end - path));
		const char *stop = slash ? slash : end;

		if (!p->name.stack.n && !children_open(p))
			return -ENOENT;	/* the way ends at a file, or at nothing */
		if (!p->name.stack.n)
			return -EAGAIN;
		r = step(m, p, path, (size_t)(stop - path));
		if (r == 0 && p->name.linked)
			r = -EMLINK;
		path = slash ? slash + 1 : end;
	}
	return r;
}

int tree_stack_lookup(const struct tree_stack *s, const char *path, size_t len, struct tree_stack_name *ret)
{
	struct merge m = { .layers = s->layers, .n_layers = s->n, .hollow = s->hollow };
	struct place p;
	errint_t r = s->known || !s->n ? begin(s, &m, &p) : -EAGAIN;
	int says = 0;

	if (r == 0 && has_marker(path, len))
		r = -ENOENT;
	if (r == 0)
		r = walk(&m, &p, path, len);
	if (r == 0)
		says = answer(s, &m, &p, path, len, ret);
	free(m.arena);
	switch (r) {
	case 0: return says;
	case -EAGAIN: return TREE_STACK_LOWER;
	case -ENOENT: return TREE_STACK_ABSENT;
	case -EMLINK: return TREE_STACK_MERGE;
	}
	return r;
}
