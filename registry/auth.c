/*
 * auth.c - what each host wants, the tokens we have, and who may fetch the next one
 *
 * Threads: one lock for both tables, one condition for everybody who waits for somebody else's
 * fetch.  The lock is not held while credentials are looked up or a token is fetched.  An entry of
 * the token table is in use while `users` > 0 and is not freed then.  Lock order: cancel.lock ->
 * a->lock, so wake functions are set and removed without a->lock.
 */
#include "registry/auth.h"

#include <string.h>

#include "registry/challenge.h"
#include "util/clock.h"
#include "util/hmap.h"

#define HOSTS_LEARNT_MAX 4096

enum scheme { SCHEME_UNKNOWN = 0, SCHEME_BASIC, SCHEME_BEARER };

/* What a host asked for. */
struct learnt {
	enum scheme scheme;
	struct url realm;
	char *service;
	bool from_loopback;
};

struct slot {
	char *scopes;		/* space-separated set, newest first */
	struct token token;
	uint64_t gen;		/* of the token; 0 = none */
	unsigned users;
	bool fetching;
	unsigned failures;	/* counts, so that waiters see a new one */
	struct err err;		/* of the last */
};

struct auth {
	struct http *http;
	struct hosts *hosts;
	struct creds *creds;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct hmap *learnt;	/* origin -> struct learnt */
	struct hmap *slots;	/* origin "\n" scope -> struct slot */
	uint64_t gen;
};

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "no memory for authentication");
}

static void learnt_done(struct learnt *l)
{
	url_done(&l->realm);
	free(l->service);
	*l = (struct learnt){ 0 };
}

static void learnt_free(void *v)
{
	learnt_done(v);
	free(v);
}

static void slot_free(void *v)
{
	struct slot *s = v;

	cred_wipe(s->token.value);
	free(s->scopes);
	free(s);
}

errint_t auth_new(struct http *http, struct hosts *hosts, struct creds *creds, struct auth **ret,
		  struct err *e)
{
	struct auth *a = calloc(1, sizeof(*a));

	if (!a)
		return no_memory(e);
	a->http = http;
	a->hosts = hosts;
	a->creds = creds;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->cond, NULL);
	a->learnt = hmap_new(learnt_free);
	a->slots = hmap_new(slot_free);
	if (!a->learnt || !a->slots) {
		auth_free(a);
		return no_memory(e);
	}
	*ret = a;
	return 0;
}

struct auth *auth_free(struct auth *a)
{
	if (!a)
		return NULL;
	hmap_free(a->learnt);
	hmap_free(a->slots);
	pthread_cond_destroy(&a->cond);
	pthread_mutex_destroy(&a->lock);
	free(a);
	return NULL;
}

void auth_try_done(struct auth_try *t)
{
	cred_wipe(t->header);
	*t = (struct auth_try){ 0 };
}

static char *origin_of(const struct url *u)
{
	_cleanup_buf_ struct buf b = BUF_INIT(URL_MAX);

	(void)url_add_origin(&b, u);
	return buf_check(&b) < 0 ? NULL : buf_take(&b, NULL);
}

/* ---- what hosts want ---- */

static errint_t url_copy(const struct url *from, struct url *to)
{
	*to = *from;
	to->host = from->host ? strdup(from->host) : NULL;
	to->target = from->target ? strdup(from->target) : NULL;
	return (from->host && !to->host) || (from->target && !to->target) ? -ENOMEM : 0;
}

static errint_t learnt_copy(const struct learnt *from, struct learnt *to)
{
	errint_t r;

	*to = *from;
	to->service = from->service ? strdup(from->service) : NULL;
	r = url_copy(&from->realm, &to->realm);
	if (r == 0 && from->service && !to->service)
		r = -ENOMEM;
	if (r < 0)
		learnt_done(to);
	return r;
}

/* A copy of what is known about the origin; scheme UNKNOWN when nothing is. */
static errint_t recall(struct auth *a, const struct url *u, struct learnt *ret)
{
	_cleanup_free_ char *origin = origin_of(u);
	const struct learnt *l;

	*ret = (struct learnt){ 0 };
	if (!origin)
		return -ENOMEM;
	LOCK_SCOPE(&a->lock);
	l = hmap_gets(a->learnt, origin);
	return l ? learnt_copy(l, ret) : 0;
}

static errint_t memorise(struct auth *a, const struct url *u, const struct learnt *l)
{
	_cleanup_free_ char *origin = origin_of(u);
	struct learnt *copy = calloc(1, sizeof(*copy));

	if (!origin || !copy || learnt_copy(l, copy) < 0) {
		free(copy);
		return -ENOMEM;
	}
	LOCK_SCOPE(&a->lock);
	if (hmap_count(a->learnt) >= HOSTS_LEARNT_MAX || hmap_puts(a->learnt, origin, copy) < 0)
		learnt_free(copy);
	return 0;
}

