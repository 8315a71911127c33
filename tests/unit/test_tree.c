/*
 * test_tree.c - building trees, reading them, and refusing images that lie
 *
 * Builder rules are checked on listings (tm_list: breadth first, bytewise order).  Images are
 * damaged field by field: each lie must be found by tree_open, none may crash it.
 */
#include <sys/mman.h>
#include <time.h>

#include "cache/tree_write.h"
#include "tarmake.h"
#include "unit.h"

#define TREE(name) _cleanup_(tree_unrefp) struct tree *name


static void add_full(struct tree_builder *b, struct tree_entry en, const char *path, const char *target)
{
	struct err e = { 0 };

	en.path = path;
	en.path_len = strlen(path);
	en.target = target;
	en.target_len = target ? strlen(target) : 0;
	if (!CHECK_OK(tree_builder_add(b, &en, &e)))
		printf("# %s\n", e.msg);
}

static void add_file(struct tree_builder *b, const char *path, uint64_t size)
{
	add_full(b, (struct tree_entry){ .type = TREE_REG, .mode = 0644, .size = size }, path, NULL);
}

static void add_dir(struct tree_builder *b, const char *path, uint32_t mode)
{
	add_full(b, (struct tree_entry){ .type = TREE_DIR, .mode = mode }, path, NULL);
}

static void add_link(struct tree_builder *b, const char *path, const char *target)
{
	add_full(b, (struct tree_entry){ .type = TREE_LINK }, path, target);
}

static void add_symlink(struct tree_builder *b, const char *path, const char *target)
{
	add_full(b, (struct tree_entry){ .type = TREE_SYMLINK, .mode = 0777 }, path, target);
}

/* Leaks nothing: the listing is copied into a static place. */
static const char *list(const struct tree *t)
{
	static struct buf b = BUF_INIT(8u << 20);

	return t ? tm_list(t, &b) : NULL;
}

static struct tree_attr attr(const struct tree *t, const char *path)
{
	struct tree_attr a = { 0 };

	if (t)
		(void)tm_get(t, path, &a);
	return a;
}

/* ---- builder -------------------------------------------------------------------------------- */

TEST(an_empty_tree_is_a_root)
{
	TREE(t) = tm_finish(tree_builder_new());
	struct tree_attr a = attr(t, "");

	REQUIRE(t);
	CHECK_EQ_INT(tree_count(t), 1);
	CHECK_EQ_INT(a.type, TREE_DIR);
	CHECK_EQ_INT(a.mode, 0755);
	CHECK_EQ_INT(a.nlink, 2);
	CHECK_EQ_INT(a.flags, TREE_F_IMPLICIT);
	CHECK_EQ_INT(a.parent, TREE_ROOT);
	CHECK_EQ_INT(a.name_len, 0);
}

TEST(children_are_sorted_bytewise_and_numbered_in_a_row)
{
	struct tree_builder *b = tree_builder_new();

	add_file(b, "b", 1);
	add_file(b, "a/z", 1);
	add_file(b, "a-b", 1);
	add_file(b, "\xff", 1);
	add_file(b, "A", 1);
	add_file(b, "a/y/x", 1);
	TREE(t) = tm_finish(b);

	CHECK_EQ_STR(list(t), "A\na/\na-b\nb\n\xff\na/y/\na/z\na/y/x\n");

	struct tree_attr a = attr(t, "a");

	CHECK_EQ_INT(a.n_children, 2);
	CHECK_EQ_INT(tree_lookup(t, TREE_ROOT, "a", 1), 2);
	CHECK_EQ_INT(a.first_child, 6);
	CHECK_EQ_INT(a.nlink, 3);
	CHECK_EQ_INT(attr(t, "").nlink, 3);
}

TEST(missing_parents_are_made_up)
{
	struct tree_builder *b = tree_builder_new();

	add_file(b, "a/b/c", 1);
	add_dir(b, "a", 0700);
	TREE(t) = tm_finish(b);

	CHECK_EQ_INT(attr(t, "a").mode, 0700);
	CHECK_EQ_INT(attr(t, "a").flags, 0);
	CHECK_EQ_INT(attr(t, "a/b").mode, 0755);
	CHECK_EQ_INT(attr(t, "a/b").flags, TREE_F_IMPLICIT);
	CHECK_EQ_INT(attr(t, "a/b").mtime_s, 0);
	CHECK_EQ_INT(attr(t, "a/b/c").type, TREE_REG);
}

