/*
 * kind_control.c - .control directories: what the daemon, a repository, an image say of themselves
 *
 * Three tables of rows.  A new control file is one row and one show (or store) function.  Files are
 * rendered at open, are for the mounting user alone, and the directory answers to its name without
 * being listed, so that rsync, cp -r and find never stumble over it.
 */
#include "fs/fuse.h"
#include "fs/kinds.h"
#include "fs/prefetch.h"
#include "fs/warm.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#include "policy/policy.h"
#include "util/clock.h"
#include "util/hmap.h"
#include "util/stats.h"

struct control_at {
	const struct row *rows;
	size_t n_rows;
	struct site *site;
	char *repo;
	struct image *img, *enclosing;
};

static void control_at_free(void *p)
{
	struct control_at *at = p;

	if (!at)
		return;
	free(at->repo);
	image_unref(at->img);
	image_unref(at->enclosing);
	free(at);
}

/* ---- shared pieces of JSON ---- */

static void add_member(struct buf *b, const char *key, const char *value, bool last)
{
	buf_addf(b, "  \"%s\": ", key);
	buf_add_json(b, value, strlen(value));
	buf_adds(b, last ? "\n" : ",\n");
}

/* What stands below the root, or after `registryfs`. */
static const char *shown_name(struct site *s)
{
	return *site_name(s) ? site_name(s) : rg_name(site_registry(s));
}

static const char *kind_word(struct site *s)
{
	return rg_kind(site_registry(s)) == SOURCE_DIR ? "dir" : "oci";
}

/* ---- the daemon and its registry ---- */

static void add_registry(struct fs *fs, struct site *s, struct buf *b)
{
	_cleanup_buf_ struct buf auth = BUF_INIT(4096);

	(void)fs;
	rg_describe_auth(site_registry(s), &auth);
	while (auth.len > 0 && auth.data[auth.len - 1] == '\n')
		auth.len--;
	buf_adds(b, "    { \"name\": ");
	buf_add_json(b, shown_name(s), strlen(shown_name(s)));
	buf_addf(b, ", \"backend\": \"%s\", \"credentials\": ", kind_word(s));
	buf_add_json(b, buf_str(&auth), auth.len);
	buf_adds(b, " }");
}

static void add_registries(struct fs *fs, struct buf *b)
{
	size_t it = 0, len;
	const void *key;
	struct site *s;
	bool first = true;

	buf_adds(b, "  \"registries\": [\n");
	if (fs->single)
		add_registry(fs, fs->single, b);
	LOCK_SCOPE(&fs->sites_lock);
	while (!fs->single && (s = hmap_next(fs->sites, &it, &key, &len))) {
		buf_adds(b, first ? "" : ",\n");
		add_registry(fs, s, b);
		first = false;
	}
	buf_adds(b, "\n  ],\n");
}

static errint_t show_daemon_info(struct op *op, const struct subject *s, struct buf *out)
{
	struct fs *fs = s->fs;
	uint64_t used, max;
	char when[32];

	(void)op;
	ca_store_usage(fs->cache, &used, &max);
	buf_adds(out, "{\n");
	add_member(out, "version", REGISTRYFS_VERSION, false);
	add_member(out, "mountpoint", fs->config->mountpoint, false);
	add_member(out, "source", fs->config->source ? fs->config->source : "", false);
	buf_addf(out, "  \"pid\": %ld,\n", (long)getpid());
	add_member(out, "started", clock_format_rfc3339(fs->started_s, when, sizeof(when)), false);
	add_registries(fs, out);
	buf_adds(out, "  \"cache\": { \"directory\": ");
	buf_add_json(out, ca_store_dir(fs->cache), strlen(ca_store_dir(fs->cache)));
	buf_addf(out, ", \"bytes\": %" PRIu64 ", \"limit\": %" PRIu64 " },\n", used, max);
	buf_addf(out, "  \"waiting_operations\": %zu\n}\n", engine_parked(fs->engine));
	return buf_check(out);
}

static void refresh_gauges(struct fs *fs)
{
	uint64_t used, max;

	ca_store_usage(fs->cache, &used, &max);
	stat_set(STAT_CACHE_BYTES, (int64_t)used);
	stat_set(STAT_FUSE_NODES, (int64_t)node_count(fs->nodes));
	stat_set(STAT_FUSE_PARKED, (int64_t)engine_parked(fs->engine));
}

static errint_t show_stats(struct op *op, const struct subject *s, struct buf *out)
{
	(void)op;
	refresh_gauges(s->fs);
	stats_text(out);
	return buf_check(out);
}

static errint_t show_metrics(struct op *op, const struct subject *s, struct buf *out)
{
	(void)op;
	refresh_gauges(s->fs);
	stats_prometheus(out);
	return buf_check(out);
}

static errint_t show_daemon_config(struct op *op, const struct subject *s, struct buf *out)
{
	(void)op;
	return buf_adds(out, s->fs->config->options_text ? s->fs->config->options_text : "");
}

