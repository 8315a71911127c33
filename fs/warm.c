/*
 * warm.c - see warm.h
 *
 * What an image needs is all of its layers and what is derived from them; what a sub-tree needs are
 * the pieces that hold its files.  The plan is made anew in each run of the handler: what the cache
 * has lost meanwhile is fetched again, a few times, so an answer means that all of it was there at
 * once, a moment ago.
 */
#include "fs/warm.h"

#include <inttypes.h>

#include "fs/need_priv.h"
#include "fs/plan.h"

#define TRIES 3		/* to have all of it at once */

/* What is asked for. */
struct part {
	struct image *img;
	bool whole;		/* else files of t */
	struct tree *t;		/* NULL: not there yet */
	size_t layer;
	uint32_t n;
};

bool warm_asked(const char *xattr)
{
	return strcmp(xattr, WARM_XATTR) == 0 || strcmp(xattr, HELD_XATTR) == 0;
}

/* ---- room ---- */

static void add_size(struct buf *b, uint64_t n)
{
	(void)buf_addf(b, "%.1f MiB", (double)n / (1 << 20));
}

static errint_t check_room(struct op *op, uint64_t bytes, const char *at_least)
{
	uint64_t room = ca_store_room(op->fs->cache);
	_cleanup_buf_ struct buf need = BUF_INIT(64), have = BUF_INIT(64);

	if (bytes <= room)
		return 0;
	add_size(&need, bytes);
	add_size(&have, room);
	return err_set(&op->err, ENOSPC, ERR_LOCAL, "this takes %s%s in the cache, which has room for %s; give %s more "
		       "(cache_size, cache_free)", at_least, buf_str(&need), buf_str(&have), ca_store_dir(op->fs->cache));
}

/* Is layer i read whole, as far as that can be told now? */
static bool is_whole(struct op *op, struct image *img, size_t i)
{
	return !lazy_wanted(op->fs, img, i);
}

/* Before anything is fetched: what has to be streamed does not become smaller. */
static errint_t check_room_first(struct op *op, struct image *img)
{
	uint64_t sum = 0;
	errint_t r = soci_decide(op, img);

	if (r < 0)
		return r;
	for (size_t i = 0; i < img->m->n_layers; i++)
		if (is_whole(op, img, i))
			sum += img->m->layers[i].size;
	return check_room(op, sum, "at least ");
}

/* ---- what it takes ---- */

static errint_t add_image(struct op *op, struct image *img, struct plan *p)
{
	_cleanup_(oci_config_freep) struct oci_config *c = NULL;
	_cleanup_(tree_unrefp) struct tree *t = NULL;
	errint_t config = op->no_wait ? 0 : need_config(op, img, &c), r = need_tree(op, img, &t);

	if (r == 0)
		r = plan_add_layers(op, p);
	if (config < 0 && config != -ENOENT && (r == 0 || r == -EINPROGRESS))
		return config;
	return r;
}

static errint_t gather(struct op *op, const struct part *w, struct plan *p)
{
	if (w->whole)
		return add_image(op, w->img, p);
	return w->t ? plan_add_files(op, p, w->t, w->layer, w->n) : -EINPROGRESS;
}

static errint_t plan_name(const struct part *w, struct buf *out)
{
	char text[DIGEST_TEXT_MAX];

	return buf_addf(out, "%s|warm %s@%s %zd %u", site_name(w->img->site), w->img->repo,
			digest_text(&w->img->digest, text), w->whole ? -2 : (ssize_t)w->layer, w->n);
}

static errint_t fetch(struct op *op, const struct part *w, struct plan *p, const struct plan_sum *sum)
{
	_cleanup_buf_ struct buf key = BUF_INIT(2048);
	errint_t r = plan_name(w, &key) < 0 ? err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory") :
					      check_room(op, sum->bytes, "");

	if (r == 0 && plan_times(op, buf_str(&key)) >= TRIES)
		r = err_set(&op->err, ENOSPC, ERR_LOCAL, "the cache does not keep what is fetched for this; give %s more "
			    "room (cache_size, cache_free)", ca_store_dir(op->fs->cache));
	return r < 0 ? r : plan_want(op, p, buf_str(&key), PLAN_WORKS, PLAN_WAITED, UINT64_MAX);
}

static errint_t warm(struct op *op, const struct part *w, struct buf *ret)
{
	_cleanup_(plan_unrefp) struct plan *p = plan_new(w->img);
	struct plan_sum sum;
	errint_t r = p ? soci_decide(op, w->img) : err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");

	if (r == 0)
		r = check_room_first(op, w->img);
	if (r == 0)
		r = gather(op, w, p);
	if (r < 0)
		return r;
	plan_sum(p, &sum);
	r = sum.missing ? fetch(op, w, p, &sum) : 0;
	return r < 0 ? r : buf_addf(ret, "%" PRIu64, sum.packed);
}

