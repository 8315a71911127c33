/*
 * api_push.c - blobs and manifests into a registry (distribution-spec: pushing)
 *
 * A blob is looked for, taken from another repository, or uploaded: in one request when it is small
 * and the registry is known to take that, else by POST (a session) and one PUT.  Only where a PUT
 * of that size is refused it goes in chunks, since registries get chunks wrong (ECR drops all but the
 * first); what the registry says it has is looked at after each.  A session whose connection broke
 * is given up and another one begun, as far as the retry policy allows.  When the last answer of an
 * upload was lost, a HEAD tells whether the blob is there.
 *
 * Locations are used as they came, with `digest` added to whatever query they have.
 */
#include "registry/api_push.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "util/stats.h"

#define ONE_REQUEST_MAX (1u << 20)	/* larger ones are worth a question first */
#define CHUNK_MIN (8u << 20)		/* ECR wants 5 MiB at least */
#define CHUNK_MAX (UINT64_C(1) << 30)
#define IDLE_CHUNKS_MAX 5		/* in a row, of which the registry kept nothing */
#define PUT_TRIES_MAX 20		/* whatever the policy says */
#define SCOPE_MAX (2 * (REF_REPO_MAX + 32))

#define _cleanup_reply_ _cleanup_(rg_reply_done)

struct upload {
	struct rg_api *api;
	const char *repo, *from;
	const struct rg_body *body;
	const char *what;
	char scope[SCOPE_MAX];
	bool done;		/* the session's first answer was the last */
	bool broken;		/* worth another session */
	uint64_t off;		/* of the request's body in the blob */
	uint64_t chunk_min;
	int64_t retry_after_s;	/* of the last refusal; -1: not said */
	char *location;		/* of the session */
	struct cancel *cancel;
};

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory while writing to a registry");
}

static bool is_created(int status)
{
	return status == 200 || status == 201 || status == 204;
}

static void set_scope(const char *repo, const char *from, char out[static SCOPE_MAX])
{
	int n = snprintf(out, SCOPE_MAX, "repository:%s:pull,push", repo);

	if (from && n > 0 && n < SCOPE_MAX)
		(void)snprintf(out + n, (size_t)(SCOPE_MAX - n), " repository:%s:pull", from);
}

/* --- is it there? --- */

errint_t rg_api_has_blob(struct rg_api *a, const char *repo, const struct digest *d, bool *ret,
			 struct cancel *c, struct err *e)
{
	char path[sizeof("blobs/") + DIGEST_TEXT_MAX], text[DIGEST_TEXT_MAX], scope[SCOPE_MAX];
	struct rg_call call = { .method = "HEAD", .repo = repo, .path = path, .scope = scope };
	_cleanup_reply_ struct rg_reply reply = { 0 };
	char what[API_WHAT_MAX];
	errint_t r;

	set_scope(repo, NULL, scope);
	(void)snprintf(path, sizeof(path), "blobs/%s", digest_text(d, text));
	r = rg_transport_call(a->host, &call, &reply, c, e);
	if (r < 0)
		return r;
	*ret = reply.status == 200;
	/* HEAD has no words: unknown blob, unknown repository and no such method look the same, and
	 * an upload will tell. */
	if (reply.status == 200 || reply.status == 404 || reply.status == 405)
		return 0;
	(void)snprintf(what, sizeof(what), "blob %s of %s", text, repo);
	return rg_errmap(&reply, rg_host_name(a->host), what, e);
}

/* --- one upload --- */

static errint_t read_part(void *ctx, uint64_t off, void *dst, size_t len, struct err *e)
{
	const struct upload *u = ctx;

	return u->body->read(u->body->ctx, u->off + off, dst, len, e);
}

/* A request of this upload: with len bytes of the blob from off on. */
static errint_t send_part(struct upload *u, struct rg_call *call, uint64_t off, uint64_t len,
			  struct rg_reply *reply, struct err *e)
{
	errint_t r;

	u->off = off;
	call->repo = u->repo;
	call->scope = u->scope;
	call->content_type = "application/octet-stream";
	if (len > 0) {
		call->read = read_part;
		call->read_ctx = u;
		call->read_len = len;
		call->once = true;
		call->lane = len > API_SMALL_BLOB ? RG_LANE_BLOB : RG_LANE_SMALL_BLOB;
	}
	r = rg_transport_call(u->api->host, call, reply, u->cancel, e);
	if (r < 0)
		u->broken = e->cls == ERR_NET || e->cls == ERR_TIMEOUT;
	else
		u->broken = reply->status >= 500 || reply->status == 429 || reply->status == 408;
	u->retry_after_s = r == 0 && reply->retry_after_s > 0 ? reply->retry_after_s : -1;
	return r;
}

