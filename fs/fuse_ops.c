/*
 * fuse_ops.c - requests -> struct op
 *
 * Each function decodes one kind of request on a thread of the session loop and starts an
 * operation, or answers at once what needs none.  Nothing here waits: an operation that has to is
 * parked and answered later from another thread (op.h).
 *
 * What would change the tree is refused with EROFS, never left out: an absent handler means ENOSYS,
 * which the kernel remembers for the whole mount (style.md F18).  Left out on purpose are access
 * (the kernel checks the modes itself: default_permissions), lseek (the kernel's own SEEK_DATA is
 * right for us), ioctl, poll, bmap, locks (kept by the kernel).
 */
#include "fs/fuse_priv.h"

#include <stdlib.h>
#include <string.h>

#include "cache/cache.h"
#include "util/stats.h"

#define FS_BLOCK 4096u

static struct fuse_mount *mount_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* ---- beginning and starting an operation ---- */

/* Called with the request's lock held, possibly from within fuse_req_interrupt_func (style.md F10);
 * fuse_answer takes the function back before the operation goes. */
static void on_interrupt(fuse_req_t req, void *arg)
{
	(void)req;
	op_interrupt(arg);
}

static struct fuse_call *call_new(fuse_req_t req)
{
	struct fuse_call *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->req = req;
	c->m = mount_of(req);
	c->thread = pthread_self();
	c->epoch = notify_epoch(c->m->fs->notifier);
	return c;
}

/* NULL: answered with an error already. */
static struct op *begin(fuse_req_t req, enum op_type type, fuse_ino_t ino)
{
	struct fs *fs = mount_of(req)->fs;
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	uint32_t sub;
	struct node *n = node_get(fs->nodes, ino, &sub);
	struct fuse_call *c = call_new(req);
	bool known = n != NULL;
	struct op *op = n ? op_new(fs->engine, type, n, sub) : NULL;

	stat_inc(STAT_FUSE_OPS);
	if (!op || !c) {
		op_free(op);
		free(c);
		(void)fuse_reply_err(req, known ? ENOMEM : ESTALE);
		return NULL;
	}
	op->req = c;
	op->reply = fuse_answer;
	op->uid = ctx->uid;
	op->gid = ctx->gid;
	op->pid = ctx->pid;
	return op;
}

/* Instead of starting it. */
static void refuse(struct op *op, int eno)
{
	struct fuse_call *c = op->req;

	(void)fuse_reply_err(c->req, eno);
	if (c->fh)
		handle_let_go(c->m->handles, c->fh);
	free(c);
	op_free(op);
}

static void start(struct op *op)
{
	struct fuse_call *c = op->req;

	fuse_req_interrupt_func(c->req, on_interrupt, op);
	op_start(op);
}

static struct op *begin_name(fuse_req_t req, enum op_type type, fuse_ino_t ino, const char *name)
{
	struct op *op = begin(req, type, ino);

	if (!op)
		return NULL;
	op->name = strdup(name);
	if (op->name)
		return op;
	refuse(op, ENOMEM);
	return NULL;
}

/* With the open file or directory; it must be one of this very node. */
static struct op *begin_fh(fuse_req_t req, enum op_type type, fuse_ino_t ino, uint64_t fh)
{
	struct op *op = begin(req, type, ino);
	struct fuse_call *c;
	struct handle *h;

	if (!op)
		return NULL;
	c = op->req;
	h = handle_hold(c->m->handles, fh);
	c->fh = h ? fh : 0;
	op->handle = h;
	if (h && h->node == op->node && h->sub == op->sub)
		return op;
	refuse(op, EBADF);
	return NULL;
}

/* ---- names and attributes ---- */

static void do_init(void *userdata, struct fuse_conn_info *conn)
{
	fuse_mount_greet(userdata, conn);
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct op *op = begin_name(req, OP_LOOKUP, parent, name);

	if (!op)
		return;
	atomic_store_explicit(&op->node->looked_in, true, memory_order_relaxed);
	start(op);
}

static void do_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	node_forget(mount_of(req)->fs->nodes, ino, nlookup);
	fuse_reply_none(req);
}

