/* erofsread.c - see erofsread.h */
#include "tests/unit/erofsread.h"

#include <string.h>

#define BLOCK 4096u

struct er {
	const struct tree *t;
	const uint8_t *image;
	uint64_t meta;			/* bytes */
	struct erofs_tail tail;
	struct erofs_run *runs;
	uint32_t *nid_of;		/* per node that is an inode; 0: not seen yet */
	uint64_t inodes;
	char wrong[512];
};

static bool fail(struct er *r, uint32_t n, const char *what)
{
	_cleanup_buf_ struct buf path = BUF_INIT(TREE_PATH_MAX + 1);

	if (n != TREE_NONE)
		(void)tree_path(r->t, n, &path);
	if (!r->wrong[0])
		(void)snprintf(r->wrong, sizeof(r->wrong), "%s: %s", what, buf_str(&path));
	return false;
}

#define EXPECT(cond)                                 \
	do {                                         \
		if (!(cond))                         \
			return fail(r, n, #cond);    \
	} while (0)

/* Where the bytes of a directory or link are: [0, whole) in blocks, the rest behind the inode. */
struct data {
	const uint8_t *blocks, *rest;
	uint64_t size, whole;
};

static uint64_t xattr_bytes(const uint8_t *i)
{
	return er_16(i + 2) ? 12 + (er_16(i + 2) - 1) * 4u : 0;
}

static bool data_of(struct er *r, uint32_t n, const uint8_t *i, struct data *d)
{
	uint64_t at = (uint64_t)(i - r->image) + 64 + xattr_bytes(i);
	unsigned layout = er_16(i) >> 1;

	d->size = er_64(i + 8);
	EXPECT(layout == 0 || layout == 2);
	EXPECT(d->size <= r->meta);
	d->whole = layout == 0 ? d->size : d->size / BLOCK * BLOCK;
	d->blocks = r->image + (uint64_t)er_32(i + 16) * BLOCK;
	d->rest = r->image + at;
	EXPECT(d->whole == 0 || (uint64_t)er_32(i + 16) * BLOCK + d->whole <= r->meta);
	EXPECT(layout == 0 || d->size > d->whole);
	/* "inline data cross block boundary" is what the kernel calls damaged. */
	EXPECT(layout == 0 || at % BLOCK + (d->size - d->whole) <= BLOCK);
	EXPECT(layout == 0 || at + d->size - d->whole <= r->meta);
	return true;
}

/* ---- attributes ---- */

static const char *prefix_of(uint8_t index)
{
	switch (index) {
	case 1: return "user.";
	case 2: return "system.posix_acl_access";
	case 3: return "system.posix_acl_default";
	case 4: return "trusted.";
	case 6: return "security.";
	default: return NULL;
	}
}

static bool can_be_shown(const char *name, size_t len)
{
	for (uint8_t i = 1; i <= 6; i++) {
		const char *p = prefix_of(i);
		size_t n = p ? strlen(p) : 0;

		if (p && len >= n && memcmp(name, p, n) == 0 && (i == 2 || i == 3 ? len == n : len > n))
			return true;
	}
	return false;
}

static bool compare_xattrs(struct er *r, uint32_t n, const uint8_t *i)
{
	const uint8_t *p = i + 64 + 12, *end = i + 64 + xattr_bytes(i);
	const char *name;
	const void *value;
	size_t name_len, value_len;

	EXPECT((uint64_t)(i - r->image) + 64 + xattr_bytes(i) <= r->meta);
	for (size_t k = 0; tree_xattr(r->t, n, k, &name, &name_len, &value, &value_len); k++) {
		if (!can_be_shown(name, name_len))
			continue;
		EXPECT(xattr_bytes(i) > 12 && p + 4 <= end);

		const char *prefix = prefix_of(p[1]);
		size_t rest = p[0], before = prefix ? strlen(prefix) : 0, len = er_16(p + 2);

		EXPECT(prefix);
		EXPECT(p + 4 + rest + len <= end);
		EXPECT(before + rest == name_len && memcmp(name, prefix, before) == 0);
		EXPECT(memcmp(name + before, p + 4, rest) == 0);
		EXPECT(len == value_len && memcmp(p + 4 + rest, value, len) == 0);
		p += (4 + rest + len + 3) / 4 * 4;
	}
	EXPECT(xattr_bytes(i) == 0 || p == end);
	EXPECT(xattr_bytes(i) == 0 || i[64 + 4] == 0);
	return true;
}

/* ---- inodes ---- */

static const struct {
	uint8_t dtype;
	uint32_t mode;
} kinds[] = {
	[TREE_DIR] = { 2, 0040000 }, [TREE_REG] = { 1, 0100000 }, [TREE_SYMLINK] = { 7, 0120000 },
	[TREE_CHR] = { 3, 0020000 }, [TREE_BLK] = { 4, 0060000 }, [TREE_FIFO] = { 5, 0010000 },
};

static bool compare_file(struct er *r, uint32_t n, const uint8_t *i, uint64_t size)
{
	uint32_t block = er_32(i + 16), lo = 0, hi = r->tail.n_runs;

	EXPECT(er_16(i) == 1);
	if (size == 0)
		return true;
	while (lo < hi && r->runs[lo].block != block) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (r->runs[mid].block <= block)
			lo = mid;
		else
			hi = mid;
		if (hi - lo == 1 && r->runs[lo].block != block)
			break;
	}
	EXPECT(lo < r->tail.n_runs && r->runs[lo].block == block && r->runs[lo].node == n);
	EXPECT(block >= r->tail.meta_blocks);
	EXPECT(block + (size + BLOCK - 1) / BLOCK ==
	       (lo + 1 < r->tail.n_runs ? r->runs[lo + 1].block : r->tail.blocks));
	return true;
}

