/*
 * layer_span.c - spans: storing them, and fetching one again
 *
 * To fill a span, decoding starts at the last checkpoint before it and goes on to the first one
 * behind it, through whole units.  The blob's hash is gone on with from the first one's mark; nothing
 * is published before it has come to the mark at the end of every unit that was read.  The span that was asked for is collected
 * in memory, so that it can stay there when the disk does not take it; other whole spans on the way
 * (those that were asked for along with it, or where checkpoints are rare: one big zstd frame, a
 * very large layer) are stored as well.
 *
 * A source that gives wrong bytes is told so, and asked once more if it knows another place.
 *
 * If the hashes are right and decoding still fails, or the span's CRC is wrong, then our own state
 * is: the layer's object is dropped, and the caller has to get the layer anew and index it again
 * (-EBADMSG, also for all who still hold the old one).
 *
 * Threads: a fill belongs to its thread.
 */
#include <string.h>
#include <sys/resource.h>

#include "cache/crc.h"
#include "cache/layer_priv.h"
#include "util/stats.h"

#define SPANS_PENDING_MAX 4096	/* each is an open file until it is published: 16 GiB of tar */
#define FILES_SHARE 8		/* and no more than this part of the limit on open files */

/* ---- a set of spans on their way */

static size_t pending_max(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) < 0 || lim.rlim_cur == RLIM_INFINITY)
		return SPANS_PENDING_MAX;
	return (size_t)MIN_OF(lim.rlim_cur / FILES_SHARE, (rlim_t)SPANS_PENDING_MAX);
}

void span_set_init(struct span_set *p, struct ca_store *s, const struct digest *d)
{
	*p = (struct span_set){
		.s = s, .digest = d, .since = ca_store_stamp(s), .cap = pending_max()
	};
	p->sealed = calloc(p->cap + 1, sizeof(struct ca_writer *));
	p->stopped = !p->sealed;
}

static void stop(struct span_set *p)
{
	p->writer = ca_writer_abort(p->writer);
	p->stopped = true;
}

static void begin(struct span_set *p, uint32_t span)
{
	char key[CA_KEY_MAX];

	(void)layer_span_key(p->digest, span, key);
	if (ca_object_exists(p->s, CA_SPAN, key))
		return;
	if (p->n_sealed == p->cap ||
	    ca_writer_new_since(p->s, CA_SPAN, key, CA_SPAN_BYTES, p->since, &p->writer, NULL) < 0)
		stop(p);
}

static void seal(struct span_set *p)
{
	if (!p->writer)
		return;
	if (ca_writer_seal(p->writer, NULL) < 0)
		stop(p);
	else
		p->sealed[p->n_sealed++] = steal_ptr(&p->writer);
}

void span_set_add(struct span_set *p, uint64_t off, const void *data, size_t len)
{
	uint64_t at = off % CA_SPAN_BYTES;

	if (p->stopped)
		return;
	if (at == 0)
		begin(p, (uint32_t)(off / CA_SPAN_BYTES));
	if (p->writer && ca_writer_add(p->writer, data, len, NULL) < 0)
		stop(p);
	if (at + len == CA_SPAN_BYTES)
		seal(p);
}

void span_set_publish(struct span_set *p)
{
	seal(p);
	for (size_t i = 0; i < p->n_sealed; i++)
		(void)!ca_writer_publish(steal_ptr(&p->sealed[i]), NULL);
	p->n_sealed = 0;
}

void span_set_done(struct span_set *p)
{
	(void)ca_writer_abort(p->writer);
	for (size_t i = 0; i < p->n_sealed; i++)
		(void)ca_writer_abort(p->sealed[i]);
	free(p->sealed);
	*p = (struct span_set){ 0 };
}

/* ---- filling one again */

struct refill {
	struct ca_layer *l;
	uint64_t start, end;		/* of the span that is wanted, inflated */
	uint64_t run_end;		/* of the last one that is asked for along with it */
	uint32_t unit, unit_end;	/* the present one; one past the last */
	uint64_t in;			/* place in the blob */
	struct inflate *z;
	struct digest_ctx *sum;		/* of the blob, gone on with from the first unit's mark */
	struct cancel *cancel;
	struct span_set others;
	struct buf data;		/* the span */
	uint32_t crc;			/* of the present span */
	bool whole;			/* its beginning was seen */
	bool broken; /* decoding failed; the hashes will tell whose fault it is */
	bool wrong;	/* the source gave something else than when the layer was indexed */
};

/* End of a unit in the blob. */
static uint64_t unit_limit(const struct layer_file *f, uint32_t unit)
{
	return unit + 1 < f->n_units ? f->units[unit + 1].in : f->packed;
}

