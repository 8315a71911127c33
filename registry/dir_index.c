/*
 * dir_index.c - index.json of a layout
 *
 * It is read anew each time (other programs replace it) and may be far larger than a registry's
 * manifests, so it has ceilings of its own and is not turned into structs: entries are looked at
 * where they are.  Where two entries have the same tag the first one counts, as in skopeo and as
 * the index rules of image-spec have it (umoci refuses both).
 */
#include "registry/dir_priv.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

static errint_t not_a_repository(struct rg_dir *d, const char *repo, struct err *e)
{
	return err_set(e, ENOENT, ERR_NOTFOUND, "there is no repository \"%s\" in %s", repo,
		       d->path);
}

static bool exists(struct rg_dir *d, int root, const char *repo, const char *leaf)
{
	char path[DIR_PATH_MAX];
	_cleanup_close_ int fd = -1;

	if (dir_path(repo, leaf, path, NULL) < 0)
		return false;
	fd = dir_open_beneath(d, root, path, O_PATH);
	return fd >= 0;
}

/* Explains a layout of which one file is missing. */
static errint_t missing_part(struct rg_dir *d, int root, const char *repo, const char *leaf,
			     const char *other, struct err *e)
{
	if (!exists(d, root, repo, other))
		return not_a_repository(d, repo, e);
	return err_set(e, EIO, ERR_INPUT,
		       "%s%s%s has %s but no %s, so it is not an OCI image layout%s", d->path,
		       *repo ? "/" : "", repo, other, leaf,
		       strcmp(leaf, "oci-layout") == 0
			       ? "; write {\"imageLayoutVersion\":\"1.0.0\"} there if it is one"
			       : "");
}

errint_t dir_check_layout(struct rg_dir *d, int root, const char *repo, struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(DIR_LAYOUT_MAX);
	_cleanup_(json_freep) struct json *doc = NULL;
	char path[DIR_PATH_MAX];
	const char *version;
	errint_t r;

	r = dir_path(repo, "oci-layout", path, e);
	if (r == 0)
		r = dir_read_file(d, root, path, DIR_LAYOUT_MAX, &b, e);
	if (r == -ENOENT || r == -ENOTDIR)
		return missing_part(d, root, repo, "oci-layout", "index.json", e);
	if (r == 0)
		r = json_parse(buf_str(&b), b.len, &doc, e);
	if (r < 0)
		return r == -EINVAL ? err_set(e, EIO, ERR_INPUT, "%s/%s is not JSON", d->path, path)
				    : r;
	version = json_str(doc, "imageLayoutVersion");
	if (version && strncmp(version, "1.", 2) == 0)
		return 0;
	return err_set(e, EIO, ERR_UNSUPPORTED,
		       "%s/%s names the layout version \"%.20s\", known is 1.x", d->path, path,
		       version ? version : "");
}

static errint_t find_list(struct rg_dir *d, const char *path, struct dir_index *x, struct err *e)
{
	x->manifests = json_get(x->doc, "manifests");
	if (!json_is_object(x->doc) || (x->manifests && !json_is_array(x->manifests)))
		return err_set(e, EIO, ERR_INPUT, "%s/%s is not an OCI index", d->path, path);
	x->n = json_len(x->manifests);
	if (x->n > DIR_ENTRIES_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "%s/%s has %zu entries, more than %d", d->path,
			       path, x->n, DIR_ENTRIES_MAX);
	return 0;
}

static errint_t load_index(struct rg_dir *d, int root, const char *repo, struct dir_index *x,
			   struct err *e)
{
	char path[DIR_PATH_MAX];
	errint_t r;

	r = dir_path(repo, "index.json", path, e);
	if (r == 0)
		r = dir_read_file(d, root, path, DIR_INDEX_MAX, &x->bytes, e);
	if (r == -ENOENT)
		return missing_part(d, root, repo, "index.json", "oci-layout", e);
	if (r < 0)
		return r;
	r = json_parse_max(buf_str(&x->bytes), x->bytes.len, DIR_VALUES_MAX, &x->doc, e);
	if (r == -EFBIG)
		return err_wrap(e, r, "%s/%s", d->path, path);
	if (r == -EINVAL) {
		(void)err_wrap(e, r, "%s/%s", d->path, path);
		if (e)
			e->eno = EIO;
		return -EIO;
	}
	return r < 0 ? r : find_list(d, path, x, e);
}

errint_t dir_index_load(struct rg_dir *d, int root, const char *repo, struct dir_index *ret,
			struct err *e)
{
	struct dir_index x = { .bytes = BUF_INIT(DIR_INDEX_MAX) };
	errint_t r;

	r = dir_check_layout(d, root, repo, e);
	if (r == 0)
		r = load_index(d, root, repo, &x, e);
	if (r < 0) {
		dir_index_done(&x);
		return r;
	}
	*ret = x;
	return 0;
}

void dir_index_done(struct dir_index *x)
{
	x->doc = json_free(x->doc);
	buf_done(&x->bytes);
	x->manifests = NULL;
	x->n = 0;
}

/* "1.0", "host:5000/app:1.0" and "host/app:1.0@sha256:.." all mean 1.0. */
static bool tag_of_name(const char *name, char out[static REF_TAG_MAX + 1])
{
	size_t n = strcspn(name, "@");
	const char *slash = memrchr(name, '/', n);
	const char *start = slash ? slash + 1 : name;
	const char *colon = memchr(start, ':', n - (size_t)(start - name));

	if (slash && !colon)
		return false;	/* a repository without a tag */
	if (colon)
		start = colon + 1;
	n -= (size_t)(start - name);
	if (!ref_is_tag(start, n))
		return false;
	memcpy(out, start, n);
	out[n] = '\0';
	return true;
}

bool dir_index_tag(const struct dir_index *x, size_t i, char out[static REF_TAG_MAX + 1])
{
	const char *name =
		json_str(json_get(json_at(x->manifests, i), "annotations"), DIR_REF_NAME);

	return name && tag_of_name(name, out);
}

errint_t dir_index_entry(const struct dir_index *x, size_t i, struct dir_entry *ret, struct err *e)
{
	const struct json *v = json_at(x->manifests, i);
	int64_t size = json_int(v, "size", -1);
	size_t len = 0;
	const char *s = json_strn(v, "digest", &len);
	errint_t r = s ? digest_parse(s, len, &ret->digest) : -EINVAL;

	if (r == -EOPNOTSUPP)
		return err_set(e, EOPNOTSUPP, ERR_UNSUPPORTED,
			       "digest %.100s: only sha256 and sha512 can be verified here", s);
	if (r < 0 || size < 0)
		return err_set(e, EIO, ERR_INPUT, "entry %zu of index.json has no usable %s", i,
			       r < 0 ? "digest" : "size");
	ret->size = (uint64_t)size;
	ret->media_type = json_str(v, "mediaType");
	return 0;
}

errint_t dir_index_find_tag(const struct dir_index *x, const char *tag, struct dir_entry *ret,
			    struct err *e)
{
	char have[REF_TAG_MAX + 1];

	for (size_t i = 0; i < x->n; i++)
		if (dir_index_tag(x, i, have) && strcmp(have, tag) == 0)
			return dir_index_entry(x, i, ret, e);
	return -ENOENT;
}

bool dir_index_find_digest(const struct dir_index *x, const struct digest *dg,
			   struct dir_entry *ret)
{
	for (size_t i = 0; i < x->n; i++)
		if (dir_index_entry(x, i, ret, NULL) == 0 && digest_eq(&ret->digest, dg))
			return true;
	return false;
}