static bool compare_inode(struct er *r, uint32_t n, uint64_t nid)
{
	const uint8_t *i = r->image + nid * 32;
	struct tree_attr a;
	struct data d;

	tree_get(r->t, n, &a);
	EXPECT(nid * 32 + 64 <= r->meta);
	EXPECT(er_16(i) & 1);
	EXPECT(er_16(i + 4) == (kinds[a.type].mode | a.mode));
	EXPECT(er_32(i + 20) > 0 && er_32(i + 20) <= tree_count(r->t));
	EXPECT(er_32(i + 24) == a.uid && er_32(i + 28) == a.gid);
	EXPECT((int64_t)er_64(i + 32) == a.mtime_s && er_32(i + 40) == a.mtime_ns);
	EXPECT(er_32(i + 44) == a.nlink);
	EXPECT(a.type == TREE_DIR || er_64(i + 8) == a.size);
	if (!compare_xattrs(r, n, i))
		return false;
	if (a.type == TREE_REG)
		return compare_file(r, n, i, a.size);
	if (a.type == TREE_CHR || a.type == TREE_BLK)
		EXPECT(er_32(i + 16) == ((a.rdev_minor & 0xff) | (a.rdev_major & 0xfff) << 8 |
					 (a.rdev_minor & 0xfff00) << 12));
	if (a.type == TREE_SYMLINK && data_of(r, n, i, &d))
		EXPECT(memcmp(d.whole ? d.blocks : d.rest, a.target, d.size) == 0 && d.size <= BLOCK);
	return !r->wrong[0];
}

static bool see_inode(struct er *r, uint32_t n, uint64_t nid)
{
	EXPECT(nid != 0 && nid <= UINT32_MAX);
	if (r->nid_of[n]) {
		EXPECT(r->nid_of[n] == nid);
		return true;
	}
	r->nid_of[n] = (uint32_t)nid;
	r->inodes++;
	return compare_inode(r, n, nid);
}

/* ---- directories ---- */

struct name {
	const uint8_t *s;
	size_t len;
};

static int order(struct name a, struct name b)
{
	int c = memcmp(a.s, b.s, MIN_OF(a.len, b.len));

	return c ? c : (a.len > b.len) - (a.len < b.len);
}

/* The next entry's name in a block of `len` bytes. */
static struct name name_at(const uint8_t *block, size_t len, size_t k, size_t count)
{
	size_t from = er_16(block + 12 * k + 8), to = k + 1 < count ? er_16(block + 12 * (k + 1) + 8) : len;

	if (from < 12 * count || from >= to || to > len)
		return (struct name){ NULL, 0 };
	return (struct name){ block + from, k + 1 < count ? to - from : strnlen((const char *)block + from, to - from) };
}

struct listing {
	struct name last;
	uint32_t next;		/* child that has to come */
	unsigned dots;
};

static bool compare_entry(struct er *r, uint32_t n, const struct tree_attr *dir, struct name nm, uint64_t nid,
			  uint8_t dtype, struct listing *l)
{
	struct tree_attr a;

	EXPECT(nm.s && nm.len > 0 && nm.len <= 255);
	EXPECT(!l->last.s || order(l->last, nm) < 0);
	l->last = nm;
	if (nm.s[0] == '.' && (nm.len == 1 || (nm.len == 2 && nm.s[1] == '.'))) {
		EXPECT(dtype == 2);
		EXPECT(nid == r->nid_of[nm.len == 1 ? n : dir->parent]);
		l->dots++;
		return true;
	}
	EXPECT(l->next < dir->first_child + dir->n_children);
	tree_get(r->t, l->next, &a);
	EXPECT(nm.len == a.name_len && memcmp(nm.s, a.name, nm.len) == 0);
	EXPECT(dtype == kinds[a.type].dtype);
	l->next++;
	return see_inode(r, a.ino, nid);
}

