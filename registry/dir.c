/*
 * dir.c - the operations of a layout tree
 *
 * Each call opens the root, does its work and closes it; there is nothing to invalidate.  Threads
 * share only the path.  What index.json promises and blobs/ does not keep (missing, other size,
 * other bytes) is an integrity error, never "does not exist".
 */
#include "registry/dir_priv.h"
#include "registry/oci_write.h"

#include <inttypes.h>
#include <string.h>

#include "registry/names.h"

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory while reading a layout");
}

errint_t rg_dir_open(const char *path, struct rg_dir **ret, struct err *e)
{
	struct rg_dir *d = calloc(1, sizeof(*d));

	if (d)
		d->path = strdup(path);
	if (!d || !d->path) {
		free(d);
		return no_memory(e);
	}
	*ret = d;
	return 0;
}

struct rg_dir *rg_dir_close(struct rg_dir *d)
{
	if (d) {
		free(d->path);
		free(d);
	}
	return NULL;
}

errint_t rg_dir_ping(struct rg_dir *d, struct err *e)
{
	_cleanup_close_ int root = -1;

	return dir_open_root(d, &root, e);
}

errint_t rg_dir_list_repos(struct rg_dir *d, struct rg_names *ret, struct cancel *c, struct err *e)
{
	_cleanup_(names_abort) struct names_builder b = { 0 };
	_cleanup_close_ int root = -1;
	errint_t r;

	r = dir_open_root(d, &root, e);
	if (r == 0)
		r = dir_walk(d, root, &b, c, e);
	return r < 0 ? r : names_finish(&b, ret, e);
}

static errint_t load(struct rg_dir *d, const char *repo, int *root, struct dir_index *x,
		     struct err *e)
{
	errint_t r = dir_open_root(d, root, e);

	return r < 0 ? r : dir_index_load(d, *root, repo, x, e);
}

errint_t rg_dir_list_tags(struct rg_dir *d, const char *repo, struct rg_names *ret, struct err *e)
{
	_cleanup_(names_abort) struct names_builder b = { 0 };
	_cleanup_(dir_index_done) struct dir_index x = { 0 };
	_cleanup_close_ int root = -1;
	char tag[REF_TAG_MAX + 1];
	errint_t r = load(d, repo, &root, &x, e);

	for (size_t i = 0; r == 0 && i < x.n; i++)
		if (dir_index_tag(&x, i, tag))
			r = names_add(&b, tag, strlen(tag), e);
	return r < 0 ? r : names_finish(&b, ret, e);
}

static errint_t no_manifest(struct rg_dir *d, const char *repo, const char *reference,
			    struct err *e)
{
	return err_set(e, ENOENT, ERR_NOTFOUND, "there is no %s%s in %s%s%s",
		       strchr(reference, ':') ? "manifest " : "tag ", reference, d->path,
		       *repo ? "/" : "", repo);
}

/* A blob that must be there.  size NULL: any. */
static errint_t read_blob(struct rg_dir *d, int root, const char *repo, const struct digest *dg,
			  const uint64_t *size, struct buf *ret, struct err *e)
{
	char path[DIR_PATH_MAX], text[DIGEST_TEXT_MAX];
	struct digest have;
	errint_t r;

	r = dir_blob_path(repo, dg, path, e);
	if (r == 0)
		r = dir_read_file(d, root, path, OCI_MANIFEST_MAX, ret, e);
	if (r < 0)
		return r;
	if (size && *size != ret->len)
		return err_set(e, EIO, ERR_INTEGRITY,
			       "%s/%s has %zu bytes, but index.json says %" PRIu64, d->path, path,
			       ret->len, *size);
	digest_of((enum digest_alg)dg->alg, buf_str(ret), ret->len, &have);
	if (digest_eq(&have, dg))
		return 0;
	return err_set(e, EIO, ERR_INTEGRITY, "%s/%s is damaged: its digest is %s", d->path, path,
		       digest_text(&have, text));
}

/* An image by tag: what index.json names must be there. */
static errint_t read_tagged(struct rg_dir *d, int root, const char *repo, const char *tag,
			    const struct dir_entry *entry, struct buf *ret, struct err *e)
{
	char text[DIGEST_TEXT_MAX];
	errint_t r = read_blob(d, root, repo, &entry->digest, &entry->size, ret, e);

	if (r != -ENOENT)
		return r;
	return err_set(e, EIO, ERR_INTEGRITY,
		       "%s%s%s: index.json names %s for %s, but it is not in blobs", d->path,
		       *repo ? "/" : "", repo, digest_text(&entry->digest, text), tag);
}

