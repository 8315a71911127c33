/*
 * test_merge.c - image-spec layer.md and the corner cases others fell into
 *
 * Layers are written as lists of entries in archive order:
 *
 *	"f PATH N"	regular file of N bytes (N tells contents apart)
 *	"d PATH"	directory, mode 0700		"D PATH" the same, mode 0711
 *	"s PATH T"	symbolic link to T
 *	"l PATH T"	hard link to T
 *	"c PATH"	character device 0,0
 *
 * and merged trees are shown by show(): one line a node, breadth first; "PATH/ MODE" with "?" when
 * nobody gave the mode, "PATH N", "PATH -> T", "xNLINK" when a file has several names, "= FIRST"
 * for the further ones.
 */
#include <time.h>

#include "cache/tree_image.h"
#include "mergemodel.h"
#include "tarmake.h"
#include "unit.h"

#define TREE(name) _cleanup_(tree_unrefp) struct tree *name
#define LAYER(...) layer((const char *const[]){ __VA_ARGS__, NULL })
/* Merges layers given bottom first and shows the result. */
#define MERGED(...) merged((struct tree *[]){ __VA_ARGS__, NULL })

static void add_entry(struct tree_builder *b, const char *text)
{
	char path[200] = "", arg[200] = "";
	struct tree_entry en = { .path = path, .target = arg, .mode = 0644 };
	struct err e = { 0 };

	(void)sscanf(text + 2, "%199s %199s", path, arg);
	en.path_len = strlen(path);
	en.target_len = strlen(arg);
	switch (text[0]) {
	case 'f':
		en.type = TREE_REG;
		en.size = strtoull(arg, NULL, 10);
		break;
	case 'd':
	case 'D':
		en.type = TREE_DIR;
		en.mode = text[0] == 'd' ? 0700 : 0711;
		break;
	case 's':
		en.type = TREE_SYMLINK;
		break;
	case 'l':
		en.type = TREE_LINK;
		break;
	default:
		en.type = TREE_CHR;
	}
	if (!CHECK_OK(tree_builder_add(b, &en, &e)))
		printf("# %s: %s\n", text, e.msg);
}

static struct tree *layer(const char *const *entries)
{
	struct tree_builder *b = tree_builder_new();

	for (; *entries; entries++)
		add_entry(b, *entries);
	return tm_finish(b);
}

static void show_node(const struct tree *t, uint32_t i, struct buf *b)
{
	struct tree_attr a;

	tree_get(t, i, &a);
	(void)tree_path(t, i, b);
	if (a.type == TREE_DIR)
		(void)buf_addf(b, a.flags & TREE_F_IMPLICIT ? "/ ?" : "/ %o", a.mode);
	else if (a.ino != i)
		(void)buf_adds(b, " = ");
	else if (a.type == TREE_REG)
		(void)buf_addf(b, " %llu", (unsigned long long)a.size);
	else if (a.type == TREE_SYMLINK)
		(void)buf_addf(b, " -> %s", a.target);
	else
		(void)buf_addf(b, " type %d", (int)a.type);
	if (a.type != TREE_DIR && a.ino != i)
		(void)tree_path(t, a.ino, b);
	else if (a.type != TREE_DIR && a.nlink > 1)
		(void)buf_addf(b, " x%u", a.nlink);
	(void)buf_addc(b, '\n');
}

static const char *show(const struct tree *t)
{
	static struct buf b = BUF_INIT(1u << 20);

	buf_clear(&b);
	for (uint32_t i = 1; t && i < tree_count(t); i++)
		show_node(t, i, &b);
	return t ? buf_str(&b) : NULL;
}

/* Frees the layers. */
static struct tree *merge_all(struct tree **layers)
{
	size_t n = 0;

	while (layers[n])
		n++;

	struct tree *t = tm_merge(layers, n);

	for (size_t i = 0; i < n; i++)
		(void)tree_unref(layers[i]);
	return t;
}

static const char *merged(struct tree **layers)
{
	TREE(t) = merge_all(layers);

	return show(t);
}

static struct tree_attr attr(const struct tree *t, const char *path)
{
	struct tree_attr a = { 0 };

	if (t)
		(void)tm_get(t, path, &a);
	return a;
}

/* ---- whiteouts ------------------------------------------------------------------------------ */

