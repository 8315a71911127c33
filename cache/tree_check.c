/*
 * tree_check.c - is this image a sound tree?
 *
 * An image comes from a disk that others may have written to.  Everything the accessors rely on is
 * proven here once, in time linear in the image and with four bytes of memory a node:
 *
 *	1. each node alone: its name, its type, its places in pool and sections, hard link rules;
 *	2. the shape: children tile the node numbers in order, are sorted and know their parent,
 *	   depth is bounded, directories count their subdirectories;
 *	3. the sections: extents ascend and belong to one file each, attribute sets are sorted;
 *	4. link counts.
 */
#include "cache/tree_image.h"

#include <string.h>

#include "cache/tree_check.h"

static bool str_ok(const struct tree *t, uint64_t at, uint64_t len)
{
	return at + len < t->head->strings && t->strings[at + len] == '\0';
}

static bool name_ok(const struct tree *t, const struct tree_node *n)
{
	const char *s = t->strings + n->name;

	if (n->name_len == 0 || !str_ok(t, n->name, n->name_len))
		return false;
	if (s[0] == '.' && (n->name_len == 1 || (n->name_len == 2 && s[1] == '.')))
		return false;
	return !memchr(s, '/', n->name_len) && !memchr(s, '\0', n->name_len);
}

static bool root_ok(const struct tree_node *n)
{
	return n->type == TREE_DIR && n->ino == TREE_ROOT && n->parent == TREE_ROOT &&
	       n->name_len == 0 && n->name == 0;
}

/* A further name of a file carries nothing that could contradict the first one. */
static bool alias_ok(const struct tree *t, uint32_t i)
{
	const struct tree_node *n = &t->nodes[i];
	struct tree_node bare = {
		.ino = n->ino, .parent = n->parent, .name = n->name, .name_len = n->name_len,
		.type = n->type,
	};

	return n->ino < i && t->nodes[n->ino].ino == n->ino &&
	       t->nodes[n->ino].type == n->type && n->type != TREE_DIR &&
	       memcmp(n, &bare, sizeof(bare)) == 0;
}

static bool target_ok(const struct tree *t, const struct tree_node *n)
{
	uint32_t at = lo32(n->u), len = hi32(n->u);

	return n->v == 0 && len <= TREE_PATH_MAX && str_ok(t, at, len) &&
	       !memchr(t->strings + at, '\0', len);
}

static bool reg_ok(const struct tree *t, const struct tree_node *n)
{
	if (n->u > TREE_SIZE_MAX || n->layer >= TREE_LAYERS_MAX)
		return false;
	if (n->flags & TREE_F_SPARSE)
		return (uint64_t)lo32(n->v) + hi32(n->v) <= t->head->extents;
	return n->v <= TREE_SIZE_MAX - n->u;
}

static bool type_ok(const struct tree *t, const struct tree_node *n)
{
	switch ((enum tree_type)n->type) {
	case TREE_DIR:
		return n->v == 0 && !(n->flags & TREE_F_SPARSE);
	case TREE_REG:
		return reg_ok(t, n) && !(n->flags & TREE_F_IMPLICIT);
	case TREE_SYMLINK:
	case TREE_LINK:
		return n->flags == 0 && target_ok(t, n);
	case TREE_CHR:
	case TREE_BLK:
		return n->flags == 0 && n->v == 0;
	case TREE_FIFO:
		return n->flags == 0 && n->u == 0 && n->v == 0;
	case TREE_UNSET:
		break;
	}
	return false;
}

static bool node_ok(const struct tree *t, uint32_t i)
{
	const struct tree_node *n = &t->nodes[i];

	if (i == TREE_ROOT ? !root_ok(n) : !name_ok(t, n))
		return false;
	if (n->ino != i)
		return n->ino < t->head->nodes && alias_ok(t, i);
	return n->zero == 0 && !(n->flags & ~(TREE_F_IMPLICIT | TREE_F_SPARSE)) &&
	       n->mode <= 07777 && n->mtime_ns < 1000000000 && n->xset <= t->head->xsets &&
	       (n->type == TREE_REG || n->layer == 0) && type_ok(t, n);
}

/* The children of dir, whose first one must have the number *next. */
static bool children_ok(const struct tree *t, uint32_t dir, uint32_t *next)
{
	const struct tree_node *d = &t->nodes[dir], *prev = NULL;
	uint32_t first = lo32(d->u), count = hi32(d->u), subdirs = 0;

	if (count == 0 ? first != 0 : first != *next || count > t->head->nodes - first)
		return false;
	for (uint32_t i = first; i < first + count; i++) {
		const struct tree_node *n = &t->nodes[i];

		if (n->parent != dir)
			return false;
		if (prev && name_cmp(node_name(t, prev), prev->name_len, node_name(t, n),
				     n->name_len) >= 0)
			return false;
		subdirs += n->type == TREE_DIR;
		prev = n;
	}
	*next += count;
	return d->nlink == 2 + subdirs;
}

