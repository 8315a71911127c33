/*
 * test_blob.c - blobs, manifests and notes: verified, kept, in memory if need be
 */
#include "tests/unit/store_unit.h"

/* ---- blobs ------------------------------------------------------------------------------- */

struct source {
	const char *key;
	uint64_t len;		/* what it really sends */
	unsigned calls;
	struct cancel *fire;
	errint_t fail;
};

static errint_t source_read(void *ctx, const struct digest *d, uint64_t size, uint64_t off,
			    uint64_t len, ca_sink_fn sink, void *sink_ctx, struct cancel *c,
			    struct err *e)
{
	struct source *src = ctx;
	_cleanup_free_ uint8_t *data = bytes_of(src->key, src->len);
	errint_t r = 0;

	(void)d, (void)size, (void)c, (void)len;
	src->calls++;
	for (uint64_t at = off; r == 0 && at < src->len; at += 10007) {
		if (src->fire && at > src->len / 2)
			cancel_fire(src->fire);
		r = sink(sink_ctx, data + at, (size_t)MIN_OF(10007u, src->len - at), e);
	}
	return r < 0 ? r : src->fail < 0 ? err_errno(e, -src->fail, "source") : 0;
}

static void digest_for(const char *key, size_t len, struct digest *ret)
{
	_cleanup_free_ void *data = bytes_of(key, len);

	digest_of(DIGEST_SHA256, data, len, ret);
}

TEST(a_blob_is_verified_kept_and_read)
{
	const uint64_t len = 300001;
	_cleanup_free_ uint8_t *want = bytes_of("blob", len);
	struct source in = { .key = "blob", .len = len };
	struct ca_source src = { source_read, &in };
	struct ca_store *s;
	struct ca_blob *b = NULL;
	struct digest d;
	uint8_t out[1000];
	size_t n = 0;

	fresh_dir();
	s = store(0);
	digest_for("blob", len, &d);
	CHECK_ERR(ca_blob_get(s, &d, len, &b, NULL), -ENOENT);
	CHECK_OK(ca_blob_fill(s, &d, len, &src, NULL, NULL));
	CHECK_ERR(ca_blob_get(s, &d, len - 1, &b, NULL), -ENOENT);
	CHECK_OK(ca_blob_get(s, &d, len, &b, NULL));
	CHECK_EQ_INT(ca_blob_size(b), len);
	CHECK_OK(ca_blob_read(b, 200000, out, sizeof(out), &n, NULL));
	CHECK(n == sizeof(out) && memcmp(out, want + 200000, n) == 0);
	CHECK_OK(ca_blob_read(b, len - 10, out, sizeof(out), &n, NULL));
	CHECK_EQ_INT(n, 10);
	CHECK_OK(ca_blob_read(b, len + 10, out, sizeof(out), &n, NULL));
	CHECK_EQ_INT(n, 0);
	CHECK(ca_blob_ref(b) == b);
	(void)ca_blob_unref(b);
	CHECK(ca_blob_unref(b) == NULL);
	(void)ca_store_free(s);
}