TEST(a_whiteout_removes_a_file_of_lower_layers)
{
	CHECK_EQ_STR(MERGED(LAYER("f a 1", "f b 2"), LAYER("f .wh.a 0")), "b 2\n");
	CHECK_EQ_STR(MERGED(LAYER("f d/a 1", "f d/b 2"), LAYER("f x 1"), LAYER("f d/.wh.a 0")),
		     "d/ ?\nx 1\nd/b 2\n");
}

TEST(a_whiteout_removes_a_whole_subtree)
{
	CHECK_EQ_STR(MERGED(LAYER("f d/a/b/c 1", "f e 2"), LAYER("f .wh.d 0")), "e 2\n");
}

TEST(a_whiteout_spares_its_own_layer_in_any_order)
{
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("f .wh.a 0", "f a 2")), "a 2\n");
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("f a 2", "f .wh.a 0")), "a 2\n");
	CHECK_EQ_STR(MERGED(LAYER("d d", "f d/a 1"), LAYER("f d/b 2", "f .wh.d 0")), "d/ ?\nd/b 2\n");
	CHECK_EQ_STR(MERGED(LAYER("f d/a 1"), LAYER("d d", "f .wh.d 0")), "d/ 700\n");
}

TEST(a_whiteout_does_not_reach_higher_layers)
{
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("f .wh.a 0"), LAYER("f a 3")), "a 3\n");
}

TEST(a_whiteout_of_nothing_is_nothing)
{
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("f .wh.b 0")), "a 1\n");
	CHECK_EQ_STR(MERGED(LAYER("f .wh.a 0")), "");
}

TEST(a_whiteout_in_a_whited_out_directory)
{
	/* umoci#254 */
	CHECK_EQ_STR(MERGED(LAYER("f test/test 1", "f k 1"), LAYER("f .wh.test 0", "f test/.wh.test 0")),
		     "k 1\n");
	CHECK_EQ_STR(MERGED(LAYER("f test 1"), LAYER("f test/.wh.test 0", "f .wh.test 0")), "");
	CHECK_EQ_STR(MERGED(LAYER("f test/a 1"), LAYER("f .wh.test 0", "d test", "f test/.wh.test 0")),
		     "test/ 700\n");
}

TEST(whiteouts_are_known_by_name_not_by_type)
{
	/* smolvm#401: a hard link; also to a file of a lower layer */
	CHECK_EQ_STR(MERGED(LAYER("f a 1", "f b 2"), LAYER("f x 5", "l .wh.a x")), "b 2\nx 5\n");
	CHECK_EQ_STR(MERGED(LAYER("f a 1", "f b 2"), LAYER("l .wh.a b")), "b 2\n");
	CHECK_EQ_STR(MERGED(LAYER("f a 1", "f b 2"), LAYER("l .wh.a missing")), "b 2\n");
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("s .wh.a t")), "");
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("c .wh.a")), "");
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("d .wh.a")), "");
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("f .wh.a 77")), "");
}

TEST(a_file_linked_to_a_marker_stays_and_counts_its_visible_names)
{
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("f .wh.a 5", "l b .wh.a", "l c .wh.a")), "b 5 x2\nc = b\n");
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("f .wh.a 5", "l b .wh.a")), "b 5\n");
}

TEST(opaque_markers_hide_lower_children_but_not_their_own)
{
	CHECK_EQ_STR(MERGED(LAYER("f d/a 1", "f d/s/x 1"), LAYER("f d/.wh..wh..opq 0", "f d/b 2")),
		     "d/ ?\nd/b 2\n");
	CHECK_EQ_STR(MERGED(LAYER("f d/a 1"), LAYER("f d/b 2", "f d/.wh..wh..opq 0")), "d/ ?\nd/b 2\n");
	CHECK_EQ_STR(MERGED(LAYER("f d/a 1"), LAYER("f d/b 2", "f d/.wh..wh..opq 0"), LAYER("f d/c 3")),
		     "d/ ?\nd/b 2\nd/c 3\n");
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("f .wh..wh..opq 0", "f b 2")), "b 2\n");
	CHECK_EQ_STR(MERGED(LAYER("f d/a 1", "f b 1"), LAYER("l d/.wh..wh..opq nothing")), "b 1\nd/ ?\n");
}

