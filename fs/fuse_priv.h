/*
 * fuse_priv.h - what the FUSE files share (private to fuse*.c, notify.c and their tests)
 *
 *	fuse.c		mount, session, loop, stop
 *	fuse_ops.c	requests -> struct op
 *	fuse_reply.c	answers -> replies; what the kernel refers to
 *	fuse_push.c	small files' bytes along with open
 *	fuse_handle.c	file handle numbers
 *	fuse_io.c	the session's descriptor
 *	notify.c	invalidations
 */
#pragma once

#include <fuse_lowlevel.h>

#include "fs/fuse.h"
#include "fs/kind.h"
#include "fs/op.h"

#define FUSE_READ_MAX (1u << 20) /* bytes of one read; the mount option says so to the kernel */
#define FUSE_DIR_MAX (1u << 20)		/* bytes of one readdir reply */
#define FUSE_HANDLES_MAX (1u << 20)	/* open files and directories */

struct handle_table;

struct fuse_mount {
	struct fs *fs;
	struct fuse_session *se;
	struct handle_table *handles;
	char *mountpoint;		/* NULL: a session over a socket */
	bool mounted;
	uint64_t dev, dev_below;	/* st_dev of the mount, once known, and of what it covers */
	int wake_fd;			/* eventfd: one of the flags has changed */
	atomic_bool stop, greeted, loop_ended;
	atomic_bool amend_greeting;	/* the next message is the answer to INIT; see fuse_io.c */
	atomic_uint pushing;		/* threads in fuse_push */
	const struct fuse_custom_io *io;
	pthread_t loop;
	int loop_result;
};

/* One request from the kernel; op->req points to it from decoding to the reply. */
struct fuse_call {
	fuse_req_t req;
	struct fuse_mount *m;
	uint64_t epoch;			/* of the notifier when the request came (style.md F6) */
	uint64_t fh;			/* held while the operation runs; 0 = none */
	pthread_t thread;		/* of the loop, that took the request */
};

/* Tests and fuzzers: a session whose kernel is at the other end of fd (taken over). */
errint_t fuse_mount_new_custom(struct fs *fs, const struct fuse_custom_io *io, int fd,
			       struct fuse_mount **ret, struct err *e) _must_check_;

extern const struct fuse_lowlevel_ops fuse_ops;

/* fuse_ops.c calls it for INIT: what we want of the connection. */
void fuse_mount_greet(struct fuse_mount *m, struct fuse_conn_info *conn);

/* Puts our io between libfuse and fd; io NULL: fd is /dev/fuse. */
errint_t fuse_io_attach(struct fuse_mount *m, const struct fuse_custom_io *io, int fd) _must_check_;

/* op->reply of every operation that came from the kernel. */
void fuse_answer(struct op *op, errint_t r);
/* Before an open is answered: hands the kernel what it would read next, when that is at hand. */
void fuse_push(struct op *op, const struct fuse_call *c);
/* The positive errno that the kernel may see (style.md F18). */
int fuse_errno(errint_t r);

/* File handle numbers: never a pointer, never used twice.  An entry lives until it is closed and
 * nobody holds it; the last one frees the handle.  Lock: a leaf. */
struct handle_table *handle_table_new(void);
struct handle_table *handle_table_free(struct handle_table *t);
/* Takes over h; 0: no room (h freed). */
uint64_t handle_add(struct handle_table *t, struct handle *h);
struct handle *handle_hold(struct handle_table *t, uint64_t fh);	/* NULL: no such handle */
void handle_let_go(struct handle_table *t, uint64_t fh);
void handle_close(struct handle_table *t, uint64_t fh);
size_t handle_count(struct handle_table *t);

/* notify.c */
struct notifier *notifier_new(struct fuse_session *se);
void notifier_set_expiry(struct notifier *n, bool can_expire);
errint_t notifier_start(struct notifier *n) _must_check_;
/* Joins.  While the loop still serves: the kernel may answer a notification only after a reply. */
void notifier_stop(struct notifier *n);
struct notifier *notifier_free(struct notifier *n);
/* A reply that lets the kernel cache a name is written between these two.  begin says whether it
 * may: false when something was invalidated since `epoch`.  An invalidation is not sent before all
 * replies that did not know of it are out. */
bool notify_reply_begin(struct notifier *n, uint64_t epoch, unsigned *ret_gate);
void notify_reply_end(struct notifier *n, unsigned gate);
/* The file's bytes from its start, into the kernel's pages, now; may wait for reads of this file. */
errint_t notify_store(struct notifier *n, uint64_t id, void *data, size_t len) _must_check_;
