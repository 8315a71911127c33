/*
 * layer.c - open layers: one object per digest, its tree, and reads of the uncompressed tar
 *
 * An open layer holds the object of kind CA_LAYER (for the checkpoint states, which are read when a
 * span is filled again) and the tables of units and spans.  The bytes of the tar are in objects of
 * kind CA_SPAN; who misses one is told which.  The tree is read when somebody asks for it, and is
 * gone when nobody has it any more: reading files of a merged tree takes none.
 *
 * The spans that were filled last are kept open for a while (a small ring, the same lock): whoever
 * waited for one comes back for it a little later, and meanwhile others may fill so many that it
 * would be evicted again.  What is open is not (evict.c).  Those that are in memory, because the disk
 * takes nothing, give way at once when a new span finds no room there.
 *
 * A layer that is read by its table of contents is the same object with a struct toc_file in place of
 * the tables; toc_granule.c reads from it.
 *
 * Open layers are found in one table for the process, by store and key.  Its lock is a leaf; an
 * open layer is immutable, so nothing else needs one.  All layers of a store must have been
 * released before the store is freed.
 */
#include "cache/layer_priv.h"

#include <stdio.h>
#include <string.h>

#include "cache/crc.h"
#include "cache/tree_image.h"
#include "util/hmap.h"

#define COPY_BYTES (256u << 10)
#define RECENT_MAX 16		/* spans kept open in the process */
#define RECENT_DIV 4		/* but no more than this part of the limit of the disk, or of memory */

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct hmap *table;	/* of struct ca_layer, not owned; NULL when empty */
static struct recent {
	const struct ca_layer *l;	/* not owned: takes its entries along when it goes */
	struct ca_object *object;
} recent[RECENT_MAX];
static unsigned recent_next;

/* ---- names */

const char *layer_key(const struct digest *d, char out[static CA_KEY_MAX])
{
	const char *id = inflate_build_id();
	size_t n;

	(void)ca_digest_key(d, out);
	n = strlen(out);
	(void)snprintf(out + n, CA_KEY_MAX - n, "-%u-%u-%08x", TREE_RULES, LAYER_FORMAT,
		       crc32_add(0, id, strlen(id)));
	return out;
}

const char *layer_span_key(const struct digest *d, uint32_t span, char out[static CA_KEY_MAX])
{
	size_t n;

	(void)ca_digest_key(d, out);
	n = strlen(out);
	(void)snprintf(out + n, CA_KEY_MAX - n, "-%u", span);
	return out;
}

/* Everything that the result depends on: another TOC for the same blob is another layer, and one that is
 * said to have another size, as nobody has hashed the whole. */
const char *toc_layer_key(const struct digest *d, const struct ca_toc *toc, char out[static CA_KEY_MAX])
{
	char text[5 * DIGEST_TEXT_MAX + 128], a[DIGEST_TEXT_MAX], b[DIGEST_TEXT_MAX], c[DIGEST_TEXT_MAX];
	char z[DIGEST_TEXT_MAX];
	struct digest id;
	int n = snprintf(text, sizeof(text), "%s %llu %s %s %llu %llu %llu %s", digest_text(d, a),
			 (unsigned long long)toc->blob, toc->json.alg ? digest_text(&toc->json, b) : "-",
			 toc->packed_sum.alg ? digest_text(&toc->packed_sum, c) : "-",
			 (unsigned long long)toc->off, (unsigned long long)toc->packed,
			 (unsigned long long)toc->size, toc->ztoc.alg ? digest_text(&toc->ztoc, z) : "-");

	digest_of(DIGEST_SHA256, text, (size_t)n, &id);
	(void)snprintf(out, CA_KEY_MAX, "toc-%u-%s", TREE_RULES, digest_hex(&id, a));
	return out;
}

uint32_t layer_key_id(const char *key)
{
	return crc32_add(0, key, strlen(key)) | 1;
}

errint_t layer_check_cancel(struct cancel *c, struct err *e)
{
	return cancel_fired(c)
		       ? err_set(e, ECANCELED, ERR_CANCELLED, "nobody waits for it any more")
		       : 0;
}

/* ---- the table of open layers */

struct table_key {
	const struct ca_store *s;
	char key[CA_KEY_MAX];
};

static void table_key_init(struct table_key *k, const struct ca_store *s, const char *key)
{
	*k = (struct table_key){ .s = s };
	memcpy(k->key, key, strlen(key));
}

