/*
 * auth.h - Authorization headers for one request after another (private to registry/)
 *
 * A caller makes a struct auth_try per exchange with a registry, asks auth_prepare before the first
 * request and auth_answer after each 401.  What a host wants (Basic, or Bearer with its token
 * service) is learnt from its first challenge and used ahead from then on.  Tokens are kept per
 * (origin, scope) until 5 s before they expire; concurrent callers share one fetch.
 *
 * Secrets live in auth_try.header and in the kept tokens only, and are wiped.
 */
#pragma once

#include "registry/creds.h"
#include "registry/hosts.h"

#define AUTH_TOKEN_BODY_MAX (256u << 10)
#define AUTH_TOKEN_MAX (64u << 10)	/* of one token: it has to fit into a header */
#define AUTH_HEADER_MAX (4 * AUTH_TOKEN_MAX)
#define AUTH_SCOPES_MAX 4096		/* bytes of a scope set */
#define AUTH_TOKENS_MAX 4096		/* kept at once */
#define AUTH_ROUNDS_MAX 3		/* 401s answered in one exchange */
#define AUTH_LIFETIME_MIN_S 60
#define AUTH_LIFETIME_MAX_S 86400
#define AUTH_RENEW_AHEAD_S 5

struct auth;

struct auth_ask {
	const struct url *url;	/* of the registry: origin and base of a relative realm */
	const char *host;	/* as configured: key for credentials, name for people */
	const char *repo;	/* as called there, or NULL */
	const char *scope;	/* what this call needs */
	const struct http_tls *tls;
};

struct auth_try {
	char *header;		/* "Authorization: ..", secret; NULL = send none */
	unsigned rounds;
	bool sent_basic;
	bool named;		/* header was had by credentials, not for anybody */
	bool fresh_token;	/* the token in header was made for this exchange */
	uint64_t token_gen;	/* 0 = none was sent */
};

errint_t auth_new(struct http *http, struct hosts *hosts, struct creds *creds, struct auth **ret,
		  struct err *e) _must_check_;
struct auth *auth_free(struct auth *a);

errint_t auth_prepare(struct auth *a, const struct auth_ask *ask, struct auth_try *t,
		      struct cancel *c, struct err *e) _must_check_;
/* After a 401: 1 = send again with t->header, 0 = the 401 stands, negative = no token to be had. */
int auth_answer(struct auth *a, const struct auth_ask *ask, const struct http_res *res,
		struct auth_try *t, struct cancel *c, struct err *e) _must_check_;
void auth_try_done(struct auth_try *t);

/* ---- auth_token.c, for auth.c ---- */

struct token_query {
	struct http *http;
	struct hosts *hosts;
	const struct auth_ask *ask;
	const struct url *realm;
	const char *service;	/* NULL = not named */
	const char *scopes;	/* separated by blanks */
	bool from_loopback;
	const struct cred *cred;
};

struct token {
	char *value;		/* secret */
	uint64_t expires_ns;	/* monotonic; renewal ahead is taken off */
	bool named;		/* credentials got it */
};

/* "Authorization: Basic ..", of user and secret; out is secret, and is not moved while it grows. */
errint_t auth_basic_header(const struct cred *cr, struct buf *out) _must_check_;
errint_t token_fetch(const struct token_query *q, struct token *ret, struct cancel *c,
		     struct err *e) _must_check_;
