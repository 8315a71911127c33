/*
 * cache.h - verified bytes by digest, and what is derived from them
 *
 * The cache keeps manifests, blobs, layers (table of contents, checkpoints, inflated spans), merged
 * trees and small name -> digest notes in one directory, within limits, across restarts.  It knows
 * no registry: whoever wants a digest brings a ca_source that can produce its bytes.
 *
 * What it returns has been verified against its digest (or, for a span fetched again, against the
 * state that the layer's SHA-256 had there while the whole was being verified).  Nothing unverified is ever
 * published; nothing corrupt is ever returned: a damaged entry is dropped, counted, fetched again.
 *
 * Two kinds of calls.  *_get and *_read look at memory and local disk only, are quick, may run on
 * FUSE threads, and answer -ENOENT/-ENODATA when something has to be fetched.  *_fill block on the
 * source and run on I/O pool threads; concurrent fills of one thing are wasteful but harmless (the
 * caller shares them by flight.h).  After a fill returned 0, the matching get succeeds, also when
 * the disk is full or broken: then the result is kept in memory, within CA_MEMORY_MAX.  A fill
 * whose result is larger than that fails then (-ENOSPC); merged trees alone are returned anyway.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/tree.h"
#include "util/buf.h"
#include "util/cancel.h"
#include "util/digest.h"
#include "util/err.h"

#define CA_SPAN_BYTES (4u << 20)	/* of the uncompressed stream; the last span is shorter */
#define CA_MEMORY_MAX (32u << 20)	/* what is kept in memory when the disk does not take it */

struct ca_store;

struct ca_opts {
	const char *dir;	/* created 0700; absolute */
	uint64_t max_bytes;	/* 0: 10 GiB */
	uint64_t min_free;	/* bytes to leave free on the file system; 0: 1 GiB or 5 %, the smaller */
};

/* A directory that cannot be used is an error here; later troubles never are. */
errint_t ca_store_new(const struct ca_opts *o, struct ca_store **ret, struct err *e) _must_check_;
struct ca_store *ca_store_free(struct ca_store *s);
const char *ca_store_dir(const struct ca_store *s);
void ca_store_usage(struct ca_store *s, uint64_t *ret_used, uint64_t *ret_max);
/* The most bytes that it could hold if everything else in it went. */
uint64_t ca_store_room(struct ca_store *s);

/* Where the bytes of a blob come from.  Blocking, any thread; bytes [off, off + len) in order,
 * len 0 = to the end.  The sink's negative return aborts and is passed on. */
typedef errint_t (*ca_sink_fn)(void *ctx, const void *data, size_t len, struct err *e);
struct ca_source {
	errint_t (*read)(void *ctx, const struct digest *d, uint64_t size, uint64_t off, uint64_t len,
			 ca_sink_fn sink, void *sink_ctx, struct cancel *c, struct err *e);
	void *ctx;
	/* A part of d that read gave was wrong; true: asking again may give another.  NULL: never. */
	bool (*bad)(void *ctx, const struct digest *d);
};

/* ---- manifests: exact bytes and media type, by digest ---------------------------------------- */
errint_t ca_manifest_get(struct ca_store *s, const struct digest *d, struct buf *ret_bytes,
			 char **ret_media_type, struct err *e) _must_check_;
/* The bytes are checked against d here once more.  Failing to store is not an error. */
void ca_manifest_put(struct ca_store *s, const struct digest *d, const void *bytes, size_t len,
		     const char *media_type);

/* ---- notes: small values by name ("tag HOST/app:1.0" -> digest), with the time of writing ---- */
errint_t ca_note_get(struct ca_store *s, const char *name, struct buf *ret, int64_t *ret_written_s,
		     struct err *e) _must_check_;
void ca_note_put(struct ca_store *s, const char *name, const void *value, size_t len);

/* ---- blobs: exact bytes --------------------------------------------------------------------- */
struct ca_blob;
/* -ENOENT: not here. */
errint_t ca_blob_get(struct ca_store *s, const struct digest *d, uint64_t size, struct ca_blob **ret,
		     struct err *e) _must_check_;
/* Streams, verifies size and digest, keeps.  A blob that the disk does not take and that is larger
 * than CA_MEMORY_MAX: -ENOSPC (LOCAL) saying so. */
errint_t ca_blob_fill(struct ca_store *s, const struct digest *d, uint64_t size,
		      const struct ca_source *src, struct cancel *c, struct err *e) _must_check_;
struct ca_blob *ca_blob_ref(struct ca_blob *b);
struct ca_blob *ca_blob_unref(struct ca_blob *b);
DEFINE_CLEANUP(struct ca_blob *, ca_blob_unref)
uint64_t ca_blob_size(const struct ca_blob *b);
/* Up to len bytes; *ret_n < len only at the end.  -EBADMSG: found corrupt and dropped; get it again. */
errint_t ca_blob_read(struct ca_blob *b, uint64_t off, void *dst, size_t len, size_t *ret_n,
		      struct err *e) _must_check_;

