/*
 * kind_tree.c - rootfs/ and layers/NN/: a file tree served out of its compact image
 *
 * One node stands for the whole tree; sub is the number of a file in it.  Nothing is allocated per
 * file, names and attributes come from the tree's image, and all of it may be cached for ever.
 *
 * A rootfs answers what upper layers decide before its merged tree is there (tree_at.h, early.h).
 *
 * The tree is fetched when somebody looks into it or asks for its root's attributes, not when the
 * root is merely listed: `ls -l` of the directory above, which asks right after listing, gets
 * plausible attributes that are good for a moment.
 *
 * Symbolic links are shown so that following them never leaves the tree (tree_link.h); with
 * -o raw_links the image's bytes are shown.
 */
#include "fs/kinds.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "cache/tree_stack.h"
#include "fs/early.h"
#include "fs/plan.h"
#include "fs/prefetch.h"
#include "fs/tree_at.h"
#include "fs/tree_link.h"
#include "fs/warm.h"
#include "policy/policy.h"

#define PUSH_MAX (64u << 10)	/* files up to that size are read whole, says experience */
#define GUESS_TTL_NS 1000000000u	/* from a listing to the stat of what was listed */

static uint8_t dtype_of(enum tree_type t)
{
	switch (t) {
	case TREE_DIR: return DT_DIR;
	case TREE_REG: return DT_REG;
	case TREE_SYMLINK: case TREE_LINK: return DT_LNK;
	case TREE_CHR: return DT_CHR;
	case TREE_BLK: return DT_BLK;
	case TREE_FIFO: return DT_FIFO;
	case TREE_UNSET: break;
	}
	return DT_UNKNOWN;
}

static uint32_t mode_of(const struct tree_attr *a)
{
	return (uint32_t)DTTOIF(dtype_of(a->type)) | a->mode;
}

/* ---- links ---- */

static errint_t link_text(struct op *op, const struct tree *t, uint32_t sub, const struct tree_attr *a,
			  struct buf *out)
{
	if (tree_shown_raw(op, a))
		return buf_add(out, a->target, a->target_len);
	return tree_link_text(t, sub, out);
}

/* ---- attributes ---- */

static errint_t fill_attr(struct op *op, const struct node *n, const struct seen *s, struct fs_attr *ret)
{
	struct tree_attr a;

	tree_get(s->t, s->n, &a);
	*ret = (struct fs_attr){
		.ino = node_sub_ino(n, s->sub),
		.mode = mode_of(&a),
		.nlink = a.nlink,
		.uid = a.uid,
		.gid = a.gid,
		.size = a.size,
		.mtime_s = a.mtime_s,
		.mtime_ns = a.mtime_ns,
		.rdev_major = a.rdev_major,
		.rdev_minor = a.rdev_minor,
		.ttl_ns = PO_FOREVER_NS,
	};
	if (s->early && a.type == TREE_DIR) {
		ret->nlink = 1;
		ret->ttl_ns = GUESS_TTL_NS;
	}
	if (tree_is_link(&a)) {
		_cleanup_buf_ struct buf b = BUF_INIT(TREE_PATH_MAX);
		errint_t r = link_text(op, s->t, s->n, &a, &b);

		if (r < 0)
			return r;
		ret->size = b.len;
		ret->mode |= a.type == TREE_LINK ? 0777 : 0;
		ret->nlink = tree_shown_raw(op, &a) ? a.nlink : 1;
	}
	return 0;
}

/* What roots nearly always have. */
static void guess_root_attr(struct op *op, const struct node *n, struct fs_attr *ret)
{
	synth_dir_attr(op, n, false, 0, op->type == OP_READDIRPLUS ? GUESS_TTL_NS : 0, ret);
	ret->mode = S_IFDIR | 0755;
	ret->uid = ret->gid = 0;
}

/* The root of a tree that cannot be had must have attributes too, or nobody could ask it for
 * user.registryfs.error; who looks inside is told. */
static bool may_guess(const struct op *op, errint_t r)
{
	if (r == -EINPROGRESS)
		return op->type != OP_GETATTR;
	return r < 0 && r != -ENOENT && r != -ECANCELED && r != -EINTR && r != -ESTALE;
}

static errint_t tree_attr_of(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	_cleanup_(seen_done) struct seen s = { 0 };
	bool waits = op->no_wait;
	errint_t r;

	if (sub == TREE_ROOT && op->type != OP_GETATTR)
		op->no_wait = true;
	r = tree_see(op, n, sub, NULL, &s);
	op->no_wait = waits;
	if (sub == TREE_ROOT && may_guess(op, r)) {
		err_clear(&op->err);
		guess_root_attr(op, n, ret);
		return 0;
	}
	return r < 0 ? r : fill_attr(op, n, &s, ret);
}

