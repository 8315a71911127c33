/*
 * blob.c - blobs, manifests and notes on top of the store
 *
 * A blob is an object of kind CA_BLOB whose data are its bytes: struct ca_blob is that object under
 * another name.  A fill streams the source into a writer and a digest at once; only when size and
 * digest are right is the writer published.  When the disk refuses, a blob of at most CA_MEMORY_MAX
 * is filled into memory instead: at once when there was no room to begin with, by asking the source
 * a second time when the disk failed on the way.
 *
 * Manifest object: bytes, media type, length of the media type (4), magic (4).  It is checked
 * against its digest whenever it is read, so that no mistake of ours can pass for a manifest.
 * Note object: seconds of writing (8), length of the name (4), name, value; the key is the name's
 * SHA-256, and the name in the object tells which note it is.
 *
 * Threads: any; a fill belongs to one thread.
 */
#include "cache/store_i.h"

#include <stdio.h>
#include <string.h>

#include "util/clock.h"
#include "util/stats.h"

#define MANIFEST_MAGIC UINT32_C(0x314d4652)	/* "RFM1" */
#define MANIFEST_TAIL 8u
#define MANIFEST_MAX (16u << 20)
#define MEDIA_TYPE_MAX 4096u
#define NOTE_HEAD 12u
#define NOTE_MAX (4u << 20)

/* ---- blobs: reading ------------------------------------------------------------------------ */

static struct ca_blob *as_blob(struct ca_object *o)
{
	return (struct ca_blob *)o;
}

static struct ca_object *as_object(const struct ca_blob *b)
{
	return (struct ca_object *)b;
}

errint_t ca_blob_get(struct ca_store *s, const struct digest *d, uint64_t size,
		     struct ca_blob **ret, struct err *e)
{
	_cleanup_(ca_object_unrefp) struct ca_object *o = NULL;
	char key[CA_KEY_MAX];
	errint_t r = ca_object_open(s, CA_BLOB, ca_digest_key(d, key), &o, e);

	if (r < 0)
		return r;
	if (ca_object_len(o) != size)
		return err_set(e, ENOENT, ERR_LOCAL, "the cache has %s with %llu bytes, not %llu",
			       key, (unsigned long long)ca_object_len(o), (unsigned long long)size);
	*ret = as_blob(steal_ptr(&o));
	return 0;
}

struct ca_blob *ca_blob_ref(struct ca_blob *b)
{
	return as_blob(ca_object_ref(as_object(b)));
}

struct ca_blob *ca_blob_unref(struct ca_blob *b)
{
	return as_blob(ca_object_unref(as_object(b)));
}

uint64_t ca_blob_size(const struct ca_blob *b)
{
	return ca_object_len(as_object(b));
}

errint_t ca_blob_read(struct ca_blob *b, uint64_t off, void *dst, size_t len, size_t *ret_n,
		      struct err *e)
{
	uint64_t size = ca_blob_size(b);
	size_t n = off >= size ? 0 : (size_t)MIN_OF(len, size - off);
	errint_t r = n > 0 ? ca_object_read(as_object(b), off, dst, n, e) : 0;

	if (r == 0)
		*ret_n = n;
	return r;
}

/* ---- blobs: filling ------------------------------------------------------------------------ */

struct fill {
	const struct digest *want;
	const char *name;		/* digest as text */
	uint64_t size, got;
	struct cancel *cancel;
	struct digest_ctx *sum;
	struct ca_writer *writer;	/* one of these two */
	struct ca_mem *mem;
	bool disk_failed;
};

static errint_t integrity(const struct fill *f, const char *what, struct err *e)
{
	stat_inc(STAT_INTEGRITY_FAILURES);
	return err_set(e, EIO, ERR_INTEGRITY, "blob %s %s (its descriptor says %llu bytes)",
		       f->name, what, (unsigned long long)f->size);
}

static errint_t fill_sink(void *ctx, const void *data, size_t len, struct err *e)
{
	struct fill *f = ctx;
	errint_t r = 0;

	if (cancel_fired(f->cancel))
		return err_set(e, ECANCELED, ERR_CANCELLED, "nobody waits for blob %s any more",
			       f->name);
	if (len > f->size - f->got)
		return integrity(f, "is longer than it should be", e);
	digest_ctx_add(f->sum, data, len);
	if (f->mem && len > 0)
		memcpy((char *)ca_mem_data(f->mem) + f->got, data, len);
	if (f->writer)
		r = ca_writer_add(f->writer, data, len, e);
	f->disk_failed = r < 0;
	f->got += len;
	return r;
}

