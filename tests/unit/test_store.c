/*
 * test_store.c - the store of the cache: sealed files, the directory, eviction, open objects
 */
#include "tests/unit/store_unit.h"

/* ---- sealed files -------------------------------------------------------------------------- */

TEST(roundtrip_of_all_lengths)
{
	static const size_t lens[] = { 0, 1, 7, 4096, CA_BLOCK - 1, CA_BLOCK, CA_BLOCK + 1,
				       3 * CA_BLOCK, 5 * CA_BLOCK + 17, 3 * MIB + 5 };
	struct ca_store *s;
	char key[32];

	fresh_dir();
	s = store(0);
	for (int again = 0; again < 2; again++) {
		for (size_t i = 0; i < ARRAY_SIZE(lens); i++) {
			(void)snprintf(key, sizeof(key), "len-%zu", lens[i]);
			if (!again)
				CHECK_OK(write_object(s, CA_BLOB, key, lens[i],
						      i % 2 ? lens[i] : 0));
			CHECK(ca_object_exists(s, CA_BLOB, key));
			CHECK(!ca_object_exists(s, CA_SPAN, key));
			CHECK_OK(check_object(s, CA_BLOB, key));
		}
		(void)ca_store_free(s);
		s = store(0);
	}
	(void)ca_store_free(s);
}

TEST(reads_of_any_part_are_right)
{
	const size_t len = 5 * CA_BLOCK + 1234;
	_cleanup_free_ uint8_t *want = bytes_of("parts", len);
	_cleanup_free_ uint8_t *got = malloc(len);
	uint64_t x = 4711;
	struct ca_store *s;

	fresh_dir();
	s = store(0);
	CHECK_OK(put(s, CA_SPAN, "parts", len));
	for (int i = 0; i < 300; i++) {
		size_t off = next_random(&x) % (len + 1);
		size_t n = next_random(&x) % (len - off + 1);
		struct ca_object *o = NULL;

		if (i % 20 == 0) { /* verification starts anew */
			(void)ca_store_free(s);
			s = store(0);
		}
		CHECK_OK(ca_object_open(s, CA_SPAN, "parts", &o, NULL));
		CHECK_EQ_INT(ca_object_len(o), len);
		CHECK_OK(ca_object_read(o, off, got, n, NULL));
		CHECK(memcmp(got, want + off, n) == 0);
		CHECK_ERR(ca_object_read(o, len, got, 1, NULL), -EINVAL);
		(void)ca_object_unref(o);
	}
	(void)ca_store_free(s);
}

static void copy_file(const char *path, void **ret, size_t *ret_len)
{
	struct stat st;
	int fd = open(path, O_RDONLY);

	if (fd < 0 || fstat(fd, &st) < 0)
		abort();
	*ret_len = (size_t)st.st_size;
	*ret = malloc(*ret_len);
	if (!*ret || pread(fd, *ret, *ret_len, 0) != st.st_size)
		abort();
	(void)close(fd);
}

/* A damaged image must be found, removed and counted; afterwards the object can be put again. */
static void expect_corrupt(const char *what, size_t at, const void *image, size_t len)
{
	int64_t before = stat_get(STAT_CACHE_CORRUPT);
	struct ca_store *s = store(0);

	put_file(file_of(CA_SPAN, "torn"), image, len);
	if (check_object(s, CA_SPAN, "torn") != -ENOENT)
		(void)unit_fail(__FILE__, __LINE__, "%s at %zu was not found", what, at);
	CHECK_EQ_INT(stat_get(STAT_CACHE_CORRUPT) - before, 1);
	CHECK_EQ_INT(access(file_of(CA_SPAN, "torn"), F_OK), -1);
	CHECK(!ca_object_exists(s, CA_SPAN, "torn"));
	CHECK_OK(put(s, CA_SPAN, "torn", 1000));
	CHECK_OK(check_object(s, CA_SPAN, "torn"));
	(void)ca_store_free(s);
}

