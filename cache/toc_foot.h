/*
 * toc_foot.h - the last bytes of a blob that say where its table of contents is (private to cache/)
 *
 *	eStargz		51 bytes: an empty gzip member whose extra field holds the TOC's offset
 *	stargz		47 bytes, the same before it got a subfield
 *	zstd:chunked	40 or 64 bytes in a skippable frame: offset, lengths, type, magic
 *
 * A footer is not covered by any digest: it only helps to find the TOC, which then has to match one.
 * An eStargz blob whose TOC is in another image has a footer of 46 bytes; it says no place.
 */
#pragma once

#include "cache/toc_file.h"

#define TOC_FOOT_MAX 72u	/* the longest, with the frame's header */

struct toc_foot {
	enum toc_format format;
	uint64_t off, packed;	/* the TOC: a gzip member, or what a frame holds */
	uint64_t size;		/* of the JSON; 0: not said */
};

/* tail: the last len bytes of a blob of `size` bytes.  -EBADMSG (INPUT): no footer, or a wrong one. */
errint_t toc_foot_parse(const uint8_t *tail, size_t len, uint64_t size, struct toc_foot *ret, struct err *e)
	_must_check_;
