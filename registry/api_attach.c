/*
 * api_attach.c - a manifest with a subject, and the index of referrers that clients have to keep
 *
 * Where the registry does not say OCI-Subject, the client writes the index under the tag
 * sha256-<hex>: reads it, adds, puts it back.  Registries offer no way to do that as one step, so it
 * is read again afterwards, and once more a little later, when whoever had read it before we wrote has
 * written, too: when our entry is gone by then, it is put in again.  That makes losing one unlikely,
 * not impossible.  What others have put in stays in, byte for byte.
 */
#include "registry/api_push.h"

#include <stdio.h>
#include <string.h>

#include "registry/oci_write.h"
#include "util/clock.h"
#include "util/json.h"

#define ATTACH_TRIES 16
#define ATTACH_WAIT_NS (250 * NSEC_PER_MSEC)	/* longer than others take from reading to writing */

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory while listing a referrer");
}

void api_referrers_tag(const struct digest *d, char out[static REF_TAG_MAX + 1])
{
	char hex[DIGEST_TEXT_MAX];

	(void)snprintf(out, REF_TAG_MAX + 1, "%.32s-%.64s", digest_alg_name(d), digest_hex(d, hex));
}

static bool lists(const struct oci_manifest *index, const struct digest *d)
{
	for (size_t i = 0; i < index->n_children; i++)
		if (digest_eq(&index->children[i].digest, d))
			return true;
	return false;
}

/* 1: the index under the tag lists d; 0: it does not, and is in *ret (empty when there is none). */
static int read_index(struct rg_api *a, const char *repo, const char *tag, const struct digest *d,
		      struct buf *ret, struct cancel *c, struct err *e)
{
	_cleanup_(rg_manifest_done) struct rg_manifest m = { 0 };
	_cleanup_(oci_manifest_freep) struct oci_manifest *index = NULL;
	errint_t r = rg_api_origin_manifest(a, repo, tag, &m, c, e);

	buf_clear(ret);
	if (r == -ENOENT && e->cls == ERR_NOTFOUND) {
		err_clear(e);
		return 0;
	}
	if (r == 0)
		r = oci_manifest_parse(buf_str(&m.bytes), m.bytes.len, m.media_type, &index, e);
	if (r == 0 && index->kind != OCI_INDEX)
		r = err_set(e, EIO, ERR_INPUT, "not an index, so it is not a list of referrers");
	if (r < 0)
		return err_wrap(e, r, "tag %.20s.. of %s", tag, repo);
	if (lists(index, d))
		return 1;
	r = buf_add(ret, buf_str(&m.bytes), m.bytes.len);
	return r < 0 ? no_memory(e) : 0;
}

static errint_t compose(const struct buf *old, const struct oci_descriptor *d, struct buf *out,
			struct err *e)
{
	_cleanup_buf_ struct buf one = BUF_INIT(RG_MANIFEST_PUSH_MAX);
	errint_t r;

	index_add(&one, d, true);
	if (buf_check(&one) < 0)
		return no_memory(e);
	if (old->len > 0) {
		r = index_edit(buf_str(old), old->len, NULL, NULL, buf_str(&one), out);
	} else {
		index_begin(out);
		(void)buf_adds(out, buf_str(&one));
		index_end(out);
		r = buf_check(out);
	}
	if (r == -EFBIG)
		return err_set(e, EFBIG, ERR_LIMIT, "the list of referrers would have more than %u bytes",
			       RG_MANIFEST_PUSH_MAX);
	if (r == -EINVAL)
		return err_set(e, EIO, ERR_INPUT, "the list of referrers has no \"manifests\"");
	return r < 0 ? no_memory(e) : 0;
}

static errint_t write_index(struct rg_api *a, const char *repo, const char *tag, const struct buf *old,
			    const struct oci_descriptor *d, struct cancel *c, struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(RG_MANIFEST_PUSH_MAX);
	struct rg_put p = { .reference = tag, .media_type = OCI_TYPE_INDEX };
	struct digest sum;
	bool listed;
	errint_t r = compose(old, d, &b, e);

	if (r < 0)
		return r;
	p.bytes = b.data;
	p.len = b.len;
	digest_of(DIGEST_SHA256, b.data, b.len, &sum);
	return api_put_manifest(a, repo, &p, &sum, &listed, c, e);
}

static errint_t attach(struct rg_api *a, const char *repo, const struct digest *subject,
		       const struct oci_descriptor *d, struct cancel *c, struct err *e)
{
	_cleanup_buf_ struct buf old = BUF_INIT(OCI_MANIFEST_MAX);
	char tag[REF_TAG_MAX + 1];
	unsigned seen = 0;
	bool wrote = false;
	int r;

	api_referrers_tag(subject, tag);
	for (unsigned i = 0; i < ATTACH_TRIES; i++) {
		r = read_index(a, repo, tag, &d->digest, &old, c, e);
		seen = r == 1 ? seen + 1 : 0;
		if (r < 0 || (r == 1 && !wrote) || seen == 2)
			return MIN_OF(r, 0);
		if (r == 1) {
			r = cancel_sleep_ns(c, ATTACH_WAIT_NS, e);
		} else {
			r = write_index(a, repo, tag, &old, d, c, e);
			wrote = true;
		}
		if (r < 0)
			return r;
	}
	return err_set(e, EBUSY, ERR_INPUT, "tag %.20s.. of %s: others change it all the time", tag, repo);
}

errint_t rg_api_put_manifest(struct rg_api *a, const char *repo, const struct rg_put *p,
			     const struct oci_manifest *m, const struct digest *d, struct cancel *c,
			     struct err *e)
{
	struct oci_descriptor self = index_referrer(m, d, p->len);
	struct err mine = { 0 };
	bool listed = false;
	errint_t r = api_put_manifest(a, repo, p, d, &listed, c, &mine);

	if (r == 0 && m->has_subject && !listed)
		r = attach(a, repo, &m->subject.digest, &self, c, &mine);
	if (r < 0 && e)
		*e = mine;
	return r;
}
