/*
 * tree_write.c - interning and laying down
 *
 * One small hash index serves strings and attribute sets: it holds (hash, number) pairs only and
 * asks its owner whether a candidate is equal.  The hash is hmap's, seeded per process, because
 * archives are written by strangers.
 */
#include "cache/tree_write.h"

#include <string.h>

#include "util/hmap.h"
#include "util/machine.h"

#define INDEX_CAP_MIN 64

size_t tree_bytes_set;

/* One tree in a hundred thousand needs more than the least; a machine that can spare it need not refuse that. */
size_t tree_bytes_max(void)
{
	if (tree_bytes_set)
		return tree_bytes_set;
	return (size_t)MIN_OF(MAX_OF(machine_memory() / TREE_BYTES_PART, (uint64_t)TREE_BYTES_MIN), (uint64_t)TREE_BYTES_MAX);
}

errint_t tree_vec_grow(void *vec, size_t *cap, size_t n, size_t max, size_t elem)
{
	void *p;

	if (n < *cap)
		return 0;
	if (n >= max)
		return -EFBIG;
	memcpy(&p, vec, sizeof(p)); /* vec is the address of some typed pointer */

	size_t want = MIN_OF(MAX_OF(*cap * 2, (size_t)16), max);
	void *q = reallocarray(p, want, elem);

	if (!q)
		return -ENOMEM;
	memcpy(vec, &q, sizeof(q));
	*cap = want;
	return 0;
}

/* ---- index ---------------------------------------------------------------------------------- */

void tree_index_done(struct tree_index *x)
{
	free(x->slots);
	*x = (struct tree_index){ 0 };
}

uint32_t tree_index_find(const struct tree_index *x, uint32_t hash, tree_index_eq eq,
			 const void *ctx)
{
	if (x->cap == 0)
		return TREE_NONE;
	for (size_t i = hash & (x->cap - 1); x->slots[i].at; i = (i + 1) & (x->cap - 1))
		if (x->slots[i].hash == hash && eq(ctx, x->slots[i].at - 1))
			return x->slots[i].at - 1;
	return TREE_NONE;
}

static void index_place(struct tree_slot *slots, size_t cap, struct tree_slot s)
{
	size_t i = s.hash & (cap - 1);

	while (slots[i].at)
		i = (i + 1) & (cap - 1);
	slots[i] = s;
}

static errint_t index_grow(struct tree_index *x)
{
	size_t cap = MAX_OF(x->cap * 2, (size_t)INDEX_CAP_MIN);
	struct tree_slot *slots = calloc(cap, sizeof(*slots));

	if (!slots)
		return -ENOMEM;
	for (size_t i = 0; i < x->cap; i++)
		if (x->slots[i].at)
			index_place(slots, cap, x->slots[i]);
	free(x->slots);
	x->slots = slots;
	x->cap = cap;
	return 0;
}

errint_t tree_index_add(struct tree_index *x, uint32_t hash, uint32_t at)
{
	errint_t r = x->count * 3 >= x->cap * 2 ? index_grow(x) : 0;

	if (r < 0)
		return r;
	index_place(x->slots, x->cap, (struct tree_slot){ .hash = hash, .at = at + 1 });
	x->count++;
	return 0;
}

/* ---- strings -------------------------------------------------------------------------------- */

struct str_key {
	const struct tree_writer *w;
	const char *s;
	size_t len;
};

static bool str_eq(const void *ctx, uint32_t at)
{
	const struct str_key *k = ctx;
	struct tree_str have = k->w->strs[at];

	return have.len == k->len && memcmp(k->w->pool + have.at, k->s, k->len) == 0;
}

static uint32_t hash32(const void *key, size_t len)
{
	return (uint32_t)hmap_hash(key, len);
}

uint32_t tree_writer_find_str(const struct tree_writer *w, const char *s, size_t len)
{
	struct str_key k = { w, s, len };

	return tree_index_find(&w->str_index, hash32(s, len), str_eq, &k);
}