TEST(torn_and_damaged_files_are_dropped)
{
	const size_t data = 2 * CA_BLOCK + 500;
	_cleanup_free_ uint8_t *image = NULL;
	_cleanup_free_ uint8_t *bad = NULL;
	uint64_t x = 99;
	size_t len;
	struct ca_store *s;

	fresh_dir();
	s = store(0);
	CHECK_OK(put(s, CA_SPAN, "torn", data));
	copy_file(file_of(CA_SPAN, "torn"), (void **)&image, &len);
	(void)ca_store_free(s);
	CHECK_EQ_INT(len, sealed_size(data));
	for (size_t cut = 0; cut < len; cut += cut < 40 || cut > len - 80 ? 1 : 7919)
		expect_corrupt("cut", cut, image, cut);
	bad = malloc(len + 1);
	memcpy(bad, image, len);
	bad[len] = 0;
	expect_corrupt("longer", len, bad, len + 1);
	memset(bad, 0, len);
	expect_corrupt("zeros", 0, bad, len);
	for (size_t i = 0; i < 120; i++) {
		size_t at = i < 60 ? len - 1 - i : next_random(&x) % data;

		memcpy(bad, image, len);
		bad[at] ^= (uint8_t)(1u << (i % 8));
		expect_corrupt("flip", at, bad, len);
	}
}

TEST(a_sound_file_under_another_name_is_corrupt)
{
	struct ca_store *s;
	char from[512];

	fresh_dir();
	s = store(0);
	CHECK_OK(put(s, CA_BLOB, "one", 5000));
	CHECK_OK(put(s, CA_BLOB, "two", 5000));
	(void)snprintf(from, sizeof(from), "%s", file_of(CA_BLOB, "one"));
	CHECK_OK(rename(from, file_of(CA_BLOB, "two")));
	CHECK_ERR(check_object(s, CA_BLOB, "two"), -ENOENT);
	CHECK_ERR(check_object(s, CA_BLOB, "one"), -ENOENT);
	(void)ca_store_free(s);
}

TEST(damage_found_while_reading_is_dropped_once)
{
	int64_t before = stat_get(STAT_CACHE_CORRUPT);
	struct ca_store *s;
	struct ca_object *o = NULL;
	struct err e = { 0 };
	char c = 'x', out[10];
	int fd;

	fresh_dir();
	s = store(0);
	CHECK_OK(put(s, CA_BLOB, "key", 3 * CA_BLOCK));
	fd = open(file_of(CA_BLOB, "key"), O_WRONLY);
	CHECK_EQ_INT(pwrite(fd, &c, 1, 2 * CA_BLOCK + 5), 1);
	(void)close(fd);
	CHECK_OK(ca_object_open(s, CA_BLOB, "key", &o, NULL));
	CHECK_OK(ca_object_read(o, 10, out, 10, &e));
	CHECK_ERR(ca_object_read(o, 3 * CA_BLOCK - 10, out, 10, &e), -EBADMSG);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	CHECK_ERR(ca_object_verify(o, NULL), -EBADMSG);
	CHECK_OK(ca_object_read(o, 10, out, 10, &e));
	CHECK_EQ_INT(stat_get(STAT_CACHE_CORRUPT) - before, 1);
	CHECK_ERR(check_object(s, CA_BLOB, "key"), -ENOENT);
	CHECK_OK(put(s, CA_BLOB, "key", 3 * CA_BLOCK)); /* while the damaged one is open */
	CHECK_ERR(ca_object_read(o, 3 * CA_BLOCK - 10, out, 10, &e), -EBADMSG);
	(void)ca_object_unref(o);
	CHECK_OK(check_object(s, CA_BLOB, "key"));
	(void)ca_store_free(s);
}

TEST(a_replacement_of_a_damaged_file_stays)
{
	struct ca_store *s, *other;
	struct ca_object *o = NULL;
	char c = 'x', out[10];
	int fd;

	fresh_dir();
	s = store(0);
	other = store(0);
	CHECK_OK(put(s, CA_BLOB, "key", 1000));
	CHECK_OK(ca_object_open(s, CA_BLOB, "key", &o, NULL));
	fd = open(file_of(CA_BLOB, "key"), O_WRONLY);
	CHECK_EQ_INT(pwrite(fd, &c, 1, 5), 1);
	(void)close(fd);
	CHECK_OK(put(other, CA_BLOB, "key", 1000));
	CHECK_ERR(ca_object_read(o, 0, out, 10, NULL), -EBADMSG);
	CHECK_EQ_INT(access(file_of(CA_BLOB, "key"), F_OK), 0);
	CHECK_OK(check_object(other, CA_BLOB, "key"));
	CHECK_OK(check_object(s, CA_BLOB, "key")); /* no longer the damaged one */
	(void)ca_object_unref(o);
	(void)ca_store_free(s);
	(void)ca_store_free(other);
}

/* ---- the directory ------------------------------------------------------------------------- */

