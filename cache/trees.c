/*
 * trees.c - merged trees, kept by manifest digest
 *
 * A tree that the cache cannot keep is used from memory; merging is repeatable, so nothing is lost.
 */
#include "cache/store.h"

#define TREE_IMAGE_MAX (1u << 30)

errint_t ca_tree_get(struct ca_store *s, const struct digest *manifest, struct tree **ret,
		     struct err *e)
{
	_cleanup_(ca_object_unrefp) struct ca_object *o = NULL;
	char key[CA_KEY_MAX];
	errint_t r = ca_object_open(s, CA_TREE, ca_digest_key(manifest, key), &o, e);

	if (r == 0)
		r = ca_object_verify(o, e);
	if (r == 0) {
		int fd = ca_object_fd(o);

		r = fd < 0 ? err_errno(e, ENOMEM, "mapping a tree") :
			     tree_open_fd(fd, (size_t)ca_object_len(o), ret, e);
	}
	if (r != -EBADMSG)
		return r;
	ca_object_drop(s, CA_TREE, key);
	return err_set(e, ENOENT, ERR_LOCAL, "the merged tree %s was damaged in the cache", key);
}

static errint_t merge(struct ca_layer *const *layers, size_t n, struct buf *image, struct err *e)
{
	_cleanup_free_ struct tree **trees = calloc(n + 1, sizeof(*trees));

	if (!trees)
		return err_errno(e, ENOMEM, "merging layers");
	for (size_t i = 0; i < n; i++)
		trees[i] = ca_layer_tree(layers[i]);
	return tree_merge(trees, n, image, e);
}

errint_t ca_tree_build(struct ca_store *s, const struct digest *manifest,
		       struct ca_layer *const *layers, size_t n, struct tree **ret, struct err *e)
{
	_cleanup_buf_ struct buf image = BUF_INIT(TREE_IMAGE_MAX);
	char key[CA_KEY_MAX];
	size_t len;
	errint_t r = merge(layers, n, &image, e);

	if (r < 0)
		return r;
	r = ca_object_put(s, CA_TREE, ca_digest_key(manifest, key), image.data, image.len, NULL);
	if (r == 0 && ca_tree_get(s, manifest, ret, NULL) == 0)
		return 0;
	len = image.len;
	return tree_open_mem(buf_take(&image, &len), len, ret, e);
}
