/*
 * cmd_probe.c - asks a mount how it is, in a child process with a time limit
 *
 * A system call on a mount whose process is stuck may sleep where no signal wakes it.  A child can
 * be left behind in it; its parent goes on.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/statfs.h>
#include <sys/wait.h>

#include "fs/mountinfo.h"
#include "util/clock.h"

#define READ_MAX (4u << 20)	/* of a file below a mount */

/* A stuck child must not keep the caller's output open. */
static void let_go_of_terminal(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int i = 0; i <= 2; i++)
		(void)dup2(fd, i);
}

/* Reads from a child until it closes its end, or the time is over. */
static errint_t collect(int from, struct buf *out)
{
	uint64_t end = clock_mono_ns() + MOUNT_PROBE_MS * NSEC_PER_MSEC;
	char part[4096];
	ssize_t n;

	for (;;) {
		struct pollfd pf = { .fd = from, .events = POLLIN };
		int64_t left = (int64_t)(end - clock_mono_ns()) / (int64_t)NSEC_PER_MSEC;

		if (left <= 0 || poll(&pf, 1, (int)left) <= 0)
			return -ETIMEDOUT;
		n = read(from, part, sizeof(part));
		if (n <= 0)
			return n < 0 ? -errno : 0;
		if (out && (out->len > READ_MAX || buf_add(out, part, (size_t)n) < 0))
			return -EFBIG;
	}
}

/* Runs fn in a child that writes to a pipe; collects what it writes, and its errno from its exit
 * status.  A child that is stuck is left behind. */
static errint_t in_child(int (*fn)(const char *path, int to), const char *path, struct buf *out)
{
	int p[2], status = 0;
	errint_t r;
	pid_t pid;

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid == 0) {
		let_go_of_terminal();
		_exit(fn(path, p[1]) & 0xff);
	}
	(void)close(p[1]);
	r = pid < 0 ? -errno : collect(p[0], out);
	(void)close(p[0]);
	if (pid < 0)
		return r;
	if (r < 0)
		(void)kill(pid, SIGKILL);
	if (r == -ETIMEDOUT)
		return r;
	if (waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) != 0)
		r = -WEXITSTATUS(status);
	return r;
}

static int probe_fn(const char *path, int to)
{
	struct statfs s;

	(void)to;
	return statfs(path, &s) < 0 ? errno : 0;
}

/* statfs is never answered from the kernel's caches. */
errint_t mount_probe(const char *point)
{
	return in_child(probe_fn, point, NULL);
}

static int copy_fn(const char *path, int to)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char part[4096];
	ssize_t n;

	if (fd < 0)
		return errno;
	while ((n = read(fd, part, sizeof(part))) > 0)
		if (write(to, part, (size_t)n) != n)
			return EPIPE;
	return n < 0 ? errno : 0;
}

errint_t mount_read(const char *point, const char *file, struct buf *out)
{
	_cleanup_free_ char *path = NULL;

	if (asprintf(&path, "%s/%s", point, file) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	return in_child(copy_fn, path, out);
}
