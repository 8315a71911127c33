/*
 * ztoc.c - reading a zTOC (see ztoc.h)
 *
 * Nothing is copied but the table of spans.  What is checked is said in ztoc.h; the one thing that
 * is not there: parts of a FlatBuffer may be referred to many times, so a small one can describe
 * more files than anybody has time for.  Honest writers do not do that, and the walk counts.
 */
#include "cache/ztoc.h"

#include <string.h>

#include "cache/flatbuf.h"
#include "cache/le.h"
#include "cache/tree_write.h"
#include "util/clock.h"
#include "util/digest.h"

#define BLOCK 512u		/* of a tar */
#define TIME_MAX 64u		/* characters */
#define FILE_WORK 64u		/* what an entry and a record cost besides their texts */
#define PAX_WORK 16u
#define WORK_FREE (1u << 20)
#define WORK_FACTOR 4u

static errint_t bad(struct err *e, const char *what)
{
	return err_set(e, EBADMSG, ERR_INPUT, "the SOCI index: %s", what);
}

static errint_t over(struct err *e, const char *what)
{
	return err_set(e, EBADMSG, ERR_LIMIT, "the SOCI index: %s", what);
}

/* ---- types */

static const char *const type_names[] = {
	[TREE_REG] = "reg", [TREE_DIR] = "dir", [TREE_SYMLINK] = "symlink", [TREE_LINK] = "hardlink",
	[TREE_CHR] = "char", [TREE_BLK] = "block", [TREE_FIFO] = "fifo",
};

const char *ztoc_type_name(enum tree_type type)
{
	return type < ARRAY_SIZE(type_names) ? type_names[type] : NULL;
}

static enum tree_type type_of(const struct ztoc_str *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(type_names); i++)
		if (type_names[i] && strlen(type_names[i]) == name->len && memcmp(type_names[i], name->s, name->len) == 0)
			return (enum tree_type)i;
	return TREE_UNSET;
}

static bool text(const struct flatbuf_table *t, unsigned slot, struct ztoc_str *ret)
{
	return flatbuf_string(t, slot, &ret->s, &ret->len);
}

/* ---- spans */

static errint_t read_digests(struct ztoc *z, const struct flatbuf_vector *v, struct err *e)
{
	for (uint32_t i = 0; i < z->n_spans; i++) {
		struct ztoc_str s;
		struct digest d;

		if (!flatbuf_string_at(v, i, &s.s, &s.len) || digest_parse(s.s, s.len, &d) < 0 ||
		    d.alg != DIGEST_SHA256)
			return bad(e, "a span has no SHA-256");
		memcpy(z->spans[i].sha256, d.raw, sizeof(z->spans[i].sha256));
	}
	return 0;
}

/* Where the spans begin is there; how far they reach follows. */
static errint_t join_spans(struct ztoc *z, struct err *e)
{
	for (uint32_t i = 0; i < z->n_spans; i++) {
		struct ztoc_span *s = &z->spans[i], *next = i + 1 < z->n_spans ? s + 1 : NULL;
		uint64_t out = MIN_OF(s->out, z->size), end = next ? MIN_OF(next->out, z->size) : z->size;

		s->in_end = next ? next->in : z->packed;
		if (s->in >= s->in_end || (next && next->out < s->out))
			return bad(e, "its spans do not follow each other within the layer");
		s->len = end - out;
		if (s->bits)
			s->in--;
	}
	return 0;
}

static void first_point(struct ztoc_span *s)
{
	*s = (struct ztoc_span){ .in = ZTOC_FIRST_IN };
}

static errint_t read_point(struct ztoc_span *s, const uint8_t *p, struct err *e)
{
	*s = (struct ztoc_span){ .in = le64_get(p), .out = le64_get(p + 8), .bits = p[16], .window = p + 17 };
	if (s->in < ZTOC_FIRST_IN || s->in > INT64_MAX || s->out > ZTOC_SIZE_MAX || s->bits > 7)
		return bad(e, "a checkpoint makes no sense");
	if (s->out == 0)	/* nothing was before it */
		s->window = NULL;
	return 0;
}

