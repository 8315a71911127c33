/*
 * kind_tar.c - REPO/.tar/TAG.tar: one image as an archive that podman, docker and skopeo load
 *
 * The archive is an OCI layout (oci-archive) with Docker's manifest.json added, and exists nowhere:
 * its size follows from the manifest, and a read at any offset is made of headers that are kept in
 * memory and ranges of blobs.  The order is fixed, all times in it are 0: equal images are equal
 * archives.  The file's own time is the image's, with some minutes on top that depend on its digest:
 * rsync's quick check must see that a tag has moved also when both images have one time and size.
 */
#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>

#include "fs/layout.h"
#include "policy/policy.h"

#define BLOCK 512u
#define SUFFIX ".tar"
#define TIME_SPREAD_S 3600

/* Text, or a part of the layout, at an offset of the archive. */
struct segment {
	uint64_t off, len;
	const struct layout_part *part;	/* NULL: text at text_off */
	size_t text_off;
};

struct tar_file {
	struct layout *l;
	struct buf text;	/* headers, small files, padding */
	struct segment *seg;
	size_t n_seg, cap;
	uint64_t size;
	int64_t mtime_s;
};

static void tar_file_free(void *p)
{
	struct tar_file *t = p;

	if (!t)
		return;
	(void)layout_unref(t->l);
	buf_done(&t->text);
	free(t->seg);
	free(t);
}

/* ---- composing ---- */

static errint_t add_segment(struct tar_file *t, uint64_t len, const struct layout_part *part, size_t text_off)
{
	if (len > INT64_MAX - t->size - 2 * BLOCK)
		return -EFBIG;
	if (t->n_seg == t->cap) {
		size_t cap = t->cap ? 2 * t->cap : 32;
		struct segment *s = realloc(t->seg, cap * sizeof(*s));

		if (!s)
			return -ENOMEM;
		t->seg = s;
		t->cap = cap;
	}
	t->seg[t->n_seg++] = (struct segment){ t->size, len, part, text_off };
	t->size += len;
	return 0;
}

static errint_t add_text(struct tar_file *t, const void *data, size_t len)
{
	size_t at = t->text.len;
	errint_t r = buf_add(&t->text, data, len);

	return r < 0 ? r : add_segment(t, len, NULL, at);
}

/* POSIX ustar header; sizes over 8 GiB in base-256 as GNU tar writes them. */
static void make_header(char h[static BLOCK], const char *name, uint64_t size, bool dir)
{
	unsigned sum = 0;

	memset(h, 0, BLOCK);
	(void)snprintf(h, 100, "%s", name);
	(void)snprintf(h + 100, 8, "%07o", dir ? 0755u : 0644u);
	(void)snprintf(h + 108, 8, "%07o", 0u);
	(void)snprintf(h + 116, 8, "%07o", 0u);
	if (size < UINT64_C(1) << 33)
		(void)snprintf(h + 124, 12, "%011llo", (unsigned long long)size);
	else
		for (int i = 0; i < 8; i++)
			h[135 - i] = (char)(size >> (8 * i));
	if (size >= UINT64_C(1) << 33)
		h[124] = (char)0x80;
	(void)snprintf(h + 136, 12, "%011o", 0u);
	h[156] = dir ? '5' : '0';
	memcpy(h + 257, "ustar\00000", 8);
	memset(h + 148, ' ', 8);
	for (size_t i = 0; i < BLOCK; i++)
		sum += (unsigned char)h[i];
	(void)snprintf(h + 148, 7, "%06o", sum);
	h[155] = ' ';
}

static errint_t add_header(struct tar_file *t, const char *name, uint64_t size, bool dir)
{
	char h[BLOCK];

	make_header(h, name, size, dir);
	return add_text(t, h, sizeof(h));
}

static errint_t add_padding(struct tar_file *t, uint64_t size)
{
	static const char zeros[BLOCK];

	return size % BLOCK ? add_text(t, zeros, BLOCK - size % BLOCK) : 0;
}

