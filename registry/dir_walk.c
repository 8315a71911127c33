/*
 * dir_walk.c - which directories are repositories
 *
 * A directory with an oci-layout or an index.json is one, and may have others below it.  The walk
 * skips hidden names, blobs/, names that no repository can have, and symbolic links (a link to a
 * parent would never end; a repository behind one still opens by its name).  What cannot be read
 * fails the walk, and so does a tree beyond the ceilings: a short list is worse than none.
 */
#include "registry/dir_priv.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "registry/names.h"

struct walk {
	struct rg_dir *dir;
	struct names_builder *names;
	struct cancel *cancel;
	char repo[REF_REPO_MAX + 1];	/* where we are */
	size_t repo_len;
	unsigned depth;
	size_t visited;
};

static void closedir_p(DIR **d)
{
	if (*d)
		(void)closedir(*d);
}

static bool is_layout(int fd)
{
	struct stat st;

	return fstatat(fd, "oci-layout", &st, AT_SYMLINK_NOFOLLOW) == 0 ||
	       (fstatat(fd, "index.json", &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(st.st_mode));
}

/* Some file systems do not tell the type. */
static bool is_directory(int fd, const struct dirent *de)
{
	struct stat st;

	if (de->d_type != DT_UNKNOWN)
		return de->d_type == DT_DIR;
	return fstatat(fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

static errint_t walk_directory(struct walk *w, int fd, struct err *e);

static errint_t check_limits(struct walk *w, struct err *e)
{
	if (cancel_fired(w->cancel))
		return err_set(e, ECANCELED, ERR_CANCELLED, "cancelled");
	if (++w->visited > DIR_WALK_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "more than %d directories below %s",
			       DIR_WALK_MAX, w->dir->path);
	if (w->depth > DIR_DEPTH_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "%s/%s nests more than %d deep", w->dir->path,
			       w->repo, DIR_DEPTH_MAX);
	return 0;
}

/* Goes into one entry, with w->repo extended for that time.  Gone meanwhile: not an error. */
static errint_t walk_entry(struct walk *w, int fd, const char *name, struct err *e)
{
	const char *component = dir_component_of(name);
	size_t old = w->repo_len, n = component ? strlen(component) : 0;
	errint_t r;
	int sub;

	if (!component || old + (old > 0) + n > REF_REPO_MAX)
		return 0;
	sub = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (sub < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP))
		return 0;
	if (sub < 0)
		return err_errno(e, errno, "%s/%s%s%s", w->dir->path, w->repo, old ? "/" : "",
				 name);
	if (old > 0)
		w->repo[w->repo_len++] = '/';
	memcpy(w->repo + w->repo_len, component, n + 1);
	w->repo_len += n;
	w->depth++;
	r = walk_directory(w, sub, e);
	w->depth--;
	w->repo_len = old;
	w->repo[old] = '\0';
	return r;
}

/* Owns fd. */
static errint_t walk_directory(struct walk *w, int fd, struct err *e)
{
	_cleanup_(closedir_p) DIR *dp = fdopendir(fd);
	struct dirent *de;
	errint_t r;

	if (!dp) {
		int eno = errno;

		(void)close(fd);
		return err_errno(e, eno, "%s/%s", w->dir->path, w->repo);
	}
	r = check_limits(w, e);
	if (r == 0 && is_layout(fd))
		r = names_add(w->names, w->repo, w->repo_len, e);
	while (r == 0) {
		errno = 0;
		de = readdir(dp);
		if (!de)
			return errno ? err_errno(e, errno, "%s/%s", w->dir->path, w->repo) : 0;
		if (de->d_name[0] != '.' && is_directory(fd, de))
			r = walk_entry(w, fd, de->d_name, e);
	}
	return r;
}

errint_t dir_walk(struct rg_dir *d, int root, struct names_builder *b, struct cancel *c,
		  struct err *e)
{
	struct walk w = { .dir = d, .names = b, .cancel = c };
	int fd = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return err_errno(e, errno, "%s", d->path);
	return walk_directory(&w, fd, e);
}
