/*
 * kind_blob.c - exact blobs as files, and the directories that hold them: layers/ and files/
 *
 * layers/00 is a layer as a tree, layers/00.tar.gz its exact bytes.  files/ shows the blobs of an
 * artifact under their title annotations; a title with slashes makes directories.  A title that leads
 * out, or that an earlier blob has taken as a file or as a directory, gives way to the blob's number,
 * so that none is lost.  Listing either costs nothing beyond the manifest.
 */
#include "fs/kinds.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>

#include "fs/warm.h"
#include "policy/policy.h"
#include "util/hmap.h"

#define TITLE_KEY "org.opencontainers.image.title"
#define LAYER_NAME_MAX 32
#define TITLE_MAX 1024	/* bytes of a title that is used as a path */
#define TITLE_DEPTH_MAX 16

/* ---- a blob file ---- */

struct blob_at {
	struct image *img;
	const struct oci_descriptor *d;	/* inside img->m */
};

static void blob_at_free(void *p)
{
	struct blob_at *at = p;

	if (!at)
		return;
	image_unref(at->img);
	free(at);
}

static errint_t blob_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	const struct blob_at *at = n->data;
	int64_t created = 0;
	errint_t r = image_created(op, at->img, &created);

	(void)sub;
	if (r < 0)
		return r;
	synth_file_attr(op, n, 0444, at->d->size, created, PO_FOREVER_NS, ret);
	return 0;
}

static errint_t blob_read(struct op *op, struct node *n, uint32_t sub, struct handle *h, uint64_t off,
			  size_t size, struct buf *ret)
{
	const struct blob_at *at = n->data;

	(void)sub;
	(void)h;
	if (off >= at->d->size)
		return 0;
	return need_blob_data(op, at->img, at->d, off, MIN_OF(size, at->d->size - off), ret);
}

static errint_t blob_getxattr(struct op *op, struct node *n, uint32_t sub, const char *name, struct buf *ret)
{
	const struct blob_at *at = n->data;
	char text[DIGEST_TEXT_MAX];

	(void)sub;
	if (warm_asked(name))
		return warm_blob(op, at->img, at->d, name, ret);
	if (strcmp(name, "user.oci.digest") == 0)
		return buf_adds(ret, digest_text(&at->d->digest, text));
	if (strcmp(name, "user.oci.media_type") == 0)
		return buf_adds(ret, at->d->media_type);
	return -ENODATA;
}

static errint_t blob_listxattr(struct op *op, struct node *n, uint32_t sub, struct buf *ret)
{
	static const char names[] = "user.oci.digest\0user.oci.media_type";

	(void)op;
	(void)n;
	(void)sub;
	return buf_add(ret, names, sizeof(names));
}

const struct kind kind_blob = {
	.name = "blob",
	.attr = blob_attr,
	.open = open_constant,
	.read = blob_read,
	.getxattr = blob_getxattr,
	.listxattr = blob_listxattr,
	.drop_data = blob_at_free,
};

errint_t blob_entry(struct op *op, struct node *dir, const char *name, struct image *img,
		    const struct oci_descriptor *d, uint64_t ttl_ns, struct fs_entry *ret)
{
	struct blob_at *at = calloc(1, sizeof(*at));
	uint64_t ident = node_hash_ino(img->ident, d->digest.raw, d->digest.len);

	if (!at)
		return err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
	at->img = image_ref(img);
	at->d = d;
	ret->node = node_child(dir, name, strlen(name), ident, &kind_blob, at, false);
	ret->ttl_ns = ttl_ns;
	return ret->node ? 0 : err_set(&op->err, ENOMEM, ERR_LIMIT, "too many nodes");
}

/* ---- layers/ ---- */

static void layer_name(const struct image *img, size_t i, bool blob, char out[static LAYER_NAME_MAX])
{
	int width = img->m->n_layers > 100 ? 4 : 2;

	(void)snprintf(out, LAYER_NAME_MAX, "%0*zu%s%s", width, i, blob ? "." : "",
		       blob ? oci_layer_suffix(img->m->layers[i].media_type) : "");
}