TEST(unusable_directories_are_refused)
{
	struct ca_opts o = { .dir = "relative" };
	struct ca_store *s = NULL;
	struct err e = { 0 };
	char path[128];

	fresh_dir();
	CHECK_ERR(ca_store_new(&o, &s, &e), -EINVAL);
	(void)snprintf(path, sizeof(path), "%s/file", dir);
	put_file(path, "x", 1);
	o.dir = path;
	CHECK(ca_store_new(&o, &s, &e) < 0);
	(void)snprintf(path, sizeof(path), "%s/open", dir);
	CHECK_OK(mkdir(path, 0700));
	CHECK_OK(chmod(path, 0777));
	CHECK_ERR(ca_store_new(&o, &s, &e), -EPERM);
	CHECK(strstr(e.msg, path) != NULL);
	(void)snprintf(path, sizeof(path), "%s/a/b/c", dir);
	CHECK_OK(ca_store_new(&o, &s, &e));
	CHECK_EQ_STR(ca_store_dir(s), path);
	(void)ca_store_free(s);
}

TEST(files_are_private)
{
	struct ca_store *s;
	struct stat st;
	mode_t old = umask(0);

	fresh_dir();
	s = store(0);
	CHECK_OK(put(s, CA_TREE, "private", 100));
	CHECK_OK(stat(file_of(CA_TREE, "private"), &st));
	CHECK_EQ_INT(st.st_mode & 07777, 0600);
	(void)ca_store_free(s);
	(void)umask(old);
}

TEST(bad_keys_are_refused)
{
	static const char *const keys[] = { "", ".", "..", ".x", "a/b", "a b", "x\n", "\xc3\xa9" };
	struct ca_object *o = NULL;
	struct ca_store *s;
	char longest[CA_KEY_MAX + 1];

	fresh_dir();
	s = store(0);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		CHECK_ERR(put(s, CA_BLOB, keys[i], 10), -EINVAL);
		CHECK_ERR(ca_object_open(s, CA_BLOB, keys[i], &o, NULL), -EINVAL);
		CHECK(!ca_object_exists(s, CA_BLOB, keys[i]));
	}
	memset(longest, 'k', sizeof(longest));
	longest[CA_KEY_MAX] = '\0';
	CHECK_ERR(put(s, CA_BLOB, longest, 10), -EINVAL);
	longest[CA_KEY_MAX - 1] = '\0';
	CHECK_OK(put(s, CA_MANIFEST, longest, 10));
	CHECK_OK(check_object(s, CA_MANIFEST, longest));
	(void)ca_store_free(s);
}

TEST(two_stores_share_a_directory)
{
	struct ca_store *a, *b;
	struct ca_object *o = NULL;
	char out[100];

	fresh_dir();
	a = store(0);
	b = store(0);
	CHECK_OK(put(a, CA_BLOB, "shared", 300000));
	CHECK_OK(check_object(b, CA_BLOB, "shared"));
	CHECK_OK(put(b, CA_BLOB, "shared", 300000)); /* over it */
	CHECK_OK(check_object(a, CA_BLOB, "shared"));
	CHECK_OK(put(b, CA_BLOB, "of-b", 1000000));
	ca_scan_now(a);
	CHECK_EQ_INT(used(a), used(b));
	CHECK(used(a) > 1300000 && used(a) < 1400000);
	CHECK_OK(ca_object_open(a, CA_BLOB, "of-b", &o, NULL));
	ca_object_drop(b, CA_BLOB, "of-b");
	CHECK_OK(ca_object_read(o, 999900, out, 100, NULL)); /* unlinked, still readable */
	(void)ca_object_unref(o);
	ca_scan_now(a);
	CHECK_ERR(check_object(a, CA_BLOB, "of-b"), -ENOENT);
	CHECK_EQ_INT(used(a), used(b));
	(void)ca_store_free(a);
	(void)ca_store_free(b);
}

TEST(vanished_files_and_directories_are_tolerated)
{
	struct ca_store *s;
	char key[32];

	fresh_dir();
	s = store(0);
	for (int i = 0; i < 20; i++) {
		(void)snprintf(key, sizeof(key), "v-%d", i);
		CHECK_OK(put(s, CA_SPAN, key, 10000));
	}
	CHECK_OK(unlink(file_of(CA_SPAN, "v-3")));
	CHECK_ERR(check_object(s, CA_SPAN, "v-3"), -ENOENT);
	CHECK_OK(check_object(s, CA_SPAN, "v-4"));
	remove_tree(dir);
	ca_scan_now(s); /* makes it anew */
	CHECK_EQ_INT(used(s), 0);
	CHECK_ERR(check_object(s, CA_SPAN, "v-4"), -ENOENT);
	CHECK_OK(write_object(s, CA_SPAN, "v-4", 10000, 0));
	CHECK_OK(check_object(s, CA_SPAN, "v-4"));
	CHECK_OK(access(file_of(CA_SPAN, "v-4"), F_OK));
	(void)ca_store_free(s);
}

