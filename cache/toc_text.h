/*
 * toc_text.h - passing over the plain parts of JSON quickly (private to cache/)
 *
 * Most of a table of contents is printable ASCII within strings, names and digests: that is passed
 * over eight bytes at a time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/le.h"

/* The high bit of each byte of v that is zero; bytes behind the first such one may be wrong. */
static inline uint64_t toc_zeros(uint64_t v)
{
	return (v - UINT64_C(0x0101010101010101)) & ~v & UINT64_C(0x8080808080808080);
}

/* How many bytes from p on are printable ASCII but neither quote nor backslash. */
static inline size_t toc_plain(const char *p, size_t len)
{
	size_t n = 0;

	for (; len - n >= 8; n += 8) {
		uint64_t v = le64_get((const uint8_t *)p + n);
		uint64_t odd = toc_zeros(v ^ UINT64_C(0x2222222222222222)) | toc_zeros(v ^ UINT64_C(0x5c5c5c5c5c5c5c5c)) |
			       (v & UINT64_C(0x8080808080808080)) |
			       ((v - UINT64_C(0x2020202020202020)) & ~v & UINT64_C(0x8080808080808080));

		if (odd)
			return n + (size_t)__builtin_ctzll(odd) / 8;
	}
	while (n < len && (unsigned char)p[n] >= 0x20 && !(p[n] & 0x80) && p[n] != '"' && p[n] != '\\')
		n++;
	return n;
}

/* How many bytes from p on, outside of a string, neither begin one nor are brackets. */
static inline size_t toc_between(const char *p, size_t len)
{
	static const bool counts[256] = { ['"'] = true, ['{'] = true, ['}'] = true, ['['] = true, [']'] = true };
	size_t n = 0;

	while (n < len && !counts[(unsigned char)p[n]])
		n++;
	return n;
}
