/*
 * first_list.c - see first_list.h
 */
#include "fs/first_list.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/tree.h"

#define DIR_NAME "first"
#define NAME_MAX_BYTES (DIGEST_TEXT_MAX + 32)

/* ---- the text ---- */

bool first_list_next(const char **at, const char *end, const char **ret, size_t *ret_len)
{
	while (*at < end) {
		const char *p = *at, *nl = memchr(p, '\n', (size_t)(end - p));
		const char *line_end = nl ? nl : end;

		*at = nl ? nl + 1 : end;
		if (p < line_end && *p == '#')
			continue;
		while (p < line_end && *p == '/')
			p++;
		if (p == line_end)
			continue;
		*ret = p;
		*ret_len = (size_t)(line_end - p);
		return true;
	}
	return false;
}

errint_t first_list_check(const char *text, size_t len, struct err *e)
{
	const char *at = text, *p;
	size_t n;

	if (len > 0 && memchr(text, '\0', len))
		return err_set(e, EINVAL, ERR_INPUT, "a list of files is a text, one path to a line");
	while (first_list_next(&at, text + len, &p, &n))
		if (n > TREE_PATH_MAX)
			return err_set(e, EINVAL, ERR_INPUT, "a path of %zu bytes is too long", n);
	return 0;
}

size_t first_list_count(const char *text, size_t len)
{
	const char *at = text, *p;
	size_t n, count = 0;

	while (first_list_next(&at, text + len, &p, &n))
		count++;
	return count;
}

errint_t first_list_add(struct buf *out, const char *path, size_t len)
{
	if (len == 0 || memchr(path, '\n', len) || memchr(path, '\0', len))
		return 0;
	if (out->len + len + 2 > FIRST_BYTES_MAX)
		return -EFBIG;
	(void)buf_addc(out, '/');
	(void)buf_add(out, path, len);
	return buf_addc(out, '\n');
}

/* ---- the file ---- */

static errint_t open_dir(const char *state, bool make)
{
	_cleanup_close_ int base = -1;
	int fd;

	if (make && mkdir(state, 0700) < 0 && errno != EEXIST)
		return -errno;
	base = open(state, O_DIRECTORY | O_CLOEXEC);
	if (base < 0)
		return -errno;
	if (make && mkdirat(base, DIR_NAME, 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(base, DIR_NAME, O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

static const char *file_name(const struct digest *d, char out[static NAME_MAX_BYTES])
{
	char text[DIGEST_TEXT_MAX];
	char *colon;

	(void)snprintf(out, NAME_MAX_BYTES, "%s", digest_text(d, text));
	colon = strchr(out, ':');
	if (colon)
		*colon = '-';
	return out;
}

errint_t first_list_load(const char *state, const struct digest *manifest, struct buf *ret)
{
	char name[NAME_MAX_BYTES], part[4096];
	_cleanup_close_ int dir = open_dir(state, false);
	_cleanup_close_ int fd = dir < 0 ? -1 : openat(dir, file_name(manifest, name), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t n;

	if (fd < 0)
		return -ENOENT;
	while ((n = read(fd, part, sizeof(part))) > 0)
		if (ret->len + (size_t)n > FIRST_BYTES_MAX || buf_add(ret, part, (size_t)n) < 0)
			return -ENOENT;
	return n < 0 || first_list_check(buf_str(ret), ret->len, NULL) < 0 ? -ENOENT : 0;
}

/* Makes room for another one. */
static void drop_oldest(int dir)
{
	char oldest[NAME_MAX_BYTES] = "";
	int64_t when = INT64_MAX;
	int copy = openat(dir, ".", O_DIRECTORY | O_CLOEXEC);
	DIR *d = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *de;
	struct stat st;
	size_t n = 0;

	if (!d && copy >= 0)
		(void)close(copy);
	while (d && (de = readdir(d))) {
		if (strlen(de->d_name) >= sizeof(oldest) || fstatat(dir, de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		    !S_ISREG(st.st_mode))
			continue;
		n++;
		if (st.st_mtime >= when)
			continue;
		when = st.st_mtime;
		(void)snprintf(oldest, sizeof(oldest), "%s", de->d_name);
	}
	if (d)
		(void)closedir(d);
	if (n >= FIRST_LISTS_MAX)
		(void)unlinkat(dir, oldest, 0);
}

static errint_t write_file(int dir, const char *name, const char *text, size_t len)
{
	_cleanup_close_ int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return -errno;
	while (len > 0) {
		ssize_t n = write(fd, text, len);

		if (n < 0)
			return -errno;
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

errint_t first_list_save(const char *state, const struct digest *manifest, const char *text, size_t len,
			 struct err *e)
{
	char name[NAME_MAX_BYTES], temp[NAME_MAX_BYTES + 32];
	_cleanup_close_ int dir = open_dir(state, true);
	errint_t r = dir < 0 ? dir : 0;

	(void)file_name(manifest, name);
	(void)snprintf(temp, sizeof(temp), ".%s.%ld.%ld", name, (long)getpid(), (long)gettid());
	if (r == 0 && faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		drop_oldest(dir);
	if (r == 0)
		r = write_file(dir, temp, text, len);
	if (r == 0 && renameat(dir, temp, dir, name) < 0)
		r = -errno;
	if (r < 0 && dir >= 0)
		(void)unlinkat(dir, temp, 0);
	return r < 0 ? err_errno(e, -r, "cannot keep a list of files in %s/" DIR_NAME, state) : 0;
}

errint_t first_list_remove(const char *state, const struct digest *manifest, struct err *e)
{
	char name[NAME_MAX_BYTES];
	_cleanup_close_ int dir = open_dir(state, false);

	if (dir < 0 || unlinkat(dir, file_name(manifest, name), 0) == 0 || errno == ENOENT)
		return 0;
	return err_errno(e, errno, "cannot remove a list of files from %s/" DIR_NAME, state);
}
