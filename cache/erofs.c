/*
 * erofs.c - writes a merged tree as an EROFS file system (see erofs.h)
 *
 * Two passes over the nodes with the same arithmetic (struct cursor): the first finds where each
 * inode comes to lie and how large all is, the second writes.  Between them is the only
 * allocation that depends on the result.
 */
#include "cache/erofs.h"

#include <stdlib.h>
#include <string.h>

#include "cache/layer_gate.h"
#include "cache/le.h"
#include "cache/tree_image.h"

#define SUPER_AT 1024u
#define SUPER_BYTES 128u
#define INODE_BYTES 64u
#define INODE_SLOT 32u			/* inode numbers count these */
#define DENT_BYTES 12u
#define CANCEL_EVERY 65536u		/* nodes between two looks at the caller's wishes */

#define SUPER_MAGIC 0xE0F5E1E2u
#define COMPAT_CHECKSUM 0x1u
#define COMPAT_MTIME 0x2u		/* the times of inodes are those of modification */

enum { FLAT_PLAIN = 0, FLAT_INLINE = 2 };	/* data in blocks; the rest behind the inode */
#define FORMAT(layout) (1u | (unsigned)(layout) << 1)	/* 1: the extended form */

/* What a directory entry says of the file (EROFS_FT_*, the same as Linux's FT_*), and its mode. */
static const struct {
	uint8_t dtype;
	uint16_t mode;
} types[] = {
	[TREE_REG] = { 1, 0100000 }, [TREE_DIR] = { 2, 0040000 }, [TREE_CHR] = { 3, 0020000 },
	[TREE_BLK] = { 4, 0060000 }, [TREE_FIFO] = { 5, 0010000 }, [TREE_SYMLINK] = { 7, 0120000 },
};

/* A regular file with contents. */
struct content {
	uint64_t data_off;
	uint32_t layer, node;
};

struct job {
	const struct tree *t;
	struct erofs_xattrs xattrs;
	uint32_t *nid;			/* per node: where its inode is, in slots */
	struct content *files;
	uint32_t n_files, n_inodes;
	uint32_t inode_blocks, meta_blocks;
	uint64_t blocks;		/* all */
	struct cancel *c;
	struct err *e;
};

static void job_done(struct job *j)
{
	erofs_xattrs_done(&j->xattrs);
	free(j->nid);
	free(j->files);
}

static errint_t too_big(struct err *e, const char *what)
{
	return err_set(e, EFBIG, ERR_LIMIT, "%s too large for an EROFS image", what);
}

/* ---- directories ----
 *
 * Each block has its entries first, then their names; entries are sorted bytewise over the whole
 * directory, "." and ".." among them (the kernel finds all names by bisection). */

struct dents {
	const struct tree *t;
	uint32_t dir, next, end;
	unsigned dots;		/* how many of "." and ".." have been */
};

struct dent {
	const char *name;
	uint32_t len, node;
};

static struct dents dents_of(const struct tree *t, uint32_t dir)
{
	const struct tree_node *d = &t->nodes[dir];

	return (struct dents){ .t = t, .dir = dir, .next = lo32(d->u), .end = lo32(d->u) + hi32(d->u) };
}

static bool dents_peek(const struct dents *d, struct dent *ret)
{
	const struct tree_node *n = d->next < d->end ? &d->t->nodes[d->next] : NULL;
	uint32_t dots = d->dots + 1;

	if (d->dots < 2 && (!n || name_cmp("..", dots, node_name(d->t, n), n->name_len) < 0)) {
		*ret = (struct dent){ "..", dots, dots == 1 ? d->dir : d->t->nodes[d->dir].parent };
		return true;
	}
	if (n)
		*ret = (struct dent){ node_name(d->t, n), n->name_len, n->ino };
	return n != NULL;
}

static void dents_skip(struct dents *d, const struct dent *en)
{
	if (en->name[0] == '.' && (en->len == 1 || (en->len == 2 && en->name[1] == '.')))
		d->dots++;	/* no child has such a name (tree.h) */
	else
		d->next++;
}

/* Goes over what fits into one block: how many entries and bytes.  0: the end. */
static uint32_t dents_block(struct dents *d, uint32_t *ret_bytes)
{
	uint32_t count = 0;
	struct dent en;

	*ret_bytes = 0;
	while (dents_peek(d, &en) && *ret_bytes + DENT_BYTES + en.len <= EROFS_BLOCK) {
		*ret_bytes += DENT_BYTES + en.len;
		dents_skip(d, &en);
		count++;
	}
	return count;
}

