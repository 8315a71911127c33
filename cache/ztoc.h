/*
 * ztoc.h - the zTOC of SOCI indexes, version 0.9 (private to cache/; layers.md 5.3)
 *
 * A zTOC is about one gzip or plain layer that it does not change: the files of its tar, the places
 * from which decoding can start (*checkpoints*: compressed and uncompressed offset, the bits of a
 * started byte, the 32 KiB before), and the SHA-256 of the compressed bytes from each checkpoint to
 * the next, a *span*.  It is a FlatBuffer; numbers in it are little-endian.
 *
 * Here is what both sides know.  ztoc.c reads; `registryfs index` encodes, in ztoc_encode.c.
 *
 * What ztoc_parse accepts makes sense in itself: there are as many spans, checkpoints and digests as
 * it says; spans follow each other on both sides and end with the blob; each file lies behind a
 * header within the archive, in its order.  Whether it is about the blob is another matter: whoever
 * reads a span compares its bytes with its digest.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/tree.h"
#include "util/err.h"

#define ZTOC_VERSION "0.9"
#define ZTOC_WINDOW (32u << 10)
#define ZTOC_MAX (256u << 20)		/* bytes of a zTOC; it is read whole */
#define ZTOC_SIZE_MAX (UINT64_C(1) << 42) /* of the tar, as for streamed layers */
#define ZTOC_SPANS_MAX (1u << 20)
#define ZTOC_PAX_MAX 4096u		/* records of one file */
#define ZTOC_SPAN_BYTES (4u << 20)	/* what builders aim at: a checkpoint at the first block behind it */

enum ztoc_algorithm { ZTOC_GZIP = 1, ZTOC_PLAIN = 2 };

/* Slots of the tables' fields. */
enum { ZTOC_F_VERSION, ZTOC_F_TOOL, ZTOC_F_PACKED, ZTOC_F_SIZE, ZTOC_F_TOC, ZTOC_F_INFO };
enum { ZTOC_TOC_FILES };
enum { ZTOC_INFO_ALGORITHM, ZTOC_INFO_MAX_SPAN, ZTOC_INFO_DIGESTS, ZTOC_INFO_CHECKPOINTS };
enum {
	ZTOC_FILE_NAME, ZTOC_FILE_TYPE, ZTOC_FILE_OFF, ZTOC_FILE_SIZE, ZTOC_FILE_LINK, ZTOC_FILE_MODE,
	ZTOC_FILE_UID, ZTOC_FILE_GID, ZTOC_FILE_UNAME, ZTOC_FILE_GNAME, ZTOC_FILE_MTIME,
	ZTOC_FILE_MAJOR, ZTOC_FILE_MINOR, ZTOC_FILE_PAX,
};
enum { ZTOC_PAX_KEY, ZTOC_PAX_VALUE };
enum { ZTOC_TAR_VERSION, ZTOC_TAR_SPAN_SIZE, ZTOC_TAR_SIZE };	/* the checkpoints of a plain layer */

/* The checkpoints of a gzip layer are packed: a head, then one after the other.  Version 1 leaves out
 * the first (in 10, out 0, bits 0), which shows by the length. */
#define ZTOC_POINTS_HEAD 12u		/* u32 how many, u64 span size */
#define ZTOC_POINT_BYTES (17u + ZTOC_WINDOW) /* u64 in, u64 out, u8 bits, window */
#define ZTOC_FIRST_IN 10u

struct ztoc_str {
	const char *s;		/* borrowed from the zTOC; not NUL-terminated */
	size_t len;
};

struct ztoc_pax {
	struct ztoc_str key, value;
};

struct ztoc_file {
	struct ztoc_str name, linkname, uname, gname;
	enum tree_type type;	/* LINK: a hard link */
	uint64_t off, size;	/* of its bytes in the tar; size as the header has it */
	uint32_t mode, uid, gid, rdev_major, rdev_minor;
	int64_t mtime_s;
	uint32_t mtime_ns;
	struct ztoc_pax *pax;	/* the records of its PAX header; the SOCI tools sort them by key */
	size_t n_pax;
};

struct ztoc_span {
	uint64_t in, in_end;	/* its bytes in the blob; the first has the bits of a started byte, if there are some */
	uint64_t out, len;	/* in the tar; len 0: nothing that counts */
	uint8_t bits;		/* how many high bits of the first byte belong to it; 0: all */
	const uint8_t *window;	/* the ZTOC_WINDOW bytes before it, borrowed; NULL: none are needed */
	uint8_t sha256[32];	/* of [in, in_end) */
};

struct ztoc {
	const uint8_t *data;	/* borrowed */
	size_t len;
	enum ztoc_algorithm algorithm;
	struct ztoc_str tool;
	uint64_t packed;	/* of the blob */
	uint64_t size;		/* of the tar, up to its end marker; the stream may be longer */
	uint64_t span_size;	/* what the builder aimed at */
	uint32_t n_files, n_spans;
	struct ztoc_span *spans;
	uint32_t files;		/* where their vector is */
};

/* -EBADMSG (INPUT, LIMIT): no zTOC, or not a sound one.  data must stay; ztoc_done also after an error. */
errint_t ztoc_parse(const void *data, size_t len, struct ztoc *ret, struct err *e) _must_check_;
void ztoc_done(struct ztoc *z);

/* "reg", "dir", ...: what a zTOC calls that type; NULL: it has no word for it. */
const char *ztoc_type_name(enum tree_type type);

/* All files, in the order of the archive. */
struct ztoc_walk {
	const struct ztoc *z;
	uint32_t next;
	uint64_t header;	/* of the file that came last: where its tar header begins */
	uint64_t at;		/* and where the next one can */
	uint64_t work;		/* bytes looked at: a buffer that refers to one thing again and again is refused */
	struct ztoc_pax *pax;
	size_t cap_pax;
};
void ztoc_walk_init(struct ztoc_walk *w, const struct ztoc *z);
/* 1: *ret is the next file, good until the next call; 0: there are no more; -EBADMSG. */
int ztoc_walk_next(struct ztoc_walk *w, struct ztoc_file *ret, struct err *e) _must_check_;
void ztoc_walk_done(struct ztoc_walk *w);