static errint_t fill_check(const struct fill *f, struct err *e)
{
	struct digest have;

	if (f->got < f->size)
		return integrity(f, "is shorter than it should be", e);
	digest_ctx_end(f->sum, &have);
	if (!digest_eq(&have, f->want))
		return integrity(f, "does not match its digest", e);
	return 0;
}

/* One run of the source into the writer or the memory of f. */
static errint_t fill_run(struct fill *f, const struct ca_source *src, struct err *e)
{
	_cleanup_(digest_ctx_freep) struct digest_ctx *sum = digest_ctx_new(f->want->alg);
	errint_t r;

	if (!sum)
		return err_errno(e, ENOMEM, "fetching blob %s", f->name);
	f->sum = sum;
	f->got = 0;
	f->disk_failed = false;
	r = src->read(src->ctx, f->want, f->size, 0, 0, fill_sink, f, f->cancel, e);
	return r < 0 ? r : fill_check(f, e);
}

/* -EAGAIN: the disk did not take it, *e says why; else the outcome. */
static errint_t fill_disk(struct ca_store *s, struct fill *f, const char *key,
			  const struct ca_source *src, struct err *e)
{
	errint_t r = ca_writer_new(s, CA_BLOB, key, f->size, &f->writer, e);

	if (r < 0)
		return -EAGAIN;
	r = fill_run(f, src, e);
	if (r < 0) {
		f->writer = ca_writer_abort(f->writer);
		return f->disk_failed ? -EAGAIN : r;
	}
	return ca_writer_publish(steal_ptr(&f->writer), e) < 0 ? -EAGAIN : 0;
}

static errint_t fill_memory(struct ca_store *s, struct fill *f, const char *key,
			    const struct ca_source *src, struct err *e)
{
	char path[CA_PATH_MAX];
	errint_t r = ca_path(CA_BLOB, key, path, e);

	if (r == 0)
		r = ca_memory_alloc(s->mem, path, (size_t)f->size, &f->mem, e);
	if (r < 0)
		return r;
	r = fill_run(f, src, e);
	if (r < 0)
		f->mem = ca_mem_unref(f->mem);
	return r < 0 ? r : ca_memory_put(steal_ptr(&f->mem), e);
}

errint_t ca_blob_fill(struct ca_store *s, const struct digest *d, uint64_t size,
		      const struct ca_source *src, struct cancel *c, struct err *e)
{
	char key[CA_KEY_MAX], name[DIGEST_TEXT_MAX];
	struct fill f = { .want = d, .name = digest_text(d, name), .size = size, .cancel = c };
	struct err disk = { 0 };
	errint_t r;

	(void)ca_digest_key(d, key);
	r = fill_disk(s, &f, key, src, &disk);
	if (r != -EAGAIN) {
		if (r < 0 && e)
			*e = disk;
		return r;
	}
	if (size > CA_MEMORY_MAX)
		return err_set(e, ENOSPC, ERR_LOCAL,
			       "blob %s (%llu bytes) fits neither the cache (%s) nor memory", name,
			       (unsigned long long)size, disk.msg);
	return fill_memory(s, &f, key, src, e);
}

/* ---- manifests ----------------------------------------------------------------------------- */

static errint_t manifest_split(const struct buf *b, const struct digest *d, size_t *ret_len,
			       size_t *ret_type_len)
{
	const uint8_t *tail;
	struct digest have;
	size_t type_len;

	if (b->len < MANIFEST_TAIL)
		return -EBADMSG;
	tail = (const uint8_t *)b->data + b->len - MANIFEST_TAIL;
	if (le32_get(tail + 4) != MANIFEST_MAGIC)
		return -EBADMSG;
	type_len = le32_get(tail);
	if (type_len > b->len - MANIFEST_TAIL)
		return -EBADMSG;
	*ret_len = b->len - MANIFEST_TAIL - type_len;
	*ret_type_len = type_len;
	digest_of(d->alg, b->data, *ret_len, &have);
	return digest_eq(&have, d) ? 0 : -EBADMSG;
}

