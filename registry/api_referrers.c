/*
 * api_referrers.c - who refers to a digest (distribution-spec: listing referrers)
 *
 * The API when the registry has it, else the index under the tag sha256-<hex>.  One page is passed
 * on as it is; several are put together into one index.
 *
 * Any first 404 means "no API" (the specification insists), also a web page: proxies in front of old
 * registries let only the routes through that they know.  Only a registry's own answer (JSON, Go's
 * plain "404 page not found") is remembered, and the tag must be answered by a registry in any case:
 * behind a proxy that lost its backend both requests get a page, and that is an error.  Web pages
 * with another status are errors at once.
 */
#include "registry/api_push.h"

#include <stdio.h>
#include <string.h>

#include "registry/oci_write.h"

#define REFERRER_PAGES_MAX 1000

#define _cleanup_reply_ _cleanup_(rg_reply_done)

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory while listing referrers");
}

/* --- composing --- */

struct collector {
	struct buf index;	/* several pages: composed */
	size_t n;
	unsigned pages;
};

static void collector_done(struct collector *k)
{
	buf_done(&k->index);
}

static errint_t compose_error(const struct buf *b, struct err *e)
{
	if (buf_check(b) == -EFBIG)
		return err_set(e, EFBIG, ERR_LIMIT, "more than %u bytes of referrers",
			       OCI_MANIFEST_MAX);
	return buf_check(b) < 0 ? no_memory(e) : 0;
}

static errint_t add_children(struct collector *k, const struct oci_manifest *m, struct err *e)
{
	if (k->n + m->n_children > OCI_CHILDREN_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "more than %d referrers", OCI_CHILDREN_MAX);
	for (size_t i = 0; i < m->n_children; i++)
		index_add(&k->index, &m->children[i], k->n++ == 0);
	return compose_error(&k->index, e);
}

static errint_t parse_index(struct rg_api *a, const struct buf *body, const char *type,
			    const char *what, struct oci_manifest **ret, struct err *e)
{
	errint_t r = oci_manifest_parse(buf_str(body), body->len, type, ret, e);

	if (r == 0 && (*ret)->kind != OCI_INDEX) {
		*ret = oci_manifest_free(*ret);
		r = err_set(e, EIO, ERR_INPUT, "not an index");
	}
	if (r == -EINVAL || r == -EOPNOTSUPP || r == -EIO)
		return api_bad_answer(a, what, e);
	return r;
}

static errint_t take_page(struct rg_api *a, struct collector *k, struct rg_reply *reply,
			  const char *what, struct err *e)
{
	_cleanup_(oci_manifest_freep) struct oci_manifest *m = NULL;
	errint_t r = parse_index(a, &reply->body, reply->content_type, what, &m, e);

	if (r < 0)
		return r;
	if (++k->pages == 1 && !reply->link_next) {
		buf_done(&k->index);
		k->index = reply->body;
		reply->body = (struct buf)BUF_INIT(k->index.max);
		return 0;
	}
	if (k->pages == 1)
		index_begin(&k->index);
	r = add_children(k, m, e);
	if (r == 0 && !reply->link_next)
		index_end(&k->index);
	return r < 0 ? r : compose_error(&k->index, e);
}

/* --- the API --- */

static bool is_web_page(const struct rg_reply *reply)
{
	const char *text = buf_str(&reply->body);

	return text[strspn(text, " \t\r\n")] == '<' ||
	       (reply->content_type && strcmp(reply->content_type, "text/html") == 0);
}

/* A 404 of the registry's router. */
static bool is_router_404(const struct rg_reply *reply)
{
	const char *text = buf_str(&reply->body);

	return *text == '{' || strncmp(text, "404 page not found", 18) == 0;
}

/* Not "this repository (or this manifest) is unknown", which says nothing about the API. */
static bool is_about_the_route(const struct err *words)
{
	return strcmp(words->code, "NAME_UNKNOWN") != 0 &&
	       strcmp(words->code, "MANIFEST_UNKNOWN") != 0 &&
	       strcmp(words->code, "NOT_FOUND") != 0; /* Harbor */
}

/* Does this first answer mean that there is no such API?  *ret_remember: for a while. */
static bool means_absent(struct rg_api *a, const struct rg_reply *reply, bool *ret_remember)
{
	struct err words = { 0 };

	*ret_remember = true;
	switch (reply->status) {
	case 200:
		return !is_web_page(reply) && (!reply->content_type ||
					       strcmp(reply->content_type, OCI_TYPE_INDEX) != 0);
	case 400:
		*ret_remember = false;
		return !is_web_page(reply) && (is_router_404(reply) || reply->body.len == 0);
	case 404:
		(void)rg_errmap(reply, rg_host_name(a->host), "referrers", &words);
		*ret_remember = is_router_404(reply) && is_about_the_route(&words);
		return words.cls != ERR_AUTH; /* a refusal is one, whatever its number */
	case 405:
	case 501:
		*ret_remember = !is_web_page(reply);
		return !is_web_page(reply);
	default:
		return false;
	}
}