/* ---- layers: table of contents and random access to the uncompressed tar --------------------- */
struct ca_layer;
/* -ENOENT: not indexed yet (class INTEGRITY: damaged and dropped).  Open layers are shared (one object per digest while referenced). */
errint_t ca_layer_get(struct ca_store *s, const struct digest *d, struct ca_layer **ret,
		      struct err *e) _must_check_;
/* Streams the blob once: verifies size and digest, inflates, verifies diff_id (when not NULL),
 * indexes, stores spans as far as the budget goes.  Uses the blob in the cache when it is there.
 * Waits while many other fills need much memory, too.  -ENOSPC (LOCAL): the disk does not take the
 * index, and memory does not either (CA_MEMORY_MAX; some 300 000 files). */
errint_t ca_layer_fill(struct ca_store *s, const struct digest *d, uint64_t size,
		       const struct digest *diff_id, const struct ca_source *src, struct cancel *c,
		       struct err *e) _must_check_;
struct ca_layer *ca_layer_ref(struct ca_layer *l);
struct ca_layer *ca_layer_unref(struct ca_layer *l);
DEFINE_CLEANUP(struct ca_layer *, ca_layer_unref)
/* A reference.  Read when nobody else has it, shared while somebody does.
 * -EBADMSG: it was damaged and has been dropped; release l, get and fill the layer again. */
errint_t ca_layer_tree(struct ca_layer *l, struct tree **ret, struct err *e) _must_check_;
uint64_t ca_layer_tree_bytes(const struct ca_layer *l);	/* what that takes */
bool ca_layer_is_condemned(const struct ca_layer *l);	/* something has said -EBADMSG about it */
uint64_t ca_layer_size(const struct ca_layer *l);	/* of the uncompressed tar */
/* Reads from the uncompressed tar (or, from CA_TOC_DATA on, from the chunks), at most up to the end
 * of the span that holds off; *ret_n says how much.  -ENODATA: span *ret_span has to be filled first
 * (class INTEGRITY: it was damaged). */
errint_t ca_layer_read(struct ca_layer *l, uint64_t off, void *dst, size_t len, size_t *ret_n,
		       uint32_t *ret_span, struct err *e) _must_check_;
/* Fetches one span again by Range from the nearest checkpoint and verifies it.  -EBADMSG: the index
 * was wrong and has been dropped; release l, get and fill the layer again.  -EILSEQ (INTEGRITY): the
 * blob is not what its TOC says, fetched twice: ca_layer_refuted. */
errint_t ca_layer_fill_span(struct ca_layer *l, uint32_t span, const struct ca_source *src,
			    struct cancel *c, struct err *e) _must_check_;

/* ---- pieces: what of a layer's data is fetched, kept and evicted as a whole (spans, granules) --
 *
 * For who wants many of them here before anybody reads.  Numbered from 0 in the order of offsets. */
uint32_t ca_layer_pieces(const struct ca_layer *l);
struct ca_piece {
	uint64_t off, len;	/* as in ca_layer_read */
	uint64_t packed;	/* compressed bytes, about */
};
void ca_layer_piece(const struct ca_layer *l, uint32_t piece, struct ca_piece *ret);
/* Which one holds the byte at off; ca_layer_pieces(l): none. */
uint32_t ca_layer_piece_at(const struct ca_layer *l, uint64_t off);
/* How many pieces, from 0 on, the layer's builder says are used first (the landmark of eStargz). */
uint32_t ca_layer_first_pieces(const struct ca_layer *l);
bool ca_layer_piece_here(struct ca_layer *l, uint32_t piece);
/* A run on its way: the caller's, zeroed before the first.  It can be used again, and `waiting` goes on. */
struct ca_run {
	atomic_uint waiting;	/* readers who need a piece of it soon, and wait instead of asking again */
	struct ca_run *next, **prev;	/* private from here on */
	const struct ca_layer *l;
	uint32_t first, end;
};
/* Like ca_layer_fill_span for `first`, whether it is here or not.  The n - 1 behind it come with the
 * same request, verified alike; they are kept if the disk takes them and all goes well, so look. */
errint_t ca_layer_fill_run(struct ca_layer *l, uint32_t first, uint32_t n, struct ca_run *run,
			   const struct ca_source *src, struct cancel *c, struct err *e) _must_check_;

/* ---- layers with an index: eStargz, zstd:chunked, SOCI (layers.md 5.1 to 5.3) -------------------
 *
 * Such a blob says in a table of contents (TOC) what its files are and where each piece of them, a
 * chunk, lies in it, with the chunk's SHA-256.  What authenticates the TOC comes from the manifest,
 * hence from the caller.  The result is a ca_layer like any other, with these differences: its data
 * offsets begin at CA_TOC_DATA, so that they cannot be mistaken for places in the tar of the streamed
 * layer; its spans are granules, some consecutive chunks, fetched by one Range request; it is known
 * by digest, size and TOC together, because another manifest may name others for the same blob.
 *
 * A SOCI index lies beside the blob, which is plain or gzip: a zTOC says what its files are, where decoding
 * can start, and the SHA-256 of the compressed bytes in between.  There a granule is such a span of
 * some 4 MiB of the tar.  Nothing in the format says that a file's bytes are where the zTOC puts them:
 * the headers of the tar that come with a span are compared with what it says.
 */
