/*
 * layer_fill.c - indexing a layer: everything that can be learned from streaming its blob once
 *
 *	source -> SHA of the blob, marks of it at units -> inflate -> SHA of the tar (diff id)
 *		-> tar reader -> tree builder
 *		-> spans (temp files), CRC of each
 *		-> checkpoints
 *
 * The blob's digest decides about everything.  Hence damage found while decoding does not end the
 * pass: the rest is still hashed, and only if the blob is what it should be, the layer is to blame
 * (class INPUT or LIMIT, fetching it again will not help), else the transfer (INTEGRITY).  When all
 * is right, spans are published first and the layer object, which makes them reachable, last.
 *
 * Checkpoints stand at multiples of CA_SPAN_BYTES where the decoder can make one anywhere, else at
 * the first opportunity from CHECKPOINT_SLACK before such a multiple (zlib) or every FRAME_SPACING
 * (zstd). When the states outgrow LAYER_STATES_MAX, every other one is dropped: a running fill has
 * bounded memory, and very large layers have coarser access.  Memory: input block, piece, queue (1
 * MiB), states (4 MiB), what is decoded ahead (inflate_ahead.h), and what the layer chooses: zstd's
 * window (128 MiB at most), tar headers (TAR_META_MAX each) and the tree builder (tree_bytes_max);
 * layer_gate.h bounds the sum.
 *
 * Threads: the caller's; those of inflate_ahead.h, which inflate only; and where a core is likely to
 * be idle one for the hashes, the span CRCs and the writing (layer_side.h), about 40 % of the work.
 */
#include <string.h>

#include "cache/crc.h"
#include "cache/inflate_ahead.h"
#include "cache/layer_gate.h"
#include "cache/layer_priv.h"
#include "cache/layer_side.h"
#include "cache/layer_sums.h"
#include "cache/tar.h"
#include "cache/toc_index.h"
#include "cache/tree_write.h"
#include "util/stats.h"

_Static_assert(SIDE_PIECE_BYTES >= INFLATE_PIECE, "a piece fits a slot");

#define INPUT_BLOCK (128u << 10)	/* small pieces from the source are collected to this */
#define SIDE_EVERY (4 * INFLATE_PIECE)	/* how often a second thread is asked for */
#define CHECKPOINT_SLACK INFLATE_PIECE
#define FRAME_SPACING (CA_SPAN_BYTES / 8) /* zstd: a frame's start needs no state, so have more */

struct fill {
	const struct digest *want, *want_diff;
	uint64_t size, got;
	struct cancel *cancel;
	struct layer_sums sums;	/* the side's, see below */
	struct digest_ctx *diff;
	struct inflate *z;
	struct ahead *ahead;	/* in front of z */
	struct tar_reader *tar;
	struct tree_builder *tree;
	struct side *side;	/* NULL: no second thread */
	struct span_set spans;	/* these, sums, diff and file.crcs: the side's until it has ended */
	bool no_memory;
	struct layer_file file;
	size_t cap_units, cap_crcs;
	struct buf states;
	uint32_t stride;	/* every stride-th unit has a state */
	uint64_t next_point;	/* where the next checkpoint is due, inflated; 0: to be decided */
	const uint8_t *cur;	/* what is being decoded; cur_off: its place in the blob */
	uint64_t cur_off;
	uint64_t hashed;	/* so far the blob's hash has come */
	uint8_t *block;
	size_t block_len;
	struct digest got_digest;
	errint_t broken;	/* decoding has failed; why says how */
	struct err why;
	struct layer_gate gate;
	bool toc_last;		/* so far the archive ends with an eStargz index */
};

uint32_t layer_units_max = LAYER_UNITS_MAX;

/* ---- what another thread can do: it uses sums, diff, spans, crcs and no_memory only */

enum { PACKED, MARK, INFLATED };

static bool grow_crcs(struct fill *f, size_t span)
{
	size_t cap = span * 2 + 64;
	uint32_t *p = realloc(f->file.crcs, cap * sizeof(*p));

	if (!p)
		return false;
	memset(p + f->cap_crcs, 0, (cap - f->cap_crcs) * sizeof(*p));
	f->file.crcs = p;
	f->cap_crcs = cap;
	return true;
}

static void inflated_side(struct fill *f, uint64_t off, const void *data, size_t len)
{
	size_t span = (size_t)(off / CA_SPAN_BYTES);

	if (f->diff)
		digest_ctx_add(f->diff, data, len);
	span_set_add(&f->spans, off, data, len);
	if (span >= f->cap_crcs && !grow_crcs(f, span))
		f->no_memory = true;
	else
		f->file.crcs[span] = crc32_add(f->file.crcs[span], data, len);
}