TEST(the_root_entry_sets_attributes_and_is_no_child)
{
	static const char *const roots[] = { ".", "./", "/", "//", "/./", "a/..", "" };

	for (size_t i = 0; i < ARRAY_SIZE(roots); i++) {
		struct tree_builder *b = tree_builder_new();

		add_dir(b, roots[i], 0711);
		TREE(t) = tm_finish(b);

		CHECK_EQ_INT(tree_count(t), 1);
		CHECK_EQ_INT(attr(t, "").mode, 0711);
		CHECK_EQ_INT(attr(t, "").flags, 0);
	}
}

TEST(paths_are_cleaned)
{
	static const char *const same[] = { "a/b", "/a/b", "./a/b", "a//b", "a/./b", "//a///b", "a/b/",
					    "a/x/../b", "x/../a/b", "./././a/b/." };

	for (size_t i = 0; i < ARRAY_SIZE(same); i++) {
		struct tree_builder *b = tree_builder_new();

		add_file(b, same[i], 1);
		CHECK_EQ_INT(tree_builder_refused(b), 0);
		TREE(t) = tm_finish(b);

		CHECK_EQ_STR(list(t), "a/\na/b\n");
	}
}

TEST(bad_paths_are_dropped_and_counted)
{
	struct tree_builder *b = tree_builder_new();
	_cleanup_free_ char *longer = malloc(6000);
	char comp[258];

	add_file(b, "..", 1);
	add_file(b, "../x", 1);
	add_file(b, "a/../../x", 1);
	add_file(b, "/..", 1);
	memset(comp, 'c', 256);
	comp[256] = '\0';
	add_file(b, comp, 1);
	for (size_t i = 0; i < 5999; i++)
		longer[i] = i % 10 == 9 ? '/' : 'p';
	longer[4097] = '\0';
	add_file(b, longer, 1);
	for (size_t i = 0; i < 5998; i += 2)
		memcpy(longer + i, "d/", 2);
	longer[2 * (TREE_DEPTH_MAX + 1)] = '\0';
	add_file(b, longer, 1);
	CHECK_EQ_INT(tree_builder_refused(b), 7);

	struct tree_entry nul = { .type = TREE_REG, .path = "a\0b", .path_len = 3 };

	CHECK_OK(tree_builder_add(b, &nul, NULL));
	add_file(b, ".", 1);		/* a root that is no directory */
	add_symlink(b, "s", "");
	memset(longer, 't', 4096);
	longer[4096] = '\0';
	add_symlink(b, "s", longer);	/* readlink could not give it out */
	CHECK_EQ_INT(tree_builder_refused(b), 11);
	TREE(t) = tm_finish(b);

	CHECK_EQ_INT(tree_count(t), 1);
}

TEST(paths_up_to_the_limits_work)
{
	struct tree_builder *b = tree_builder_new();
	char name[256], path[4097], deep[2 * TREE_DEPTH_MAX];
	_cleanup_buf_ struct buf out = BUF_INIT(10000);

	memset(name, 'n', 255);
	name[255] = '\0';
	for (size_t i = 0; i < 4096; i++)
		path[i] = i % 241 == 240 ? '/' : 'p';
	path[4096] = '\0';
	path[4095] = 'p';
	for (size_t i = 0; i < TREE_DEPTH_MAX; i++)
		memcpy(deep + 2 * i, "d/", 2);
	deep[sizeof(deep) - 1] = '\0';
	add_file(b, name, 1);
	add_file(b, path, 2);
	add_file(b, deep, 3);
	CHECK_EQ_INT(tree_builder_refused(b), 0);
	TREE(t) = tm_finish(b);
	REQUIRE(t);
	CHECK_EQ_INT(attr(t, name).size, 1);
	CHECK_EQ_INT(attr(t, path).size, 2);
	CHECK_EQ_INT(attr(t, deep).size, 3);

	uint32_t n = tree_lookup_path(t, path, 4096);

	CHECK_OK(tree_path(t, n, &out));
	CHECK_EQ_STR(buf_str(&out), path);
	buf_clear(&out);
	n = tree_lookup_path(t, deep, sizeof(deep) - 1);
	CHECK_OK(tree_path(t, n, &out));
	CHECK_EQ_STR(buf_str(&out), deep);
}

