/*
 * prefetch.c - see prefetch.h
 *
 * What is recorded hangs on the image: numbers of files in its merged tree, in the order of their
 * first open, and a bit for each file.  It becomes a text when the time is over, or when the image goes.
 * A longer list replaces a shorter one, so that who only looks into an image does not spoil what a
 * program's start has taught; one that was set by hand stays.
 */
#include "fs/prefetch.h"

#include "fs/early.h"
#include "fs/first_list.h"
#include "fs/need_priv.h"
#include "fs/plan.h"
#include "fs/tree_at.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/stats.h"

#define WINDOW_NS (60 * NSEC_PER_SEC)	/* from the first open on */
#define EARLY_WORKS 3u		/* requests at once for what will be read soon: readers' own find room */
#define QUIET_WORKS 1u
#define EARLY_OPENS_MAX 256u	/* files opened before the tree is there */
#define EARLY_MAX_BYTES (UINT64_C(256) << 20)	/* compressed; beyond that nobody is in such a hurry */
#define EARLY_DIV 4		/* nor for more than this part of what the cache can hold */

/* ---- recording ---- */

struct first_use {
	pthread_mutex_t lock;	/* a leaf */
	struct tree *t;		/* a ref */
	uint64_t *bits;
	uint32_t *files;
	size_t n, cap;
	uint64_t begun_ns;
	bool kept;		/* as a list, since the last one was added */
	atomic_bool over;
};

struct first_use *first_use_free(struct first_use *u)
{
	if (!u)
		return NULL;
	(void)tree_unref(u->t);
	free(u->bits);
	free(u->files);
	pthread_mutex_destroy(&u->lock);
	free(u);
	return NULL;
}

static struct first_use *first_use_new(struct tree *t)
{
	struct first_use *u = calloc(1, sizeof(*u));

	if (!u)
		return NULL;
	pthread_mutex_init(&u->lock, NULL);
	u->t = tree_ref(t);
	u->bits = calloc(tree_count(t) / 64 + 1UL, sizeof(*u->bits));
	u->begun_ns = clock_mono_ns();
	return u->bits ? u : first_use_free(u);
}

static struct first_use *the_use(struct image *img, struct tree *t)
{
	struct first_use *u = atomic_load(&img->first_use), *none = NULL;

	if (u || !t)
		return u;
	u = first_use_new(t);
	if (u && !atomic_compare_exchange_strong(&img->first_use, &none, u)) {
		(void)first_use_free(u);
		u = none;
	}
	return u;
}

static bool add_file(struct first_use *u, uint32_t file)
{
	uint64_t bit = UINT64_C(1) << file % 64;

	if (u->bits[file / 64] & bit)
		return true;
	if (u->n == u->cap) {
		size_t cap = u->cap ? 2 * u->cap : 64;
		uint32_t *more = reallocarray(u->files, cap, sizeof(*more));

		if (!more)
			return false;
		u->files = more;
		u->cap = cap;
	}
	u->bits[file / 64] |= bit;
	u->files[u->n++] = file;
	u->kept = false;
	return u->n < FIRST_FILES_MAX;
}

static bool is_kept(struct first_use *u)
{
	LOCK_SCOPE(&u->lock);
	return u->kept;
}

/* The record as a text; keep: it is going to be kept. */
static void write_list(struct first_use *u, bool keep, struct buf *out)
{
	LOCK_SCOPE(&u->lock);
	for (size_t i = 0; i < u->n; i++) {
		_cleanup_buf_ struct buf path = BUF_INIT(TREE_PATH_MAX);

		if (tree_path(u->t, u->files[i], &path) == 0 && first_list_add(out, buf_str(&path), path.len) < 0)
			break;
	}
	u->kept |= keep;
}

static bool is_better(const struct buf *list, const struct buf *old)
{
	bool set = old->len >= strlen(FIRST_SET) && memcmp(old->data, FIRST_SET, strlen(FIRST_SET)) == 0;

	return !set && first_list_count(buf_str(list), list->len) > first_list_count(buf_str(old), old->len);
}

static void keep_list(struct image *img)
{
	_cleanup_buf_ struct buf list = BUF_INIT(FIRST_BYTES_MAX), old = BUF_INIT(FIRST_BYTES_MAX);
	struct first_use *u = atomic_load(&img->first_use);
	const char *state = u ? img->site->fs->config->state_dir : NULL;
	struct err e = { 0 };

	if (!state || is_kept(u))
		return;
	write_list(u, true, &list);
	(void)!first_list_load(state, &img->digest, &old);
	if (is_better(&list, &old) && first_list_save(state, &img->digest, buf_str(&list), list.len, &e) < 0)
		log_info("%s", e.msg);
}