errint_t ca_manifest_get(struct ca_store *s, const struct digest *d, struct buf *ret_bytes,
			 char **ret_media_type, struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(MANIFEST_MAX + MEDIA_TYPE_MAX + MANIFEST_TAIL);
	_cleanup_free_ char *type = NULL;
	char key[CA_KEY_MAX];
	size_t len = 0, type_len = 0;
	errint_t r = ca_object_load(s, CA_MANIFEST, ca_digest_key(d, key), &b, e);

	if (r < 0)
		return r;
	if (manifest_split(&b, d, &len, &type_len) < 0) {
		ca_object_drop(s, CA_MANIFEST, key);
		return err_set(e, ENOENT, ERR_LOCAL, "manifest %s was damaged in the cache", key);
	}
	type = strndup(b.data + len, type_len);
	r = type ? buf_add(ret_bytes, b.data, len) : -ENOMEM;
	if (r < 0)
		return err_errno(e, -r, "reading manifest %s from the cache", key);
	if (ret_media_type)
		*ret_media_type = steal_ptr(&type);
	return 0;
}

void ca_manifest_put(struct ca_store *s, const struct digest *d, const void *bytes, size_t len,
		     const char *media_type)
{
	_cleanup_buf_ struct buf b = BUF_INIT(MANIFEST_MAX + MEDIA_TYPE_MAX + MANIFEST_TAIL);
	const char *type = media_type ? media_type : "";
	size_t type_len = strlen(type);
	uint8_t tail[MANIFEST_TAIL];
	struct digest have;
	char key[CA_KEY_MAX];

	digest_of(d->alg, bytes, len, &have);
	if (!digest_eq(&have, d)) {
		stat_inc(STAT_INTEGRITY_FAILURES);
		return;
	}
	if (len > MANIFEST_MAX || type_len > MEDIA_TYPE_MAX)
		return;
	le32_put(tail, (uint32_t)type_len);
	le32_put(tail + 4, MANIFEST_MAGIC);
	(void)buf_add(&b, bytes, len);
	(void)buf_add(&b, type, type_len);
	(void)buf_add(&b, tail, sizeof(tail));
	if (buf_check(&b) == 0)
		(void)!ca_object_put(s, CA_MANIFEST, ca_digest_key(d, key), b.data, b.len, NULL);
}

/* ---- notes --------------------------------------------------------------------------------- */

static const char *note_key(const char *name, char out[static CA_KEY_MAX])
{
	struct digest d;
	char hex[DIGEST_TEXT_MAX];

	digest_of(DIGEST_SHA256, name, strlen(name), &d);
	(void)snprintf(out, CA_KEY_MAX, "note-%s", digest_hex(&d, hex));
	return out;
}

errint_t ca_note_get(struct ca_store *s, const char *name, struct buf *ret, int64_t *ret_written_s,
		     struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(NOTE_MAX);
	const uint8_t *head;
	char key[CA_KEY_MAX];
	size_t name_len = strlen(name);
	errint_t r = ca_object_load(s, CA_META, note_key(name, key), &b, e);

	if (r < 0)
		return r;
	head = (const uint8_t *)b.data;
	if (b.len < NOTE_HEAD + name_len || le32_get(head + 8) != name_len ||
	    memcmp(head + NOTE_HEAD, name, name_len) != 0) {
		ca_object_drop(s, CA_META, key);
		return err_set(e, ENOENT, ERR_LOCAL, "note \"%s\" was damaged in the cache", name);
	}
	r = buf_add(ret, b.data + NOTE_HEAD + name_len, b.len - NOTE_HEAD - name_len);
	if (r < 0)
		return err_errno(e, -r, "reading the note \"%s\" from the cache", name);
	if (ret_written_s)
		*ret_written_s = (int64_t)le64_get(head);
	return 0;
}

void ca_note_put(struct ca_store *s, const char *name, const void *value, size_t len)
{
	_cleanup_buf_ struct buf b = BUF_INIT(NOTE_MAX);
	uint8_t head[NOTE_HEAD];
	char key[CA_KEY_MAX];
	size_t name_len = strlen(name);

	if (name_len > NOTE_MAX)
		return;
	le64_put(head, (uint64_t)clock_real_s());
	le32_put(head + 8, (uint32_t)name_len);
	(void)buf_add(&b, head, sizeof(head));
	(void)buf_add(&b, name, name_len);
	(void)buf_add(&b, value, len);
	if (buf_check(&b) == 0)
		(void)!ca_object_put(s, CA_META, note_key(name, key), b.data, b.len, NULL);
}