TEST(names_are_bytes)
{
	struct tree_builder *b = tree_builder_new();

	add_file(b, "new\nline", 1);
	add_file(b, "\xc3\x28\xff", 2);
	add_file(b, " ", 3);
	add_file(b, "...", 4);
	add_symlink(b, "s", "\xff\n");
	TREE(t) = tm_finish(b);

	CHECK_EQ_INT(attr(t, "new\nline").size, 1);
	CHECK_EQ_INT(attr(t, "\xc3\x28\xff").size, 2);
	CHECK_EQ_INT(attr(t, " ").size, 3);
	CHECK_EQ_INT(attr(t, "...").size, 4);
	CHECK_EQ_STR(attr(t, "s").target, "\xff\n");
	CHECK_EQ_INT(attr(t, "s").size, 2);
}

TEST(the_last_entry_of_a_path_wins)
{
	struct tree_builder *b = tree_builder_new();

	add_file(b, "f", 1);
	add_file(b, "f", 2);
	add_symlink(b, "d", "x");
	add_file(b, "d/a", 3);		/* a directory replaces what is in the way */
	add_file(b, "e/a", 4);
	add_file(b, "e", 5);		/* and a file the directory with its children */
	add_file(b, "g/a", 6);
	add_file(b, "g", 7);
	add_file(b, "g/b", 8);		/* which do not come back */
	add_dir(b, "h", 0700);
	add_file(b, "h/a", 9);
	add_dir(b, "h", 0711);		/* a directory keeps them */
	TREE(t) = tm_finish(b);

	CHECK_EQ_STR(list(t), "d/\ne\nf\ng/\nh/\nd/a\ng/b\nh/a\n");
	CHECK_EQ_INT(attr(t, "f").size, 2);
	CHECK_EQ_INT(attr(t, "h").mode, 0711);
	CHECK_EQ_INT(tree_data_bytes(t), 2 + 3 + 5 + 8 + 9);
}

TEST(hard_links_share_a_file)
{
	struct tree_builder *b = tree_builder_new();

	add_file(b, "z", 5);
	add_link(b, "a", "z");
	add_link(b, "d/b", "./a");
	add_symlink(b, "s1", "t");
	add_link(b, "s2", "/s1");
	TREE(t) = tm_finish(b);

	CHECK_EQ_STR(list(t), "a\nd/\ns1 -> t\ns2 -> t = s1\nz = a\nd/b = a\n");
	CHECK_EQ_INT(attr(t, "z").nlink, 3);
	CHECK_EQ_INT(attr(t, "d/b").size, 5);
	CHECK_EQ_INT(attr(t, "d/b").name_len, 1);
	CHECK_EQ_INT(attr(t, "d/b").parent, tree_lookup(t, TREE_ROOT, "d", 1));
	CHECK_EQ_INT(attr(t, "s2").nlink, 2);
	CHECK_EQ_INT(tree_data_bytes(t), 5);
}

TEST(a_link_keeps_the_content_of_a_replaced_target)
{
	struct tree_builder *b = tree_builder_new();

	add_file(b, "t", 1);
	add_link(b, "l", "t");
	add_file(b, "t", 2);
	add_link(b, "m", "t");
	TREE(t) = tm_finish(b);

	CHECK_EQ_STR(list(t), "l\nm\nt = m\n");
	CHECK_EQ_INT(attr(t, "l").size, 1);
	CHECK_EQ_INT(attr(t, "l").nlink, 1);
	CHECK_EQ_INT(attr(t, "m").size, 2);
}

TEST(links_that_cannot_be)
{
	struct tree_builder *b = tree_builder_new();

	add_dir(b, "d", 0755);
	add_link(b, "to-dir", "d");		/* refused */
	add_link(b, "to-root", "/");		/* refused */
	add_link(b, "escapes", "../x");		/* refused */
	CHECK_EQ_INT(tree_builder_refused(b), 3);
	add_file(b, "f", 1);
	add_link(b, "f", "./f");		/* nothing happens */
	add_link(b, "nothing", "nothing");
	add_link(b, "x/nothing", "x/nothing");
	add_link(b, "f/x", "f");		/* the target goes, its content stays */
	CHECK_EQ_INT(tree_builder_refused(b), 3);
	TREE(t) = tm_finish(b);

	CHECK_EQ_STR(list(t), "d/\nf/\nf/x\n");
	CHECK_EQ_INT(attr(t, "f/x").size, 1);
}

