/*
 * node.c - the node table
 *
 * One lock covers two chained hash tables over the same nodes: by id (the kernel's question) and by
 * place, that is (parent, name, ident, kind) (ours).  Nothing under it does more than walk a chain,
 * but growing, which moves all chains and happens at every doubling.
 *
 * Death: every look-up takes its reference under the lock, and the last reference is given up under
 * the lock too, in the same stretch that takes the node out of both tables.  So a node in the
 * tables has refs > 0, and nobody can find a dying one.  References beyond the last need no lock.
 * What a dead node leaves (the kind's data, its parent) is dropped outside; parents that die with
 * it are dropped in a loop, because a path may be deep.
 *
 * The root has one reference of the table's, and is not taken out before node_table_free.
 *
 * Ids: the root is 1, the others count up from 2, tree nodes are bit 63 | slot << 32 with slots
 * counting up from 1; none is ever used again (style.md F7).
 */
#include "fs/node.h"

#include <stdlib.h>
#include <string.h>

#include "fs/kind.h"
#include "util/buf.h"
#include "util/hmap.h"
#include "util/stats.h"

#define BUCKETS_MIN 256
#define TREE_BIT (UINT64_C(1) << 63)
#define TREE_SLOT_MAX UINT64_C(0x7fffffff)
#define PATH_PARTS_MAX 256	/* longer paths are shown from here on only */

struct node_table {
	pthread_mutex_t lock;
	struct node **by_id, **by_place;
	size_t n_buckets;		/* of each; a power of two */
	size_t count;
	uint64_t next_id, next_slot;
	uint64_t lookups;		/* sum of nlookup */
	struct node *root;
};

/* ---- hashes ---- */

static uint64_t mix(uint64_t x)
{
	x ^= x >> 32;
	x *= UINT64_C(0xd6e8feb86659fd93);
	x ^= x >> 32;
	x *= UINT64_C(0xd6e8feb86659fd93);
	return x ^ (x >> 32);
}

