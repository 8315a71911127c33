/*
 * tree_build.c - from entries in archive order to a tree
 *
 * Two tables, as in a file system: inodes (files) and dentries (names).  A dentry is found by
 * (inode of its directory, name) in one hash index over interned names, so an entry costs a look-up
 * per path component whatever the shape of the tree; runs of entries of one directory skip even
 * that.  Replacing is cheap for the same reason: a new file gets a new inode, and what was below a
 * directory that is no more becomes unreachable because nobody names its inode again.
 *
 * Hard links follow from that: a link is one more dentry for the inode that its target has *now*,
 * whatever replaces the target later.  A target that is not there (yet) may be in a lower layer:
 * the link becomes a TREE_LINK with the cleaned target, and merge.c decides.
 *
 * Links have no attributes of their own here; those in their headers repeat the file's.
 *
 * All that entries make the builder keep is counted, also what later entries have replaced, and
 * ends at tree_bytes_max().
 */
#include "cache/tree_write.h"

#include <string.h>

#include "util/hmap.h"

#define NAME_MAX_BYTES 255
#define DIR_MODE_IMPLICIT 0755

struct dentry {
	uint32_t dir;	/* inode of the directory */
	uint32_t inode;
	uint32_t name;	/* number of the string */
};

struct clean {
	size_t len;
	char path[TREE_PATH_MAX];
};

struct tree_builder {
	struct tree_writer w;
	struct tree_node *inodes;	/* ino: number in the image, TREE_NONE before */
	size_t n_inodes, cap_inodes;
	struct dentry *dentries;
	size_t n_dentries, cap_dentries;
	struct tree_index dentry_index;
	struct tree_extent *extents;	/* of all sparse inodes, also of replaced ones */
	size_t n_extents, cap_extents;
	size_t max_bytes;
	uint64_t refused;
	struct clean path, target;	/* of the present entry */
	struct clean last;		/* a directory known to be last_dir */
	uint32_t last_dir;
};

/* ---- paths ---------------------------------------------------------------------------------- */

static bool clean_up(struct clean *c)
{
	if (c->len == 0)
		return false;

	const char *slash = memrchr(c->path, '/', c->len);

	c->len = slash ? (size_t)(slash - c->path) : 0;
	return true;
}

static bool clean_down(struct clean *c, const char *name, size_t len)
{
	size_t sep = c->len > 0;

	if (len > NAME_MAX_BYTES || c->len + sep + len > TREE_PATH_MAX)
		return false;
	if (sep)
		c->path[c->len++] = '/';
	memcpy(c->path + c->len, name, len);
	c->len += len;
	return true;
}

/* Lexical: nothing in a tree is followed.  False: no path below the root, or over a limit. */
static bool clean_path(struct clean *c, const char *s, size_t len)
{
	const char *end = s + len;
	size_t depth = 0;

	c->len = 0;
	if (len == 0)
		return true;
	if (memchr(s, '\0', len))
		return false;
	while (s < end) {
		const char *slash = memchr(s, '/', (size_t)(end - s));
		size_t n = (size_t)((slash ? slash : end) - s);

		if (n == 2 && s[0] == '.' && s[1] == '.') {
			if (!clean_up(c))
				return false;
			depth--;
		} else if (n > 0 && !(n == 1 && s[0] == '.')) {
			if (!clean_down(c, s, n) || ++depth > TREE_DEPTH_MAX)
				return false;
		}
		s = slash ? slash + 1 : end;
	}
	return true;
}

/* Splits off the last component. */
static size_t parent_len(const struct clean *c, const char **ret_name, size_t *ret_name_len)
{
	const char *slash = memrchr(c->path, '/', c->len);

	*ret_name = slash ? slash + 1 : c->path;
	*ret_name_len = c->len - (size_t)(*ret_name - c->path);
	return slash ? (size_t)(slash - c->path) : 0;
}

/* ---- tables --------------------------------------------------------------------------------- */

struct dentry_key {
	const struct dentry *all;
	uint32_t dir, name;
};

static bool dentry_eq(const void *ctx, uint32_t at)
{
	const struct dentry_key *k = ctx;

	return k->all[at].dir == k->dir && k->all[at].name == k->name;
}

static uint32_t dentry_hash(uint32_t dir, uint32_t name)
{
	uint64_t key = pair32(dir, name);

	return (uint32_t)hmap_hash(&key, sizeof(key));
}

