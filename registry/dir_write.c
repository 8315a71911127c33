/*
 * dir_write.c - blobs, manifests and tags into a layout that others use at the same time
 *
 * Everything is written aside (.registryfs-* in the layout), synced and renamed, so nobody sees half
 * of anything and a crash leaves a file that no reader looks at.  index.json is changed as text: what
 * others wrote stays as it is.  Writers of ours hold flock on the layout's directory meanwhile; for
 * the others, which lock nothing, it is looked at once more just before the rename, and read again
 * when it is not the one that was read.
 */
#include "registry/dir_priv.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "registry/oci_write.h"
#include "util/clock.h"

#define LOCK_WAIT_NS (30 * NSEC_PER_SEC)
#define LOCK_STEP_NS (10 * NSEC_PER_MSEC)
#define INDEX_TRIES 16
#define TMP_NAME_MAX 64
#define INDEX_NAME "index.json"

struct layout {
	struct rg_dir *dir;
	const char *repo;
	int root, fd;		/* of the tree, of the layout */
	struct cancel *cancel;
};

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory while writing a layout");
}

static errint_t failed(const struct layout *l, const char *what, struct err *e)
{
	return err_errno(e, errno, "%s%s%s: %s", l->dir->path, *l->repo ? "/" : "", l->repo, what);
}

static void layout_done(struct layout *l)
{
	if (l->fd >= 0)
		(void)close(l->fd);
	if (l->root >= 0)
		(void)close(l->root);
}

/* A directory of the layout, reached without leaving the tree; leaf NULL: itself. */
static errint_t open_dir(const struct layout *l, const char *leaf, int *ret, struct err *e)
{
	char path[DIR_PATH_MAX];
	errint_t r = dir_path(l->repo, leaf, path, e);

	if (r < 0)
		return r;
	*ret = dir_open_beneath(l->dir, l->root, path, O_RDONLY | O_DIRECTORY);
	return *ret < 0 ? err_errno(e, -*ret, "%s/%s", l->dir->path, path) : 0;
}

static errint_t layout_open(struct layout *l, struct err *e)
{
	errint_t r = dir_open_root(l->dir, &l->root, e);

	if (r == 0)
		r = dir_check_layout(l->dir, l->root, l->repo, e);
	return r < 0 ? r : open_dir(l, NULL, &l->fd, e);
}

static errint_t layout_lock(struct layout *l, struct err *e)
{
	for (uint64_t waited = 0; flock(l->fd, LOCK_EX | LOCK_NB) < 0; waited += LOCK_STEP_NS) {
		errint_t r;

		/* NFS locks no directory; then there is the look at index.json before it is replaced */
		if (errno == EBADF || errno == ENOLCK || errno == EOPNOTSUPP)
			return 0;
		if (errno != EWOULDBLOCK && errno != EINTR)
			return failed(l, "lock", e);
		if (waited > LOCK_WAIT_NS)
			return err_set(e, EBUSY, ERR_LOCAL, "%s/%s is locked by another process",
				       l->dir->path, l->repo);
		r = cancel_sleep_ns(l->cancel, LOCK_STEP_NS, e);
		if (r < 0)
			return r;
	}
	return 0;
}

/* --- files --- */

static errint_t tmp_open(const struct layout *l, char name[static TMP_NAME_MAX], int *ret, struct err *e)
{
	static atomic_uint counter;

	(void)snprintf(name, TMP_NAME_MAX, ".registryfs-%ld-%u-%llx", (long)getpid(),
		       atomic_fetch_add(&counter, 1), (unsigned long long)clock_mono_ns());
	*ret = openat(l->fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
	return *ret < 0 ? failed(l, "cannot be written", e) : 0;
}

static errint_t write_all(int fd, const char *p, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno != EINTR)
			return -errno;
		p += MAX_OF(n, 0);
		len -= (size_t)MAX_OF(n, 0);
	}
	return 0;
}

/* The directory of blobs, made when it is not there. */
static errint_t open_blobs(const struct layout *l, const struct digest *dg, int *ret, struct err *e)
{
	_cleanup_close_ int top = -1;
	char leaf[32];
	errint_t r;

	if (mkdirat(l->fd, "blobs", 0755) < 0 ? errno != EEXIST : fsync(l->fd) < 0)
		return failed(l, "blobs", e);
	r = open_dir(l, "blobs", &top, e);
	if (r < 0)
		return r;
	(void)snprintf(leaf, sizeof(leaf), "blobs/%.8s", digest_alg_name(dg));
	if (mkdirat(top, digest_alg_name(dg), 0755) < 0 ? errno != EEXIST : fsync(top) < 0)
		return failed(l, leaf, e);
	return open_dir(l, leaf, ret, e);
}

static errint_t wrong_bytes(const struct rg_body *b, struct err *e)
{
	char text[DIGEST_TEXT_MAX];

	return err_set(e, EIO, ERR_INTEGRITY, "what was to be stored as %s has another digest",
		       digest_text(&b->digest, text));
}

