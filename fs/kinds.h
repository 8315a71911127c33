/*
 * kinds.h - the sorts of node there are, and how to make one (private to fs/)
 *
 *	kind_root	mount root without SOURCE: configured registries, `local`, hosts on demand
 *	kind_repo	registry root, namespace or repository
 *	kind_tag	REPO/TAG and REPO/:TAG: an image that may move
 *	kind_image	REPO/sha256:HEX, platforms/NAME, referrers/TYPE/DIGEST: an image that never moves
 *	kind_text	a small file made from a row's show function
 *	kind_blob	the exact bytes of a blob
 *	kind_tree	rootfs/, layers/NN/: a file tree (nodes with subs)
 *	kind_erofs	.image.erofs: that tree as a file system in a file
 *	kind_layers kind_files kind_platforms kind_referrers kind_oci kind_tar kind_control: directories
 *
 * A directory of fixed names is a table of struct row; adding a virtual file is one row and one
 * show function.  Names come from rows; presence, sizes and modes too.
 */
#pragma once

#include "fs/fs.h"
#include "fs/kind.h"
#include "fs/mountinfo.h"
#include "fs/need.h"
#include "fs/node.h"
#include "fs/op.h"
#include "fs/site.h"

extern const struct kind kind_root, kind_repo, kind_tag, kind_image, kind_text, kind_blob, kind_tree,
	kind_layers, kind_files, kind_platforms, kind_referrers, kind_referrer_type, kind_oci,
	kind_oci_dir, kind_tar, kind_tar_file, kind_control, kind_erofs;

/* ---- places: what nodes carry in data ---- */

/* kind_repo, kind_tar, kind_oci, kind_control of a repository: a name in a registry. */
struct repo_at {
	struct site *site;	/* borrowed: lives as long as the mount */
	char *repo;		/* "" = the registry's root */
};
struct repo_at *repo_at_new(struct site *site, const char *repo);	/* NULL: no memory */
void repo_at_free(void *p);

/* kind_tag */
struct tag_at {
	struct site *site;
	const char *tag;	/* both in text: a long listing makes many of these */
	const char *repo;
	char text[];
};

/* kind_image and everything below an image or a tag: which image, and in which index it was found.
 * Only the digest is needed to make one; the manifest is fetched when somebody looks. */
struct image_at {
	struct site *site;
	char *repo;
	struct digest digest;
	struct image *enclosing;	/* index it was reached through, or NULL; a ref */
	char *prefix;			/* kind_files: directory part; kind_referrer_type: type name */
	size_t layer;			/* kind_tree of a layer */
	bool merged;			/* kind_tree: rootfs */
	/* Found once, kept while the node lives; owned. */
	struct image *_Atomic img;
	struct tree *_Atomic tree;
	struct early *early;		/* kind_tree: rootfs, before its tree is there; NULL: no memory */
	atomic_bool preparing;		/* kind_tree: somebody sees, or has seen, to it that the tree comes */
	_Atomic uint64_t *_Atomic opened;	/* kind_tree: a bit per file */
	_Atomic uint32_t *_Atomic early_opens;	/* kind_tree: files opened before it came (prefetch.c) */
	struct ca_erofs *erofs;		/* kind_erofs: under its lock */
};
struct image_at *image_at_new(struct site *site, const char *repo, const struct digest *d,
			      struct image *enclosing);
void image_at_free(void *p);
/* The image itself: need_image with what the place says. */
errint_t image_at_need(struct op *op, struct image_at *at, struct image **ret) _must_check_;

/* ---- rows ---- */

enum {
	ROW_MUTABLE = 1 << 0,	/* rendered at every open, no page cache */
	ROW_OWNER = 1 << 1,	/* 0600/0700: for the mounting user alone */
	ROW_HIDDEN = 1 << 2,	/* answers to its name, is not listed */
};