/* By digest: any blob that reads as a manifest, listed or not. */
static errint_t read_by_digest(struct rg_dir *d, int root, const char *repo, const char *reference,
			       const struct digest *dg, struct rg_manifest *m, struct err *e)
{
	_cleanup_(oci_manifest_freep) struct oci_manifest *parsed = NULL;
	errint_t r = read_blob(d, root, repo, dg, NULL, &m->bytes, e);

	if (r == -ENOENT || r == -EFBIG)
		return no_manifest(d, repo, reference, e);
	if (r < 0)
		return r;
	r = oci_manifest_parse(m->bytes.data, m->bytes.len, m->media_type, &parsed, NULL);
	if (r == -ENOMEM)
		return no_memory(e);
	if (r < 0 && !m->media_type)
		return no_manifest(d, repo, reference, e);
	if (m->media_type)
		return 0;
	m->media_type = strdup(parsed->media_type);
	return m->media_type ? 0 : no_memory(e);
}

/* Takes over the type that index.json gives; "" is none. */
static errint_t set_type(struct rg_manifest *m, const struct dir_entry *entry, struct err *e)
{
	if (!entry->media_type || !*entry->media_type)
		return 0;
	m->media_type = strdup(entry->media_type);
	return m->media_type ? 0 : no_memory(e);
}

static errint_t get_tagged(struct rg_dir *d, int root, const char *repo, const char *tag,
			   const struct dir_index *x, struct rg_manifest *m, struct err *e)
{
	struct dir_entry entry = { 0 };
	errint_t r = dir_index_find_tag(x, tag, &entry, e);

	if (r == -ENOENT)
		return no_manifest(d, repo, tag, e);
	if (r == 0)
		r = read_tagged(d, root, repo, tag, &entry, &m->bytes, e);
	if (r < 0)
		return r;
	m->digest = entry.digest;
	r = set_type(m, &entry, e);
	if (r == 0 && !m->media_type)
		m->media_type = strdup("");
	return r == 0 && !m->media_type ? no_memory(e) : r;
}

static errint_t get_digest(struct rg_dir *d, int root, const char *repo, const char *reference,
			   const struct digest *dg, const struct dir_index *x,
			   struct rg_manifest *m, struct err *e)
{
	struct dir_entry entry = { 0 };
	errint_t r = 0;

	m->digest = *dg;
	if (dir_index_find_digest(x, dg, &entry))
		r = set_type(m, &entry, e);
	return r < 0 ? r : read_by_digest(d, root, repo, reference, dg, m, e);
}

errint_t rg_dir_get_manifest(struct rg_dir *d, const char *repo, const char *reference,
			     struct rg_manifest *ret, struct err *e)
{
	_cleanup_(rg_manifest_done) struct rg_manifest m = { .bytes = BUF_INIT(OCI_MANIFEST_MAX) };
	_cleanup_(dir_index_done) struct dir_index x = { 0 };
	_cleanup_close_ int root = -1;
	struct digest dg;
	errint_t r = load(d, repo, &root, &x, e);

	if (r < 0)
		return r;
	if (digest_parse(reference, strlen(reference), &dg) == 0)
		r = get_digest(d, root, repo, reference, &dg, &x, &m, e);
	else
		r = get_tagged(d, root, repo, reference, &x, &m, e);
	if (r < 0)
		return r;
	*ret = m;
	m = (struct rg_manifest){ 0 };
	return 0;
}

static errint_t resolve_digest(struct rg_dir *d, int root, const char *repo, const char *reference,
			       const struct digest *dg, struct err *e)
{
	_cleanup_close_ int fd = -1;
	char path[DIR_PATH_MAX];
	uint64_t size;
	errint_t r;

	r = dir_blob_path(repo, dg, path, e);
	if (r == 0)
		r = dir_open_file(d, root, path, OCI_MANIFEST_MAX, &fd, &size, e);
	return r == -ENOENT || r == -EFBIG ? no_manifest(d, repo, reference, e) : r;
}

errint_t rg_dir_resolve(struct rg_dir *d, const char *repo, const char *reference,
			struct digest *ret, struct err *e)
{
	_cleanup_(dir_index_done) struct dir_index x = { 0 };
	_cleanup_close_ int root = -1;
	struct dir_entry entry = { 0 };
	struct digest dg;
	errint_t r = load(d, repo, &root, &x, e);

	if (r < 0)
		return r;
	if (digest_parse(reference, strlen(reference), &dg) == 0) {
		r = resolve_digest(d, root, repo, reference, &dg, e);
		entry.digest = dg;
	} else {
		r = dir_index_find_tag(&x, reference, &entry, e);
		if (r == -ENOENT)
			r = no_manifest(d, repo, reference, e);
	}
	if (r == 0)
		*ret = entry.digest;
	return r;
}

/* --- blobs --- */

struct copy {
	int fd;
	uint64_t pos, end;
	const char *path;
	rg_sink_fn sink;
	void *sink_ctx;
	struct cancel *cancel;
};