static errint_t gzip_spans(struct ztoc *z, const uint8_t *p, size_t len, struct err *e)
{
	errint_t r = 0;
	uint32_t i = 0;

	if (len < ZTOC_POINTS_HEAD || le32_get(p) != z->n_spans)
		return bad(e, "it has not as many checkpoints as spans");
	z->span_size = le64_get(p + 4);
	p += ZTOC_POINTS_HEAD;
	len -= ZTOC_POINTS_HEAD;
	if (len == (size_t)(z->n_spans - 1) * ZTOC_POINT_BYTES)
		first_point(&z->spans[i++]);
	else if (len != (size_t)z->n_spans * ZTOC_POINT_BYTES)
		return bad(e, "it has not as many checkpoints as it says");
	for (; r == 0 && i < z->n_spans; i++, p += ZTOC_POINT_BYTES)
		r = read_point(&z->spans[i], p, e);
	if (r == 0 && (z->spans[0].out || z->spans[0].bits))
		r = bad(e, "its first span is not at the beginning");
	return r < 0 ? r : join_spans(z, e);
}

static errint_t plain_spans(struct ztoc *z, const uint8_t *p, size_t len, struct err *e)
{
	struct flatbuf b;
	struct flatbuf_table t;
	uint64_t size;

	if (!flatbuf_open(&b, p, len) || !flatbuf_root(&b, &t) ||
	    !flatbuf_u64(&t, ZTOC_TAR_SPAN_SIZE, &z->span_size) || !flatbuf_u64(&t, ZTOC_TAR_SIZE, &size))
		return bad(e, "its spans are no FlatBuffer");
	if (size != z->packed || z->size > size || z->span_size == 0 ||
	    (size - 1) / z->span_size + 1 != z->n_spans)
		return bad(e, "it has not as many spans as it says");
	for (uint32_t i = 0; i < z->n_spans; i++)
		z->spans[i] = (struct ztoc_span){ .in = i * z->span_size, .out = i * z->span_size };
	return join_spans(z, e);
}

static errint_t read_info(struct ztoc *z, const struct flatbuf_table *root, struct err *e)
{
	struct flatbuf_table t;
	struct flatbuf_vector digests, points;
	uint8_t algorithm;
	uint32_t max_span;

	if (!flatbuf_table(root, ZTOC_F_INFO, &t) || !flatbuf_u8(&t, ZTOC_INFO_ALGORITHM, ZTOC_GZIP, &algorithm) ||
	    !flatbuf_u32(&t, ZTOC_INFO_MAX_SPAN, &max_span) || !flatbuf_vector(&t, ZTOC_INFO_DIGESTS, 4, &digests) ||
	    !flatbuf_vector(&t, ZTOC_INFO_CHECKPOINTS, 1, &points))
		return bad(e, "it is no FlatBuffer with spans");
	if (max_span >= ZTOC_SPANS_MAX)
		return over(e, "it has too many spans");
	if (digests.n != max_span + 1)
		return bad(e, "it has not as many digests as spans");
	z->n_spans = max_span + 1;
	z->spans = calloc(z->n_spans, sizeof(*z->spans));
	if (!z->spans)
		return err_errno(e, ENOMEM, "reading a SOCI index");
	z->algorithm = (enum ztoc_algorithm)algorithm;
	if (algorithm != ZTOC_GZIP && algorithm != ZTOC_PLAIN)
		return bad(e, "it is about a compression that is not known");
	errint_t r = algorithm == ZTOC_GZIP ? gzip_spans(z, points.b->data + points.at, points.n, e) :
					      plain_spans(z, points.b->data + points.at, points.n, e);
	return r < 0 ? r : read_digests(z, &digests, e);
}

/* ---- */

