/*
 * fuzz_firstlist.c - lists of files: what is accepted stays the same when it is written again
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cache/tree.h"
#include "fs/first_list.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(bool ok)
{
	if (!ok)
		abort();
}

/* Writes what is read, and counts it. */
static size_t copy(const char *text, size_t len, struct buf *out)
{
	const char *at = text, *path;
	size_t n, count = 0;

	while (first_list_next(&at, text + len, &path, &n)) {
		expect(n > 0 && n <= len && path >= text && path + n <= text + len);
		expect(*path != '/' && !memchr(path, '\n', n));
		expect(first_list_add(out, path, n) == 0);
		count++;
	}
	expect(at == text + len);
	return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_buf_ struct buf once = BUF_INIT(FIRST_BYTES_MAX), twice = BUF_INIT(FIRST_BYTES_MAX);
	_cleanup_free_ char *text = malloc(size + 1);
	struct err e = { 0 };
	size_t n;

	if (!text || size > FIRST_BYTES_MAX / 2)
		return 0;
	memcpy(text, data, size);
	if (first_list_check(text, size, &e) < 0) {
		expect(e.eno == EINVAL && e.msg[0]);
		return 0;
	}
	n = copy(text, size, &once);
	expect(n == first_list_count(text, size));
	expect(first_list_check(buf_str(&once), once.len, NULL) == 0);
	expect(copy(buf_str(&once), once.len, &twice) == n);
	expect(once.len == twice.len && memcmp(buf_str(&once), buf_str(&twice), once.len) == 0);
	return 0;
}
