/*
 * test_erofs.c - merged trees as EROFS images
 *
 * erofsread.c reads every image as Linux would and compares all of it with the tree; fsck.erofs and
 * the kernel itself read them in tests/test_erofs.py.
 */
#include "tests/unit/erofsread.h"
#include "tests/unit/store_unit.h"
#include "tests/unit/tarmake.h"

#define TREE(name) _cleanup_(tree_unrefp) struct tree *name

static const struct digest id = { .alg = DIGEST_SHA256, .len = 32, .raw = { 1, 2, 3, 4 } };

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

static void add_file(struct tree_builder *b, const char *path, uint64_t size, uint64_t data_off)
{
	add_full(b, (struct tree_entry){ .type = TREE_REG, .mode = 0644, .size = size, .data_off = data_off,
					 .mtime_s = -5, .mtime_ns = 7 }, path, NULL);
}

static void add_symlink(struct tree_builder *b, const char *path, const char *target)
{
	add_full(b, (struct tree_entry){ .type = TREE_SYMLINK, .mode = 0777 }, path, target);
}

static void add_xattr(struct tree_builder *b, const char *path, enum tree_type type, const char *name,
		      const void *value, size_t len)
{
	struct tree_xattr_in x = { name, strlen(name), value, len };

	add_full(b, (struct tree_entry){ .type = type, .mode = 0755, .xattrs = &x, .n_xattrs = 1 }, path,
		 type == TREE_SYMLINK ? "target" : NULL);
}

/* Merges what the builder has; frees it. */
static struct tree *merged(struct tree_builder *b)
{
	TREE(layer) = tm_finish(b);

	return layer ? tm_merge(&layer, 1) : NULL;
}

/* Writes and compares; false when either fails. */
static bool written(const struct tree *t, struct buf *image)
{
	struct err e = { 0 };
	const char *wrong;

	if (!t || !CHECK_OK(erofs_write(t, &id, image, NULL, &e))) {
		printf("# %s\n", e.msg);
		return false;
	}
	wrong = er_compare(t, image);
	return wrong ? unit_fail(__FILE__, __LINE__, "%s", wrong) : true;
}

#define IMAGE(name) _cleanup_buf_ struct buf name = BUF_INIT(EROFS_KEPT_MAX)

static void check_tree(struct tree_builder *b)
{
	TREE(t) = merged(b);
	IMAGE(image);

	(void)written(t, &image);
}

/* ---- what it looks like ---- */

TEST(an_empty_tree_is_one_block)
{
	TREE(t) = merged(tree_builder_new());
	IMAGE(image);

	REQUIRE(written(t, &image));
	CHECK_EQ_INT(image.len, EROFS_BLOCK + sizeof(struct erofs_tail));
}

static struct tree_builder *some_of_everything(void)
{
	struct tree_builder *b = tree_builder_new();

	add_full(b, (struct tree_entry){ .type = TREE_DIR, .mode = 02751, .uid = 70000, .gid = UINT32_MAX - 1,
					 .mtime_s = 1700000000, .mtime_ns = 123456789 }, "usr/bin", NULL);
	add_file(b, "usr/bin/a", 5000, 1536);
	add_file(b, "usr/empty", 0, 0);
	add_full(b, (struct tree_entry){ .type = TREE_REG, .mode = 04755, .size = UINT64_C(5) << 30, .data_off = 512 },
		 "usr/big", NULL);
	add_full(b, (struct tree_entry){ .type = TREE_LINK }, "usr/same", "usr/bin/a");
	add_full(b, (struct tree_entry){ .type = TREE_CHR, .mode = 0600, .rdev_major = 4095, .rdev_minor = 1048575 },
		 "dev/c", NULL);
	add_full(b, (struct tree_entry){ .type = TREE_BLK, .mode = 0660, .rdev_major = 8, .rdev_minor = 300 },
		 "dev/b", NULL);
	add_full(b, (struct tree_entry){ .type = TREE_FIFO, .mode = 0644 }, "dev/p", NULL);
	add_symlink(b, "bin", "/usr/bin");
	add_xattr(b, "ping", TREE_REG, "security.capability", "\1\0\0\2\0\4", 6);
	return b;
}

