/*
 * inflate.c - one decompression interface over three formats
 *
 * This file finds the format, drives the decoder, keeps the two offsets, guards the ratio and cuts
 * the output into pieces.  A piece never crosses a multiple of INFLATE_PIECE, so whoever wants a
 * checkpoint at a multiple of it finds the stream standing exactly there, in the sink.  Plain bytes
 * have no decoder: pieces point into the input.
 *
 * An empty stream is an empty plain one: Docker has written zero-byte layers, and containerd and
 * umoci read them as empty archives.
 */
#include "cache/inflate.h"

#include <string.h>

#include "cache/inflate_priv.h"

#define SNIFF_BYTES 4
#define RATIO_FREE_BYTES (1u << 20)

struct inflate {
	const struct inflate_ops *ops;	/* NULL: plain, or not known yet */
	void *st;
	enum inflate_format format;
	inflate_sink_fn sink;
	void *ctx;
	uint64_t in, out;
	uint8_t head[SNIFF_BYTES];	/* the first bytes, until they are enough */
	size_t head_len;
	bool taking;			/* the rest of what was decoded elsewhere comes yet */
	errint_t failed;		/* sticky */
	uint8_t *piece;
};

errint_t inflate_bad(struct err *e, const char *what)
{
	return err_set(e, EBADMSG, ERR_INPUT, "%s", what);
}

struct inflate *inflate_new(inflate_sink_fn sink, void *ctx)
{
	struct inflate *z = calloc(1, sizeof(*z));

	if (!z)
		return NULL;
	z->sink = sink;
	z->ctx = ctx;
	return z;
}

struct inflate *inflate_free(struct inflate *z)
{
	if (!z)
		return NULL;
	if (z->ops && z->st)
		z->ops->close(z->st);
	free(z->piece);
	free(z);
	return NULL;
}

void inflate_restart(struct inflate *z)
{
	z->format = INFLATE_UNSET;
	z->in = z->out = 0;
	z->head_len = 0;
	z->failed = 0;
}

enum inflate_format inflate_format(const struct inflate *z)
{
	return z->format;
}

uint64_t inflate_in(const struct inflate *z)
{
	return z->in;
}

uint64_t inflate_out(const struct inflate *z)
{
	return z->out;
}

size_t inflate_memory(const struct inflate *z)
{
	return z->st && z->ops->memory ? z->ops->memory(z->st) : 0;
}

unsigned inflate_starts(const struct inflate *z)
{
	return z->st ? z->ops->starts(z->st) : 0;
}

bool inflate_between(const struct inflate *z)
{
	return z->st && !z->failed && z->ops->between(z->st);
}

static errint_t set_format(struct inflate *z, enum inflate_format fmt, struct err *e)
{
	const struct inflate_ops *ops = fmt == INFLATE_PLAIN ? NULL :
					fmt == INFLATE_GZIP ? &inflate_gzip_ops : &inflate_zstd_ops;

	z->format = fmt;
	if (z->st && ops && z->ops == ops) {	/* of the stream before */
		ops->reset(z->st);
		return 0;
	}
	if (z->st)
		z->ops->close(steal_ptr(&z->st));
	z->ops = ops;
	if (!ops)
		return 0;
	z->st = ops->open();
	if (!z->piece)
		z->piece = malloc(INFLATE_PIECE);
	if (!z->st || !z->piece)
		return err_errno(e, ENOMEM, "decompressor");
	return 0;
}

static enum inflate_format sniff(const uint8_t *p, size_t len)
{
	static const uint8_t gzip[] = { 0x1f, 0x8b, 0x08 };
	static const uint8_t zstd[] = { 0x28, 0xb5, 0x2f, 0xfd };
	static const uint8_t skip[] = { 0x2a, 0x4d, 0x18 };	/* after 0x50..0x5f */

	if (len >= sizeof(gzip) && memcmp(p, gzip, sizeof(gzip)) == 0)
		return INFLATE_GZIP;
	if (len >= sizeof(zstd) && memcmp(p, zstd, sizeof(zstd)) == 0)
		return INFLATE_ZSTD;
	if (len >= SNIFF_BYTES && (p[0] & 0xf0) == 0x50 && memcmp(p + 1, skip, sizeof(skip)) == 0)
		return INFLATE_ZSTD;
	return INFLATE_PLAIN;
}

/* Accounts for a step and hands its output on. */
static errint_t emit(struct inflate *z, size_t used, const uint8_t *data, size_t made,
		     struct err *e)
{
	z->in += used;
	z->out += made;
	if (z->out > RATIO_FREE_BYTES && (z->out - RATIO_FREE_BYTES) / INFLATE_RATIO_MAX > z->in)
		return err_set(e, EFBIG, ERR_LIMIT,
			       "%llu compressed bytes inflate to more than %u times their size",
			       (unsigned long long)z->in, INFLATE_RATIO_MAX);
	return made ? z->sink(z->ctx, data, made, e) : 0;
}

static size_t room(const struct inflate *z)
{
	return INFLATE_PIECE - (size_t)(z->out % INFLATE_PIECE);
}

static errint_t push_plain(struct inflate *z, const uint8_t *p, size_t len, struct err *e)
{
	while (len) {
		size_t n = MIN_OF(len, room(z));
		errint_t r = emit(z, n, p, n, e);

		if (r < 0)
			return r;
		p += n;
		len -= n;
	}
	return 0;
}

