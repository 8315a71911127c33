/*
 * inflate.h - decompression as a resumable stream (private to cache/)
 *
 * One interface over gzip (any number of members, trailing garbage tolerated after at least one
 * member), zstd (any number of frames, skippable ones too) and plain bytes.  The format is found
 * from the first bytes, never from the media type.  gzip uses ISA-L where it was found at build
 * time, else zlib; each library is included in one file only.
 *
 *	inflate_push(z, data, len) -> consumes all of it, calling sink with output pieces in order
 *	inflate_end(z)             -> -EBADMSG when the stream is cut off
 *
 * A checkpoint is a place from which decoding can start again: compressed offset `in` (the next
 * byte to push), uncompressed offset `out` (the next byte that comes), and an opaque state of at
 * most INFLATE_STATE_MAX bytes that belongs to this build of the library (inflate_build_id) and to
 * this machine; it is kept in the cache only and checksummed there.  It can be asked for between
 * two pushes and in the sink (then it stands behind the piece).  gzip: anywhere with ISA-L, between
 * two deflate blocks with zlib; plain: anywhere; zstd: only at frame starts (state empty).  At
 * offset 0, and at the start of a gzip member, the state is empty too.
 *
 * Not thread-safe; one stream, one thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/buf.h"
#include "util/cleanup.h"
#include "util/err.h"

#define INFLATE_STATE_MAX (128u << 10)
#define INFLATE_PIECE (256u << 10)	/* output pieces never cross a multiple of it */
#define INFLATE_RATIO_MAX 2000		/* output per input byte, after the first MiB */

enum inflate_format { INFLATE_UNSET = 0, INFLATE_PLAIN, INFLATE_GZIP, INFLATE_ZSTD };

/* Output pieces; a negative return aborts and is passed on. */
typedef errint_t (*inflate_sink_fn)(void *ctx, const void *data, size_t len, struct err *e);

struct inflate;

struct inflate *inflate_new(inflate_sink_fn sink, void *ctx);
struct inflate *inflate_free(struct inflate *z);
DEFINE_CLEANUP(struct inflate *, inflate_free)
/* Another stream begins, whatever became of the last one; its memory is used again. */
void inflate_restart(struct inflate *z);

/* len 0 after a resume hands out what the state still holds. */
errint_t inflate_push(struct inflate *z, const void *data, size_t len, struct err *e) _must_check_;
errint_t inflate_end(struct inflate *z, struct err *e) _must_check_;

enum inflate_format inflate_format(const struct inflate *z);
uint64_t inflate_in(const struct inflate *z);	/* bytes pushed and consumed so far */
uint64_t inflate_out(const struct inflate *z);
size_t inflate_memory(const struct inflate *z);	/* the part that the stream chooses */

/* gzip members and zstd frames: how many have begun, and whether the stream stands between two. */
unsigned inflate_starts(const struct inflate *z);
bool inflate_between(const struct inflate *z);
/* Between two: the next in_len bytes, whole members or frames, have been decoded elsewhere to out. */
errint_t inflate_take(struct inflate *z, uint64_t in_len, const void *out, size_t out_len, struct err *e)
	_must_check_;

/* A checkpoint at the present place, if there can be one: false = not here.  Appends the state
 * (compressed by zstd or raw, self-describing) to *state. */
bool inflate_checkpoint(struct inflate *z, uint64_t *ret_in, uint64_t *ret_out, struct buf *state);
/* Checkpoints can be had at any place of this stream. */
bool inflate_anywhere(const struct inflate *z);
/* Starts a new stream at a checkpoint: -EBADMSG for a state that is not ours. */
errint_t inflate_resume(enum inflate_format fmt, uint64_t in, uint64_t out, const void *state,
			size_t state_len, inflate_sink_fn sink, void *ctx, struct inflate **ret,
			struct err *e) _must_check_;
/* Starts within a gzip member, at the beginning of a deflate block: `byte`, the one before `in`, has
 * its first `bits` bits (the high ones; 0: none), the window_len bytes of output before it are known
 * (at most 32 KiB).  The CRC of this member, whose beginning was not seen, is not checked. */
errint_t inflate_enter(uint64_t in, uint64_t out, uint8_t byte, unsigned bits, const void *window,
		       size_t window_len, inflate_sink_fn sink, void *ctx, struct inflate **ret, struct err *e)
	_must_check_;
/* Names libraries and versions; part of the cache key of stored states. */
const char *inflate_build_id(void);