static errint_t layers_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name, size_t len,
			      struct fs_entry *ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	char want[LAYER_NAME_MAX];
	char *end;
	size_t i;
	errint_t r = image_at_need(op, dir->data, &img);

	(void)sub;
	(void)len;
	if (r < 0)
		return r;
	ret->ttl_ns = PO_FOREVER_NS;
	if (name[0] < '0' || name[0] > '9')
		return -ENOENT;
	i = strtoull(name, &end, 10);
	if (i >= img->m->n_layers)
		return -ENOENT;
	layer_name(img, i, true, want);
	if (strcmp(name, want) == 0)
		return blob_entry(op, dir, name, img, &img->m->layers[i], PO_FOREVER_NS, ret);
	layer_name(img, i, false, want);
	if (strcmp(name, want) != 0 || !oci_is_tree_layer(img->m->layers[i].media_type))
		return -ENOENT;

	struct image_at *at = image_at_new(img->site, img->repo, &img->digest, NULL);

	if (at) {
		at->layer = i;
		atomic_store(&at->img, image_ref(img));
	}
	return image_dir_entry(op, dir, name, &kind_tree, at, img->ident + i, PO_FOREVER_NS, ret);
}

static errint_t layers_list(struct op *op, struct node *dir, uint32_t sub, struct dirlist *ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	errint_t r = image_at_need(op, dir->data, &img);
	char name[LAYER_NAME_MAX];

	(void)sub;
	for (size_t i = 0; r == 0 && i < img->m->n_layers; i++) {
		if (oci_is_tree_layer(img->m->layers[i].media_type)) {
			layer_name(img, i, false, name);
			r = dirlist_add(ret, name, strlen(name),
					node_hash_ino(dir->ino, name, strlen(name)), DT_DIR);
		}
		layer_name(img, i, true, name);
		if (r == 0)
			r = dirlist_add(ret, name, strlen(name),
					node_hash_ino(dir->ino, name, strlen(name)), DT_REG);
	}
	return r;
}

static errint_t below_image_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	int64_t created = 0;
	errint_t r = image_at_need(op, n->data, &img);

	(void)sub;
	if (r == 0)
		r = image_created(op, img, &created);
	if (r == 0)
		synth_dir_attr(op, n, false, created, PO_FOREVER_NS, ret);
	return r;
}

const struct kind kind_layers = {
	.name = "layers",
	.is_dir = true,
	.attr = below_image_attr,
	.lookup = layers_lookup,
	.list = layers_list,
	.open = open_constant,
	.drop_data = image_at_free,
};

/* ---- files/ ---- */

static bool title_is_safe(const char *t)
{
	if (!*t || *t == '/' || strlen(t) > TITLE_MAX)
		return false;
	for (unsigned depth = 0; depth < TITLE_DEPTH_MAX; depth++) {
		size_t n = strcspn(t, "/");

		if (n == 0 || n > NODE_NAME_MAX || (n == 1 && t[0] == '.') ||
		    (n == 2 && t[0] == '.' && t[1] == '.'))
			return false;
		if (!t[n])
			return true;
		t += n + 1;
	}
	return false;
}

/* The paths that the blobs before the present one have, and the directories they need. */
struct taken {
	struct hmap *paths;	/* path -> &is_file or &is_dir */
};
static char is_file, is_dir;

static void taken_done(struct taken *t)
{
	hmap_free(t->paths);
}

/* May a file be at path?  Nothing else may be there, and no file on the way. */
static bool is_free(const struct taken *t, const char *path)
{
	if (hmap_gets(t->paths, path))
		return false;
	for (const char *p = strchr(path, '/'); p; p = strchr(p + 1, '/'))
		if (hmap_get(t->paths, path, (size_t)(p - path)) == &is_file)
			return false;
	return true;
}

static errint_t take(struct taken *t, const char *path)
{
	errint_t r = hmap_puts(t->paths, path, &is_file);

	for (const char *p = strchr(path, '/'); r == 0 && p; p = strchr(p + 1, '/'))
		r = hmap_put(t->paths, path, (size_t)(p - path), &is_dir);
	return r;
}

/* The path of blob i below files/: its title when that is a sound one and free, else its number.
 * Called for all blobs in order. */