/* Up to eight bytes as a number, the same on every machine. */
static uint64_t load_le(const unsigned char *p, size_t n)
{
	uint64_t v = 0;

	for (size_t i = 0; i < n; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

uint64_t node_hash_ino(uint64_t seed, const void *bytes, size_t len)
{
	const unsigned char *p = bytes;
	uint64_t h = mix(seed ^ UINT64_C(0x9e3779b97f4a7c15)) + len;

	for (; len >= 8; len -= 8, p += 8)
		h = mix(h ^ load_le(p, 8)) * UINT64_C(0xff51afd7ed558ccd);
	h = mix(h ^ load_le(p, len)) & (TREE_BIT - 1);
	return h > 1 ? h : h + 2;
}

uint64_t node_sub_ino(const struct node *n, uint32_t sub)
{
	return sub == 0 ? n->ino : node_hash_ino(n->ino, &(uint64_t){ sub }, sizeof(uint64_t));
}

struct place {
	struct node *parent;
	const char *name;
	size_t len;
	uint64_t ident;
	const struct kind *kind;
};

static uint64_t place_hash(const struct place *p)
{
	uint64_t h = hmap_hash(p->name, p->len);

	h = mix(h ^ p->ident);
	h = mix(h ^ (uint64_t)(uintptr_t)p->parent);
	return mix(h ^ (uint64_t)(uintptr_t)p->kind);
}

/* ---- the two tables; lock held ---- */

static uint64_t id_key(uint64_t id)
{
	return id & TREE_BIT ? id & ~UINT64_C(0xffffffff) : id;
}

static struct node **id_chain(struct node_table *t, uint64_t key)
{
	return &t->by_id[mix(key) & (t->n_buckets - 1)];
}

static struct node **place_chain(struct node_table *t, uint64_t hash)
{
	return &t->by_place[hash & (t->n_buckets - 1)];
}

static void enter_chains(struct node_table *t, struct node *n)
{
	struct node **c = id_chain(t, n->id);

	n->next_by_id = *c;
	*c = n;
	c = place_chain(t, n->place_hash);
	n->next_by_place = *c;
	*c = n;
}

static void leave_chains(struct node_table *t, struct node *n)
{
	struct node **p;

	for (p = id_chain(t, n->id); *p != n; p = &(*p)->next_by_id)
		;
	*p = n->next_by_id;
	for (p = place_chain(t, n->place_hash); *p != n; p = &(*p)->next_by_place)
		;
	*p = n->next_by_place;
}

/* Doubles the tables when there is memory; longer chains otherwise. */
static void grow(struct node_table *t)
{
	size_t n_old = t->n_buckets;
	struct node **old = t->by_id;
	struct node **ids = calloc(2 * n_old, sizeof(struct node *));
	struct node **places = calloc(2 * n_old, sizeof(struct node *));

	if (!ids || !places) {
		free(ids);
		free(places);
		return;
	}
	free(t->by_place);
	t->by_id = ids;
	t->by_place = places;
	t->n_buckets = 2 * n_old;
	for (size_t i = 0; i < n_old; i++)
		for (struct node *n = old[i], *next; n; n = next) {
			next = n->next_by_id;
			enter_chains(t, n);
		}
	free(old);
}

static struct node *find_id(struct node_table *t, uint64_t id)
{
	uint64_t key = id_key(id);
	struct node *n = *id_chain(t, key);

	while (n && n->id != key)
		n = n->next_by_id;
	return n;
}

static bool is_at(const struct node *n, const struct place *p)
{
	return n->parent == p->parent && n->ident == p->ident && n->kind == p->kind &&
	       memcmp(n->name, p->name, p->len) == 0 && n->name[p->len] == '\0';
}

static struct node *find_place(struct node_table *t, const struct place *p, uint64_t hash)
{
	struct node *n = *place_chain(t, hash);

	while (n && !(n->place_hash == hash && is_at(n, p)))
		n = n->next_by_place;
	return n;
}

/* ---- life and death ---- */

static void drop_data(const struct kind *kind, void *data)
{
	if (kind->drop_data && data)
		kind->drop_data(data);
}

static struct node *node_make(struct node_table *t, const struct place *p, void *data)
{
	struct node *n = calloc(1, sizeof(*n) + p->len + 1);

	if (!n)
		return NULL;
	n->name = (char *)(n + 1);
	memcpy(n->name, p->name, p->len);
	n->table = t;
	n->kind = p->kind;
	n->parent = p->parent;
	n->ident = p->ident;
	n->data = data;
	n->ino = p->parent ? node_hash_ino(p->parent->ino, p->name, p->len) : NODE_ROOT_ID;
	n->place_hash = place_hash(p);
	atomic_init(&n->refs, 1);
	return n;
}

/* Frees a node that is in no table; its parent's reference is the caller's now. */
static struct node *bury(struct node *n)
{
	struct node *parent = n->parent;

	drop_data(n->kind, n->data);
	free(n->last_error);
	free(n);
	stat_dec(STAT_FUSE_NODES);
	return parent;
}

/* Gives up a reference that is not the last; false when it may be. */
static bool unref_easily(struct node *n)
{
	unsigned refs = atomic_load_explicit(&n->refs, memory_order_relaxed);

	while (refs > 1)
		if (atomic_compare_exchange_weak_explicit(
			    &n->refs, &refs, refs - 1, memory_order_release, memory_order_relaxed))
			return true;
	return false;
}

/* Gives up a reference.  Lock held; true: the node is out of the tables and the caller's to bury.
 */
static bool unref_locked(struct node_table *t, struct node *n)
{
	if (atomic_fetch_sub_explicit(&n->refs, 1, memory_order_acq_rel) != 1)
		return false;
	leave_chains(t, n);
	t->count--;
	return true;
}

static bool unref_last(struct node *n)
{
	LOCK_SCOPE(&n->table->lock);
	return unref_locked(n->table, n);
}

struct node *node_unref(struct node *n)
{
	while (n && !unref_easily(n) && unref_last(n))
		n = bury(n);
	return NULL;
}

struct node *node_ref(struct node *n)
{
	(void)atomic_fetch_add_explicit(&n->refs, 1, memory_order_relaxed);
	return n;
}

struct node_table *node_table_new(const struct kind *root_kind, void *root_data)
{
	struct node_table *t = calloc(1, sizeof(*t));
	struct place p = { .name = "", .kind = root_kind };

	if (t) {
		(void)pthread_mutex_init(&t->lock, NULL);
		t->n_buckets = BUCKETS_MIN;
		t->by_id = calloc(BUCKETS_MIN, sizeof(struct node *));
		t->by_place = calloc(BUCKETS_MIN, sizeof(struct node *));
		t->root = node_make(t, &p, root_data);
	}
	if (!t || !t->by_id || !t->by_place || !t->root) {
		drop_data(root_kind, root_data);
		if (t) {
			free(t->root);
			free(t->by_id);
			free(t->by_place);
		}
		free(t);
		return NULL;
	}
	t->root->id = NODE_ROOT_ID;
	t->next_id = NODE_ROOT_ID + 1;
	t->next_slot = 1;
	t->count = 1;
	enter_chains(t, t->root);
	stat_inc(STAT_FUSE_NODES);
	return t;
}

/* Takes the kernel's references away and lists the nodes that had some. */
static struct node *forget_all(struct node_table *t)
{
	struct node *list = NULL;

	LOCK_SCOPE(&t->lock);
	for (size_t i = 0; i < t->n_buckets; i++)
		for (struct node *n = t->by_id[i]; n; n = n->next_by_id) {
			if (n->nlookup == 0)
				continue;
			n->nlookup = 0;
			n->next_dead = list;
			list = n;
		}
	t->lookups = 0;
	return list;
}

struct node_table *node_table_free(struct node_table *t)
{
	if (!t)
		return NULL;
	for (struct node *n = forget_all(t), *next; n; n = next) {
		next = n->next_dead;
		(void)node_unref(n);
	}
	(void)node_unref(t->root);
	free(t->by_id);
	free(t->by_place);
	(void)pthread_mutex_destroy(&t->lock);
	free(t);
	return NULL;
}

/* ---- finding ---- */

struct node *node_root(struct node_table *t)
{
	return node_ref(t->root);
}

struct node *node_get(struct node_table *t, uint64_t id, uint32_t *ret_sub)
{
	LOCK_SCOPE(&t->lock);
	struct node *n = find_id(t, id);

	if (!n)
		return NULL;
	*ret_sub = id & TREE_BIT ? (uint32_t)id : 0;
	return node_ref(n);
}

static struct node *find_child(struct node_table *t, const struct place *p, uint64_t hash)
{
	LOCK_SCOPE(&t->lock);
	struct node *n = find_place(t, p, hash);

	return n ? node_ref(n) : NULL;
}

/* Numbers n and enters it.  Lock held; false: no room. */
static bool settle(struct node_table *t, struct node *n, bool is_tree)
{
	if (t->count >= NODE_MAX || (is_tree && t->next_slot > TREE_SLOT_MAX))
		return false;
	n->id = is_tree ? TREE_BIT | t->next_slot++ << 32 : t->next_id++;
	if (t->count >= t->n_buckets)
		grow(t);
	enter_chains(t, n);
	(void)node_ref(n->parent);
	t->count++;
	return true;
}

/* The child that somebody else has made meanwhile, or n; NULL: no room. */
static struct node *settle_or_find(struct node_table *t, struct node *n, const struct place *p,
				   bool is_tree)
{
	LOCK_SCOPE(&t->lock);
	struct node *other = find_place(t, p, n->place_hash);

	if (other)
		return node_ref(other);
	return settle(t, n, is_tree) ? n : NULL;
}

struct node *node_child(struct node *parent, const char *name, size_t len, uint64_t ident,
			const struct kind *kind, void *data, bool is_tree)
{
	struct node_table *t = parent->table;
	struct place p = { parent, name, len, ident, kind };
	struct node *n = find_child(t, &p, place_hash(&p));
	struct node *mine = NULL;

	if (!n) {
		mine = node_make(t, &p, data);
		n = mine ? settle_or_find(t, mine, &p, is_tree) : NULL;
	}
	if (n && n == mine) {
		stat_inc(STAT_FUSE_NODES);
		return n;
	}
	free(mine);
	drop_data(kind, data);
	return n;
}

/* ---- the kernel's books ---- */

void node_give_kernel(struct node *n, uint64_t count)
{
	struct node_table *t = n->table;

	if (count == 0)
		return;
	LOCK_SCOPE(&t->lock);
	if (n->nlookup == 0)
		(void)node_ref(n);
	n->nlookup += count;
	t->lookups += count;
}

/* Returns a node that is to be buried, or NULL. */
static struct node *take_back(struct node_table *t, uint64_t id, uint64_t count)
{
	LOCK_SCOPE(&t->lock);
	struct node *n = find_id(t, id);

	if (!n || n->nlookup == 0)
		return NULL;
	count = MIN_OF(count, n->nlookup);
	n->nlookup -= count;
	t->lookups -= count;
	if (n->kind->forgotten && node_is_tree(n))
		n->kind->forgotten(n, (uint32_t)id);
	return n->nlookup == 0 && unref_locked(t, n) ? n : NULL;
}

void node_forget(struct node_table *t, uint64_t id, uint64_t count)
{
	struct node *dead = take_back(t, id, count);

	if (dead)
		(void)node_unref(bury(dead));
}

size_t node_count(struct node_table *t)
{
	LOCK_SCOPE(&t->lock);
	return t->count;
}

uint64_t node_lookups(struct node_table *t)
{
	LOCK_SCOPE(&t->lock);
	return t->lookups;
}

/* ---- errors, paths, all of a kind ---- */

static struct err *swap_error(struct node *n, struct err *e)
{
	LOCK_SCOPE(&n->table->lock);
	struct err *old = n->last_error;

	n->last_error = e;
	return old;
}

void node_set_error(struct node *n, const struct err *e)
{
	struct err *copy = e ? malloc(sizeof(*copy)) : NULL;

	if (copy)
		*copy = *e;
	free(swap_error(n, copy));
}

bool node_get_error(struct node *n, struct err *ret)
{
	LOCK_SCOPE(&n->table->lock);
	if (!n->last_error)
		return false;
	*ret = *n->last_error;
	return true;
}

void node_path(struct node *n, struct buf *out)
{
	const struct node *parts[PATH_PARTS_MAX];
	size_t depth = 0;

	for (const struct node *p = n; p->parent && depth < PATH_PARTS_MAX; p = p->parent)
		parts[depth++] = p;
	if (depth == 0)
		(void)buf_addc(out, '.');
	while (depth > 0) {
		(void)buf_adds(out, parts[--depth]->name);
		if (depth > 0)
			(void)buf_addc(out, '/');
	}
}

/* References to at most max living nodes of a kind (NULL: of all); returns how many there are. */
static size_t collect(struct node_table *t, const struct kind *kind, struct node **ret, size_t max)
{
	size_t n = 0;

	LOCK_SCOPE(&t->lock);
	for (size_t i = 0; i < t->n_buckets; i++)
		for (struct node *p = t->by_id[i]; p; p = p->next_by_id) {
			if (kind && p->kind != kind)
				continue;
			if (n < max)
				ret[n] = node_ref(p);
			n++;
		}
	return n;
}

void node_each(struct node_table *t, const struct kind *kind, void (*fn)(struct node *n, void *ctx),
	       void *ctx)
{
	size_t max = collect(t, kind, NULL, 0);
	_cleanup_free_ struct node **nodes = calloc(MAX_OF(max, (size_t)1), sizeof(struct node *));

	if (!nodes)
		return;
	size_t n = MIN_OF(collect(t, kind, nodes, max), max);

	for (size_t i = 0; i < n; i++) {
		fn(nodes[i], ctx);
		(void)node_unref(nodes[i]);
	}
}
