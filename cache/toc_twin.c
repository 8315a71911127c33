/*
 * toc_twin.c - the same file in both flavours of a layer
 *
 * Needed when a TOC turns out to be wrong about data while its tree is in use: names and attributes
 * that the kernel has cannot be taken back, but the bytes can come from the streamed layer, whose
 * digest is right.  Rare, so what finds a file by its data is made when the first one is looked for.
 */
#include <stdlib.h>

#include "cache/layer_priv.h"
#include "cache/tree_image.h"

/* Places of data in ascending order; they do not overlap, as the builder gives each chunk its own. */
struct toc_twins {
	size_t n;
	struct place_of {
		uint64_t data;
		uint32_t node;
	} places[];
};

/* Where `data` lies within file n; false: not there.  *ret_file: the offset in the file. */
static bool holds(const struct tree *t, uint32_t n, const struct tree_attr *a, uint64_t data, uint64_t *ret_file)
{
	struct tree_extent x;

	if (!(a->flags & TREE_F_SPARSE)) {
		*ret_file = data - a->data_off;
		return data >= a->data_off && *ret_file < a->size;
	}
	for (size_t i = 0; tree_extent(t, n, i, &x); i++) {
		if (data < x.data_off || data - x.data_off >= x.len)
			continue;
		*ret_file = x.off + (data - x.data_off);
		return true;
	}
	return false;
}

/* The pieces of all files; into p unless that is NULL. */
static size_t list_places(const struct tree *t, struct place_of *p)
{
	struct tree_attr a;
	struct tree_extent x;
	size_t count = 0;

	for (uint32_t n = 0; n < tree_count(t); n++) {
		tree_get(t, n, &a);
		if (a.type != TREE_REG || a.ino != n)
			continue;
		if (!(a.flags & TREE_F_SPARSE)) {
			if (p)
				p[count] = (struct place_of){ a.data_off, n };
			count++;
		}
		for (size_t i = 0; a.flags & TREE_F_SPARSE && tree_extent(t, n, i, &x); i++, count++)
			if (p)
				p[count] = (struct place_of){ x.data_off, n };
	}
	return count;
}

static int by_data(const void *a, const void *b)
{
	const struct place_of *x = a, *y = b;

	return (x->data > y->data) - (x->data < y->data);
}

static struct toc_twins *twins_of(struct ca_layer *l, const struct tree *tree)
{
	struct toc_twins *t = atomic_load(&l->twins), *none = NULL;
	size_t n;

	if (t)
		return t;
	n = list_places(tree, NULL);
	t = malloc(sizeof(*t) + n * sizeof(t->places[0]));
	if (!t)
		return NULL;
	t->n = list_places(tree, t->places);
	qsort(t->places, n, sizeof(t->places[0]), by_data);
	if (atomic_compare_exchange_strong(&l->twins, &none, t))
		return t;
	free(t);
	return none;
}

/* Empty files stand at the place of what follows them: the last one at a place has the data. */
static uint32_t find_file(const struct toc_twins *w, const struct tree *t, uint64_t data, struct tree_attr *ret,
			  uint64_t *ret_file)
{
	size_t lo = 0, hi = w->n;	/* places below lo begin at or before data */

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (w->places[mid].data <= data)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo > 0 && w->places[lo - 1].data <= data; lo--) {
		uint32_t n = w->places[lo - 1].node;

		tree_get(t, n, ret);
		if (holds(t, n, ret, data, ret_file))
			return n;
		if (ret->size > 0)
			break;
	}
	return TREE_NONE;
}

static void place(const struct tree *t, uint32_t n, const struct tree_attr *a, uint64_t off, struct ca_twin *ret)
{
	struct tree_extent x;

	*ret = (struct ca_twin){ .off = a->data_off + off, .len = a->size - off };
	if (!(a->flags & TREE_F_SPARSE))
		return;
	ret->zeros = true;
	for (size_t i = 0; tree_extent(t, n, i, &x); i++) {
		if (x.off + x.len <= off)
			continue;
		if (x.off > off)
			ret->len = x.off - off;
		else
			*ret = (struct ca_twin){ x.data_off + (off - x.off), x.len - (off - x.off), false };
		return;
	}
}

static errint_t find_twin(const struct toc_twins *w, const struct tree *t, uint64_t off,
			  const struct tree *streamed, struct ca_twin *ret, struct err *e)
{
	_cleanup_buf_ struct buf path = BUF_INIT(TREE_PATH_MAX);
	struct tree_attr a, b;
	uint64_t at;
	uint32_t n = find_file(w, t, off, &a, &at), m = TREE_NONE;

	if (n != TREE_NONE && tree_path(t, n, &path) == 0)
		m = tree_lookup_path(streamed, buf_str(&path), path.len);
	if (m != TREE_NONE)
		tree_get(streamed, m, &b);
	if (m == TREE_NONE || b.type != TREE_REG || b.size != a.size)
		return err_set(e, EIO, ERR_INTEGRITY, "the layer's table of contents is wrong: the layer itself has "
			       "no such file \"%.150s\"", buf_str(&path));
	place(streamed, b.ino, &b, at, ret);
	return 0;
}

errint_t ca_layer_twin(struct ca_layer *l, uint64_t off, struct ca_layer *streamed, struct ca_twin *ret,
		       struct err *e)
{
	_cleanup_(tree_unrefp) struct tree *t = NULL, *u = NULL;
	errint_t r = ca_layer_tree(l, &t, e);

	const struct toc_twins *w = r == 0 ? twins_of(l, t) : NULL;
	if (r == 0 && !w)
		r = err_errno(e, ENOMEM, "reading a layer");
	if (r == 0)
		r = ca_layer_tree(streamed, &u, e);
	if (r == 0)
		r = find_twin(w, t, off, u, ret, e);
	return r == -EBADMSG ? -EIO : r;
}