static errint_t push_coded(struct inflate *z, const uint8_t *p, size_t len, struct err *e)
{
	struct inflate_io io = { .in = p ? p : z->head, .in_len = len };	/* never NULL */
	size_t used, made, space;

	do {
		space = room(z);
		io.out = z->piece;
		io.out_len = space;
		used = io.in_len;
		errint_t r = z->ops->step(z->st, &io, e);
		if (r < 0)
			return r;
		used -= io.in_len;
		made = space - io.out_len;
		if (!used && !made && io.in_len)
			return inflate_bad(e, "compressed stream makes no progress");
		r = emit(z, used, z->piece, made, e);
		if (r < 0)
			return r;
	} while (io.in_len || made == space);
	return 0;
}

static errint_t push_known(struct inflate *z, const uint8_t *p, size_t len, struct err *e)
{
	return z->ops ? push_coded(z, p, len, e) : push_plain(z, p, len, e);
}

/* Decides on the format and feeds the bytes that were held back for it. */
static errint_t start(struct inflate *z, struct err *e)
{
	errint_t r = set_format(z, sniff(z->head, z->head_len), e);

	return r < 0 ? r : push_known(z, z->head, z->head_len, e);
}

static errint_t push(struct inflate *z, const uint8_t *p, size_t len, struct err *e)
{
	if (z->format == INFLATE_UNSET) {
		size_t n = MIN_OF(len, SNIFF_BYTES - z->head_len);

		if (n)
			memcpy(z->head + z->head_len, p, n);
		z->head_len += n;
		p += n;
		len -= n;
		if (z->head_len < SNIFF_BYTES)
			return 0;
		errint_t r = start(z, e);
		if (r < 0)
			return r;
	}
	return push_known(z, p, len, e);
}

errint_t inflate_push(struct inflate *z, const void *data, size_t len, struct err *e)
{
	if (z->failed)
		return err_set(e, -z->failed, ERR_INPUT, "the stream has failed before");
	errint_t r = push(z, data, len, e);
	if (r < 0)
		z->failed = r;
	return r;
}

static errint_t take(struct inflate *z, uint64_t in_len, const uint8_t *out, size_t len, struct err *e)
{
	errint_t r;

	z->in += in_len;
	do {
		size_t n = MIN_OF(len, room(z));

		z->taking = n < len;
		r = emit(z, 0, out, n, e);
		out += n;
		len -= n;
	} while (r == 0 && len);
	z->taking = false;
	return r;
}

errint_t inflate_take(struct inflate *z, uint64_t in_len, const void *out, size_t out_len, struct err *e)
{
	if (!inflate_between(z))
		return err_set(e, EINVAL, ERR_BUG, "the stream is within a member");
	errint_t r = take(z, in_len, out, out_len, e);
	if (r < 0)
		z->failed = r;
	return r;
}

static errint_t end(struct inflate *z, struct err *e)
{
	if (z->format == INFLATE_UNSET) {
		errint_t r = start(z, e);
		if (r < 0)
			return r;
	}
	return z->ops ? z->ops->end(z->st, e) : 0;
}

errint_t inflate_end(struct inflate *z, struct err *e)
{
	if (z->failed)
		return err_set(e, -z->failed, ERR_INPUT, "the stream has failed before");
	errint_t r = end(z, e);
	if (r < 0)
		z->failed = r;
	return r;
}

bool inflate_checkpoint(struct inflate *z, uint64_t *ret_in, uint64_t *ret_out, struct buf *state)
{
	size_t old = state->len;

	if (z->failed || z->format == INFLATE_UNSET || z->taking)
		return false;
	if (z->ops && (!z->ops->save(z->st, state) || state->len - old > INFLATE_STATE_MAX)) {
		state->len = old;
		return false;
	}
	*ret_in = z->in;
	*ret_out = z->out;
	return true;
}

static errint_t resume(struct inflate *z, enum inflate_format fmt, uint64_t in, const void *state,
		       size_t len, struct err *e)
{
	if (fmt < INFLATE_PLAIN || fmt > INFLATE_ZSTD || len > INFLATE_STATE_MAX)
		return inflate_bad(e, "not a checkpoint");
	errint_t r = set_format(z, fmt, e);
	if (r < 0)
		return r;
	if (z->ops)
		return z->ops->load(z->st, in, state, len, e);
	return len ? inflate_bad(e, "not a checkpoint") : 0;
}

errint_t inflate_resume(enum inflate_format fmt, uint64_t in, uint64_t out, const void *state,
			size_t state_len, inflate_sink_fn sink, void *ctx, struct inflate **ret,
			struct err *e)
{
	_cleanup_(inflate_freep) struct inflate *z = inflate_new(sink, ctx);

	if (!z)
		return err_errno(e, ENOMEM, "decompressor");
	errint_t r = resume(z, fmt, in, state, state_len, e);
	if (r < 0)
		return r;
	z->in = in;
	z->out = out;
	*ret = steal_ptr(&z);
	return 0;
}

errint_t inflate_enter(uint64_t in, uint64_t out, uint8_t byte, unsigned bits, const void *window,
		       size_t window_len, inflate_sink_fn sink, void *ctx, struct inflate **ret, struct err *e)
{
	_cleanup_(inflate_freep) struct inflate *z = inflate_new(sink, ctx);

	if (!z)
		return err_errno(e, ENOMEM, "decompressor");
	errint_t r = set_format(z, INFLATE_GZIP, e);
	if (r == 0)
		r = gzip_enter(z->st, byte, bits, window, window_len, e);
	if (r < 0)
		return r;
	z->in = in;
	z->out = out;
	*ret = steal_ptr(&z);
	return 0;
}

bool inflate_anywhere(const struct inflate *z)
{
	return z->format == INFLATE_PLAIN || (z->format == INFLATE_GZIP && rawinf_anywhere);
}

/* The state's layout is that of one library version; "1" is the layout of gzip.c around it. */
const char *inflate_build_id(void)
{
	return rawinf_name();
}
