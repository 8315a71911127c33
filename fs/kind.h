/*
 * kind.h - what a node can do
 *
 * One `struct kind` per sort of node: tag directory, text file, blob, tree ...  Slots may be NULL;
 * callers use the kind_*() wrappers, which supply the default (ENOTDIR, EISDIR, EROFS, ENODATA...),
 * check the contract, and are the one place where operations are traced.  Kinds know nothing of
 * libfuse; fuse.c knows nothing of kinds.
 *
 * All slots run as op handlers (op.h): no blocking, -EINPROGRESS from wants is passed up, op->err
 * says why on failure.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/buf.h"
#include "util/err.h"

struct node;
struct op;

struct fs_attr {
	uint64_t ino;
	uint32_t mode;			/* with S_IFMT bits */
	uint32_t nlink;
	uint32_t uid, gid;
	uint64_t size;
	int64_t mtime_s;		/* also atime and ctime */
	uint32_t mtime_ns;
	uint32_t rdev_major, rdev_minor;
	uint64_t ttl_ns;		/* how long the kernel may keep the attributes */
};

struct fs_entry {
	struct node *node;		/* a ref, owned by the entry; NULL = no such name */
	uint32_t sub;
	struct fs_attr attr;
	uint64_t ttl_ns;		/* how long the kernel may keep the name; for a negative entry
					   too (0: do not) */
};

struct fs_open {
	bool keep_cache;		/* contents can never change: keep pages over open */
	bool direct_io;			/* size unknown until read: no page cache */
	bool cache_dir;			/* opendir: the kernel may keep the listing */
	bool nonseekable;
	uint32_t push;			/* files: all the bytes, when the kernel may have them at once; see
					   fuse_push.c */
	struct handle *handle;		/* set by the wrappers */
};

/* A directory listing: taken once at opendir, offsets are positions in it (style.md F20). */
struct dir_item {
	const char *name;		/* in the list's arena or the tree's; not NUL-terminated */
	uint32_t name_len;
	uint32_t sub;			/* tree directories: child node number, else 0 */
	uint64_t ino;
	uint8_t dtype;			/* DT_* */
};
struct dirlist {
	struct dir_item *items;
	size_t n, cap;
	struct buf arena;
	bool lean;			/* many, and a look-up of each costs nothing for a while: names
					   will do until somebody looks one up */
	uint64_t parent_ino;		/* for ".."; 0: the parent of the node */
	void *keep;			/* a reference that keeps borrowed names alive */
	void (*keep_unref)(void *);
};
void dirlist_init(struct dirlist *l);
void dirlist_done(struct dirlist *l);
/* Copies the name. */
errint_t dirlist_add(struct dirlist *l, const char *name, size_t len, uint64_t ino, uint8_t dtype);
/* Borrows the name (keep must outlive it). */
errint_t dirlist_add_borrowed(struct dirlist *l, const char *name, size_t len, uint64_t ino,
			      uint8_t dtype, uint32_t sub);
/* For kinds that gather names from several places: sorts and drops later duplicates. */
void dirlist_sort_unique(struct dirlist *l);

/* An open file or directory. */
struct handle {
	pthread_mutex_t lock;		/* leaf but for the node table's: covers list, which rewinding replaces */
	struct dirlist list;		/* directories */
	atomic_bool begun;		/* directories: has been read from the start */
	atomic_bool listed;		/* directories: list has been taken */
	struct buf text;		/* text rendered at open, or written so far */
	bool writable, dirty;
	int wrote;			/* outcome of the last write, for flush */
	void *data;			/* the kind's; freed by kind->release */
	const struct kind *kind;
	struct node *node;		/* a ref */
	uint32_t sub;
};

