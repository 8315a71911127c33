/*
 * toc_granule.c - granules: reading from them, and fetching them
 *
 * A granule's compressed bytes are one contiguous piece of the blob, hence one Range request.  Each
 * member (gzip) or frame (zstd) that holds a chunk is decoded from its beginning as far as it is
 * needed; each chunk is compared with its SHA-256 in the TOC before anything of the granule is
 * published.
 *
 * Who reads on where the last fill has ended is given more at once: twice as many granules each time,
 * up to AHEAD_MAX, in the same request.  The ones behind the one that was asked for are kept if the
 * disk takes them.
 *
 * A chunk that does not match is fetched once more.  If it is wrong again, then the TOC, which the
 * manifest vouches for, is not about this blob: the layer is refuted.
 *
 * Threads: a fill belongs to its thread.
 */
#include <string.h>

#include "cache/inflate.h"
#include "cache/layer_gate.h"
#include "cache/layer_priv.h"
#include "util/stats.h"

#define AHEAD_MAX 8u
#define TRIES 2

/* ---- names and reading */

const char *toc_granule_key(const struct ca_layer *l, uint32_t granule, char out[static CA_KEY_MAX])
{
	(void)snprintf(out, CA_KEY_MAX, "%.120s-%u", l->key, granule);
	return out;
}

uint64_t toc_granule_len(const struct ca_layer *l, uint32_t granule)
{
	return l->toc->granules[granule + 1].out - l->toc->granules[granule].out;
}

static errint_t granule_open(struct ca_layer *l, uint32_t granule, struct ca_object **ret)
{
	_cleanup_(ca_object_unrefp) struct ca_object *o = NULL;
	char key[CA_KEY_MAX];
	errint_t r = ca_object_open(l->s, CA_SPAN, toc_granule_key(l, granule, key), &o, NULL);

	if (r < 0)
		return r;
	if (ca_object_len(o) != toc_granule_len(l, granule)) {
		ca_object_drop(l->s, CA_SPAN, key);
		return -EBADMSG;
	}
	*ret = steal_ptr(&o);
	return 0;
}

errint_t toc_layer_read(struct ca_layer *l, uint64_t off, void *dst, size_t len, size_t *ret_n,
			uint32_t *ret_granule, struct err *e)
{
	_cleanup_(ca_object_unrefp) struct ca_object *o = NULL;

	*ret_n = 0;
	if (off < CA_TOC_DATA || off - CA_TOC_DATA >= l->toc->size || !len)
		return 0;
	off -= CA_TOC_DATA;
	uint32_t g = toc_file_granule(l->toc, off);
	uint64_t start = l->toc->granules[g].out;
	size_t n = (size_t)MIN_OF(len, start + toc_granule_len(l, g) - off);
	errint_t r = granule_open(l, g, &o);
	if (r == 0)
		r = ca_object_read(o, off - start, dst, n, e);
	if (r == -ENOENT || r == -EBADMSG) {
		*ret_granule = g;
		return err_set(e, ENODATA, r == -EBADMSG ? ERR_INTEGRITY : ERR_LOCAL,
			       "part %u of layer %s is not in the cache", g, l->key);
	}
	if (r == 0)
		*ret_n = n;
	return r;
}

/* ---- filling */

struct granule_fill {
	struct ca_layer *l;
	struct cancel *cancel;
	uint32_t wanted, granule, end;	/* first, present one, one past the last */
	struct toc_chunk *chunks;
	size_t n_chunks, cur;		/* of all granules; the one that is awaited */
	uint64_t in;			/* place in the blob */
	uint64_t member_end;		/* of the present member's bytes that may be needed */
	struct inflate *z;		/* for all members, one after the other; NULL: none yet */
	bool in_member;
	size_t got;			/* of the current chunk */
	struct digest_ctx *sum;
	struct buf data;		/* of the present granule */
	struct layer_gate gate;
	bool done;			/* the member has nothing more for us */
	bool wrong;			/* a chunk does not match */
};

