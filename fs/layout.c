/*
 * layout.c - see layout.h
 *
 * Gathering walks from the tags through indexes to their images and, for whole repositories, through
 * what refers to them.  What is missing is wanted at once, level by level and LAYOUT_WANTS_MAX at a
 * time, so that the number of round trips is the depth and not the count.
 */
#include "fs/layout.h"

#include <stdio.h>

#include "util/hmap.h"

#define REF_NAME_KEY "org.opencontainers.image.ref.name"
#define FULL_NAME_KEY "io.containerd.image.name"

struct gather {
	struct op *op;
	struct site *site;
	const char *repo;
	bool referrers, full_name;
	unsigned waiting;	/* things that are not here yet */
	struct layout *l;
	size_t cap;
	struct hmap *seen;	/* digests of manifests already walked */
	uint64_t bytes;		/* of these manifests */
	bool first;
};

struct layout *layout_ref(struct layout *l)
{
	atomic_fetch_add(&l->refs, 1);
	return l;
}

struct layout *layout_unref(struct layout *l)
{
	if (!l || atomic_fetch_sub(&l->refs, 1) != 1)
		return NULL;
	for (size_t i = 0; i < l->n_parts; i++)
		image_unref(l->parts[i].img);
	image_unref(l->top);
	free(l->parts);
	buf_done(&l->index);
	free(l);
	return NULL;
}

static errint_t add_part(struct gather *g, struct image *img, const struct oci_descriptor *d)
{
	struct layout *l = g->l;

	if (l->n_parts >= LAYOUT_PARTS_MAX)
		return err_set(&g->op->err, EFBIG, ERR_LIMIT, "%s holds more than %d blobs", g->repo, LAYOUT_PARTS_MAX);
	if (l->n_parts == g->cap) {
		size_t cap = g->cap ? 2 * g->cap : 64;
		struct layout_part *p = realloc(l->parts, cap * sizeof(*p));

		if (!p)
			return err_set(&g->op->err, ENOMEM, ERR_LOCAL, "out of memory");
		l->parts = p;
		g->cap = cap;
	}
	l->parts[l->n_parts++] = (struct layout_part){
		.digest = d ? d->digest : img->digest,
		.size = d ? d->size : img->bytes.len,
		.img = image_ref(img),
		.d = d,
	};
	return 0;
}

static errint_t walk(struct gather *g, const struct digest *d, struct image *enclosing, bool optional, unsigned depth);

static void add_index_entry(struct gather *g, struct image *img, const char *tag)
{
	struct buf *b = &g->l->index;
	char text[DIGEST_TEXT_MAX];

	buf_adds(b, g->first ? "\n" : ",\n");
	g->first = false;
	buf_adds(b, "    {\"mediaType\":");
	buf_add_json(b, img->media_type, strlen(img->media_type));
	buf_addf(b, ",\"digest\":\"%s\",\"size\":%zu", digest_text(&img->digest, text), img->bytes.len);
	if (img->m->artifact_type) {
		buf_adds(b, ",\"artifactType\":");
		buf_add_json(b, img->m->artifact_type, strlen(img->m->artifact_type));
	}
	if (tag) {
		buf_adds(b, ",\"annotations\":{\"" REF_NAME_KEY "\":");
		buf_add_json(b, tag, strlen(tag));
		if (g->full_name) {
			_cleanup_buf_ struct buf name = BUF_INIT(2048);

			buf_addf(&name, "%s%s%s:%s", rg_name(site_registry(g->site)), *g->repo ? "/" : "", g->repo, tag);
			buf_adds(b, ",\"" FULL_NAME_KEY "\":");
			buf_add_json(b, buf_str(&name), name.len);
		}
		buf_addc(b, '}');
	}
	buf_addc(b, '}');
}