TEST(every_sort_of_file_has_the_trees_attributes)
{
	check_tree(some_of_everything());
}

/* The kernel of a machine may have mounted what an earlier version of this program has built: other
 * bytes need another EROFS_RULES. */
TEST(the_bytes_of_an_image_are_known)
{
	TREE(t) = merged(some_of_everything());
	struct digest d;
	char text[DIGEST_TEXT_MAX];
	IMAGE(image);

	REQUIRE(written(t, &image));
	/* The metadata; what follows is this machine's. */
	digest_of(DIGEST_SHA256, image.data, image.len / EROFS_BLOCK * EROFS_BLOCK, &d);
	CHECK_EQ_STR(digest_hex(&d, text), "23abb52b58b909bc24932442de620cd876514a0acaed1f3660cb0dcc7cb3a56c");
}

TEST(the_names_of_a_hard_link_are_one_inode)
{
	TREE(t) = merged(some_of_everything());
	IMAGE(image);

	REQUIRE(written(t, &image));
	CHECK(er_find(&image, "usr/same") != NULL);
	CHECK(er_find(&image, "usr/same") == er_find(&image, "usr/bin/a"));
}

TEST(the_uuid_is_the_trees_digest)
{
	TREE(t) = merged(tree_builder_new());
	IMAGE(image);

	REQUIRE(written(t, &image));
	CHECK(memcmp(image.data + 1024 + 48, id.raw, 16) == 0);
}

/* ---- directories ---- */

TEST(dot_and_dot_dot_are_sorted_among_the_names)
{
	static const char *const names[] = { "!", "-", "-a", ".\x01", ".-", "...", ".a", "..a", "..\x01", "/", "0", "\xff" };
	struct tree_builder *b = tree_builder_new();

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i][0] != '/')
			add_file(b, names[i], 1, 512);
	check_tree(b);
}

static struct tree_builder *many_names(uint32_t count, unsigned len)
{
	struct tree_builder *b = tree_builder_new();
	char path[300] = "d/";

	memset(path + 2, 'x', len);
	for (uint32_t i = 0; i < count; i++) {
		(void)snprintf(path + 2 + len - 8, 9, "%08x", i);
		add_file(b, path, i % 3, 512);
	}
	return b;
}

TEST(directories_of_every_size_around_a_block)
{
	for (uint32_t n = 1; n < 400; n += n < 330 ? 7 : 1)
		check_tree(many_names(n, 8));
}

TEST(names_of_255_bytes)
{
	check_tree(many_names(100, 255));
}

/* A tail that fills its block to the last byte, one byte less, one more. */
TEST(tails_of_every_length)
{
	char target[TREE_PATH_MAX];

	for (unsigned len = 1; len < TREE_PATH_MAX; len += len < 3700 ? 97 : 1) {
		struct tree_builder *b = tree_builder_new();

		memset(target, 't', len);
		target[len] = '\0';
		add_symlink(b, "a", target);
		add_symlink(b, "b", target);
		add_xattr(b, "c", TREE_SYMLINK, "user.x", target, len % 50);
		check_tree(b);
	}
}

TEST(a_hundred_thousand_names_in_one_directory)
{
	check_tree(many_names(100000, 12));
}

TEST(deep_directories)
{
	struct tree_builder *b = tree_builder_new();
	char path[2 * 1000 + 2] = "";

	for (size_t i = 0; i < 1000; i++)
		memcpy(path + 2 * i, "d/", 3);
	add_file(b, path, 0, 0);
	check_tree(b);
}

/* ---- extended attributes ---- */

