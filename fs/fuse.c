/*
 * fuse.c - mount, session, loop, stop
 *
 * Threads: the caller of fuse_mount_serve waits here for events (the kernel's greeting, a request
 * to stop, the loop's end), on an eventfd; libfuse's loop runs on a thread of its own with its
 * workers. That makes stopping reliable: fuse_mount_stop, which a signal handler may call, sets a
 * flag and writes the eventfd; the waiting thread then pokes the loop's thread with POKE_SIGNAL
 * until its sem_wait has noticed (older libfuse has no other way, and one poke may come a moment
 * too early).
 *
 * No thread exists before fuse_mount_serve, so that the caller may fork after fuse_mount_new
 * (style.md F24).  Order of stopping: nothing waits any more (engine_halt), notifications end while
 * the loop still serves (one may wait for a reply), the loop ends, the last answers go out while
 * the session still exists (engine_drain).
 */
#include "fs/fuse_priv.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "util/cleanup.h"
#include "util/log.h"

#define LOOP_THREADS 16
#define MAX_BACKGROUND 64	/* requests the kernel sends ahead (style.md F14) */
#define READAHEAD_KIB 1024u	/* of the kernel, per open file (F13) */
#define FUSE_CONF_MAX 65536
#define POKE_SIGNAL SIGURG	/* ignored by default */
#define POKE_MS 20

/* ---- libfuse's messages ---- */

static pthread_mutex_t said_lock = PTHREAD_MUTEX_INITIALIZER;
static char said[256];		/* the last complaint, for the error of a failed mount */

static void on_fuse_log(enum fuse_log_level level, const char *fmt, va_list ap) _printf_(2, 0);
static void on_fuse_log(enum fuse_log_level level, const char *fmt, va_list ap)
{
	char line[256];
	size_t len;

	(void)vsnprintf(line, sizeof(line), fmt, ap);
	len = strcspn(line, "\n");
	line[len] = '\0';
	if (level >= FUSE_LOG_INFO) {
		log_debug("%s", line);
		return;
	}
	{
		LOCK_SCOPE(&said_lock);
		memcpy(said, line, len + 1);
	}
	log_warn("%s", line);
}

/* ---- may we mount there? ---- */

static errint_t check_mountpoint(const char *dir, uint64_t *ret_dev, struct err *e)
{
	struct stat st;

	if (stat(dir, &st) == 0) {
		*ret_dev = st.st_dev;
		return S_ISDIR(st.st_mode)
			       ? 0
			       : err_set(e, ENOTDIR, ERR_INPUT, "%s is not a directory", dir);
	}
	if (errno == ENOTCONN)
		return err_set(e, ENOTCONN, ERR_LOCAL,
			       "%s is a mount whose daemon has gone; run `fusermount3 -u %s` first",
			       dir, dir);
	return err_errno(e, errno, "%s", dir);
}

static errint_t check_device(struct err *e)
{
	if (access("/dev/fuse", R_OK | W_OK) == 0)
		return 0;
	if (errno != ENOENT)
		return err_set(e, EACCES, ERR_LOCAL,
			       "you may not use /dev/fuse (%s); as root: chmod 666 /dev/fuse", strerror(errno));
	return err_set(e, ENODEV, ERR_LOCAL,
		       "there is no /dev/fuse: load the kernel module fuse, or start "
		       "the container with --device /dev/fuse");
}

static bool conf_has_line(const char *file, const char *line)
{
	_cleanup_fclose_ FILE *f = fopen(file, "re");
	char text[256];
	size_t total = 0, len = strlen(line);

	while (f && total < FUSE_CONF_MAX && fgets(text, sizeof(text), f)) {
		const char *p = text + strspn(text, " \t");

		total += strlen(text);
		if (strncmp(p, line, len) == 0 && strspn(p + len, " \t\r\n") == strlen(p + len))
			return true;
	}
	return false;
}

static errint_t check_sharing(const struct fs_config *c, struct err *e)
{
	if ((!c->allow_other && !c->allow_root) || geteuid() == 0 ||
	    conf_has_line("/etc/fuse.conf", "user_allow_other"))
		return 0;
	return err_set(e, EPERM, ERR_INPUT,
		       "%s needs the line user_allow_other in /etc/fuse.conf, or root",
		       c->allow_other ? "allow_other" : "allow_root");
}

/* ---- options ---- */

/* A value in libfuse's option string: commas and backslashes are escaped. */
static void add_value(struct buf *b, const char *s)
{
	for (; *s; s++) {
		if (*s == ',' || *s == '\\')
			(void)buf_addc(b, '\\');
		(void)buf_addc(b, *s);
	}
}

