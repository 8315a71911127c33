/*
 * errmap.c - an answer that is an error, as errno, class and a sentence (registry.md 1.2)
 *
 * "Does not exist" is only what a registry says in its own JSON: a 404 page of a proxy, a wrong
 * path, a load balancer that is out of backends must never look like a missing file, because what
 * is missing gets deleted by rsync.  The registry's words are quoted, bounded and escaped.
 */
#include <string.h>

#include "registry/transport.h"
#include "util/json.h"

#define CODE_MAX 39
#define QUOTE_MAX 110	/* bytes of the registry's message */
#define QUOTE_WITH_HINT 48

struct verdict {
	int eno;
	enum err_class cls;
	const char *hint;
};

struct words {
	char code[CODE_MAX + 1];
	char text[QUOTE_MAX + 1];
	bool parsed;		/* an errors[] body with a code */
};

static bool code_ok(const char *s)
{
	size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");

	return n > 0 && n <= CODE_MAX && s[n] == '\0';
}

static void quote(const char *s, char out[static QUOTE_MAX + 1])
{
	_cleanup_buf_ struct buf b = BUF_INIT(8 * QUOTE_MAX);

	(void)buf_add_text(&b, s, strnlen(s, QUOTE_MAX));
	(void)snprintf(out, QUOTE_MAX + 1, "%s", buf_str(&b));
}

static void read_words(const struct rg_reply *reply, struct words *w)
{
	_cleanup_(json_freep) struct json *doc = NULL;
	const struct json *first;
	const char *code, *text;

	*w = (struct words){ .parsed = false };
	if (reply->body.len == 0 ||
	    json_parse(buf_str(&reply->body), reply->body.len, &doc, NULL) < 0)
		return;
	first = json_at(json_get(doc, "errors"), 0);
	code = json_str(first, "code");
	text = json_str(first, "message");
	if (!code || !code_ok(code))
		return;
	w->parsed = true;
	(void)snprintf(w->code, sizeof(w->code), "%s", code);
	quote(text ? text : "", w->text);
}

/* NAME_UNKNOWN, MANIFEST_UNKNOWN, BLOB_UNKNOWN, .. but not UNKNOWN alone, which means "internal";
 * Harbor writes NOT_FOUND. */
static bool says_unknown(const struct words *w)
{
	size_t n = strlen(w->code);

	if (!w->parsed)
		return false;
	return strcmp(w->code, "NOT_FOUND") == 0 ||
	       (n > 8 && strcmp(w->code + n - 8, "_UNKNOWN") == 0);
}

struct row {
	int status;		/* 0: decided by code */
	const char *code;	/* NULL: decided by status */
	struct verdict v;
};

static const struct row rows[] = {
	{401, NULL, {EACCES, ERR_AUTH, NULL}},
	{403, NULL, {EACCES, ERR_AUTH, NULL}},
	{429, NULL, {EIO, ERR_RATE, "too many requests"}},
	{405, NULL, {EOPNOTSUPP, ERR_UNSUPPORTED, NULL}},
	{501, NULL, {EOPNOTSUPP, ERR_UNSUPPORTED, NULL}},
	{0, "UNAUTHORIZED", {EACCES, ERR_AUTH, NULL}},
	{0, "DENIED", {EACCES, ERR_AUTH, NULL}},
	{0, "TOOMANYREQUESTS", {EIO, ERR_RATE, "too many requests"}},
	{0, "UNSUPPORTED", {EOPNOTSUPP, ERR_UNSUPPORTED, NULL}},
	{0, "NAME_INVALID", {EINVAL, ERR_INPUT, NULL}},
	{0, "TAG_INVALID", {EINVAL, ERR_INPUT, NULL}}, /* ECR: also a tag that may not change */
	{0, "MANIFEST_INVALID", {EINVAL, ERR_INPUT, NULL}},
	{0, "DIGEST_INVALID", {EIO, ERR_INPUT, NULL}},
	{0, "SIZE_INVALID", {EIO, ERR_INPUT, NULL}},
	{408, NULL, {EIO, ERR_NET, NULL}},
	{409, NULL, {EBUSY, ERR_INPUT, NULL}},
	{412, NULL, {EPERM, ERR_INPUT, NULL}},
	{413, NULL, {EFBIG, ERR_LIMIT, NULL}},
	{416, NULL, {EIO, ERR_INTEGRITY, "the range lies outside the blob"}},
};