/* ---- how far it is ---- */

/* While layers are on their way. */
static void streamed(struct op *op, struct image *img, uint64_t *ret_have, uint64_t *ret_total)
{
	for (size_t i = 0; i < img->m->n_layers; i++) {
		const struct oci_descriptor *d = &img->m->layers[i];
		uint64_t got = MIN_OF(atomic_load(&img->streamed[i]), d->size);

		*ret_total += d->size;
		if (is_whole(op, img, i))
			*ret_have += ca_layer_exists(op->fs->cache, &d->digest) ? d->size : got;
	}
}

static errint_t held(struct op *op, const struct part *w, uint64_t *ret_have, uint64_t *ret_total)
{
	_cleanup_(plan_unrefp) struct plan *p = plan_new(w->img);
	bool waits = op->no_wait;
	struct plan_sum sum;
	errint_t r = p ? 0 : -ENOMEM;

	op->no_wait = true;
	if (r == 0)
		r = gather(op, w, p);
	op->no_wait = waits;
	*ret_have = *ret_total = 0;
	if (r == -EINPROGRESS) {
		streamed(op, w->img, ret_have, ret_total);
		return 0;
	}
	if (r < 0)
		return r;
	plan_sum(p, &sum);
	*ret_have = sum.packed - sum.missing_packed;
	*ret_total = sum.packed;
	return 0;
}

static errint_t answer(struct op *op, const struct part *w, const char *xattr, struct buf *ret)
{
	uint64_t have, total;
	errint_t r;

	if (strcmp(xattr, WARM_XATTR) == 0)
		return warm(op, w, ret);
	r = held(op, w, &have, &total);
	return r < 0 ? r : buf_addf(ret, "%" PRIu64 " %" PRIu64, have, total);
}

/* ---- artifacts and blobs ---- */

errint_t warm_blob(struct op *op, struct image *img, const struct oci_descriptor *d, const char *xattr,
		   struct buf *ret)
{
	_cleanup_(ca_blob_unrefp) struct ca_blob *b = NULL;
	bool waits = op->no_wait, ask = strcmp(xattr, WARM_XATTR) == 0;
	errint_t r = check_room(op, d->size, "");

	op->no_wait |= !ask;
	if (r == 0)
		r = need_blob(op, img, d, &b);
	op->no_wait = waits;
	if (r == -EINPROGRESS && !ask)
		return buf_addf(ret, "0 %" PRIu64, d->size);
	if (r < 0)
		return r;
	return ask ? buf_addf(ret, "%" PRIu64, d->size) : buf_addf(ret, "%" PRIu64 " %" PRIu64, d->size, d->size);
}

/* What is no file system is a few blobs. */
static errint_t warm_artifact(struct op *op, struct image *img, const char *xattr, struct buf *ret)
{
	bool waits = op->no_wait, ask = strcmp(xattr, WARM_XATTR) == 0;
	uint64_t have = 0, total = 0;
	errint_t waiting = 0;

	for (size_t i = 0; i < img->m->n_layers; i++)
		total += img->m->layers[i].size;
	errint_t r = check_room(op, total, "");
	op->no_wait |= !ask;
	for (size_t i = 0; i < img->m->n_layers && r == 0; i++) {
		_cleanup_(ca_blob_unrefp) struct ca_blob *b = NULL;

		r = need_blob(op, img, &img->m->layers[i], &b);
		have += r == 0 ? img->m->layers[i].size : 0;
		waiting = r == -EINPROGRESS ? r : waiting;
		r = r == -EINPROGRESS ? 0 : r;
	}
	op->no_wait = waits;
	if (r < 0 || (ask && waiting))
		return r < 0 ? r : waiting;
	return ask ? buf_addf(ret, "%" PRIu64, total) : buf_addf(ret, "%" PRIu64 " %" PRIu64, have, total);
}

/* ---- the attributes ---- */

errint_t warm_image(struct op *op, struct image *img, const char *xattr, struct buf *ret)
{
	_cleanup_(image_unrefp) struct image *main = NULL;
	errint_t r = need_platform(op, img, &main);

	if (r < 0)
		return r;
	if (!oci_is_container_image(main->m))
		return warm_artifact(op, main, xattr, ret);
	return answer(op, &(struct part){ .img = main, .whole = true }, xattr, ret);
}

errint_t warm_files(struct op *op, struct image *img, struct tree *t, size_t layer, uint32_t n,
		    const char *xattr, struct buf *ret)
{
	return answer(op, &(struct part){ .img = img, .t = t, .layer = layer, .n = n }, xattr, ret);
}

errint_t warm_held(struct op *op, struct image *img, uint64_t *ret_have, uint64_t *ret_total)
{
	return held(op, &(struct part){ .img = img, .whole = true }, ret_have, ret_total);
}
