/*
 * op_interrupt.c - ending operations whose caller has been killed, or that wait for too long
 *
 * The kernel says INTERRUPT for every signal, once per request, also for one that has a handler and
 * SA_RESTART.  Answering EINTR each time breaks git and Go programs; never answering makes `kill
 * -9` wait for the network.  So the mark that op_interrupt leaves only makes the *ticker* look,
 * every OP_TICK_MS, whether a signal is pending in the calling thread that will end it (style.md
 * F9). Stop signals are none: Ctrl-Z takes effect when the answer is there.  A thread that cannot
 * be looked at (pid 0 from another pid namespace, hidepid) is taken for dying after a grace time.
 *
 * The ticker is one thread per engine, started with the first operation that parks.  It sleeps
 * without a timeout while nothing is parked, until the first deadline while nothing is marked.  It
 * gathers suspects under engine.lock, with a reference each, and judges them without it.
 */
#include "fs/op.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "fs/op_priv.h"
#include "util/clock.h"
#include "util/log.h"

#define STATUS_MAX 8192		/* bytes of /proc/TID/status */
#define SLEEP_FOREVER UINT64_MAX

/* ---- is the caller dying? ---- */

static uint64_t signal_bit(int sig)
{
	return UINT64_C(1) << (sig - 1);
}

/* The set in "SigPnd:\t<hex>"; 0 when there is no such line. */
static uint64_t status_set(const char *status, const char *field)
{
	const char *p = strstr(status, field);

	return p ? strtoull(p + strlen(field), NULL, 16) : 0;
}

bool op_status_is_fatal(const char *status)
{
	static const int harmless[] = {
		SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGCHLD, SIGCONT, SIGURG, SIGWINCH,
	};
	uint64_t pending = status_set(status, "\nSigPnd:") | status_set(status, "\nShdPnd:");
	uint64_t spared = status_set(status, "\nSigBlk:") | status_set(status, "\nSigIgn:") |
			  status_set(status, "\nSigCgt:");

	for (size_t i = 0; i < ARRAY_SIZE(harmless); i++)
		spared |= signal_bit(harmless[i]);
	spared &= ~signal_bit(SIGKILL);
	return (pending & ~spared) != 0;
}

