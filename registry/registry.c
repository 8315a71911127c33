/*
 * registry.c - one registry, whatever it is made of
 *
 * Checks names once, at this door, turns a name relative to the prefix into a full one, and passes
 * the call to api.c (HTTP) or dir.c (layouts on disk).  A struct rg_registry does not change after
 * rg_open, so it needs no lock.
 */
#include "registry/registry.h"

#include <stdio.h>
#include <string.h>

#include "registry/api_push.h"
#include "registry/dir.h"
#include "util/cleanup.h"

struct rg_registry {
	struct ref_source source;
	struct rg_api *api;	/* SOURCE_OCI */
	struct rg_dir *dir;	/* SOURCE_DIR */
	char *key;
};

#define FULL_NAME_MAX (REF_REPO_MAX + 1)

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory while opening a registry");
}

static errint_t open_oci(struct rg_client *c, struct rg_registry *g, struct err *e)
{
	struct rg_host *host = NULL;
	errint_t r;

	if (asprintf(&g->key, "%s://%s", g->source.plain_http ? "http" : "https", g->source.name) <
	    0) {
		g->key = NULL;
		return no_memory(e);
	}
	r = rg_host_get(c, g->source.host, g->source.plain_http, &host, e);
	if (r < 0)
		return r;
	r = rg_api_new(host, rg_client_opts(c), &g->api, e);
	if (r < 0)
		rg_host_put(host);
	return r;
}

static errint_t open_dir(struct rg_registry *g, struct err *e)
{
	g->key = strdup(g->source.name);
	return g->key ? rg_dir_open(g->source.path, &g->dir, e) : no_memory(e);
}

errint_t rg_open(struct rg_client *c, const char *source, struct rg_registry **ret, struct err *e)
{
	struct rg_registry *g = calloc(1, sizeof(*g));
	errint_t r;

	if (!g)
		return no_memory(e);
	r = ref_source_parse(source, &g->source, e);
	if (r == 0)
		r = g->source.kind == SOURCE_DIR ? open_dir(g, e) : open_oci(c, g, e);
	if (r < 0) {
		(void)rg_close(g);
		return r;
	}
	*ret = g;
	return 0;
}

struct rg_registry *rg_close(struct rg_registry *g)
{
	if (!g)
		return NULL;
	(void)rg_api_free(g->api);
	(void)rg_dir_close(g->dir);
	ref_source_done(&g->source);
	free(g->key);
	free(g);
	return NULL;
}

const char *rg_name(const struct rg_registry *g)
{
	return g->source.name;
}

const char *rg_key(const struct rg_registry *g)
{
	return g->key;
}

enum source_kind rg_kind(const struct rg_registry *g)
{
	return g->source.kind;
}

errint_t rg_ping(struct rg_registry *g, struct cancel *c, struct err *e)
{
	return g->dir ? rg_dir_ping(g->dir, e) : rg_api_ping(g->api, c, e);
}

/* --- names --- */

/* Docker Hub keeps its one-word repositories below library/. */
static const char *hub_namespace(const struct rg_registry *g, const char *repo)
{
	if (*g->source.prefix || strchr(repo, '/') || strcmp(g->source.host, "docker.io") != 0)
		return "";
	return "library/";
}

static errint_t full_oci_name(const struct rg_registry *g, const char *repo,
			      char out[static FULL_NAME_MAX], struct err *e)
{
	const char *prefix = g->source.prefix;
	int n;

	if (!*repo && !*prefix)
		return err_set(e, ENOENT, ERR_NOTFOUND, "%s itself is not a repository",
			       rg_name(g));
	if (!*repo)
		n = snprintf(out, FULL_NAME_MAX, "%s", prefix);
	else
		n = snprintf(out, FULL_NAME_MAX, "%s%s%s%s", hub_namespace(g, repo), prefix,
			     *prefix ? "/" : "", repo);
	if (n < 0 || n >= FULL_NAME_MAX)
		return err_set(e, ENAMETOOLONG, ERR_INPUT,
			       "the repository name is longer than %d bytes", REF_REPO_MAX);
	return 0;
}

