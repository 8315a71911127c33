/*
 * need.c - names, manifests and listings a handler asks for (see need.h)
 *
 * The pattern is always the same: a fact (facts.h) that is fresh is the answer; otherwise the
 * handler wants the key, and the work behind it asks the registry and publishes a new fact.  What was
 * learnt after the operation began is fresh for it whatever tag_ttl says: an operation that needs many
 * facts one after the other would never have all of them.
 * When the registry cannot be asked, an older value may be served (po_serve_stale).
 *
 * Blobs, layers and trees are in need_data.c, the image for this host in need_platform.c.
 */
#include "fs/need.h"

#include "fs/need_priv.h"
#include "policy/policy.h"
#include "util/clock.h"
#include "util/log.h"

#define STALE_USES_MIN 16
#define LIST_PAGE 50	/* names that a registry may send at once: a long list is many requests */
#define NO_CATALOG_NS (600 * NSEC_PER_SEC) /* a registry without catalogue does not grow one soon */

/* ---- what a piece of work is about ---- */

struct ask *ask_new(struct site *s, const char *repo, const char *name, const struct digest *d)
{
	struct ask *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->site = s;
	a->repo = strdup(repo ? repo : "");
	a->name = strdup(name ? name : "");
	if (d)
		a->digest = *d;
	if (a->repo && a->name)
		return a;
	ask_free(a);
	return NULL;
}

void ask_free(void *p)
{
	struct ask *a = p;

	if (!a)
		return;
	(void)ca_layer_unref(a->layer);
	(void)tree_unref(a->tree);
	image_unref(a->img);
	free(a->repo);
	free(a->name);
	free(a);
}

static errint_t ask_key(const struct site *s, const char *fact, struct buf *ret)
{
	return buf_addf(ret, "%s|%s", s->name, fact);
}

errint_t ask_want(struct op *op, struct site *s, const char *fact, work_fn work, struct ask *a)
{
	_cleanup_buf_ struct buf key = BUF_INIT(2048);

	if (!a || ask_key(s, fact, &key) < 0) {
		ask_free(a);
		return err_set(&op->err, ENOMEM, ERR_LOCAL, "out of memory");
	}
	return op_want(op, buf_str(&key), work, a, ask_free);
}

unsigned ask_times(struct op *op, struct site *s, const char *fact)
{
	_cleanup_buf_ struct buf key = BUF_INIT(2048);

	return ask_key(s, fact, &key) < 0 ? 0 : op_times_waited(op, buf_str(&key));
}

static uint64_t age_ns(uint64_t since)
{
	uint64_t now = clock_mono_ns();

	return now > since ? now - since : 0;
}

/* ---- the pattern ---- */

static uint64_t failure_ttl(struct op *op, const struct err *e)
{
	uint64_t tag_ttl = op->fs->config->tag_ttl_ns;

	if (e->cls == ERR_UNSUPPORTED)
		return NO_CATALOG_NS;
	return po_ttl_ns(e->cls == ERR_NOTFOUND ? PO_FRESH_ABSENT : PO_FRESH_FAILURE, tag_ttl, e->cls);
}

/* What this very operation has waited for is fresh, however short the time. */
static bool is_fresh(const struct op *op, const struct fact *f, uint64_t ttl)
{
	return f->learnt_ns && !f->expired && (f->learnt_ns > op->begun_ns || age_ns(f->learnt_ns) < ttl);
}

/* A listing asks this for every entry: no work is made that nobody may wait for. */
static errint_t ask(struct op *op, struct site *s, const char *fact, const struct question *q)
{
	if (op_only_looks(op))
		return -EINPROGRESS;
	return ask_want(op, s, fact, q->work, ask_new(s, q->repo, q->name, q->digest));
}

