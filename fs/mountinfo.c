/*
 * mountinfo.c - reads the mount table, and unmounts
 *
 * No path that leads into a mount is followed here: a dead or stuck one must not stop us.
 */
#include "fs/mountinfo.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>

#define USERS_SHOWN 3		/* processes named in "is in use" */
#define FUSERMOUNT_TEXT_MAX 512

/* ---- the table ---- */

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
}

static bool is_octal(const char *s)
{
	return s[0] >= '0' && s[0] <= '3' && s[1] >= '0' && s[1] <= '7' && s[2] >= '0' && s[2] <= '7';
}

/* The kernel writes space, tab, newline and backslash as \ooo.  In place. */
static char *unescape(char *s)
{
	char *to = s;

	for (const char *p = s; *p; to++) {
		if (*p == '\\' && is_octal(p + 1)) {
			*to = (char)((p[1] - '0') << 6 | (p[2] - '0') << 3 | (p[3] - '0'));
			p += 4;
		} else {
			*to = *p++;
		}
	}
	*to = '\0';
	return s;
}

static bool has_word(const char *list, const char *word, const char **ret_rest)
{
	size_t n = strlen(word);

	for (const char *p = list; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
		if (strncmp(p, word, n) == 0) {
			*ret_rest = p + n;
			return true;
		}
	}
	return false;
}

static bool set_part(struct mount_entry *m, char *root)
{
	if (strcmp(root, "/") != 0)
		m->part = strdup(unescape(root));
	return m->part || strcmp(root, "/") == 0;
}

static bool set_entry(struct mount_entry *m, char *point, char *opts, char *type, char *source,
		      const char *super)
{
	const char *rest;

	m->point = strdup(unescape(point));
	m->type = strdup(type);
	m->source = strdup(unescape(source));
	if (!m->point || !m->type || !m->source)
		return false;
	m->read_only = has_word(opts, "ro", &rest) && (*rest == ',' || !*rest);
	m->has_user = has_word(super, "user_id=", &rest);
	if (m->has_user)
		m->user = (uid_t)strtoul(rest, NULL, 10);
	return true;
}

/* "36 35 98:0 /root /point opts optional.. - type source super".  false: no memory. */
static bool parse_line(char *line, struct mount_entry *ret, bool *ret_ok)
{
	char *field[6], *after[3], *save = NULL, *word;

	*ret_ok = false;
	for (size_t i = 0; i < ARRAY_SIZE(field); i++) {
		field[i] = strtok_r(i == 0 ? line : NULL, " ", &save);
		if (!field[i])
			return true;
	}
	while ((word = strtok_r(NULL, " ", &save)) && strcmp(word, "-") != 0)
		;
	for (size_t i = 0; i < ARRAY_SIZE(after); i++) {
		after[i] = word ? strtok_r(NULL, " ", &save) : NULL;
		if (!after[i])
			return true;
	}
	*ret_ok = true;
	ret->id = (int)strtol(field[0], NULL, 10);
	return set_entry(ret, field[4], field[5], after[0], after[1], after[2]) && set_part(ret, field[3]);
}

static void entry_done(struct mount_entry *m)
{
	free(m->point);
	free(m->type);
	free(m->source);
	free(m->part);
}

void mount_list_done(struct mount_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		entry_done(&l->v[i]);
	free(l->v);
	*l = (struct mount_list){ 0 };
}

static errint_t add_line(struct mount_list *l, char *line, struct err *e)
{
	struct mount_entry m = { 0 }, *more;
	bool ok;

	if (!parse_line(line, &m, &ok)) {
		entry_done(&m);
		return no_memory(e);
	}
	if (!ok)
		return 0;
	more = realloc(l->v, (l->n + 1) * sizeof(*more));
	if (!more) {
		entry_done(&m);
		return no_memory(e);
	}
	l->v = more;
	l->v[l->n++] = m;
	return 0;
}

errint_t mount_list_parse(const char *text, size_t len, struct mount_list *ret, struct err *e)
{
	struct mount_list l = { 0 };
	errint_t r = 0;

	for (const char *p = text, *end = text + len; r == 0 && p < end;) {
		const char *nl = memchr(p, '\n', (size_t)(end - p));
		size_t n = (size_t)((nl ? nl : end) - p);
		_cleanup_free_ char *line = strndup(p, n);

		r = line ? add_line(&l, line, e) : no_memory(e);
		p += n + (nl != NULL);
	}
	if (r < 0)
		mount_list_done(&l);
	else
		*ret = l;
	return r;
}