/* What an upload was answered with instead of "go on".  A session that is not known any more (it was
 * another server's, or the registry has started again) is no reason to give up. */
static errint_t refused_part(struct upload *u, const struct rg_reply *reply, struct err *e)
{
	errint_t r = rg_errmap(reply, rg_host_name(u->api->host), u->what, e);

	if (strcmp(e->code, "BLOB_UPLOAD_UNKNOWN") != 0)
		return r;
	u->broken = true;
	e->eno = EIO;
	e->cls = ERR_NET;
	return -EIO;
}

/* The registry has it all.  Does it agree on what it is? */
static errint_t check_stored(const struct upload *u, const struct rg_reply *reply, struct err *e)
{
	struct digest d;

	if (!reply->digest || !api_reference_digest(reply->digest, &d) ||
	    d.alg != u->body->digest.alg || digest_eq(&d, &u->body->digest))
		return 0;
	stat_inc(STAT_INTEGRITY_FAILURES);
	return err_set(e, EIO, ERR_INTEGRITY, "%s stored %s as %.150s", rg_host_name(u->api->host),
		       u->what, reply->digest);
}

/* A session that the registry has agreed to. */
static errint_t take_session(struct upload *u, struct rg_reply *reply, struct err *e)
{
	free(u->location);
	u->location = steal_ptr(&reply->location);
	if (reply->chunk_min > 0)
		u->chunk_min = (uint64_t)reply->chunk_min;
	if (u->location)
		return 0;
	return err_set(e, EIO, ERR_INPUT, "%s names no place for the upload of %s",
		       rg_host_name(u->api->host), u->what);
}

/* POST: asks for a session, and on the way for the blob's being taken from another repository, or
 * with all of a small blob. */
static errint_t open_session(struct upload *u, bool whole, struct err *e)
{
	_cleanup_reply_ struct rg_reply reply = { 0 };
	struct rg_call call = { .method = "POST", .path = "blobs/uploads/" };
	_cleanup_buf_ struct buf query = BUF_INIT(4096);
	char text[DIGEST_TEXT_MAX];
	errint_t r;

	digest_text(&u->body->digest, text);
	if (u->from || whole) {
		(void)buf_adds(&query, u->from ? "mount=" : "digest=");
		(void)url_escape(&query, text, "");
	}
	if (u->from) {
		(void)buf_adds(&query, "&from=");
		(void)url_escape(&query, u->from, "");
	}
	if (buf_check(&query) < 0)
		return no_memory(e);
	call.query = buf_str(&query);
	r = send_part(u, &call, 0, whole && !u->from ? u->body->size : 0, &reply, e);
	if (r < 0)
		return r;
	u->done = reply.status != 202 && is_created(reply.status);
	if (u->done)
		return check_stored(u, &reply, e);
	if (reply.status == 202)
		return take_session(u, &reply, e);
	return rg_errmap(&reply, rg_host_name(u->api->host), u->what, e);
}

/* The session's address with the digest, which ends it. */
static errint_t last_address(const struct upload *u, struct buf *out, struct err *e)
{
	char text[DIGEST_TEXT_MAX];

	(void)buf_addf(out, "%s%cdigest=", u->location, strchr(u->location, '?') ? '&' : '?');
	(void)url_escape(out, digest_text(&u->body->digest, text), "");
	return buf_check(out) < 0 ? no_memory(e) : 0;
}

/* PUT: ends the session with the bytes from off on.  *ret_status for refusals. */
static errint_t close_session(struct upload *u, uint64_t off, int *ret_status, struct err *e)
{
	_cleanup_reply_ struct rg_reply reply = { 0 };
	_cleanup_buf_ struct buf at = BUF_INIT(URL_MAX);
	struct rg_call call = { .method = "PUT", .path = "blobs/uploads/" };
	errint_t r = last_address(u, &at, e);

	if (r < 0)
		return r;
	call.at = buf_str(&at);
	r = send_part(u, &call, off, u->body->size - off, &reply, e);
	if (r < 0)
		return r;
	*ret_status = reply.status;
	if (is_created(reply.status))
		return check_stored(u, &reply, e);
	return refused_part(u, &reply, e);
}