/* Finds a fresh fact, a fresh failure, or wants it.  0: *ret is to be given back with fact_done. */
static errint_t need_fact(struct op *op, struct site *s, const char *name, enum po_fresh fresh,
			  const struct question *q, struct fact *ret)
{
	uint64_t ttl = po_ttl_ns(fresh, op->fs->config->tag_ttl_ns, ERR_UNSET);
	bool known = facts_get(s->facts, name, ret);
	errint_t r;

	if (known && ret->failed_ns && (ret->failed_ns > op->begun_ns || age_ns(ret->failed_ns) < failure_ttl(op, &ret->err))) {
		struct err e = ret->err;

		if (ret->learnt_ns && po_serve_stale(e.cls))
			return 0;
		fact_done(ret);
		op->err = e;
		return -e.eno;
	}
	if (known && !ret->failed_ns && is_fresh(op, ret, ttl))
		return 0;
	r = ask(op, s, name, q);
	if (r < 0 && r != -EINPROGRESS && known && ret->learnt_ns && po_serve_stale(op->err.cls)) {
		err_clear(&op->err);
		return 0;
	}
	if (known)
		fact_done(ret);
	return r;
}

/* Is there a fresh value, without asking anybody? */
static bool fresh_fact(struct op *op, struct site *s, const char *name, enum po_fresh fresh, struct fact *ret)
{
	uint64_t ttl = po_ttl_ns(fresh, op->fs->config->tag_ttl_ns, ERR_UNSET);

	if (!facts_get(s->facts, name, ret))
		return false;
	if (!ret->failed_ns && is_fresh(op, ret, ttl))
		return true;
	fact_done(ret);
	return false;
}

errint_t need_fact_text(struct op *op, struct site *s, const char *name, const struct question *q,
			struct fact *ret)
{
	return need_fact(op, s, name, PO_FRESH_REFERRERS, q, ret);
}

/* A failure that leaves an older value in use is worth a line in the log. */
errint_t ask_failed(struct site *s, const char *fact, errint_t r, const struct err *e)
{
	struct fact old;
	bool have = facts_get(s->facts, fact, &old);

	facts_fail(s->facts, fact, e);
	if (have && old.learnt_ns && po_serve_stale(e->cls))
		log_warn("%s: serving what is cached of \"%s\": %s", rg_name(s->reg), fact, e->msg);
	if (have)
		fact_done(&old);
	return r;
}

errint_t recent_failure(struct op *op, struct site *s, const char *fact)
{
	struct fact f;
	errint_t r = 0;

	if (!facts_get(s->facts, fact, &f))
		return 0;
	if (f.failed_ns && age_ns(f.failed_ns) < failure_ttl(op, &f.err)) {
		op->err = f.err;
		r = -f.err.eno;
	}
	fact_done(&f);
	return r;
}

/* A repository that refuses us voids what it has granted before: cached bytes are shared by digest,
 * access is not. */
static errint_t repo_failed(struct site *s, const char *repo, const char *fact, errint_t r, const struct err *e)
{
	_cleanup_buf_ struct buf prefix = BUF_INIT(1024);

	if (e->cls == ERR_AUTH && buf_addf(&prefix, "access %s@", repo) == 0)
		facts_expire(s->facts, buf_str(&prefix));
	return ask_failed(s, fact, r, e);
}

static errint_t publish_list(struct site *s, const char *fact, struct rg_names *names, struct err *e)
{
	struct fact v = { .list = calloc(1, sizeof(*v.list)) };

	if (!v.list) {
		rg_names_done(names);
		return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
	}
	atomic_init(&v.list->refs, 1);
	v.list->names = *names;
	v.list->fetched_ns = clock_mono_ns();
	facts_set(s->facts, fact, &v);
	return 0;
}

/* ---- repositories ---- */

static errint_t ask_repos(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct site *s = ((struct ask *)arg)->site;
	struct rg_names names = { 0 };
	errint_t r = rg_list_repos(s->reg, &names, c, e);

	(void)fs;
	if (r < 0)
		return ask_failed(s, "repos", r, e);
	site_catalogued(s, &names);
	return publish_list(s, "repos", &names, e);
}

static errint_t need_catalog(struct op *op, struct site *s, struct name_list **ret)
{
	static const struct question q = { .work = ask_repos };
	struct fact f;
	errint_t r = need_fact(op, s, "repos", PO_FRESH_REPO_LIST, &q, &f);

	if (r < 0)
		return r;
	*ret = name_list_ref(f.list);
	fact_done(&f);
	return 0;
}

