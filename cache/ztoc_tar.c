/*
 * ztoc_tar.c - from headers to the files of a zTOC
 *
 * Where Go's reader and ours differ, Go's view counts, since it is the SOCI library that compares an
 * entry with its header when it first reads it.  What it refuses or would misplace is refused here:
 * sparse files, global PAX headers, types that it does not know.
 */
#include "cache/ztoc_tar.h"

#include <string.h>

#include "cache/tar_sparse.h"

/* Offsets and lengths in a header. */
enum {
	H_MODE = 100, H_TYPE = 156, H_MAGIC = 257, H_UNAME = 265, H_GNAME = 297, H_MAJOR = 329,
	H_MINOR = 337,
	L_NUMBER = 8, L_OWNER = 32,
};

struct ztoc_tar {
	struct tar_reader *reader;
	struct ztoc_encoder *out;
	struct ztoc_pax *pax;		/* of the entry under way */
	size_t n_pax, cap_pax;
};

static errint_t refuse(const struct tree_entry *en, const char *why, struct err *e)
{
	return err_set(e, EOPNOTSUPP, ERR_UNSUPPORTED, "%.*s: %s", (int)MIN_OF(en->path_len, 100u), en->path,
		       why);
}

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory while indexing a layer");
}

/* ---- PAX records: "LENGTH KEY=VALUE\n", checked by tar_pax.c */

static int by_key(const void *a, const void *b)
{
	const struct ztoc_str *x = &((const struct ztoc_pax *)a)->key, *y = &((const struct ztoc_pax *)b)->key;
	int r = memcmp(x->s, y->s, MIN_OF(x->len, y->len));

	return r != 0 ? r : (x->len > y->len) - (x->len < y->len);
}

static bool same_key(const struct ztoc_pax *a, const struct ztoc_pax *b)
{
	return a->key.len == b->key.len && memcmp(a->key.s, b->key.s, a->key.len) == 0;
}

/* A later record of a key replaces an earlier one. */
static errint_t add_record(struct ztoc_tar *t, struct ztoc_pax rec, struct err *e)
{
	size_t cap = MAX_OF(2 * t->cap_pax, (size_t)16);
	struct ztoc_pax *v;

	for (size_t i = 0; i < t->n_pax; i++)
		if (same_key(&t->pax[i], &rec)) {
			t->pax[i] = rec;
			return 0;
		}
	if (t->n_pax >= ZTOC_PAX_MAX)
		return err_set(e, EOPNOTSUPP, ERR_UNSUPPORTED, "a file has more than %u PAX records",
			       ZTOC_PAX_MAX);
	if (t->n_pax == t->cap_pax) {
		v = reallocarray(t->pax, cap, sizeof(*v));
		if (!v)
			return no_memory(e);
		t->pax = v;
		t->cap_pax = cap;
	}
	t->pax[t->n_pax++] = rec;
	return 0;
}

/* One record at p; its bytes, 0: it is none. */
static size_t one_record(const char *p, size_t len, struct ztoc_pax *ret)
{
	size_t n = 0, digits = 0;
	const char *eq;

	while (digits < len && p[digits] >= '0' && p[digits] <= '9' && n <= len)
		n = n * 10 + (size_t)(p[digits++] - '0');
	if (n > len || n < digits + 4 || p[digits] != ' ' || p[n - 1] != '\n')
		return 0;
	eq = memchr(p + digits + 1, '=', n - digits - 2);
	if (!eq)
		return 0;
	ret->key = (struct ztoc_str){ p + digits + 1, (size_t)(eq - p) - digits - 1 };
	ret->value = (struct ztoc_str){ eq + 1, (size_t)(p + n - 1 - (eq + 1)) };
	return n;
}

static errint_t read_records(struct ztoc_tar *t, const struct tar_raw *raw, struct err *e)
{
	errint_t r = 0;

	t->n_pax = 0;
	for (size_t at = 0; r == 0 && at < raw->pax_len;) {
		struct ztoc_pax rec;
		size_t n = one_record(raw->pax + at, raw->pax_len - at, &rec);

		if (n == 0)
			break;
		r = add_record(t, rec, e);
		at += n;
	}
	if (t->n_pax > 0)
		qsort(t->pax, t->n_pax, sizeof(*t->pax), by_key);
	return r;
}

/* ---- headers ---- */