static errint_t copy_range(struct copy *k, struct err *e)
{
	_cleanup_free_ char *chunk = malloc(DIR_CHUNK);

	if (!chunk)
		return no_memory(e);
	while (k->pos < k->end) {
		size_t want = (size_t)MIN_OF((uint64_t)DIR_CHUNK, k->end - k->pos);
		ssize_t n = pread(k->fd, chunk, want, (off_t)k->pos);
		errint_t r;

		if (cancel_fired(k->cancel))
			return err_set(e, ECANCELED, ERR_CANCELLED, "cancelled");
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(e, errno, "reading %s", k->path);
		if (n == 0)
			return err_set(e, EIO, ERR_INTEGRITY, "%s became shorter while it was read",
				       k->path);
		r = k->sink(k->sink_ctx, chunk, (size_t)n, e);
		if (r < 0)
			return r;
		k->pos += (uint64_t)n;
	}
	return 0;
}

/* Opens the blob of exactly that size. */
static errint_t open_blob(struct rg_dir *d, const char *repo, const struct digest *dg,
			  uint64_t size, char path[static DIR_PATH_MAX], int *ret_fd, struct err *e)
{
	_cleanup_close_ int root = -1, fd = -1;
	char text[DIGEST_TEXT_MAX];
	uint64_t have;
	errint_t r;

	r = dir_open_root(d, &root, e);
	if (r == 0)
		r = dir_blob_path(repo, dg, path, e);
	if (r == 0)
		r = dir_open_file(d, root, path, 0, &fd, &have, e);
	if (r == -ENOENT || r == -ENOTDIR)
		return err_set(e, ENOENT, ERR_NOTFOUND, "there is no blob %s in %s%s%s",
			       digest_text(dg, text), d->path, *repo ? "/" : "", repo);
	if (r < 0)
		return r;
	if (have != size)
		return err_set(e, EIO, ERR_INTEGRITY,
			       "%s/%s has %" PRIu64 " bytes, but its manifest says %" PRIu64,
			       d->path, path, have, size);
	*ret_fd = steal_fd(&fd);
	return 0;
}

errint_t rg_dir_get_blob(struct rg_dir *d, const char *repo, const struct digest *dg, uint64_t size,
			 uint64_t off, uint64_t len, rg_sink_fn sink, void *ctx, struct cancel *c,
			 struct err *e)
{
	char path[DIR_PATH_MAX];
	_cleanup_close_ int fd = -1;
	errint_t r;

	if (off > size || len > size - off)
		return err_set(e, EINVAL, ERR_BUG, "a range outside a blob of %" PRIu64 " bytes",
			       size);
	r = open_blob(d, repo, dg, size, path, &fd, e);
	if (r < 0)
		return r;
	struct copy k = {
		.fd = fd, .pos = off, .end = len ? off + len : size, .path = path,
		.sink = sink, .sink_ctx = ctx, .cancel = c,
	};
	return copy_range(&k, e);
}

errint_t rg_dir_list_referrers(struct rg_dir *d, const char *repo, const struct digest *dg,
			       struct buf *ret_index, struct cancel *c, struct err *e)
{
	_cleanup_(dir_index_done) struct dir_index x = { 0 };
	_cleanup_close_ int root = -1;
	errint_t r = load(d, repo, &root, &x, e);

	return r < 0 ? r : dir_find_referrers(d, root, repo, &x, dg, ret_index, c, e);
}

/* Entry i as a descriptor of the composed index; entries that are none are left out. */
static bool add_untagged(const struct dir_index *x, size_t i, struct buf *b, bool first)
{
	char tag[REF_TAG_MAX + 1];
	struct dir_entry en;
	struct oci_descriptor d = { 0 };

	if (dir_index_tag(x, i, tag) || dir_index_entry(x, i, &en, NULL) < 0)
		return false;
	d.digest = en.digest;
	d.size = en.size;
	d.media_type = (char *)(en.media_type ? en.media_type : "");
	index_add(b, &d, first);
	return true;
}

errint_t rg_dir_list_untagged(struct rg_dir *d, const char *repo, struct buf *ret_index, struct err *e)
{
	_cleanup_(dir_index_done) struct dir_index x = { 0 };
	_cleanup_close_ int root = -1;
	bool first = true;
	errint_t r = load(d, repo, &root, &x, e);

	if (r < 0)
		return r;
	buf_done(ret_index);
	buf_init(ret_index, DIR_INDEX_MAX);
	index_begin(ret_index);
	for (size_t i = 0; i < x.n; i++)
		if (add_untagged(&x, i, ret_index, first))
			first = false;
	index_end(ret_index);
	r = buf_check(ret_index);
	return r < 0 ? err_errno(e, -r, "%s: listing images without a tag", d->path) : 0;
}

bool rg_dir_is_layout(struct rg_dir *d)
{
	_cleanup_close_ int root = -1, fd = -1;
	uint64_t size;

	return dir_open_root(d, &root, NULL) == 0 &&
	       dir_open_file(d, root, "index.json", 0, &fd, &size, NULL) == 0;
}
