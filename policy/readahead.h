/*
 * readahead.h - is somebody reading on, and how much should come before he asks?
 *
 * A layer is kept in pieces of some MiB.  Who reads them one after the other is given the next ones
 * ahead of time: one at first, then twice as many each time he reaches a new piece, up to a ceiling.
 * Who jumps about is given none.  Several readers of one layer are told apart by where they are.
 *
 * Pure functions over values, like policy.h; the caller's lock covers the struct.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define PO_READERS 8		/* told apart; the one that was quiet for longest is forgotten */
#define PO_READERS_NEAR 2	/* pieces that may be left out, or come in another order */

struct po_reader {
	uint32_t at;		/* the piece he has reached */
	uint32_t until;		/* one past the last that was asked for on his behalf */
	uint32_t window;	/* how many were ahead of him last; 0: has not gone on yet */
	uint32_t used;		/* 0: nobody */
};

struct po_readahead {
	struct po_reader readers[PO_READERS];
	uint32_t clock;
};

/* Somebody reads in piece `at` of n.  True: pieces [*ret_from, *ret_end) are to be fetched ahead; at
 * most max of them are ahead of him then.  Cheap for who is still in the piece he was in. */
bool po_readahead(struct po_readahead *ra, uint32_t at, uint32_t n, uint32_t max, uint32_t *ret_from,
		  uint32_t *ret_end);
