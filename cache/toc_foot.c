/*
 * toc_foot.c - recognising the footers of toc_foot.h (layers.md 5.1, 5.2)
 */
#include "cache/toc_foot.h"

#include <string.h>

#include "cache/le.h"

#define EXTERNAL_FOOT 46u
#define FRAME_HEAD 8u		/* of a skippable frame: magic and length */
#define HEX_DIGITS 16u
#define GZ_HEAD 10u

static const uint8_t frame_magic[4] = { 0x50, 0x2a, 0x4d, 0x18 };

static errint_t bad(struct err *e, const char *what)
{
	return err_set(e, EBADMSG, ERR_INPUT, "%s", what);
}

/* "%016xSTARGZ" */
static bool hex_offset(const uint8_t *p, uint64_t *ret)
{
	*ret = 0;
	for (unsigned i = 0; i < HEX_DIGITS; i++) {
		uint8_t c = p[i];

		if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
			return false;
		*ret = *ret << 4 | (c <= '9' ? c - '0' + 0U : c - 'a' + 10U);
	}
	return memcmp(p + HEX_DIGITS, "STARGZ", 6) == 0;
}

/* An empty gzip member with an extra field of xlen bytes; *ret points to that. */
static bool gzip_extra(const uint8_t *p, uint8_t xlen, const uint8_t **ret)
{
	static const uint8_t empty[13] = { 0x01, 0x00, 0x00, 0xff, 0xff };

	*ret = p + GZ_HEAD + 2;
	return p[0] == 0x1f && p[1] == 0x8b && p[2] == 0x08 && p[3] == 0x04 && p[GZ_HEAD] == xlen &&
	       p[GZ_HEAD + 1] == 0 && memcmp(*ret + xlen, empty, sizeof(empty)) == 0;
}

static bool estargz(const uint8_t *end, size_t len, uint64_t *ret_off, size_t *ret_len)
{
	static const uint8_t sub[4] = { 'S', 'G', 22, 0 };
	const uint8_t *x;

	*ret_len = 51;
	if (len >= *ret_len && gzip_extra(end - *ret_len, 26, &x) && memcmp(x, sub, sizeof(sub)) == 0)
		return hex_offset(x + sizeof(sub), ret_off);
	*ret_len = 47;
	return len >= *ret_len && gzip_extra(end - *ret_len, 22, &x) && hex_offset(x, ret_off);
}

static bool external(const uint8_t *end, size_t len)
{
	static const uint8_t sub[] = { 'S', 'G', 17, 0, 'S', 'T', 'A', 'R', 'G', 'Z', 'E', 'X', 'T' };
	const uint8_t *x;

	return len >= EXTERNAL_FOOT && gzip_extra(end - EXTERNAL_FOOT, 21, &x) && memcmp(x, sub, sizeof(sub)) == 0;
}

/* Its payload of n bytes ends the blob. */
static bool zstd_chunked(const uint8_t *end, size_t len, size_t n, const char *magic)
{
	const uint8_t *p = end - n;

	return len >= n + FRAME_HEAD && memcmp(end - 8, magic, 8) == 0 &&
	       memcmp(p - FRAME_HEAD, frame_magic, sizeof(frame_magic)) == 0 && le32_get(p - 4) == n &&
	       le64_get(p + 24) == 1;
}

errint_t toc_foot_parse(const uint8_t *tail, size_t len, uint64_t size, struct toc_foot *ret, struct err *e)
{
	const uint8_t *end = tail + len, *p = NULL;
	uint64_t off, limit = 0;
	size_t foot;

	*ret = (struct toc_foot){ 0 };
	if (estargz(end, len, &off, &foot)) {
		limit = size - foot;
		ret->format = TOC_ESTARGZ;
		ret->off = off;
		ret->packed = off < limit ? limit - off : 0;
	} else if (zstd_chunked(end, len, 40, "GnUlInUx")) {
		p = end - 40;
	} else if (zstd_chunked(end, len, 64, "GNUlInUx")) {
		p = end - 64;
	} else {
		return bad(e, external(end, len) ? "its table of contents is in another image" :
						   "it does not end with a known footer");
	}
	if (p) {
		limit = size - (uint64_t)(end - p) - FRAME_HEAD;
		*ret = (struct toc_foot){ TOC_ZSTD, le64_get(p), le64_get(p + 8), le64_get(p + 16) };
	}
	if (ret->off >= limit || ret->packed == 0 || ret->packed > limit - ret->off)
		return bad(e, "its footer points outside of the blob");
	return 0;
}
