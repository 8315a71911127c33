/*
 * layer_file.h - what is known of an indexed layer, as one cache object (private to cache/)
 *
 *	tree image	tree_len bytes, at offset 0: it is read whole
 *	states		states_len bytes, the checkpoints' states one after the other
 *	units		LAYER_UNIT_BYTES each
 *	span CRCs	4 bytes each
 *	head		LAYER_HEAD_BYTES, at the very end
 *
 * All numbers are little-endian.  A *unit* is the part of the stream from one checkpoint to the
 * next: it has its place on both sides, a state (its own, or none: then decoding starts at an
 * earlier one), and a mark of the SHA-256 of the blob at its start (util/digest.h).  The marks at both
 * ends, taken while the whole blob was verified, are what makes a part that is fetched again
 * trustworthy; they are over the compressed side because that is the smaller one and is hashed anyway,
 * and sound because decoding is a function of these bytes and of the state. The state is ours and lies in a checksummed object; the CRC-32 of each *span*
 * (CA_SPAN_BYTES of the inflated side, the piece that is kept and evicted) guards against all other
 * mistakes.
 *
 * Units and spans coincide for plain layers, and for gzip with ISA-L.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cache.h"
#include "cache/inflate.h"
#include "util/buf.h"
#include "util/digest.h"

#define LAYER_FORMAT 2			/* of all this; part of the object's key */
#define LAYER_UNIT_BYTES 128u
#define LAYER_HEAD_BYTES 256u
#define LAYER_UNITS_MAX (1u << 20)	/* 4 TiB */
#define LAYER_TREE_MAX TREE_BYTES_MAX
#define LAYER_STATES_MAX (4u << 20)	/* memory of a running fill; then every other one goes */
#define LAYER_IMAGE_MAX ((size_t)LAYER_TREE_MAX + LAYER_STATES_MAX + (128u << 20))

struct layer_unit {
	uint64_t in, out;
	uint64_t state_off;
	uint32_t state_len;	/* 0 with has_state: the start of a stream, member or frame */
	bool has_state;
	struct digest_mark mark;
};

struct layer_file {
	enum inflate_format format;
	uint64_t size;		/* of the uncompressed tar */
	uint64_t packed;	/* of the blob */
	uint64_t tree_len, states_off, states_len;
	struct digest diff_id;	/* alg 0: was not known */
	struct digest_mark end;	/* of the whole blob */
	uint32_t n_units, n_spans;
	struct layer_unit *units;
	uint32_t *crcs;
};

uint32_t layer_spans(uint64_t size);	/* how many spans that many bytes have */

/* Appends states, units, CRCs and head to *image, which holds the tree; f->units, f->crcs and the
 * sizes are given, state_off of the units and the rest of f is set here. */
errint_t layer_file_finish(struct layer_file *f, const struct buf *states, struct buf *image)
	_must_check_;

typedef errint_t (*layer_read_fn)(void *ctx, uint64_t off, void *dst, size_t len, struct err *e);
/* Reads and checks everything but the tree and the states' contents.  -EBADMSG: not sound.  The
 * caller frees with layer_file_done, also after an error. */
errint_t layer_file_load(struct layer_file *f, uint64_t len, layer_read_fn read, void *ctx,
			 struct err *e) _must_check_;
void layer_file_done(struct layer_file *f);
