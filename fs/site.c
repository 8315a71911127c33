/*
 * site.c - see site.h: the memory of one registry
 */
#include "fs/site_priv.h"

#include "fs/ahead.h"
#include "fs/platforms.h"
#include "fs/prefetch.h"

#include <stdlib.h>

#include "fs/node.h"
#include "util/clock.h"

/* ---- name lists ---- */

struct name_list *name_list_ref(struct name_list *l)
{
	atomic_fetch_add(&l->refs, 1);
	return l;
}

struct name_list *name_list_unref(struct name_list *l)
{
	if (l && atomic_fetch_sub(&l->refs, 1) == 1) {
		rg_names_done(&l->names);
		free(l);
	}
	return NULL;
}

/* First index whose name is not below the key. */
static size_t lower_bound(const struct rg_names *n, const char *name, size_t len)
{
	size_t lo = 0, hi = n->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int c = strncmp(n->names[mid], name, len);

		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

bool name_list_has(const struct name_list *l, const char *name, size_t len)
{
	size_t i = lower_bound(&l->names, name, len);

	/* Names that only begin with the key sort behind it. */
	return i < l->names.n && strncmp(l->names.names[i], name, len) == 0 && !l->names.names[i][len];
}

/* ---- images ---- */

struct referrers *referrers_unref(struct referrers *r)
{
	if (r && atomic_fetch_sub(&r->refs, 1) == 1) {
		oci_manifest_free(r->m);
		free(r);
	}
	return NULL;
}

struct image *image_ref(struct image *i)
{
	atomic_fetch_add(&i->refs, 1);
	return i;
}

struct image *image_unref(struct image *i)
{
	if (!i || atomic_fetch_sub(&i->refs, 1) != 1)
		return NULL;
	prefetch_forget(i);
	(void)ahead_free(atomic_load(&i->ahead));
	for (size_t l = 0; i->layers && i->m && l < 2 * i->m->n_layers; l++)
		ca_layer_unref(atomic_load(&i->layers[l]));
	platforms_free(atomic_load(&i->platforms));
	referrers_unref(i->referrers);
	free((void *)i->layers);
	free((void *)i->lazy);
	free((void *)i->streamed);
	free(atomic_load(&i->soci));
	oci_manifest_free(i->m);
	buf_done(&i->bytes);
	free(i->media_type);
	free(i->repo);
	free(i);
	return NULL;
}

static void image_free(void *p)
{
	(void)image_unref(p);
}

static errint_t image_key(const char *repo, const struct digest *d, struct buf *out)
{
	char text[DIGEST_TEXT_MAX];

	return buf_addf(out, "%s@%s", repo, digest_text(d, text));
}

struct image *site_image_get(struct site *s, const char *repo, const struct digest *d)
{
	_cleanup_buf_ struct buf key = BUF_INIT(1024);
	struct image *i;

	if (image_key(repo, d, &key) < 0)
		return NULL;
	LOCK_SCOPE(&s->lock);
	i = hmap_get(s->images, key.data, key.len);
	if (i)
		return image_ref(i);
	i = hmap_take(s->old_images, key.data, key.len);
	if (!i)
		return NULL;
	if (hmap_put(s->images, key.data, key.len, i) < 0)
		return i;	/* no memory: it goes with its last user */
	s->image_bytes += i->bytes.len;
	return image_ref(i);
}

/* Makes room for another young image; what goes is for the caller to free without the lock. */
static struct hmap *age_images_locked(struct site *s)
{
	struct hmap *old, *fresh;

	if (hmap_count(s->images) < SITE_IMAGES_MAX / 2 && s->image_bytes < SITE_IMAGES_BYTES / 2)
		return NULL;
	fresh = hmap_new(image_free);
	if (!fresh)
		return NULL;
	old = s->old_images;
	s->old_images = s->images;
	s->images = fresh;
	s->image_bytes = 0;
	return old;
}

static errint_t image_new(struct site *s, const char *repo, struct rg_manifest *m, struct image **ret,
			  struct err *e)
{
	_cleanup_(image_unrefp) struct image *i = calloc(1, sizeof(*i));
	errint_t r;

	if (!i)
		return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
	atomic_init(&i->refs, 1);
	i->site = s;
	i->digest = m->digest;
	i->ident = node_hash_ino(7, m->digest.raw, m->digest.len);
	i->repo = strdup(repo);
	r = oci_manifest_parse(buf_str(&m->bytes), m->bytes.len, m->media_type, &i->m, e);
	if (r < 0)
		return r;
	i->layers = calloc(2 * i->m->n_layers + 1, sizeof(*i->layers));
	i->lazy = calloc(i->m->n_layers + 1, sizeof(*i->lazy));
	i->streamed = calloc(i->m->n_layers + 1, sizeof(*i->streamed));
	i->media_type = m->media_type && *m->media_type ? steal_ptr(&m->media_type) : strdup(i->m->media_type);
	if (!i->repo || !i->layers || !i->lazy || !i->streamed || !i->media_type)
		return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
	i->bytes = m->bytes;
	m->bytes = (struct buf){ 0 };
	*ret = steal_ptr(&i);
	return 0;
}

errint_t site_image_put(struct site *s, const char *repo, struct rg_manifest *m, struct image **ret,
			struct err *e)
{
	_cleanup_buf_ struct buf key = BUF_INIT(1024);
	struct image *i = NULL;
	struct hmap *old = NULL;
	errint_t r = image_new(s, repo, m, &i, e);

	if (r < 0)
		return r;
	r = image_key(repo, &i->digest, &key);
	if (r == 0) {
		LOCK_SCOPE(&s->lock);
		old = age_images_locked(s);
		if (hmap_put(s->images, key.data, key.len, i) == 0) {
			image_ref(i);
			s->image_bytes += i->bytes.len;
		}
	}
	hmap_free(old);
	*ret = i;
	return 0;
}

/* ---- trees ---- */

struct tree *site_tree_get(struct site *s, const struct digest *manifest)
{
	LOCK_SCOPE(&s->lock);

	for (size_t i = 0; i < SITE_TREES_MAX; i++) {
		struct site_tree *t = &s->trees[i];

		if (t->tree && digest_eq(&t->manifest, manifest)) {
			t->used = ++s->clock;
			return tree_ref(t->tree);
		}
	}
	return NULL;
}

void site_tree_put(struct site *s, const struct digest *manifest, struct tree *t)
{
	struct site_tree *slot = &s->trees[0];
	struct tree *old;

	{
		LOCK_SCOPE(&s->lock);
		for (size_t i = 1; i < SITE_TREES_MAX; i++)
			if (s->trees[i].used < slot->used)
				slot = &s->trees[i];
		old = slot->tree;
		*slot = (struct site_tree){ *manifest, tree_ref(t), ++s->clock };
	}
	tree_unref(old);
}

/* ---- visited names ---- */

/* In the catalogue as it was last seen? */
static bool is_catalogued(struct site *s, const char *repo)
{
	struct fact f;
	bool yes;

	if (!facts_get(s->facts, "repos", &f))
		return false;
	yes = f.list && name_list_has(f.list, repo, strlen(repo));
	fact_done(&f);
	return yes;
}

void site_visited(struct site *s, const char *repo)
{
	if (is_catalogued(s, repo))
		return;
	LOCK_SCOPE(&s->lock);
	if (!hmap_gets(s->visited, repo))
		(void)!hmap_puts(s->visited, repo, s);
}

void site_catalogued(struct site *s, const struct rg_names *names)
{
	LOCK_SCOPE(&s->lock);

	for (size_t i = 0; i < names->n && hmap_count(s->visited) > 0; i++)
		(void)hmap_takes(s->visited, names->names[i]);
}

void site_gone(struct site *s, const char *repo)
{
	LOCK_SCOPE(&s->lock);
	(void)hmap_takes(s->visited, repo);
}

bool site_is_visited(struct site *s, const char *repo)
{
	LOCK_SCOPE(&s->lock);
	return hmap_gets(s->visited, repo);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Copies n names into one arena, sorted, without duplicates. */
static errint_t list_of(char **names, size_t n, struct name_list **ret)
{
	struct name_list *l = calloc(1, sizeof(*l));
	size_t bytes = 0, kept = 0;
	char *to;

	if (!l)
		return -ENOMEM;
	atomic_init(&l->refs, 1);
	qsort(names, n, sizeof(*names), by_name);
	for (size_t i = 0; i < n; i++)
		bytes += strlen(names[i]) + 1;
	l->names.names = calloc(n + 1, sizeof(char *));
	l->names.arena = to = malloc(bytes + 1);
	if (!l->names.names || !to) {
		name_list_unref(l);
		return -ENOMEM;
	}
	for (size_t i = 0; i < n; i++) {
		size_t len = strlen(names[i]) + 1;

		if (kept && strcmp(l->names.names[kept - 1], names[i]) == 0)
			continue;
		memcpy(to, names[i], len);
		l->names.names[kept++] = to;
		to += len;
	}
	l->names.n = kept;
	*ret = l;
	return 0;
}

errint_t site_with_visited(struct site *s, struct name_list *catalog, struct name_list **ret)
{
	_cleanup_free_ char **names = NULL;
	size_t n = 0, it = 0, len, have = catalog ? catalog->names.n : 0;
	const void *key;
	errint_t r;

	LOCK_SCOPE(&s->lock);
	if (catalog && hmap_count(s->visited) == 0) {
		*ret = name_list_ref(catalog);
		return 0;
	}
	names = calloc(have + hmap_count(s->visited) + 1, sizeof(*names));
	if (!names)
		return -ENOMEM;
	for (; n < have; n++)
		names[n] = catalog->names.names[n];
	size_t first = n;

	while (hmap_next(s->visited, &it, &key, &len))
		if ((names[n] = strndup(key, len)))
			n++;
	_cleanup_free_ char **mine = malloc((n - first + 1) * sizeof(*mine));

	if (mine)
		memcpy(mine, names + first, (n - first) * sizeof(*mine));
	r = mine ? list_of(names, n, ret) : -ENOMEM;
	for (size_t i = 0; mine && i < n - first; i++)
		free(mine[i]);
	if (r == 0)
		(*ret)->fetched_ns = clock_mono_ns();
	return r;
}

/* ---- life ---- */

errint_t site_new(struct fs *fs, const char *name, const char *source, struct site **ret, struct err *e)
{
	struct site *s = calloc(1, sizeof(*s));
	errint_t r = -ENOMEM;

	if (!s)
		return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
	pthread_mutex_init(&s->lock, NULL);
	s->fs = fs;
	s->name = strdup(name);
	s->facts = facts_new();
	s->images = hmap_new(image_free);
	s->old_images = hmap_new(image_free);
	s->visited = hmap_new(NULL);
	if (s->name && s->facts && s->images && s->old_images && s->visited)
		r = rg_open(fs->client, source, &s->reg, e);
	else
		(void)err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
	if (r < 0) {
		(void)site_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

struct site *site_free(struct site *s)
{
	if (!s)
		return NULL;
	for (size_t i = 0; i < SITE_TREES_MAX; i++)
		tree_unref(s->trees[i].tree);
	hmap_free(s->images);
	hmap_free(s->old_images);
	hmap_free(s->visited);
	facts_free(s->facts);
	if (s->reg)
		rg_close(s->reg);
	pthread_mutex_destroy(&s->lock);
	free(s->name);
	free(s);
	return NULL;
}

const char *site_name(const struct site *s)
{
	return s->name;
}

struct rg_registry *site_registry(const struct site *s)
{
	return s->reg;
}

uint64_t site_epoch(const struct site *s)
{
	return atomic_load(&s->epoch);
}

void site_refresh(struct site *s, const char *repo)
{
	_cleanup_buf_ struct buf p = BUF_INIT(1024);

	atomic_fetch_add(&s->epoch, 1);
	if (!repo || !*repo) {
		facts_expire(s->facts, "");
		return;
	}
	facts_expire(s->facts, "repos");
	buf_addf(&p, "tags %s", repo);
	facts_expire(s->facts, buf_str(&p));
	buf_clear(&p);
	buf_addf(&p, "tag %s:", repo);
	facts_expire(s->facts, buf_str(&p));
	buf_clear(&p);
	buf_addf(&p, "referrers %s@", repo);
	facts_expire(s->facts, buf_str(&p));
}
