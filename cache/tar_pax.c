/*
 * tar_pax.c - "LENGTH KEY=VALUE\n", over and over
 *
 * The length counts the whole record and alone says where the value ends: values of extended
 * attributes are bytes, with NULs and newlines.  A key ends at the first '='; an attribute whose
 * name has one is out of reach here as in Go and libarchive (GNU tar writes "%3D").
 *
 * An empty value takes back what was said before.  Keys we do not know mean nothing; those we know
 * must make sense, or the archive is refused: a wrong guess would show wrong files.
 */
#include "cache/tar_pax.h"

#include <string.h>

#include "util/digest.h"

#define NS_DIGITS 9
#define XATTR_SCHILY "SCHILY.xattr."
#define XATTR_LIBARCHIVE "LIBARCHIVE.xattr."

void pax_init(struct pax *p)
{
	*p = (struct pax){ .text = BUF_INIT(TAR_META_MAX) };
}

void pax_clear(struct pax *p)
{
	buf_clear(&p->text);
	p->has = p->reset = 0;
	p->n_map = p->n_xattrs = 0;
	p->map_half = false;
}

void pax_done(struct pax *p)
{
	buf_done(&p->text);
	free(p->map);
	free(p->xattrs);
}

size_t pax_bytes(const struct pax *p)
{
	return p->text.cap + p->cap_map * sizeof(*p->map) + p->cap_xattrs * sizeof(*p->xattrs);
}

/* ---- values --------------------------------------------------------------------------------- */

bool pax_number(const char *s, size_t len, uint64_t *ret)
{
	uint64_t v = 0;

	if (len == 0 || len > 19)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (s[i] < '0' || s[i] > '9')
			return false;
		v = v * 10 + (uint64_t)(s[i] - '0'); /* 19 digits always fit */
	}
	*ret = v;
	return v <= INT64_MAX;
}

static bool signed_number(const char *s, size_t len, int64_t *ret)
{
	bool minus = len > 0 && s[0] == '-';
	uint64_t v;

	if (!pax_number(s + minus, len - minus, &v))
		return false;
	*ret = minus ? -(int64_t)v : (int64_t)v;
	return true;
}

/* Digits after the point; more than nine are cut off. */
static bool fraction(const char *s, size_t len, uint32_t *ret)
{
	uint32_t ns = 0;

	for (size_t i = 0; i < MAX_OF(len, (size_t)NS_DIGITS); i++) {
		if (i < len && (s[i] < '0' || s[i] > '9'))
			return false;
		if (i < NS_DIGITS)
			ns = ns * 10 + (i < len ? (uint32_t)(s[i] - '0') : 0);
	}
	*ret = ns;
	return true;
}

/* "-1.5" is 1.5 seconds before 1970: -2 s and 500 000 000 ns. */
static bool timestamp(struct pax *p, const char *s, size_t len)
{
	const char *dot = memchr(s, '.', len);
	size_t whole = dot ? (size_t)(dot - s) : len;

	if (!signed_number(s, whole, &p->mtime_s))
		return false;
	p->mtime_ns = 0;
	if (dot && !fraction(dot + 1, len - whole - 1, &p->mtime_ns))
		return false;
	if (s[0] == '-' && p->mtime_ns > 0) {
		p->mtime_s--;
		p->mtime_ns = 1000000000 - p->mtime_ns;
	}
	return true;
}

static bool map_add(struct pax *p, uint64_t off, uint64_t len)
{
	if (tree_vec_grow(&p->map, &p->cap_map, p->n_map, TAR_META_MAX, sizeof(*p->map)) < 0)
		return false;
	p->map[p->n_map++] = (struct tree_extent){ .off = off, .len = len };
	return true;
}

/* Format 0.1: "off,len,off,len,..." */
static bool map_list(struct pax *p, const char *s, size_t len)
{
	const char *end = s + len;
	uint64_t v[2];
	unsigned n = 0;

	p->n_map = 0;
	p->map_half = false;
	for (;;) {
		const char *comma = memchr(s, ',', (size_t)(end - s));
		const char *stop = comma ? comma : end;

		if (!pax_number(s, (size_t)(stop - s), &v[n]))
			return false;
		if (n == 1 && !map_add(p, v[0], v[1]))
			return false;
		n = !n;
		if (!comma)
			return n == 0;
		s = comma + 1;
	}
}

/* Format 0.0: a record for each offset and one for each length. */
static bool map_offset(struct pax *p, const char *s, size_t len)
{
	uint64_t off;

	if (p->map_half || !pax_number(s, len, &off))
		return false;
	p->map_half = true;
	return map_add(p, off, 0);
}