static errint_t file_path(const struct image *img, size_t i, struct taken *taken, struct buf *out)
{
	const struct oci_descriptor *d = &img->m->layers[i];
	const char *t = oci_annotation(d->annotations, d->n_annotations, TITLE_KEY);

	if (!taken->paths)
		taken->paths = hmap_new(NULL);
	if (!taken->paths)
		return -ENOMEM;
	buf_clear(out);
	if (t && title_is_safe(t) && is_free(taken, t)) {
		buf_adds(out, t);
	} else {
		buf_addf(out, "%02zu.%s", i, oci_layer_suffix(d->media_type));
		while (buf_check(out) == 0 && !is_free(taken, buf_str(out)))
			buf_addc(out, '_');
	}
	return buf_check(out) < 0 ? -ENAMETOOLONG : take(taken, buf_str(out));
}

/* The part of path below prefix, or NULL. */
static const char *below(const char *path, const char *prefix)
{
	size_t n = prefix ? strlen(prefix) : 0;

	if (n == 0)
		return path;
	return strncmp(path, prefix, n) == 0 && path[n] == '/' ? path + n + 1 : NULL;
}

static errint_t files_subdir(struct op *op, struct node *dir, struct image *img, const char *prefix,
			     const char *name, struct fs_entry *ret)
{
	struct image_at *at = image_at_new(img->site, img->repo, &img->digest, NULL);
	_cleanup_buf_ struct buf p = BUF_INIT(TREE_PATH_MAX);

	buf_addf(&p, "%s%s%s", prefix ? prefix : "", prefix ? "/" : "", name);
	if (at) {
		atomic_store(&at->img, image_ref(img));
		at->prefix = buf_take(&p, NULL);
		if (!at->prefix) {
			image_at_free(at);
			at = NULL;
		}
	}
	return image_dir_entry(op, dir, name, &kind_files, at, img->ident, PO_FOREVER_NS, ret);
}

static errint_t files_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name, size_t len,
			     struct fs_entry *ret)
{
	struct image_at *here = dir->data;
	_cleanup_(image_unrefp) struct image *img = NULL;
	_cleanup_(taken_done) struct taken taken = { NULL };
	_cleanup_buf_ struct buf p = BUF_INIT(TREE_PATH_MAX);
	errint_t r = image_at_need(op, here, &img);

	(void)sub;
	if (r < 0)
		return r;
	ret->ttl_ns = PO_FOREVER_NS;
	for (size_t i = 0; i < img->m->n_layers; i++) {
		const char *rest;

		r = file_path(img, i, &taken, &p);
		if (r < 0)
			return err_set(&op->err, -r, ERR_LIMIT, "the files of this artifact cannot be named");
		rest = below(buf_str(&p), here->prefix);
		if (!rest || strncmp(rest, name, len) != 0)
			continue;
		if (!rest[len])
			return blob_entry(op, dir, name, img, &img->m->layers[i], PO_FOREVER_NS, ret);
		if (rest[len] == '/')
			return files_subdir(op, dir, img, here->prefix, name, ret);
	}
	return -ENOENT;
}

static errint_t files_list(struct op *op, struct node *dir, uint32_t sub, struct dirlist *ret)
{
	struct image_at *here = dir->data;
	_cleanup_(image_unrefp) struct image *img = NULL;
	_cleanup_(taken_done) struct taken taken = { NULL };
	_cleanup_buf_ struct buf p = BUF_INIT(TREE_PATH_MAX);
	errint_t r = image_at_need(op, here, &img);

	(void)sub;
	for (size_t i = 0; r == 0 && i < img->m->n_layers; i++) {
		const char *rest;
		size_t n;

		r = file_path(img, i, &taken, &p);
		if (r < 0)
			return err_set(&op->err, -r, ERR_LIMIT, "the files of this artifact cannot be named");
		rest = below(buf_str(&p), here->prefix);
		if (!rest)
			continue;
		n = strcspn(rest, "/");
		r = dirlist_add(ret, rest, n, node_hash_ino(dir->ino, rest, n), rest[n] ? DT_DIR : DT_REG);
	}
	if (r == 0)
		dirlist_sort_unique(ret);
	return r;
}

const struct kind kind_files = {
	.name = "files",
	.is_dir = true,
	.attr = below_image_attr,
	.lookup = files_lookup,
	.list = files_list,
	.open = open_constant,
	.drop_data = image_at_free,
};
