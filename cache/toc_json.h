/*
 * toc_json.h - one small JSON object, read member by member, in place (private to cache/)
 *
 * A table of contents has tens of thousands of entries, and the first file of an image waits for them:
 * a parsed document of each (json.h) takes ten times as long as looking at it once.  Strict like that
 * one: sound UTF-8, sound escapes, integers without sign tricks, no text behind the object.
 *
 * The text is changed: strings are unescaped where they are and get a NUL behind them.
 *
 *	struct toc_json r = { text, text + len };
 *	if (!toc_json_enter(&r)) bad
 *	while (toc_json_member(&r, &key, &key_len))
 *		toc_json_value(&r, &v) ...
 *	if (!toc_json_left(&r)) bad
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct toc_json {
	char *p, *end;
	bool failed;		/* sticky: nothing is found any more */
	bool first;		/* no member of the present object has been seen */
};

enum toc_json_kind { TOC_JSON_NULL, TOC_JSON_STRING, TOC_JSON_NUMBER, TOC_JSON_BOOL, TOC_JSON_NESTED };

struct toc_json_value {
	enum toc_json_kind kind;
	char *s;		/* STRING: NUL-terminated; may hold NULs */
	size_t len;
	int64_t n;		/* NUMBER: an integer; -1 when it is negative or no integer */
};

bool toc_json_enter(struct toc_json *r);	/* '{' */
/* The next member's name; false: the object has ended, or failed. */
bool toc_json_member(struct toc_json *r, char **ret, size_t *ret_len);
/* NESTED: an object or array begins here; enter it (an object) or skip it. */
bool toc_json_value(struct toc_json *r, struct toc_json_value *ret);
bool toc_json_skip(struct toc_json *r);
/* All is well, and nothing follows the outermost object. */
bool toc_json_left(struct toc_json *r);