/* ---- scope sets ---- */

static bool has_scope(const char *set, const char *scope, size_t n)
{
	while (*set) {
		size_t m = strcspn(set, " ");

		if (m == n && memcmp(set, scope, n) == 0)
			return true;
		set += m + (set[m] == ' ');
	}
	return false;
}

/* Puts what is new of `more` in front of *set; false when nothing was new (or did not fit). */
static bool widen(char **set, const char *more)
{
	_cleanup_buf_ struct buf b = BUF_INIT(AUTH_SCOPES_MAX);
	char *grown;

	while (*more) {
		size_t n = strcspn(more, " ");

		if (n > 0 && !has_scope(*set, more, n) && !has_scope(buf_str(&b), more, n))
			(void)buf_addf(&b, "%s%.*s", b.len ? " " : "", (int)n, more);
		more += n + (more[n] == ' ');
	}
	if (b.len == 0)
		return false;
	(void)buf_addf(&b, "%s%s", **set ? " " : "", *set);
	grown = buf_check(&b) < 0 ? NULL : buf_take(&b, NULL);
	if (!grown)
		return false;
	free(*set);
	*set = grown;
	return true;
}

/* ---- the token table ---- */

/* Makes room: first tokens that have expired, then any that nobody uses. */
static void evict(struct auth *a, bool any)
{
	uint64_t now = clock_mono_ns();
	const void *key;
	struct slot *s;
	size_t it = 0, len;

	while ((s = hmap_next(a->slots, &it, &key, &len)))
		if (s->users == 0 && (any || s->token.expires_ns < now)) {
			/* key is the map's own, which hmap_take reads before it frees it */
			slot_free(hmap_take(a->slots, key, len));
			it = 0;
			if (any)
				return;
		}
}

/* Under a->lock. */
static struct slot *slot_of(struct auth *a, const char *key, const char *scope)
{
	struct slot *s = hmap_gets(a->slots, key);

	if (s) {
		s->users++;
		return s;
	}
	if (hmap_count(a->slots) >= AUTH_TOKENS_MAX) {
		evict(a, false);
		if (hmap_count(a->slots) >= AUTH_TOKENS_MAX)
			evict(a, true);
	}
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->scopes = strdup(scope);
	if (!s->scopes || hmap_puts(a->slots, key, s) < 0) {
		slot_free(s);
		return NULL;
	}
	s->users = 1;
	return s;
}

static struct slot *slot_enter(struct auth *a, const struct auth_ask *ask)
{
	_cleanup_free_ char *origin = origin_of(ask->url);
	_cleanup_free_ char *key = NULL;

	if (!origin || asprintf(&key, "%s\n%s", origin, ask->scope) < 0) {
		key = NULL;
		return NULL;
	}
	LOCK_SCOPE(&a->lock);
	return slot_of(a, key, ask->scope);
}

static void slot_leave(struct auth *a, struct slot *s)
{
	LOCK_SCOPE(&a->lock);
	s->users--;
}

static void wake_all(void *arg)
{
	struct auth *a = arg;

	LOCK_SCOPE(&a->lock);
	pthread_cond_broadcast(&a->cond);
}

/* Sleeps until nobody fetches for this slot. */
static void wait_for_fetch(struct auth *a, struct slot *s, struct cancel *c)
{
	if (c)
		cancel_set_wake(c, wake_all, a);
	{
		LOCK_SCOPE(&a->lock);
		while (s->fetching && !cancel_fired(c))
			pthread_cond_wait(&a->cond, &a->lock);
	}
	if (c)
		cancel_set_wake(c, NULL, NULL);
}

static errint_t fetch(struct auth *a, const struct auth_ask *ask, const struct learnt *l,
		      const char *scopes, struct token *ret, struct cancel *c, struct err *e)
{
	struct token_query q = { .http = a->http, .hosts = a->hosts, .ask = ask, .realm = &l->realm,
				 .service = l->service, .scopes = scopes,
				 .from_loopback = l->from_loopback };

	for (int attempt = 0;; attempt++) {
		_cleanup_cred_ struct cred cr = { 0 };
		errint_t r = creds_get(a->creds, ask->host, ask->repo, &cr, c, e);

		if (r < 0)
			return r;
		if (cr.kind == CRED_REGISTRY_TOKEN) {
			*ret = (struct token){ .value = steal_ptr(&cr.secret), .named = true,
					       .expires_ns = clock_mono_ns() };
			return 0;
		}
		q.cred = &cr;
		r = token_fetch(&q, ret, c, e);
		ret->named = cr.kind != CRED_NONE;
		if (r != -EACCES || !cr.from_helper)
			return r;
		creds_refused(a->creds, ask->host);
		if (attempt > 0)
			return r;
	}
}