static uint64_t dir_bytes(const struct tree *t, uint32_t dir)
{
	struct dents d = dents_of(t, dir);
	uint64_t blocks = 0;
	uint32_t bytes, last = 0;

	while (dents_block(&d, &bytes) > 0) {
		last = bytes;
		blocks++;
	}
	return (blocks - 1) * EROFS_BLOCK + last;	/* "." and ".." at least */
}

/* One block of entries to out; moves d on.  Returns its bytes. */
static uint32_t put_dents(const struct job *j, struct dents *d, uint8_t *out)
{
	struct dents from = *d;
	uint32_t bytes, count = dents_block(d, &bytes), name_at = count * DENT_BYTES;
	struct dent en;

	for (uint32_t i = 0; i < count && dents_peek(&from, &en); i++) {
		uint8_t *p = out + i * DENT_BYTES;

		le64_put(p, j->nid[en.node]);
		p[8] = (uint8_t)name_at;
		p[9] = (uint8_t)(name_at >> 8);
		p[10] = types[j->t->nodes[en.node].type].dtype;
		memcpy(out + name_at, en.name, en.len);
		name_at += en.len;
		dents_skip(&from, &en);
	}
	return bytes;
}

/* ---- places ---- */

/* Where the next inode goes, and the next block behind the inodes. */
struct cursor {
	uint64_t at;
	uint64_t blocks;	/* counted from the end of the inodes */
};

struct place {
	uint64_t at;
	uint64_t size;
	uint32_t xattr_len;
	uint64_t first_block;	/* of those behind the inodes; when there are any */
	uint32_t n_blocks, tail;
};

static const struct erofs_xset *xset_of(const struct job *j, const struct tree_node *n)
{
	return &j->xattrs.sets[n->xset];	/* 0 is the empty one */
}

static uint64_t size_of(const struct tree *t, uint32_t n)
{
	const struct tree_node *d = &t->nodes[n];

	switch ((enum tree_type)d->type) {
	case TREE_DIR: return dir_bytes(t, n);
	case TREE_REG: return d->u;
	case TREE_SYMLINK: return hi32(d->u);
	default: return 0;
	}
}

/* Can tail bytes follow the inode at `at` in one block?  The kernel refuses others as damaged. */
static bool tail_fits(uint64_t at, uint32_t xattr_len, uint32_t tail)
{
	return (at + INODE_BYTES + xattr_len) % EROFS_BLOCK + tail <= EROFS_BLOCK;
}

static struct place next_place(const struct job *j, struct cursor *c, uint32_t n)
{
	const struct tree_node *d = &j->t->nodes[n];
	struct place p = { .at = c->at, .size = size_of(j->t, n), .xattr_len = xset_of(j, d)->len };

	p.first_block = c->blocks;
	if (d->type == TREE_DIR || d->type == TREE_SYMLINK) {
		uint64_t next = (p.at + EROFS_BLOCK - 1) / EROFS_BLOCK * EROFS_BLOCK;

		p.n_blocks = (uint32_t)(p.size / EROFS_BLOCK);
		p.tail = p.size % EROFS_BLOCK;
		if (p.tail && !tail_fits(p.at, p.xattr_len, p.tail)) {
			if (tail_fits(next, p.xattr_len, p.tail)) {
				p.at = next;
			} else {
				p.tail = 0;
				p.n_blocks++;
			}
		}
	}
	c->blocks += p.n_blocks;
	c->at = (p.at + INODE_BYTES + p.xattr_len + p.tail + INODE_SLOT - 1) / INODE_SLOT * INODE_SLOT;
	return p;
}

static bool is_inode(const struct tree *t, uint32_t n)
{
	return t->nodes[n].ino == n;
}

static const struct cursor start = { .at = SUPER_AT + SUPER_BYTES };

/* ---- first pass ---- */

static errint_t check_node(const struct job *j, uint32_t n)
{
	const struct tree_node *d = &j->t->nodes[n];

	if (n % CANCEL_EVERY == 0 && cancel_fired(j->c))
		return -ECANCELED;
	if (d->type >= ARRAY_SIZE(types) || !types[d->type].mode)
		return err_set(j->e, EINVAL, ERR_BUG, "an EROFS image is made of a merged tree only");
	return 0;
}

static uint64_t file_blocks(uint64_t size)
{
	return size / EROFS_BLOCK + (size % EROFS_BLOCK != 0);
}

static void add_content(struct job *j, uint32_t n)
{
	const struct tree_node *d = &j->t->nodes[n];
	struct tree_extent x = { 0 };
	bool sparse = d->flags & TREE_F_SPARSE;

	if (sparse)
		(void)tree_extent(j->t, n, 0, &x);
	j->files[j->n_files++] = (struct content){ sparse ? x.data_off : d->v, d->layer, n };
}

