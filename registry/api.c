/*
 * api.c - the OCI protocol: ping, resolve, manifests
 *
 * A tag is resolved by HEAD.  HEAD answers have no body, so where the digest header is missing or
 * the status is an error whose words matter (404 is "does not exist" only when the registry says
 * so), the same address is asked again with GET.
 */
#include "registry/api_priv.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "util/stats.h"

#define _cleanup_reply_ _cleanup_(rg_reply_done)

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory while talking to a registry");
}

errint_t rg_api_new(struct rg_host *host, const struct rg_opts *opts, struct rg_api **ret,
		    struct err *e)
{
	struct rg_api *a = calloc(1, sizeof(*a));

	if (!a)
		return no_memory(e);
	a->no_referrers = hmap_new(free);
	a->bad_blobs = hmap_new(free);
	if (!a->no_referrers || !a->bad_blobs) {
		(void)hmap_free(a->no_referrers);
		(void)hmap_free(a->bad_blobs);
		free(a);
		return no_memory(e);
	}
	a->host = host;
	a->opts = opts;
	(void)pthread_mutex_init(&a->lock, NULL);
	*ret = a;
	return 0;
}

struct rg_api *rg_api_free(struct rg_api *a)
{
	if (!a)
		return NULL;
	rg_host_put(a->host);
	(void)hmap_free(a->no_referrers);
	(void)hmap_free(a->bad_blobs);
	(void)pthread_mutex_destroy(&a->lock);
	free(a);
	return NULL;
}

struct rg_host *rg_api_host(struct rg_api *a)
{
	return a->host;
}

errint_t api_bad_answer(struct rg_api *a, const char *what, struct err *e)
{
	if (e) {
		e->eno = EIO;
		e->cls = ERR_INPUT;
	}
	return err_wrap(e, -EIO, "%s sent an answer for %s that makes no sense",
			rg_host_name(a->host), what);
}

const char *api_what(const char *repo, const char *reference, char out[static API_WHAT_MAX])
{
	(void)snprintf(out, API_WHAT_MAX, "%s%s of %s", strchr(reference, ':') ? "" : "tag ",
		       reference, repo);
	return out;
}

bool api_reference_digest(const char *reference, struct digest *ret)
{
	return digest_parse(reference, strlen(reference), ret) == 0;
}

/* Every web server answers something; a registry's front page is JSON or empty. */
static bool is_web_page(const struct rg_reply *reply)
{
	const char *text = buf_str(&reply->body);

	return text[strspn(text, " \t\r\n")] == '<';
}

errint_t rg_api_ping(struct rg_api *a, struct cancel *c, struct err *e)
{
	struct rg_call call = { .method = "GET", .path = "", .max_body = OCI_MANIFEST_MAX };
	_cleanup_reply_ struct rg_reply reply = { 0 };
	errint_t r = rg_transport_call(a->host, &call, &reply, c, e);

	if (r < 0)
		return r;
	if (reply.status == 200 && !is_web_page(&reply))
		return 0;
	if (reply.status == 200)
		return err_set(e, EIO, ERR_INPUT, "%s answered with a web page, so it is not a registry; check "
			       "the address", rg_host_name(a->host));
	return rg_errmap(&reply, rg_host_name(a->host), "the registry's front page /v2/", e);
}

/* --- manifests --- */

static errint_t manifest_call(struct rg_api *a, const char *method, const char *repo,
			      const char *reference, bool mirrors, struct rg_reply *reply,
			      struct cancel *c, struct err *e)
{
	char path[sizeof("manifests/") + DIGEST_TEXT_MAX];
	struct rg_call call = {
		.method = method,
		.repo = repo,
		.path = path,
		.accept = API_ACCEPT_MANIFESTS,
		.by_digest = strchr(reference, ':') != NULL,
		.mirrors = mirrors,
		.max_body = OCI_MANIFEST_MAX,
	};
	int n = snprintf(path, sizeof(path), "manifests/%s", reference);

	if (n < 0 || (size_t)n >= sizeof(path))
		return err_set(e, ENAMETOOLONG, ERR_INPUT, "the reference is too long");
	return rg_transport_call(a->host, &call, reply, c, e);
}

/* Which digest must these bytes have?  By digest: that one.  By tag: the header's, when there is a
 * usable one, else whatever sha256 says. */
static errint_t verify_manifest(struct rg_api *a, const char *what, const char *reference,
				const struct rg_reply *reply, struct digest *ret, struct err *e)
{
	char want[DIGEST_TEXT_MAX], have[DIGEST_TEXT_MAX];
	struct digest expected = { 0 };
	bool known = api_reference_digest(reference, &expected);

	if (!known && reply->digest)
		known = api_reference_digest(reply->digest, &expected);
	digest_of(known ? (enum digest_alg)expected.alg : DIGEST_SHA256, buf_str(&reply->body),
		  reply->body.len, ret);
	if (!known || digest_eq(ret, &expected))
		return 0;
	stat_inc(STAT_INTEGRITY_FAILURES);
	return err_set(e, EIO, ERR_INTEGRITY, "%s sent wrong bytes for %s: %s instead of %s",
		       rg_host_name(a->host), what, digest_text(ret, have),
		       digest_text(&expected, want));
}

