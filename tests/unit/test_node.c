/*
 * test_node.c - the node table: ids, counts, identity, death
 */
#include <pthread.h>

#include "fs/fs.h"
#include "fs/kind.h"
#include "fs/node.h"
#include "util/buf.h"
#include "util/clock.h"
#include "unit.h"

/* Stands in for errors.c. */
__attribute__((weak)) void fs_note_error(struct fs *fs, struct node *n, const struct err *e)
{
	(void)fs, (void)n, (void)e;
}

static atomic_int dropped;

static void drop(void *data)
{
	(void)data;
	atomic_fetch_add(&dropped, 1);
}

static const struct kind dir_kind = { .name = "dir", .is_dir = true, .drop_data = drop };
static const struct kind other_kind = { .name = "other", .drop_data = drop };

static int token;

static struct node_table *new_table(void)
{
	atomic_store(&dropped, 0);
	return node_table_new(&dir_kind, NULL);
}

static struct node *child(struct node *parent, const char *name, uint64_t ident)
{
	return node_child(parent, name, strlen(name), ident, &other_kind, &token, false);
}

TEST(root_has_id_1_and_survives)
{
	struct node_table *t = new_table();
	uint32_t sub = 7;
	struct node *root = node_get(t, NODE_ROOT_ID, &sub);

	REQUIRE(root);
	CHECK_EQ_INT(root->id, 1);
	CHECK_EQ_INT(root->ino, 1);
	CHECK_EQ_INT(sub, 0);
	node_forget(t, NODE_ROOT_ID, 5);
	node_unref(root);
	root = node_root(t);
	CHECK(root);
	node_unref(root);
	CHECK_EQ_INT(node_count(t), 1);
	node_table_free(t);
}

TEST(a_child_is_found_again_by_name_ident_and_kind)
{
	struct node_table *t = new_table();
	struct node *root = node_root(t);
	struct node *a = child(root, "a", 1), *again = child(root, "a", 1),
		    *moved = child(root, "a", 2);
	struct node *b = child(root, "b", 1),
		    *kind = node_child(root, "a", 1, 1, &dir_kind, &token, false);
	struct node *prefix = node_child(root, "ab", 1, 1, &other_kind, &token, false);

	CHECK(a == again);
	CHECK(a == prefix);
	CHECK_EQ_INT(atomic_load(&dropped), 2);
	CHECK(a != moved && a != b && a != kind);
	CHECK_EQ_INT(a->ino, moved->ino);
	CHECK_EQ_INT(a->ino, node_hash_ino(root->ino, "a", 1));
	CHECK_EQ_INT(node_count(t), 5);
	node_unref(a), node_unref(again), node_unref(moved), node_unref(b), node_unref(kind),
		node_unref(prefix);
	CHECK_EQ_INT(node_count(t), 1);
	CHECK_EQ_INT(atomic_load(&dropped), 6);
	node_unref(root);
	node_table_free(t);
}

TEST(the_kernel_holds_one_ref_while_it_knows_a_node)
{
	struct node_table *t = new_table();
	struct node *root = node_root(t), *a = child(root, "a", 0), *found;
	uint64_t id = a->id;
	uint32_t sub;

	node_give_kernel(a, 1);
	node_give_kernel(a, 2);
	node_unref(a);
	CHECK_EQ_INT(node_lookups(t), 3);
	found = node_get(t, id, &sub);
	CHECK(found == a);
	node_unref(found);
	node_forget(t, id, 2);
	CHECK_EQ_INT(node_count(t), 2);
	node_forget(t, id, 1);
	CHECK_EQ_INT(node_count(t), 1);
	CHECK_EQ_INT(node_lookups(t), 0);
	CHECK_EQ_INT(atomic_load(&dropped), 1);
	node_unref(root);
	node_table_free(t);
}

TEST(ids_are_never_used_again)
{
	struct node_table *t = new_table();
	struct node *root = node_root(t), *a = child(root, "a", 0);
	uint64_t id = a->id;
	uint32_t sub;

	node_unref(a);
	CHECK(!node_get(t, id, &sub));
	CHECK(!node_get(t, 0, &sub));
	CHECK(!node_get(t, UINT64_MAX, &sub));
	a = child(root, "a", 0);
	CHECK(a->id > id);
	node_unref(a), node_unref(root);
	node_table_free(t);
}

