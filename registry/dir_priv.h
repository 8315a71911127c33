/*
 * dir_priv.h - what the dir*.c files share
 *
 * dir_fs.c	opening beneath the root, reading bounded files, mapping names to paths
 * dir_walk.c	finding repositories
 * dir_index.c	index.json: entries and tags
 * dir_refs.c	referrers by scanning
 * dir_write.c	blobs, manifests and tags
 * dir.c	the interface of dir.h
 */
#pragma once

#include <stdatomic.h>

#include "registry/dir.h"
#include "util/json.h"

#define DIR_PATH_MAX	   1024 /* bytes of a path below the root; a repository and a blob */
#define DIR_INDEX_MAX (64u << 20)	/* bytes of an index.json */
#define DIR_ENTRIES_MAX 1000000		/* entries of an index.json */
#define DIR_VALUES_MAX 4000000		/* JSON values of it; an entry with a tag has seven */
#define DIR_LAYOUT_MAX 4096		/* bytes of an oci-layout file */
#define DIR_DEPTH_MAX 32		/* nesting of directories in the search for repositories */
#define DIR_WALK_MAX 200000		/* directories looked at in that search */
#define DIR_CHUNK (256u << 10)		/* bytes given to a sink at once */
#define DIR_SCAN_MAX 20000		/* manifests looked at for referrers of one digest */
#define DIR_SCAN_BYTES_MAX (UINT64_C(512) << 20)
#define DIR_SCAN_DEPTH_MAX 4		/* indexes in indexes */

struct rg_dir {
	char *path;
	atomic_bool no_openat2;		/* learnt: this kernel or sandbox has no openat2 */
};

/* --- dir_fs.c --- */

/* The root is opened anew for every call: it may have been replaced (a restored backup). */
errint_t dir_open_root(struct rg_dir *d, int *ret_fd, struct err *e) _must_check_;
/* -errno; -EXDEV: a symbolic link leads out of the root. */
int dir_open_beneath(struct rg_dir *d, int root, const char *path, int flags) _must_check_;
/* Opens a regular file of at most max bytes (0 = any); gives its size.  Messages name the path. */
errint_t dir_open_file(struct rg_dir *d, int root, const char *path, uint64_t max, int *ret_fd,
		       uint64_t *ret_size, struct err *e) _must_check_;
errint_t dir_read_file(struct rg_dir *d, int root, const char *path, size_t max, struct buf *ret,
		       struct err *e) _must_check_;
/* "a/blobs" and "index.json" -> "a/%blobs/index.json"; leaf NULL: the directory ("." for ""). */
errint_t dir_path(const char *repo, const char *leaf, char out[static DIR_PATH_MAX], struct err *e)
	_must_check_;
errint_t dir_blob_path(const char *repo, const struct digest *dg, char out[static DIR_PATH_MAX],
		       struct err *e) _must_check_;
/* A directory entry's name without '%'; NULL: it cannot be part of a repository name. */
const char *dir_component_of(const char *name);

/* --- dir_walk.c --- */

struct names_builder;
errint_t dir_walk(struct rg_dir *d, int root, struct names_builder *b, struct cancel *c,
		  struct err *e) _must_check_;

/* --- dir_index.c --- */

#define DIR_REF_NAME "org.opencontainers.image.ref.name"

struct dir_index {
	struct buf bytes;		/* index.json as it is */
	struct json *doc;
	const struct json *manifests;	/* its list; NULL when empty */
	size_t n;
};

/* One entry, borrowed from the index. */
struct dir_entry {
	struct digest digest;
	uint64_t size;
	const char *media_type;		/* or NULL */
};

errint_t dir_check_layout(struct rg_dir *d, int root, const char *repo, struct err *e) _must_check_;
/* Checks that the repository is a layout first; ENOENT/NOTFOUND when there is none. */
errint_t dir_index_load(struct rg_dir *d, int root, const char *repo, struct dir_index *ret,
			struct err *e) _must_check_;
void dir_index_done(struct dir_index *x);
/* The tag of entry i in out, or false. */
bool dir_index_tag(const struct dir_index *x, size_t i, char out[static REF_TAG_MAX + 1]);
/* -ENOENT without a message when there is none. */
errint_t dir_index_find_tag(const struct dir_index *x, const char *tag, struct dir_entry *ret,
			    struct err *e) _must_check_;
bool dir_index_find_digest(const struct dir_index *x, const struct digest *dg,
			   struct dir_entry *ret);
errint_t dir_index_entry(const struct dir_index *x, size_t i, struct dir_entry *ret, struct err *e)
	_must_check_;

/* --- dir_refs.c --- */

errint_t dir_find_referrers(struct rg_dir *d, int root, const char *repo, const struct dir_index *x,
			    const struct digest *subject, struct buf *ret, struct cancel *c,
			    struct err *e) _must_check_;