/* Our turn to fetch: under way for all who want the slot. */
static errint_t fetch_for_slot(struct auth *a, const struct auth_ask *ask, const struct learnt *l,
			       struct slot *s, char *scopes, struct cancel *c, struct err *e)
{
	struct token tok = { 0 };
	struct err why = { 0 };
	errint_t r = scopes ? fetch(a, ask, l, scopes, &tok, c, &why) : no_memory(&why);

	LOCK_SCOPE(&a->lock);
	s->fetching = false;
	if (r == 0) {
		cred_wipe(s->token.value);
		s->token = tok;
		s->gen = ++a->gen;
	} else {
		s->failures++;
		s->err = why;
		if (e)
			*e = why;
	}
	pthread_cond_broadcast(&a->cond);
	return r;
}

struct turn {
	bool have;		/* header was made */
	bool fetch;		/* it is ours to fetch */
	char *scopes;		/* for that */
	unsigned failures;
	uint64_t gen;
};

/* Looks at the slot: a token newer than t->token_gen, a fetch to wait for, or our turn.  A token
 * that was made while we looked (newer than `seen`) is used once even when it has expired: some
 * live no longer than a request. */
static errint_t look(struct auth *a, struct slot *s, struct auth_try *t, uint64_t seen,
		     struct turn *ret, struct err *e)
{
	char *header = NULL;

	LOCK_SCOPE(&a->lock);
	ret->failures = s->failures;
	ret->gen = s->gen;
	if (s->gen > t->token_gen && s->token.value &&
	    (s->gen > seen || s->token.expires_ns > clock_mono_ns())) {
		if (asprintf(&header, "Authorization: Bearer %s", s->token.value) < 0)
			return no_memory(e);
		cred_wipe(t->header);
		t->header = header;
		t->token_gen = s->gen;
		t->named = s->token.named;
		ret->have = true;
		return 0;
	}
	if (s->fetching)
		return 0;
	s->fetching = true;
	ret->fetch = true;
	ret->scopes = strdup(s->scopes);
	return 0;
}

static errint_t others_failure(struct auth *a, struct slot *s, unsigned seen, struct cancel *c,
			       struct err *e)
{
	if (cancel_fired(c))
		return err_set(e, ECANCELED, ERR_CANCELLED, "cancelled while waiting for a token");
	LOCK_SCOPE(&a->lock);
	if (s->failures == seen || s->fetching || s->err.cls == ERR_CANCELLED)
		return 0; /* not failed, or only because its caller left: look again */
	if (e)
		*e = s->err;
	return -s->err.eno;
}

/* Puts a token into t->header that is newer than the one there. */
static errint_t get_token(struct auth *a, const struct auth_ask *ask, const struct learnt *l,
			  struct slot *s, struct auth_try *t, struct cancel *c, struct err *e)
{
	uint64_t seen = UINT64_MAX;

	for (;;) {
		_cleanup_free_ char *scopes = NULL;
		struct turn turn = { 0 };
		errint_t r = look(a, s, t, seen, &turn, e);

		if (r < 0 || turn.have)
			return r;
		scopes = turn.scopes;
		seen = turn.gen;
		if (turn.fetch) {
			r = fetch_for_slot(a, ask, l, s, scopes, c, e);
			t->fresh_token = true;
		} else {
			wait_for_fetch(a, s, c);
			r = others_failure(a, s, turn.failures, c, e);
		}
		if (r < 0)
			return r;
	}
}

/* ---- headers ---- */

/* 1 = t->header is set, 0 = there are no credentials. */
static int use_basic(struct auth *a, const struct auth_ask *ask, struct auth_try *t,
		     struct cancel *c, struct err *e)
{
	_cleanup_cred_ struct cred cr = { 0 };
	_cleanup_buf_ struct buf header = BUF_INIT(AUTH_HEADER_MAX);
	errint_t r = creds_get(a->creds, ask->host, ask->repo, &cr, c, e);

	if (r < 0 || cr.kind != CRED_BASIC)
		return r;
	if (auth_basic_header(&cr, &header) < 0)
		return no_memory(e);
	cred_wipe(t->header);
	t->header = buf_take(&header, NULL);
	t->sent_basic = t->named = true;
	return 1;
}

static errint_t use_bearer(struct auth *a, const struct auth_ask *ask, const struct learnt *l,
			   struct auth_try *t, struct cancel *c, struct err *e)
{
	struct slot *s = slot_enter(a, ask);
	errint_t r;

	if (!s)
		return no_memory(e);
	r = get_token(a, ask, l, s, t, c, e);
	slot_leave(a, s);
	return r;
}

errint_t auth_prepare(struct auth *a, const struct auth_ask *ask, struct auth_try *t,
		      struct cancel *c, struct err *e)
{
	_cleanup_(learnt_done) struct learnt l = { 0 };
	int r;

