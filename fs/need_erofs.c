/*
 * need_erofs.c - the EROFS form of an image's tree (see need.h)
 */
#include "fs/need_priv.h"

#define BUILT_MAX 3	/* times that one operation has built what is gone when it looks */

static errint_t build_erofs(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct ask *a = arg;
	errint_t r = ca_erofs_build(fs->cache, a->tree, c, e);

	/* For a moment; the same image will not do better soon. */
	return r < 0 && r != -ECANCELED ? ask_failed(a->site, a->name, r, e) : r;
}

errint_t need_erofs(struct op *op, struct image *img, struct tree *t, struct ca_erofs **ret)
{
	_cleanup_buf_ struct buf fact = BUF_INIT(1024);
	char text[DIGEST_TEXT_MAX];
	struct ask *a;
	errint_t r = ca_erofs_get(op->fs->cache, t, ret, &op->err);

	if (r != -ENOENT)
		return r;
	err_clear(&op->err);
	buf_addf(&fact, "erofs %s@%s", img->repo, digest_text(&img->digest, text));
	r = recent_failure(op, img->site, buf_str(&fact));
	if (r < 0)
		return r;
	if (ask_times(op, img->site, buf_str(&fact)) >= BUILT_MAX)
		return err_set(&op->err, EIO, ERR_LOCAL, "the cache does not keep the EROFS image that is built for this; "
			       "check the disk that holds %s, or give it more room", ca_store_dir(op->fs->cache));
	a = ask_new(img->site, img->repo, buf_str(&fact), &img->digest);
	if (a)
		a->tree = tree_ref(t);
	return ask_want(op, img->site, buf_str(&fact), build_erofs, a);
}
