/*
 * need_referrers.c - everything that refers to a digest, from all the places where it may be said
 *
 * The referrers API or its fallback tag (registry.md 1.6), cosign's digest tags, and BuildKit's
 * attestation entries of the enclosing index, merged without duplicates into one index.
 */
#include <stdio.h>

#include "fs/need.h"
#include "fs/need_priv.h"
#include "policy/policy.h"
#include "registry/oci_write.h"
#include "util/clock.h"

#define ATTESTED_KEY "vnd.docker.reference.digest"
#define ATTESTATION_TYPE "application/vnd.docker.attestation.manifest.v1+json"

/* Publishes what `list` appends as the text of fact a->name. */
static errint_t ask_index(struct ask *a, struct cancel *c, struct err *e,
			  errint_t (*list)(struct ask *a, struct buf *ret, struct cancel *c, struct err *e))
{
	struct fact v = { .text = calloc(1, sizeof(*v.text)) };
	errint_t r;

	if (!v.text)
		return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
	atomic_init(&v.text->refs, 1);
	r = list(a, &v.text->text, c, e);
	if (r < 0) {
		fact_done(&v);
		facts_fail(a->site->facts, a->name, e);
		return r;
	}
	facts_set(a->site->facts, a->name, &v);
	return 0;
}

static errint_t list_referrers(struct ask *a, struct buf *ret, struct cancel *c, struct err *e)
{
	return rg_list_referrers(a->site->reg, a->repo, &a->digest, ret, c, e);
}

static errint_t ask_referrers(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	(void)fs;
	return ask_index(arg, c, e, list_referrers);
}

static errint_t list_untagged(struct ask *a, struct buf *ret, struct cancel *c, struct err *e)
{
	return rg_list_untagged(a->site->reg, a->repo, ret, c, e);
}

static errint_t ask_untagged(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	(void)fs;
	return ask_index(arg, c, e, list_untagged);
}

errint_t need_untagged(struct op *op, struct site *s, const char *repo, struct oci_manifest **ret)
{
	static const char none[] = "{\"schemaVersion\":2,\"manifests\":[]}";
	_cleanup_buf_ struct buf name = BUF_INIT(1024);
	struct fact f;
	errint_t r;

	if (rg_kind(s->reg) != SOURCE_DIR)
		return oci_manifest_parse(none, strlen(none), "application/vnd.oci.image.index.v1+json", ret, &op->err);
	buf_addf(&name, "untagged %s", repo);
	r = need_fact_text(op, s, buf_str(&name),
			   &(struct question){ ask_untagged, repo, buf_str(&name), NULL }, &f);
	if (r < 0)
		return r;
	r = need_nonsense(oci_manifest_parse(buf_str(&f.text->text), f.text->text.len, NULL, ret, &op->err), "list of referrers",
			  &op->err);
	fact_done(&f);
	return r;
}

/* What the API (or its fallback tag) says, as text; given back with fact_done. */
static errint_t api_referrers(struct op *op, struct image *img, struct fact *ret)
{
	_cleanup_buf_ struct buf name = BUF_INIT(1024);
	char text[DIGEST_TEXT_MAX];

	buf_addf(&name, "referrers %s@%s", img->repo, digest_text(&img->digest, text));
	return need_fact_text(op, img->site, buf_str(&name),
			      &(struct question){ ask_referrers, img->repo, buf_str(&name), &img->digest }, ret);
}

static bool has_digest(const struct oci_manifest *m, const struct digest *d)
{
	for (size_t i = 0; i < m->n_children; i++)
		if (digest_eq(&m->children[i].digest, d))
			return true;
	return false;
}

/* BuildKit: entries of an index that attest to one of its images. */
static bool attests(const struct oci_descriptor *d, const struct image *img)
{
	const char *of = oci_annotation(d->annotations, d->n_annotations, ATTESTED_KEY);
	char text[DIGEST_TEXT_MAX];

	if (!oci_is_attestation(d))
		return false;
	return img->m->kind == OCI_INDEX || (of && strcmp(of, digest_text(&img->digest, text)) == 0);
}

static void add_attestations(struct buf *b, const struct image *img, const struct image *index,
			     const struct oci_manifest *seen, bool *first)
{
	for (size_t i = 0; index && i < index->m->n_children; i++) {
		struct oci_descriptor d = index->m->children[i];

		if (!attests(&d, img) || has_digest(seen, &d.digest))
			continue;
		if (!d.artifact_type)
			d.artifact_type = (char *)ATTESTATION_TYPE;
		index_add(b, &d, *first);
		*first = false;
	}
}

