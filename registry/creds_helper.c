/*
 * creds_helper.c - running docker-credential-<suffix>
 *
 * No shell.  The host goes into a pipe before the child exists, so writing can neither block nor
 * raise SIGPIPE.  The child gets a process group of its own, which is killed when time or the
 * ceiling for its output is up or nobody waits any more.  What it prints is secret, and wiped.
 */
#include "registry/creds.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <strings.h>
#include <sys/wait.h>

#include "util/clock.h"
#include "util/json.h"

#define SLICE_MS 50	/* how often cancellation is looked at */
#define SUFFIX_MAX 64

extern char **environ;

static bool suffix_ok(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

	return n > 0 && n <= SUFFIX_MAX && s[n] == '\0' && s[0] != '.' && s[0] != '-';
}

/* Off the standard descriptors, which a daemon may have closed: the child's dup2s would overwrite
 * one end with the other. */
static int raise_fd(int fd)
{
	int high, eno;

	if (fd > 2)
		return fd;
	high = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	eno = errno;
	(void)close(fd);
	errno = eno;
	return high;
}

/* -1 with errno. */
static int high_pipe(int fds[static 2])
{
	if (pipe2(fds, O_CLOEXEC) < 0)
		return -1;
	fds[0] = raise_fd(fds[0]);
	fds[1] = raise_fd(fds[1]);
	if (fds[0] >= 0 && fds[1] >= 0)
		return 0;
	if (fds[0] >= 0)
		(void)close(fds[0]);
	if (fds[1] >= 0)
		(void)close(fds[1]);
	errno = EMFILE;
	return -1;
}

/* A pipe end with the whole input in it. */
static int input_fd(const char *text)
{
	size_t n = strlen(text);
	int fds[2];

	if (n > 1024 || high_pipe(fds) < 0)
		return -1;
	if (write(fds[1], text, n) != (ssize_t)n) {
		(void)close(fds[0]);
		fds[0] = -1;
	}
	(void)close(fds[1]);
	return fds[0];
}