TEST(an_opaque_directory_keeps_the_attributes_below_when_it_has_none)
{
	CHECK_EQ_STR(MERGED(LAYER("D d", "f d/a 1"), LAYER("f d/.wh..wh..opq 0")), "d/ 711\n");
	CHECK_EQ_STR(MERGED(LAYER("D d", "f d/a 1"), LAYER("d d", "f d/.wh..wh..opq 0")), "d/ 700\n");
	CHECK_EQ_STR(MERGED(LAYER("D d", "f d/a 1"), LAYER("f d/.wh..wh..opq 0"), LAYER("f d/b 1")),
		     "d/ 711\nd/b 1\n");
}

TEST(opaque_below_does_not_hide_what_is_above)
{
	CHECK_EQ_STR(MERGED(LAYER("f d/a 1"), LAYER("f d/.wh..wh..opq 0"), LAYER("f d/.wh.b 0", "f d/c 1")),
		     "d/ ?\nd/c 1\n");
}

TEST(markers_are_never_visible)
{
	CHECK_EQ_STR(MERGED(LAYER("f .wh.x 0", "f .wh..wh..opq 0", "f .wh..wh.plnk 0", "d .wh..wh.aufs",
				  "f .wh..wh.orph/x 0", "f .wh..opq 0", "f .wh. 0", "f a/.wh.b 0", "f .whx 1")),
		     ".whx 1\n");
}

TEST(a_directory_made_up_for_markers_alone_makes_no_directory)
{
	CHECK_EQ_STR(MERGED(LAYER("f d/.wh.x 0", "f d/e/.wh..wh..opq 0", "f d/.wh.y/z 0")), "");
	CHECK_EQ_STR(MERGED(LAYER("s d t", "f e 1"), LAYER("f d/.wh.x 0", "f e/f/.wh.x 0")), "d -> t\ne 1\n");
	CHECK_EQ_STR(MERGED(LAYER("f d/x 1", "f d/y 1"), LAYER("f d/.wh.x 0")), "d/ ?\nd/y 1\n");
	CHECK_EQ_STR(MERGED(LAYER("f d/x 1", "D d"), LAYER("f d/.wh..wh..opq 0"), LAYER("f d/y 1")),
		     "d/ 711\nd/y 1\n");
	CHECK_EQ_STR(MERGED(LAYER("f d 1"), LAYER("f d/.wh.x 0", "f d/y 2")), "d/ ?\nd/y 2\n");
	CHECK_EQ_STR(MERGED(LAYER("f d/a/b 1"), LAYER("f d 1"), LAYER("f d/a/.wh.c 0")), "d 1\n");
	/* links do not find their way through one */
	CHECK_EQ_STR(MERGED(LAYER("f d 1"), LAYER("f d/.wh.x 0"), LAYER("l y d", "l z d/x")),
		     "d 1 x2\ny = d\n");
}

TEST(reserved_and_bare_markers_remove_nothing)
{
	CHECK_EQ_STR(MERGED(LAYER("f a 1", "f .opq 2"), LAYER("f .wh. 0", "f .wh..wh.plnk 0", "f .wh..wh.a 0",
							      "f .wh... 0", "f .wh.. 0")),
		     ".opq 2\na 1\n");
	CHECK_EQ_STR(MERGED(LAYER("f .opq 2", "f a 1"), LAYER("f .wh..opq 0")), "a 1\n");
}

TEST(marker_like_components_are_inert)
{
	CHECK_EQ_STR(MERGED(LAYER("f x 1", "f y 1"), LAYER("f .wh.x/y 0", "f .wh.x/.wh.y 0")), "x 1\ny 1\n");
	CHECK_EQ_STR(MERGED(LAYER("f d/a 1"), LAYER("f d/.wh..wh..opq/y 0")), "d/ ?\nd/a 1\n");
	/* but a whiteout that is also a component stays one */
	CHECK_EQ_STR(MERGED(LAYER("f x 1"), LAYER("f .wh.x 0", "f .wh.x/y 0")), "");
	CHECK_EQ_STR(MERGED(LAYER("f x 1"), LAYER("f .wh.x/y 0", "f .wh.x 0")), "");
}

/* ---- directories ---------------------------------------------------------------------------- */

TEST(directories_merge_and_take_the_upper_attributes)
{
	CHECK_EQ_STR(MERGED(LAYER("d d", "f d/a 1", "f d/b 1"), LAYER("D d", "f d/b 2", "f d/c 2")),
		     "d/ 711\nd/a 1\nd/b 2\nd/c 2\n");
}

