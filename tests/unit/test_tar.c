/*
 * test_tar.c - the tar reader: plain headers, numbers, ends and damage
 */
#include "tarunit.h"

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
	REC(rec);
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
