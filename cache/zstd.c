/*
 * zstd.c - zstd frames as a stream, and packing of checkpoint states (the only file with libzstd)
 *
 * Any number of frames, skippable ones among them; each is checked by its own checksum when it has
 * one.  A frame that wants a window over WINDOW_LOG_MAX is refused: the window is memory that the
 * other side chooses.  A checkpoint exists between two frames only and needs no state.  Bytes that
 * are no frame are an error wherever they stand (containerd's and umoci's decoder says so too).
 */
#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "cache/inflate_priv.h"

#define WINDOW_LOG_MAX 27	/* 128 MiB */
#define PACK_LEVEL 1

struct zst {
	ZSTD_DCtx *d;
	bool mid;	/* inside a frame */
	unsigned starts;
};

static void zst_close(void *st)
{
	struct zst *z = st;

	ZSTD_freeDCtx(z->d);
	free(z);
}

static void *zst_open(void)
{
	struct zst *z = calloc(1, sizeof(*z));

	if (!z)
		return NULL;
	z->d = ZSTD_createDCtx();
	if (!z->d || ZSTD_isError(ZSTD_DCtx_setParameter(z->d, ZSTD_d_windowLogMax,
							   WINDOW_LOG_MAX))) {
		zst_close(z);
		return NULL;
	}
	return z;
}

static void zst_reset(void *st)
{
	struct zst *z = st;

	(void)ZSTD_DCtx_reset(z->d, ZSTD_reset_session_only);
	z->mid = false;
}

static errint_t zst_error(size_t r, struct err *e)
{
	switch (ZSTD_getErrorCode(r)) {
	case ZSTD_error_frameParameter_windowTooLarge:
		return err_set(e, EFBIG, ERR_LIMIT, "zstd frame wants a window over %u MiB",
			       1u << (WINDOW_LOG_MAX - 20));
	case ZSTD_error_memory_allocation:
		return err_errno(e, ENOMEM, "zstd decoder");
	default:
		return err_set(e, EBADMSG, ERR_INPUT, "zstd stream: %s", ZSTD_getErrorName(r));
	}
}

static errint_t zst_step(void *st, struct inflate_io *io, struct err *e)
{
	struct zst *z = st;
	ZSTD_inBuffer in = { .src = io->in, .size = io->in_len };
	ZSTD_outBuffer out = { .dst = io->out, .size = io->out_len };

	if (!z->mid && !in.size)
		return 0;
	do {
		z->starts += !z->mid;
		size_t r = ZSTD_decompressStream(z->d, &out, &in);

		if (ZSTD_isError(r))
			return zst_error(r, e);
		z->mid = r != 0;
	} while (z->mid && in.pos < in.size && out.pos < out.size);
	io->in += in.pos;
	io->in_len -= in.pos;
	io->out += out.pos;
	io->out_len -= out.pos;
	return 0;
}

static errint_t zst_end(void *st, struct err *e)
{
	const struct zst *z = st;

	return z->mid ? inflate_bad(e, "zstd stream is cut off") : 0;
}

static bool zst_save(void *st, struct buf *ret _unused_)
{
	const struct zst *z = st;

	return !z->mid;
}

static unsigned zst_starts(const void *st)
{
	return ((const struct zst *)st)->starts;
}

static bool zst_between(const void *st)
{
	return !((const struct zst *)st)->mid;
}

static size_t zst_memory(const void *st)
{
	const struct zst *z = st;

	return ZSTD_sizeof_DCtx(z->d);
}

static errint_t zst_load(void *st _unused_, uint64_t in _unused_, const void *state _unused_,
			 size_t len, struct err *e)
{
	return len ? inflate_bad(e, "not a zstd checkpoint") : 0;
}

const struct inflate_ops inflate_zstd_ops = {
	.format = INFLATE_ZSTD,
	.open = zst_open,
	.close = zst_close,
	.reset = zst_reset,
	.step = zst_step,
	.end = zst_end,
	.save = zst_save,
	.load = zst_load,
	.memory = zst_memory,
	.starts = zst_starts,
	.between = zst_between,
};

errint_t inflate_pack(const void *data, size_t len, struct buf *ret)
{
	size_t bound = ZSTD_compressBound(len);
	errint_t r = buf_reserve(ret, bound);

	if (r < 0)
		return r;
	size_t n = ZSTD_compress(ret->data + ret->len, bound, data, len, PACK_LEVEL);
	if (ZSTD_isError(n))
		return -ENOMEM;
	ret->len += n;
	ret->data[ret->len] = '\0';
	return 0;
}

errint_t inflate_unpack(const void *data, size_t len, void *dst, size_t dst_len)
{
	size_t n = ZSTD_decompress(dst, dst_len, data, len);

	return ZSTD_isError(n) || n != dst_len ? -EBADMSG : 0;
}