static void on_side(void *ctx, int what, uint64_t off, const void *data, size_t len)
{
	struct fill *f = ctx;

	if (what == INFLATED)
		inflated_side(f, off, data, len);
	else if (what == PACKED)
		layer_sums_add(&f->sums, data, len);
	else
		layer_sums_mark(&f->sums);
}

static void give(struct fill *f, int what, uint64_t off, const void *data, size_t len)
{
	if (f->side)
		side_push(f->side, what, off, data, len);
	else
		on_side(f, what, off, data, len);
}

/* ---- units and checkpoints */

/* Of what is being decoded, up to `to` in the blob. */
static void hash_up_to(struct fill *f, uint64_t to)
{
	while (f->hashed < to) {
		size_t n = (size_t)MIN_OF(to - f->hashed, (uint64_t)SIDE_PIECE_BYTES);

		give(f, PACKED, 0, f->cur + (f->hashed - f->cur_off), n);
		f->hashed += n;
	}
}

static errint_t grow_units(struct fill *f, struct err *e)
{
	errint_t r = tree_vec_grow(&f->file.units, &f->cap_units, f->file.n_units, layer_units_max,
				   sizeof(*f->file.units));

	if (r == -EFBIG)
		return err_set(e, EFBIG, ERR_LIMIT, "more than %u parts", layer_units_max);
	return r < 0 ? err_errno(e, -r, "indexing a layer") : 0;
}

/* Drops every other state and moves the rest together. */
static void thin_states(struct fill *f)
{
	size_t len = 0;

	f->stride *= 2;
	for (uint32_t i = 0; i < f->file.n_units; i++) {
		struct layer_unit *u = &f->file.units[i];

		if (u->state_len && i % f->stride) {
			u->has_state = false;
			u->state_len = 0;
		}
		if (u->state_len)
			memmove(f->states.data + len, f->states.data + u->state_off, u->state_len);
		u->state_off = len;
		len += u->state_len;
	}
	f->states.len = len;
}

static uint64_t point_after(const struct fill *f, uint64_t out)
{
	uint64_t slack = inflate_anywhere(f->z) ? 0 : CHECKPOINT_SLACK;

	if (inflate_format(f->z) == INFLATE_ZSTD)
		return out + FRAME_SPACING;
	return (out + slack) / CA_SPAN_BYTES * CA_SPAN_BYTES + CA_SPAN_BYTES - slack;
}

static errint_t checkpoint(struct fill *f, struct err *e)
{
	struct layer_unit u = { .state_off = f->states.len, .has_state = true };

	if (!f->next_point)
		f->next_point = point_after(f, 0);
	if (inflate_out(f->z) < f->next_point ||
	    !inflate_checkpoint(f->z, &u.in, &u.out, &f->states))
		return 0;
	u.state_len = (uint32_t)(f->states.len - u.state_off);
	if (f->file.n_units % f->stride && u.state_len) {
		f->states.len = u.state_off;
		u.has_state = false;
		u.state_len = 0;
	}
	errint_t r = grow_units(f, e);
	if (r < 0)
		return r;
	hash_up_to(f, u.in);
	give(f, MARK, 0, NULL, 0);
	f->file.units[f->file.n_units++] = u;
	f->next_point = point_after(f, u.out);
	if (f->states.len > LAYER_STATES_MAX)
		thin_states(f);
	return 0;
}

/* ---- the inflated side */

static errint_t tar_entry(void *ctx, const struct tree_entry *en, struct err *e)
{
	struct fill *f = ctx;

	f->toc_last = en->type == TREE_REG && en->path_len == strlen(TOC_NAME) &&
		      memcmp(en->path, TOC_NAME, en->path_len) == 0;
	return tree_builder_add(f->tree, en, e);
}

/* Looked at with every piece: what a few compressed bytes inflate to can be endless work. */
static errint_t may_go_on(struct fill *f, struct err *e)
{
	uint64_t bytes = tree_builder_bytes(f->tree) + tar_reader_bytes(f->tar) +
			 inflate_memory(f->z) + inflate_ahead_memory(f->ahead);
	errint_t r = layer_check_cancel(f->cancel, e);

	if (r == 0 && inflate_out(f->z) > (uint64_t)layer_units_max * CA_SPAN_BYTES)
		r = err_set(e, EFBIG, ERR_LIMIT, "more than %llu bytes",
			    (unsigned long long)layer_units_max * CA_SPAN_BYTES);
	return r < 0 ? r : layer_gate_grow(&f->gate, bytes, f->cancel, e);
}