static int spawn(const char *prog, int in, int out, pid_t *ret)
{
	char get[] = "get";
	char *argv[] = { (char *)(uintptr_t)prog, get, NULL };
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t at;
	sigset_t none, all;
	int r;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&fa);
	posix_spawnattr_init(&at);
	posix_spawn_file_actions_adddup2(&fa, in, 0);
	posix_spawn_file_actions_adddup2(&fa, out, 1);
	posix_spawn_file_actions_addopen(&fa, 2, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addclosefrom_np(&fa, 3);
	posix_spawnattr_setflags(&at, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
				      POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setpgroup(&at, 0);
	posix_spawnattr_setsigmask(&at, &none);
	posix_spawnattr_setsigdefault(&at, &all);
	r = posix_spawnp(ret, prog, &fa, &at, argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	posix_spawnattr_destroy(&at);
	return r;
}

/* 1 = more may come, 0 = end of output, negative = failed. */
static int read_some(int fd, struct buf *out)
{
	char chunk[4096];
	ssize_t n = read(fd, chunk, sizeof(chunk));
	errint_t r;

	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 1 : -errno;
	r = n > 0 ? buf_add(out, chunk, (size_t)n) : 0;
	explicit_bzero(chunk, sizeof(chunk));
	return r < 0 ? r : n > 0;
}

static errint_t read_output(int fd, struct buf *out, struct cancel *c)
{
	uint64_t end = clock_mono_ns() + CREDS_HELPER_TIMEOUT_NS;
	int r = 1;

	while (r > 0) {
		struct pollfd p = { .fd = fd, .events = POLLIN };

		if (cancel_fired(c))
			return -ECANCELED;
		if (clock_mono_ns() > end)
			return -ETIMEDOUT;
		if (poll(&p, 1, SLICE_MS) > 0)
			r = read_some(fd, out);
	}
	return r;
}

/* Its exit status, -1 when unknown. */
static int reap(pid_t pid, bool kill_it)
{
	uint64_t end = clock_mono_ns() + NSEC_PER_SEC;
	int status = 0;
	pid_t r;

	while ((r = waitpid(pid, &status, kill_it ? 0 : WNOHANG)) <= 0) {
		if (r < 0 && errno != EINTR)
			return -1;
		if (r == 0 && clock_mono_ns() > end)
			kill_it = true;
		if (kill_it)
			(void)kill(-pid, SIGKILL);
		if (r == 0)
			(void)poll(NULL, 0, 5);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static errint_t parse_answer(struct buf *out, struct cred *ret)
{
	_cleanup_(json_freep) struct json *doc = NULL;
	errint_t r = json_parse(buf_str(out), out->len, &doc, NULL);
	const char *user, *secret;

	if (r < 0)
		return r;
	user = json_str(doc, "Username");
	secret = json_str(doc, "Secret");
	if (!secret || !*secret)
		return 0;
	ret->user = strdup(user ? user : "");
	ret->secret = strdup(secret);
	if (!ret->user || !ret->secret)
		return -ENOMEM;
	ret->kind = strcmp(ret->user, "<token>") == 0 ? CRED_IDENTITY : CRED_BASIC;
	return 0;
}

static bool says_not_found(struct buf *out)
{
	return strcasestr(buf_str(out), "not found") || out->len == 0;
}

static errint_t run(const char *prog, const char *host, struct buf *out, int *ret_status,
		    struct cancel *c, struct err *e)
{
	_cleanup_close_ int in = input_fd(host);
	_cleanup_close_ int rfd = -1;
	_cleanup_close_ int wfd = -1;
	int fds[2];
	pid_t pid;
	errint_t r;

	if (in < 0 || high_pipe(fds) < 0)
		return err_errno(e, errno, "a pipe for %s", prog);
	rfd = fds[0];
	wfd = fds[1];
	r = spawn(prog, in, wfd, &pid);
	if (r > 0)
		return err_set(
			e, EACCES, ERR_AUTH,
			"the credential helper %s cannot be run: %s; install it or remove it "
			"from the credential file",
			prog, strerror(r));
	(void)close(steal_fd(&wfd));
	r = read_output(rfd, out, c);
	if (r < 0)
		(void)kill(-pid, SIGKILL);
	*ret_status = reap(pid, r < 0);
	if (r == -ECANCELED)
		return err_set(e, ECANCELED, ERR_CANCELLED, "cancelled while %s ran", prog);
	if (r == -ETIMEDOUT)
		return err_set(e, ETIMEDOUT, ERR_TIMEOUT, "the credential helper %s did not answer",
			       prog);
	if (r < 0)
		return err_set(e, EACCES, ERR_AUTH, "the credential helper %s printed too much",
			       prog);
	return 0;
}

errint_t cred_helper_run(const char *suffix, const char *host, struct cred *ret, struct cancel *c,
			 struct err *e)
{
	_cleanup_buf_ struct buf out = BUF_INIT(CREDS_HELPER_OUTPUT_MAX);
	const char *server = ref_is_docker_hub(host) ? "https://index.docker.io/v1/" : host;
	char prog[SUFFIX_MAX + 32];
	int status = -1;
	errint_t r;

	*ret = (struct cred){ .from_helper = true };
	if (!suffix_ok(suffix))
		return err_set(e, EACCES, ERR_AUTH,
			       "a credential file names a helper that is no plain program name");
	(void)snprintf(prog, sizeof(prog), "docker-credential-%s", suffix);
	(void)snprintf(ret->origin, sizeof(ret->origin), "%s", prog);
	/* all of it at once, so that growing leaves no copies of secrets behind */
	if (buf_reserve(&out, CREDS_HELPER_OUTPUT_MAX) < 0)
		return err_set(e, ENOMEM, ERR_LOCAL, "no memory for %s", prog);
	r = run(prog, server, &out, &status, c, e);
	if (r == 0 && status != 0 && !says_not_found(&out))
		r = err_set(e, EACCES, ERR_AUTH,
			    "the credential helper %s failed for %s (exit %d); run it by hand to "
			    "see why",
			    prog, host, status);
	else if (r == 0 && status == 0 && parse_answer(&out, ret) < 0)
		r = err_set(e, EACCES, ERR_AUTH, "the credential helper %s did not answer in JSON",
			    prog);
	explicit_bzero(out.data, out.cap);
	if (r < 0)
		cred_done(ret);
	return r;
}
