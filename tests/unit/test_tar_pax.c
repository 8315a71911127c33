/*
 * test_tar_pax.c - the tar reader: extension headers, their precedence, extended attributes
 */
#include <time.h>

#include "tarunit.h"

/* ---- extension headers ---------------------------------------------------------------------- */

TEST(gnu_long_names_and_links)
{
	TAR(tar);
	char name[1201], target[301];

	for (size_t i = 0; i < 1200; i++)
		name[i] = i % 100 == 99 ? '/' : (char)('a' + i % 26);
	name[1199] = 'z';
	name[1200] = '\0';
	memset(target, 't', 300);
	target[300] = '\0';
	tm_long(&tar, 'K', target);
	tm_long(&tar, 'L', name);
	(void)tm_header(&tar, &(struct tm_head){ .name = "cut", .link = "cut", .type = '2', .format = TM_GNU });
	tm_file(&tar, "next", "");
	TREE(t) = tree_of(&tar);

	REQUIRE(t);
	CHECK_EQ_STR(attr(t, name).target, target);
	CHECK_EQ_INT(attr(t, "next").type, TREE_REG);
}

TEST(pax_overrides)
{
	TAR(tar);
	REC(rec);

	tm_records(&rec, "path", "other/name");
	tm_records(&rec, "uid", "3000000000");
	tm_records(&rec, "gid", "70000");
	tm_records(&rec, "mtime", "1700000000.123456789123");
	tm_records(&rec, "size", "700");
	tm_records(&rec, "uname", "nobody");
	tm_records(&rec, "comment", "=\n=");
	tm_pax(&tar, 'x', &rec);
	(void)tm_header(&tar, &(struct tm_head){ .name = "x", .type = '0', .mode = 0640, .uid = 1, .size = 3 });
	_cleanup_free_ char *data = calloc(1, 700);

	tm_data(&tar, data, 700);
	tm_file(&tar, "next", "n");
	TREE(t) = tree_of(&tar);
	REQUIRE(t);

	struct tree_attr a = attr(t, "other/name");

	CHECK_EQ_INT(a.uid, 3000000000);
	CHECK_EQ_INT(a.gid, 70000);
	CHECK_EQ_INT(a.mode, 0640);
	CHECK_EQ_INT(a.mtime_s, 1700000000);
	CHECK_EQ_INT(a.mtime_ns, 123456789);
	CHECK_EQ_INT(a.size, 700);
	CHECK_EQ_INT(attr(t, "next").mtime_s, 1000);
	CHECK_EQ_INT(attr(t, "next").size, 1);
}

TEST(pax_times)
{
	static const struct {
		const char *text;
		int64_t s;
		uint32_t ns;
	} times[] = {
		{ "0", 0, 0 }, { "1.5", 1, 500000000 }, { "-1.5", -2, 500000000 },
		{ "-1", -1, 0 }, { "-0.25", -1, 750000000 }, { "3.", 3, 0 },
		{ "1.000000001", 1, 1 }, { "-1.0", -1, 0 },
	};
	static const char *const bad[] = { "x", "1.x", "--1", "1.5.5", "99999999999999999999", "-", "." };

	for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
		TAR(tar);
		REC(rec);

		tm_records(&rec, "mtime", times[i].text);
		pax_file(&tar, &rec, "f", 0);
		TREE(t) = tree_of(&tar);

		CHECK_EQ_INT(attr(t, "f").mtime_s, times[i].s);
		CHECK_EQ_INT(attr(t, "f").mtime_ns, times[i].ns);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		TAR(tar);
		REC(rec);

		tm_records(&rec, "mtime", bad[i]);
		pax_file(&tar, &rec, "f", 0);
		CHECK_ERR(read_error(&tar), -EINVAL);
	}
}

TEST(pax_empty_values_reset)
{
	TAR(tar);
	_cleanup_buf_ struct buf rec = BUF_INIT(1000), global = BUF_INIT(1000);

	tm_records(&global, "uid", "99");
	tm_records(&global, "SCHILY.xattr.user.g", "global");
	tm_pax(&tar, 'g', &global);
	tm_records(&rec, "path", "renamed");
	tm_records(&rec, "path", "");
	tm_records(&rec, "uid", "");
	tm_records(&rec, "SCHILY.xattr.user.g", "");
	pax_file(&tar, &rec, "f", 0);
	tm_file(&tar, "plain", "");
	TREE(t) = tree_of(&tar);
	size_t len;

	REQUIRE(t);
	CHECK_EQ_INT(attr(t, "f").type, TREE_REG);
	CHECK_EQ_INT(attr(t, "f").uid, 1);
	CHECK(!xattr(t, "f", "user.g", &len));
	CHECK_EQ_INT(attr(t, "plain").uid, 99);
	CHECK(!xattr(t, "plain", "user.g", &len));
}