static errint_t show_errors(struct op *op, const struct subject *s, struct buf *out)
{
	(void)op;
	fs_errors_text(s->fs, out);
	return buf_check(out);
}

/* ---- refresh ---- */

/* Does a name below such a node mean something else when the registry changes? */
static bool names_move(const struct kind *k)
{
	return k == &kind_repo || k == &kind_tag || k == &kind_oci || k == &kind_tar || k == &kind_referrers ||
	       k == &kind_referrer_type;
}

/* The kernel shall ask again for each of them: dropping a directory's name does not drop those below. */
static void drop_name(struct node *n, void *ctx)
{
	struct fs *fs = ctx;

	if (n->parent && names_move(n->parent->kind) && fs->notifier)
		notify_inval_entry(fs->notifier, n->parent->id, n->name);
}

static void refresh_site(struct fs *fs, struct site *site, const char *repo)
{
	if (!site)
		site = fs->single;
	if (site) {
		site_refresh(site, repo);
		return;
	}
	size_t it = 0, len;
	const void *key;
	struct site *s;
	LOCK_SCOPE(&fs->sites_lock);

	while ((s = hmap_next(fs->sites, &it, &key, &len)))
		site_refresh(s, NULL);
}

void fs_refresh(struct fs *fs, struct site *site, const char *repo)
{
	refresh_site(fs, site, repo);
	node_each(fs->nodes, NULL, drop_name, fs);
}

struct refresh {
	struct site *site;
	char *repo;
};

static void refresh_free(void *p)
{
	struct refresh *w = p;

	if (w)
		free(w->repo);
	free(w);
}

/* Done when the kernel has been told: who has written may look at once. */
static errint_t work_refresh(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct refresh *w = arg;

	(void)e;
	fs_refresh(fs, w->site, w->repo);
	notify_flush(fs->notifier, c);
	return 0;
}

static errint_t store_refresh(struct op *op, const struct subject *s, const char *value, size_t len)
{
	struct refresh *w;
	char key[64];

	(void)value;
	(void)len;
	/* Not shared: another one may have begun before the change this one is about. */
	(void)snprintf(key, sizeof(key), "refresh %p", (void *)op);
	if (op_waited_for(op, key))
		return 0;
	w = calloc(1, sizeof(*w));
	if (!w || (s->repo && !(w->repo = strdup(s->repo)))) {
		refresh_free(w);
		return err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
	}
	w->site = s->site;
	return op_want(op, key, work_refresh, w, refresh_free);
}

static errint_t show_refresh(struct op *op, const struct subject *s, struct buf *out)
{
	(void)op;
	(void)s;
	return buf_adds(out, "write anything here to ask the registry again now\n");
}

/* ---- a repository ---- */

static errint_t show_repo_info(struct op *op, const struct subject *s, struct buf *out)
{
	_cleanup_(name_list_unrefp) struct name_list *tags = NULL;
	errint_t r = need_tags(op, s->site, s->repo, &tags);

	if (r < 0)
		return r;
	buf_adds(out, "{\n");
	add_member(out, "repository", s->repo, false);
	add_member(out, "registry", shown_name(s->site), false);
	add_member(out, "backend", kind_word(s->site), false);
	buf_addf(out, "  \"tags\": %zu\n}\n", tags->names.n);
	return buf_check(out);
}

/* One line per tag; digests as far as they are known without asking for each. */
static errint_t show_tags(struct op *op, const struct subject *s, struct buf *out)
{
	_cleanup_(name_list_unrefp) struct name_list *tags = NULL;
	errint_t r = need_tags(op, s->site, s->repo, &tags);

	if (r < 0)
		return r;
	buf_adds(out, "tag\tdigest\n");
	op->no_wait = true;
	for (size_t i = 0; i < tags->names.n; i++) {
		char text[DIGEST_TEXT_MAX] = "";
		struct digest d;
		uint64_t fresh;

		if (need_tag(op, s->site, s->repo, tags->names.names[i], &d, &fresh) == 0)
			digest_text(&d, text);
		buf_addf(out, "%s\t%s\n", tags->names.names[i], text);
	}
	op->no_wait = false;
	err_clear(&op->err);
	return buf_check(out);
}

/* ---- an image ---- */

