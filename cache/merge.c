/*
 * merge.c - the merged tree, breadth first
 *
 * Merged nodes are numbered as they are found: the root, then the children of node 0, of node 1,
 * and so on, which is the order that an image wants (tree_image.h).  For each merged directory its
 * stack is remembered until its turn comes; merge_union.c says what its children are.
 *
 * A file is known by (layer, number of its node there).  The first merged name of a file carries
 * the attributes, later ones point to it: inode numbers and link counts are those of the merged
 * tree, whichever layers the names come from.
 *
 * Extended attributes in the name spaces of overlayfs (trusted.overlay.*, user.overlay.*) are left
 * out: they would steer an overlayfs that has the merged tree as a lower directory, and no program
 * in an image has a use for them.  All others, security.capability too, stay.
 */
#include <string.h>

#include "cache/merge_priv.h"
#include "cache/tree_stack.h"

#define CHECK_NAMES 1024	/* how often a large directory asks whether to go on */

/* ---- attributes ----------------------------------------------------------------------------- */

static bool begins(const char *name, size_t name_len, const char *prefix)
{
	size_t len = strlen(prefix);

	return name_len >= len && memcmp(name, prefix, len) == 0;
}

bool tree_merge_hides_xattr(const char *name, size_t len)
{
	return begins(name, len, "trusted.overlay.") || begins(name, len, "user.overlay.");
}

static uint32_t convert_xset(struct merge *m, const struct tree *t, const struct tree_xset *s)
{
	_cleanup_free_ struct tree_xattr_in *in = calloc(s->count, sizeof(*in));
	size_t n = 0;

	if (!in) {
		m->w.failed = -ENOMEM;
		return 0;
	}
	for (uint32_t i = 0; i < s->count; i++) {
		const struct tree_xattr *x = &t->xattrs[s->first + i];

		in[n] = (struct tree_xattr_in){
			t->strings + x->name, x->name_len, t->strings + x->value, x->value_len,
		};
		n += !tree_merge_hides_xattr(in[n].name, in[n].name_len);
	}
	return tree_writer_xset(&m->w, in, n);
}

static uint32_t map_xset(struct merge *m, uint32_t layer, uint32_t xset)
{
	const struct tree *t = m->layers[layer];

	if (xset == 0)
		return 0;

	uint32_t *known = &m->xsets[layer][xset - 1];

	if (*known == TREE_NONE)
		*known = convert_xset(m, t, &t->xsets[xset - 1]);
	return *known;
}

static errint_t copy_typed(struct merge *m, const struct tree *t, struct tree_node *out)
{
	if (out->type == TREE_SYMLINK) {
		uint32_t s = tree_writer_str(&m->w, t->strings + lo32(out->u), hi32(out->u));

		out->u = pair32(m->w.failed ? 0 : m->w.strs[s].at, hi32(out->u));
		return m->w.failed;
	}
	if (out->flags & TREE_F_SPARSE) {
		uint32_t first = lo32(out->v), n = hi32(out->v);

		out->v = pair32((uint32_t)m->w.n_extents, n);
		return tree_writer_extents(&m->w, t->extents + first, n);
	}
	return 0;
}

/* Node number i becomes a copy of what r stands for, without a name yet. */
static errint_t copy_node(struct merge *m, uint32_t i, struct merge_ref r)
{
	struct tree_node *out = &m->w.nodes[i];

	*out = *merge_node(m, r);
	out->ino = i;
	out->nlink = 1;
	out->layer = out->type == TREE_REG ? (uint16_t)r.layer : 0;
	out->xset = map_xset(m, r.layer, out->xset);
	if (out->type == TREE_DIR) {
		out->u = 0;
		out->nlink = 2;
	}
	return m->w.failed ? m->w.failed : copy_typed(m, m->layers[r.layer], out);
}

/* ---- nodes ---------------------------------------------------------------------------------- */

static errint_t lay_file(struct merge *m, uint32_t i, struct merge_ref r)
{
	const struct tree_node *f = merge_node(m, r);
	uint32_t *first = &m->first[r.layer][f->ino];

	if (*first == TREE_NONE) {
		*first = i;
		return copy_node(m, i, r);
	}
	m->w.nodes[i] = (struct tree_node){ .type = f->type, .ino = *first };
	m->w.nodes[*first].nlink++;
	return 0;
}

static errint_t lay_stack(struct merge *m, uint32_t i, struct merge_stack s)
{
	errint_t r = tree_vec_grow(&m->stacks, &m->cap_stacks, i, TREE_NODES_MAX,
				   sizeof(*m->stacks));

	if (r == 0)
		m->stacks[i] = s;
	return r;
}