static errint_t read_all(int fd, struct buf *out)
{
	char part[8192];
	ssize_t n;

	while ((n = read(fd, part, sizeof(part))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (buf_add(out, part, (size_t)n) < 0)
			return buf_check(out);
	}
	return 0;
}

errint_t mount_list_read(struct mount_list *ret, struct err *e)
{
	_cleanup_buf_ struct buf text = BUF_INIT(MOUNTINFO_MAX);
	_cleanup_close_ int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	errint_t r = fd < 0 ? -errno : read_all(fd, &text);

	if (r < 0)
		return err_errno(e, -r, "cannot read the list of mounts, /proc/self/mountinfo");
	return mount_list_parse(buf_str(&text), text.len, ret, e);
}

const struct mount_entry *mount_at(const struct mount_list *l, const char *point)
{
	for (size_t i = l->n; i > 0; i--)
		if (strcmp(l->v[i - 1].point, point) == 0)
			return &l->v[i - 1];
	return NULL;
}

bool mount_is_ours(const struct mount_entry *m)
{
	return strcmp(m->type, MOUNT_TYPE) == 0 &&
	       (geteuid() == 0 || (m->has_user && m->user == getuid()));
}

bool mount_is_rootfs(const struct mount_entry *m)
{
	size_t len = strlen(m->source), end = strlen(MOUNT_EROFS_FILE);

	if (strcmp(m->type, MOUNT_TYPE) == 0)
		return m->part;
	return strcmp(m->type, "erofs") == 0 && len > end && m->source[len - end - 1] == '/' &&
	       strcmp(m->source + len - end, MOUNT_EROFS_FILE) == 0;
}

const struct mount_entry *mount_above(const struct mount_list *l, const char *path)
{
	const struct mount_entry *best = NULL;
	size_t longest = 0;

	for (size_t i = 0; i < l->n; i++) {
		size_t n = strlen(l->v[i].point);

		if (n < longest || strncmp(path, l->v[i].point, n) != 0)
			continue;
		if (path[n] != '/' && path[n] != '\0' && n > 1)
			continue;
		best = &l->v[i];
		longest = n;
	}
	return best;
}

/* ---- paths ---- */

static char *resolve_parent(const char *path)
{
	_cleanup_free_ char *copy = strdup(path), *parent = NULL;
	char *slash, *ret = NULL;

	if (!copy)
		return NULL;
	slash = strrchr(copy, '/');
	if (slash)
		*slash = '\0';
	parent = realpath(!slash ? "." : slash == copy ? "/" : copy, NULL);
	if (!parent)
		return NULL;
	if (asprintf(&ret, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent,
		     slash ? slash + 1 : path) < 0)
		return NULL;
	return ret;
}

char *mount_point_path(const char *path)
{
	_cleanup_free_ char *copy = strdup(path), *here = NULL;
	_cleanup_mounts_ struct mount_list l = { 0 };
	const char *last;
	size_t n;

	if (!copy)
		return NULL;
	for (n = strlen(copy); n > 1 && copy[n - 1] == '/'; n--)
		copy[n - 1] = '\0';
	last = strrchr(copy, '/') ? strrchr(copy, '/') + 1 : copy;
	if (!*last || strcmp(last, ".") == 0 || strcmp(last, "..") == 0)
		return realpath(copy, NULL);
	here = resolve_parent(copy);
	if (!here || (mount_list_read(&l, NULL) == 0 && mount_at(&l, here)))
		return steal_ptr(&here);
	return realpath(copy, NULL);
}

/* ---- who is in the way ---- */

static bool link_is_below(int dir, const char *name, const char *point)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(dir, name, target, sizeof(target) - 1);
	size_t len = strlen(point);

	if (n < 0)
		return false;
	target[n] = '\0';
	return strncmp(target, point, len) == 0 && (target[len] == '/' || target[len] == '\0');
}

static bool has_open_file(int proc, const char *point)
{
	int fd = openat(proc, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *de;
	bool found = false;

	if (!d) {
		if (fd >= 0)
			(void)close(fd);
		return false;
	}
	while (!found && (de = readdir(d)))
		found = link_is_below(dirfd(d), de->d_name, point);
	(void)closedir(d);
	return found;
}

static bool process_uses(const char *pid, const char *point)
{
	static const char *const links[] = { "cwd", "root", "exe" };
	char path[NAME_MAX + 16];

	(void)snprintf(path, sizeof(path), "/proc/%s", pid);
	_cleanup_close_ int proc = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (proc < 0)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(links); i++)
		if (link_is_below(proc, links[i], point))
			return true;
	return has_open_file(proc, point);
}

