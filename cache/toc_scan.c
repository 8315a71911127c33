/*
 * toc_scan.c - the machine of toc_scan.h: one byte, one step
 *
 * Inside an element and inside a value that is passed over only strings and brackets count.
 */
#include "cache/toc_scan.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

#include "cache/toc_text.h"
#include "util/buf.h"
#include "util/json.h"

enum state {
	AT_START,	/* before the document's brace */
	AT_KEY,		/* before a member */
	IN_KEY,
	AT_COLON,
	AT_VALUE,
	IN_VALUE,	/* of a member that is not entries */
	AFTER_VALUE,
	AT_ELEMENT,	/* in entries, between two elements */
	IN_ELEMENT,
	AT_END,
};

struct toc_scan {
	toc_element_fn fn;
	void *ctx;
	enum state state;
	char key[TOC_KEY_MAX + 1];
	size_t key_len;
	bool first;		/* no member or element has been seen at this place */
	bool comma;		/* the last thing was a comma */
	bool entries, version;	/* seen */
	bool string, escape;	/* in a string of an element or value; behind a backslash there */
	bool scalar;		/* the value is no string, array or object */
	unsigned depth;
	struct buf text;	/* of the element, or of version's value */
	errint_t failed;
};

static errint_t bad(struct err *e, const char *what)
{
	return err_set(e, EBADMSG, ERR_INPUT, "the table of contents is not sound: %s", what);
}

struct toc_scan *toc_scan_new(toc_element_fn fn, void *ctx)
{
	struct toc_scan *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->fn = fn;
	s->ctx = ctx;
	buf_init(&s->text, TOC_ENTRY_MAX);
	return s;
}

struct toc_scan *toc_scan_free(struct toc_scan *s)
{
	if (!s)
		return NULL;
	buf_done(&s->text);
	free(s);
	return NULL;
}

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_key(const struct toc_scan *s, const char *name)
{
	return strcmp(s->key, name) == 0;
}

/* ---- members of the document */

static errint_t end_key(struct toc_scan *s, struct err *e)
{
	static const char *const ours[] = { "entries", "version" };

	s->key[MIN_OF(s->key_len, (size_t)TOC_KEY_MAX)] = '\0';
	for (size_t i = 0; i < MIN_OF(s->key_len, (size_t)TOC_KEY_MAX); i++)	/* some fold case beyond ASCII */
		if (s->key[i] == '\\' || s->key[i] & 0x80)
			return bad(e, "a member's name has escapes, or more than ASCII");
	for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
		if (strcasecmp(s->key, ours[i]) == 0 && !is_key(s, ours[i]))
			return bad(e, "a member's name differs in case only");
	if (s->key_len > TOC_KEY_MAX)
		s->key[0] = '\0';
	s->state = AT_COLON;
	return 0;
}

static errint_t in_key(struct toc_scan *s, char c, struct err *e)
{
	if (c == '"' && !s->escape)
		return end_key(s, e);
	s->escape = c == '\\' && !s->escape;
	if (s->key_len < TOC_KEY_MAX)
		s->key[s->key_len] = c;
	s->key_len++;
	return 0;
}

static errint_t begin_value(struct toc_scan *s, char c, struct err *e)
{
	bool *seen = is_key(s, "entries") ? &s->entries : is_key(s, "version") ? &s->version : NULL;

	if (seen && *seen)
		return bad(e, "a member is there twice");
	if (seen)
		*seen = true;
	if (seen == &s->entries) {
		s->state = AT_ELEMENT;
		s->first = true;
		s->comma = false;
		return c == '[' ? 0 : bad(e, "its entries are no list");
	}
	buf_clear(&s->text);
	s->depth = 0;
	s->string = s->escape = false;
	s->scalar = c != '"' && c != '{' && c != '[';
	s->state = IN_VALUE;
	return -EAGAIN;	/* c again, as part of the value */
}

/* Strings and brackets; true when c ends what began at depth 0. */
static bool nest(struct toc_scan *s, char c)
{
	if (s->string) {
		if (!s->escape && c == '"')
			s->string = false;
		s->escape = c == '\\' && !s->escape;
		return !s->string && s->depth == 0;
	}
	if (c == '"')
		s->string = true;
	else if (c == '{' || c == '[')
		s->depth++;
	else if ((c == '}' || c == ']') && s->depth > 0)
		return --s->depth == 0;
	return false;
}

static errint_t end_value(struct toc_scan *s, struct err *e)
{
	s->state = AFTER_VALUE;
	if (is_key(s, "version") && strcmp(buf_str(&s->text), "1") != 0)
		return bad(e, "its version is not 1");
	return 0;
}

static errint_t in_value(struct toc_scan *s, char c, struct err *e)
{
	if (s->scalar && (is_space(c) || c == ',' || c == '}')) {
		errint_t r = end_value(s, e);

		return r < 0 ? r : -EAGAIN;
	}
	if (s->text.len < TOC_KEY_MAX)
		(void)buf_addc(&s->text, c);
	if (s->scalar)
		return 0;
	bool end = nest(s, c);
	if (s->depth > JSON_DEPTH_MAX)
		return bad(e, "it is nested too deep");
	return end ? end_value(s, e) : 0;
}

