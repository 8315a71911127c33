/*
 * creds.h - who we are to a registry: credential files and helpers (private to registry/)
 *
 * Search order (containers-auth.json.5, Docker's config.json): the explicit file or
 * $REGISTRY_AUTH_FILE alone; else $DOCKER_AUTH_CONFIG, $XDG_RUNTIME_DIR/containers/auth.json,
 * <config home>/containers/auth.json, $DOCKER_CONFIG/config.json or ~/.docker/config.json,
 * ~/.dockercfg.  In each: credHelpers for the host, then the most specific key of auths, then
 * credsStore.
 *
 * Files are read again when they change.  Answers of helpers are kept for at most an hour and
 * dropped when the registry refuses them.  No secret ever gets into a message: not even a JSON
 * error is passed on, since those quote the text around the fault.
 */
#pragma once

#include "registry/registry.h"

#define CREDS_FILE_MAX (1u << 20)
#define CREDS_ENTRIES_MAX 4096
#define CREDS_HELPERS_MAX 8		/* running at once */
#define CREDS_HELPER_OUTPUT_MAX (64u << 10)
#define CREDS_HELPER_TIMEOUT_NS (30 * NSEC_PER_SEC)
#define CREDS_HELPER_KEEP_NS (3600 * NSEC_PER_SEC)
#define CREDS_HELPER_RETRY_NS (5 * NSEC_PER_SEC)

enum cred_kind {
	CRED_NONE = 0,		/* anonymous */
	CRED_BASIC,		/* user and secret */
	CRED_IDENTITY,		/* secret is an OAuth2 refresh token */
	CRED_REGISTRY_TOKEN,	/* secret is a Bearer token for the registry itself */
};

struct cred {
	enum cred_kind kind;
	char *user;		/* "" when there is none; may be shown */
	char *secret;		/* wiped by cred_done */
	char origin[256];	/* where it is from, for people */
	bool from_helper;
};
void cred_done(struct cred *c);
#define _cleanup_cred_ _cleanup_(cred_done)

struct creds;

errint_t creds_new(const struct rg_opts *opts, struct creds **ret, struct err *e) _must_check_;
struct creds *creds_free(struct creds *cs);

/* host as users write it (docker.io, not registry-1.docker.io); repo may be NULL.  CRED_NONE is a
 * success.  May run a helper, so it may block. */
errint_t creds_get(struct creds *cs, const char *host, const char *repo, struct cred *ret,
		   struct cancel *c, struct err *e) _must_check_;
/* The registry refused what creds_get gave: forget what helpers said about this host. */
void creds_refused(struct creds *cs, const char *host);

/* ---- for creds.c and its helpers in creds_file.c, creds_helper.c ---- */

struct cred_entry {
	char *key;		/* host[/path], cleaned */
	char *user, *secret, *identity, *token;
};

struct cred_file {
	struct cred_entry *v;
	size_t n;
	struct cred_entry *helpers;	/* key = host, user = suffix */
	size_t n_helpers;
	char *store;			/* suffix of credsStore or NULL */
};

/* legacy: ~/.dockercfg, which is the inner object alone. */
errint_t cred_file_parse(const char *data, size_t len, bool legacy,
			 struct cred_file *ret) _must_check_;
void cred_file_done(struct cred_file *f);
/* The entry for host/repo, host/re.., host; NULL = none with content. */
const struct cred_entry *cred_file_find(const struct cred_file *f, const char *host,
					const char *repo);
const char *cred_file_helper(const struct cred_file *f, const char *host);

/* Runs docker-credential-<suffix> get.  CRED_NONE: it knows nothing about the host. */
errint_t cred_helper_run(const char *suffix, const char *host, struct cred *ret, struct cancel *c,
			 struct err *e) _must_check_;
/* free for secrets */
void cred_wipe(char *s);
