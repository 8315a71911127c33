/*
 * erofsread.h - reads an EROFS image as Linux does, and compares it with the tree it was made from
 *
 * Written from the format (Linux: fs/erofs/erofs_fs.h, data.c, dir.c, inode.c, xattr.c), not from our
 * writer.  Used by the unit tests and by the fuzzer.
 */
#pragma once

#include "cache/erofs.h"

/* NULL when image (as erofs_write leaves it) shows exactly t; else what is wrong, and where. */
const char *er_compare(const struct tree *t, const struct buf *image);

/* The inode of a path, or NULL. */
const uint8_t *er_find(const struct buf *image, const char *path);

static inline uint32_t er_32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint32_t er_16(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static inline uint64_t er_64(const uint8_t *p)
{
	return er_32(p) | (uint64_t)er_32(p + 4) << 32;
}
