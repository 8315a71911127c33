/*
 * api_list.c - listings: all pages or an error
 *
 * A listing is finished when a page has no Link and fewer or more than the API_PAGE names we asked
 * for: exactly that many without a Link may be a server that pages but does not say so, and costs
 * one more request with last=.  Names that break the grammar are dropped, because nothing could be
 * done with them; anything else that is odd fails the listing, for a short one would make rsync
 * delete.
 */
#include "registry/api_priv.h"

#include <stdio.h>
#include <string.h>

#include "registry/names.h"
#include "registry/url.h"
#include "util/json.h"

#define _cleanup_reply_ _cleanup_(rg_reply_done)

#define URL_QUERY_MAX 8192	/* bytes; a name may be escaped threefold */

struct pager {
	struct rg_api *api;
	const char *repo;	/* NULL: catalogue */
	const char *prefix;	/* catalogue: only below this */
	const char *what;	/* for messages */
	struct names_builder names;
	struct hmap *seen;	/* addresses of pages that we followed */
	char *next_url;
	struct buf query;
	char *last;		/* the last name of the latest page */
	unsigned pages;
	bool more;
};

static void pager_done(struct pager *p)
{
	names_abort(&p->names);
	(void)hmap_free(p->seen);
	free(p->next_url);
	free(p->last);
	buf_done(&p->query);
}

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory while listing names");
}

static errint_t set_query(struct pager *p, const char *last, struct err *e)
{
	buf_clear(&p->query);
	(void)buf_addf(&p->query, "n=%d", API_PAGE);
	if (last) {
		(void)buf_adds(&p->query, "&last=");
		(void)url_escape(&p->query, last, "");
	}
	if (buf_check(&p->query) == -EFBIG)
		return err_set(e, EIO, ERR_INPUT,
			       "the last name of a page is too long to go on from");
	return buf_check(&p->query) < 0 ? no_memory(e) : 0;
}

/* The part of a catalogue name below the prefix; NULL = not below it. */
static const char *below_prefix(const char *name, const char *prefix)
{
	size_t n = strlen(prefix);

	if (n == 0)
		return name;
	if (strncmp(name, prefix, n) != 0)
		return NULL;
	if (name[n] == '\0')
		return "";
	return name[n] == '/' ? name + n + 1 : NULL;
}

static errint_t add_name(struct pager *p, const char *name, struct err *e)
{
	size_t len = strlen(name);

	if (p->repo ? !ref_is_tag(name, len) : !ref_is_repo(name, len))
		return 0;
	if (!p->repo)
		name = below_prefix(name, p->prefix);
	return name ? names_add(&p->names, name, strlen(name), e) : 0;
}

/* The list in a page.  null is an empty list, but a page without that member is no list at all. */
static errint_t find_list(const struct pager *p, const struct json *doc, const struct json **ret,
			  struct err *e)
{
	const char *member = p->repo ? "tags" : "repositories", *key;
	void *it = NULL;
	bool found = false;

	while (!found && json_next(doc, &it, &key))
		found = strcmp(key, member) == 0;
	*ret = json_get(doc, member);
	if (!found || (*ret && !json_is_array(*ret)))
		return err_set(e, EIO, ERR_INPUT, "it has no list \"%s\"", member);
	return 0;
}

static errint_t add_page(struct pager *p, const struct json *list, const char **ret_last,
			 struct err *e)
{
	size_t n = json_len(list);

	*ret_last = NULL;
	for (size_t i = 0; i < n; i++) {
		const char *name = json_text(json_at(list, i), NULL);
		errint_t r = name ? add_name(p, name, e) : 0;

		if (r < 0)
			return r;
		if (name)
			*ret_last = name;
	}
	return 0;
}

/* A link leads on, unless it leads where we have been. */
static errint_t follow_link(struct pager *p, struct rg_reply *reply, struct err *e)
{
	static char mark;

	free(p->next_url);
	p->next_url = steal_ptr(&reply->link_next);
	if (hmap_gets(p->seen, p->next_url))
		return err_set(e, EIO, ERR_INPUT, "its pages go round in a circle");
	p->more = true;
	return hmap_puts(p->seen, p->next_url, &mark) < 0 ? no_memory(e) : 0;
}

/* Without a link: done, or one more request behind the last name? */
static errint_t follow_last(struct pager *p, size_t n, const char *last, struct err *e)
{
	bool progress = last && !(p->last && strcmp(p->last, last) == 0);

	free(p->next_url);
	p->next_url = NULL;
	p->more = n == API_PAGE && progress;
	if (!p->more)
		return 0;
	free(p->last);
	p->last = strdup(last);
	return p->last ? set_query(p, last, e) : no_memory(e);
}