TEST(links_to_what_is_not_here_stay_links)
{
	struct tree_builder *b = tree_builder_new();

	add_link(b, "early", "./later");
	add_file(b, "later", 7);
	add_link(b, "a", "/lower//file");
	add_link(b, "b", "a");
	add_link(b, "through", "later/x");
	TREE(t) = tm_finish(b);

	CHECK_EQ_STR(list(t), "a => lower/file\nb => lower/file = a\nearly => later\nlater\n"
			      "through => later/x\n");
	CHECK_EQ_INT(attr(t, "a").type, TREE_LINK);
	CHECK_EQ_INT(attr(t, "a").nlink, 2);
	CHECK_EQ_INT(attr(t, "a").size, 0);
}

TEST(attributes_survive)
{
	static const struct tree_xattr_in x[] = {
		{ "user.b", 6, "1", 1 }, { "user.a", 6, "x\0y", 3 }, { "user.b", 6, "2", 1 },
		{ "user.e", 6, "", 0 }, { "user.gone", 9, "1", 1 }, { "user.gone", 9, NULL, 0 },
		{ "", 0, "n", 1 },
	};
	struct tree_builder *b = tree_builder_new();
	struct tree_entry en = {
		.type = TREE_REG, .mode = 0106755, .uid = 4000000000, .gid = 5, .mtime_s = -7,
		.mtime_ns = 999999999, .size = 1, .data_off = 512, .xattrs = x, .n_xattrs = ARRAY_SIZE(x),
	};
	const char *name;
	const void *value;
	size_t nlen, vlen;

	add_full(b, en, "f", NULL);
	add_full(b, en, "same", NULL);
	add_full(b, (struct tree_entry){ .type = TREE_BLK, .rdev_major = 259, .rdev_minor = 70000 }, "b", NULL);
	TREE(t) = tm_finish(b);
	REQUIRE(t);

	struct tree_attr a = attr(t, "f");
	uint32_t n = tree_lookup(t, TREE_ROOT, "f", 1);

	CHECK_EQ_INT(a.mode, 06755);
	CHECK_EQ_INT(a.uid, 4000000000);
	CHECK_EQ_INT(a.mtime_s, -7);
	CHECK_EQ_INT(a.mtime_ns, 999999999);
	CHECK_EQ_INT(a.data_off, 512);
	CHECK_EQ_INT(attr(t, "b").rdev_major, 259);
	CHECK_EQ_INT(attr(t, "b").rdev_minor, 70000);
	REQUIRE(tree_xattr(t, n, 0, &name, &nlen, &value, &vlen));
	CHECK(nlen == 6 && memcmp(name, "user.a", 6) == 0 && vlen == 3 && memcmp(value, "x\0y", 3) == 0);
	REQUIRE(tree_xattr(t, n, 1, &name, &nlen, &value, &vlen));
	CHECK(nlen == 6 && memcmp(name, "user.b", 6) == 0 && vlen == 1 && memcmp(value, "2", 1) == 0);
	REQUIRE(tree_xattr(t, n, 2, &name, &nlen, &value, &vlen));
	CHECK(nlen == 6 && memcmp(name, "user.e", 6) == 0 && vlen == 0);
	CHECK(!tree_xattr(t, n, 3, &name, &nlen, &value, &vlen));
	CHECK_EQ_INT(t->head->xsets, 1); /* shared */
}

TEST(nonsense_entries_are_errors)
{
	static const struct tree_extent overlap[] = { { 0, 10, 0 }, { 5, 10, 10 } };
	static const struct tree_extent beyond[] = { { 0, 101, 0 } };
	static const struct tree_extent wraps[] = { { UINT64_MAX, 2, 0 } };
	static const struct tree_extent far[] = { { 0, 10, INT64_MAX } };
	static const struct tree_entry bad[] = {
		{ .type = TREE_UNSET },
		{ .type = TREE_REG, .size = UINT64_MAX },
		{ .type = TREE_REG, .size = INT64_MAX, .data_off = 1 },
		{ .type = TREE_REG, .mtime_ns = 1000000000 },
		{ .type = TREE_REG, .size = 100, .extents = overlap, .n_extents = 2 },
		{ .type = TREE_REG, .size = 100, .extents = beyond, .n_extents = 1 },
		{ .type = TREE_REG, .size = 100, .extents = wraps, .n_extents = 1 },
		{ .type = TREE_REG, .size = 100, .extents = far, .n_extents = 1 },
	};
	struct tree_builder *b = tree_builder_new();

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct tree_entry en = bad[i];
		struct err e = { 0 };

		en.path = "x";
		en.path_len = 1;
		CHECK_ERR(tree_builder_add(b, &en, &e), -EINVAL);
		CHECK_EQ_INT(e.cls, ERR_INPUT);
	}
	(void)tree_builder_free(b);
}

