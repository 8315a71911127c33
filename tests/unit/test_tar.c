/*
 * test_tar.c - the tar reader: formats, precedence, numbers, sparse maps, damage
 *
 * Each test writes an archive with tarmake.c and looks at the tree that comes out.  Every good
 * archive is also pushed byte by byte (tree_of), which must make no difference.
 */
#include <time.h>

#include "cache/tar_pax.h"
#include "tarmake.h"
#include "unit.h"

#define TAR(name) _cleanup_buf_ struct buf name = BUF_INIT(64u << 20)
#define TREE(name) _cleanup_(tree_unrefp) struct tree *name

/* Ends the archive, reads it in three ways, returns the tree. */
static struct tree *tree_of(struct buf *tar)
{
	static const size_t steps[] = { 1, 511, 513 };
	struct tree *whole, *again;
	size_t a, b;

	tm_end(tar);
	whole = tm_tree(tar);
	for (size_t i = 0; whole && i < ARRAY_SIZE(steps); i++) {
		struct err e = { 0 };

		if (tar->len > 1u << 20 && steps[i] == 1)
			continue;
		CHECK_OK(tm_read(tar, steps[i], &again, NULL, &e));
		if (!again)
			continue;

		const void *x = tree_image(whole, &a), *y = tree_image(again, &b);

		CHECK(a == b && memcmp(x, y, a) == 0);
		(void)tree_unref(again);
	}
	return whole;
}

static struct tree_attr attr(const struct tree *t, const char *path)
{
	struct tree_attr a = { 0 };

	if (t)
		(void)tm_get(t, path, &a);
	return a;
}

static int read_error(const struct buf *tar)
{
	struct err e = { 0 };
	struct tree *t;
	errint_t r = tm_read(tar, 0, &t, NULL, &e);

	CHECK(r == 0 || e.eno == -r);
	CHECK(r == 0 || e.msg[0] != '\0');
	(void)tree_unref(t);
	return r;
}

/* One file behind an x header with these records. */
static void pax_file(struct buf *tar, const struct buf *rec, const char *name, size_t size)
{
	_cleanup_free_ char *data = calloc(1, size + 1);

	tm_pax(tar, 'x', rec);
	(void)tm_header(tar, &(struct tm_head){ .name = name, .type = '0', .mode = 0600,
						.uid = 1, .gid = 2, .size = (int64_t)size,
						.mtime = 5 });
	tm_data(tar, data, size);
}

static const void *xattr(const struct tree *t, const char *path, const char *name, size_t *ret_len)
{
	uint32_t n = tree_lookup_path(t, path, strlen(path));
	const char *key;
	const void *value;
	size_t key_len;

	for (size_t i = 0; n != TREE_NONE && tree_xattr(t, n, i, &key, &key_len, &value, ret_len); i++)
		if (key_len == strlen(name) && memcmp(key, name, key_len) == 0)
			return value;
	return NULL;
}

/* ---- plain headers -------------------------------------------------------------------------- */

TEST(an_empty_stream_is_an_empty_archive)
{
	TAR(tar);
	TREE(t) = tm_tree(&tar);

	REQUIRE(t);
	CHECK_EQ_INT(tree_count(t), 1);
	CHECK_EQ_INT(attr(t, "").flags, TREE_F_IMPLICIT);
}

