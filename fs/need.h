/*
 * need.h - what handlers ask for: present, -EINPROGRESS, or an error
 *
 * Each need_*() looks into the site and the cache; what is missing or too old it wants (op.h) with
 * the right key, so that all who need it share one fetch.  Results are new references (or structs
 * the caller releases as said).  Failures come with op->err filled and are remembered for a short
 * time (po_ttl_ns ABSENT, FAILURE).  When the registry cannot be asked and policy allows it, what
 * is stale is served and one log line says so.
 */
#pragma once

#include "fs/op.h"
#include "fs/site.h"

/* All repositories of the site (catalogue plus visited names); when there is no catalogue, the
 * visited and configured names alone. */
errint_t need_repos(struct op *op, struct site *s, struct name_list **ret) _must_check_;
errint_t need_tags(struct op *op, struct site *s, const char *repo, struct name_list **ret) _must_check_;

enum name_is { NAME_IS_NOTHING = 0, NAME_IS_REPO, NAME_IS_TAG };
/* What `name` means below repository or namespace `repo`: a repository or namespace `repo/name`
 * wins over a tag.  With as few requests as possible: a fresh tag list or catalogue answers at
 * once; else one HEAD of the tag, then whether there is such a repository. */
errint_t need_name(struct op *op, struct site *s, const char *repo, const char *name, enum name_is *ret) _must_check_;

/* Tag to digest, revalidated after tag_ttl; *ret_fresh_ns: how long the answer is still good. */
errint_t need_tag(struct op *op, struct site *s, const char *repo, const char *tag, struct digest *ret,
		  uint64_t *ret_fresh_ns) _must_check_;
/* A manifest by digest, in this repository: the first use asks the registry whether this repository
 * has it (access is checked per repository), the bytes may come from the cache. */
errint_t need_image(struct op *op, struct site *s, const char *repo, const struct digest *d,
		    struct image **ret) _must_check_;
/* The image of an index that stands for it (option platform=, else the host's): a new ref to img
 * itself when it is no index; -ENOENT when no entry fits. */
errint_t need_platform(struct op *op, struct image *img, struct image **ret) _must_check_;
/* Referrers of a digest as a parsed index: API, fallback tag, cosign's digest tags and BuildKit
 * attestations of the enclosing index (may be NULL) merged, without duplicates. */
errint_t need_referrers(struct op *op, struct image *img, struct image *enclosing,
			struct referrers **ret) _must_check_;

/* What a layout on disk lists without a tag, as a parsed index; empty for other backends. */
errint_t need_untagged(struct op *op, struct site *s, const char *repo, struct oci_manifest **ret) _must_check_;

/* A small blob as bytes (configs): at most max bytes. */
errint_t need_bytes(struct op *op, struct image *img, const struct oci_descriptor *d, size_t max,
		    struct buf *ret) _must_check_;
/* Any blob, for reading at offsets. */
errint_t need_blob(struct op *op, struct image *img, const struct oci_descriptor *d, struct ca_blob **ret) _must_check_;
errint_t need_config(struct op *op, struct image *img, struct oci_config **ret) _must_check_; /* oci_config_free */
/* A layer, and its tree; layer = index into img->m->layers. */
errint_t need_layer(struct op *op, struct image *img, size_t layer, struct ca_layer **ret) _must_check_;
errint_t need_layer_tree(struct op *op, struct image *img, size_t layer, struct tree **ret) _must_check_;
/* The merged tree and its layers (all of them are opened and pinned on the op). */
errint_t need_tree(struct op *op, struct image *img, struct tree **ret) _must_check_;
/* The same when it is in memory or on disk; nothing is wanted.  -ENOENT: it is not. */
errint_t need_tree_here(struct op *op, struct image *img, struct tree **ret) _must_check_;
/* A merged tree of the image as an EROFS file (need_erofs.c). */
errint_t need_erofs(struct op *op, struct image *img, struct tree *t, struct ca_erofs **ret) _must_check_;
/* Appends [off, off + len) of a layer's uncompressed tar to ret (never short within the layer);
 * wants spans that are not here. */
errint_t need_layer_data(struct op *op, struct image *img, size_t layer, uint64_t off, size_t len,
			 struct buf *ret) _must_check_;
errint_t need_blob_data(struct op *op, struct image *img, const struct oci_descriptor *d, uint64_t off,
			size_t len, struct buf *ret) _must_check_;
