/*
 * transport.h - one HTTP exchange with a registry, done right (private to registry/)
 *
 * Above it, api.c thinks in "GET this path of that repository".  Below it, http.c moves bytes.
 * Here live: credentials and tokens (auth.c, creds.c), mirrors, certificates and plain-http rules
 * (hosts.c), redirects without leaking credentials, Retry-After, bounded retries, limits.
 *
 * A struct rg_host is one registry host with everything learnt about it; shared by all registries
 * with that host, reference counted by the client.
 */
#pragma once

#include "registry/registry.h"

struct rg_host;

enum rg_lane {
	RG_LANE_SMALL = 0,	/* manifests, lists, tokens: never queue behind blobs */
	RG_LANE_BLOB,
	RG_LANE_SMALL_BLOB,	/* configs and the like: a stat waits for them, so they do not queue
				   behind layers */
};

/* Fills dst with bytes [off, off + len) of a request's body; the same may be asked for again. */
typedef errint_t (*rg_read_fn)(void *ctx, uint64_t off, void *dst, size_t len, struct err *e);

struct rg_call {
	const char *method;	/* "GET", "HEAD"; and to write: "POST", "PUT", "PATCH" */
	const char *repo;	/* full name, for path and scope; NULL for host-level calls */
	const char *path;	/* below /v2/ and the repository: "manifests/1.0", "tags/list";
				   host-level: "", "_catalog" */
	const char *query;	/* without '?', already escaped; NULL = none */
	const char *next_url;	/* a Link target to use instead of path and query; same host only */
	const char *at;		/* a reply's location to use instead of path and query; credentials go
				   along only when it is the registry's own origin */
	const char *accept;	/* NULL = none */
	const char *if_none_match; /* digest text or NULL */
	const char *scope;	/* NULL = "repository:<repo>:pull"; "registry:catalog:*" */
	enum rg_lane lane;
	bool by_digest;		/* mirrors with digest-only apply */
	bool mirrors;		/* this call may go to mirrors (reads of images, never listing) */
	bool ranged;		/* send Range for [off, off + len) */
	uint64_t off, len;	/* len 0 = open end */
	size_t max_body;	/* ceiling for a buffered body; without sink */
	const char *content_type; /* of the body that is sent */
	const char *content_range; /* "0-99", or NULL */
	const void *body;	/* sent with POST, PUT and PATCH */
	size_t body_len;
	rg_read_fn read;	/* instead, for bodies of any size; its failure ends the call */
	void *read_ctx;
	uint64_t read_len;
	bool once;		/* the caller repeats, if anybody does */
	rg_sink_fn sink;	/* body of a 200/206 goes here instead of reply->body; the reply's
				   head (all but sunk and body) is complete before the first byte */
	void *sink_ctx;
};

struct rg_reply {
	int status;		/* final status after redirects, auth and retries */
	char *content_type;	/* lower case, without parameters; NULL = none */
	char *digest;		/* Docker-Content-Digest, raw, NULL = none */
	char *link_next;	/* URL of rel="next", as written; NULL = none */
	char *oci_filters;	/* OCI-Filters-Applied */
	char *oci_subject;	/* OCI-Subject */
	char *location;		/* Location of an answer below 300, made absolute */
	char *upload_range;	/* "0-99": what an upload has so far */
	int64_t chunk_min;	/* OCI-Chunk-Min-Length; 0: not said */
	int64_t content_length;	/* -1 unknown */
	int64_t retry_after_s;	/* when to come back; 0: not said */
	bool has_range;		/* 206 with a valid Content-Range: */
	uint64_t range_start, range_total; /* total 0 = the server did not say */
	uint64_t sunk;		/* bytes given to the sink */
	bool from_mirror;	/* not the registry itself: worth asking that if it is no good */
	bool writing;		/* the call was to change something */
	bool named;		/* credentials were used (or a token they got) */
	enum rg_speaker {	/* who answered: */
		RG_ELSEWHERE = 0,	/* where a redirect led */
		RG_REGISTRY,		/* the registry, about itself */
		RG_REPOSITORY,		/* the registry, about the call's repository */
	} speaker;
	struct buf body;	/* buffered body; of errors at most 64 KiB */
};
void rg_reply_done(struct rg_reply *r);

/* 0: a final answer of any status that is not to be retried (2xx, 304, 4xx, and 5xx after all
 * retries); look at reply->status.  Negative: no answer (network, timeout, cancel, refused
 * redirect, body over max_body: EFBIG).  Before a sink has got its first byte, failures are retried
 * here; after it the caller resumes with a new ranged call.  status, content_length and the range
 * are filled in before the first sink call, so a sink may look at the reply (api_blob.c does). */
errint_t rg_transport_call(struct rg_host *h, const struct rg_call *call, struct rg_reply *reply,
			   struct cancel *c, struct err *e) _must_check_;

/* host as in ref_source; plain: http:// was written.  One rg_host per (client, host, plain). */
errint_t rg_host_get(struct rg_client *c, const char *host, bool plain, struct rg_host **ret,
		     struct err *e) _must_check_;
void rg_host_put(struct rg_host *h);
const char *rg_host_name(const struct rg_host *h);
void rg_host_describe_auth(struct rg_host *h, struct buf *out);
const struct rg_opts *rg_client_opts(const struct rg_client *c);

/* Turns a reply that is an error into *e and -errno by registry.md 1.2 and DESIGN.md 3.4.
 * what: "tag 1.0 of app" for the message.  A HEAD's 404 has no body and so cannot become ENOENT:
 * ask again with GET.  (errmap.c) */
errint_t rg_errmap(const struct rg_reply *reply, const char *host, const char *what, struct err *e);
