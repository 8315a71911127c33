/*
 * test_store_faults.c - the store of the cache when things go wrong
 *
 * Full and dying disks (a small tmpfs, resource limits, injected errors), writers killed at any
 * point, and eight threads that put, get, drop and scan at random.
 */
#include "tests/unit/store_unit.h"

/* ---- a disk that does not take it ---------------------------------------------------------- */

TEST(the_floor_makes_room_on_a_small_disk)
{
	struct ca_store *s;
	struct statvfs v;
	char key[32];

	fresh_dir();
	if (mount("tmpfs", dir, "tmpfs", 0, "size=4m,mode=0700") < 0) {
		printf("# skipped: cannot mount a tmpfs\n");
		return;
	}
	s = store_at(dir, 100 * MIB, MIB);
	for (int i = 0; i < 100; i++) {
		(void)snprintf(key, sizeof(key), "floor-%d", i);
		CHECK_OK(write_object(s, CA_SPAN, key, 200000, i % 2 ? 200000 : 0));
		CHECK_OK(statvfs(dir, &v));
		CHECK((uint64_t)v.f_bavail * v.f_frsize >= MIB);
		CHECK_OK(check_object(s, CA_SPAN, key));
	}
	(void)ca_store_free(s);
	CHECK_OK(umount2(dir, MNT_DETACH));
}

TEST(a_full_disk_degrades_to_memory)
{
	int64_t before = stat_get(STAT_CACHE_WRITE_ERRORS);
	struct ca_store *s;
	char fill[128], key[32];
	int fd;

	fresh_dir();
	if (mount("tmpfs", dir, "tmpfs", 0, "size=2m,mode=0700") < 0) {
		printf("# skipped: cannot mount a tmpfs\n");
		return;
	}
	s = store_at(dir, 100 * MIB, 1);
	CHECK_OK(put(s, CA_SPAN, "before", 200000));
	(void)snprintf(fill, sizeof(fill), "%s/fill", dir);
	fd = open(fill, O_WRONLY | O_CREAT, 0600);
	for (char block[4096] = { 0 }; write(fd, block, sizeof(block)) > 0;)
		;
	(void)close(fd);
	CHECK_OK(check_object(s, CA_SPAN, "before"));
	for (int i = 0; i < 20; i++) {
		(void)snprintf(key, sizeof(key), "full-%d", i);
		CHECK_OK(put(s, CA_SPAN, key, 300000));
		CHECK_OK(check_object(s, CA_SPAN, key));
	}
	CHECK(stat_get(STAT_CACHE_WRITE_ERRORS) > before);
	CHECK_OK(unlink(fill));
	clock_set_fake(clock_mono_ns() + 60 * NSEC_PER_SEC, clock_real_s() + 60);
	CHECK_OK(write_object(s, CA_SPAN, "after", 300000, 0));
	clock_set_fake(0, 0);
	(void)ca_store_free(s);
	CHECK_OK(umount2(dir, MNT_DETACH));
}

TEST(quota_errors_evict_and_try_again)
{
	struct ca_store *s;

	fresh_dir();
	s = store(0);
	CHECK_OK(write_object(s, CA_SPAN, "old", 100000, 0));
	ca_scan_now(s);
	inject(&write_faults, EDQUOT, 3);
	CHECK_ERR(write_object(s, CA_SPAN, "new", 300000, 0), -EDQUOT);
	inject(NULL, 0, 0);
	CHECK(!ca_object_exists(s, CA_SPAN, "old"));
	(void)ca_store_free(s);
}

TEST(a_file_size_limit_is_an_error_and_not_a_signal)
{
	struct rlimit old, small = { 0 };
	struct ca_store *s;
	void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);

	fresh_dir();
	s = store(0);
	CHECK_OK(getrlimit(RLIMIT_FSIZE, &old));
	small.rlim_max = old.rlim_max;
	small.rlim_cur = 100000;
	CHECK_OK(setrlimit(RLIMIT_FSIZE, &small));
	CHECK_ERR(write_object(s, CA_SPAN, "big", 300000, 0), -EFBIG);
	CHECK_OK(put(s, CA_SPAN, "big", 300000));
	CHECK_OK(write_object(s, CA_SPAN, "small", 3000, 0)); /* no pause: the disk is well */
	CHECK_OK(setrlimit(RLIMIT_FSIZE, &old));
	CHECK_OK(check_object(s, CA_SPAN, "big"));
	CHECK_OK(check_object(s, CA_SPAN, "small"));
	(void)signal(SIGXFSZ, handler);
	(void)ca_store_free(s);
}

