/*
 * tree.h - a file tree in one compact, immutable, position-independent image
 *
 * The same format holds the table of contents of a layer (as the layer wrote it: markers are
 * ordinary nodes, hard links to other layers unresolved) and the merged tree of an image (markers
 * applied, links resolved).  It is written once, read-only ever after, and never trusted: tree_open
 * checks every offset, count and index, so that accessors need not (format: tree_image.h).
 *
 * Nodes are numbered from 0 (the root).  The children of a directory have consecutive numbers and
 * are sorted bytewise by name: lookup is a binary search, listing is a loop, neither allocates.
 * Names are bytes, 1..255 of them, without '/' and NUL, never "." or "..".
 *
 * A hard link is a node whose `ino` is the number of another node: the first of its group, which
 * carries the attributes and the link count.  tree_get follows it; `ino` identifies the file.
 *
 * Threads: a struct tree is immutable and reference counted; any thread may read it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/buf.h"
#include "util/cancel.h"
#include "util/cleanup.h"
#include "util/err.h"

#define TREE_ROOT 0u
#define TREE_NONE UINT32_MAX
#define TREE_NODES_MAX (12u << 20)	/* entries of one tree */
#define TREE_DEPTH_MAX 1024
#define TREE_PATH_MAX 4096
#define TREE_LAYERS_MAX 1024
#define TREE_BYTES_MIN (256u << 20)	/* what one tree may take while it is built: TREE_BYTES_PART of */
#define TREE_BYTES_MAX (2u << 30)	/* machine_memory(), but not less and not more than this */
#define TREE_BYTES_PART 8
#define TREE_MERGE_NODES_MAX TREE_NODES_MAX	/* entries of all layers of an image together */
/* Part of the names under which trees are kept: one more whenever the format, or what a tar archive
 * or a stack of layers means, changes; what older programs have made is then not used any more. */
#define TREE_RULES 3

enum tree_type {
	TREE_UNSET = 0,
	TREE_DIR,
	TREE_REG,
	TREE_SYMLINK,
	TREE_CHR,
	TREE_BLK,
	TREE_FIFO,
	TREE_LINK,	/* layer trees only: hard link whose target was not in this layer then */
};

enum {
	TREE_F_IMPLICIT = 1 << 0,	/* directory made up because the archive had no entry for it */
	TREE_F_SPARSE = 1 << 1,		/* data is described by tree_extent */
	TREE_F_XATTRS = 1 << 2,		/* has extended attributes */
};

struct tree_attr {
	enum tree_type type;
	uint32_t mode;			/* permission bits, 07777 */
	uint32_t uid, gid;
	int64_t mtime_s;
	uint32_t mtime_ns;
	uint64_t size;			/* REG: bytes; SYMLINK: length of the target; else 0 */
	uint32_t nlink;			/* DIR: 2 + subdirectories; others: names in this tree */
	uint32_t rdev_major, rdev_minor;
	uint32_t flags;			/* TREE_F_* */
	uint32_t ino;			/* node that stands for the file (itself unless hard linked) */
	uint32_t parent;		/* of the node asked about, not of ino; root: TREE_ROOT */
	uint32_t layer;			/* REG: layer number (0 = base) that holds the data */
	uint64_t data_off;		/* REG, not sparse: offset in that layer's uncompressed tar */
	const char *name;		/* borrowed from the tree; not NUL-terminated */
	uint32_t name_len;
	const char *target;		/* SYMLINK, LINK: borrowed; NUL-terminated */
	uint32_t target_len;
	uint32_t first_child, n_children; /* DIR */
};

struct tree_extent {
	uint64_t off;		/* in the file */
	uint64_t len;
	uint64_t data_off;	/* in the layer's uncompressed tar */
};

struct tree;

/* Reads len bytes of fd from offset 0 (fd stays the caller's); -EBADMSG (INTEGRITY) when it is not a
 * sound tree. */
errint_t tree_open_fd(int fd, size_t len, struct tree **ret, struct err *e) _must_check_;
/* Takes over a malloc'ed image, also when it fails. */
errint_t tree_open_mem(void *image, size_t len, struct tree **ret, struct err *e) _must_check_;
struct tree *tree_ref(struct tree *t);
struct tree *tree_unref(struct tree *t);	/* returns NULL */
DEFINE_CLEANUP(struct tree *, tree_unref)

uint32_t tree_count(const struct tree *t);		/* nodes */
uint64_t tree_data_bytes(const struct tree *t);		/* sum of sizes of distinct regular files */
/* An access control list or a security label: what `ls -l` asks every file for.  Has any file of t one? */
bool tree_is_label(const char *name, size_t len);
bool tree_has_labels(const struct tree *t);
const void *tree_image(const struct tree *t, size_t *ret_len);

