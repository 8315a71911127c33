/*
 * test_tree_stack.c - a name resolved from the top layer down is the merged tree's
 *
 * Random stacks of layers with everything that merging knows (whiteouts, opaque markers, changes of
 * type, hard links within and across layers, made-up parents, reserved names) are merged, and every
 * path there could be is looked up with every number of known layers: what is answered has to be
 * what tree_merge says, and a lower layer may be asked for only where one could change the answer.
 *
 *	STACK_SEED=N	another series	STACK_ROUNDS=N	a longer one
 */
#include "cache/tree_stack.h"
#include "tarmake.h"
#include "unit.h"

#define TREE(name) _cleanup_(tree_unrefp) struct tree *name
#define STACK(name) _cleanup_(tree_stack_freep) struct tree_stack *name
#define LAYERS_MAX 6
#define PATHS_MAX 256
#define PATH_MAX_BYTES 64

/* ---- stacks written out --------------------------------------------------------------------- */

/* "f PATH N", "d PATH", "s PATH T", "l PATH T" as in test_merge.c, separated by commas. */
static struct tree *layer(const char *text)
{
	struct tree_builder *b = tree_builder_new();
	char type, path[100], arg[100];
	int used = 0;

	for (; sscanf(text, " %c %99s %99[^, ]%n", &type, path, arg, &used) == 3; text += used + (text[used] == ',')) {
		struct tree_entry en = { .path = path, .path_len = strlen(path), .mode = 0644 };

		en.type = type == 'f' ? TREE_REG : type == 'd' ? TREE_DIR : type == 's' ? TREE_SYMLINK : TREE_LINK;
		en.mode = type == 'd' ? (unsigned)strtoul(arg, NULL, 8) : 0644;
		en.size = type == 'f' ? strtoull(arg, NULL, 10) : 0;
		en.target = arg;
		en.target_len = type == 's' || type == 'l' ? strlen(arg) : 0;
		CHECK_OK(tree_builder_add(b, &en, NULL));
	}
	return tm_finish(b);
}

/* A stack of n layers of which those given, top first, are known. */
static struct tree_stack *known_stack(size_t n, const char *const *top_first)
{
	struct tree_stack *s = tree_stack_new(n);

	for (; *top_first; top_first++) {
		TREE(t) = layer(*top_first);

		CHECK_OK(tree_stack_push(s, t));
	}
	return s;
}
#define KNOWN(n, ...) known_stack(n, (const char *const[]){ __VA_ARGS__, NULL })

static const char *says(const struct tree_stack *s, const char *path)
{
	static const char *const names[] = { "found", "absent", "lower", "merge" };
	struct tree_stack_name n = { 0 };
	int r = tree_stack_lookup(s, path, strlen(path), &n);

	if (r == TREE_STACK_FOUND && !n.has_attrs)
		return "found, attributes below";
	return r < 0 ? "error" : names[r];
}

TEST(a_name_in_the_top_layer_is_found_without_the_others)
{
	STACK(s) = KNOWN(3, "d d 755,f d/a 1,f b 2");

	CHECK_EQ_STR(says(s, "d/a"), "found");
	CHECK_EQ_STR(says(s, "d"), "found");
	CHECK_EQ_STR(says(s, "b"), "found");
	CHECK_EQ_STR(says(s, "b/x"), "absent");
	CHECK_EQ_STR(says(s, "d/a/x"), "absent");
	CHECK_EQ_STR(says(s, "c"), "lower");
	CHECK_EQ_STR(says(s, "d/c"), "lower");
	CHECK_EQ_STR(says(s, ""), "found, attributes below");
}

TEST(nothing_is_known_of_an_empty_stack)
{
	STACK(s) = tree_stack_new(2);

	CHECK_EQ_STR(says(s, "a"), "lower");
	CHECK_EQ_STR(says(s, ""), "lower");
}

