/*
 * test_tar_sparse.c - the tar reader: sparse files of PAX 0.0, 0.1, 1.0 and of old GNU tar
 */
#include "tarunit.h"

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
	REC(rec);

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
	REC(rec);

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
	REC(rec);
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
	REC(rec);

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
		REC(rec);

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
		REC(rec);

		for (size_t k = 0; k < 3; k++)
			tm_records(&rec, bad[i][k].key, bad[i][k].value);
		pax_file(&tar, &rec, "f", 512);
		if (!CHECK_ERR(read_error(&tar), -EINVAL))
			printf("# records %zu\n", i);
	}

	TAR(tar);
	REC(rec);

	tm_records(&rec, "GNU.sparse.major", "2");
	pax_file(&tar, &rec, "f", 0);
	CHECK_ERR(read_error(&tar), -EOPNOTSUPP);
}
