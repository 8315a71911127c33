/*
 * kind.c - the wrappers around a kind's slots, listings, handles
 *
 * Nobody calls a slot directly: the wrapper supplies the default for an absent one, completes and
 * checks what comes back, and is where operations are traced (log level DEBUG).  A slot that breaks
 * its contract costs an EIO with a sentence, never a crash.
 *
 * No threads of its own; a struct handle may be used by several operations at once: its list is
 * only touched under its lock once it is open.
 */
#include "fs/kind.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/fs.h"
#include "fs/node.h"
#include "fs/op.h"
#include "util/log.h"

#define DIRLIST_ARENA_MAX ((size_t)1 << 30)	/* bytes of names in one listing */
#define DIRLIST_MAX (16u << 20)			/* entries of one listing */
#define ERROR_XATTR "user.registryfs.error"

/* ---- listings ---- */

void dirlist_init(struct dirlist *l)
{
	*l = (struct dirlist){ .arena = BUF_INIT(DIRLIST_ARENA_MAX) };
}

void dirlist_done(struct dirlist *l)
{
	free(l->items);
	buf_done(&l->arena);
	if (l->keep && l->keep_unref)
		l->keep_unref(l->keep);
	dirlist_init(l);
}

static errint_t dirlist_room(struct dirlist *l)
{
	size_t cap = l->cap ? 2 * l->cap : 32;
	struct dir_item *items;

	if (l->n < l->cap)
		return 0;
	if (l->n >= DIRLIST_MAX)
		return -EFBIG;
	items = reallocarray(l->items, cap, sizeof(*items));
	if (!items)
		return -ENOMEM;
	l->items = items;
	l->cap = cap;
	return 0;
}

static bool is_name(const char *name, size_t len)
{
	return len > 0 && len <= NODE_NAME_MAX && !memchr(name, '/', len) &&
	       !memchr(name, '\0', len) &&
	       !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

errint_t dirlist_add_borrowed(struct dirlist *l, const char *name, size_t len, uint64_t ino,
			      uint8_t dtype, uint32_t sub)
{
	errint_t r = is_name(name, len) ? dirlist_room(l) : -EINVAL;

	if (r < 0)
		return r;
	l->items[l->n++] = (struct dir_item){
		.name = name, .name_len = (uint32_t)len, .sub = sub, .ino = ino, .dtype = dtype,
	};
	return 0;
}

/* The arena moves as it grows: names that are in it have to follow. */
static void follow_arena(struct dirlist *l, const char *old, size_t old_len)
{
	for (size_t i = 0; i < l->n; i++) {
		uintptr_t at = (uintptr_t)l->items[i].name - (uintptr_t)old;

		if (at < old_len)
			l->items[i].name = l->arena.data + at;
	}
}

errint_t dirlist_add(struct dirlist *l, const char *name, size_t len, uint64_t ino, uint8_t dtype)
{
	const char *old = l->arena.data;
	size_t at = l->arena.len;
	errint_t r = is_name(name, len) ? dirlist_room(l) : -EINVAL;

	if (r == 0)
		r = buf_add(&l->arena, name, len);
	if (r < 0)
		return r;
	if (old && old != l->arena.data)
		follow_arena(l, old, at);
	return dirlist_add_borrowed(l, l->arena.data + at, len, ino, dtype, 0);
}

/* qsort is not stable, and of two equal names the first one is to stay: so positions count too. */
struct sort_item {
	struct dir_item item;
	size_t pos;
};

static int compare_names(const struct dir_item *a, const struct dir_item *b)
{
	int r = memcmp(a->name, b->name, MIN_OF(a->name_len, b->name_len));

	return r ? r : (a->name_len > b->name_len) - (a->name_len < b->name_len);
}

static int compare_plain(const void *a, const void *b)
{
	return compare_names(a, b);
}

static int compare_items(const void *a, const void *b)
{
	const struct sort_item *x = a, *y = b;
	int r = compare_names(&x->item, &y->item);

	return r ? r : (x->pos > y->pos) - (x->pos < y->pos);
}

/* Drops neighbours with equal names. */
static void drop_equal(struct dirlist *l)
{
	size_t n = 0;

	for (size_t i = 0; i < l->n; i++)
		if (n == 0 || compare_names(&l->items[n - 1], &l->items[i]) != 0)
			l->items[n++] = l->items[i];
	l->n = n;
}

void dirlist_sort_unique(struct dirlist *l)
{
	_cleanup_free_ struct sort_item *s = NULL;
	bool sorted = true;

	for (size_t i = 1; i < l->n && sorted; i++)
		sorted = compare_names(&l->items[i - 1], &l->items[i]) <= 0;
	s = sorted ? NULL : calloc(l->n, sizeof(*s));
	if (s) {
		for (size_t i = 0; i < l->n; i++)
			s[i] = (struct sort_item){ l->items[i], i };
		qsort(s, l->n, sizeof(*s), compare_items);
		for (size_t i = 0; i < l->n; i++)
			l->items[i] = s[i].item;
	} else if (!sorted) { /* no memory: in place, and which of two equals stays is left to
				 chance */
		qsort(l->items, l->n, sizeof(*l->items), compare_plain);
	}
	drop_equal(l);
}

/* ---- handles ---- */

static struct handle *handle_new(struct node *n, uint32_t sub)
{
	struct handle *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	(void)pthread_mutex_init(&h->lock, NULL);
	dirlist_init(&h->list);
	h->node = node_ref(n);
	h->kind = n->kind;
	h->sub = sub;
	return h;
}

struct handle *handle_free(struct handle *h)
{
	if (!h)
		return NULL;
	if (h->kind->release)
		h->kind->release(h->node, h);
	dirlist_done(&h->list);
	buf_done(&h->text);
	(void)node_unref(h->node);
	(void)pthread_mutex_destroy(&h->lock);
	free(h);
	return NULL;
}

/* ---- the wrappers ---- */

static errint_t no_memory(struct op *op)
{
	return err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
}

static errint_t contract(struct op *op, const struct node *n, const char *what)
{
	return err_set(&op->err, EIO, ERR_BUG, "%s: a bug in registryfs: %s", n->kind->name, what);
}

static void trace_slow(const char *what, struct node *n, uint32_t sub, const char *name, errint_t r)
{
	_cleanup_buf_ struct buf path = BUF_INIT(8192);

	node_path(n, &path);
	log_debug("%s %s %s%s%s sub %u: %d", n->kind->name, what, buf_str(&path), *name ? " " : "",
		  name, (unsigned)sub, r);
}

/* Logs when that is wanted, and returns r: the common end of all wrappers. */
static errint_t trace(const char *what, struct node *n, uint32_t sub, const char *name, errint_t r)
{
	if (log_get_level() >= LOG_LVL_DEBUG)
		trace_slow(what, n, sub, name, r);
	return r;
}

static void default_attr(struct op *op, const struct node *n, uint32_t sub, struct fs_attr *ret)
{
	*ret = (struct fs_attr){
		.ino = node_sub_ino(n, sub),
		.nlink = n->kind->is_dir ? 2 : 1,
		.uid = op->fs ? op->fs->uid : 0,
		.gid = op->fs ? op->fs->gid : 0,
		.mtime_s = op->fs ? op->fs->started_s : 0,
	};
	if (!n->kind->attr)
		ret->mode = n->kind->is_dir ? S_IFDIR | 0555u : S_IFREG | 0444u;
}

errint_t kind_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	errint_t r = 0;

	default_attr(op, n, sub, ret);
	if (n->kind->attr)
		r = n->kind->attr(op, n, sub, ret);
	if (r == 0 && (ret->mode & S_IFMT) == 0)
		r = contract(op, n, "attributes without a type");
	if (r == 0 && ret->ino <= NODE_ROOT_ID)
		ret->ino = node_sub_ino(n, sub);
	if (r == 0 && ret->nlink == 0)
		ret->nlink = 1;
	return trace("attr", n, sub, "", r);
}

