/*
 * kind_image.c - an image as a directory: by tag, by digest, as one platform of an index
 *
 * What an image directory holds is one table of rows (texts) and one of directories.  A tag
 * directory shows the same children as the digest it means right now; names in it are good for as
 * long as the tag's answer is, and children carry the digest in their identity, so that a moved tag
 * gets new ones.
 *
 * An index stands for the image that fits this host (or -o platform=): manifest.json and digest are
 * the index's own, everything else is that image's; all of them are under platforms/.
 */
#include "fs/kinds.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>

#include "fs/early.h"
#include "fs/warm.h"
#include "policy/policy.h"
#include "util/clock.h"

#define CREATED_KEY "org.opencontainers.image.created"

/* ---- places ---- */

struct image_at *image_at_new(struct site *site, const char *repo, const struct digest *d,
			      struct image *enclosing)
{
	struct image_at *at = calloc(1, sizeof(*at));

	if (!at)
		return NULL;
	at->repo = strdup(repo);
	if (!at->repo) {
		free(at);
		return NULL;
	}
	at->site = site;
	at->digest = *d;
	at->enclosing = enclosing ? image_ref(enclosing) : NULL;
	return at;
}

void image_at_free(void *p)
{
	struct image_at *at = p;

	if (!at)
		return;
	image_unref(at->enclosing);
	image_unref(atomic_load(&at->img));
	tree_unref(atomic_load(&at->tree));
	early_free(at->early);
	free((void *)atomic_load(&at->opened));
	free((void *)atomic_load(&at->early_opens));
	ca_erofs_unref(at->erofs);
	free(at->repo);
	free(at->prefix);
	free(at);
}

errint_t image_at_need(struct op *op, struct image_at *at, struct image **ret)
{
	struct image *i = atomic_load(&at->img), *none = NULL;

	if (!i) {
		errint_t r = need_image(op, at->site, at->repo, &at->digest, &i);

		if (r < 0)
			return r;
		if (!atomic_compare_exchange_strong(&at->img, &none, i)) {
			image_unref(i);
			i = none;
		}
	}
	*ret = image_ref(i);
	return 0;
}

errint_t image_dir_entry(struct op *op, struct node *dir, const char *name, const struct kind *kind,
			 struct image_at *at, uint64_t ident, uint64_t ttl_ns, struct fs_entry *ret)
{
	if (!at)
		return err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
	ret->node = node_child(dir, name, strlen(name), ident, kind, at, kind == &kind_tree);
	ret->sub = 0;
	ret->ttl_ns = ttl_ns;
	return ret->node ? 0 : err_set(&op->err, ENOMEM, ERR_LIMIT, "too many nodes");
}

/* ---- times ---- */

errint_t image_created(struct op *op, struct image *img, int64_t *ret_s)
{
	_cleanup_(image_unrefp) struct image *main = NULL;
	_cleanup_(oci_config_freep) struct oci_config *c = NULL;
	const char *a = oci_annotation(img->m->annotations, img->m->n_annotations, CREATED_KEY);
	uint32_t ns;
	errint_t r;

	*ret_s = 0;
	if (a && clock_parse_rfc3339(a, ret_s, &ns))
		return 0;
	r = need_platform(op, img, &main);
	if (r == 0 && oci_is_container_image(main->m))
		r = need_config(op, main, &c);
	if (r == 0 && c)
		*ret_s = c->created_s;
	if (r < 0 && r != -EINPROGRESS) {
		/* No config, no time: not a reason to fail a stat. */
		err_clear(&op->err);
		r = 0;
	}
	return r;
}

/* What is known without asking anybody. */
static int64_t created_if_known(struct op *op, struct image *img)
{
	bool waits = op->no_wait;
	int64_t s = 0;

	op->no_wait = true;
	(void)image_created(op, img, &s);
	op->no_wait = waits;
	return s;
}

/* ---- texts ---- */

static errint_t show_manifest(struct op *op, const struct subject *s, struct buf *out)
{
	(void)op;
	return buf_add(out, s->img->bytes.data, s->img->bytes.len);
}

static errint_t show_digest(struct op *op, const struct subject *s, struct buf *out)
{
	char text[DIGEST_TEXT_MAX];

	(void)op;
	return buf_addf(out, "%s\n", digest_text(&s->img->digest, text));
}

static errint_t main_of(struct op *op, const struct subject *s, struct image **ret)
{
	errint_t r = need_platform(op, s->img, ret);

	if (r == 0 && !(*ret)->m->config.digest.len) {
		image_unref(steal_ptr(ret));
		r = -ENOENT;
	}
	return r;
}

static errint_t has_config(struct op *op, const struct subject *s)
{
	_cleanup_(image_unrefp) struct image *main = NULL;

	return main_of(op, s, &main);
}