static ssize_t read_status(pid_t tid, char *ret, size_t size)
{
	_cleanup_close_ int fd = -1;
	char path[64];
	size_t len = 0;
	ssize_t n = 0;

	if (tid <= 0)
		return -1;
	(void)snprintf(path, sizeof(path), "/proc/%d/status", (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	while (len < size - 1 && (n = read(fd, ret + len, size - 1 - len)) > 0)
		len += (size_t)n;
	ret[len] = '\0';
	return n < 0 || len == 0 ? -1 : (ssize_t)len;
}

static bool caller_is_dying(struct op *op, uint64_t now)
{
	struct op_private *p = op->priv;
	char status[STATUS_MAX];

	if (p->interrupted_ns == 0)
		p->interrupted_ns = now;
	if (read_status(op->pid, status, sizeof(status)) > 0)
		return op_status_is_fatal(status);
	return now - p->interrupted_ns >= OP_INTR_GRACE_MS * NSEC_PER_MSEC;
}

void op_interrupt(struct op *op)
{
	atomic_store(&op->priv->interrupted, true);
	ticker_kick(op->eng);
}

/* ---- judging ---- */

static bool is_overdue(const struct engine *e, const struct op_private *p, uint64_t now)
{
	return now >= p->since_ns && now - p->since_ns >= e->park_timeout_ns;
}

/* The first key that is still under way, for the message; moves since_ns on when a work of this
 * operation has got on meanwhile.  Lock held. */
static const char *look_at_works(struct engine *e, struct op_private *p)
{
	const char *key = "";

	for (const struct wait *w = p->waits; w; w = w->next) {
		if (w->state != WAIT_JOINED)
			continue;
		key = w->key;
		p->since_ns = MAX_OF(p->since_ns, works_progress(e, key));
	}
	return key;
}

/* The key it waits for in vain, or NULL: it may go on waiting. */
static const char *waits_in_vain(struct op *op, uint64_t now)
{
	struct engine *e = op->eng;
	struct op_private *p = op->priv;
	const char *key;

	LOCK_SCOPE(&e->lock);
	if (p->state != OP_STATE_PARKED || !is_overdue(e, p, now))
		return NULL;
	key = look_at_works(e, p);
	return is_overdue(e, p, now) ? key : NULL;
}

static void judge(struct op *op, uint64_t now)
{
	const char *key;

	if (atomic_load(&op->priv->interrupted) && caller_is_dying(op, now)) {
		if (op_claim(op))
			op_end_parked(op,
				      err_set(&op->err, EINTR, ERR_CANCELLED, "ended by a signal"));
		return;
	}
	key = waits_in_vain(op, now);
	if (key && op_claim(op))
		op_end_parked(
			op, err_set(&op->err, ETIMEDOUT, ERR_TIMEOUT, "no progress for %llu s: %s",
				    (unsigned long long)(op->eng->park_timeout_ns / NSEC_PER_SEC),
				    key));
}

/* ---- the ticker ---- */

/* Lists, with a reference each, the operations to look at; *ret_sleep_ns: until the next look. */
static struct op *suspects(struct engine *e, uint64_t now, uint64_t *ret_sleep_ns)
{
	uint64_t sleep = SLEEP_FOREVER;
	struct op *list = NULL;

	LOCK_SCOPE(&e->lock);
	for (struct op *op = e->parked; op; op = op->priv->next) {
		struct op_private *p = op->priv;
		bool marked = atomic_load(&p->interrupted), overdue = is_overdue(e, p, now);

		if (marked || overdue) {
			(void)atomic_fetch_add(&p->refs, 1);
			p->next_suspect = list;
			list = op;
			sleep = MIN_OF(sleep, OP_TICK_MS * NSEC_PER_MSEC);
		} else {
			sleep = MIN_OF(sleep, p->since_ns + e->park_timeout_ns - now);
		}
	}
	e->ticker_sleeps = sleep == SLEEP_FOREVER;
	*ret_sleep_ns = sleep;
	return list;
}

static uint64_t look_around(struct engine *e)
{
	uint64_t now = clock_mono_ns(), sleep;
	struct op *op = suspects(e, now, &sleep);

	while (op) {
		struct op *next = op->priv->next_suspect;

		judge(op, now);
		op_unref(op);
		op = next;
	}
	return sleep;
}

static int poll_ms(uint64_t ns)
{
	if (ns == SLEEP_FOREVER)
		return -1;
	ns = ns / NSEC_PER_MSEC + 1;
	return ns > INT_MAX ? INT_MAX : (int)ns;
}

static bool must_end(struct engine *e)
{
	LOCK_SCOPE(&e->lock);
	return e->ticker_ends;
}

static void *ticker(void *arg)
{
	struct engine *e = arg;
	struct pollfd fd = { .fd = e->ticker_fd, .events = POLLIN };
	uint64_t kicks;

	(void)pthread_setname_np(pthread_self(), "ticker");
	while (!must_end(e)) {
		uint64_t sleep = look_around(e);
		bool marks = sleep <= OP_TICK_MS * NSEC_PER_MSEC;

		/* While there are marks anyway, more of them do not make us look more often. */
		if (marks)
			(void)poll(NULL, 0, OP_TICK_MS);
		else
			(void)poll(&fd, 1, poll_ms(sleep));
		if (read(e->ticker_fd, &kicks, sizeof(kicks)) < 0)
			continue; /* not kicked: time has passed */
	}
	return NULL;
}

void ticker_kick(struct engine *e)
{
	uint64_t one = 1;

	/* Full means: kicked often enough. */
	if (write(e->ticker_fd, &one, sizeof(one)) < 0)
		return;
}

void ticker_start(struct engine *e)
{
	sigset_t all, old;
	int r;

	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&e->ticker, NULL, ticker, e);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	e->ticker_runs = r == 0;
	if (r != 0)
		log_warn("no thread for deadlines and interrupts: %s", strerror(r));
}

void ticker_stop(struct engine *e)
{
	{
		LOCK_SCOPE(&e->lock);
		if (!e->ticker_runs)
			return;
		e->ticker_ends = true;
	}
	ticker_kick(e);
	(void)pthread_join(e->ticker, NULL);
}
