/*
 * inflate_scan.h - where members and frames begin in a compressed stream (private to cache/)
 *
 * Nothing is decoded.  zstd says how long each block is, so its frames are found for certain; gzip
 * does not, and what looks like a header may be a member's data.  A wrong or missed place costs
 * time only: inflate_ahead.c believes none of them.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCAN_NONE SIZE_MAX
#define SCAN_HEAD_MAX 18	/* the largest header of a frame */

struct inflate_scan {
	int phase;
	bool lost;		/* not zstd, or damaged */
	bool checksum;
	size_t have, need;
	uint64_t skip;
	uint8_t head[SCAN_HEAD_MAX];
	bool found;		/* gzip: the last answer is where the next call goes on */
};

void inflate_scan_init(struct inflate_scan *s);
/* The first place in [from, len] of a piece where a frame begins (len: with the next byte), or
 * SCAN_NONE.  Has to see all of the stream: goes on at the place found, or with the next piece. */
size_t inflate_scan_zstd(struct inflate_scan *s, const uint8_t *p, size_t from, size_t len);
/* The same for what may be a gzip member; places near the end of a piece are missed. */
size_t inflate_scan_gzip(struct inflate_scan *s, const uint8_t *p, size_t from, size_t len);
