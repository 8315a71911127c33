/*
 * node.h - what the kernel's node ids mean
 *
 * A node is a place in the mount: "this tag directory", "that file".  Ids are 64-bit numbers that
 * are never reused while the process lives (generation is always 0), so that a stale id is
 * answered with ESTALE and never with somebody else's file.
 *
 * A node may stand for a whole file tree (a layer, a rootfs): then its id has the top bit set and
 * its low 32 bits free, and `id + n` is node n of that tree (cache/tree.h); handlers get the pair
 * (node, sub).  A `find` over 100 000 files therefore allocates nothing.  For all other nodes sub
 * is 0.
 *
 * Two counts: `refs` (children, handles, running operations; atomic) and `nlookup` (what the
 * kernel holds, the sum over all subs; under the table's lock).  The kernel as a whole owns one
 * ref while nlookup > 0.  Only node_give_kernel and node_forget change nlookup.
 *
 * A directory has exactly one place.  A child is found again under its parent by (name, ident):
 * ident says which thing the name meant (for example a hash of the digest), so that a moved tag
 * gets new nodes below it while the old ones live on until forgotten.
 *
 * Lock order: node_table.lock is a leaf.  Nothing is held across kind->drop_data, which runs when
 * the last ref goes.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/cleanup.h"
#include "util/err.h"

struct kind;
struct node_table;

#define NODE_ROOT_ID UINT64_C(1)
#define NODE_MAX (4u << 20)		/* nodes alive at once */
#define NODE_NAME_MAX 255

struct node {
	uint64_t id;
	uint64_t ino;			/* st_ino of sub 0: stable over restarts; node_hash_ino of parent's
					   ino and name, so that listings can say it (style.md F8);
					   1 for the root alone */
	const struct kind *kind;
	struct node *parent;		/* a ref; NULL for the root */
	char *name;			/* under the parent; "" for the root */
	uint64_t ident;
	void *data;			/* the kind's, set at birth, constant; given to kind->drop_data */

	atomic_bool looked_in;		/* the kernel has looked a name up since this was last listed */

	/* private to node.c */
	struct node_table *table;
	atomic_uint refs;		/* becomes 0 under the table's lock only */
	/* Under the table's lock: */
	uint64_t nlookup;
	struct err *last_error;		/* NULL = none */
	uint64_t place_hash;		/* of (parent, name, ident, kind) */
	struct node *next_by_id, *next_by_place;
	struct node *next_dead;
};

/* NULL: no memory (root_data dropped). */
struct node_table *node_table_new(const struct kind *root_kind, void *root_data);
/* Drops whatever the kernel never forgot.  No operation runs any more; no ref is held outside. */
struct node_table *node_table_free(struct node_table *t);

struct node *node_root(struct node_table *t);				/* a new ref */
/* A new ref and the sub, or NULL: unknown (ESTALE). */
struct node *node_get(struct node_table *t, uint64_t id, uint32_t *ret_sub);
struct node *node_ref(struct node *n);
struct node *node_unref(struct node *n);				/* returns NULL */
DEFINE_CLEANUP(struct node *, node_unref)

/* The child of parent under (name, ident) with this kind: the living one, or a new one that takes
 * over data.  When a living one is found, data is dropped with kind->drop_data.  is_tree: the new
 * node gets a tree id.  The result is a new ref; NULL: no memory or NODE_MAX reached (data dropped). */
struct node *node_child(struct node *parent, const char *name, size_t len, uint64_t ident,
			const struct kind *kind, void *data, bool is_tree);

/* The kernel got (or gives back) n references; called for replies that carry an entry, and for
 * forget.  node_forget with an unknown id, or with more than was given, takes what there is. */
void node_give_kernel(struct node *n, uint64_t count);
void node_forget(struct node_table *t, uint64_t id, uint64_t count);

/* The stable inode number of a thing named by these bytes (63-bit hash, never 0 or 1). */
uint64_t node_hash_ino(uint64_t seed, const void *bytes, size_t len);
/* st_ino of a sub of a tree node. */
uint64_t node_sub_ino(const struct node *n, uint32_t sub);

/* What the last failing operation on this node said; shown as user.registryfs.error. */
void node_set_error(struct node *n, const struct err *e);	/* NULL clears */
bool node_get_error(struct node *n, struct err *ret);

static inline bool node_is_tree(const struct node *n)
{
	return n->id >> 63;
}

/* The id the kernel knows (node, sub) by. */
static inline uint64_t node_sub_id(const struct node *n, uint32_t sub)
{
	return n->id + sub;
}

/* Path below the mount point for messages ("app/1.0/manifest.json", "." for the root); tree subs are
 * not included. */
struct buf;
void node_path(struct node *n, struct buf *out);

/* Calls fn for every living node of a kind, or of all when kind is NULL (a copy of refs is taken first; no lock held in fn). */
void node_each(struct node_table *t, const struct kind *kind, void (*fn)(struct node *n, void *ctx), void *ctx);

size_t node_count(struct node_table *t);
uint64_t node_lookups(struct node_table *t);	/* sum of nlookup, for tests: 0 after all forgets */
