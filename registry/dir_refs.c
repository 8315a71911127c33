/*
 * dir_refs.c - referrers in a layout, found by looking at every manifest
 *
 * Three kinds count: children of the fallback index (tag sha256-<hex>), entries of index.json whose
 * manifest has that subject, and such manifests inside indexes.  What is missing, too large or no
 * manifest at all refers to nothing.  What cannot be read, or has other bytes than its digest says,
 * is an error, and so is running out of the budget of manifests and bytes: never a short answer.
 */
#include "registry/dir_priv.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "registry/oci_write.h"
#include "util/hmap.h"

struct scan {
	struct rg_dir *dir;
	int root;
	const char *repo;
	const struct digest *subject;
	struct cancel *cancel;
	struct hmap *seen;	/* raw digests: looked at, or listed */
	struct hmap *listed;
	struct buf *out;
	size_t n_listed, n_scanned;
	uint64_t bytes;
};

static char mark;	/* a value for sets */

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory while looking for referrers");
}

/* 1: added, 0: was in it already. */
static int set_add(struct hmap *m, const struct digest *d, struct err *e)
{
	if (hmap_get(m, d, sizeof(*d)))
		return 0;
	return hmap_put(m, d, sizeof(*d), &mark) < 0 ? no_memory(e) : 1;
}

static errint_t list_one(struct scan *s, const struct oci_descriptor *d, struct err *e)
{
	int r = set_add(s->listed, &d->digest, e);

	if (r <= 0)
		return r;
	if (s->n_listed >= OCI_CHILDREN_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "more than %d referrers", OCI_CHILDREN_MAX);
	index_add(s->out, d, s->n_listed++ == 0);
	return 0;
}

/* The descriptor of a manifest as the referrers API would give it: type and annotations are the
 * manifest's.  Everything in *tmp is borrowed. */
static errint_t list_manifest(struct scan *s, const struct digest *dg, uint64_t size,
			      const struct oci_manifest *m, struct err *e)
{
	struct oci_descriptor tmp = index_referrer(m, dg, size);

	return list_one(s, &tmp, e);
}

static errint_t spend(struct scan *s, uint64_t size, struct err *e)
{
	if (cancel_fired(s->cancel))
		return err_set(e, ECANCELED, ERR_CANCELLED, "cancelled");
	s->bytes += size;
	if (++s->n_scanned > DIR_SCAN_MAX || s->bytes > DIR_SCAN_BYTES_MAX)
		return err_set(e, EFBIG, ERR_LIMIT,
			       "too many manifests in %s/%s to search them for referrers (over %d)",
			       s->dir->path, s->repo, DIR_SCAN_MAX);
	return 0;
}

/* *ret stays NULL when there is nothing to read. */
static errint_t load_manifest(struct scan *s, const struct digest *dg, uint64_t size,
			      struct oci_manifest **ret, struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(OCI_MANIFEST_MAX);
	char path[DIR_PATH_MAX];
	struct err why = { 0 };
	struct digest have;
	errint_t r;

	if (size > OCI_MANIFEST_MAX)
		return 0;
	r = spend(s, size, e);
	if (r == 0)
		r = dir_blob_path(s->repo, dg, path, e);
	if (r < 0)
		return r;
	r = dir_read_file(s->dir, s->root, path, OCI_MANIFEST_MAX, &b, &why);
	if (r == -ENOENT || r == -EFBIG)
		return 0;
	if (r < 0) {
		if (e)
			*e = why;
		return r;
	}
	digest_of((enum digest_alg)dg->alg, buf_str(&b), b.len, &have);
	if (b.len != size || !digest_eq(&have, dg))
		return err_set(e, EIO, ERR_INTEGRITY,
			       "%s/%s is not what its digest and size say, so the list of "
			       "referrers would be short", s->dir->path, path);
	r = oci_manifest_parse(buf_str(&b), b.len, NULL, ret, NULL);
	return r == -ENOMEM ? no_memory(e) : 0;
}

static errint_t scan_one(struct scan *s, const struct digest *dg, uint64_t size, unsigned depth,
			 struct err *e)
{
	_cleanup_(oci_manifest_freep) struct oci_manifest *m = NULL;
	int r = set_add(s->seen, dg, e);

	if (r <= 0)
		return r;
	r = load_manifest(s, dg, size, &m, e);
	if (r < 0 || !m)
		return r;
	if (m->has_subject && digest_eq(&m->subject.digest, s->subject))
		r = list_manifest(s, dg, size, m, e);
	for (size_t i = 0; r == 0 && depth < DIR_SCAN_DEPTH_MAX && i < m->n_children; i++)
		r = scan_one(s, &m->children[i].digest, m->children[i].size, depth + 1, e);
	return r;
}

/* The index that clients keep for registries without the API. */
static errint_t scan_fallback(struct scan *s, const struct dir_index *x, struct err *e)
{
	_cleanup_(oci_manifest_freep) struct oci_manifest *m = NULL;
	char tag[REF_TAG_MAX + 1], hex[DIGEST_TEXT_MAX];
	struct dir_entry entry;
	errint_t r;

	(void)snprintf(tag, sizeof(tag), "%.32s-%.64s", digest_alg_name(s->subject),
		       digest_hex(s->subject, hex));
	if (dir_index_find_tag(x, tag, &entry, NULL) < 0)
		return 0;
	r = load_manifest(s, &entry.digest, entry.size, &m, e);
	for (size_t i = 0; r == 0 && m && i < m->n_children; i++)
		r = list_one(s, &m->children[i], e);
	return r;
}

static errint_t scan_all(struct scan *s, const struct dir_index *x, struct err *e)
{
	struct dir_entry entry;
	errint_t r;

	index_begin(s->out);
	r = scan_fallback(s, x, e);
	for (size_t i = 0; r == 0 && i < x->n; i++)
		if (dir_index_entry(x, i, &entry, NULL) == 0)
			r = scan_one(s, &entry.digest, entry.size, 0, e);
	index_end(s->out);
	if (r == 0 && buf_check(s->out) == -EFBIG)
		return err_set(e, EFBIG, ERR_LIMIT, "more than %u bytes of referrers",
			       OCI_MANIFEST_MAX);
	return r == 0 && buf_check(s->out) < 0 ? no_memory(e) : r;
}

errint_t dir_find_referrers(struct rg_dir *d, int root, const char *repo, const struct dir_index *x,
			    const struct digest *subject, struct buf *ret, struct cancel *c,
			    struct err *e)
{
	struct scan s = {
		.dir = d, .root = root, .repo = repo, .subject = subject, .cancel = c,
		.seen = hmap_new(NULL), .listed = hmap_new(NULL), .out = ret,
	};
	errint_t r;

	buf_done(ret);
	buf_init(ret, OCI_MANIFEST_MAX);
	r = s.seen && s.listed ? scan_all(&s, x, e) : no_memory(e);
	(void)hmap_free(s.seen);
	(void)hmap_free(s.listed);
	return r;
}
