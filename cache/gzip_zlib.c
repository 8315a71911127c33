/*
 * gzip_zlib.c - raw deflate and CRC-32 by zlib, where there is no ISA-L (the only file with zlib)
 *
 * Twice as slow as gzip_isal.c and the same to its callers, except that a checkpoint exists only
 * between two deflate blocks: there the bits of a started byte and the last 32 KiB of output are
 * all it takes (zlib's examples/zran.c).  A step returns at such a place when it has output to
 * show.
 */
#include "cache/crc.h"
#include "cache/inflate_priv.h"

#if !defined(HAVE_ISAL) || !HAVE_ISAL

#include <string.h>
#include <zlib.h>

#define STEP_MAX (1u << 30)
#define WINDOW (32u << 10)

struct rawinf {
	z_stream z;
	uint32_t crc, total;
	uint8_t last;	/* byte before the present place */
	bool between;	/* two blocks */
};

struct block_state {
	uint32_t crc, total, window;
	uint8_t bits, last, zero[2];
	uint8_t history[WINDOW];
};

const bool rawinf_anywhere = false;
const size_t rawinf_state_bytes = sizeof(struct block_state);

uint32_t crc32_add(uint32_t crc, const void *data, size_t len)
{
	return (uint32_t)crc32_z(crc, data, len);
}

const char *rawinf_name(void)
{
	return "zlib-1";	/* the state is ours and the same for all versions */
}

struct rawinf *rawinf_new(void)
{
	struct rawinf *d = calloc(1, sizeof(*d));

	if (d && inflateInit2(&d->z, -MAX_WBITS) != Z_OK) {
		free(d);
		return NULL;
	}
	return d;
}

void rawinf_free(struct rawinf *d)
{
	(void)inflateEnd(&d->z);
	free(d);
}

void rawinf_reset(struct rawinf *d)
{
	(void)inflateReset(&d->z);
	d->crc = 0;
	d->total = 0;
	d->between = false;
}

static errint_t inflate_error(const struct rawinf *d, int r, struct err *e)
{
	if (r == Z_MEM_ERROR)
		return err_errno(e, ENOMEM, "decompressor");
	return err_set(e, EBADMSG, ERR_INPUT, "deflate stream: %s",
		       d->z.msg ? d->z.msg : "damaged");
}

/* One call of inflate(), with all the counting. */
static int advance(struct rawinf *d, struct inflate_io *io)
{
	uInt in = (uInt)MIN_OF(io->in_len, STEP_MAX), out = (uInt)MIN_OF(io->out_len, STEP_MAX);

	d->z.next_in = (Bytef *)io->in;
	d->z.avail_in = in;
	d->z.next_out = io->out;
	d->z.avail_out = out;
	int r = inflate(&d->z, Z_BLOCK);
	size_t used = in - d->z.avail_in, made = out - d->z.avail_out;
	if (used)
		d->last = io->in[used - 1];
	d->crc = crc32_add(d->crc, io->out, made);
	d->total += (uint32_t)made;
	d->between = (d->z.data_type & 128) && !(d->z.data_type & 64);
	io->in += used;
	io->in_len -= used;
	io->out += made;
	io->out_len -= made;
	return r;
}

errint_t rawinf_step(struct rawinf *d, struct inflate_io *io, bool *ret_done, struct err *e)
{
	size_t room = io->out_len;
	int r, idle = 0;	/* stopping before a block can look like no progress, once */

	do {
		r = advance(d, io);
		idle = r == Z_BUF_ERROR ? idle + 1 : 0;
	} while ((r == Z_OK || idle == 1) && io->in_len && io->out_len &&
		 !(d->between && io->out_len < room));
	if (r != Z_OK && r != Z_BUF_ERROR && r != Z_STREAM_END)
		return inflate_error(d, r == Z_NEED_DICT ? Z_DATA_ERROR : r, e);
	*ret_done = r == Z_STREAM_END;
	return 0;
}

size_t rawinf_rest(struct rawinf *d _unused_, uint8_t ret[static 8] _unused_)
{
	return 0;
}

uint32_t rawinf_crc(const struct rawinf *d)
{
	return d->crc;
}

uint32_t rawinf_total(const struct rawinf *d)
{
	return d->total;
}

bool rawinf_save(struct rawinf *d, struct buf *ret)
{
	uInt window = WINDOW;

	if (!d->between)
		return false;
	_cleanup_free_ struct block_state *s = calloc(1, sizeof(*s));
	if (!s || inflateGetDictionary(&d->z, s->history, &window) != Z_OK)
		return false;
	s->crc = d->crc;
	s->total = d->total;
	s->window = window;
	s->bits = d->z.data_type & 7;
	s->last = d->last;
	return inflate_pack(s, sizeof(*s), ret) == 0;
}

static bool load_state(struct rawinf *d, const struct block_state *s)
{
	if (s->window > WINDOW || s->bits > 7)
		return false;
	if (s->bits && inflatePrime(&d->z, s->bits, s->last >> (8 - s->bits)) != Z_OK)
		return false;
	if (s->window && inflateSetDictionary(&d->z, s->history, s->window) != Z_OK)
		return false;
	d->crc = s->crc;
	d->total = s->total;
	d->last = s->last;
	return true;
}

errint_t rawinf_load(struct rawinf *d, const void *state, size_t len, struct err *e)
{
	_cleanup_free_ struct block_state *s = malloc(sizeof(*s));

	if (!s)
		return err_errno(e, ENOMEM, "decompressor");
	rawinf_reset(d);
	if (inflate_unpack(state, len, s, sizeof(*s)) < 0 || !load_state(d, s))
		return inflate_bad(e, "not a checkpoint of this decompressor");
	return 0;
}

errint_t rawinf_enter(struct rawinf *d, uint8_t byte, unsigned bits, const void *window, size_t len,
		      struct err *e)
{
	rawinf_reset(d);
	if (bits > 7 || len > WINDOW || (bits && inflatePrime(&d->z, (int)bits, byte >> (8 - bits)) != Z_OK) ||
	    (len && inflateSetDictionary(&d->z, window, (uInt)len) != Z_OK))
		return inflate_bad(e, "not a place within a deflate stream");
	return 0;
}

#endif