static struct ca_layer *table_get(const struct table_key *k)
{
	LOCK_SCOPE(&table_lock);
	struct ca_layer *l = table ? hmap_get(table, k, sizeof(*k)) : NULL;

	if (l)
		l->refs++;
	return l;
}

static void table_remove_locked(struct ca_layer *l)
{
	struct table_key k;

	table_key_init(&k, l->s, l->key);
	if (!table || hmap_get(table, &k, sizeof(k)) != l)
		return;
	(void)hmap_take(table, &k, sizeof(k));
	if (hmap_count(table) == 0)
		table = hmap_free(table);
}

/* Enters l, or returns the one that somebody else has entered in the meantime. */
static struct ca_layer *table_put(const struct table_key *k, struct ca_layer *l)
{
	LOCK_SCOPE(&table_lock);
	struct ca_layer *other = table ? hmap_get(table, k, sizeof(*k)) : NULL;

	if (other) {
		other->refs++;
		return other;
	}
	if (!table)
		table = hmap_new(NULL);
	if (table)
		(void)!hmap_put(table, k, sizeof(*k), l);	/* no memory: it is not shared */
	return l;
}

struct ca_layer *ca_layer_ref(struct ca_layer *l)
{
	LOCK_SCOPE(&table_lock);
	l->refs++;
	return l;
}

/* ---- spans filled last */

static unsigned recent_size(struct ca_store *s, bool in_memory)
{
	uint64_t used, max = CA_MEMORY_MAX;

	if (!in_memory)
		ca_store_usage(s, &used, &max);
	return (unsigned)MAX_OF(MIN_OF(max / RECENT_DIV / CA_SPAN_BYTES, (uint64_t)RECENT_MAX), (uint64_t)1);
}

void layer_keep_recent(struct ca_layer *l, struct ca_object *o)
{
	unsigned n = recent_size(l->s, ca_object_in_memory(o));
	struct ca_object *old;

	{
		LOCK_SCOPE(&table_lock);
		struct recent *r = &recent[recent_next++ % n];

		old = r->object;
		*r = (struct recent){ l, o };
	}
	(void)ca_object_unref(old);
}

static bool of_layer(const struct recent *r, const void *l)
{
	return r->l == l;
}

static bool in_memory_of(const struct recent *r, const void *s)
{
	return r->l && r->l->s == s && ca_object_in_memory(r->object);
}

static size_t recent_forget(bool (*which)(const struct recent *r, const void *ctx), const void *ctx)
{
	struct ca_object *old[RECENT_MAX];
	size_t n = 0;

	{
		LOCK_SCOPE(&table_lock);
		for (size_t i = 0; i < RECENT_MAX; i++) {
			if (!which(&recent[i], ctx))
				continue;
			old[n++] = recent[i].object;
			recent[i] = (struct recent){ 0 };
		}
	}
	for (size_t i = 0; i < n; i++)
		(void)ca_object_unref(old[i]);
	return n;
}

errint_t layer_object_put(struct ca_store *s, enum ca_kind kind, const char *key, const void *data,
			  size_t len, struct err *e)
{
	errint_t r = ca_object_put(s, kind, key, data, len, e);

	if (r == -ENOSPC && recent_forget(in_memory_of, s) > 0)
		r = ca_object_put(s, kind, key, data, len, e);
	return r;
}

static void layer_free(struct ca_layer *l)
{
	(void)recent_forget(of_layer, l);
	tree_weak_forget(&l->tree);
	(void)ca_object_unref(l->object);
	layer_file_done(&l->file);
	if (l->toc)
		toc_file_done(l->toc);
	free(l->toc);
	free(atomic_load(&l->twins));
	(void)pthread_mutex_destroy(&l->tree_lock);
	free(l);
}

struct ca_layer *ca_layer_unref(struct ca_layer *l)
{
	if (!l)
		return NULL;
	{
		LOCK_SCOPE(&table_lock);
		if (--l->refs > 0)
			return NULL;
		table_remove_locked(l);
	}
	layer_free(l);
	return NULL;
}

void layer_condemn(struct ca_layer *l)
{
	if (atomic_exchange(&l->condemned, true)) /* what is there now is another one */
		return;
	ca_object_drop(l->s, CA_LAYER, l->key);
	LOCK_SCOPE(&table_lock);
	table_remove_locked(l);
}

/* ---- opening */

static errint_t object_read(void *ctx, uint64_t off, void *dst, size_t len, struct err *e)
{
	return ca_object_read(ctx, off, dst, len, e);
}