static errint_t take_manifest(struct rg_reply *reply, const struct digest *d,
			      struct rg_manifest *ret, struct err *e)
{
	char *type = reply->content_type ? steal_ptr(&reply->content_type) : strdup("");

	if (!type)
		return no_memory(e);
	*ret = (struct rg_manifest){ .bytes = reply->body, .media_type = type, .digest = *d };
	reply->body = (struct buf)BUF_INIT(ret->bytes.max);
	return 0;
}

/* *ret_mirror: a mirror answered. */
static errint_t get_manifest(struct rg_api *a, const char *repo, const char *reference,
			     bool mirrors, bool *ret_mirror, struct rg_manifest *ret,
			     struct cancel *c, struct err *e)
{
	_cleanup_reply_ struct rg_reply reply = { 0 };
	char what[API_WHAT_MAX];
	struct digest d = { 0 };
	errint_t r = manifest_call(a, "GET", repo, reference, mirrors, &reply, c, e);

	*ret_mirror = reply.from_mirror;
	api_what(repo, reference, what);
	if (r < 0)
		return r;
	if (reply.status != 200)
		return rg_errmap(&reply, rg_host_name(a->host), what, e);
	if (reply.body.len > OCI_MANIFEST_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "the manifest of %s is larger than %u bytes",
			       what, OCI_MANIFEST_MAX);
	r = verify_manifest(a, what, reference, &reply, &d, e);
	return r < 0 ? r : take_manifest(&reply, &d, ret, e);
}

errint_t rg_api_get_manifest(struct rg_api *a, const char *repo, const char *reference,
			     struct rg_manifest *ret, struct cancel *c, struct err *e)
{
	struct err mine = { 0 };
	bool mirror;
	errint_t r = get_manifest(a, repo, reference, true, &mirror, ret, c, &mine);

	if (r < 0 && mine.cls == ERR_INTEGRITY && mirror)
		return get_manifest(a, repo, reference, false, &mirror, ret, c, e);
	if (r < 0 && e)
		*e = mine;
	return r;
}

errint_t rg_api_origin_manifest(struct rg_api *a, const char *repo, const char *reference,
				struct rg_manifest *ret, struct cancel *c, struct err *e)
{
	bool mirror;

	return get_manifest(a, repo, reference, false, &mirror, ret, c, e);
}

void rg_manifest_done(struct rg_manifest *m)
{
	buf_done(&m->bytes);
	free(m->media_type);
	*m = (struct rg_manifest){ 0 };
}

static errint_t resolve_by_get(struct rg_api *a, const char *repo, const char *reference,
			       struct digest *ret, struct cancel *c, struct err *e)
{
	_cleanup_(rg_manifest_done) struct rg_manifest m = { 0 };
	errint_t r = rg_api_get_manifest(a, repo, reference, &m, c, e);

	if (r == 0)
		*ret = m.digest;
	return r;
}

/* Is there more to learn from the body that HEAD did not send? */
static bool worth_a_get(int status)
{
	return status == 200 || status == 400 || status == 404 || status == 405 || status == 501;
}

errint_t rg_api_resolve(struct rg_api *a, const char *repo, const char *reference,
			struct digest *ret, struct cancel *c, struct err *e)
{
	_cleanup_reply_ struct rg_reply reply = { 0 };
	struct digest asked = { 0 }, got = { 0 };
	bool by_digest = api_reference_digest(reference, &asked);
	char what[API_WHAT_MAX];
	errint_t r = manifest_call(a, "HEAD", repo, reference, true, &reply, c, e);

	api_what(repo, reference, what);
	if (r < 0)
		return r;
	if (reply.status == 200 && reply.digest && api_reference_digest(reply.digest, &got)) {
		bool wrong = by_digest && asked.alg == got.alg && !digest_eq(&asked, &got);

		if (wrong && reply.from_mirror)
			return resolve_by_get(a, repo, reference, ret, c, e);
		if (wrong)
			return err_set(e, EIO, ERR_INTEGRITY,
				       "%s answered %s with the digest %.150s",
				       rg_host_name(a->host), what, reply.digest);
		*ret = by_digest ? asked : got;
		return 0;
	}
	if (worth_a_get(reply.status))
		return resolve_by_get(a, repo, reference, ret, c, e);
	return rg_errmap(&reply, rg_host_name(a->host), what, e);
}
