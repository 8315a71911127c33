/*
 * toc_twin.c - the same file in both flavours of a layer
 *
 * Needed when a TOC turns out to be wrong about data while its tree is in use: names and attributes
 * that the kernel has cannot be taken back, but the bytes can come from the streamed layer, whose
 * digest is right.  Rare, so it searches.
 */
#include "cache/layer_priv.h"
#include "cache/tree_image.h"

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

static uint32_t find_file(const struct tree *t, uint64_t data, struct tree_attr *ret, uint64_t *ret_file)
{
	for (uint32_t n = 0; n < tree_count(t); n++) {
		tree_get(t, n, ret);
		if (ret->type == TREE_REG && ret->ino == n && holds(t, n, ret, data, ret_file))
			return n;
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

static errint_t find_twin(const struct tree *t, uint64_t off, const struct tree *streamed, struct ca_twin *ret,
			  struct err *e)
{
	_cleanup_buf_ struct buf path = BUF_INIT(TREE_PATH_MAX);
	struct tree_attr a, b;
	uint64_t at;
	uint32_t n = find_file(t, off, &a, &at), m = TREE_NONE;

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

	if (r == 0)
		r = ca_layer_tree(streamed, &u, e);
	if (r == 0)
		r = find_twin(t, off, u, ret, e);
	return r == -EBADMSG ? -EIO : r;
}
