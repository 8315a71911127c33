/*
 * merge_union.c - one merged directory
 *
 * The children of a merged directory are the union of the sorted children of its stack, taken in
 * step by a heap of cursors.  Whiteouts are names too: those of a layer form a second cursor that
 * shows ".wh.x" as "x" and comes right behind the layer's own "x".  So each name is decided on the
 * spot by a walk from the top that ends where nothing below can matter, and every node and marker
 * is touched once.
 *
 * The rules (image-spec layer.md):
 *   - a file ends the walk; over a directory it hides what is below, under a directory it is hidden;
 *   - directories stack, as far as a whiteout, a file or an opaque marker inside one of them;
 *   - a whiteout hides lower layers only;
 *   - an implicit directory has no attributes: the nearest explicit one below gives them, also
 *     through an opaque marker, which empties a directory but does not make it anew;
 *   - a hard link that cannot be resolved is as if it were not there;
 *   - an implicit directory that holds nothing but markers ("d/.wh.x" alone) makes no directory: it
 *     takes part where lower layers have one, and what they have stays what it is.
 *
 * Markers count by name, whatever their type, except implicit directories: ".wh.x/y" in an archive
 * makes ".wh.x" a component, which means nothing.  So do ".wh." and all ".wh..wh.*" but the opaque
 * marker.
 */
#include "cache/merge_priv.h"

#include <string.h>

#define WH ".wh."
#define WH_LEN 4u
#define WH_END ".wh/"		/* first possible name after all that begin with WH */
#define OPAQUE ".wh..wh..opq"
#define NAME_MAX_BYTES 255u

/* ---- markers -------------------------------------------------------------------------------- */

