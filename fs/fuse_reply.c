/*
 * fuse_reply.c - answers -> replies
 *
 * fuse_answer is called exactly once per operation, on any thread, with no lock held (style.md F4,
 * F11).  It first takes the interrupt function back: libfuse may be in the middle of calling it,
 * and that call must be over before the operation goes.
 *
 * The kernel's references are counted here and in FORGET only (F1, F2): node_give_kernel comes
 * right before the reply that carries the entry (afterwards would be too late: the FORGET may be
 * faster), and is taken back when the reply was not delivered, because its request had been
 * aborted.
 */
#include "fs/fuse_priv.h"

#include <limits.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "util/stats.h"

#define TTL_MAX_S 1e9		/* about 30 years: for ever */
#define BLOCK_BYTES 512u
#define IO_BYTES (128u << 10)	/* st_blksize: what tools should read at once */
#define FIRST_ITEM 2u		/* offset of the first entry after "." and ".." */

/* ---- numbers ---- */

int fuse_errno(errint_t r)
{
	switch (-r) {
	case ECANCELED:
		return EINTR;
	case ENOSYS:	/* the kernel would never ask again (style.md F18) */
		return EOPNOTSUPP;
	case EINPROGRESS:
	case EAGAIN:
		return EIO;
	}
	return r < 0 && r > -512 ? -r : EIO;
}

static double seconds(uint64_t ns)
{
	double s = (double)ns / 1e9;

	return s < TTL_MAX_S ? s : TTL_MAX_S;
}

static void to_stat(const struct fs_attr *a, struct stat *ret)
{
	uint64_t size = MIN_OF(a->size, (uint64_t)INT64_MAX);

	*ret = (struct stat){
		.st_ino = a->ino,
		.st_mode = a->mode,
		.st_nlink = a->nlink,
		.st_uid = a->uid,
		.st_gid = a->gid,
		.st_size = (off_t)size,
		.st_blksize = IO_BYTES,
		.st_blocks = S_ISREG(a->mode)
				     ? (blkcnt_t)(size / BLOCK_BYTES + (size % BLOCK_BYTES != 0))
				     : 0,
		.st_rdev = makedev(a->rdev_major, a->rdev_minor),
	};
	ret->st_mtim = (struct timespec){ .tv_sec = a->mtime_s, .tv_nsec = (long)a->mtime_ns };
	ret->st_atim = ret->st_ctim = ret->st_mtim;
}

/* may_cache: nothing was invalidated while this answer was being found. */
static struct fuse_entry_param to_entry(const struct fs_entry *e, bool may_cache)
{
	struct fuse_entry_param p = { .ino = node_sub_id(e->node, e->sub) };

	to_stat(&e->attr, &p.attr);
	if (may_cache) {
		p.attr_timeout = seconds(e->attr.ttl_ns);
		p.entry_timeout = seconds(e->ttl_ns);
	}
	return p;
}

/* ---- one entry ---- */

static void reply_entry(const struct fuse_call *c, const struct fs_entry *e, bool may_cache)
{
	struct fuse_entry_param p = to_entry(e, may_cache);

	node_give_kernel(e->node, 1);
	if (fuse_reply_entry(c->req, &p) != 0)
		node_forget(c->m->fs->nodes, p.ino, 1);
}

static void reply_no_entry(const struct fuse_call *c, uint64_t ttl_ns, bool may_cache)
{
	struct fuse_entry_param p = { .entry_timeout = seconds(ttl_ns) };

	if (may_cache && ttl_ns > 0)
		(void)fuse_reply_entry(c->req, &p);
	else
		(void)fuse_reply_err(c->req, ENOENT);
}

static void reply_lookup(struct op *op, const struct fuse_call *c, errint_t r)
{
	unsigned gate;
	bool may_cache = notify_reply_begin(c->m->fs->notifier, c->epoch, &gate);

	if (r == 0)
		reply_entry(c, &op->entry, may_cache);
	else
		reply_no_entry(c, op->entry.ttl_ns, may_cache);
	notify_reply_end(c->m->fs->notifier, gate);
}

/* ---- directories ---- */

/* One reply being filled. */
struct dirbuf {
	struct op *op;
	fuse_req_t req;
	char *data;
	size_t len, size;
	bool plus, may_cache;
	uint64_t *given;		/* ids whose references are in this reply */
	size_t n_given, cap_given;
};