/* Modes are meaningful here, so the kernel always checks them (style.md F19). */
static errint_t option_text(const struct fs_config *c, struct buf *b)
{
	(void)buf_addf(b, "default_permissions,subtype=registryfs,max_read=%u", FUSE_READ_MAX);
	(void)buf_addf(b, ",%s,%s", c->suid ? "suid" : "nosuid", c->dev ? "dev" : "nodev");
	if (c->noexec)
		(void)buf_adds(b, ",noexec");
	if (c->ro)
		(void)buf_adds(b, ",ro");
	if (c->debug)
		(void)buf_adds(b, ",debug");
	if (c->allow_other)
		(void)buf_adds(b, ",allow_other");
	else if (c->allow_root)
		(void)buf_adds(b, ",allow_root");
	(void)buf_adds(b, ",fsname=");
	add_value(b, c->fsname && *c->fsname ? c->fsname : "registryfs");
	return buf_check(b);
}

/* Mount options only where there is a mount. */
static errint_t add_args(const struct fuse_mount *m, struct fuse_args *args)
{
	_cleanup_buf_ struct buf b = BUF_INIT(8192);
	errint_t r = 0;

	if (m->mountpoint)
		r = option_text(m->fs->config, &b);
	else
		r = buf_addf(&b, "max_read=%u", FUSE_READ_MAX);
	if (r < 0)
		return r;
	if (fuse_opt_add_arg(args, "registryfs") < 0 || fuse_opt_add_arg(args, "-o") < 0 ||
	    fuse_opt_add_arg(args, buf_str(&b)) < 0)
		return -ENOMEM;
	return 0;
}

static errint_t new_session(struct fuse_mount *m, struct err *e)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	errint_t r = add_args(m, &args);

	if (r == 0) {
		m->se = fuse_session_new(&args, &fuse_ops, sizeof(fuse_ops), m);
		r = m->se ? 0 : -EINVAL;
	}
	fuse_opt_free_args(&args);
	return r < 0 ? err_set(e, -r, ERR_LOCAL, "libfuse refused to make a session: %s", said) : 0;
}

/* ---- making ---- */

static errint_t mount_parts(struct fuse_mount *m, struct err *e)
{
	errint_t r;

	m->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	m->handles = handle_table_new();
	if (m->wake_fd < 0 || !m->handles)
		return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
	fuse_set_log_func(on_fuse_log);
	r = new_session(m, e);
	if (r < 0)
		return r;
	m->fs->notifier = notifier_new(m->se);
	return m->fs->notifier ? 0 : err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
}

static errint_t attach(struct fuse_mount *m, struct err *e)
{
	if (fuse_session_mount(m->se, m->mountpoint) == 0) {
		m->mounted = true;
		return fuse_io_attach(m, NULL, fuse_session_fd(m->se));
	}
	return err_set(e, EIO, ERR_LOCAL, "cannot mount on %s%s%s", m->mountpoint,
		       *said ? ": " : "", said);
}

errint_t fuse_mount_new(struct fs *fs, struct fuse_mount **ret, struct err *e)
{
	const char *dir = fs->config->mountpoint;
	uint64_t dev_below = 0;
	errint_t r = check_mountpoint(dir, &dev_below, e);
	struct fuse_mount *m;

	if (r == 0)
		r = check_device(e);
	if (r == 0)
		r = check_sharing(fs->config, e);
	if (r < 0)
		return r;
	m = calloc(1, sizeof(*m));
	if (!m || !(m->mountpoint = strdup(dir))) {
		free(m);
		return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
	}
	m->fs = fs;
	m->dev_below = dev_below;
	r = mount_parts(m, e);
	if (r == 0)
		r = attach(m, e);
	if (r < 0) {
		(void)fuse_mount_free(m);
		return r;
	}
	*ret = m;
	return 0;
}

errint_t fuse_mount_new_custom(struct fs *fs, const struct fuse_custom_io *io, int fd,
			       struct fuse_mount **ret, struct err *e)
{
	struct fuse_mount *m = calloc(1, sizeof(*m));
	errint_t r;

	if (!m) {
		(void)close(fd);
		return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
	}
	m->fs = fs;
	r = mount_parts(m, e);
	if (r == 0)
		r = fuse_io_attach(m, io, fd);
	if (r < 0) {
		(void)err_set(e, -r, ERR_LOCAL, "libfuse refused the socket");
		(void)close(fd);
		(void)fuse_mount_free(m);
		return r;
	}
	*ret = m;
	return 0;
}