TEST(whiteouts_and_opaque_markers_answer_at_once)
{
	STACK(s) = KNOWN(2, "f .wh.a 0,d o 755,f o/.wh..wh..opq 0,f o/x 1,f p/.wh.y 0,f .wh.k 0,f k 3");

	CHECK_EQ_STR(says(s, "a"), "absent");
	CHECK_EQ_STR(says(s, "a/b/c"), "absent");
	CHECK_EQ_STR(says(s, "o/y"), "absent");
	CHECK_EQ_STR(says(s, "o/x"), "found");
	CHECK_EQ_STR(says(s, "p/y"), "absent");
	CHECK_EQ_STR(says(s, "p/z"), "lower");
	CHECK_EQ_STR(says(s, "p"), "lower");	/* made up for a marker alone */
	CHECK_EQ_STR(says(s, "k"), "found");
	CHECK_EQ_STR(says(s, ".wh.a"), "absent");
	CHECK_EQ_STR(says(s, "o/.wh..wh..opq"), "absent");
}

TEST(a_made_up_directory_waits_for_its_attributes_only)
{
	STACK(s) = KNOWN(3, "f d/a 1");
	STACK(u) = KNOWN(3, "f d/a 1", "d d 700");
	STACK(v) = KNOWN(2, "f d/a 1", "f x 1");
	struct tree_stack_name n;

	CHECK_EQ_STR(says(s, "d"), "found, attributes below");
	CHECK_EQ_STR(says(s, "d/a"), "found");
	CHECK_EQ_INT(tree_stack_lookup(u, "d", 1, &n), TREE_STACK_FOUND);
	CHECK(n.has_attrs && n.is_dir && n.layer == 2 && n.attr_layer == 1);
	CHECK_EQ_STR(says(v, "d"), "found");
}

TEST(what_links_may_change_is_left_to_the_merge)
{
	STACK(s) = KNOWN(2, "f a 1,l b a,l x low,f c 1,l y c");
	STACK(u) = KNOWN(3, "l x c", "f c 1,f d 1");

	CHECK_EQ_STR(says(s, "a"), "merge");
	CHECK_EQ_STR(says(s, "x"), "merge");
	CHECK_EQ_STR(says(u, "c"), "merge");
	CHECK_EQ_STR(says(u, "d"), "found");
	CHECK_EQ_STR(says(u, "x"), "merge");
}

/* ---- random stacks -------------------------------------------------------------------------- */

static uint32_t seed;
static char paths[PATHS_MAX][PATH_MAX_BYTES];
static size_t n_paths;

static unsigned rnd(unsigned n)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % n;
}

static void add_paths(const char *dir, unsigned depth)
{
	static const char *const names[] = { "a", "b", "c", ".wh.a" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char path[PATH_MAX_BYTES];

		(void)snprintf(path, sizeof(path), "%.40s%s%s", dir, *dir ? "/" : "", names[i]);
		memcpy(paths[n_paths++], path, sizeof(path));
		if (depth > 1)
			add_paths(path, depth - 1);
	}
}

/* The root and all paths of three components. */
static void all_paths(void)
{
	n_paths = 1;
	add_paths("", 3);
}

static void random_name(char *out, size_t max, bool last)
{
	static const char *const odd[] = { ".wh..wh..opq", ".wh.", ".wh..wh.x", ".wh..opq", ".wh.a" };
	char c = (char)('a' + rnd(3));

	if (last && rnd(5) == 0)
		(void)snprintf(out, max, ".wh.%c", c);
	else if (last && rnd(10) == 0)
		(void)snprintf(out, max, "%s", odd[rnd(2) ? 0 : rnd(5)]);
	else if (!last && rnd(30) == 0)
		(void)snprintf(out, max, ".wh.%c", c);
	else
		(void)snprintf(out, max, "%c", c);
}

static void random_path(char *out)
{
	unsigned depth = 1 + rnd(3);
	size_t at = 0;

	for (unsigned i = 0; i < depth; i++) {
		char name[20];

		random_name(name, sizeof(name), i + 1 == depth);
		at += (size_t)snprintf(out + at, PATH_MAX_BYTES - at, "%s%s", i ? "/" : "", name);
	}
}