static errint_t pool_reserve(struct tree_writer *w, size_t more)
{
	size_t need = w->pool_len + more;

	if (more > UINT32_MAX || need > UINT32_MAX)
		return -EFBIG;
	if (need <= w->pool_cap)
		return 0;

	size_t cap = MIN_OF(MAX_OF(w->pool_cap * 2, need + 4096), (size_t)UINT32_MAX);
	char *pool = realloc(w->pool, cap);

	if (!pool)
		return -ENOMEM;
	w->pool = pool;
	w->pool_cap = cap;
	return 0;
}

static errint_t str_append(struct tree_writer *w, const char *s, size_t len, uint32_t hash)
{
	errint_t r = tree_vec_grow(&w->strs, &w->cap_strs, w->n_strs, UINT32_MAX - 1,
				   sizeof(*w->strs));

	if (r == 0)
		r = pool_reserve(w, len + 1);
	if (r == 0)
		r = tree_index_add(&w->str_index, hash, (uint32_t)w->n_strs);
	if (r < 0)
		return r;
	if (len > 0)
		memcpy(w->pool + w->pool_len, s, len);
	w->pool[w->pool_len + len] = '\0';
	w->strs[w->n_strs++] = (struct tree_str){ (uint32_t)w->pool_len, (uint32_t)len };
	w->pool_len += len + 1;
	return 0;
}

uint32_t tree_writer_str(struct tree_writer *w, const char *s, size_t len)
{
	s = len > 0 ? s : ""; /* NULL is fine for nothing */

	uint32_t hash = hash32(s, len);
	struct str_key k = { w, s, len };
	uint32_t at = tree_index_find(&w->str_index, hash, str_eq, &k);
	errint_t r = 0;

	if (at != TREE_NONE)
		return at;
	if (w->n_strs == 0 && len > 0)
		r = str_append(w, "", 0, hash32("", 0));
	if (r == 0)
		r = str_append(w, s, len, hash);
	if (r < 0 && !w->failed)
		w->failed = r;
	return r < 0 ? 0 : (uint32_t)w->n_strs - 1;
}

/* ---- sets of extended attributes ------------------------------------------------------------ */

struct xset_key {
	const struct tree_writer *w;
	const struct tree_xattr *x;
	size_t n;
};

static bool xset_eq(const void *ctx, uint32_t at)
{
	const struct xset_key *k = ctx;
	struct tree_xset have = k->w->xsets[at];

	return have.count == k->n &&
	       memcmp(k->w->xattrs + have.first, k->x, k->n * sizeof(*k->x)) == 0;
}

static bool xattr_fits(const struct tree_xattr_in *in)
{
	return in->name_len > 0 && in->name_len <= TREE_XATTR_NAME_MAX &&
	       in->value_len <= TREE_XATTR_VALUE_MAX && !memchr(in->name, '\0', in->name_len);
}

static struct tree_xattr xattr_intern(struct tree_writer *w, const struct tree_xattr_in *in)
{
	uint32_t name = tree_writer_str(w, in->name, in->name_len);
	uint32_t value = tree_writer_str(w, in->value, in->value_len);

	if (w->failed)
		return (struct tree_xattr){ 0 };
	return (struct tree_xattr){
		.name = w->strs[name].at, .name_len = w->strs[name].len,
		.value = w->strs[value].at, .value_len = w->strs[value].len,
	};
}

struct xattr_order {
	const struct tree_xattr_in *in;
	size_t seq;
};

static int xattr_order_cmp(const void *a, const void *b)
{
	const struct xattr_order *x = a, *y = b;
	int c = name_cmp(x->in->name, x->in->name_len, y->in->name, y->in->name_len);

	return c != 0 ? c : (x->seq > y->seq) - (x->seq < y->seq);
}