errint_t need_repos(struct op *op, struct site *s, struct name_list **ret)
{
	_cleanup_(name_list_unrefp) struct name_list *catalog = NULL;
	errint_t r = need_catalog(op, s, &catalog);

	if (r == -EOPNOTSUPP)
		err_clear(&op->err);
	else if (r < 0)
		return r;
	r = site_with_visited(s, catalog, ret);
	return r < 0 ? err_set(&op->err, -r, ERR_LOCAL, "out of memory") : 0;
}

/* ---- tags ---- */

static errint_t ask_tags(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct ask *a = arg;
	struct rg_names names = { 0 };
	errint_t r = rg_list_tags(a->site->reg, a->repo, &names, c, e);

	(void)fs;
	if (r < 0 && e->cls == ERR_NOTFOUND)
		site_gone(a->site, a->repo);
	if (r < 0)
		return repo_failed(a->site, a->repo, a->name, r, e);
	if (*a->repo)
		site_visited(a->site, a->repo);
	return publish_list(a->site, a->name, &names, e);
}

static const char *tags_fact(const char *repo, struct buf *out)
{
	buf_adds(out, "tags ");
	buf_adds(out, repo);
	return buf_str(out);
}

errint_t need_tags(struct op *op, struct site *s, const char *repo, struct name_list **ret)
{
	_cleanup_buf_ struct buf name = BUF_INIT(1024);
	struct question q = { .work = ask_tags, .repo = repo, .name = tags_fact(repo, &name) };
	struct fact f;
	errint_t r = need_fact(op, s, q.name, PO_FRESH_TAG_LIST, &q, &f);

	if (r < 0)
		return r;
	*ret = name_list_ref(f.list);
	fact_done(&f);
	return 0;
}

/* ---- one tag ---- */

static const char *tag_fact(const char *repo, const char *tag, struct buf *out)
{
	buf_adds(out, "tag ");
	buf_adds(out, repo);
	buf_addc(out, ':');
	buf_adds(out, tag);
	return buf_str(out);
}

static errint_t note_name(struct site *s, const char *repo, const char *tag, struct buf *out)
{
	return buf_addf(out, "tag %s/%s:%s", rg_key(s->reg), repo, tag);
}

/* The digest this tag had when the registry last answered, perhaps before a restart. */
static bool remembered(struct fs *fs, struct site *s, const char *repo, const char *tag, struct digest *ret)
{
	_cleanup_buf_ struct buf name = BUF_INIT(2048), value = BUF_INIT(DIGEST_TEXT_MAX);
	int64_t when;

	return note_name(s, repo, tag, &name) == 0 &&
	       ca_note_get(fs->cache, buf_str(&name), &value, &when, NULL) == 0 &&
	       digest_parse(buf_str(&value), value.len, ret) == 0;
}

static void remember(struct fs *fs, struct site *s, const char *repo, const char *tag, const struct digest *d)
{
	_cleanup_buf_ struct buf name = BUF_INIT(2048);
	struct digest old;
	char text[DIGEST_TEXT_MAX];

	if (remembered(fs, s, repo, tag, &old) && digest_eq(&old, d))
		return;
	digest_text(d, text);
	if (note_name(s, repo, tag, &name) == 0)
		ca_note_put(fs->cache, buf_str(&name), text, strlen(text));
}

/* It is no longer there, or no longer ours to read: not to be served when the registry is down. */
static void forget(struct fs *fs, struct site *s, const char *repo, const char *tag)
{
	_cleanup_buf_ struct buf name = BUF_INIT(2048);
	struct digest old;

	if (remembered(fs, s, repo, tag, &old) && note_name(s, repo, tag, &name) == 0)
		ca_note_put(fs->cache, buf_str(&name), "", 0);
}

static void access_name(const char *repo, const struct digest *d, struct buf *out)
{
	char text[DIGEST_TEXT_MAX];

	buf_addf(out, "access %s@%s", repo, digest_text(d, text));
}

/* The registry has just shown that this repository has this digest. */
static void access_granted(struct site *s, const char *repo, const struct digest *d)
{
	_cleanup_buf_ struct buf name = BUF_INIT(1024);
	struct fact v = { .digest = *d };

	access_name(repo, d, &name);
	facts_set(s->facts, buf_str(&name), &v);
}

