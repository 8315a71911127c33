/*
 * site.h - one registry of the mount, and what is known about it right now
 *
 * In memory, per registry: the list of repositories, per repository its tags, what each tag means,
 * which digests it lets us read, parsed manifests; each with the time it was learnt.  How long that
 * is good for is policy's (po_ttl_ns).  need.c fills it through flights; kinds read it.
 *
 * All objects handed out are immutable and reference counted.  A site lives as long as the mount.
 * Lock order: site.lock is a leaf.
 */
#pragma once

#include "cache/cache.h"
#include "registry/registry.h"

struct ahead;
struct first_use;
struct fs;
struct site;

/* Parsed manifests kept for quick reuse.  An operation may count on half of it: it finds so many images
 * that it needs together (a layout), and no more. */
#define SITE_IMAGES_MAX 65536
#define SITE_IMAGES_BYTES (UINT64_C(256) << 20)

/* Immutable sorted names. */
struct name_list {
	struct rg_names names;
	_Atomic unsigned refs;
	uint64_t fetched_ns;	/* clock_mono_ns */
	_Atomic unsigned stale_uses;	/* names looked up one by one since its time is over */
};
struct name_list *name_list_ref(struct name_list *l);
struct name_list *name_list_unref(struct name_list *l);
bool name_list_has(const struct name_list *l, const char *name, size_t len);
DEFINE_CLEANUP(struct name_list *, name_list_unref)

/* A manifest or index of a repository: exact bytes and what they mean. */
struct image {
	_Atomic unsigned refs;
	struct site *site;
	char *repo;		/* relative to the site; "" = the site's root */
	struct digest digest;
	char *media_type;
	struct buf bytes;
	struct oci_manifest *m;
	uint64_t ident;		/* hash of the digest: node identity */
	struct platforms *_Atomic platforms;	/* platforms.c; made when somebody lists them */
	struct referrers *referrers;		/* the last answer; a ref, under the site's lock */
	/* Opened once, kept while the image lives (need_data.c): first the streamed ones, one a layer, then
	 * those that are read by their table of contents. */
	struct ca_layer *_Atomic *layers;
	_Atomic uint64_t *streamed;	/* bytes of each layer that have come, for who shows progress */
	_Atomic uint8_t *lazy;	/* enum lazy of each layer (need_toc.c) */
	struct soci *_Atomic soci;	/* need_soci.c; NULL: not looked for yet */
	struct ahead *_Atomic ahead;	/* who reads on, in each layer; owned (ahead.c) */
	struct first_use *_Atomic first_use;	/* which files were opened first; owned (prefetch.c) */
	atomic_bool unrecorded;		/* that is not to be known any more */
	atomic_uint condemned;	/* how often layers had to be indexed again */
};
struct image *image_ref(struct image *i);
struct image *image_unref(struct image *i);
DEFINE_CLEANUP(struct image *, image_unref)

/* What refers to an image, from all the places where it may be said (need_referrers.c). */
struct referrers {
	_Atomic unsigned refs;
	struct oci_manifest *m;
	uint64_t learnt_ns;	/* of the answer it was made from */
	uint64_t enclosing;	/* ident of the index it was found through; 0 = none */
};
struct referrers *referrers_unref(struct referrers *r);
DEFINE_CLEANUP(struct referrers *, referrers_unref)

/* name: the entry below the root ("local", "ghcr.io"), or "" for a mount with SOURCE. */
errint_t site_new(struct fs *fs, const char *name, const char *source, struct site **ret, struct err *e) _must_check_;
struct site *site_free(struct site *s);
const char *site_name(const struct site *s);
struct rg_registry *site_registry(const struct site *s);

/* A name that was used and turned out to be a repository: listed from now on (registry.md 4.1). */
void site_visited(struct site *s, const char *repo);
/* Everything mutable is to be asked for again (`.control/refresh`); repo NULL: all. */
void site_refresh(struct site *s, const char *repo);
/* Grows with every site_refresh: what was put together before it is to be put together again. */
uint64_t site_epoch(const struct site *s);