TEST(ustar_fields)
{
	TAR(tar);
	(void)tm_header(&tar, &(struct tm_head){ .name = "f", .type = '0', .mode = 06755, .uid = 1000,
						 .gid = 1001, .size = 5, .mtime = 1234567890 });
	tm_data(&tar, "hello", 5);
	(void)tm_header(&tar, &(struct tm_head){ .name = "c", .type = '3', .major = 5, .minor = 77 });
	(void)tm_header(&tar, &(struct tm_head){ .name = "b", .type = '4', .major = 8, .minor = 1 });
	(void)tm_header(&tar, &(struct tm_head){ .name = "p", .type = '6', .mode = 0600 });
	tm_symlink(&tar, "s", "some/where");
	tm_dir(&tar, "d/");
	TREE(t) = tree_of(&tar);
	REQUIRE(t);

	struct tree_attr a = attr(t, "f");

	CHECK_EQ_INT(a.type, TREE_REG);
	CHECK_EQ_INT(a.mode, 06755);
	CHECK_EQ_INT(a.uid, 1000);
	CHECK_EQ_INT(a.gid, 1001);
	CHECK_EQ_INT(a.size, 5);
	CHECK_EQ_INT(a.mtime_s, 1234567890);
	CHECK_EQ_INT(a.data_off, 512);
	CHECK(memcmp(tar.data + a.data_off, "hello", 5) == 0);
	CHECK_EQ_INT(attr(t, "c").type, TREE_CHR);
	CHECK_EQ_INT(attr(t, "c").rdev_major, 5);
	CHECK_EQ_INT(attr(t, "c").rdev_minor, 77);
	CHECK_EQ_INT(attr(t, "b").type, TREE_BLK);
	CHECK_EQ_INT(attr(t, "b").rdev_major, 8);
	CHECK_EQ_INT(attr(t, "p").type, TREE_FIFO);
	CHECK_EQ_STR(attr(t, "s").target, "some/where");
	CHECK_EQ_INT(attr(t, "s").size, 10);
	CHECK_EQ_INT(attr(t, "d").type, TREE_DIR);
	CHECK_EQ_INT(attr(t, "d").mode, 0750);
}

TEST(prefix_counts_in_posix_archives_only)
{
	TAR(tar);
	(void)tm_header(&tar, &(struct tm_head){ .name = "a", .prefix = "long/dir", .type = '0' });
	(void)tm_header(&tar, &(struct tm_head){ .name = "b", .prefix = "12345", .type = '0',
						 .format = TM_GNU });
	(void)tm_header(&tar, &(struct tm_head){ .name = "c", .prefix = "12345", .type = '0',
						 .format = TM_V7 });
	TREE(t) = tree_of(&tar);
	_cleanup_buf_ struct buf b = BUF_INIT(1000);

	REQUIRE(t);
	CHECK_EQ_STR(tm_list(t, &b), "b\nc\nlong/\nlong/dir/\nlong/dir/a\n");
}

TEST(names_that_fill_their_field)
{
	TAR(tar);
	char name[101], prefix[156], path[260];

	memset(name, 'n', 100);
	name[100] = '\0';
	memset(prefix, 'p', 155);
	prefix[155] = '\0';
	(void)snprintf(path, sizeof(path), "%s/%s", prefix, name);
	(void)tm_header(&tar, &(struct tm_head){ .name = name, .prefix = prefix, .link = name, .type = '2' });
	TREE(t) = tree_of(&tar);

	REQUIRE(t);
	CHECK_EQ_STR(attr(t, path).target, name);
}

TEST(types_zero_seven_and_unknown_are_regular)
{
	TAR(tar);
	static const char types[] = { '\0', '7', 'Z', '8' };

	for (size_t i = 0; i < sizeof(types); i++) {
		char name[] = { (char)('a' + i), '\0' };

		(void)tm_header(&tar, &(struct tm_head){ .name = name, .type = types[i], .size = 3 });
		tm_data(&tar, "abc", 3);
	}
	TREE(t) = tree_of(&tar);

	REQUIRE(t);
	CHECK_EQ_INT(tree_count(t), 5);
	for (uint32_t i = 1; i < 5; i++) {
		struct tree_attr a;

		tree_get(t, i, &a);
		CHECK(a.type == TREE_REG && a.size == 3);
	}
}

TEST(old_style_directories_end_in_a_slash)
{
	TAR(tar);
	(void)tm_header(&tar, &(struct tm_head){ .name = "d/", .format = TM_V7, .mode = 0711, .size = 4096 });
	(void)tm_header(&tar, &(struct tm_head){ .name = "d/f", .format = TM_V7, .size = 0 });
	TREE(t) = tree_of(&tar);

	REQUIRE(t);
	CHECK_EQ_INT(attr(t, "d").type, TREE_DIR);
	CHECK_EQ_INT(attr(t, "d").mode, 0711);
	CHECK_EQ_INT(attr(t, "d/f").type, TREE_REG);
}