static errint_t copy_body(const struct layout *l, const struct rg_body *b, int fd, char *piece,
			  struct digest_ctx *h, struct err *e)
{
	struct digest have;
	errint_t r;

	for (uint64_t off = 0; off < b->size;) {
		size_t n = (size_t)MIN_OF(b->size - off, (uint64_t)DIR_CHUNK);

		if (cancel_fired(l->cancel))
			return err_set(e, ECANCELED, ERR_CANCELLED, "cancelled");
		r = b->read(b->ctx, off, piece, n, e);
		if (r < 0)
			return r;
		digest_ctx_add(h, piece, n);
		r = write_all(fd, piece, n);
		if (r < 0)
			return err_errno(e, -r, "%s: writing a blob", l->dir->path);
		off += n;
	}
	digest_ctx_end(h, &have);
	return digest_eq(&have, &b->digest) ? 0 : wrong_bytes(b, e);
}

/* Makes the file `name` what to_fd knows as `as`, for good. */
static errint_t publish(const struct layout *l, int fd, const char *name, int to_fd, const char *as,
			struct err *e)
{
	if (fsync(fd) < 0 || renameat(l->fd, name, to_fd, as) < 0 || fsync(to_fd) < 0)
		return failed(l, as, e);
	return 0;
}

static errint_t store_blob(const struct layout *l, const struct rg_body *b, int blobs, struct err *e)
{
	_cleanup_(digest_ctx_freep) struct digest_ctx *h = digest_ctx_new((enum digest_alg)b->digest.alg);
	_cleanup_free_ char *piece = malloc(DIR_CHUNK);
	char name[TMP_NAME_MAX], hex[DIGEST_TEXT_MAX];
	_cleanup_close_ int fd = -1;
	errint_t r;

	if (!h || !piece)
		return no_memory(e);
	r = tmp_open(l, name, &fd, e);
	if (r < 0)
		return r;
	r = copy_body(l, b, fd, piece, h, e);
	if (r == 0)
		r = publish(l, fd, name, blobs, digest_hex(&b->digest, hex), e);
	if (r < 0)
		(void)unlinkat(l->fd, name, 0);
	return r;
}

/* Another repository's blob under a second name; false: it has to be copied. */
static bool link_blob(const struct layout *l, const struct rg_body *b, const char *from, int blobs)
{
	char path[DIR_PATH_MAX], hex[DIGEST_TEXT_MAX], self[64];
	_cleanup_close_ int fd = -1;
	uint64_t size = 0;

	if (!from || dir_blob_path(from, &b->digest, path, NULL) < 0 ||
	    dir_open_file(l->dir, l->root, path, 0, &fd, &size, NULL) < 0 || size != b->size)
		return false;
	(void)snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	return fsync(fd) == 0 && linkat(AT_FDCWD, self, blobs, digest_hex(&b->digest, hex), AT_SYMLINK_FOLLOW) == 0 &&
	       fsync(blobs) == 0;
}

/* --- blobs --- */

static bool has_blob(const struct layout *l, const struct digest *dg, const uint64_t *size)
{
	char path[DIR_PATH_MAX];
	_cleanup_close_ int fd = -1;
	uint64_t have = 0;

	return dir_blob_path(l->repo, dg, path, NULL) == 0 &&
	       dir_open_file(l->dir, l->root, path, 0, &fd, &have, NULL) == 0 &&
	       (!size || *size == have);
}

errint_t rg_dir_has_blob(struct rg_dir *d, const char *repo, const struct digest *dg, bool *ret,
			 struct err *e)
{
	_cleanup_(layout_done) struct layout l = { .dir = d, .repo = repo, .root = -1, .fd = -1 };
	errint_t r = layout_open(&l, e);

	*ret = r == 0 && has_blob(&l, dg, NULL);
	return r;
}

static errint_t put_blob(const struct layout *l, const struct rg_body *b, const char *from, struct err *e)
{
	_cleanup_close_ int blobs = -1;
	errint_t r;

	if (has_blob(l, &b->digest, &b->size))
		return 0;
	r = open_blobs(l, &b->digest, &blobs, e);
	if (r < 0 || link_blob(l, b, from, blobs))
		return r;
	return store_blob(l, b, blobs, e);
}

errint_t rg_dir_put_blob(struct rg_dir *d, const char *repo, const struct rg_body *b, const char *from,
			 struct cancel *c, struct err *e)
{
	_cleanup_(layout_done) struct layout l = {
		.dir = d, .repo = repo, .root = -1, .fd = -1, .cancel = c };
	errint_t r = layout_open(&l, e);

	return r < 0 ? r : put_blob(&l, b, from, e);
}

/* --- index.json --- */

struct listing {
	const struct dir_index *index;
	const char *tag;
};