TEST(pax_globals_are_defaults_but_never_names_or_sizes)
{
	TAR(tar);
	_cleanup_buf_ struct buf g1 = BUF_INIT(1000), g2 = BUF_INIT(1000), rec = BUF_INIT(1000);

	tm_records(&g1, "path", "stolen");
	tm_records(&g1, "linkpath", "stolen");
	tm_records(&g1, "size", "9999");
	tm_records(&g1, "GNU.sparse.size", "1");
	tm_records(&g1, "GNU.sparse.map", "0,1");
	tm_records(&g1, "uid", "42");
	tm_records(&g1, "mtime", "77.5");
	tm_pax(&tar, 'g', &g1);
	tm_file(&tar, "a", "abc");
	tm_symlink(&tar, "s", "t");
	tm_records(&g2, "gid", "43");
	tm_records(&g2, "mtime", "");
	tm_pax(&tar, 'g', &g2);
	tm_records(&rec, "uid", "5");
	pax_file(&tar, &rec, "b", 1);
	TREE(t) = tree_of(&tar);

	REQUIRE(t);
	CHECK_EQ_INT(attr(t, "a").size, 3);
	CHECK_EQ_INT(attr(t, "a").uid, 42);
	CHECK_EQ_INT(attr(t, "a").mtime_s, 77);
	CHECK_EQ_INT(attr(t, "a").mtime_ns, 500000000);
	CHECK_EQ_STR(attr(t, "s").target, "t");
	CHECK_EQ_INT(attr(t, "b").uid, 5);
	CHECK_EQ_INT(attr(t, "b").gid, 43);
	CHECK_EQ_INT(attr(t, "b").mtime_s, 5);
}

TEST(the_second_of_two_pax_headers_counts)
{
	TAR(tar);
	_cleanup_buf_ struct buf r1 = BUF_INIT(1000), r2 = BUF_INIT(1000);

	tm_records(&r1, "uid", "11");
	tm_records(&r1, "gid", "12");
	tm_records(&r2, "uid", "13");
	tm_pax(&tar, 'x', &r1);
	pax_file(&tar, &r2, "f", 0);
	TREE(t) = tree_of(&tar);

	CHECK_EQ_INT(attr(t, "f").uid, 13);
	CHECK_EQ_INT(attr(t, "f").gid, 2);
}

TEST(gnu_long_name_wins_over_pax_path)
{
	TAR(tar);
	REC(rec);

	tm_long(&tar, 'L', "gnu");
	tm_records(&rec, "path", "pax");
	pax_file(&tar, &rec, "header", 0);
	TREE(t) = tree_of(&tar);

	CHECK_EQ_INT(attr(t, "gnu").type, TREE_REG);
}

TEST(malformed_pax_records)
{
	static const char *const bad[] = {
		"x", "10 a=b\n", "6 a=bb\n", "5 a=b\n", "7 aaaa\n", "6 =bb\n", "-6 a=b\n",
		"6  a=b\n6", "0 a=b\n", "99999999999999999999 a=b\n", "6 a=b", "12 size=abc\n",
		"11 size=-1\n", "11 uid=1x2\n", "3 \n", "4 =\n",
		"27 size=99999999999999999999\n",
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		TAR(tar);
		REC(rec);

		(void)buf_adds(&rec, bad[i]);
		pax_file(&tar, &rec, "f", 0);
		if (!CHECK_ERR(read_error(&tar), -EINVAL))
			printf("# record %zu\n", i);
	}
}

TEST(many_global_headers_stay_within_the_ceiling)
{
	TAR(tar);
	_cleanup_buf_ struct buf rec = BUF_INIT(4u << 20);
	_cleanup_free_ char *value = calloc(1, 60000);

	tm_record(&rec, "comment", value, 60000);
	for (unsigned i = 0; i < 200; i++)
		tm_pax(&tar, 'g', &rec);
	tm_end(&tar);
	CHECK_OK(read_error(&tar));
	buf_clear(&tar);
	buf_clear(&rec);
	tm_record(&rec, "SCHILY.xattr.user.x", value, 60000);
	for (unsigned i = 0; i < 200; i++)
		tm_pax(&tar, 'g', &rec);
	tm_end(&tar);
	CHECK_OK(read_error(&tar));
}

/* ---- extended attributes -------------------------------------------------------------------- */

