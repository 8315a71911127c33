/*
 * need_toc.c - layers that carry a table of contents: whether to use it, and what when it is wrong
 *
 * What authenticates a TOC are annotations of the layer's descriptor, hence the manifest's digest
 * (layers.md 5.1, 5.2).  Which flavour a layer is read in is decided once per image: by its TOC when
 * there is one, unless only the streamed layer is in the cache already.  A TOC that cannot be used is
 * refused: a log line and a counter say so, a note in the cache keeps others from trying for a while.
 *
 * Trees that were made from a TOC stay as they are when it turns out wrong later: data offsets say
 * which flavour they are about, so nothing is ever read from the wrong place.
 */
#include "fs/need.h"

#include <inttypes.h>

#include "fs/need_priv.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/stats.h"

#define KEY_CHECKSUM "io.github.containers.zstd-chunked.manifest-checksum"
#define KEY_POSITION "io.github.containers.zstd-chunked.manifest-position"
#define KEY_STARGZ_CHECKSUM "io.containers.zstd-chunked.manifest-checksum"
#define KEY_STARGZ_POSITION "io.containers.zstd-chunked.manifest-position"
#define KEY_TOC_DIGEST "containerd.io/snapshot/stargz/toc.digest"
#define TYPE_CRFS 1		/* the only type of TOC there is */
#define REFUSED_S (24 * 3600)	/* a TOC that came damaged may come whole another day */

/* ---- annotations ---- */

static const char *annotation(const struct oci_descriptor *d, const char *key)
{
	return oci_annotation(d->annotations, d->n_annotations, key);
}

/* Absent: nothing happens. */
static errint_t digest_value(const char *value, struct digest *ret)
{
	return value ? digest_parse(value, strlen(value), ret) : 0;
}

static bool decimal(const char **p, uint64_t *ret)
{
	const char *s = *p;

	for (*ret = 0; *s >= '0' && *s <= '9'; s++) {
		if (*ret > (UINT64_MAX >> 1) / 10 - 9)
			return false;
		*ret = *ret * 10 + (uint64_t)(*s - '0');
	}
	bool some = s > *p;

	*p = *s == ':' ? s + 1 : s;
	return some && (*s == ':' || *s == '\0');
}

/* "offset:length:uncompressed length:type" */
static errint_t position(const char *s, struct ca_toc *ret)
{
	uint64_t type;

	if (!decimal(&s, &ret->off) || !decimal(&s, &ret->packed) || !decimal(&s, &ret->size) ||
	    !decimal(&s, &type) || *s || type != TYPE_CRFS || !ret->packed || !ret->size)
		return -EINVAL;
	return 0;
}

bool lazy_annotated(const struct oci_descriptor *d)
{
	return annotation(d, KEY_CHECKSUM) || annotation(d, KEY_TOC_DIGEST) ||
	       (annotation(d, KEY_STARGZ_CHECKSUM) && annotation(d, KEY_STARGZ_POSITION));
}

/* 0; -ENOENT: the descriptor says nothing; -EINVAL: nonsense, *e says what. */
static errint_t find_own_toc(const struct oci_descriptor *d, struct ca_toc *ret, struct err *e)
{
	const char *sum = annotation(d, KEY_CHECKSUM), *stargz_sum = annotation(d, KEY_STARGZ_CHECKSUM);
	const char *json = annotation(d, KEY_TOC_DIGEST);
	const char *at = annotation(d, sum ? KEY_POSITION : KEY_STARGZ_POSITION);
	errint_t r;

	*ret = (struct ca_toc){ .blob = d->size };
	if (!lazy_annotated(d))
		return -ENOENT;
	if (sum && (stargz_sum || json))
		return err_set(e, EINVAL, ERR_INPUT, "it has two tables of contents");
	r = digest_value(sum ? sum : stargz_sum, &ret->packed_sum) ?: digest_value(json, &ret->json);
	if (r == 0 && (at || sum))
		r = at ? position(at, ret) : -EINVAL;
	return r == 0 ? 0 : err_set(e, EINVAL, ERR_INPUT, "the annotations about its table of contents make no sense");
}

