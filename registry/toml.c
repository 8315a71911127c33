/*
 * toml.c - a strict reader of a subset of TOML
 *
 * One pass over the text, one tree of values.  A table remembers how it came about, because TOML
 * lets some be reopened and others not: by its own header, by a longer header, by a dotted key, or
 * inline.  Strings may not contain NUL.  No threads, no state beside the parser on the stack.
 */
#include "registry/toml.h"

#include <stdlib.h>
#include <string.h>

#include "util/buf.h"

enum origin { FROM_PARENT = 0, FROM_HEADER, FROM_DOTTED, FROM_INLINE };

struct toml {
	enum toml_kind kind;
	enum origin origin;	/* tables; arrays: FROM_HEADER = array of tables */
	char *key;		/* as member of a table */
	char *str;
	int64_t num;		/* integer or boolean */
	struct toml **v;
	size_t n, cap;
};

struct parser {
	const char *p, *end;
	unsigned line;
	size_t values;
	struct toml *current;	/* the table that the last header opened */
	struct err *e;
};

static errint_t parse_value(struct parser *ps, unsigned depth, struct toml **ret);

static errint_t fail(struct parser *ps, const char *what)
{
	return err_set(ps->e, EINVAL, ERR_INPUT, "line %u: %s", ps->line, what);
}

static errint_t no_memory(struct parser *ps)
{
	return err_set(ps->e, ENOMEM, ERR_LOCAL, "no memory for a configuration file");
}

/* ---- the tree ---- */

struct toml *toml_free(struct toml *t)
{
	if (!t)
		return NULL;
	for (size_t i = 0; i < t->n; i++)
		toml_free(t->v[i]);
	free(t->v);
	free(t->key);
	free(t->str);
	free(t);
	return NULL;
}

static struct toml *value_new(struct parser *ps, enum toml_kind kind)
{
	struct toml *t;

	if (++ps->values > TOML_VALUES_MAX) {
		err_set(ps->e, EFBIG, ERR_LIMIT, "line %u: more than %d values", ps->line,
			TOML_VALUES_MAX);
		return NULL;
	}
	t = calloc(1, sizeof(*t));
	if (t)
		t->kind = kind;
	else
		no_memory(ps);
	return t;
}

static errint_t value_error(const struct parser *ps)
{
	return ps->values > TOML_VALUES_MAX ? -EFBIG : -ENOMEM;
}

static errint_t add_child(struct parser *ps, struct toml *parent, struct toml *child)
{
	if (parent->n == parent->cap) {
		size_t cap = parent->cap ? parent->cap * 2 : 4;
		struct toml **v = reallocarray(parent->v, cap, sizeof(*v));

		if (!v)
			return no_memory(ps);
		parent->v = v;
		parent->cap = cap;
	}
	parent->v[parent->n++] = child;
	return 0;
}

static struct toml *find(const struct toml *table, const char *key)
{
	for (size_t i = 0; i < table->n; i++)
		if (strcmp(table->v[i]->key, key) == 0)
			return table->v[i];
	return NULL;
}

/* Takes child, also when it fails. */
static errint_t add_member(struct parser *ps, struct toml *table, const char *key,
			   struct toml *child)
{
	errint_t r = 0;

	if (find(table, key))
		r = fail(ps, "this key is already there");
	if (r == 0) {
		child->key = strdup(key);
		r = child->key ? add_child(ps, table, child) : no_memory(ps);
	}
	if (r < 0)
		toml_free(child);
	return r;
}

static errint_t add_table(struct parser *ps, struct toml *parent, const char *key,
			  enum origin origin, struct toml **ret)
{
	struct toml *t = value_new(ps, TOML_TABLE);
	errint_t r;

	if (!t)
		return value_error(ps);
	t->origin = origin;
	r = add_member(ps, parent, key, t);
	if (r == 0)
		*ret = t;
	return r;
}

/* ---- characters ---- */

