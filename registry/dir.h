/*
 * dir.h - a tree of OCI image layouts as a registry (private to registry/)
 *
 * PATH/<repository>/{oci-layout,index.json,blobs/<alg>/<hex>}; repositories nest: PATH/a/b beside
 * PATH/a.  A nested name equal to a layout file (`blobs`, `index.json`, `oci-layout`) is written
 * with a '%' in front.  When PATH itself is a layout it is one repository, "".  Tags are the
 * org.opencontainers.image.ref.name annotations of index.json.
 *
 * Nothing is cached; files are opened beneath the directory without following symbolic links out
 * of it, every size is bounded, and index.json may be replaced by others at any moment.
 */
#pragma once

#include "registry/push.h"

struct rg_dir;

errint_t rg_dir_open(const char *path, struct rg_dir **ret, struct err *e) _must_check_;
struct rg_dir *rg_dir_close(struct rg_dir *d);
errint_t rg_dir_ping(struct rg_dir *d, struct err *e) _must_check_;
/* PATH itself is a layout, so that "" is a repository. */
bool rg_dir_is_layout(struct rg_dir *d);
errint_t rg_dir_list_repos(struct rg_dir *d, struct rg_names *ret, struct cancel *c, struct err *e) _must_check_;
errint_t rg_dir_list_tags(struct rg_dir *d, const char *repo, struct rg_names *ret, struct err *e) _must_check_;
errint_t rg_dir_resolve(struct rg_dir *d, const char *repo, const char *reference, struct digest *ret,
			struct err *e) _must_check_;
errint_t rg_dir_get_manifest(struct rg_dir *d, const char *repo, const char *reference,
			     struct rg_manifest *ret, struct err *e) _must_check_;
errint_t rg_dir_get_blob(struct rg_dir *d, const char *repo, const struct digest *dg, uint64_t size,
			 uint64_t off, uint64_t len, rg_sink_fn sink, void *ctx, struct cancel *c,
			 struct err *e) _must_check_;
errint_t rg_dir_list_referrers(struct rg_dir *d, const char *repo, const struct digest *dg,
			       struct buf *ret_index, struct cancel *c, struct err *e) _must_check_;
errint_t rg_dir_list_untagged(struct rg_dir *d, const char *repo, struct buf *ret_index, struct err *e) _must_check_;

/* Writing: as their namesakes in push.h.  m and dg: what p's bytes say. */
errint_t rg_dir_has_blob(struct rg_dir *d, const char *repo, const struct digest *dg, bool *ret,
			 struct err *e) _must_check_;
errint_t rg_dir_put_blob(struct rg_dir *d, const char *repo, const struct rg_body *b, const char *from,
			 struct cancel *c, struct err *e) _must_check_;
errint_t rg_dir_put_manifest(struct rg_dir *d, const char *repo, const struct rg_put *p,
			     const struct oci_manifest *m, const struct digest *dg, struct cancel *c,
			     struct err *e) _must_check_;
