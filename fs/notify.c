/*
 * notify.c - invalidations, sent by a thread of their own
 *
 * A notification may block in the kernel until a look-up in that directory, or a read of that file,
 * has been answered, and those answers may need whoever wants to notify: so handlers only queue
 * copies, and this thread, which holds nothing, sends (style.md F5).  Entries are expired rather
 * than dropped where the kernel can, so that what is mounted on top of one stays.
 *
 * Order (F6): an invalidation must reach the kernel after every reply that was computed before it,
 * or the stale reply wins.  Queuing one increases the epoch; a reply that sees a newer epoch than
 * its request did is not to be cached.  The replies that looked just before that are waited for:
 * each runs inside one of two gates; the thread turns new ones to the other gate and waits until
 * the old one is empty before it sends.
 *
 * notify_store is no invalidation and goes out on its caller's thread; why that is safe is told in
 * fuse_push.c.
 *
 * The queue has a ceiling; what does not fit is dropped and counted: time-outs end it too.
 * Lock: notifier.lock, a leaf.
 */
#include "fs/fuse_priv.h"

#include <stdlib.h>
#include <string.h>

#include "util/cancel.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

#define NOTIFY_QUEUE_MAX 65536u
#define GATE_POLL_NS 200000
#define FLUSH_POLL_NS 500000
#define FLUSH_MAX_NS (2 * NSEC_PER_SEC)

struct notice {
	struct notice *next;
	uint64_t id;		/* of the parent, when there is a name */
	bool is_entry;
	size_t len;
	char name[];
};

struct notifier {
	struct fuse_session *se;
	_Atomic uint64_t epoch;
	atomic_uint gate;		/* which one replies go through now: 0 or 1 */
	atomic_uint inside[2];
	bool can_expire;		/* set before the thread sends anything */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct notice *head, **tail;
	size_t queued, dropped;
	uint64_t n_queued, n_done;	/* in all */
	bool stopping, running;
	pthread_t thread;
};

struct notifier *notifier_new(struct fuse_session *se)
{
	struct notifier *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	n->se = se;
	n->tail = &n->head;
	(void)pthread_mutex_init(&n->lock, NULL);
	(void)pthread_cond_init(&n->changed, NULL);
	return n;
}

void notifier_set_expiry(struct notifier *n, bool can_expire)
{
	LOCK_SCOPE(&n->lock);
	n->can_expire = can_expire;
}

uint64_t notify_epoch(struct notifier *n)
{
	return n ? atomic_load(&n->epoch) : 0;
}

/* ---- replies ---- */

bool notify_reply_begin(struct notifier *n, uint64_t epoch, unsigned *ret_gate)
{
	*ret_gate = 0;
	if (!n)
		return true;
	/* First inside, then the look at the epoch: the thread does it the other way round. */
	*ret_gate = atomic_load(&n->gate);
	(void)atomic_fetch_add(&n->inside[*ret_gate], 1);
	return atomic_load(&n->epoch) == epoch;
}

void notify_reply_end(struct notifier *n, unsigned gate)
{
	if (n)
		(void)atomic_fetch_sub(&n->inside[gate], 1);
}

static void await_replies(struct notifier *n)
{
	unsigned old = atomic_load(&n->gate);

	atomic_store(&n->gate, old ^ 1);
	while (atomic_load(&n->inside[old]) > 0)
		(void)nanosleep(&(struct timespec){ .tv_nsec = GATE_POLL_NS }, NULL);
}

/* ---- queuing ---- */

static void queue(struct notifier *n, struct notice *x)
{
	LOCK_SCOPE(&n->lock);
	(void)atomic_fetch_add(&n->epoch, 1);
	if (n->stopping || n->queued >= NOTIFY_QUEUE_MAX) {
		n->dropped++;
		free(x);
		return;
	}
	*n->tail = x;
	n->tail = &x->next;
	n->queued++;
	n->n_queued++;
	(void)pthread_cond_signal(&n->changed);
}

static void notify(struct notifier *n, uint64_t id, const char *name)
{
	size_t len = name ? strlen(name) : 0;
	struct notice *x;

	if (!n)
		return;
	x = calloc(1, sizeof(*x) + len + 1);
	if (!x) {
		(void)atomic_fetch_add(&n->epoch, 1);
		return;
	}
	x->id = id;
	x->is_entry = name != NULL;
	x->len = len;
	if (name)
		memcpy(x->name, name, len);
	queue(n, x);
}

void notify_inval_entry(struct notifier *n, uint64_t parent_id, const char *name)
{
	notify(n, parent_id, name);
}

