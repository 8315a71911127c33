/*
 * url.c - http and https addresses, and who may send us where
 *
 * Written by hand because the checks are the point: a URL that comes from a registry is either
 * understood completely here or refused.  No threads, no state.
 */
#include "registry/url.h"

#include <string.h>
#include <strings.h>

#include "registry/ref.h"

static bool is_alnum(unsigned char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool clean_text(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s <= ' ' || *s == 0x7f)
			return false;
	return true;
}

static bool host_ok(const char *s, size_t len)
{
	bool v6 = len > 2 && s[0] == '[' && s[len - 1] == ']';
	size_t i;

	if (len == 0 || len > REF_HOST_MAX)
		return false;
	if (v6) {
		for (i = 1; i < len - 1; i++)
			if (!strchr("0123456789abcdefABCDEF:.", s[i]))
				return false;
		return true;
	}
	for (i = 0; i < len; i++)
		if (!is_alnum((unsigned char)s[i]) && !strchr("._-", s[i]))
			return false;
	return s[0] != '.' && s[0] != '-';
}

static bool parse_port(const char *s, size_t len, unsigned *ret)
{
	unsigned v = 0;

	if (len == 0 || len > 5)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (s[i] < '0' || s[i] > '9')
			return false;
		v = v * 10 + (unsigned)(s[i] - '0');
	}
	*ret = v;
	return v > 0 && v <= 65535;
}

/* "host[:port]" of the authority; the user part is refused by host_ok ('@' is not allowed). */
static bool parse_authority(const char *s, size_t len, struct url *u)
{
	const char *end = s + len;
	const char *colon = NULL;

	for (const char *p = end; p > s && p[-1] != ']'; p--)
		if (p[-1] == ':') {
			colon = p - 1;
			break;
		}
	u->port = u->https ? 443 : 80;
	if (colon && !parse_port(colon + 1, (size_t)(end - colon - 1), &u->port))
		return false;
	if (colon)
		end = colon;
	if (!host_ok(s, (size_t)(end - s)))
		return false;
	u->host = ref_lower_dup(s, (size_t)(end - s));
	return u->host != NULL;
}

/* The path and query without the fragment; a missing path becomes "/". */
static char *dup_target(const char *s)
{
	size_t len = strcspn(s, "#");
	char *t = malloc(len + 2);

	if (!t)
		return NULL;
	t[0] = '/';
	memcpy(t + (s[0] == '/' ? 0 : 1), s, len);
	t[len + (s[0] == '/' ? 0 : 1)] = '\0';
	if (len == 0)
		t[1] = '\0';
	return t;
}

errint_t url_parse(const char *s, struct url *ret, struct err *e)
{
	struct url u = { 0 };
	size_t alen;

	if (strlen(s) > URL_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "a URL of more than %d bytes was refused",
			       URL_MAX);
	if (strncasecmp(s, "https://", 8) == 0)
		u.https = true;
	else if (strncasecmp(s, "http://", 7) != 0)
		return err_set(e, EINVAL, ERR_INPUT, "\"%.100s\" is not an http or https URL", s);
	s += u.https ? 8 : 7;
	alen = strcspn(s, "/?#");
	if (!clean_text(s) || !parse_authority(s, alen, &u))
		return err_set(e, EINVAL, ERR_INPUT,
			       "a URL with a malformed host or port was refused");
	u.target = dup_target(s + alen);
	if (!u.target) {
		url_done(&u);
		return err_set(e, ENOMEM, ERR_LOCAL, "no memory for a URL");
	}
	*ret = u;
	return 0;
}

void url_done(struct url *u)
{
	free(u->host);
	free(u->target);
	*u = (struct url){ 0 };
}

/* Joins the directory of base (or all of its path, for "?query") and ref. */
static errint_t add_relative(struct buf *b, const struct url *base, const char *ref)
{
	size_t path = strcspn(base->target, "?");

	if (ref[0] == '/')
		return buf_adds(b, ref);
	if (ref[0] != '?' && ref[0] != '\0')
		while (path > 0 && base->target[path - 1] != '/')
			path--;
	(void)buf_add(b, base->target, path);
	return buf_adds(b, ref);
}

static bool has_scheme(const char *s)
{
	size_t n = strcspn(s, ":/?#");

	return n > 0 && s[n] == ':';
}

