/*
 * erofs_xattr.c - extended attributes behind an EROFS inode
 *
 *	header		12 bytes: name filter (unused), number of shared attributes (none), reserved
 *	entry ...	length of the name, its name space, length of the value (2 bytes), name, value;
 *			filled up to 4 bytes
 *
 * Files share sets in the tree, and what a set costs is a stranger's choice: each is put together
 * once, however many files have it.
 */
#include "cache/erofs.h"

#include <stdlib.h>
#include <string.h>

#include "cache/tree_image.h"

#define XATTR_HEADER 12
#define XATTR_ENTRY 4
#define XATTR_ALIGN 4
#define XATTR_VALUE_MAX UINT16_MAX
/* An inode has 16 bits for 1 + (bytes behind the header) / 4. */
#define XATTR_BODY_MAX (XATTR_HEADER + (UINT16_MAX - 1) * XATTR_ALIGN)

/* EROFS_XATTR_INDEX_*; a whole name leaves nothing to be written behind the index. */
static const struct name_space {
	const char *prefix;
	uint8_t index;
	bool whole;
} spaces[] = {
	{ "user.", 1, false },
	{ "system.posix_acl_access", 2, true },
	{ "system.posix_acl_default", 3, true },
	{ "trusted.", 4, false },
	{ "security.", 6, false },
};

static const struct name_space *space_of(const char *name, size_t len, size_t *ret_prefix)
{
	for (size_t i = 0; i < ARRAY_SIZE(spaces); i++) {
		size_t n = strlen(spaces[i].prefix);

		*ret_prefix = n;
		if (len >= n && memcmp(name, spaces[i].prefix, n) == 0 && (len == n) == spaces[i].whole)
			return &spaces[i];
	}
	return NULL;
}

static errint_t add_entry(struct buf *b, const struct tree *t, const struct tree_xattr *x, struct err *e)
{
	static const char zeros[XATTR_ALIGN];
	const char *name = t->strings + x->name;
	size_t prefix;
	const struct name_space *s = space_of(name, x->name_len, &prefix);

	if (!s)
		return 0;
	if (x->value_len > XATTR_VALUE_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "an extended attribute of %u bytes does not fit into EROFS",
			       x->value_len);
	buf_addc(b, (char)(x->name_len - prefix));
	buf_addc(b, (char)s->index);
	buf_addc(b, (char)(x->value_len & 0xff));
	buf_addc(b, (char)(x->value_len >> 8));
	buf_add(b, name + prefix, x->name_len - prefix);
	buf_add(b, t->strings + x->value, x->value_len);
	return buf_add(b, zeros, -b->len % XATTR_ALIGN);
}

static errint_t add_set(struct erofs_xattrs *to, const struct tree *t, const struct tree_xset *set,
			struct erofs_xset *ret, struct err *e)
{
	static const char header[XATTR_HEADER];
	size_t at = to->bytes.len;
	errint_t r = buf_add(&to->bytes, header, sizeof(header));

	for (uint32_t i = 0; r == 0 && i < set->count; i++)
		r = add_entry(&to->bytes, t, &t->xattrs[set->first + i], e);
	if (r < 0)
		return r == -EFBIG && buf_check(&to->bytes) == 0 ? r :
		       err_set(e, -r, ERR_LIMIT, "the extended attributes are more than EROFS metadata may have");
	if (to->bytes.len - at > XATTR_BODY_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "a file's extended attributes do not fit into EROFS");
	if (to->bytes.len - at == sizeof(header))
		to->bytes.len = at;
	*ret = (struct erofs_xset){ (uint32_t)at, (uint32_t)(to->bytes.len - at) };
	return 0;
}

errint_t erofs_xattrs_make(const struct tree *t, struct erofs_xattrs *ret, struct err *e)
{
	errint_t r = 0;

	*ret = (struct erofs_xattrs){ .bytes = BUF_INIT(EROFS_META_MAX) };
	ret->sets = calloc((size_t)t->head->xsets + 1, sizeof(*ret->sets));
	if (!ret->sets)
		return err_errno(e, ENOMEM, "making an EROFS image");
	for (uint32_t i = 0; r == 0 && i < t->head->xsets; i++)
		r = add_set(ret, t, &t->xsets[i], &ret->sets[i + 1], e);
	return r;
}

void erofs_xattrs_done(struct erofs_xattrs *x)
{
	buf_done(&x->bytes);
	free(x->sets);
	x->sets = NULL;
}