static uint32_t dentry_find(const struct tree_builder *b, uint32_t dir, uint32_t name)
{
	struct dentry_key k = { b->dentries, dir, name };

	return tree_index_find(&b->dentry_index, dentry_hash(dir, name), dentry_eq, &k);
}

static errint_t dentry_add(struct tree_builder *b, uint32_t dir, uint32_t name, uint32_t inode)
{
	errint_t r = tree_vec_grow(&b->dentries, &b->cap_dentries, b->n_dentries,
				   TREE_NODES_MAX - 1, sizeof(*b->dentries));

	if (r == 0)
		r = tree_index_add(&b->dentry_index, dentry_hash(dir, name),
				   (uint32_t)b->n_dentries);
	if (r == 0)
		b->dentries[b->n_dentries++] = (struct dentry){ dir, inode, name };
	return r;
}

static errint_t inode_add(struct tree_builder *b, const struct tree_node *n, uint32_t *ret)
{
	errint_t r = tree_vec_grow(&b->inodes, &b->cap_inodes, b->n_inodes, TREE_NODES_MAX,
				   sizeof(*b->inodes));

	if (r < 0)
		return r;
	b->inodes[b->n_inodes] = *n;
	b->inodes[b->n_inodes].ino = TREE_NONE;
	*ret = (uint32_t)b->n_inodes++;
	return 0;
}

static bool is_dir(const struct tree_builder *b, uint32_t inode)
{
	return b->inodes[inode].type == TREE_DIR;
}

/* From now on the name stands for this inode. */
static errint_t put(struct tree_builder *b, uint32_t dir, uint32_t name, uint32_t inode)
{
	uint32_t d = dentry_find(b, dir, name);

	if (d == TREE_NONE)
		return dentry_add(b, dir, name, inode);
	if (is_dir(b, b->dentries[d].inode))
		b->last.len = SIZE_MAX;
	b->dentries[d].inode = inode;
	return 0;
}

/* ---- walking -------------------------------------------------------------------------------- */

/* A marker that is in the way stays a marker: it becomes an explicit directory. */
static errint_t make_dir(struct tree_builder *b, uint32_t dir, uint32_t name, bool replaces,
			 uint32_t *ret)
{
	struct tree_str s = b->w.strs[name];
	bool marker = replaces && s.len >= 4 && memcmp(b->w.pool + s.at, ".wh.", 4) == 0;
	struct tree_node n = {
		.type = TREE_DIR, .mode = DIR_MODE_IMPLICIT, .flags = marker ? 0 : TREE_F_IMPLICIT,
	};
	errint_t r = inode_add(b, &n, ret);

	return r < 0 ? r : put(b, dir, name, *ret);
}

static errint_t enter_dir(struct tree_builder *b, const char *name, size_t len, uint32_t *dir)
{
	uint32_t s = tree_writer_str(&b->w, name, len);

	if (b->w.failed)
		return b->w.failed;

	uint32_t d = dentry_find(b, *dir, s);

	if (d == TREE_NONE || !is_dir(b, b->dentries[d].inode))
		return make_dir(b, *dir, s, d != TREE_NONE, dir);
	*dir = b->dentries[d].inode;
	return 0;
}

static errint_t enter_dirs(struct tree_builder *b, const char *path, size_t len, uint32_t *ret)
{
	const char *end = path + len;
	errint_t r = 0;

	if (b->last.len == len && memcmp(b->last.path, path, len) == 0) {
		*ret = b->last_dir;
		return 0;
	}
	*ret = TREE_ROOT;
	for (const char *p = path; r == 0 && p < end;) {
		const char *slash = memchr(p, '/', (size_t)(end - p));
		const char *stop = slash ? slash : end;

		r = enter_dir(b, p, (size_t)(stop - p), ret);
		p = slash ? slash + 1 : end;
	}
	memcpy(b->last.path, path, len);
	b->last.len = r == 0 ? len : SIZE_MAX;
	b->last_dir = *ret;
	return r;
}

/* The inode of a path that exists, else TREE_NONE. */
static uint32_t find_path(const struct tree_builder *b, const struct clean *c)
{
	const char *end = c->path + c->len;
	uint32_t inode = TREE_ROOT;

	for (const char *p = c->path; p < end;) {
		const char *slash = memchr(p, '/', (size_t)(end - p));
		const char *stop = slash ? slash : end;
		uint32_t s = tree_writer_find_str(&b->w, p, (size_t)(stop - p));
		uint32_t d = s == TREE_NONE ? TREE_NONE : dentry_find(b, inode, s);

		if (d == TREE_NONE)
			return TREE_NONE;
		inode = b->dentries[d].inode;
		p = slash ? slash + 1 : end;
	}
	return inode;
}

