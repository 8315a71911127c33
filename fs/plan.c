/*
 * plan.c - see plan.h
 *
 * Per layer and flavour a bit per piece says what is in the plan, and a list of ranges in which
 * order it came.  Runs are made from both when the plan is wanted: what neighbours in a layer comes
 * along, whenever it is due itself.
 */
#include "fs/plan.h"

#include "fs/need_priv.h"
#include "fs/pace.h"
#include "util/stats.h"

#define FILES_DEPTH_MAX TREE_DEPTH_MAX
#define RANGES_MAX (1u << 20)	/* a sub-tree that is scattered more widely: what comes behind is not planned */
#define RUN_PIECES_MAX 64u
#define WORD 64u

struct range {
	uint32_t slot, first, n;
};

struct plan {
	_Atomic unsigned refs;
	struct image *img;
	size_t n_slots;			/* as in image.layers: two flavours of each layer */
	struct slot {
		struct ca_layer *l;	/* a ref; NULL: not in the plan */
		uint64_t *bits;
		uint32_t n;
		bool streamed_instead;	/* what it lacks comes from the other flavour */
	} *slots;
	struct range *order, *runs;
	size_t n_order, cap_order, n_runs, cap_runs;
	enum plan_haste haste;
	_Atomic size_t next;		/* run that nobody has taken yet */
	_Atomic uint64_t left;		/* counted in STAT_PREFETCH_LEFT */
};

struct plan *plan_new(struct image *img)
{
	struct plan *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	atomic_init(&p->refs, 1);
	p->img = image_ref(img);
	p->n_slots = 2 * img->m->n_layers;
	p->slots = calloc(p->n_slots + 1, sizeof(*p->slots));
	return p->slots ? p : plan_unref(p);
}

struct plan *plan_unref(struct plan *p)
{
	if (!p || atomic_fetch_sub(&p->refs, 1) != 1)
		return NULL;
	stat_add(STAT_PREFETCH_LEFT, -(int64_t)atomic_load(&p->left));
	for (size_t i = 0; p->slots && i < p->n_slots; i++) {
		(void)ca_layer_unref(p->slots[i].l);
		free(p->slots[i].bits);
	}
	free(p->slots);
	free(p->order);
	free(p->runs);
	image_unref(p->img);
	free(p);
	return NULL;
}

/* ---- what is in it ---- */

static bool has(const struct slot *s, uint32_t i)
{
	return i < s->n && s->bits[i / WORD] >> i % WORD & 1;
}

static bool add_range(struct range **v, size_t *n, size_t *cap, const struct range *r)
{
	size_t more = *cap ? 2 * *cap : 64;

	if (*n == *cap) {
		struct range *p = more <= RANGES_MAX ? reallocarray(*v, more, sizeof(*p)) : NULL;

		if (!p)
			return false;
		*v = p;
		*cap = more;
	}
	(*v)[(*n)++] = *r;
	return true;
}

static void add_piece(struct plan *p, uint32_t slot, uint32_t i)
{
	struct slot *s = &p->slots[slot];
	struct range *last = p->n_order ? &p->order[p->n_order - 1] : NULL;

	if (i >= s->n || has(s, i))
		return;
	if (last && last->slot == slot && last->first + last->n == i)
		last->n++;
	else if (!add_range(&p->order, &p->n_order, &p->cap_order, &(struct range){ slot, i, 1 }))
		return;
	s->bits[i / WORD] |= UINT64_C(1) << i % WORD;
}

/* Takes over l. */
static errint_t enter(struct op *op, struct slot *s, struct ca_layer *l)
{
	s->n = ca_layer_pieces(l);
	s->bits = calloc(s->n / WORD + 1, sizeof(*s->bits));
	s->l = l;
	return s->bits ? 0 : err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
}

