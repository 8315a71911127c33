/* site_priv.h - inside a site (private to site.c and need.c) */
#pragma once

#include <pthread.h>

#include "fs/facts.h"
#include "fs/fs.h"
#include "fs/site.h"
#include "util/hmap.h"

#define SITE_TREES_MAX 8	/* merged trees kept open for quick reuse */

struct site {
	struct fs *fs;
	char *name;
	struct rg_registry *reg;
	struct facts *facts;
	_Atomic uint64_t epoch;

	pthread_mutex_t lock;
	/* "repo@digest" -> struct image, a ref each.  Two generations: when the young one is half of what
	 * site.h allows, the old one goes and the young one becomes old; use makes young. */
	struct hmap *images, *old_images;
	uint64_t image_bytes;	/* of the young ones' manifests */
	struct hmap *visited;	/* repository names -> anything but NULL */
	struct site_tree {
		struct digest manifest;
		struct tree *tree;
		uint64_t used;
	} trees[SITE_TREES_MAX];
	uint64_t clock;
};

/* By repo and digest; NULL: not in memory.  A new ref. */
struct image *site_image_get(struct site *s, const char *repo, const struct digest *d);
/* Parses and keeps; takes over m's bytes and type. */
errint_t site_image_put(struct site *s, const char *repo, struct rg_manifest *m, struct image **ret,
			struct err *e) _must_check_;
struct tree *site_tree_get(struct site *s, const struct digest *manifest);
void site_tree_put(struct site *s, const struct digest *manifest, struct tree *t);
/* The catalogue (may be NULL) together with the visited names. */
errint_t site_with_visited(struct site *s, struct name_list *catalog, struct name_list **ret) _must_check_;
bool site_is_visited(struct site *s, const char *repo);
/* What the catalogue lists need not be remembered: it goes when the catalogue drops it. */
void site_catalogued(struct site *s, const struct rg_names *names);
/* The registry says that there is no such repository. */
void site_gone(struct site *s, const char *repo);