static errint_t read_root(struct ztoc *z, const struct flatbuf_table *root, struct err *e)
{
	struct ztoc_str version;
	struct flatbuf_table toc;
	struct flatbuf_vector files;

	if (!text(root, ZTOC_F_VERSION, &version) || !text(root, ZTOC_F_TOOL, &z->tool) ||
	    !flatbuf_u64(root, ZTOC_F_PACKED, &z->packed) || !flatbuf_u64(root, ZTOC_F_SIZE, &z->size) ||
	    !flatbuf_table(root, ZTOC_F_TOC, &toc) || !flatbuf_vector(&toc, ZTOC_TOC_FILES, 4, &files))
		return bad(e, "it is no FlatBuffer with files");
	if (version.len != strlen(ZTOC_VERSION) || memcmp(version.s, ZTOC_VERSION, version.len) != 0)
		return bad(e, "its version is not " ZTOC_VERSION);
	if (z->packed == 0 || z->packed > INT64_MAX || z->size > ZTOC_SIZE_MAX)
		return over(e, "its sizes are out of range");
	if (files.n > TREE_NODES_MAX)
		return over(e, "it has too many files");
	z->files = files.at;
	z->n_files = files.n;
	return read_info(z, root, e);
}

errint_t ztoc_parse(const void *data, size_t len, struct ztoc *ret, struct err *e)
{
	struct flatbuf b;
	struct flatbuf_table root;

	*ret = (struct ztoc){ .data = data, .len = len };
	if (len > ZTOC_MAX)
		return over(e, "it is too large");
	if (!flatbuf_open(&b, data, len) || !flatbuf_root(&b, &root))
		return bad(e, "it is no FlatBuffer");
	return read_root(ret, &root, e);
}

void ztoc_done(struct ztoc *z)
{
	free(z->spans);
	*z = (struct ztoc){ 0 };
}

/* ---- files */

static errint_t bad_file(const struct ztoc_file *f, struct err *e, const char *what)
{
	return err_set(e, EBADMSG, ERR_INPUT, "the SOCI index: file \"%.*s\" %s", (int)MIN_OF(f->name.len, (size_t)200),
		       f->name.s, what);
}

static bool time_of(const struct ztoc_str *s, struct ztoc_file *f)
{
	char copy[TIME_MAX + 1];

	if (s->len > TIME_MAX || memchr(s->s, '\0', s->len))
		return false;
	memcpy(copy, s->s, s->len);
	copy[s->len] = '\0';
	return clock_parse_rfc3339(copy, &f->mtime_s, &f->mtime_ns);
}

static errint_t read_pax(struct ztoc_walk *w, const struct flatbuf_table *t, struct ztoc_file *f, struct err *e)
{
	struct flatbuf_vector v;

	if (!flatbuf_vector(t, ZTOC_FILE_PAX, 4, &v))
		return bad_file(f, e, "has records outside of the index");
	if (v.n > ZTOC_PAX_MAX)
		return bad_file(f, e, "has too many records");
	if (v.n > w->cap_pax) {
		struct ztoc_pax *p = reallocarray(w->pax, v.n, sizeof(*p));

		if (!p)
			return err_errno(e, ENOMEM, "reading a SOCI index");
		w->pax = p;
		w->cap_pax = v.n;
	}
	for (uint32_t i = 0; i < v.n; i++) {
		struct flatbuf_table rec;
		struct ztoc_pax *p = &w->pax[i];

		if (!flatbuf_table_at(&v, i, &rec) || !text(&rec, ZTOC_PAX_KEY, &p->key) ||
		    !text(&rec, ZTOC_PAX_VALUE, &p->value))
			return bad_file(f, e, "has a record outside of the index");
		w->work += PAX_WORK + p->key.len + p->value.len;
	}
	f->pax = w->pax;
	f->n_pax = v.n;
	return 0;
}