TEST(implicit_directories_take_the_nearest_lower_attributes)
{
	CHECK_EQ_STR(MERGED(LAYER("d d"), LAYER("D d"), LAYER("f d/x 1"), LAYER("f d/y 1")),
		     "d/ 711\nd/x 1\nd/y 1\n");
	CHECK_EQ_STR(MERGED(LAYER("f d/x 1"), LAYER("f d/y 1")), "d/ ?\nd/x 1\nd/y 1\n");
	/* not through a whiteout or something else that was there */
	CHECK_EQ_STR(MERGED(LAYER("D d"), LAYER("f .wh.d 0"), LAYER("f d/x 1")), "d/ ?\nd/x 1\n");
	CHECK_EQ_STR(MERGED(LAYER("D d"), LAYER("f d 0"), LAYER("f d/x 1")), "d/ ?\nd/x 1\n");
}

TEST(the_root_takes_attributes_like_any_directory)
{
	TREE(t) = merge_all((struct tree *[]){ LAYER("D .", "f a 1"), LAYER("f b 1"), NULL });
	TREE(u) = merge_all((struct tree *[]){ LAYER("D .", "f a 1"), LAYER("d /", "f b 1"), NULL });
	TREE(v) = merge_all((struct tree *[]){ LAYER("f a 1"), NULL });

	CHECK_EQ_INT(attr(t, "").mode, 0711);
	CHECK_EQ_INT(attr(u, "").mode, 0700);
	CHECK_EQ_INT(attr(v, "").mode, 0755);
	CHECK_EQ_INT(attr(v, "").flags, TREE_F_IMPLICIT);
	CHECK_EQ_INT(attr(t, "").parent, TREE_ROOT);
}

TEST(a_file_over_a_directory_drops_the_subtree)
{
	CHECK_EQ_STR(MERGED(LAYER("f d/a/b 1"), LAYER("f d 2")), "d 2\n");
	CHECK_EQ_STR(MERGED(LAYER("f d/a 1"), LAYER("f d 2"), LAYER("f d/b 3")), "d/ ?\nd/b 3\n");
	CHECK_EQ_STR(MERGED(LAYER("f d/a 1"), LAYER("s d x")), "d -> x\n");
}

TEST(a_directory_over_anything_else_replaces_it)
{
	CHECK_EQ_STR(MERGED(LAYER("f d 1"), LAYER("d d")), "d/ 700\n");
	CHECK_EQ_STR(MERGED(LAYER("f d 1"), LAYER("f d/a 2")), "d/ ?\nd/a 2\n");
}

TEST(a_directory_over_a_symlink_does_not_follow_it)
{
	/* umoci writes through it; podman, stargz and the spec's text replace it: so do we */
	CHECK_EQ_STR(MERGED(LAYER("f real/a 1", "s sd real"), LAYER("f sd/x 2")),
		     "real/ ?\nsd/ ?\nreal/a 1\nsd/x 2\n");
	CHECK_EQ_STR(MERGED(LAYER("f real/a 1", "s sd real"), LAYER("d sd")), "real/ ?\nsd/ 700\nreal/a 1\n");
}

TEST(upper_files_replace_lower_ones)
{
	CHECK_EQ_STR(MERGED(LAYER("f a 1", "s b x", "f c 1"), LAYER("f a 2", "f b 3", "s c y")),
		     "a 2\nb 3\nc -> y\n");
}

TEST(no_layers_and_one_layer)
{
	TREE(none) = tm_merge(NULL, 0);

	REQUIRE(none);
	CHECK_EQ_INT(tree_count(none), 1);
	CHECK_EQ_INT(attr(none, "").mode, 0755);
	CHECK_EQ_STR(MERGED(LAYER("f b 1", "d a", "l c b")), "a/ 700\nb 1 x2\nc = b\n");
}

TEST(link_counts_of_directories)
{
	TREE(t) = merge_all((struct tree *[]){ LAYER("f d/a/x 1", "f d/b/x 1"),
					       LAYER("f d/c/x 1", "f d/.wh.a 0"), NULL });

	CHECK_EQ_INT(attr(t, "d").nlink, 4);
	CHECK_EQ_INT(attr(t, "").nlink, 3);
}

/* ---- hard links ----------------------------------------------------------------------------- */