static bool map_numbytes(struct pax *p, const char *s, size_t len)
{
	if (!p->map_half || !pax_number(s, len, &p->map[p->n_map - 1].len))
		return false;
	p->map_half = false;
	return true;
}

/* ---- keys ----------------------------------------------------------------------------------- */

static bool set_span(const struct pax *p, struct pax_span *span, const char *s, size_t len)
{
	*span = (struct pax_span){ (size_t)(s - p->text.data), len };
	return true;
}

/* One function for the plain keys: bit says which. */
static bool set_plain(struct pax *p, unsigned bit, const char *s, size_t len)
{
	switch (bit) {
	case PAX_SIZE:
		return pax_number(s, len, &p->size);
	case PAX_UID:
		return signed_number(s, len, &p->uid);
	case PAX_GID:
		return signed_number(s, len, &p->gid);
	case PAX_MTIME:
		return timestamp(p, s, len);
	case PAX_PATH:
		return set_span(p, &p->path, s, len);
	case PAX_LINKPATH:
		return set_span(p, &p->linkpath, s, len);
	case PAX_SPARSE_MAJOR:
		return pax_number(s, len, &p->sparse_major);
	case PAX_SPARSE_MINOR:
		return pax_number(s, len, &p->sparse_minor);
	case PAX_SPARSE_SIZE:
		return pax_number(s, len, &p->sparse_size);
	case PAX_SPARSE_BLOCKS:
		return pax_number(s, len, &p->sparse_blocks);
	case PAX_SPARSE_NAME:
		return set_span(p, &p->sparse_name, s, len);
	default:
		return map_list(p, s, len);
	}
}

static const struct {
	const char *key;
	unsigned bit;
} plain_keys[] = {
	{ "path", PAX_PATH },
	{ "size", PAX_SIZE },
	{ "mtime", PAX_MTIME },
	{ "linkpath", PAX_LINKPATH },
	{ "uid", PAX_UID },
	{ "gid", PAX_GID },
	{ "GNU.sparse.major", PAX_SPARSE_MAJOR },
	{ "GNU.sparse.minor", PAX_SPARSE_MINOR },
	{ "GNU.sparse.name", PAX_SPARSE_NAME },
	{ "GNU.sparse.realsize", PAX_SPARSE_SIZE },
	{ "GNU.sparse.size", PAX_SPARSE_SIZE },
	{ "GNU.sparse.numblocks", PAX_SPARSE_BLOCKS },
	{ "GNU.sparse.map", PAX_SPARSE_MAP },
};

struct record {
	char *key;
	size_t key_len;
	char *value;
	size_t value_len;
};

static bool key_is(const struct record *rec, const char *key)
{
	return rec->key_len == strlen(key) && memcmp(rec->key, key, rec->key_len) == 0;
}

static bool key_begins(const struct record *rec, const char *prefix)
{
	return rec->key_len > strlen(prefix) && memcmp(rec->key, prefix, strlen(prefix)) == 0;
}

static bool take_plain(struct pax *p, unsigned bit, const struct record *rec)
{
	if (rec->value_len == 0) {
		p->has &= ~bit;
		p->reset |= bit;
		return true;
	}
	p->has |= bit;
	p->reset &= ~bit;
	return set_plain(p, bit, rec->value, rec->value_len);
}