TEST(links_directories_devices_have_no_data_whatever_their_size)
{
	TAR(tar);
	static const char types[] = { '1', '2', '3', '4', '5', '6' };

	tm_file(&tar, "target", "data");
	for (size_t i = 0; i < sizeof(types); i++) {
		char name[] = { 'n', types[i], '\0' };

		(void)tm_header(&tar, &(struct tm_head){ .name = name, .link = "target",
							 .type = types[i], .size = 1000 });
	}
	tm_file(&tar, "last", "x");
	TREE(t) = tree_of(&tar);

	REQUIRE(t);
	CHECK_EQ_INT(tree_count(t), 9);
	CHECK_EQ_INT(attr(t, "n1").ino, attr(t, "target").ino);
	CHECK_EQ_INT(attr(t, "last").size, 1);
}

TEST(gnu_directory_listings_are_skipped)
{
	TAR(tar);
	(void)tm_header(&tar, &(struct tm_head){ .name = "d/", .type = 'D', .format = TM_GNU, .size = 7 });
	tm_data(&tar, "Yfile\0", 7);
	(void)tm_header(&tar, &(struct tm_head){ .name = "label", .type = 'V', .format = TM_GNU });
	tm_file(&tar, "d/file", "x");
	TREE(t) = tree_of(&tar);

	REQUIRE(t);
	CHECK_EQ_INT(tree_count(t), 3);
}

TEST(base256_numbers)
{
	TAR(tar);
	(void)tm_header(&tar, &(struct tm_head){ .name = "a", .type = '0', .format = TM_GNU,
						 .mtime = -1000000000, .uid = 4000000000u,
						 .gid = 3000000 });
	(void)tm_header(&tar, &(struct tm_head){ .name = "b", .type = '0', .format = TM_GNU,
						 .mtime = INT64_C(1) << 40 });
	size_t at = tm_header(&tar, &(struct tm_head){ .name = "c", .type = '0', .format = TM_GNU });

	tm_patch(&tar, at, 108, "\xff\xff\xff\xff\xff\xff\xff\xfe", 8); /* uid -2 */
	TREE(t) = tree_of(&tar);

	REQUIRE(t);
	CHECK_EQ_INT(attr(t, "a").mtime_s, -1000000000);
	CHECK_EQ_INT(attr(t, "a").uid, 4000000000);
	CHECK_EQ_INT(attr(t, "a").gid, 3000000);
	CHECK_EQ_INT(attr(t, "b").mtime_s, INT64_C(1) << 40);
	CHECK_EQ_INT(attr(t, "c").uid, 4294967294);
}

TEST(numbers_in_odd_dress)
{
	TAR(tar);
	size_t at = tm_header(&tar, &(struct tm_head){ .name = "a", .type = '0' });

	tm_patch(&tar, at, 100, "   644 \0", 8);
	tm_patch(&tar, at, 108, "        ", 8);
	tm_patch(&tar, at, 116, "\0\0\0\0\0\0\0\0", 8);
	tm_patch(&tar, at, 136, "00000000010 ", 12);
	TREE(t) = tree_of(&tar);

	REQUIRE(t);
	CHECK_EQ_INT(attr(t, "a").mode, 0644);
	CHECK_EQ_INT(attr(t, "a").uid, 0);
	CHECK_EQ_INT(attr(t, "a").mtime_s, 8);
}

