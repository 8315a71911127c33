/*
 * kind_repo.c - the root of a registry, a namespace, a repository: all one kind
 *
 * `team` may be a namespace only, a repository only, or both; the directory shows the next path
 * components of all repositories below it and its own tags.  A repository `app/1.0` wins the plain
 * name `1.0` below app; `:1.0` is always the tag.  `sha256:<hex>`, `.oci`, `.tar` and `.control`
 * answer to their names and are not listed (DESIGN.md 3).
 *
 * Listing costs the list pages and nothing else: a listed tag is not asked about, neither by `ls`
 * nor by `ls -l` nor by readdirplus.
 */
#include "fs/kinds.h"

#include <dirent.h>
#include <sys/stat.h>

#include "policy/policy.h"
#include "util/clock.h"

#define LEAN_MIN 800	/* tags: about what one reply holds */

/* ---- places ---- */

struct repo_at *repo_at_new(struct site *site, const char *repo)
{
	struct repo_at *at = calloc(1, sizeof(*at));

	if (!at)
		return NULL;
	at->site = site;
	at->repo = strdup(repo);
	if (!at->repo) {
		free(at);
		return NULL;
	}
	return at;
}

void repo_at_free(void *p)
{
	struct repo_at *at = p;

	if (!at)
		return;
	free(at->repo);
	free(at);
}

/* ---- attributes of things that exist only here ---- */

void synth_dir_attr(struct op *op, const struct node *n, bool owner_only, int64_t mtime_s, uint64_t ttl_ns,
		    struct fs_attr *ret)
{
	*ret = (struct fs_attr){
		.ino = n->ino,
		.mode = S_IFDIR | (owner_only ? 0700u : 0555u),
		.nlink = 2,
		.uid = op->fs->uid,
		.gid = op->fs->gid,
		.mtime_s = mtime_s,
		.ttl_ns = ttl_ns,
	};
}

void synth_file_attr(struct op *op, const struct node *n, uint32_t perm, uint64_t size, int64_t mtime_s,
		     uint64_t ttl_ns, struct fs_attr *ret)
{
	*ret = (struct fs_attr){
		.ino = n->ino,
		.mode = S_IFREG | perm,
		.nlink = 1,
		.uid = op->fs->uid,
		.gid = op->fs->gid,
		.size = size,
		.mtime_s = mtime_s,
		.ttl_ns = ttl_ns,
	};
}

errint_t open_constant(struct op *op, struct node *n, uint32_t sub, int flags, struct fs_open *ret)
{
	(void)op;
	(void)n;
	(void)sub;
	(void)flags;
	ret->keep_cache = true;
	ret->cache_dir = true;
	return 0;
}

static errint_t repo_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	(void)sub;
	synth_dir_attr(op, n, false, 0, PO_FOREVER_NS, ret);
	return 0;
}

/* ---- lookup ---- */

static errint_t join(const char *repo, const char *name, struct buf *out)
{
	return buf_addf(out, "%s%s%s", repo, *repo ? "/" : "", name);
}

static errint_t entry_of(struct op *op, struct node *dir, const char *name, const struct kind *kind, void *data,
			 uint64_t ttl_ns, struct fs_entry *ret)
{
	if (!data)
		return err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
	ret->node = node_child(dir, name, strlen(name), 0, kind, data, false);
	ret->ttl_ns = ttl_ns;
	return ret->node ? 0 : err_set(&op->err, ENOMEM, ERR_LIMIT, "too many nodes");
}

static struct tag_at *tag_at_new(const struct repo_at *at, const char *tag)
{
	size_t tag_size = strlen(tag) + 1, repo_size = strlen(at->repo) + 1;
	struct tag_at *t = calloc(1, sizeof(*t) + tag_size + repo_size);

	if (!t)
		return NULL;
	t->site = at->site;
	t->tag = memcpy(t->text, tag, tag_size);
	t->repo = memcpy(t->text + tag_size, at->repo, repo_size);
	return t;
}

static errint_t tag_entry(struct op *op, struct node *dir, const char *name, const char *tag, uint64_t ttl_ns,
			  struct fs_entry *ret)
{
	return entry_of(op, dir, name, &kind_tag, tag_at_new(dir->data, tag), ttl_ns, ret);
}