/* ---- what we want of the connection ---- */

static void wake_server(struct fuse_mount *m)
{
	uint64_t one = 1;

	if (write(m->wake_fd, &one, sizeof(one)) < 0)
		return; /* full: awake anyway */
}

/* Newer libfuse keeps more flags than fit into `want`, and has a function for it. */
static void want(struct fuse_conn_info *conn, uint64_t flag)
{
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
	(void)fuse_set_feature_flag(conn, flag);
#else
	conn->want |= conn->capable & (unsigned)flag;
#endif
}

static void do_not_want(struct fuse_conn_info *conn, uint64_t flag)
{
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
	fuse_unset_feature_flag(conn, flag);
#else
	conn->want &= ~(unsigned)flag;
#endif
}

/* Pages never go stale by themselves: what changes is read with direct_io, or is another node.  So
 * neither automatic invalidation (a getattr per read, pages dropped for a new mtime, F15) nor
 * explicit_inval (which would keep pages of a file whose size has changed).
 *
 * Symbolic links are in trees only (kind.h), and what one says never changes.
 *
 * Listings always come with attributes, not only when the kernel guesses that they will be wanted:
 * of 100 000 files, `find -size` takes 0.4 s instead of 5.7 s, `ls` 0.4 s instead of 0.2 s.  For long
 * lists of tags, which are looked at more than searched, it is the other way round (fuse_reply.c). */
void fuse_mount_greet(struct fuse_mount *m, struct fuse_conn_info *conn)
{
	static const uint64_t wanted[] = {
		FUSE_CAP_ASYNC_READ,	       FUSE_CAP_PARALLEL_DIROPS,
		FUSE_CAP_ATOMIC_O_TRUNC,       FUSE_CAP_ASYNC_DIO,
		FUSE_CAP_READDIRPLUS,	       FUSE_CAP_CACHE_SYMLINKS,
#ifdef FUSE_CAP_NO_EXPORT_SUPPORT
		FUSE_CAP_NO_EXPORT_SUPPORT,
#endif
#ifdef FUSE_CAP_DIRECT_IO_ALLOW_MMAP
		FUSE_CAP_DIRECT_IO_ALLOW_MMAP,
#endif
	};
	static const uint64_t unwanted[] = {
		FUSE_CAP_WRITEBACK_CACHE,  FUSE_CAP_AUTO_INVAL_DATA, FUSE_CAP_EXPLICIT_INVAL_DATA,
		FUSE_CAP_SPLICE_READ,	   FUSE_CAP_SPLICE_WRITE,    FUSE_CAP_SPLICE_MOVE,
		FUSE_CAP_EXPORT_SUPPORT,   FUSE_CAP_POSIX_ACL,	     FUSE_CAP_READDIRPLUS_AUTO,
	};

	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		want(conn, wanted[i]);
	for (size_t i = 0; i < ARRAY_SIZE(unwanted); i++)
		do_not_want(conn, unwanted[i]);
	conn->max_background = MAX_BACKGROUND;
	conn->congestion_threshold = MAX_BACKGROUND * 3 / 4;
	conn->max_readahead = READAHEAD_KIB << 10;
	conn->max_read = FUSE_READ_MAX;
#ifdef FUSE_CAP_EXPIRE_ONLY
	notifier_set_expiry(m->fs->notifier, conn->capable & FUSE_CAP_EXPIRE_ONLY);
#endif
	atomic_store(&m->amend_greeting, conn->capable & FUSE_CAP_PARALLEL_DIROPS);
	atomic_store(&m->greeted, true);
	wake_server(m);
}

/* The mount's device number, without asking the file system (which would be us). */
static uint64_t mounted_dev(const char *dir)
{
	struct statx st;

	if (statx(AT_FDCWD, dir, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &st) < 0)
		return 0;
	return makedev(st.stx_dev_major, st.stx_dev_minor);
}

/* The kernel's readahead stays at 128 KiB unless it is told otherwise here; only root may. */
static void widen_readahead(const struct fuse_mount *m)
{
	_cleanup_close_ int fd = -1;
	char path[64], value[16];
	int len = snprintf(value, sizeof(value), "%u\n", READAHEAD_KIB);

	(void)snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(m->dev),
		       minor(m->dev));
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, value, (size_t)len) < 0)
		log_debug("%s: %s; reads are limited to 128 KiB each", path, strerror(errno));
}

/* ---- serving ---- */

static void on_poke(int sig)
{
	(void)sig;
}