/* "0-99": there are 100 bytes.  Docker's registries say "0-0" of an empty session, too. */
static bool uploaded(const char *range, uint64_t *ret)
{
	uint64_t last;
	char end;

	if (!range || sscanf(range, "0-%" SCNu64 "%c", &last, &end) != 1 || last >= UINT64_MAX)
		return false;
	*ret = last + 1;
	return true;
}

/* PATCH: one chunk.  *off moves to where the registry says it is. */
static errint_t send_chunk(struct upload *u, uint64_t *off, struct err *e)
{
	uint64_t len = MIN_OF(MIN_OF(MAX_OF((uint64_t)CHUNK_MIN, u->chunk_min), CHUNK_MAX),
			      u->body->size - *off), have;
	struct rg_call call = { .method = "PATCH", .path = "blobs/uploads/", .at = u->location };
	_cleanup_reply_ struct rg_reply reply = { 0 };
	char range[64];
	errint_t r;

	(void)snprintf(range, sizeof(range), "%" PRIu64 "-%" PRIu64, *off, *off + len - 1);
	call.content_range = range;
	r = send_part(u, &call, *off, len, &reply, e);
	if (r < 0)
		return r;
	/* ECR says 201; a chunk that came out of order is 416 with what there is */
	if (reply.status != 202 && !is_created(reply.status) &&
	    !(reply.status == 416 && reply.upload_range))
		return refused_part(u, &reply, e);
	have = uploaded(reply.upload_range, &have) && have <= *off + len ? have : *off + len;
	if (have == 1 && len > 1)
		have = 0;
	*off = have;
	return reply.location ? take_session(u, &reply, e) : 0;
}

static errint_t send_chunks(struct upload *u, struct err *e)
{
	unsigned idle = 0;		/* chunks since the registry last had more than ever */
	uint64_t off = 0, most = 0;
	int status = 0;
	errint_t r = open_session(u, false, e);

	while (r == 0 && !u->done && off < u->body->size) {
		r = send_chunk(u, &off, e);
		idle = off > most ? 0 : idle + 1;
		most = MAX_OF(most, off);
		if (r == 0 && idle > IDLE_CHUNKS_MAX)
			return err_set(e, EIO, ERR_NET, "%s keeps nothing of what it is sent of %s",
				       rg_host_name(u->api->host), u->what);
	}
	return r < 0 || u->done ? r : close_session(u, off, &status, e);
}

/* Is it the size that is refused, or the way?  Proxies in front of registries have their limits. */
static bool wants_chunks(int status)
{
	return status == 405 || status == 413 || status == 501;
}

static errint_t upload_once(struct upload *u, struct err *e)
{
	bool small = u->body->size <= ONE_REQUEST_MAX && u->body->size > 0,
	     whole = small && !u->from && !atomic_load(&u->api->no_one_request);
	int status = 0;
	errint_t r = open_session(u, whole, e);

	if (r < 0 && u->from && !u->broken && e->cls != ERR_CANCELLED) {
		u->from = NULL;		/* Quay and others fail where they should say 202 */
		set_scope(u->repo, NULL, u->scope);
		err_clear(e);
		r = open_session(u, false, e);
	}
	if (r < 0 || u->done)
		return r;
	if (whole)
		atomic_store(&u->api->no_one_request, true);
	r = close_session(u, 0, &status, e);
	if (r == 0 || !wants_chunks(status) || u->body->size <= CHUNK_MIN)
		return r;
	err_clear(e);
	return send_chunks(u, e);
}

static bool may_retry(const struct upload *u, unsigned attempt, const struct err *why)
{
	const struct rg_opts *o = u->api->opts;
	uint64_t delay = 0;

	return u->broken && attempt < PUT_TRIES_MAX && o && o->retry &&
	       o->retry(attempt, why->cls, why->http, u->retry_after_s, &delay) &&
	       cancel_sleep_ns(u->cancel, delay, NULL) == 0;
}

