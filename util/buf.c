/*
 * buf.c - growable byte buffer with a ceiling
 *
 * All growth goes through buf_reserve, the one place that looks at max.  Appends that are made of
 * several pieces (JSON, text) remember the length they began with and return to it on failure.
 */
#include "util/buf.h"

#include <stdlib.h>
#include <string.h>

#define BUF_CAP_MIN 64

void buf_init(struct buf *b, size_t max)
{
	*b = (struct buf)BUF_INIT(max);
}

void buf_done(struct buf *b)
{
	free(b->data);
	*b = (struct buf)BUF_INIT(b->max);
}

void buf_clear(struct buf *b)
{
	b->len = 0;
	b->failed = 0;
	if (b->data)
		b->data[0] = '\0';
}

static errint_t fail(struct buf *b, errint_t r)
{
	b->failed = r;
	return r;
}

/* Takes back what a failed append has written so far. */
static errint_t rewind_to(struct buf *b, size_t len)
{
	b->len = len;
	if (b->data)
		b->data[len] = '\0';
	return b->failed;
}

/* need includes the NUL.  Doubling, but never past what max can use. */
static size_t next_cap(const struct buf *b, size_t need)
{
	size_t cap = b->cap > SIZE_MAX / 2 ? SIZE_MAX : b->cap * 2;

	cap = MAX_OF(cap, (size_t)BUF_CAP_MIN);
	if (b->max < SIZE_MAX)
		cap = MIN_OF(cap, b->max + 1);
	return MAX_OF(cap, need);
}

errint_t buf_reserve(struct buf *b, size_t more)
{
	if (b->failed)
		return b->failed;
	if (more > b->max - b->len || more >= SIZE_MAX - b->len)
		return fail(b, -EFBIG);

	size_t need = b->len + more + 1;

	if (need <= b->cap)
		return 0;

	size_t cap = next_cap(b, need);
	char *data = realloc(b->data, cap);

	if (!data)
		return fail(b, -ENOMEM);
	b->data = data;
	b->cap = cap;
	b->data[b->len] = '\0';
	return 0;
}

errint_t buf_add(struct buf *b, const void *data, size_t len)
{
	errint_t r = buf_reserve(b, len);

	if (r < 0)
		return r;
	if (len > 0)
		memcpy(b->data + b->len, data, len);
	b->len += len;
	b->data[b->len] = '\0';
	return 0;
}

errint_t buf_addc(struct buf *b, char c)
{
	return buf_add(b, &c, 1);
}

errint_t buf_adds(struct buf *b, const char *s)
{
	return buf_add(b, s, strlen(s));
}