/* n < tree_count(t). */
void tree_get(const struct tree *t, uint32_t n, struct tree_attr *ret);
/* TREE_NONE when dir has no such child or is no directory. */
uint32_t tree_lookup(const struct tree *t, uint32_t dir, const char *name, size_t len);
/* By path relative to the root, component by component, no links followed.  TREE_NONE: not there. */
uint32_t tree_lookup_path(const struct tree *t, const char *path, size_t len);
/* Appends the path of a node from the root, "" for the root.  -ENAMETOOLONG over TREE_PATH_MAX. */
errint_t tree_path(const struct tree *t, uint32_t n, struct buf *ret);

/* Extended attributes of a node by ascending name, i from 0; false past the end.  Values may hold
 * NULs. */
bool tree_xattr(const struct tree *t, uint32_t n, size_t i, const char **ret_name, size_t *ret_name_len,
		const void **ret_value, size_t *ret_value_len);
/* Data extents of a sparse file in ascending order; false past the end. */
bool tree_extent(const struct tree *t, uint32_t n, size_t i, struct tree_extent *ret);

/* That limit; for builders, and for who gives a merge its ceiling. */
size_t tree_bytes_max(void);
extern size_t tree_bytes_set;	/* tests: what it is instead; 0: by the machine's memory */

/* ---- building a layer's tree, entries in archive order ------------------------------------- */

struct tree_entry {
	enum tree_type type;		/* LINK for tar type '1' */
	const char *path;		/* as in the archive; cleaned here (layers.md 6) */
	size_t path_len;
	const char *target;		/* SYMLINK, LINK */
	size_t target_len;
	uint32_t mode, uid, gid;
	int64_t mtime_s;
	uint32_t mtime_ns;
	uint64_t size;
	uint32_t rdev_major, rdev_minor;
	uint64_t data_off;
	const struct tree_extent *extents;	/* NULL: one piece */
	size_t n_extents;
	const struct tree_xattr_in {	/* a later one wins over an earlier one of its name */
		const char *name;
		size_t name_len;
		const void *value;	/* NULL: none of that name after all */
		size_t value_len;
	} *xattrs;
	size_t n_xattrs;
};

struct tree_builder;
struct tree_builder *tree_builder_new(void);
struct tree_builder *tree_builder_free(struct tree_builder *b);	/* accepts and returns NULL */
DEFINE_CLEANUP(struct tree_builder *, tree_builder_free)
/* Rules: later entries replace earlier ones of the same path (a directory over a directory keeps
 * its children); missing parents are made up (IMPLICIT, 0755 root, mtime 0); a non-directory in
 * the way of a path is replaced by a directory; "." and "/" are the root's attributes; a path that
 * climbs out of the root, is too long (TREE_PATH_MAX, TREE_DEPTH_MAX, 255 bytes a name) or has a
 * NUL is dropped and counted, and so is a symbolic link without a target and a hard link to a
 * directory; a hard link to itself changes nothing, one to a path that is there now shares that
 * file, any other stays a TREE_LINK with its cleaned target.  Attributes that Linux could not hold
 * are left out.  Over a ceiling: -EFBIG (LIMIT). */
errint_t tree_builder_add(struct tree_builder *b, const struct tree_entry *en, struct err *e) _must_check_;
/* Takes a regular file of that size (UINT64_MAX: any) out of the root again, if there is one. */
void tree_builder_hide(struct tree_builder *b, const char *name, uint64_t size);
uint64_t tree_builder_refused(const struct tree_builder *b);	/* entries dropped for their names */
uint64_t tree_builder_bytes(const struct tree_builder *b);	/* memory; at most tree_bytes_max */
/* Serialises into *ret (its max is the ceiling).  Once; then only free. */
errint_t tree_builder_finish(struct tree_builder *b, struct buf *ret, struct err *e) _must_check_;

/* ---- merging ------------------------------------------------------------------------------- */

/* Applies layers[0] (base) .. layers[n - 1] (top) by image-spec layer.md and reference layers.md 6;
 * needs no disk, keeps nothing.  *ret is the image of the merged tree; its max is the ceiling.
 * -EFBIG (LIMIT): over that or TREE_MERGE_NODES_MAX.  -ECANCELED: c (may be NULL) has fired. */
errint_t tree_merge(struct tree *const *layers, size_t n, struct buf *ret, struct cancel *c,
		    struct err *e) _must_check_;
