/*
 * test_util.c - the values of util/: errors, buffers, tables, digests, JSON, times
 *
 * What several threads do at once is in test_util_threads.c.
 */
#include "tests/unit/unit.h"

#include "util/buf.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/digest.h"
#include "util/err.h"
#include "util/hmap.h"
#include "util/json.h"

static uint64_t xorshift(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* ---- err ---- */

TEST(err_sets_and_wraps)
{
	struct err e = { .http = 404, .code = "STALE" };

	CHECK_ERR(err_set(&e, EACCES, ERR_AUTH, "user %s\n\x1b[31m\xc2\x9b.", "x"), -EACCES);
	CHECK_EQ_STR(e.msg, "user x??[31m??.");
	CHECK_EQ_INT(e.http, 0);
	CHECK_EQ_STR(e.code, "");
	CHECK_ERR(err_wrap(&e, -EACCES, "layer %d", 3), -EACCES);
	CHECK_EQ_STR(e.msg, "layer 3: user x??[31m??.");
	CHECK_EQ_INT(e.cls, ERR_AUTH);
	CHECK_ERR(err_set(&e, EIO, ERR_NET, "<%s>", e.msg), -EIO);
	CHECK_EQ_STR(e.msg, "<layer 3: user x??[31m??.>");
	CHECK_OK(err_wrap(&e, 0, "not an error"));
	CHECK_EQ_INT(e.msg[0], '<');
}

TEST(err_takes_null_and_fills_gaps)
{
	struct err e = { 0 };

	CHECK_ERR(err_set(NULL, EIO, ERR_NET, "x"), -EIO);
	CHECK_ERR(err_wrap(NULL, -EIO, "x"), -EIO);
	CHECK_ERR(err_errno(NULL, EIO, "x"), -EIO);
	CHECK_ERR(err_wrap(&e, -ENOENT, "opening"), -ENOENT);
	CHECK_EQ_INT(e.eno, ENOENT);
	CHECK_EQ_STR(e.msg, "opening: No such file or directory");
	CHECK_ERR(err_errno(&e, EACCES, "cannot open %s", "f"), -EACCES);
	CHECK_EQ_STR(e.msg, "cannot open f: Permission denied");
	CHECK_EQ_INT(e.cls, ERR_LOCAL);
	CHECK_EQ_STR(err_class_name(ERR_INTEGRITY), "integrity");
	CHECK_EQ_STR(err_class_name((enum err_class)999), "unset");
	err_clear(&e);
	CHECK_EQ_INT(e.eno, 0);
}

TEST(err_truncates_between_characters)
{
	char long_msg[ERR_MSG_MAX + 50];
	struct err e;

	for (size_t shift = 0; shift < 3; shift++) {
		memset(long_msg, 'a', shift);
		for (size_t i = shift; i + 3 < sizeof(long_msg); i += 3)
			memcpy(long_msg + i, "\xe2\x82\xac", 4);
		(void)err_set(&e, EIO, ERR_NET, "%s", long_msg);
		CHECK_EQ_INT((strlen(e.msg) - shift) % 3, 0);
		CHECK(strlen(e.msg) > ERR_MSG_MAX - 5);
	}
}

/* ---- buf ---- */

TEST(buf_keeps_its_ceiling)
{
	_cleanup_buf_ struct buf b = BUF_INIT(10);

	CHECK_EQ_STR(buf_str(&b), "");
	CHECK_OK(buf_adds(&b, "12345"));
	CHECK_ERR(buf_adds(&b, "678901"), -EFBIG);
	CHECK_EQ_STR(buf_str(&b), "12345");
	CHECK_ERR(buf_addc(&b, 'x'), -EFBIG); /* sticky, although it would fit */
	CHECK_ERR(buf_check(&b), -EFBIG);
	buf_clear(&b);
	CHECK_OK(buf_adds(&b, "1234567890"));
	CHECK_EQ_INT(b.len, 10);
	CHECK_ERR(buf_addf(&b, "%d", 1), -EFBIG);
	CHECK_EQ_STR(buf_str(&b), "1234567890");
	buf_done(&b);
	CHECK_EQ_INT(b.max, 10);
	CHECK_OK(buf_addf(&b, "%05d%s", 42, "abcde"));
	CHECK_EQ_STR(buf_str(&b), "00042abcde");
}

TEST(buf_formats_leave_no_trace_on_failure)
{
	_cleanup_buf_ struct buf b = BUF_INIT(70);

	CHECK_OK(buf_adds(&b, "start"));
	CHECK_ERR(buf_addf(&b, "%0100d", 1), -EFBIG);
	CHECK_EQ_STR(buf_str(&b), "start");
	buf_clear(&b);
	CHECK_OK(buf_adds(&b, "start"));
	CHECK_ERR(buf_add_json(&b, "0123456789012345678901234567890123456789\n\n\n\n\n\n\n\n\n\n\n"
				   "\n\n\n", 54), -EFBIG);
	CHECK_EQ_STR(buf_str(&b), "start");
	CHECK_EQ_INT(b.len, 5);
}

TEST(buf_edges)
{
	_cleanup_buf_ struct buf zero = { 0 }, big = BUF_INIT(SIZE_MAX);
	size_t len = 99;

	CHECK_OK(buf_add(&zero, NULL, 0));
	CHECK_OK(buf_adds(&zero, ""));
	CHECK_ERR(buf_addc(&zero, 'x'), -EFBIG);
	CHECK_OK(buf_addc(&big, 'x'));
	CHECK_ERR(buf_reserve(&big, SIZE_MAX - 1), -EFBIG);
	buf_clear(&big);
	for (int i = 0; i < 100000; i++)
		(void)buf_addc(&big, (char)('a' + i % 26));
	CHECK_OK(buf_check(&big));

	_cleanup_free_ char *taken = buf_take(&big, &len);

	CHECK_EQ_INT(len, 100000);
	CHECK_EQ_INT(strlen(taken), 100000);
	CHECK_EQ_STR(buf_str(&big), "");

	_cleanup_free_ char *empty = buf_take(&big, &len);

	CHECK_EQ_STR(empty, "");
	CHECK_EQ_INT(len, 0);
}

static void check_json_of(const char *in, size_t len, const char *want)
{
	_cleanup_buf_ struct buf b = BUF_INIT(1000);

	CHECK_OK(buf_add_json(&b, in, len));
	CHECK_EQ_STR(buf_str(&b), want);
}

TEST(buf_writes_json_strings)
{
	check_json_of("", 0, "\"\"");
	check_json_of("a\"\\/\b\f\n\r\t\x01\x1f\x7f", 12,
		      "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\"");
	check_json_of("a\0b", 3, "\"a\\u0000b\"");
	check_json_of("\xc3\xa4\xf0\x9f\x98\x80", 6, "\"\xc3\xa4\xf0\x9f\x98\x80\"");
	/* a lone tail, an overlong slash, half a surrogate, too large, cut off */
	check_json_of("\x80", 1, "\"\xef\xbf\xbd\"");
	check_json_of("\xc0\xaf", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\"");
	check_json_of("\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
	check_json_of("\xf4\x90\x80\x80", 4,
		      "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
	check_json_of("x\xe2\x82", 3, "\"x\xef\xbf\xbd\xef\xbf\xbd\"");
}

TEST(buf_writes_text_for_people)
{
	_cleanup_buf_ struct buf b = BUF_INIT(1000);

	CHECK_OK(buf_add_text(&b, "a\n\x1b\x7f\\\xc2\x9b\xc3\xa4\xff", 10));
	CHECK_EQ_STR(buf_str(&b), "a\\x0a\\x1b\\x7f\\\\\\xc2\\x9b\xc3\xa4\\xff");
}

/* ---- hmap ---- */

static int freed_values;

static void count_free(void *value)
{
	(void)value;
	freed_values++;
}

TEST(hmap_basics)
{
	static int a, b;
	struct hmap *m = hmap_new(count_free);
	char long_key[200] = { 0 };

	REQUIRE(m);
	freed_values = 0;
	CHECK(!hmap_gets(m, "x"));
	CHECK(!hmap_takes(m, "x"));
	CHECK_OK(hmap_puts(m, "x", &a));
	CHECK_OK(hmap_puts(m, "x", &a)); /* the same value is not freed under us */
	CHECK_EQ_INT(freed_values, 0);
	CHECK_OK(hmap_puts(m, "x", &b));
	CHECK_EQ_INT(freed_values, 1);
	CHECK(hmap_gets(m, "x") == &b);
	CHECK_ERR(hmap_puts(m, "y", NULL), -EINVAL);
	CHECK_OK(hmap_put(m, "", 0, &a));
	CHECK_OK(hmap_put(m, "\0", 1, &a));
	CHECK_EQ_INT(hmap_count(m), 3);
	for (size_t len = 1; len <= sizeof(long_key); len++)
		CHECK_OK(hmap_put(m, long_key, len, &a));
	CHECK_EQ_INT(hmap_count(m), 202);
	CHECK(hmap_takes(m, "x") == &b);
	CHECK_EQ_INT(freed_values, 1); /* taken, and the put of len 1 had the same value */
	CHECK(!hmap_free(m));
	CHECK_EQ_INT(freed_values, 1 + 201);
	CHECK(!hmap_free(NULL));
}

TEST(hmap_hash_uses_every_byte)
{
	unsigned char key[70];
	uint64_t h;

	memset(key, 'k', sizeof(key));
	for (size_t len = 1; len <= sizeof(key); len++) {
		h = hmap_hash(key, len);
		CHECK(h != hmap_hash(key, len - 1));
		for (size_t i = 0; i < len; i++) {
			key[i] ^= 1;
			CHECK(hmap_hash(key, len) != h);
			key[i] ^= 1;
		}
		CHECK(h == hmap_hash(key, len));
	}
}

TEST(hmap_hash_spreads)
{
	unsigned buckets[256] = { 0 };
	char key[32];

	for (unsigned i = 0; i < 65536; i++) {
		int n = snprintf(key, sizeof(key), "library/app-%u", i);

		buckets[hmap_hash(key, (size_t)n) & 255]++;
	}
	for (size_t i = 0; i < 256; i++) /* 256 expected, sigma 16 */
		CHECK(buckets[i] > 256 - 8 * 16 && buckets[i] < 256 + 8 * 16);
}

#define MODEL_KEYS 4096

static size_t model_key(unsigned k, char out[static 32])
{
	return (size_t)snprintf(out, 32, "%s%u", k & 1 ? "repository-name/" : "", k);
}

/* Against an array: put, take and get of random keys, in phases that grow and shrink the table. */
TEST(hmap_random_model)
{
	static uintptr_t model[MODEL_KEYS];
	struct hmap *m = hmap_new(NULL);
	uint64_t rng = 88172645463325252u;
	size_t count = 0;

	REQUIRE(m);
	memset(model, 0, sizeof(model));
	for (unsigned i = 1; i <= 300000; i++) {
		unsigned k = (unsigned)(xorshift(&rng) % MODEL_KEYS);
		bool growing = i / 30000 % 2 == 0;
		char key[32];
		size_t len = model_key(k, key);

		if (xorshift(&rng) % 8 < (growing ? 6 : 1)) {
			CHECK_OK(hmap_put(m, key, len, (void *)(uintptr_t)i));
			count += model[k] == 0;
			model[k] = i;
		} else {
			CHECK((uintptr_t)hmap_take(m, key, len) == model[k]);
			count -= model[k] != 0;
			model[k] = 0;
		}
		if (!CHECK(hmap_count(m) == count))
			break;
		k = (unsigned)(xorshift(&rng) % MODEL_KEYS);
		len = model_key(k, key);
		CHECK((uintptr_t)hmap_get(m, key, len) == model[k]);
	}

	size_t it = 0, seen = 0, len;
	const void *key;
	void *v;

	while ((v = hmap_next(m, &it, &key, &len))) {
		CHECK(hmap_get(m, key, len) == v);
		seen++;
	}
	CHECK_EQ_INT(seen, count);
	(void)hmap_free(m);
}

/* ---- digest ---- */

#define SHA256_ABC "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define SHA256_EMPTY "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define SHA512_ABC                                                                  \
	"sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a" \
	"2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"

TEST(digest_vectors)
{
	char text[DIGEST_TEXT_MAX];
	struct digest d;

	digest_of(DIGEST_SHA256, "abc", 3, &d);
	CHECK_EQ_STR(digest_text(&d, text), SHA256_ABC);
	CHECK_EQ_STR(digest_hex(&d, text), &SHA256_ABC[7]);
	CHECK_EQ_STR(digest_alg_name(&d), "sha256");
	digest_of(DIGEST_SHA256, NULL, 0, &d);
	CHECK_EQ_STR(digest_text(&d, text), SHA256_EMPTY);
	digest_of(DIGEST_SHA512, "abc", 3, &d);
	CHECK_EQ_STR(digest_text(&d, text), SHA512_ABC);
	digest_of(DIGEST_UNSET, "abc", 3, &d);
	CHECK_EQ_INT(d.alg, DIGEST_UNSET);
	CHECK(!digest_eq(&d, &d));
}

TEST(digest_incremental)
{
	_cleanup_(digest_ctx_freep) struct digest_ctx *c = digest_ctx_new(DIGEST_SHA256);
	static char data[100000];
	struct digest one, inc;

	REQUIRE(c);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 7);
	digest_of(DIGEST_SHA256, data, sizeof(data), &one);
	for (size_t step = 1; step < sizeof(data); step = step * 3 + 1) {
		digest_ctx_reset(c);
		for (size_t i = 0; i < sizeof(data); i += step)
			digest_ctx_add(c, data + i, MIN_OF(step, sizeof(data) - i));
		digest_ctx_end(c, &inc);
		CHECK(digest_eq(&one, &inc));
	}
	digest_ctx_end(c, &inc); /* without a reset: nothing was hashed, nothing matches */
	CHECK_EQ_INT(inc.alg, DIGEST_UNSET);
}

/* Wherever a hash is stopped and gone on with, also in the middle of a block of 64 bytes. */
TEST(digest_goes_on_from_a_mark)
{
	static const size_t at[] = { 0, 1, 63, 64, 65, 127, 128, 200, 256 };
	_cleanup_(digest_ctx_freep) struct digest_ctx *a = digest_ctx_new(DIGEST_SHA256);
	_cleanup_(digest_ctx_freep) struct digest_ctx *b = digest_ctx_new(DIGEST_SHA256);
	struct digest_mark half, end, again;
	struct digest one, d;
	uint8_t data[256];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7);
	digest_of(DIGEST_SHA256, data, sizeof(data), &one);
	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		digest_ctx_reset(a);
		digest_ctx_add(a, data, at[i]);
		digest_ctx_mark(a, &half);
		digest_ctx_add(a, data + at[i], sizeof(data) - at[i]);
		digest_ctx_mark(a, &end);

		digest_ctx_resume(b, &half, at[i]);
		digest_ctx_add(b, data + at[i], sizeof(data) - at[i]);
		digest_ctx_mark(b, &again);
		CHECK(memcmp(&end, &again, sizeof(end)) == 0);
		digest_ctx_end(b, &d);
		CHECK(digest_eq(&d, &one));

		if (at[i] == sizeof(data))
			continue;
		data[at[i]] ^= 1;	/* other bytes, another mark */
		digest_ctx_resume(b, &half, at[i]);
		digest_ctx_add(b, data + at[i], sizeof(data) - at[i]);
		digest_ctx_mark(b, &again);
		data[at[i]] ^= 1;
		CHECK(memcmp(&end, &again, sizeof(end)) != 0);
	}
}

