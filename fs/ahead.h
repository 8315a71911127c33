/*
 * ahead.h - read-ahead in streamed layers whose spans have been evicted
 *
 * Who reads on (policy/readahead.h) finds the next spans on their way, each with a request of its own
 * that he shares when he gets there.  A few spans are under way at once in the whole mount, since
 * each is held in memory until it is verified.
 */
#pragma once

#include "fs/need.h"

struct ahead;
struct ahead *ahead_free(struct ahead *a);	/* accepts and returns NULL */
/* Somebody reads [off, off + len) of layer i, which is l.  Only starts something. */
void read_ahead(struct op *op, struct image *img, size_t i, struct ca_layer *l, uint64_t off, size_t len);