static bool keep_entry(void *ctx, size_t i)
{
	const struct listing *k = ctx;
	char have[REF_TAG_MAX + 1];

	return !k->tag || !dir_index_tag(k->index, i, have) || strcmp(have, k->tag) != 0;
}

/* Does the index say all that it has to say already? */
static bool is_listed(const struct listing *k, const struct digest *dg)
{
	struct dir_entry en;
	size_t n = 0;

	if (!k->tag)
		return dir_index_find_digest(k->index, dg, &en);
	for (size_t i = 0; i < k->index->n; i++)
		n += !keep_entry((void *)(uintptr_t)k, i);
	return n == 1 && dir_index_find_tag(k->index, k->tag, &en, NULL) == 0 &&
	       digest_eq(&en.digest, dg);
}

/* The entry for a manifest: with its tag, or as what it is among referrers. */
static void describe(const struct rg_put *p, const struct oci_manifest *m, const struct digest *dg,
		     struct buf *out)
{
	static char key[] = DIR_REF_NAME;
	struct oci_annotation name = { .key = key, .value = (char *)(uintptr_t)p->reference };
	struct oci_descriptor d = index_referrer(m, dg, p->len);

	d.media_type = (char *)(uintptr_t)p->media_type;
	if (p->reference) {
		d.artifact_type = m->artifact_type;
		d.annotations = &name;
		d.n_annotations = 1;
	}
	index_add(out, &d, true);
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* 1: somebody else has changed it meanwhile. */
static int replace_index(const struct layout *l, const struct buf *text, const struct stat *was,
			 struct err *e)
{
	_cleanup_close_ int fd = -1;
	char name[TMP_NAME_MAX];
	struct stat now;
	int r = tmp_open(l, name, &fd, e);

	if (r < 0)
		return r;
	r = write_all(fd, buf_str(text), text->len);
	if (r < 0) {
		r = err_errno(e, -r, "%s: writing index.json", l->dir->path);
	} else if (fstatat(l->fd, INDEX_NAME, &now, 0) < 0 || !same_file(&now, was)) {
		r = 1;
	} else {
		(void)fchmod(fd, was->st_mode & 0777);
		r = publish(l, fd, name, l->fd, INDEX_NAME, e);
	}
	if (r != 0)
		(void)unlinkat(l->fd, name, 0);
	return r;
}

/* One attempt; 1: again. */
static int list_once(const struct layout *l, const struct rg_put *p, const struct digest *dg,
		     const char *entry, struct err *e)
{
	_cleanup_(dir_index_done) struct dir_index x = { 0 };
	_cleanup_buf_ struct buf text = BUF_INIT(DIR_INDEX_MAX);
	struct listing k = { .index = &x, .tag = p->reference };
	struct stat was;
	errint_t r;

	if (fstatat(l->fd, INDEX_NAME, &was, 0) < 0)
		return failed(l, INDEX_NAME, e);
	r = dir_index_load(l->dir, l->root, l->repo, &x, e);
	if (r < 0 || is_listed(&k, dg))
		return r;
	r = index_edit(buf_str(&x.bytes), x.bytes.len, keep_entry, &k, entry, &text);
	if (r == -EINVAL)
		return err_set(e, EIO, ERR_INPUT, "%s/%s: index.json has no list of manifests",
			       l->dir->path, l->repo);
	if (r < 0)
		return err_errno(e, -r, "%s/%s: index.json", l->dir->path, l->repo);
	return replace_index(l, &text, &was, e);
}

static errint_t list(struct layout *l, const struct rg_put *p, const struct oci_manifest *m,
		     const struct digest *dg, struct err *e)
{
	_cleanup_buf_ struct buf entry = BUF_INIT(RG_MANIFEST_PUSH_MAX);
	int r = layout_lock(l, e);

	if (r < 0)
		return r;
	describe(p, m, dg, &entry);
	if (buf_check(&entry) < 0)
		return no_memory(e);
	r = 1;
	for (unsigned i = 0; r == 1 && i < INDEX_TRIES; i++)
		r = list_once(l, p, dg, buf_str(&entry), e);
	if (r == 1)
		return err_set(e, EBUSY, ERR_LOCAL, "%s/%s: others change index.json all the time",
			       l->dir->path, l->repo);
	return r;
}

errint_t rg_dir_put_manifest(struct rg_dir *d, const char *repo, const struct rg_put *p,
			     const struct oci_manifest *m, const struct digest *dg, struct cancel *c,
			     struct err *e)
{
	_cleanup_(layout_done) struct layout l = {
		.dir = d, .repo = repo, .root = -1, .fd = -1, .cancel = c };
	struct rg_body body = rg_body_of(p->bytes, p->len);
	errint_t r = layout_open(&l, e);

	body.digest = *dg;
	if (r == 0)
		r = put_blob(&l, &body, NULL, e);
	return r < 0 || p->child ? r : list(&l, p, m, dg, e);
}
