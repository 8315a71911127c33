/*
 * mountinfo.h - what is mounted where, and whether it is well
 *
 * A snapshot of /proc/self/mountinfo (proc(5)).  Looking at a FUSE mount may block for ever when
 * its process is stuck, so everything here that touches one does it in a child process with a
 * time limit.  Single-threaded commands only: these functions fork.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "util/buf.h"
#include "util/cleanup.h"
#include "util/err.h"

#define MOUNT_TYPE "fuse.registryfs"
#define MOUNTINFO_MAX (16u << 20)
#define MOUNT_PROBE_MS 5000	/* a mount that does not answer for this long is stuck */

struct mount_entry {
	int id;				/* what statx(2) calls STATX_MNT_ID */
	char *point, *type, *source;	/* unescaped */
	char *part;			/* which directory of it is mounted here (bind mounts); NULL: all */
	bool has_user;			/* user_id= was there */
	uid_t user;			/* who mounted it (FUSE) */
	bool read_only;
};

struct mount_list {
	struct mount_entry *v;		/* in the order they were mounted */
	size_t n;
};

/* Pure.  Lines that are not understood are skipped. */
errint_t mount_list_parse(const char *text, size_t len, struct mount_list *ret, struct err *e) _must_check_;
errint_t mount_list_read(struct mount_list *ret, struct err *e) _must_check_;
void mount_list_done(struct mount_list *l);
#define _cleanup_mounts_ _cleanup_(mount_list_done)

/* The topmost mount at exactly this path, or NULL. */
const struct mount_entry *mount_at(const struct mount_list *l, const char *point);
bool mount_is_ours(const struct mount_entry *m);	/* of our type, by this user or we are root */
/* Does it show an image's tree for `registryfs rootfs`: as EROFS, or as a part of a mount of ours? */
#define MOUNT_EROFS_FILE ".image.erofs"
bool mount_is_rootfs(const struct mount_entry *m);
/* The mount that an absolute path without links leads into; NULL: none. */
const struct mount_entry *mount_above(const struct mount_list *l, const char *path);

/* cmd_probe.c.  0: answers.  -ENOTCONN: its process is gone.  -ETIMEDOUT: stuck. */
errint_t mount_probe(const char *point);
/* The contents of a small file below a mount; errors of open and read, or -ETIMEDOUT. */
errint_t mount_read(const char *point, const char *file, struct buf *out);

/* An absolute path without links but perhaps in its last component, which is not touched when the
 * directory before it answers: fit for looking up what may be a dead mount.  NULL: errno. */
char *mount_point_path(const char *path);

/* Unmounts as root by itself, else with fusermount3; lazy: detaches what is in use.  -EBUSY says who
 * uses it as far as that can be seen. */
errint_t mount_end(const char *point, bool lazy, struct err *e) _must_check_;
