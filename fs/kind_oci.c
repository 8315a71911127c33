/*
 * kind_oci.c - REPO/.oci: the repository as an OCI image layout, the target of rsync and skopeo
 *
 *	.oci/oci-layout  .oci/index.json  .oci/blobs/<alg>/<hex>	this repository
 *	.oci/NAME/...							repositories below it
 *
 * A repository whose name is that of a layout file is written with '%' in front (DESIGN.md 3).
 * What is shown is a snapshot, taken again when it is older than tag_ttl; as long as nothing has
 * changed it stays the same nodes.  Blobs have a fixed time, so that rsync's quick check (size and
 * time) sees equal blobs as equal.  index.json has the time when it was first seen to be as it is: a
 * tag that moves to an image of equal length changes neither the size nor the name of anything.
 */
#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>

#include "fs/layout.h"
#include "policy/policy.h"
#include "util/clock.h"

/* ---- files ---- */

struct oci_file {
	struct layout *l;
	const struct layout_part *part;	/* NULL: text */
	const char *text;		/* inside l, or constant */
	size_t text_len;
	int64_t mtime_s;
};

static void oci_file_free(void *p)
{
	struct oci_file *f = p;

	if (!f)
		return;
	(void)layout_unref(f->l);
	free(f);
}

static errint_t oci_file_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	const struct oci_file *f = n->data;

	(void)sub;
	synth_file_attr(op, n, 0444, f->part ? f->part->size : f->text_len, f->mtime_s, PO_FOREVER_NS,
			ret);
	return 0;
}

static errint_t oci_file_read(struct op *op, struct node *n, uint32_t sub, struct handle *h, uint64_t off,
			      size_t size, struct buf *ret)
{
	const struct oci_file *f = n->data;
	uint64_t end = f->part ? f->part->size : f->text_len;

	(void)sub;
	(void)h;
	if (off >= end)
		return 0;
	size = MIN_OF(size, end - off);
	return f->part ? layout_read(op, f->part, off, size, ret) : buf_add(ret, f->text + off, size);
}

static const struct kind kind_oci_file = {
	.name = "layout file",
	.attr = oci_file_attr,
	.open = open_constant,
	.read = oci_file_read,
	.drop_data = oci_file_free,
};

/* A blob, a text that belongs to l, or (neither) the constant oci-layout. */
static errint_t file_entry(struct op *op, struct node *dir, const char *name, struct layout *l,
			   const struct layout_part *part, const struct buf *text, uint64_t ttl_ns,
			   struct fs_entry *ret)
{
	struct oci_file *f = calloc(1, sizeof(*f));

	if (!f)
		return err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
	*f = (struct oci_file){ .l = layout_ref(l), .part = part };
	if (!part) {
		f->text = text ? text->data : OCI_LAYOUT_FILE;
		f->text_len = text ? text->len : strlen(OCI_LAYOUT_FILE);
		f->mtime_s = text ? l->since_s : 0;
	}
	ret->node = node_child(dir, name, strlen(name), part ? 0 : l->ident, &kind_oci_file, f, false);
	ret->ttl_ns = ttl_ns;
	return ret->node ? 0 : err_set(&op->err, ENOMEM, ERR_LIMIT, "too many nodes");
}

/* ---- blobs/ and blobs/<alg>/ ---- */

struct oci_dir {
	struct layout *l;
	uint8_t alg;	/* DIGEST_UNSET: blobs/ itself */
};

static void oci_dir_free(void *p)
{
	struct oci_dir *d = p;

	if (!d)
		return;
	(void)layout_unref(d->l);
	free(d);
}

static errint_t fixed_dir_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	(void)sub;
	synth_dir_attr(op, n, false, 0, PO_FOREVER_NS, ret);
	return 0;
}