TEST(attributes_that_linux_could_not_hold_are_left_out)
{
	struct tree_builder *b = tree_builder_new();

	add_xattr(b, "a", TREE_REG, "user.", "v", 1);
	add_xattr(b, "b", TREE_REG, "com.apple.quarantine", "v", 1);
	add_xattr(b, "c", TREE_REG, "system.posix_acl_accessory", "v", 1);
	add_xattr(b, "d", TREE_REG, "userx", "v", 1);
	TREE(t) = merged(b);
	IMAGE(image);

	REQUIRE(written(t, &image));
	for (const char *p = "abcd"; *p; p++)
		CHECK_EQ_INT(er_16(er_find(&image, (char[]){ *p, 0 }) + 2), 0);
}

TEST(attributes_of_all_name_spaces)
{
	static const char *const names[] = { "user.u", "trusted.t", "security.s", "system.posix_acl_access",
					     "system.posix_acl_default" };
	struct tree_builder *b = tree_builder_new();
	struct tree_xattr_in x[ARRAY_SIZE(names) * 2];
	char longer[ARRAY_SIZE(names)][64];

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		(void)snprintf(longer[i], sizeof(longer[i]), "user.%zu%.*s", i, (int)i, "xxxxxxxx");
		x[2 * i] = (struct tree_xattr_in){ names[i], strlen(names[i]), "v\0\0v", i };
		x[2 * i + 1] = (struct tree_xattr_in){ longer[i], strlen(longer[i]), "w\0w\0ww", i };
	}
	add_full(b, (struct tree_entry){ .type = TREE_DIR, .mode = 0755, .xattrs = x, .n_xattrs = ARRAY_SIZE(x) }, "d", NULL);
	add_full(b, (struct tree_entry){ .type = TREE_REG, .mode = 0755, .xattrs = x, .n_xattrs = ARRAY_SIZE(x) }, "f", NULL);
	check_tree(b);
}

TEST(attributes_longer_than_a_block)
{
	_cleanup_free_ char *value = calloc(1, 65535);
	struct tree_builder *b = tree_builder_new();

	add_xattr(b, "f", TREE_REG, "user.large", value, 65535);
	add_xattr(b, "d", TREE_DIR, "user.large", value, 65535);
	add_file(b, "d/x", 1, 512);
	add_xattr(b, "l", TREE_SYMLINK, "trusted.large", value, 5000);
	check_tree(b);
}

static void refused(const struct tree *t, int eno, const char *words)
{
	struct err e = { 0 };
	IMAGE(image);

	REQUIRE(t);
	CHECK_ERR(erofs_write(t, &id, &image, NULL, &e), eno);
	CHECK(strstr(e.msg, words) != NULL);
	if (!strstr(e.msg, words))
		printf("# %s\n", e.msg);
}

TEST(attributes_that_do_not_fit_are_refused)
{
	_cleanup_free_ char *value = calloc(1, 65536);
	struct tree_xattr_in x[5];
	char names[5][8];
	struct tree_builder *b = tree_builder_new();

	add_xattr(b, "f", TREE_REG, "user.large", value, 65536);
	TREE(one) = merged(b);
	refused(one, -EFBIG, "65536 bytes");

	b = tree_builder_new();
	for (size_t i = 0; i < ARRAY_SIZE(x); i++) {
		(void)snprintf(names[i], sizeof(names[i]), "user.%zu", i);
		x[i] = (struct tree_xattr_in){ names[i], 6, value, 60000 };
	}
	add_full(b, (struct tree_entry){ .type = TREE_REG, .xattrs = x, .n_xattrs = ARRAY_SIZE(x) }, "f", NULL);
	TREE(five) = merged(b);
	refused(five, -EFBIG, "attributes do not fit");
}

/* One set that the tree stores once, and an inode would have to carry every time. */
TEST(attributes_shared_by_very_many_files_are_refused_in_time)
{
	_cleanup_free_ char *value = calloc(1, 60000);
	struct tree_builder *b = tree_builder_new();
	char path[32];

	for (unsigned i = 0; i < 20000; i++) {
		(void)snprintf(path, sizeof(path), "%u", i);
		add_xattr(b, path, TREE_REG, "user.large", value, 60000);
	}
	TREE(t) = merged(b);
	refused(t, -EFBIG, "names and attributes");
}