static const struct toc_chunk *current(const struct granule_fill *f)
{
	return f->cur < f->n_chunks ? &f->chunks[f->cur] : NULL;
}

/* What was asked for has to be kept somewhere, what comes along only if there is room. */
static errint_t publish(struct granule_fill *f, struct err *e)
{
	struct ca_object *o = NULL;
	char key[CA_KEY_MAX];
	errint_t r;

	(void)toc_granule_key(f->l, f->granule, key);
	r = layer_object_put(f->l->s, CA_SPAN, key, f->data.data, f->data.len, e);
	if (r < 0)
		return r;
	stat_inc(STAT_TOC_GRANULES);
	stat_add(STAT_TOC_BYTES_OUT, (int64_t)f->data.len);
	buf_clear(&f->data);
	if (f->granule++ != f->wanted)
		return 0;
	if (ca_object_open(f->l->s, CA_SPAN, key, &o, NULL) < 0)
		return 0;
	if (ca_object_in_memory(o))	/* no disk: the others would push this one out */
		f->end = f->granule;
	layer_keep_recent(f->l, o);
	return 0;
}

/* The current chunk is complete. */
static errint_t end_chunk(struct granule_fill *f, struct err *e)
{
	const struct toc_chunk *c = &f->chunks[f->cur];
	struct digest d;

	digest_ctx_end(f->sum, &d);
	digest_ctx_reset(f->sum);
	f->got = 0;
	if (memcmp(d.raw, c->sha256, sizeof(c->sha256)) != 0) {
		f->wrong = f->done = true;
		return -EBADMSG;
	}
	f->cur++;
	f->done = !current(f) || current(f)->in != c->in;
	if (f->data.len < toc_granule_len(f->l, f->granule))
		return 0;
	return publish(f, e);
}

/* One piece of a member's inflated bytes. */
static errint_t member_bytes(void *ctx, const void *data, size_t len, struct err *e)
{
	struct granule_fill *f = ctx;
	uint64_t at = inflate_out(f->z) - len;
	const uint8_t *p = data;
	errint_t r = layer_check_cancel(f->cancel, e);

	if (r == 0)	/* a zstd frame chooses its window */
		r = layer_gate_grow(&f->gate, toc_granule_len(f->l, f->granule) + inflate_memory(f->z), f->cancel, e);
	while (r == 0 && len && !f->done) {
		const struct toc_chunk *c = &f->chunks[f->cur];	/* there is one while it is not done */
		uint64_t next = (uint64_t)c->inner + f->got;
		size_t n = (size_t)MIN_OF(len, next > at ? next - at : c->len - f->got);

		if (next == at) {
			r = buf_add(&f->data, p, n);
			digest_ctx_add(f->sum, p, n);
			f->got += n;
		}
		at += n;
		p += n;
		len -= n;
		if (r == 0 && f->got == c->len)
			r = end_chunk(f, e);
	}
	return r == 0 && f->done ? -EALREADY : r;	/* no more of it is to be inflated */
}

static errint_t begin_member(struct granule_fill *f, struct err *e)
{
	const struct toc_chunk *c = &f->chunks[f->cur];

	if (!f->z && !(f->z = inflate_new(member_bytes, f)))
		return err_errno(e, ENOMEM, "decompressor");
	inflate_restart(f->z);
	f->in_member = true;
	f->done = false;
	f->member_end = 0;
	for (size_t i = f->cur; i < f->n_chunks && f->chunks[i].in == c->in; i++)
		f->member_end = MAX_OF(f->member_end, f->chunks[i].in_end);
	return 0;
}

/* What the decoder says of bytes that should be a chunk is the same as a wrong digest. */
static errint_t member_result(struct granule_fill *f, errint_t r)
{
	if (r == -EALREADY && f->done && !f->wrong)
		return 0;
	if (r == -EBADMSG || (r == -EFBIG && !f->data.failed))
		f->wrong = true;
	return r;
}