static void add_process(struct buf *out, const char *pid, unsigned count)
{
	char path[NAME_MAX + 16], name[64] = "";

	(void)snprintf(path, sizeof(path), "/proc/%s/comm", pid);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, name, sizeof(name) - 1);

	name[n > 0 ? n - 1 : 0] = '\0';
	(void)buf_addf(out, "%s%s (%s)", count ? ", " : "", pid, name);
}

/* "by 123 (bash), 124 (less)", as far as /proc shows it. */
static void describe_users(const char *point, struct buf *out)
{
	DIR *d = opendir("/proc");
	const struct dirent *de;
	unsigned count = 0;

	while (d && count < USERS_SHOWN && (de = readdir(d))) {
		if (de->d_name[0] < '0' || de->d_name[0] > '9' ||
		    strtol(de->d_name, NULL, 10) == (long)getpid() || !process_uses(de->d_name, point))
			continue;
		if (count == 0)
			(void)buf_adds(out, " by ");
		add_process(out, de->d_name, count++);
	}
	if (d)
		(void)closedir(d);
}

/* A file that the kernel has mounted is not to be seen in /proc: name what it may be. */
static void add_rootfs(struct buf *out)
{
	_cleanup_mounts_ struct mount_list l = { 0 };
	unsigned count = 0;

	if (mount_list_read(&l, NULL) < 0)
		return;
	for (size_t i = 0; i < l.n && count < USERS_SHOWN; i++)
		if (mount_is_rootfs(&l.v[i]))
			(void)buf_addf(out, "%s%s", count++ ? ", " : ", perhaps by what `registryfs rootfs` has mounted on ",
				       l.v[i].point);
}

static errint_t busy(const char *point, struct err *e)
{
	_cleanup_buf_ struct buf who = BUF_INIT(1024);

	describe_users(point, &who);
	if (who.len == 0)
		add_rootfs(&who);
	return err_set(e, EBUSY, ERR_LOCAL,
		       "%s is in use%s; leave it (cd /) or close its files and try again, or detach it "
		       "with `registryfs umount -l`", point, buf_str(&who));
}

/* ---- unmounting ---- */

static errint_t end_as_root(const char *point, bool lazy, struct err *e)
{
	if (umount2(point, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0)
		return 0;
	if (errno == EBUSY)
		return busy(point, e);
	return err_errno(e, errno, "cannot unmount %s", point);
}

static pid_t spawn_fusermount(const char *point, bool lazy, int to)
{
	static char prog[] = "fusermount3", now[] = "-u", later[] = "-uz", end[] = "--";
	char *argv[] = { prog, lazy ? later : now, end, (char *)point, NULL };
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t at;
	sigset_t none;
	pid_t pid;
	int r;

	(void)sigemptyset(&none);
	if (posix_spawn_file_actions_init(&fa) != 0)
		return -1;
	(void)posix_spawnattr_init(&at);
	(void)posix_spawnattr_setsigmask(&at, &none);
	(void)posix_spawnattr_setflags(&at, POSIX_SPAWN_SETSIGMASK);
	(void)posix_spawn_file_actions_adddup2(&fa, to, STDERR_FILENO);
	r = posix_spawnp(&pid, argv[0], &fa, &at, argv, environ);
	(void)posix_spawn_file_actions_destroy(&fa);
	(void)posix_spawnattr_destroy(&at);
	errno = r;
	return r == 0 ? pid : -1;
}

static errint_t end_as_user(const char *point, bool lazy, struct err *e)
{
	_cleanup_buf_ struct buf said = BUF_INIT(FUSERMOUNT_TEXT_MAX);
	int p[2], status = 0;
	pid_t pid;

	if (pipe2(p, O_CLOEXEC) < 0)
		return err_errno(e, errno, "pipe");
	pid = spawn_fusermount(point, lazy, p[1]);
	(void)close(p[1]);
	_cleanup_close_ int from = p[0];
	if (pid < 0)
		return err_errno(e, errno, "cannot run fusermount3 (package fuse3) to unmount %s", point);
	(void)read_all(from, &said);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (strstr(buf_str(&said), "busy"))
		return busy(point, e);
	return err_set(e, EIO, ERR_LOCAL, "cannot unmount %s: %.*s", point,
		       (int)strcspn(buf_str(&said), "\n"), buf_str(&said));
}

errint_t mount_end(const char *point, bool lazy, struct err *e)
{
	return geteuid() == 0 ? end_as_root(point, lazy, e) : end_as_user(point, lazy, e);
}