/* ---- contents ---- */

TEST(contents_lie_as_in_the_archives)
{
	struct tree_builder *lower = tree_builder_new(), *upper = tree_builder_new();
	struct tree_extent x[] = { { 8192, 100, 700 } };
	IMAGE(image);

	add_file(lower, "z", 1, 512);
	add_file(lower, "a", 4097, 4096);
	add_full(lower, (struct tree_entry){ .type = TREE_REG, .size = 1 << 20, .extents = x, .n_extents = 1 }, "hole", NULL);
	add_file(upper, "m", 4096, 512);
	TREE(l) = tm_finish(lower);
	TREE(u) = tm_finish(upper);
	TREE(t) = tm_merge((struct tree *[]){ l, u }, 2);
	REQUIRE(written(t, &image));

	uint32_t z = er_32(er_find(&image, "z") + 16), hole = er_32(er_find(&image, "hole") + 16);

	CHECK_EQ_INT(z, 1);
	CHECK_EQ_INT(hole, z + 1);
	CHECK_EQ_INT(er_32(er_find(&image, "a") + 16), hole + 256);
	CHECK_EQ_INT(er_32(er_find(&image, "m") + 16), hole + 258);
}

static void add_sparse(struct tree_builder *b, const char *path, uint64_t size)
{
	static const struct tree_extent x = { 0, 512, 512 };

	add_full(b, (struct tree_entry){ .type = TREE_REG, .size = size, .extents = &x, .n_extents = 1 }, path, NULL);
}

TEST(more_than_16_tib_are_refused)
{
	struct tree_builder *b = tree_builder_new();

	add_sparse(b, "a", UINT64_C(15) << 40);
	TREE(fits) = merged(b);
	IMAGE(image);
	(void)written(fits, &image);

	b = tree_builder_new();
	add_sparse(b, "a", UINT64_C(15) << 40);
	add_sparse(b, "b", UINT64_C(1) << 40);
	TREE(both) = merged(b);
	refused(both, -EFBIG, "files of this image");

	b = tree_builder_new();
	add_sparse(b, "a", INT64_MAX);
	TREE(one) = merged(b);
	refused(one, -EFBIG, "files of this image");
}

TEST(a_layers_own_tree_is_refused)
{
	struct tree_builder *b = tree_builder_new();

	add_full(b, (struct tree_entry){ .type = TREE_LINK }, "a", "not/here");
	TREE(t) = tm_finish(b);
	refused(t, -EINVAL, "merged tree");
}

TEST(writing_can_be_cancelled)
{
	struct cancel c;
	TREE(t) = merged(tree_builder_new());
	IMAGE(image);

	cancel_init(&c);
	cancel_fire(&c);
	CHECK_ERR(erofs_write(t, &id, &image, &c, NULL), -ECANCELED);
	cancel_done(&c);
}

/* ---- kept in the cache ---- */

static void check_pieces(const struct ca_erofs *x, const struct tree *t)
{
	uint64_t off = 0, files = 0;
	struct ca_erofs_piece p, again;

	for (; off < ca_erofs_size(x); off += p.len) {
		ca_erofs_at(x, off, &p);
		REQUIRE(p.len > 0 && p.len % EROFS_BLOCK == 0 && p.off == (p.node == TREE_NONE ? off : 0));
		ca_erofs_at(x, off + p.len - 1, &again);
		CHECK(again.node == p.node && again.len == 1 && again.off == p.off + p.len - 1);
		files += p.node != TREE_NONE;
		if (p.node != TREE_NONE) {
			struct tree_attr a;

			tree_get(t, p.node, &a);
			CHECK(p.len - EROFS_BLOCK < a.size && a.size <= p.len);
		}
	}
	CHECK_EQ_INT(off, ca_erofs_size(x));
	CHECK_EQ_INT(files, 2);
}