/* ---- entries -------------------------------------------------------------------------------- */

static bool extents_sound(const struct tree_entry *en)
{
	uint64_t end = 0;

	for (size_t i = 0; i < en->n_extents; i++) {
		const struct tree_extent *x = &en->extents[i];

		if (x->len == 0 || x->off < end || x->off > en->size ||
		    x->len > en->size - x->off || x->data_off > TREE_SIZE_MAX - x->len)
			return false;
		end = x->off + x->len;
	}
	return true;
}

static errint_t fill_sparse(struct tree_builder *b, const struct tree_entry *en,
			    struct tree_node *n)
{
	if (en->n_extents > b->max_bytes / sizeof(*b->extents))
		return -EFBIG;
	n->flags |= TREE_F_SPARSE;
	n->v = pair32((uint32_t)b->n_extents, (uint32_t)en->n_extents);
	for (size_t i = 0; i < en->n_extents; i++) {
		errint_t r = tree_vec_grow(&b->extents, &b->cap_extents, b->n_extents,
					   UINT32_MAX, sizeof(*b->extents));

		if (r < 0)
			return r;
		b->extents[b->n_extents++] = en->extents[i];
	}
	return 0;
}

static errint_t fill_target(struct tree_builder *b, const char *target, size_t len,
			    struct tree_node *n)
{
	uint32_t s = tree_writer_str(&b->w, target, len);

	n->u = pair32(b->w.failed ? 0 : b->w.strs[s].at, (uint32_t)len);
	return b->w.failed;
}

static errint_t fill_typed(struct tree_builder *b, const struct tree_entry *en, struct tree_node *n)
{
	switch (en->type) {
	case TREE_REG:
		n->u = en->size;
		n->v = en->extents ? 0 : en->data_off;
		return en->extents ? fill_sparse(b, en, n) : 0;
	case TREE_SYMLINK:
		return fill_target(b, en->target, en->target_len, n);
	case TREE_LINK:
		return fill_target(b, b->target.path, b->target.len, n);
	case TREE_CHR:
	case TREE_BLK:
		n->u = pair32(en->rdev_major, en->rdev_minor);
		return 0;
	default:
		return 0;
	}
}

static errint_t fill(struct tree_builder *b, const struct tree_entry *en, struct tree_node *n)
{
	*n = (struct tree_node){
		.type = (uint8_t)en->type, .mode = (uint16_t)(en->mode & 07777), .uid = en->uid,
		.gid = en->gid, .mtime_s = en->mtime_s, .mtime_ns = en->mtime_ns,
		.xset = tree_writer_xset(&b->w, en->xattrs, en->n_xattrs), .ino = TREE_NONE,
	};
	return b->w.failed ? b->w.failed : fill_typed(b, en, n);
}

static errint_t add_node(struct tree_builder *b, uint32_t dir, uint32_t name,
			 const struct tree_entry *en)
{
	uint32_t d = dentry_find(b, dir, name), inode;
	struct tree_node n;
	errint_t r = fill(b, en, &n);

	if (r < 0)
		return r;
	if (d != TREE_NONE && en->type == TREE_DIR && is_dir(b, b->dentries[d].inode)) {
		b->inodes[b->dentries[d].inode] = n; /* keeps its children */
		return 0;
	}
	r = inode_add(b, &n, &inode);
	return r < 0 ? r : put(b, dir, name, inode);
}

static errint_t refuse(struct tree_builder *b)
{
	b->refused++;
	return 0;
}

static errint_t add_root(struct tree_builder *b, const struct tree_entry *en)
{
	return en->type == TREE_DIR ? fill(b, en, &b->inodes[TREE_ROOT]) : refuse(b);
}

/* The target is looked up first: making room for the link may replace it. */
static errint_t add_at(struct tree_builder *b, const struct tree_entry *en)
{
	bool link = en->type == TREE_LINK;
	uint32_t target = link ? find_path(b, &b->target) : TREE_NONE;
	const char *name;
	size_t name_len, dir_len = parent_len(&b->path, &name, &name_len);
	uint32_t dir;

	if (target != TREE_NONE && is_dir(b, target))
		return refuse(b);

	errint_t r = enter_dirs(b, b->path.path, dir_len, &dir);

	if (r < 0)
		return r;

	uint32_t s = tree_writer_str(&b->w, name, name_len);

	if (b->w.failed)
		return b->w.failed;
	return target != TREE_NONE ? put(b, dir, s, target) : add_node(b, dir, s, en);
}