TEST(writes_that_fail_at_any_point_leave_nothing)
{
	struct ca_store *s;
	char tmp[128];

	fresh_dir();
	s = store(0);
	(void)snprintf(tmp, sizeof(tmp), "%s/tmp", dir);
	for (long after = 0; after < 40; after++) {
		errint_t r;

		clock_set_fake((uint64_t)(after + 1) * 100 * NSEC_PER_SEC, 1000 + after);
		inject(&write_faults, after % 2 ? EIO : ENOSPC, after);
		r = write_object(s, CA_SPAN, "key", 150000, 0);
		inject(NULL, 0, 0);
		CHECK_EQ_INT(disk_usage(tmp), 0);
		CHECK_EQ_INT(check_object(s, CA_SPAN, "key"), r == 0 ? 0 : -ENOENT);
		ca_object_drop(s, CA_SPAN, "key");
		CHECK_EQ_INT(used(s), 0);
	}
	inject(&rename_faults, EIO, 0);
	clock_set_fake(10000 * NSEC_PER_SEC, 10000);
	CHECK_ERR(write_object(s, CA_SPAN, "key", 150000, 0), -EIO);
	inject(NULL, 0, 0);
	CHECK_EQ_INT(disk_usage(tmp), 0);
	CHECK_EQ_INT(used(s), 0);
	clock_set_fake(0, 0);
	(void)ca_store_free(s);
}

TEST(a_dead_disk_costs_one_attempt_in_five_seconds)
{
	struct ca_store *s;
	char key[32];
	long calls;

	fresh_dir();
	s = store(0);
	clock_set_fake(1000 * NSEC_PER_SEC, 1000);
	inject(&write_faults, EIO, 0);
	for (int i = 0; i < 50; i++) {
		(void)snprintf(key, sizeof(key), "dead-%d", i);
		CHECK_OK(put(s, CA_MANIFEST, key, 100));
	}
	calls = atomic_load(&write_calls);
	CHECK_OK(put(s, CA_MANIFEST, "dead-51", 100));
	CHECK_EQ_INT(atomic_load(&write_calls), calls);
	clock_set_fake(1006 * NSEC_PER_SEC, 1006);
	CHECK_OK(put(s, CA_MANIFEST, "dead-52", 100));
	CHECK_EQ_INT(atomic_load(&write_calls), calls + 1);
	inject(NULL, 0, 0);
	clock_set_fake(1020 * NSEC_PER_SEC, 1020);
	CHECK_OK(put(s, CA_MANIFEST, "dead-1", 100));
	CHECK_EQ_INT(access(file_of(CA_MANIFEST, "dead-1"), F_OK), 0);
	for (int i = 0; i < 50; i++) {
		(void)snprintf(key, sizeof(key), "dead-%d", i);
		CHECK_OK(check_object(s, CA_MANIFEST, key));
	}
	clock_set_fake(0, 0);
	(void)ca_store_free(s);
}

TEST(an_object_the_disk_cannot_read_is_fetched_again)
{
	struct ca_store *s;
	struct ca_object *o = NULL;
	struct err e = { 0 };
	char out[10];

	fresh_dir();
	s = store(0);
	CHECK_OK(put(s, CA_BLOB, "eio", 200000));
	CHECK_OK(ca_object_open(s, CA_BLOB, "eio", &o, NULL));
	inject(&read_faults, EIO, 0);
	CHECK_ERR(ca_object_read(o, 0, out, 10, &e), -EBADMSG);
	CHECK(strstr(e.msg, "Input/output error") != NULL);
	(void)ca_object_unref(o);
	CHECK_ERR(check_object(s, CA_BLOB, "eio"), -ENOENT);
	inject(NULL, 0, 0);
	CHECK_OK(put(s, CA_BLOB, "eio", 200000));
	inject(&read_faults, EIO, 1000); /* short reads only */
	CHECK_OK(check_object(s, CA_BLOB, "eio"));
	inject(NULL, 0, 0);
	(void)ca_store_free(s);
}