static errint_t show_image_info(struct op *op, const struct subject *s, struct buf *out)
{
	_cleanup_(image_unrefp) struct image *main = NULL;
	char text[DIGEST_TEXT_MAX], when[32];
	uint64_t bytes = 0, held, total;
	int64_t created = 0;
	errint_t r = image_created(op, s->img, &created);

	if (r == 0)
		r = need_platform(op, s->img, &main);
	if (r < 0 && r != -ENOENT)
		return r;
	for (size_t i = 0; main && i < main->m->n_layers; i++)
		bytes += main->m->layers[i].size;
	buf_adds(out, "{\n");
	add_member(out, "digest", digest_text(&s->img->digest, text), false);
	add_member(out, "media_type", s->img->media_type, false);
	if (oci_artifact_type(s->img->m))
		add_member(out, "artifact_type", oci_artifact_type(s->img->m), false);
	if (s->img->m->kind == OCI_INDEX)
		buf_addf(out, "  \"images\": %zu,\n", s->img->m->n_children);
	if (main && main != s->img)
		add_member(out, "platform_digest", digest_text(&main->digest, text), false);
	if (created)
		add_member(out, "created", clock_format_rfc3339(created, when, sizeof(when)), false);
	buf_addf(out, "  \"layers\": %zu,\n", main ? main->m->n_layers : 0);
	if (main && oci_is_container_image(main->m) && warm_held(op, main, &held, &total) == 0)
		buf_addf(out, "  \"cached_bytes\": %" PRIu64 ",\n", held);
	buf_addf(out, "  \"compressed_bytes\": %" PRIu64 "\n}\n", bytes);
	return buf_check(out);
}

#define CONTROL (ROW_MUTABLE | ROW_OWNER)

static const struct row daemon_rows[] = {
	{ .name = "info.json", .flags = CONTROL, .show = show_daemon_info },
	{ .name = "stats", .flags = CONTROL, .show = show_stats },
	{ .name = "metrics", .flags = CONTROL, .show = show_metrics },
	{ .name = "config", .flags = CONTROL, .show = show_daemon_config },
	{ .name = "errors", .flags = CONTROL, .show = show_errors },
	{ .name = "refresh", .flags = CONTROL, .show = show_refresh, .store = store_refresh },
};

static const struct row repo_rows[] = {
	{ .name = "info.json", .flags = CONTROL, .show = show_repo_info },
	{ .name = "tags.tsv", .flags = CONTROL, .show = show_tags },
	{ .name = "refresh", .flags = CONTROL, .show = show_refresh, .store = store_refresh },
};

static const struct row image_control_rows[] = {
	{ .name = "info.json", .flags = CONTROL, .show = show_image_info },
	{ .name = "prefetch", .flags = CONTROL, .show = prefetch_show, .store = prefetch_store },
};

/* ---- the directory ---- */

static errint_t control_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	(void)sub;
	synth_dir_attr(op, n, true, op->fs->started_s, PO_FOREVER_NS, ret);
	return 0;
}

static errint_t control_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name, size_t len,
			       struct fs_entry *ret)
{
	const struct control_at *at = dir->data;
	struct subject s = { .fs = op->fs, .site = at->site, .repo = at->repo, .img = at->img,
			     .enclosing = at->enclosing };

	(void)sub;
	(void)len;
	for (size_t i = 0; i < at->n_rows; i++)
		if (strcmp(at->rows[i].name, name) == 0)
			return text_entry(op, dir, &at->rows[i], &s, PO_FOREVER_NS, ret);
	ret->ttl_ns = PO_FOREVER_NS;
	return -ENOENT;
}

static errint_t control_list(struct op *op, struct node *dir, uint32_t sub, struct dirlist *ret)
{
	const struct control_at *at = dir->data;
	errint_t r = 0;

	(void)op;
	(void)sub;
	for (size_t i = 0; r == 0 && i < at->n_rows; i++) {
		const char *name = at->rows[i].name;

		r = dirlist_add(ret, name, strlen(name), node_hash_ino(dir->ino, name, strlen(name)), DT_REG);
	}
	return r;
}

const struct kind kind_control = {
	.name = "control",
	.is_dir = true,
	.attr = control_attr,
	.lookup = control_lookup,
	.list = control_list,
	.drop_data = control_at_free,
};

static void choose_rows(struct control_at *at, const struct subject *s)
{
	if (s->img) {
		at->rows = image_control_rows;
		at->n_rows = ARRAY_SIZE(image_control_rows);
	} else if (s->site && s->repo && *s->repo) {
		at->rows = repo_rows;
		at->n_rows = ARRAY_SIZE(repo_rows);
	} else {
		at->rows = daemon_rows;
		at->n_rows = ARRAY_SIZE(daemon_rows);
	}
}

errint_t control_entry(struct op *op, struct node *dir, const struct subject *s, struct fs_entry *ret)
{
	struct control_at *at = calloc(1, sizeof(*at));

	if (!at || (s->repo && !(at->repo = strdup(s->repo)))) {
		free(at);
		return err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
	}
	choose_rows(at, s);
	at->site = s->site;
	at->img = s->img ? image_ref(s->img) : NULL;
	at->enclosing = s->enclosing ? image_ref(s->enclosing) : NULL;
	ret->node = node_child(dir, ".control", 8, s->img ? s->img->ident : 0, &kind_control, at, false);
	if (!ret->ttl_ns)
		ret->ttl_ns = PO_FOREVER_NS;
	return ret->node ? 0 : err_set(&op->err, ENOMEM, ERR_LIMIT, "too many nodes");
}