#define CA_TOC_DATA (UINT64_C(1) << 62)

struct ca_toc {
	uint64_t blob;		/* bytes of the whole blob, as the manifest says */
	struct digest json;	/* of the TOC's JSON; unset when packed_sum is given */
	struct digest packed_sum; /* of its compressed bytes; unset: only json counts */
	uint64_t off, packed, size; /* place in the blob and JSON's length; packed 0: the footer says */
	struct digest ztoc;	/* of a SOCI index's zTOC, a blob of `packed` bytes; then only these two count */
};

/* -ENOENT: not read yet. */
errint_t ca_toc_layer_get(struct ca_store *s, const struct digest *d, const struct ca_toc *toc,
			  struct ca_layer **ret, struct err *e) _must_check_;
/* Which index it is, never 0. */
uint32_t ca_toc_id(const struct digest *d, const struct ca_toc *toc);
bool ca_toc_layer_exists(struct ca_store *s, const struct digest *d, const struct ca_toc *toc);
bool ca_layer_exists(struct ca_store *s, const struct digest *d);	/* the streamed one */
/* Fetches and checks the TOC only: one request, two when a footer points to a large one.  -EBADMSG
 * (INPUT, INTEGRITY, LIMIT): it cannot be used, *e says why; stream the layer instead. */
errint_t ca_toc_layer_fill(struct ca_store *s, const struct digest *d, const struct ca_toc *toc,
			   const struct ca_source *src, struct cancel *c, struct err *e) _must_check_;
bool ca_layer_is_lazy(const struct ca_layer *l);	/* has a TOC */
/* "streamed", "estargz", "zstd:chunked" or "soci". */
const char *ca_layer_how(const struct ca_layer *l);
/* Was a chunk found that does not match its digest in the TOC (ca_layer_fill_span said -EILSEQ)?
 * Then what is not in the cache has to come from the streamed layer, see ca_layer_twin. */
bool ca_layer_refuted(const struct ca_layer *l);

struct ca_twin {
	uint64_t off, len;	/* in the streamed layer's tar; at most up to the end of the file */
	bool zeros;		/* a hole of len bytes there; off means nothing */
};
/* What lies at a data offset of l, a layer with a TOC, as the streamed layer has it: the same path,
 * of the same size.  -EIO (INTEGRITY): there is no such file, or a tree was damaged. */
errint_t ca_layer_twin(struct ca_layer *l, uint64_t off, struct ca_layer *streamed,
		       struct ca_twin *ret, struct err *e) _must_check_;

/* ---- merged trees, by manifest digest -------------------------------------------------------- */
/* how: of each of n layers, 0 when it is streamed, else its ca_toc_id (NULL: all are streamed): names and
 * data offsets differ. */
errint_t ca_tree_get(struct ca_store *s, const struct digest *manifest, const uint32_t *how, size_t n,
		     struct tree **ret, struct err *e) _must_check_;
/* Merges and keeps; local work only, but can take long for huge images: run it on a pool.  -EFBIG (LIMIT):
 * the layers' trees, which are all needed at once, or the merged one are too large.  -EBADMSG: one of the
 * layers is condemned. */
errint_t ca_tree_build(struct ca_store *s, const struct digest *manifest, struct ca_layer *const *layers,
		       size_t n, struct tree **ret, struct cancel *c, struct err *e) _must_check_;

/* ---- EROFS images of merged trees --------------------------------------------------------------
 *
 * A file that the kernel can mount: metadata that are kept here, then the files of the tree, each
 * in whole blocks.  Their contents are the caller's to supply, from the very tree it was found with:
 * pieces name nodes of that. */
struct ca_erofs;
errint_t ca_erofs_get(struct ca_store *s, const struct tree *t, struct ca_erofs **ret, struct err *e) _must_check_;
/* Local work only, some 2 million files a second; for a pool.  -EFBIG (LIMIT): this image cannot be
 * shown this way.  -ENOSPC: the disk does not take it, and memory (CA_MEMORY_MAX) does not either. */
errint_t ca_erofs_build(struct ca_store *s, const struct tree *t, struct cancel *c, struct err *e) _must_check_;
struct ca_erofs *ca_erofs_ref(struct ca_erofs *x);
struct ca_erofs *ca_erofs_unref(struct ca_erofs *x);	/* returns NULL */
DEFINE_CLEANUP(struct ca_erofs *, ca_erofs_unref)
uint64_t ca_erofs_size(const struct ca_erofs *x);	/* of the whole file */

struct ca_erofs_piece {
	uint32_t node;		/* whose contents are here; TREE_NONE: metadata */
	uint64_t off;		/* in that file; may be behind its end: zeros */
	uint64_t len;		/* to the end of the piece */
};
/* off < ca_erofs_size(x). */
void ca_erofs_at(const struct ca_erofs *x, uint64_t off, struct ca_erofs_piece *ret);
/* Reads metadata.  -EBADMSG: found corrupt and dropped; build it again. */
errint_t ca_erofs_read(const struct ca_erofs *x, uint64_t off, void *dst, size_t len, struct err *e) _must_check_;
