/*
 * tree_image.h - the serialised form of a tree (private to cache/: tree*.c and merge*.c)
 *
 *	struct tree_head			one
 *	struct tree_node   [head.nodes]		64 bytes each, breadth first
 *	struct tree_extent [head.extents]	of sparse files, in node order
 *	struct tree_xset   [head.xsets]		distinct sets of extended attributes
 *	struct tree_xattr  [head.xattrs]	their members, set after set
 *	bytes              [head.strings]	names, targets, attribute names and values
 *
 * The sections follow each other without gaps and the image ends with the last one, so the counts
 * in the head say where everything is.  Numbers have the byte order of the machine that wrote them;
 * TREE_MAGIC reads differently on another, whose cache simply misses.
 *
 * Breadth first means: node 0 is the root, and the children of the directories, taken in the order
 * of the directories' own numbers, fill the numbers 1, 2, 3, ... without gap or overlap.  A child's
 * number is therefore always greater than its parent's: there are no cycles, every node is
 * reachable, and depth grows with the number.
 *
 * A string is a place in the pool and a length; the byte behind it is NUL.  Equal strings are
 * stored once.
 */
#pragma once

#include "cache/tree.h"

#define TREE_MAGIC UINT64_C(0x3165657274736672)	/* "rfstree1" on little endian */
#define TREE_XATTR_NAME_MAX 255			/* Linux: XATTR_NAME_MAX */
#define TREE_XATTR_VALUE_MAX (64u << 10)	/* Linux: XATTR_SIZE_MAX */
#define TREE_XSET_MAX 4096			/* attributes of one file */
#define TREE_SIZE_MAX INT64_MAX			/* of one file; also bounds offsets in the archive */

struct tree_head {
	uint64_t magic;
	uint32_t nodes, extents, xsets, xattrs, strings;
	uint32_t zero;			/* reserved */
};

/*
 * What u and v mean depends on the type:
 *	REG		u: size			v: data offset; sparse: first extent, count << 32
 *	DIR		u: first child, count << 32 (both 0: empty)
 *	SYMLINK, LINK	u: target's place in the pool, length << 32
 *	CHR, BLK	u: major, minor << 32
 * A node whose ino is another node has name, parent and type only; the rest is zero.
 */
struct tree_node {
	uint64_t u, v;
	int64_t mtime_s;
	uint32_t mtime_ns;
	uint32_t uid, gid;
	uint32_t ino;
	uint32_t parent;
	uint32_t nlink;
	uint32_t name;		/* place in the pool */
	uint32_t xset;		/* 1 + number of the set; 0: none */
	uint16_t mode;
	uint16_t layer;
	uint8_t name_len;	/* 0 for the root only */
	uint8_t type;		/* enum tree_type */
	uint8_t flags;		/* TREE_F_IMPLICIT, TREE_F_SPARSE */
	uint8_t zero;
};

_Static_assert(sizeof(struct tree_node) == 64, "nodes are read from disk as they are");
_Static_assert(sizeof(struct tree_head) == 32, "the head is read from disk as it is");
_Static_assert(sizeof(struct tree_extent) == 24, "extents are read from disk as they are");

struct tree_xset {
	uint32_t first, count;	/* in the xattr section */
};

struct tree_xattr {
	uint32_t name, name_len;
	uint32_t value, value_len;	/* places in the pool */
};

struct tree {
	const struct tree_head *head;
	const struct tree_node *nodes;
	const struct tree_extent *extents;
	const struct tree_xset *xsets;
	const struct tree_xattr *xattrs;
	const char *strings;
	void *image;
	size_t len;
	bool mapped;		/* anonymous pages: munmap instead of free */
	uint64_t data_bytes;
	bool labels;		/* tree_has_labels */
	unsigned refs;		/* atomic */
	struct tree **weak;	/* who wants to know when it goes (tree_weak_set), or NULL */
};

/* A weak reference: *slot is t until the last reference to t is gone, then NULL.  A tree has one slot at
 * most.  Get returns a new reference, or NULL; forget is for whose slot goes first. */
void tree_weak_set(struct tree **slot, struct tree *t);
void tree_weak_forget(struct tree **slot);
struct tree *tree_weak_get(struct tree **slot);

static inline uint32_t lo32(uint64_t v)
{
	return (uint32_t)v;
}

static inline uint32_t hi32(uint64_t v)
{
	return (uint32_t)(v >> 32);
}

static inline uint64_t pair32(uint32_t lo, uint32_t hi)
{
	return (uint64_t)hi << 32 | lo;
}

static inline const char *node_name(const struct tree *t, const struct tree_node *n)
{
	return t->strings + n->name;
}

/* Bytewise order of names, the shorter first when one begins with the other. */
static inline int name_cmp(const char *a, size_t alen, const char *b, size_t blen)
{
	int c = __builtin_memcmp(a, b, MIN_OF(alen, blen));

	return c != 0 ? c : (alen > blen) - (alen < blen);
}