/* The first child that is not before name. */
static uint32_t lower_bound(const struct tree *t, const struct tree_node *dir, const char *name)
{
	uint32_t lo = lo32(dir->u), hi = lo + hi32(dir->u);
	size_t len = strlen(name);

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		const struct tree_node *n = &t->nodes[mid];

		if (name_cmp(node_name(t, n), n->name_len, name, len) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static bool is_component(const struct tree_node *n)
{
	return n->type == TREE_DIR && n->flags & TREE_F_IMPLICIT;
}

static bool has_marker(const struct tree *t, uint32_t dir, const char *name, size_t len)
{
	uint32_t n = tree_lookup(t, dir, name, len);

	return n != TREE_NONE && !is_component(&t->nodes[n]);
}

static bool is_opaque(const struct merge *m, struct merge_ref r)
{
	return has_marker(m->layers[r.layer], r.node, OPAQUE, sizeof(OPAQUE) - 1);
}

static bool has_whiteout(const struct merge *m, struct merge_ref r, const char *name, size_t len)
{
	char wh[NAME_MAX_BYTES];

	if (len > sizeof(wh) - WH_LEN)
		return false;
	memcpy(wh, WH, WH_LEN);
	memcpy(wh + WH_LEN, name, len);
	return has_marker(m->layers[r.layer], r.node, wh, WH_LEN + len);
}

bool merge_is_marker_name(const char *name, size_t len)
{
	return len >= WH_LEN && memcmp(name, WH, WH_LEN) == 0;
}

/* What is in a directory: nothing, markers alone, or something that is seen. */
enum { BARE = 0, MARKERS, SEEN };

errint_t merge_hollow(const struct tree *t, uint8_t **ret)
{
	_cleanup_free_ uint8_t *has = calloc(tree_count(t), 1);
	bool any = false;

	*ret = NULL;
	if (!has)
		return -ENOMEM;
	for (uint32_t i = tree_count(t); i-- > 1;) { /* children come behind their parents */
		const struct tree_node *n = &t->nodes[i];
		uint8_t what = merge_is_marker_name(node_name(t, n), n->name_len) ||
			       (is_component(n) && has[i] == MARKERS) ? MARKERS : SEEN;

		has[n->parent] = MAX_OF(has[n->parent], what);
		has[i] = is_component(n) && has[i] == MARKERS;
		any = any || has[i];
	}
	has[TREE_ROOT] = 0;
	if (any)
		*ret = steal_ptr(&has);
	return 0;
}

/* ---- one name ------------------------------------------------------------------------------- */

static errint_t arena_push(struct merge *m, struct merge_ref r)
{
	errint_t err = tree_vec_grow(&m->arena, &m->cap_arena, m->n_arena, UINT32_MAX,
				     sizeof(*m->arena));

	if (err == 0)
		m->arena[m->n_arena++] = r;
	return err;
}

static void name_file(struct merge_name *n, struct merge_ref r)
{
	if (!n->found) {
		n->found = true;
		n->src = r;
		n->stack.n = 0;
	}
	n->done = true;
}

static errint_t name_dir(struct merge *m, struct merge_name *n, struct merge_ref r)
{
	bool explicit = !(merge_node(m, r)->flags & TREE_F_IMPLICIT);
	errint_t err = 0;

	if (!m->hollow[r.layer] || !m->hollow[r.layer][merge_node(m, r)->ino]) {
		if (!n->found || (explicit && !n->explicit)) {
			n->src = r;
			n->explicit = explicit;
		}
		n->found = n->is_dir = true;
	}
	if (!n->cut) {
		err = arena_push(m, r);
		n->stack.n++;
		n->cut = is_opaque(m, r);
	}
	n->done = n->cut && n->explicit;
	return err;
}

errint_t merge_name_entry(struct merge *m, struct merge_name *n, struct merge_ref r)
{
	const struct tree_node *f = merge_node(m, r);

	if (n->done)
		return 0;
	if (f->type == TREE_DIR)
		return name_dir(m, n, r);
	if (f->type == TREE_LINK && !m->links) {
		n->linked = n->done = true;
		return 0;
	}
	if (f->type == TREE_LINK) {
		r = m->links[r.layer][f->ino];
		if (r.layer == MERGE_NONE)
			return 0;
	}
	name_file(n, r);
	return 0;
}

static void name_begin(const struct merge *m, struct merge_name *n, const char *name, size_t len)
{
	*n = (struct merge_name){
		.name = name, .len = len, .stack.at = (uint32_t)m->n_arena,
	};
}

errint_t merge_root(struct merge *m, size_t n_layers, struct merge_name *ret)
{
	errint_t r = 0;

	name_begin(m, ret, "", 0);
	for (size_t i = n_layers; r == 0 && i-- > 0;)
		r = merge_name_entry(m, ret, (struct merge_ref){ (uint32_t)i, TREE_ROOT });
	return r;
}

errint_t merge_lookup(struct merge *m, struct merge_stack dir, const char *name, size_t len,
		      struct merge_name *ret)
{
	errint_t r = 0;

	name_begin(m, ret, name, len);
	if (merge_is_marker_name(name, len))
		return 0;
	for (uint32_t i = 0; r == 0 && i < dir.n && !ret->done; i++) {
		struct merge_ref d = m->arena[dir.at + i];
		uint32_t n = tree_lookup(m->layers[d.layer], d.node, name, len);

		if (n != TREE_NONE)
			r = merge_name_entry(m, ret, (struct merge_ref){ d.layer, n });
		if (!ret->done && has_whiteout(m, d, name, len))
			merge_name_whiteout(ret);
	}
	return r;
}

/* ---- all names ------------------------------------------------------------------------------ */

static bool cursor_is_marker(const struct merge_cursor *c)
{
	return c->rank & 1;
}

/* Whiteouts that mean a name; the others are passed over. */
static bool is_whiteout(const struct tree_node *n, const char *name)
{
	return n->name_len > WH_LEN && !is_component(n) &&
	       !merge_is_marker_name(name + WH_LEN, n->name_len - WH_LEN);
}

/* Makes c show the node it stands at, or the next one that counts; false at the end. */
static bool cursor_show(const struct merge *m, struct merge_cursor *c)
{
	const struct tree *t = m->layers[c->layer];
	bool marker = cursor_is_marker(c);

	for (;; c->at++) {
		if (c->at == c->skip_at)
			c->at = c->skip_to;
		if (c->at >= c->end)
			return false;

		const struct tree_node *n = &t->nodes[c->at];
		const char *name = node_name(t, n);

		if (marker && !is_whiteout(n, name))
			continue;
		c->name = name + (marker ? WH_LEN : 0);
		c->len = n->name_len - (marker ? WH_LEN : 0);
		return true;
	}
}

static bool cursor_before(const struct merge_cursor *a, const struct merge_cursor *b)
{
	int c = name_cmp(a->name, a->len, b->name, b->len);

	return c != 0 ? c < 0 : a->rank < b->rank;
}

static void sift_down(struct merge *m, size_t i)
{
	struct merge_cursor *h = m->cursors, c = h[i];

	for (;;) {
		size_t kid = 2 * i + 1;

		if (kid + 1 < m->n_cursors && cursor_before(&h[kid + 1], &h[kid]))
			kid++;
		if (kid >= m->n_cursors || !cursor_before(&h[kid], &c))
			break;
		h[i] = h[kid];
		i = kid;
	}
	h[i] = c;
}

static void cursor_push(struct merge *m, struct merge_cursor c)
{
	if (cursor_show(m, &c))
		m->cursors[m->n_cursors++] = c;
}

static void cursors_begin(struct merge *m, struct merge_stack dir)
{
	m->n_cursors = 0;
	for (uint32_t i = 0; i < dir.n; i++) {
		struct merge_ref r = m->arena[dir.at + i];
		const struct tree *t = m->layers[r.layer];
		const struct tree_node *d = &t->nodes[r.node];
		uint32_t first = lo32(d->u), end = first + hi32(d->u);
		uint32_t wh = lower_bound(t, d, WH), wh_end = lower_bound(t, d, WH_END);

		cursor_push(m, (struct merge_cursor){
			.at = first, .end = end, .skip_at = wh, .skip_to = wh_end,
			.layer = r.layer, .rank = 2 * i });
		if (wh < wh_end)
			cursor_push(m, (struct merge_cursor){
				.at = wh, .end = wh_end, .skip_at = TREE_NONE,
				.layer = r.layer, .rank = 2 * i + 1 });
	}
	for (size_t i = m->n_cursors / 2; i-- > 0;)
		sift_down(m, i);
}

static void cursors_next(struct merge *m)
{
	struct merge_cursor *top = &m->cursors[0];

	top->at++;
	if (!cursor_show(m, top))
		*top = m->cursors[--m->n_cursors];
	if (m->n_cursors > 1)
		sift_down(m, 0);
}

/* Takes all cursors that stand at the least name. */
static errint_t take_name(struct merge *m, struct merge_name *n)
{
	const struct merge_cursor *top = &m->cursors[0];
	errint_t r = 0;

	name_begin(m, n, top->name, top->len);
	while (r == 0 && m->n_cursors > 0 && top->len == n->len &&
	       memcmp(top->name, n->name, n->len) == 0) {
		if (cursor_is_marker(top))
			merge_name_whiteout(n);
		else
			r = merge_name_entry(m, n, (struct merge_ref){ top->layer, top->at });
		cursors_next(m);
	}
	return r;
}

errint_t merge_each(struct merge *m, struct merge_stack dir, merge_each_fn fn, void *ctx)
{
	errint_t r = 0;

	cursors_begin(m, dir);
	while (r == 0 && m->n_cursors > 0) {
		struct merge_name n;

		r = take_name(m, &n);
		if (r == 0 && n.found)
			r = fn(m, ctx, &n);
	}
	return r;
}