TEST(damage_that_cannot_be_removed_is_passed_over)
{
	struct ca_store *s;
	char c = 'x';
	int fd;

	fresh_dir();
	s = store(0);
	CHECK_OK(put(s, CA_BLOB, "bad", 1000));
	fd = open(file_of(CA_BLOB, "bad"), O_WRONLY);
	CHECK_EQ_INT(pwrite(fd, &c, 1, 500), 1);
	(void)close(fd);
	inject(&unlink_faults, 0, 0);
	CHECK_ERR(check_object(s, CA_BLOB, "bad"), -ENOENT);
	CHECK(!ca_object_exists(s, CA_BLOB, "bad"));
	CHECK_ERR(check_object(s, CA_BLOB, "bad"), -ENOENT);
	inject(&rename_faults, EROFS, 0);
	CHECK_OK(put(s, CA_BLOB, "bad", 1000)); /* into memory */
	CHECK_OK(check_object(s, CA_BLOB, "bad"));
	inject(NULL, 0, 0);
	(void)ca_store_free(s);
}

TEST(memory_has_a_ceiling_and_evicts_the_oldest)
{
	struct ca_memory *m = ca_memory_new(10000);
	struct ca_mem *x = NULL, *y = NULL;
	char name[16];

	for (int i = 0; i < 20; i++) {
		(void)snprintf(name, sizeof(name), "m%d", i);
		CHECK_OK(ca_memory_alloc(m, name, 1500, &x, NULL));
		CHECK_OK(ca_memory_put(x, NULL));
		CHECK(ca_memory_bytes(m) <= 10000);
		y = ca_memory_get(m, "m0"); /* always recent */
		CHECK(y != NULL);
		(void)ca_mem_unref(y);
	}
	CHECK(ca_memory_get(m, "m10") == NULL);
	y = ca_memory_get(m, "m19");
	CHECK(y != NULL);
	CHECK_ERR(ca_memory_alloc(m, "large", 9000, &x, NULL), -ENOSPC);
	CHECK_ERR(ca_memory_alloc(m, "larger", 90000, &x, NULL), -ENOSPC);
	ca_memory_drop(m, "m19"); /* lives until unref */
	CHECK(ca_memory_get(m, "m19") == NULL);
	memset(ca_mem_data(y), 1, ca_mem_len(y));
	(void)ca_mem_unref(y);
	CHECK_OK(ca_memory_alloc(m, "large", 9000, &x, NULL));
	(void)ca_mem_unref(x);
	CHECK_EQ_INT(ca_memory_bytes(m), 0);
	(void)ca_memory_free(m);
}

TEST(an_object_in_memory_has_a_descriptor_too)
{
	_cleanup_free_ char *want = bytes_of("fd", 100000);
	char got[100];
	struct ca_store *s;
	struct ca_object *o = NULL;

	fresh_dir();
	s = store(0);
	inject(&rename_faults, EROFS, 0);
	CHECK_OK(put(s, CA_TREE, "fd", 100000));
	inject(NULL, 0, 0);
	CHECK_OK(ca_object_open(s, CA_TREE, "fd", &o, NULL));
	CHECK_EQ_INT(pread(ca_object_fd(o), got, 100, 50000), 100);
	CHECK(memcmp(got, want + 50000, 100) == 0);
	CHECK_EQ_INT(ca_object_fd(o), ca_object_fd(o));
	CHECK_OK(ca_object_verify(o, NULL));
	(void)ca_object_unref(o);
	(void)ca_store_free(s);
}

/* ---- dead writers -------------------------------------------------------------------------- */

TEST(temp_files_of_the_dead_are_removed_and_of_the_living_kept)
{
	struct ca_store *s, *t;
	struct ca_writer *w = NULL;
	char tmp[128], dead[160];

	fresh_dir();
	s = store(0);
	CHECK_OK(ca_writer_new(s, CA_BLOB, "alive", 0, &w, NULL));
	CHECK_OK(ca_writer_add(w, "alive", 5, NULL));
	(void)snprintf(tmp, sizeof(tmp), "%s/tmp", dir);
	(void)snprintf(dead, sizeof(dead), "%s/1.99", tmp);
	put_file(dead, "dead", 4);
	t = store(0);
	ca_scan_now(t);
	CHECK_EQ_INT(access(dead, F_OK), -1);
	(void)disk_usage(tmp);
	CHECK_EQ_INT(disk_files, 1);
	CHECK_OK(ca_writer_publish(w, NULL));
	CHECK(ca_object_exists(t, CA_BLOB, "alive"));
	(void)ca_store_free(t);
	(void)ca_store_free(s);
}