TEST(schily_xattrs_are_binary)
{
	TAR(tar);
	REC(rec);
	static const char caps[] = "\1\0\0\2\0\40\0\0\0\0\0\0\0\0\0\0\0\0\0";
	static const char nasty[] = "a\0b\n12 path=evil\n";
	size_t len;

	tm_record(&rec, "SCHILY.xattr.security.capability", caps, 20);
	tm_record(&rec, "SCHILY.xattr.user.nasty", nasty, sizeof(nasty) - 1);
	tm_records(&rec, "SCHILY.xattr.user.twice", "first");
	tm_records(&rec, "SCHILY.xattr.user.twice", "second");
	pax_file(&tar, &rec, "f", 0);
	TREE(t) = tree_of(&tar);
	REQUIRE(t);

	const void *v = xattr(t, "f", "security.capability", &len);

	CHECK(v && len == 20 && memcmp(v, caps, 20) == 0);
	v = xattr(t, "f", "user.nasty", &len);
	CHECK(v && len == sizeof(nasty) - 1 && memcmp(v, nasty, len) == 0);
	v = xattr(t, "f", "user.twice", &len);
	CHECK(v && len == 6 && memcmp(v, "second", 6) == 0);
	CHECK_EQ_INT(attr(t, "f").flags, TREE_F_XATTRS);
	CHECK_EQ_INT(tree_lookup_path(t, "evil", 4), TREE_NONE);
}

TEST(libarchive_xattrs_are_encoded)
{
	TAR(tar);
	REC(rec);
	size_t len;

	tm_records(&rec, "LIBARCHIVE.xattr.user.a%3Db%20c%zz", "AAEC/w==");
	tm_records(&rec, "LIBARCHIVE.xattr.user.short", "aGk");
	tm_records(&rec, "LIBARCHIVE.xattr.user.broken", "!!!");
	pax_file(&tar, &rec, "f", 0);
	TREE(t) = tree_of(&tar);
	REQUIRE(t);

	const void *v = xattr(t, "f", "user.a=b c%zz", &len);

	CHECK(v && len == 4 && memcmp(v, "\0\1\2\xff", 4) == 0);
	v = xattr(t, "f", "user.short", &len);
	CHECK(v && len == 2 && memcmp(v, "hi", 2) == 0);
	CHECK(!xattr(t, "f", "user.broken", &len));
}

TEST(xattrs_that_linux_cannot_hold_are_left_out)
{
	TAR(tar);
	_cleanup_buf_ struct buf rec = BUF_INIT(1u << 20);
	_cleanup_free_ char *big = calloc(1, 70000);
	char key[320];
	size_t len;

	memset(key, 'k', sizeof(key));
	memcpy(key, "SCHILY.xattr.user.", 18);
	key[319] = '\0';
	tm_records(&rec, key, "v");
	tm_record(&rec, "SCHILY.xattr.user.big", big, 70000);
	tm_record(&rec, "SCHILY.xattr.user.fits", big, 65536);
	pax_file(&tar, &rec, "f", 0);
	TREE(t) = tree_of(&tar);

	REQUIRE(t);
	CHECK(xattr(t, "f", "user.fits", &len) && len == 65536);
	CHECK(!xattr(t, "f", "user.big", &len));
}

/* One header of 8 MiB full of attributes, and many entries that each would have them all. */
TEST(attributes_of_global_headers_cost_the_entries_nothing)
{
	TAR(tar);
	_cleanup_buf_ struct buf rec = BUF_INIT(TAR_META_MAX);
	struct timespec t0, t1;

	while (rec.len < TAR_META_MAX - 20)
		(void)buf_adds(&rec, "20 SCHILY.xattr.a=b\n");
	tm_pax(&tar, 'g', &rec);
	for (unsigned i = 0; i < 300; i++)
		tm_file(&tar, "f", "");
	tm_end(&tar);
	clock_gettime(CLOCK_MONOTONIC, &t0);
	TREE(t) = tm_tree(&tar);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	REQUIRE(t);
	CHECK_EQ_INT(attr(t, "f").flags & TREE_F_XATTRS, 0);
	CHECK(t1.tv_sec - t0.tv_sec < 5); /* half a minute when they are copied and sorted */
}

TEST(too_many_attributes_of_one_entry_are_refused)
{
	TAR(tar);
	_cleanup_buf_ struct buf rec = BUF_INIT(TAR_META_MAX);

	for (unsigned i = 0; i < 2 * TREE_XSET_MAX; i++) /* of one name: bsdtar's doubles and more */
		(void)buf_adds(&rec, "20 SCHILY.xattr.a=b\n");
	pax_file(&tar, &rec, "f", 0);
	CHECK_OK(read_error(&tar));
	(void)buf_adds(&rec, "20 SCHILY.xattr.a=b\n");
	pax_file(&tar, &rec, "f", 0);
	CHECK_ERR(read_error(&tar), -EFBIG);
}