/* A symbolic link that Linux could not have. */
static bool bad_symlink(const struct tree_entry *en)
{
	return en->target_len == 0 || en->target_len >= TREE_PATH_MAX ||
	       memchr(en->target, '\0', en->target_len);
}

static bool same_path(const struct clean *a, const struct clean *b)
{
	return a->len == b->len && memcmp(a->path, b->path, a->len) == 0;
}

static errint_t add_clean(struct tree_builder *b, const struct tree_entry *en)
{
	if (!clean_path(&b->path, en->path, en->path_len))
		return refuse(b);
	if (en->type == TREE_SYMLINK && bad_symlink(en))
		return refuse(b);
	if (en->type == TREE_LINK) {
		if (!clean_path(&b->target, en->target, en->target_len) || b->target.len == 0)
			return refuse(b);
		if (same_path(&b->path, &b->target))
			return 0;
	}
	return b->path.len == 0 ? add_root(b, en) : add_at(b, en);
}

static bool sound(const struct tree_entry *en)
{
	if (en->type == TREE_UNSET || en->type > TREE_LINK || en->mtime_ns >= 1000000000)
		return false;
	if (en->type != TREE_REG)
		return true;
	if (en->size > TREE_SIZE_MAX)
		return false;
	return en->extents ? extents_sound(en) : en->data_off <= TREE_SIZE_MAX - en->size;
}

errint_t tree_builder_add(struct tree_builder *b, const struct tree_entry *en, struct err *e)
{
	if (!sound(en))
		return err_set(e, EINVAL, ERR_INPUT, "entry %.*s makes no sense",
			       (int)MIN_OF(en->path_len, (size_t)200), en->path);

	errint_t r = add_clean(b, en);

	if (r == 0 && tree_builder_bytes(b) > b->max_bytes)
		r = -EFBIG;
	return tree_writer_error(r, e);
}

/* The entry stays where it is, in a directory that is none. */
void tree_builder_hide(struct tree_builder *b, const char *name, uint64_t size)
{
	uint32_t s = tree_writer_find_str(&b->w, name, strlen(name));
	uint32_t d = s == TREE_NONE ? TREE_NONE : dentry_find(b, TREE_ROOT, s);
	const struct tree_node *n = d == TREE_NONE ? NULL : &b->inodes[b->dentries[d].inode];

	if (!n || n->type != TREE_REG || (size != UINT64_MAX && n->u != size))
		return;
	b->last.len = SIZE_MAX;
	b->dentries[d].dir = TREE_NONE;
}

uint64_t tree_builder_bytes(const struct tree_builder *b)
{
	return tree_writer_bytes(&b->w) +
	       MAX_OF(b->n_inodes, b->n_dentries) * sizeof(*b->inodes) + /* links are nodes, too */
	       b->n_dentries * sizeof(*b->dentries) + b->n_extents * sizeof(*b->extents) +
	       b->dentry_index.cap * sizeof(struct tree_slot);
}

uint64_t tree_builder_refused(const struct tree_builder *b)
{
	return b->refused;
}

struct tree_builder *tree_builder_free(struct tree_builder *b)
{
	if (!b)
		return NULL;
	tree_writer_done(&b->w);
	free(b->inodes);
	free(b->dentries);
	tree_index_done(&b->dentry_index);
	free(b->extents);
	free(b);
	return NULL;
}

struct tree_builder *tree_builder_new(void)
{
	_cleanup_(tree_builder_freep) struct tree_builder *b = calloc(1, sizeof(*b));
	struct tree_node root = {
		.type = TREE_DIR, .mode = DIR_MODE_IMPLICIT, .flags = TREE_F_IMPLICIT,
	};
	uint32_t inode;

	if (!b || inode_add(b, &root, &inode) < 0)
		return NULL;
	b->max_bytes = tree_bytes_max();
	return steal_ptr(&b);
}

/* ---- laying down ---------------------------------------------------------------------------- */

/* Dentries by directory: those of inode i are list[start[i] .. start[i + 1]). */
struct by_dir {
	uint32_t *start;
	uint32_t *list;
	uint32_t *order;	/* dentries as they are numbered: order[i] is node i + 1 */
	uint32_t n_order;
};