	if (recall(a, ask->url, &l) < 0)
		return no_memory(e);
	if (l.scheme == SCHEME_BEARER)
		return use_bearer(a, ask, &l, t, c, e);
	r = l.scheme == SCHEME_BASIC ? use_basic(a, ask, t, c, e) : 0;
	return r < 0 ? r : 0;
}

/* ---- challenges ---- */

static errint_t learn_bearer(const struct auth_ask *ask, const struct challenge *ch, bool loopback,
			     struct learnt *ret, struct err *e)
{
	const char *service = challenge_get(ch, "service");
	errint_t r;

	ret->scheme = SCHEME_BEARER;
	ret->from_loopback = loopback;
	r = url_resolve(ask->url, challenge_get(ch, "realm"), &ret->realm, e);
	if (r < 0)
		return err_wrap(e, r, "the token service of %s", ask->host);
	r = url_guard(ask->url, loopback, &ret->realm, "token service", e);
	if (r < 0)
		return r;
	ret->service = service ? strdup(service) : NULL;
	return service && !ret->service ? no_memory(e) : 0;
}

/* Adds the challenge's scopes to the slot; true when that changed anything. */
static bool widen_slot(struct auth *a, const struct auth_ask *ask, const char *scopes)
{
	struct slot *s = slot_enter(a, ask);
	bool grew;

	if (!s)
		return false;
	LOCK_SCOPE(&a->lock);
	grew = scopes && widen(&s->scopes, scopes);
	s->users--;
	return grew;
}

static int answer_bearer(struct auth *a, const struct auth_ask *ask, const struct challenge *ch,
			 bool loopback, struct auth_try *t, struct cancel *c, struct err *e)
{
	_cleanup_(learnt_done) struct learnt l = { 0 };
	const char *error = challenge_get(ch, "error");
	bool had_fresh = t->fresh_token, grew;
	errint_t r = learn_bearer(ask, ch, loopback, &l, e);

	if (r < 0)
		return r;
	grew = widen_slot(a, ask, challenge_get(ch, "scope"));
	/* a token made for this exchange was refused: so will be another that covers no more */
	if (had_fresh && !grew &&
	    !(error && strcmp(error, "insufficient_scope") == 0 && t->rounds < 2))
		return 0;
	if (memorise(a, ask->url, &l) < 0)
		return no_memory(e);
	r = use_bearer(a, ask, &l, t, c, e);
	return r < 0 ? r : 1;
}

/* There is nothing else to try. */
static errint_t basic_refused(struct auth *a, const struct auth_ask *ask, struct cancel *c, struct err *e)
{
	_cleanup_cred_ struct cred cr = { 0 };
	errint_t r = creds_get(a->creds, ask->host, ask->repo, &cr, c, e);

	if (r < 0)
		return r;
	r = err_set(e, EACCES, ERR_AUTH, "%s refused the credentials of user %s from %s (HTTP 401)%s%s; log in again",
		    ask->host, cr.user ? cr.user : "", cr.origin, ask->repo ? " for " : "",
		    ask->repo ? ask->repo : "");
	if (e)
		e->http = 401;
	return r;
}

static int answer_basic(struct auth *a, const struct auth_ask *ask, struct auth_try *t,
			struct cancel *c, struct err *e)
{
	struct learnt l = { .scheme = SCHEME_BASIC };
	bool refused = t->sent_basic;
	_cleanup_free_ char *before = t->header && refused ? strdup(t->header) : NULL;
	bool same;
	int r;

	if (refused)
		creds_refused(a->creds, ask->host);
	r = use_basic(a, ask, t, c, e);
	same = before && t->header && strcmp(before, t->header) == 0;
	if (before)
		explicit_bzero(before, strlen(before));
	if (r > 0 && same)
		return basic_refused(a, ask, c, e);
	if (r <= 0)
		return r;
	return memorise(a, ask->url, &l) < 0 ? no_memory(e) : 1;
}

int auth_answer(struct auth *a, const struct auth_ask *ask, const struct http_res *res,
		struct auth_try *t, struct cancel *c, struct err *e)
{
	_cleanup_(challenges_free) struct challenges cs = { .n = 0 };
	bool loopback = url_is_loopback(ask->url) || res->peer_loopback;
	const struct challenge *ch;
	const char *value;
	size_t it = 0;

	if (++t->rounds > AUTH_ROUNDS_MAX)
		return 0;
	while ((value = http_header_next(res, "WWW-Authenticate", &it)))
		(void)challenges_parse(&cs, value); /* what could be read is used */
	ch = challenges_find(&cs, "bearer");
	if (ch && challenge_get(ch, "realm"))
		return answer_bearer(a, ask, ch, loopback, t, c, e);
	return challenges_find(&cs, "basic") ? answer_basic(a, ask, t, c, e) : 0;
}
