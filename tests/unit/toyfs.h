/*
 * toyfs.h - a small file system for tests of the FUSE layer (include it once)
 *
 *	/hello		"hello world\n", immutable		/link	-> hello
 *	/dir/inner	another file				/bad	fails with EIO and a
 *sentence
 *	/slow		every read waits for the gate		/dark	its look-up waits for the
 *gate /tree/fN	a tree node with 1000 files		/ctl	can be written and truncated
 */
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/fs.h"
#include "fs/kind.h"
#include "fs/node.h"
#include "fs/op.h"

#define TOY_TREE_FILES 1000u
#define TOY_FOREVER (UINT64_C(1000000) * 1000000000u)

/* What the gate keeps back; works end when it opens or their token fires. */
static atomic_bool toy_gate_open;
static atomic_bool toy_lean;		/* the tree says that names will do */
static atomic_int toy_noted, toy_works, toy_tree_lists;

/* Stand-ins for errors.c and the cache. */
__attribute__((weak)) void fs_note_error(struct fs *fs, struct node *n, const struct err *e)
{
	(void)fs;
	node_set_error(n, e);
	atomic_fetch_add(&toy_noted, 1);
}

__attribute__((weak)) void ca_store_usage(struct ca_store *s, uint64_t *ret_used, uint64_t *ret_max)
{
	(void)s;
	*ret_used = 1;
	*ret_max = 2;
}

static const struct kind toy_dir, toy_file, toy_tree;

static errint_t toy_work(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	(void)fs, (void)arg;
	atomic_fetch_add(&toy_works, 1);
	while (!atomic_load(&toy_gate_open)) {
		errint_t r = cancel_sleep_ns(c, 1000000, e);

		if (r < 0)
			return r;
	}
	return 0;
}

static errint_t toy_wait(struct op *op, const char *key)
{
	return atomic_load(&toy_gate_open) ? 0 : op_want(op, key, toy_work, NULL, NULL);
}

/* ---- files ---- */

static const char *toy_text(const struct node *n)
{
	return strcmp(n->name, "hello") == 0 ? "hello world\n" : n->name;
}

static errint_t toy_file_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	bool ctl = strcmp(n->name, "ctl") == 0;

	(void)op, (void)sub;
	ret->mode = S_IFREG | (ctl ? 0600 : 0444);
	ret->size = ctl ? 0 : strlen(toy_text(n));
	ret->ttl_ns = ctl ? 0 : TOY_FOREVER;
	if (strcmp(n->name, "link") == 0)
		ret->mode = S_IFLNK | 0777;
	return 0;
}

static errint_t toy_open(struct op *op, struct node *n, uint32_t sub, int flags,
			 struct fs_open *ret)
{
	(void)op, (void)sub;
	if ((flags & O_ACCMODE) != O_RDONLY && strcmp(n->name, "ctl") != 0)
		return -EROFS;
	ret->handle->text = (struct buf)BUF_INIT(65536);
	ret->direct_io = strcmp(n->name, "ctl") == 0;
	ret->keep_cache = !ret->direct_io;
	return 0;
}

static errint_t toy_read(struct op *op, struct node *n, uint32_t sub, struct handle *h,
			 uint64_t off, size_t size, struct buf *ret)
{
	const char *text = toy_text(n);
	size_t len = strlen(text);
	errint_t r = strcmp(n->name, "slow") == 0 ? toy_wait(op, "slow") : 0;

	(void)sub, (void)h;
	if (r < 0)
		return r;
	if (strcmp(n->name, "bad") == 0)
		return err_set(&op->err, EIO, ERR_NET, "the registry is on fire");
	return off >= len ? 0 : buf_add(ret, text + off, MIN_OF(size, len - off));
}

static errint_t toy_write(struct op *op, struct node *n, struct handle *h, uint64_t off,
			  const void *data, size_t size)
{
	(void)op, (void)n;
	if (off != h->text.len)
		return -EINVAL;
	return size > 3 && memcmp(data, "bad", 3) == 0 ? -EPERM : buf_add(&h->text, data, size);
}

static errint_t toy_truncate(struct op *op, struct node *n, uint64_t size)
{
	(void)op;
	return strcmp(n->name, "ctl") != 0 ? -EROFS : size ? -EINVAL : 0;
}

static errint_t toy_readlink(struct op *op, struct node *n, uint32_t sub, struct buf *ret)
{
	(void)op, (void)sub;
	return strcmp(n->name, "link") == 0 ? buf_adds(ret, "hello") : -EINVAL;
}

static errint_t toy_getxattr(struct op *op, struct node *n, uint32_t sub, const char *name,
			     struct buf *ret)
{
	(void)op, (void)n, (void)sub;
	return strcmp(name, "user.toy") == 0 ? buf_adds(ret, "value") : -ENODATA;
}

static errint_t toy_listxattr(struct op *op, struct node *n, uint32_t sub, struct buf *ret)
{
	(void)op, (void)n, (void)sub;
	return buf_add(ret, "user.toy", sizeof("user.toy"));
}

static const struct kind toy_file = {
	.name = "file",
	.attr = toy_file_attr,
	.open = toy_open,
	.read = toy_read,
	.write = toy_write,
	.truncate = toy_truncate,
	.readlink = toy_readlink,
	.getxattr = toy_getxattr,
	.listxattr = toy_listxattr,
};

/* ---- directories ---- */

static const char *const toy_names[] = {
	"bad", "ctl", "dark", "dir", "hello", "link", "slow", "tree",
};