static errint_t child_repo(struct op *op, struct node *dir, const char *name, struct fs_entry *ret)
{
	const struct repo_at *at = dir->data;
	_cleanup_buf_ struct buf b = BUF_INIT(REF_REPO_MAX + 1);
	errint_t r = join(at->repo, name, &b);

	if (r < 0)
		return -ENOENT;
	return entry_of(op, dir, name, &kind_repo, repo_at_new(at->site, buf_str(&b)),
			op->fs->config->tag_ttl_ns, ret);
}

static errint_t colon_tag(struct op *op, struct node *dir, const char *name, struct fs_entry *ret)
{
	const struct repo_at *at = dir->data;
	struct digest d;
	uint64_t fresh;
	errint_t r;

	if (!ref_is_tag(name + 1, strlen(name + 1)))
		return -ENOENT;
	r = need_tag(op, at->site, at->repo, name + 1, &d, &fresh);
	return r < 0 ? r : tag_entry(op, dir, name, name + 1, fresh, ret);
}

static errint_t by_digest(struct op *op, struct node *dir, const char *name, struct fs_entry *ret)
{
	const struct repo_at *at = dir->data;
	_cleanup_(image_unrefp) struct image *img = NULL;
	struct image_at *ia;
	struct digest d;
	errint_t r;

	if (digest_parse(name, strlen(name), &d) < 0)
		return -ENOENT;
	r = need_image(op, at->site, at->repo, &d, &img);
	if (r < 0)
		return r;
	ia = image_at_new(at->site, at->repo, &d, NULL);
	if (ia)
		atomic_store(&ia->img, image_ref(img));
	return image_dir_entry(op, dir, name, &kind_image, ia, img->ident,
			       po_ttl_ns(PO_FRESH_ACCESS, op->fs->config->tag_ttl_ns, ERR_UNSET), ret);
}

static errint_t dotted(struct op *op, struct node *dir, const char *name, struct fs_entry *ret)
{
	const struct repo_at *at = dir->data;
	struct subject s = { .fs = op->fs, .site = at->site, .repo = at->repo };

	if (strcmp(name, ".control") == 0)
		return control_entry(op, dir, &s, ret);
	if (strcmp(name, ".oci") == 0)
		return oci_entry(op, dir, name, at->site, at->repo, ret);
	if (strcmp(name, ".tar") == 0 && (*at->repo || rg_root_is_repo(site_registry(at->site))))
		return entry_of(op, dir, name, &kind_tar, repo_at_new(at->site, at->repo), PO_FOREVER_NS, ret);
	ret->ttl_ns = PO_FOREVER_NS;
	return -ENOENT;
}

static errint_t repo_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name, size_t len,
			    struct fs_entry *ret)
{
	const struct repo_at *at = dir->data;
	enum name_is is = NAME_IS_NOTHING;
	errint_t r;

	(void)sub;
	/* The kernel is not told for how long a name is absent: `.control/refresh` and a first push could
	 * not take it back.  Asking us again costs no request (need.c remembers). */
	if (name[0] == '.')
		return dotted(op, dir, name, ret);
	if (name[0] == ':')
		return colon_tag(op, dir, name, ret);
	if (strchr(name, ':'))
		return by_digest(op, dir, name, ret);
	/* What can be neither costs no request: editors, shells and indexers ask for a lot. */
	if (!ref_is_repo_component(name, len) && !ref_is_tag(name, len)) {
		ret->ttl_ns = PO_FOREVER_NS;
		return -ENOENT;
	}
	r = need_name(op, at->site, at->repo, name, &is);
	if (r < 0)
		return r;
	if (is == NAME_IS_REPO)
		return child_repo(op, dir, name, ret);
	if (is == NAME_IS_TAG)
		return tag_entry(op, dir, name, name, op->fs->config->tag_ttl_ns, ret);
	return -ENOENT;
}

/* ---- listing ---- */

static errint_t add_child(struct node *dir, const char *name, size_t len, struct dirlist *ret)
{
	return dirlist_add(ret, name, len, node_hash_ino(dir->ino, name, len), DT_DIR);
}

