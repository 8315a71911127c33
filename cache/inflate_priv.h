/*
 * inflate_priv.h - what the decoders of inflate.c have in common (inflate.c, gzip*.c, zstd.c only)
 *
 * A decoder is a row of functions over its own state.  step() moves both windows of the io forward:
 * it takes input until there is none left, the output is full, or it stands at a good place for a
 * checkpoint; called without input it hands out what it still holds.  It never keeps pointers into
 * the io.  What a decoder read past the end of its stream counts as consumed.
 *
 * gzip.c frames members (header, trailer, what follows) around a raw deflate decoder, `struct
 * rawinf`, of which there is one in a build: gzip_isal.c or gzip_zlib.c.
 */
#pragma once

#include "cache/inflate.h"

struct inflate_io {
	const uint8_t *in;
	size_t in_len;
	uint8_t *out;
	size_t out_len;		/* room left */
};

struct inflate_ops {
	enum inflate_format format;
	void *(*open)(void);	/* NULL: no memory */
	void (*close)(void *st);
	void (*reset)(void *st);	/* as fresh from open() */
	errint_t (*step)(void *st, struct inflate_io *io, struct err *e);
	/* No more input comes: -EBADMSG when the stream cannot end here. */
	errint_t (*end)(void *st, struct err *e);
	/* Appends what load() needs to go on from here; false: not here (or no memory). */
	bool (*save)(void *st, struct buf *ret);
	/* On a fresh state.  len 0: the start of a stream, a member or a frame. */
	errint_t (*load)(void *st, uint64_t in, const void *state, size_t len, struct err *e);
	size_t (*memory)(const void *st);	/* NULL: little */
	unsigned (*starts)(const void *st);	/* of members or frames, so far */
	bool (*between)(const void *st);	/* two of them, or at the end */
};

extern const struct inflate_ops inflate_gzip_ops;
extern const struct inflate_ops inflate_zstd_ops;

/* A fresh state of inflate_gzip_ops becomes one within a member. */
errint_t gzip_enter(void *st, uint8_t byte, unsigned bits, const void *window, size_t len, struct err *e);

/* ---- raw deflate */
struct rawinf;

struct rawinf *rawinf_new(void);
void rawinf_free(struct rawinf *d);
void rawinf_reset(struct rawinf *d);	/* a new member starts */
/* *ret_done: the last block has ended and all of its output is out. */
errint_t rawinf_step(struct rawinf *d, struct inflate_io *io, bool *ret_done, struct err *e);
/* After done: bytes that were taken from the input and lie behind the stream. */
size_t rawinf_rest(struct rawinf *d, uint8_t ret[static 8]);
uint32_t rawinf_crc(const struct rawinf *d);	/* CRC-32 of the member's output so far */
uint32_t rawinf_total(const struct rawinf *d);	/* bytes of it, modulo 2^32 */
bool rawinf_save(struct rawinf *d, struct buf *ret);
errint_t rawinf_load(struct rawinf *d, const void *state, size_t len, struct err *e);
/* At the start of a block, as inflate_enter says. */
errint_t rawinf_enter(struct rawinf *d, uint8_t byte, unsigned bits, const void *window, size_t len,
		      struct err *e);
const char *rawinf_name(void);		/* library and version */
extern const bool rawinf_anywhere;	/* rawinf_save works at any place */
extern const size_t rawinf_state_bytes;	/* of a state before it is packed */

/* ---- checkpoint states are packed (zstd.c) */
errint_t inflate_pack(const void *data, size_t len, struct buf *ret);
/* -EBADMSG unless the data unpack to exactly dst_len bytes. */
errint_t inflate_unpack(const void *data, size_t len, void *dst, size_t dst_len);

errint_t inflate_bad(struct err *e, const char *what);	/* -EBADMSG, class INPUT */