static errint_t not_as_before(struct refill *f, const char *what, struct err *e)
{
	f->wrong = true;
	stat_inc(STAT_INTEGRITY_FAILURES);
	return err_set(e, EIO, ERR_INTEGRITY, "part of layer %s %s", f->l->key, what);
}

/* One piece of output; pieces do not cross spans. */
static errint_t refill_out(void *ctx, const void *data, size_t len, struct err *e)
{
	struct refill *f = ctx;
	const struct layer_file *file = &f->l->file;
	uint64_t off = inflate_out(f->z) - len;
	uint32_t span = (uint32_t)(off / CA_SPAN_BYTES);

	if (off + len > file->size)
		return err_set(e, EBADMSG, ERR_INTEGRITY, "longer than before");
	if (off % CA_SPAN_BYTES == 0) {
		f->whole = true;
		f->crc = 0;
	}
	if (!f->whole)
		return 0;
	f->crc = crc32_add(f->crc, data, len);
	if (off + len == MIN_OF((span + 1ULL) * CA_SPAN_BYTES, file->size) &&
	    f->crc != file->crcs[span])
		return err_set(e, EBADMSG, ERR_INTEGRITY, "different from before");
	if (off >= f->start && off < f->end)
		return buf_add(&f->data, data, len);
	span_set_add(&f->others, off, data, len);
	return 0;
}

/* Decodes; damage is only noted, since it matters what the hashes say. */
static errint_t decode(struct refill *f, const void *data, size_t len, struct err *e)
{
	errint_t r = f->broken ? 0 : inflate_push(f->z, data, len, e);

	if (r != -EBADMSG && r != -EFBIG)
		return r;
	f->broken = true;
	return 0;
}

/* What the hash has to have come to behind a unit. */
static const struct digest_mark *unit_mark(const struct layer_file *f, uint32_t unit)
{
	return unit + 1 < f->n_units ? &f->units[unit + 1].mark : &f->end;
}

/* Checks the units that end here. */
static errint_t finish_units(struct refill *f, struct err *e)
{
	const struct layer_file *file = &f->l->file;

	while (f->unit < f->unit_end && f->in == unit_limit(file, f->unit)) {
		struct digest_mark m;

		digest_ctx_mark(f->sum, &m);
		if (memcmp(&m, unit_mark(file, f->unit), sizeof(m)) != 0)
			return not_as_before(f, "does not match its hash", e);
		f->unit++;
	}
	return 0;
}

static errint_t refill_in(void *ctx, const void *data, size_t len, struct err *e)
{
	struct refill *f = ctx;
	const uint8_t *p = data;
	errint_t r = layer_check_cancel(f->cancel, e);

	while (r == 0 && len) {
		if (f->unit == f->unit_end)
			return not_as_before(f, "is longer than what was asked for", e);
		size_t n = (size_t)MIN_OF(len, unit_limit(&f->l->file, f->unit) - f->in);

		digest_ctx_add(f->sum, p, n);
		r = decode(f, p, n, e);
		f->in += n;
		p += n;
		len -= n;
		if (r == 0)
			r = finish_units(f, e);
	}
	return r;
}

/* From the last unit with a state at or before the span to the first that begins behind the run. */
static void find_units(struct refill *f)
{
	const struct layer_file *file = &f->l->file;
	uint32_t lo = 0, hi = file->n_units;	/* units[lo].out <= start; units[hi].out > start */

	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (file->units[mid].out <= f->start)
			lo = mid;
		else
			hi = mid;
	}
	while (!file->units[lo].has_state)
		lo--;
	while (hi < file->n_units && file->units[hi].out < f->run_end)
		hi++;
	f->unit = lo;
	f->unit_end = hi;
	f->in = file->units[lo].in;
	digest_ctx_resume(f->sum, &file->units[lo].mark, f->in);
}

static errint_t open_state(struct refill *f, struct err *e)
{
	const struct layer_file *file = &f->l->file;
	const struct layer_unit *u = &file->units[f->unit];
	_cleanup_free_ char *state = malloc(u->state_len + 1UL);

	if (!state)
		return err_errno(e, ENOMEM, "reading a layer again");
	errint_t r = u->state_len ? ca_object_read(f->l->object, file->states_off + u->state_off,
						   state, u->state_len, e)
				  : 0;
	if (r == 0)
		r = inflate_resume(file->format, u->in, u->out, state, u->state_len, refill_out, f,
				   &f->z, e);
	return r < 0 ? r : decode(f, NULL, 0, e);
}