static bool remember(struct dirbuf *b, uint64_t id)
{
	size_t cap = b->cap_given ? 2 * b->cap_given : 64;
	uint64_t *given;

	if (b->n_given == b->cap_given) {
		given = reallocarray(b->given, cap, sizeof(*given));
		if (!given)
			return false;
		b->given = given;
		b->cap_given = cap;
	}
	b->given[b->n_given++] = id;
	return true;
}

static void add_plain(struct dirbuf *b, const char *name, uint64_t ino, uint8_t dtype,
		      uint64_t next)
{
	struct stat st = { .st_ino = ino, .st_mode = (mode_t)dtype << 12 };

	b->len += fuse_add_direntry(b->req, b->data + b->len, b->size - b->len, name, &st,
				    (off_t)next);
}

static void add_plus(struct dirbuf *b, const char *name, const struct fuse_entry_param *p,
		     uint64_t next)
{
	b->len += fuse_add_direntry_plus(b->req, b->data + b->len, b->size - b->len, name, p,
					 (off_t)next);
}

/* Without attributes: node id 0 says "not known now" (style.md F21), and counts nothing. */
static void add_bare(struct dirbuf *b, const char *name, uint64_t ino, uint8_t dtype, uint64_t next)
{
	struct fuse_entry_param p = { .attr = { .st_ino = ino, .st_mode = (mode_t)dtype << 12 } };

	if (b->plus)
		add_plus(b, name, &p, next);
	else
		add_plain(b, name, ino, dtype, next);
}

static bool fits(const struct dirbuf *b, const char *name)
{
	size_t need = b->plus ? fuse_add_direntry_plus(b->req, NULL, 0, name, NULL, 0) :
				fuse_add_direntry(b->req, NULL, 0, name, NULL, 0);

	return need <= b->size - b->len;
}

/* The child with attributes, when they are known without waiting. */
static bool add_known(struct dirbuf *b, const char *name, uint64_t next)
{
	struct fs_entry e;
	bool known = kind_lookup(b->op, b->op->node, b->op->sub, name, &e) == 0;
	struct fuse_entry_param p;

	if (!known)
		return false;
	p = to_entry(&e, b->may_cache);
	known = remember(b, p.ino);
	if (known) {
		node_give_kernel(e.node, 1);
		add_plus(b, name, &p, next);
	}
	(void)node_unref(e.node);
	return known;
}

static bool add_item(struct dirbuf *b, const struct dir_item *item, uint64_t next, bool full)
{
	char name[NODE_NAME_MAX + 1];

	memcpy(name, item->name, item->name_len);
	name[item->name_len] = '\0';
	if (!fits(b, name))
		return false;
	if (!full || !add_known(b, name, next))
		add_bare(b, name, item->ino, item->dtype, next);
	return true;
}

/* ".": offset 0, "..": offset 1. */
static bool add_dot(struct dirbuf *b, const struct dirlist *list, uint64_t off)
{
	const struct node *n = b->op->node;
	const char *name = off == 0 ? "." : "..";
	uint64_t ino = node_sub_ino(n, b->op->sub);

	if (off == 1 && list->parent_ino)
		ino = list->parent_ino;
	else if (off == 1 && n->parent)
		ino = n->parent->ino;
	if (!fits(b, name))
		return false;
	add_bare(b, name, ino, S_IFDIR >> 12, off + 1);
	return true;
}

/* With attributes a name costs us and the kernel ten times as much, and `ls` has no use for them.  So in
 * a lean listing the first name of every reply comes without: who wants attributes looks it up before
 * he reads on, and gets them with the next reply.  The first reply has them: most listings have no
 * other. */
static bool wants_attrs(const struct dirbuf *b, const struct handle *h)
{
	bool looked_in = atomic_exchange(&b->op->node->looked_in, false);

	return b->plus && (!h->list.lean || b->op->off == 0 || looked_in);
}

static void fill_dir(struct dirbuf *b, struct handle *h)
{
	uint64_t off = b->op->off;
	bool more = true, full;

	LOCK_SCOPE(&h->lock);
	full = wants_attrs(b, h);
	for (; more && off < FIRST_ITEM; off++)
		more = add_dot(b, &h->list, off);
	for (bool probe = h->list.lean; more && off - FIRST_ITEM < h->list.n; off++, probe = false)
		more = add_item(b, &h->list.items[off - FIRST_ITEM], off + 1, full && !probe);
}