/* The length counts too: 2^32 bits and more. */
TEST(digest_goes_on_after_half_a_gibibyte)
{
	_cleanup_(digest_ctx_freep) struct digest_ctx *a = digest_ctx_new(DIGEST_SHA256);
	_cleanup_(digest_ctx_freep) struct digest_ctx *b = digest_ctx_new(DIGEST_SHA256);
	static uint8_t zeros[1u << 20];
	struct digest_mark m;
	struct digest x, y;

	for (int i = 0; i < 513; i++)
		digest_ctx_add(a, zeros, sizeof(zeros));
	digest_ctx_mark(a, &m);
	digest_ctx_resume(b, &m, 513ULL << 20);
	digest_ctx_end(a, &x);
	digest_ctx_end(b, &y);
	CHECK(digest_eq(&x, &y));
}

static errint_t parse_digest(const char *s)
{
	struct digest d;

	return digest_parse(s, strlen(s), &d);
}

TEST(digest_grammar)
{
	char text[DIGEST_TEXT_MAX];
	struct digest d, e;

	CHECK_OK(digest_parse(SHA256_ABC "trailing", 71, &d)); /* not NUL-bound */
	CHECK_EQ_STR(digest_text(&d, text), SHA256_ABC);
	digest_of(DIGEST_SHA256, "abc", 3, &e);
	CHECK(digest_eq(&d, &e) && memcmp(&d, &e, sizeof(d)) == 0);
	CHECK_OK(digest_parse(SHA512_ABC, strlen(SHA512_ABC), &d));
	CHECK_EQ_STR(digest_text(&d, text), SHA512_ABC);

	CHECK_ERR(digest_parse(SHA256_ABC, 70, &d), -EINVAL);
	CHECK_ERR(digest_parse(NULL, 0, &d), -EINVAL);
	CHECK_ERR(parse_digest(SHA256_ABC "0"), -EINVAL);
	CHECK_ERR(parse_digest("sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F2"
			       "0015AD"), -EINVAL);
	CHECK_ERR(parse_digest("sha256:"), -EINVAL);
	CHECK_ERR(parse_digest("sha256"), -EINVAL);
	CHECK_ERR(parse_digest(":abc"), -EINVAL);
	CHECK_ERR(parse_digest("SHA256:abc"), -EINVAL);
	CHECK_ERR(parse_digest("a..b:abc"), -EINVAL);
	CHECK_ERR(parse_digest("a.:abc"), -EINVAL);
	CHECK_ERR(parse_digest("sha256:../../etc/passwd"), -EINVAL);
	CHECK_ERR(digest_parse("a\0b:abc", 7, &d), -EINVAL);
	CHECK_ERR(parse_digest("md5:d41d8cd98f00b204e9800998ecf8427e"), -EOPNOTSUPP);
	CHECK_ERR(parse_digest("multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8"),
		  -EOPNOTSUPP);
	CHECK_ERR(parse_digest("sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564"),
		  -EOPNOTSUPP);
}