static errint_t size_config(struct op *op, const struct subject *s, uint64_t *ret)
{
	_cleanup_(image_unrefp) struct image *main = NULL;
	errint_t r = main_of(op, s, &main);

	if (r == 0)
		*ret = main->m->config.size;
	return r;
}

static errint_t show_config(struct op *op, const struct subject *s, struct buf *out)
{
	_cleanup_(image_unrefp) struct image *main = NULL;
	errint_t r = main_of(op, s, &main);

	return r < 0 ? r : need_bytes(op, main, &main->m->config, OCI_CONFIG_MAX, out);
}

static errint_t has_history(struct op *op, const struct subject *s)
{
	_cleanup_(image_unrefp) struct image *main = NULL;
	errint_t r = main_of(op, s, &main);

	return r < 0 ? r : oci_is_container_image(main->m) ? 0 : -ENOENT;
}

static void add_size(struct buf *out, uint64_t n)
{
	static const char *const unit[] = { "B", "kB", "MB", "GB", "TB" };
	double v = (double)n;
	size_t u = 0;

	while (v >= 1000 && u + 1 < ARRAY_SIZE(unit)) {
		v /= 1000;
		u++;
	}
	if (u)
		buf_addf(out, "%7.1f %-2s", v, unit[u]);
	else
		buf_addf(out, "%7llu B ", (unsigned long long)n);
}

static errint_t show_history(struct op *op, const struct subject *s, struct buf *out)
{
	_cleanup_(image_unrefp) struct image *main = NULL;
	_cleanup_(oci_config_freep) struct oci_config *c = NULL;
	errint_t r = main_of(op, s, &main);

	if (r == 0)
		r = need_config(op, main, &c);
	if (r < 0)
		return r;
	buf_adds(out, "LAYER  SIZE        CREATED               CREATED BY\n");
	for (size_t i = 0; i < c->n_history; i++) {
		const struct oci_history *h = &c->history[i];
		bool layer = h->layer >= 0 && (size_t)h->layer < main->m->n_layers;

		if (layer) {
			buf_addf(out, "%02d     ", h->layer);
			add_size(out, main->m->layers[h->layer].size);
		} else {
			buf_adds(out, "-               -");
		}
		buf_addf(out, "  %-20s  ", h->created ? "" : "-");
		if (h->created) {
			out->len -= 22;
			buf_add_text(out, h->created, MIN_OF(strlen(h->created), 19));
			buf_adds(out, strlen(h->created) >= 19 ? "Z  " : "  ");
		}
		if (h->created_by)
			buf_add_text(out, h->created_by, strlen(h->created_by));
		if (h->comment && *h->comment) {
			buf_adds(out, "  # ");
			buf_add_text(out, h->comment, strlen(h->comment));
		}
		buf_addc(out, '\n');
	}
	return buf_check(out);
}

static const struct row image_rows[] = {
	{ .name = "manifest.json", .show = show_manifest },
	{ .name = "config.json", .show = show_config, .size = size_config, .present = has_config },
	{ .name = "digest", .show = show_digest },
	{ .name = "history.txt", .show = show_history, .present = has_history },
};

/* ---- directories ---- */

static errint_t dir_always(struct op *op, struct image *img)
{
	(void)op;
	(void)img;
	return 0;
}

static errint_t dir_if_rootfs(struct op *op, struct image *img)
{
	_cleanup_(image_unrefp) struct image *main = NULL;
	errint_t r = need_platform(op, img, &main);

	return r < 0 ? r : oci_is_container_image(main->m) ? 0 : -ENOENT;
}

static errint_t dir_if_layers(struct op *op, struct image *img)
{
	_cleanup_(image_unrefp) struct image *main = NULL;
	errint_t r = need_platform(op, img, &main);

	return r < 0 ? r : main->m->n_layers ? 0 : -ENOENT;
}

static errint_t dir_if_artifact(struct op *op, struct image *img)
{
	_cleanup_(image_unrefp) struct image *main = NULL;
	errint_t r = need_platform(op, img, &main);

	return r < 0 ? r : main->m->n_layers && !oci_is_container_image(main->m) ? 0 : -ENOENT;
}

static errint_t dir_if_index(struct op *op, struct image *img)
{
	(void)op;
	return img->m->kind == OCI_INDEX ? 0 : -ENOENT;
}

static const struct dir_row {
	const char *name;
	const struct kind *kind;
	bool of_index;		/* about the index itself, not the image that stands for it */
	bool merged;
	errint_t (*present)(struct op *op, struct image *img);
} image_dirs[] = {
	{ "rootfs", &kind_tree, false, true, dir_if_rootfs },
	{ "layers", &kind_layers, false, false, dir_if_layers },
	{ "files", &kind_files, false, false, dir_if_artifact },
	{ "platforms", &kind_platforms, true, false, dir_if_index },
	{ "referrers", &kind_referrers, true, false, dir_always },
};