/* The same, or what a SOCI index says. */
static errint_t find_toc(const struct image *img, size_t i, struct ca_toc *ret, struct err *e)
{
	const struct ca_toc *soci = soci_toc(img, i);
	errint_t r = find_own_toc(&img->m->layers[i], ret, e);

	if (r != -ENOENT || !soci)
		return r;
	*ret = *soci;
	return 0;
}

/* ---- refusing ---- */

static errint_t note_name(const struct oci_descriptor *d, const struct ca_toc *t, struct buf *out)
{
	char layer[DIGEST_TEXT_MAX], json[DIGEST_TEXT_MAX] = "", packed[DIGEST_TEXT_MAX] = "", ztoc[DIGEST_TEXT_MAX] = "";

	if (t->json.alg)
		digest_text(&t->json, json);
	if (t->packed_sum.alg)
		digest_text(&t->packed_sum, packed);
	if (t->ztoc.alg)
		digest_text(&t->ztoc, ztoc);
	return buf_addf(out, "toc refused %s %" PRIu64 " %s %s %" PRIu64 ":%" PRIu64 ":%" PRIu64 " %s",
			digest_text(&d->digest, layer), t->blob, json, packed, t->off, t->packed, t->size, ztoc);
}

static bool was_refused(struct fs *fs, const struct oci_descriptor *d, const struct ca_toc *t)
{
	_cleanup_buf_ struct buf name = BUF_INIT(1024), value = BUF_INIT(4096);
	int64_t when = 0;

	return note_name(d, t, &name) == 0 && ca_note_get(fs->cache, buf_str(&name), &value, &when, NULL) == 0 &&
	       clock_real_s() - when < REFUSED_S;
}

/* False: that has been done. */
static bool refuse(struct image *img, size_t i, const struct err *why)
{
	const struct oci_descriptor *d = &img->m->layers[i];
	char text[DIGEST_TEXT_MAX];

	if (atomic_exchange(&img->lazy[i], LAZY_REFUSED) == LAZY_REFUSED)
		return false;
	stat_inc(STAT_TOC_FALLBACKS);
	log_warn("%s: layer %s of %s is not read in parts but fetched whole: %s", rg_name(site_registry(img->site)),
		 digest_text(&d->digest, text), img->repo, why->msg);
	return true;
}

void lazy_refuse(struct fs *fs, struct image *img, size_t i, const struct err *why)
{
	const struct oci_descriptor *d = &img->m->layers[i];
	_cleanup_buf_ struct buf name = BUF_INIT(1024);
	struct ca_toc toc;

	if (refuse(img, i, why) && find_toc(img, i, &toc, NULL) == 0 && note_name(d, &toc, &name) == 0)
		ca_note_put(fs->cache, buf_str(&name), why->msg, strlen(why->msg));
}

/* It is the registry's fault, not the layer's: nothing is remembered. */
void lazy_check_parts(struct image *img, size_t i)
{
	struct err e = { 0 };

	if (rg_sends_parts(site_registry(img->site)))
		return;
	(void)!err_set(&e, EIO, ERR_INPUT, "the registry ignores Range and sends whole blobs");
	(void)refuse(img, i, &e);
}

/* ---- choosing ---- */

static enum lazy choose(struct fs *fs, struct image *img, size_t i)
{
	const struct oci_descriptor *d = &img->m->layers[i];
	struct ca_toc toc;
	struct err e = { 0 };
	errint_t r = find_toc(img, i, &toc, &e);

	if (r == -EINVAL)
		lazy_refuse(fs, img, i, &e);
	if (r < 0 || !rg_sends_parts(site_registry(img->site)) || was_refused(fs, d, &toc))
		return LAZY_NO;
	if ((toc.ztoc.alg || !ca_toc_layer_exists(fs->cache, &d->digest, &toc)) && ca_layer_exists(fs->cache, &d->digest))
		return LAZY_NO;	/* nothing has to be fetched that way */
	return LAZY_YES;
}

