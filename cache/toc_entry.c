/*
 * toc_entry.c - from JSON to a struct toc_entry: strict, one pass, table-driven
 */
#include "cache/toc_entry.h"

#include <string.h>
#include <strings.h>

#include "cache/toc_json.h"
#include "util/clock.h"

#define XATTRS_MAX 4096u

enum member {
	TYPE, NAME, LINK_NAME, MODE, SIZE, UID, GID, MODTIME, DEV_MAJOR, DEV_MINOR, XATTRS, DIGEST, OFFSET,
	END_OFFSET, INNER_OFFSET, CHUNK_SIZE, CHUNK_OFFSET, CHUNK_DIGEST, CHUNK_TYPE, MEMBERS,
};

static const struct known {
	const char *name;
	uint8_t len;
	bool number;
	uint64_t max;
} known[MEMBERS] = {
#define TEXT(n) { n, sizeof(n) - 1, false, 0 }
#define NUMBER(n, max) { n, sizeof(n) - 1, true, max }
	[TYPE] = TEXT("type"), [NAME] = TEXT("name"), [LINK_NAME] = TEXT("linkName"),
	[MODTIME] = TEXT("modtime"), [XATTRS] = TEXT("xattrs"), [DIGEST] = TEXT("digest"),
	[CHUNK_DIGEST] = TEXT("chunkDigest"), [CHUNK_TYPE] = TEXT("chunkType"),
	[MODE] = NUMBER("mode", INT64_MAX), [SIZE] = NUMBER("size", INT64_MAX),
	[UID] = NUMBER("uid", UINT32_MAX), [GID] = NUMBER("gid", UINT32_MAX),
	[DEV_MAJOR] = NUMBER("devMajor", UINT32_MAX), [DEV_MINOR] = NUMBER("devMinor", UINT32_MAX),
	[OFFSET] = NUMBER("offset", INT64_MAX), [END_OFFSET] = NUMBER("endOffset", INT64_MAX),
	[INNER_OFFSET] = NUMBER("innerOffset", INT64_MAX), [CHUNK_SIZE] = NUMBER("chunkSize", INT64_MAX),
	[CHUNK_OFFSET] = NUMBER("chunkOffset", INT64_MAX),
};

static errint_t bad(const struct toc_entry *en, struct err *e, const char *what)
{
	return err_set(e, EBADMSG, ERR_INPUT, "the table of contents: entry \"%.200s\" %s",
		       en->name ? en->name : "", what);
}

/* ---- texts */

/* U+FFFD stands for bytes that the writer could not say. */
static bool lossy(const char *s, size_t len)
{
	return memchr(s, 0xef, len) && memmem(s, len, "\xef\xbf\xbd", 3) != NULL;
}

static errint_t digest(const struct toc_json_value *v, struct toc_entry *en, struct digest *ret, struct err *e)
{
	if (v->len == 0)
		return 0;
	if (digest_parse(v->s, v->len, ret) < 0 || ret->alg != DIGEST_SHA256)
		return bad(en, e, "has a digest that is not SHA-256");
	return 0;
}

static errint_t time_of(const struct toc_json_value *v, struct toc_entry *en, struct err *e)
{
	if (strlen(v->s) != v->len ||
	    (v->len > 0 && !clock_parse_rfc3339(v->s, &en->en.mtime_s, &en->en.mtime_ns)))
		return bad(en, e, "has a time that is none");
	return 0;
}

static errint_t type(const char *s, struct toc_entry *en, struct err *e)
{
	static const struct {
		const char *name;
		enum tree_type type;
	} types[] = {
		{ "reg", TREE_REG }, { "dir", TREE_DIR }, { "symlink", TREE_SYMLINK }, { "hardlink", TREE_LINK },
		{ "char", TREE_CHR }, { "block", TREE_BLK }, { "fifo", TREE_FIFO },
	};

	en->is_chunk = strcmp(s, "chunk") == 0;
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (strcmp(s, types[i].name) == 0)
			en->en.type = types[i].type;
	return en->is_chunk || en->en.type != TREE_UNSET ? 0 : bad(en, e, "has an unknown type");
}

static errint_t name(struct toc_json_value *v, const char **ret, size_t *ret_len, struct toc_entry *en,
		     struct err *e)
{
	*ret = v->s;
	*ret_len = v->len;
	return lossy(v->s, v->len) ? bad(en, e, "has lost bytes that are not UTF-8") : 0;
}

static errint_t set_text(struct toc_entry *en, enum member m, struct toc_json_value *v, struct err *e)
{
	switch (m) {
	case TYPE:
		return type(v->s, en, e);
	case NAME:
		return name(v, &en->name, &en->name_len, en, e);
	case LINK_NAME:
		return name(v, &en->en.target, &en->en.target_len, en, e);
	case MODTIME:
		return time_of(v, en, e);
	case DIGEST:
		return digest(v, en, &en->file, e);
	case CHUNK_DIGEST:
		return digest(v, en, &en->chunk, e);
	case CHUNK_TYPE:
		en->zeros = v->len > 0;
		return !v->len || strcmp(v->s, "zeros") == 0 ? 0 : bad(en, e, "has an unknown type of chunk");
	default:
		return 0;
	}
}

/* ---- numbers */

