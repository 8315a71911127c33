/*
 * daemon.c - fork, wait, signals, and the end
 *
 * The status pipe carries one byte, '0' or '1', and after '1' a sentence.  A child that dies without
 * a word closes the pipe; a parent that dies is noticed by the child as POLLERR on its end, and the
 * start is given up.
 *
 * Threads: start, serve and done run on the main thread of the child; the signal thread below runs
 * beside them and is joined before done.  All signals it reads are blocked everywhere else.
 */
#include "fs/daemon.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "fs/cmd.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

#define NOFILE_MAX 1048576		/* more descriptors than this are never asked for */
#define INSIST_NS (3 * NSEC_PER_SEC)	/* a signal this long after the first one ends at once */
#define KILL_GRACE_MS 500

enum stage { STAGE_STARTING = 0, STAGE_SERVING, STAGE_OVER };

struct daemon {
	const struct fs_config *config;
	const struct daemon_work *work;
	struct cancel cancel;		/* of the start */
	const char *supervisor;		/* $NOTIFY_SOCKET */
	int status_fd;			/* to the parent; -1 in the foreground or when told */
	int signal_fd;
	int event_fd;			/* stage has changed */
	atomic_int stage;
	atomic_bool started;		/* start returned 0: stop may be called */
	atomic_bool stopping;
	uint64_t deadline_ns, stopping_since_ns;
};

/* ---- systemd ---- */

void notify_supervisor(const char *socket_name, const char *state)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	size_t n = socket_name ? strlen(socket_name) : 0;

	if (n < 2 || n >= sizeof(sa.sun_path) || (*socket_name != '/' && *socket_name != '@'))
		return;
	memcpy(sa.sun_path, socket_name, n);
	if (*socket_name == '@')
		sa.sun_path[0] = '\0';	/* abstract */

	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd >= 0)
		(void)sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&sa,
			     (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n));
}

static void notify_ready(const struct daemon *d)
{
	char text[128];

	(void)snprintf(text, sizeof(text), "READY=1\nMAINPID=%d\n", (int)getpid());
	notify_supervisor(d->supervisor, text);
}

/* ---- the process ---- */

/* Credentials are in memory: no core, no debugger, but for -d. */
static void harden(bool debug)
{
	const struct rlimit none = { 0 };
	struct rlimit files;

	if (!debug) {
		(void)setrlimit(RLIMIT_CORE, &none);
		(void)prctl(PR_SET_DUMPABLE, 0);
	}
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = MIN_OF(files.rlim_max, (rlim_t)NOFILE_MAX);
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	(void)umask(077);
}

/* Until the mount is ready, the terminal gets the one sentence of a failure. */
static errint_t open_log(const struct fs_config *c, bool ready, struct err *e)
{
	bool terminal = c->foreground || !ready;
	int level = c->log_level;

	if (!c->log_file && !c->foreground && !ready)
		level = (int)LOG_LVL_ERROR;
	log_set_level((enum log_level)level);
	if (c->log_file)
		return log_open(LOG_TO_FILE, c->log_file, e);
	return log_open(terminal ? LOG_TO_STDERR : LOG_TO_SYSLOG, NULL, e);
}

static void leave_terminal(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)setsid();
	for (int i = 0; i <= 2 && fd >= 0; i++)
		(void)dup2(fd, i);
	if (fd > 2)
		(void)close(fd);
}

/* ---- what the parent is told ---- */

static void tell(struct daemon *d, char status, const char *sentence)
{
	_cleanup_buf_ struct buf b = BUF_INIT(ERR_MSG_MAX + 16);

	if (d->status_fd < 0)
		return;
	(void)buf_addc(&b, status);
	(void)buf_adds(&b, sentence);
	while (write(d->status_fd, b.data, b.len) < 0 && errno == EINTR)
		;
	(void)close(steal_fd(&d->status_fd));
}

static void go_public(struct daemon *d)
{
	struct err e = { 0 };

	if (!d->config->foreground) {
		leave_terminal();
		(void)open_log(d->config, true, &e);
	}
	log_info("%s is mounted on %s", d->config->fsname, d->config->mountpoint);
	notify_ready(d);
	tell(d, '0', "");
}

/* ---- the signal thread ---- */

static void stop_now(struct daemon *d)
{
	if (!atomic_exchange(&d->stopping, true)) {
		d->stopping_since_ns = clock_mono_ns();
		cancel_fire(&d->cancel);
		notify_supervisor(d->supervisor, "STOPPING=1\n");
		if (atomic_load(&d->started))
			d->work->stop(d->work->arg);
	} else if (clock_mono_ns() - d->stopping_since_ns > INSIST_NS) {
		log_error("told to end once more: ending at once");
		_exit(EXIT_FAILED);
	}
}