static errint_t dir_row_entry(struct op *op, struct node *dir, const struct dir_row *row, struct image *img,
			      struct image *enclosing, uint64_t ttl_ns, struct fs_entry *ret)
{
	_cleanup_(image_unrefp) struct image *main = NULL;
	struct image_at *at;
	struct image *what = img;
	errint_t r = row->present(op, img);

	if (r == 0 && !row->of_index) {
		r = need_platform(op, img, &main);
		what = main;
	}
	if (r < 0)
		return r;
	at = image_at_new(what->site, what->repo, &what->digest, enclosing);
	if (at) {
		at->merged = row->merged;
		at->early = row->merged ? early_new(what->m->n_layers, op->fs->config->raw_links) : NULL;
		atomic_store(&at->img, image_ref(what));
	}
	return image_dir_entry(op, dir, row->name, row->kind, at, what->ident ^ img->ident << 1, ttl_ns, ret);
}

errint_t image_child(struct op *op, struct node *dir, struct image *img, struct image *enclosing,
		     const char *name, uint64_t ttl_ns, struct fs_entry *ret)
{
	struct subject s = { .fs = op->fs, .site = img->site, .repo = img->repo, .img = img,
			     .enclosing = enclosing };

	ret->ttl_ns = ttl_ns;
	if (strcmp(name, ".control") == 0)
		return control_entry(op, dir, &s, ret);
	if (strcmp(name, MOUNT_EROFS_FILE) == 0)
		return erofs_entry(op, dir, img, ttl_ns, ret);
	s.repo = NULL;
	for (size_t i = 0; i < ARRAY_SIZE(image_rows); i++)
		if (strcmp(name, image_rows[i].name) == 0)
			return text_entry(op, dir, &image_rows[i], &s, ttl_ns, ret);
	for (size_t i = 0; i < ARRAY_SIZE(image_dirs); i++)
		if (strcmp(name, image_dirs[i].name) == 0)
			return dir_row_entry(op, dir, &image_dirs[i], img, enclosing, ttl_ns, ret);
	return -ENOENT;
}

static uint64_t child_ino(const struct node *dir, const char *name)
{
	return node_hash_ino(dir->ino, name, strlen(name));
}

errint_t image_children(struct op *op, struct node *dir, struct image *img, struct dirlist *ret)
{
	struct subject s = { .fs = op->fs, .site = img->site, .img = img };
	errint_t r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(image_rows); i++) {
		const struct row *row = &image_rows[i];

		r = row->present ? row->present(op, &s) : 0;
		if (r == 0)
			r = dirlist_add(ret, row->name, strlen(row->name), child_ino(dir, row->name), DT_REG);
		if (r < 0 && r != -ENOENT)
			return r;
	}
	for (size_t i = 0; i < ARRAY_SIZE(image_dirs); i++) {
		const struct dir_row *row = &image_dirs[i];

		r = row->present(op, img);
		if (r == 0)
			r = dirlist_add(ret, row->name, strlen(row->name), child_ino(dir, row->name), DT_DIR);
		if (r < 0 && r != -ENOENT)
			return r;
	}
	return 0;
}

/* ---- extended attributes ---- */

errint_t image_getxattr(struct op *op, struct image *img, const char *reference, const char *name,
			struct buf *ret)
{
	char text[DIGEST_TEXT_MAX];
	const char *type = oci_artifact_type(img->m);

	if (warm_asked(name))
		return warm_image(op, img, name, ret);
	if (strcmp(name, "user.oci.digest") == 0)
		return buf_adds(ret, digest_text(&img->digest, text));
	if (strcmp(name, "user.oci.media_type") == 0)
		return buf_adds(ret, img->media_type);
	if (strcmp(name, "user.oci.artifact_type") == 0 && type)
		return buf_adds(ret, type);
	if (strcmp(name, "user.oci.reference") == 0) {
		const char *site = rg_name(site_registry(img->site));

		buf_adds(ret, site);
		if (*img->repo)
			buf_addf(ret, "/%s", img->repo);
		return reference ? buf_addf(ret, ":%s", reference) :
				   buf_addf(ret, "@%s", digest_text(&img->digest, text));
	}
	return -ENODATA;
}

errint_t image_listxattr(const struct image *img, struct buf *ret)
{
	static const char names[] = "user.oci.digest\0user.oci.media_type\0user.oci.reference";
	static const char type[] = "user.oci.artifact_type";
	errint_t r = buf_add(ret, names, sizeof(names));

	return r == 0 && img && oci_artifact_type(img->m) ? buf_add(ret, type, sizeof(type)) : r;
}