static errint_t add_whole(struct op *op, struct plan *p, size_t i, struct ca_layer *l)
{
	uint32_t slot = (uint32_t)(ca_layer_is_lazy(l) ? p->img->m->n_layers + i : i);
	struct slot *s = &p->slots[slot];
	errint_t r = s->l ? 0 : enter(op, s, ca_layer_ref(l));

	for (uint32_t k = 0; r == 0 && k < s->n; k++)
		add_piece(p, slot, k);
	return r;
}

/* What the table of contents is wrong about is read from the streamed layer. */
static errint_t add_twin(struct op *op, struct plan *p, size_t i, struct slot *s)
{
	_cleanup_(ca_layer_unrefp) struct ca_layer *l = NULL;
	errint_t r;

	s->streamed_instead = true;
	r = open_streamed(op, p->img, i, &l);
	return r < 0 ? r : add_whole(op, p, i, l);
}

/* The slot of layer i in the flavour that an offset is about, opened. */
static errint_t open_slot(struct op *op, struct plan *p, size_t i, uint64_t off, uint32_t *ret)
{
	struct ca_layer *l = NULL;
	struct slot *s;
	errint_t r;

	if (i >= p->img->m->n_layers)
		return -ENOENT;
	*ret = (uint32_t)(off >= CA_TOC_DATA ? p->img->m->n_layers + i : i);
	s = &p->slots[*ret];
	if (s->l)
		return 0;
	r = need_data_layer(op, p->img, i, off, &l);
	if (r == 0)
		r = enter(op, s, l);
	if (r == 0 && ca_layer_is_lazy(l) && (ca_layer_refuted(l) || lazy_refused(p->img, i)))
		r = add_twin(op, p, i, s);
	return r;
}

errint_t plan_add_layer(struct op *op, struct plan *p, size_t layer)
{
	return plan_add_first(op, p, layer, UINT32_MAX);
}

errint_t plan_add_layers(struct op *op, struct plan *p)
{
	errint_t waiting = 0;

	for (size_t i = 0; i < p->img->m->n_layers; i++) {
		errint_t r = plan_add_layer(op, p, i);

		if (r < 0 && r != -EINPROGRESS)
			return r;
		waiting = r < 0 ? r : waiting;
	}
	return waiting;
}

errint_t plan_add_first(struct op *op, struct plan *p, size_t layer, uint32_t n)
{
	uint32_t slot;
	errint_t r;

	if (layer >= p->img->m->n_layers)
		return -ENOENT;
	r = soci_decide(op, p->img);
	if (r < 0)
		return r;
	r = open_slot(op, p, layer, lazy_wanted(op->fs, p->img, layer) ? CA_TOC_DATA : 0, &slot);
	for (uint32_t i = 0; r == 0 && i < MIN_OF(n, p->slots[slot].n); i++)
		add_piece(p, slot, i);
	return r;
}

/* ---- files ---- */

static errint_t add_data(struct op *op, struct plan *p, size_t layer, uint64_t off, uint64_t len)
{
	uint32_t slot, last;
	errint_t r = len ? open_slot(op, p, layer, off, &slot) : 0;

	if (r < 0 || !len)
		return r;
	if (off >= CA_TOC_DATA && !ca_layer_is_lazy(p->slots[slot].l)) /* its index is gone: a place in the tar */
		off -= CA_TOC_DATA;
	last = ca_layer_piece_at(p->slots[slot].l, off + len - 1);
	for (uint32_t i = ca_layer_piece_at(p->slots[slot].l, off); i <= last; i++)
		add_piece(p, slot, i);
	return 0;
}

static errint_t add_file(struct op *op, struct plan *p, struct tree *t, size_t layer, uint32_t n)
{
	struct tree_attr a;
	struct tree_extent x;
	errint_t r = 0;

	tree_get(t, n, &a);
	if (a.type != TREE_REG)
		return 0;
	layer = layer == PLAN_MERGED ? a.layer : layer;
	if (!(a.flags & TREE_F_SPARSE))
		return add_data(op, p, layer, a.data_off, a.size);
	for (size_t i = 0; r == 0 && tree_extent(t, a.ino, i, &x); i++)
		r = add_data(op, p, layer, x.data_off, x.len);
	return r;
}

