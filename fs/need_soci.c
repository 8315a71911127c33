/*
 * need_soci.c - whether a SOCI index says where an image's files are (layers.md 5.3)
 *
 * A v2 index is named by an annotation of the image's manifest, hence vouched for by its digest.  A v1
 * index refers to the image: whoever may push to the repository can have made it (option soci).
 *
 * It is looked for once per image object, before anything of its layers is asked for, and only if one
 * of them would gain by it.  That must not cost much where there is none: a v1 look-up has a short
 * deadline of its own, its answer is noted in the cache, and a registry that has just failed to answer
 * is not asked for a while.  Whatever goes wrong, the layers are streamed; a line in the log and a
 * counter say so.
 */
#include <stdio.h>
#include <string.h>

#include "fs/fs.h"
#include "fs/need.h"
#include "fs/need_priv.h"
#include "policy/policy.h"
#include "util/clock.h"
#include "util/deadline.h"
#include "util/log.h"
#include "util/stats.h"

#define LOOK_NS (1000 * NSEC_PER_MSEC)	/* more than this is not waited for an index that may not exist */
#define NOTE_S 3600			/* how long an answer about referrers is good */
#define LAYER_MIN (1u << 20)		/* a smaller layer is not worth the question */
#define CANDIDATES_MAX 3		/* indexes that are looked into */
#define LOOKS "soci look-ups"		/* fact of a site: the last failure */
#define CREATED "org.opencontainers.image.created"

struct soci {
	size_t n;
	struct ca_toc tocs[];	/* by layer; ztoc unset: it has none */
};

const struct ca_toc *soci_toc(const struct image *img, size_t i)
{
	const struct soci *s = atomic_load(&((struct image *)img)->soci);

	return s && i < s->n && s->tocs[i].ztoc.alg ? &s->tocs[i] : NULL;
}

/* The first answer stays: what has been read of the image follows from it. */
static void publish(struct image *img, struct soci *s)
{
	struct soci *none = NULL;

	if (!atomic_compare_exchange_strong(&img->soci, &none, s))
		free(s);
}

static struct soci *soci_new(const struct image *img)
{
	struct soci *s = calloc(1, sizeof(*s) + img->m->n_layers * sizeof(s->tocs[0]));

	if (s)
		s->n = img->m->n_layers;
	return s;
}

/* ---- is it worth looking? */

static const char *named_index(const struct image *img)
{
	return oci_annotation(img->m->annotations, img->m->n_annotations, OCI_SOCI_INDEX);
}

static bool can_have_ztoc(const struct image *img, size_t i)
{
	const struct oci_descriptor *d = &img->m->layers[i];

	return oci_is_tree_layer(d->media_type) && strcmp(oci_layer_suffix(d->media_type), "tar.zst") != 0 &&
	       !lazy_annotated(d);
}

static bool worth_looking(struct fs *fs, struct image *img)
{
	bool v2 = named_index(img) != NULL;

	if (fs->config->soci == SOCI_OFF || (!v2 && fs->config->soci != SOCI_AUTO) || img->m->kind != OCI_IMAGE ||
	    !rg_sends_parts(img->site->reg))
		return false;
	for (size_t i = 0; i < img->m->n_layers; i++) {
		const struct oci_descriptor *d = &img->m->layers[i];

		if (can_have_ztoc(img, i) && (v2 || d->size >= LAYER_MIN) && !ca_layer_exists(fs->cache, &d->digest))
			return true;
	}
	return false;
}

/* ---- what an index says */

static bool is_index(const struct oci_manifest *m, const char *type)
{
	const char *says = oci_artifact_type(m);

	return m->kind == OCI_IMAGE && ((says && strcmp(says, type) == 0) ||
					(m->config.media_type && strcmp(m->config.media_type, type) == 0));
}

/* A zTOC that is as large as its layer helps nobody. */
static void take_ztoc(struct soci *s, const struct image *img, const struct oci_descriptor *z, const struct digest *layer)
{
	for (size_t i = 0; i < s->n; i++) {
		const struct oci_descriptor *d = &img->m->layers[i];

		if (!digest_eq(&d->digest, layer) || s->tocs[i].ztoc.alg || z->size == 0 || z->size >= d->size ||
		    !can_have_ztoc(img, i))
			continue;
		s->tocs[i] = (struct ca_toc){ .blob = d->size, .ztoc = z->digest, .packed = z->size };
	}
}

static void take_ztocs(struct soci *s, const struct image *img, const struct oci_manifest *m)
{
	for (size_t i = 0; i < m->n_layers; i++) {
		const struct oci_descriptor *z = &m->layers[i];
		const char *of = oci_annotation(z->annotations, z->n_annotations, OCI_SOCI_LAYER);
		struct digest layer;

		if (of && strcmp(z->media_type, OCI_TYPE_SOCI_ZTOC) == 0 && digest_parse(of, strlen(of), &layer) == 0)
			take_ztoc(s, img, z, &layer);
	}
}