TEST(base64_vectors)
{
	static const char *const plain[] = { "", "f", "fo", "foo", "foob", "fooba", "foobar" };
	static const char *const coded[] = { "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=",
					     "Zm9vYmFy" };
	char out[32];

	for (size_t i = 0; i < ARRAY_SIZE(plain); i++) {
		size_t full = strlen(coded[i]), bare = strcspn(coded[i], "=");

		CHECK_EQ_INT(base64_encode(plain[i], strlen(plain[i]), out), full);
		CHECK_EQ_STR(out, coded[i]);
		CHECK_EQ_INT(base64_decode(coded[i], full, out), strlen(plain[i]));
		CHECK(memcmp(out, plain[i], strlen(plain[i])) == 0);
		CHECK_EQ_INT(base64_decode(coded[i], bare, out), strlen(plain[i]));
	}
	CHECK_EQ_INT(base64_decode("+/+/", 4, out), 3);
	CHECK(memcmp(out, "\xfb\xff\xbf", 3) == 0);
}

TEST(base64_refuses_garbage)
{
	static const char *const bad[] = { "A", "A=", "A==", "A===", "=", "==", "====", "AA=",
					   "AAA==", "AAAA=", "AAAA====", "AA==AA==", "AA A",
					   "AAA\n", "-_-_", "\xff\xff\xff\xff", "AAAAA" };
	char out[32];

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (!CHECK_EQ_INT(base64_decode(bad[i], strlen(bad[i]), out), -EINVAL))
			printf("# input %s\n", bad[i]);
}