TEST(signed_checksums_are_accepted)
{
	TAR(tar);
	size_t at = tm_header(&tar, &(struct tm_head){ .name = "\xff\xfe", .type = '0' });
	unsigned sum = 0;
	char tmp[8];

	memset(tar.data + at + 148, ' ', 8);
	for (size_t i = 0; i < 512; i++)
		sum += (unsigned)(int)(signed char)tar.data[at + i];
	(void)snprintf(tmp, sizeof(tmp), "%06o", sum);
	memcpy(tar.data + at + 148, tmp, 7);
	TREE(t) = tree_of(&tar);

	REQUIRE(t);
	CHECK_EQ_INT(attr(t, "\xff\xfe").type, TREE_REG);
}

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
	_cleanup_buf_ struct buf rec = BUF_INIT(10000);

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
		_cleanup_buf_ struct buf rec = BUF_INIT(1000);

		tm_records(&rec, "mtime", times[i].text);
		pax_file(&tar, &rec, "f", 0);
		TREE(t) = tree_of(&tar);

		CHECK_EQ_INT(attr(t, "f").mtime_s, times[i].s);
		CHECK_EQ_INT(attr(t, "f").mtime_ns, times[i].ns);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		TAR(tar);
		_cleanup_buf_ struct buf rec = BUF_INIT(1000);

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
	_cleanup_buf_ struct buf rec = BUF_INIT(1000);

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
		_cleanup_buf_ struct buf rec = BUF_INIT(1000);

		(void)buf_adds(&rec, bad[i]);
		pax_file(&tar, &rec, "f", 0);
		if (!CHECK_ERR(read_error(&tar), -EINVAL))
			printf("# record %zu\n", i);
	}
}

/* ---- extended attributes -------------------------------------------------------------------- */

