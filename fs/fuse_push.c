/*
 * fuse_push.c - small files' bytes go to the kernel along with the answer to open
 *
 * A file that is opened for the first time is nearly always read at once.  Waiting for that READ
 * costs as much as the open itself: two threads are woken.  So the bytes of a small file, if they
 * are here, are stored in the kernel's page cache before the open is answered, and the READ never
 * comes.  The kind says what is worth it (fs_open.push), once until the kernel forgets the file:
 * whoever opens it again has the pages, or has lost them alone and reads.
 *
 * Storing waits for pages that are locked, and a page is locked until the READ that fills it is
 * answered.  A READ of this file can only come from another opener, who was answered before.
 * It needs a free thread of the loop, so no more than PUSHING_MAX of those may be storing; and it
 * may need the resume pool, whose threads therefore never store.
 *
 * The pages belong to the control group of the daemon, not of the reader.
 */
#include "fs/fuse_priv.h"

#include "util/stats.h"

#define PUSHING_MAX 4

/* The whole file, without waiting for anything. */
static bool read_whole(struct op *op)
{
	struct fs_open *o = &op->open;
	bool waits = op->no_wait;
	errint_t r;

	op->out.max = o->push;
	op->no_wait = true;
	r = kind_read(op, op->node, op->sub, o->handle, 0, o->push, &op->out);
	op->no_wait = waits;
	err_clear(&op->err);
	return r == 0 && op->out.len == o->push;
}

static void store(struct op *op, const struct fuse_call *c)
{
	uint64_t id = node_sub_id(op->node, op->sub);

	if (notify_store(c->m->fs->notifier, id, op->out.data, op->out.len) == 0)
		stat_add(STAT_FUSE_READ_BYTES, (int64_t)op->out.len);
}

void fuse_push(struct op *op, const struct fuse_call *c)
{
	if (op->open.push == 0 || !pthread_equal(pthread_self(), c->thread))
		return;
	if (atomic_fetch_add(&c->m->pushing, 1) < PUSHING_MAX && read_whole(op))
		store(op, c);
	(void)atomic_fetch_sub(&c->m->pushing, 1);
}