static errint_t load(struct ca_layer *l, struct err *e)
{
	uint64_t len = ca_object_len(l->object);

	return l->toc ? toc_file_load(l->toc, len, object_read, l->object, e) :
			layer_file_load(&l->file, len, object_read, l->object, e);
}

static errint_t layer_open(struct ca_store *s, const struct digest *d, const char *key, bool toc,
			   struct ca_layer **ret, struct err *e)
{
	struct ca_layer *l = calloc(1, sizeof(*l));

	if (!l)
		return err_errno(e, ENOMEM, "opening a layer");
	_cleanup_(ca_layer_unrefp) struct ca_layer *guard = l;
	l->s = s;
	l->refs = 1;
	(void)pthread_mutex_init(&l->tree_lock, NULL);
	if (toc && !(l->toc = calloc(1, sizeof(*l->toc))))
		return err_errno(e, ENOMEM, "opening a layer");
	l->digest = *d;
	memcpy(l->key, key, strlen(key));
	errint_t r = ca_object_open(s, CA_LAYER, key, &l->object, e);
	if (r < 0)
		return r;
	r = load(l, e);
	if (r == -EBADMSG) {
		ca_object_drop(s, CA_LAYER, key);
		return err_set(e, ENOENT, ERR_INTEGRITY,
			       "the index of layer %s was damaged in the cache", key);
	}
	if (r == 0)
		*ret = steal_ptr(&guard);
	return r;
}

static errint_t get(struct ca_store *s, const struct digest *d, const char *key, bool toc,
		    struct ca_layer **ret, struct err *e)
{
	struct ca_layer *l = NULL;
	struct table_key k;

	table_key_init(&k, s, key);
	*ret = table_get(&k);
	if (*ret)
		return 0;
	errint_t r = layer_open(s, d, key, toc, &l, e);
	if (r < 0)
		return r;
	*ret = table_put(&k, l);
	if (*ret != l)
		(void)ca_layer_unref(l);
	return 0;
}

errint_t ca_layer_get(struct ca_store *s, const struct digest *d, struct ca_layer **ret,
		      struct err *e)
{
	char key[CA_KEY_MAX];

	return get(s, d, layer_key(d, key), false, ret, e);
}

errint_t ca_toc_layer_get(struct ca_store *s, const struct digest *d, const struct ca_toc *toc,
			  struct ca_layer **ret, struct err *e)
{
	char key[CA_KEY_MAX];

	return get(s, d, toc_layer_key(d, toc, key), true, ret, e);
}

bool ca_layer_exists(struct ca_store *s, const struct digest *d)
{
	char key[CA_KEY_MAX];

	return ca_object_exists(s, CA_LAYER, layer_key(d, key));
}

uint32_t ca_toc_id(const struct digest *d, const struct ca_toc *toc)
{
	char key[CA_KEY_MAX];

	return layer_key_id(toc_layer_key(d, toc, key));
}

bool ca_toc_layer_exists(struct ca_store *s, const struct digest *d, const struct ca_toc *toc)
{
	char key[CA_KEY_MAX];

	return ca_object_exists(s, CA_LAYER, toc_layer_key(d, toc, key));
}

bool ca_layer_is_lazy(const struct ca_layer *l)
{
	return l->toc != NULL;
}

const char *ca_layer_how(const struct ca_layer *l)
{
	static const char *const words[] = {
		[TOC_ESTARGZ] = "estargz", [TOC_ZSTD] = "zstd:chunked", [TOC_SOCI_GZIP] = "soci", [TOC_SOCI_PLAIN] = "soci",
	};

	return l->toc ? words[l->toc->format] : "streamed";
}

bool ca_layer_refuted(const struct ca_layer *l)
{
	return atomic_load(&l->refuted);
}

bool ca_layer_is_condemned(const struct ca_layer *l)
{
	return atomic_load(&l->condemned);
}

/* ---- its tree */

uint64_t ca_layer_tree_bytes(const struct ca_layer *l)
{
	return l->toc ? l->toc->tree_len : l->file.tree_len;
}

static errint_t read_tree(struct ca_layer *l, struct tree **ret, struct err *e)
{
	uint64_t len = ca_layer_tree_bytes(l);
	errint_t r = ca_object_verify(l->object, e);
	int fd;

	if (r < 0)
		return r;
	fd = ca_object_fd(l->object);
	if (fd < 0)
		return err_errno(e, ENOMEM, "reading the tree of a layer");
	return tree_open_fd(fd, (size_t)len, ret, e);
}