TEST(schily_xattrs_are_binary)
{
	TAR(tar);
	_cleanup_buf_ struct buf rec = BUF_INIT(10000);
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
	_cleanup_buf_ struct buf rec = BUF_INIT(10000);
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

/* ---- sparse files --------------------------------------------------------------------------- */

/* The extents of a file as "off+len@place" with places relative to the first data byte. */
static const char *extents(const struct tree *t, const char *path, uint64_t base)
{
	static char out[1000];
	uint32_t n = tree_lookup_path(t, path, strlen(path));
	struct tree_extent x;
	size_t at = 0;

	out[0] = '\0';
	for (size_t i = 0; n != TREE_NONE && tree_extent(t, n, i, &x); i++)
		at += (size_t)snprintf(out + at, sizeof(out) - at, "%s%" PRIu64 "+%" PRIu64 "@%" PRIu64,
				       i ? " " : "", x.off, x.len, x.data_off - base);
	return out;
}

TEST(pax_sparse_00)
{
	TAR(tar);
	_cleanup_buf_ struct buf rec = BUF_INIT(1000);

	tm_records(&rec, "GNU.sparse.size", "10000");
	tm_records(&rec, "GNU.sparse.numblocks", "3");
	tm_records(&rec, "GNU.sparse.offset", "1024");
	tm_records(&rec, "GNU.sparse.numbytes", "512");
	tm_records(&rec, "GNU.sparse.offset", "4096");
	tm_records(&rec, "GNU.sparse.numbytes", "100");
	tm_records(&rec, "GNU.sparse.offset", "10000");
	tm_records(&rec, "GNU.sparse.numbytes", "0");
	pax_file(&tar, &rec, "f", 612);
	tm_file(&tar, "next", "x");
	TREE(t) = tree_of(&tar);

	REQUIRE(t);
	CHECK_EQ_INT(attr(t, "f").flags, TREE_F_SPARSE);
	CHECK_EQ_INT(attr(t, "f").size, 10000);
	CHECK_EQ_STR(extents(t, "f", 1536), "1024+512@0 4096+100@512");
	CHECK_EQ_INT(attr(t, "next").size, 1);
	CHECK_EQ_INT(tree_data_bytes(t), 10001);
}

TEST(pax_sparse_01)
{
	TAR(tar);
	_cleanup_buf_ struct buf rec = BUF_INIT(1000);

	tm_records(&rec, "GNU.sparse.size", "100");
	tm_records(&rec, "GNU.sparse.numblocks", "3");
	tm_records(&rec, "GNU.sparse.name", "real/name");
	tm_records(&rec, "GNU.sparse.map", "0,10,10,10,50,5");
	pax_file(&tar, &rec, "GNUSparseFile.0/name", 25);
	TREE(t) = tree_of(&tar);

	CHECK_EQ_STR(extents(t, "real/name", 1536), "0+20@0 50+5@20");
	CHECK_EQ_INT(attr(t, "real/name").size, 100);
	CHECK_EQ_INT(tree_lookup_path(t, "GNUSparseFile.0", 15), TREE_NONE);
}

/* A 1.0 file: map text in blocks, then data. */
static void sparse10(struct buf *tar, const char *realsize, const char *map, size_t data)
{
	_cleanup_buf_ struct buf rec = BUF_INIT(1000);
	_cleanup_free_ char *zero = calloc(1, data + 1);
	size_t map_len = (strlen(map) + 511) & ~(size_t)511;

	tm_records(&rec, "GNU.sparse.major", "1");
	tm_records(&rec, "GNU.sparse.minor", "0");
	tm_records(&rec, "GNU.sparse.name", "f");
	tm_records(&rec, "GNU.sparse.realsize", realsize);
	tm_pax(tar, 'x', &rec);
	(void)tm_header(tar, &(struct tm_head){ .name = "tmp", .type = '0',
						.size = (int64_t)(map_len + data) });
	tm_data(tar, map, strlen(map));
	tm_data(tar, zero, data);
}

TEST(pax_sparse_10)
{
	TAR(tar);
	_cleanup_buf_ struct buf map = BUF_INIT(10000);

	(void)buf_adds(&map, "200\n");
	for (unsigned i = 0; i < 200; i++)
		(void)buf_addf(&map, "%u\n%u\n", i * 1000, i == 1 || i == 199 ? 512u : 0u);
	sparse10(&tar, "200000", buf_str(&map), 1024);
	tm_file(&tar, "next", "x");
	TREE(t) = tree_of(&tar);

	REQUIRE(t);
	CHECK_EQ_INT(attr(t, "f").size, 200000);
	CHECK_EQ_STR(extents(t, "f", 1536 + ((map.len + 511) & ~(size_t)511)), "1000+512@0 199000+512@512");
	CHECK_EQ_INT(attr(t, "next").size, 1);
	CHECK_EQ_INT(attr(t, "tmp").type, TREE_UNSET);
}

TEST(sparse_files_of_nothing_but_holes)
{
	TAR(tar);
	_cleanup_buf_ struct buf rec = BUF_INIT(1000);

	sparse10(&tar, "5000000000", "0\n", 0);
	tm_records(&rec, "GNU.sparse.size", "77");
	tm_records(&rec, "GNU.sparse.numblocks", "0");
	pax_file(&tar, &rec, "g", 0);
	TREE(t) = tree_of(&tar);

	REQUIRE(t);
	CHECK_EQ_INT(attr(t, "f").size, 5000000000);
	CHECK_EQ_INT(attr(t, "f").flags, TREE_F_SPARSE);
	CHECK_EQ_STR(extents(t, "f", 0), "");
	CHECK_EQ_INT(attr(t, "g").size, 77);
	CHECK_EQ_INT(attr(t, "g").flags, TREE_F_SPARSE);
}

static void put_octal(char *at, uint64_t v)
{
	char tmp[32];

	(void)snprintf(tmp, sizeof(tmp), "%011" PRIo64, v);
	memcpy(at, tmp, 12);
}

/* Old GNU: n pieces of 512 bytes at multiples of 4096, in header and extension blocks. */
static void old_sparse(struct buf *tar, const char *name, unsigned n, uint64_t size, uint64_t step)
{
	size_t at = tm_header(tar, &(struct tm_head){ .name = name, .type = 'S', .format = TM_GNU,
						      .size = (int64_t)n * 512 });
	char fields[110] = { 0 };
	_cleanup_free_ char *data = calloc(n + 1, 512);
	unsigned done = 0;

	for (; done < n && done < 4; done++) {
		put_octal(fields + done * 24, done * step);
		put_octal(fields + done * 24 + 12, 512);
	}
	fields[482 - 386] = done < n;
	put_octal(fields + (483 - 386), size);
	tm_patch(tar, at, 386, fields, sizeof(fields));
	while (done < n) {
		char ext[512] = { 0 };

		for (unsigned i = 0; done < n && i < 21; i++, done++) {
			put_octal(ext + i * 24, done * step);
			put_octal(ext + i * 24 + 12, 512);
		}
		ext[504] = done < n;
		tm_data(tar, ext, 512);
	}
	tm_data(tar, data, (size_t)n * 512);
}

TEST(old_gnu_sparse)
{
	TAR(tar);
	struct tree_extent x;

	old_sparse(&tar, "two", 2, 10000, 4096);
	old_sparse(&tar, "many", 50, 1000000, 4096);
	old_sparse(&tar, "hole", 0, 4096, 1);
	tm_file(&tar, "next", "x");
	TREE(t) = tree_of(&tar);

	REQUIRE(t);
	CHECK_EQ_STR(extents(t, "two", 512), "0+512@0 4096+512@512");
	CHECK_EQ_INT(attr(t, "two").size, 10000);
	CHECK_EQ_INT(attr(t, "hole").size, 4096);
	CHECK_EQ_INT(attr(t, "hole").flags, TREE_F_SPARSE);
	CHECK_EQ_INT(attr(t, "next").size, 1);

	uint32_t n = tree_lookup_path(t, "many", 4);

	CHECK(tree_extent(t, n, 49, &x) && x.off == 49 * 4096);
	CHECK_EQ_INT(x.data_off, 512 + 1024 + 512 + 3 * 512 + 49 * 512);
	CHECK(!tree_extent(t, n, 50, &x));
}

TEST(impossible_sparse_maps_are_refused)
{
	static const char *const bad10[] = {
		"1\n0\n2000\n",			/* longer than the file */
		"2\n0\n512\n100\n10\n",		/* overlap */
		"1\n9223372036854775807\n10\n",	/* end overflows */
		"2\n600\n10\n0\n10\n",		/* order */
		"1\n0\n1000\n",			/* more than is stored */
		"x\n", "1\n\n\n", "1\n0\n", "99999999999999999999\n",
		"1\n0\n-1\n", "5\n0\n1\n",
	};
	static const char *const bad01[] = { "0", "0,", ",", "0,1,", "0,x", "0,2000", "5,1,0,1", "0,600" };

	for (size_t i = 0; i < ARRAY_SIZE(bad10); i++) {
		TAR(tar);
		sparse10(&tar, "1000", bad10[i], 512);
		if (!CHECK_ERR(read_error(&tar), -EINVAL))
			printf("# map %zu\n", i);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad01); i++) {
		TAR(tar);
		_cleanup_buf_ struct buf rec = BUF_INIT(1000);

		tm_records(&rec, "GNU.sparse.size", "1000");
		tm_records(&rec, "GNU.sparse.map", bad01[i]);
		pax_file(&tar, &rec, "f", 512);
		if (!CHECK_ERR(read_error(&tar), -EINVAL))
			printf("# list %zu\n", i);
	}

	TAR(old);
	old_sparse(&old, "f", 3, 600, 300);
	CHECK_ERR(read_error(&old), -EINVAL);
}