/* What a text is about: exactly one of these is set. */
struct subject {
	struct fs *fs;			/* always */
	struct site *site;		/* repository texts: site and repo */
	const char *repo;
	struct image *img;		/* image texts; the index itself for an index */
	struct image *enclosing;
};

struct row {
	const char *name;
	unsigned flags;
	/* Appends the contents.  May want and return -EINPROGRESS. */
	errint_t (*show)(struct op *op, const struct subject *s, struct buf *out);
	/* A complete value was written; NULL: read-only. */
	errint_t (*store)(struct op *op, const struct subject *s, const char *value, size_t len);
	/* Size without rendering; NULL: render. */
	errint_t (*size)(struct op *op, const struct subject *s, uint64_t *ret);
	/* Is it there at all?  NULL: yes.  -ENOENT: no. */
	errint_t (*present)(struct op *op, const struct subject *s);
};

/* Makes the text node of a row; img and enclosing may be NULL.  Fills ret->node and leaves the
 * attributes to kind_attr.  ttl_ns: how long the name is good. */
errint_t text_entry(struct op *op, struct node *dir, const struct row *row, const struct subject *s,
		    uint64_t ttl_ns, struct fs_entry *ret);

/* ---- shared pieces ---- */

/* Attributes of synthetic directories and files: owner, mode (policy), mtime. */
void synth_dir_attr(struct op *op, const struct node *n, bool owner_only, int64_t mtime_s, uint64_t ttl_ns,
		    struct fs_attr *ret);
void synth_file_attr(struct op *op, const struct node *n, uint32_t perm, uint64_t size, int64_t mtime_s,
		     uint64_t ttl_ns, struct fs_attr *ret);
/* The open of kinds whose contents never change: the kernel may keep pages and listings. */
errint_t open_constant(struct op *op, struct node *n, uint32_t sub, int flags, struct fs_open *ret);
/* A blob file below dir. */
errint_t blob_entry(struct op *op, struct node *dir, const char *name, struct image *img,
		    const struct oci_descriptor *d, uint64_t ttl_ns, struct fs_entry *ret);
/* `.image.erofs` of an image directory (kind_erofs.c); img may be an index. */
errint_t erofs_entry(struct op *op, struct node *dir, struct image *img, uint64_t ttl_ns, struct fs_entry *ret);
/* Makes a directory node of the given kind with an image_at of its own. */
errint_t image_dir_entry(struct op *op, struct node *dir, const char *name, const struct kind *kind,
			 struct image_at *at, uint64_t ident, uint64_t ttl_ns, struct fs_entry *ret);
/* The children every image has; used by kind_tag and kind_image. */
errint_t image_child(struct op *op, struct node *dir, struct image *img, struct image *enclosing,
		     const char *name, uint64_t ttl_ns, struct fs_entry *ret);
errint_t image_children(struct op *op, struct node *dir, struct image *img, struct dirlist *ret);
/* When the image was made: manifest annotation, else the config's `created`, else 0.  Wants the
 * config unless op->no_wait; then 0 may mean "not known now". */
errint_t image_created(struct op *op, struct image *img, int64_t *ret_s);

/* user.oci.digest, .media_type, .reference, ... of an image directory. */
errint_t image_getxattr(struct op *op, struct image *img, const char *reference, const char *name,
			struct buf *ret);
/* img NULL: not known now. */
errint_t image_listxattr(const struct image *img, struct buf *ret);

/* `.oci` of a repository or namespace (kind_oci.c). */
errint_t oci_entry(struct op *op, struct node *dir, const char *name, struct site *s, const char *repo,
		   struct fs_entry *ret);

/* `.control`: dir is the daemon's (site NULL or repo ""), a repository's or an image's. */
/* What `.control/refresh` does: site NULL: all of them; repo NULL: all of the site's. */
void fs_refresh(struct fs *fs, struct site *site, const char *repo);
errint_t control_entry(struct op *op, struct node *dir, const struct subject *s, struct fs_entry *ret);