static errint_t dir_entry(struct op *op, struct node *dir, const char *name, struct layout *l, uint8_t alg,
			  uint64_t ttl_ns, struct fs_entry *ret)
{
	struct oci_dir *d = calloc(1, sizeof(*d));

	if (!d)
		return err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
	*d = (struct oci_dir){ layout_ref(l), alg };
	ret->node = node_child(dir, name, strlen(name), l->ident, &kind_oci_dir, d, false);
	ret->ttl_ns = ttl_ns;
	return ret->node ? 0 : err_set(&op->err, ENOMEM, ERR_LIMIT, "too many nodes");
}

static const struct {
	const char *name;
	uint8_t alg;
} algs[] = { { "sha256", DIGEST_SHA256 }, { "sha512", DIGEST_SHA512 } };

static bool has_alg(const struct layout *l, uint8_t alg)
{
	for (size_t i = 0; i < l->n_parts; i++)
		if (l->parts[i].digest.alg == alg)
			return true;
	return alg == DIGEST_SHA256;
}

static errint_t oci_dir_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name, size_t len,
			       struct fs_entry *ret)
{
	const struct oci_dir *at = dir->data;
	_cleanup_buf_ struct buf text = BUF_INIT(DIGEST_TEXT_MAX + NODE_NAME_MAX);
	const struct layout_part *p;
	struct digest d;

	(void)sub;
	(void)len;
	ret->ttl_ns = PO_FOREVER_NS;
	for (size_t i = 0; !at->alg && i < ARRAY_SIZE(algs); i++)
		if (strcmp(algs[i].name, name) == 0 && has_alg(at->l, algs[i].alg))
			return dir_entry(op, dir, name, at->l, algs[i].alg, PO_FOREVER_NS, ret);
	if (!at->alg)
		return -ENOENT;
	buf_addf(&text, "%s:%s", algs[at->alg - 1].name, name);
	if (buf_check(&text) < 0 || digest_parse(buf_str(&text), text.len, &d) < 0)
		return -ENOENT;
	p = layout_find(at->l, &d);
	return p ? file_entry(op, dir, name, at->l, p, NULL, PO_FOREVER_NS, ret) : -ENOENT;
}

static errint_t oci_dir_list(struct op *op, struct node *dir, uint32_t sub, struct dirlist *ret)
{
	const struct oci_dir *at = dir->data;
	char hex[DIGEST_TEXT_MAX];
	errint_t r = 0;

	(void)op;
	(void)sub;
	for (size_t i = 0; !at->alg && r == 0 && i < ARRAY_SIZE(algs); i++)
		if (has_alg(at->l, algs[i].alg))
			r = dirlist_add(ret, algs[i].name, 6, node_hash_ino(dir->ino, algs[i].name, 6), DT_DIR);
	for (size_t i = 0; at->alg && r == 0 && i < at->l->n_parts; i++) {
		if (at->l->parts[i].digest.alg != at->alg)
			continue;
		digest_hex(&at->l->parts[i].digest, hex);
		r = dirlist_add(ret, hex, strlen(hex), node_hash_ino(dir->ino, hex, strlen(hex)), DT_REG);
	}
	return r;
}

const struct kind kind_oci_dir = {
	.name = "layout directory",
	.is_dir = true,
	.attr = fixed_dir_attr,
	.lookup = oci_dir_lookup,
	.list = oci_dir_list,
	.open = open_constant,
	.drop_data = oci_dir_free,
};

/* ---- .oci ---- */

struct oci_at {
	struct site *site;
	char *repo;
	pthread_mutex_t lock;
	struct layout *l;	/* the last snapshot */
	uint64_t taken_ns, epoch;
};

static void oci_at_free(void *p)
{
	struct oci_at *at = p;

	if (!at)
		return;
	(void)layout_unref(at->l);
	pthread_mutex_destroy(&at->lock);
	free(at->repo);
	free(at);
}

errint_t oci_entry(struct op *op, struct node *dir, const char *name, struct site *s, const char *repo,
		   struct fs_entry *ret)
{
	struct oci_at *at = calloc(1, sizeof(*at));