static void random_entry(struct tree_builder *b, bool links, unsigned id)
{
	static const enum tree_type types[] = { TREE_REG, TREE_REG, TREE_DIR, TREE_DIR, TREE_SYMLINK,
						TREE_FIFO, TREE_LINK, TREE_LINK };
	char path[PATH_MAX_BYTES], target[PATH_MAX_BYTES];
	struct tree_entry en = {
		.type = types[rnd(ARRAY_SIZE(types) - (links ? 0 : 2))],
		.path = path, .target = target, .mode = id & 0777, .uid = id, .gid = id + 1, .mtime_s = id,
		.data_off = 512u * id,
	};

	random_path(path);
	random_path(target);
	if (rnd(40) == 0) {
		(void)snprintf(path, sizeof(path), "/");
		en.type = TREE_DIR;
	}
	en.path_len = strlen(path);
	en.target_len = strlen(target);
	en.size = en.type == TREE_REG ? id : 0;
	CHECK_OK(tree_builder_add(b, &en, NULL));
}

static struct tree *random_layer(bool links, unsigned max, unsigned *id)
{
	struct tree_builder *b = tree_builder_new();

	for (unsigned k = rnd(max); k-- > 0;)
		random_entry(b, links, (*id)++);
	return tm_finish(b);
}

static bool same_attrs(const struct tree_attr *want, const struct tree_attr *got)
{
	bool dir = want->type == TREE_DIR;

	return CHECK_EQ_INT(got->type, want->type) && CHECK_EQ_INT(got->mode, want->mode) &&
	       CHECK_EQ_INT(got->uid, want->uid) && CHECK_EQ_INT(got->gid, want->gid) &&
	       CHECK_EQ_INT(got->mtime_s, want->mtime_s) && CHECK_EQ_INT(got->size, want->size) &&
	       CHECK_EQ_INT(got->data_off, want->data_off) && CHECK_EQ_INT(got->flags, want->flags) &&
	       (dir || CHECK_EQ_INT(got->nlink, want->nlink)) &&
	       CHECK_EQ_INT(got->target_len, want->target_len) &&
	       CHECK(!want->target_len || memcmp(got->target, want->target, want->target_len) == 0);
}

/* Files and directories of the merged tree, by their numbers there: which layer's node stands for them. */
struct seen {
	bool known;
	uint32_t layer, node;
};

static bool found_is_right(const struct tree_stack *s, const struct tree_stack_name *n, const struct tree *merged,
			   const char *path, struct seen *seen)
{
	uint32_t i = tree_lookup_path(merged, path, strlen(path));
	struct tree_attr want, got, place;
	struct seen *x;

	if (!CHECK(i != TREE_NONE))
		return false;
	tree_get(merged, i, &want);
	if (!CHECK_EQ_INT(n->is_dir, want.type == TREE_DIR))
		return false;
	tree_get(tree_stack_tree(s, n->layer), n->node, &place);
	x = &seen[want.ino];
	if (x->known && (!CHECK_EQ_INT(x->layer, n->layer) || !CHECK_EQ_INT(x->node, n->node)))
		return false;
	*x = (struct seen){ true, n->layer, n->node };
	if (want.type == TREE_REG && !CHECK_EQ_INT(n->layer, want.layer))
		return false;
	if (!n->has_attrs)
		return CHECK(n->is_dir);
	tree_get(tree_stack_tree(s, n->attr_layer), n->attr_node, &got);
	return same_attrs(&want, &got);
}

/* Merges the known layers over one more that has, or has not, something at that path. */
static struct tree *merge_over(struct tree *const *layers, size_t n, size_t known, const char *path, enum tree_type below)
{
	struct tree_builder *b = tree_builder_new();
	struct tree_entry en = { .type = below, .path = path, .path_len = strlen(path), .mode = 01234, .uid = 99999 };
	struct tree *all[LAYERS_MAX + 1];

	if (below != TREE_UNSET)
		CHECK_OK(tree_builder_add(b, &en, NULL));
	all[0] = tm_finish(b);
	for (size_t i = 0; i < known; i++)
		all[i + 1] = layers[n - known + i];

	struct tree *t = tm_merge(all, known + 1);

	(void)tree_unref(all[0]);
	return t;
}

static bool differ(const struct tree *a, const struct tree *b, const char *path)
{
	struct tree_attr x, y;
	bool in_a = tm_get(a, path, &x), in_b = tm_get(b, path, &y);

	return in_a != in_b || (in_a && (x.type != y.type || x.uid != y.uid));
}