/* ---- entries */

static errint_t at_element(struct toc_scan *s, char c, struct err *e)
{
	if (is_space(c))
		return 0;
	if (c == ']' && !s->comma) {
		s->state = AFTER_VALUE;
		return 0;
	}
	if (c == ',' && !s->first && !s->comma) {
		s->comma = true;
		return 0;
	}
	if (c != '{' || (!s->first && !s->comma))
		return bad(e, "its entries are no list of objects");
	s->first = s->comma = false;
	s->depth = 0;
	s->string = s->escape = false;
	buf_clear(&s->text);
	s->state = IN_ELEMENT;
	return -EAGAIN;
}

static errint_t end_element(struct toc_scan *s, struct err *e)
{
	s->state = AT_ELEMENT;
	return s->fn(s->ctx, s->text.data, s->text.len, e);
}

static errint_t add_text(struct toc_scan *s, const char *p, size_t len, struct err *e)
{
	errint_t r = buf_add(&s->text, p, len);

	if (r == 0)
		return 0;
	if (r == -ENOMEM)
		return err_errno(e, ENOMEM, "reading a table of contents");
	return err_set(e, EBADMSG, ERR_LIMIT, "an entry of the table of contents has over %u bytes", TOC_ENTRY_MAX);
}

/* As much as there is of the element; *ret_used says how much. */
static errint_t in_element(struct toc_scan *s, const char *p, size_t len, size_t *ret_used, struct err *e)
{
	size_t n = 0;
	bool end = false;

	while (n < len && !end && s->depth <= JSON_DEPTH_MAX) {
		if (!s->escape)
			n += (s->string ? toc_plain : toc_between)(p + n, len - n);
		if (n < len)
			end = nest(s, p[n++]);
	}
	*ret_used = n;
	if (s->depth > JSON_DEPTH_MAX)
		return bad(e, "it is nested too deep");
	errint_t r = add_text(s, p, n, e);
	return r == 0 && end ? end_element(s, e) : r;
}

/* ---- the document */

static errint_t at_key(struct toc_scan *s, char c, struct err *e)
{
	if (is_space(c))
		return 0;
	if (c == '}' && s->first) {
		s->state = AT_END;
		return 0;
	}
	if (c != '"')
		return bad(e, "it is no JSON object");
	s->first = false;
	s->key_len = 0;
	s->escape = false;
	s->state = IN_KEY;
	return 0;
}

static errint_t after_value(struct toc_scan *s, char c, struct err *e)
{
	if (is_space(c))
		return 0;
	if (c != ',' && c != '}')
		return bad(e, "it is no JSON object");
	s->state = c == ',' ? AT_KEY : AT_END;
	return 0;
}

/* A single character between the big pieces: sets *ret_state, or refuses. */
static errint_t expect(struct toc_scan *s, char c, char what, enum state next, struct err *e)
{
	if (is_space(c))
		return 0;
	s->state = next;
	return c == what ? 0 : bad(e, "it is no JSON object");
}

/* -EAGAIN: the state has changed, the same byte once more. */
static errint_t step(struct toc_scan *s, char c, struct err *e)
{
	switch (s->state) {
	case AT_START:
		s->first = true;
		return expect(s, c, '{', AT_KEY, e);
	case AT_KEY:
		return at_key(s, c, e);
	case IN_KEY:
		return in_key(s, c, e);
	case AT_COLON:
		return expect(s, c, ':', AT_VALUE, e);
	case AT_VALUE:
		return is_space(c) ? 0 : begin_value(s, c, e);
	case IN_VALUE:
		return in_value(s, c, e);
	case AFTER_VALUE:
		return after_value(s, c, e);
	case AT_ELEMENT:
		return at_element(s, c, e);
	default:
		return is_space(c) ? 0 : bad(e, "there is something behind it");
	}
}

static errint_t push(struct toc_scan *s, const char *p, size_t len, struct err *e)
{
	while (len) {
		size_t used = 1;
		errint_t r = s->state == IN_ELEMENT ? in_element(s, p, len, &used, e) : step(s, *p, e);

		if (r == -EAGAIN)
			continue;
		if (r < 0)
			return r;
		p += used;
		len -= used;
	}
	return 0;
}

errint_t toc_scan_push(struct toc_scan *s, const void *data, size_t len, struct err *e)
{
	if (s->failed)
		return err_set(e, EBADMSG, ERR_INPUT, "the table of contents has failed before");
	errint_t r = push(s, data, len, e);

	s->failed = r;
	return r;
}

errint_t toc_scan_end(struct toc_scan *s, struct err *e)
{
	if (s->failed || s->state != AT_END)
		return bad(e, "it is cut off");
	return s->entries ? 0 : bad(e, "it has no entries");
}