static errint_t get_manifest(struct fs *fs, struct image *img, const struct digest *d, struct rg_manifest *m,
			     struct cancel *c, struct err *e)
{
	char text[DIGEST_TEXT_MAX];
	errint_t r;

	buf_init(&m->bytes, OCI_MANIFEST_MAX);
	if (ca_manifest_get(fs->cache, d, &m->bytes, &m->media_type, NULL) == 0)
		return 0;
	rg_manifest_done(m);
	*m = (struct rg_manifest){ 0 };
	r = rg_get_manifest(img->site->reg, img->repo, digest_text(d, text), m, c, e);
	if (r == 0)
		ca_manifest_put(fs->cache, d, m->bytes.data, m->bytes.len, m->media_type);
	return r;
}

/* Fills s by the index d.  -EINVAL (INPUT): it is none of this image. */
static errint_t take_index(struct fs *fs, struct image *img, const struct digest *d, const char *type, struct soci *s,
			   struct cancel *c, struct err *e)
{
	_cleanup_(rg_manifest_done) struct rg_manifest bytes = { 0 };
	_cleanup_(oci_manifest_freep) struct oci_manifest *m = NULL;
	bool v1 = strcmp(type, OCI_TYPE_SOCI_V1) == 0;
	errint_t r = get_manifest(fs, img, d, &bytes, c, e);

	if (r == 0)
		r = oci_manifest_parse(buf_str(&bytes.bytes), bytes.bytes.len, bytes.media_type, &m, e);
	if (r < 0)
		return r;
	if (!is_index(m, type))
		return err_set(e, EINVAL, ERR_INPUT, "what is said to be its SOCI index is something else");
	if (v1 && (!m->has_subject || !digest_eq(&m->subject.digest, &img->digest)))
		return err_set(e, EINVAL, ERR_INPUT, "a SOCI index is listed that is about another image");
	take_ztocs(s, img, m);
	return 0;
}

/* ---- v2 */

static errint_t by_annotation(struct fs *fs, struct image *img, struct soci *s, struct cancel *c, struct err *e)
{
	const char *text = named_index(img);
	struct digest d;

	if (digest_parse(text, strlen(text), &d) < 0)
		return err_set(e, EINVAL, ERR_INPUT, "the annotation about its SOCI index makes no sense");
	return take_index(fs, img, &d, OCI_TYPE_SOCI_V2, s, c, e);
}

/* ---- v1 */

static errint_t note_name(const struct image *img, struct buf *out)
{
	char text[DIGEST_TEXT_MAX];

	return buf_addf(out, "soci %s/%s@%s", rg_key(img->site->reg), img->repo, digest_text(&img->digest, text));
}

enum noted { NOTED_NOTHING = 0, NOTED_NONE, NOTED_INDEX };

static enum noted read_note(struct fs *fs, const struct image *img, struct digest *ret, bool *ret_fresh)
{
	_cleanup_buf_ struct buf name = BUF_INIT(1024), value = BUF_INIT(DIGEST_TEXT_MAX);
	int64_t when = 0;

	*ret_fresh = false;
	if (note_name(img, &name) < 0 || ca_note_get(fs->cache, buf_str(&name), &value, &when, NULL) < 0)
		return NOTED_NOTHING;
	*ret_fresh = clock_real_s() - when < NOTE_S;
	if (value.len == 0)
		return NOTED_NONE;
	return digest_parse(buf_str(&value), value.len, ret) == 0 ? NOTED_INDEX : NOTED_NOTHING;
}

/* d NULL: there is none. */
static void write_note(struct fs *fs, const struct image *img, const struct digest *d)
{
	_cleanup_buf_ struct buf name = BUF_INIT(1024);
	char text[DIGEST_TEXT_MAX] = "";

	if (d)
		(void)digest_text(d, text);
	if (note_name(img, &name) == 0)
		ca_note_put(fs->cache, buf_str(&name), text, strlen(text));
}

static int64_t created(const struct oci_descriptor *d)
{
	const char *text = oci_annotation(d->annotations, d->n_annotations, CREATED);
	int64_t s;

	return text && clock_parse_rfc3339(text, &s, NULL) ? s : INT64_MIN;
}

/* The newest that comes before the one that was looked into last; those without a time keep their order. */
static const struct oci_descriptor *next_candidate(const struct oci_manifest *m, const struct oci_descriptor *last)
{
	const struct oci_descriptor *best = NULL;

	for (size_t i = 0; i < m->n_children; i++) {
		const struct oci_descriptor *d = &m->children[i];

		if (!d->artifact_type || strcmp(d->artifact_type, OCI_TYPE_SOCI_V1) != 0)
			continue;
		if (last && (created(d) > created(last) || (created(d) == created(last) && d <= last)))
			continue;
		if (!best || created(d) > created(best))
			best = d;
	}
	return best;
}

static errint_t try_candidates(struct fs *fs, struct image *img, const struct oci_manifest *referrers, struct soci *s,
			       struct cancel *c, struct err *e)
{
	const struct oci_descriptor *d = NULL;
	errint_t r = 0;