static const char *const *toy_children(const struct node *n, size_t *ret_n)
{
	static const char *const inner[] = { "inner" };

	*ret_n = n->parent ? ARRAY_SIZE(inner) : ARRAY_SIZE(toy_names);
	return n->parent ? inner : toy_names;
}

static errint_t toy_dir_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	(void)op, (void)n, (void)sub;
	ret->mode = S_IFDIR | 0555;
	ret->ttl_ns = TOY_FOREVER;
	return 0;
}

static errint_t toy_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name,
			   size_t len, struct fs_entry *ret)
{
	size_t n;
	const char *const *names = toy_children(dir, &n);
	const struct kind *k = strcmp(name, "dir") == 0	   ? &toy_dir
			       : strcmp(name, "tree") == 0 ? &toy_tree
							   : &toy_file;

	(void)sub;
	ret->ttl_ns = TOY_FOREVER;
	for (size_t i = 0; i < n; i++) {
		if (strcmp(names[i], name) != 0)
			continue;
		if (strcmp(name, "dark") == 0) {
			errint_t r = toy_wait(op, "dark");

			if (r < 0)
				return r;
		}
		ret->node = node_child(dir, name, len, 0, k, NULL, k == &toy_tree);
		return ret->node ? 0 : -ENOMEM;
	}
	ret->ttl_ns = strcmp(name, "never") == 0 ? TOY_FOREVER : 0;
	return -ENOENT;
}

static errint_t toy_list(struct op *op, struct node *dir, uint32_t sub, struct dirlist *ret)
{
	size_t n;
	const char *const *names = toy_children(dir, &n);
	errint_t r = 0;

	(void)op, (void)sub;
	for (size_t i = 0; i < n && r == 0; i++)
		r = dirlist_add(ret, names[i], strlen(names[i]),
				node_hash_ino(dir->ino, names[i], strlen(names[i])), DT_UNKNOWN);
	dirlist_sort_unique(ret);
	return r;
}

static const struct kind toy_dir = {
	.name = "dir",
	.is_dir = true,
	.knows_no_labels = true,
	.attr = toy_dir_attr,
	.lookup = toy_lookup,
	.list = toy_list,
};

/* ---- a tree: sub 0 is the directory, the others are files ---- */

static errint_t toy_tree_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	(void)op, (void)n;
	if (sub > TOY_TREE_FILES)
		return -ESTALE;
	ret->mode = sub ? S_IFREG | 0444 : S_IFDIR | 0555;
	ret->size = sub ? 3 : 0;
	ret->ttl_ns = TOY_FOREVER;
	return 0;
}

static errint_t toy_tree_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name,
				size_t len, struct fs_entry *ret)
{
	char *end;
	unsigned long i = name[0] == 'f' && len > 1 ? strtoul(name + 1, &end, 10) : 0;

	(void)op;
	if (sub)
		return -ENOTDIR;
	if (i == 0 || *end || i > TOY_TREE_FILES)
		return -ENOENT;
	ret->node = node_ref(dir);
	ret->sub = (uint32_t)i;
	ret->ttl_ns = TOY_FOREVER;
	return 0;
}

static errint_t toy_tree_list(struct op *op, struct node *dir, uint32_t sub, struct dirlist *ret)
{
	errint_t r = sub ? -ENOTDIR : 0;

	(void)op;
	ret->lean = atomic_load(&toy_lean);
	atomic_fetch_add(&toy_tree_lists, 1);
	for (uint32_t i = 1; i <= TOY_TREE_FILES && r == 0; i++) {
		char name[16];
		int len = snprintf(name, sizeof(name), "f%u", i);

		r = dirlist_add(ret, name, (size_t)len, node_sub_ino(dir, i), DT_REG);
		ret->items[ret->n - 1].sub = i;
	}
	return r;
}

static errint_t toy_tree_may_list(struct op *op, struct node *dir, uint32_t sub)
{
	(void)op, (void)dir;
	return sub ? -ENOTDIR : 0;
}

/* The bytes of f7 are sent along; f8 says so, but has fewer. */
static errint_t toy_tree_open(struct op *op, struct node *n, uint32_t sub, int flags,
			      struct fs_open *ret)
{
	(void)op, (void)n, (void)flags;
	ret->keep_cache = ret->cache_dir = true;
	ret->push = sub == 7 ? 3 : sub == 8 ? 4 : 0;
	return 0;
}

static errint_t toy_tree_read(struct op *op, struct node *n, uint32_t sub, struct handle *h,
			      uint64_t off, size_t size, struct buf *ret)
{
	(void)op, (void)n, (void)h;
	if (!sub)
		return -EISDIR;
	return off >= 3 ? 0 : buf_add(ret, &"abc"[off], MIN_OF(size, 3 - (size_t)off));
}

static const struct kind toy_tree = {
	.name = "tree",
	.is_dir = true,
	.attr = toy_tree_attr,
	.lookup = toy_tree_lookup,
	.may_list = toy_tree_may_list,
	.list = toy_tree_list,
	.open = toy_tree_open,
	.read = toy_tree_read,
};

/* ---- the mount ---- */

struct toy {
	struct fs fs;
	struct fs_config config;
};

static void toy_up(struct toy *t)
{
	*t = (struct toy){ 0 };
	t->fs.config = &t->config;
	t->fs.nodes = node_table_new(&toy_dir, NULL);
	t->fs.engine = engine_new(&t->fs, NULL);
	t->fs.started_s = 1700000000;
}

static void toy_down(struct toy *t)
{
	t->fs.engine = engine_stop(t->fs.engine);
	t->fs.nodes = node_table_free(t->fs.nodes);
}
