/* clock.h - time, replaceable in tests */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define NSEC_PER_SEC UINT64_C(1000000000)
#define NSEC_PER_MSEC UINT64_C(1000000)

uint64_t clock_mono_ns(void);	/* CLOCK_MONOTONIC */
int64_t clock_real_s(void);	/* seconds since 1970, UTC */

/* Tests only: from now on both clocks stand at these values (0, 0 = the real clocks again). */
void clock_set_fake(uint64_t mono_ns, int64_t real_s);

/* RFC 3339 ("2026-01-02T03:04:05.123Z", with offsets) to seconds and nanoseconds; false = not one.
 * ret_ns may be NULL. */
bool clock_parse_rfc3339(const char *s, int64_t *ret_s, uint32_t *ret_ns);
/* "2026-01-02T03:04:05Z"; out holds at least 32 bytes. */
const char *clock_format_rfc3339(int64_t s, char *out, size_t out_len);
/* HTTP dates (RFC 9110 5.6.7, IMF-fixdate); false = not one. */
bool clock_parse_http_date(const char *s, int64_t *ret_s);