static errint_t ask_tag(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct ask *a = arg;
	struct site *s = a->site;
	_cleanup_buf_ struct buf name = BUF_INIT(1024);
	struct fact v = { 0 };
	errint_t r = rg_resolve(s->reg, a->repo, a->name, &v.digest, c, e);
	const char *fact = tag_fact(a->repo, a->name, &name);

	if (r < 0 && po_serve_stale(e->cls) && remembered(fs, s, a->repo, a->name, &v.digest)) {
		log_warn("%s: serving what is cached of %s:%s: %s", rg_name(s->reg), a->repo, a->name, e->msg);
		r = 0;
	} else if (r < 0) {
		if (e->cls == ERR_AUTH || e->cls == ERR_NOTFOUND)
			forget(fs, s, a->repo, a->name);
		return repo_failed(s, a->repo, fact, r, e);
	} else {
		remember(fs, s, a->repo, a->name, &v.digest);
	}
	access_granted(s, a->repo, &v.digest);
	if (*a->repo)
		site_visited(s, a->repo);
	facts_set(s->facts, fact, &v);
	return r;
}

errint_t need_tag(struct op *op, struct site *s, const char *repo, const char *tag, struct digest *ret,
		  uint64_t *ret_fresh_ns)
{
	_cleanup_buf_ struct buf name = BUF_INIT(1024);
	uint64_t ttl = po_ttl_ns(PO_FRESH_TAG, op->fs->config->tag_ttl_ns, ERR_UNSET), age;
	const struct question q = { .work = ask_tag, .repo = repo, .name = tag };
	struct fact f;
	errint_t r = need_fact(op, s, tag_fact(repo, tag, &name), PO_FRESH_TAG, &q, &f);

	if (r < 0)
		return r;
	*ret = f.digest;
	age = age_ns(f.learnt_ns);
	*ret_fresh_ns = age < ttl ? ttl - age : 0;
	fact_done(&f);
	return 0;
}

/* ---- what a name means ---- */