TEST(a_start_with_10000_objects_is_quick)
{
	struct ca_store *s;
	char key[32];
	uint64_t t0, t1, t2;

	fresh_dir();
	s = store(0);
	for (int i = 0; i < 10000; i++) {
		(void)snprintf(key, sizeof(key), "many-%d", i);
		CHECK_OK(write_object(s, CA_META, key, 20, 20));
	}
	(void)ca_store_free(s);
	t0 = clock_mono_ns();
	s = store(0);
	CHECK_OK(check_object(s, CA_META, "many-77"));
	t1 = clock_mono_ns();
	ca_scan_now(s);
	t2 = clock_mono_ns();
	printf("# open and read %.1f ms, scan %.1f ms\n", (double)(t1 - t0) / 1e6,
	       (double)(t2 - t1) / 1e6);
	CHECK(t1 - t0 < 200 * NSEC_PER_MSEC);
	CHECK_EQ_INT(used(s), 10000 * 4096);
	(void)ca_store_free(s);
}

/* ---- eviction ------------------------------------------------------------------------------ */

TEST(the_limit_holds_under_twice_as_much)
{
	const uint64_t max = 4 * MIB;
	struct ca_store *s;
	char key[32];
	uint64_t x = 5;
	int hits = 0;

	fresh_dir();
	s = store(max);
	for (int i = 0; i < 600; i++) {
		unsigned n = (unsigned)(next_random(&x) % 80);
		errint_t r;

		(void)snprintf(key, sizeof(key), "ws-%u", n);
		r = check_object(s, CA_SPAN, key);
		hits += r == 0;
		CHECK(r == 0 || r == -ENOENT);
		if (r < 0)
			CHECK_OK(write_object(s, CA_SPAN, key, 60000 + n * 1000,
					      n % 2 ? 0 : 60000));
		CHECK(used(s) <= max);
		if (i % 20 == 0)
			CHECK(disk_usage(dir) <= max);
	}
	CHECK(hits > 100);
	CHECK(disk_usage(dir) > max / 2);
	(void)ca_store_free(s);
	s = store(max / 2); /* a smaller limit holds after the first scan */
	ca_scan_now(s);
	CHECK(disk_usage(dir) <= max / 2);
	(void)ca_store_free(s);
}

TEST(the_least_recently_used_goes_first_also_after_a_restart)
{
	struct ca_store *s;
	char key[32];

	fresh_dir();
	s = store(MIB);
	for (int i = 0; i < 8; i++) {
		clock_set_fake((uint64_t)(1000 + i) * NSEC_PER_SEC, 1000000 + i * 100);
		(void)snprintf(key, sizeof(key), "lru-%d", i);
		CHECK_OK(write_object(s, CA_BLOB, key, 100000, 100000));
		(void)utimensat(AT_FDCWD, file_of(CA_BLOB, key),
				(struct timespec[2]){ { .tv_sec = 1000000 + i * 100 },
						      { .tv_sec = 1000000 + i * 100 } }, 0);
	}
	clock_set_fake(3000 * NSEC_PER_SEC, 1002000);
	CHECK_OK(check_object(s, CA_BLOB, "lru-0"));
	CHECK_OK(check_object(s, CA_BLOB, "lru-2"));
	(void)ca_store_free(s);
	s = store(MIB);
	ca_scan_now(s);
	clock_set_fake(3001 * NSEC_PER_SEC, 1002001);
	CHECK_OK(write_object(s, CA_BLOB, "new", 400000, 400000)); /* 0.8 of 1 MiB was used */
	CHECK(ca_object_exists(s, CA_BLOB, "lru-0"));
	CHECK(!ca_object_exists(s, CA_BLOB, "lru-1"));
	CHECK(ca_object_exists(s, CA_BLOB, "lru-2"));
	CHECK(!ca_object_exists(s, CA_BLOB, "lru-3"));
	CHECK(ca_object_exists(s, CA_BLOB, "lru-7"));
	(void)ca_store_free(s);
	clock_set_fake(0, 0);
}