	for (int i = 0; i < CANDIDATES_MAX && (d = next_candidate(referrers, d)); i++) {
		r = take_index(fs, img, &d->digest, OCI_TYPE_SOCI_V1, s, c, e);
		if (r == 0) {
			write_note(fs, img, &d->digest);
			return 0;
		}
	}
	if (r == 0)
		write_note(fs, img, NULL);
	return r;
}

static errint_t ask_registry(struct fs *fs, struct image *img, struct soci *s, struct cancel *c, struct err *e)
{
	_cleanup_buf_ struct buf index = BUF_INIT(OCI_MANIFEST_MAX);
	_cleanup_(oci_manifest_freep) struct oci_manifest *referrers = NULL;
	errint_t r = rg_list_referrers(img->site->reg, img->repo, &img->digest, &index, c, e);

	if (r == 0)
		r = oci_manifest_parse(buf_str(&index), index.len, OCI_TYPE_INDEX, &referrers, e);
	return r < 0 ? r : try_candidates(fs, img, referrers, s, c, e);
}

static errint_t ask_in_time(struct fs *fs, struct image *img, struct soci *s, struct cancel *c, struct err *e)
{
	struct deadline d;
	errint_t r = deadline_start(&d, c, LOOK_NS, e);

	if (r < 0)
		return r;
	r = ask_registry(fs, img, s, &d.token, e);
	if (deadline_stop(&d) && r < 0)
		r = err_set(e, ETIMEDOUT, ERR_TIMEOUT, "the registry did not list its referrers within %llu ms",
			    (unsigned long long)(LOOK_NS / NSEC_PER_MSEC));
	return r;
}

static errint_t by_referrers(struct fs *fs, struct image *img, struct soci *s, struct cancel *c, struct err *e)
{
	struct digest d;
	bool fresh;
	enum noted noted = read_note(fs, img, &d, &fresh);
	errint_t r;

	if (noted == NOTED_NONE && fresh)
		return 0;
	if (noted == NOTED_INDEX && fresh && take_index(fs, img, &d, OCI_TYPE_SOCI_V1, s, c, NULL) == 0)
		return 0;
	r = ask_in_time(fs, img, s, c, e);
	if (r < 0 && noted == NOTED_INDEX && po_serve_stale(e->cls) &&
	    take_index(fs, img, &d, OCI_TYPE_SOCI_V1, s, c, NULL) == 0)
		return 0;
	/* The next images are not to wait for the same. */
	if (r < 0 && (e->cls == ERR_TIMEOUT || e->cls == ERR_NET || e->cls == ERR_RATE))
		facts_fail(img->site->facts, LOOKS, e);
	return r;
}

/* ---- */

static size_t count(const struct soci *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n; i++)
		n += s->tocs[i].ztoc.alg != DIGEST_UNSET;
	return n;
}

static void say_failed(const struct image *img, const struct err *e)
{
	char text[DIGEST_TEXT_MAX];

	stat_inc(STAT_SOCI_FAILURES);
	log_warn("%s: the layers of %s@%s are not read by a SOCI index: %s", rg_name(img->site->reg), img->repo,
		 digest_text(&img->digest, text), e->msg);
}

static errint_t find_index(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct ask *a = arg;
	struct soci *s;
	errint_t r;

	if (soci_decided(a->img))
		return 0;	/* by a flight that ended between the look of who wanted this and his wish */
	s = soci_new(a->img);
	if (!s)
		return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
	r = named_index(a->img) ? by_annotation(fs, a->img, s, c, e) : by_referrers(fs, a->img, s, c, e);
	if (r < 0 && cancel_fired(c)) {
		free(s);
		return err_set(e, ECANCELED, ERR_CANCELLED, "nobody waits for it any more");
	}
	if (r < 0)
		say_failed(a->img, e);
	else if (count(s))
		stat_inc(STAT_SOCI_INDEXES);
	publish(a->img, s);
	err_clear(e);
	return 0;
}

errint_t soci_decide(struct op *op, struct image *img)
{
	_cleanup_buf_ struct buf name = BUF_INIT(1024);
	char text[DIGEST_TEXT_MAX];
	struct ask *a;

	if (atomic_load(&img->soci))
		return 0;
	bool ask = worth_looking(op->fs, img);
	if (ask && !named_index(img) && recent_failure(op, img->site, LOOKS) < 0) {
		err_clear(&op->err);
		ask = false;
	}
	if (!ask) {
		struct soci *s = soci_new(img);

		if (!s)
			return err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
		publish(img, s);
		return 0;
	}
	a = ask_new(img->site, img->repo, NULL, &img->digest);
	if (a)
		a->img = image_ref(img);
	buf_addf(&name, "soci %s@%s", img->repo, digest_text(&img->digest, text));
	return ask_want(op, img->site, buf_str(&name), find_index, a);
}

bool soci_decided(const struct image *img)
{
	return atomic_load(&((struct image *)img)->soci) != NULL;
}
