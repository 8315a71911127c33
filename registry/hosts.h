/*
 * hosts.h - where the requests for a repository go (private to registry/)
 *
 * Combines registries.conf (+ registries.conf.d), containerd's hosts.toml, the certs.d directories
 * and Docker Hub's names into an ordered list of endpoints: mirrors first, the registry last.
 * registries.conf is read when the client starts; hosts.toml and certs.d at the first use of a
 * host.  What an endpoint points at lives as long as the struct hosts; url, host, repo are owned.
 *
 * Safe from any number of threads.
 */
#pragma once

#include "registry/http.h"
#include "registry/url.h"
#include "util/clock.h"

#define ENDPOINTS_MAX 16
#define HOSTS_DOWN_NS (30 * NSEC_PER_SEC)

struct hosts;

struct endpoint {
	struct url url;		/* target: the API root such as "/v2", without '/' at its end */
	char *host;		/* host[:port] as configured: for messages and credentials */
	char *repo;		/* what the repository is called there; NULL for host-level calls */
	const char *ns;		/* value of ?ns=, or NULL */
	const char *const *headers;
	size_t n_headers;
	struct http_tls tls;
	uint64_t connect_timeout_ns;	/* 0 = default */
	bool is_mirror;
	bool plain_fallback;	/* insecure: if TLS is not spoken there, http will do */
};

struct endpoints {
	struct endpoint v[ENDPOINTS_MAX];
	size_t n;
};

struct hosts_query {
	const char *host;	/* as in ref_source */
	bool plain;		/* http:// was written */
	const char *repo;	/* NULL: host-level */
	bool mirrors;		/* mirrors may answer */
	bool by_digest;
};

errint_t hosts_new(const struct rg_opts *opts, struct hosts **ret, struct err *e) _must_check_;
struct hosts *hosts_free(struct hosts *h);

/* -EACCES (class AUTH): blocked by registries.conf.  ret is empty on failure. */
errint_t hosts_resolve(struct hosts *h, const struct hosts_query *q, struct endpoints *ret,
		       struct err *e) _must_check_;
void endpoints_done(struct endpoints *eps);

/* TLS settings for another host that an answer names: a token service, a redirect target. */
errint_t hosts_tls(struct hosts *h, const struct url *u, struct http_tls *ret,
		   struct err *e) _must_check_;
/* An insecure host was found to speak http only; later lists say so. */
void hosts_note_plain(struct hosts *h, const char *host);
/* A mirror could not be reached: leave it out of lists for HOSTS_DOWN_NS. */
void hosts_note_down(struct hosts *h, const char *host);
