/*
 * fs.h - one mount: its options, its registries, its pillars
 *
 * Made by main.c through wire.c, passed to every handler as op->fs.  Constant after start but for
 * the tables inside sites, the error ring, and what is atomic.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cache.h"
#include "fs/node.h"
#include "fs/op.h"
#include "registry/registry.h"
#include "util/buf.h"
#include "util/err.h"

/* What options.c makes of command line, environment and config file.  Strings are owned. */
struct fs_config {
	char *source;		/* NULL: the root lists registries */
	char *mountpoint;	/* absolute */
	bool foreground, debug;
	bool allow_other, allow_root, raw_links, suid, dev, noexec, ro;
	uint64_t tag_ttl_ns;	/* tag_ttl=30 */
	uint64_t timeout_ns;	/* timeout=30: without a byte from the registry */
	int soci;		/* soci=auto: enum soci_mode */
	unsigned transfers;	/* transfers=8: blob transfers at once per host */
	bool prefetch;		/* records what is read first, and fetches it first the next time */
	bool complete;		/* fetches the rest of what is used */
	uint64_t background_rate; /* bytes a second for both; 0: no limit */
	char *cache_dir;
	uint64_t cache_size, cache_free;
	char *state_dir;
	char *local_dir;	/* the embedded registry */
	char *authfile, *certs_dir, *registries_conf, *hosts_dir;
	bool tls_verify_off;
	char *platform;		/* "linux/arm64[/v8]": which image of an index stands for it; NULL: host's */
	char **registries;	/* configured for the root of a mount without SOURCE */
	size_t n_registries;
	char *log_file;
	int log_level;
	char *fsname;		/* shown in /proc/mounts; no secrets in it */
	char *options_text;	/* effective options, one "name=value  (where from)" per line, no secrets:
				   .control/config */
};

/* Which SOCI indexes are believed: those that refer to an image, too; those that its manifest names; none. */
enum soci_mode { SOCI_AUTO = 0, SOCI_V2, SOCI_OFF };

struct site;	/* site.h: one registry and what is known about it */

/* The last failures, for .control/errors. */
#define FS_ERRORS_KEPT 100
struct fs_error {
	int64_t when_s;
	char path[256];
	struct err err;
};

struct fs {
	const struct fs_config *config;
	struct rg_client *client;
	struct ca_store *cache;
	struct node_table *nodes;
	struct engine *engine;
	struct pace *pace;
	struct site *single;		/* the registry of a mount with SOURCE, else NULL */
	int64_t started_s;
	uid_t uid;			/* who mounted: owner of synthetic nodes */
	gid_t gid;

	pthread_mutex_t sites_lock;
	struct hmap *sites;		/* name -> struct site; without SOURCE */

	pthread_mutex_t errors_lock;
	struct fs_error errors[FS_ERRORS_KEPT];
	uint64_t n_errors;

	struct notifier *notifier;	/* NULL in tests without a kernel */
};

struct rg_client;

/* wire.c: a client by the configuration, for commands that need nothing but that. */
errint_t wire_client(const struct fs_config *c, struct rg_client **ret, struct err *e) _must_check_;
/* wire.c: introduces the pillars to each other; opens cache, client, registries (no network). */
errint_t fs_new(const struct fs_config *c, struct fs **ret, struct err *e) _must_check_;
struct fs *fs_free(struct fs *fs);
/* Reaches the registry of a mount with SOURCE; the 30 s limit of the command line is the caller's. */
errint_t fs_check_source(struct fs *fs, struct cancel *c, struct err *e) _must_check_;

/* errors.c: remembers a failed operation for .control/errors, the node's xattr and the log (rate
 * limited; ENOENT of ordinary lookups is not a failure and must not come here). */
void fs_note_error(struct fs *fs, struct node *n, const struct err *e);
void fs_errors_text(struct fs *fs, struct buf *out);	/* newest last: time, path, errno, sentence */