static errint_t tree_find(struct op *op, struct node *dir, uint32_t sub, const char *name, size_t len,
			  struct fs_entry *ret)
{
	_cleanup_(seen_done) struct seen s = { 0 };
	errint_t r = tree_see(op, dir, sub, name, &s);

	(void)len;
	if (r < 0)
		return r;
	ret->ttl_ns = PO_FOREVER_NS;
	if (!s.t)
		return -ENOENT;
	ret->sub = s.sub;
	r = fill_attr(op, dir, &s, &ret->attr);
	if (r < 0)
		return r;
	ret->node = node_ref(dir);
	return 0;
}

static void keep_tree(void *p)
{
	(void)tree_unref(p);
}

static errint_t tree_list(struct op *op, struct node *dir, uint32_t sub, struct dirlist *ret)
{
	const struct image_at *at = dir->data;
	_cleanup_(tree_unrefp) struct tree *t = NULL;
	struct tree_attr d, a;
	errint_t r = tree_at(op, dir, &t);

	if (r < 0)
		return r;
	sub = early_in_tree(at->early, sub);
	if (sub >= tree_count(t))
		return -ESTALE;
	tree_get(t, sub, &d);
	if (sub != TREE_ROOT)
		ret->parent_ino = node_sub_ino(dir, early_shown(at->early, d.parent));
	for (uint32_t i = 0; i < d.n_children && r == 0; i++) {
		uint32_t child = d.first_child + i, file;

		tree_get(t, child, &a);
		file = early_shown(at->early, tree_file_of(op, &a, child));
		r = dirlist_add_borrowed(ret, a.name, a.name_len, node_sub_ino(dir, file), dtype_of(a.type), child);
	}
	ret->keep = steal_ptr(&t);
	ret->keep_unref = keep_tree;
	return r;
}

static errint_t tree_may_list(struct op *op, struct node *dir, uint32_t sub)
{
	const struct image_at *at = dir->data;
	_cleanup_(tree_unrefp) struct tree *t = NULL;
	struct tree_attr d;
	errint_t r = tree_at(op, dir, &t);

	if (r < 0)
		return r;
	sub = early_in_tree(at->early, sub);
	if (sub >= tree_count(t))
		return -ESTALE;
	tree_get(t, sub, &d);
	return d.type == TREE_DIR ? 0 : -ENOTDIR;
}

static errint_t tree_readlink(struct op *op, struct node *n, uint32_t sub, struct buf *ret)
{
	_cleanup_(seen_done) struct seen s = { 0 };
	struct tree_attr a;
	errint_t r = tree_see(op, n, sub, NULL, &s);

	if (r < 0)
		return r;
	tree_get(s.t, s.n, &a);
	if (!tree_is_link(&a))
		return -EINVAL;
	return link_text(op, s.t, s.n, &a, ret);
}

/* ---- data ---- */

static errint_t add_zeros(struct buf *ret, uint64_t n)
{
	errint_t r = buf_reserve(ret, n);

	if (r < 0)
		return r;
	memset(ret->data + ret->len, 0, n);
	ret->len += n;
	ret->data[ret->len] = '\0';
	return 0;
}

static errint_t read_sparse(struct op *op, struct image *img, const struct tree *t, uint32_t sub, size_t layer,
			    uint64_t off, uint64_t end, struct buf *ret)
{
	struct tree_extent x;
	errint_t r = 0;

	for (size_t i = 0; r == 0 && off < end && tree_extent(t, sub, i, &x); i++) {
		uint64_t n;

		if (x.off + x.len <= off)
			continue;
		if (x.off > off) {
			n = MIN_OF(x.off, end) - off;
			r = add_zeros(ret, n);
			off += n;
		}
		if (r < 0 || off >= end)
			break;
		n = MIN_OF(x.off + x.len, end) - off;
		r = need_layer_data(op, img, layer, x.data_off + (off - x.off), n, ret);
		off += n;
	}
	if (r == 0 && off < end)
		r = add_zeros(ret, end - off);
	return r;
}

/* The layer that holds the data of a file. */
static size_t layer_of(const struct node *n, const struct seen *s, const struct tree_attr *a)
{
	const struct image_at *at = n->data;

	return !at->merged ? at->layer : s->early ? s->layer : a->layer;
}

