/*
 * soci_index.c - the zTOCs of an image's layers, and the manifest that names them (layers.md 5.3)
 *
 * A few threads take the layers one after the other, largest images being what this is for: each is
 * streamed, its zTOC built, and that put into the registry at once.  The manifest comes last, with the
 * zTOCs in the order of the layers, as the SOCI tools want it.
 */
#include "fs/soci.h"

#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "cache/ztoc_build.h"
#include "fs/need_priv.h"

#define THREADS_MAX 4
#define TOOL "registryfs " REGISTRYFS_VERSION
#define MANIFEST_MAX RG_MANIFEST_PUSH_MAX

struct work {
	struct soci_job *job;
	const struct oci_manifest *m;
	struct soci_layer *layers;
	atomic_size_t next;
	atomic_bool failed;
	pthread_mutex_t lock;		/* of what follows, and around tell */
	struct err err;
};

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
}

/* ---- one layer ---- */

struct counted {
	struct work *w;
	struct wire_source ws;
	ca_sink_fn sink;
	void *sink_ctx;
};

static errint_t counted_sink(void *ctx, const void *data, size_t len, struct err *e)
{
	struct counted *k = ctx;

	if (atomic_load(&k->w->failed))
		return err_set(e, ECANCELED, ERR_CANCELLED, "another layer failed");
	(void)atomic_fetch_add(&k->w->job->moved, len);
	return k->sink(k->sink_ctx, data, len, e);
}

static errint_t counted_read(void *ctx, const struct digest *d, uint64_t size, uint64_t off, uint64_t len,
			     ca_sink_fn sink, void *sink_ctx, struct cancel *c, struct err *e)
{
	struct counted *k = ctx;
	struct ca_source src = wire_source(&k->ws);

	k->sink = sink;
	k->sink_ctx = sink_ctx;
	return src.read(src.ctx, d, size, off, len, counted_sink, k, c, e);
}

/* Why layer i needs no look; "": none. */
static void reason(const struct work *w, size_t i, char why[static ERR_MSG_MAX])
{
	const struct oci_descriptor *d = &w->m->layers[i];

	*why = '\0';
	for (size_t k = 0; k < i; k++)
		if (digest_eq(&w->m->layers[k].digest, &d->digest))
			(void)snprintf(why, ERR_MSG_MAX, "it is layer %zu once more", k + 1);
	if (!oci_is_tree_layer(d->media_type))
		(void)snprintf(why, ERR_MSG_MAX, "%.100s is no layer of files", d->media_type);
	else if (d->size < w->job->min_layer)
		(void)snprintf(why, ERR_MSG_MAX, "it is smaller than %" PRIu64 " bytes", w->job->min_layer);
}

static errint_t build_and_put(struct work *w, struct soci_layer *l, struct err *e)
{
	struct counted k = { .w = w, .ws = { .reg = w->job->reg, .repo = w->job->repo } };
	struct ca_source src = { .read = counted_read, .ctx = &k };
	_cleanup_(ca_ztoc_done) struct ca_ztoc z = { 0 };
	struct rg_body body;
	errint_t r = ca_ztoc_build(&l->desc->digest, l->desc->size, w->job->span, TOOL, &src, &z, NULL, e);

	if (r == -EOPNOTSUPP && e->cls == ERR_UNSUPPORTED) {
		(void)snprintf(l->why, sizeof(l->why), "%s", e->msg);
		return 0;
	}
	if (r < 0)
		return r;
	body = rg_body_of(z.bytes.data, z.bytes.len);
	r = rg_put_blob(w->job->reg, w->job->repo, &body, NULL, NULL, e);
	if (r < 0)
		return r;
	l->indexed = true;
	l->ztoc = body.digest;
	l->ztoc_size = body.size;
	l->n_spans = z.n_spans;
	l->n_files = z.n_files;
	return 0;
}

static void one_layer(struct work *w, size_t i)
{
	struct soci_layer *l = &w->layers[i];
	char text[DIGEST_TEXT_MAX];
	struct err e = { 0 };
	errint_t r = 0;

	l->desc = &w->m->layers[i];
	reason(w, i, l->why);
	if (!*l->why)
		r = build_and_put(w, l, &e);
	LOCK_SCOPE(&w->lock);
	if (r == 0) {
		w->job->tell(w->job, i, w->m->n_layers, l);
	} else if (!atomic_exchange(&w->failed, true)) {
		(void)err_wrap(&e, r, "layer %s", digest_text(&l->desc->digest, text));
		w->err = e;
	}
}

static void *thread(void *arg)
{
	struct work *w = arg;
	size_t i;

	while (!atomic_load(&w->failed) && (i = atomic_fetch_add(&w->next, 1)) < w->m->n_layers)
		one_layer(w, i);
	return NULL;
}

static errint_t all_layers(struct work *w, struct err *e)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	pthread_t t[THREADS_MAX];
	size_t n = 0, want = MIN_OF(MIN_OF((size_t)MAX_OF(cpus, 1L), (size_t)THREADS_MAX), w->m->n_layers);

	while (n + 1 < want && pthread_create(&t[n], NULL, thread, w) == 0)
		n++;
	(void)thread(w);
	while (n > 0)
		(void)pthread_join(t[--n], NULL);
	if (!atomic_load(&w->failed))
		return 0;
	*e = w->err;
	return -w->err.eno;
}