static int by_name_cmp(const void *x, const void *y, void *ctx)
{
	const struct tree_builder *b = ctx;
	struct tree_str p = b->w.strs[b->dentries[*(const uint32_t *)x].name];
	struct tree_str q = b->w.strs[b->dentries[*(const uint32_t *)y].name];

	return name_cmp(b->w.pool + p.at, p.len, b->w.pool + q.at, q.len);
}

/* Counting sort: start[i + 1] first counts, then is the place for the next one of i. */
static void group(const struct tree_builder *b, struct by_dir *g)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < b->n_dentries; i++)
		if (b->dentries[i].dir != TREE_NONE)
			g->start[b->dentries[i].dir + 1]++;
	for (size_t i = 0; i < b->n_inodes; i++) {
		uint32_t n = g->start[i + 1];

		g->start[i + 1] = sum;
		sum += n;
	}
	for (size_t i = 0; i < b->n_dentries; i++)
		if (b->dentries[i].dir != TREE_NONE)
			g->list[g->start[b->dentries[i].dir + 1]++] = (uint32_t)i;
}

static void fill_dir(struct tree_builder *b, struct by_dir *g, uint32_t inode,
		     struct tree_node *out)
{
	uint32_t *child = g->list + g->start[inode], n = g->start[inode + 1] - g->start[inode];

	if (n > 1)
		qsort_r(child, n, sizeof(*child), by_name_cmp, b);
	out->u = n > 0 ? pair32(g->n_order + 1, n) : 0;
	out->nlink = 2;
	for (uint32_t i = 0; i < n; i++) {
		g->order[g->n_order++] = child[i];
		out->nlink += is_dir(b, b->dentries[child[i]].inode);
	}
}

static errint_t fill_extents(struct tree_builder *b, struct tree_node *out)
{
	uint32_t first = lo32(out->v), n = hi32(out->v);

	out->v = pair32((uint32_t)b->w.n_extents, n);
	return n > 0 ? tree_writer_extents(&b->w, b->extents + first, n) : 0;
}

/* Node i of the image: the inode's first name carries everything, others point there. */
static errint_t lay_node(struct tree_builder *b, struct by_dir *g, uint32_t i)
{
	const struct dentry *d = i > 0 ? &b->dentries[g->order[i - 1]] : NULL;
	uint32_t inode = d ? d->inode : TREE_ROOT;
	struct tree_node *in = &b->inodes[inode], *out = tree_writer_node(&b->w);
	bool first = in->ino == TREE_NONE;

	if (!out)
		return b->w.failed;
	if (first) {
		in->ino = i;
		*out = *in;
		out->nlink = 1;
	} else {
		*out = (struct tree_node){ .type = in->type, .ino = in->ino };
		b->w.nodes[in->ino].nlink++;
	}
	if (d) {
		out->name = b->w.strs[d->name].at;
		out->name_len = (uint8_t)b->w.strs[d->name].len;
		out->parent = b->inodes[d->dir].ino;
	}
	if (in->type == TREE_DIR)
		fill_dir(b, g, inode, out);
	return first && in->flags & TREE_F_SPARSE ? fill_extents(b, out) : 0;
}

static errint_t lay_all(struct tree_builder *b)
{
	_cleanup_free_ uint32_t *start = calloc(b->n_inodes + 1, sizeof(*start));
	_cleanup_free_ uint32_t *list = calloc(b->n_dentries + 1, sizeof(*list));
	_cleanup_free_ uint32_t *order = calloc(b->n_dentries + 1, sizeof(*order));
	struct by_dir g = { start, list, order, 0 };
	errint_t r = start && list && order ? 0 : -ENOMEM;

	if (r == 0)
		group(b, &g);
	for (uint32_t i = 0; r == 0 && i <= g.n_order; i++)
		r = lay_node(b, &g, i);
	return r;
}

errint_t tree_builder_finish(struct tree_builder *b, struct buf *ret, struct err *e)
{
	tree_index_done(&b->dentry_index); /* makes room: nothing is looked up any more */
	tree_index_done(&b->w.str_index);

	errint_t r = lay_all(b);

	free(steal_ptr(&b->inodes)); /* all is in the writer now */
	free(steal_ptr(&b->dentries));
	free(steal_ptr(&b->extents));
	return r < 0 ? tree_writer_error(r, e) : tree_writer_finish(&b->w, ret, e);
}
