/*
 * gzip.c - gzip members around a raw deflate decoder (RFC 1952)
 *
 * A byte machine for headers and trailers, so that any cut of the input works.  Nothing of a header
 * is kept; its optional CRC-16 is checked, and so are CRC-32 and ISIZE of each member.  After the
 * first member, bytes that do not start another one are garbage and are ignored to the end, as
 * gzip(1) does; a member that starts has to be whole.
 *
 * A checkpoint state is a packed struct member_state, and within a member's body the decoder's own
 * state behind it.  Nothing at all stands for "at the start of a member".
 */
#include <string.h>

#include "cache/crc.h"
#include "cache/inflate_priv.h"
#include "cache/le.h"

#define HEADER_BYTES 10
#define TRAILER_BYTES 8
#define STATE_MAGIC UINT32_C(0x31535a47)	/* "GZS1" */

enum { F_HCRC = 2, F_EXTRA = 4, F_NAME = 8, F_COMMENT = 16, F_RESERVED = 0xe0 };

enum phase {
	GZ_HEADER = 0,
	GZ_EXTRA_LEN,
	GZ_EXTRA,
	GZ_NAME,
	GZ_COMMENT,
	GZ_HCRC,
	GZ_BODY,
	GZ_TRAILER,
	GZ_GARBAGE,
	GZ_PHASES
};

struct gzip {
	struct rawinf *d;
	enum phase phase;
	bool seen;			/* a whole member has been read */
	bool entered;			/* the present member in its middle: its CRC is not known */
	unsigned starts;
	uint8_t raw[HEADER_BYTES];	/* of the header or trailer, the first `have` bytes */
	uint32_t have;
	uint32_t left;			/* of the extra field */
	uint32_t hcrc;
	uint32_t crc, total;		/* of the body, in the trailer */
};

struct member_state {
	uint32_t magic;
	uint8_t phase, seen, have, flags;
	uint32_t left, hcrc, crc, total;
	uint8_t raw[HEADER_BYTES];
	uint8_t zero[2];
};

static void gzip_close(void *st)
{
	struct gzip *g = st;

	rawinf_free(g->d);
	free(g);
}

static void gzip_reset(void *st)
{
	struct gzip *g = st;

	*g = (struct gzip){ .d = g->d };
}

static void *gzip_open(void)
{
	struct gzip *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	g->d = rawinf_new();
	if (!g->d) {
		free(g);
		return NULL;
	}
	return g;
}

/* The next part of the header after `done`, by the flags of this one. */
static void next_part(struct gzip *g, enum phase done)
{
	uint8_t flags = g->raw[3];

	g->have = 0;
	if (done < GZ_EXTRA_LEN && (flags & F_EXTRA))
		g->phase = GZ_EXTRA_LEN;
	else if (done < GZ_NAME && (flags & F_NAME))
		g->phase = GZ_NAME;
	else if (done < GZ_COMMENT && (flags & F_COMMENT))
		g->phase = GZ_COMMENT;
	else if (done < GZ_HCRC && (flags & F_HCRC))
		g->phase = GZ_HCRC;
	else {
		g->phase = GZ_BODY;
		g->starts++;
		rawinf_reset(g->d);
	}
}

static errint_t fixed_header(struct gzip *g, uint8_t c, struct err *e)
{
	static const uint8_t magic[] = { 0x1f, 0x8b, 0x08 };

	if (g->have < sizeof(magic) && c != magic[g->have]) {
		if (!g->seen)
			return inflate_bad(e, "not a gzip member");
		g->phase = GZ_GARBAGE;
		return 0;
	}
	if (g->have == 0)
		g->hcrc = 0;
	g->raw[g->have++] = c;
	if (g->have < HEADER_BYTES)
		return 0;
	if (g->raw[3] & F_RESERVED)
		return inflate_bad(e, "gzip header has reserved flags");
	g->hcrc = crc32_add(0, g->raw, HEADER_BYTES);
	next_part(g, GZ_HEADER);
	return 0;
}

static errint_t header_crc(struct gzip *g, uint8_t c, struct err *e)
{
	if (c != (uint8_t)(g->hcrc >> (8 * g->have)))
		return inflate_bad(e, "gzip header checksum does not match");
	if (++g->have == 2)
		next_part(g, GZ_HCRC);
	return 0;
}

static errint_t header_byte(struct gzip *g, uint8_t c, struct err *e)
{
	if (g->phase == GZ_HEADER)
		return fixed_header(g, c, e);
	if (g->phase == GZ_HCRC)
		return header_crc(g, c, e);
	g->hcrc = crc32_add(g->hcrc, &c, 1);
	switch (g->phase) {
	case GZ_EXTRA_LEN:
		g->left = g->have ? g->left | (uint32_t)c << 8 : c;
		if (++g->have < 2)
			break;
		if (g->left)
			g->phase = GZ_EXTRA;
		else
			next_part(g, GZ_EXTRA);
		break;
	case GZ_EXTRA:
		if (--g->left == 0)
			next_part(g, GZ_EXTRA);
		break;
	default:	/* GZ_NAME, GZ_COMMENT: up to a NUL */
		if (c == 0)
			next_part(g, g->phase);
		break;
	}
	return 0;
}