/* Bytes of the present member; its end decides. */
static errint_t push_member(struct granule_fill *f, const uint8_t *p, size_t n, struct err *e)
{
	errint_t r = member_result(f, inflate_push(f->z, p, n, e));

	if (r == 0 && !f->done && f->in + n == f->member_end)
		r = member_result(f, inflate_end(f->z, NULL));
	if (r == 0 && !f->done && f->in + n == f->member_end) {
		f->wrong = true;
		r = -EBADMSG;
	}
	if (r == 0 && f->done)
		f->in_member = false;
	return r;
}

static errint_t blob_bytes(void *ctx, const void *data, size_t len, struct err *e)
{
	struct granule_fill *f = ctx;
	const uint8_t *p = data;
	errint_t r = 0;

	while (r == 0 && len && current(f) && f->granule < f->end) {
		uint64_t n;

		if (!f->in_member && f->in < current(f)->in) {
			n = MIN_OF(len, current(f)->in - f->in);
		} else {
			r = f->in_member ? 0 : begin_member(f, e);
			n = r == 0 ? MIN_OF(len, f->member_end - f->in) : 0;
			if (r == 0)
				r = push_member(f, p, n, e);
		}
		f->in += n;
		p += n;
		len -= n;
	}
	return r == -EBADMSG ? err_set(e, EIO, ERR_INTEGRITY, "part of layer %s does not match its digest", f->l->key) : r;
}

/* ---- one request */

static errint_t object_read(void *ctx, uint64_t off, void *dst, size_t len, struct err *e)
{
	return ca_object_read(ctx, off, dst, len, e);
}

static uint64_t last_byte(const struct granule_fill *f)
{
	uint64_t end = 0;

	for (size_t i = f->n_chunks; i-- > 0 && f->chunks[i].in == f->chunks[f->n_chunks - 1].in;)
		end = MAX_OF(end, f->chunks[i].in_end);
	return end;
}

static errint_t fetch(struct granule_fill *f, const struct ca_source *src, struct err *e)
{
	struct ca_layer *l = f->l;
	uint64_t end = last_byte(f), len;
	errint_t r;

	f->in = f->chunks[0].in;
	f->sum = digest_ctx_new(DIGEST_SHA256);
	if (!f->sum)
		return err_errno(e, ENOMEM, "reading a layer");
	len = end - f->in;
	stat_add(STAT_TOC_BYTES_IN, (int64_t)len);
	r = layer_source_read(l->s, &l->digest, l->toc->packed, f->in, len, src, blob_bytes, f, f->cancel, e);
	if (r == 0 && f->granule < f->end) {
		f->wrong = true;
		r = err_set(e, EIO, ERR_INTEGRITY, "part of layer %s is shorter than what was asked for", l->key);
	}
	return r;
}

/* What one attempt needs, and has to give back. */
static void fill_reset(struct granule_fill *f)
{
	f->z = inflate_free(f->z);
	f->sum = digest_ctx_free(f->sum);
	free(steal_ptr(&f->chunks));
	buf_done(&f->data);
	f->n_chunks = f->cur = f->got = 0;
	f->in_member = f->done = f->wrong = false;
}

static errint_t attempt(struct granule_fill *f, const struct ca_source *src, struct err *e)
{
	const struct toc_file *t = f->l->toc;
	errint_t r;

	fill_reset(f);
	f->granule = f->wanted;
	f->data.max = TOC_CHUNK_MAX;
	f->n_chunks = t->granules[f->end].first - t->granules[f->wanted].first;
	r = toc_file_chunks(t, f->wanted, f->end, object_read, f->l->object, &f->chunks, e);
	return r < 0 ? r : fetch(f, src, e);
}

/* ---- how much at once */