static errint_t lay_node(struct merge *m, uint32_t parent, const struct merge_name *n)
{
	uint32_t i = (uint32_t)m->w.n_nodes, name = tree_writer_str(&m->w, n->name, n->len);
	struct tree_node *out = tree_writer_node(&m->w);

	if (!out || m->w.failed)
		return m->w.failed;

	errint_t r = tree_writer_bytes(&m->w) > m->max_bytes ? -EFBIG : lay_stack(m, i, n->stack);

	if (r == 0)
		r = n->is_dir ? copy_node(m, i, n->src) : lay_file(m, i, n->src);
	if (r < 0)
		return r;
	out->name = m->w.strs[name].at;
	out->name_len = (uint8_t)n->len;
	out->parent = parent;
	m->w.nodes[parent].nlink += n->is_dir && i != TREE_ROOT;
	return 0;
}

static errint_t lay_child(struct merge *m, void *ctx, const struct merge_name *n)
{
	const uint32_t *parent = ctx;
	errint_t r = m->w.n_nodes % CHECK_NAMES ? 0 : merge_check(m);

	return r < 0 ? r : lay_node(m, *parent, n);
}

static errint_t lay_all(struct merge *m)
{
	struct merge_name root;
	errint_t r = merge_root(m, m->n_layers, &root);

	if (r == 0)
		r = lay_node(m, TREE_ROOT, &root);
	for (uint32_t i = 0; r == 0 && i < m->w.n_nodes; i++) {
		uint32_t first = (uint32_t)m->w.n_nodes;

		if (m->w.nodes[i].type != TREE_DIR)
			continue;
		r = merge_check(m);
		if (r == 0)
			r = merge_each(m, m->stacks[i], lay_child, &i);
		if (m->w.n_nodes > first)
			m->w.nodes[i].u = pair32(first, (uint32_t)m->w.n_nodes - first);
	}
	return r;
}

/* ---- the whole ------------------------------------------------------------------------------ */

static uint32_t *none_array(size_t n)
{
	uint32_t *p = calloc(n + 1, sizeof(*p));

	if (p)
		memset(p, 0xff, (n + 1) * sizeof(*p)); /* TREE_NONE */
	return p;
}

static errint_t merge_init(struct merge *m, struct tree *const *layers, size_t n)
{
	m->layers = layers;
	m->n_layers = n;
	m->cursors = calloc(2 * n, sizeof(*m->cursors));
	m->links = calloc(n, sizeof(*m->links));
	m->hollow = calloc(n, sizeof(*m->hollow));
	m->first = calloc(n, sizeof(*m->first));
	m->xsets = calloc(n, sizeof(*m->xsets));
	if (!m->cursors || !m->links || !m->hollow || !m->first || !m->xsets)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		if (merge_check(m) < 0)
			return -ECANCELED;
		m->first[i] = none_array(tree_count(layers[i]));
		m->xsets[i] = none_array(layers[i]->head->xsets);
		if (!m->first[i] || !m->xsets[i] || merge_hollow(layers[i], &m->hollow[i]) < 0)
			return -ENOMEM;
	}
	return 0;
}

static void merge_done(struct merge *m)
{
	for (size_t i = 0; i < m->n_layers; i++) {
		if (m->links)
			free(m->links[i]);
		if (m->hollow)
			free(m->hollow[i]);
		if (m->first)
			free(m->first[i]);
		if (m->xsets)
			free(m->xsets[i]);
	}
	free(m->links);
	free(m->hollow);
	free(m->first);
	free(m->xsets);
	free(m->arena);
	free(m->cursors);
	free(m->stacks);
	tree_writer_done(&m->w);
}

/* No layers: an empty directory. */
static errint_t merge_nothing(struct buf *ret, struct err *e)
{
	_cleanup_(tree_builder_freep) struct tree_builder *b = tree_builder_new();

	return b ? tree_builder_finish(b, ret, e) : tree_writer_error(-ENOMEM, e);
}

/* A manifest can name one large layer a thousand times: what the merge costs follows the sum. */
static errint_t check_sum(struct tree *const *layers, size_t n, struct err *e)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += tree_count(layers[i]);
	if (sum <= TREE_MERGE_NODES_MAX)
		return 0;
	return err_set(e, EFBIG, ERR_LIMIT, "%llu entries in %zu layers, the limit is %u",
		       (unsigned long long)sum, n, TREE_MERGE_NODES_MAX);
}

errint_t tree_merge(struct tree *const *layers, size_t n, struct buf *ret, struct cancel *c,
		    struct err *e)
{
	_cleanup_(merge_done) struct merge m = { .cancel = c, .max_bytes = ret->max };

	if (n == 0)
		return merge_nothing(ret, e);
	if (n > TREE_LAYERS_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "%zu layers, the limit is %u", n,
			       TREE_LAYERS_MAX);

	errint_t r = check_sum(layers, n, e);

	if (r < 0)
		return r;
	r = merge_init(&m, layers, n);
	if (r == 0)
		r = merge_links(&m);
	if (r == 0)
		r = lay_all(&m);
	return r < 0 ? tree_writer_error(r, e) : tree_writer_finish(&m.w, ret, e);
}
