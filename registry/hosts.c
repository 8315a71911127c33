/*
 * hosts.c - from (host, repository, kind of call) to an ordered list of endpoints
 *
 * Order: mirrors of registries.conf, hosts of hosts.toml, then the registry itself (which the
 * location of registries.conf or the server of hosts.toml may replace).  Credentials go by the
 * endpoint's own host, so a mirror never sees the registry's.
 *
 * Threads: regconf and dirs are immutable; the maps are guarded by lock and
 * their values are never changed or freed before the end, so pointers into them stay valid.  Hence
 * the ceiling CONFS_MAX: beyond it hosts without files of their own share one empty value and are
 * looked for on disk each time, hosts that have some are refused, and hosts that only answers name
 * get the system's defaults.
 */
#include "registry/hosts_priv.h"

#include <string.h>

#include "util/hmap.h"

#define HUB_HOST "docker.io"
#define HUB_WIRE "registry-1.docker.io"
#define CONFS_MAX 1024	/* hosts whose files are remembered */

struct hosts {
	struct regconf regconf;
	struct conf_dirs dirs;
	pthread_mutex_t lock;
	struct hmap *confs;		/* host -> struct host_conf */
	struct hmap *plain_hosts;	/* insecure hosts that speak http only */
	struct hmap *down;		/* mirror -> uint64_t, until when it is left out */
};

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "no memory for the endpoints of a registry");
}

/* ---- life ---- */

static void conf_free_value(void *v)
{
	host_conf_free(v);
}

static char *below(const char *dir, const char *rest)
{
	char *s = NULL;

	return asprintf(&s, "%s%s", dir, rest) < 0 ? NULL : s;
}

static errint_t set_dirs(struct conf_dirs *d, const struct rg_opts *opts)
{
	_cleanup_free_ char *home = conf_home(opts);

	if (!home)
		return -ENOMEM;
	if (opts->certs_dir) {
		d->certs[0] = strdup(opts->certs_dir);
	} else {
		d->certs[0] = below(home, "/containers/certs.d");
		d->certs[1] = strdup("/etc/containers/certs.d");
		d->certs[2] = strdup("/etc/docker/certs.d");
	}
	d->hosts[0] = strdup(opts->hosts_dir ? opts->hosts_dir : "/etc/containerd/certs.d");
	return d->certs[0] && d->hosts[0] ? 0 : -ENOMEM;
}

errint_t hosts_new(const struct rg_opts *opts, struct hosts **ret, struct err *e)
{
	struct hosts *h = calloc(1, sizeof(*h));
	errint_t r;

	if (!h)
		return no_memory(e);
	pthread_mutex_init(&h->lock, NULL);
	h->confs = hmap_new(conf_free_value);
	h->plain_hosts = hmap_new(NULL);
	h->down = hmap_new(free);
	if (!h->confs || !h->plain_hosts || !h->down || set_dirs(&h->dirs, opts) < 0)
		r = no_memory(e);
	else
		r = regconf_load(opts, &h->regconf, e);
	if (r < 0) {
		hosts_free(h);
		return r;
	}
	*ret = h;
	return 0;
}

struct hosts *hosts_free(struct hosts *h)
{
	if (!h)
		return NULL;
	regconf_done(&h->regconf);
	for (size_t i = 0; i < CONF_DIRS_MAX; i++) {
		free(h->dirs.certs[i]);
		free(h->dirs.hosts[i]);
	}
	hmap_free(h->confs);
	hmap_free(h->plain_hosts);
	hmap_free(h->down);
	pthread_mutex_destroy(&h->lock);
	free(h);
	return NULL;
}

/* Takes hc, for which there is no room. */
static errint_t share_empty(struct host_conf *hc, const char *host, const struct host_conf **ret,
			    struct err *e)
{
	static const struct host_conf none;
	bool empty = !hc->tls.ca_pem && !hc->tls.cert && hc->n_targets == 0 && !hc->server.url.host;

	host_conf_free(hc);
	*ret = &none;
	if (empty)
		return 0;
	return err_set(e, EFBIG, ERR_LIMIT,
		       "more than %d registries are in use, and %s has settings of its own; mount "
		       "it in a process of its own", CONFS_MAX, host);
}

static errint_t conf_of(struct hosts *h, const char *host, const struct host_conf **ret,
			struct err *e)
{
	struct host_conf *hc;
	errint_t r;

	LOCK_SCOPE(&h->lock);
	hc = hmap_gets(h->confs, host);
	if (!hc) {
		r = host_conf_load(&h->dirs, host, &hc, e);
		if (r < 0)
			return r;
		if (hmap_count(h->confs) >= CONFS_MAX)
			return share_empty(hc, host, ret, e);
		r = hmap_puts(h->confs, host, hc);
		if (r < 0) {
			host_conf_free(hc);
			return no_memory(e);
		}
	}
	*ret = hc;
	return 0;
}

void hosts_note_plain(struct hosts *h, const char *host)
{
	LOCK_SCOPE(&h->lock);
	/* without memory for the note, TLS is tried again next time */
	if (hmap_puts(h->plain_hosts, host, h) < 0)
		return;
}