TEST(sparse_files_of_replaced_entries_leave_nothing)
{
	static const struct tree_extent x[] = { { 0, 10, 512 }, { 50, 5, 522 } };
	struct tree_builder *b = tree_builder_new();
	struct tree_entry en = { .type = TREE_REG, .size = 100, .extents = x, .n_extents = 2 };
	struct tree_extent got;

	add_full(b, en, "z", NULL);
	add_full(b, en, "a", NULL);
	add_full(b, en, "a", NULL);
	add_link(b, "link", "z");
	en.n_extents = 0;
	add_full(b, en, "hole", NULL);
	TREE(t) = tm_finish(b);
	REQUIRE(t);
	CHECK_EQ_INT(t->head->extents, 4);
	CHECK_EQ_INT(attr(t, "hole").flags, TREE_F_SPARSE);

	uint32_t n = tree_lookup(t, TREE_ROOT, "z", 1);

	CHECK(tree_extent(t, n, 1, &got) && got.off == 50 && got.len == 5 && got.data_off == 522);
	CHECK(!tree_extent(t, n, 2, &got));
}

TEST(the_ceiling_of_the_buffer_is_an_error)
{
	struct tree_builder *b = tree_builder_new();
	_cleanup_buf_ struct buf out = BUF_INIT(100);
	struct err e = { 0 };

	add_file(b, "a", 1);
	CHECK_ERR(tree_builder_finish(b, &out, &e), -EFBIG);
	CHECK_EQ_INT(e.cls, ERR_LIMIT);
	(void)tree_builder_free(b);
}

/* Adds entries of one path until the builder has enough of it; returns how many it took. */
static unsigned add_until_full(struct tree_entry en, unsigned most)
{
	_cleanup_(tree_builder_freep) struct tree_builder *b = tree_builder_new();
	char name[64], value[64000] = { 0 };
	struct tree_xattr_in x = { "user.a", 6, value, sizeof(value) };
	struct err e = { 0 };
	errint_t r = 0;
	unsigned n = 0;

	en.path = name;
	if (en.n_xattrs)
		en.xattrs = &x;
	for (; r == 0 && n < most; n++) {
		en.path_len = (size_t)snprintf(name, sizeof(name), "%s%u", en.extents ? "f" : "g", n % 7);
		memcpy(value, &n, sizeof(n));
		r = tree_builder_add(b, &en, &e);
		CHECK(tree_builder_bytes(b) < TREE_BYTES_MIN + (20u << 20));
	}
	CHECK_ERR(r, -EFBIG);
	CHECK_EQ_INT(e.cls, ERR_LIMIT);
	return n;
}

/* What is small in an archive and large in memory ends while it is added, not only at the end. */
TEST(the_builder_has_a_ceiling)
{
	const size_t n = 700000;
	struct tree_extent *x = calloc(n, sizeof(*x));

	for (size_t i = 0; i < n; i++)
		x[i] = (struct tree_extent){ .off = 2 * i, .len = 1, .data_off = 512 };
	tree_bytes_set = TREE_BYTES_MIN;
	CHECK(add_until_full((struct tree_entry){ .type = TREE_REG, .size = 2 * n, .extents = x,
						  .n_extents = n }, 120) < 20);
	CHECK(add_until_full((struct tree_entry){ .type = TREE_REG, .n_xattrs = 1 }, 20000) < 5000);
	tree_bytes_set = 0;
	CHECK(tree_bytes_max() >= TREE_BYTES_MIN && tree_bytes_max() <= TREE_BYTES_MAX);
	free(x);
}

TEST(vectors_stop_at_their_ceiling)
{
	uint32_t *v = NULL;
	size_t cap = 0, n = 0;

	while (n < 100 && tree_vec_grow(&v, &cap, n, 100, sizeof(*v)) == 0)
		v[n++] = 7;
	CHECK_EQ_INT(n, 100);
	CHECK_ERR(tree_vec_grow(&v, &cap, n, 100, sizeof(*v)), -EFBIG);
	CHECK_EQ_INT(v[99], 7);
	CHECK_EQ_INT(cap, 100);
	free(v);
}