static void write_until_killed(uint64_t seed)
{
	struct ca_store *s = store(3 * MIB);
	uint64_t x = seed | 1;
	char key[32];

	for (;;) {
		uint64_t n = next_random(&x);

		(void)snprintf(key, sizeof(key), "kill-%u", (unsigned)(n % 40));
		(void)!write_object(s, n % 3 ? CA_SPAN : CA_META, key, n / 64 % 200000, 0);
	}
}

TEST(kill_9_at_any_point_leaves_only_whole_objects)
{
	int64_t corrupt = stat_get(STAT_CACHE_CORRUPT);
	uint64_t x = 12345;
	unsigned found = 0;
	char tmp[128], key[32];

	fresh_dir();
	(void)snprintf(tmp, sizeof(tmp), "%s/tmp", dir);
	for (int i = 0; i < 100; i++) {
		pid_t pid = fork();
		struct ca_store *s;

		if (pid == 0)
			write_until_killed(x);
		(void)usleep((useconds_t)(next_random(&x) % 15000));
		(void)kill(pid, SIGKILL);
		(void)waitpid(pid, NULL, 0);
		s = store(3 * MIB);
		ca_scan_now(s);
		(void)disk_usage(tmp);
		CHECK_EQ_INT(disk_files, 0);
		CHECK(disk_usage(dir) <= 3 * MIB);
		for (int k = 0; k < 40; k++) {
			errint_t r, q;

			(void)snprintf(key, sizeof(key), "kill-%d", k);
			r = check_object(s, CA_SPAN, key);
			q = check_object(s, CA_META, key);
			CHECK(r == 0 || r == -ENOENT);
			CHECK(q == 0 || q == -ENOENT);
			found += r == 0;
		}
		(void)ca_store_free(s);
	}
	CHECK(found > 100);
	CHECK_EQ_INT(stat_get(STAT_CACHE_CORRUPT), corrupt);
}

/* ---- threads ------------------------------------------------------------------------------- */

struct worker {
	struct ca_store *s;
	uint64_t x;
	unsigned rounds;
};

static void random_step(struct worker *w)
{
	uint64_t n = next_random(&w->x);
	enum ca_kind kind = n % 4 ? CA_SPAN : CA_META;
	struct ca_object *o = NULL;
	char key[32], out[256];

	(void)snprintf(key, sizeof(key), "t-%u", (unsigned)(n / 8 % 50));
	switch (n / 1024 % 8) {
	case 0:
	case 1:
		(void)!put(w->s, kind, key, n / 65536 % 150000);
		break;
	case 2:
		(void)!write_object(w->s, kind, key, n / 65536 % 150000, 0);
		break;
	case 3:
		if (n / 8192 % 16 == 0)
			ca_object_drop(w->s, kind, key);
		else if (n / 8192 % 16 == 1)
			ca_scan_now(w->s);
		break;
	case 4:
		if (ca_object_open(w->s, kind, key, &o, NULL) == 0) {
			(void)ca_object_ref(o);
			if (ca_object_len(o) >= sizeof(out))
				CHECK_OK(ca_object_read(o, ca_object_len(o) - sizeof(out), out,
							sizeof(out), NULL));
			(void)ca_object_unref(o);
			(void)ca_object_unref(o);
		}
		break;
	default: {
		errint_t r = check_object(w->s, kind, key);

		CHECK(r == 0 || r == -ENOENT);
	}
	}
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < w->rounds; i++)
		random_step(w);
	return NULL;
}

TEST(eight_threads_and_two_stores)
{
	struct worker w[8];
	pthread_t t[8];
	struct ca_store *s[2];

	fresh_dir();
	s[0] = store(2 * MIB);
	s[1] = store(2 * MIB);
	for (unsigned i = 0; i < 8; i++) {
		w[i] = (struct worker){ .s = s[i % 4 == 3], .x = 1000003 * (i + 1) };
		w[i].rounds = 1500;
		if (pthread_create(&t[i], NULL, worker_main, &w[i]) != 0)
			abort();
	}
	for (unsigned i = 0; i < 8; i++)
		(void)pthread_join(t[i], NULL);
	for (int i = 0; i < 2; i++) {
		ca_scan_now(s[i]);
		CHECK(used(s[i]) <= 2 * MIB);
		CHECK_EQ_INT(s[i]->reserved, 0);
		CHECK_EQ_INT(s[i]->unwritten, 0);
	}
	CHECK(disk_usage(dir) <= 2 * MIB);
	(void)ca_store_free(s[0]);
	(void)ca_store_free(s[1]);
	CHECK_EQ_INT(stat_get(STAT_CACHE_BYTES), 0);
}