void prefetch_forget(struct image *img)
{
	keep_list(img);
	(void)first_use_free(atomic_load(&img->first_use));
}

static errint_t keep_task(struct op *op, void *arg)
{
	(void)op;
	keep_list(arg);
	return 0;
}

static void drop_image(void *arg)
{
	(void)image_unref(arg);
}

void prefetch_note(struct op *op, struct image *img, struct tree *t, uint32_t file)
{
	bool wanted = op->fs->config->prefetch && !atomic_load(&img->unrecorded), over;
	struct first_use *u = wanted ? the_use(img, t) : NULL;

	if (!u || atomic_load(&u->over))
		return;
	{
		LOCK_SCOPE(&u->lock);
		over = clock_mono_ns() - u->begun_ns > WINDOW_NS || file >= tree_count(u->t) || !add_file(u, file);
	}
	if (over && !atomic_exchange(&u->over, true))
		(void)op_task(op->eng, op->node, keep_task, image_ref(img), drop_image);
}

/* ---- fetching ---- */

static errint_t add_listed(struct op *op, struct plan *p, struct tree *t, const struct buf *list)
{
	const char *at = buf_str(list), *end = at + list->len, *path;
	errint_t waiting = 0;
	size_t len;

	for (size_t i = 0; i < FIRST_FILES_MAX && first_list_next(&at, end, &path, &len); i++) {
		uint32_t n = tree_lookup_path(t, path, len);
		struct tree_attr a;
		errint_t r = 0;

		if (n == TREE_NONE)
			continue;
		tree_get(t, n, &a);
		if (a.type == TREE_REG)
			r = plan_add_files(op, p, t, PLAN_MERGED, n);
		if (r < 0 && r != -EINPROGRESS)
			return r;
		waiting = r < 0 ? r : waiting;
	}
	return waiting;
}

/* Of layers that are open, as they are when their tables have just come: nothing is fetched to find out. */
static errint_t add_marked(struct op *op, struct image *img, struct plan *p)
{
	errint_t waiting = 0;

	for (size_t i = 0; i < img->m->n_layers; i++) {
		_cleanup_(ca_layer_unrefp) struct ca_layer *l = kept_layer(img, img->m->n_layers + i);
		errint_t r = 0;

		if (l && ca_layer_first_pieces(l) > 0)
			r = plan_add_first(op, p, i, ca_layer_first_pieces(l));
		if (r < 0 && r != -EINPROGRESS)
			return r;
		waiting = r < 0 ? r : waiting;
	}
	return waiting;
}

static errint_t key_of(const char *what, const struct image *img, struct buf *out)
{
	char text[DIGEST_TEXT_MAX];

	return buf_addf(out, "%s|%s %s@%s", site_name(img->site), what, img->repo, digest_text(&img->digest, text));
}

/* Wants what p lacks, once.  0: that has been done, or is not to be. */
static errint_t want_once(struct op *op, struct image *img, struct plan *p, const char *what, unsigned works,
			  enum plan_haste haste)
{
	_cleanup_buf_ struct buf key = BUF_INIT(2048);
	uint64_t room = ca_store_room(op->fs->cache);
	struct plan_sum sum;

	plan_sum(p, &sum);
	if (key_of(what, img, &key) < 0 || sum.missing == 0 || plan_times(op, buf_str(&key)) > 0)
		return 0;
	if (haste == PLAN_QUIET && sum.bytes > room)
		return 0;	/* one half of it would push the other one out */
	return plan_want(op, p, buf_str(&key), works, haste,
			 haste == PLAN_QUIET ? UINT64_MAX : MIN_OF(EARLY_MAX_BYTES, room / EARLY_DIV));
}

static errint_t fetch_first(struct op *op, struct image *img, struct tree *t)
{
	_cleanup_buf_ struct buf list = BUF_INIT(FIRST_BYTES_MAX);
	_cleanup_(plan_unrefp) struct plan *p = plan_new(img);
	const char *state = op->fs->config->state_dir;
	bool listed;
	errint_t r;

	if (!p || !op->fs->config->prefetch)
		return 0;
	listed = state && first_list_load(state, &img->digest, &list) == 0;
	r = listed ? add_listed(op, p, t, &list) : add_marked(op, img, p);
	if (r == 0)
		r = want_once(op, img, p, "first", EARLY_WORKS, PLAN_EARLY);
	if (r == -EINPROGRESS && listed)
		stat_inc(STAT_PREFETCH_LISTS);
	return r;
}

static errint_t fetch_all(struct op *op, struct image *img)
{
	_cleanup_(plan_unrefp) struct plan *p = plan_new(img);
	errint_t r = p && op->fs->config->complete ? plan_add_layers(op, p) : -ENOENT;

	return r < 0 ? r : want_once(op, img, p, "complete", QUIET_WORKS, PLAN_QUIET);
}