/* ---- json ---- */

static errint_t parse(const char *s, struct json **ret, struct err *e)
{
	return json_parse(s, strlen(s), ret, e);
}

TEST(json_reads)
{
	_cleanup_(json_freep) struct json *doc = NULL;
	size_t len;

	CHECK_OK(parse("{\"s\":\"str\",\"i\":42,\"t\":true,\"f\":false,\"n\":null,"
		       "\"a\":[1,null,\"x\"],\"z\":\"a\\u0000b\",\"r\":1.5,\"o\":{\"k\":\"v\"}}",
		       &doc, NULL));
	CHECK_EQ_STR(json_str(doc, "s"), "str");
	CHECK_EQ_STR(json_str(doc, "i"), NULL);
	CHECK_EQ_STR(json_str(doc, "absent"), NULL);
	CHECK_EQ_INT(json_int(doc, "i", -1), 42);
	CHECK_EQ_INT(json_int(doc, "s", -1), -1);
	CHECK_EQ_INT(json_int(doc, "r", -1), -1);
	CHECK(json_bool(doc, "t", false) && !json_bool(doc, "f", true));
	CHECK(json_bool(doc, "n", true));
	CHECK(!json_get(doc, "n"));
	CHECK_EQ_INT(json_len(json_get(doc, "a")), 3);
	CHECK_EQ_STR(json_text(json_at(json_get(doc, "a"), 2), &len), "x");
	CHECK_EQ_INT(len, 1);
	CHECK(!json_at(json_get(doc, "a"), 1) && !json_at(json_get(doc, "a"), 3));
	CHECK_EQ_STR(json_str(json_get(doc, "o"), "k"), "v");
	CHECK_EQ_STR(json_str(doc, "z"), NULL); /* has a NUL and is not cut there */
	CHECK(json_strn(doc, "z", &len) && len == 3);
}