static errint_t put_blob(struct upload *u, struct err *e)
{
	bool there = false, again;
	errint_t r = rg_api_has_blob(u->api, u->repo, &u->body->digest, &there, u->cancel, e);

	for (unsigned attempt = 1; r == 0 && !there; attempt++) {
		u->done = u->broken = false;
		err_clear(e);
		r = upload_once(u, e);
		if (r == 0)
			return 0;
		again = may_retry(u, attempt, e);
		if (cancel_fired(u->cancel))
			return err_set(e, ECANCELED, ERR_CANCELLED, "cancelled");
		if (!again)
			return r;
		if (u->from)
			set_scope(u->repo, NULL, u->scope);
		u->from = NULL;		/* it may be that what fails is the mount */
		stat_inc(STAT_HTTP_RETRIES);
		r = rg_api_has_blob(u->api, u->repo, &u->body->digest, &there, u->cancel, e);
	}
	return r;
}

errint_t rg_api_put_blob(struct rg_api *a, const char *repo, const struct rg_body *b, const char *from,
			 struct cancel *c, struct err *e)
{
	char what[API_WHAT_MAX], text[DIGEST_TEXT_MAX];
	struct upload u = { .api = a, .repo = repo, .from = from, .body = b, .what = what, .cancel = c };
	struct err mine = { 0 };
	errint_t r;

	(void)snprintf(what, sizeof(what), "blob %s of %s", digest_text(&b->digest, text), repo);
	set_scope(repo, from, u.scope);
	r = put_blob(&u, &mine);
	free(u.location);
	if (r < 0 && e)
		*e = mine;
	return r;
}

/* --- manifests --- */

/* Does the tag have this digest already?  Registries with immutable tags refuse that as well. */
static bool is_there(struct rg_api *a, const char *repo, const char *reference,
		     const struct digest *want, struct cancel *c)
{
	_cleanup_(rg_manifest_done) struct rg_manifest m = { 0 };

	return rg_api_origin_manifest(a, repo, reference, &m, c, NULL) == 0 &&
	       digest_eq(&m.digest, want);
}

static errint_t refused(struct rg_api *a, const struct rg_reply *reply, const char *what, bool by_tag,
			struct err *e)
{
	errint_t r = rg_errmap(reply, rg_host_name(a->host), what, e);

	if (!by_tag || strcmp(e->code, "TAG_INVALID") != 0)
		return r;
	e->eno = EPERM;
	return -EPERM;
}

static errint_t check_digest(struct rg_api *a, const struct rg_reply *reply, const char *what,
			     const struct digest *want, struct err *e)
{
	struct digest d;

	if (!reply->digest || !api_reference_digest(reply->digest, &d) || d.alg != want->alg ||
	    digest_eq(&d, want))
		return 0;
	stat_inc(STAT_INTEGRITY_FAILURES);
	return err_set(e, EIO, ERR_INTEGRITY, "%s stored %s as %.150s", rg_host_name(a->host), what,
		       reply->digest);
}

errint_t api_put_manifest(struct rg_api *a, const char *repo, const struct rg_put *p,
			  const struct digest *d, bool *ret_listed, struct cancel *c, struct err *e)
{
	char path[sizeof("manifests/") + DIGEST_TEXT_MAX], text[DIGEST_TEXT_MAX], scope[SCOPE_MAX];
	const char *reference = p->reference ? p->reference : digest_text(d, text);
	char what[API_WHAT_MAX];
	struct rg_call call = {
		.method = "PUT", .repo = repo, .path = path, .scope = scope,
		.content_type = p->media_type, .body = p->bytes, .body_len = p->len,
	};
	_cleanup_reply_ struct rg_reply reply = { 0 };
	struct err mine = { 0 };
	errint_t r;

	set_scope(repo, NULL, scope);
	api_what(repo, reference, what);
	if (snprintf(path, sizeof(path), "manifests/%s", reference) >= (int)sizeof(path))
		return err_set(e, ENAMETOOLONG, ERR_INPUT, "the reference is too long");
	r = rg_transport_call(a->host, &call, &reply, c, &mine);
	if (r == 0 && is_created(reply.status))
		r = check_digest(a, &reply, what, d, &mine);
	else if (r == 0)
		r = refused(a, &reply, what, p->reference != NULL, &mine);
	if (r < 0 && mine.cls == ERR_INPUT && p->reference && is_there(a, repo, reference, d, c))
		r = 0;
	*ret_listed = r == 0 && reply.oci_subject;
	if (r < 0 && e)
		*e = mine;
	return r;
}