static int peek(const struct parser *ps)
{
	return ps->p < ps->end ? (unsigned char)*ps->p : -1;
}

static bool take(struct parser *ps, const char *s)
{
	size_t n = strlen(s);

	if ((size_t)(ps->end - ps->p) < n || memcmp(ps->p, s, n) != 0)
		return false;
	ps->p += n;
	return true;
}

static void skip_blanks(struct parser *ps)
{
	while (peek(ps) == ' ' || peek(ps) == '\t')
		ps->p++;
}

static bool take_newline(struct parser *ps)
{
	if (!take(ps, "\n") && !take(ps, "\r\n"))
		return false;
	ps->line++;
	return true;
}

static void skip_comment(struct parser *ps)
{
	if (peek(ps) != '#')
		return;
	while (peek(ps) >= 0 && peek(ps) != '\n')
		ps->p++;
}

static void skip_lines(struct parser *ps)
{
	do {
		skip_blanks(ps);
		skip_comment(ps);
	} while (take_newline(ps));
}

static errint_t end_of_line(struct parser *ps)
{
	skip_blanks(ps);
	skip_comment(ps);
	if (peek(ps) < 0 || take_newline(ps))
		return 0;
	return fail(ps, "something follows the end of the statement");
}

/* ---- strings ---- */

