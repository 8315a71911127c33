/*
 * kind_referrers.c - directories of other images: platforms/ of an index, referrers/ of anything
 *
 * platforms/linux-arm64 is the first entry of that platform; a second one of the same name gets
 * ".2", ".3".  referrers/TYPE/sha256:HEX groups what refers to the image by artifact type, '/' in a
 * type written as '_'.  Both are made from lists alone; a child's manifest is fetched when somebody
 * looks into it.  A digest that is already on the path to here is not entered again (ELOOP).
 */
#include "fs/kinds.h"
#include "fs/platforms.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>

#include "policy/policy.h"

#define NAME_LEN 256
#define NESTED_MAX 16	/* images inside images inside ... on one path */

static errint_t image_dir_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	(void)sub;
	synth_dir_attr(op, n, false, 0, PO_FOREVER_NS, ret);
	return 0;
}

/* Does an image with this digest stand on the way from the root to dir? */
static errint_t check_path(struct op *op, const struct node *dir, const struct digest *d)
{
	unsigned depth = 0;

	for (const struct node *n = dir; n; n = n->parent) {
		if (n->kind != &kind_image && n->kind != &kind_platforms && n->kind != &kind_referrers)
			continue;
		if (digest_eq(&((const struct image_at *)n->data)->digest, d) && n->kind != &kind_image)
			return err_set(&op->err, ELOOP, ERR_INPUT, "this image contains or refers to itself");
		if (++depth > NESTED_MAX)
			return err_set(&op->err, ELOOP, ERR_LIMIT, "images are nested more than %d deep", NESTED_MAX);
	}
	return 0;
}

static errint_t child_image(struct op *op, struct node *dir, const char *name, struct image *from,
			    const struct digest *d, uint64_t ttl_ns, struct fs_entry *ret)
{
	errint_t r = check_path(op, dir, d);

	if (r < 0)
		return r;
	return image_dir_entry(op, dir, name, &kind_image, image_at_new(from->site, from->repo, d, from),
			       node_hash_ino(11, d->raw, d->len), ttl_ns, ret);
}

/* ---- platforms/ ---- */

static errint_t the_platforms(struct op *op, struct image *img, const struct platforms **ret)
{
	*ret = platforms_of(img);
	return *ret ? 0 : err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
}

static errint_t platforms_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name, size_t len,
				 struct fs_entry *ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	const struct platforms *p = NULL;
	size_t i;
	errint_t r = image_at_need(op, dir->data, &img);

	(void)sub;
	(void)len;
	if (r == 0)
		r = the_platforms(op, img, &p);
	if (r < 0)
		return r;
	ret->ttl_ns = PO_FOREVER_NS;
	i = platforms_find(p, name);
	if (i == SIZE_MAX)
		return -ENOENT;
	return child_image(op, dir, name, img, &img->m->children[i].digest, PO_FOREVER_NS, ret);
}

static errint_t platforms_list(struct op *op, struct node *dir, uint32_t sub, struct dirlist *ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	const struct platforms *p = NULL;
	errint_t r = image_at_need(op, dir->data, &img);

	(void)sub;
	if (r == 0)
		r = the_platforms(op, img, &p);
	for (size_t i = 0; r == 0 && i < img->m->n_children; i++) {
		const char *name = platforms_name(p, i);

		if (name)
			r = dirlist_add(ret, name, strlen(name), node_hash_ino(dir->ino, name, strlen(name)), DT_DIR);
	}
	return r;
}

const struct kind kind_platforms = {
	.name = "platforms",
	.is_dir = true,
	.attr = image_dir_attr,
	.lookup = platforms_lookup,
	.list = platforms_list,
	.open = open_constant,
	.drop_data = image_at_free,
};

/* ---- referrers/ and referrers/TYPE/ ---- */

/* The directory name for what a descriptor is: its artifact type, or media type. */
static void type_dir(const struct oci_descriptor *d, char out[static NAME_LEN])
{
	const char *t = d->artifact_type && *d->artifact_type ? d->artifact_type : d->media_type;
	size_t n = 0;

	for (; t && *t && n < NODE_NAME_MAX; t++)
		out[n++] = *t == '/' || (unsigned char)*t < 0x20 || *t == 0x7f ? '_' : *t;
	out[n] = '\0';
	if (n == 0 || out[0] == '.')
		(void)snprintf(out, NAME_LEN, "unknown");
}