/* Next path components of all repositories below. */
static errint_t add_repos(struct node *dir, const struct name_list *repos, struct dirlist *ret)
{
	const struct repo_at *at = dir->data;
	size_t plen = strlen(at->repo), last_len = 0;
	const char *last = NULL;

	for (size_t i = 0; i < repos->names.n; i++) {
		const char *name = repos->names.names[i];
		size_t n;
		errint_t r;

		if (plen) {
			if (strncmp(name, at->repo, plen) != 0 || name[plen] != '/')
				continue;
			name += plen + 1;
		}
		n = strcspn(name, "/");
		if (n == 0 || (last && n == last_len && memcmp(name, last, n) == 0))
			continue;
		r = add_child(dir, name, n, ret);
		if (r < 0)
			return r;
		last = name;
		last_len = n;
	}
	return 0;
}

static errint_t add_tags(struct node *dir, const struct name_list *tags, struct dirlist *ret)
{
	for (size_t i = 0; i < tags->names.n; i++) {
		const char *t = tags->names.names[i];
		errint_t r;

		if (ref_tag_is_digest_tag(t, strlen(t)))
			continue;	/* referrers/ shows these */
		r = add_child(dir, t, strlen(t), ret);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Is this directory itself a repository whose tags belong into the listing? */
static bool may_have_tags(const struct repo_at *at, const struct name_list *repos)
{
	if (name_list_has(repos, at->repo, strlen(at->repo)))
		return true;
	if (!*at->repo)
		return false;
	/* A known namespace that is not in the catalogue has no tags. */
	for (size_t i = 0, n = strlen(at->repo); i < repos->names.n; i++)
		if (strncmp(repos->names.names[i], at->repo, n) == 0 && repos->names.names[i][n] == '/')
			return false;
	return true;
}

/* May names do, at first?  Looked up later, a tag costs nothing while the list is fresh, and a request
 * of its own after that: so only while half of that time is left. */
static bool is_lean(const struct op *op, const struct name_list *tags)
{
	return tags->names.n > LEAN_MIN && clock_mono_ns() - tags->fetched_ns < op->fs->config->tag_ttl_ns / 2;
}

static errint_t repo_list(struct op *op, struct node *dir, uint32_t sub, struct dirlist *ret)
{
	const struct repo_at *at = dir->data;
	_cleanup_(name_list_unrefp) struct name_list *repos = NULL;
	_cleanup_(name_list_unrefp) struct name_list *tags = NULL;
	errint_t r = need_repos(op, at->site, &repos);

	(void)sub;
	if (r < 0)
		return r;
	if (may_have_tags(at, repos)) {
		r = need_tags(op, at->site, at->repo, &tags);
		/* The root of a registry need not be a repository. */
		if (r == -ENOENT && !*at->repo) {
			err_clear(&op->err);
			r = 0;
		}
		if (r < 0)
			return r;
	}
	r = add_repos(dir, repos, ret);
	if (r == 0 && tags)
		r = add_tags(dir, tags, ret);
	if (r == 0)
		dirlist_sort_unique(ret);
	ret->lean = tags && is_lean(op, tags);
	return r;
}

static errint_t repo_getxattr(struct op *op, struct node *n, uint32_t sub, const char *name, struct buf *ret)
{
	const struct repo_at *at = n->data;

	(void)op;
	(void)sub;
	if (strcmp(name, "user.oci.reference") != 0)
		return -ENODATA;
	buf_adds(ret, rg_name(site_registry(at->site)));
	return *at->repo ? buf_addf(ret, "/%s", at->repo) : buf_check(ret);
}

static errint_t repo_listxattr(struct op *op, struct node *n, uint32_t sub, struct buf *ret)
{
	static const char names[] = "user.oci.reference";

	(void)op;
	(void)n;
	(void)sub;
	return buf_add(ret, names, sizeof(names));
}

const struct kind kind_repo = {
	.name = "repo",
	.is_dir = true,
	.knows_no_labels = true,
	.attr = repo_attr,
	.lookup = repo_lookup,
	.list = repo_list,
	.getxattr = repo_getxattr,
	.listxattr = repo_listxattr,
	.drop_data = repo_at_free,
};
