/*
 * err.h - the error model of registryfs
 *
 * Every function that can fail returns errint_t: 0, or a negative errno.  It may also take a
 * `struct err *` as its last parameter, which it fills when (and only when) it fails.  NULL is
 * allowed everywhere for callers that need the number alone.
 *
 *	return err_set(e, EACCES, ERR_AUTH, "%s refused the credentials for user %s", host, user);
 *	...
 *	return err_wrap(e, r, "layer %s", digest);
 *
 * The errno is for the kernel, the class is for decisions (retry? cache the answer? how loud?),
 * the message is for a person: one sentence without a final full stop, no newline, naming what
 * was tried and, where possible, what to do.  Library code never logs; it returns errors.
 *
 * struct err has a fixed size and owns nothing: it can live on a stack or in an operation, be
 * copied by assignment and be forgotten without a free.
 */
#pragma once

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>

typedef int errint_t;

#define _must_check_ __attribute__((warn_unused_result))
#define _printf_(f, a) __attribute__((format(printf, f, a)))

enum err_class {
	ERR_UNSET = 0,
	ERR_NOTFOUND,	/* the registry (or layout) said in its own words that it does not exist */
	ERR_AUTH,	/* 401, 403, missing or refused credentials */
	ERR_RATE,	/* 429 after all retries */
	ERR_NET,	/* DNS, connect, TLS, reset, 5xx after all retries */
	ERR_TIMEOUT,	/* our own deadline, or no progress */
	ERR_INTEGRITY,	/* digest, size or checksum does not match */
	ERR_LIMIT,	/* one of our named ceilings was exceeded */
	ERR_INPUT,	/* malformed: JSON, tar, a header, a name, an option */
	ERR_UNSUPPORTED,/* well formed, but neither we nor the registry can do it */
	ERR_LOCAL,	/* our own disk, memory, process */
	ERR_CANCELLED,	/* nobody waits for the answer any more */
	ERR_BUG,	/* cannot happen */
};

#define ERR_MSG_MAX 320

struct err {
	int eno;		/* positive errno; 0 = unset */
	enum err_class cls;
	int http;		/* HTTP status, 0 = none */
	char code[40];		/* registry error code such as MANIFEST_UNKNOWN, or "" */
	char msg[ERR_MSG_MAX];
};

/* Fills *e (when not NULL) and returns -eno.  eno is positive.  Control characters become '?'. */
errint_t err_set(struct err *e, int eno, enum err_class cls, const char *fmt, ...) _printf_(4, 5);
errint_t err_setv(struct err *e, int eno, enum err_class cls, const char *fmt, va_list ap)
	_printf_(4, 0);

/* Puts "context: " before the message of *e and returns r unchanged. */
errint_t err_wrap(struct err *e, errint_t r, const char *fmt, ...) _printf_(3, 4);

/* For a failed system call: class LOCAL, message "context: strerror".  Returns -eno. */
errint_t err_errno(struct err *e, int eno, const char *fmt, ...) _printf_(3, 4);

/* Lower-case word such as "auth" or "integrity"; never NULL. */
const char *err_class_name(enum err_class cls);

static inline void err_clear(struct err *e)
{
	if (e)
		*e = (struct err){ 0 };
}
