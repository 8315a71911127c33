/* readahead.c - the table of readers behind readahead.h */
#include "policy/readahead.h"

#include <stddef.h>

static uint32_t min_u32(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* Whose next piece that can be; a step back within reach is somebody out of order, not another one. */
static bool is_near(const struct po_reader *r, uint32_t at)
{
	if (!r->used)
		return false;
	return at >= r->at ? at - r->at <= 1 + PO_READERS_NEAR : r->at - at <= PO_READERS_NEAR;
}

static struct po_reader *find_reader(struct po_readahead *ra, uint32_t at, bool *ret_new)
{
	struct po_reader *oldest = &ra->readers[0];

	for (size_t i = 0; i < PO_READERS; i++) {
		struct po_reader *r = &ra->readers[i];

		if (is_near(r, at)) {
			*ret_new = false;
			return r;
		}
		if (r->used < oldest->used)
			oldest = r;
	}
	*ret_new = true;
	return oldest;
}

static void tick(struct po_readahead *ra, struct po_reader *r)
{
	if (++ra->clock == 0) {	/* everybody is equally old once in four thousand million pieces */
		for (size_t i = 0; i < PO_READERS; i++)
			ra->readers[i].used = ra->readers[i].used > 0;
		ra->clock = 2;
	}
	r->used = ra->clock;
}

bool po_readahead(struct po_readahead *ra, uint32_t at, uint32_t n, uint32_t max, uint32_t *ret_from,
		  uint32_t *ret_end)
{
	bool fresh;
	struct po_reader *r = find_reader(ra, at, &fresh);
	uint32_t end;

	if (fresh) {
		*r = (struct po_reader){ .at = at, .until = at + 1 };
		tick(ra, r);
		return false;
	}
	tick(ra, r);
	if (at <= r->at)
		return false;
	r->at = at;
	r->window = min_u32(r->window ? 2 * r->window : 1, max);
	end = at >= n ? n : at + 1 + min_u32(r->window, n - at - 1);
	*ret_from = r->until > at ? r->until : at + 1;
	*ret_end = end;
	if (*ret_from >= end)
		return false;
	r->until = end;
	return true;
}