static errint_t inflated(void *ctx, const void *data, size_t len, struct err *e)
{
	struct fill *f = ctx;
	uint64_t off = inflate_out(f->z) - len;
	errint_t r = may_go_on(f, e);

	if (r < 0)
		return r;
	/* Small layers are not worth a thread; large ones may get one that another layer has given back. */
	if (!f->side && off && off % SIDE_EVERY == 0)
		f->side = side_new(on_side, f);
	give(f, INFLATED, off, data, len);
	r = tar_reader_push(f->tar, data, len, e);
	return r < 0 ? r : checkpoint(f, e);
}

/* ---- the compressed side */

static bool is_content_error(errint_t r)
{
	return r == -EBADMSG || r == -EINVAL || r == -EFBIG;
}

static errint_t decoded(struct fill *f, errint_t r, const struct err *why, struct err *e)
{
	if (r == 0)
		return 0;
	if (is_content_error(r) && !f->broken) {
		f->broken = r;
		f->why = *why;
		return 0;
	}
	if (e)
		*e = *why;
	return r;
}

/* Decodes, or (out) takes what has been decoded ahead; hashes in any case. */
static errint_t decode(struct fill *f, const uint8_t *p, size_t len, const void *out, size_t out_len,
		       struct err *e)
{
	struct err why = { 0 };
	errint_t r = 0;

	f->cur = p;
	f->cur_off = f->hashed;
	if (!f->broken) {
		r = out ? inflate_take(f->z, len, out, out_len, &why) : inflate_push(f->z, p, len, &why);
		r = decoded(f, r, &why, e);
	}
	if (r == 0)
		hash_up_to(f, f->cur_off + len);
	return r;
}

static errint_t on_push(void *ctx, const void *data, size_t len, struct err *e)
{
	return decode(ctx, data, len, NULL, 0, e);
}

static errint_t on_take(void *ctx, const void *data, size_t len, const void *out, size_t out_len,
			struct err *e)
{
	return decode(ctx, data, len, out, out_len, e);
}

static const struct ahead_ops ahead_ops = { .push = on_push, .take = on_take };

static errint_t flush_block(struct fill *f, struct err *e)
{
	size_t len = f->block_len;

	f->block_len = 0;
	return len ? inflate_ahead_push(f->ahead, f->block, len, e) : 0;
}

static errint_t integrity(const struct fill *f, const char *what, struct err *e)
{
	char name[DIGEST_TEXT_MAX];

	stat_inc(STAT_INTEGRITY_FAILURES);
	return err_set(e, EIO, ERR_INTEGRITY, "layer %s %s", digest_text(f->want, name), what);
}

static errint_t fill_sink(void *ctx, const void *data, size_t len, struct err *e)
{
	struct fill *f = ctx;
	errint_t r = layer_check_cancel(f->cancel, e);

	if (r == 0 && len > f->size - f->got)
		r = integrity(f, "is longer than its descriptor says", e);
	if (r < 0 || !len)
		return r;
	f->got += len;
	if (f->block_len + len > INPUT_BLOCK)
		r = flush_block(f, e);
	if (r < 0)
		return r;
	if (len >= INPUT_BLOCK / 2)
		return flush_block(f, e) ?: inflate_ahead_push(f->ahead, data, len, e);
	memcpy(f->block + f->block_len, data, len);
	f->block_len += len;
	return 0;
}

/* ---- the end */

static errint_t end_streams(struct fill *f, struct err *e)
{
	struct err why = { 0 };
	errint_t r = flush_block(f, e);

	if (r == 0)
		r = inflate_ahead_end(f->ahead, e);
	if (r == 0 && !f->broken) {
		r = inflate_end(f->z, &why);
		if (r == 0)
			r = tar_reader_end(f->tar, &why);
		r = decoded(f, r, &why, e);
	}
	f->side = side_end(f->side);
	layer_sums_end(&f->sums, &f->got_digest);
	return r == 0 && (f->no_memory || f->sums.no_memory) ? err_errno(e, ENOMEM, "indexing a layer") : r;
}