TEST(sparse_records_that_do_not_fit_together_are_refused)
{
	static const struct {
		const char *key, *value;
	} bad[][3] = {
		{ { "GNU.sparse.offset", "0" }, { "GNU.sparse.offset", "1" }, { "GNU.sparse.size", "9" } },
		{ { "GNU.sparse.numbytes", "0" }, { "GNU.sparse.size", "9" }, { "a", "b" } },
		{ { "GNU.sparse.offset", "0" }, { "GNU.sparse.size", "9" }, { "a", "b" } },
		{ { "GNU.sparse.map", "0,1" }, { "GNU.sparse.numblocks", "2" }, { "GNU.sparse.size", "9" } },
		{ { "GNU.sparse.map", "0,1" }, { "a", "b" }, { "a", "b" } },
		{ { "GNU.sparse.offset", "0" }, { "GNU.sparse.map", "0,1" }, { "GNU.sparse.numbytes", "9" } },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		TAR(tar);
		_cleanup_buf_ struct buf rec = BUF_INIT(1000);

		for (size_t k = 0; k < 3; k++)
			tm_records(&rec, bad[i][k].key, bad[i][k].value);
		pax_file(&tar, &rec, "f", 512);
		if (!CHECK_ERR(read_error(&tar), -EINVAL))
			printf("# records %zu\n", i);
	}

	TAR(tar);
	_cleanup_buf_ struct buf rec = BUF_INIT(1000);

	tm_records(&rec, "GNU.sparse.major", "2");
	pax_file(&tar, &rec, "f", 0);
	CHECK_ERR(read_error(&tar), -EOPNOTSUPP);
}