/* Could a lower layer have changed the answer? */
static bool was_needed(struct tree *const *layers, size_t n, size_t known, const char *path)
{
	TREE(none) = merge_over(layers, n, known, path, TREE_UNSET);
	TREE(file) = merge_over(layers, n, known, path, TREE_FIFO);
	TREE(dir) = merge_over(layers, n, known, path, TREE_DIR);

	return CHECK(differ(none, file, path) || differ(none, dir, path));
}

struct tally {
	unsigned found, absent, lower, merge, early;
};

static bool check_path(struct tree *const *layers, size_t n, const struct tree_stack *s, const struct tree *merged,
		       const char *path, bool links, struct seen *seen, struct tally *tally)
{
	struct tree_stack_name name = { 0 };
	size_t known = tree_stack_known(s);

	switch (tree_stack_lookup(s, path, strlen(path), &name)) {
	case TREE_STACK_FOUND:
		tally->found++;
		tally->early += known < n;
		if (!name.has_attrs && (!CHECK(known < n) || (!links && !was_needed(layers, n, known, path))))
			return false;
		return found_is_right(s, &name, merged, path, seen);
	case TREE_STACK_ABSENT:
		tally->absent++;
		tally->early += known < n;
		return CHECK_EQ_INT(tree_lookup_path(merged, path, strlen(path)), TREE_NONE);
	case TREE_STACK_LOWER:
		tally->lower++;
		return CHECK(known < n) && (links || was_needed(layers, n, known, path));
	case TREE_STACK_MERGE:
		tally->merge++;
		return CHECK(links);
	}
	return CHECK(!"an answer");
}

static bool check_known(struct tree *const *layers, size_t n, struct tree_stack *s, const struct tree *merged, bool links,
			struct seen *seen, struct tally *tally)
{
	bool ok = true;

	for (size_t i = 0; ok && i < n_paths; i++) {
		ok = check_path(layers, n, s, merged, paths[i], links, seen, tally);
		if (!ok)
			printf("# path \"%s\", %zu of %zu layers known\n", paths[i], tree_stack_known(s), n);
	}
	return ok;
}

static bool one_round(unsigned round, struct tally *tally)
{
	size_t n = 1 + rnd(LAYERS_MAX);
	struct tree *layers[LAYERS_MAX];
	bool links = round % 2, ok = true;
	unsigned id = 1;

	for (size_t i = 0; i < n; i++)
		layers[i] = random_layer(links, round % 3 ? 8 : 20, &id);

	TREE(merged) = tm_merge(layers, n);
	STACK(s) = tree_stack_new(n);
	_cleanup_free_ struct seen *seen = calloc(tree_count(merged), sizeof(*seen));

	for (size_t i = n; ok && i-- > 0;) {
		CHECK_OK(tree_stack_push(s, layers[i]));
		ok = check_known(layers, n, s, merged, links, seen, tally);
	}
	for (size_t i = 0; i < n; i++) {
		_cleanup_buf_ struct buf b = BUF_INIT(1u << 20);

		if (!ok)
			printf("# layer %zu:\n%s", i, tm_list(layers[i], &b));
		(void)tree_unref(layers[i]);
	}
	return ok;
}

static unsigned setting(const char *name, unsigned otherwise)
{
	const char *text = getenv(name);

	return text ? (unsigned)strtoul(text, NULL, 10) : otherwise;
}

TEST(random_stacks_resolved_from_the_top_agree_with_the_merge)
{
	unsigned first = setting("STACK_SEED", 20261123), rounds = setting("STACK_ROUNDS", 600);
	struct tally tally = { 0 };

	all_paths();
	for (unsigned i = 0; i < rounds; i++) {
		seed = first + i;
		if (!one_round(i, &tally)) {
			printf("# round %u: STACK_SEED=%u\n", i, first);
			return;
		}
	}
	printf("# found %u, absent %u (before the last layer: %u), lower %u, merge %u\n", tally.found, tally.absent,
	       tally.early, tally.lower, tally.merge);
	CHECK(rounds < 100 || tally.early > (tally.found + tally.absent) / 10);
}
