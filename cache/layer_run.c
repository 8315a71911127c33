/*
 * layer_run.c - a layer's data in pieces, for who wants to have many of them here
 *
 * Both flavours of a layer keep their data in pieces (spans, granules) that are numbered from 0 and
 * lie one behind the other.  What is here says which of them are in the cache, and fetches a run of
 * them with one request.
 *
 * A reader who needs a piece that is about to come with a run waits for it instead of fetching it
 * himself: by polling, as what he waits for is short.  Granules are published one by one; spans of a
 * run only at its end, so those are not waited for.
 */
#include "cache/layer_priv.h"

#include "util/clock.h"

#define POLL_NS (2 * NSEC_PER_MSEC)	/* the first time; then ever longer */
#define POLL_MAX_NS (10 * NSEC_PER_MSEC)
#define RUN_SOON 2	/* pieces of a run that may come before the one that is waited for */

uint32_t ca_layer_pieces(const struct ca_layer *l)
{
	return l->toc ? l->toc->n_granules : l->file.n_spans;
}

/* As if all of the layer had been compressed equally well. */
static uint64_t packed_before(uint64_t out, uint64_t size, uint64_t packed)
{
	return size ? (uint64_t)((double)out / (double)size * (double)packed) : 0;
}

void ca_layer_piece(const struct ca_layer *l, uint32_t piece, struct ca_piece *ret)
{
	uint64_t size = ca_layer_size(l), packed = l->toc ? l->toc->packed : l->file.packed, start, end;

	if (l->toc) {
		start = l->toc->granules[piece].out;
		end = l->toc->granules[piece + 1].out;
	} else {
		start = (uint64_t)piece * CA_SPAN_BYTES;
		end = MIN_OF(start + CA_SPAN_BYTES, size);
	}
	*ret = (struct ca_piece){
		.off = start + (l->toc ? CA_TOC_DATA : 0),
		.len = end - start,
		.packed = packed_before(end, size, packed) - packed_before(start, size, packed),
	};
}

uint32_t ca_layer_piece_at(const struct ca_layer *l, uint64_t off)
{
	uint32_t n = ca_layer_pieces(l);

	if (l->toc ? off < CA_TOC_DATA || off - CA_TOC_DATA >= l->toc->size : off >= l->file.size)
		return n;
	return l->toc ? toc_file_granule(l->toc, off - CA_TOC_DATA) : (uint32_t)(off / CA_SPAN_BYTES);
}

uint32_t ca_layer_first_pieces(const struct ca_layer *l)
{
	return l->toc && l->toc->first ? toc_file_granule(l->toc, l->toc->first - 1) + 1 : 0;
}

bool ca_layer_piece_here(struct ca_layer *l, uint32_t piece)
{
	char key[CA_KEY_MAX];

	if (l->toc)
		return ca_object_exists(l->s, CA_SPAN, toc_granule_key(l, piece, key));
	return ca_object_exists(l->s, CA_SPAN, layer_span_key(&l->digest, piece, key));
}

/* ---- runs on their way ---- */

static pthread_mutex_t runs_lock = PTHREAD_MUTEX_INITIALIZER;	/* a leaf */
static struct ca_run *runs;

static void run_enter(struct ca_run *run, const struct ca_layer *l, uint32_t first, uint32_t end)
{
	LOCK_SCOPE(&runs_lock);
	run->l = l;
	run->first = first;
	run->end = end;
	run->next = runs;
	run->prev = &runs;
	if (runs)
		runs->prev = &run->next;
	runs = run;
}

static void run_leave(struct ca_run *run)
{
	LOCK_SCOPE(&runs_lock);
	*run->prev = run->next;
	if (run->next)
		run->next->prev = run->prev;
}

/* Is one on its way that has the piece?  Counts us among its waiters, once. */
static bool join_run(const struct ca_layer *l, uint32_t piece, bool *joined, uint32_t *ret_first)
{
	LOCK_SCOPE(&runs_lock);
	for (struct ca_run *r = runs; r; r = r->next) {
		if (r->l != l || piece < r->first || piece >= r->end)
			continue;
		if (!*joined)
			(void)atomic_fetch_add(&r->waiting, 1);
		*joined = true;
		*ret_first = r->first;
		return true;
	}
	return false;
}

static bool is_soon(struct ca_layer *l, uint32_t first, uint32_t piece)
{
	unsigned before = 0;

	for (uint32_t i = first; i < piece && before <= RUN_SOON; i++)
		before += !ca_layer_piece_here(l, i);
	return before <= RUN_SOON;
}

void layer_run_wait(struct ca_layer *l, uint32_t piece, struct cancel *c)
{
	uint64_t pause = POLL_NS;
	bool joined = false;
	uint32_t first;

	while (!ca_layer_piece_here(l, piece) && join_run(l, piece, &joined, &first)) {
		if (!is_soon(l, first, piece) || cancel_sleep_ns(c, pause, NULL) < 0)
			return;
		pause = MIN_OF(2 * pause, POLL_MAX_NS);
	}
}

errint_t ca_layer_fill_run(struct ca_layer *l, uint32_t first, uint32_t n, struct ca_run *run,
			   const struct ca_source *src, struct cancel *c, struct err *e)
{
	uint32_t pieces = ca_layer_pieces(l);
	errint_t r;

	if (first >= pieces || n == 0)
		return err_set(e, EINVAL, ERR_BUG, "layer %s has no piece %u", l->key, first);
	n = MIN_OF(n, pieces - first);
	run_enter(run, l, first, first + n);
	r = l->toc ? toc_layer_fill_run(l, first, n, src, c, e) : layer_fill_spans(l, first, n, src, c, e);
	run_leave(run);
	return r;
}