/* Those that follow and are not here, more of them while somebody reads on. */
static uint32_t find_end(struct ca_layer *l, uint32_t granule)
{
	bool goes_on = granule > 0 && atomic_load(&l->next_granule) == granule;
	uint32_t n = goes_on ? MIN_OF(2 * atomic_load(&l->ahead), AHEAD_MAX) : 1, end = granule + 1;
	char key[CA_KEY_MAX];

	n = MAX_OF(n, 1U);
	while (end < l->toc->n_granules && end - granule < n &&
	       l->toc->granules[end + 1].out - l->toc->granules[granule].out <= AHEAD_MAX * TOC_GRANULE_AIM &&
	       !ca_object_exists(l->s, CA_SPAN, toc_granule_key(l, end, key)))
		end++;
	atomic_store(&l->ahead, n);
	atomic_store(&l->next_granule, end);
	return end;
}

errint_t toc_refuted(struct ca_layer *l, const char *how, struct err *e)
{
	atomic_store(&l->refuted, true);
	return err_set(e, EILSEQ, ERR_INTEGRITY, "its %s is not about this blob: %s",
		       toc_is_soci(l->toc->format) ? "SOCI index" : "table of contents", how);
}

errint_t toc_dropped(struct ca_layer *l, struct err *e)
{
	layer_condemn(l);
	return err_set(e, EBADMSG, ERR_INTEGRITY, "the cached index of layer %s was wrong; it has been dropped", l->key);
}

static errint_t attempts(struct granule_fill *f, const struct ca_source *src, struct err *e)
{
	errint_t r = attempt(f, src, e);

	for (int i = 1; i < TRIES && f->wrong && f->granule == f->wanted; i++) {
		stat_inc(STAT_INTEGRITY_FAILURES);
		if (src && src->bad)
			(void)src->bad(src->ctx, &f->l->digest);	/* another mirror, if there is one */
		f->end = f->wanted + 1;
		r = attempt(f, src, e);
	}
	if (f->granule > f->wanted) /* what was asked for is there; the rest can wait */
		return 0;
	if (f->wrong)
		return toc_refuted(f->l, "a file's bytes do not match their digest", e);
	return r == -EBADMSG ? toc_dropped(f->l, e) : r;
}

static errint_t fill(struct ca_layer *l, uint32_t granule, uint32_t end, const struct ca_source *src,
		     struct cancel *c, struct err *e)
{
	struct granule_fill f = { .l = l, .cancel = c, .wanted = granule, .end = end };
	errint_t r = layer_gate_grow(&f.gate, toc_granule_len(l, granule), c, e);

	if (r == 0)
		r = attempts(&f, src, e);
	fill_reset(&f);
	layer_gate_done(&f.gate);
	return r;
}

errint_t toc_layer_fill_granule(struct ca_layer *l, uint32_t granule, const struct ca_source *src,
				struct cancel *c, struct err *e)
{
	_cleanup_(ca_object_unrefp) struct ca_object *there = NULL;

	if (granule >= l->toc->n_granules)
		return err_set(e, EINVAL, ERR_BUG, "layer %s has no part %u", l->key, granule);
	if (granule_open(l, granule, &there) == 0) /* that it exists is not enough to read it */
		return 0;
	if (atomic_load(&l->refuted))
		return toc_refuted(l, "part of it was wrong before", e);
	if (toc_is_soci(l->toc->format))
		return ztoc_layer_fill_run(l, granule, 1, src, c, e);
	return fill(l, granule, find_end(l, granule), src, c, e);
}

errint_t toc_layer_fill_run(struct ca_layer *l, uint32_t first, uint32_t n, const struct ca_source *src,
			    struct cancel *c, struct err *e)
{
	if (atomic_load(&l->refuted))
		return toc_refuted(l, "part of it was wrong before", e);
	if (toc_is_soci(l->toc->format))
		return ztoc_layer_fill_run(l, first, n, src, c, e);
	return fill(l, first, first + n, src, c, e);
}