static void set_number(struct toc_entry *en, enum member m, uint64_t n)
{
	switch (m) {
	case MODE: en->en.mode = (uint32_t)(n & 07777); break;
	case SIZE: en->en.size = n; break;
	case UID: en->en.uid = (uint32_t)n; break;
	case GID: en->en.gid = (uint32_t)n; break;
	case DEV_MAJOR: en->en.rdev_major = (uint32_t)n; break;
	case DEV_MINOR: en->en.rdev_minor = (uint32_t)n; break;
	case OFFSET: en->offset = n; break;
	case END_OFFSET: en->end_offset = n; break;
	case INNER_OFFSET: en->inner = n; break;
	case CHUNK_SIZE: en->chunk_size = n; break;
	case CHUNK_OFFSET: en->chunk_offset = n; break;
	default: break;
	}
}

/* ---- extended attributes */

static errint_t xattr(struct toc_entry *en, const char *key, size_t key_len, const struct toc_json_value *v,
		      uint8_t **out, struct err *e)
{
	struct tree_xattr_in *x;
	long n = v->kind == TOC_JSON_STRING ? base64_decode(v->s, v->len, *out) : -EINVAL;

	if (n < 0 || lossy(key, key_len))
		return bad(en, e, "has an attribute that is not base64, or lost bytes of its name");
	if (en->en.n_xattrs == XATTRS_MAX)
		return bad(en, e, "has too many attributes");
	if (en->en.n_xattrs % 16 == 0) {
		x = realloc(en->xattrs, (en->en.n_xattrs + 16) * sizeof(*x));
		if (!x)
			return err_errno(e, ENOMEM, "reading a table of contents");
		en->xattrs = x;
	}
	/* an empty value takes an attribute away in PAX headers, which is where these come from */
	en->xattrs[en->en.n_xattrs++] = (struct tree_xattr_in){ key, key_len, n ? *out : NULL, (size_t)n };
	*out += n;
	return 0;
}

static errint_t xattrs(struct toc_json *r, struct toc_entry *en, struct err *e)
{
	struct toc_json_value v;
	uint8_t *out = malloc((size_t)(r->end - r->p) + 1);	/* decoded is less than encoded */
	char *key;
	size_t len;
	errint_t ret = 0;

	en->memory = out;
	if (!out)
		return err_errno(e, ENOMEM, "reading a table of contents");
	if (!toc_json_enter(r))
		return bad(en, e, "has attributes that are no object");
	while (ret == 0 && toc_json_member(r, &key, &len))
		ret = toc_json_value(r, &v) ? xattr(en, key, len, &v, &out, e) : bad(en, e, "is no sound JSON");
	en->en.xattrs = en->xattrs;
	return ret;
}

/* ---- */

/* MEMBERS: not one of ours; -1: almost one of ours (some readers fold case beyond ASCII). */
static int find_member(const char *key, size_t len)
{
	for (int i = 0; i < MEMBERS; i++)
		if (known[i].len == len && memcmp(key, known[i].name, len) == 0)
			return i;
	for (size_t i = 0; i < len; i++)
		if (key[i] & 0x80)
			return -1;
	for (int i = 0; i < MEMBERS; i++)
		if (known[i].len == len && strncasecmp(key, known[i].name, len) == 0)
			return -1;
	return MEMBERS;
}

static errint_t known_value(struct toc_json *r, enum member m, struct toc_json_value *v, struct toc_entry *en,
			    struct err *e)
{
	if (v->kind == TOC_JSON_NULL)
		return 0;
	if (m == XATTRS)
		return v->kind == TOC_JSON_NESTED ? xattrs(r, en, e) : bad(en, e, "has attributes that are no object");
	if (known[m].number) {
		if (v->kind != TOC_JSON_NUMBER || v->n < 0 || (uint64_t)v->n > known[m].max)
			return bad(en, e, "has a number that is out of range");
		set_number(en, m, (uint64_t)v->n);
		return 0;
	}
	return v->kind == TOC_JSON_STRING ? set_text(en, m, v, e) : bad(en, e, "has a member of the wrong type");
}

static errint_t member(struct toc_json *r, const char *key, size_t len, uint32_t *seen, struct toc_entry *en,
		       struct err *e)
{
	struct toc_json_value v;
	int m = find_member(key, len);

	if (m < 0)
		return bad(en, e, "has a member that differs from a known one in case only");
	if (!toc_json_value(r, &v))
		return 0;	/* r has failed */
	if (m == MEMBERS) {
		if (v.kind == TOC_JSON_NESTED)
			(void)toc_json_skip(r);
		return 0;
	}
	if (*seen & 1U << m)
		return bad(en, e, "has a member twice");
	*seen |= 1U << m;
	return known_value(r, (enum member)m, &v, en, e);
}

static errint_t members(struct toc_json *r, struct toc_entry *en, struct err *e)
{
	uint32_t seen = 0;
	char *key;
	size_t len;
	errint_t ret = 0;

	(void)toc_json_enter(r);
	while (ret == 0 && toc_json_member(r, &key, &len))
		ret = member(r, key, len, &seen, en, e);
	if (ret < 0)
		return ret;
	if (!toc_json_left(r))
		return bad(en, e, "is no sound JSON");
	return seen & 1U << TYPE ? 0 : bad(en, e, "has no type");
}

errint_t toc_entry_parse(const char *json, size_t len, struct toc_entry *ret, struct err *e)
{
	*ret = (struct toc_entry){ .text = malloc(len + 1), .name = "", .en.target = "" };
	if (!ret->text)
		return err_errno(e, ENOMEM, "reading a table of contents");
	if (len)
		memcpy(ret->text, json, len);

	struct toc_json r = { .p = ret->text, .end = ret->text + len };
	errint_t err = members(&r, ret, e);

	ret->en.path = ret->name;
	ret->en.path_len = ret->name_len;
	return err;
}

void toc_entry_done(struct toc_entry *en)
{
	free(en->xattrs);
	free(en->memory);
	free(en->text);
	*en = (struct toc_entry){ 0 };
}
