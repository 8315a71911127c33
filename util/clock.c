/*
 * clock.c - clocks and date formats
 *
 * Dates are computed here and not with timegm: no locale, no time zone, years 0000 to 9999 (Go
 * writes 0001-01-01 for "unset"), and garbage is refused instead of normalised.
 */
#include "util/clock.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define SEC_PER_DAY 86400
#define YEAR_0000 INT64_C(-62167219200) /* 0000-01-01T00:00:00Z */
#define YEAR_9999 INT64_C(253402300799) /* 9999-12-31T23:59:59Z */

static atomic_bool fake;
static _Atomic uint64_t fake_mono_ns;
static _Atomic int64_t fake_real_s;

uint64_t clock_mono_ns(void)
{
	struct timespec ts;

	if (atomic_load_explicit(&fake, memory_order_acquire))
		return fake_mono_ns;
	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

int64_t clock_real_s(void)
{
	struct timespec ts;

	if (atomic_load_explicit(&fake, memory_order_acquire))
		return fake_real_s;
	(void)clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec;
}

void clock_set_fake(uint64_t mono_ns, int64_t real_s)
{
	fake_mono_ns = mono_ns;
	fake_real_s = real_s;
	atomic_store_explicit(&fake, mono_ns != 0 || real_s != 0, memory_order_release);
}

struct date {
	int year, month, day, hour, minute, second;
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Reads exactly n digits and advances. */
static bool take_digits(const char **s, int n, int *ret)
{
	int v = 0;

	for (int i = 0; i < n; i++, (*s)++) {
		if (!is_digit(**s))
			return false;
		v = v * 10 + (**s - '0');
	}
	*ret = v;
	return true;
}

static bool take_char(const char **s, char c)
{
	if (**s != c)
		return false;
	(*s)++;
	return true;
}

static bool take_word(const char **s, const char *word)
{
	size_t n = strlen(word);

	if (strncmp(*s, word, n) != 0)
		return false;
	*s += n;
	return true;
}

static int days_in_month(int year, int month)
{
	static const int days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
	bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

	return days[month - 1] + (month == 2 && leap);
}

/* Second 60 is a leap second (RFC 3339 5.7); it counts as the first one of the next minute. */
static bool date_ok(const struct date *d)
{
	return d->month >= 1 && d->month <= 12 && d->day >= 1 &&
	       d->day <= days_in_month(d->year, d->month) && d->hour <= 23 && d->minute <= 59 &&
	       d->second <= 60;
}

/* Days since 1970-01-01 in the proleptic Gregorian calendar.  Years begin in March here, so that
 * the leap day is the last one; 153 days make every five months from there. */
static int64_t date_to_days(int year, int month, int day)
{
	int64_t y = year - (month <= 2) + 400; /* an era later, so never negative */
	int64_t m = month + (month > 2 ? -3 : 9);

	return y * 365 + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 146097 - 719468;
}

static void days_to_date(int64_t days, struct date *d)
{
	int64_t z = days + 719468 + 146097;
	int64_t era = z / 146097, doe = z % 146097;
	int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	int64_t m = (5 * doy + 2) / 153;

	d->day = (int)(doy - (153 * m + 2) / 5 + 1);
	d->month = (int)(m < 10 ? m + 3 : m - 9);
	d->year = (int)(yoe + (era - 1) * 400 + (d->month <= 2));
}

static int64_t date_to_sec(const struct date *d)
{
	return date_to_days(d->year, d->month, d->day) * SEC_PER_DAY + d->hour * 3600 +
	       d->minute * 60 + d->second;
}

static bool take_time(const char **s, struct date *d)
{
	return take_digits(s, 2, &d->hour) && take_char(s, ':') && take_digits(s, 2, &d->minute) &&
	       take_char(s, ':') && take_digits(s, 2, &d->second);
}

/* ".123": any number of digits, those beyond nanoseconds are dropped. */
static bool take_fraction(const char **s, uint32_t *ret_ns)
{
	uint32_t unit = 100000000;

	*ret_ns = 0;
	if (!take_char(s, '.'))
		return true;
	if (!is_digit(**s))
		return false;
	for (; is_digit(**s); (*s)++, unit /= 10)
		*ret_ns += unit * (uint32_t)(**s - '0');
	return true;
}

/* "Z" or "+hh:mm"; seconds east of UTC. */
static bool take_offset(const char **s, int *ret)
{
	int sign = **s == '-' ? -1 : 1, hour, minute;

	*ret = 0;
	if (take_char(s, 'Z') || take_char(s, 'z'))
		return true;
	if (!take_char(s, '+') && !take_char(s, '-'))
		return false;
	if (!take_digits(s, 2, &hour) || !take_char(s, ':') || !take_digits(s, 2, &minute))
		return false;
	*ret = sign * (hour * 3600 + minute * 60);
	return hour <= 23 && minute <= 59;
}

bool clock_parse_rfc3339(const char *s, int64_t *ret_s, uint32_t *ret_ns)
{
	struct date d;
	uint32_t ns;
	int offset;

	if (!s || !take_digits(&s, 4, &d.year) || !take_char(&s, '-') ||
	    !take_digits(&s, 2, &d.month) || !take_char(&s, '-') || !take_digits(&s, 2, &d.day))
		return false;
	if (!take_char(&s, 'T') && !take_char(&s, 't'))
		return false;
	if (!take_time(&s, &d) || !take_fraction(&s, &ns) || !take_offset(&s, &offset))
		return false;
	if (*s || !date_ok(&d))
		return false;
	*ret_s = date_to_sec(&d) - offset;
	if (ret_ns)
		*ret_ns = ns;
	return true;
}

const char *clock_format_rfc3339(int64_t s, char *out, size_t out_len)
{
	struct date d;

	s = s < YEAR_0000 ? YEAR_0000 : s > YEAR_9999 ? YEAR_9999 : s;

	int64_t days = s / SEC_PER_DAY - (s % SEC_PER_DAY < 0);
	int rest = (int)(s - days * SEC_PER_DAY);

	days_to_date(days, &d);
	(void)snprintf(out, out_len, "%04d-%02d-%02dT%02d:%02d:%02dZ", d.year, d.month, d.day,
		       rest / 3600, rest / 60 % 60, rest % 60);
	return out;
}

static bool take_one_of(const char **s, const char *const *words, int n, int *ret)
{
	for (int i = 0; i < n; i++) {
		if (!take_word(s, words[i]))
			continue;
		*ret = i;
		return true;
	}
	return false;
}

/* "Sun, 06 Nov 1994 08:49:37 GMT".  That the day of the week fits the date is not checked. */
bool clock_parse_http_date(const char *s, int64_t *ret_s)
{
	static const char *const days[] = { "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun" };
	static const char *const months[] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
					      "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };
	struct date d;
	int weekday;

	if (!s || !take_one_of(&s, days, 7, &weekday) || !take_word(&s, ", "))
		return false;
	if (!take_digits(&s, 2, &d.day) || !take_char(&s, ' ') ||
	    !take_one_of(&s, months, 12, &d.month))
		return false;
	d.month++;
	if (!take_char(&s, ' ') || !take_digits(&s, 4, &d.year) || !take_char(&s, ' '))
		return false;
	if (!take_time(&s, &d) || !take_word(&s, " GMT") || *s || !date_ok(&d))
		return false;
	*ret_s = date_to_sec(&d);
	return true;
}