static errint_t take_page(struct pager *p, struct rg_reply *reply, struct err *e)
{
	_cleanup_(json_freep) struct json *doc = NULL;
	const struct json *list = NULL;
	const char *last;
	errint_t r;

	r = json_parse_max(buf_str(&reply->body), reply->body.len, API_LIST_VALUES_MAX, &doc, e);
	if (r == -ENOMEM || r == -EFBIG)
		return err_wrap(e, r, "%s", p->what);
	buf_done(&reply->body); /* the document has copies of its strings */
	if (r == 0)
		r = find_list(p, doc, &list, e);
	if (r < 0)
		return api_bad_answer(p->api, p->what, e);
	r = add_page(p, list, &last, e);
	if (r < 0)
		return r;
	r = reply->link_next ? follow_link(p, reply, e) : follow_last(p, json_len(list), last, e);
	return r == -EIO ? api_bad_answer(p->api, p->what, e) : r;
}

/* The status of a catalogue's first page that means "there is none for you". */
static bool is_refusal(int status)
{
	return status == 401 || status == 403 || status == 404 || status == 405 || status == 501;
}

static errint_t no_catalog(const struct pager *p, int http, struct err *e)
{
	errint_t r =
		err_set(e, EOPNOTSUPP, ERR_UNSUPPORTED,
			"%s does not list its repositories%s; they are there under their names",
			rg_host_name(p->api->host),
			http == 401 || http == 403 ? " with these credentials" : "");

	if (e)
		e->http = http;
	return r;
}

static errint_t get_page(struct pager *p, struct rg_reply *reply, struct cancel *c, struct err *e)
{
	struct rg_call call = {
		.method = "GET",
		.repo = p->repo,
		.path = p->repo ? "tags/list" : "_catalog",
		.query = buf_str(&p->query),
		.next_url = p->next_url,
		.scope = p->repo ? NULL : "registry:catalog:*",
		.max_body = API_LIST_BODY_MAX,
	};
	struct err mine = { 0 };
	errint_t r = rg_transport_call(p->api->host, &call, reply, c, &mine);
	bool first_of_catalog = !p->repo && p->pages == 1;

	if (r < 0 && first_of_catalog && mine.cls == ERR_AUTH)
		return no_catalog(p, mine.http ? mine.http : 401, e);
	if (r < 0) {
		if (e)
			*e = mine;
		return r;
	}
	if (reply->status == 200)
		return 0;
	if (first_of_catalog && is_refusal(reply->status))
		return no_catalog(p, reply->status, e);
	return rg_errmap(reply, rg_host_name(p->api->host), p->what, e);
}

static errint_t run_pages(struct pager *p, struct cancel *c, struct err *e)
{
	do {
		_cleanup_reply_ struct rg_reply reply = { 0 };
		errint_t r;

		if (++p->pages > RG_PAGES_MAX)
			return err_set(e, EFBIG, ERR_LIMIT, "%s has more than %d pages", p->what,
				       RG_PAGES_MAX);
		r = get_page(p, &reply, c, e);
		if (r == 0)
			r = take_page(p, &reply, e);
		if (r < 0)
			return p->pages == 1 ? r : err_wrap(e, r, "page %u", p->pages);
	} while (p->more);
	return 0;
}

static errint_t list_all(struct pager *p, struct rg_names *ret, struct cancel *c, struct err *e)
{
	errint_t r;

	buf_init(&p->query, URL_QUERY_MAX);
	p->seen = hmap_new(NULL);
	if (!p->seen)
		return no_memory(e);
	r = set_query(p, NULL, e);
	if (r == 0)
		r = run_pages(p, c, e);
	return r < 0 ? r : names_finish(&p->names, ret, e);
}

errint_t rg_api_list_repos(struct rg_api *a, const char *prefix, struct rg_names *ret,
			   struct cancel *c, struct err *e)
{
	_cleanup_(pager_done) struct pager p = {
		.api = a, .prefix = prefix, .what = "the list of repositories",
	};

	return list_all(&p, ret, c, e);
}

errint_t rg_api_list_tags(struct rg_api *a, const char *repo, struct rg_names *ret,
			  struct cancel *c, struct err *e)
{
	char what[API_WHAT_MAX];
	_cleanup_(pager_done) struct pager p = { .api = a, .repo = repo, .what = what };

	(void)snprintf(what, sizeof(what), "the tags of %s", repo);
	return list_all(&p, ret, c, e);
}