TEST(link_groups_are_those_of_the_merged_tree)
{
	CHECK_EQ_STR(MERGED(LAYER("f a 1", "l b a", "l c a"), LAYER("f .wh.b 0")), "a 1 x2\nc = a\n");
	CHECK_EQ_STR(MERGED(LAYER("f a 1", "l b a", "l c a"), LAYER("f a 2")), "a 2\nb 1 x2\nc = b\n");
	CHECK_EQ_STR(MERGED(LAYER("f a 1", "l b a"), LAYER("f .wh.a 0")), "b 1\n");
}

TEST(links_reach_into_lower_layers)
{
	CHECK_EQ_STR(MERGED(LAYER("f d/a 1"), LAYER("l b d/a")), "b 1 x2\nd/ ?\nd/a = b\n");
	CHECK_EQ_STR(MERGED(LAYER("s a t"), LAYER("l b a")), "a -> t x2\nb = a\n");
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("f x 1"), LAYER("l b a"), LAYER("l c b")),
		     "a 1 x3\nb = a\nc = a\nx 1\n");
}

TEST(a_link_keeps_its_content_when_the_target_changes_later)
{
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("l b a"), LAYER("f a 2")), "a 2\nb 1\n");
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("l b a", "f a 2")), "a 2\nb 1\n");
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("l b a"), LAYER("f .wh.a 0")), "b 1\n");
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("l b a", "f .wh.a 0")), "b 1\n");
	CHECK_EQ_STR(MERGED(LAYER("f d/a 1"), LAYER("l b d/a", "f d/.wh..wh..opq 0")), "b 1\nd/ ?\n");
}

TEST(a_link_sees_the_target_of_its_own_position)
{
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("f a 2"), LAYER("l b a")), "a 2 x2\nb = a\n");
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("f a 2", "l b a")), "a 2 x2\nb = a\n");
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("f .wh.a 0"), LAYER("l b a")), "");
}

TEST(links_over_other_things)
{
	CHECK_EQ_STR(MERGED(LAYER("f a 1", "f b/x 1"), LAYER("l b a")), "a 1 x2\nb = a\n");
	CHECK_EQ_STR(MERGED(LAYER("f a 1", "f b 2"), LAYER("l b a")), "a 1 x2\nb = a\n");
	CHECK_EQ_STR(MERGED(LAYER("f d/a 1"), LAYER("l d d/a")), "d 1\n");
}

TEST(links_that_cannot_be_resolved_are_as_if_not_there)
{
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("l a missing", "l b missing")), "a 1\n");
	CHECK_EQ_STR(MERGED(LAYER("d d", "f a 1"), LAYER("l a d")), "a 1\nd/ 700\n");
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("l b a/x")), "a 1\n");
	CHECK_EQ_STR(MERGED(LAYER("f .wh.x 1"), LAYER("l b .wh.x")), "");
	/* its directory was made all the same */
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("l e/b missing")), "a 1\ne/ ?\n");
}

TEST(links_to_themselves_and_in_circles)
{
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("l a a", "l b ./b")), "a 1\n");
	CHECK_EQ_STR(MERGED(LAYER("f a 1"), LAYER("l x y", "l y z", "l z x")), "a 1\n");
	CHECK_EQ_STR(MERGED(LAYER("f y 1"), LAYER("l x y", "l y x")), "x 1 x2\ny = x\n");
}

TEST(links_to_what_comes_later_in_the_same_layer)
{
	CHECK_EQ_STR(MERGED(LAYER("l a z", "f z 3")), "a 3 x2\nz = a\n");
	CHECK_EQ_STR(MERGED(LAYER("f o 1"), LAYER("l a b", "l b c", "l c d/e", "f d/e 4")),
		     "a 4 x4\nb = a\nc = a\nd/ ?\no 1\nd/e = a\n");
	/* a chain that ends in a lower layer */
	CHECK_EQ_STR(MERGED(LAYER("f o 1"), LAYER("l a b", "l b o")), "a 1 x3\nb = a\no = a\n");
}

TEST(links_through_directories_of_several_layers)
{
	CHECK_EQ_STR(MERGED(LAYER("f d/e/a 1"), LAYER("f d/e/b 2"), LAYER("f d/e/.wh.a 0"),
			    LAYER("l x d/e/a", "l y d/e/b")),
		     "d/ ?\ny 2 x2\nd/e/ ?\nd/e/b = y\n");
	CHECK_EQ_STR(MERGED(LAYER("f d/e/a 1"), LAYER("f d/.wh..wh..opq 0"), LAYER("l x d/e/a")), "d/ ?\n");
	CHECK_EQ_STR(MERGED(LAYER("f d/e/a 1"), LAYER("s d t"), LAYER("l x d/e/a")), "d -> t\n");
}