static errint_t call_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name,
			    size_t len, struct fs_entry *ret)
{
	errint_t r;

	if (!dir->kind->lookup)
		return dir->kind->is_dir ? -ENOENT : -ENOTDIR;
	if (!is_name(name, len))
		return -ENOENT;
	r = dir->kind->lookup(op, dir, sub, name, len, ret);
	if (r == 0 && !ret->node)
		r = -ENOENT;
	if (r == 0 && ret->attr.mode == 0)
		r = kind_attr(op, ret->node, ret->sub, &ret->attr);
	return r;
}

errint_t kind_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name,
		     struct fs_entry *ret)
{
	size_t len = strlen(name);
	errint_t r = -ENAMETOOLONG;

	*ret = (struct fs_entry){ 0 };
	if (len <= NODE_NAME_MAX)
		r = call_lookup(op, dir, sub, name, len, ret);
	if (r < 0 && ret->node)
		ret->node = node_unref(ret->node);
	return trace("lookup", dir, sub, name, r);
}

static errint_t fill_list(struct op *op, struct node *n, uint32_t sub, struct dirlist *l)
{
	errint_t r = n->kind->list(op, n, sub, l);

	return r < 0 ? r : buf_check(&l->arena);
}

errint_t kind_opendir(struct op *op, struct node *n, uint32_t sub, struct fs_open *ret)
{
	errint_t r;

	if (!n->kind->list)
		return n->kind->is_dir ? contract(op, n, "no listing") : -ENOTDIR;
	ret->handle = handle_new(n, sub);
	if (!ret->handle)
		return no_memory(op);
	r = n->kind->may_list ? n->kind->may_list(op, n, sub)
			      : fill_list(op, n, sub, &ret->handle->list);
	atomic_init(&ret->handle->listed, !n->kind->may_list);
	if (r == 0 && n->kind->open)
		r = n->kind->open(op, n, sub, O_RDONLY | O_DIRECTORY, ret);
	if (r < 0)
		ret->handle = handle_free(ret->handle);
	return trace("opendir", n, sub, "", r);
}