static void do_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		node_forget(mount_of(req)->fs->nodes, forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct op *op = begin(req, OP_GETATTR, ino);

	(void)fi;
	if (op)
		start(op);
}

/* Only the size of what can be written at all; a shell's `>` asks for that. */
static void do_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		       struct fuse_file_info *fi)
{
	int refused = FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;
	struct op *op;

	(void)fi;
	if (!(to_set & FUSE_SET_ATTR_SIZE) || (to_set & refused)) {
		(void)fuse_reply_err(req, EROFS);
		return;
	}
	op = begin(req, OP_SETATTR, ino);
	if (!op)
		return;
	op->off = (uint64_t)attr->st_size;
	start(op);
}

static void do_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct op *op = begin(req, OP_READLINK, ino);

	if (op)
		start(op);
}

/* ---- files ---- */

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct op *op = begin(req, OP_OPEN, ino);

	if (!op)
		return;
	op->flags = fi->flags;
	start(op);
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		    struct fuse_file_info *fi)
{
	struct op *op = begin_fh(req, OP_READ, ino, fi->fh);

	if (!op)
		return;
	if (off < 0) {
		refuse(op, EINVAL);
		return;
	}
	op->off = (uint64_t)off;
	op->size = MIN_OF(size, (size_t)FUSE_READ_MAX);
	start(op);
}

static void do_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
		     struct fuse_file_info *fi)
{
	struct op *op = begin_fh(req, OP_WRITE, ino, fi->fh);

	if (!op)
		return;
	op->data = malloc(MAX_OF(size, (size_t)1));
	if (!op->data || off < 0) {
		refuse(op, off < 0 ? EINVAL : ENOMEM);
		return;
	}
	memcpy(op->data, buf, size);
	op->off = (uint64_t)off;
	op->size = size;
	start(op);
}

/* What was not written has nothing to say at close. */
static void do_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct op *op = begin_fh(req, OP_FLUSH, ino, fi->fh);

	if (!op)
		return;
	if (op->handle->writable)
		start(op);
	else
		refuse(op, 0);
}

static void do_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	(void)datasync;
	do_flush(req, ino, fi);
}

static void do_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	handle_close(mount_of(req)->handles, fi->fh);
	(void)fuse_reply_err(req, 0);
}

/* ---- directories ---- */

static void do_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct op *op = begin(req, OP_OPENDIR, ino);

	if (!op)
		return;
	op->flags = fi->flags;
	start(op);
}

static void read_directory(fuse_req_t req, enum op_type type, fuse_ino_t ino, size_t size,
			   off_t off, const struct fuse_file_info *fi)
{
	struct op *op = begin_fh(req, type, ino, fi->fh);

	if (!op)
		return;
	if (off < 0) {
		refuse(op, EINVAL);
		return;
	}
	op->off = (uint64_t)off;
	op->size = size;
	start(op);
}

static void do_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		       struct fuse_file_info *fi)
{
	read_directory(req, OP_READDIR, ino, size, off, fi);
}

static void do_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
			   struct fuse_file_info *fi)
{
	read_directory(req, OP_READDIRPLUS, ino, size, off, fi);
}

static void do_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	(void)ino;
	(void)datasync;
	(void)fi;
	(void)fuse_reply_err(req, 0);
}

/* ---- the file system ---- */

/* A registry has no size.  What is shown is the cache's budget, which is at least ours (F27). */
static void do_statfs(fuse_req_t req, fuse_ino_t ino)
{
	const struct fs *fs = mount_of(req)->fs;
	uint64_t used = 0, max = 0;
	size_t nodes = node_count(fs->nodes);
	struct statvfs st = { .f_bsize = FS_BLOCK,
			      .f_frsize = FS_BLOCK,
			      .f_namemax = NODE_NAME_MAX };

	(void)ino;
	if (fs->cache)
		ca_store_usage(fs->cache, &used, &max);
	max = MAX_OF(max, used + FS_BLOCK);
	st.f_blocks = max / FS_BLOCK;
	st.f_bfree = (max - used) / FS_BLOCK;
	st.f_bavail = st.f_bfree;
	st.f_files = NODE_MAX;
	st.f_ffree = NODE_MAX - MIN_OF(nodes, (size_t)NODE_MAX);
	st.f_favail = st.f_ffree;
	(void)fuse_reply_statfs(req, &st);
}