/* ---- ends and damage ------------------------------------------------------------------------ */

TEST(what_follows_the_end_is_ignored)
{
	TAR(tar);
	tm_file(&tar, "a", "x");
	tm_end(&tar);
	(void)buf_adds(&tar, "garbage of odd length");
	TREE(t) = tm_tree(&tar);

	REQUIRE(t);
	CHECK_EQ_INT(tree_count(t), 2);
}

TEST(the_end_marker_may_be_short_or_missing)
{
	TAR(tar);
	tm_file(&tar, "a", "x");
	CHECK_OK(read_error(&tar));
	tar.len -= 511; /* padding of the last file */
	CHECK_OK(read_error(&tar));
	tar.len += 511;
	(void)buf_reserve(&tar, 512);
	memset(tar.data + tar.len, 0, 512);
	tar.len += 512;
	CHECK_OK(read_error(&tar));
	tm_file(&tar, "b", "x");
	CHECK_ERR(read_error(&tar), -EINVAL);
}

TEST(cut_archives_are_refused)
{
	TAR(tar);
	_cleanup_buf_ struct buf rec = BUF_INIT(1000);
	size_t full;

	tm_records(&rec, "path", "p");
	tm_pax(&tar, 'x', &rec);
	tm_file(&tar, "a", "0123456789");
	full = tar.len;
	for (size_t len = 1; len < full; len++) {
		int want = len >= 1536 + 10 ? 0 : -EINVAL;

		tar.len = len;
		if (!CHECK_ERR(read_error(&tar), want))
			printf("# cut at %zu\n", len);
	}
	tar.len = full;
}

TEST(damaged_headers_are_refused)
{
	static const struct {
		size_t field;
		const char *bytes;
		size_t len;
	} bad[] = {
		{ 124, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12 }, /* size -1 */
		{ 124, "\x80\0\0\1\0\0\0\0\0\0\0\0", 12 },			 /* over 63 bits */
		{ 124, "\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", 12 },	 /* end overflows */
		{ 124, "0000000000x", 11 },
		{ 108, "00000x0", 8 },
		{ 108, "\x80\0\0\1\0\0\0\0", 8 },				 /* uid over 32 bits */
		{ 100, "hello!!", 8 },
		{ 136, "zzzzzzzzzzz", 12 },
		{ 156, "M", 1 },
	};
	TAR(sum);

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		TAR(tar);
		tm_file(&tar, "a", "x");
		tm_patch(&tar, 0, bad[i].field, bad[i].bytes, bad[i].len);
		if (!CHECK_ERR(read_error(&tar), -EINVAL))
			printf("# damage %zu\n", i);
	}
	tm_file(&sum, "a", "x");
	sum.data[0] = 'b';
	CHECK_ERR(read_error(&sum), -EINVAL);
}

TEST(huge_extension_headers_are_refused)
{
	static const char types[] = { 'x', 'g', 'L', 'K' };

	for (size_t i = 0; i < sizeof(types); i++) {
		TAR(tar);
		(void)tm_header(&tar, &(struct tm_head){ .name = "e", .type = types[i],
							 .size = TAR_META_MAX + 1 });
		CHECK_ERR(read_error(&tar), -EFBIG);
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

static errint_t stop(void *ctx, const struct tree_entry *en, struct err *e)
{
	(void)en;
	++*(int *)ctx;
	return err_set(e, ECANCELED, ERR_CANCELLED, "enough");
}

TEST(the_callback_can_stop)
{
	TAR(tar);
	int calls = 0;
	_cleanup_(tar_reader_freep) struct tar_reader *r = tar_reader_new(stop, &calls);
	struct err e = { 0 };

	tm_file(&tar, "a", "x");
	tm_file(&tar, "b", "x");
	CHECK_ERR(tar_reader_push(r, tar.data, tar.len, &e), -ECANCELED);
	CHECK_EQ_INT(calls, 1);
	CHECK_EQ_STR(e.msg, "enough");
}
