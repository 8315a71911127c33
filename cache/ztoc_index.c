/*
 * ztoc_index.c - see ztoc_index.h
 *
 * The sum over headers is a CRC-32: it finds mistakes of whoever made the zTOC, not malice, against
 * which only the digest helps by which the zTOC is known.
 */
#include "cache/ztoc_index.h"

#include <string.h>

#include "cache/crc.h"
#include "cache/le.h"
#include "cache/tar_pax.h"
#include "cache/toc_index.h"

#define CHECK_EVERY 1024u	/* files */

struct build {
	struct ztoc_index *x;
	struct pax pax;
	struct tree_xattr_in *xattrs;
	size_t cap_xattrs;
	struct ztoc_str last;	/* name of the archive's last entry, if that is a regular file */
	uint32_t span;		/* the one that has the present header, or the first behind it */
};

static errint_t bad(const struct ztoc_file *f, struct err *e, const char *what)
{
	return err_set(e, EBADMSG, ERR_INPUT, "the SOCI index: file \"%.*s\" %s", (int)MIN_OF(f->name.len, (size_t)200),
		       f->name.s, what);
}

/* ---- files */

static bool begins(const struct ztoc_str *s, const char *prefix)
{
	return s->len >= strlen(prefix) && memcmp(s->s, prefix, strlen(prefix)) == 0;
}

static errint_t read_pax(struct build *b, const struct ztoc_file *f, struct err *e)
{
	struct err why = { 0 };

	pax_clear(&b->pax);
	for (size_t i = 0; i < f->n_pax; i++) {
		const struct ztoc_pax *p = &f->pax[i];

		if (begins(&p->key, "GNU.sparse."))
			return bad(f, e, "is sparse, which it cannot describe");
		errint_t r = pax_add(&b->pax, p->key.s, p->key.len, p->value.s, p->value.len, &why);
		if (r == -ENOMEM)
			return err_errno(e, ENOMEM, "reading a SOCI index");
		if (r < 0)
			return bad(f, e, "has a PAX record with a bad value");
	}
	if (((b->pax.has & PAX_UID) && b->pax.uid != f->uid) || ((b->pax.has & PAX_GID) && b->pax.gid != f->gid))
		return bad(f, e, "has an owner that it cannot say");
	return 0;
}

static errint_t give_xattrs(struct build *b, struct tree_entry *en, struct err *e)
{
	size_t n = b->pax.n_xattrs;

	if (n > b->cap_xattrs) {
		struct tree_xattr_in *p = reallocarray(b->xattrs, n, sizeof(*p));

		if (!p)
			return err_errno(e, ENOMEM, "reading a SOCI index");
		b->xattrs = p;
		b->cap_xattrs = n;
	}
	pax_xattrs(&b->pax, b->xattrs);
	en->xattrs = b->xattrs;
	en->n_xattrs = n;
	return 0;
}

/* ---- what headers say */

static uint32_t sum_number(uint32_t sum, uint64_t n)
{
	uint8_t raw[8];

	le64_put(raw, n);
	return crc32_add(sum, raw, sizeof(raw));
}

static uint32_t sum_text(uint32_t sum, const char *s, size_t len)
{
	return crc32_add(sum_number(sum, len), s, len);
}

/* In whatever order they come. */
static uint32_t sum_xattrs(const struct tree_entry *en)
{
	uint32_t all = 0;

	for (size_t i = 0; i < en->n_xattrs; i++) {
		const struct tree_xattr_in *x = &en->xattrs[i];

		all += sum_text(sum_text(0, x->name, x->name_len), x->value ? x->value : "", x->value ? x->value_len : 0);
	}
	return all;
}

uint32_t ztoc_sum(uint32_t sum, const struct tree_entry *en, uint64_t off)
{
	bool dev = en->type == TREE_CHR || en->type == TREE_BLK;
	bool link = en->type == TREE_SYMLINK || en->type == TREE_LINK;

	sum = sum_number(sum, (uint64_t)en->type << 32 | en->mode);
	sum = sum_number(sum, (uint64_t)en->uid << 32 | en->gid);
	sum = sum_number(sum, (uint64_t)en->mtime_s);
	sum = sum_number(sum, en->mtime_ns);
	sum = sum_number(sum, dev ? (uint64_t)en->rdev_major << 32 | en->rdev_minor : 0);
	sum = sum_number(sum, en->type == TREE_REG ? off : 0);
	sum = sum_number(sum, en->type == TREE_REG ? en->size : 0);
	sum = sum_number(sum, en->n_extents);
	sum = sum_text(sum, en->path, en->path_len);
	sum = sum_text(sum, link ? en->target : "", link ? en->target_len : 0);
	return sum_number(sum, sum_xattrs(en));
}