/* ---- extended attributes ---- */

static bool begins(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* Tools ask these for every file of every mount; only trees have some (style.md F27). */
static bool is_constant_question(fuse_ino_t ino, const char *name)
{
	bool is_tree = (uint64_t)ino >> 63;

	return !is_tree && (begins(name, "system.") || begins(name, "security."));
}

/* coreutils remember EOPNOTSUPP to an ACL or a label for all of the mount. */
static int constant_answer(struct fs *fs, fuse_ino_t ino, const char *name)
{
	uint32_t sub;
	struct node *n;
	bool unknown;

	if (begins(name, "security.") && strcmp(name, "security.selinux") != 0)
		return ENODATA;
	n = node_get(fs->nodes, ino, &sub);
	unknown = n && n->kind->knows_no_labels;
	(void)node_unref(n);
	return unknown ? EOPNOTSUPP : ENODATA;
}

static void do_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct op *op;

	if (is_constant_question(ino, name)) {
		(void)fuse_reply_err(req, constant_answer(mount_of(req)->fs, ino, name));
		return;
	}
	op = begin_name(req, OP_GETXATTR, ino, name);
	if (!op)
		return;
	op->size = size;
	start(op);
}

static void do_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct op *op = begin(req, OP_LISTXATTR, ino);

	if (!op)
		return;
	op->size = size;
	start(op);
}

/* ---- everything that changes the tree ---- */

static void no_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	(void)parent, (void)name, (void)mode, (void)rdev;
	(void)fuse_reply_err(req, EROFS);
}

static void no_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	(void)parent, (void)name, (void)mode;
	(void)fuse_reply_err(req, EROFS);
}

/* unlink, rmdir, removexattr */
static void no_name(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	(void)ino, (void)name;
	(void)fuse_reply_err(req, EROFS);
}

static void no_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	(void)target, (void)parent, (void)name;
	(void)fuse_reply_err(req, EROFS);
}

static void no_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
		      const char *new_name, unsigned flags)
{
	(void)parent, (void)name, (void)new_parent, (void)new_name, (void)flags;
	(void)fuse_reply_err(req, EROFS);
}

static void no_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name)
{
	(void)ino, (void)new_parent, (void)new_name;
	(void)fuse_reply_err(req, EROFS);
}

static void no_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		      struct fuse_file_info *fi)
{
	(void)parent, (void)name, (void)mode, (void)fi;
	(void)fuse_reply_err(req, EROFS);
}

static void no_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
			size_t size, int flags)
{
	(void)ino, (void)name, (void)value, (void)size, (void)flags;
	(void)fuse_reply_err(req, EROFS);
}

static void no_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
			 struct fuse_file_info *fi)
{
	(void)ino, (void)mode, (void)off, (void)len, (void)fi;
	(void)fuse_reply_err(req, EROFS);
}

const struct fuse_lowlevel_ops fuse_ops = {
	.init = do_init,
	.lookup = do_lookup,
	.forget = do_forget,
	.forget_multi = do_forget_multi,
	.getattr = do_getattr,
	.setattr = do_setattr,
	.readlink = do_readlink,
	.open = do_open,
	.read = do_read,
	.write = do_write,
	.flush = do_flush,
	.fsync = do_fsync,
	.release = do_release,
	.opendir = do_opendir,
	.readdir = do_readdir,
	.readdirplus = do_readdirplus,
	.releasedir = do_release,
	.fsyncdir = do_fsyncdir,
	.statfs = do_statfs,
	.getxattr = do_getxattr,
	.listxattr = do_listxattr,
	.mknod = no_mknod,
	.mkdir = no_mkdir,
	.unlink = no_name,
	.rmdir = no_name,
	.removexattr = no_name,
	.symlink = no_symlink,
	.rename = no_rename,
	.link = no_link,
	.create = no_create,
	.setxattr = no_setxattr,
	.fallocate = no_fallocate,
};