struct place {
	uint32_t next, end;
};

errint_t plan_add_files(struct op *op, struct plan *p, struct tree *t, size_t layer, uint32_t n)
{
	_cleanup_free_ struct place *stack = calloc(FILES_DEPTH_MAX + 1, sizeof(*stack));
	errint_t waiting = 0;
	size_t depth = 0;

	if (!stack)
		return err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
	stack[0] = (struct place){ n, n + 1 };
	for (;;) {
		struct place *at = &stack[depth];
		struct tree_attr a;
		errint_t r;

		if (at->next == at->end && depth-- == 0)
			return waiting;
		if (at->next == at->end)
			continue;
		n = at->next++;
		r = add_file(op, p, t, layer, n);
		if (r < 0 && r != -EINPROGRESS)
			return r;
		waiting = r < 0 ? r : waiting;
		tree_get(t, n, &a);
		if (a.type == TREE_DIR && a.n_children && depth < FILES_DEPTH_MAX)
			stack[++depth] = (struct place){ a.first_child, a.first_child + a.n_children };
	}
}

/* ---- what is missing ---- */

static bool is_missing(const struct slot *s, uint32_t i)
{
	return !s->streamed_instead && !ca_layer_piece_here(s->l, i);
}

void plan_sum(const struct plan *p, struct plan_sum *ret)
{
	*ret = (struct plan_sum){ 0 };
	for (size_t i = 0; i < p->n_order; i++) {
		const struct range *r = &p->order[i];
		const struct slot *s = &p->slots[r->slot];

		for (uint32_t k = r->first; k < r->first + r->n; k++) {
			struct ca_piece piece;

			ca_layer_piece(s->l, k, &piece);
			ret->bytes += piece.len;
			ret->packed += piece.packed;
			if (!is_missing(s, k))
				continue;
			ret->missing += piece.len;
			ret->missing_packed += piece.packed;
		}
	}
}

/* The run that begins with a missing piece; its bits go, so that it is taken once. */
static struct range take_run(struct slot *s, uint32_t slot, uint32_t first, uint64_t most)
{
	struct range run = { slot, first, 0 };
	uint64_t packed = 0;

	for (uint32_t i = first; has(s, i) && run.n < RUN_PIECES_MAX && is_missing(s, i); i++) {
		struct ca_piece piece;

		ca_layer_piece(s->l, i, &piece);
		packed += piece.packed;
		if (run.n > 0 && packed > most)
			break;
		s->bits[i / WORD] &= ~(UINT64_C(1) << i % WORD);
		run.n++;
	}
	return run;
}

/* ---- fetching ---- */

static uint64_t packed_of(const struct slot *s, uint32_t first, uint32_t n)
{
	uint64_t sum = 0;

	for (uint32_t i = first; i < first + n; i++) {
		struct ca_piece piece;

		ca_layer_piece(s->l, i, &piece);
		sum += piece.packed;
	}
	return sum;
}

/* Returns their compressed bytes. */
static uint64_t make_runs(struct plan *p, uint64_t each, uint64_t most)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < p->n_order; i++) {
		const struct range *r = &p->order[i];

		for (uint32_t k = r->first; k < r->first + r->n && sum < most; k++) {
			struct range run = take_run(&p->slots[r->slot], r->slot, k, each);

			if (run.n > 0 && !add_range(&p->runs, &p->n_runs, &p->cap_runs, &run))
				return sum;
			sum += packed_of(&p->slots[r->slot], run.first, run.n);
		}
	}
	return sum;
}

/* One run; what the cache did not take of it is asked for again, from there.  Not if it took no span but
 * the first, as on a full disk: each would bring all behind it along, for nothing. */