static errint_t trailer_byte(struct gzip *g, uint8_t c, struct err *e)
{
	g->raw[g->have++] = c;
	if (g->have < TRAILER_BYTES)
		return 0;
	if (!g->entered && le32_get(g->raw) != g->crc)
		return err_set(e, EBADMSG, ERR_INTEGRITY, "gzip CRC-32 does not match");
	if (!g->entered && le32_get(g->raw + 4) != g->total)
		return err_set(e, EBADMSG, ERR_INTEGRITY, "gzip length does not match");
	g->phase = GZ_HEADER;
	g->have = 0;
	g->seen = true;
	g->entered = false;
	return 0;
}

static errint_t body(struct gzip *g, struct inflate_io *io, struct err *e)
{
	uint8_t rest[8];
	bool done = false;
	errint_t r = rawinf_step(g->d, io, &done, e);

	if (r < 0 || !done)
		return r;
	g->phase = GZ_TRAILER;
	g->have = 0;
	g->crc = rawinf_crc(g->d);
	g->total = rawinf_total(g->d);
	size_t n = rawinf_rest(g->d, rest);
	for (size_t i = 0; i < n && r == 0; i++)
		r = trailer_byte(g, rest[i], e);
	return r;
}

static errint_t gzip_step(void *st, struct inflate_io *io, struct err *e)
{
	struct gzip *g = st;

	for (;;) {
		errint_t r;

		if (g->phase == GZ_BODY) {
			r = body(g, io, e);
			if (r < 0 || g->phase == GZ_BODY)
				return r;
		}
		if (!io->in_len)
			return 0;
		if (g->phase == GZ_GARBAGE) {
			io->in += io->in_len;
			io->in_len = 0;
			return 0;
		}
		uint8_t c = *io->in++;
		io->in_len--;
		r = g->phase == GZ_TRAILER ? trailer_byte(g, c, e) : header_byte(g, c, e);
		if (r < 0)
			return r;
	}
}

static errint_t gzip_end(void *st, struct err *e)
{
	const struct gzip *g = st;

	if (g->phase == GZ_GARBAGE || (g->phase == GZ_HEADER && g->seen && g->have < 3))
		return 0;
	return inflate_bad(e, "gzip stream is cut off");
}

static bool gzip_save(void *st, struct buf *ret)
{
	struct gzip *g = st;
	struct member_state m = {
		.magic = STATE_MAGIC, .phase = (uint8_t)g->phase, .seen = g->seen,
		.have = (uint8_t)g->have, .left = g->left, .hcrc = g->hcrc, .crc = g->crc,
		.total = g->total,
	};

	if (g->entered)
		return false;
	if (g->phase == GZ_HEADER && g->have == 0)
		return true;
	memcpy(m.raw, g->raw, sizeof(m.raw));
	if (buf_add(ret, &m, sizeof(m)) < 0)
		return false;
	return g->phase != GZ_BODY || rawinf_save(g->d, ret);
}

static bool member_ok(const struct member_state *m)
{
	static const uint8_t have_max[GZ_PHASES] = {
		[GZ_HEADER] = HEADER_BYTES - 1, [GZ_EXTRA_LEN] = 1, [GZ_EXTRA] = 2, [GZ_HCRC] = 1,
		[GZ_TRAILER] = TRAILER_BYTES - 1, [GZ_GARBAGE] = HEADER_BYTES,
	};

	return m->magic == STATE_MAGIC && m->phase < GZ_PHASES && m->have <= have_max[m->phase] &&
	       m->seen <= 1 && m->left <= UINT16_MAX && (m->phase != GZ_EXTRA || m->left);
}

static errint_t gzip_load(void *st, uint64_t in, const void *state, size_t len, struct err *e)
{
	struct gzip *g = st;
	struct member_state m;

	g->seen = in > 0;
	if (len == 0)
		return 0;
	if (len < sizeof(m))
		return inflate_bad(e, "not a gzip checkpoint");
	memcpy(&m, state, sizeof(m));
	if (!member_ok(&m) || (m.phase != GZ_BODY && len != sizeof(m)))
		return inflate_bad(e, "not a gzip checkpoint");
	g->phase = m.phase;
	g->seen = m.seen;
	g->have = m.have;
	g->left = m.left;
	g->hcrc = m.hcrc;
	g->crc = m.crc;
	g->total = m.total;
	memcpy(g->raw, m.raw, sizeof(g->raw));
	if (g->phase != GZ_BODY)
		return 0;
	return rawinf_load(g->d, (const uint8_t *)state + sizeof(m), len - sizeof(m), e);
}

errint_t gzip_enter(void *st, uint8_t byte, unsigned bits, const void *window, size_t len, struct err *e)
{
	struct gzip *g = st;

	g->phase = GZ_BODY;
	g->entered = true;
	return rawinf_enter(g->d, byte, bits, window, len, e);
}

static unsigned gzip_starts(const void *st)
{
	return ((const struct gzip *)st)->starts;
}

static bool gzip_between(const void *st)
{
	const struct gzip *g = st;

	return g->phase == GZ_HEADER && g->have == 0 && g->seen;
}

const struct inflate_ops inflate_gzip_ops = {
	.format = INFLATE_GZIP,
	.open = gzip_open,
	.close = gzip_close,
	.reset = gzip_reset,
	.step = gzip_step,
	.end = gzip_end,
	.save = gzip_save,
	.load = gzip_load,
	.starts = gzip_starts,
	.between = gzip_between,
};
