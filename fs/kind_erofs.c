/*
 * kind_erofs.c - .image.erofs: the merged tree as a file system that the kernel can mount
 *
 *	mount -t erofs MNT/app/1.0/.image.erofs /mnt
 *
 * The front of the file, names and attributes, comes from the cache (ca_erofs); behind it are the
 * contents of the files, read like those of rootfs/: fetched when they are needed, verified, and
 * fetched again when the cache has dropped them.  What is mounted stays as it is: the kernel holds
 * this node, and with it the image, also when a tag moves.
 *
 * The node's place is that of a merged tree, so that kind_tree reads the contents.  It finds the same
 * tree as long as the node lives, whatever is learnt about layers meanwhile; nodes of another tree
 * would be other files.
 */
#include "fs/kinds.h"
#include "fs/prefetch.h"

#include <sys/stat.h>

#include "fs/tree_at.h"
#include "policy/policy.h"

static pthread_mutex_t erofs_lock = PTHREAD_MUTEX_INITIALIZER;	/* image_at.erofs of all; a leaf but for refs */

static struct ca_erofs *kept(struct image_at *at)
{
	LOCK_SCOPE(&erofs_lock);
	return at->erofs ? ca_erofs_ref(at->erofs) : NULL;
}

static void keep(struct image_at *at, struct ca_erofs *x)
{
	LOCK_SCOPE(&erofs_lock);
	if (!at->erofs)
		at->erofs = ca_erofs_ref(x);
}

/* Has turned out damaged on disk: who comes next opens it anew, or has it built again. */
static void drop(struct image_at *at, struct ca_erofs *x)
{
	LOCK_SCOPE(&erofs_lock);
	if (at->erofs == x)
		at->erofs = ca_erofs_unref(x);	/* the caller has one, too */
}

static errint_t the_erofs(struct op *op, struct node *n, struct ca_erofs **ret)
{
	struct image_at *at = n->data;
	_cleanup_(image_unrefp) struct image *img = NULL;
	_cleanup_(tree_unrefp) struct tree *t = NULL;
	errint_t r;

	*ret = kept(at);
	if (*ret)
		return 0;
	r = image_at_need(op, at, &img);
	if (r == 0)
		r = tree_at(op, n, &t);	/* kept: the one that kind_tree reads from */
	if (r == 0)
		r = need_erofs(op, img, t, ret);
	if (r == 0)
		keep(at, *ret);
	return r;
}

static errint_t erofs_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	struct image_at *at = n->data;
	_cleanup_(ca_erofs_unrefp) struct ca_erofs *x = NULL;
	_cleanup_(image_unrefp) struct image *img = NULL;
	int64_t created = 0;
	errint_t r = the_erofs(op, n, &x);

	(void)sub;
	if (r == 0)
		r = image_at_need(op, at, &img);
	if (r == 0)
		r = image_created(op, img, &created);
	if (r == 0)
		synth_file_attr(op, n, 0444, ca_erofs_size(x), created, PO_FOREVER_NS, ret);
	return r;
}

/* ---- reading ---- */

static errint_t read_meta(struct op *op, struct image_at *at, struct ca_erofs *x, uint64_t off, size_t len,
			  struct buf *ret)
{
	errint_t r = buf_reserve(ret, len);

	if (r == 0)
		r = ca_erofs_read(x, off, ret->data + ret->len, len, &op->err);
	if (r == -EBADMSG)
		drop(at, x);
	if (r < 0)
		return r;
	ret->len += len;
	ret->data[ret->len] = '\0';
	return 0;
}

/* Of a file: its bytes, then the zeros that fill its last block. */
static errint_t read_file(struct op *op, struct node *n, struct handle *h, const struct ca_erofs_piece *p,
			  size_t len, struct buf *ret)
{
	struct image_at *at = n->data;
	struct image *img = atomic_load(&at->img);
	struct tree *t = atomic_load(&at->tree);
	size_t before = ret->len;
	errint_t r = kind_tree.read(op, n, p->node, h, p->off, len, ret);

	if (r < 0)
		return r;
	if (p->off == 0 && ret->len > before && img && t)	/* opens of it are not heard of */
		prefetch_note(op, img, t, p->node);
	len -= ret->len - before;
	r = buf_reserve(ret, len);
	if (r < 0)
		return r;
	memset(ret->data + ret->len, 0, len);
	ret->len += len;
	ret->data[ret->len] = '\0';
	return 0;
}

static errint_t read_pieces(struct op *op, struct node *n, struct handle *h, struct ca_erofs *x, uint64_t off,
			    uint64_t end, struct buf *ret)
{
	errint_t r = 0;

	while (r == 0 && off < end) {
		struct ca_erofs_piece p;
		size_t len;

		ca_erofs_at(x, off, &p);
		len = (size_t)MIN_OF(p.len, end - off);
		r = p.node == TREE_NONE ? read_meta(op, n->data, x, p.off, len, ret) :
					  read_file(op, n, h, &p, len, ret);
		off += len;
	}
	return r;
}

static errint_t erofs_read(struct op *op, struct node *n, uint32_t sub, struct handle *h, uint64_t off,
			   size_t size, struct buf *ret)
{
	_cleanup_(ca_erofs_unrefp) struct ca_erofs *x = NULL;
	size_t before = ret->len;
	errint_t r = the_erofs(op, n, &x);

	(void)sub;
	if (r < 0 || off >= ca_erofs_size(x))
		return r;
	size = (size_t)MIN_OF(size, ca_erofs_size(x) - off);
	r = read_pieces(op, n, h, x, off, off + size, ret);
	if (r != -EBADMSG)
		return r;
	/* Once more from the start, with what is built now. */
	ret->len = before;
	err_clear(&op->err);
	x = ca_erofs_unref(x);
	r = the_erofs(op, n, &x);
	return r < 0 ? r : read_pieces(op, n, h, x, off, off + size, ret);
}

const struct kind kind_erofs = {
	.name = "erofs",
	.attr = erofs_attr,
	.open = open_constant,
	.read = erofs_read,
	.drop_data = image_at_free,
};

errint_t erofs_entry(struct op *op, struct node *dir, struct image *img, uint64_t ttl_ns, struct fs_entry *ret)
{
	_cleanup_(image_unrefp) struct image *main = NULL;
	struct image_at *at;
	errint_t r = need_platform(op, img, &main);

	if (r < 0)
		return r;
	if (!oci_is_container_image(main->m))
		return -ENOENT;
	at = image_at_new(main->site, main->repo, &main->digest, NULL);
	if (at) {
		at->merged = true;
		atomic_store(&at->img, image_ref(main));
	}
	return image_dir_entry(op, dir, MOUNT_EROFS_FILE, &kind_erofs, at, main->ident ^ img->ident << 1, ttl_ns, ret);
}