TEST(json_getters_take_anything)
{
	void *it = NULL;

	CHECK(!json_get(NULL, "x") && !json_str(NULL, "x") && !json_at(NULL, 0));
	CHECK(!json_text(NULL, NULL) && !json_next(NULL, &it, NULL));
	CHECK(!json_is_object(NULL) && !json_is_array(NULL));
	CHECK_EQ_INT(json_len(NULL), 0);
	CHECK_EQ_INT(json_int(NULL, "x", 7), 7);
	CHECK(!json_free(NULL));
}

TEST(json_iterates_in_order)
{
	_cleanup_(json_freep) struct json *doc = NULL;
	_cleanup_buf_ struct buf b = BUF_INIT(100);
	const struct json *v;
	const char *key;
	void *it = NULL;

	CHECK_OK(parse("{\"z\":1,\"nothing\":null,\"a\":\"s\",\"m\":[]}", &doc, NULL));
	while ((v = json_next(doc, &it, &key)))
		CHECK_OK(buf_addf(&b, "%s%s ", key, json_text(v, NULL) ? "!" : ""));
	CHECK_EQ_STR(buf_str(&b), "z nothing a! m ");
}

TEST(json_refuses)
{
	static const char *const bad[] = {
		"", "{", "[1,]", "{\"a\":1,\"a\":2}", "{} x", "\"x\"", "1", "{\"a\":\"\xff\"}",
		"{\"\\u0000\":1}", "[1e999]", "[99999999999999999999]", "{\"a\":\"\\ud800\"}",
		"\xef\xbb\xbf{}", "[\"", "[\"\\",
	};
	struct json *doc;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err e = { 0 };

		if (!CHECK_ERR(parse(bad[i], &doc, &e), -EINVAL))
			printf("# input %s\n", bad[i]);
		CHECK(!doc);
		CHECK_EQ_INT(e.cls, ERR_INPUT);
		CHECK(strstr(e.msg, "line 1, column "));
	}
	CHECK_ERR(json_parse(NULL, 0, &doc, NULL), -EINVAL);
	CHECK_ERR(json_parse("{}\0", 3, &doc, NULL), -EINVAL);
}