struct kind {
	const char *name;
	bool is_dir;			/* of sub 0 */
	bool knows_no_labels;		/* answers EOPNOTSUPP for ACLs and labels: `ls -l` asks no more, which
					   matters where thousands are listed, but also not for the trees
					   further down when it goes on there */
	/* ret comes with ino, nlink, owner and the mount's mtime filled in. */
	errint_t (*attr)(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret);
	/* -ENOENT (ret->ttl_ns says for how long), or 0 with ret filled; ret->attr by kind_attr of the
	 * child (the wrapper does it when ret->attr.mode is 0). */
	errint_t (*lookup)(struct op *op, struct node *dir, uint32_t sub, const char *name, size_t len,
			   struct fs_entry *ret);
	/* Directories that never change: 0 when list would succeed now.  With this slot the list is taken
	 * when it is first read instead of at opendir, since the kernel often has it already. */
	errint_t (*may_list)(struct op *op, struct node *dir, uint32_t sub);
	/* All entries but "." and "..".  All or error.  Below a tree's root it says parent_ino. */
	errint_t (*list)(struct op *op, struct node *dir, uint32_t sub, struct dirlist *ret);
	/* Never says anything else for the same node and sub: the kernel keeps it. */
	errint_t (*readlink)(struct op *op, struct node *n, uint32_t sub, struct buf *ret);
	/* ret->handle exists already.  Directories: called after list, with O_DIRECTORY in flags, for
	 * kinds that have both; sets ret->cache_dir. */
	errint_t (*open)(struct op *op, struct node *n, uint32_t sub, int flags, struct fs_open *ret);
	/* Appends at most size bytes at off to ret; fewer only at the end of the file. */
	errint_t (*read)(struct op *op, struct node *n, uint32_t sub, struct handle *h, uint64_t off,
			 size_t size, struct buf *ret);
	errint_t (*write)(struct op *op, struct node *n, struct handle *h, uint64_t off, const void *data,
			  size_t size);
	errint_t (*truncate)(struct op *op, struct node *n, uint64_t size);
	errint_t (*flush)(struct op *op, struct node *n, struct handle *h);
	void (*release)(struct node *n, struct handle *h);
	/* -ENODATA when there is no such attribute. */
	errint_t (*getxattr)(struct op *op, struct node *n, uint32_t sub, const char *name, struct buf *ret);
	/* Appends NUL-terminated names. */
	errint_t (*listxattr)(struct op *op, struct node *n, uint32_t sub, struct buf *ret);
	/* Trees: the kernel has dropped a sub's inode, and its pages.  Under the table's lock: must not wait. */
	void (*forgotten)(struct node *n, uint32_t sub);
	/* OP_PREPARE: has what later operations on the node will need fetched. */
	errint_t (*prepare)(struct op *op, struct node *n);
	void (*drop_data)(void *data);	/* frees node->data */
};

/* The wrappers: same contracts, any slot may be absent. */
errint_t kind_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret);
errint_t kind_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name, struct fs_entry *ret);
errint_t kind_opendir(struct op *op, struct node *n, uint32_t sub, struct fs_open *ret);
/* The directory is read for the first time, or from its start again: the list is taken anew (POSIX
 * rewinddir). */
errint_t kind_relist(struct op *op, struct node *n, uint32_t sub, struct handle *h);
errint_t kind_open(struct op *op, struct node *n, uint32_t sub, int flags, struct fs_open *ret);
errint_t kind_readlink(struct op *op, struct node *n, uint32_t sub, struct buf *ret);
errint_t kind_read(struct op *op, struct node *n, uint32_t sub, struct handle *h, uint64_t off,
		   size_t size, struct buf *ret);
errint_t kind_write(struct op *op, struct node *n, struct handle *h, uint64_t off, const void *data, size_t size);
errint_t kind_truncate(struct op *op, struct node *n, uint64_t size);
errint_t kind_flush(struct op *op, struct node *n, struct handle *h);
/* user.registryfs.error is answered here for every kind. */
errint_t kind_getxattr(struct op *op, struct node *n, uint32_t sub, const char *name, struct buf *ret);
errint_t kind_listxattr(struct op *op, struct node *n, uint32_t sub, struct buf *ret);
errint_t kind_prepare(struct op *op, struct node *n);
struct handle *handle_free(struct handle *h);	/* calls kind->release */
