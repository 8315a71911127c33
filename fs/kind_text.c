/*
 * kind_text.c - small files made from a row's show function
 *
 * Contents that can never change (a manifest) are rendered once per node, have a true size, and may
 * stay in the kernel's page cache.  Contents that change (ROW_MUTABLE) are rendered at every open
 * into the handle, so that one reader sees one state, and bypass the page cache because their size
 * is not known before (style.md F16).  A write that makes a complete value is handed to the row's
 * store function at once, and its outcome is the outcome of that write (DESIGN.md 3.2).
 */
#include "fs/kinds.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "fs/warm.h"
#include "policy/policy.h"

#define TEXT_MAX (64u << 20)		/* bytes of one rendered text */
#define TEXT_WRITE_MAX (1u << 20)	/* bytes of one written value */

struct text {
	const struct row *row;
	struct site *site;
	char *repo;
	struct image *img, *enclosing;
	int64_t mtime_s;
	pthread_mutex_t lock;
	bool rendered;
	struct buf body;	/* when rendered; constant from then on */
};

static void text_free(void *p)
{
	struct text *t = p;

	if (!t)
		return;
	free(t->repo);
	image_unref(t->img);
	image_unref(t->enclosing);
	buf_done(&t->body);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static struct subject text_subject(struct op *op, const struct text *t)
{
	return (struct subject){
		.fs = op->fs, .site = t->site, .repo = t->repo, .img = t->img, .enclosing = t->enclosing,
	};
}

static bool is_mutable(const struct text *t)
{
	return t->row->flags & ROW_MUTABLE;
}

/* Renders constant text into t->body unless that has happened. */
static errint_t render_once(struct op *op, struct text *t)
{
	struct subject s = text_subject(op, t);
	_cleanup_buf_ struct buf b = BUF_INIT(TEXT_MAX);
	errint_t r;

	{
		LOCK_SCOPE(&t->lock);
		if (t->rendered)
			return 0;
	}
	r = t->row->show(op, &s, &b);
	if (r < 0)
		return r;
	r = buf_check(&b);
	if (r < 0)
		return err_set(&op->err, -r, ERR_LIMIT, "%s is too large to show", t->row->name);
	LOCK_SCOPE(&t->lock);
	if (!t->rendered) {
		t->body = b;
		b = (struct buf)BUF_INIT(TEXT_MAX);
		t->rendered = true;
	}
	return 0;
}

static errint_t text_size(struct op *op, struct text *t, uint64_t *ret)
{
	struct subject s = text_subject(op, t);
	errint_t r;

	*ret = 0;
	if (is_mutable(t))
		return 0;
	if (t->row->size)
		return t->row->size(op, &s, ret);
	r = render_once(op, t);
	if (r == 0)
		*ret = t->body.len;
	return r;
}

static errint_t text_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	struct text *t = n->data;
	bool owner = t->row->flags & ROW_OWNER;
	/* Control files are 0600 throughout (DESIGN.md 3.3); writing one that has no store is EROFS. */
	uint32_t perm = po_mode(owner ? PO_ACCESS_OWNER : PO_ACCESS_PUBLIC, false, owner || t->row->store, false);
	uint64_t size = 0;
	int64_t mtime = is_mutable(t) ? op->fs->started_s : 0;
	errint_t r = text_size(op, t, &size);

	(void)sub;
	if (r < 0)
		return r;
	if (!is_mutable(t) && t->img) {
		r = image_created(op, t->img, &mtime);
		if (r == -EINPROGRESS)
			return r;
	}
	synth_file_attr(op, n, perm, size, mtime, is_mutable(t) ? 0 : PO_FOREVER_NS, ret);
	return 0;
}

static errint_t text_open(struct op *op, struct node *n, uint32_t sub, int flags, struct fs_open *ret)
{
	struct text *t = n->data;
	struct subject s = text_subject(op, t);
	struct handle *h = ret->handle;
	errint_t r;

	(void)sub;
	if ((flags & O_ACCMODE) != O_RDONLY && !t->row->store)
		return err_set(&op->err, EROFS, ERR_UNSUPPORTED, "%s cannot be written", t->row->name);
	if (!is_mutable(t)) {
		ret->keep_cache = true;
		return 0;
	}
	ret->direct_io = true;
	h->writable = (flags & O_ACCMODE) != O_RDONLY;
	buf_init(&h->text, TEXT_MAX);
	if ((flags & O_ACCMODE) == O_WRONLY)
		return 0;
	r = t->row->show(op, &s, &h->text);
	if (r == 0)
		r = buf_check(&h->text);
	if (r < 0)
		buf_done(&h->text);
	return r;
}