static errint_t fetch_run(struct fs *fs, struct plan *p, const struct range *run, struct cancel *c, struct err *e)
{
	struct slot *s = &p->slots[run->slot];
	size_t layer = run->slot % p->img->m->n_layers;
	_Atomic uint64_t got = 0;
	struct ca_run mine = { 0 };
	struct wire_source ws = {
		.reg = site_registry(p->img->site), .repo = p->img->repo, .got = &got,
		.pace = p->haste == PLAN_WAITED ? NULL : fs->pace, .yields = p->haste == PLAN_QUIET,
		.hurry = &mine.waiting,
	};
	struct ca_source src = wire_source(&ws);
	bool taken = true;
	errint_t r = 0;

	for (uint32_t i = run->first, end = i + run->n; r == 0 && taken && i < end; i++) {
		if (ca_layer_piece_here(s->l, i))
			continue;
		if (p->haste != PLAN_WAITED)
			stat_inc(STAT_PREFETCH_REQUESTS);
		r = ca_layer_fill_run(s->l, i, end - i, &mine, &src, c, e);
		r = need_filled(fs, p->img, layer, s->l, r, e);
		taken = ca_layer_is_lazy(s->l) || i + 1 == end || ca_layer_piece_here(s->l, i + 1);
	}
	if (p->haste != PLAN_WAITED)
		stat_add(STAT_PREFETCH_BYTES, (int64_t)atomic_load(&got));
	return r;
}

static void one_run_less(struct plan *p, const struct range *run)
{
	uint64_t packed = packed_of(&p->slots[run->slot], run->first, run->n);

	if (p->haste == PLAN_WAITED)
		return;
	(void)atomic_fetch_sub(&p->left, packed);
	stat_add(STAT_PREFETCH_LEFT, -(int64_t)packed);
}

static errint_t work(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct plan *p = arg;
	errint_t r = 0;
	size_t i;

	while (r == 0 && (i = atomic_fetch_add(&p->next, 1)) < p->n_runs) {
		r = cancel_fired(c) ? err_set(e, ECANCELED, ERR_CANCELLED, "nobody waits for it any more") :
				      fetch_run(fs, p, &p->runs[i], c, e);
		one_run_less(p, &p->runs[i]);
	}
	return r;
}

static void drop(void *arg)
{
	(void)plan_unref(arg);
}

static errint_t work_key(const char *key, unsigned i, struct buf *out)
{
	return buf_addf(out, "%s #%u", key, i);
}

errint_t plan_want(struct op *op, struct plan *p, const char *key, unsigned works, enum plan_haste haste,
		   uint64_t most)
{
	struct plan_sum sum;
	uint64_t each, left;
	errint_t r = 0;

	plan_sum(p, &sum);
	works = MIN_OF(works, PLAN_WORKS);
	p->haste = haste;
	each = MIN_OF(sum.missing_packed, most) / (2UL * works);
	left = make_runs(p, MIN_OF(MAX_OF(each, (uint64_t)PLAN_RUN_MIN), (uint64_t)PLAN_RUN_MAX), most);
	if (haste != PLAN_WAITED) {
		atomic_store(&p->left, left);
		stat_add(STAT_PREFETCH_LEFT, (int64_t)left);
	}
	for (unsigned i = 0; i < MIN_OF((size_t)works, p->n_runs) && (r == 0 || r == -EINPROGRESS); i++) {
		_cleanup_buf_ struct buf name = BUF_INIT(2048);

		if (work_key(key, i, &name) < 0)
			return err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
		(void)atomic_fetch_add(&p->refs, 1);
		r = op_want(op, buf_str(&name), work, p, drop);
	}
	return r;
}

unsigned plan_times(struct op *op, const char *key)
{
	_cleanup_buf_ struct buf name = BUF_INIT(2048);

	return work_key(key, 0, &name) < 0 ? 0 : op_times_waited(op, buf_str(&name));
}