TEST(what_was_built_is_found_and_covers_the_file)
{
	struct ca_store *s = store_at(fresh_dir(), 0, 1);
	_cleanup_(ca_erofs_unrefp) struct ca_erofs *x = NULL;
	TREE(t) = merged(some_of_everything());
	char super[4];

	REQUIRE(t);
	CHECK_ERR(ca_erofs_get(s, t, &x, NULL), -ENOENT);
	CHECK_OK(ca_erofs_build(s, t, NULL, NULL));
	CHECK_OK(ca_erofs_get(s, t, &x, NULL));
	REQUIRE(x);
	check_pieces(x, t);
	CHECK_OK(ca_erofs_read(x, 1024, super, sizeof(super), NULL));
	CHECK(memcmp(super, "\xe2\xe1\xf5\xe0", 4) == 0);
	CHECK_ERR(ca_erofs_read(x, EROFS_BLOCK - 1, super, 2, NULL), -EINVAL);
	x = ca_erofs_unref(x);
	s = ca_store_free(s);
}

/* Sound for the store, but not what we write. */
static void check_lie(struct ca_store *s, const struct tree *t, const struct buf *image, size_t at, uint32_t value)
{
	struct ca_erofs *x = NULL;
	char key[CA_KEY_MAX], name[CA_KEY_MAX + 32];
	_cleanup_free_ char *copy = malloc(image->len);
	struct digest d;
	size_t len;

	memcpy(copy, image->data, image->len);
	memcpy(copy + at, &value, sizeof(value));
	const void *tree = tree_image(t, &len);

	digest_of(DIGEST_SHA256, tree, len, &d);
	(void)snprintf(name, sizeof(name), "%s-erofs-%u", ca_digest_key(&d, key), EROFS_RULES);
	name[CA_KEY_MAX - 1] = '\0';
	CHECK_OK(ca_object_put(s, CA_TREE, name, copy, image->len, NULL));
	CHECK_ERR(ca_erofs_get(s, t, &x, NULL), -ENOENT);
	x = ca_erofs_unref(x);
	CHECK(!ca_object_exists(s, CA_TREE, name));
}

/* The same image has another tree when a layer is read by its table of contents. */
TEST(another_tree_has_an_image_of_its_own)
{
	struct ca_store *s = store_at(fresh_dir(), 0, 1);
	struct ca_erofs *x = NULL;
	TREE(t) = merged(some_of_everything());
	TREE(other) = merged(many_names(3, 9));

	REQUIRE(t && other);
	CHECK_OK(ca_erofs_build(s, t, NULL, NULL));
	CHECK_ERR(ca_erofs_get(s, other, &x, NULL), -ENOENT);
	s = ca_store_free(s);
}

TEST(a_lying_object_is_dropped)
{
	struct ca_store *s = store_at(fresh_dir(), 0, 1);
	TREE(t) = merged(some_of_everything());
	IMAGE(image);

	REQUIRE(written(t, &image));

	size_t tail = image.len - sizeof(struct erofs_tail), runs = tail - 2 * sizeof(struct erofs_run);

	check_lie(s, t, &image, tail, 0);			/* magic */
	check_lie(s, t, &image, tail + 8, 0);		/* meta_blocks */
	check_lie(s, t, &image, tail + 8, 1000);
	check_lie(s, t, &image, tail + 12, 3);		/* n_runs */
	check_lie(s, t, &image, tail + 12, UINT32_MAX);
	check_lie(s, t, &image, tail + 16, 1);		/* blocks */
	check_lie(s, t, &image, tail + 16, UINT32_MAX);
	check_lie(s, t, &image, runs, 0);
	check_lie(s, t, &image, runs + 8, 0);
	check_lie(s, t, &image, runs + 8, UINT32_MAX);
	s = ca_store_free(s);
}
