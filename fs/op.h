/*
 * op.h - operations that never wait on a FUSE thread
 *
 * A handler is straight-line code over what is in memory and on local disk.  What is missing it
 * *wants*: op_want() notes a key and the work that would produce it and returns -EINPROGRESS, which
 * every caller just passes up.  When the handler has unwound, the engine parks the operation on all
 * the keys it noted; one flight per key does the work for everyone who wants it, on the I/O pool,
 * where blocking is allowed.  When all of them have completed, the handler runs again from its top
 * on the resume pool and now finds what it needs, or the failure: op_want() for a key whose flight
 * failed while this operation waited returns that failure.
 *
 * Rules: no side effects before the last want.  Results are published (cache, memory) before the
 * flight completes.  More than OP_RERUNS_MAX runs is a bug: EIO.  -EINPROGRESS never reaches the
 * kernel.  Whatever must not be evicted between runs is pinned (op_pin) until the reply.  With
 * engine_opts.rerun every reading handler runs twice on purpose, so that violations show.
 *
 * Interrupts (style.md F9): the kernel's INTERRUPT only marks the operation; a ticker looks every
 * OP_TICK_MS whether the calling thread has a fatal signal pending and then answers EINTR; an
 * operation whose thread cannot be looked at is answered after OP_INTR_GRACE_MS.
 *
 * An operation is answered exactly once, through op->reply, with no lock held; the engine frees it
 * afterwards.  Whatever reply takes out of it (entry.node, open.handle) it sets to NULL.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "fs/kind.h"
#include "fs/node.h"
#include "util/buf.h"
#include "util/cancel.h"
#include "util/err.h"
#include "util/flight.h"
#include "util/pool.h"

#define OP_RERUNS_MAX 64
#define OP_PARKED_MAX 4096	/* more waiting operations than this: EIO (LIMIT) */
#define OP_KEYS_MAX 4096	/* different keys wanted by one operation */
#define OP_TICK_MS 50
#define OP_INTR_GRACE_MS 500

enum op_type {
	OP_UNSET = 0, OP_LOOKUP, OP_GETATTR, OP_SETATTR, OP_READLINK, OP_OPEN, OP_READ, OP_WRITE,
	OP_FLUSH, OP_OPENDIR, OP_READDIR, OP_READDIRPLUS, OP_GETXATTR, OP_LISTXATTR,
	OP_PREPARE,	/* not the kernel's: what a node will need soon, see op_start_later */
	OP_TASK,	/* not the kernel's: whatever it was given, see op_task */
	OP_TYPES
};

struct fs;	/* the mount: fs/fs.h */
struct engine;

struct op {
	enum op_type type;
	struct engine *eng;
	struct fs *fs;
	void *req;			/* fuse_req_t; looked into by fuse.c alone */
	struct node *node;		/* a ref */
	uint32_t sub;
	uid_t uid;
	gid_t gid;
	pid_t pid;
	uint64_t begun_ns;		/* clock_mono_ns: what was learnt since then is fresh enough */

	/* in */
	char *name;			/* LOOKUP, GETXATTR: owned, NUL-terminated */
	uint64_t off;			/* READ, WRITE, READDIR*; SETATTR: the new size */
	size_t size;			/* READ: bytes wanted; GETXATTR, LISTXATTR: buffer size */
	void *data;			/* WRITE: owned copy of size bytes */
	int flags;			/* OPEN */
	struct handle *handle;		/* READ, WRITE, FLUSH, READDIR*: borrowed until the reply */

	/* out, filled by the handler before it returns 0 */
	struct fs_entry entry;		/* LOOKUP */
	struct fs_attr attr;		/* GETATTR */
	struct fs_open open;		/* OPEN, OPENDIR */
	struct buf out;			/* READLINK, READ, GETXATTR, LISTXATTR */
	struct err err;			/* why, when the result is negative */

	errint_t (*task)(struct op *op, void *arg);	/* OP_TASK */
	void *task_arg;
	void (*task_free)(void *arg);

	bool no_wait; /* op_want never parks: -EINPROGRESS means "not known now" */
	void (*reply)(struct op *op, errint_t r);

	struct op_private *priv;	/* op.c's */
};

struct engine_opts {
	unsigned resume_threads;	/* 0: one per core */
	unsigned io_threads;		/* 0: 128 */
	uint64_t park_timeout_ns;	/* without progress of what is waited for; 0: 120 s */
	bool rerun; /* debugging, see above; also by OP_RERUN=1 in the environment */
};

/* o may be NULL.  No thread is started before the first operation waits: safe before a fork. */
struct engine *engine_new(struct fs *fs, const struct engine_opts *o);
/* The steps of stopping; fuse_mount_serve takes the first two while the session still exists.
 * halt: cancels flights, answers with ENOTCONN what is parked and what would park from now on.
 * drain: halt, and waits until every started operation is answered; none may be started any more.
 * stop: drain, and joins the pools; works end soon, because their tokens have fired. */
void engine_halt(struct engine *e);
void engine_drain(struct engine *e);
struct engine *engine_stop(struct engine *e);
struct pool *engine_io_pool(struct engine *e);
size_t engine_parked(struct engine *e);
/* Of these, how many are the kernel's: somebody waits for them. */
size_t engine_waiting(struct engine *e);

/* Takes over the ref to node, also on failure (NULL: no memory). */
struct op *op_new(struct engine *e, enum op_type type, struct node *node, uint32_t sub);
/* Runs it now on this thread; it may be answered, and gone, before this returns. */
void op_start(struct op *op);
/* Runs it on the resume pool, after what waits there.  For operations that a handler starts beside
 * its own (OP_PREPARE): flights end when nobody waits for them, and such an operation waits for
 * those that the kernel's is not to wait for.  It runs until it is answered or the engine halts. */
void op_start_later(struct op *op);
/* A handler of our own, started that way on behalf of n (borrowed): task runs, and again, like any
 * other.  Nobody hears of its failure; arg is freed with free_arg in every case. */
errint_t op_task(struct engine *e, struct node *n, errint_t (*task)(struct op *op, void *arg), void *arg,
		 void (*free_arg)(void *arg));
/* From the kernel's INTERRUPT; any thread; does almost nothing. */
void op_interrupt(struct op *op);

/* Tests: runs an operation to its end, blocking; the caller frees with op_free. */
errint_t op_call(struct op *op);
void op_free(struct op *op);

/* The work behind a key; runs on the I/O pool, may block, must end soon after c fires. */
typedef errint_t (*work_fn)(struct fs *fs, void *arg, struct cancel *c, struct err *e);

/* Work says that it gets on (bytes came): its waiters' time starts anew.  On the work's thread. */
void op_work_progress(void);

/* See above.  Two wants of one key in one run are one.  arg is freed with free_arg in every case
 * (free_arg NULL: nothing to free). */
errint_t op_want(struct op *op, const char *key, work_fn work, void *arg, void (*free_arg)(void *));
/* True when this operation has just waited for key and it succeeded: a handler that finds nothing
 * even so must not want it again for ever. */
bool op_waited_for(struct op *op, const char *key);
/* How often this operation has waited for key with success. */
unsigned op_times_waited(struct op *op, const char *key);

/* True: no_wait is set and nothing has been waited for, so op_want would say -EINPROGRESS whatever the key. */
bool op_only_looks(const struct op *op);

/* Keeps obj until the reply; unref is called once then (at once when obj is pinned already, or
 * there is no memory: -ENOMEM). */
errint_t op_pin(struct op *op, void *obj, void (*unref)(void *));