static errint_t to_buf(void *ctx, const void *data, size_t len, struct err *e)
{
	return buf_add(ctx, data, len) < 0 ? no_memory(e) : 0;
}

errint_t soci_read_blob(struct soci_job *j, const struct oci_descriptor *d, struct buf *b, struct err *e)
{
	struct digest have;
	errint_t r = rg_get_blob(j->reg, j->repo, &d->digest, d->size, 0, 0, to_buf, b, NULL, e);

	if (r < 0)
		return r;
	digest_of((enum digest_alg)d->digest.alg, buf_str(b), b->len, &have);
	return digest_eq(&have, &d->digest) ? 0 : err_set(e, EIO, ERR_INTEGRITY, "a blob has other bytes than its "
							  "digest says");
}

/* ---- the manifest ---- */

static void add_descriptor(struct buf *b, const char *type, const struct digest *d, uint64_t size)
{
	char text[DIGEST_TEXT_MAX];

	(void)buf_addc(b, '{');
	buf_add_member(b, "mediaType", type, true);
	buf_add_member(b, "digest", digest_text(d, text), false);
	(void)buf_addf(b, ",\"size\":%" PRIu64, size);
}

static void add_layer(struct buf *b, const struct soci_job *j, const struct soci_layer *l)
{
	char text[DIGEST_TEXT_MAX], span[32];

	add_descriptor(b, OCI_TYPE_SOCI_ZTOC, &l->ztoc, l->ztoc_size);
	(void)buf_adds(b, ",\"annotations\":{");
	buf_add_member(b, OCI_SOCI_LAYER, digest_text(&l->desc->digest, text), true);
	buf_add_member(b, OCI_SOCI_LAYER_TYPE, l->desc->media_type, false);
	(void)snprintf(span, sizeof(span), "%" PRIu64, j->span);
	buf_add_member(b, OCI_SOCI_SPAN_SIZE, span, false);
	(void)buf_adds(b, "}}");
}

static void compose(struct buf *b, const struct work *w, unsigned version, const struct rg_manifest *image,
		    const struct rg_body *config)
{
	bool first = true;

	(void)buf_adds(b, "{\"schemaVersion\":2,\"mediaType\":\"" OCI_TYPE_MANIFEST "\",\"config\":");
	add_descriptor(b, version == 1 ? OCI_TYPE_SOCI_V1 : OCI_TYPE_SOCI_V2, &config->digest, config->size);
	(void)buf_adds(b, "},\"layers\":[");
	for (size_t i = 0; i < w->m->n_layers; i++) {
		if (!w->layers[i].indexed)
			continue;
		(void)buf_adds(b, first ? "" : ",");
		add_layer(b, w->job, &w->layers[i]);
		first = false;
	}
	(void)buf_addc(b, ']');
	if (version == 1) {
		(void)buf_adds(b, ",\"subject\":");
		add_descriptor(b, w->m->media_type, &image->digest, image->bytes.len);
		(void)buf_addc(b, '}');
	}
	(void)buf_adds(b, ",\"annotations\":{");
	buf_add_member(b, OCI_SOCI_TOOL, TOOL, true);
	(void)buf_adds(b, "}}");
}

static errint_t put_index(struct work *w, unsigned version, const struct rg_manifest *image,
			  struct soci_index *ret, struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(MANIFEST_MAX);
	struct rg_body config = rg_body_of("{}", 2);
	struct rg_put p = { .media_type = OCI_TYPE_MANIFEST, .child = version == 2 };
	errint_t r;

	compose(&b, w, version, image, &config);
	if (buf_check(&b) < 0)
		return no_memory(e);
	p.bytes = b.data;
	p.len = b.len;
	ret->size = b.len;
	r = rg_put_blob(w->job->reg, w->job->repo, &config, NULL, NULL, e);
	return r < 0 ? r : rg_put_manifest(w->job->reg, w->job->repo, &p, &ret->digest, NULL, e);
}

static void count(const struct work *w, struct soci_index *ret)
{
	for (size_t i = 0; i < w->m->n_layers; i++) {
		ret->n_layers += w->layers[i].indexed;
		ret->ztoc_bytes += w->layers[i].ztoc_size;
	}
}

errint_t soci_index(struct soci_job *j, unsigned version, const struct rg_manifest *image,
		    const struct oci_manifest *m, struct soci_index *ret, struct err *e)
{
	struct work w = { .job = j, .m = m, .lock = PTHREAD_MUTEX_INITIALIZER };
	errint_t r;

	*ret = (struct soci_index){ 0 };
	w.layers = calloc(m->n_layers + 1, sizeof(*w.layers));
	r = w.layers ? all_layers(&w, e) : no_memory(e);
	if (r == 0) {
		count(&w, ret);
		r = ret->n_layers > 0 ? put_index(&w, version, image, ret, e) :
		    err_set(e, ENODATA, ERR_INPUT, "none of its layers can be indexed");
	}
	free(w.layers);
	return r;
}
