/*
 * toc_json.c - the reader of toc_json.h
 */
#include "cache/toc_json.h"

#include <string.h>

#include "cache/toc_text.h"
#include "util/json.h"

static bool fail(struct toc_json *r)
{
	r->failed = true;
	return false;
}

static void spaces(struct toc_json *r)
{
	while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\t' || *r->p == '\r'))
		r->p++;
}

/* The next character that is no space; '\0' at the end. */
static char peek(struct toc_json *r)
{
	spaces(r);
	return r->p < r->end ? *r->p : '\0';
}

static bool expect(struct toc_json *r, char c)
{
	if (r->failed || peek(r) != c)
		return fail(r);
	r->p++;
	return true;
}

/* ---- strings */

static int hex4(const char *p, const char *end)
{
	int n = 0;

	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		char c = p[i];
		int digit = c >= '0' && c <= '9' ? c - '0' :
			    c >= 'a' && c <= 'f' ? c - 'a' + 10 :
			    c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;

		if (digit < 0)
			return -1;
		n = n << 4 | digit;
	}
	return n;
}

static char *put_utf8(char *out, uint32_t c)
{
	if (c < 0x80) {
		*out++ = (char)c;
	} else if (c < 0x800) {
		*out++ = (char)(0xc0 | c >> 6);
		*out++ = (char)(0x80 | (c & 0x3f));
	} else if (c < 0x10000) {
		*out++ = (char)(0xe0 | c >> 12);
		*out++ = (char)(0x80 | (c >> 6 & 0x3f));
		*out++ = (char)(0x80 | (c & 0x3f));
	} else {
		*out++ = (char)(0xf0 | c >> 18);
		*out++ = (char)(0x80 | (c >> 12 & 0x3f));
		*out++ = (char)(0x80 | (c >> 6 & 0x3f));
		*out++ = (char)(0x80 | (c & 0x3f));
	}
	return out;
}

/* \uXXXX, r->p behind the u; never longer than its escape.  NULL: unsound, also half a pair. */
static char *unicode(struct toc_json *r, char *out)
{
	int hi = hex4(r->p, r->end), lo;

	if (hi < 0 || (hi >= 0xdc00 && hi < 0xe000))
		return NULL;
	r->p += 4;
	if (hi < 0xd800 || hi >= 0xe000)
		return put_utf8(out, (uint32_t)hi);
	if (r->end - r->p < 6 || r->p[0] != '\\' || r->p[1] != 'u')
		return NULL;
	lo = hex4(r->p + 2, r->end);
	if (lo < 0xdc00 || lo >= 0xe000)
		return NULL;
	r->p += 6;
	return put_utf8(out, 0x10000 + ((uint32_t)(hi - 0xd800) << 10) + (uint32_t)(lo - 0xdc00));
}

/* r->p behind the backslash. */
static char *escape(struct toc_json *r, char *out)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	char c = r->p < r->end ? *r->p++ : '\0';
	const char *at = c ? strchr(from, c) : NULL;

	if (c == 'u')
		return unicode(r, out);
	if (!at)
		return NULL;
	*out++ = to[at - from];
	return out;
}

/* Bytes of the character that begins at p, 0: unsound. */
static size_t utf8_len(const char *p, const char *end)
{
	const uint8_t *s = (const uint8_t *)p;
	size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : s[0] >= 0xe0 && s[0] < 0xf0 ? 3 :
		   s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0;

	if (n == 0 || (size_t)(end - p) < n)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) || (s[0] == 0xf0 && s[1] < 0x90) ||
	    (s[0] == 0xf4 && s[1] >= 0x90))
		return 0;
	return n;
}

/* Moves n bytes down over what escapes have left free. */
static char *put(struct toc_json *r, char *out, size_t n)
{
	if (out != r->p)
		memmove(out, r->p, n);
	r->p += n;
	return out + n;
}