	if (!at || !(at->repo = strdup(repo))) {
		free(at);
		return err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
	}
	pthread_mutex_init(&at->lock, NULL);
	at->site = s;
	ret->node = node_child(dir, name, strlen(name), 0, &kind_oci, at, false);
	ret->ttl_ns = PO_FOREVER_NS;
	return ret->node ? 0 : err_set(&op->err, ENOMEM, ERR_LIMIT, "too many nodes");
}

/* When a layout like this one was first seen, as far as this cache knows: stable over restarts, later
 * than before whenever the contents change.  A note in the cache; local work only. */
static int64_t first_seen(struct op *op, const struct oci_at *at, const struct layout *l)
{
	_cleanup_buf_ struct buf name = BUF_INIT(2048), value = BUF_INIT(64);
	unsigned long long known;
	long long since;
	int64_t now = clock_real_s();

	if (buf_addf(&name, "layout %s/%s", rg_key(site_registry(at->site)), at->repo) < 0)
		return now;
	if (ca_note_get(op->fs->cache, buf_str(&name), &value, NULL, NULL) == 0 &&
	    sscanf(buf_str(&value), "%16llx %lld", &known, &since) == 2) {
		if (known == l->ident)
			return since;
		now = MAX_OF(now, (int64_t)since + 1);
	}
	buf_clear(&value);
	if (buf_addf(&value, "%016llx %lld", (unsigned long long)l->ident, (long long)now) == 0)
		ca_note_put(op->fs->cache, buf_str(&name), value.data, value.len);
	return now;
}

static struct layout *recent(struct op *op, struct oci_at *at, uint64_t *ret_fresh)
{
	uint64_t ttl = MAX_OF(op->fs->config->tag_ttl_ns, NSEC_PER_SEC), age;
	LOCK_SCOPE(&at->lock);

	age = clock_mono_ns() - at->taken_ns;
	if (!at->l || age >= ttl || at->epoch != site_epoch(at->site))
		return NULL;
	*ret_fresh = ttl - age;
	return layout_ref(at->l);
}

/* -ENOENT: this path is no repository, only others are below it. */
static errint_t snapshot(struct op *op, struct oci_at *at, struct layout **ret, uint64_t *ret_fresh)
{
	struct layout *l = recent(op, at, ret_fresh), *old = NULL;
	uint64_t epoch = site_epoch(at->site);
	errint_t r;

	if (l) {
		*ret = l;
		return 0;
	}
	if (!*at->repo && !rg_root_is_repo(site_registry(at->site)))
		return -ENOENT;
	r = layout_need(op, at->site, at->repo, NULL, false, &l);
	if (r < 0)
		return r;
	l->since_s = first_seen(op, at, l);
	{
		LOCK_SCOPE(&at->lock);
		if (at->l && at->l->ident == l->ident) {
			old = l;
			l = layout_ref(at->l);
		} else {
			old = at->l;
			at->l = layout_ref(l);
		}
		at->taken_ns = clock_mono_ns();
		at->epoch = epoch;
	}
	(void)layout_unref(old);
	*ret = l;
	*ret_fresh = op->fs->config->tag_ttl_ns;
	return 0;
}

static const char *const layout_names[] = { "oci-layout", "index.json", "blobs" };

static bool is_layout_name(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(layout_names); i++)
		if (strlen(layout_names[i]) == len && memcmp(layout_names[i], name, len) == 0)
			return true;
	return false;
}

static errint_t layout_child(struct op *op, struct node *dir, const char *name, struct fs_entry *ret)
{
	_cleanup_(layout_unrefp) struct layout *l = NULL;
	uint64_t fresh = 0;
	errint_t r = snapshot(op, dir->data, &l, &fresh);

	if (r < 0)
		return r;
	if (strcmp(name, "blobs") == 0)
		return dir_entry(op, dir, name, l, 0, fresh, ret);
	if (strcmp(name, "index.json") == 0)
		return file_entry(op, dir, name, l, NULL, &l->index, fresh, ret);
	return file_entry(op, dir, name, l, NULL, NULL, fresh, ret);
}