/* ---- attributes ----------------------------------------------------------------------------- */

static struct tree *layer_xattrs(const struct tree_xattr_in *x, size_t n)
{
	struct tree_builder *b = tree_builder_new();
	struct tree_entry en = { .type = TREE_REG, .path = "f", .path_len = 1, .xattrs = x, .n_xattrs = n };

	CHECK_OK(tree_builder_add(b, &en, NULL));
	return tm_finish(b);
}

TEST(overlay_attributes_are_not_shown)
{
	static const struct tree_xattr_in x[] = {
		{ "trusted.overlay.opaque", 22, "y", 1 },
		{ "user.overlay.redirect", 21, "/etc", 4 },
		{ "trusted.overlayx", 16, "1", 1 },
		{ "security.capability", 19, "\1\0\0", 3 },
	};
	TREE(t) = merge_all((struct tree *[]){ layer_xattrs(x, 4), NULL });
	TREE(u) = merge_all((struct tree *[]){ layer_xattrs(x, 2), NULL });
	const char *name;
	const void *value;
	size_t nlen, vlen;

	REQUIRE(t && u);
	REQUIRE(tree_xattr(t, 1, 0, &name, &nlen, &value, &vlen));
	CHECK(nlen == 19 && vlen == 3 && memcmp(value, "\1\0\0", 3) == 0);
	CHECK(tree_xattr(t, 1, 1, &name, &nlen, &value, &vlen));
	CHECK(!tree_xattr(t, 1, 2, &name, &nlen, &value, &vlen));
	CHECK_EQ_INT(attr(u, "f").flags, 0);
}

TEST(data_is_found_in_the_layer_that_has_it)
{
	static const struct tree_extent x[] = { { 0, 10, 700 }, { 50, 5, 710 } };
	struct tree_builder *b = tree_builder_new();
	struct tree_entry en = { .type = TREE_REG, .path = "sp", .path_len = 2, .size = 100,
				 .extents = x, .n_extents = 2 };
	struct tree_extent got;

	CHECK_OK(tree_builder_add(b, &en, NULL));
	en = (struct tree_entry){ .type = TREE_REG, .path = "f", .path_len = 1, .size = 9, .data_off = 512 };
	CHECK_OK(tree_builder_add(b, &en, NULL));
	TREE(t) = merge_all((struct tree *[]){ LAYER("f a 1"), tm_finish(b), LAYER("l b f", "l c sp"), NULL });

	CHECK_EQ_INT(attr(t, "f").layer, 1);
	CHECK_EQ_INT(attr(t, "f").data_off, 512);
	CHECK_EQ_INT(attr(t, "b").layer, 1);
	CHECK_EQ_INT(attr(t, "a").layer, 0);
	CHECK_EQ_INT(attr(t, "c").layer, 1);
	REQUIRE(tree_extent(t, tree_lookup(t, TREE_ROOT, "sp", 2), 1, &got));
	CHECK(got.off == 50 && got.len == 5 && got.data_off == 710);
	CHECK_EQ_INT(tree_data_bytes(t), 110);
}

TEST(too_many_layers_are_refused)
{
	TREE(one) = LAYER("f a 1");
	struct tree *layers[TREE_LAYERS_MAX + 1];
	_cleanup_buf_ struct buf out = BUF_INIT(1u << 20);
	struct err e = { 0 };

	for (size_t i = 0; i <= TREE_LAYERS_MAX; i++)
		layers[i] = one;
	CHECK_ERR(tree_merge(layers, TREE_LAYERS_MAX + 1, &out, NULL, &e), -EFBIG);
	CHECK_EQ_INT(e.cls, ERR_LIMIT);
	TREE(t) = tm_merge(layers, TREE_LAYERS_MAX);
	CHECK_EQ_STR(show(t), "a 1\n");
	CHECK_EQ_INT(attr(t, "a").layer, TREE_LAYERS_MAX - 1);
}