static bool read_texts(const struct flatbuf_table *t, struct ztoc_file *f, struct ztoc_str *type, struct ztoc_str *mtime)
{
	return text(t, ZTOC_FILE_NAME, &f->name) && text(t, ZTOC_FILE_TYPE, type) &&
	       text(t, ZTOC_FILE_LINK, &f->linkname) && text(t, ZTOC_FILE_UNAME, &f->uname) &&
	       text(t, ZTOC_FILE_GNAME, &f->gname) && text(t, ZTOC_FILE_MTIME, mtime);
}

static errint_t read_numbers(const struct flatbuf_table *t, struct ztoc_file *f, struct err *e)
{
	uint64_t mode, major, minor;

	if (!flatbuf_u64(t, ZTOC_FILE_OFF, &f->off) || !flatbuf_u64(t, ZTOC_FILE_SIZE, &f->size) ||
	    !flatbuf_u64(t, ZTOC_FILE_MODE, &mode) || !flatbuf_u32(t, ZTOC_FILE_UID, &f->uid) ||
	    !flatbuf_u32(t, ZTOC_FILE_GID, &f->gid) || !flatbuf_u64(t, ZTOC_FILE_MAJOR, &major) ||
	    !flatbuf_u64(t, ZTOC_FILE_MINOR, &minor))
		return bad_file(f, e, "has a number outside of the index");
	f->mode = (uint32_t)(mode & 07777);
	if (f->type != TREE_CHR && f->type != TREE_BLK)
		return 0;
	if (major > UINT32_MAX || minor > UINT32_MAX)
		return bad_file(f, e, "has a device number that is out of range");
	f->rdev_major = (uint32_t)major;
	f->rdev_minor = (uint32_t)minor;
	return 0;
}

/* Only regular files have bytes, whatever the header says. */
static errint_t check_place(struct ztoc_walk *w, const struct ztoc_file *f, struct err *e)
{
	uint64_t len = f->type == TREE_REG ? f->size : 0, end = w->z->size;

	if (f->off % BLOCK || f->off > end || f->off < w->at + BLOCK || len > end - f->off)
		return bad_file(f, e, "lies outside of the archive, or in the one before it");
	w->header = w->at;
	w->at = f->off + (len + BLOCK - 1) / BLOCK * BLOCK;
	return 0;
}

static errint_t read_file(struct ztoc_walk *w, const struct flatbuf_table *t, struct ztoc_file *f, struct err *e)
{
	struct ztoc_str type, mtime;

	f->name = (struct ztoc_str){ "", 0 };
	if (!read_texts(t, f, &type, &mtime))
		return bad_file(f, e, "has a text outside of the index");
	w->work += FILE_WORK + f->name.len + f->linkname.len;
	f->type = type_of(&type);
	if (f->type == TREE_UNSET)
		return bad_file(f, e, "has an unknown type");
	if (!time_of(&mtime, f))
		return bad_file(f, e, "has a time that is none");
	errint_t r = read_numbers(t, f, e);
	if (r == 0)
		r = check_place(w, f, e);
	return r < 0 ? r : read_pax(w, t, f, e);
}

void ztoc_walk_init(struct ztoc_walk *w, const struct ztoc *z)
{
	*w = (struct ztoc_walk){ .z = z };
}

int ztoc_walk_next(struct ztoc_walk *w, struct ztoc_file *ret, struct err *e)
{
	const struct ztoc *z = w->z;
	const struct flatbuf b = { z->data, (uint32_t)z->len };
	const struct flatbuf_vector files = { &b, z->files, z->n_files };
	struct flatbuf_table t;
	errint_t r;

	*ret = (struct ztoc_file){ 0 };
	if (w->next == z->n_files)
		return 0;
	if (!flatbuf_table_at(&files, w->next, &t))
		return bad(e, "a file lies outside of it");
	w->next++;
	r = read_file(w, &t, ret, e);
	if (r == 0 && w->work > WORK_FREE + WORK_FACTOR * (uint64_t)z->len)
		r = over(e, "it says the same again and again");
	return r < 0 ? r : 1;
}

void ztoc_walk_done(struct ztoc_walk *w)
{
	free(w->pax);
	*w = (struct ztoc_walk){ 0 };
}