static void swap_list(struct handle *h, struct dirlist *l)
{
	struct dirlist old;

	LOCK_SCOPE(&h->lock);
	old = h->list;
	h->list = *l;
	*l = old;
	atomic_store(&h->listed, true);
}

errint_t kind_relist(struct op *op, struct node *n, uint32_t sub, struct handle *h)
{
	_cleanup_(dirlist_done) struct dirlist l;
	errint_t r;

	dirlist_init(&l);
	r = n->kind->list ? fill_list(op, n, sub, &l) : -ENOTDIR;
	if (r == 0)
		swap_list(h, &l);
	return trace("relist", n, sub, "", r);
}

static bool for_writing(int flags)
{
	return (flags & O_ACCMODE) != O_RDONLY;
}

errint_t kind_open(struct op *op, struct node *n, uint32_t sub, int flags, struct fs_open *ret)
{
	errint_t r = 0;

	if (n->kind->is_dir && sub == 0)
		return -EISDIR;
	if (for_writing(flags) && !n->kind->write)
		return -EROFS;
	ret->handle = handle_new(n, sub);
	if (!ret->handle)
		return no_memory(op);
	ret->handle->writable = for_writing(flags);
	if (n->kind->open)
		r = n->kind->open(op, n, sub, flags, ret);
	if (r < 0)
		ret->handle = handle_free(ret->handle);
	return trace("open", n, sub, "", r);
}

errint_t kind_readlink(struct op *op, struct node *n, uint32_t sub, struct buf *ret)
{
	errint_t r = n->kind->readlink ? n->kind->readlink(op, n, sub, ret) : -EINVAL;

	if (r == 0 && (ret->len == 0 || memchr(ret->data, '\0', ret->len)))
		r = contract(op, n, "a link without a target");
	return trace("readlink", n, sub, "", r);
}

/* A kind without a read slot has its text in the handle. */
static errint_t read_text(const struct handle *h, uint64_t off, size_t size, struct buf *ret)
{
	if (off >= h->text.len)
		return 0;
	return buf_add(ret, h->text.data + off, MIN_OF(size, h->text.len - off));
}

errint_t kind_read(struct op *op, struct node *n, uint32_t sub, struct handle *h, uint64_t off,
		   size_t size, struct buf *ret)
{
	errint_t r;

	if (n->kind->read)
		r = n->kind->read(op, n, sub, h, off, size, ret);
	else
		r = n->kind->is_dir && sub == 0 ? -EISDIR : read_text(h, off, size, ret);
	if (r == 0)
		r = buf_check(ret);
	if (r == 0 && ret->len > size)
		r = contract(op, n, "more bytes than were asked for");
	return trace("read", n, sub, "", r);
}

errint_t kind_write(struct op *op, struct node *n, struct handle *h, uint64_t off, const void *data,
		    size_t size)
{
	errint_t r;

	if (!n->kind->write)
		return -EROFS;
	if (!h->writable)
		return -EBADF;
	r = n->kind->write(op, n, h, off, data, size);
	return trace("write", n, 0, "", r);
}

errint_t kind_truncate(struct op *op, struct node *n, uint64_t size)
{
	errint_t r = n->kind->truncate ? n->kind->truncate(op, n, size) : -EROFS;

	return trace("truncate", n, 0, "", r);
}

errint_t kind_flush(struct op *op, struct node *n, struct handle *h)
{
	errint_t r = n->kind->flush && h->writable ? n->kind->flush(op, n, h) : 0;

	return trace("flush", n, 0, "", r);
}

errint_t kind_prepare(struct op *op, struct node *n)
{
	errint_t r = n->kind->prepare ? n->kind->prepare(op, n) : 0;

	return trace("prepare", n, 0, "", r);
}

static errint_t error_xattr(struct node *n, struct buf *ret)
{
	struct err e;

	if (!node_get_error(n, &e))
		return -ENODATA;
	(void)buf_addf(ret, "%s: ", err_class_name(e.cls));
	return buf_adds(ret, e.msg);
}

errint_t kind_getxattr(struct op *op, struct node *n, uint32_t sub, const char *name,
		       struct buf *ret)
{
	errint_t r = -ENODATA;

	if (strcmp(name, ERROR_XATTR) == 0)
		return error_xattr(n, ret);
	if (n->kind->getxattr)
		r = n->kind->getxattr(op, n, sub, name, ret);
	return trace("getxattr", n, sub, name, r);
}

errint_t kind_listxattr(struct op *op, struct node *n, uint32_t sub, struct buf *ret)
{
	struct err e;
	errint_t r = 0;

	if (n->kind->listxattr)
		r = n->kind->listxattr(op, n, sub, ret);
	/* Not for trees: `rsync -X` and `tar --xattrs` copy what is listed. */
	if (r == 0 && !node_is_tree(n) && node_get_error(n, &e))
		r = buf_add(ret, ERROR_XATTR, sizeof(ERROR_XATTR));
	return trace("listxattr", n, sub, "", r);
}