void notify_inval_node(struct notifier *n, uint64_t id)
{
	notify(n, id, NULL);
}

errint_t notify_store(struct notifier *n, uint64_t id, void *data, size_t len)
{
	struct fuse_bufvec v = FUSE_BUFVEC_INIT(len);

	v.buf[0].mem = data;
	return fuse_lowlevel_notify_store(n->se, id, 0, &v, 0);
}

/* Is everything up to that one sent, or will it never be? */
static bool is_done(struct notifier *n, uint64_t ticket)
{
	LOCK_SCOPE(&n->lock);
	return n->n_done >= ticket || n->stopping;
}

/* The sender may be stuck in the kernel behind a look-up that waits for a registry: not for ever. */
void notify_flush(struct notifier *n, struct cancel *c)
{
	uint64_t ticket, end = clock_mono_ns() + FLUSH_MAX_NS;

	if (!n)
		return;
	{
		LOCK_SCOPE(&n->lock);
		ticket = n->n_queued;
	}
	while (!is_done(n, ticket) && !cancel_fired(c) && clock_mono_ns() < end)
		(void)nanosleep(&(struct timespec){ .tv_nsec = FLUSH_POLL_NS }, NULL);
}

/* ---- sending ---- */

#if defined(HAVE_FUSE_EXPIRE_ENTRY)
/* The call lost its flags in 3.16, when FUSE_LL_EXPIRE_ONLY went out of the header. */
static int expire(struct fuse_session *se, const struct notice *x)
{
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 16)
	return fuse_lowlevel_notify_expire_entry(se, x->id, x->name, x->len);
#else
	return fuse_lowlevel_notify_expire_entry(se, x->id, x->name, x->len, FUSE_LL_EXPIRE_ONLY);
#endif
}
#else
static int expire(struct fuse_session *se, const struct notice *x)
{
	(void)se;
	(void)x;
	return -ENOSYS;
}
#endif

/* Most often the kernel does not know the name (any more); nothing to do then. */
static void send_notice(struct fuse_session *se, const struct notice *x, bool can_expire)
{
	int r = 0;

	if (!x->is_entry)
		r = fuse_lowlevel_notify_inval_inode(se, x->id, 0, 0);
	else if (!can_expire || expire(se, x) == -ENOSYS)
		r = fuse_lowlevel_notify_inval_entry(se, x->id, x->name, x->len);
	if (r < 0 && r != -ENOENT && r != -ENOTCONN)
		log_debug("invalidation of %s in %llx: %s", x->is_entry ? x->name : "a file",
			  (unsigned long long)x->id, strerror(-r));
}

/* All that is queued, once there is something; NULL: stop. */
static struct notice *next_batch(struct notifier *n, bool *ret_can_expire)
{
	LOCK_SCOPE(&n->lock);
	while (!n->head && !n->stopping)
		(void)pthread_cond_wait(&n->changed, &n->lock);
	n->tail = &n->head;
	n->queued = 0;
	*ret_can_expire = n->can_expire;
	return steal_ptr(&n->head);
}

static bool is_stopping(struct notifier *n)
{
	LOCK_SCOPE(&n->lock);
	return n->stopping;
}

static void *sender(void *arg)
{
	struct notifier *n = arg;
	struct notice *x;
	bool can_expire;

	(void)pthread_setname_np(pthread_self(), "notify");
	while ((x = next_batch(n, &can_expire))) {
		bool send = !is_stopping(n);

		if (send)
			await_replies(n);
		while (x) {
			struct notice *next = x->next;

			if (send && !is_stopping(n))
				send_notice(n->se, x, can_expire);
			free(x);
			x = next;
			LOCK_SCOPE(&n->lock);
			n->n_done++;
		}
	}
	return NULL;
}

errint_t notifier_start(struct notifier *n)
{
	int r = pthread_create(&n->thread, NULL, sender, n);

	n->running = r == 0;
	return -r;
}

void notifier_stop(struct notifier *n)
{
	{
		LOCK_SCOPE(&n->lock);
		n->stopping = true;
		(void)pthread_cond_signal(&n->changed);
	}
	if (n->running)
		(void)pthread_join(n->thread, NULL);
	n->running = false;
}

struct notifier *notifier_free(struct notifier *n)
{
	if (!n)
		return NULL;
	notifier_stop(n);
	for (struct notice *x = n->head, *next; x; x = next) {
		next = x->next;
		free(x);
	}
	if (n->dropped)
		log_debug("%zu invalidations were dropped", n->dropped);
	(void)pthread_cond_destroy(&n->changed);
	(void)pthread_mutex_destroy(&n->lock);
	free(n);
	return NULL;
}
