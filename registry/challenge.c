/*
 * challenge.c - WWW-Authenticate
 *
 * The grammar is ambiguous at commas: what follows one is a parameter of the current challenge when
 * it reads "name = value", else the next challenge.  No threads, no state.
 */
#include "registry/challenge.h"

#include <stdlib.h>
#include <string.h>

#include "registry/ref.h"
#include "util/cleanup.h"

static bool is_tchar(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       (c && strchr("!#$%&'*+-.^_`|~", c));
}

static size_t token_len(const char *p)
{
	size_t n = 0;

	while (is_tchar(p[n]))
		n++;
	return n;
}

static const char *skip_ows(const char *p)
{
	return p + strspn(p, " \t");
}

/* The length of a token68 at p when that is all up to the next comma or the end, else 0. */
static size_t token68_len(const char *p)
{
	size_t n = 0;

	while (is_tchar(p[n]) || p[n] == '/')
		n++;
	if (n == 0)
		return 0;
	while (p[n] == '=')
		n++;
	p = skip_ows(p + n);
	return *p == ',' || *p == '\0' ? n : 0;
}

/* "..." at *p with its escapes; NULL with *p unchanged when it does not end. */
static char *quoted_dup(const char **p, errint_t *r)
{
	const char *s = *p + 1;
	char *out = malloc(strlen(s) + 1);
	size_t n = 0;

	if (!out) {
		*r = -ENOMEM;
		return NULL;
	}
	for (; *s && *s != '"'; s++) {
		if (*s == '\\' && s[1])
			s++;
		out[n++] = *s;
	}
	out[n] = '\0';
	if (*s != '"') {
		free(out);
		*r = -EINVAL;
		return NULL;
	}
	*p = s + 1;
	return out;
}

/* An unquoted value: a token, or what sloppy servers write instead (URLs, scopes). */
static char *bare_dup(const char **p, errint_t *r)
{
	size_t n = strcspn(*p, " \t,");
	char *out;

	out = strndup(*p, n);
	*r = out ? 0 : -ENOMEM;
	*p += n;
	return out;
}

static errint_t add_param(struct challenge *c, const char *name, size_t n, const char **p)
{
	struct challenge_param *pa;
	errint_t r = 0;

	if (c->n_params == CHALLENGE_PARAMS_MAX)
		return -EFBIG;
	pa = &c->params[c->n_params];
	pa->value = **p == '"' ? quoted_dup(p, &r) : bare_dup(p, &r);
	if (!pa->value)
		return r;
	pa->name = ref_lower_dup(name, n);
	if (!pa->name) {
		free(pa->value);
		pa->value = NULL;
		return -ENOMEM;
	}
	c->n_params++;
	return 0;
}

/* Parameters up to the end or to something that starts the next challenge. */
static errint_t parse_params(struct challenge *c, const char **p)
{
	for (;;) {
		const char *name, *eq;
		size_t n;
		errint_t r;

		*p += strspn(*p, " \t,");
		name = *p;
		n = token_len(name);
		eq = skip_ows(name + n);
		if (n == 0)
			return *name ? -EINVAL : 0;
		if (*eq != '=')
			return 0;
		*p = skip_ows(eq + 1);
		r = add_param(c, name, n, p);
		if (r < 0)
			return r;
		*p = skip_ows(*p);
		if (**p && **p != ',')
			return -EINVAL;
	}
}

/* What comes after a scheme: nothing, a token68, or parameters. */
static errint_t parse_rest(struct challenge *c, const char **p)
{
	size_t n;

	if (**p && **p != ' ' && **p != '\t' && **p != ',')
		return -EINVAL;
	*p = skip_ows(*p);
	if (**p == ',' || **p == '\0')
		return 0;
	n = token68_len(*p);
	if (n == 0)
		return parse_params(c, p);
	c->token68 = strndup(*p, n);
	*p += n;
	return c->token68 ? 0 : -ENOMEM;
}

errint_t challenges_parse(struct challenges *cs, const char *value)
{
	const char *p = value;

	for (;;) {
		struct challenge *c;
		size_t n;
		errint_t r;

		p += strspn(p, " \t,");
		if (!*p)
			return 0;
		n = token_len(p);
		if (n == 0)
			return -EINVAL;
		if (cs->n == CHALLENGES_MAX)
			return -EFBIG;
		c = &cs->v[cs->n];
		c->scheme = ref_lower_dup(p, n);
		if (!c->scheme)
			return -ENOMEM;
		cs->n++;
		p += n;
		r = parse_rest(c, &p);
		if (r < 0)
			return r;
	}
}

void challenges_free(struct challenges *cs)
{
	for (size_t i = 0; i < cs->n; i++) {
		struct challenge *c = &cs->v[i];

		free(c->scheme);
		free(c->token68);
		for (size_t j = 0; j < c->n_params; j++) {
			free(c->params[j].name);
			free(c->params[j].value);
		}
	}
	*cs = (struct challenges){ .n = 0 };
}

const struct challenge *challenges_find(const struct challenges *cs, const char *scheme)
{
	for (size_t i = 0; i < cs->n; i++)
		if (strcmp(cs->v[i].scheme, scheme) == 0)
			return &cs->v[i];
	return NULL;
}

const char *challenge_get(const struct challenge *c, const char *name)
{
	for (size_t i = 0; i < c->n_params; i++)
		if (strcmp(c->params[i].name, name) == 0)
			return c->params[i].value;
	return NULL;
}