TEST(too_many_forgets_take_what_there_is)
{
	struct node_table *t = new_table();
	struct node *root = node_root(t), *a = child(root, "a", 0);

	node_give_kernel(a, 1);
	node_forget(t, a->id, 1000);
	node_forget(t, a->id, 1000);
	node_forget(t, 4711, 1);
	CHECK_EQ_INT(node_lookups(t), 0);
	CHECK_EQ_INT(node_count(t), 2);
	node_unref(a), node_unref(root);
	node_table_free(t);
}

TEST(a_tree_is_one_node_with_many_ids)
{
	struct node_table *t = new_table();
	struct node *root = node_root(t);
	struct node *tree = node_child(root, "rootfs", 6, 0, &dir_kind, &token, true);
	struct node *tree2 = node_child(root, "rootfs2", 7, 0, &dir_kind, &token, true), *found;
	uint32_t sub = 0;

	CHECK(tree->id >> 63 && (uint32_t)tree->id == 0);
	CHECK(tree2->id != tree->id);
	CHECK_EQ_INT(node_sub_id(tree, 99), tree->id + 99);
	found = node_get(t, tree->id + 99, &sub);
	CHECK(found == tree);
	CHECK_EQ_INT(sub, 99);
	node_unref(found);
	node_give_kernel(tree, 1);
	node_give_kernel(tree, 1);
	node_unref(tree);
	node_forget(t, tree->id + 5, 1);
	CHECK_EQ_INT(node_count(t), 3);
	node_forget(t, tree->id + 6, 1);
	CHECK_EQ_INT(node_count(t), 2);
	node_unref(tree2), node_unref(root);
	node_table_free(t);
}

TEST(a_parent_lives_as_long_as_its_children)
{
	struct node_table *t = new_table();
	struct node *n = node_root(t), *next;
	_cleanup_buf_ struct buf path = BUF_INIT(100000);

	for (int i = 0; i < 10000; i++) {
		next = child(n, "d", 0);
		node_unref(n);
		n = next;
	}
	CHECK_EQ_INT(node_count(t), 10001);
	node_path(n, &path);
	CHECK_EQ_INT(path.len, 2 * 256 - 1);
	node_unref(n);
	CHECK_EQ_INT(node_count(t), 1);
	node_table_free(t);
}

TEST(paths_are_for_people)
{
	struct node_table *t = new_table();
	struct node *root = node_root(t), *a = child(root, "app", 0), *b = child(a, "1.0", 0);
	_cleanup_buf_ struct buf x = BUF_INIT(1000), y = BUF_INIT(1000);

	node_path(root, &x);
	CHECK_EQ_STR(buf_str(&x), ".");
	node_path(b, &y);
	CHECK_EQ_STR(buf_str(&y), "app/1.0");
	node_unref(b), node_unref(a), node_unref(root);
	node_table_free(t);
}

TEST(freeing_the_table_drops_what_the_kernel_never_forgot)
{
	struct node_table *t = new_table();
	struct node *root = node_root(t), *a = child(root, "a", 0), *b = child(a, "b", 0);

	node_give_kernel(a, 3);
	node_give_kernel(b, 1);
	node_unref(b), node_unref(a), node_unref(root);
	node_table_free(t);
	CHECK_EQ_INT(atomic_load(&dropped), 2);
}

TEST(errors_are_kept_per_node)
{
	struct node_table *t = new_table();
	struct node *root = node_root(t);
	struct err e = { 0 }, got;

	CHECK(!node_get_error(root, &got));
	err_set(&e, EACCES, ERR_AUTH, "refused");
	node_set_error(root, &e);
	CHECK(node_get_error(root, &got) && got.eno == EACCES);
	CHECK_EQ_STR(got.msg, "refused");
	node_set_error(root, NULL);
	CHECK(!node_get_error(root, &got));
	node_set_error(root, &e);
	node_unref(root);
	node_table_free(t);
}

