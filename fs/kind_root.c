/*
 * kind_root.c - the root of a mount without SOURCE
 *
 * It lists `local` (the embedded registry), the configured registries, and hosts that were visited.
 * Any other HOST[:PORT] with a dot or a port is looked up on demand when policy allows it: the host
 * must really answer as a registry, or the name does not exist.
 */
#include "fs/kinds.h"

#include <dirent.h>
#include <sys/stat.h>

#include "policy/policy.h"
#include "util/hmap.h"

static errint_t root_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	(void)sub;
	synth_dir_attr(op, n, false, op->fs->started_s, PO_FOREVER_NS, ret);
	return 0;
}

static struct site *known_site(struct fs *fs, const char *name)
{
	LOCK_SCOPE(&fs->sites_lock);
	return hmap_gets(fs->sites, name);
}

/* Adds a site under its name; when somebody else was quicker, theirs is used. */
static struct site *keep_site(struct fs *fs, const char *name, struct site *s)
{
	struct site *there;

	{
		LOCK_SCOPE(&fs->sites_lock);
		there = hmap_gets(fs->sites, name);
		if (!there && hmap_puts(fs->sites, name, s) == 0)
			return s;
	}
	(void)site_free(s);
	return there;
}

static errint_t reach(struct fs *fs, const char *host, const char *source, struct cancel *c, struct err *e)
{
	struct site *s;
	errint_t r = site_new(fs, host, source, &s, e);

	if (r < 0)
		return r;
	r = rg_ping(site_registry(s), c, e);
	if (r < 0 && e->cls != ERR_AUTH) {
		(void)site_free(s);
		return r;
	}
	return keep_site(fs, host, s) ? 0 : -ENOMEM;
}

/* Work: does a registry answer at this host?  Publishes the site.  A path has no room for http://, so
 * on this machine, where nobody listens in, that is tried as well (registry.md 2.5). */
static errint_t reach_host(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	_cleanup_buf_ struct buf plain = BUF_INIT(1024);
	struct err unused = { 0 };
	const char *host = arg;
	errint_t r = reach(fs, host, host, c, e);

	if (r >= 0 || e->cls != ERR_NET || r == -EHOSTUNREACH || !ref_host_is_loopback(host) || cancel_fired(c) ||
	    buf_addf(&plain, "http://%s", host) < 0 || reach(fs, host, buf_str(&plain), c, &unused) < 0)
		return r;
	err_clear(e);
	return 0;
}

static errint_t need_host(struct op *op, const char *host, struct site **ret)
{
	_cleanup_free_ char *key = NULL;
	struct site *s = known_site(op->fs, host);
	char *arg;

	if (s) {
		*ret = s;
		return 0;
	}
	arg = strdup(host);
	if (!arg || asprintf(&key, "host %s", host) < 0) {
		free(arg);
		return -ENOMEM;
	}
	return op_want(op, key, reach_host, arg, free);
}

static errint_t site_entry(struct op *op, struct node *dir, const char *name, struct site *s,
			   struct fs_entry *ret)
{
	struct repo_at *at = repo_at_new(s, "");

	ret->node = at ? node_child(dir, name, strlen(name), 0, &kind_repo, at, false) : NULL;
	ret->ttl_ns = PO_FOREVER_NS;
	return ret->node ? 0 : err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
}

static errint_t root_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name, size_t len,
			    struct fs_entry *ret)
{
	struct subject sub_ = { .fs = op->fs };
	struct site *s = known_site(op->fs, name);
	errint_t r;

	(void)sub;
	if (strcmp(name, ".control") == 0)
		return control_entry(op, dir, &sub_, ret);
	if (s)
		return site_entry(op, dir, name, s, ret);
	ret->ttl_ns = po_ttl_ns(PO_FRESH_ABSENT, op->fs->config->tag_ttl_ns, ERR_UNSET);
	if (!ref_is_host(name, len) || ref_host_is_link_local(name) ||
	    !po_host_on_demand(name, op->fs->config->allow_other))
		return -ENOENT;
	r = need_host(op, name, &s);
	if (r == -EHOSTUNREACH) {
		/* Nobody there: the name does not exist; the reason stays in .control/errors. */
		fs_note_error(op->fs, dir, &op->err);
		err_clear(&op->err);
		return -ENOENT;
	}
	return r < 0 ? r : site_entry(op, dir, name, s, ret);
}

static errint_t root_list(struct op *op, struct node *dir, uint32_t sub, struct dirlist *ret)
{
	const void *key;
	size_t it = 0, len;
	errint_t r = 0;

	(void)sub;
	{
		LOCK_SCOPE(&op->fs->sites_lock);
		while (r == 0 && hmap_next(op->fs->sites, &it, &key, &len))
			r = dirlist_add(ret, key, len, node_hash_ino(dir->ino, key, len), DT_DIR);
	}
	if (r == 0)
		dirlist_sort_unique(ret);
	return r;
}

const struct kind kind_root = {
	.name = "root",
	.is_dir = true,
	.attr = root_attr,
	.lookup = root_lookup,
	.list = root_list,
};