static bool shape_ok(const struct tree *t)
{
	uint32_t next = 1, level_end = 1, depth = 0;

	for (uint32_t i = 0; i < t->head->nodes; i++) {
		if (i == level_end) {
			level_end = next;
			if (++depth > TREE_DEPTH_MAX)
				return false;
		}
		if (i >= next) /* nobody's child */
			return false;
		if (t->nodes[i].type == TREE_DIR && !children_ok(t, i, &next))
			return false;
	}
	return next == t->head->nodes;
}

static bool extents_ascend(const struct tree *t, const struct tree_node *n)
{
	const struct tree_extent *x = t->extents + lo32(n->v);
	uint64_t end = 0;

	for (uint32_t i = 0; i < hi32(n->v); i++, x++) {
		if (x->len == 0 || x->off < end || x->off > n->u || x->len > n->u - x->off ||
		    x->data_off > TREE_SIZE_MAX - x->len)
			return false;
		end = x->off + x->len;
	}
	return true;
}

/* Sparse files use up the extents in the order of their numbers. */
static bool extents_ok(const struct tree *t)
{
	uint32_t next = 0;

	for (uint32_t i = 0; i < t->head->nodes; i++) {
		const struct tree_node *n = &t->nodes[i];

		if (!(n->flags & TREE_F_SPARSE))
			continue;
		if (lo32(n->v) != next || !extents_ascend(t, n))
			return false;
		next += hi32(n->v);
	}
	return next == t->head->extents;
}

static bool xattr_ok(const struct tree *t, const struct tree_xattr *x)
{
	return x->name_len > 0 && x->name_len <= TREE_XATTR_NAME_MAX &&
	       x->value_len <= TREE_XATTR_VALUE_MAX && str_ok(t, x->name, x->name_len) &&
	       str_ok(t, x->value, x->value_len) &&
	       !memchr(t->strings + x->name, '\0', x->name_len);
}

static bool xset_ok(const struct tree *t, const struct tree_xset *s)
{
	const struct tree_xattr *x = t->xattrs + s->first;

	for (uint32_t i = 0; i < s->count; i++) {
		if (!xattr_ok(t, &x[i]))
			return false;
		if (i > 0 && name_cmp(t->strings + x[i - 1].name, x[i - 1].name_len,
				      t->strings + x[i].name, x[i].name_len) >= 0)
			return false;
	}
	return true;
}

static bool xsets_ok(const struct tree *t)
{
	uint32_t next = 0;

	for (uint32_t i = 0; i < t->head->xsets; i++) {
		const struct tree_xset *s = &t->xsets[i];

		if (s->first != next || s->count == 0 || s->count > TREE_XSET_MAX ||
		    s->count > t->head->xattrs - next || !xset_ok(t, s))
			return false;
		next += s->count;
	}
	return next == t->head->xattrs;
}

static bool nlinks_ok(const struct tree *t, uint32_t *count)
{
	uint32_t n = t->head->nodes;

	for (uint32_t i = 0; i < n; i++)
		count[t->nodes[i].ino]++;
	for (uint32_t i = 0; i < n; i++)
		if (t->nodes[i].ino == i && t->nodes[i].type != TREE_DIR &&
		    t->nodes[i].nlink != count[i])
			return false;
	return true;
}

static errint_t unsound(struct err *e, const char *what)
{
	return err_set(e, EBADMSG, ERR_INTEGRITY, "not a sound file tree: %s", what);
}

errint_t tree_check(const struct tree *t, struct err *e)
{
	for (uint32_t i = 0; i < t->head->nodes; i++)
		if (!node_ok(t, i))
			return err_set(e, EBADMSG, ERR_INTEGRITY,
				       "not a sound file tree: node %u", i);
	if (!shape_ok(t))
		return unsound(e, "directories");
	if (!extents_ok(t))
		return unsound(e, "extents of sparse files");
	if (!xsets_ok(t))
		return unsound(e, "extended attributes");

	_cleanup_free_ uint32_t *count = calloc(t->head->nodes, sizeof(*count));

	if (!count)
		return err_set(e, ENOMEM, ERR_LOCAL, "no memory to check a file tree");
	return nlinks_ok(t, count) ? 0 : unsound(e, "link counts");
}