/* Is the blob what it should be?  Then: is the layer? */
static errint_t verify(struct fill *f, struct err *e)
{
	struct digest d;
	char name[DIGEST_TEXT_MAX];

	if (f->got < f->size)
		return integrity(f, "is shorter than its descriptor says", e);
	if (!digest_eq(&f->got_digest, f->want))
		return integrity(f, "does not match its digest", e);
	if (f->broken) {
		int eno = f->broken == -EFBIG ? EFBIG : EIO;
		enum err_class cls = f->why.cls == ERR_LIMIT ? ERR_LIMIT : ERR_INPUT;

		return err_set(e, eno, cls, "layer %s: %s", digest_text(f->want, name), f->why.msg);
	}
	if (!f->diff)
		return 0;
	digest_ctx_end(f->diff, &d);
	if (!digest_eq(&d, f->want_diff))
		return integrity(f, "does not inflate to its diff id", e);
	f->file.diff_id = d;
	return 0;
}

static void put_marks(struct fill *f)
{
	for (uint32_t i = 0; i < f->file.n_units; i++)
		f->file.units[i].mark = f->sums.marks[i];
	f->file.end = f->sums.marks[f->file.n_units];
}

static errint_t store(struct fill *f, struct ca_store *s, struct err *e)
{
	_cleanup_buf_ struct buf image = BUF_INIT(LAYER_TREE_MAX);
	char key[CA_KEY_MAX];

	toc_hide(f->tree, f->toc_last);
	errint_t r = tree_builder_finish(f->tree, &image, e);
	if (r < 0)
		return r;
	image.max = LAYER_IMAGE_MAX;
	put_marks(f);
	f->file.format = inflate_format(f->z);
	f->file.size = inflate_out(f->z);
	f->file.packed = f->size;
	f->file.n_spans = layer_spans(f->file.size);
	r = layer_file_finish(&f->file, &f->states, &image);
	if (r < 0)
		return err_errno(e, -r, "indexing a layer");
	span_set_publish(&f->spans);
	r = layer_object_put(s, CA_LAYER, layer_key(f->want, key), image.data, image.len, e);
	if (r < 0)
		return err_wrap(e, r, "the index of %zu bytes of layer %s", image.len, key);
	stat_inc(STAT_LAYERS_INDEXED);
	stat_add(STAT_LAYER_BYTES_IN, (int64_t)f->size);
	stat_add(STAT_LAYER_BYTES_OUT, (int64_t)f->file.size);
	return 0;
}

static errint_t run(struct fill *f, struct ca_store *s, const struct ca_source *src, struct err *e)
{
	errint_t r = layer_source_read(s, f->want, f->size, 0, 0, src, fill_sink, f, f->cancel, e);

	if (r == 0)
		r = end_streams(f, e);
	if (r == 0)
		r = verify(f, e);
	return r < 0 ? r : store(f, s, e);
}

/* ---- */

static bool fill_init(struct fill *f, struct ca_store *s)
{
	f->diff = f->want_diff ? digest_ctx_new(f->want_diff->alg) : NULL;
	f->z = inflate_new(inflated, f);
	f->ahead = f->z ? inflate_ahead_new(f->z, &ahead_ops, f) : NULL;
	f->tree = tree_builder_new();
	f->tar = f->tree ? tar_reader_new(tar_entry, f) : NULL;
	f->block = malloc(INPUT_BLOCK);
	f->stride = 1;
	buf_init(&f->states, LAYER_STATES_MAX + 2 * INFLATE_STATE_MAX);
	span_set_init(&f->spans, s, f->want);
	if (!layer_sums_init(&f->sums, f->want->alg) || (f->want_diff && !f->diff) || !f->ahead || !f->tar || !f->block)
		return false;
	if (grow_units(f, NULL) < 0)
		return false;
	f->file.units[f->file.n_units++] = (struct layer_unit){ .has_state = true };
	layer_sums_mark(&f->sums);
	return true;
}

static void fill_done(struct fill *f)
{
	(void)side_end(f->side);
	span_set_done(&f->spans);
	layer_file_done(&f->file);
	buf_done(&f->states);
	free(f->block);
	(void)tar_reader_free(f->tar);
	(void)tree_builder_free(f->tree);
	(void)inflate_ahead_free(f->ahead);
	(void)inflate_free(f->z);
	(void)digest_ctx_free(f->diff);
	layer_sums_done(&f->sums);
	layer_gate_done(&f->gate);
}

errint_t ca_layer_fill(struct ca_store *s, const struct digest *d, uint64_t size,
		       const struct digest *diff_id, const struct ca_source *src, struct cancel *c,
		       struct err *e)
{
	struct fill f = { .want = d, .want_diff = diff_id, .size = size, .cancel = c };
	errint_t r = -ENOMEM;

	if (fill_init(&f, s))
		r = run(&f, s, src, e);
	else
		(void)err_errno(e, ENOMEM, "indexing a layer");
	fill_done(&f);
	return r;
}