/* The name as the backend knows it, checked. */
static errint_t full_name(const struct rg_registry *g, const char *repo,
			  char out[static FULL_NAME_MAX], struct err *e)
{
	size_t n = strlen(repo);

	if (n > 0 && !ref_is_repo(repo, n))
		return err_set(e, EINVAL, ERR_INPUT, "\"%.100s\" is not a repository name", repo);
	if (g->api)
		return full_oci_name(g, repo, out, e);
	memcpy(out, repo, n + 1);
	return 0;
}

static errint_t check_reference(const char *reference, struct err *e)
{
	size_t n = strlen(reference);
	struct digest d;
	errint_t r;

	if (ref_is_tag(reference, n))
		return 0;
	r = digest_parse(reference, n, &d);
	if (r == -EOPNOTSUPP)
		return err_set(e, EOPNOTSUPP, ERR_UNSUPPORTED,
			       "%.100s: only sha256 and sha512 digests can be verified here",
			       reference);
	if (r < 0)
		return err_set(e, EINVAL, ERR_INPUT, "\"%.150s\" is neither a tag nor a digest",
			       reference);
	return 0;
}

/* --- calls --- */

errint_t rg_list_repos(struct rg_registry *g, struct rg_names *ret, struct cancel *c, struct err *e)
{
	if (g->dir)
		return rg_dir_list_repos(g->dir, ret, c, e);
	return rg_api_list_repos(g->api, g->source.prefix, ret, c, e);
}

errint_t rg_list_tags(struct rg_registry *g, const char *repo, struct rg_names *ret,
		      struct cancel *c, struct err *e)
{
	char full[FULL_NAME_MAX];
	errint_t r = full_name(g, repo, full, e);

	if (r < 0)
		return r;
	return g->dir ? rg_dir_list_tags(g->dir, full, ret, e) :
			rg_api_list_tags(g->api, full, ret, c, e);
}

errint_t rg_resolve(struct rg_registry *g, const char *repo, const char *reference,
		    struct digest *ret_digest, struct cancel *c, struct err *e)
{
	char full[FULL_NAME_MAX];
	errint_t r = full_name(g, repo, full, e);

	if (r == 0)
		r = check_reference(reference, e);
	if (r < 0)
		return r;
	return g->dir ? rg_dir_resolve(g->dir, full, reference, ret_digest, e) :
			rg_api_resolve(g->api, full, reference, ret_digest, c, e);
}

errint_t rg_get_manifest(struct rg_registry *g, const char *repo, const char *reference,
			 struct rg_manifest *ret, struct cancel *c, struct err *e)
{
	char full[FULL_NAME_MAX];
	errint_t r = full_name(g, repo, full, e);

	if (r == 0)
		r = check_reference(reference, e);
	if (r < 0)
		return r;
	return g->dir ? rg_dir_get_manifest(g->dir, full, reference, ret, e) :
			rg_api_get_manifest(g->api, full, reference, ret, c, e);
}

errint_t rg_get_blob(struct rg_registry *g, const char *repo, const struct digest *d, uint64_t size,
		     uint64_t off, uint64_t len, rg_sink_fn sink, void *ctx, struct cancel *c,
		     struct err *e)
{
	char full[FULL_NAME_MAX];
	errint_t r = full_name(g, repo, full, e);

	if (r < 0)
		return r;
	return g->dir ? rg_dir_get_blob(g->dir, full, d, size, off, len, sink, ctx, c, e) :
			rg_api_get_blob(g->api, full, d, size, off, len, sink, ctx, c, e);
}

bool rg_blob_was_bad(struct rg_registry *g, const struct digest *d, uint64_t began_ns)
{
	return !g->dir && rg_api_blob_was_bad(g->api, d, began_ns);
}

bool rg_sends_parts(struct rg_registry *g)
{
	return g->dir || rg_api_sends_parts(g->api);
}

errint_t rg_list_referrers(struct rg_registry *g, const char *repo, const struct digest *d,
			   struct buf *ret_index, struct cancel *c, struct err *e)
{
	char full[FULL_NAME_MAX];
	errint_t r = full_name(g, repo, full, e);