static void reload(struct daemon *d)
{
	struct err e = { 0 };

	if (d->config->log_file && log_open(LOG_TO_FILE, d->config->log_file, &e) < 0)
		log_error("%s", e.msg);
	if (atomic_load(&d->stage) != STAGE_SERVING)
		return;
	d->work->refresh(d->work->arg);
	log_info("what may have changed is asked for again");
}

static void next_level(void)
{
	static const char *const names[] = { "error", "warning", "info", "debug" };
	enum log_level l = log_get_level() == LOG_LVL_DEBUG ? LOG_LVL_WARN : log_get_level() + 1;

	log_set_level(LOG_LVL_INFO);
	log_info("the log level is now %s", names[l]);
	log_set_level(l);
}

static void take_signal(struct daemon *d)
{
	struct signalfd_siginfo si;

	if (read(d->signal_fd, &si, sizeof(si)) != (ssize_t)sizeof(si))
		return;
	if (si.ssi_signo == SIGHUP)
		reload(d);
	else if (si.ssi_signo == SIGUSR1)
		next_level();
	else
		stop_now(d);
}

static int time_left_ms(const struct daemon *d, bool starting)
{
	uint64_t now = clock_mono_ns();

	if (!starting || cancel_fired(&d->cancel))
		return -1;
	return now >= d->deadline_ns ? 0 : (int)((d->deadline_ns - now) / NSEC_PER_MSEC) + 1;
}

/* Once: the kernel has said INIT. */
static void note_stage(struct daemon *d, bool *starting)
{
	uint64_t n;

	(void)!read(d->event_fd, &n, sizeof(n));
	if (*starting && atomic_load(&d->stage) == STAGE_SERVING) {
		*starting = false;
		go_public(d);
	}
}

static void *signal_thread(void *arg)
{
	struct daemon *d = arg;
	bool starting = true;

	while (atomic_load(&d->stage) != STAGE_OVER) {
		struct pollfd pf[] = {
			{ .fd = d->signal_fd, .events = POLLIN },
			{ .fd = d->event_fd, .events = POLLIN },
			{ .fd = starting && !cancel_fired(&d->cancel) ? d->status_fd : -1 },
		};
		int n = poll(pf, ARRAY_SIZE(pf), time_left_ms(d, starting));

		if (n == 0 || (n > 0 && pf[2].revents))
			cancel_fire(&d->cancel);	/* too late, or nobody waits */
		if (n > 0 && pf[0].revents)
			take_signal(d);
		if (n > 0 && pf[1].revents)
			note_stage(d, &starting);
	}
	return NULL;
}

static void set_stage(struct daemon *d, enum stage s)
{
	const uint64_t one = 1;

	atomic_store(&d->stage, (int)s);
	(void)!write(d->event_fd, &one, sizeof(one));
}

static void on_ready(void *arg)
{
	set_stage(arg, STAGE_SERVING);
}

/* ---- the child ---- */

static errint_t block_signals(struct daemon *d, struct err *e)
{
	static const int mine[] = { SIGINT, SIGTERM, SIGHUP, SIGUSR1 };
	sigset_t set;

	(void)sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(mine); i++)
		(void)sigaddset(&set, mine[i]);
	(void)pthread_sigmask(SIG_BLOCK, &set, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
	d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	d->event_fd = eventfd(0, EFD_CLOEXEC);
	if (d->signal_fd < 0 || d->event_fd < 0)
		return err_errno(e, errno, "cannot prepare for signals");
	return 0;
}

static errint_t start_and_serve(struct daemon *d, struct err *e)
{
	const struct daemon_work *w = d->work;
	errint_t r = w->start(w->arg, &d->cancel, e);

	if (r == -ECANCELED && d->stopping)
		return err_set(e, EINTR, ERR_CANCELLED, "interrupted before the mount was ready");
	if (r == -ECANCELED)
		return err_set(e, ETIMEDOUT, ERR_TIMEOUT, "%s did not answer within %d seconds; is the "
			       "host name right, and is the network up?", d->config->fsname,
			       DAEMON_START_MS / 1000);
	if (r == 0)
		atomic_store(&d->started, true);
	if (r == 0 && cancel_fired(&d->cancel))
		return err_set(e, EINTR, ERR_CANCELLED, "interrupted before the mount was ready");
	return r < 0 ? r : w->serve(w->arg, on_ready, d, e);
}

/* The outcome goes to whoever still listens: the parent, the terminal or the log. */
static int report(struct daemon *d, errint_t r, const struct err *e)
{
	bool served = atomic_load(&d->stage) == STAGE_SERVING;

	if (r == 0)
		tell(d, served ? '0' : '1', "the mount ended before it was ready");
	else if (d->status_fd >= 0)
		tell(d, '1', e->msg);
	else if (served)
		log_error("%s", e->msg);
	else
		complain("%s", e->msg);
	if (r == 0 && served)
		log_info("%s is unmounted", d->config->mountpoint);
	return r == 0 ? EXIT_DONE : EXIT_FAILED;
}