static void count_node(struct node *n, void *ctx)
{
	(void)node_count(n->table); /* no lock is held here */
	++*(int *)ctx;
}

TEST(each_visits_the_living_of_a_kind)
{
	struct node_table *t = new_table();
	struct node *root = node_root(t), *n[1000];
	int seen = 0, dirs = 0;

	for (int i = 0; i < 1000; i++)
		n[i] = child(root, (char[]){ (char)('a' + i % 26), 0 }, (uint64_t)i);
	node_each(t, &other_kind, count_node, &seen);
	node_each(t, &dir_kind, count_node, &dirs);
	CHECK_EQ_INT(seen, 1000);
	CHECK_EQ_INT(dirs, 1);
	for (int i = 0; i < 1000; i++)
		node_unref(n[i]);
	node_unref(root);
	node_table_free(t);
}

TEST(inode_numbers_are_stable_and_never_0_or_1)
{
	/* Fixed for ever: a restart must not change st_ino.  Values are this function's own. */
	uint64_t a = node_hash_ino(1, "app", 3);
	bool good = true;

	CHECK(a == node_hash_ino(1, "app", 3));
	CHECK(a != node_hash_ino(2, "app", 3));
	CHECK(node_hash_ino(1, "a\0", 2) != node_hash_ino(1, "a", 1));
	CHECK(node_hash_ino(1, "12345678", 8) != node_hash_ino(1, "12345678\0", 9));
	for (uint64_t i = 0; i < 100000; i++) {
		uint64_t h = node_hash_ino(i, &i, sizeof(i));

		good &= h > 1 && h >> 63 == 0;
	}
	CHECK(good);
}

/* Eight threads look the same few names up, give them to the kernel, and forget them. */
struct stress {
	struct node_table *t;
	unsigned seed;
};

static void *look_and_forget(void *arg)
{
	struct stress *s = arg;
	struct node *root = node_root(s->t);

	for (int i = 0; i < 20000; i++) {
		unsigned r = s->seed = s->seed * 1103515245u + 12345u;
		char name[2] = { (char)('a' + (r >> 16) % 4), 0 };
		struct node *d = child(root, name, 0), *f, *found;
		uint64_t id;
		uint32_t sub;

		f = node_child(d, name, 1, (r >> 8) % 2, &dir_kind, &token, r % 3 == 0);
		id = f->id;
		node_give_kernel(f, 2);
		node_unref(f);
		found = node_get(s->t, id, &sub);
		CHECK(found); /* the kernel knows it */
		node_unref(found);
		node_unref(d);
		node_forget(s->t, id, 1);
		node_forget(s->t, id, 1);
	}
	node_unref(root);
	return NULL;
}

TEST(look_ups_and_forgets_race)
{
	struct node_table *t = new_table();
	struct stress s[8];
	pthread_t id[8];

	for (unsigned i = 0; i < 8; i++) {
		s[i] = (struct stress){ t, i + 1 };
		pthread_create(&id[i], NULL, look_and_forget, &s[i]);
	}
	for (unsigned i = 0; i < 8; i++)
		pthread_join(id[i], NULL);
	CHECK_EQ_INT(node_count(t), 1);
	CHECK_EQ_INT(node_lookups(t), 0);
	CHECK_EQ_INT(atomic_load(&dropped), 8 * 20000 * 2);
	node_table_free(t);
}

TEST(many_nodes_are_found_quickly)
{
	struct node_table *t = new_table();
	struct node *root = node_root(t);
	static struct node *n[100000];
	uint64_t before = clock_mono_ns();
	uint32_t sub;

	for (uint32_t i = 0; i < 100000; i++)
		n[i] = node_child(root, "x", 1, i, &other_kind, &token, false);
	for (uint32_t i = 0; i < 100000; i++)
		node_unref(node_get(t, n[i]->id, &sub));
	printf("# 100000 nodes made and found in %" PRIu64 " ms\n",
	       (clock_mono_ns() - before) / 1000000);
	CHECK(clock_mono_ns() - before < 5 * NSEC_PER_SEC);
	for (uint32_t i = 0; i < 100000; i++)
		node_unref(n[i]);
	node_unref(root);
	node_table_free(t);
}