static errint_t tree_read(struct op *op, struct node *n, uint32_t sub, struct handle *h, uint64_t off,
			  size_t size, struct buf *ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	_cleanup_(seen_done) struct seen s = { 0 };
	struct tree_attr a;
	size_t layer;
	errint_t r = image_at_need(op, n->data, &img);

	(void)h;
	if (r == 0)
		r = tree_see(op, n, sub, NULL, &s);
	if (r < 0)
		return r;
	tree_get(s.t, s.n, &a);
	if (a.type != TREE_REG)
		return -EINVAL;
	if (off >= a.size)
		return 0;
	size = MIN_OF(size, a.size - off);
	layer = layer_of(n, &s, &a);
	if (a.flags & TREE_F_SPARSE)
		return read_sparse(op, img, s.t, a.ino, layer, off, off + size, ret);
	return need_layer_data(op, img, layer, a.data_off + off, size, ret);
}

/* True for one caller per file, and for none without memory. */
static bool first_open(struct image_at *at, const struct tree *t, uint32_t sub)
{
	_Atomic uint64_t *bits = atomic_load(&at->opened), *none = NULL;
	uint64_t bit = UINT64_C(1) << (sub % 64);

	if (!bits) {
		bits = calloc(tree_count(t) / 64 + 1UL, sizeof(*bits));
		if (bits && !atomic_compare_exchange_strong(&at->opened, &none, bits)) {
			free((void *)bits);
			bits = none;
		}
	}
	return bits && !(atomic_fetch_or(&bits[sub / 64], bit) & bit);
}

/* What is used first is worth knowing. */
static void note_open(struct op *op, struct image_at *at, struct tree *t, uint32_t sub, uint32_t i)
{
	struct image *img = atomic_load(&at->img);
	struct tree_attr a;

	if (!at->merged || !img)
		return;
	if (!t) {
		prefetch_note_early(op, at, sub);
		return;
	}
	if (i >= tree_count(t))
		return;
	tree_get(t, i, &a);
	if (a.type == TREE_REG && a.size > 0)
		prefetch_note(op, img, t, i);
}

static errint_t tree_open_file(struct op *op, struct node *n, uint32_t sub, int flags, struct fs_open *ret)
{
	struct image_at *at = n->data;
	struct tree *t = atomic_load(&at->tree);	/* kept while the node lives */
	uint32_t i = t ? early_in_tree(at->early, sub) : TREE_NONE;
	struct tree_attr a;

	if (!(flags & O_DIRECTORY) && t && i < tree_count(t)) {
		tree_get(t, i, &a);
		if (a.type == TREE_REG && a.size <= PUSH_MAX && first_open(at, t, i))
			ret->push = (uint32_t)a.size;
	}
	if (!(flags & O_DIRECTORY))
		note_open(op, at, t, sub, i);
	return open_constant(op, n, sub, flags, ret);
}

/* Whoever looks it up again has no pages: its next open counts as the first. */
static void tree_forgotten(struct node *n, uint32_t sub)
{
	struct image_at *at = n->data;
	const struct tree *t = atomic_load(&at->tree);
	_Atomic uint64_t *bits = atomic_load(&at->opened);
	uint32_t i = t ? early_in_tree(at->early, sub) : TREE_NONE;

	if (bits && t && i < tree_count(t))
		(void)atomic_fetch_and(&bits[i / 64], ~(UINT64_C(1) << (i % 64)));
}

/* ---- extended attributes: the image's own; ours answer to their names but are not listed, or
 * `rsync -X` and `tar --xattrs` would copy them ---- */

#define LAZY_XATTR "user.registryfs.lazy"

/* How a layer is read, for the root of its tree. */
static errint_t lazy_xattr(struct op *op, const struct node *n, struct buf *ret)
{
	struct image_at *at = n->data;
	_cleanup_(image_unrefp) struct image *img = NULL;
	_cleanup_(ca_layer_unrefp) struct ca_layer *l = NULL;
	errint_t r = at->merged ? -ENODATA : image_at_need(op, at, &img);

	if (r == 0)
		r = need_layer(op, img, at->layer, &l);
	return r < 0 ? r : buf_adds(ret, ca_layer_how(l));
}

static errint_t own_xattr(struct op *op, const struct node *n, const struct seen *s, const char *name,
			  struct buf *ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	char text[DIGEST_TEXT_MAX];
	struct tree_attr a;
	size_t layer;
	errint_t r;

	if (strcmp(name, "user.oci.layer") != 0 && strcmp(name, "user.oci.layer_digest") != 0)
		return -ENODATA;
	r = image_at_need(op, n->data, &img);
	if (r < 0)
		return r;
	tree_get(s->t, s->n, &a);
	layer = layer_of(n, s, &a);
	if (a.type != TREE_REG || layer >= img->m->n_layers)
		return -ENODATA;
	if (strcmp(name, "user.oci.layer") == 0)
		return buf_addf(ret, "%02zu", layer);
	return buf_adds(ret, digest_text(&img->m->layers[layer].digest, text));
}