/* Headers that lie in one span can be compared when it is read. */
static void note_header(struct build *b, const struct tree_entry *en, uint64_t header, uint64_t off)
{
	struct ztoc_index *x = b->x;

	while (b->span < x->n_chunks && header >= x->chunks[b->span].out + x->chunks[b->span].len)
		b->span++;
	if (b->span == x->n_chunks || off > x->chunks[b->span].out + x->chunks[b->span].len)
		return;
	struct toc_span *s = &x->spans[b->span];

	if (s->n_headers++ == 0)
		s->header = header;
	s->sum = ztoc_sum(s->sum, en, off);
}

/* ---- */

static errint_t add_file(struct build *b, const struct ztoc_file *f, uint64_t header, struct err *e)
{
	struct tree_entry en = {
		.type = f->type, .path = f->name.s, .path_len = f->name.len,
		.target = f->linkname.s, .target_len = f->linkname.len,
		.mode = f->mode, .uid = f->uid, .gid = f->gid, .mtime_s = f->mtime_s, .mtime_ns = f->mtime_ns,
		.size = f->type == TREE_REG ? f->size : 0, .rdev_major = f->rdev_major, .rdev_minor = f->rdev_minor,
		.data_off = CA_TOC_DATA + f->off,
	};
	errint_t r = read_pax(b, f, e);

	if (r == 0)
		r = give_xattrs(b, &en, e);
	if (r < 0)
		return r;
	note_header(b, &en, header, f->off);
	b->last = f->type == TREE_REG ? f->name : (struct ztoc_str){ "", 0 };
	r = tree_builder_add(b->x->tree, &en, e);
	if (r == -EINVAL || r == -EFBIG)
		return err_set(e, EBADMSG, r == -EFBIG ? ERR_LIMIT : ERR_INPUT,
			       "the SOCI index: file \"%.*s\" cannot be shown", (int)MIN_OF(f->name.len, (size_t)200),
			       f->name.s);
	return r;
}

static errint_t add_files(struct build *b, const struct ztoc *z, ztoc_check_fn check, void *ctx, struct err *e)
{
	struct ztoc_walk w;
	struct ztoc_file f;
	errint_t r = 0;
	int more = 0;

	ztoc_walk_init(&w, z);
	while (r == 0 && (more = ztoc_walk_next(&w, &f, e)) > 0) {
		if (w.next % CHECK_EVERY == 0)
			r = check(ctx, tree_builder_bytes(b->x->tree), e);
		if (r == 0)
			r = add_file(b, &f, w.header, e);
	}
	ztoc_walk_done(&w);
	return r < 0 ? r : more;
}

/* ---- spans */

static errint_t add_spans(struct ztoc_index *x, const struct ztoc *z, struct err *e)
{
	x->chunks = calloc(z->n_spans + 1UL, sizeof(*x->chunks));
	x->spans = calloc(z->n_spans + 1UL, sizeof(*x->spans));
	if (!x->chunks || !x->spans)
		return err_errno(e, ENOMEM, "reading a SOCI index");
	for (uint32_t i = 0; i < z->n_spans; i++) {
		const struct ztoc_span *s = &z->spans[i];
		struct toc_chunk *c = &x->chunks[x->n_chunks];

		if (s->len == 0)
			continue;
		if (s->len > TOC_CHUNK_MAX)
			return err_set(e, EBADMSG, ERR_LIMIT, "the SOCI index: its spans are too long");
		*c = (struct toc_chunk){
			.in = s->in, .in_end = s->in_end, .out = s->out, .inner = s->bits, .len = (uint32_t)s->len,
		};
		memcpy(c->sha256, s->sha256, sizeof(c->sha256));
		x->spans[x->n_chunks++].window = s->window;
	}
	return 0;
}

errint_t ztoc_index(struct ztoc_index *x, const struct ztoc *z, ztoc_check_fn check, void *ctx, struct err *e)
{
	struct build b = { .x = x, .last = { "", 0 } };
	errint_t r;

	*x = (struct ztoc_index){ .tree = tree_builder_new() };
	if (!x->tree)
		return err_errno(e, ENOMEM, "reading a SOCI index");
	pax_init(&b.pax);
	r = add_spans(x, z, e);
	if (r == 0)
		r = add_files(&b, z, check, ctx, e);
	if (r == 0)
		toc_hide(x->tree, b.last.len == strlen(TOC_NAME) && memcmp(b.last.s, TOC_NAME, b.last.len) == 0);
	pax_done(&b.pax);
	free(b.xattrs);
	return r;
}

void ztoc_index_done(struct ztoc_index *x)
{
	(void)tree_builder_free(x->tree);
	free(x->chunks);
	free(x->spans);
	*x = (struct ztoc_index){ 0 };
}