static errint_t xattr_add(struct pax *p, const struct record *rec, size_t skip)
{
	errint_t r = tree_vec_grow(&p->xattrs, &p->cap_xattrs, p->n_xattrs, PAX_XATTRS_MAX,
				   sizeof(*p->xattrs));

	if (r < 0)
		return r;

	struct pax_xattr *x = &p->xattrs[p->n_xattrs++];

	x->none = rec->value_len == 0;
	(void)set_span(p, &x->name, rec->key + skip, rec->key_len - skip);
	(void)set_span(p, &x->value, rec->value, rec->value_len);
	return 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* In place; returns the new length. */
static size_t url_decode(char *s, size_t len)
{
	size_t out = 0;

	for (size_t i = 0; i < len; i++) {
		int hi = s[i] == '%' && len - i > 2 ? hex_digit(s[i + 1]) : -1;
		int lo = hi >= 0 ? hex_digit(s[i + 2]) : -1;

		s[out++] = lo >= 0 ? (char)(hi << 4 | lo) : s[i];
		i += lo >= 0 ? 2 : 0;
	}
	return out;
}

/* bsdtar writes each attribute this way and as SCHILY.xattr; one that is broken is left out. */
static errint_t take_libarchive(struct pax *p, struct record *rec)
{
	size_t skip = strlen(XATTR_LIBARCHIVE);
	_cleanup_free_ char *raw = malloc(rec->value_len / 4 * 3 + 3);

	if (!raw)
		return -ENOMEM;

	long n = base64_decode(rec->value, rec->value_len, raw);

	if (n < 0 || (size_t)n > rec->value_len)
		return 0;
	memcpy(rec->value, raw, (size_t)n);
	rec->value_len = (size_t)n;
	rec->key_len = skip + url_decode(rec->key + skip, rec->key_len - skip);
	return xattr_add(p, rec, skip);
}

static errint_t take_sparse00(struct pax *p, const struct record *rec)
{
	bool ok = key_is(rec, "GNU.sparse.offset") ? map_offset(p, rec->value, rec->value_len)
						   : map_numbytes(p, rec->value, rec->value_len);

	p->has |= PAX_SPARSE_MAP;
	return ok ? 0 : -EINVAL;
}

static errint_t take_record(struct pax *p, struct record *rec)
{
	for (size_t i = 0; i < ARRAY_SIZE(plain_keys); i++)
		if (key_is(rec, plain_keys[i].key))
			return take_plain(p, plain_keys[i].bit, rec) ? 0 : -EINVAL;
	if (key_begins(rec, XATTR_SCHILY))
		return p->global ? 0 : xattr_add(p, rec, strlen(XATTR_SCHILY));
	if (key_begins(rec, XATTR_LIBARCHIVE))
		return p->global ? 0 : take_libarchive(p, rec);
	if (key_is(rec, "GNU.sparse.offset") || key_is(rec, "GNU.sparse.numbytes"))
		return take_sparse00(p, rec);
	return 0;
}

/* ---- records -------------------------------------------------------------------------------- */

/* Returns the length of the record at s, 0: not one. */
static size_t split_record(char *s, size_t len, struct record *ret)
{
	char *space = memchr(s, ' ', MIN_OF(len, (size_t)20));
	uint64_t total;

	if (!space || !pax_number(s, (size_t)(space - s), &total) || total > len)
		return 0;
	if (s + total < space + 3 || s[total - 1] != '\n') /* at least "k=" and the newline */
		return 0;

	char *key = space + 1, *end = s + total - 1;
	char *eq = memchr(key, '=', (size_t)(end - key));

	if (!eq || eq == key)
		return 0;
	*ret = (struct record){ key, (size_t)(eq - key), eq + 1, (size_t)(end - eq - 1) };
	return (size_t)total;
}

static errint_t bad_record(errint_t r, const struct record *rec, struct err *e)
{
	if (r == -ENOMEM)
		return err_set(e, ENOMEM, ERR_LOCAL, "no memory for PAX records");
	if (r == -EFBIG)
		return err_set(e, EFBIG, ERR_LIMIT,
			       "more than %u extended attributes in one PAX header",
			       PAX_XATTRS_MAX);
	return err_set(e, EINVAL, ERR_INPUT, "PAX record %.*s with a bad value",
		       (int)MIN_OF(rec->key_len, (size_t)60), rec->key);
}

errint_t pax_add(struct pax *p, const char *key, size_t key_len, const char *value, size_t value_len,
		 struct err *e)
{
	struct record rec = { (char *)key, key_len, NULL, value_len };
	size_t at = p->text.len;

	if (buf_add(&p->text, key, key_len) < 0 || buf_add(&p->text, value, value_len) < 0)
		return bad_record(p->text.failed, &rec, e);
	rec.key = p->text.data + at;
	rec.value = rec.key + key_len;

	errint_t r = take_record(p, &rec);

	return r < 0 ? bad_record(r, &rec, e) : 0;
}

void pax_xattrs(const struct pax *p, struct tree_xattr_in *out)
{
	for (size_t i = 0; i < p->n_xattrs; i++) {
		const struct pax_xattr *x = &p->xattrs[i];

		out[i] = (struct tree_xattr_in){
			.name = p->text.data + x->name.at,
			.name_len = x->name.len,
			.value = x->none ? NULL : p->text.data + x->value.at,
			.value_len = x->value.len,
		};
	}
}

errint_t pax_parse(struct pax *p, struct err *e)
{
	size_t at = 0;

	while (at < p->text.len && p->text.data[at] != '\0') {
		struct record rec;
		size_t n = split_record(p->text.data + at, p->text.len - at, &rec);

		if (n == 0)
			return err_set(e, EINVAL, ERR_INPUT, "malformed PAX record");

		errint_t r = take_record(p, &rec);

		if (r < 0)
			return bad_record(r, &rec, e);
		at += n;
	}
	return p->map_half ? err_set(e, EINVAL, ERR_INPUT, "half an entry in a sparse map") : 0;
}