static bool compare_dir(struct er *r, uint32_t n)
{
	const uint8_t *i = r->image + (uint64_t)r->nid_of[n] * 32;
	struct tree_attr a;
	struct listing l = { 0 };
	struct data d;

	tree_get(r->t, n, &a);
	l.next = a.first_child;
	if (!data_of(r, n, i, &d))
		return false;
	for (uint64_t off = 0; off < d.size; off += BLOCK) {
		const uint8_t *block = off < d.whole ? d.blocks + off : d.rest;
		size_t len = MIN_OF(d.size - off, BLOCK), count = len >= 12 ? er_16(block + 8) / 12u : 0;

		EXPECT(count > 0 && count * 12 < len && er_16(block + 8) % 12 == 0);
		for (size_t k = 0; k < count; k++)
			if (!compare_entry(r, n, &a, name_at(block, len, k, count), er_64(block + 12 * k),
					   block[12 * k + 10], &l))
				return false;
	}
	EXPECT(l.dots == 2 && l.next == a.first_child + a.n_children);
	return true;
}

/* ---- all of it ---- */

static uint32_t crc32c(uint32_t crc, const uint8_t *p, size_t len)
{
	for (size_t k = 0; k < len * 8; k++) {
		uint32_t bit = (p[k / 8] >> (k % 8) & 1) ^ (crc & 1);

		crc = crc >> 1 ^ (bit ? 0x82f63b78u : 0);
	}
	return crc;
}

static bool compare_super(struct er *r)
{
	const uint8_t *s = r->image + 1024;
	uint32_t n = TREE_NONE;

	EXPECT(er_32(s) == 0xE0F5E1E2u);
	/* The kernel begins behind magic and checksum with what they make. */
	EXPECT(er_32(s + 4) == crc32c(0x5045B54A, s + 8, BLOCK - 1024 - 8));
	EXPECT(s[12] == 12 && er_32(s + 80) == 0);
	EXPECT(er_32(s + 36) == r->tail.blocks);
	EXPECT(er_32(s + 40) == 0);
	return true;
}

static bool open_image(struct er *r, const struct buf *image)
{
	uint32_t n = TREE_NONE;

	EXPECT(image->len >= BLOCK + sizeof(r->tail));
	memcpy(&r->tail, image->data + image->len - sizeof(r->tail), sizeof(r->tail));
	r->meta = (uint64_t)r->tail.meta_blocks * BLOCK;
	EXPECT(image->len == r->meta + r->tail.n_runs * sizeof(*r->runs) + sizeof(r->tail));
	r->image = (const uint8_t *)image->data;
	r->runs = calloc((size_t)r->tail.n_runs + 1, sizeof(*r->runs));
	r->nid_of = calloc(tree_count(r->t), sizeof(*r->nid_of));
	if (!r->runs || !r->nid_of)
		abort();
	memcpy(r->runs, r->image + r->meta, r->tail.n_runs * sizeof(*r->runs));
	return true;
}

static bool compare_all(struct er *r)
{
	uint32_t n = TREE_NONE, files = 0;

	if (!compare_super(r) || !see_inode(r, TREE_ROOT, er_16(r->image + 1024 + 14)))
		return false;
	for (n = 0; n < tree_count(r->t); n++) {
		struct tree_attr a;

		tree_get(r->t, n, &a);
		EXPECT(r->nid_of[a.ino] != 0);
		files += a.ino == n && a.type == TREE_REG && a.size > 0;
		if (a.type == TREE_DIR && !compare_dir(r, n))
			return false;
	}
	n = TREE_NONE;
	EXPECT(er_64(r->image + 1024 + 16) == r->inodes);
	EXPECT(r->tail.n_runs == files);
	return true;
}

const char *er_compare(const struct tree *t, const struct buf *image)
{
	static _Thread_local char wrong[sizeof(((struct er *)0)->wrong)];
	struct er r = { .t = t };
	bool ok = open_image(&r, image) && compare_all(&r);

	free(r.runs);
	free(r.nid_of);
	memcpy(wrong, r.wrong, sizeof(wrong));
	return ok ? NULL : wrong;
}

const uint8_t *er_find(const struct buf *image, const char *path)
{
	const uint8_t *base = (const uint8_t *)image->data, *i = base + er_16(base + 1024 + 14) * 32u;

	while (*path) {
		size_t want = strcspn(path, "/");
		struct er r = { .image = base, .meta = image->len };
		const uint8_t *found = NULL;
		struct data d;

		if (er_16(i + 4) >> 12 != 4 || !data_of(&r, TREE_NONE, i, &d))
			return NULL;
		for (uint64_t off = 0; !found && off < d.size; off += BLOCK) {
			const uint8_t *block = off < d.whole ? d.blocks + off : d.rest;
			size_t len = MIN_OF(d.size - off, BLOCK), count = er_16(block + 8) / 12u;

			for (size_t k = 0; k < count; k++) {
				struct name nm = name_at(block, len, k, count);

				if (nm.len == want && memcmp(nm.s, path, want) == 0)
					found = base + er_64(block + 12 * k) * 32;
			}
		}
		if (!found)
			return NULL;
		i = found;
		path += want + (path[want] == '/');
	}
	return i;
}