static errint_t begin_task(struct op *op, void *arg)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	_cleanup_(tree_unrefp) struct tree *t = NULL;
	errint_t r = image_at_need(op, op->node->data, &img);

	(void)arg;
	if (r == 0)
		r = tree_at(op, op->node, &t);
	if (r == 0)
		r = fetch_first(op, img, t);
	if (r < 0 && r != -EINPROGRESS) {
		log_debug("%s: not fetched before it is read: %s", img ? img->repo : "", op->err.msg);
		err_clear(&op->err);
		r = 0;
	}
	return r == 0 ? fetch_all(op, img) : r;
}

/* ---- files that are opened before their tree is there ---- */

void prefetch_note_early(struct op *op, struct image_at *at, uint32_t sub)
{
	_Atomic uint32_t *v = atomic_load(&at->early_opens), *none = NULL;
	uint32_t i;

	if (!op->fs->config->prefetch)
		return;
	if (!v) {
		v = calloc(EARLY_OPENS_MAX + 1, sizeof(*v));
		if (v && !atomic_compare_exchange_strong(&at->early_opens, &none, v)) {
			free((void *)v);
			v = none;
		}
	}
	i = v ? atomic_load(&v[0]) : EARLY_OPENS_MAX;
	if (i < EARLY_OPENS_MAX && (i = atomic_fetch_add(&v[0], 1)) < EARLY_OPENS_MAX)
		atomic_store(&v[1 + i], sub);
}

static void note_early_opens(struct op *op, struct image_at *at)
{
	_Atomic uint32_t *v = atomic_load(&at->early_opens);
	struct image *img = atomic_load(&at->img);
	struct tree *t = atomic_load(&at->tree);

	for (uint32_t i = 0; v && img && t && i < MIN_OF(atomic_load(&v[0]), EARLY_OPENS_MAX); i++) {
		uint32_t n = early_in_tree(at->early, atomic_load(&v[1 + i]));

		if (n < tree_count(t))
			prefetch_note(op, img, t, n);
	}
}

void prefetch_begin(struct op *op, struct node *n)
{
	const struct fs_config *c = op->fs->config;

	note_early_opens(op, n->data);
	if (c->prefetch || c->complete)
		(void)op_task(op->eng, n, begin_task, NULL, NULL);
}

/* ---- .control/prefetch ---- */

static errint_t main_image(struct op *op, const struct subject *s, struct image **ret)
{
	errint_t r = need_platform(op, s->img, ret);

	if (r == 0 && !oci_is_container_image((*ret)->m))
		return err_set(&op->err, EINVAL, ERR_INPUT, "only images have files that are used first");
	return r;
}

errint_t prefetch_show(struct op *op, const struct subject *s, struct buf *out)
{
	_cleanup_(image_unrefp) struct image *img = NULL;
	const char *state = op->fs->config->state_dir;
	struct first_use *u;
	errint_t r = main_image(op, s, &img);

	if (r < 0)
		return r;
	if (state && first_list_load(state, &img->digest, out) == 0)
		return 0;
	buf_clear(out);
	u = atomic_load(&img->first_use);
	if (u)
		write_list(u, false, out);
	return buf_check(out);
}

/* Nothing more is recorded: what is set now is to stay, what is cleared to be gone. */
static void stop_recording(struct image *img)
{
	struct first_use *u = atomic_load(&img->first_use);

	atomic_store(&img->unrecorded, true);
	if (!u)
		return;
	LOCK_SCOPE(&u->lock);
	u->n = 0;
	u->kept = true;
}

errint_t prefetch_store(struct op *op, const struct subject *s, const char *value, size_t len)
{
	_cleanup_buf_ struct buf text = BUF_INIT(FIRST_BYTES_MAX);
	_cleanup_(image_unrefp) struct image *img = NULL;
	const char *state = op->fs->config->state_dir;
	errint_t r = main_image(op, s, &img);

	if (r < 0)
		return r;
	if (len > 0 && value[len - 1] != '\n')
		return -EAGAIN;
	r = first_list_check(value, len, &op->err);
	if (r < 0)
		return r;
	stop_recording(img);
	if (first_list_count(value, len) == 0)
		return first_list_remove(state, &img->digest, &op->err);
	if (len < strlen(FIRST_SET) || memcmp(value, FIRST_SET, strlen(FIRST_SET)) != 0)
		(void)buf_adds(&text, FIRST_SET);
	if (buf_add(&text, value, len) < 0)
		return err_set(&op->err, EFBIG, ERR_LIMIT, "a list of files has at most %u bytes", FIRST_BYTES_MAX);
	return first_list_save(state, &img->digest, buf_str(&text), text.len, &op->err);
}