static errint_t parse_nested(size_t depth, struct err *e)
{
	_cleanup_(json_freep) struct json *doc = NULL;
	_cleanup_buf_ struct buf b = BUF_INIT(1 << 22);

	(void)buf_adds(&b, "[\"[[\\\"[[\",\n");
	for (size_t i = 1; i < depth; i++)
		(void)buf_adds(&b, i % 2 ? "{\"a\":" : "[");
	(void)buf_adds(&b, "1");
	for (size_t i = depth - 1; i > 0; i--)
		(void)buf_adds(&b, i % 2 ? "}" : "]");
	(void)buf_adds(&b, "]");
	CHECK_OK(buf_check(&b));
	return json_parse(b.data, b.len, &doc, e);
}

TEST(json_depth)
{
	struct err e = { 0 };

	CHECK_OK(parse_nested(JSON_DEPTH_MAX, &e));
	CHECK_ERR(parse_nested(JSON_DEPTH_MAX + 1, &e), -EINVAL);
	CHECK_EQ_STR(e.msg, "invalid JSON at line 2, column 192: nested more than 64 deep");
	CHECK_ERR(parse_nested(500000, &e), -EINVAL);
}

static errint_t parse_many(const char *piece, size_t n, size_t max, struct err *e)
{
	_cleanup_(json_freep) struct json *doc = NULL;
	_cleanup_buf_ struct buf b = BUF_INIT(64u << 20);

	(void)buf_addc(&b, '[');
	for (size_t i = 0; i < n; i++)
		(void)buf_adds(&b, piece);
	(void)buf_adds(&b, "\"[,{,[,\\\",\"]");
	CHECK_OK(buf_check(&b));
	return max ? json_parse_max(b.data, b.len, max, &doc, e) :
		     json_parse(b.data, b.len, &doc, e);
}