/* 1: no API (ask the tag), 0: more pages may follow (reply->link_next), negative: failed. */
static int get_page(struct rg_api *a, const char *repo, const char *path, char **url,
		    struct collector *k, const char *what, bool *ret_remember, struct cancel *c,
		    struct err *e)
{
	_cleanup_reply_ struct rg_reply reply = { 0 };
	struct rg_call call = {
		.method = "GET", .repo = repo, .path = path, .next_url = *url,
		.accept = OCI_TYPE_INDEX, .max_body = OCI_MANIFEST_MAX,
	};
	int r = rg_transport_call(a->host, &call, &reply, c, e);

	if (r < 0)
		return r;
	if (k->pages == 0 && means_absent(a, &reply, ret_remember))
		return 1;
	if (reply.status != 200)
		return rg_errmap(&reply, rg_host_name(a->host), what, e);
	r = take_page(a, k, &reply, what, e);
	free(*url);
	*url = r == 0 ? steal_ptr(&reply.link_next) : NULL;
	return r;
}

static int by_api(struct rg_api *a, const char *repo, const char *digest, const char *what,
		  struct buf *ret, bool *ret_remember, struct cancel *c, struct err *e)
{
	_cleanup_(collector_done) struct collector k = { .index = BUF_INIT(OCI_MANIFEST_MAX) };
	char path[sizeof("referrers/") + DIGEST_TEXT_MAX];
	_cleanup_free_ char *url = NULL;
	int r;

	(void)snprintf(path, sizeof(path), "referrers/%s", digest);
	do {
		_cleanup_free_ char *before = url ? strdup(url) : NULL;

		r = get_page(a, repo, path, &url, &k, what, ret_remember, c, e);
		if (r == 0 && url && before && strcmp(url, before) == 0)
			return err_set(e, EIO, ERR_INPUT,
				       "%s: the pages of %s go round in a circle",
				       rg_host_name(a->host), what);
	} while (r == 0 && url && k.pages < REFERRER_PAGES_MAX);
	if (r != 0)
		return r;
	if (url)
		return err_set(e, EFBIG, ERR_LIMIT, "%s have too many pages", what);
	buf_done(ret);
	*ret = k.index;
	k.index = (struct buf)BUF_INIT(OCI_MANIFEST_MAX);
	return 0;
}

/* --- the tag --- */

static errint_t empty_index(struct buf *ret, struct err *e)
{
	buf_done(ret);
	buf_init(ret, OCI_MANIFEST_MAX);
	index_begin(ret);
	index_end(ret);
	return buf_check(ret) < 0 ? no_memory(e) : 0;
}

static errint_t by_tag(struct rg_api *a, const char *repo, const struct digest *d,
		       const char *what, struct buf *ret, struct cancel *c, struct err *e)
{
	_cleanup_(rg_manifest_done) struct rg_manifest m = { 0 };
	_cleanup_(oci_manifest_freep) struct oci_manifest *parsed = NULL;
	char tag[REF_TAG_MAX + 1];
	struct err mine = { 0 };
	errint_t r;

	api_referrers_tag(d, tag);
	r = rg_api_get_manifest(a, repo, tag, &m, c, &mine);
	if (r == -ENOENT && mine.cls == ERR_NOTFOUND)
		return empty_index(ret, e);
	if (r == 0)
		r = parse_index(a, &m.bytes, m.media_type, what, &parsed, &mine);
	if (r < 0) {
		if (e)
			*e = mine;
		return err_wrap(e, r, "referrers under the tag %.20s..", tag);
	}
	buf_done(ret);
	*ret = m.bytes;
	m.bytes = (struct buf)BUF_INIT(OCI_MANIFEST_MAX);
	return 0;
}

errint_t rg_api_list_referrers(struct rg_api *a, const char *repo, const struct digest *d,
			       struct buf *ret_index, struct cancel *c, struct err *e)
{
	char what[API_WHAT_MAX], digest[DIGEST_TEXT_MAX];
	bool remember = false;
	int r = 1;

	digest_text(d, digest);
	(void)snprintf(what, sizeof(what), "the referrers of %s in %s", digest, repo);
	if (!api_remembers(a, &a->no_referrers, repo, strlen(repo)))
		r = by_api(a, repo, digest, what, ret_index, &remember, c, e);
	if (r <= 0)
		return r;
	r = by_tag(a, repo, d, what, ret_index, c, e);
	/* Only now: Go's 404 page is also that of a proxy (Traefik) whose backend is away. */
	if (r == 0 && remember)
		api_remember(a, &a->no_referrers, repo, strlen(repo));
	return r;
}