static errint_t plan(struct job *j)
{
	struct cursor cur = start;

	for (uint32_t n = 0; n < tree_count(j->t); n++) {
		const struct tree_node *d = &j->t->nodes[n];
		errint_t r = check_node(j, n);

		if (r < 0)
			return r;
		if (!is_inode(j->t, n))
			continue;

		struct place p = next_place(j, &cur, n);

		if (cur.at > EROFS_META_MAX || cur.blocks > EROFS_META_MAX / EROFS_BLOCK)
			return too_big(j->e, "names and attributes of this image are");
		j->nid[n] = (uint32_t)(p.at / INODE_SLOT);
		j->n_inodes++;
		if (d->type == TREE_REG && p.size > 0) {
			add_content(j, n);
			j->blocks += file_blocks(p.size);
		}
		if (j->blocks > EROFS_BLOCKS_MAX)
			return too_big(j->e, "the files of this image are");
	}
	j->inode_blocks = (uint32_t)((cur.at + EROFS_BLOCK - 1) / EROFS_BLOCK);
	j->meta_blocks = j->inode_blocks + (uint32_t)cur.blocks;
	j->blocks += j->meta_blocks;
	if ((uint64_t)j->meta_blocks * EROFS_BLOCK > EROFS_META_MAX)
		return too_big(j->e, "names and attributes of this image are");
	return j->blocks > EROFS_BLOCKS_MAX ? too_big(j->e, "the files of this image are") : 0;
}

/* Where reading ahead finds what it wants next: as the archives have it. */
static int by_place(const void *a, const void *b)
{
	const struct content *x = a, *y = b;

	if (x->layer != y->layer)
		return x->layer < y->layer ? -1 : 1;
	if (x->data_off != y->data_off)
		return x->data_off < y->data_off ? -1 : 1;
	return (x->node > y->node) - (x->node < y->node);
}

/* ---- second pass ---- */