static void *loop(void *arg)
{
	struct fuse_mount *m = arg;
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	sigset_t poke;

	(void)pthread_setname_np(pthread_self(), "loop");
	(void)sigemptyset(&poke);
	(void)sigaddset(&poke, POKE_SIGNAL);
	(void)pthread_sigmask(SIG_UNBLOCK, &poke, NULL);
	m->loop_result = -ENOMEM;
	if (config) {
		fuse_loop_cfg_set_clone_fd(config, 0);
		fuse_loop_cfg_set_max_threads(config, LOOP_THREADS);
		m->loop_result = fuse_session_loop_mt(m->se, config);
		fuse_loop_cfg_destroy(config);
	}
	atomic_store(&m->loop_ended, true);
	wake_server(m);
	return NULL;
}

/* Signals are for the thread that serves, but for the one that ends the loop. */
static errint_t start_loop(struct fuse_mount *m)
{
	struct sigaction sa = { .sa_handler = on_poke };
	sigset_t all, old;
	int r;

	(void)sigaction(POKE_SIGNAL, &sa, NULL);
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&m->loop, NULL, loop, m);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

/* Sleeps until something has happened, or briefly while the loop is being ended. */
static void await_event(struct fuse_mount *m, bool ending)
{
	struct pollfd fd = { .fd = m->wake_fd, .events = POLLIN };
	uint64_t count;

	(void)poll(&fd, 1, ending ? POKE_MS : -1);
	if (read(m->wake_fd, &count, sizeof(count)) < 0)
		return; /* time has passed, or a signal came */
}

static void be_ready(struct fuse_mount *m, void (*ready)(void *arg), void *arg)
{
	if (m->mountpoint)
		m->dev = mounted_dev(m->mountpoint);
	/* Unless it has been unmounted already: then this is somebody else's device. */
	if (m->dev == m->dev_below)
		m->dev = 0;
	if (m->dev != 0)
		widen_readahead(m);
	if (ready)
		ready(arg);
}

static void await_end(struct fuse_mount *m, void (*ready)(void *arg), void *arg)
{
	bool was_ready = false, ending = false;

	for (;;) {
		bool ended = atomic_load(&m->loop_ended);

		if (!was_ready && atomic_load(&m->greeted)) {
			was_ready = true;
			be_ready(m, ready, arg);
		}
		if (ended)
			break;
		if (!ending && atomic_load(&m->stop)) {
			ending = true;
			engine_halt(m->fs->engine);
			notifier_stop(m->fs->notifier);
		}
		if (ending) {
			fuse_session_exit(m->se);
			(void)pthread_kill(m->loop, POKE_SIGNAL);
		}
		await_event(m, ending);
	}
	(void)pthread_join(m->loop, NULL);
}

errint_t fuse_mount_serve(struct fuse_mount *m, void (*ready)(void *arg), void *arg, struct err *e)
{
	errint_t r = notifier_start(m->fs->notifier);

	if (r == 0)
		r = start_loop(m);
	if (r < 0)
		return err_errno(e, -r, "cannot start a thread");
	await_end(m, ready, arg);
	engine_drain(m->fs->engine);
	if (m->loop_result < 0 && !atomic_load(&m->stop))
		return err_errno(e, -m->loop_result, "the connection to the kernel failed");
	return 0;
}

void fuse_mount_stop(struct fuse_mount *m)
{
	int saved = errno;

	atomic_store(&m->stop, true);
	wake_server(m);
	errno = saved;
}

/* May the mount point be unmounted?  Not when somebody has mounted over it; when we have been
 * unmounted already, libfuse sees that for itself. */
static bool is_ours_to_unmount(const struct fuse_mount *m)
{
	struct pollfd fd = { .fd = fuse_session_fd(m->se) };

	if (poll(&fd, 1, 0) == 1 && (fd.revents & POLLERR))
		return true;
	return m->dev == 0 || mounted_dev(m->mountpoint) == m->dev;
}

struct fuse_mount *fuse_mount_free(struct fuse_mount *m)
{
	if (!m)
		return NULL;
	if (m->fs->engine && m->se)
		engine_drain(m->fs->engine);
	if (m->mounted && is_ours_to_unmount(m))
		fuse_session_unmount(m->se);
	m->fs->notifier = notifier_free(m->fs->notifier);
	if (m->se)
		fuse_session_destroy(m->se);
	(void)handle_table_free(m->handles);
	if (m->wake_fd >= 0)
		(void)close(m->wake_fd);
	free(m->mountpoint);
	free(m);
	return NULL;
}
