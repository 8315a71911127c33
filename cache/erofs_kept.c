/*
 * erofs_kept.c - EROFS images of merged trees, kept by the digest of the tree
 *
 * Not by that of the manifest: an image has another tree when layers are read by their table of
 * contents, and runs name nodes of one tree.
 *
 * An object is metadata, runs and tail (erofs.h).  The metadata stay where the cache has them, since
 * the kernel that mounts the image keeps what it has read; the runs are in memory, 8 bytes a file.
 */
#include "cache/erofs.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/store.h"

struct ca_erofs {
	atomic_uint refs;
	struct ca_object *meta;
	struct erofs_run *runs;
	struct erofs_tail tail;
};

static errint_t erofs_key(const struct tree *t, struct digest *ret, char out[static CA_KEY_MAX], struct err *e)
{
	size_t len, n;
	const void *image = tree_image(t, &len);

	digest_of(DIGEST_SHA256, image, len, ret);
	if (!ret->len)
		return err_set(e, EIO, ERR_LOCAL, "hashing a tree has failed");
	n = strlen(ca_digest_key(ret, out));
	(void)snprintf(out + n, CA_KEY_MAX - n, "-erofs-%u", EROFS_RULES);
	return 0;
}

/* ---- opening ---- */

static errint_t damaged(struct err *e)
{
	return err_set(e, EBADMSG, ERR_INTEGRITY, "not an EROFS image that this program has written");
}

static bool tail_ok(const struct erofs_tail *t, uint64_t len)
{
	return t->magic == EROFS_TAIL_MAGIC && t->meta_blocks > 0 && t->meta_blocks <= t->blocks &&
	       t->blocks <= EROFS_BLOCKS_MAX && t->n_runs <= TREE_NODES_MAX &&
	       len == (uint64_t)t->meta_blocks * EROFS_BLOCK + t->n_runs * sizeof(struct erofs_run) + sizeof(*t);
}

/* Files follow the metadata and each other, and reach to the end. */
static bool runs_ok(const struct ca_erofs *x)
{
	uint64_t from = x->tail.meta_blocks;

	if (x->tail.n_runs == 0)
		return x->tail.blocks == from;
	if (x->runs[0].block != from)
		return false;
	for (uint32_t i = 1; i < x->tail.n_runs; i++)
		if (x->runs[i].block <= x->runs[i - 1].block)
			return false;
	return x->runs[x->tail.n_runs - 1].block < x->tail.blocks;
}

static errint_t read_in(struct ca_erofs *x, struct err *e)
{
	uint64_t len = ca_object_len(x->meta), at;
	errint_t r = len < sizeof(x->tail) ? damaged(e) :
		     ca_object_read(x->meta, len - sizeof(x->tail), &x->tail, sizeof(x->tail), e);

	if (r == 0 && !tail_ok(&x->tail, len))
		r = damaged(e);
	if (r < 0)
		return r;
	at = (uint64_t)x->tail.meta_blocks * EROFS_BLOCK;
	x->runs = calloc((size_t)x->tail.n_runs + 1, sizeof(*x->runs));
	if (!x->runs)
		return err_errno(e, ENOMEM, "opening an EROFS image");
	r = ca_object_read(x->meta, at, x->runs, x->tail.n_runs * sizeof(*x->runs), e);
	return r == 0 && !runs_ok(x) ? damaged(e) : r;
}

struct ca_erofs *ca_erofs_ref(struct ca_erofs *x)
{
	atomic_fetch_add(&x->refs, 1);
	return x;
}

struct ca_erofs *ca_erofs_unref(struct ca_erofs *x)
{
	if (x && atomic_fetch_sub(&x->refs, 1) == 1) {
		(void)ca_object_unref(x->meta);
		free(x->runs);
		free(x);
	}
	return NULL;
}

errint_t ca_erofs_get(struct ca_store *s, const struct tree *t, struct ca_erofs **ret, struct err *e)
{
	_cleanup_(ca_erofs_unrefp) struct ca_erofs *x = calloc(1, sizeof(*x));
	char key[CA_KEY_MAX];
	struct digest id;
	errint_t r;

	if (!x)
		return err_errno(e, ENOMEM, "opening an EROFS image");
	x->refs = 1;
	r = erofs_key(t, &id, key, e);
	if (r == 0)
		r = ca_object_open(s, CA_TREE, key, &x->meta, e);
	if (r == 0)
		r = read_in(x, e);
	if (r == -EBADMSG) {
		ca_object_drop(s, CA_TREE, key);
		return err_set(e, ENOENT, ERR_LOCAL, "the EROFS image %s was damaged in the cache", key);
	}
	if (r == 0)
		*ret = steal_ptr(&x);
	return r;
}

errint_t ca_erofs_build(struct ca_store *s, const struct tree *t, struct cancel *c, struct err *e)
{
	_cleanup_buf_ struct buf image = BUF_INIT(EROFS_KEPT_MAX);
	char key[CA_KEY_MAX];
	struct digest id;
	errint_t r = erofs_key(t, &id, key, e);

	if (r == 0)
		r = erofs_write(t, &id, &image, c, e);
	if (r < 0)
		return r;
	r = ca_object_put(s, CA_TREE, key, image.data, image.len, e);
	return err_wrap(e, r, "keeping the EROFS image of %u files", tree_count(t));
}

/* ---- reading ---- */

uint64_t ca_erofs_size(const struct ca_erofs *x)
{
	return (uint64_t)x->tail.blocks * EROFS_BLOCK;
}

/* The number of the run that holds a block behind the metadata. */
static uint32_t run_of(const struct ca_erofs *x, uint64_t block)
{
	uint32_t lo = 0, hi = x->tail.n_runs;

	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (x->runs[mid].block <= block)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

void ca_erofs_at(const struct ca_erofs *x, uint64_t off, struct ca_erofs_piece *ret)
{
	uint64_t meta = (uint64_t)x->tail.meta_blocks * EROFS_BLOCK, begin, end;
	uint32_t i;

	if (off < meta) {
		*ret = (struct ca_erofs_piece){ .node = TREE_NONE, .off = off, .len = meta - off };
		return;
	}
	i = run_of(x, off / EROFS_BLOCK);
	begin = (uint64_t)x->runs[i].block * EROFS_BLOCK;
	end = i + 1 < x->tail.n_runs ? (uint64_t)x->runs[i + 1].block * EROFS_BLOCK : ca_erofs_size(x);
	*ret = (struct ca_erofs_piece){ .node = x->runs[i].node, .off = off - begin, .len = end - off };
}

errint_t ca_erofs_read(const struct ca_erofs *x, uint64_t off, void *dst, size_t len, struct err *e)
{
	uint64_t meta = (uint64_t)x->tail.meta_blocks * EROFS_BLOCK;

	if (off > meta || len > meta - off)
		return err_set(e, EINVAL, ERR_BUG, "no metadata there");
	return ca_object_read(x->meta, off, dst, len, e);
}