static errint_t text_read(struct op *op, struct node *n, uint32_t sub, struct handle *h, uint64_t off,
			  size_t size, struct buf *ret)
{
	struct text *t = n->data;
	const struct buf *from = &h->text;

	(void)sub;
	if (!is_mutable(t)) {
		errint_t r = render_once(op, t);

		if (r < 0)
			return r;
		from = &t->body;
	}
	if (off >= from->len)
		return 0;
	return buf_add(ret, from->data + off, MIN_OF(size, from->len - off));
}

/* Everything written through one handle is one value; it is offered to store() after each write,
 * which says -EAGAIN while it is incomplete. */
static errint_t text_write(struct op *op, struct node *n, struct handle *h, uint64_t off,
			   const void *data, size_t size)
{
	struct text *t = n->data;
	struct subject s = text_subject(op, t);
	errint_t r;

	if (!h->dirty) {
		buf_done(&h->text);
		buf_init(&h->text, TEXT_WRITE_MAX);
	}
	if (off > h->text.len)
		return err_set(&op->err, EINVAL, ERR_INPUT, "%s is written from its start", t->row->name);
	h->text.len = off;
	r = buf_add(&h->text, data, size);
	if (r < 0)
		return err_set(&op->err, EFBIG, ERR_LIMIT, "%s takes at most %u bytes", t->row->name,
			       TEXT_WRITE_MAX);
	h->dirty = true;
	r = t->row->store(op, &s, h->text.data, h->text.len);
	h->wrote = r;
	return r == -EAGAIN ? 0 : r;
}

static errint_t text_truncate(struct op *op, struct node *n, uint64_t size)
{
	struct text *t = n->data;

	if (!t->row->store)
		return err_set(&op->err, EROFS, ERR_UNSUPPORTED, "%s cannot be written", t->row->name);
	return size ? -EINVAL : 0;
}

static errint_t text_flush(struct op *op, struct node *n, struct handle *h)
{
	struct text *t = n->data;

	if (h->dirty && h->wrote == -EAGAIN)
		return err_set(&op->err, EINVAL, ERR_INPUT, "%s: what was written is incomplete", t->row->name);
	return 0;
}

static errint_t text_getxattr(struct op *op, struct node *n, uint32_t sub, const char *name, struct buf *ret)
{
	const struct text *t = n->data;

	(void)sub;
	if (warm_asked(name))	/* nothing is to be fetched for it */
		return buf_adds(ret, strcmp(name, WARM_XATTR) == 0 ? "0" : "0 0");
	return t->img ? image_getxattr(op, t->img, NULL, name, ret) : -ENODATA;
}

const struct kind kind_text = {
	.name = "text",
	.attr = text_attr,
	.open = text_open,
	.read = text_read,
	.write = text_write,
	.truncate = text_truncate,
	.flush = text_flush,
	.getxattr = text_getxattr,
	.drop_data = text_free,
};

static uint64_t text_ident(const struct row *row, const struct subject *s)
{
	return (uint64_t)(uintptr_t)row ^ (s->img ? s->img->ident : 0);
}

errint_t text_entry(struct op *op, struct node *dir, const struct row *row, const struct subject *s,
		    uint64_t ttl_ns, struct fs_entry *ret)
{
	struct text *t;

	if (row->present) {
		errint_t r = row->present(op, s);

		if (r < 0)
			return r;
	}
	t = calloc(1, sizeof(*t));
	if (!t || (s->repo && !(t->repo = strdup(s->repo)))) {
		free(t);
		return err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
	}
	pthread_mutex_init(&t->lock, NULL);
	t->row = row;
	t->site = s->site;
	t->img = s->img ? image_ref(s->img) : NULL;
	t->enclosing = s->enclosing ? image_ref(s->enclosing) : NULL;
	buf_init(&t->body, TEXT_MAX);
	ret->node = node_child(dir, row->name, strlen(row->name), text_ident(row, s), &kind_text, t, false);
	ret->sub = 0;
	ret->ttl_ns = ttl_ns;
	return ret->node ? 0 : err_set(&op->err, ENOMEM, ERR_LIMIT, "too many nodes");
}