static errint_t read_units(struct refill *f, const struct ca_source *src, struct err *e)
{
	struct ca_layer *l = f->l;
	uint64_t end = unit_limit(&l->file, f->unit_end - 1);
	errint_t r = finish_units(f, e);

	if (r == 0 && end > f->in)
		r = layer_source_read(l->s, &l->digest, l->file.packed, f->in, end - f->in, src,
				      refill_in, f, f->cancel, e);
	if (r < 0)
		return r;
	if (f->unit < f->unit_end)
		return not_as_before(f, "is shorter than what was asked for", e);
	return f->broken || f->data.len != f->end - f->start ? -EBADMSG : 0;
}

static errint_t keep(struct refill *f, uint32_t span, struct err *e)
{
	struct ca_object *o = NULL;
	char key[CA_KEY_MAX];

	if (inflate_out(f->z) < f->l->file.size) /* what ends in the middle of a span is not one */
		f->others.writer = ca_writer_abort(f->others.writer);
	span_set_publish(&f->others);
	(void)layer_span_key(&f->l->digest, span, key);
	/* Another copy would take room until the one that somebody has brought meanwhile is closed. */
	if (ca_object_open(f->l->s, CA_SPAN, key, &o, NULL) == 0) {
		layer_keep_recent(f->l, o);
		return 0;
	}
	errint_t r = layer_object_put(f->l->s, CA_SPAN, key, f->data.data, f->data.len, e);
	if (r == 0 && ca_object_open(f->l->s, CA_SPAN, key, &o, NULL) == 0)
		layer_keep_recent(f->l, o);
	return r;
}

static errint_t dropped(const struct ca_layer *l, struct err *e)
{
	return err_set(e, EBADMSG, ERR_INTEGRITY,
		       "the cached index of layer %s was wrong; it has been dropped", l->key);
}

static errint_t refill(struct refill *f, uint32_t span, const struct ca_source *src, struct err *e)
{
	errint_t r = buf_reserve(&f->data, (size_t)(f->end - f->start));

	f->sum = digest_ctx_new(DIGEST_SHA256);
	if (r < 0 || !f->sum)
		return err_errno(e, ENOMEM, "reading a layer again");
	find_units(f);
	r = open_state(f, e);
	if (r == 0)
		r = read_units(f, src, e);
	if (r == -EBADMSG) {
		layer_condemn(f->l);
		return dropped(f->l, e);
	}
	if (r == 0)
		r = keep(f, span, e);
	return r;
}

/* *ret_wrong: it failed since the source gave wrong bytes. */
static errint_t fill_once(struct ca_layer *l, uint32_t span, uint32_t n, const struct ca_source *src,
			  struct cancel *c, bool *ret_wrong, struct err *e)
{
	struct refill f = {
		.l = l,
		.start = (uint64_t)span * CA_SPAN_BYTES,
		.cancel = c,
		.data = BUF_INIT(CA_SPAN_BYTES),
	};

	f.end = MIN_OF(f.start + CA_SPAN_BYTES, l->file.size);
	f.run_end = MIN_OF(f.start + (uint64_t)n * CA_SPAN_BYTES, l->file.size);
	span_set_init(&f.others, l->s, &l->digest);
	errint_t r = refill(&f, span, src, e);
	*ret_wrong = f.wrong;
	span_set_done(&f.others);
	(void)inflate_free(f.z);
	(void)digest_ctx_free(f.sum);
	buf_done(&f.data);
	return r;
}

errint_t layer_fill_spans(struct ca_layer *l, uint32_t first, uint32_t n, const struct ca_source *src,
			  struct cancel *c, struct err *e)
{
	bool wrong;

	if (atomic_load(&l->condemned))
		return dropped(l, e);
	errint_t r = fill_once(l, first, n, src, c, &wrong, e);
	if (r < 0 && wrong && src && src->bad && src->bad(src->ctx, &l->digest)) {
		err_clear(e);
		r = fill_once(l, first, n, src, c, &wrong, e);
	}
	if (r == 0)
		stat_add(STAT_SPANS_REFILLED, n);
	return r;
}

errint_t ca_layer_fill_span(struct ca_layer *l, uint32_t span, const struct ca_source *src,
			    struct cancel *c, struct err *e)
{
	_cleanup_(ca_object_unrefp) struct ca_object *there = NULL;

	if (l->toc) {
		layer_run_wait(l, span, c);
		return toc_layer_fill_granule(l, span, src, c, e);
	}
	if (span >= l->file.n_spans)
		return err_set(e, EINVAL, ERR_BUG, "layer %s has no span %u", l->key, span);
	if (layer_span_open(l, span, &there) == 0) /* that it exists is not enough to read it */
		return 0;
	return layer_fill_spans(l, span, 1, src, c, e);
}