TEST(a_set_larger_than_the_cache_does_not_push_itself_out)
{
	struct ca_store *s;
	char key[32];
	uint64_t since;
	int kept = 0, first_failure = -1;

	fresh_dir();
	s = store(2 * MIB);
	for (int i = 0; i < 10; i++) {
		(void)snprintf(key, sizeof(key), "old-%d", i);
		CHECK_OK(write_object(s, CA_SPAN, key, 100000, 100000));
	}
	since = ca_store_stamp(s);
	for (int i = 0; i < 40; i++) {
		struct ca_writer *w = NULL;
		_cleanup_free_ void *data = NULL;

		(void)snprintf(key, sizeof(key), "set-%d", i);
		data = bytes_of(key, 100000);
		if (ca_writer_new_since(s, CA_SPAN, key, 100000, since, &w, NULL) == -ENOSPC) {
			if (first_failure < 0)
				first_failure = i;
			continue;
		}
		CHECK_OK(ca_writer_add(w, data, 100000, NULL));
		CHECK_OK(ca_writer_publish(w, NULL));
	}
	for (int i = 0; i < 40; i++) {
		(void)snprintf(key, sizeof(key), "set-%d", i);
		kept += check_object(s, CA_SPAN, key) == 0;
	}
	CHECK(first_failure >= 15);
	CHECK_EQ_INT(kept, first_failure);
	CHECK_OK(write_object(s, CA_SPAN, "later", 100000, 100000));
	(void)ca_store_free(s);
}

TEST(what_cannot_fit_evicts_nothing)
{
	struct ca_store *s;
	struct ca_writer *w = NULL;
	struct ca_object *o = NULL;
	struct err e = { 0 };

	fresh_dir();
	s = store(MIB);
	CHECK_OK(write_object(s, CA_BLOB, "keep", 400000, 400000));
	CHECK_ERR(ca_writer_new(s, CA_BLOB, "huge", 2 * MIB, &w, &e), -ENOSPC);
	CHECK_EQ_INT(e.cls, ERR_LOCAL);
	CHECK_OK(ca_object_open(s, CA_BLOB, "keep", &o, NULL)); /* in use: cannot be evicted */
	CHECK_ERR(ca_writer_new(s, CA_BLOB, "large", 900000, &w, NULL), -ENOSPC);
	CHECK(ca_object_exists(s, CA_BLOB, "keep"));
	(void)ca_object_unref(o);
	CHECK_OK(write_object(s, CA_BLOB, "large", 900000, 900000));
	CHECK(!ca_object_exists(s, CA_BLOB, "keep"));
	(void)ca_store_free(s);
}

TEST(too_little_to_evict_is_left_alone)
{
	struct ca_store *s;
	struct ca_writer *w = NULL;
	struct ca_object *o = NULL;

	fresh_dir();
	s = store(MIB);
	CHECK_OK(write_object(s, CA_BLOB, "a", 300000, 300000));
	CHECK_OK(write_object(s, CA_BLOB, "b", 300000, 300000));
	CHECK_OK(ca_object_open(s, CA_BLOB, "b", &o, NULL));
	CHECK_ERR(ca_writer_new(s, CA_BLOB, "c", 900000, &w, NULL), -ENOSPC);
	CHECK(ca_object_exists(s, CA_BLOB, "a"));
	CHECK_OK(write_object(s, CA_BLOB, "c", 600000, 600000));
	CHECK(!ca_object_exists(s, CA_BLOB, "a"));
	CHECK(ca_object_exists(s, CA_BLOB, "b"));
	(void)ca_object_unref(o);
	(void)ca_store_free(s);
}

TEST(reservations_count_and_are_given_back)
{
	struct ca_store *s;
	struct ca_writer *w = NULL, *v = NULL;

	fresh_dir();
	s = store(4 * MIB);
	ca_scan_now(s);
	CHECK_OK(ca_writer_new(s, CA_BLOB, "a", 3 * MIB, &w, NULL));
	CHECK(used(s) >= 3 * MIB);
	CHECK_ERR(ca_writer_new(s, CA_BLOB, "b", 2 * MIB, &v, NULL), -ENOSPC);
	w = ca_writer_abort(w);
	CHECK_EQ_INT(used(s), 0);
	CHECK_OK(ca_writer_new(s, CA_BLOB, "b", 2 * MIB, &v, NULL));
	CHECK_OK(ca_writer_publish(v, NULL)); /* empty */
	CHECK(used(s) <= 4096);
	CHECK(disk_usage(dir) <= 4096);
	CHECK(ca_writer_abort(NULL) == NULL);
	(void)ca_store_free(s);
}

