/*
 * fuse.h - the FUSE session: decode, start an op, encode the answer
 *
 * fuse.c, fuse_*.c and notify.c are the only places that include libfuse.  They turn the kernel's
 * requests into struct op, answers into replies, and keep the books of what the kernel refers to.
 *
 * Order: fs_new, fuse_mount_new, (fork), fuse_mount_serve, fuse_mount_free, fs_free.  Serving
 * installs a handler for SIGURG, which it needs for stopping.
 */
#pragma once

#include "fs/fs.h"

struct fuse_mount;

/* Mounts on config->mountpoint.  Errors say what to do (no /dev/fuse, no user_allow_other...). */
errint_t fuse_mount_new(struct fs *fs, struct fuse_mount **ret, struct err *e) _must_check_;
/* Serves until unmounted or told to stop; ready() is called once when the kernel has said INIT.
 * When it returns every operation has been answered and the engine is halted: nothing waits any more. */
errint_t fuse_mount_serve(struct fuse_mount *m, void (*ready)(void *arg), void *arg, struct err *e);
/* Async-signal-safe: makes serve return. */
void fuse_mount_stop(struct fuse_mount *m);
/* Unmounts when still mounted (only this mount). */
struct fuse_mount *fuse_mount_free(struct fuse_mount *m);

/* notify.c: invalidations, sent by a thread of their own (style.md F5); any thread may queue. */
struct notifier;
void notify_inval_entry(struct notifier *n, uint64_t parent_id, const char *name);
void notify_inval_node(struct notifier *n, uint64_t id);
/* Waits (a moment at most) until the kernel has heard what was queued so far; not on FUSE threads. */
void notify_flush(struct notifier *n, struct cancel *c);
/* Grows with every queued invalidation: a reply computed before it must not be cached (F6). */
uint64_t notify_epoch(struct notifier *n);