static bool is_plain(struct hosts *h, const char *host)
{
	LOCK_SCOPE(&h->lock);
	return hmap_gets(h->plain_hosts, host) != NULL;
}

void hosts_note_down(struct hosts *h, const char *host)
{
	uint64_t *until = malloc(sizeof(*until));

	if (!until)
		return;
	*until = clock_mono_ns() + HOSTS_DOWN_NS;
	LOCK_SCOPE(&h->lock);
	if (hmap_puts(h->down, host, until) < 0)
		free(until);
}

static bool is_down(struct hosts *h, const char *host)
{
	const uint64_t *until;

	LOCK_SCOPE(&h->lock);
	until = hmap_gets(h->down, host);
	return until && *until > clock_mono_ns();
}

/* ---- endpoints ---- */

void endpoints_done(struct endpoints *eps)
{
	for (size_t i = 0; i < eps->n; i++) {
		url_done(&eps->v[i].url);
		free(eps->v[i].host);
		free(eps->v[i].repo);
	}
	eps->n = 0;
}

static void use_tls(struct endpoint *ep, const struct tls_files *t)
{
	ep->tls = (struct http_tls){ .ca_pem = t->ca_pem, .cert = t->cert, .key = t->key,
				     .insecure = t->insecure };
}

static errint_t set_base(struct endpoint *ep, const char *scheme, const char *host, struct err *e)
{
	char url[REF_HOST_MAX + 32];

	if (strcmp(host, HUB_HOST) == 0)
		host = HUB_WIRE;
	if (snprintf(url, sizeof(url), "%s://%s/v2", scheme, host) >= (int)sizeof(url))
		return err_set(e, EINVAL, ERR_INPUT, "the host name %.60s.. is too long", host);
	return url_parse(url, &ep->url, e);
}

/* The next free slot; mirrors beyond the ceiling are left out, the registry never is. */
static struct endpoint *next_slot(struct endpoints *eps, bool is_mirror)
{
	if (is_mirror && eps->n >= ENDPOINTS_MAX - 1)
		return NULL;
	eps->v[eps->n] = (struct endpoint){ .is_mirror = is_mirror };
	return &eps->v[eps->n++];
}

struct place {
	const char *host;
	const char *repo;	/* or NULL */
	bool plain, insecure, is_mirror;
};

static errint_t add_place(struct hosts *h, const struct place *p, struct endpoints *eps,
			  struct err *e)
{
	const struct host_conf *hc = NULL;
	bool plain = p->plain || (p->insecure && is_plain(h, p->host));
	struct endpoint *ep;
	errint_t r;

	if (p->is_mirror && is_down(h, p->host))
		return 0;
	ep = next_slot(eps, p->is_mirror);
	if (!ep)
		return 0;
	r = set_base(ep, plain ? "http" : "https", p->host, e);
	if (r == 0)
		r = conf_of(h, p->host, &hc, e);
	if (r < 0)
		return r;
	use_tls(ep, &hc->tls);
	ep->tls.insecure |= p->insecure;
	ep->plain_fallback = p->insecure && !plain;
	ep->host = strdup(p->host);
	ep->repo = p->repo ? strdup(p->repo) : NULL;
	return ep->host && (ep->repo || !p->repo) ? 0 : no_memory(e);
}

/* Takes "host[:port][/path]" apart and puts path before the rest of the repository's name. */
static errint_t add_location(struct hosts *h, const char *location, const char *rest,
			     const struct hosts_query *q, struct place *p, struct endpoints *eps,
			     struct err *e)
{
	size_t hl = strcspn(location, "/");
	_cleanup_free_ char *host = strndup(location, hl);
	_cleanup_free_ char *repo = NULL;
	const char *path = location[hl] ? location + hl + 1 : "";

	while (*rest == '/')
		rest++;
	if (!host)
		return no_memory(e);
	if (q->repo && asprintf(&repo, "%s%s%s", path, *path && *rest ? "/" : "", rest) < 0) {
		repo = NULL;
		return no_memory(e);
	}
	if (!ref_is_host(host, hl) || (repo && *repo && !ref_is_repo(repo, strlen(repo))))
		return err_set(e, EINVAL, ERR_INPUT,
			       "registries.conf: \"%.100s\" is no place for a repository",
			       location);
	p->host = host;
	p->repo = repo;
	return add_place(h, p, eps, e);
}

static bool mirror_applies(const struct reg_entry *en, const struct reg_mirror *m, bool by_digest)
{
	if (en->digest_only || m->pull == REG_PULL_DIGEST)
		return by_digest;
	return m->pull != REG_PULL_TAG || !by_digest;
}

static errint_t add_reg_mirrors(struct hosts *h, const struct reg_entry *en, const char *rest,
				const struct hosts_query *q, struct endpoints *eps, struct err *e)
{
	for (size_t i = 0; i < en->n_mirrors; i++) {
		const struct reg_mirror *m = &en->mirrors[i];
		struct place p = { .insecure = m->insecure, .is_mirror = true };
		errint_t r;

		if (!mirror_applies(en, m, q->by_digest))
			continue;
		r = add_location(h, m->location, rest, q, &p, eps, e);
		if (r < 0)
			return r;
	}
	return 0;
}