static errint_t add_utf8(struct parser *ps, struct buf *b, uint32_t c)
{
	if (c == 0 || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return fail(ps, "an escape that is no character");
	if (c < 0x80)
		return buf_addc(b, (char)c);
	if (c < 0x800) {
		(void)buf_addc(b, (char)(0xc0 | c >> 6));
	} else if (c < 0x10000) {
		(void)buf_addc(b, (char)(0xe0 | c >> 12));
		(void)buf_addc(b, (char)(0x80 | (c >> 6 & 0x3f)));
	} else {
		(void)buf_addc(b, (char)(0xf0 | c >> 18));
		(void)buf_addc(b, (char)(0x80 | (c >> 12 & 0x3f)));
		(void)buf_addc(b, (char)(0x80 | (c >> 6 & 0x3f)));
	}
	return buf_addc(b, (char)(0x80 | (c & 0x3f)));
}

static errint_t hex_escape(struct parser *ps, struct buf *b, unsigned digits)
{
	uint32_t c = 0;

	for (; digits > 0; digits--, ps->p++) {
		int h = peek(ps);

		if (h >= '0' && h <= '9')
			c = c * 16 + (uint32_t)(h - '0');
		else if ((h | 0x20) >= 'a' && (h | 0x20) <= 'f')
			c = c * 16 + (uint32_t)((h | 0x20) - 'a' + 10);
		else
			return fail(ps, "an escape needs more hex digits");
	}
	return add_utf8(ps, b, c);
}

/* A backslash at the end of a line swallows blanks and line ends up to the next character. */
static errint_t line_escape(struct parser *ps)
{
	skip_blanks(ps);
	if (!take_newline(ps))
		return fail(ps, "a backslash is followed by nothing it may escape");
	do
		skip_blanks(ps);
	while (take_newline(ps));
	return 0;
}

static errint_t escape(struct parser *ps, struct buf *b, bool multi)
{
	static const char from[] = "btnfre\"\\", to[] = "\b\t\n\f\r\033\"\\";
	int c = peek(ps);
	const char *at = c > 0 ? strchr(from, c) : NULL;

	if (multi && (c == ' ' || c == '\t' || c == '\r' || c == '\n'))
		return line_escape(ps);
	ps->p += c >= 0;
	if (at)
		return buf_addc(b, to[at - from]);
	if (c == 'u' || c == 'U')
		return hex_escape(ps, b, c == 'u' ? 4 : 8);
	return fail(ps, "a backslash is followed by nothing it may escape");
}

static errint_t plain_char(struct parser *ps, struct buf *b, bool multi)
{
	int c = peek(ps);

	if (c < 0)
		return fail(ps, "a string does not end");
	if (multi && (c == '\n' || c == '\r')) {
		if (!take_newline(ps))
			return fail(ps, "a control character in a string");
		return buf_addc(b, '\n');
	}
	if (c == '\n' || c == '\r')
		return fail(ps, "a string does not end on its line");
	if ((c < 0x20 && c != '\t') || c == 0x7f)
		return fail(ps, "a control character in a string");
	ps->p++;
	return buf_addc(b, (char)c);
}

/* Up to two quotes may stand right before the closing three. */
static bool close_multi(struct parser *ps, struct buf *b, const char *mark)
{
	if (!take(ps, mark))
		return false;
	for (int i = 0; i < 2 && peek(ps) == mark[0]; i++, ps->p++)
		(void)buf_addc(b, mark[0]);
	return true;
}

static errint_t parse_string(struct parser *ps, bool allow_multi, struct buf *b)
{
	char q = *ps->p;
	const char *mark = q == '"' ? "\"\"\"" : "'''";
	bool multi = allow_multi && take(ps, mark);
	errint_t r = 0;

	if (multi)
		(void)take_newline(ps);
	else
		ps->p++;
	while (r == 0) {
		if (multi ? close_multi(ps, b, mark) : peek(ps) == q) {
			ps->p += !multi;
			break;
		}
		if (q == '"' && take(ps, "\\"))
			r = escape(ps, b, multi);
		else
			r = plain_char(ps, b, multi);
	}
	if (r == 0 && buf_check(b) < 0)
		r = no_memory(ps);
	return r;
}

/* ---- keys ---- */

static bool bare_key_char(int c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       c == '-' || c == '_';
}

static errint_t parse_key_part(struct parser *ps, struct buf *b)
{
	buf_clear(b);
	skip_blanks(ps);
	if (peek(ps) == '"' || peek(ps) == '\'')
		return parse_string(ps, false, b);
	while (bare_key_char(peek(ps)))
		(void)buf_addc(b, *ps->p++);
	if (b->len == 0)
		return fail(ps, "a key is expected here");
	return buf_check(b) < 0 ? no_memory(ps) : 0;
}

/* Walks to (or makes) the table `key` below t, on the way to something deeper. */
static errint_t descend(struct parser *ps, struct toml **t, const char *key, enum origin make)
{
	struct toml *next = find(*t, key);

	if (!next)
		return add_table(ps, *t, key, make, t);
	if (next->kind == TOML_ARRAY && next->origin == FROM_HEADER && make == FROM_PARENT)
		next = next->v[next->n - 1];
	if (next->kind != TOML_TABLE || next->origin == FROM_INLINE)
		return fail(ps, "this key cannot have members");
	if (make == FROM_DOTTED && next->origin == FROM_HEADER)
		return fail(ps, "a table with a header of its own cannot be extended here");
	*t = next;
	return 0;
}

/* Reads "a.b.c", makes or finds a and b below *t, and leaves c in last. */
static errint_t parse_key(struct parser *ps, struct toml **t, enum origin make, struct buf *last)
{
	for (unsigned depth = 0;; depth++) {
		errint_t r = parse_key_part(ps, last);

		if (r < 0)
			return r;
		if (depth == TOML_DEPTH_MAX)
			return fail(ps, "a key with too many parts");
		skip_blanks(ps);
		if (!take(ps, "."))
			return 0;
		r = descend(ps, t, buf_str(last), make);
		if (r < 0)
			return r;
	}
}

/* ---- values ---- */

static errint_t parse_pair(struct parser *ps, struct toml *table, unsigned depth)
{
	_cleanup_buf_ struct buf key = BUF_INIT(TOML_BYTES_MAX);
	struct toml *value;
	errint_t r = parse_key(ps, &table, FROM_DOTTED, &key);

	if (r < 0)
		return r;
	skip_blanks(ps);
	if (!take(ps, "="))
		return fail(ps, "\"=\" is expected after the key");
	r = parse_value(ps, depth, &value);
	return r < 0 ? r : add_member(ps, table, buf_str(&key), value);
}

static errint_t parse_inline(struct parser *ps, unsigned depth, struct toml *t)
{
	errint_t r;

	t->origin = FROM_INLINE;
	skip_blanks(ps);
	if (take(ps, "}"))
		return 0;
	for (;;) {
		r = parse_pair(ps, t, depth + 1);
		if (r < 0)
			return r;
		skip_blanks(ps);
		if (take(ps, "}"))
			return 0;
		if (!take(ps, ","))
			return fail(ps, "\",\" or \"}\" is expected in the inline table");
	}
}

static errint_t parse_array(struct parser *ps, unsigned depth, struct toml *t)
{
	for (;;) {
		struct toml *item;
		errint_t r;

		skip_lines(ps);
		if (take(ps, "]"))
			return 0;
		r = parse_value(ps, depth + 1, &item);
		if (r < 0)
			return r;
		r = add_child(ps, t, item);
		if (r < 0) {
			toml_free(item);
			return r;
		}
		skip_lines(ps);
		if (!take(ps, ",") && peek(ps) != ']')
			return fail(ps, "\",\" or \"]\" is expected in the array");
	}
}

static errint_t parse_int(struct parser *ps, struct toml *t)
{
	char digits[32];
	size_t n = 0;
	char *end;

	while (bare_key_char(peek(ps)) || peek(ps) == '+' || peek(ps) == '.' || peek(ps) == ':') {
		if (*ps->p != '_' && n + 1 < sizeof(digits))
			digits[n++] = *ps->p;
		ps->p++;
	}
	digits[n] = '\0';
	errno = 0;
	t->num = strtoll(digits, &end, 10);
	if (n == 0 || *end || errno || n + 1 == sizeof(digits) ||
	    (digits[strspn(digits, "+-")] == '0' && n > 1 + strspn(digits, "+-")))
		return fail(ps, "only strings, decimal integers, booleans, arrays and tables are "
				"understood here");
	return 0;
}

static errint_t parse_scalar(struct parser *ps, struct toml *t)
{
	_cleanup_buf_ struct buf b = BUF_INIT(TOML_BYTES_MAX);
	errint_t r;

	if (peek(ps) != '"' && peek(ps) != '\'') {
		t->kind = TOML_BOOL;
		t->num = take(ps, "true");
		if (t->num || take(ps, "false"))
			return bare_key_char(peek(ps)) ? fail(ps, "an unknown word") : 0;
		t->kind = TOML_INT;
		return parse_int(ps, t);
	}
	t->kind = TOML_STRING;
	r = parse_string(ps, true, &b);
	if (r < 0)
		return r;
	t->str = strdup(buf_str(&b));
	return t->str ? 0 : no_memory(ps);
}

static errint_t parse_value(struct parser *ps, unsigned depth, struct toml **ret)
{
	struct toml *t;
	errint_t r;

	if (depth >= TOML_DEPTH_MAX)
		return fail(ps, "values are nested too deeply");
	skip_blanks(ps);
	t = value_new(ps, TOML_UNSET);
	if (!t)
		return value_error(ps);
	if (take(ps, "[")) {
		t->kind = TOML_ARRAY;
		t->origin = FROM_INLINE;
		r = parse_array(ps, depth, t);
	} else if (take(ps, "{")) {
		t->kind = TOML_TABLE;
		r = parse_inline(ps, depth, t);
	} else {
		r = parse_scalar(ps, t);
	}
	if (r < 0) {
		toml_free(t);
		return r;
	}
	*ret = t;
	return 0;
}

/* ---- headers ---- */

static errint_t open_table(struct parser *ps, struct toml *parent, const char *key)
{
	struct toml *t = find(parent, key);

	if (!t)
		return add_table(ps, parent, key, FROM_HEADER, &ps->current);
	if (t->kind != TOML_TABLE || t->origin != FROM_PARENT)
		return fail(ps, "this table is already there");
	t->origin = FROM_HEADER;
	ps->current = t;
	return 0;
}

static errint_t open_array_item(struct parser *ps, struct toml *parent, const char *key)
{
	struct toml *a = find(parent, key), *item;
	errint_t r = 0;

	if (a && (a->kind != TOML_ARRAY || a->origin != FROM_HEADER))
		return fail(ps, "this key is already there and is no array of tables");
	item = value_new(ps, TOML_TABLE);
	if (!item)
		return value_error(ps);
	item->origin = FROM_HEADER;
	if (!a) {
		a = value_new(ps, TOML_ARRAY);
		if (a) {
			a->origin = FROM_HEADER;
			r = add_member(ps, parent, key, a);
		} else {
			r = value_error(ps);
		}
	}
	if (r == 0)
		r = add_child(ps, a, item);
	if (r < 0)
		toml_free(item);
	else
		ps->current = item;
	return r;
}

static errint_t parse_header(struct parser *ps, struct toml *root)
{
	_cleanup_buf_ struct buf key = BUF_INIT(TOML_BYTES_MAX);
	bool array = take(ps, "[[");
	struct toml *parent = root;
	errint_t r;

	if (!array)
		ps->p++;
	r = parse_key(ps, &parent, FROM_PARENT, &key);
	if (r < 0)
		return r;
	skip_blanks(ps);
	if (!take(ps, array ? "]]" : "]"))
		return fail(ps, "the header does not end");
	if (array)
		r = open_array_item(ps, parent, buf_str(&key));
	else
		r = open_table(ps, parent, buf_str(&key));
	return r;
}

errint_t toml_parse(const char *data, size_t len, struct toml **ret, struct err *e)
{
	struct parser ps = { .p = data, .end = data + len, .line = 1, .e = e };
	_cleanup_(toml_freep) struct toml *root = NULL;
	errint_t r = 0;

	if (len > TOML_BYTES_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "the file has more than %u bytes",
			       TOML_BYTES_MAX);
	root = value_new(&ps, TOML_TABLE);
	if (!root)
		return -ENOMEM;
	ps.current = root;
	(void)take(&ps, "\xef\xbb\xbf");
	for (skip_lines(&ps); peek(&ps) >= 0 && r == 0; skip_lines(&ps)) {
		r = peek(&ps) == '[' ? parse_header(&ps, root) : parse_pair(&ps, ps.current, 0);
		if (r == 0)
			r = end_of_line(&ps);
	}
	if (r < 0)
		return r;
	*ret = steal_ptr(&root);
	return 0;
}

/* ---- reading ---- */

enum toml_kind toml_kind(const struct toml *v)
{
	return v ? v->kind : TOML_UNSET;
}

const struct toml *toml_get(const struct toml *table, const char *key)
{
	return toml_kind(table) == TOML_TABLE ? find(table, key) : NULL;
}

const char *toml_string(const struct toml *v)
{
	return toml_kind(v) == TOML_STRING ? v->str : NULL;
}

const char *toml_str(const struct toml *table, const char *key)
{
	return toml_string(toml_get(table, key));
}

bool toml_bool(const struct toml *table, const char *key, bool def)
{
	const struct toml *v = toml_get(table, key);

	return toml_kind(v) == TOML_BOOL ? v->num != 0 : def;
}

int64_t toml_int(const struct toml *table, const char *key, int64_t def)
{
	const struct toml *v = toml_get(table, key);

	return toml_kind(v) == TOML_INT ? v->num : def;
}

size_t toml_len(const struct toml *v)
{
	return toml_kind(v) == TOML_ARRAY || toml_kind(v) == TOML_TABLE ? v->n : 0;
}

const struct toml *toml_at(const struct toml *v, size_t i)
{
	return i < toml_len(v) ? v->v[i] : NULL;
}

const char *toml_key_at(const struct toml *table, size_t i)
{
	return i < toml_len(table) ? table->v[i]->key : NULL;
}
