/*
 * cmd_warm.c - `registryfs warm PATH..`: fetches what is below a path, for use offline
 *
 * The mount does the work: asking for one extended attribute of PATH takes until all of it is in the
 * cache, and asking for another says how far it is (warm.h).  A child process waits for the first,
 * so that this one can show the second, and end at once: when the child goes, so does the fetching.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "fs/cmd.h"
#include "fs/mountinfo.h"
#include "fs/warm.h"
#include "util/clock.h"

#define TICK_MS 250		/* between two looks at how far it is */
#define TICK_SHARE 8		/* of the time that looking takes */
#define RATE_TICKS 16		/* over how many of them the rate is taken */
#define VALUE_MAX 4096
#define EXIT_INTERRUPTED 130	/* as shells say it of SIGINT */

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	interrupted = sig;
}

/* What is known of one path's progress. */
struct progress {
	const char *path;
	bool shown, wide;	/* a line is on the terminal; there is a terminal at all */
	uint64_t first;		/* what was there at the beginning */
	uint64_t have, total;
	uint64_t begun_ns;
	struct {
		uint64_t at_ns, have;
	} tick[RATE_TICKS];
	unsigned n_ticks;
};

static errint_t get_value(const char *path, const char *name, char out[static VALUE_MAX])
{
	ssize_t n = getxattr(path, name, out, VALUE_MAX - 1);

	out[MAX_OF(n, (ssize_t)0)] = '\0';
	return n < 0 ? -errno : 0;
}

/* ---- the line ---- */

static void add_mib(struct buf *b, uint64_t n)
{
	(void)buf_addf(b, "%.1f", (double)n / (1 << 20));
}

static void add_left(struct buf *b, uint64_t bytes, double rate)
{
	double s = (double)bytes / rate;

	if (s < 120)
		(void)buf_addf(b, ", %.0f s left", s);
	else if (s < 7200)
		(void)buf_addf(b, ", %.0f min left", s / 60);
	else
		(void)buf_addf(b, ", %.1f h left", s / 3600);
}

/* Bytes a second since some ticks ago; 0: not known yet. */
static double rate_of(struct progress *p, uint64_t now)
{
	unsigned i = p->n_ticks % RATE_TICKS;
	uint64_t then = p->n_ticks >= RATE_TICKS ? p->tick[i].at_ns : p->n_ticks ? p->tick[0].at_ns : now;
	uint64_t before = p->n_ticks >= RATE_TICKS ? p->tick[i].have : p->tick[0].have;

	p->tick[i].at_ns = now;
	p->tick[i].have = p->have;
	p->n_ticks++;
	return now > then && p->have > before ? (double)(p->have - before) * NSEC_PER_SEC / (double)(now - then) : 0;
}

static size_t columns(void)
{
	struct winsize w;

	return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 1 ? w.ws_col - 1u : 79;
}

static void show(struct progress *p)
{
	_cleanup_buf_ struct buf b = BUF_INIT(VALUE_MAX), name = BUF_INIT(32768);
	double rate = rate_of(p, clock_mono_ns());
	size_t width = columns();

	add_mib(&b, p->have);
	(void)buf_adds(&b, " of ");
	add_mib(&b, p->total);
	(void)buf_adds(&b, " MiB");
	if (rate > 0) {
		(void)buf_adds(&b, ", ");
		add_mib(&b, (uint64_t)rate);
		(void)buf_adds(&b, " MiB/s");
		add_left(&b, p->total - MIN_OF(p->have, p->total), rate);
	}
	(void)buf_add_text(&name, p->path, strlen(p->path));
	(void)buf_addf(&b, "  %s", buf_str(&name));
	fprintf(stderr, "\r\033[K%.*s", (int)MIN_OF(width, b.len), buf_str(&b));
	(void)fflush(stderr);
	p->shown = true;
}

static void clear(struct progress *p)
{
	if (p->shown)
		fputs("\r\033[K", stderr);
	p->shown = false;
}

/* ---- waiting ---- */

/* Looks how far it is; returns how long to wait until the next look. */
static int look(struct progress *p)
{
	uint64_t began = clock_mono_ns();
	char text[VALUE_MAX];

	if (get_value(p->path, HELD_XATTR, text) == 0)
		(void)sscanf(text, "%" SCNu64 " %" SCNu64, &p->have, &p->total);
	if (p->wide)
		show(p);
	return MAX_OF(TICK_MS, (int)((clock_mono_ns() - began) / NSEC_PER_MSEC * TICK_SHARE));
}

