/*
 * merge_link.c - hard links whose target is not in their own layer
 *
 * The builder leaves a TREE_LINK where, at the link's place in the archive, the layer had no such
 * target.  Applied in order, the link then meets what the layers below have at that path; so that
 * is looked up first, in the merge of the lower layers without this layer's whiteouts (tools that
 * apply archives in order could only have made the link before the whiteout).  If there is nothing,
 * a target that came later in the same archive is taken: more than others do, and never a guess.
 * Directories and nothing at all make the link unresolvable: it is dropped.
 *
 * The result is a node, not a path: what replaces the target in higher layers does not matter.
 * Layers are done from the bottom, so a link to a link finds it resolved.
 *
 * Many links of one layer usually point into few directories; a directory is looked up once per
 * layer.  MERGE_LINK_STEPS_MAX bounds what archives made to be slow can cost.
 */
#include "cache/merge_priv.h"

#include <string.h>

#include "util/hmap.h"

#define MERGE_LINK_STEPS_MAX (UINT64_C(1) << 26)	/* look-ups in one layer's directory */

/* While a layer is being done: links[ino].layer. */
#define LINK_NEXT (MERGE_NONE - 1)	/* as .node of the same layer, which is a TREE_LINK */
#define LINK_VISITED (MERGE_NONE - 2)	/* the same, and met on the present walk */

static errint_t find_dir(struct merge *m, size_t below, const char *path, size_t len,
			 struct merge_stack *ret)
{
	const char *end = path + len;
	struct merge_name n;
	errint_t r = merge_root(m, below, &n);

	for (const char *p = path; r == 0 && n.stack.n > 0 && p < end;) {
		const char *slash = memchr(p, '/', (size_t)(end - p));
		const char *stop = slash ? slash : end;

		m->link_steps += n.stack.n;
		r = merge_lookup(m, n.stack, p, (size_t)(stop - p), &n);
		p = slash ? slash + 1 : end;
	}
	*ret = n.stack;
	return m->link_steps > MERGE_LINK_STEPS_MAX ? -EFBIG : r;
}

static errint_t find_dir_once(struct merge *m, size_t below, struct hmap *memo, const char *path,
			      size_t len, struct merge_stack *ret)
{
	const struct merge_stack *known = hmap_get(memo, path, len);

	if (known) {
		*ret = *known;
		return 0;
	}

	_cleanup_free_ struct merge_stack *s = calloc(1, sizeof(*s));
	errint_t r = s ? find_dir(m, below, path, len, s) : -ENOMEM;

	if (r == 0)
		r = hmap_put(memo, path, len, s);
	if (r < 0)
		return r;
	*ret = *s;
	(void)steal_ptr(&s);
	return 0;
}

static errint_t find_lower(struct merge *m, size_t below, struct hmap *memo, const char *path,
			   size_t len, struct merge_ref *ret)
{
	const char *slash = memrchr(path, '/', len), *name = slash ? slash + 1 : path;
	struct merge_stack dir;
	struct merge_name n = { 0 };
	errint_t r = find_dir_once(m, below, memo, path, slash ? (size_t)(slash - path) : 0, &dir);

	m->link_steps += dir.n;
	if (r == 0)
		r = merge_lookup(m, dir, name, (size_t)(path + len - name), &n);
	if (r == 0 && n.found && !n.is_dir)
		*ret = n.src;
	return r;
}

static void find_same_layer(const struct merge *m, uint32_t layer, const char *path, size_t len,
			    struct merge_ref *ret)
{
	const struct tree *t = m->layers[layer];
	uint32_t n = tree_lookup_path(t, path, len);
	uint32_t ino = n == TREE_NONE ? TREE_NONE : t->nodes[n].ino;

	if (ino == TREE_NONE || t->nodes[ino].type == TREE_DIR)
		return;
	*ret = (struct merge_ref){ t->nodes[ino].type == TREE_LINK ? LINK_NEXT : layer, ino };
}

static errint_t find_target(struct merge *m, uint32_t layer, struct hmap *memo, uint32_t ino)
{
	const struct tree *t = m->layers[layer];
	const char *path = t->strings + lo32(t->nodes[ino].u);
	size_t len = hi32(t->nodes[ino].u);
	struct merge_ref *ret = &m->links[layer][ino];
	errint_t r = merge_check(m);

	if (r == 0)
		r = find_lower(m, layer, memo, path, len, ret);

	if (r == 0 && ret->layer == MERGE_NONE)
		find_same_layer(m, layer, path, len, ret);
	return r;
}

/* Follows a chain inside the layer to its end and gives the result to all its members. */
static void settle_chain(struct merge_ref *links, uint32_t ino)
{
	struct merge_ref end;
	uint32_t i = ino;

	for (; links[i].layer == LINK_NEXT; i = links[i].node)
		links[i].layer = LINK_VISITED;
	end = links[i];
	if (end.layer == LINK_VISITED) /* a circle */
		end = (struct merge_ref){ MERGE_NONE, TREE_NONE };
	for (i = ino; links[i].layer == LINK_VISITED;) {
		uint32_t next = links[i].node;

		links[i] = end;
		i = next;
	}
}

static bool is_link(const struct tree *t, uint32_t i)
{
	return t->nodes[i].type == TREE_LINK && t->nodes[i].ino == i;
}

static errint_t layer_links(struct merge *m, uint32_t layer, struct hmap *memo)
{
	const struct tree *t = m->layers[layer];
	errint_t r = 0;

	for (uint32_t i = 0; r == 0 && i < tree_count(t); i++)
		if (is_link(t, i))
			r = find_target(m, layer, memo, i);
	for (uint32_t i = 0; r == 0 && i < tree_count(t); i++)
		if (is_link(t, i))
			settle_chain(m->links[layer], i);
	m->n_arena = 0;
	return r;
}

static errint_t links_alloc(struct merge *m, uint32_t layer)
{
	uint32_t n = tree_count(m->layers[layer]);
	struct merge_ref *links = calloc(n, sizeof(*links));

	if (!links)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++)
		links[i] = (struct merge_ref){ MERGE_NONE, TREE_NONE };
	m->links[layer] = links;
	return 0;
}

static bool has_links(const struct tree *t)
{
	for (uint32_t i = 0; i < tree_count(t); i++)
		if (t->nodes[i].type == TREE_LINK)
			return true;
	return false;
}

errint_t merge_links(struct merge *m)
{
	errint_t r = 0;

	for (uint32_t i = 0; r == 0 && i < m->n_layers; i++) {
		r = merge_check(m);
		if (r < 0 || !has_links(m->layers[i]))
			continue;

		struct hmap *memo = hmap_new(free);

		r = memo ? links_alloc(m, i) : -ENOMEM;
		if (r == 0)
			r = layer_links(m, i, memo);
		(void)hmap_free(memo);
	}
	return r;
}