errint_t url_resolve(const struct url *base, const char *ref, struct url *ret, struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(URL_MAX);

	if (has_scheme(ref))
		return url_parse(ref, ret, e);
	if (strncmp(ref, "//", 2) == 0)
		(void)buf_adds(&b, base->https ? "https:" : "http:");
	else
		(void)url_add_origin(&b, base);
	if (strncmp(ref, "//", 2) == 0)
		(void)buf_adds(&b, ref);
	else
		(void)add_relative(&b, base, ref);
	if (buf_check(&b) < 0)
		return err_set(e, -buf_check(&b), ERR_LIMIT,
			       "a URL of more than %d bytes was refused", URL_MAX);
	return url_parse(buf_str(&b), ret, e);
}

errint_t url_add_origin(struct buf *b, const struct url *u)
{
	(void)buf_addf(b, "%s://%s", u->https ? "https" : "http", u->host);
	if (u->port != (u->https ? 443u : 80u))
		(void)buf_addf(b, ":%u", u->port);
	return buf_check(b);
}

errint_t url_add(struct buf *b, const struct url *u)
{
	(void)url_add_origin(b, u);
	return buf_adds(b, u->target);
}

bool url_same_origin(const struct url *a, const struct url *b)
{
	return a->https == b->https && a->port == b->port && strcmp(a->host, b->host) == 0;
}

bool url_is_loopback(const struct url *u)
{
	return ref_host_is_loopback(u->host);
}

bool url_is_link_local(const struct url *u)
{
	return ref_host_is_link_local(u->host);
}

errint_t url_guard(const struct url *from, bool from_loopback, const struct url *to,
		   const char *what, struct err *e)
{
	if (from->https && !to->https)
		return err_set(e, EACCES, ERR_AUTH,
			       "%s names a %s at %s without TLS, which was refused", from->host,
			       what, to->host);
	if (url_is_link_local(to))
		return err_set(e, EACCES, ERR_AUTH,
			       "%s names a %s at the link-local address %s, which was refused",
			       from->host, what, to->host);
	if (url_is_loopback(to) && !from_loopback)
		return err_set(e, EACCES, ERR_AUTH,
			       "%s names a %s on this machine (%s), which was refused", from->host,
			       what, to->host);
	return 0;
}

errint_t url_escape(struct buf *b, const char *s, const char *keep)
{
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (is_alnum(c) || strchr("-._~", c) || strchr(keep, c))
			(void)buf_addc(b, (char)c);
		else
			(void)buf_addf(b, "%%%02X", c);
	}
	return buf_check(b);
}

static const char *skip_ows(const char *p)
{
	return p + strspn(p, " \t");
}

/* Reads a token or a quoted string at *p into out (cut to its size); false = malformed. */
static bool link_value(const char **p, char *out, size_t out_len)
{
	const char *s = *p;
	bool quoted = *s == '"';
	size_t n = 0;

	if (quoted)
		s++;
	for (; *s && (quoted ? *s != '"' : !strchr(" \t;,", *s)); s++) {
		if (quoted && *s == '\\' && s[1])
			s++;
		if (n + 1 < out_len)
			out[n++] = *s;
	}
	out[n] = '\0';
	if (quoted && *s != '"')
		return false;
	*p = s + (quoted ? 1 : 0);
	return true;
}

static bool has_next(const char *rel)
{
	while (*rel) {
		size_t n = strcspn(rel, " \t");

		if (n == 4 && strncasecmp(rel, "next", 4) == 0)
			return true;
		rel = skip_ows(rel + n);
	}
	return false;
}

/* The parameters after <url>; *ret_next tells whether the first rel among them is "next". */
static bool link_params(const char **p, bool *ret_next)
{
	bool seen = false;

	*ret_next = false;
	for (*p = skip_ows(*p); **p == ';'; *p = skip_ows(*p)) {
		const char *name = skip_ows(*p + 1);
		size_t n = strcspn(name, "=;, \t");
		char value[128] = "";

		*p = skip_ows(name + n);
		if (**p == '=') {
			*p = skip_ows(*p + 1);
			if (!link_value(p, value, sizeof(value)))
				return false;
		}
		if (n == 3 && strncasecmp(name, "rel", 3) == 0 && !seen) {
			seen = true;
			*ret_next = has_next(value);
		}
	}
	return true;
}

char *link_next(const char *value)
{
	const char *p = value;

	for (;;) {
		const char *start, *end;
		bool next;

		p += strspn(p, " \t,");
		if (*p != '<')
			return NULL;
		start = p + 1;
		end = strchr(start, '>');
		if (!end || end - start > URL_MAX)
			return NULL;
		p = end + 1;
		if (!link_params(&p, &next) || (*p && *p != ','))
			return NULL;
		if (next)
			return strndup(start, (size_t)(end - start));
	}
}