static errint_t the_referrers(struct op *op, struct node *dir, struct image **ret_img, struct referrers **ret)
{
	struct image_at *at = dir->data;
	errint_t r = image_at_need(op, at, ret_img);

	return r < 0 ? r : need_referrers(op, *ret_img, at->enclosing, ret);
}

static uint64_t referrers_ttl(struct op *op)
{
	return po_ttl_ns(PO_FRESH_REFERRERS, op->fs->config->tag_ttl_ns, ERR_UNSET);
}

static errint_t type_entry(struct op *op, struct node *dir, const char *name, struct image *img, struct fs_entry *ret)
{
	const struct image_at *here = dir->data;
	struct image_at *at = image_at_new(img->site, img->repo, &img->digest, here->enclosing);

	if (at) {
		atomic_store(&at->img, image_ref(img));
		at->prefix = strdup(name);
		if (!at->prefix) {
			image_at_free(at);
			at = NULL;
		}
	}
	return image_dir_entry(op, dir, name, &kind_referrer_type, at, img->ident, referrers_ttl(op), ret);
}

static errint_t referrers_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name, size_t len,
				 struct fs_entry *ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	_cleanup_(referrers_unrefp) struct referrers *refs = NULL;
	char have[NAME_LEN];
	errint_t r = the_referrers(op, dir, &img, &refs);

	(void)sub;
	(void)len;
	if (r < 0)
		return r;
	ret->ttl_ns = referrers_ttl(op);
	for (size_t i = 0; i < refs->m->n_children; i++) {
		type_dir(&refs->m->children[i], have);
		if (strcmp(have, name) == 0)
			return type_entry(op, dir, name, img, ret);
	}
	return -ENOENT;
}

static errint_t referrers_list(struct op *op, struct node *dir, uint32_t sub, struct dirlist *ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	_cleanup_(referrers_unrefp) struct referrers *refs = NULL;
	char name[NAME_LEN];
	errint_t r = the_referrers(op, dir, &img, &refs);

	(void)sub;
	for (size_t i = 0; r == 0 && i < refs->m->n_children; i++) {
		type_dir(&refs->m->children[i], name);
		r = dirlist_add(ret, name, strlen(name), node_hash_ino(dir->ino, name, strlen(name)), DT_DIR);
	}
	if (r == 0)
		dirlist_sort_unique(ret);
	return r;
}

const struct kind kind_referrers = {
	.name = "referrers",
	.is_dir = true,
	.attr = image_dir_attr,
	.lookup = referrers_lookup,
	.list = referrers_list,
	.drop_data = image_at_free,
};

static errint_t type_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name, size_t len,
			    struct fs_entry *ret)
{
	const struct image_at *at = dir->data;
	_cleanup_(image_unrefp) struct image *img = NULL;
	_cleanup_(referrers_unrefp) struct referrers *refs = NULL;
	char have[NAME_LEN];
	struct digest want;
	errint_t r;

	(void)sub;
	if (digest_parse(name, len, &want) < 0)
		return -ENOENT;
	r = the_referrers(op, dir, &img, &refs);
	if (r < 0)
		return r;
	ret->ttl_ns = referrers_ttl(op);
	for (size_t i = 0; i < refs->m->n_children; i++) {
		type_dir(&refs->m->children[i], have);
		if (digest_eq(&refs->m->children[i].digest, &want) && strcmp(have, at->prefix) == 0)
			return child_image(op, dir, name, img, &want, ret->ttl_ns, ret);
	}
	return -ENOENT;
}

static errint_t type_list(struct op *op, struct node *dir, uint32_t sub, struct dirlist *ret)
{
	const struct image_at *at = dir->data;
	_cleanup_(image_unrefp) struct image *img = NULL;
	_cleanup_(referrers_unrefp) struct referrers *refs = NULL;
	char have[NAME_LEN], text[DIGEST_TEXT_MAX];
	errint_t r = the_referrers(op, dir, &img, &refs);

	(void)sub;
	for (size_t i = 0; r == 0 && i < refs->m->n_children; i++) {
		type_dir(&refs->m->children[i], have);
		if (strcmp(have, at->prefix) != 0)
			continue;
		digest_text(&refs->m->children[i].digest, text);
		r = dirlist_add(ret, text, strlen(text), node_hash_ino(dir->ino, text, strlen(text)), DT_DIR);
	}
	if (r == 0)
		dirlist_sort_unique(ret);
	return r;
}

const struct kind kind_referrer_type = {
	.name = "referrer type",
	.is_dir = true,
	.attr = image_dir_attr,
	.lookup = type_lookup,
	.list = type_list,
	.drop_data = image_at_free,
};