/* Its pid; *ret_fd says when it has ended.  Its exit status is an errno. */
static pid_t start_child(const char *path, int *ret_fd)
{
	int p[2];
	pid_t self = getpid(), pid;

	if (pipe2(p, O_CLOEXEC) < 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		char text[VALUE_MAX];
		errint_t r;

		(void)signal(SIGINT, SIG_DFL);
		(void)signal(SIGTERM, SIG_DFL);
		(void)signal(SIGHUP, SIG_DFL);
		(void)close(p[0]);
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != self)	/* also when we are killed */
			_exit(EINTR);
		r = get_value(path, WARM_XATTR, text);
		if (r == 0 && write(p[1], text, strlen(text)) < 0)
			r = -errno;
		_exit(-r & 0xff);
	}
	(void)close(p[1]);
	if (pid < 0)
		(void)close(p[0]);
	else
		*ret_fd = p[0];
	return pid;
}

static errint_t reap(pid_t pid)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status))
		return -WEXITSTATUS(status);
	return -EINTR;
}

/* 0: all is there, ret->total says how much that is. */
static errint_t wait_for(struct progress *p)
{
	char text[VALUE_MAX] = "";
	int fd = -1, pause = 0;
	pid_t pid = start_child(p->path, &fd);
	struct pollfd pf = { .fd = fd, .events = POLLIN };
	errint_t r;

	if (pid < 0)
		return -errno;
	while (!interrupted && poll(&pf, 1, pause) <= 0)
		pause = p->wide ? look(p) : -1;
	if (interrupted)
		(void)kill(pid, SIGKILL);
	else if (read(fd, text, sizeof(text) - 1) > 0)
		(void)sscanf(text, "%" SCNu64, &p->total);
	(void)close(fd);
	r = reap(pid);
	return interrupted ? -EINTR : r;
}

/* ---- one path ---- */

static errint_t check_mount(const char *path, struct err *e)
{
	_cleanup_mounts_ struct mount_list l = { 0 };
	_cleanup_free_ char *real = realpath(path, NULL);
	const struct mount_entry *m;

	if (!real)
		return err_errno(e, errno, "cannot look at %s", path);
	if (mount_list_read(&l, e) < 0)
		return -e->eno;
	m = mount_above(&l, real);
	if (m && strcmp(m->type, MOUNT_TYPE) == 0)
		return 0;
	return err_set(e, ENXIO, ERR_INPUT, "%s is not below a mount of registryfs; `registryfs status` lists mounts", path);
}

static void say_failure(const char *path, errint_t r)
{
	_cleanup_buf_ struct buf why = BUF_INIT(4 * VALUE_MAX);
	char text[VALUE_MAX];

	if (r == -ENODATA || r == -EOPNOTSUPP || r == -EPERM)
		complain("%s: only an image's directory, what is below its rootfs and layers, and its blobs can be fetched",
			 path);
	else if (get_value(path, "user.registryfs.error", text) == 0 && *text &&
		 buf_add_text(&why, text, strlen(text)) == 0)
		complain("%s: %s", path, buf_str(&why));
	else
		complain("%s: %s", path, strerror(-r));
}

static void say_done(const struct progress *p)
{
	_cleanup_buf_ struct buf b = BUF_INIT(65536);
	double s = (double)(clock_mono_ns() - p->begun_ns) / NSEC_PER_SEC;

	(void)buf_add_text(&b, p->path, strlen(p->path));
	(void)buf_adds(&b, ": ");
	add_mib(&b, p->total);
	(void)buf_adds(&b, " MiB here, ");
	add_mib(&b, p->total - MIN_OF(p->first, p->total));
	(void)buf_addf(&b, " MiB of it fetched in %.1f s\n", s);
	fputs(buf_str(&b), stdout);
	(void)fflush(stdout);
}

static int warm_path(const char *path)
{
	struct progress p = { .path = path, .begun_ns = clock_mono_ns(), .wide = isatty(STDERR_FILENO) };
	struct err e = { 0 };
	errint_t r = check_mount(path, &e);
	char text[VALUE_MAX];

	if (r < 0) {
		complain("%s", e.msg);
		return e.eno == ENXIO ? EXIT_NOT_MOUNTED : EXIT_FAILED;
	}
	if (get_value(path, HELD_XATTR, text) == 0)
		(void)sscanf(text, "%" SCNu64, &p.first);
	r = wait_for(&p);
	clear(&p);
	if (interrupted) {
		complain("%s: interrupted; what has been fetched stays", path);
		return EXIT_INTERRUPTED;
	}
	if (r < 0)
		say_failure(path, r);
	else
		say_done(&p);
	return r < 0 ? EXIT_FAILED : EXIT_DONE;
}

int cmd_warm(int argc, char **argv)
{
	struct sigaction a = { .sa_handler = on_signal };
	int status = EXIT_DONE;

	if (argc < 2 || *argv[1] == '-') {
		complain("usage: registryfs warm PATH..");
		return EXIT_USAGE;
	}
	(void)sigaction(SIGINT, &a, NULL);
	(void)sigaction(SIGTERM, &a, NULL);
	(void)sigaction(SIGHUP, &a, NULL);
	for (int i = 1; i < argc && !interrupted; i++) {
		int s = warm_path(argv[i]);

		status = s != EXIT_DONE ? s : status;
	}
	return status;
}