/* First try in the room there is; most lines fit. */
errint_t buf_addv(struct buf *b, const char *fmt, va_list ap)
{
	size_t room = b->data ? b->cap - b->len : 0;
	va_list again;
	errint_t r;

	if (b->failed)
		return b->failed;
	va_copy(again, ap);

	int n = vsnprintf(room ? b->data + b->len : NULL, room, fmt, ap);

	r = n < 0 ? fail(b, errno == ENOMEM ? -ENOMEM : -EFBIG) : buf_reserve(b, (size_t)n);
	if (r < 0)
		(void)rewind_to(b, b->len);
	else if ((size_t)n >= room)
		(void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
	if (r == 0)
		b->len += (size_t)n;
	va_end(again);
	return r;
}

errint_t buf_addf(struct buf *b, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	errint_t r = buf_addv(b, fmt, ap);
	va_end(ap);
	return r;
}

static bool is_tail(unsigned char c)
{
	return (c & 0xc0) == 0x80;
}

/* Length of the UTF-8 sequence at s (len >= 1), 0 when there is none: overlong forms, surrogates
 * and values above U+10FFFF are none (Unicode 15, table 3-7). */
static size_t utf8_len(const unsigned char *s, size_t len)
{
	unsigned char c = s[0], lo = 0x80, hi = 0xbf;
	size_t n;

	if (c < 0x80)
		return 1;
	if (c < 0xc2 || c > 0xf4)
		return 0;
	n = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
	if (c == 0xe0)
		lo = 0xa0;
	else if (c == 0xed)
		hi = 0x9f;
	else if (c == 0xf0)
		lo = 0x90;
	else if (c == 0xf4)
		hi = 0x8f;
	if (len < n || s[1] < lo || s[1] > hi)
		return 0;
	for (size_t i = 2; i < n; i++)
		if (!is_tail(s[i]))
			return 0;
	return n;
}

/* How many bytes at s can be copied as they are. */
typedef size_t (*plain_fn)(const unsigned char *s, size_t len);
/* Appends a replacement for the bytes at s and returns how many it stands for. */
typedef size_t (*escape_fn)(struct buf *b, const unsigned char *s, size_t len);

static errint_t add_escaped(struct buf *b, const unsigned char *s, size_t len, plain_fn plain,
			    escape_fn escape)
{
	while (len > 0 && !b->failed) {
		size_t n = 0, step;

		while (n < len && (step = plain(s + n, len - n)) > 0)
			n += step;
		if (n > 0)
			(void)buf_add(b, s, n);
		else
			n = escape(b, s, len);
		s += n;
		len -= n;
	}
	return b->failed;
}

static size_t json_plain(const unsigned char *s, size_t len)
{
	return *s < 0x20 || *s == '"' || *s == '\\' ? 0 : utf8_len(s, len);
}

static size_t json_escape(struct buf *b, const unsigned char *s, _unused_ size_t len)
{
	static const char named[0x20] = {
		['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r',
	};

	if (*s >= 0x80)
		(void)buf_adds(b, "\xef\xbf\xbd"); /* U+FFFD */
	else if (*s >= 0x20)
		(void)buf_addf(b, "\\%c", *s);
	else if (named[*s])
		(void)buf_addf(b, "\\%c", named[*s]);
	else
		(void)buf_addf(b, "\\u%04x", *s);
	return 1;
}

errint_t buf_add_json(struct buf *b, const char *s, size_t len)
{
	size_t before = b->len;

	if (b->failed)
		return b->failed;
	(void)buf_addc(b, '"');
	(void)add_escaped(b, (const unsigned char *)s, len, json_plain, json_escape);
	(void)buf_addc(b, '"');
	return b->failed ? rewind_to(b, before) : 0;
}

errint_t buf_add_member(struct buf *b, const char *key, const char *value, bool first)
{
	if (!first)
		(void)buf_addc(b, ',');
	(void)buf_add_json(b, key, strlen(key));
	(void)buf_addc(b, ':');
	return buf_add_json(b, value, strlen(value));
}

static bool is_c1(const unsigned char *s, size_t len)
{
	return len >= 2 && s[0] == 0xc2 && s[1] >= 0x80 && s[1] <= 0x9f;
}

static size_t text_plain(const unsigned char *s, size_t len)
{
	if (*s < 0x20 || *s == 0x7f || *s == '\\' || is_c1(s, len))
		return 0;
	return utf8_len(s, len);
}

static size_t text_escape(struct buf *b, const unsigned char *s, size_t len)
{
	if (*s == '\\') {
		(void)buf_adds(b, "\\\\");
		return 1;
	}
	if (is_c1(s, len)) {
		(void)buf_addf(b, "\\x%02x\\x%02x", s[0], s[1]);
		return 2;
	}
	(void)buf_addf(b, "\\x%02x", *s);
	return 1;
}

errint_t buf_add_text(struct buf *b, const char *s, size_t len)
{
	size_t before = b->len;

	if (b->failed)
		return b->failed;
	(void)add_escaped(b, (const unsigned char *)s, len, text_plain, text_escape);
	return b->failed ? rewind_to(b, before) : 0;
}

const char *buf_str(const struct buf *b)
{
	return b->data ? b->data : "";
}

void buf_give(struct buf *b, char *data, size_t len, size_t cap)
{
	buf_done(b);
	b->data = data;
	b->len = len;
	b->cap = cap;
}

char *buf_take(struct buf *b, size_t *ret_len)
{
	size_t len = b->len;
	char *data = b->data ? steal_ptr(&b->data) : calloc(1, 1);

	if (ret_len)
		*ret_len = data ? len : 0;
	*b = (struct buf)BUF_INIT(b->max);
	return data;
}