TEST(a_blob_that_is_wrong_is_never_kept)
{
	struct source in = { .key = "wrong", .len = 100000 };
	struct ca_source src = { source_read, &in };
	struct cancel c = CANCEL_INIT;
	struct ca_store *s;
	struct ca_blob *b = NULL;
	struct digest d, other;
	struct err e = { 0 };

	fresh_dir();
	s = store(0);
	digest_for("wrong", 100000, &d);
	digest_for("other", 100000, &other);
	CHECK_ERR(ca_blob_fill(s, &d, 99999, &src, NULL, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	CHECK(strstr(e.msg, "longer") != NULL);
	CHECK_ERR(ca_blob_fill(s, &d, 100001, &src, NULL, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	CHECK(strstr(e.msg, "shorter") != NULL);
	CHECK_ERR(ca_blob_fill(s, &other, 100000, &src, NULL, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	CHECK(strstr(e.msg, "does not match") != NULL);
	in.fail = -ETIMEDOUT;
	CHECK_ERR(ca_blob_fill(s, &d, 100000, &src, NULL, &e), -ETIMEDOUT);
	in.fail = 0;
	in.fire = &c;
	CHECK_ERR(ca_blob_fill(s, &d, 100000, &src, &c, &e), -ECANCELED);
	CHECK_EQ_INT(e.cls, ERR_CANCELLED);
	CHECK_ERR(ca_blob_get(s, &d, 100000, &b, NULL), -ENOENT);
	CHECK_ERR(ca_blob_get(s, &other, 100000, &b, NULL), -ENOENT);
	CHECK_EQ_INT(disk_usage(dir), 0);
	(void)ca_store_free(s);
}

TEST(blobs_survive_a_failing_disk_up_to_the_ceiling)
{
	struct source in = { .key = "blob", .len = 1000000 };
	struct ca_source src = { source_read, &in };
	struct ca_store *s;
	struct ca_blob *b = NULL;
	struct digest d;
	struct err e = { 0 };

	fresh_dir();
	s = store(20 * MIB);
	digest_for("blob", 1000000, &d);
	inject(&write_faults, EIO, 5);
	CHECK_OK(ca_blob_fill(s, &d, 1000000, &src, NULL, &e));
	CHECK_EQ_INT(in.calls, 2); /* the disk failed on the way */
	inject(NULL, 0, 0);
	CHECK_OK(ca_blob_get(s, &d, 1000000, &b, NULL));
	(void)ca_blob_unref(b);
	digest_for("blob", 25 * MIB, &d);
	in = (struct source){ .key = "blob", .len = 25 * MIB };
	CHECK_OK(ca_blob_fill(s, &d, 25 * MIB, &src, NULL, &e)); /* not for this disk */
	CHECK_EQ_INT(in.calls, 1);
	CHECK_OK(ca_blob_get(s, &d, 25 * MIB, &b, NULL));
	(void)ca_blob_unref(b);
	CHECK_ERR(ca_blob_fill(s, &d, CA_MEMORY_MAX + 1, &src, NULL, &e), -ENOSPC);
	CHECK_EQ_INT(e.cls, ERR_LOCAL);
	CHECK(strstr(e.msg, "neither") != NULL);
	CHECK_EQ_INT(in.calls, 1);
	(void)ca_store_free(s);
}

TEST(manifests_keep_bytes_and_media_type)
{
	static const char text[] = "{ \"schemaVersion\": 2 }\n";
	static const char type_name[] = "application/vnd.oci.image.manifest.v1+json";
	struct ca_store *s;
	struct digest d, other;

	fresh_dir();
	s = store(0);
	digest_of(DIGEST_SHA512, text, sizeof(text) - 1, &d);
	digest_of(DIGEST_SHA256, "x", 1, &other);
	ca_manifest_put(s, &other, text, sizeof(text) - 1, type_name);
	ca_manifest_put(s, &d, text, sizeof(text) - 1, type_name);
	for (int i = 0; i < 2; i++) {
		_cleanup_buf_ struct buf b = BUF_INIT(1000);
		_cleanup_free_ char *type = NULL;

		CHECK_ERR(ca_manifest_get(s, &other, &b, &type, NULL), -ENOENT);
		CHECK_OK(ca_manifest_get(s, &d, &b, &type, NULL));
		CHECK_EQ_STR(buf_str(&b), text);
		CHECK_EQ_STR(type, type_name);
		(void)ca_store_free(s);
		s = store(0);
	}
	{
		_cleanup_buf_ struct buf small = BUF_INIT(5);

		CHECK_ERR(ca_manifest_get(s, &d, &small, NULL, NULL), -EFBIG);
	}
	(void)ca_store_free(s);
}

TEST(a_manifest_object_that_is_none_is_dropped)
{
	_cleanup_buf_ struct buf b = BUF_INIT(1000);
	char key[CA_KEY_MAX];
	struct ca_store *s;
	struct digest d;

	fresh_dir();
	s = store(0);
	digest_of(DIGEST_SHA256, "x", 1, &d);
	for (size_t len = 0; len < 20; len++) {
		CHECK_OK(ca_object_put(s, CA_MANIFEST, ca_digest_key(&d, key),
				       "x\0\0\0\0RFM1\xff\xff\xff\xffRFM1..", len, NULL));
		CHECK_EQ_INT(ca_manifest_get(s, &d, &b, NULL, NULL), len == 9 ? 0 : -ENOENT);
		CHECK_EQ_INT(ca_object_exists(s, CA_MANIFEST, key), len == 9);
	}
	(void)ca_store_free(s);
}

TEST(notes_are_replaced_and_remember_their_time)
{
	_cleanup_buf_ struct buf b = BUF_INIT(1000);
	struct ca_store *s, *t;
	int64_t at = 0;

	fresh_dir();
	s = store(0);
	t = store(0);
	clock_set_fake(NSEC_PER_SEC, 1700000000);
	CHECK_ERR(ca_note_get(s, "tag h/app:1.0", &b, &at, NULL), -ENOENT);
	ca_note_put(s, "tag h/app:1.0", "one", 3);
	CHECK_OK(ca_note_get(t, "tag h/app:1.0", &b, &at, NULL));
	CHECK_EQ_STR(buf_str(&b), "one");
	CHECK_EQ_INT(at, 1700000000);
	clock_set_fake(2 * NSEC_PER_SEC, 1700000100);
	ca_note_put(s, "tag h/app:1.0", "second", 6);
	buf_clear(&b);
	CHECK_OK(ca_note_get(t, "tag h/app:1.0", &b, &at, NULL)); /* also in the other process */
	CHECK_EQ_STR(buf_str(&b), "second");
	CHECK_EQ_INT(at, 1700000100);
	inject(&rename_faults, EROFS, 0);
	ca_note_put(s, "tag h/app:1.0", "", 0);
	inject(NULL, 0, 0);
	buf_clear(&b);
	CHECK_OK(ca_note_get(s, "tag h/app:1.0", &b, &at, NULL));
	CHECK_EQ_INT(b.len, 0);
	clock_set_fake(20 * NSEC_PER_SEC, 1700000120);
	ca_note_put(s, "tag h/app:1.0", "third", 5); /* the disk is well again */
	CHECK_OK(ca_note_get(s, "tag h/app:1.0", &b, &at, NULL));
	CHECK_EQ_STR(buf_str(&b), "third");
	clock_set_fake(0, 0);
	(void)ca_store_free(s);
	(void)ca_store_free(t);
}