/* ---- reading -------------------------------------------------------------------------------- */

TEST(lookups)
{
	struct tree_builder *b = tree_builder_new();

	for (unsigned i = 0; i < 1000; i++) {
		char path[32];

		(void)snprintf(path, sizeof(path), "d/%u", i * 7);
		add_file(b, path, i);
	}
	TREE(t) = tm_finish(b);
	uint32_t d = tree_lookup(t, TREE_ROOT, "d", 1);

	for (unsigned i = 0; i < 7000; i++) {
		char name[16];
		size_t len = (size_t)snprintf(name, sizeof(name), "%u", i);
		uint32_t n = tree_lookup(t, d, name, len);

		CHECK((n != TREE_NONE) == (i % 7 == 0));
	}
	CHECK_EQ_INT(tree_lookup(t, d + 1, "x", 1), TREE_NONE);
	CHECK_EQ_INT(tree_lookup(t, d, "", 0), TREE_NONE);
	CHECK_EQ_INT(tree_lookup_path(t, "", 0), TREE_ROOT);
	CHECK_EQ_INT(tree_lookup_path(t, "d/7/x", 5), TREE_NONE);
	CHECK(tree_lookup_path(t, "d/7", 3) != TREE_NONE);
}

TEST(references_are_counted)
{
	struct tree *t = tm_finish(tree_builder_new());

	REQUIRE(t);
	CHECK(tree_ref(t) == t);
	CHECK(!tree_unref(t));
	CHECK_EQ_INT(tree_count(t), 1);
	CHECK(!tree_unref(t));
	CHECK(!tree_unref(NULL));
}

static struct tree *sample(void)
{
	static const struct tree_xattr_in x[] = { { "user.a", 6, "1", 1 }, { "user.b", 6, "2", 1 } };
	static const struct tree_extent ext[] = { { 0, 10, 512 }, { 50, 5, 522 } };
	struct tree_builder *b = tree_builder_new();

	add_dir(b, "d", 0700);
	add_file(b, "d/f", 5);
	add_link(b, "d/l", "d/f");
	add_symlink(b, "s", "target");
	add_link(b, "u", "lower");
	add_full(b, (struct tree_entry){ .type = TREE_REG, .size = 100, .extents = ext, .n_extents = 2 }, "sp", NULL);
	add_full(b, (struct tree_entry){ .type = TREE_REG, .xattrs = x, .n_xattrs = 2 }, "x", NULL);
	add_full(b, (struct tree_entry){ .type = TREE_CHR, .rdev_major = 1 }, "c", NULL);
	return tm_finish(b);
}

TEST(opening_from_a_file)
{
	TREE(t) = sample();
	_cleanup_close_ int fd = memfd_create("tree", 0);
	struct tree *again = NULL;
	struct err e = { 0 };
	size_t len, len2;
	const void *image = tree_image(t, &len);

	REQUIRE(fd >= 0 && write(fd, image, len) == (ssize_t)len);
	CHECK_OK(tree_open_fd(fd, len, &again, &e));
	REQUIRE(again);
	CHECK(memcmp(tree_image(again, &len2), image, len) == 0);
	CHECK_EQ_INT(len2, len);
	CHECK_EQ_INT(ftruncate(fd, 0), 0); /* does not matter any more */
	CHECK_EQ_INT(attr(again, "d/f").size, 5);
	(void)tree_unref(again);
	CHECK_ERR(tree_open_fd(fd, len, &again, &e), -EBADMSG);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	CHECK_ERR(tree_open_fd(fd, 3, &again, &e), -EBADMSG);
	CHECK_ERR(tree_open_fd(-1, len, &again, &e), -EBADF);
}

/* Opens a damaged copy. */
static int open_copy(const void *image, size_t len)
{
	void *copy = malloc(len ? len : 1);
	struct tree *t = NULL;
	struct err e = { 0 };

	memcpy(copy, image, len);

	int r = tree_open_mem(copy, len, &t, &e);

	CHECK(r == 0 || (e.cls == ERR_INTEGRITY && e.eno == EBADMSG));
	(void)tree_unref(t);
	return r;
}

TEST(cut_images_are_refused)
{
	TREE(t) = sample();
	size_t len;
	const void *image = tree_image(t, &len);

	CHECK_OK(open_copy(image, len));
	for (size_t n = 0; n < len; n++)
		CHECK_ERR(open_copy(image, n), -EBADMSG);
}

