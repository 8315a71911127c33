/*
 * ztoc_encode.h - writing a zTOC as a FlatBuffer (private to cache/ztoc_*.c)
 *
 * Files are added as they are met in the archive.  A FlatBuffer refers forward only, so it is built
 * from its end: what is referred to first.  Fields that have their default (0, "") are left out, as
 * the format wants it, and strings that many files share are written once.
 *
 * Failing is sticky: look at the result of ztoc_encode_finish.
 */
#pragma once

#include "cache/ztoc.h"
#include "util/buf.h"
#include "util/digest.h"

struct ztoc_encoder;

struct ztoc_encoder *ztoc_encoder_new(void);
struct ztoc_encoder *ztoc_encoder_free(struct ztoc_encoder *x);	/* returns NULL */
DEFINE_CLEANUP(struct ztoc_encoder *, ztoc_encoder_free)

/* As ztoc_file, but mode and device numbers as the header has them, and the type as one word. */
struct ztoc_entry {
	struct ztoc_str name, type, linkname, uname, gname;
	uint64_t off, size;
	int64_t mode, major, minor, mtime_s;
	uint32_t uid, gid, mtime_ns;
	const struct ztoc_pax *pax;	/* sorted by key */
	size_t n_pax;
};
void ztoc_encode_file(struct ztoc_encoder *x, const struct ztoc_entry *en);
uint32_t ztoc_encode_n_files(const struct ztoc_encoder *x);

struct ztoc_frame {
	const char *tool;
	enum ztoc_algorithm algorithm;
	uint64_t packed, size;		/* of the blob, of the archive */
	const struct digest *digests;	/* of the spans */
	size_t n_spans;
	const void *points;		/* gzip: packed */
	size_t points_len;
	uint64_t span_size;		/* plain */
};
/* Once.  -EFBIG: larger than ZTOC_MAX; -ENOMEM. */
errint_t ztoc_encode_finish(struct ztoc_encoder *x, const struct ztoc_frame *f, struct buf *ret) _must_check_;
