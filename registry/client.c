/*
 * client.c - the process-wide part of registry access, and the table of its hosts
 *
 * Threads: lock guards the table and the reference counts of its hosts; everything else is set up
 * in rg_client_new and taken down in rg_client_stop, when no registry is open any more.
 */
#include "registry/client.h"

#include <string.h>

#include "util/hmap.h"

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "no memory for a registry client");
}

static errint_t dup_option(const char **s)
{
	if (*s)
		*s = strdup(*s);
	return *s ? 0 : -ENOMEM;
}

static errint_t copy_opts(const struct rg_opts *from, struct rg_opts *to)
{
	const char **strings[] = { &to->authfile, &to->config_home, &to->registries_conf,
				   &to->certs_dir, &to->hosts_dir };
	errint_t r = 0;

	*to = *from;
	for (size_t i = 0; i < ARRAY_SIZE(strings); i++)
		if (*strings[i] && dup_option(strings[i]) < 0)
			r = -ENOMEM;
	return r;
}

static void free_opts(struct rg_opts *o)
{
	free((void *)(uintptr_t)o->authfile);
	free((void *)(uintptr_t)o->config_home);
	free((void *)(uintptr_t)o->registries_conf);
	free((void *)(uintptr_t)o->certs_dir);
	free((void *)(uintptr_t)o->hosts_dir);
}

static errint_t start(struct rg_client *c, const struct rg_opts *opts, struct err *e)
{
	errint_t r;

	c->table = hmap_new(NULL);
	if (copy_opts(opts, &c->opts) < 0 || !c->table)
		return no_memory(e);
	r = hosts_new(&c->opts, &c->hosts, e);
	if (r == 0)
		r = creds_new(&c->opts, &c->creds, e);
	if (r == 0)
		r = http_new(&c->opts, &c->http, e);
	return r < 0 ? r : auth_new(c->http, c->hosts, c->creds, &c->auth, e);
}

errint_t rg_client_new(const struct rg_opts *opts, struct rg_client **ret, struct err *e)
{
	struct rg_client *c = calloc(1, sizeof(*c));
	errint_t r;

	if (!c)
		return no_memory(e);
	pthread_mutex_init(&c->lock, NULL);
	r = start(c, opts, e);
	if (r < 0) {
		rg_client_stop(c);
		return r;
	}
	*ret = c;
	return 0;
}

struct rg_client *rg_client_stop(struct rg_client *c)
{
	if (!c)
		return NULL;
	http_stop(c->http);
	auth_free(c->auth);
	creds_free(c->creds);
	hosts_free(c->hosts);
	hmap_free(c->table);
	free_opts(&c->opts);
	pthread_mutex_destroy(&c->lock);
	free(c);
	return NULL;
}

const struct rg_opts *rg_client_opts(const struct rg_client *c)
{
	return &c->opts;
}

/* ---- hosts ---- */

static struct rg_host *host_free(struct rg_host *h)
{
	free(h->key);
	free(h->host);
	free(h);
	return NULL;
}

static struct rg_host *host_new(struct rg_client *c, const char *key, const char *host, bool plain)
{
	struct rg_host *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	h->client = c;
	h->plain = plain;
	h->key = strdup(key);
	h->host = strdup(host);
	if (!h->key || !h->host || hmap_puts(c->table, key, h) < 0)
		return host_free(h);
	return h;
}

errint_t rg_host_get(struct rg_client *c, const char *host, bool plain, struct rg_host **ret,
		     struct err *e)
{
	char key[REF_HOST_MAX + 16];
	struct rg_host *h;

	if (snprintf(key, sizeof(key), "%s%s", plain ? "http://" : "", host) >= (int)sizeof(key))
		return err_set(e, EINVAL, ERR_INPUT, "the host name %.60s.. is too long", host);
	LOCK_SCOPE(&c->lock);
	h = hmap_gets(c->table, key);
	if (!h)
		h = host_new(c, key, host, plain);
	if (!h)
		return no_memory(e);
	h->refs++;
	*ret = h;
	return 0;
}

void rg_host_put(struct rg_host *h)
{
	if (!h)
		return;
	LOCK_SCOPE(&h->client->lock);
	if (--h->refs > 0)
		return;
	(void)hmap_takes(h->client->table, h->key);
	host_free(h);
}

const char *rg_host_name(const struct rg_host *h)
{
	return h->host;
}

void rg_host_describe_auth(struct rg_host *h, struct buf *out)
{
	_cleanup_cred_ struct cred cr = { 0 };
	struct err e = { 0 };

	if (creds_get(h->client->creds, h->host, NULL, &cr, NULL, &e) < 0)
		(void)buf_addf(out, "%s: no credentials (%s)\n", h->host, e.msg);
	else if (cr.kind == CRED_NONE)
		(void)buf_addf(out, "%s: anonymous\n", h->host);
	else if (cr.kind == CRED_BASIC)
		(void)buf_addf(out, "%s: user %s from %s\n", h->host, cr.user, cr.origin);
	else
		(void)buf_addf(out, "%s: %s from %s\n", h->host,
			       cr.kind == CRED_IDENTITY ? "identity token" : "registry token",
			       cr.origin);
}
