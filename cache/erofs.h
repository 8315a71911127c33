/*
 * erofs.h - a merged tree as an EROFS file system (private to cache/)
 *
 * What is written is the front of a file system image, its metadata; behind it, in whole blocks,
 * come the contents of the files, which nobody copies: whoever reads the image there is given them
 * from where they are (`runs` say which file a block belongs to).  So any file can be shown,
 * wherever its bytes are in whichever sort of layer, sparse or not, and the image has no features
 * that old kernels do not know.
 *
 *	block 0		1024 bytes of nothing, superblock (128 bytes), inodes begin
 *	...		inodes: 64 bytes (the extended form), attributes, then the rest of a directory or a link
 *	...		whole blocks of directories, and links too long to stay with their inodes
 *	meta_blocks	files, by layer and place in its archive, so that reading ahead reads what
 *			lies side by side; the last block of each is filled up with zeros
 *
 * Inodes are in the order of the tree's nodes, breadth first: those of one directory are side by
 * side.  The same tree gives the same bytes.
 *
 * Source of the format: Linux, fs/erofs/erofs_fs.h and Documentation/filesystems/erofs.rst; rules
 * that only the code knows are named where they matter.  Checked with fsck.erofs of erofs-utils.
 *
 * What is left out: attributes that no Linux file system can hold (outside user., trusted.,
 * security. and the two ACLs, or without a name behind that).  Symbolic links have the image's own
 * text: this is for programs that make it their root.
 *
 * An image is refused (-EFBIG, LIMIT) when its metadata are over EROFS_META_MAX, its files over
 * EROFS_BLOCKS_MAX, or one file's attributes over what an inode can count.
 */
#pragma once

#include "cache/tree.h"
#include "util/digest.h"

#define EROFS_BLOCK 4096u
#define EROFS_META_MAX (512u << 20)
#define EROFS_BLOCKS_MAX UINT32_C(0xfffffffe)	/* 16 TiB; block numbers have 32 bits, all ones is "none" */
#define EROFS_KEPT_MAX (EROFS_META_MAX + TREE_NODES_MAX * sizeof(struct erofs_run) + EROFS_BLOCK)
#define EROFS_RULES 1				/* one more whenever the same tree gives other bytes */

/* The contents of a node begin at this block, and reach to the next run's. */
struct erofs_run {
	uint32_t block, node;
};

/* What is kept: metadata, runs, then this.  Numbers of this and of runs are this machine's. */
struct erofs_tail {
	uint64_t magic;
	uint32_t meta_blocks, n_runs;
	uint32_t blocks;	/* of the whole image, contents included */
	uint32_t zero;
};
#define EROFS_TAIL_MAGIC UINT64_C(0x31736f7265736672)	/* "rfseros1" on little endian */

/* Writes metadata, runs and tail of a merged tree into *ret; id becomes the UUID.
 * Allocates once, when all sizes are known.  c may be NULL. */
errint_t erofs_write(const struct tree *t, const struct digest *id, struct buf *ret, struct cancel *c,
		     struct err *e) _must_check_;

/* erofs_xattr.c: the attributes of all nodes as they stand behind inodes, each distinct set once. */
struct erofs_xattrs {
	struct buf bytes;
	struct erofs_xset {
		uint32_t at, len;	/* in bytes; len 0: nothing that can be shown */
	} *sets;
};
errint_t erofs_xattrs_make(const struct tree *t, struct erofs_xattrs *ret, struct err *e) _must_check_;
void erofs_xattrs_done(struct erofs_xattrs *x);