static const char *type_word(unsigned char flag, enum tree_type type)
{
	switch (flag) {
	case '1':
		return "hardlink";
	case '2':
		return "symlink";
	case '3':
		return "char";
	case '4':
		return "block";
	case '5':
		return "dir";
	case '6':
		return "fifo";
	case '0':
		return "reg";
	case '\0':
		return type == TREE_DIR ? "dir" : "reg";
	default:
		return NULL;
	}
}

/* Owners' names and devices are in the headers of POSIX and GNU only. */
static bool has_owners(const unsigned char *h)
{
	return memcmp(h + H_MAGIC, "ustar", 6) == 0 || memcmp(h + H_MAGIC, "ustar  ", 8) == 0;
}

static struct ztoc_str field(const unsigned char *p, size_t max)
{
	return (struct ztoc_str){ (const char *)p, strnlen((const char *)p, max) };
}

static void owner(const struct ztoc_tar *t, const char *key, struct ztoc_str *name)
{
	for (size_t i = 0; i < t->n_pax; i++)
		if (t->pax[i].key.len == 5 && memcmp(t->pax[i].key.s, key, 5) == 0 &&
		    t->pax[i].value.len > 0)
			*name = t->pax[i].value;
}

static bool from_header(const unsigned char *h, struct ztoc_entry *out)
{
	if (!tar_number(h + H_MODE, L_NUMBER, &out->mode))
		return false;
	if (!has_owners(h))
		return true;
	out->uname = field(h + H_UNAME, L_OWNER);
	out->gname = field(h + H_GNAME, L_OWNER);
	return tar_number(h + H_MAJOR, L_NUMBER, &out->major) && tar_number(h + H_MINOR, L_NUMBER, &out->minor);
}

static errint_t add_entry(void *ctx, const struct tree_entry *en, struct err *e)
{
	struct ztoc_tar *t = ctx;
	struct ztoc_entry out = {
		.name = { en->path, en->path_len }, .linkname = { en->target, en->target_len },
		.off = en->data_off, .size = en->size, .mtime_s = en->mtime_s, .mtime_ns = en->mtime_ns,
		.uid = en->uid, .gid = en->gid,
	};
	struct tar_raw raw = { 0 };
	const char *word;
	errint_t r;

	tar_reader_raw(t->reader, &raw);
	if (raw.odd)
		return refuse(en, "a header before it is for all files, or of a kind that the format does not know", e);
	if (raw.sparse)
		return refuse(en, "a sparse file", e);
	word = type_word(raw.header[H_TYPE], en->type);
	if (!word)
		return refuse(en, "an entry of a type that the format does not know", e);
	out.type = (struct ztoc_str){ word, strlen(word) };
	r = read_records(t, &raw, e);
	if (r < 0)
		return r;
	if (!from_header(raw.header, &out))
		return refuse(en, "a bad number in its header", e);
	owner(t, "uname", &out.uname);
	owner(t, "gname", &out.gname);
	out.pax = t->pax;
	out.n_pax = t->n_pax;
	ztoc_encode_file(t->out, &out);
	return 0;
}

/* ---- the archive ---- */

struct ztoc_tar *ztoc_tar_new(struct ztoc_encoder *out)
{
	struct ztoc_tar *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->out = out;
	t->reader = tar_reader_new(add_entry, t);
	return t->reader ? t : ztoc_tar_free(t);
}

struct ztoc_tar *ztoc_tar_free(struct ztoc_tar *t)
{
	if (t) {
		(void)tar_reader_free(t->reader);
		free(t->pax);
		free(t);
	}
	return NULL;
}

/* An archive that cannot be read cannot be indexed; that is not our failure. */
static errint_t verdict(errint_t r, struct err *e)
{
	if (r != -EINVAL && r != -EFBIG)
		return r;
	if (e) {
		e->eno = EOPNOTSUPP;
		e->cls = ERR_UNSUPPORTED;
	}
	return -EOPNOTSUPP;
}

errint_t ztoc_tar_push(struct ztoc_tar *t, const void *data, size_t len, struct err *e)
{
	return verdict(tar_reader_push(t->reader, data, len, e), e);
}

errint_t ztoc_tar_end(struct ztoc_tar *t, struct err *e)
{
	return verdict(tar_reader_end(t->reader, e), e);
}

uint64_t ztoc_tar_size(const struct ztoc_tar *t)
{
	return tar_reader_offset(t->reader);
}
