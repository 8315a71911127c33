/*
 * ztoc_tar.h - an archive's entries as a zTOC wants them (private to cache/ztoc_*.c)
 *
 * Read by tar.h; but a zTOC has what Go's archive/tar makes of a header, so mode, names of owners,
 * device numbers and the raw PAX records are taken from the header itself.
 */
#pragma once

#include "cache/tar.h"
#include "cache/ztoc_encode.h"

struct ztoc_tar;

/* Files go into out, which stays the caller's. */
struct ztoc_tar *ztoc_tar_new(struct ztoc_encoder *out);
struct ztoc_tar *ztoc_tar_free(struct ztoc_tar *t);	/* returns NULL */
DEFINE_CLEANUP(struct ztoc_tar *, ztoc_tar_free)

/* Bytes of the uncompressed archive, in order.  -EOPNOTSUPP (UNSUPPORTED): it is none, or has what the
 * format has no words for. */
errint_t ztoc_tar_push(struct ztoc_tar *t, const void *data, size_t len, struct err *e) _must_check_;
errint_t ztoc_tar_end(struct ztoc_tar *t, struct err *e) _must_check_;
uint64_t ztoc_tar_size(const struct ztoc_tar *t);	/* up to the end of its end marker */