/* Manifests that no tag leads to: in index.json without a name, or nobody would find them. */
static errint_t walk_unnamed(struct gather *g, const struct oci_manifest *m, unsigned depth)
{
	errint_t r = 0;

	for (size_t i = 0; r == 0 && i < m->n_children && g->waiting < LAYOUT_WANTS_MAX; i++) {
		const struct digest *d = &m->children[i].digest;
		bool known = hmap_get(g->seen, d->raw, d->len);
		_cleanup_(image_unrefp) struct image *img = NULL;

		r = walk(g, d, NULL, true, depth + 1);
		if (r < 0 || known)
			continue;
		r = need_image(g->op, g->site, g->repo, d, &img);
		if (r == 0)
			add_index_entry(g, img, NULL);
		else if (r == -EINPROGRESS || r == -ENOENT)
			r = 0;
	}
	return r;
}

static errint_t walk_referrers(struct gather *g, struct image *img, struct image *enclosing, unsigned depth)
{
	_cleanup_(referrers_unrefp) struct referrers *refs = NULL;
	errint_t r = need_referrers(g->op, img, enclosing, &refs);

	if (r == -EINPROGRESS) {
		g->waiting++;
		return 0;
	}
	return r < 0 ? r : walk_unnamed(g, refs->m, depth);
}

static errint_t walk_contents(struct gather *g, struct image *img, unsigned depth)
{
	struct oci_manifest *m = img->m;
	errint_t r = 0;

	if (m->kind == OCI_IMAGE && m->config.digest.len)
		r = add_part(g, img, &m->config);
	for (size_t i = 0; r == 0 && i < m->n_layers; i++)
		r = add_part(g, img, &m->layers[i]);
	for (size_t i = 0; r == 0 && i < m->n_children && g->waiting < LAYOUT_WANTS_MAX; i++)
		r = walk(g, &m->children[i].digest, img, true, depth + 1);
	return r;
}

/* optional: an index may name images that are not there (image-spec image-layout.md). */
static errint_t walk(struct gather *g, const struct digest *d, struct image *enclosing, bool optional, unsigned depth)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	errint_t r;

	if (hmap_get(g->seen, d->raw, d->len))
		return 0;
	if (depth > LAYOUT_DEPTH_MAX)
		return err_set(&g->op->err, ELOOP, ERR_LIMIT, "images are nested more than %d deep", LAYOUT_DEPTH_MAX);
	r = need_image(g->op, g->site, g->repo, d, &img);
	if (r == -EINPROGRESS) {
		g->waiting++;
		return 0;
	}
	if (r == -ENOENT && optional) {
		err_clear(&g->op->err);
		return 0;
	}
	g->bytes += r == 0 ? img->bytes.len : 0;
	if (hmap_count(g->seen) >= SITE_IMAGES_MAX / 2 || g->bytes >= SITE_IMAGES_BYTES / 2)
		return err_set(&g->op->err, EFBIG, ERR_LIMIT, "%s has more than %d images: too many for one layout",
			       g->repo, SITE_IMAGES_MAX / 2);
	if (r == 0)
		r = hmap_put(g->seen, d->raw, d->len, g);
	if (r == 0)
		r = add_part(g, img, NULL);
	if (r == 0)
		r = walk_contents(g, img, depth);
	if (r == 0 && g->referrers)
		r = walk_referrers(g, img, enclosing, depth);
	return r;
}

/* ENOENT of a layout means that there is no such repository; what is missing inside one is damage. */
static errint_t missing_is_broken(struct gather *g, const char *tag, errint_t r)
{
	if (r != -ENOENT)
		return r;
	err_clear(&g->op->err);
	return err_set(&g->op->err, EIO, ERR_INTEGRITY, "%s:%s: the registry has the tag and not its manifest",
		       g->repo, tag);
}

static errint_t walk_tag(struct gather *g, const char *tag)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	struct digest d;
	uint64_t fresh;
	errint_t r = need_tag(g->op, g->site, g->repo, tag, &d, &fresh);

	if (r == -ENOENT && g->referrers) {
		/* Listed, and gone since: the snapshot is without it. */
		err_clear(&g->op->err);
		return 0;
	}
	if (r == 0)
		r = missing_is_broken(g, tag, need_image(g->op, g->site, g->repo, &d, &img));
	if (r == -EINPROGRESS) {
		g->waiting++;
		return 0;
	}
	if (r < 0)
		return r;
	add_index_entry(g, img, tag);
	if (!g->referrers && !g->l->top)
		g->l->top = image_ref(img);
	return walk(g, &d, NULL, false, 0);
}