/* A manifest that lists one large layer many times. */
TEST(too_many_entries_in_all_layers_are_refused)
{
	struct tree_builder *b = tree_builder_new();
	struct tree *layers[1000];
	_cleanup_buf_ struct buf out = BUF_INIT(64u << 20);
	struct err e = { 0 };
	char text[64];

	for (unsigned i = 0; i < 13000; i++) {
		(void)snprintf(text, sizeof(text), "f d%u/f%u 1", i % 100, i);
		add_entry(b, text);
	}
	TREE(one) = tm_finish(b);
	for (size_t i = 0; i < 1000; i++)
		layers[i] = one;
	CHECK_ERR(tree_merge(layers, 1000, &out, NULL, &e), -EFBIG);
	CHECK_EQ_INT(e.cls, ERR_LIMIT);
	CHECK_OK(tree_merge(layers, 50, &out, NULL, &e));
}

TEST(a_merge_can_be_cancelled)
{
	TREE(one) = LAYER("f a 1", "l b c 0");
	struct tree *layers[] = { one, one };
	_cleanup_buf_ struct buf out = BUF_INIT(1u << 20);
	struct err e = { 0 };
	struct cancel c;

	cancel_init(&c);
	CHECK_OK(tree_merge(layers, 2, &out, &c, &e));
	buf_clear(&out);
	cancel_fire(&c);
	CHECK_ERR(tree_merge(layers, 2, &out, &c, &e), -ECANCELED);
	CHECK_EQ_INT(e.cls, ERR_CANCELLED);
	CHECK_EQ_INT(out.len, 0);
	cancel_done(&c);
}

TEST(a_merged_tree_ends_at_the_ceiling_of_its_buffer)
{
	TREE(one) = LAYER("f a 1", "f b 1", "f c 1");
	struct tree *layers[] = { one };
	_cleanup_buf_ struct buf out = BUF_INIT(150);
	struct err e = { 0 };

	CHECK_ERR(tree_merge(layers, 1, &out, NULL, &e), -EFBIG);
	CHECK_EQ_INT(e.cls, ERR_LIMIT);
}

TEST(many_whiteouts_cost_no_more_than_as_many_files)
{
	/* charliecloud#863 */
	struct tree_builder *lower = tree_builder_new(), *upper = tree_builder_new();
	struct timespec t0, t1;
	char text[64];

	for (unsigned i = 0; i < 50000; i++) {
		(void)snprintf(text, sizeof(text), "f d%u/x/f%u 1", i % 100, i);
		add_entry(lower, text);
		(void)snprintf(text, sizeof(text), "f d%u/x/.wh.f%u 0", i % 100, i);
		add_entry(upper, text);
	}

	struct tree *layers[] = { tm_finish(lower), tm_finish(upper), NULL };

	clock_gettime(CLOCK_MONOTONIC, &t0);
	TREE(t) = merge_all(layers);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	CHECK_EQ_INT(tree_count(t), 201);
	CHECK((t1.tv_sec - t0.tv_sec) * 1000 + (t1.tv_nsec - t0.tv_nsec) / 1000000 < 2000);
}

/* ---- against the model ---------------------------------------------------------------------- */

static uint32_t seed;

static unsigned rnd(unsigned n)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % n;
}

static void random_name(char *out, size_t max, bool last)
{
	static const char *const odd[] = { ".wh..wh..opq", ".wh.", ".wh..wh.x", ".wh..opq", ".wh.a" };
	char c = (char)('a' + rnd(3));

	if (last && rnd(6) == 0)
		(void)snprintf(out, max, ".wh.%c", c);
	else if (last && rnd(12) == 0)
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

	out[0] = '\0';
	for (unsigned i = 0; i < depth; i++) {
		char name[20];

		random_name(name, sizeof(name), i + 1 == depth);
		at += (size_t)snprintf(out + at, MODEL_PATH - at, "%s%s", i ? "/" : "", name);
	}
}