/* A repository or namespace below this one, under its own name or with '%'. */
static errint_t nested_child(struct op *op, struct node *dir, const char *name, struct fs_entry *ret)
{
	const struct oci_at *at = dir->data;
	const char *plain = name[0] == '%' ? name + 1 : name;
	_cleanup_buf_ struct buf full = BUF_INIT(REF_REPO_MAX + 1);
	enum name_is is;
	errint_t r;

	if ((name[0] == '%') != is_layout_name(plain, strlen(plain)) ||
	    !ref_is_repo_component(plain, strlen(plain)))
		return -ENOENT;
	r = need_name(op, at->site, at->repo, plain, &is);
	if (r < 0)
		return r;
	if (is != NAME_IS_REPO || buf_addf(&full, "%s%s%s", at->repo, *at->repo ? "/" : "", plain) < 0)
		return -ENOENT;
	return oci_entry(op, dir, name, at->site, buf_str(&full), ret);
}

static errint_t oci_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name, size_t len,
			   struct fs_entry *ret)
{
	(void)sub;
	ret->ttl_ns = po_ttl_ns(PO_FRESH_ABSENT, op->fs->config->tag_ttl_ns, ERR_UNSET);
	return is_layout_name(name, len) ? layout_child(op, dir, name, ret) : nested_child(op, dir, name, ret);
}

static errint_t add_nested(struct node *dir, const struct name_list *repos, struct dirlist *ret)
{
	const struct oci_at *at = dir->data;
	size_t plen = strlen(at->repo);
	char name[NODE_NAME_MAX + 2];
	errint_t r = 0;

	for (size_t i = 0; r == 0 && i < repos->names.n; i++) {
		const char *full = repos->names.names[i];
		size_t n;

		if (plen && (strncmp(full, at->repo, plen) != 0 || full[plen] != '/'))
			continue;
		full += plen ? plen + 1 : 0;
		n = strcspn(full, "/");
		if (n == 0 || n > NODE_NAME_MAX)
			continue;
		(void)snprintf(name, sizeof(name), "%s%.*s", is_layout_name(full, n) ? "%" : "", (int)n, full);
		r = dirlist_add(ret, name, strlen(name), node_hash_ino(dir->ino, name, strlen(name)), DT_DIR);
	}
	return r;
}

static errint_t oci_list(struct op *op, struct node *dir, uint32_t sub, struct dirlist *ret)
{
	_cleanup_(name_list_unrefp) struct name_list *repos = NULL;
	_cleanup_(layout_unrefp) struct layout *l = NULL;
	struct oci_at *at = dir->data;
	uint64_t fresh;
	errint_t r = need_repos(op, at->site, &repos);

	(void)sub;
	if (r < 0)
		return r;
	r = snapshot(op, at, &l, &fresh);
	if (r == -ENOENT) {
		err_clear(&op->err);
		r = 0;
	}
	for (size_t i = 0; l && r == 0 && i < ARRAY_SIZE(layout_names); i++)
		r = dirlist_add(ret, layout_names[i], strlen(layout_names[i]),
				node_hash_ino(dir->ino, layout_names[i], strlen(layout_names[i])),
				i == 2 ? DT_DIR : DT_REG);
	if (r == 0)
		r = add_nested(dir, repos, ret);
	if (r == 0)
		dirlist_sort_unique(ret);
	return r;
}

const struct kind kind_oci = {
	.name = "layout",
	.is_dir = true,
	.attr = fixed_dir_attr,
	.lookup = oci_lookup,
	.list = oci_list,
	.drop_data = oci_at_free,
};