size_t lazy_slot(struct fs *fs, struct image *img, size_t i)
{
	uint8_t now = atomic_load(&img->lazy[i]), none = LAZY_UNKNOWN;

	if (!soci_decided(img) && !lazy_annotated(&img->m->layers[i]))
		return i;	/* as far as that can be told now */
	if (now == LAZY_UNKNOWN) {
		uint8_t mine = (uint8_t)choose(fs, img, i);

		now = atomic_compare_exchange_strong(&img->lazy[i], &none, mine) ? mine : none;
	}
	return now == LAZY_YES ? img->m->n_layers + i : i;
}

uint32_t lazy_id(struct fs *fs, struct image *img, size_t i)
{
	struct ca_toc toc;

	if (!lazy_wanted(fs, img, i) || find_toc(img, i, &toc, NULL) < 0)
		return 0;
	return ca_toc_id(&img->m->layers[i].digest, &toc);
}

bool lazy_can_be(const struct image *img, size_t i)
{
	return lazy_annotated(&img->m->layers[i]) || soci_toc(img, i);
}

/* ---- opening ---- */

static errint_t fill_toc(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct ask *a = arg;
	struct wire_source ws = { a->site->reg, a->repo };
	struct ca_source src = wire_source(&ws);
	struct ca_layer *there = NULL;
	errint_t r;

	/* Somebody may have finished between the handler's look and this flight. */
	if (ca_toc_layer_get(fs->cache, &a->digest, &a->toc, &there, NULL) == 0) {
		(void)ca_layer_unref(there);
		return 0;
	}
	r = ca_toc_layer_fill(fs->cache, &a->digest, &a->toc, &src, c, e);
	if (r == 0)
		lazy_check_parts(a->img, a->layer_no);
	/* A registry that does not give the part may give the whole; if not, streaming says why. */
	if (r == -EIO && (e->cls == ERR_INTEGRITY || e->cls == ERR_INPUT)) {
		(void)refuse(a->img, a->layer_no, e);
		return 0;
	}
	if (r != -EBADMSG)
		return note_layer(a, "toc", r, e);
	lazy_refuse(fs, a->img, a->layer_no, e);
	return 0;	/* the handler looks again, and wants the whole layer */
}

errint_t open_lazy(struct op *op, struct image *img, size_t i, struct ca_layer **ret)
{
	const struct oci_descriptor *d = &img->m->layers[i];
	size_t slot = img->m->n_layers + i;
	struct ca_toc toc;
	errint_t r;

	*ret = kept_layer(img, slot);
	if (*ret)
		return 0;
	r = find_toc(img, i, &toc, &op->err);
	if (r == 0)
		r = ca_toc_layer_get(op->fs->cache, &d->digest, &toc, ret, &op->err);
	if (r == 0) {
		keep_layer(img, slot, *ret);
		return 0;
	}
	if (r != -ENOENT)
		return r;
	if (atomic_load(&img->lazy[i]) == LAZY_REFUSED)	/* its tree was there before */
		return err_set(&op->err, EIO, ERR_INTEGRITY, "its layer's table of contents does not come any more as it was");
	return want_layer(op, img, i, "toc", fill_toc, &toc);
}

/* ---- data that the TOC is wrong about ---- */

errint_t lazy_from_streamed(struct op *op, struct image *img, size_t i, struct ca_layer *l, uint64_t off,
			    size_t len, struct buf *ret)
{
	_cleanup_(ca_layer_unrefp) struct ca_layer *streamed = NULL;
	errint_t r = open_streamed(op, img, i, &streamed);

	while (r == 0 && len) {
		struct ca_twin t;
		size_t n;

		r = ca_layer_twin(l, off, streamed, &t, &op->err);
		if (r < 0)
			return r;
		n = MIN_OF(len, t.len);
		if (n == 0)
			return err_set(&op->err, EIO, ERR_INTEGRITY, "a file reaches beyond the end of its layer");
		r = t.zeros ? buf_reserve(ret, n) : need_layer_data(op, img, i, t.off, n, ret);
		if (r == 0 && t.zeros) {
			memset(ret->data + ret->len, 0, n);
			ret->len += n;
		}
		off += n;
		len -= n;
	}
	return r;
}
