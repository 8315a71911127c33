/*
 * wire.c - the one place where the pillars meet
 *
 * registry/, cache/ and policy/ do not know each other.  Here the registry becomes a source for
 * the cache, policy's retry rule goes to the registry, and the options become limits of all three.
 */
#include <stdio.h>

#include "fs/fs.h"
#include "fs/kinds.h"
#include "fs/need_priv.h"
#include "fs/pace.h"
#include "policy/policy.h"
#include "util/clock.h"
#include "util/hmap.h"

#define CONNECT_NS (10 * NSEC_PER_SEC) /* longer helps nobody */

/* ---- registry as a source of the cache ---- */

/* Passes bytes on and shows that the work gets on: whoever waits for a big layer may go on waiting. */
struct watched {
	ca_sink_fn sink;
	void *ctx;
	const struct wire_source *ws;
	struct cancel *cancel;
};

static errint_t watched_sink(void *ctx, const void *data, size_t len, struct err *e)
{
	struct watched *w = ctx;
	errint_t r = 0;

	op_work_progress();
	if (w->ws->got)
		(void)atomic_fetch_add(w->ws->got, len);
	if (w->ws->pace && !(w->ws->hurry && atomic_load(w->ws->hurry)))
		r = pace_bytes(w->ws->pace, len, w->ws->yields, w->cancel, e);
	return r < 0 ? r : w->sink(w->ctx, data, len, e);
}

static errint_t source_read(void *ctx, const struct digest *d, uint64_t size, uint64_t off, uint64_t len,
			    ca_sink_fn sink, void *sink_ctx, struct cancel *c, struct err *e)
{
	struct wire_source *ws = ctx;
	struct watched w = { sink, sink_ctx, ws, c };
	errint_t r;

	ws->began_ns = clock_mono_ns();
	r = rg_get_blob(ws->reg, ws->repo, d, size, off, len, watched_sink, &w, c, e);

	/* A part that an image says it has: missing is damage.  ENOENT would make files look absent,
	 * and what is absent gets deleted by rsync. */
	if (r != -ENOENT)
		return r;
	if (e)
		e->eno = EIO;
	return -EIO;
}

static bool source_bad(void *ctx, const struct digest *d)
{
	const struct wire_source *ws = ctx;

	return rg_blob_was_bad(ws->reg, d, ws->began_ns);
}

struct ca_source wire_source(struct wire_source *ctx)
{
	return (struct ca_source){ .read = source_read, .ctx = ctx, .bad = source_bad };
}

/* ---- making a mount ---- */

errint_t wire_client(const struct fs_config *c, struct rg_client **ret, struct err *e)
{
	struct rg_opts o = {
		.retry = po_retry,
		.progress = op_work_progress,
		.connect_timeout_ns = MIN_OF(c->timeout_ns, CONNECT_NS),
		.stall_timeout_ns = c->timeout_ns,
		.host_transfers = c->transfers,
		.authfile = c->authfile,
		.registries_conf = c->registries_conf,
		.certs_dir = c->certs_dir,
		.hosts_dir = c->hosts_dir,
		.tls_verify_off = c->tls_verify_off,
	};

	return rg_client_new(&o, ret, e);
}

static errint_t make_cache(struct fs *fs, struct err *e)
{
	struct ca_opts o = {
		.dir = fs->config->cache_dir,
		.max_bytes = fs->config->cache_size,
		.min_free = fs->config->cache_free,
	};

	return ca_store_new(&o, &fs->cache, e);
}

static errint_t add_site(struct fs *fs, const char *name, const char *source, struct err *e)
{
	struct site *s = NULL;
	errint_t r = site_new(fs, name, source, &s, e);

	if (r < 0)
		return r;
	r = hmap_puts(fs->sites, name, s);
	if (r < 0) {
		(void)site_free(s);
		return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
	}
	return 0;
}

/* registries=http://HOST is shown as HOST. */
static const char *host_part(const char *source)
{
	const char *sep = strstr(source, "://");

	return sep ? sep + 3 : source;
}

/* Without SOURCE: `local`, and every configured registry under its own name. */
static errint_t make_sites(struct fs *fs, struct err *e)
{
	_cleanup_buf_ struct buf local = BUF_INIT(8192);
	errint_t r;

	buf_addf(&local, "dir:%s", fs->config->local_dir);
	r = add_site(fs, "local", buf_str(&local), e);
	for (size_t i = 0; r == 0 && i < fs->config->n_registries; i++)
		r = add_site(fs, host_part(fs->config->registries[i]), fs->config->registries[i], e);
	return r;
}

static errint_t make_nodes(struct fs *fs, struct err *e)
{
	if (fs->single) {
		struct repo_at *at = repo_at_new(fs->single, "");

		fs->nodes = at ? node_table_new(&kind_repo, at) : NULL;
	} else {
		fs->nodes = node_table_new(&kind_root, NULL);
	}
	return fs->nodes ? 0 : err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
}

static errint_t fs_fill(struct fs *fs, struct err *e)
{
	errint_t r = wire_client(fs->config, &fs->client, e);

	if (r == 0)
		r = make_cache(fs, e);
	if (r == 0 && fs->config->source)
		r = site_new(fs, "", fs->config->source, &fs->single, e);
	else if (r == 0)
		r = make_sites(fs, e);
	if (r == 0)
		r = make_nodes(fs, e);
	if (r < 0)
		return r;
	fs->engine = engine_new(fs, &(struct engine_opts){ 0 });
	fs->pace = pace_new(fs->engine, fs->config->background_rate);
	return fs->engine && fs->pace ? 0 : err_set(e, ENOMEM, ERR_LOCAL, "cannot start threads");
}

static void free_site(void *p)
{
	(void)site_free(p);
}

errint_t fs_new(const struct fs_config *c, struct fs **ret, struct err *e)
{
	struct fs *fs = calloc(1, sizeof(*fs));
	errint_t r;

	if (!fs)
		return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
	fs->config = c;
	fs->uid = getuid();
	fs->gid = getgid();
	fs->started_s = clock_real_s();
	pthread_mutex_init(&fs->sites_lock, NULL);
	pthread_mutex_init(&fs->errors_lock, NULL);
	fs->sites = hmap_new(free_site);
	r = fs->sites ? fs_fill(fs, e) : err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
	if (r < 0)
		(void)fs_free(fs);
	else
		*ret = fs;
	return r;
}

struct fs *fs_free(struct fs *fs)
{
	if (!fs)
		return NULL;
	if (fs->engine)
		(void)engine_stop(fs->engine);
	(void)pace_free(fs->pace);
	if (fs->nodes)
		(void)node_table_free(fs->nodes);
	(void)site_free(fs->single);
	hmap_free(fs->sites);
	if (fs->client)
		(void)rg_client_stop(fs->client);
	if (fs->cache)
		(void)ca_store_free(fs->cache);
	pthread_mutex_destroy(&fs->sites_lock);
	pthread_mutex_destroy(&fs->errors_lock);
	free(fs);
	return NULL;
}

errint_t fs_check_source(struct fs *fs, struct cancel *c, struct err *e)
{
	return fs->single ? rg_ping(site_registry(fs->single), c, e) : 0;
}