/* A copy of the sample as a writable image. */
struct lie {
	char *image;
	size_t len;
	struct tree_head *head;
	struct tree_node *nodes;
	struct tree_extent *extents;
	struct tree_xset *xsets;
	struct tree_xattr *xattrs;
	char *strings;
};

static struct lie lie_new(const struct tree *t)
{
	struct lie l;
	const void *image = tree_image(t, &l.len);

	l.image = malloc(l.len);
	memcpy(l.image, image, l.len);
	l.head = (void *)l.image;
	l.nodes = (void *)(l.image + ((const char *)t->nodes - (const char *)image));
	l.extents = (void *)(l.image + ((const char *)t->extents - (const char *)image));
	l.xsets = (void *)(l.image + ((const char *)t->xsets - (const char *)image));
	l.xattrs = (void *)(l.image + ((const char *)t->xattrs - (const char *)image));
	l.strings = l.image + (t->strings - (const char *)image);
	return l;
}

/* In this lie, `change` is done to a sound image that has nodes c d s sp u x d/f d/l (1..8). */
#define LIE(change)                                                             \
	do {                                                                    \
		struct lie l = lie_new(t);                                      \
		struct tree_node *n = l.nodes;                                  \
		(void)n;                                                        \
		change;                                                         \
		if (!CHECK_ERR(open_copy(l.image, l.len), -EBADMSG))            \
			printf("# line %d: %s\n", __LINE__, #change);           \
		free(l.image);                                                  \
	} while (0)

TEST(lies_about_nodes_are_found)
{
	TREE(t) = sample();

	REQUIRE(t && tree_count(t) == 9);
	LIE(l.head->magic ^= 1);
	LIE(l.head->zero = 1);
	LIE(l.head->nodes++);
	LIE(l.head->nodes = 0);
	LIE(l.head->strings--);
	LIE(n[0].type = TREE_REG);
	LIE(n[0].parent = 1);
	LIE(n[0].name_len = 1);
	LIE(n[0].ino = 2);
	LIE(n[1].type = TREE_UNSET);
	LIE(n[1].type = 99);
	LIE(n[1].zero = 1);
	LIE(n[1].mode = 010000);
	LIE(n[1].mtime_ns = 1000000000);
	LIE(n[1].v = 1);
	LIE(n[1].flags = TREE_F_IMPLICIT);
	LIE(n[1].flags = 0x80);
	LIE(n[1].name_len = 0);
	LIE(n[1].name = UINT32_MAX);
	LIE(n[1].layer = 1);
	LIE(n[1].xset = 2);
	LIE(n[1].nlink = 2);
	LIE(n[1].ino = 99);
	LIE(n[1].ino = 5);
	LIE(n[2].v = 1);
	LIE(n[2].flags = TREE_F_SPARSE);
	LIE(n[6].u = UINT64_MAX);
	LIE(n[7].layer = TREE_LAYERS_MAX);
	LIE((n[7].u = INT64_MAX, n[7].v = 1));
	LIE(l.strings[n[1].name] = '/');
	LIE(l.strings[n[1].name] = '\0');
	LIE(l.strings[n[1].name] = '.');
}

TEST(lies_about_shape_are_found)
{
	TREE(t) = sample();

	REQUIRE(t && tree_count(t) == 9);
	LIE(n[0].u = pair32(1, 7));
	LIE(n[0].u = pair32(0, 6));
	LIE(n[0].u = pair32(2, 6));
	LIE(n[0].u = pair32(1, UINT32_MAX));
	LIE(n[0].u = 0);
	LIE(n[2].u = 0);
	LIE(n[2].u = pair32(1, 2));
	LIE(n[2].u = pair32(7, 1));
	LIE(n[2].u = pair32(7, 3));
	LIE(n[2].nlink = 3);
	LIE(n[0].nlink = 2);
	LIE(n[7].parent = 0);
	LIE(n[7].parent = 7);
	LIE((n[1].name = n[2].name, n[1].name_len = n[2].name_len)); /* twice the same name */
	LIE(l.strings[n[1].name] = 'z');
}

TEST(lies_about_links_are_found)
{
	TREE(t) = sample();

	REQUIRE(t && tree_count(t) == 9);
	LIE(n[8].ino = 8);
	LIE(n[8].ino = 2);
	LIE(n[8].ino = 3);
	LIE(n[8].ino = UINT32_MAX);
	LIE(n[8].type = TREE_FIFO);
	LIE(n[8].mode = 1);
	LIE(n[8].u = 1);
	LIE(n[8].nlink = 2);
	LIE(n[7].nlink = 1);
	LIE(n[7].nlink = 3);
	LIE((n[7].ino = 8, n[8].ino = 7));
	LIE((n[7].ino = 8, n[8].ino = 8));
	LIE((n[3].u = pair32(UINT32_MAX, 1)));
	LIE((n[3].u = pair32(lo32(n[3].u), 5000)));
	LIE((n[3].u = pair32(lo32(n[3].u), 5)));
	LIE((n[3].u = pair32(0, UINT32_MAX)));
	LIE(l.strings[lo32(n[5].u) + 1] = '\0');
}

TEST(lies_about_sections_are_found)
{
	TREE(t) = sample();

	REQUIRE(t && t->head->extents == 2 && t->head->xattrs == 2);
	LIE(n[4].v = pair32(0, 3));
	LIE(n[4].v = pair32(1, 1));
	LIE(n[4].v = pair32(UINT32_MAX, UINT32_MAX));
	LIE(n[4].flags = 0);
	LIE(n[4].u = 54);
	LIE(l.extents[0].len = 0);
	LIE(l.extents[0].len = 51);
	LIE(l.extents[1].off = 9);
	LIE(l.extents[1].off = UINT64_MAX);
	LIE(l.extents[1].len = UINT64_MAX);
	LIE(l.extents[1].data_off = INT64_MAX);
	LIE(l.xsets[0].first = 1);
	LIE(l.xsets[0].count = 1);
	LIE(l.xsets[0].count = 3);
	LIE(l.xsets[0].count = 0);
	LIE(l.xattrs[0].name = UINT32_MAX);
	LIE(l.xattrs[0].name_len = 0);
	LIE(l.xattrs[0].name_len = 300);
	LIE(l.xattrs[0].value_len = UINT32_MAX);
	LIE(l.xattrs[0] = l.xattrs[1]);
	LIE(l.strings[l.xattrs[0].name] = 'z');
}

static void walk(const struct tree *t)
{
	_cleanup_buf_ struct buf path = BUF_INIT(8192);

	for (uint32_t i = 0; i < tree_count(t); i++) {
		struct tree_attr a;

		tree_get(t, i, &a);
		buf_clear(&path);
		if (tree_path(t, i, &path) == 0)
			CHECK_EQ_INT(tree_lookup_path(t, buf_str(&path), path.len), i);
	}
}

TEST(random_damage_is_found_or_harmless)
{
	TREE(t) = sample();
	size_t len;
	const char *image = tree_image(t, &len);
	uint32_t seed = 1;

	for (unsigned round = 0; round < 20000; round++) {
		char *copy = malloc(len);
		struct tree *d = NULL;

		memcpy(copy, image, len);
		for (unsigned k = 0; k <= round % 3; k++) {
			seed = seed * 1664525 + 1013904223;
			copy[(seed >> 8) % len] ^= (char)(1 << (seed >> 29));
		}
		if (tree_open_mem(copy, len, &d, NULL) == 0)
			walk(d);
		(void)tree_unref(d);
	}
}

/* ---- size ----------------------------------------------------------------------------------- */

TEST(a_hundred_thousand_entries_are_small_and_quick)
{
	struct tree_builder *b = tree_builder_new();
	struct timespec t0, t1;
	char path[64];

	clock_gettime(CLOCK_MONOTONIC, &t0);
	for (unsigned i = 0; i < 100000; i++) {
		struct tree_entry en = { .type = TREE_REG, .mode = 0644, .path = path };

		en.path_len = (size_t)snprintf(path, sizeof(path), "usr/share/pkg%u/doc/file-%u", i / 50, i % 5000);
		REQUIRE(tree_builder_add(b, &en, NULL) == 0);
	}
	TREE(t) = tm_finish(b);
	clock_gettime(CLOCK_MONOTONIC, &t1);

	size_t len;

	REQUIRE(t);
	(void)tree_image(t, &len);
	printf("# %.1f bytes a node, %.0f ms\n", (double)len / tree_count(t),
	       (double)(t1.tv_sec - t0.tv_sec) * 1e3 + (double)(t1.tv_nsec - t0.tv_nsec) / 1e6);
	CHECK(len / tree_count(t) <= 80);
}
