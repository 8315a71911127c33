/*
 * tar_pax.h - PAX extended header records (private to cache/tar*.c)
 *
 * A struct pax holds what the records of one `x` header say, or what all `g` headers so far say.
 * Places (struct pax_span) are offsets into text, the records of the last header.
 */
#pragma once

#include "cache/tar.h"
#include "cache/tree_write.h"

#define PAX_XATTRS_MAX (2 * TREE_XSET_MAX)	/* records: bsdtar writes each attribute twice */

enum {
	PAX_SIZE = 1 << 0,
	PAX_UID = 1 << 1,
	PAX_GID = 1 << 2,
	PAX_MTIME = 1 << 3,
	PAX_PATH = 1 << 4,
	PAX_LINKPATH = 1 << 5,
	PAX_SPARSE_MAJOR = 1 << 6,
	PAX_SPARSE_MINOR = 1 << 7,
	PAX_SPARSE_SIZE = 1 << 8,
	PAX_SPARSE_BLOCKS = 1 << 9,
	PAX_SPARSE_NAME = 1 << 10,
	PAX_SPARSE_MAP = 1 << 11,
};

struct pax_span {
	size_t at, len;
};

struct pax_xattr {
	struct pax_span name, value;
	bool none;		/* empty value: takes back an earlier record of that name */
};

struct pax {
	struct buf text;
	bool global;		/* of `g` headers: extended attributes mean nothing */
	unsigned has;		/* PAX_*: set to something */
	unsigned reset;		/* PAX_*: last set to nothing: the ustar field counts again */
	uint64_t size;
	int64_t uid, gid, mtime_s;
	uint32_t mtime_ns;
	struct pax_span path, linkpath;
	uint64_t sparse_major, sparse_minor, sparse_size, sparse_blocks;
	struct pax_span sparse_name;
	struct tree_extent *map;	/* data_off unused; formats 0.0 and 0.1 */
	size_t n_map, cap_map;
	bool map_half;			/* 0.0: an offset waits for its numbytes */
	struct pax_xattr *xattrs;
	size_t n_xattrs, cap_xattrs;
};

void pax_init(struct pax *p);
void pax_clear(struct pax *p);		/* keeps the memory */
void pax_done(struct pax *p);
size_t pax_bytes(const struct pax *p);	/* memory */

/* Reads the records in text.  -EFBIG: more than PAX_XATTRS_MAX extended attributes. */
errint_t pax_parse(struct pax *p, struct err *e) _must_check_;

/* One record whose length is known already.  -EINVAL: its value makes no sense; -EFBIG as above. */
errint_t pax_add(struct pax *p, const char *key, size_t key_len, const char *value, size_t value_len,
		 struct err *e) _must_check_;
/* The extended attributes, p->n_xattrs of them, borrowed from p. */
void pax_xattrs(const struct pax *p, struct tree_xattr_in *out);

/* Unsigned decimal number that fills s; false: not one, or above INT64_MAX. */
bool pax_number(const char *s, size_t len, uint64_t *ret);