static errint_t add_file(struct tar_file *t, const char *name, const char *data, size_t len)
{
	errint_t r = add_header(t, name, len, false);

	if (r == 0)
		r = add_text(t, data, len);
	return r < 0 ? r : add_padding(t, len);
}

static errint_t add_part(struct tar_file *t, const struct layout_part *p)
{
	char hex[DIGEST_TEXT_MAX], name[DIGEST_TEXT_MAX + 32];
	errint_t r;

	(void)snprintf(name, sizeof(name), "blobs/%s/%s", digest_alg_name(&p->digest), digest_hex(&p->digest, hex));
	if (strlen(name) > 99)	/* sha512 does not fit a ustar name; its prefix field takes the directory */
		return -EOPNOTSUPP;
	r = add_header(t, name, p->size, false);
	if (r == 0)
		r = add_segment(t, p->size, p, 0);
	return r < 0 ? r : add_padding(t, p->size);
}

static void blob_path(const struct digest *d, struct buf *b)
{
	char hex[DIGEST_TEXT_MAX];

	buf_addf(b, "\"blobs/%s/%s\"", digest_alg_name(d), digest_hex(d, hex));
}

/* Docker's manifest.json: https://github.com/moby/moby, image/spec v1.2, "Combined Image JSON". */
static void docker_manifest(const struct image *main, const char *tag, struct buf *b)
{
	_cleanup_buf_ struct buf name = BUF_INIT(2048);

	buf_addf(&name, "%s%s%s:%s", rg_name(site_registry(main->site)), *main->repo ? "/" : "", main->repo, tag);
	buf_adds(b, "[{\"Config\":");
	blob_path(&main->m->config.digest, b);
	buf_adds(b, ",\"RepoTags\":[");
	buf_add_json(b, buf_str(&name), name.len);
	buf_adds(b, "],\"Layers\":[");
	for (size_t i = 0; i < main->m->n_layers; i++) {
		buf_adds(b, i ? "," : "");
		blob_path(&main->m->layers[i].digest, b);
	}
	buf_adds(b, "]}]");
}

static errint_t compose(struct tar_file *t, const struct image *main, const char *tag)
{
	static const char end[2 * BLOCK];
	_cleanup_buf_ struct buf docker = BUF_INIT(1u << 20);
	errint_t r = add_file(t, "oci-layout", OCI_LAYOUT_FILE, strlen(OCI_LAYOUT_FILE));

	if (r == 0)
		r = add_file(t, "index.json", t->l->index.data, t->l->index.len);
	if (r == 0 && main && oci_is_container_image(main->m)) {
		docker_manifest(main, tag, &docker);
		r = buf_check(&docker);
		if (r == 0)
			r = add_file(t, "manifest.json", docker.data, docker.len);
	}
	if (r == 0)
		r = add_header(t, "blobs/", 0, true);
	if (r == 0)
		r = add_header(t, "blobs/sha256/", 0, true);
	for (size_t i = 0; r == 0 && i < t->l->n_parts; i++)
		r = add_part(t, &t->l->parts[i]);
	return r < 0 ? r : add_text(t, end, sizeof(end));
}

static errint_t tar_file_new(struct op *op, struct site *s, const char *repo, const char *tag, struct tar_file **ret)
{
	_cleanup_(image_unrefp) struct image *main = NULL;
	struct layout *l = NULL;
	struct tar_file *t;
	int64_t created = 0;
	errint_t r = layout_need(op, s, repo, tag, true, &l);

	if (r < 0)
		return r;
	r = need_platform(op, l->top, &main);
	if (r == 0 || r == -ENOENT)
		r = image_created(op, l->top, &created);
	if (r < 0) {
		(void)layout_unref(l);
		return r;
	}
	t = calloc(1, sizeof(*t));
	if (!t) {
		(void)layout_unref(l);
		return err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
	}
	t->l = l;
	t->mtime_s = created + (int64_t)(l->top->ident % TIME_SPREAD_S);
	buf_init(&t->text, 64u << 20);
	r = compose(t, main, tag);
	if (r < 0) {
		tar_file_free(t);
		return err_set(&op->err, -r, ERR_LIMIT, "this image cannot be written as one archive");
	}
	*ret = t;
	return 0;
}

