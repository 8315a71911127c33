/*
 * toc_file.h - what is known of a layer with a table of contents, as one cache object (private to cache/)
 *
 *	tree image	tree_len bytes, at offset 0: it is read whole
 *	chunks		TOC_CHUNK_BYTES each, in the TOC's order
 *	spans		SOCI only, one a chunk: TOC_SPAN_HEAD bytes, and with gzip TOC_WINDOW_BYTES
 *	granules	TOC_GRANULE_BYTES each
 *	head		TOC_HEAD_BYTES, at the very end
 *
 * All numbers are little-endian.  The data of the layer's files, chunk after chunk in the TOC's
 * order, is one stream of `size` bytes: that is what data offsets of the tree mean, from CA_TOC_DATA
 * on.  A *granule* is a run of chunks, the piece that is fetched, kept and evicted: some
 * TOC_GRANULE_AIM bytes, or one longer chunk.  Only the granules stay in memory; the chunks of one
 * are read when it is filled.
 *
 * For SOCI a chunk is a span of its zTOC, and a granule of its own: what the hash is of are its
 * compressed bytes, `inner` says how many bits of the first of them belong to it, and struct toc_span
 * what the decoder has to know and what is to be found in it.  The stream is the tar itself.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cache.h"
#include "cache/layer_file.h"
#include "util/buf.h"

#define TOC_CHUNK_BYTES 64u
#define TOC_GRANULE_BYTES 16u
#define TOC_HEAD_BYTES 64u
#define TOC_SPAN_HEAD 16u
#define TOC_WINDOW_BYTES (32u << 10)
#define TOC_CHUNK_MAX (64u << 20)	/* inflated; our own memory */
#define TOC_INNER_MAX (64u << 20)	/* what has to be inflated and thrown away before a chunk */
#define TOC_CHUNKS_MAX (2u << 20)
#define TOC_SIZE_MAX (UINT64_C(1) << 42) /* of all chunks, as for streamed layers */
#define TOC_GRANULE_AIM (1u << 20)
#define TOC_GRANULE_MEMBER (8u << 20)	/* chunks of one gzip member stay together up to that */
#define TOC_GRANULE_CHUNKS 4096u
#define TOC_GAP_MAX (64u << 10)		/* compressed bytes between two chunks of one granule */

struct toc_chunk {
	uint64_t in, in_end;	/* where its compressed bytes begin, and cannot reach beyond */
	uint64_t out;
	uint32_t inner;		/* inflated bytes before it in the member that begins at `in` */
	uint32_t len;
	uint8_t sha256[32];
};

struct toc_span {
	const uint8_t *window;	/* the TOC_WINDOW_BYTES of the tar before it; NULL: not needed */
	uint64_t header;	/* where the first whole header in it begins, in the tar */
	uint32_t n_headers, sum; /* how many there are, and what they say (ztoc_sum) */
};

struct toc_granule {
	uint64_t out;
	uint32_t first;		/* chunk */
};

enum toc_format { TOC_ESTARGZ = 1, TOC_ZSTD, TOC_SOCI_GZIP, TOC_SOCI_PLAIN, TOC_FORMATS };

struct toc_file {
	enum toc_format format;
	uint64_t size;		/* of all chunks */
	uint64_t packed;	/* of the blob */
	uint64_t tree_len;
	uint64_t first;		/* so many bytes of it are said to be read first: up to the landmark */
	uint32_t n_chunks, n_granules;
	struct toc_granule *granules;	/* and one more, which stands for the end */
};

static inline bool toc_is_soci(enum toc_format f)
{
	return f == TOC_SOCI_GZIP || f == TOC_SOCI_PLAIN;
}

/* Appends chunks, spans, granules and head to *image, which holds the tree.  f: format, size, packed,
 * n_chunks.  spans: SOCI only, n_chunks of them. */
errint_t toc_file_finish(struct toc_file *f, const struct toc_chunk *chunks, const struct toc_span *spans,
			 struct buf *image) _must_check_;

/* Reads and checks all but tree and chunks.  -EBADMSG: not sound.  toc_file_done also after an error. */
errint_t toc_file_load(struct toc_file *f, uint64_t len, layer_read_fn read, void *ctx, struct err *e)
	_must_check_;
void toc_file_done(struct toc_file *f);

/* The chunks of granules [from, to), a malloc'ed array; checked: they follow each other on both
 * sides and are within their ceilings. */
errint_t toc_file_chunks(const struct toc_file *f, uint32_t from, uint32_t to, layer_read_fn read,
			 void *ctx, struct toc_chunk **ret, struct err *e) _must_check_;
/* SOCI: what belongs to granule n; ret->window is `window` then, or NULL. */
errint_t toc_file_span(const struct toc_file *f, uint32_t n, layer_read_fn read, void *ctx,
		       uint8_t window[static TOC_WINDOW_BYTES], struct toc_span *ret, struct err *e) _must_check_;
/* The granule that holds an offset below f->size. */
uint32_t toc_file_granule(const struct toc_file *f, uint64_t out);