	if (r < 0)
		return r;
	return g->dir ? rg_dir_list_referrers(g->dir, full, d, ret_index, c, e) :
			rg_api_list_referrers(g->api, full, d, ret_index, c, e);
}

errint_t rg_list_untagged(struct rg_registry *g, const char *repo, struct buf *ret_index,
			  _unused_ struct cancel *c, struct err *e)
{
	char full[FULL_NAME_MAX];
	errint_t r;

	if (!g->dir)
		return err_set(e, EOPNOTSUPP, ERR_UNSUPPORTED,
			       "%s has no way to list images without a tag", rg_name(g));
	r = full_name(g, repo, full, e);
	return r < 0 ? r : rg_dir_list_untagged(g->dir, full, ret_index, e);
}

/* --- writing (push.h) --- */

static errint_t read_memory(void *ctx, uint64_t off, void *dst, size_t len, _unused_ struct err *e)
{
	memcpy(dst, (const char *)ctx + off, len);
	return 0;
}

struct rg_body rg_body_of(const void *data, size_t len)
{
	struct rg_body b = { .size = len, .read = read_memory, .ctx = (void *)(uintptr_t)data };

	digest_of(DIGEST_SHA256, data, len, &b.digest);
	return b;
}

errint_t rg_has_blob(struct rg_registry *g, const char *repo, const struct digest *d, bool *ret,
		     struct cancel *c, struct err *e)
{
	char full[FULL_NAME_MAX];
	errint_t r = full_name(g, repo, full, e);

	if (r < 0)
		return r;
	return g->dir ? rg_dir_has_blob(g->dir, full, d, ret, e) :
			rg_api_has_blob(g->api, full, d, ret, c, e);
}

errint_t rg_put_blob(struct rg_registry *g, const char *repo, const struct rg_body *b, const char *from,
		     struct cancel *c, struct err *e)
{
	char full[FULL_NAME_MAX], full_from[FULL_NAME_MAX];
	errint_t r = full_name(g, repo, full, e);

	if (r == 0 && from)
		r = full_name(g, from, full_from, e);
	if (r < 0)
		return r;
	from = from ? full_from : NULL;
	return g->dir ? rg_dir_put_blob(g->dir, full, b, from, c, e) :
			rg_api_put_blob(g->api, full, b, from, c, e);
}

/* What is pushed must make sense to us, too: its subject decides where it is listed. */
static errint_t check_put(const struct rg_put *p, struct oci_manifest **ret, struct err *e)
{
	size_t n = p->reference ? strlen(p->reference) : 0;

	if (p->reference && !ref_is_tag(p->reference, n))
		return err_set(e, EINVAL, ERR_INPUT, "\"%.150s\" is not a tag", p->reference);
	if (p->len > RG_MANIFEST_PUSH_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "a manifest of %zu bytes, more than registries take (%u)",
			       p->len, RG_MANIFEST_PUSH_MAX);
	return oci_manifest_parse(p->bytes, p->len, p->media_type, ret, e);
}

errint_t rg_put_manifest(struct rg_registry *g, const char *repo, const struct rg_put *p,
			 struct digest *ret, struct cancel *c, struct err *e)
{
	_cleanup_(oci_manifest_freep) struct oci_manifest *m = NULL;
	char full[FULL_NAME_MAX];
	errint_t r = full_name(g, repo, full, e);

	if (r == 0)
		r = check_put(p, &m, e);
	if (r < 0)
		return r;
	digest_of(DIGEST_SHA256, p->bytes, p->len, ret);
	return g->dir ? rg_dir_put_manifest(g->dir, full, p, m, ret, c, e) :
			rg_api_put_manifest(g->api, full, p, m, ret, c, e);
}

void rg_describe_auth(struct rg_registry *g, struct buf *out)
{
	if (g->api)
		rg_host_describe_auth(rg_api_host(g->api), out);
	else
		(void)buf_adds(out, "a directory, no credentials\n");
}

bool rg_root_is_repo(const struct rg_registry *g)
{
	return g->dir ? rg_dir_is_layout(g->dir) : *g->source.prefix != '\0';
}