/* ---- the file ---- */

static errint_t tar_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	const struct tar_file *t = n->data;

	(void)sub;
	synth_file_attr(op, n, 0444, t->size, t->mtime_s, PO_FOREVER_NS, ret);
	return 0;
}

/* The segment that holds off. */
static size_t segment_at(const struct tar_file *t, uint64_t off)
{
	size_t lo = 0, hi = t->n_seg;

	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;

		if (t->seg[mid].off <= off)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

static errint_t tar_read(struct op *op, struct node *n, uint32_t sub, struct handle *h, uint64_t off,
			 size_t size, struct buf *ret)
{
	const struct tar_file *t = n->data;
	uint64_t end;
	errint_t r = 0;

	(void)sub;
	(void)h;
	if (off >= t->size)
		return 0;
	end = off + MIN_OF(size, t->size - off);
	for (size_t i = segment_at(t, off); r == 0 && off < end; i++) {
		const struct segment *s = &t->seg[i];
		uint64_t in = off - s->off, len = MIN_OF(s->len - in, end - off);

		r = s->part ? layout_read(op, s->part, in, len, ret) :
			      buf_add(ret, t->text.data + s->text_off + in, len);
		off += len;
	}
	return r;
}

const struct kind kind_tar_file = {
	.name = "archive",
	.attr = tar_attr,
	.open = open_constant,
	.read = tar_read,
	.drop_data = tar_file_free,
};

/* ---- .tar ---- */

static errint_t tar_dir_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	(void)sub;
	synth_dir_attr(op, n, false, 0, PO_FOREVER_NS, ret);
	return 0;
}

static errint_t tar_lookup(struct op *op, struct node *dir, uint32_t sub, const char *name, size_t len,
			   struct fs_entry *ret)
{
	const struct repo_at *at = dir->data;
	char tag[NODE_NAME_MAX + 1];
	struct tar_file *t = NULL;
	struct digest d;
	uint64_t fresh;
	errint_t r;

	(void)sub;
	ret->ttl_ns = po_ttl_ns(PO_FRESH_ABSENT, op->fs->config->tag_ttl_ns, ERR_UNSET);
	if (len <= strlen(SUFFIX) || strcmp(name + len - strlen(SUFFIX), SUFFIX) != 0)
		return -ENOENT;
	(void)snprintf(tag, sizeof(tag), "%.*s", (int)(len - strlen(SUFFIX)), name);
	if (!ref_is_tag(tag, strlen(tag)))
		return -ENOENT;
	r = need_tag(op, at->site, at->repo, tag, &d, &fresh);
	if (r == 0)
		r = tar_file_new(op, at->site, at->repo, tag, &t);
	if (r < 0 || !t)
		return r;
	ret->node = node_child(dir, name, len, t->l->ident, &kind_tar_file, t, false);
	ret->ttl_ns = fresh;
	return ret->node ? 0 : err_set(&op->err, ENOMEM, ERR_LIMIT, "too many nodes");
}

static errint_t tar_list(struct op *op, struct node *dir, uint32_t sub, struct dirlist *ret)
{
	const struct repo_at *at = dir->data;
	_cleanup_(name_list_unrefp) struct name_list *tags = NULL;
	char name[REF_TAG_MAX + 8];
	errint_t r = need_tags(op, at->site, at->repo, &tags);

	(void)sub;
	for (size_t i = 0; r == 0 && i < tags->names.n; i++) {
		const char *tag = tags->names.names[i];

		if (ref_tag_is_digest_tag(tag, strlen(tag)))
			continue;
		(void)snprintf(name, sizeof(name), "%s" SUFFIX, tag);
		r = dirlist_add(ret, name, strlen(name), node_hash_ino(dir->ino, name, strlen(name)), DT_REG);
	}
	return r;
}

const struct kind kind_tar = {
	.name = "archives",
	.is_dir = true,
	.attr = tar_dir_attr,
	.lookup = tar_lookup,
	.list = tar_list,
	.drop_data = repo_at_free,
};