TEST(json_values_are_counted_before_memory_is_spent)
{
	struct err e = { 0 };

	CHECK_OK(parse_many("1,", JSON_VALUES_MAX - 2, 0, &e));
	CHECK_ERR(parse_many("1,", JSON_VALUES_MAX - 1, 0, &e), -EFBIG);
	CHECK_EQ_INT(e.cls, ERR_LIMIT);
	CHECK_EQ_STR(e.msg, "JSON with more than 200000 values");
	CHECK_ERR(parse_many("{},", JSON_VALUES_MAX / 2, 0, &e), -EFBIG);
	CHECK_ERR(parse_many("[],", 10, 20, &e), -EFBIG);
	CHECK_OK(parse_many("[],", 9, 20, &e));
	CHECK_OK(parse_many("\"a\",", JSON_VALUES_MAX, JSON_VALUES_MAX + 2, &e));
}

/* ---- clock ---- */

static void check_rfc3339(const char *s, int64_t want, uint32_t want_ns)
{
	int64_t got = -1;
	uint32_t ns = 1;

	if (!CHECK(clock_parse_rfc3339(s, &got, &ns)))
		printf("# input %s\n", s);
	CHECK_EQ_INT(got, want);
	CHECK_EQ_INT(ns, want_ns);
}

TEST(clock_rfc3339)
{
	check_rfc3339("1970-01-01T00:00:00Z", 0, 0);
	check_rfc3339("2026-01-02T03:04:05.123Z", 1767323045, 123000000);
	check_rfc3339("2026-01-02t03:04:05.123456789123z", 1767323045, 123456789);
	check_rfc3339("2026-01-02T05:04:05+02:00", 1767323045, 0);
	check_rfc3339("2026-01-01T19:34:05.5-07:30", 1767323045, 500000000);
	check_rfc3339("2024-02-29T23:59:60Z", 1709251200, 0);
	check_rfc3339("0001-01-01T00:00:00Z", -62135596800, 0);
	check_rfc3339("0000-01-01T00:00:00Z", -62167219200, 0);
	check_rfc3339("9999-12-31T23:59:59Z", 253402300799, 0);
}

