/*
 * unit.h - a unit test harness in one header
 *
 *	TEST(buf_grows)
 *	{
 *		CHECK_EQ_INT(buf_adds(&b, "x"), 0);
 *	}
 *
 * One test program is one .c file that includes this header once; main is in here.  Tests run in
 * the order they are written, or only those whose name contains argv[1].  A failed check prints a
 * "# file:line: ..." line, marks the test and goes on; REQUIRE leaves the test function instead.
 * Checks may be used from any thread of a test.  Output is TAP with one line of totals at the end.
 */
#pragma once

#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct unit_test {
	const char *name;
	void (*fn)(void);
	struct unit_test *next;
};

static struct unit_test *unit_first, **unit_tail = &unit_first;
static atomic_uint unit_failed_checks;

#define TEST(test_name)                                                                   \
	static void test_##test_name(void);                                               \
	static struct unit_test unit_##test_name = { #test_name, test_##test_name, NULL }; \
	static void __attribute__((constructor)) unit_add_##test_name(void)               \
	{                                                                                 \
		*unit_tail = &unit_##test_name;                                           \
		unit_tail = &unit_##test_name.next;                                       \
	}                                                                                 \
	static void test_##test_name(void)

__attribute__((unused, format(printf, 3, 4))) static bool unit_fail(const char *file, int line,
								    const char *fmt, ...)
{
	char msg[1024];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	printf("# %s:%d: %s\n", file, line, msg);
	atomic_fetch_add(&unit_failed_checks, 1);
	return false;
}

__attribute__((unused)) static bool unit_eq_int(const char *file, int line, const char *what,
						intmax_t got, intmax_t want)
{
	if (got == want)
		return true;
	return unit_fail(file, line, "%s is %" PRIdMAX ", not %" PRIdMAX, what, got, want);
}

__attribute__((unused)) static bool unit_eq_str(const char *file, int line, const char *what,
						const char *got, const char *want)
{
	if (got == want || (got && want && strcmp(got, want) == 0))
		return true;
	return unit_fail(file, line, "%s is \"%s\", not \"%s\"", what, got ? got : "(null)",
			 want ? want : "(null)");
}

__attribute__((unused)) static bool unit_err(const char *file, int line, const char *what,
					     intmax_t got, int want)
{
	if (got == want)
		return true;
	return unit_fail(file, line, "%s is %" PRIdMAX " (%s), not %d (%s)", what, got,
			 got < 0 ? strerror((int)-got) : "no error", want,
			 want < 0 ? strerror(-want) : "no error");
}

/* Each is an expression with the value true when the check held. */
#define CHECK(expr) ((expr) ? true : unit_fail(__FILE__, __LINE__, "failed: %s", #expr))
#define CHECK_EQ_INT(got, want) \
	unit_eq_int(__FILE__, __LINE__, #got, (intmax_t)(got), (intmax_t)(want))
#define CHECK_EQ_STR(got, want) unit_eq_str(__FILE__, __LINE__, #got, (got), (want))
#define CHECK_OK(expr) unit_err(__FILE__, __LINE__, #expr, (expr), 0)
#define CHECK_ERR(expr, eno) unit_err(__FILE__, __LINE__, #expr, (expr), (eno)) /* eno < 0 */
#define REQUIRE(expr)                \
	do {                         \
		if (!CHECK(expr))    \
			return;      \
	} while (0)

int main(int argc, char **argv)
{
	unsigned n = 0, failed = 0;

	setvbuf(stdout, NULL, _IOLBF, 0); /* a crash must not take the lines before it along */
	for (const struct unit_test *t = unit_first; t; t = t->next) {
		if (argc > 1 && !strstr(t->name, argv[1]))
			continue;

		unsigned before = unit_failed_checks;

		t->fn();
		n++;
		failed += unit_failed_checks != before;
		printf("%sok %u - %s\n", unit_failed_checks != before ? "not " : "", n, t->name);
	}
	printf("1..%u\n%u passed, %u failed\n", n, n - failed, failed);
	return failed > 0 || n == 0; /* a filter that matches nothing is a mistake */
}
