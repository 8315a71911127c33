/* crc.h - CRC-32 (IEEE, as in gzip) with ISA-L's or zlib's code (private to cache/; in inflate's files) */
#pragma once

#include <stddef.h>
#include <stdint.h>

uint32_t crc32_add(uint32_t crc, const void *data, size_t len); /* start with 0 */