/* host[:port] of a URL, as users write it. */
static char *host_of_url(const struct url *u)
{
	_cleanup_buf_ struct buf b = BUF_INIT(URL_MAX);

	(void)url_add_origin(&b, u);
	if (buf_check(&b) < 0)
		return NULL;
	return strdup(strstr(buf_str(&b), "://") + 3);
}

static errint_t add_target(const struct host_target *t, const struct host_conf *hc,
			   const struct hosts_query *q, bool is_mirror, struct endpoints *eps,
			   struct err *e)
{
	struct endpoint *ep = next_slot(eps, is_mirror);
	bool hub = strcmp(q->host, HUB_HOST) == 0 && strcmp(t->url.host, HUB_WIRE) == 0;

	if (!ep)
		return 0;
	ep->url = t->url;
	ep->url.host = strdup(t->url.host);
	ep->url.target = strdup(t->url.target);
	ep->host = hub ? strdup(HUB_HOST) : host_of_url(&t->url);
	ep->repo = q->repo ? strdup(q->repo) : NULL;
	if (!ep->url.host || !ep->url.target || !ep->host || (q->repo && !ep->repo))
		return no_memory(e);
	use_tls(ep, &t->tls);
	if (strcmp(ep->host, q->host) != 0 && !hub)
		ep->ns = hc->ns;
	else if (!t->tls.ca_pem && !t->tls.cert)
		use_tls(ep, &hc->tls);
	ep->tls.insecure |= t->tls.insecure;
	ep->headers = (const char *const *)t->headers;
	ep->n_headers = t->n_headers;
	ep->connect_timeout_ns = t->dial_ns;
	return 0;
}

static bool target_applies(struct hosts *h, const struct host_target *t, bool by_digest)
{
	_cleanup_free_ char *host = host_of_url(&t->url);

	return t->pull && (by_digest || t->resolve) && !(host && is_down(h, host));
}

static errint_t add_targets(struct hosts *h, const struct host_conf *hc,
			    const struct hosts_query *q, struct endpoints *eps, struct err *e)
{
	for (size_t i = 0; i < hc->n_targets; i++) {
		const struct host_target *t = &hc->targets[i];
		errint_t r;

		if (!target_applies(h, t, q->by_digest))
			continue;
		r = add_target(t, hc, q, true, eps, e);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The registry itself. */
static errint_t add_primary(struct hosts *h, const struct reg_entry *en, const char *rest,
			    const struct host_conf *hc, const struct hosts_query *q,
			    struct endpoints *eps, struct err *e)
{
	struct place p = { .host = q->host, .repo = q->repo, .plain = q->plain,
			   .insecure = en && en->insecure };

	if (en && en->location && strcmp(en->location, en->prefix) != 0)
		return add_location(h, en->location, rest, q, &p, eps, e);
	if (hc->server.url.host && !q->plain)
		return add_target(&hc->server, hc, q, false, eps, e);
	return add_place(h, &p, eps, e);
}

static errint_t resolve(struct hosts *h, const struct hosts_query *q, const char *name,
			struct endpoints *eps, struct err *e)
{
	const struct host_conf *hc = NULL;
	const struct reg_entry *en;
	size_t covered;
	errint_t r;

	en = regconf_find(&h->regconf, name, &covered);
	if (en && en->blocked)
		return err_set(e, EACCES, ERR_AUTH, "registries.conf blocks %s", name);
	r = conf_of(h, q->host, &hc, e);
	if (r == 0 && q->mirrors && en)
		r = add_reg_mirrors(h, en, name + covered, q, eps, e);
	if (r == 0 && q->mirrors)
		r = add_targets(h, hc, q, eps, e);
	return r < 0 ? r : add_primary(h, en, name + covered, hc, q, eps, e);
}

errint_t hosts_resolve(struct hosts *h, const struct hosts_query *q, struct endpoints *ret,
		       struct err *e)
{
	_cleanup_free_ char *name = NULL;
	errint_t r;

	ret->n = 0;
	if (asprintf(&name, "%s%s%s", q->host, q->repo && *q->repo ? "/" : "",
		     q->repo ? q->repo : "") < 0) {
		name = NULL;
		return no_memory(e);
	}
	r = resolve(h, q, name, ret, e);
	if (r < 0)
		endpoints_done(ret);
	return r;
}

errint_t hosts_tls(struct hosts *h, const struct url *u, struct http_tls *ret, struct err *e)
{
	_cleanup_free_ char *host = host_of_url(u);
	const struct host_conf *hc = NULL;
	bool full;
	errint_t r;

	*ret = (struct http_tls){ 0 };
	if (!host)
		return no_memory(e);
	{
		LOCK_SCOPE(&h->lock);
		full = hmap_count(h->confs) >= CONFS_MAX && !hmap_gets(h->confs, host);
	}
	if (full)
		return 0;
	r = conf_of(h, host, &hc, e);
	if (r == 0)
		*ret = (struct http_tls){ .ca_pem = hc->tls.ca_pem, .cert = hc->tls.cert,
					  .key = hc->tls.key };
	return r;
}
