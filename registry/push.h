/*
 * push.h - writing to a registry or a layout
 *
 * What a call that returned 0 has written is there; a call that failed has changed nothing that
 * anybody can see (blobs that no manifest names are the registry's to collect; a layout's index
 * may be there when syncing it failed).  A blob that is there already, or that another repository
 * of the layout has, is known by its size and not read again.  The order is the caller's: blobs,
 * then the manifest that names them, children before their index.
 *
 * Threads, repository names, cancel tokens and errors are as in registry.h.  Besides: EACCES (AUTH)
 * for a user who may not write; EOPNOTSUPP (UNSUPPORTED) for a registry that takes no uploads; EPERM
 * (INPUT) for a tag that the registry does not let change; EBUSY when others change the same place all
 * the time; EROFS, ENOSPC and the like (LOCAL) for layouts.  Writes never go to mirrors.
 *
 * Layouts (dir:) have to exist.  A writer holds a lock on the layout's directory (flock; NFS has none
 * for directories), so that two of us exclude each other; skopeo, umoci and podman, which lock nothing, read and write at the
 * same time: files appear whole by rename, index.json is read again when it changed meanwhile.
 */
#pragma once

#include "registry/registry.h"

#define RG_MANIFEST_PUSH_MAX (4u << 20)	/* what every registry has to take */

struct rg_body {
	struct digest digest;
	uint64_t size;
	/* Fills dst with bytes [off, off + len).  Called in order, but after a broken connection
	 * again from an earlier place; on the calling thread. */
	errint_t (*read)(void *ctx, uint64_t off, void *dst, size_t len, struct err *e);
	void *ctx;
};
/* Of bytes in memory, which stay the caller's. */
struct rg_body rg_body_of(const void *data, size_t len);

errint_t rg_has_blob(struct rg_registry *r, const char *repo, const struct digest *d, bool *ret,
		     struct cancel *c, struct err *e) _must_check_;
/* Puts a blob there unless it is there already.  from: another repository that has it, from which
 * the registry may take it without a byte moved; NULL: none is known.  A body whose bytes do not have
 * its digest is EIO. */
errint_t rg_put_blob(struct rg_registry *r, const char *repo, const struct rg_body *b, const char *from,
		     struct cancel *c, struct err *e) _must_check_;

struct rg_put {
	const char *reference;	/* a tag; NULL: by digest, with no tag */
	const void *bytes;	/* exact; a manifest or an index */
	size_t len;
	const char *media_type;
	bool child;		/* an index that names it follows: not to be listed on its own */
};
/* Puts a manifest.  When it has a subject, it is among the subject's referrers afterwards: where the
 * registry has no referrers API, in the index under the tag sha256-<hex>.  *ret: its digest, as the
 * registry says, too. */
errint_t rg_put_manifest(struct rg_registry *r, const char *repo, const struct rg_put *p,
			 struct digest *ret, struct cancel *c, struct err *e) _must_check_;