static int work_with_signals(struct daemon *d)
{
	struct err e = { 0 };
	errint_t r = open_log(d->config, false, &e);
	pthread_t thread;
	int status;

	if (r == 0)
		r = block_signals(d, &e);
	if (r == 0 && pthread_create(&thread, NULL, signal_thread, d) != 0)
		r = err_set(&e, EAGAIN, ERR_LOCAL, "cannot start a thread");
	if (r < 0)
		return report(d, r, &e);
	r = start_and_serve(d, &e);
	status = atomic_load(&d->stage);
	set_stage(d, STAGE_OVER);
	(void)pthread_join(thread, NULL);
	atomic_store(&d->stage, status);
	if (!atomic_load(&d->stopping))
		notify_supervisor(d->supervisor, "STOPPING=1\n");
	d->work->done(d->work->arg);
	return report(d, r, &e);
}

static int child_main(const struct fs_config *c, const struct daemon_work *w, int status_fd)
{
	static char supervisor[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	const char *socket_name = getenv("NOTIFY_SOCKET");
	struct daemon d = {
		.config = c,
		.work = w,
		.supervisor = supervisor,
		.status_fd = status_fd,
		.signal_fd = -1,
		.event_fd = -1,
		.deadline_ns = clock_mono_ns() + DAEMON_START_MS * NSEC_PER_MSEC,
	};

	if (socket_name)
		(void)snprintf(supervisor, sizeof(supervisor), "%s", socket_name);
	(void)unsetenv("NOTIFY_SOCKET");	/* not for credential helpers */
	cancel_init(&d.cancel);
	harden(c->debug);
	return work_with_signals(&d);
}

/* ---- the parent ---- */

static void end_child(pid_t pid)
{
	(void)kill(pid, SIGTERM);
	for (int i = 0; i < KILL_GRACE_MS / 10; i++) {
		if (waitpid(pid, NULL, WNOHANG) != 0)
			return;
		(void)usleep(10000);
	}
	(void)kill(pid, SIGKILL);
}

static int explain_death(pid_t pid)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status))
		complain("the mount's process was killed by signal %d (%s) while it started",
			 WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		complain("the mount's process ended with status %d while it started; -f shows more",
			 WEXITSTATUS(status));
	return EXIT_FAILED;
}

/* Reads the child's word until it closes the pipe. */
static int wait_for_word(int fd, pid_t pid)
{
	uint64_t end = clock_mono_ns() + DAEMON_WAIT_MS * NSEC_PER_MSEC;
	_cleanup_buf_ struct buf word = BUF_INIT(ERR_MSG_MAX + 16);
	ssize_t n = 1;

	while (n > 0) {
		struct pollfd pf = { .fd = fd, .events = POLLIN };
		int64_t left = (int64_t)(end - clock_mono_ns()) / (int64_t)NSEC_PER_MSEC;
		char part[256];

		if (poll(&pf, 1, left > 0 ? (int)left : 0) == 0) {
			end_child(pid);
			complain("the mount did not get ready within %d seconds; -f -d shows where it "
				 "hangs", DAEMON_WAIT_MS / 1000);
			return EXIT_FAILED;
		}
		n = read(fd, part, sizeof(part));
		if (n > 0)
			(void)buf_add(&word, part, (size_t)n);
		else if (n < 0 && errno == EINTR)
			n = 1;
	}
	if (word.len == 0)
		return explain_death(pid);
	if (word.data[0] == '0')
		return EXIT_DONE;
	complain("%s", word.data + 1);
	return EXIT_FAILED;
}

/* What the shell left open would keep its pipes open for as long as the mount lives. */
static void close_others(int keep)
{
	if (keep > 3)
		(void)close_range(3, (unsigned)keep - 1, 0);
	(void)close_range((unsigned)keep + 1, ~0U, 0);
}

static int run_in_background(const struct fs_config *c, const struct daemon_work *w)
{
	int p[2];
	pid_t pid;

	if (pipe2(p, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		complain("cannot start a process: %s", strerror(errno));
		return EXIT_FAILED;
	}
	if (pid == 0) {
		close_others(p[1]);
		(void)!chdir("/");
		return child_main(c, w, p[1]);
	}
	(void)close(p[1]);
	return wait_for_word(p[0], pid);
}

int daemon_run(const struct fs_config *c, const struct daemon_work *w)
{
	(void)fflush(NULL);
	return c->foreground ? child_main(c, w, -1) : run_in_background(c, w);
}