/* What an eviction freed and the file system did not show at once is counted once. */
TEST(the_credit_of_an_eviction_shrinks_as_the_space_turns_up)
{
	struct ca_store *s;

	fresh_dir();
	s = store_at(dir, 0, 1);
	CHECK_EQ_INT(ca_credit_locked(s, 0), 0);
	s->credit = 100;
	s->credit_room = 1000;
	s->credit_written = s->written;
	s->credit_until_ns = clock_mono_ns() + 100 * NSEC_PER_SEC;
	CHECK_EQ_INT(ca_credit_locked(s, 1000), 100);
	CHECK_EQ_INT(ca_credit_locked(s, 900), 100);
	CHECK_EQ_INT(ca_credit_locked(s, 1060), 40);
	CHECK_EQ_INT(ca_credit_locked(s, 5000), 0);
	s->written += 30; /* took 30 of what came */
	CHECK_EQ_INT(ca_credit_locked(s, 1030), 40);
	s->credit_until_ns = clock_mono_ns();
	CHECK_EQ_INT(ca_credit_locked(s, 1000), 0);
	CHECK_OK(write_object(s, CA_BLOB, "counted", 100000, 1000));
	CHECK(s->written >= 100030);
	(void)ca_store_free(s);
}

TEST(the_floor_of_free_space_holds)
{
	struct ca_store *s;
	struct statvfs v;

	fresh_dir();
	CHECK_OK(statvfs(dir, &v));
	s = store_at(dir, 0, (uint64_t)v.f_bavail * v.f_frsize * 2); /* never satisfied */
	CHECK_ERR(write_object(s, CA_BLOB, "floor", 1000, 1000), -ENOSPC);
	CHECK_OK(put(s, CA_BLOB, "floor", 1000)); /* in memory then */
	CHECK_OK(check_object(s, CA_BLOB, "floor"));
	CHECK_EQ_INT(access(file_of(CA_BLOB, "floor"), F_OK), -1);
	(void)ca_store_free(s);
}

/* ---- open objects -------------------------------------------------------------------------- */

static unsigned open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		(void)closedir(d);
	return n;
}

TEST(open_objects_are_shared_kept_and_bounded)
{
	unsigned before, n;
	struct ca_store *s;
	struct ca_object *a = NULL, *b = NULL;
	char key[32];

	fresh_dir();
	s = store(0);
	ca_scan_now(s);
	before = open_fds();
	CHECK(s->idle_max >= 16 && s->idle_max <= CA_OPEN_IDLE_MAX);
	s->idle_max = 100;
	for (int i = 0; i < 250; i++) {
		(void)snprintf(key, sizeof(key), "o-%d", i);
		CHECK_OK(put(s, CA_BLOB, key, 10));
		CHECK_OK(check_object(s, CA_BLOB, key));
	}
	n = open_fds() - before;
	CHECK(n >= 100 && n <= 108);
	CHECK_OK(ca_object_open(s, CA_BLOB, "o-1", &a, NULL));
	CHECK_OK(ca_object_open(s, CA_BLOB, "o-1", &b, NULL));
	CHECK(a == b);
	CHECK(ca_object_ref(a) == a);
	(void)ca_object_unref(a);
	(void)ca_object_unref(b);
	(void)ca_object_unref(a);
	(void)ca_store_free(s);
	CHECK(open_fds() <= before);
}

TEST(a_last_use_is_written_once_a_minute)
{
	struct ca_store *s;
	struct stat st;

	fresh_dir();
	clock_set_fake(1000 * NSEC_PER_SEC, 2000000000);
	s = store(0);
	ca_scan_start(s); /* a scan would learn the file's real mtime */
	(void)ca_scan_wait(s);
	CHECK_OK(put(s, CA_BLOB, "use", 10));
	clock_set_fake(1030 * NSEC_PER_SEC, 2000000030);
	CHECK_OK(check_object(s, CA_BLOB, "use"));
	CHECK_OK(stat(file_of(CA_BLOB, "use"), &st));
	CHECK(st.st_mtime != 2000000030);
	clock_set_fake(1070 * NSEC_PER_SEC, 2000000070);
	CHECK_OK(check_object(s, CA_BLOB, "use"));
	CHECK_OK(stat(file_of(CA_BLOB, "use"), &st));
	CHECK_EQ_INT(st.st_mtime, 2000000070);
	(void)ca_store_free(s);
	clock_set_fake(0, 0);
}
