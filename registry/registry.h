/*
 * registry.h - registries as a source of bytes and listings
 *
 * A client is the process-wide part: the network thread, credentials, tokens, connection limits.
 * A registry is one place to read from: an OCI registry over HTTP(S), or a tree of OCI image
 * layouts on disk (`dir:`).  Nothing is kept here but tokens and what was learnt about a host
 * (no referrers API, no Range); caching is not this folder's work.
 *
 * Threads: every call below may block for as long as the network allows and is made on I/O pool
 * threads, never on a FUSE thread.  All calls are safe from any number of threads at once.  Each
 * takes a cancel token (may be NULL); when it fires the call ends promptly with -ECANCELED.
 *
 * Repository names are relative to the registry's prefix and have passed ref_is_repo, or are ""
 * for the prefix itself.  On Docker Hub a one-word name means library/<name>.
 *
 * Errors (registry.md 1.2 and DESIGN.md 3.4): ENOENT only for a parsed "unknown" of the registry
 * (class NOTFOUND); 401/403 EACCES (AUTH); 405 or a missing API EOPNOTSUPP (UNSUPPORTED); 429 and
 * 5xx after retries EIO (RATE, NET); our deadline ETIMEDOUT; DNS and connect EHOSTUNREACH (NET);
 * wrong digest or size EIO (INTEGRITY); over a ceiling EFBIG (LIMIT).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "registry/oci.h"
#include "registry/ref.h"
#include "util/buf.h"
#include "util/cancel.h"
#include "util/digest.h"
#include "util/err.h"

#define RG_TAGS_MAX 1000000	/* names in one listing */
#define RG_PAGES_MAX 10000

struct rg_client;
struct rg_registry;

/* Decides about a failed attempt: true = try again after *ret_delay_ns.  Supplied by the roof
 * (policy/); attempt counts from 1, retry_after_s is -1 when the server named none. */
typedef bool (*rg_retry_fn)(unsigned attempt, enum err_class cls, int http, int64_t retry_after_s,
			    uint64_t *ret_delay_ns);

struct rg_opts {
	rg_retry_fn retry;		/* NULL: never retry */
	void (*progress)(void);		/* called on the calling thread when a request has been
					   answered or body bytes have come; NULL: none */
	uint64_t connect_timeout_ns;	/* 0: 10 s */
	uint64_t stall_timeout_ns;	/* 0: 30 s without a byte */
	unsigned host_transfers;	/* 0: 8 blob transfers at once per host (small requests have
					   lanes of their own) */
	const char *authfile;		/* explicit credential file, or NULL: search registry.md 2.2 */
	const char *config_home;	/* NULL: $XDG_CONFIG_HOME or ~/.config */
	const char *registries_conf;	/* NULL: search */
	const char *certs_dir;		/* NULL: search */
	const char *hosts_dir;		/* NULL: search (containerd's certs.d with hosts.toml) */
	bool tls_verify_off;		/* -o tls_verify=no */
};

/* Copies opts. */
errint_t rg_client_new(const struct rg_opts *opts, struct rg_client **ret, struct err *e) _must_check_;
/* Cancels every transfer, joins the network thread, frees.  All registries are closed before. */
struct rg_client *rg_client_stop(struct rg_client *c);

/* Opens without talking to anyone.  source as on the command line. */
errint_t rg_open(struct rg_client *c, const char *source, struct rg_registry **ret, struct err *e) _must_check_;
struct rg_registry *rg_close(struct rg_registry *r);

const char *rg_name(const struct rg_registry *r);		/* for people */
const char *rg_key(const struct rg_registry *r);		/* stable, for cache keys */
enum source_kind rg_kind(const struct rg_registry *r);

/* Can "" name a repository: was a prefix given, or is the directory itself a layout? */
bool rg_root_is_repo(const struct rg_registry *r);

/* Really reaches it: GET /v2/ with the credentials there are, or opens the directory. */
errint_t rg_ping(struct rg_registry *r, struct cancel *c, struct err *e) _must_check_;

/* A list of names, sorted bytewise, without duplicates. */
struct rg_names {
	char **names;
	size_t n;
	char *arena;	/* private */
};
void rg_names_done(struct rg_names *n);

/* All repositories below the prefix ("" included when the prefix is a repository and that is
 * known).  EOPNOTSUPP: the registry has no catalogue (or refuses it).  All pages or an error. */
errint_t rg_list_repos(struct rg_registry *r, struct rg_names *ret, struct cancel *c, struct err *e) _must_check_;
/* All tags of one repository, all pages or an error. */
errint_t rg_list_tags(struct rg_registry *r, const char *repo, struct rg_names *ret, struct cancel *c,
		      struct err *e) _must_check_;

/* Tag (or digest text) to digest with one cheap request: HEAD, or GET when HEAD lacks the digest
 * header or is not supported. */
errint_t rg_resolve(struct rg_registry *r, const char *repo, const char *reference,
		    struct digest *ret_digest, struct cancel *c, struct err *e) _must_check_;

struct rg_manifest {
	struct buf bytes;	/* exact, verified against digest */
	char *media_type;	/* from Content-Type without parameters */
	struct digest digest;
};
void rg_manifest_done(struct rg_manifest *m);
errint_t rg_get_manifest(struct rg_registry *r, const char *repo, const char *reference,
			 struct rg_manifest *ret, struct cancel *c, struct err *e) _must_check_;

/* Receives body bytes in order on the calling thread; a negative return aborts the transfer and is
 * returned by the call (with e as the sink left it). */
typedef errint_t (*rg_sink_fn)(void *ctx, const void *data, size_t len, struct err *e);

/* Bytes [off, off + len) of a blob of `size` bytes; len 0 = to the end.  Resumes after broken
 * connections by Range.  A server that ignores Range costs what precedes off, which is dropped.
 * The bytes are NOT verified here (a part cannot be); a body that is shorter or longer than the
 * range is EIO/INTEGRITY. */
errint_t rg_get_blob(struct rg_registry *r, const char *repo, const struct digest *d, uint64_t size,
		     uint64_t off, uint64_t len, rg_sink_fn sink, void *ctx, struct cancel *c,
		     struct err *e) _must_check_;

/* What rg_get_blob gave for a part of d was wrong, as only the caller could know: mirrors are not asked
 * for it for a while.  began_ns: when that read began (clock_mono_ns).  False: mirrors were not asked
 * any more then; asking again is no use. */
bool rg_blob_was_bad(struct rg_registry *r, const struct digest *d, uint64_t began_ns);
/* False: of late it has ignored Range, so that a part costs as much as all that is before it. */
bool rg_sends_parts(struct rg_registry *r);

/* The OCI index of referrers of a digest, by the API or the fallback tag (registry.md 1.6); an
 * empty index when there are none.  Bytes, to be parsed with oci_manifest_parse.  ret_index is an
 * initialised buffer (zeroed will do); what it held is freed, its ceiling is set by the call. */
errint_t rg_list_referrers(struct rg_registry *r, const char *repo, const struct digest *d,
			   struct buf *ret_index, struct cancel *c, struct err *e) _must_check_;

/* DIR only (else EOPNOTSUPP): every manifest descriptor of a repository, tagged or not: the bytes of
 * its index.json, which may be larger than oci_manifest_parse accepts.  ret_index as above. */
errint_t rg_list_untagged(struct rg_registry *r, const char *repo, struct buf *ret_index,
			  struct cancel *c, struct err *e) _must_check_;

/* One line per host for `.control/info.json`: "user alice from ~/.docker/config.json", "anonymous".
 * Never a secret. */
void rg_describe_auth(struct rg_registry *r, struct buf *out);