static bool same_name(const struct tree_xattr_in *a, const struct tree_xattr_in *b)
{
	return name_cmp(a->name, a->name_len, b->name, b->name_len) == 0;
}

/* Sorted by name, the last of equal names only, and that one only when it has a value. */
static size_t xattr_sort(struct xattr_order *order, const struct tree_xattr_in *in, size_t n)
{
	size_t m = 0, out = 0;

	for (size_t i = 0; i < n; i++)
		if (xattr_fits(&in[i]))
			order[m++] = (struct xattr_order){ &in[i], i };
	if (m > 1)
		qsort(order, m, sizeof(*order), xattr_order_cmp);
	for (size_t i = 0; i < m; i++)
		if (order[i].in->value && (i + 1 == m || !same_name(order[i].in, order[i + 1].in)))
			order[out++] = order[i];
	return out;
}

static errint_t xset_append(struct tree_writer *w, const struct tree_xattr *x, size_t n,
			    uint32_t hash)
{
	errint_t r = tree_vec_grow(&w->xsets, &w->cap_xsets, w->n_xsets, TREE_NODES_MAX,
				   sizeof(*w->xsets));
	size_t first = w->n_xattrs;

	for (size_t i = 0; r == 0 && i < n; i++) {
		r = tree_vec_grow(&w->xattrs, &w->cap_xattrs, w->n_xattrs, UINT32_MAX,
				  sizeof(*w->xattrs));
		if (r == 0)
			w->xattrs[w->n_xattrs++] = x[i];
	}
	if (r == 0)
		r = tree_index_add(&w->xset_index, hash, (uint32_t)w->n_xsets);
	if (r == 0)
		w->xsets[w->n_xsets++] = (struct tree_xset){ (uint32_t)first, (uint32_t)n };
	return r;
}

static uint32_t xset_intern(struct tree_writer *w, const struct tree_xattr *x, size_t n)
{
	struct xset_key k = { w, x, n };
	uint32_t hash = hash32(x, n * sizeof(*x));
	uint32_t at = tree_index_find(&w->xset_index, hash, xset_eq, &k);

	if (at != TREE_NONE)
		return at + 1;

	errint_t r = xset_append(w, x, n, hash);

	if (r < 0 && !w->failed)
		w->failed = r;
	return r < 0 ? 0 : (uint32_t)w->n_xsets;
}

uint32_t tree_writer_xset(struct tree_writer *w, const struct tree_xattr_in *in, size_t n)
{
	if (n == 0 || w->failed)
		return 0;

	_cleanup_free_ struct xattr_order *order = calloc(n, sizeof(*order));
	_cleanup_free_ struct tree_xattr *x = calloc(n, sizeof(*x));

	if (!order || !x) {
		w->failed = -ENOMEM;
		return 0;
	}
	n = xattr_sort(order, in, n);
	if (n > TREE_XSET_MAX)
		w->failed = -EFBIG;
	for (size_t i = 0; i < n && !w->failed; i++)
		x[i] = xattr_intern(w, order[i].in);
	return n == 0 || w->failed ? 0 : xset_intern(w, x, n);
}

/* ---- nodes and the image -------------------------------------------------------------------- */

errint_t tree_writer_extents(struct tree_writer *w, const struct tree_extent *x, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		errint_t r = tree_vec_grow(&w->extents, &w->cap_extents, w->n_extents, UINT32_MAX,
					   sizeof(*w->extents));

		if (r < 0)
			return r;
		w->extents[w->n_extents++] = x[i];
	}
	return 0;
}

static errint_t grow_nodes(struct tree_writer *w)
{
	size_t cap = MIN_OF(MAX_OF(2 * w->cap_nodes, (size_t)16), (size_t)TREE_NODES_MAX);
	char *image;

	if (w->n_nodes < w->cap_nodes)
		return 0;
	if (w->n_nodes >= TREE_NODES_MAX)
		return -EFBIG;
	image = realloc(w->image, sizeof(struct tree_head) + cap * sizeof(*w->nodes));
	if (!image)
		return -ENOMEM;
	w->image = image;
	w->nodes = (void *)(image + sizeof(struct tree_head));
	w->cap_nodes = cap;
	return 0;
}

