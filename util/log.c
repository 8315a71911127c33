/*
 * log.c - one line per event
 *
 * Every line is put together in memory and leaves in one write (or syslog) call, so that lines of
 * different threads never mix.  No lock: target, level and descriptor are atomics, and opening a
 * file again (log rotation) replaces what the same descriptor number refers to.
 */
#include "util/log.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "util/buf.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define LOG_MSG_MAX 4096			/* bytes of one message; the rest is cut off */
#define LOG_LINE_MAX (4 * LOG_MSG_MAX + 128)	/* every byte as \xNN, and a stamp */

static const struct {
	const char *name;
	int syslog_prio;
} levels[] = {
	[LOG_LVL_ERROR] = { "error", LOG_ERR },
	[LOG_LVL_WARN] = { "warning", LOG_WARNING },
	[LOG_LVL_INFO] = { "info", LOG_INFO },
	[LOG_LVL_DEBUG] = { "debug", LOG_DEBUG },
};

static atomic_int log_level = LOG_LVL_INFO;
static atomic_int log_target = LOG_TO_STDERR;
static atomic_int log_fd = -1;

static errint_t open_file(const char *file, struct err *e)
{
	_cleanup_close_ int fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY,
				      0640);

	if (fd < 0)
		return err_errno(e, errno, "cannot open the log file %s", file);
	if (log_fd < 0)
		log_fd = steal_fd(&fd);
	else if (dup3(fd, log_fd, O_CLOEXEC) < 0)
		return err_errno(e, errno, "cannot reopen the log file %s", file);
	return 0;
}

errint_t log_open(enum log_target target, const char *file, struct err *e)
{
	errint_t r = 0;

	if (target == LOG_TO_FILE)
		r = open_file(file, e);
	else if (target == LOG_TO_SYSLOG)
		openlog("registryfs", LOG_PID, LOG_DAEMON);
	if (r == 0)
		log_target = (int)target;
	return r;
}

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&log_level, (int)level, memory_order_relaxed);
}

enum log_level log_get_level(void)
{
	return (enum log_level)atomic_load_explicit(&log_level, memory_order_relaxed);
}

static void write_line(int fd, const struct buf *line)
{
	while (write(fd, line->data, line->len) < 0 && errno == EINTR)
		;
}

/* msg is already escaped. */
static void to_fd(int fd, enum log_level level, const char *prefix, const char *msg)
{
	_cleanup_buf_ struct buf line = BUF_INIT(LOG_LINE_MAX);

	if (buf_addf(&line, "%s %s: %s\n", prefix, levels[level].name, msg) == 0)
		write_line(fd, &line);
}

static void emit(enum log_level level, const char *msg)
{
	char stamp[32];

	switch (atomic_load(&log_target)) {
	case LOG_TO_SYSLOG:
		syslog(levels[level].syslog_prio, "%s", msg);
		break;
	case LOG_TO_FILE:
		to_fd(log_fd, level, clock_format_rfc3339(clock_real_s(), stamp, sizeof(stamp)),
		      msg);
		break;
	default:
		to_fd(STDERR_FILENO, level, "registryfs:", msg);
	}
}

void log_at(enum log_level level, const char *fmt, ...)
{
	_cleanup_buf_ struct buf text = BUF_INIT(LOG_LINE_MAX);
	char msg[LOG_MSG_MAX];
	int saved = errno;
	va_list ap;

	if (level > log_get_level())
		return;
	va_start(ap, fmt);
	int n = vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	if (n >= 0 && buf_add_text(&text, msg, strlen(msg)) == 0)
		emit(level, buf_str(&text));
	errno = saved;
}