/* In the list as a repository, or as the beginning of one. */
static bool lists_repo(const struct name_list *l, const char *full)
{
	size_t n = strlen(full), lo = 0, hi = l->names.n;

	if (name_list_has(l, full, n))
		return true;
	while (lo < hi) {	/* first name >= full + "/" */
		size_t mid = lo + (hi - lo) / 2;
		const char *m = l->names.names[mid];
		int c = strncmp(m, full, n);

		if (c < 0 || (c == 0 && (unsigned char)m[n] < '/'))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < l->names.n && strncmp(l->names.names[lo], full, n) == 0 && l->names.names[lo][n] == '/';
}

/* 1: the tag list knows it, 0: it knows there is none, -1: no fresh list. */
static int listed_tag(struct op *op, struct site *s, const char *repo, const char *tag)
{
	_cleanup_buf_ struct buf name = BUF_INIT(1024);
	struct fact f;
	int r;

	if (!fresh_fact(op, s, tags_fact(repo, &name), PO_FRESH_TAG_LIST, &f))
		return -1;
	r = name_list_has(f.list, tag, strlen(tag));
	fact_done(&f);
	return r;
}

/* Asking for it costs nothing (it has just been waited for, say). */
static bool tag_is_fresh(struct op *op, struct site *s, const char *repo, const char *tag)
{
	_cleanup_buf_ struct buf name = BUF_INIT(1024);
	struct fact f;
	bool yes = fresh_fact(op, s, tag_fact(repo, tag, &name), PO_FRESH_TAG, &f);

	if (yes)
		fact_done(&f);
	return yes;
}

/* Many names of a list whose time is over are being looked up (`ls -l` that takes long, say): asking for
 * the list again is one request, asking for each name is many. */
static bool list_is_cheaper(struct op *op, struct site *s, const char *repo, const char *tag)
{
	_cleanup_buf_ struct buf name = BUF_INIT(1024);
	struct fact f;
	bool yes;

	if (op_only_looks(op) || !facts_get(s->facts, tags_fact(repo, &name), &f))
		return false;
	yes = f.list && name_list_has(f.list, tag, strlen(tag)) &&
	      atomic_fetch_add(&f.list->stale_uses, 1) >= STALE_USES_MIN + f.list->names.n / LIST_PAGE;
	fact_done(&f);
	return yes;
}

/* As listed_tag, after asking for the whole list where that is better; -1: it does not help. */
static errint_t listed_again(struct op *op, struct site *s, const char *repo, const char *tag)
{
	_cleanup_(name_list_unrefp) struct name_list *tags = NULL;
	errint_t r = need_tags(op, s, repo, &tags);

	if (r == 0)
		return name_list_has(tags, tag, strlen(tag));
	if (r == -EINPROGRESS)
		return r;
	err_clear(&op->err);
	return -1;
}

static errint_t tag_exists(struct op *op, struct site *s, const char *repo, const char *name, bool *ret)
{
	struct digest d;
	uint64_t fresh;
	int listed;
	errint_t r;

	*ret = false;
	/* The root is a repository of its own only where the SOURCE names one. */
	if (!ref_is_tag(name, strlen(name)) || (!*repo && !rg_root_is_repo(s->reg)))
		return 0;
	listed = listed_tag(op, s, repo, name);
	if (listed < 0 && !tag_is_fresh(op, s, repo, name) && list_is_cheaper(op, s, repo, name))
		listed = listed_again(op, s, repo, name);
	if (listed == -EINPROGRESS)
		return listed;
	if (listed >= 0) {
		*ret = listed;
		return 0;
	}
	r = need_tag(op, s, repo, name, &d, &fresh);
	if (r == -ENOENT) {
		err_clear(&op->err);
		return 0;
	}
	*ret = r == 0;
	return r;
}

/* Asks for the tag list of `full`: the cheapest sign that a repository exists.  Without a catalogue a
 * refusal says nothing: registries refuse what does not exist, too. */
static errint_t repo_answers(struct op *op, struct site *s, const char *full, bool catalogued, bool *ret)
{
	_cleanup_(name_list_unrefp) struct name_list *tags = NULL;
	errint_t r = need_tags(op, s, full, &tags);

	*ret = r == 0;
	if (r == -ENOENT || r == -EOPNOTSUPP || (r == -EACCES && !catalogued)) {
		err_clear(&op->err);
		return 0;
	}
	return r;
}

/* Without a catalogue, namespaces cannot be told from typing errors: below a repository a name that
 * is no tag and does not answer is nothing; elsewhere it is taken for a namespace. */
static errint_t without_catalog(struct op *op, struct site *s, const char *repo, const char *full,
				enum name_is *ret)
{
	bool yes = false;
	errint_t r;

	if (!*repo) {
		*ret = NAME_IS_REPO;
		return 0;
	}
	r = repo_answers(op, s, full, false, &yes);
	if (r < 0)
		return r;
	*ret = yes || !site_is_visited(s, repo) ? NAME_IS_REPO : NAME_IS_NOTHING;
	return 0;
}

errint_t need_name(struct op *op, struct site *s, const char *repo, const char *name, enum name_is *ret)
{
	_cleanup_(name_list_unrefp) struct name_list *repos = NULL;
	_cleanup_buf_ struct buf full = BUF_INIT(1024);
	bool is_tag = false, can_be_repo = ref_is_repo_component(name, strlen(name)), answers = false;
	errint_t rc = -ENOENT, rt;

	*ret = NAME_IS_NOTHING;
	buf_adds(&full, repo);
	buf_adds(&full, *repo ? "/" : "");
	buf_adds(&full, name);
	if (can_be_repo && site_is_visited(s, buf_str(&full))) {
		*ret = NAME_IS_REPO;
		return 0;
	}
	if (can_be_repo)
		rc = need_catalog(op, s, &repos);
	if (rc == 0 && lists_repo(repos, buf_str(&full))) {
		*ret = NAME_IS_REPO;
		return 0;
	}
	/* Both questions are asked at once. */
	rt = tag_exists(op, s, repo, name, &is_tag);
	if (rc == -EINPROGRESS || rt == -EINPROGRESS)
		return -EINPROGRESS;
	if (rt < 0)
		return rt;
	err_clear(&op->err);
	if (is_tag) {
		*ret = NAME_IS_TAG;
		return 0;
	}
	if (!can_be_repo || !ref_is_repo(buf_str(&full), full.len))
		return 0;
	if (rc == -EOPNOTSUPP)
		return without_catalog(op, s, repo, buf_str(&full), ret);
	rt = repo_answers(op, s, buf_str(&full), rc == 0, &answers);
	if (rt == 0 && answers)
		*ret = NAME_IS_REPO;
	else if (rt == 0 && rc < 0)
		return need_catalog(op, s, &repos);	/* its failure: nobody can say that it is nothing */
	return rt;
}

/* ---- manifests ---- */

static errint_t load_cached(struct fs *fs, const struct digest *d, struct rg_manifest *m)
{
	buf_init(&m->bytes, OCI_MANIFEST_MAX);
	m->digest = *d;
	return ca_manifest_get(fs->cache, d, &m->bytes, &m->media_type, NULL);
}

static bool may_read(struct site *s, const char *repo, const struct digest *d)
{
	_cleanup_buf_ struct buf name = BUF_INIT(1024);
	struct fact f;
	bool yes;

	access_name(repo, d, &name);
	if (!facts_get(s->facts, buf_str(&name), &f))
		return false;
	yes = f.learnt_ns && !f.expired && age_ns(f.learnt_ns) < po_ttl_ns(PO_FRESH_ACCESS, 0, ERR_UNSET);
	fact_done(&f);
	return yes;
}

/* The bytes may be here already; whether this repository lets us have them is asked once. */
static errint_t get_manifest(struct fs *fs, struct ask *a, struct rg_manifest *m, struct cancel *c, struct err *e)
{
	char text[DIGEST_TEXT_MAX];
	struct digest d;
	errint_t r;

	digest_text(&a->digest, text);
	if (load_cached(fs, &a->digest, m) == 0) {
		if (may_read(a->site, a->repo, &a->digest))
			return 0;
		r = rg_resolve(a->site->reg, a->repo, text, &d, c, e);
		if (r < 0 && po_serve_stale(e->cls) && remembered(fs, a->site, a->repo, text, &d)) {
			log_warn("%s: serving what is cached of %s@%s: %s", rg_name(a->site->reg), a->repo, text, e->msg);
			r = 0;
		} else if (r < 0 && (e->cls == ERR_AUTH || e->cls == ERR_NOTFOUND)) {
			forget(fs, a->site, a->repo, text);
		}
		if (r == 0)
			access_granted(a->site, a->repo, &a->digest);
		return r;
	}
	rg_manifest_done(m);
	*m = (struct rg_manifest){ 0 };
	r = rg_get_manifest(a->site->reg, a->repo, text, m, c, e);
	if (r < 0)
		return r;
	access_granted(a->site, a->repo, &a->digest);
	/* A digest is remembered like a tag: for a time when the registry cannot be asked. */
	remember(fs, a->site, a->repo, text, &a->digest);
	ca_manifest_put(fs->cache, &a->digest, m->bytes.data, m->bytes.len, m->media_type);
	return 0;
}

errint_t need_nonsense(errint_t r, const char *what, struct err *e)
{
	if (r != -EINVAL)
		return r;
	if (e)
		e->eno = EIO;
	return err_wrap(e, -EIO, "the %s makes no sense", what);
}

static errint_t ask_image(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct ask *a = arg;
	struct rg_manifest m = { 0 };
	struct image *img = NULL;
	errint_t r = get_manifest(fs, a, &m, c, e);

	if (r == 0)
		r = need_nonsense(site_image_put(a->site, a->repo, &m, &img, e), "manifest", e);
	rg_manifest_done(&m);
	if (r < 0)
		return repo_failed(a->site, a->repo, a->name, r, e);
	struct fact v = { .digest = a->digest };

	facts_set(a->site->facts, a->name, &v);
	image_unref(img);
	return 0;
}

errint_t need_image(struct op *op, struct site *s, const char *repo, const struct digest *d, struct image **ret)
{
	_cleanup_buf_ struct buf name = BUF_INIT(1024);
	char text[DIGEST_TEXT_MAX];
	struct image *img = site_image_get(s, repo, d);
	errint_t r;

	if (img && may_read(s, repo, d)) {
		*ret = img;
		return 0;
	}
	image_unref(img);
	buf_addf(&name, "image %s@%s", repo, digest_text(d, text));
	/* A failure is remembered for a moment; a success lives in the table of images. */
	r = recent_failure(op, s, buf_str(&name));
	if (r < 0)
		return r;
	r = ask_want(op, s, buf_str(&name), ask_image, ask_new(s, repo, buf_str(&name), d));
	return r;
}