static void random_entry(struct tree_builder *b, struct model_fs *model, unsigned id)
{
	static const enum tree_type types[] = { TREE_REG, TREE_REG, TREE_REG, TREE_DIR, TREE_DIR,
						TREE_SYMLINK, TREE_LINK, TREE_LINK, TREE_LINK };
	enum tree_type type = types[rnd(ARRAY_SIZE(types))];
	char path[MODEL_PATH], target[MODEL_PATH], raw[2 * MODEL_PATH];

	random_path(path);
	random_path(target);
	if (rnd(60) == 0) {
		path[0] = '\0';
		type = TREE_DIR;
	}
	if (type == TREE_SYMLINK)
		(void)snprintf(target, sizeof(target), "%u", id);
	(void)snprintf(raw, sizeof(raw), "%s%s", rnd(3) ? "" : rnd(2) ? "./" : "/", path);

	struct tree_entry en = {
		.type = type, .path = raw, .path_len = strlen(raw), .target = target,
		.target_len = strlen(target), .mode = id & 0777, .size = type == TREE_REG ? id : 0,
	};

	CHECK_OK(tree_builder_add(b, &en, NULL));
	model_add(model, type, path, target, id & 0777, id);
}

/* The least path of an object, which names its link group. */
static const char *model_group(const struct model_fs *fs, const struct model_obj *o, unsigned *ret_n)
{
	const char *least = NULL;

	*ret_n = 0;
	for (size_t i = 0; i < fs->n; i++)
		if (fs->at[i].obj == o) {
			++*ret_n;
			if (!least || strcmp(fs->at[i].path, least) < 0)
				least = fs->at[i].path;
		}
	return least;
}

static const char *tree_group(const struct tree *t, uint32_t ino, char *out)
{
	out[0] = '\0';
	for (uint32_t i = 0; i < tree_count(t); i++) {
		_cleanup_buf_ struct buf p = BUF_INIT(1000);
		struct tree_attr a;

		tree_get(t, i, &a);
		if (a.ino != ino)
			continue;
		(void)tree_path(t, i, &p);
		if (!out[0] || strcmp(buf_str(&p), out) < 0)
			(void)snprintf(out, MODEL_PATH, "%s", buf_str(&p));
	}
	return out;
}

static bool same_node(const struct tree *t, const struct model_fs *fs, size_t i)
{
	const struct model_obj *o = fs->at[i].obj;
	struct tree_attr a;
	char least[MODEL_PATH];
	unsigned n;

	if (!CHECK(tm_get(t, fs->at[i].path, &a)) || !CHECK_EQ_INT(a.type, o->type))
		return false;
	if (!CHECK_EQ_INT(a.mode, o->mode))
		return false;
	if (a.type == TREE_DIR)
		return CHECK_EQ_INT(!!(a.flags & TREE_F_IMPLICIT), o->implicit);
	if (a.type == TREE_REG && !CHECK_EQ_INT(a.size, o->id))
		return false;
	if (a.type == TREE_SYMLINK && !CHECK_EQ_INT(strtoul(a.target, NULL, 10), o->id))
		return false;

	const char *group = model_group(fs, o, &n);

	return CHECK_EQ_INT(a.nlink, n) && CHECK_EQ_STR(tree_group(t, a.ino, least), group);
}

static bool same_trees(const struct tree *t, const struct model_fs *fs)
{
	bool same = CHECK_EQ_INT(tree_count(t), fs->n);

	for (size_t i = 0; i < fs->n; i++)
		same = same_node(t, fs, i) && same;
	return same;
}

static bool model_round(unsigned round)
{
	static struct model_fs fs, one;
	struct tree *layers[6];
	unsigned n = 1 + rnd(5), id = 1;

	model_init(&fs);
	for (unsigned i = 0; i < n; i++) {
		struct tree_builder *b = tree_builder_new();
		unsigned entries = rnd(round % 2 ? 8 : 20);

		model_init(&one);
		for (unsigned k = 0; k < entries; k++)
			random_entry(b, &one, id++);
		layers[i] = tm_finish(b);
		model_apply(&fs, &one);
	}

	TREE(t) = tm_merge(layers, n);
	bool same = CHECK(t != NULL) && same_trees(t, &fs);

	for (unsigned i = 0; i < n; i++) {
		if (!same)
			printf("# layer %u:\n%s", i, show(layers[i]));
		(void)tree_unref(layers[i]);
	}
	if (!same)
		printf("# merged:\n%s", show(t));
	model_free_objects();
	return same;
}

TEST(random_stacks_agree_with_the_model)
{
	const char *rounds = getenv("MERGE_ROUNDS");

	seed = 20260101;
	for (unsigned i = 0; i < (rounds ? strtoul(rounds, NULL, 10) : 4000); i++)
		if (!model_round(i)) {
			printf("# round %u\n", i);
			return;
		}
}