static void reply_dir(struct op *op, const struct fuse_call *c)
{
	size_t size = MIN_OF(op->size, (size_t)FUSE_DIR_MAX);
	_cleanup_free_ char *data = malloc(MAX_OF(size, (size_t)1));
	struct notifier *n = c->m->fs->notifier;
	struct dirbuf b = {
		.op = op,
		.req = c->req,
		.data = data,
		.size = size,
		.plus = op->type == OP_READDIRPLUS,
	};
	unsigned gate;

	if (!data) {
		(void)fuse_reply_err(c->req, ENOMEM);
		return;
	}
	b.may_cache = notify_reply_begin(n, c->epoch, &gate);
	op->no_wait = true;
	fill_dir(&b, op->handle);
	if (fuse_reply_buf(c->req, data, b.len) != 0)
		for (size_t i = 0; i < b.n_given; i++)
			node_forget(c->m->fs->nodes, b.given[i], 1);
	notify_reply_end(n, gate);
	free(b.given);
}

/* ---- the others ---- */

static void reply_attr(struct op *op, const struct fuse_call *c)
{
	unsigned gate;
	bool may_cache = notify_reply_begin(c->m->fs->notifier, c->epoch, &gate);
	struct stat st;

	to_stat(&op->attr, &st);
	(void)fuse_reply_attr(c->req, &st, may_cache ? seconds(op->attr.ttl_ns) : 0);
	notify_reply_end(c->m->fs->notifier, gate);
}

static void reply_open(struct op *op, const struct fuse_call *c)
{
	struct fs_open *o = &op->open;
	bool dir = op->type == OP_OPENDIR;
	struct fuse_file_info fi = {
		.flags = op->flags,
		.direct_io = !dir && o->direct_io,
		.keep_cache = dir ? o->cache_dir : o->keep_cache,
		.cache_readdir = dir && o->cache_dir,
		.nonseekable = !dir && o->nonseekable,
		.noflush = !dir && !o->handle->writable,
	};

	fuse_push(op, c);
	fi.fh = handle_add(c->m->handles, steal_ptr(&o->handle));
	if (fi.fh == 0)
		(void)fuse_reply_err(c->req, ENFILE);
	else if (fuse_reply_open(c->req, &fi) != 0)
		handle_close(c->m->handles, fi.fh);
}

static void reply_bytes(const struct op *op, const struct fuse_call *c)
{
	if (op->type == OP_READ)
		stat_add(STAT_FUSE_READ_BYTES, (int64_t)op->out.len);
	(void)fuse_reply_buf(c->req, buf_str(&op->out), op->out.len);
}

static void reply_xattr(const struct op *op, const struct fuse_call *c)
{
	if (op->size == 0)
		(void)fuse_reply_xattr(c->req, op->out.len);
	else if (op->out.len > op->size)
		(void)fuse_reply_err(c->req, ERANGE);
	else
		reply_bytes(op, c);
}

static void reply_success(struct op *op, const struct fuse_call *c)
{
	switch (op->type) {
	case OP_LOOKUP:
		reply_lookup(op, c, 0);
		return;
	case OP_GETATTR:
	case OP_SETATTR:
		reply_attr(op, c);
		return;
	case OP_READLINK:
		(void)fuse_reply_readlink(c->req, buf_str(&op->out));
		return;
	case OP_OPEN:
	case OP_OPENDIR:
		reply_open(op, c);
		return;
	case OP_READ:
		reply_bytes(op, c);
		return;
	case OP_WRITE:
		(void)fuse_reply_write(c->req, op->size);
		return;
	case OP_READDIR:
	case OP_READDIRPLUS:
		reply_dir(op, c);
		return;
	case OP_GETXATTR:
	case OP_LISTXATTR:
		reply_xattr(op, c);
		return;
	case OP_FLUSH:
	case OP_PREPARE:
	case OP_TASK:
	case OP_UNSET:
	case OP_TYPES:
		break;
	}
	(void)fuse_reply_err(c->req, 0);
}

void fuse_answer(struct op *op, errint_t r)
{
	_cleanup_free_ struct fuse_call *c = op->req;

	fuse_req_interrupt_func(c->req, NULL, NULL);
	if (r == 0)
		reply_success(op, c);
	else if (r == -ENOENT && op->type == OP_LOOKUP)
		reply_lookup(op, c, r);
	else
		(void)fuse_reply_err(c->req, fuse_errno(r));
	if (c->fh)
		handle_let_go(c->m->handles, c->fh);
}
