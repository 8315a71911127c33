/*
 * err.c - filling and wrapping struct err
 *
 * Messages are formatted aside and then copied, so that a caller may pass the error's own message
 * (or code) as an argument.  No state, no allocation: safe on every thread, also without memory.
 */
#include "util/err.h"

#include <stdio.h>
#include <string.h>

static const char *const class_names[] = {
	[ERR_UNSET] = "unset",
	[ERR_NOTFOUND] = "notfound",
	[ERR_AUTH] = "auth",
	[ERR_RATE] = "rate",
	[ERR_NET] = "net",
	[ERR_TIMEOUT] = "timeout",
	[ERR_INTEGRITY] = "integrity",
	[ERR_LIMIT] = "limit",
	[ERR_INPUT] = "input",
	[ERR_UNSUPPORTED] = "unsupported",
	[ERR_LOCAL] = "local",
	[ERR_CANCELLED] = "cancelled",
	[ERR_BUG] = "bug",
};

const char *err_class_name(enum err_class cls)
{
	if ((unsigned)cls >= sizeof(class_names) / sizeof(class_names[0]))
		return "unset";
	return class_names[cls];
}

/* Messages quote strangers and end up on terminals: no C0, no DEL, no C1 (U+0080..U+009F). */
static void mask_controls(char *s)
{
	unsigned char *p = (unsigned char *)s;

	for (; *p; p++) {
		if (*p < 0x20 || *p == 0x7f)
			*p = '?';
		else if (*p == 0xc2 && p[1] >= 0x80 && p[1] <= 0x9f)
			p[0] = p[1] = '?';
	}
}

/* Truncation may have cut a UTF-8 sequence in two; drops the incomplete one at the end. */
static void trim_partial_utf8(char *s)
{
	const unsigned char *u = (const unsigned char *)s;
	size_t i = strlen(s), have = 0;

	while (i > 0 && have < 3 && (u[i - 1] & 0xc0) == 0x80) {
		i--;
		have++;
	}
	if (i == 0)
		return;

	unsigned char lead = u[i - 1];
	size_t need = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;

	if (have < need)
		s[i - 1] = '\0';
}

static void store_msg(struct err *e, const char msg[static ERR_MSG_MAX])
{
	size_t n = strlen(msg);

	memcpy(e->msg, msg, n + 1);
	mask_controls(e->msg);
	if (n == ERR_MSG_MAX - 1)
		trim_partial_utf8(e->msg);
}

errint_t err_setv(struct err *e, int eno, enum err_class cls, const char *fmt, va_list ap)
{
	char msg[ERR_MSG_MAX];

	if (!e)
		return -eno;
	if (vsnprintf(msg, sizeof(msg), fmt, ap) < 0)
		msg[0] = '\0';
	e->eno = eno;
	e->cls = cls;
	e->http = 0;
	e->code[0] = '\0';
	store_msg(e, msg);
	return -eno;
}

errint_t err_set(struct err *e, int eno, enum err_class cls, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)err_setv(e, eno, cls, fmt, ap);
	va_end(ap);
	return -eno;
}

/* strerror for threads; glibc's variant may return a static string instead of filling buf. */
static const char *errno_text(int eno, char *buf, size_t len)
{
#if defined(__GLIBC__)
	return strerror_r(eno, buf, len);
#else
	if (strerror_r(eno, buf, len) != 0)
		(void)snprintf(buf, len, "error %d", eno);
	return buf;
#endif
}

/* "context: rest" into *e; both may point into *e. */
static void _printf_(2, 0) prefix_msg(struct err *e, const char *fmt, va_list ap, const char *rest)
{
	char msg[ERR_MSG_MAX];
	int n = vsnprintf(msg, sizeof(msg), fmt, ap);

	if (n < 0)
		n = 0;
	if ((size_t)n < sizeof(msg))
		(void)snprintf(msg + n, sizeof(msg) - (size_t)n, "%s%s", n ? ": " : "", rest);
	store_msg(e, msg);
}

errint_t err_wrap(struct err *e, errint_t r, const char *fmt, ...)
{
	char text[128], rest[ERR_MSG_MAX];
	va_list ap;

	if (!e || r >= 0)
		return r;
	if (e->eno == 0) { /* a callee without a struct err: the number is all there is */
		*e = (struct err){ .eno = -r, .cls = ERR_LOCAL };
		(void)snprintf(rest, sizeof(rest), "%s", errno_text(-r, text, sizeof(text)));
	} else {
		memcpy(rest, e->msg, sizeof(rest));
	}
	va_start(ap, fmt);
	prefix_msg(e, fmt, ap, rest);
	va_end(ap);
	return r;
}

errint_t err_errno(struct err *e, int eno, const char *fmt, ...)
{
	char text[128];
	va_list ap;

	if (!e)
		return -eno;
	/* Not cleared before formatting: an argument may point into *e. */
	va_start(ap, fmt);
	prefix_msg(e, fmt, ap, errno_text(eno, text, sizeof(text)));
	va_end(ap);
	e->eno = eno;
	e->cls = ERR_LOCAL;
	e->http = 0;
	e->code[0] = '\0';
	return -eno;
}