TEST(clock_rfc3339_refuses)
{
	static const char *const bad[] = {
		"", "2026", "2026-01-02", "2026-01-02T03:04:05", "2026-01-02 03:04:05Z",
		"2026-13-02T03:04:05Z", "2026-00-02T03:04:05Z", "2026-02-29T03:04:05Z",
		"2026-01-32T03:04:05Z", "2026-01-02T24:00:00Z", "2026-01-02T03:60:05Z",
		"2026-01-02T03:04:61Z", "2026-01-02T03:04:05.Z", "2026-01-02T03:04:05Zx",
		"2026-01-02T03:04:05+0200", "2026-01-02T03:04:05+24:00", "2026-1-2T03:04:05Z",
		"+026-01-02T03:04:05Z", "1900-02-29T00:00:00Z",
	};
	int64_t s;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (!CHECK(!clock_parse_rfc3339(bad[i], &s, NULL)))
			printf("# input %s\n", bad[i]);
	CHECK(!clock_parse_rfc3339(NULL, &s, NULL));
}

TEST(clock_dates_round_trip)
{
	uint64_t rng = 42;
	char out[32];

	for (int i = 0; i < 20000; i++) {
		int64_t s = (int64_t)(xorshift(&rng) % 315569520000u) - 62167219200, back = 0;
		time_t t = s;
		struct tm tm;
		char want[32];

		CHECK(clock_parse_rfc3339(clock_format_rfc3339(s, out, sizeof(out)), &back, NULL));
		CHECK_EQ_INT(back, s);
		REQUIRE(gmtime_r(&t, &tm));
		(void)snprintf(want, sizeof(want), "%04d-%02u-%02uT%02u:%02u:%02uZ",
			       tm.tm_year + 1900, (unsigned)tm.tm_mon % 12 + 1,
			       (unsigned)tm.tm_mday % 32, (unsigned)tm.tm_hour % 24,
			       (unsigned)tm.tm_min % 60, (unsigned)tm.tm_sec % 61);
		if (!CHECK_EQ_STR(out, want))
			break;
	}
	CHECK_EQ_STR(clock_format_rfc3339(INT64_MAX, out, sizeof(out)), "9999-12-31T23:59:59Z");
	CHECK_EQ_STR(clock_format_rfc3339(INT64_MIN, out, sizeof(out)), "0000-01-01T00:00:00Z");
	CHECK_EQ_STR(clock_format_rfc3339(-1, out, sizeof(out)), "1969-12-31T23:59:59Z");
}

TEST(clock_http_dates)
{
	static const char *const bad[] = {
		"", "Sun, 06 Nov 1994 08:49:37", "Sun, 6 Nov 1994 08:49:37 GMT",
		"Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994",
		"Sun, 31 Feb 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 UTC", "120",
		"Xyz, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 GMT ",
	};
	int64_t s = 0;

	CHECK(clock_parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT", &s));
	CHECK_EQ_INT(s, 784111777);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (!CHECK(!clock_parse_http_date(bad[i], &s)))
			printf("# input %s\n", bad[i]);
	CHECK(!clock_parse_http_date(NULL, &s));
}

TEST(clock_fake)
{
	uint64_t before = clock_mono_ns();

	clock_set_fake(5, 7);
	CHECK_EQ_INT(clock_mono_ns(), 5);
	CHECK_EQ_INT(clock_real_s(), 7);
	clock_set_fake(0, 0);
	CHECK(clock_mono_ns() >= before && before > 5);
	CHECK(clock_real_s() > 1700000000);
}