errint_t ca_layer_tree(struct ca_layer *l, struct tree **ret, struct err *e)
{
	errint_t r = 0;

	{
		LOCK_SCOPE(&l->tree_lock);
		*ret = tree_weak_get(&l->tree);
		if (!*ret)
			r = read_tree(l, ret, e);
		if (r == 0)
			tree_weak_set(&l->tree, *ret);
	}
	if (r != -EBADMSG)
		return r;
	layer_condemn(l);
	return err_set(e, EBADMSG, ERR_INTEGRITY, "the index of layer %s was damaged in the cache", l->key);
}

/* ---- */

uint64_t ca_layer_size(const struct ca_layer *l)
{
	return l->toc ? l->toc->size : l->file.size;
}

/* ---- reading */

static uint64_t span_len(const struct ca_layer *l, uint32_t span)
{
	return MIN_OF(l->file.size - (uint64_t)span * CA_SPAN_BYTES, (uint64_t)CA_SPAN_BYTES);
}

errint_t layer_span_open(struct ca_layer *l, uint32_t span, struct ca_object **ret)
{
	_cleanup_(ca_object_unrefp) struct ca_object *o = NULL;
	char key[CA_KEY_MAX];
	errint_t r = ca_object_open(l->s, CA_SPAN, layer_span_key(&l->digest, span, key), &o, NULL);

	if (r < 0)
		return r;
	if (ca_object_len(o) != span_len(l, span)) {
		ca_object_drop(l->s, CA_SPAN, key);
		return -EBADMSG;
	}
	*ret = steal_ptr(&o);
	return 0;
}

errint_t ca_layer_read(struct ca_layer *l, uint64_t off, void *dst, size_t len, size_t *ret_n,
		       uint32_t *ret_span, struct err *e)
{
	_cleanup_(ca_object_unrefp) struct ca_object *o = NULL;

	if (l->toc)
		return toc_layer_read(l, off, dst, len, ret_n, ret_span, e);
	*ret_n = 0;
	if (off >= l->file.size || !len)
		return 0;
	uint32_t span = (uint32_t)(off / CA_SPAN_BYTES);
	uint64_t start = (uint64_t)span * CA_SPAN_BYTES;
	size_t n = (size_t)MIN_OF(len, start + span_len(l, span) - off);
	errint_t r = layer_span_open(l, span, &o);
	if (r == 0)
		r = ca_object_read(o, off - start, dst, n, e);
	if (r == -ENOENT || r == -EBADMSG) {
		*ret_span = span;
		return err_set(e, ENODATA, r == -EBADMSG ? ERR_INTEGRITY : ERR_LOCAL,
			       "span %u of layer %s is not in the cache", span, l->key);
	}
	if (r == 0)
		*ret_n = n;
	return r;
}

/* ---- where compressed bytes come from */

/* Hands out what the cached blob has; *done counts it.  -EBADMSG: damaged from there on. */
static errint_t blob_read(struct ca_blob *b, uint64_t off, uint64_t len, ca_sink_fn sink, void *ctx,
			  struct cancel *c, uint64_t *done, struct err *e)
{
	_cleanup_free_ char *p = malloc(COPY_BYTES);

	if (!p)
		return err_errno(e, ENOMEM, "reading a blob");
	while (*done < len) {
		size_t n = 0;
		errint_t r = layer_check_cancel(c, e);

		if (r == 0 && ca_blob_read(b, off + *done, p,
					   (size_t)MIN_OF(len - *done, COPY_BYTES), &n, NULL) < 0)
			return -EBADMSG;
		if (r == 0)
			r = sink(ctx, p, n, e);
		if (r < 0)
			return r == -EBADMSG ? -EIO : r;
		*done += n;
	}
	return 0;
}

errint_t layer_source_read(struct ca_store *s, const struct digest *d, uint64_t size, uint64_t off,
			   uint64_t len, const struct ca_source *src, ca_sink_fn sink, void *ctx,
			   struct cancel *c, struct err *e)
{
	_cleanup_(ca_blob_unrefp) struct ca_blob *b = NULL;
	uint64_t done = 0;

	len = len ? len : size - off;
	if (ca_blob_get(s, d, size, &b, NULL) == 0) {
		errint_t r = blob_read(b, off, len, sink, ctx, c, &done, e);

		if (r != -EBADMSG)
			return r;
	}
	if (!src)
		return err_set(e, ENOENT, ERR_LOCAL, "the blob is not in the cache");
	off += done;
	len = off + (len - done) == size ? 0 : len - done;
	return src->read(src->ctx, d, size, off, len, sink, ctx, c, e);
}
