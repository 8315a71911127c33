/*
 * dir_fs.c - files beneath the root, and nothing else
 *
 * openat2 does the confinement: symbolic links work as long as they stay below the root.  Without
 * it (old kernels, sandboxes) every component is opened by hand and links are refused altogether.
 * Nothing but regular files and directories is opened for reading, and O_NONBLOCK keeps a FIFO from
 * holding the thread.
 */
#include "registry/dir_priv.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define OPEN_RETRIES 16	/* openat2 says EAGAIN when something was renamed meanwhile */
#define READ_FLAGS (O_RDONLY | O_NONBLOCK | O_NOCTTY)

errint_t dir_open_root(struct rg_dir *d, int *ret_fd, struct err *e)
{
	int fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0) {
		*ret_fd = fd;
		return 0;
	}
	if (errno == ENOENT)
		return err_set(e, ENOENT, ERR_NOTFOUND, "the registry directory %s does not exist",
			       d->path);
	return err_errno(e, errno, "registry directory %s", d->path);
}

static int open_by_kernel(int root, const char *path, int flags)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned)flags,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};

	for (int i = 0; i < OPEN_RETRIES; i++) {
		long fd = syscall(SYS_openat2, root, path, &how, sizeof(how));

		if (fd >= 0)
			return (int)fd;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
	}
	return -EAGAIN;
}

/* path has no empty, "." or ".." components except "." alone: it was made by dir_path. */
static int open_by_hand(int root, const char *path, int flags)
{
	_cleanup_close_ int at = -1;
	char part[DIR_PATH_MAX];

	for (;;) {
		const char *slash = strchr(path, '/');
		size_t n = slash ? (size_t)(slash - path) : strlen(path);
		int fd;

		if (n >= sizeof(part))
			return -ENAMETOOLONG;
		memcpy(part, path, n);
		part[n] = '\0';
		fd = openat(at < 0 ? root : at, part,
			    O_NOFOLLOW | (slash ? O_PATH | O_DIRECTORY | O_CLOEXEC : flags));
		if (fd < 0)
			return -errno;
		if (!slash)
			return fd;
		if (at >= 0)
			(void)close(at);
		at = fd;
		path = slash + 1;
	}
}

int dir_open_beneath(struct rg_dir *d, int root, const char *path, int flags)
{
	int r;

	flags |= O_CLOEXEC;
	if (!atomic_load_explicit(&d->no_openat2, memory_order_relaxed)) {
		r = open_by_kernel(root, path, flags);
		if (r != -ENOSYS && r != -EPERM)
			return r;
		if (r == -ENOSYS)
			atomic_store_explicit(&d->no_openat2, true, memory_order_relaxed);
	}
	return open_by_hand(root, path, flags);
}

static errint_t open_error(struct rg_dir *d, const char *path, int eno, struct err *e)
{
	if (eno == EXDEV || eno == ELOOP)
		return err_set(
			e, EACCES, ERR_INPUT,
			"%s/%s is reached by a symbolic link that leaves the registry directory",
			d->path, path);
	return err_errno(e, eno, "%s/%s", d->path, path);
}

errint_t dir_open_file(struct rg_dir *d, int root, const char *path, uint64_t max, int *ret_fd,
		       uint64_t *ret_size, struct err *e)
{
	_cleanup_close_ int fd = dir_open_beneath(d, root, path, READ_FLAGS);
	struct stat st;

	if (fd < 0)
		return open_error(d, path, -fd, e);
	if (fstat(fd, &st) < 0)
		return err_errno(e, errno, "%s/%s", d->path, path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, EIO, ERR_INPUT, "%s/%s is not a regular file", d->path, path);
	if (max > 0 && (uint64_t)st.st_size > max)
		return err_set(e, EFBIG, ERR_LIMIT,
			       "%s/%s has %" PRIu64 " bytes, more than %" PRIu64, d->path, path,
			       (uint64_t)st.st_size, max);
	*ret_size = (uint64_t)st.st_size;
	*ret_fd = steal_fd(&fd);
	return 0;
}

/* Reads until the end, whatever fstat said: the file may grow, and then hits the ceiling. */
static errint_t read_all(int fd, struct buf *b)
{
	for (;;) {
		ssize_t n;

		if (b->len == b->max)
			return 0;
		if (buf_reserve(b, MIN_OF((size_t)DIR_CHUNK, b->max - b->len)) < 0)
			return buf_check(b);
		n = read(fd, b->data + b->len, MIN_OF((size_t)DIR_CHUNK, b->max - b->len));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return 0;
		b->len += (size_t)n;
		b->data[b->len] = '\0';
	}
}

errint_t dir_read_file(struct rg_dir *d, int root, const char *path, size_t max, struct buf *ret,
		       struct err *e)
{
	_cleanup_close_ int fd = -1;
	uint64_t size;
	errint_t r = dir_open_file(d, root, path, max, &fd, &size, e);

	if (r < 0)
		return r;
	buf_done(ret);
	buf_init(ret, max);
	r = buf_reserve(ret, (size_t)size);
	if (r == 0)
		r = read_all(fd, ret);
	return r < 0 ? err_errno(e, -r, "reading %s/%s", d->path, path) : 0;
}

/* --- names --- */

static bool is_layout_name(const char *s, size_t n)
{
	static const char *const names[] = { "blobs", "index.json", "oci-layout" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strlen(names[i]) == n && memcmp(names[i], s, n) == 0)
			return true;
	return false;
}

const char *dir_component_of(const char *name)
{
	bool escaped = *name == '%';
	size_t n;

	name += escaped;
	n = strlen(name);
	if (!ref_is_repo_component(name, n) || is_layout_name(name, n) != escaped)
		return NULL;
	return name;
}

errint_t dir_path(const char *repo, const char *leaf, char out[static DIR_PATH_MAX], struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(DIR_PATH_MAX - 1);

	while (*repo) {
		size_t n = strcspn(repo, "/");

		if (is_layout_name(repo, n))
			(void)buf_addc(&b, '%');
		(void)buf_add(&b, repo, n);
		repo += n;
		if (*repo)
			(void)buf_addc(&b, *repo++);
	}
	if (leaf && b.len > 0)
		(void)buf_addc(&b, '/');
	(void)buf_adds(&b, leaf ? leaf : b.len > 0 ? "" : ".");
	if (buf_check(&b) < 0)
		return err_set(e, ENAMETOOLONG, ERR_INPUT, "the repository name is too long");
	memcpy(out, buf_str(&b), b.len + 1);
	return 0;
}

errint_t dir_blob_path(const char *repo, const struct digest *dg, char out[static DIR_PATH_MAX],
		       struct err *e)
{
	char leaf[16 + DIGEST_TEXT_MAX], hex[DIGEST_TEXT_MAX];

	(void)snprintf(leaf, sizeof(leaf), "blobs/%.8s/%s", digest_alg_name(dg),
		       digest_hex(dg, hex));
	return dir_path(repo, leaf, out, e);
}
