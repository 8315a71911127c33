/*
 * ztoc_gzip.h - inflating a gzip blob once, with a checkpoint every so many bytes (private to
 * cache/ztoc_*.c)
 *
 * A checkpoint stands at the first boundary between deflate blocks that is more than `span` bytes of
 * output behind the one before; the first behind the gzip header.  It has the offsets, the bits of a
 * started byte and the last 32 KiB of output.  The compressed bytes from one to the next (with the
 * byte that both share) are a span, which is hashed on the way.
 */
#pragma once

#include "cache/inflate.h"
#include "util/digest.h"

struct ztoc_gzip;

struct ztoc_gzip *ztoc_gzip_new(uint64_t span, inflate_sink_fn sink, void *ctx);
struct ztoc_gzip *ztoc_gzip_free(struct ztoc_gzip *z);	/* returns NULL */
DEFINE_CLEANUP(struct ztoc_gzip *, ztoc_gzip_free)

/* -EOPNOTSUPP (UNSUPPORTED): no gzip, damaged, or more behind its end than another member. */
errint_t ztoc_gzip_push(struct ztoc_gzip *z, const void *data, size_t len, struct err *e) _must_check_;
errint_t ztoc_gzip_end(struct ztoc_gzip *z, struct err *e) _must_check_;

/* After the end; borrowed.  The checkpoints as they are in a zTOC. */
const struct buf *ztoc_gzip_points(const struct ztoc_gzip *z);
const struct digest *ztoc_gzip_digests(const struct ztoc_gzip *z, size_t *ret_n);