/* Like tree_see; `ls -l` asks every directory for its ACL: no image is fetched for that of a root. */
static errint_t see_for_xattrs(struct op *op, struct node *n, uint32_t sub, struct seen *ret)
{
	bool waits = op->no_wait;
	errint_t r;

	if (sub == TREE_ROOT)
		op->no_wait = true;
	r = tree_see(op, n, sub, NULL, ret);
	op->no_wait = waits;
	return r == -EINPROGRESS && sub == TREE_ROOT ? -ENODATA : r;
}

/* An early file shows what the merged tree will. */
static bool is_hidden(const struct seen *s, const char *name, size_t len)
{
	return s->early && tree_merge_hides_xattr(name, len);
}

/* "How much of it is here" is asked while the tree is on its way. */
static errint_t warm_xattr(struct op *op, struct node *n, uint32_t sub, const char *name, struct buf *ret)
{
	struct image_at *at = n->data;
	_cleanup_(image_unrefp) struct image *img = NULL;
	_cleanup_(tree_unrefp) struct tree *t = NULL;
	bool waits = op->no_wait, ask = strcmp(name, WARM_XATTR) == 0;
	errint_t r = image_at_need(op, at, &img);

	op->no_wait |= !ask;
	if (r == 0)
		r = tree_at(op, n, &t);
	op->no_wait = waits;
	if (r < 0 && (ask || r != -EINPROGRESS))
		return r;
	sub = t ? early_in_tree(at->early, sub) : 0;
	if (t && sub >= tree_count(t))
		return -ESTALE;
	return warm_files(op, img, t, at->merged ? PLAN_MERGED : at->layer, sub, name, ret);
}

/* Where no file has a label or a list, `ls -l` is told that there are none, and asks once instead of twice per
 * file: coreutils remember that for all of the mount.  So the mark of another image that has some may be
 * missing if one run of `ls` shows both; no other tool looks at it so. */
static errint_t tree_getxattr(struct op *op, struct node *n, uint32_t sub, const char *name, struct buf *ret)
{
	_cleanup_(seen_done) struct seen s = { 0 };
	const char *xn;
	const void *xv;
	size_t xn_len, xv_len, len = strlen(name);
	errint_t r;

	if (sub == TREE_ROOT && strcmp(name, LAZY_XATTR) == 0)
		return lazy_xattr(op, n, ret);
	if (warm_asked(name))
		return warm_xattr(op, n, sub, name, ret);
	r = see_for_xattrs(op, n, sub, &s);
	if (r < 0)
		return r;
	if (is_hidden(&s, name, len))
		return -ENODATA;
	if (!s.early && !tree_has_labels(s.t) && tree_is_label(name, len))
		return -EOPNOTSUPP;
	for (size_t i = 0; tree_xattr(s.t, s.n, i, &xn, &xn_len, &xv, &xv_len); i++)
		if (xn_len == len && memcmp(xn, name, len) == 0)
			return buf_add(ret, xv, xv_len);
	return own_xattr(op, n, &s, name, ret);
}

static errint_t tree_listxattr(struct op *op, struct node *n, uint32_t sub, struct buf *ret)
{
	_cleanup_(seen_done) struct seen s = { 0 };
	const char *xn;
	const void *xv;
	size_t xn_len, xv_len;
	errint_t r = see_for_xattrs(op, n, sub, &s);

	if (r == -ENODATA)
		return 0;
	for (size_t i = 0; r == 0 && tree_xattr(s.t, s.n, i, &xn, &xn_len, &xv, &xv_len); i++) {
		if (is_hidden(&s, xn, xn_len))
			continue;
		r = buf_add(ret, xn, xn_len);
		if (r == 0)
			r = buf_addc(ret, '\0');
	}
	return r;
}

const struct kind kind_tree = {
	.name = "tree",
	.is_dir = true,
	.attr = tree_attr_of,
	.lookup = tree_find,
	.may_list = tree_may_list,
	.list = tree_list,
	.readlink = tree_readlink,
	.open = tree_open_file,
	.forgotten = tree_forgotten,
	.read = tree_read,
	.getxattr = tree_getxattr,
	.listxattr = tree_listxattr,
	.prepare = tree_at_prepare,
	.drop_data = image_at_free,
};
