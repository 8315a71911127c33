/*
 * fuzz_sealed.c - any bytes as a sealed file
 *
 * The image is tried as it is, and once more with the checksums of table and footer made right, so
 * that the checks behind them are reached.  Whatever opens must be read without error or be found
 * damaged, the same way each time, and never beyond its length.
 *
 *	clang -fsanitize=fuzzer,address,undefined ... fuzz_sealed.c cache/sealed.c util/err.c
 */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cache/crc.h"
#include "cache/sealed.h"

#define IDENT 0x49444e54u
#define IMAGE_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Stands in where the inflate files are not linked. */
__attribute__((weak)) uint32_t crc32_add(uint32_t crc, const void *data, size_t len)
{
	const uint8_t *p = data;

	crc = ~crc;
	while (len-- > 0) {
		crc ^= *p++;
		for (int k = 0; k < 8; k++)
			crc = crc & 1 ? UINT32_C(0xedb88320) ^ crc >> 1 : crc >> 1;
	}
	return ~crc;
}

static void read_all_ways(struct sealed *f)
{
	uint64_t len = sealed_len(f);
	uint8_t *out = malloc(len + 1);
	errint_t whole, r;

	if (!out || len > IMAGE_MAX)
		abort();
	r = len > 3 ? sealed_read(f, len - 3, out, 3, NULL) : 0;
	if (r != 0 && r != -EBADMSG)
		abort();
	whole = sealed_read(f, 0, out, len, NULL);
	if (sealed_verify(f, NULL) != whole || (whole != 0 && whole != -EBADMSG) ||
	    (whole == 0 && r != 0))
		abort();
	if (sealed_read(f, len, out, 1, NULL) != -EINVAL)
		abort();
	free(out);
}

static void try_image(const uint8_t *data, size_t len)
{
	struct sealed *f = NULL;
	struct err e = { 0 };
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	if (fd < 0 || (len > 0 && write(fd, data, len) != (ssize_t)len))
		abort();
	if (sealed_open(fd, IDENT, &f, &e) == 0) {
		read_all_ways(f);
		(void)sealed_free(f);
		return;
	}
	if (e.eno != EBADMSG)
		abort();
	(void)close(fd);
}

static void make_checksums_right(uint8_t *p, size_t len)
{
	uint8_t *footer = p + len - SEALED_FOOTER;
	uint64_t data = le64_get(footer + SEALED_AT_LEN);

	if (data <= len && sealed_size(data) == len && len - SEALED_FOOTER > data)
		le32_put(footer + SEALED_AT_TABLE_CRC,
			 crc32_add(0, p + data, (size_t)(len - SEALED_FOOTER - data)));
	le32_put(footer + SEALED_AT_CRC, crc32_add(0, footer, SEALED_AT_CRC));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	uint8_t *copy;

	if (len > IMAGE_MAX)
		return 0;
	try_image(data, len);
	if (len < SEALED_FOOTER)
		return 0;
	copy = malloc(len);
	if (!copy)
		return 0;
	memcpy(copy, data, len);
	make_checksums_right(copy, len);
	try_image(copy, len);
	free(copy);
	return 0;
}