static int by_digest(const void *a, const void *b)
{
	return memcmp(&((const struct layout_part *)a)->digest, &((const struct layout_part *)b)->digest,
		      sizeof(struct digest));
}

static void sort_parts(struct layout *l)
{
	size_t n = 0;

	if (l->n_parts)
		qsort(l->parts, l->n_parts, sizeof(*l->parts), by_digest);
	for (size_t i = 0; i < l->n_parts; i++) {
		if (n && digest_eq(&l->parts[n - 1].digest, &l->parts[i].digest))
			image_unref(l->parts[i].img);
		else
			l->parts[n++] = l->parts[i];
	}
	l->n_parts = n;
}

/* Of the names and of what is there: an optional part may come later under the same index.json. */
static uint64_t ident_of(const struct layout *l)
{
	uint64_t h = node_hash_ino(13, l->index.data, l->index.len);

	for (size_t i = 0; i < l->n_parts; i++)
		h = node_hash_ino(h, l->parts[i].digest.raw, l->parts[i].digest.len);
	return h;
}

static errint_t gather_untagged(struct gather *g)
{
	_cleanup_(oci_manifest_freep) struct oci_manifest *m = NULL;
	errint_t r = need_untagged(g->op, g->site, g->repo, &m);

	if (r == -EINPROGRESS) {
		g->waiting++;
		return 0;
	}
	return r < 0 ? r : walk_unnamed(g, m, 0);
}

static errint_t gather_tags(struct gather *g, const char *tag)
{
	_cleanup_(name_list_unrefp) struct name_list *tags = NULL;
	errint_t r;

	if (tag)
		return walk_tag(g, tag);
	r = need_tags(g->op, g->site, g->repo, &tags);
	for (size_t i = 0; r == 0 && i < tags->names.n && g->waiting < LAYOUT_WANTS_MAX; i++)
		r = walk_tag(g, tags->names.names[i]);
	return r < 0 || g->waiting ? r : gather_untagged(g);
}

errint_t layout_need(struct op *op, struct site *s, const char *repo, const char *tag, bool full_name,
		     struct layout **ret)
{
	_cleanup_(layout_unrefp) struct layout *l = calloc(1, sizeof(*l));
	struct gather g = { .op = op, .site = s, .repo = repo, .referrers = !tag, .full_name = full_name,
			    .l = l, .seen = hmap_new(NULL), .first = true };
	errint_t r;

	if (!l || !g.seen) {
		hmap_free(g.seen);
		return err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
	}
	atomic_init(&l->refs, 1);
	buf_init(&l->index, 256u << 20);
	buf_adds(&l->index, "{\n  \"schemaVersion\": 2,\n"
			    "  \"mediaType\": \"application/vnd.oci.image.index.v1+json\",\n  \"manifests\": [");
	r = gather_tags(&g, tag);
	hmap_free(g.seen);
	if (r == 0 && g.waiting)
		return -EINPROGRESS;
	buf_adds(&l->index, "\n  ]\n}\n");
	if (r == 0)
		r = buf_check(&l->index);
	if (r < 0)
		return r;
	sort_parts(l);
	l->ident = ident_of(l);
	*ret = steal_ptr(&l);
	return 0;
}

const struct layout_part *layout_find(const struct layout *l, const struct digest *d)
{
	struct layout_part key = { .digest = *d };

	return l->n_parts ? bsearch(&key, l->parts, l->n_parts, sizeof(key), by_digest) : NULL;
}

errint_t layout_read(struct op *op, const struct layout_part *p, uint64_t off, size_t len, struct buf *ret)
{
	if (p->d)
		return need_blob_data(op, p->img, p->d, off, len, ret);
	return buf_add(ret, p->img->bytes.data + off, len);
}