static struct verdict judge(int status, bool writing, const struct words *w)
{
	if (writing && w->parsed && strcmp(w->code, "MANIFEST_BLOB_UNKNOWN") == 0)
		return (struct verdict){ EINVAL, ERR_INPUT, "what it refers to is not there" };
	if (status >= 400 && status < 500 && status != 401 && status != 403 && says_unknown(w))
		return (struct verdict){ ENOENT, ERR_NOTFOUND, NULL };
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct row *r = &rows[i];

		if (r->code ? w->parsed && status < 500 && strcmp(r->code, w->code) == 0 :
			      r->status == status)
			return r->v;
	}
	if (status >= 500)
		return (struct verdict){ EIO, ERR_NET, NULL };
	if (status == 404 && !w->parsed)
		return (struct verdict){ EIO, ERR_INPUT, "this is not a registry's answer, so "
					 "nothing is known; check the address" };
	return (struct verdict){ EIO, ERR_INPUT, NULL };
}

/* What to do about a refusal.  Registries refuse what does not exist as well, so as not to tell. */
static const char *refusal_hint(const struct rg_reply *r)
{
	switch (r->speaker) {
	case RG_REPOSITORY:
		if (r->writing)
			return r->named ? "your user may not write there: log in as one who may" :
					  "log in with \"podman login\" or \"docker login\" as a user "
					  "who may write there";
		return r->named ? "it does not exist, or your user may not read it: check the name, or "
				  "log in as another user" :
				  "it does not exist or is not public: check the name, or log in with "
				  "\"podman login\" or \"docker login\"";
	case RG_REGISTRY:
		return r->named ? "your user may not do that; log in as another user" :
				  "log in with \"podman login\" or \"docker login\"";
	case RG_ELSEWHERE:
		break;
	}
	return "the server that it redirects to refuses";
}

/* The hint is worth more than the rest of a long sentence. */
static void cut(char *text, size_t max)
{
	if (strlen(text) <= max)
		return;
	while (max > 0 && ((unsigned char)text[max] & 0xc0) == 0x80)
		max--;
	text[max] = '\0';
}

static void add_words(struct err *e, const char *words)
{
	size_t n = e ? strlen(e->msg) : 0;

	if (e)
		(void)snprintf(e->msg + n, sizeof(e->msg) - n, "%s", words);
}

/* When the registry wants to be asked again. */
static void add_time(struct err *e, int64_t s)
{
	char words[64];

	(void)snprintf(words, sizeof(words), "; try again in %lld %s",
		       (long long)(s < 3600 ? s : s / 3600), s < 3600 ? "s" : "h");
	add_words(e, words);
}

errint_t rg_errmap(const struct rg_reply *reply, const char *host, const char *what, struct err *e)
{
	struct words w;
	struct verdict v;
	errint_t r;

	read_words(reply, &w);
	v = judge(reply->status, reply->writing, &w);
	if (v.cls == ERR_AUTH) {
		v.hint = refusal_hint(reply);
		cut(w.text, QUOTE_WITH_HINT);
	}
	if (v.cls == ERR_UNSUPPORTED && reply->writing)
		v.hint = "perhaps it is read-only, or a mirror";
	if (w.parsed)
		r = err_set(e, v.eno, v.cls, "%s: %s says %s%s%s (HTTP %d)%s%s", what, host, w.code,
			    *w.text ? ": " : "", w.text, reply->status, v.hint ? "; " : "",
			    v.hint ? v.hint : "");
	else
		r = err_set(e, v.eno, v.cls, "%s: %s answered HTTP %d%s%s", what, host,
			    reply->status, v.hint ? "; " : "", v.hint ? v.hint : "");
	if (reply->retry_after_s > 0)
		add_time(e, reply->retry_after_s);
	else if (v.cls == ERR_RATE)
		add_words(e, "; try again later");
	if (e) {
		e->http = reply->status;
		(void)snprintf(e->code, sizeof(e->code), "%s", w.code);
	}
	return r;
}
