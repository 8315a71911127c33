/*
 * ztoc_build.h - making the zTOC of a layer in one pass over its blob
 *
 * What comes out is equal in content to what the SOCI library (v0.16) makes of the same layer: the same
 * checkpoints at the same places, digests, files.  The blob is streamed; in memory are the zTOC and
 * little else (33 KiB for each checkpoint, some 120 bytes for each file).
 *
 * Which layers cannot have one: those that are neither gzip nor plain tar, and archives with entries
 * that the format (or the SOCI library) has no words for, such as sparse files.
 *
 * ztoc_gzip.c inflates and takes the checkpoints, ztoc_tar.c reads the archive, ztoc_encode.c writes
 * the FlatBuffer, ztoc_build.c puts them together.
 */
#pragma once

#include "cache/cache.h"

#define ZTOC_SPAN_DEFAULT (4u << 20)	/* as the SOCI tools have it */
#define ZTOC_SPAN_MIN (64u << 10)
#define ZTOC_SPAN_MAX (1u << 30)

struct ca_ztoc {
	struct buf bytes;
	uint32_t n_spans, n_files;
	uint64_t tar_bytes;		/* of the uncompressed archive */
};
void ca_ztoc_done(struct ca_ztoc *z);

/* tool: who builds it.  Verifies size and digest of the blob.  -EOPNOTSUPP (UNSUPPORTED): this layer
 * cannot have a zTOC, *e says why; another error: the blob could not be had, or memory. */
errint_t ca_ztoc_build(const struct digest *d, uint64_t size, uint64_t span, const char *tool,
		       const struct ca_source *src, struct ca_ztoc *ret, struct cancel *c,
		       struct err *e) _must_check_;
