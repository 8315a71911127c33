/*
 * inflate_scan.c - see inflate_scan.h; formats: RFC 8878 section 3, RFC 1952 section 2.3
 */
#include "cache/inflate_scan.h"

#include <string.h>

#include "cache/le.h"
#include "util/cleanup.h"

#define ZSTD_MAGIC UINT32_C(0xfd2fb528)
#define SKIP_MAGIC UINT32_C(0x184d2a50)	/* and the 15 after it */

enum { MAGIC = 0, DESCRIPTOR, HEADER, BLOCK, SKIPPABLE, END };
enum { BLOCK_RLE = 1, BLOCK_RESERVED = 3 };
enum { GZIP_HEADER = 10, GZIP_OS_MAX = 13, GZIP_OS_UNKNOWN = 255 };

static void want(struct inflate_scan *s, int phase, size_t need)
{
	s->phase = phase;
	s->need = need;
	if (phase == MAGIC || phase == BLOCK)
		s->have = 0;
}

void inflate_scan_init(struct inflate_scan *s)
{
	*s = (struct inflate_scan){ 0 };
	want(s, MAGIC, 4);
}

static void on_magic(struct inflate_scan *s)
{
	uint32_t magic = le32_get(s->head);

	if (magic == ZSTD_MAGIC)
		want(s, DESCRIPTOR, 5);
	else if ((magic & ~UINT32_C(15)) == SKIP_MAGIC)
		want(s, SKIPPABLE, 8);
	else
		s->lost = true;
}

/* Frame_Header_Descriptor: how long the header is. */
static void on_descriptor(struct inflate_scan *s)
{
	static const uint8_t content[] = { 0, 2, 4, 8 }, dictionary[] = { 0, 1, 2, 4 };
	uint8_t d = s->head[4];
	bool single = d & 0x20;

	s->checksum = d & 4;
	want(s, HEADER, 5 + (single ? 0 : 1) + dictionary[d & 3] + (d >> 6 || !single ? content[d >> 6] : 1));
}

static void on_block(struct inflate_scan *s)
{
	uint32_t h = s->head[0] | (uint32_t)s->head[1] << 8 | (uint32_t)s->head[2] << 16;
	unsigned type = h >> 1 & 3;

	s->skip = type == BLOCK_RLE ? 1 : h >> 3;
	s->lost = type == BLOCK_RESERVED;
	if (h & 1) {
		s->skip += s->checksum ? 4 : 0;
		want(s, END, 0);
	} else {
		want(s, BLOCK, 3);
	}
}

static void on_head(struct inflate_scan *s)
{
	switch (s->phase) {
	case MAGIC:
		on_magic(s);
		break;
	case DESCRIPTOR:
		on_descriptor(s);
		break;
	case HEADER:
		want(s, BLOCK, 3);
		break;
	case BLOCK:
		on_block(s);
		break;
	default:
		s->skip = le32_get(s->head + 4);
		want(s, END, 0);
	}
}

size_t inflate_scan_zstd(struct inflate_scan *s, const uint8_t *p, size_t from, size_t len)
{
	size_t i = from;

	while (!s->lost) {
		size_t n = (size_t)MIN_OF(s->skip, (uint64_t)(len - i));

		i += n;
		s->skip -= n;
		if (s->skip)
			break;
		if (s->phase == END) {
			want(s, MAGIC, 4);
			return i;
		}
		n = MIN_OF(s->need - s->have, len - i);
		memcpy(s->head + s->have, p + i, n);
		s->have += n;
		i += n;
		if (s->have < s->need)
			break;
		on_head(s);
	}
	return SCAN_NONE;
}

static bool gzip_header(const uint8_t *p)
{
	return p[1] == 0x8b && p[2] == 8 && !(p[3] & 0xe0) && (p[9] <= GZIP_OS_MAX || p[9] == GZIP_OS_UNKNOWN);
}

size_t inflate_scan_gzip(struct inflate_scan *s, const uint8_t *p, size_t from, size_t len)
{
	size_t i = from + s->found;

	s->found = false;
	while (len >= GZIP_HEADER && i <= len - GZIP_HEADER) {
		const uint8_t *q = memchr(p + i, 0x1f, len - GZIP_HEADER + 1 - i);

		if (!q)
			break;
		i = (size_t)(q - p);
		if (gzip_header(q)) {
			s->found = true;
			return i;
		}
		i++;
	}
	return SCAN_NONE;
}