static bool string(struct toc_json *r, char **ret, size_t *ret_len)
{
	char *out;

	if (!expect(r, '"'))
		return false;
	*ret = out = r->p;
	for (;;) {
		out = put(r, out, toc_plain(r->p, (size_t)(r->end - r->p)));
		if (r->p == r->end)
			return fail(r);
		if (*r->p == '"')
			break;
		if (*r->p == '\\') {
			r->p++;
			out = escape(r, out);
			if (!out)
				return fail(r);
			continue;
		}
		size_t n = (unsigned char)*r->p < 0x20 ? 0 : utf8_len(r->p, r->end);
		if (n == 0)
			return fail(r);
		out = put(r, out, n);
	}
	r->p++;
	*ret_len = (size_t)(out - *ret);
	*out = '\0';
	return true;
}

/* ---- other values */

static bool is_digit(const struct toc_json *r)
{
	return r->p < r->end && *r->p >= '0' && *r->p <= '9';
}

static bool digits(struct toc_json *r, int64_t *n)
{
	const char *start = r->p;

	for (*n = 0; is_digit(r); r->p++) {
		int d = *r->p - '0';

		*n = *n < 0 || *n > (INT64_MAX - d) / 10 ? -1 : *n * 10 + d;
	}
	if (*start == '0' && r->p - start > 1)
		return false;
	return r->p > start;
}

/* A fraction or an exponent is sound, but no integer. */
static bool number(struct toc_json *r, struct toc_json_value *ret)
{
	bool plain = true;

	ret->kind = TOC_JSON_NUMBER;
	if (*r->p == '-') {
		plain = false;
		r->p++;
	}
	if (!is_digit(r) || !digits(r, &ret->n))
		return fail(r);
	if (r->p < r->end && *r->p == '.') {
		plain = false;
		r->p++;
		if (!is_digit(r))
			return fail(r);
		while (is_digit(r))
			r->p++;
	}
	if (r->p < r->end && (*r->p == 'e' || *r->p == 'E')) {
		plain = false;
		r->p++;
		if (r->p < r->end && (*r->p == '+' || *r->p == '-'))
			r->p++;
		if (!is_digit(r))
			return fail(r);
		while (is_digit(r))
			r->p++;
	}
	if (!plain)
		ret->n = -1;
	return true;
}

static bool word(struct toc_json *r, const char *w)
{
	size_t n = strlen(w);

	if ((size_t)(r->end - r->p) < n || memcmp(r->p, w, n) != 0)
		return fail(r);
	r->p += n;
	return true;
}

bool toc_json_value(struct toc_json *r, struct toc_json_value *ret)
{
	*ret = (struct toc_json_value){ .n = -1 };
	if (r->failed)
		return false;
	switch (peek(r)) {
	case '"':
		ret->kind = TOC_JSON_STRING;
		return string(r, &ret->s, &ret->len);
	case '{': case '[':
		ret->kind = TOC_JSON_NESTED;
		return true;
	case 't':
		ret->kind = TOC_JSON_BOOL;
		return word(r, "true");
	case 'f':
		ret->kind = TOC_JSON_BOOL;
		return word(r, "false");
	case 'n':
		return word(r, "null");
	default:
		return r->p < r->end ? number(r, ret) : fail(r);
	}
}

/* Brackets and strings only: nobody looks at what is in there. */
bool toc_json_skip(struct toc_json *r)
{
	unsigned depth = 0;
	char *s;
	size_t n;

	do {
		char c = peek(r);

		if (c == '"' ? !string(r, &s, &n) : r->p == r->end)
			return fail(r);
		if (c == '"')
			continue;
		r->p++;
		depth += c == '{' || c == '[';
		depth -= c == '}' || c == ']';
		if (depth > JSON_DEPTH_MAX)
			return fail(r);
	} while (depth > 0);
	return true;
}

/* ---- objects */

bool toc_json_enter(struct toc_json *r)
{
	r->first = true;
	return expect(r, '{');
}

bool toc_json_member(struct toc_json *r, char **ret, size_t *ret_len)
{
	if (r->failed)
		return false;
	if (peek(r) == '}') {
		r->p++;
		r->first = false;	/* of the one around it */
		return false;
	}
	if (!r->first && !expect(r, ','))
		return false;
	r->first = false;
	return string(r, ret, ret_len) && expect(r, ':');
}

bool toc_json_left(struct toc_json *r)
{
	return !r->failed && peek(r) == '\0' && r->p == r->end;
}