static void le16_put(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

/* Linux's new_encode_dev(): 12 bits and 20 bits, as through FUSE. */
static uint32_t encode_dev(uint32_t major, uint32_t minor)
{
	return (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xfff00) << 12;
}

static void put_inode(const struct job *j, uint32_t n, uint32_t number, const struct place *p, uint8_t *image)
{
	const struct tree_node *d = &j->t->nodes[n];
	uint8_t *i = image + p->at;

	le16_put(i, FORMAT(p->tail ? FLAT_INLINE : FLAT_PLAIN));
	if (p->xattr_len)
		le16_put(i + 2, 1 + (p->xattr_len - 12) / 4);
	le16_put(i + 4, types[d->type].mode | d->mode);
	le64_put(i + 8, p->size);
	if (d->type == TREE_CHR || d->type == TREE_BLK)
		le32_put(i + 16, encode_dev(lo32(d->u), hi32(d->u)));
	else if (p->n_blocks)
		le32_put(i + 16, (uint32_t)(j->inode_blocks + p->first_block));
	le32_put(i + 20, number);
	le32_put(i + 24, d->uid);
	le32_put(i + 28, d->gid);
	le64_put(i + 32, (uint64_t)d->mtime_s);
	le32_put(i + 40, d->mtime_ns);
	le32_put(i + 44, d->nlink);
	if (p->xattr_len)
		memcpy(i + INODE_BYTES, j->xattrs.bytes.data + xset_of(j, d)->at, p->xattr_len);
}

static void put_data(const struct job *j, uint32_t n, const struct place *p, uint8_t *image)
{
	const struct tree_node *d = &j->t->nodes[n];
	uint8_t *blocks = image + (j->inode_blocks + p->first_block) * EROFS_BLOCK;
	uint8_t *tail = image + p->at + INODE_BYTES + p->xattr_len;
	struct dents en = dents_of(j->t, n);

	if (d->type == TREE_SYMLINK)
		memcpy(p->tail ? tail : blocks, j->t->strings + lo32(d->u), p->size);
	if (d->type != TREE_DIR)
		return;
	for (uint32_t i = 0; i < p->n_blocks; i++)
		(void)put_dents(j, &en, blocks + (size_t)i * EROFS_BLOCK);
	if (p->tail)
		(void)put_dents(j, &en, tail);
}

static errint_t put_nodes(const struct job *j, uint8_t *image)
{
	struct cursor cur = start;
	uint32_t number = 0;

	for (uint32_t n = 0; n < tree_count(j->t); n++) {
		if (n % CANCEL_EVERY == 0 && cancel_fired(j->c))
			return -ECANCELED;
		if (!is_inode(j->t, n))
			continue;

		struct place p = next_place(j, &cur, n);

		put_inode(j, n, ++number, &p, image);
		if (p.n_blocks || p.tail)
			put_data(j, n, &p, image);
	}
	return 0;
}

/* Gives each file its blocks. */
static void put_runs(const struct job *j, uint8_t *image, uint8_t *runs)
{
	uint64_t block = j->meta_blocks;

	for (uint32_t i = 0; i < j->n_files; i++) {
		uint32_t n = j->files[i].node;
		struct erofs_run run = { (uint32_t)block, n };

		le32_put(image + (size_t)j->nid[n] * INODE_SLOT + 16, run.block);
		memcpy(runs + (size_t)i * sizeof(run), &run, sizeof(run));
		block += file_blocks(j->t->nodes[n].u);
	}
}

/* Castagnoli's polynomial as the kernel's crc32c(~0, ...) has it; for one block a table is not worth it. */
static uint32_t crc32c(const uint8_t *p, size_t len)
{
	uint32_t crc = ~0u;

	while (len--) {
		crc ^= *p++;
		for (int i = 0; i < 8; i++)
			crc = crc >> 1 ^ (0x82f63b78u & -(crc & 1));
	}
	return crc;
}

static void put_super(const struct job *j, const struct digest *id, uint8_t *image)
{
	uint8_t *s = image + SUPER_AT;

	le32_put(s, SUPER_MAGIC);
	le32_put(s + 8, COMPAT_CHECKSUM | COMPAT_MTIME);
	s[12] = (uint8_t)__builtin_ctz(EROFS_BLOCK);
	le16_put(s + 14, j->nid[TREE_ROOT]);
	le64_put(s + 16, j->n_inodes);
	le32_put(s + 36, (uint32_t)j->blocks);
	memcpy(s + 48, id->raw, 16);
	memcpy(s + 64, "registryfs", strlen("registryfs"));
	/* Of the rest of its block, too, with this field zero. */
	le32_put(s + 4, crc32c(s, EROFS_BLOCK - SUPER_AT));
}

/* ---- all of it ---- */

static errint_t prepare(struct job *j, struct layer_gate *gate)
{
	size_t n = tree_count(j->t);
	errint_t r = layer_gate_grow(gate, n * (sizeof(*j->nid) + sizeof(*j->files)), j->c, j->e);

	if (r < 0)
		return r;
	j->nid = calloc(n, sizeof(*j->nid));
	j->files = malloc(n * sizeof(*j->files));
	if (!j->nid || !j->files)
		return err_errno(j->e, ENOMEM, "making an EROFS image");
	r = erofs_xattrs_make(j->t, &j->xattrs, j->e);
	if (r == 0)
		r = plan(j);
	if (r == 0)
		r = layer_gate_grow(gate, (uint64_t)j->meta_blocks * EROFS_BLOCK + j->xattrs.bytes.len +
				    n * (sizeof(*j->nid) + sizeof(*j->files)), j->c, j->e);
	if (r == 0 && j->n_files)
		qsort(j->files, j->n_files, sizeof(*j->files), by_place);
	return r;
}

errint_t erofs_write(const struct tree *t, const struct digest *id, struct buf *ret, struct cancel *c,
		     struct err *e)
{
	_cleanup_(layer_gate_done) struct layer_gate gate = { 0 };
	_cleanup_(job_done) struct job j = { .t = t, .c = c, .e = e };
	errint_t r = prepare(&j, &gate);
	size_t meta = (size_t)j.meta_blocks * EROFS_BLOCK, runs = (size_t)j.n_files * sizeof(struct erofs_run);
	struct erofs_tail tail = { EROFS_TAIL_MAGIC, j.meta_blocks, j.n_files, (uint32_t)j.blocks, 0 };

	buf_clear(ret);
	if (r == 0 && buf_reserve(ret, meta + runs + sizeof(tail)) < 0)
		r = err_errno(e, ENOMEM, "making an EROFS image");
	if (r < 0)
		return r;
	memset(ret->data, 0, meta + runs + sizeof(tail) + 1);
	r = put_nodes(&j, (uint8_t *)ret->data);
	if (r < 0)
		return r;
	put_runs(&j, (uint8_t *)ret->data, (uint8_t *)ret->data + meta);
	put_super(&j, id, (uint8_t *)ret->data);
	memcpy(ret->data + meta + runs, &tail, sizeof(tail));
	ret->len = meta + runs + sizeof(tail);
	return 0;
}