/* ---- REPO/sha256:HEX and platforms/NAME ---- */

static errint_t image_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	struct image_at *at = n->data;
	struct image *img = atomic_load(&at->img);
	int64_t created = img ? created_if_known(op, img) : 0;

	(void)sub;

	synth_dir_attr(op, n, false, created, created ? PO_FOREVER_NS : op->fs->config->tag_ttl_ns, ret);
	return 0;
}

static errint_t image_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name, size_t len,
			     struct fs_entry *ret)
{
	struct image_at *at = dir->data;
	_cleanup_(image_unrefp) struct image *img = NULL;
	errint_t r = image_at_need(op, at, &img);

	(void)sub;
	(void)len;
	return r < 0 ? r : image_child(op, dir, img, at->enclosing, name, PO_FOREVER_NS, ret);
}

static errint_t image_list(struct op *op, struct node *dir, uint32_t sub, struct dirlist *ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	errint_t r = image_at_need(op, dir->data, &img);

	(void)sub;
	return r < 0 ? r : image_children(op, dir, img, ret);
}

static errint_t image_get(struct op *op, struct node *n, uint32_t sub, const char *name, struct buf *ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	errint_t r;

	(void)sub;
	if (strncmp(name, "user.oci.", 9) != 0 && !warm_asked(name))
		return -ENODATA;
	r = image_at_need(op, n->data, &img);
	return r < 0 ? r : image_getxattr(op, img, NULL, name, ret);
}

static errint_t image_listx(struct op *op, struct node *n, uint32_t sub, struct buf *ret)
{
	struct image_at *at = n->data;

	(void)op;
	(void)sub;
	return image_listxattr(atomic_load(&at->img), ret);
}

const struct kind kind_image = {
	.name = "image",
	.is_dir = true,
	.attr = image_attr,
	.lookup = image_lookup,
	.list = image_list,
	.open = open_constant,
	.getxattr = image_get,
	.listxattr = image_listx,
	.drop_data = image_at_free,
};

/* ---- REPO/TAG ---- */

static errint_t tag_image(struct op *op, struct tag_at *at, struct image **ret, uint64_t *ret_fresh_ns)
{
	struct digest d;
	errint_t r = need_tag(op, at->site, at->repo, at->tag, &d, ret_fresh_ns);

	return r < 0 ? r : need_image(op, at->site, at->repo, &d, ret);
}

static errint_t tag_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	uint64_t fresh = 0;
	bool waits = op->no_wait;
	errint_t r;

	(void)sub;
	op->no_wait = true;
	r = tag_image(op, n->data, &img, &fresh);
	op->no_wait = waits;
	if (r < 0)
		err_clear(&op->err);
	/* Never a request for the attributes of a tag: `ls -l` of 10 000 of them must be one list. */
	synth_dir_attr(op, n, false, img ? created_if_known(op, img) : 0, op->fs->config->tag_ttl_ns, ret);
	return 0;
}

static errint_t tag_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name, size_t len,
			   struct fs_entry *ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	uint64_t fresh = 0;
	errint_t r = tag_image(op, dir->data, &img, &fresh);

	(void)sub;
	(void)len;
	return r < 0 ? r : image_child(op, dir, img, NULL, name, fresh, ret);
}

static errint_t tag_list(struct op *op, struct node *dir, uint32_t sub, struct dirlist *ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	uint64_t fresh;
	errint_t r = tag_image(op, dir->data, &img, &fresh);

	(void)sub;
	return r < 0 ? r : image_children(op, dir, img, ret);
}

static errint_t tag_get(struct op *op, struct node *n, uint32_t sub, const char *name, struct buf *ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	struct tag_at *at = n->data;
	uint64_t fresh;
	errint_t r;

	(void)sub;
	if (strncmp(name, "user.oci.", 9) != 0 && !warm_asked(name))
		return -ENODATA;
	r = tag_image(op, at, &img, &fresh);
	return r < 0 ? r : image_getxattr(op, img, at->tag, name, ret);
}

/* `ls -l` asks for names: what is not known now is not worth a request. */
static errint_t tag_listx(struct op *op, struct node *n, uint32_t sub, struct buf *ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	bool waits = op->no_wait;
	uint64_t fresh;

	(void)sub;
	op->no_wait = true;
	if (tag_image(op, n->data, &img, &fresh) < 0)
		err_clear(&op->err);
	op->no_wait = waits;
	return image_listxattr(img, ret);
}

const struct kind kind_tag = {
	.name = "tag",
	.is_dir = true,
	.knows_no_labels = true,
	.attr = tag_attr,
	.lookup = tag_lookup,
	.list = tag_list,
	.getxattr = tag_get,
	.listxattr = tag_listx,
	.drop_data = free,
};