struct tree_node *tree_writer_node(struct tree_writer *w)
{
	errint_t r = grow_nodes(w);

	if (r < 0) {
		w->failed = w->failed ? w->failed : r;
		return NULL;
	}
	w->nodes[w->n_nodes] = (struct tree_node){ 0 };
	return &w->nodes[w->n_nodes++];
}

void tree_writer_done(struct tree_writer *w)
{
	free(w->image);
	free(w->extents);
	free(w->xsets);
	free(w->xattrs);
	free(w->strs);
	free(w->pool);
	tree_index_done(&w->str_index);
	tree_index_done(&w->xset_index);
	*w = (struct tree_writer){ 0 };
}

uint64_t tree_writer_bytes(const struct tree_writer *w)
{
	return w->n_nodes * sizeof(*w->nodes) + w->n_extents * sizeof(*w->extents) +
	       w->n_xsets * sizeof(*w->xsets) + w->n_xattrs * sizeof(*w->xattrs) +
	       w->n_strs * sizeof(*w->strs) + w->pool_len +
	       (w->str_index.cap + w->xset_index.cap) * sizeof(struct tree_slot);
}

errint_t tree_writer_error(errint_t failed, struct err *e)
{
	if (failed == -EFBIG)
		return err_set(e, EFBIG, ERR_LIMIT,
			       "the file tree exceeds a limit (%u entries, %zu MiB, %u attributes "
			       "of a file)", TREE_NODES_MAX, tree_bytes_max() >> 20, TREE_XSET_MAX);
	if (failed == -ECANCELED)
		return err_set(e, ECANCELED, ERR_CANCELLED, "nobody waits for it any more");
	if (failed == -ENOMEM)
		return err_set(e, ENOMEM, ERR_LOCAL, "no memory for the file tree");
	return failed < 0 ? err_set(e, -failed, ERR_BUG, "cannot lay down the file tree") : 0;
}

static char *put(char *at, const void *from, size_t len)
{
	if (len > 0)
		memcpy(at, from, len);
	return at + len;
}

errint_t tree_writer_finish(struct tree_writer *w, struct buf *ret, struct err *e)
{
	struct tree_head h = {
		.magic = TREE_MAGIC, .nodes = (uint32_t)w->n_nodes,
		.extents = (uint32_t)w->n_extents, .xsets = (uint32_t)w->n_xsets,
		.xattrs = (uint32_t)w->n_xattrs, .strings = (uint32_t)w->pool_len,
	};
	size_t nodes = sizeof(h) + w->n_nodes * sizeof(*w->nodes);
	size_t len = nodes + w->n_extents * sizeof(*w->extents) + w->n_xsets * sizeof(*w->xsets) +
		     w->n_xattrs * sizeof(*w->xattrs) + w->pool_len;
	char *image, *at;

	if (w->failed)
		return tree_writer_error(w->failed, e);
	if (len > ret->max)
		return err_set(e, EFBIG, ERR_LIMIT, "the file tree needs more than %zu bytes", ret->max);
	image = realloc(w->image, len + 1);
	if (!image)
		return tree_writer_error(-ENOMEM, e);
	w->image = NULL;
	(void)put(image, &h, sizeof(h));
	at = put(image + nodes, w->extents, w->n_extents * sizeof(*w->extents));
	at = put(at, w->xsets, w->n_xsets * sizeof(*w->xsets));
	at = put(at, w->xattrs, w->n_xattrs * sizeof(*w->xattrs));
	*put(at, w->pool, w->pool_len) = '\0';
	buf_give(ret, image, len, len + 1);
	tree_writer_done(w);
	return 0;
}