/* sha256-<hex>.sig and its kin, when the tag list says that they exist. */
static errint_t add_cosign(struct op *op, struct image *img, const struct oci_manifest *seen, struct buf *b,
			   bool *first)
{
	static const struct {
		const char *suffix, *type;
	} kinds[] = {
		{ "sig", "application/vnd.dev.cosign.artifact.sig.v1+json" },
		{ "att", "application/vnd.dev.cosign.artifact.att.v1+json" },
		{ "sbom", "application/vnd.dev.cosign.artifact.sbom.v1+json" },
	};
	_cleanup_(name_list_unrefp) struct name_list *tags = NULL;
	char hex[DIGEST_TEXT_MAX], tag[REF_TAG_MAX + 16];
	errint_t waiting = 0, r = need_tags(op, img->site, img->repo, &tags);

	if (r == -ENOENT || r == -EOPNOTSUPP) {
		err_clear(&op->err);
		return 0;
	}
	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		_cleanup_(image_unrefp) struct image *sig = NULL;
		struct oci_descriptor d = { 0 };
		uint64_t fresh;

		(void)snprintf(tag, sizeof(tag), "%s-%s.%s", digest_alg_name(&img->digest),
			       digest_hex(&img->digest, hex), kinds[i].suffix);
		if (!name_list_has(tags, tag, strlen(tag)))
			continue;
		r = need_tag(op, img->site, img->repo, tag, &d.digest, &fresh);
		if (r == 0)
			r = need_image(op, img->site, img->repo, &d.digest, &sig);
		if (r == -EINPROGRESS) {
			waiting = r;
			continue;
		}
		if (r == -ENOENT) {	/* listed, and gone since */
			err_clear(&op->err);
			continue;
		}
		if (r < 0)
			return r;
		if (has_digest(seen, &d.digest))
			continue;
		d.size = sig->bytes.len;
		d.media_type = sig->media_type;
		d.artifact_type = (char *)kinds[i].type;
		index_add(b, &d, *first);
		*first = false;
	}
	return waiting;
}

/* Everything merged into one index. */
static errint_t merge(struct op *op, struct image *img, struct image *enclosing, const struct oci_manifest *api,
		      struct oci_manifest **ret)
{
	_cleanup_buf_ struct buf b = BUF_INIT(OCI_MANIFEST_MAX);
	bool first = true;
	errint_t r;

	index_begin(&b);
	for (size_t i = 0; i < api->n_children; i++, first = false)
		index_add(&b, &api->children[i], first);
	add_attestations(&b, img, img->m->kind == OCI_INDEX ? img : enclosing, api, &first);
	r = add_cosign(op, img, api, &b, &first);
	if (r < 0)
		return r;
	index_end(&b);
	r = buf_check(&b);
	return r < 0 ? err_set(&op->err, EFBIG, ERR_LIMIT, "too many referrers") :
		       oci_manifest_parse(buf_str(&b), b.len, NULL, ret, &op->err);
}

/* The last merged answer, when it was made from this one of the registry. */
static struct referrers *kept(struct image *img, const struct image *enclosing, uint64_t learnt_ns)
{
	LOCK_SCOPE(&img->site->lock);
	struct referrers *have = img->referrers;

	if (!have || have->learnt_ns != learnt_ns || have->enclosing != (enclosing ? enclosing->ident : 0))
		return NULL;
	atomic_fetch_add(&have->refs, 1);
	return have;
}

static void keep(struct image *img, struct referrers *r)
{
	struct referrers *old;

	atomic_fetch_add(&r->refs, 1);
	{
		LOCK_SCOPE(&img->site->lock);
		old = img->referrers;
		img->referrers = r;
	}
	referrers_unref(old);
}

static errint_t fresh_referrers(struct op *op, struct image *img, struct image *enclosing, const struct fact *f,
				struct referrers **ret)
{
	_cleanup_(oci_manifest_freep) struct oci_manifest *api = NULL;
	_cleanup_(referrers_unrefp) struct referrers *made = calloc(1, sizeof(*made));
	errint_t r;

	if (!made)
		return err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
	atomic_init(&made->refs, 1);
	made->learnt_ns = f->learnt_ns;
	made->enclosing = enclosing ? enclosing->ident : 0;
	r = need_nonsense(oci_manifest_parse(buf_str(&f->text->text), f->text->text.len, NULL, &api, &op->err),
			  "list of referrers", &op->err);
	if (r == 0)
		r = merge(op, img, enclosing, api, &made->m);
	if (r < 0)
		return r;
	keep(img, made);
	*ret = steal_ptr(&made);
	return 0;
}

errint_t need_referrers(struct op *op, struct image *img, struct image *enclosing, struct referrers **ret)
{
	struct fact f;
	errint_t r = api_referrers(op, img, &f);

	if (r < 0)
		return r;
	*ret = kept(img, enclosing, f.learnt_ns);
	if (!*ret)
		r = fresh_referrers(op, img, enclosing, &f, ret);
	fact_done(&f);
	return r;
}
