/*
 * trees.c - merged trees, kept by manifest digest
 *
 * A tree that the cache cannot keep is used from memory; merging is repeatable, so nothing is lost.
 */
#include "cache/layer_priv.h"

#include <stdio.h>
#include <string.h>

#include "cache/crc.h"
#include "cache/layer_gate.h"
#include "cache/tree_image.h"

#define MERGED_BYTES_MIN (2 * TREE_BYTES_MIN)	/* ceiling on a small machine */

/* Ceiling of a merged tree, and of all that it is made from. */
static size_t merged_bytes_max(void)
{
	return tree_bytes_set ? tree_bytes_set : MAX_OF(tree_bytes_max(), (size_t)MERGED_BYTES_MIN);
}

/* By which index each layer is read is part of the name: its data are elsewhere. */
static const char *tree_key(const struct digest *manifest, const uint32_t *how, size_t n,
			    char out[static CA_KEY_MAX])
{
	size_t at = strlen(ca_digest_key(manifest, out));
	uint32_t all = 0;

	for (size_t i = 0; how && i < n; i++)
		if (how[i])
			all = crc32_add(all, (uint32_t[]){ (uint32_t)i + 1, how[i] }, 2 * sizeof(uint32_t));
	at += (size_t)snprintf(out + at, CA_KEY_MAX - at, "-%u", TREE_RULES);
	if (all)
		(void)snprintf(out + at, CA_KEY_MAX - at, "-%08x", all);
	return out;
}

errint_t ca_tree_get(struct ca_store *s, const struct digest *manifest, const uint32_t *how, size_t n,
		     struct tree **ret, struct err *e)
{
	_cleanup_(ca_object_unrefp) struct ca_object *o = NULL;
	char key[CA_KEY_MAX];
	errint_t r = ca_object_open(s, CA_TREE, tree_key(manifest, how, n, key), &o, e);

	if (r == 0)
		r = ca_object_verify(o, e);
	if (r == 0) {
		int fd = ca_object_fd(o);

		r = fd < 0 ? err_errno(e, ENOMEM, "reading a tree") :
			     tree_open_fd(fd, (size_t)ca_object_len(o), ret, e);
	}
	if (r != -EBADMSG)
		return r;
	ca_object_drop(s, CA_TREE, key);
	return err_set(e, ENOENT, ERR_LOCAL, "the merged tree %s was damaged in the cache", key);
}

/* A layer that is named again costs nothing more. */
static uint64_t bytes_of_trees(struct ca_layer *const *layers, size_t n)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		size_t first = 0;

		while (layers[first] != layers[i])
			first++;
		sum += first == i ? ca_layer_tree_bytes(layers[i]) : 0;
	}
	return sum;
}

/* Before any of them is read: their lengths are known. */
static errint_t check_bytes(uint64_t bytes, size_t n, struct err *e)
{
	if (bytes <= merged_bytes_max())
		return 0;
	return err_set(e, EFBIG, ERR_LIMIT, "the file trees of its %zu layers need %llu MiB, the limit is %zu MiB", n,
		       (unsigned long long)(bytes >> 20), merged_bytes_max() >> 20);
}

static errint_t merge(struct ca_layer *const *layers, size_t n, struct buf *image,
		      struct cancel *c, struct err *e)
{
	_cleanup_free_ struct tree **trees = calloc(n + 1, sizeof(*trees));
	_cleanup_(layer_gate_done) struct layer_gate gate = { 0 };
	uint64_t bytes = bytes_of_trees(layers, n);
	size_t have = 0;
	errint_t r = check_bytes(bytes, n, e);

	if (!trees)
		return err_errno(e, ENOMEM, "merging layers");
	if (r == 0)
		r = layer_gate_grow(&gate, bytes, c, e);
	for (; r == 0 && have < n; have += r == 0)
		r = ca_layer_tree(layers[have], &trees[have], e);
	if (r == 0)
		r = tree_merge(trees, n, image, c, e);
	while (have > 0)
		(void)tree_unref(trees[--have]);
	return r;
}

errint_t ca_tree_build(struct ca_store *s, const struct digest *manifest,
		       struct ca_layer *const *layers, size_t n, struct tree **ret,
		       struct cancel *c, struct err *e)
{
	_cleanup_buf_ struct buf image = BUF_INIT(merged_bytes_max());
	_cleanup_free_ uint32_t *how = calloc(n + 1, sizeof(*how));
	char key[CA_KEY_MAX];
	size_t len;
	errint_t r = how ? merge(layers, n, &image, c, e) : err_errno(e, ENOMEM, "merging layers");

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		how[i] = layers[i]->toc ? layer_key_id(layers[i]->key) : 0;
	r = ca_object_put(s, CA_TREE, tree_key(manifest, how, n, key), image.data, image.len, NULL);
	if (r == 0 && ca_tree_get(s, manifest, how, n, ret, NULL) == 0)
		return 0;
	len = image.len;
	return tree_open_mem(buf_take(&image, &len), len, ret, e);
}
