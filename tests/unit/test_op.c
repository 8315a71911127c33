/*
 * test_op.c - the engine: parking, resuming, failures, interrupts, limits, stopping
 *
 * Handlers are functions put into a node's data and reached through kind_attr.
 */
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "fs/fs.h"
#include "fs/op_priv.h"
#include "util/clock.h"
#include "unit.h"

static atomic_int noted;

/* Stands in for errors.c. */
__attribute__((weak)) void fs_note_error(struct fs *fs, struct node *n, const struct err *e)
{
	(void)fs, (void)n, (void)e;
	atomic_fetch_add(&noted, 1);
}

/* ---- a file system of one handler ---- */

struct probe {
	errint_t (*fn)(struct op *op, struct probe *p);
	atomic_int runs, works, answers, drops;
	atomic_bool there, open_gate;
	atomic_int inside;
	_Atomic errint_t last;
	struct err err;			/* of the last call() */
};

static errint_t probe_attr(struct op *op, struct node *n, uint32_t sub, struct fs_attr *ret)
{
	struct probe *p = n->data;

	(void)sub;
	ret->mode = S_IFREG | 0444;
	atomic_fetch_add(&p->runs, 1);
	return p->fn(op, p);
}

static errint_t probe_prepare(struct op *op, struct node *n);
static const struct kind probe_kind = { .name = "probe", .attr = probe_attr, .prepare = probe_prepare };

struct rig {
	struct fs fs;
	struct probe *p;
};

static void rig_up(struct rig *g, struct probe *p, errint_t (*fn)(struct op *, struct probe *),
		   const struct engine_opts *o)
{
	*g = (struct rig){ .p = p };
	p->fn = fn;
	g->fs.nodes = node_table_new(&probe_kind, p);
	g->fs.engine = engine_new(&g->fs, o);
}

static void rig_down(struct rig *g)
{
	CHECK_EQ_INT(engine_parked(g->fs.engine), 0);
	engine_stop(g->fs.engine);
	CHECK_EQ_INT(node_count(g->fs.nodes), 1);
	node_table_free(g->fs.nodes);
}

static struct op *new_op(struct rig *g)
{
	return op_new(g->fs.engine, OP_GETATTR, node_root(g->fs.nodes), 0);
}

static errint_t call(struct rig *g)
{
	struct op *op = new_op(g);
	errint_t r = op_call(op);

	g->p->err = op->err;
	op_free(op);
	return r;
}

static void on_reply(struct op *op, errint_t r)
{
	struct probe *p = op->node->data;

	atomic_store(&p->last, r);
	atomic_fetch_add(&p->answers, 1);
}

static struct op *begin(struct rig *g)
{
	struct op *op = new_op(g);

	op->reply = on_reply;
	return op;
}

static bool soon(bool (*fn)(struct rig *), struct rig *g)
{
	for (int i = 0; i < 5000; i++) {
		if (fn(g))
			return true;
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	return false;
}

static void drop_probe(void *arg)
{
	atomic_fetch_add(&((struct probe *)arg)->drops, 1);
}

/* Works. */
static errint_t produce(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct probe *p = arg;

	(void)fs, (void)c, (void)e;
	atomic_fetch_add(&p->works, 1);
	atomic_store(&p->there, true);
	return 0;
}

static errint_t wait_for_gate(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct probe *p = arg;

	atomic_fetch_add(&p->inside, 1);
	while (!atomic_load(&p->open_gate)) {
		errint_t r = cancel_sleep_ns(c, NSEC_PER_MSEC, e);

		if (r < 0)
			return r;
	}
	return produce(fs, arg, c, e);
}

static errint_t fail(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	(void)fs, (void)c;
	atomic_fetch_add(&((struct probe *)arg)->works, 1);
	return err_set(e, EACCES, ERR_AUTH, "the registry refused");
}

static errint_t do_nothing(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	(void)fs, (void)arg, (void)c, (void)e;
	return 0;
}

/* ---- plain ---- */

static errint_t at_once(struct op *op, struct probe *p)
{
	(void)op, (void)p;
	return 0;
}

TEST(what_is_there_is_answered_at_once)
{
	struct probe p = { 0 };
	struct rig g;

	rig_up(&g, &p, at_once, NULL);
	CHECK_OK(call(&g));
	CHECK_EQ_INT(p.runs, 1);
	rig_down(&g);
}

TEST(rerun_mode_runs_handlers_twice)
{
	struct probe p = { 0 };
	struct rig g;

	rig_up(&g, &p, at_once, &(struct engine_opts){ .rerun = true });
	CHECK_OK(call(&g));
	CHECK_EQ_INT(p.runs, 2);
	rig_down(&g);
}

static errint_t want_one(struct op *op, struct probe *p)
{
	return atomic_load(&p->there) ? 0 : op_want(op, "k", produce, p, drop_probe);
}

TEST(what_is_missing_is_waited_for)
{
	struct probe p = { 0 };
	struct rig g;

	rig_up(&g, &p, want_one, NULL);
	CHECK_OK(call(&g));
	CHECK_EQ_INT(p.runs, 2);
	CHECK_EQ_INT(p.works, 1);
	CHECK_EQ_INT(p.drops, 1);
	rig_down(&g);
}

static errint_t peek(struct op *op, struct probe *p)
{
	errint_t r;

	op->no_wait = true;
	r = op_want(op, "k", produce, p, drop_probe);
	CHECK_EQ_INT(r, -EINPROGRESS);
	op->no_wait = false;
	return 0;
}

TEST(no_wait_starts_nothing)
{
	struct probe p = { 0 };
	struct rig g;

	rig_up(&g, &p, peek, NULL);
	CHECK_OK(call(&g));
	CHECK_EQ_INT(p.works, 0);
	CHECK_EQ_INT(p.drops, 1);
	rig_down(&g);
}

/* ---- several keys ---- */

/* Ends only when all three are inside: they must run at the same time. */
static errint_t meet(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	struct probe *p = arg;

	atomic_fetch_add(&p->inside, 1);
	while (atomic_load(&p->inside) < 3)
		if (cancel_sleep_ns(c, NSEC_PER_MSEC, e) < 0)
			return -ECANCELED;
	return produce(fs, arg, c, e);
}

static errint_t want_three(struct op *op, struct probe *p)
{
	if (atomic_load(&p->works) == 3)
		return 0;
	CHECK_EQ_INT(op_want(op, "a", meet, p, drop_probe), -EINPROGRESS);
	CHECK_EQ_INT(op_want(op, "b", meet, p, drop_probe), -EINPROGRESS);
	CHECK_EQ_INT(op_want(op, "a", meet, p, drop_probe), -EINPROGRESS); /* again: the same */
	return op_want(op, "c", meet, p, drop_probe);
}

TEST(several_keys_are_fetched_in_parallel)
{
	struct probe p = { 0 };
	struct rig g;

	rig_up(&g, &p, want_three, NULL);
	CHECK_OK(call(&g));
	CHECK_EQ_INT(p.runs, 2);
	CHECK_EQ_INT(p.works, 3);
	CHECK_EQ_INT(p.drops, 4);
	rig_down(&g);
}

static errint_t want_gated(struct op *op, struct probe *p)
{
	return atomic_load(&p->there) ? 0 : op_want(op, "gated", wait_for_gate, p, drop_probe);
}

static bool eight_parked(struct rig *g)
{
	return engine_parked(g->fs.engine) == 8;
}

static bool eight_answers(struct rig *g)
{
	return atomic_load(&g->p->answers) == 8;
}

TEST(one_fetch_serves_all_who_want_it)
{
	struct probe p = { 0 };
	struct rig g;

	rig_up(&g, &p, want_gated, NULL);
	for (int i = 0; i < 8; i++)
		op_start(begin(&g));
	CHECK(soon(eight_parked, &g));
	atomic_store(&p.open_gate, true);
	CHECK(soon(eight_answers, &g));
	CHECK_EQ_INT(p.works, 1);
	CHECK_EQ_INT(p.drops, 8);
	CHECK_EQ_INT(p.last, 0);
	rig_down(&g);
}

/* ---- failures ---- */

static errint_t want_failing(struct op *op, struct probe *p)
{
	return op_want(op, "bad", fail, p, drop_probe);
}

TEST(a_failed_fetch_fails_its_waiters_with_its_words)
{
	struct probe p = { 0 };
	struct rig g;

	atomic_store(&noted, 0);
	rig_up(&g, &p, want_failing, NULL);
	CHECK_ERR(call(&g), -EACCES);
	CHECK_EQ_STR(p.err.msg, "the registry refused");
	CHECK_EQ_INT(p.err.cls, ERR_AUTH);
	CHECK_EQ_INT(p.runs, 2);
	CHECK_EQ_INT(p.works, 1);
	CHECK_EQ_INT(atomic_load(&noted), 1);
	/* The next operation tries again. */
	CHECK_ERR(call(&g), -EACCES);
	CHECK_EQ_INT(p.works, 2);
	rig_down(&g);
}

/* Gets over the failure of one key with another, and must meet the failure again in run three. */
static errint_t fall_back(struct op *op, struct probe *p)
{
	errint_t r = op_want(op, "bad", fail, p, NULL);

	if (r == -EINPROGRESS)
		return r;
	CHECK_EQ_INT(r, -EACCES);
	return want_one(op, p);
}

TEST(a_failure_is_remembered_over_later_waits)
{
	struct probe p = { 0 };
	struct rig g;

	rig_up(&g, &p, fall_back, NULL);
	CHECK_OK(call(&g));
	CHECK_EQ_INT(p.runs, 3);
	CHECK_EQ_INT(p.works, 2);
	rig_down(&g);
}

static errint_t fails_beside(struct op *op, struct probe *p)
{
	errint_t good = atomic_load(&p->there) ? 0 : op_want(op, "good", produce, p, NULL);
	errint_t bad = op_want(op, "bad", fail, p, NULL);

	if (good == -EINPROGRESS || bad == -EINPROGRESS)
		return -EINPROGRESS;
	CHECK_EQ_INT(good, 0);
	return bad;
}

TEST(failures_are_handed_over_per_key)
{
	struct probe p = { 0 };
	struct rig g;

	rig_up(&g, &p, fails_beside, NULL);
	CHECK_ERR(call(&g), -EACCES);
	CHECK_EQ_INT(p.runs, 2);
	CHECK_EQ_INT(p.works, 2);
	rig_down(&g);
}

static errint_t waited(struct op *op, struct probe *p)
{
	if (op_waited_for(op, "void"))
		return -ENODATA;
	return op_want(op, "void", do_nothing, p, NULL);
}

static errint_t three_times(struct op *op, struct probe *p)
{
	return op_times_waited(op, "void") >= 3 ? 0 : op_want(op, "void", do_nothing, p, NULL);
}

TEST(a_handler_knows_how_often_it_has_waited)
{
	struct probe p = { 0 };
	struct rig g;

	rig_up(&g, &p, three_times, NULL);
	CHECK_OK(call(&g));
	CHECK_EQ_INT(p.runs, 4);
	rig_down(&g);
}

TEST(a_handler_knows_what_it_has_waited_for)
{
	struct probe p = { 0 };
	struct rig g;

	atomic_store(&noted, 0);
	rig_up(&g, &p, waited, NULL);
	CHECK_ERR(call(&g), -ENODATA);
	CHECK_EQ_INT(p.runs, 2);
	CHECK_EQ_INT(atomic_load(&noted), 0);
	rig_down(&g);
}

static errint_t insatiable(struct op *op, struct probe *p)
{
	return op_want(op, "void", do_nothing, p, NULL);
}

TEST(a_handler_that_never_has_enough_is_a_bug)
{
	struct probe p = { 0 };
	struct rig g;

	rig_up(&g, &p, insatiable, NULL);
	CHECK_ERR(call(&g), -EIO);
	CHECK_EQ_INT(p.err.cls, ERR_BUG);
	CHECK_EQ_INT(p.runs, OP_RERUNS_MAX);
	rig_down(&g);
}

static errint_t waits_for_nothing(struct op *op, struct probe *p)
{
	(void)op, (void)p;
	return -EINPROGRESS;
}

TEST(waiting_for_nothing_is_a_bug)
{
	struct probe p = { 0 };
	struct rig g;

	rig_up(&g, &p, waits_for_nothing, NULL);
	CHECK_ERR(call(&g), -EIO);
	rig_down(&g);
}

/* ---- pins ---- */

TEST(pins_last_until_the_reply)
{
	struct probe p = { 0 };
	struct rig g;
	struct op *op;

	rig_up(&g, &p, want_one, NULL);
	op = new_op(&g);
	CHECK_OK(op_pin(op, &p, drop_probe));
	CHECK_EQ_INT(p.drops, 0);
	CHECK_OK(op_pin(op, &p, drop_probe));
	CHECK_EQ_INT(p.drops, 1);
	CHECK_OK(op_call(op));
	op_free(op);
	rig_down(&g);
	CHECK_EQ_INT(p.drops, 3); /* and the want's argument */
}

/* ---- interrupts and time-outs ---- */

TEST(proc_status_tells_fatal_signals_from_others)
{
#define STATUS(pnd, shd, blk, ign, cgt)                                                            \
	"Name:\tx\nSigQ:\t0/1\nSigPnd:\t" pnd "\nShdPnd:\t" shd "\nSigBlk:\t" blk                  \
	"\nSigIgn:\t" ign "\nSigCgt:\t" cgt "\n"
#define NONE "0000000000000000"
	CHECK(!op_status_is_fatal(STATUS(NONE, NONE, NONE, NONE, NONE)));
	CHECK(op_status_is_fatal(STATUS("0000000000000100", NONE, NONE, NONE, NONE)));	/* KILL */
	CHECK(op_status_is_fatal(STATUS(NONE, "0000000000000100", "ffffffffffffffff", NONE, NONE)));
	CHECK(op_status_is_fatal(STATUS(NONE, "0000000000000002", NONE, NONE, NONE)));	/* INT */
	CHECK(!op_status_is_fatal(
		STATUS(NONE, "0000000000000002", NONE, NONE, "0000000000000002")));
	CHECK(!op_status_is_fatal(
		STATUS(NONE, "0000000000000002", NONE, "0000000000000002", NONE)));
	CHECK(!op_status_is_fatal(
		STATUS(NONE, "0000000000000002", "0000000000000002", NONE, NONE)));
	CHECK(!op_status_is_fatal(STATUS(NONE, "0000000000080000", NONE, NONE, NONE)));	/* TSTP */
	CHECK(!op_status_is_fatal(STATUS(NONE, "0000000000010000", NONE, NONE, NONE)));	/* CHLD */
	CHECK(!op_status_is_fatal(""));
}

static bool one_parked(struct rig *g)
{
	return engine_parked(g->fs.engine) == 1;
}

static bool one_answer(struct rig *g)
{
	return atomic_load(&g->p->answers) == 1;
}

static bool one_inside(struct rig *g)
{
	return atomic_load(&g->p->inside) >= 1;
}

TEST(a_caller_that_cannot_be_seen_gets_a_grace_time)
{
	struct probe p = { 0 };
	struct rig g;
	struct op *op;
	uint64_t before;

	rig_up(&g, &p, want_gated, NULL);
	op = begin(&g);
	op->pid = 0;
	op_start(op);
	CHECK(soon(one_parked, &g) && soon(one_inside, &g));
	before = clock_mono_ns();
	op_interrupt(op);
	CHECK(soon(one_answer, &g));
	CHECK_EQ_INT(p.last, -EINTR);
	CHECK(clock_mono_ns() - before >= OP_INTR_GRACE_MS * NSEC_PER_MSEC);
	CHECK(clock_mono_ns() - before < 3 * OP_INTR_GRACE_MS * NSEC_PER_MSEC);
	rig_down(&g); /* ends only because the abandoned work was cancelled */
	CHECK_EQ_INT(p.works, 0);
}

TEST(a_signal_with_a_handler_ends_nothing)
{
	struct probe p = { 0 };
	struct rig g;
	struct op *op;

	rig_up(&g, &p, want_gated, NULL);
	op = begin(&g);
	op->pid = (pid_t)syscall(SYS_gettid);
	op_interrupt(op); /* before it starts: as when the kernel is very quick */
	op_start(op);
	CHECK(soon(one_parked, &g));
	nanosleep(&(struct timespec){ .tv_nsec = 700000000 }, NULL);
	CHECK_EQ_INT(p.answers, 0);
	atomic_store(&p.open_gate, true);
	CHECK(soon(one_answer, &g));
	CHECK_EQ_INT(p.last, 0);
	rig_down(&g);
}

TEST(a_fetch_without_progress_times_out)
{
	struct probe p = { 0 };
	struct rig g;
	uint64_t before = clock_mono_ns();

	rig_up(&g, &p, want_gated, &(struct engine_opts){ .park_timeout_ns = 200 * NSEC_PER_MSEC });
	CHECK_ERR(call(&g), -ETIMEDOUT);
	CHECK(clock_mono_ns() - before >= 200 * NSEC_PER_MSEC);
	CHECK(clock_mono_ns() - before < 2 * NSEC_PER_SEC);
	CHECK(strstr(p.err.msg, "gated"));
	rig_down(&g);
}

static errint_t slowly(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	for (int i = 0; i < 12; i++) {
		errint_t r = cancel_sleep_ns(c, 50 * NSEC_PER_MSEC, e);

		if (r < 0)
			return r;
		op_work_progress();
	}
	return produce(fs, arg, c, e);
}

static errint_t want_slow(struct op *op, struct probe *p)
{
	return atomic_load(&p->there) ? 0 : op_want(op, "slow", slowly, p, NULL);
}

TEST(progress_keeps_waiters_waiting)
{
	struct probe p = { 0 };
	struct rig g;

	rig_up(&g, &p, want_slow, &(struct engine_opts){ .park_timeout_ns = 300 * NSEC_PER_MSEC });
	CHECK_OK(call(&g));
	rig_down(&g);
}

/* ---- load ---- */

static errint_t want_own(struct op *op, struct probe *p)
{
	char key[32];

	if (atomic_load(&p->open_gate) || op->size == 0)
		return 0;
	snprintf(key, sizeof(key), "own %zu", op->size);
	return op_want(op, key, wait_for_gate, p, NULL);
}

static bool forty_inside(struct rig *g)
{
	return atomic_load(&g->p->inside) == 40;
}

static bool forty_answers(struct rig *g)
{
	return atomic_load(&g->p->answers) == 40;
}

static void start_40(struct rig *g)
{
	for (size_t i = 1; i <= 40; i++) {
		struct op *op = begin(g);

		op->size = i;
		op_start(op);
	}
}

TEST(a_cached_answer_does_not_wait_behind_40_stalled_fetches)
{
	struct probe p = { 0 };
	struct rig g;
	uint64_t before;

	rig_up(&g, &p, want_own, NULL);
	start_40(&g);
	CHECK(soon(forty_inside, &g));
	before = clock_mono_ns();
	CHECK_OK(call(&g));
	CHECK(clock_mono_ns() - before < 10 * NSEC_PER_MSEC);
	printf("# answered in %" PRIu64 " us\n", (clock_mono_ns() - before) / 1000);
	atomic_store(&p.open_gate, true);
	CHECK(soon(forty_answers, &g));
	rig_down(&g);
}

TEST(stopping_answers_what_waits_and_does_not_hang)
{
	struct probe p = { 0 };
	struct rig g;
	uint64_t before;

	rig_up(&g, &p, want_own, NULL);
	start_40(&g);
	CHECK(soon(forty_inside, &g));
	before = clock_mono_ns();
	g.fs.engine = engine_stop(g.fs.engine);
	CHECK(clock_mono_ns() - before < NSEC_PER_SEC);
	CHECK_EQ_INT(p.answers, 40);
	CHECK_EQ_INT(p.last, -ENOTCONN);
	node_table_free(g.fs.nodes);
}

TEST(a_halted_engine_answers_but_does_not_wait)
{
	struct probe p = { 0 };
	struct rig g;

	rig_up(&g, &p, want_one, NULL);
	engine_drain(g.fs.engine);
	CHECK_ERR(call(&g), -ENOTCONN);
	atomic_store(&p.there, true);
	CHECK_OK(call(&g));
	rig_down(&g);
}

/* ---- beside the kernel's ---- */

static errint_t probe_prepare(struct op *op, struct node *n)
{
	return want_gated(op, n->data);
}

/* Answers at once and has something fetched that it does not wait for. */
static errint_t start_another(struct op *op, struct probe *p)
{
	struct op *other = op_new(op->eng, OP_PREPARE, node_ref(op->node), 0);

	(void)p;
	other->reply = on_reply;
	op_start_later(other);
	return 0;
}

static bool one_is_parked(struct rig *g)
{
	return engine_parked(g->fs.engine) == 1;
}

static bool one_is_answered(struct rig *g)
{
	return g->p->answers == 1;
}

TEST(what_a_handler_starts_beside_is_not_waited_for_and_goes_on)
{
	struct probe p = { 0 };
	struct rig g;

	rig_up(&g, &p, start_another, NULL);
	CHECK_OK(call(&g));
	CHECK(soon(one_is_parked, &g));
	CHECK_EQ_INT(p.answers, 0);
	atomic_store(&p.open_gate, true);
	CHECK(soon(one_is_answered, &g));
	CHECK_OK(p.last);
	CHECK_EQ_INT(p.works, 1);
	rig_down(&g);
}

TEST(what_a_handler_has_started_beside_ends_with_the_engine)
{
	struct probe p = { 0 };
	struct rig g;

	rig_up(&g, &p, start_another, NULL);
	CHECK_OK(call(&g));
	engine_drain(g.fs.engine);
	CHECK_EQ_INT(p.answers, 1);
	CHECK_ERR(p.last, -ENOTCONN);
	rig_down(&g);
}

TEST(more_waiters_than_the_limit_are_refused)
{
	struct probe p = { 0 };
	struct rig g;

	rig_up(&g, &p, want_gated, NULL);
	for (int i = 0; i < OP_PARKED_MAX; i++)
		op_start(begin(&g));
	CHECK_EQ_INT(engine_parked(g.fs.engine), OP_PARKED_MAX);
	CHECK_ERR(call(&g), -EIO);
	CHECK_EQ_INT(p.err.cls, ERR_LIMIT);
	engine_halt(g.fs.engine);
	CHECK_EQ_INT(p.answers, OP_PARKED_MAX);
	rig_down(&g);
}

/* ---- everything at once ---- */

struct storm {
	struct rig *g;
	unsigned seed;
};

static errint_t short_work(struct fs *fs, void *arg, struct cancel *c, struct err *e)
{
	uintptr_t ns = (uintptr_t)arg;

	(void)fs;
	if (ns % 7 == 0)
		return err_set(e, EHOSTUNREACH, ERR_NET, "no route");
	return cancel_sleep_ns(c, ns, e);
}

static errint_t stormy(struct op *op, struct probe *p)
{
	size_t done = 0;

	(void)p;
	for (size_t i = 0; i < 3; i++) {
		size_t n = (op->size + i * 31) % 50;
		char key[32];
		errint_t r;

		snprintf(key, sizeof(key), "s%zu", n);
		if (op_waited_for(op, key)) {
			done++;
			continue;
		}
		r = op_want(op, key, short_work, (void *)(uintptr_t)(n * 10000), NULL);
		if (r != -EINPROGRESS)
			return r;
	}
	return done == 3 ? 0 : -EINPROGRESS;
}

static void *storm_thread(void *arg)
{
	struct storm *s = arg;

	for (int i = 0; i < 500; i++) {
		struct op *op = begin(s->g);

		s->seed = s->seed * 1103515245u + 12345u;
		op->size = s->seed >> 16;
		op->pid = 0;
		if (s->seed % 5 == 0)
			op_interrupt(op);
		op_start(op);
		if (i % 50 == 0)
			nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
	}
	return NULL;
}

static bool all_answers(struct rig *g)
{
	return atomic_load(&g->p->answers) == 4000;
}

static void storm(bool wait)
{
	struct probe p = { 0 };
	struct storm s[8];
	pthread_t id[8];
	struct rig g;

	rig_up(&g, &p, stormy, NULL);
	for (unsigned i = 0; i < 8; i++) {
		s[i] = (struct storm){ &g, i + 1 };
		pthread_create(&id[i], NULL, storm_thread, &s[i]);
	}
	for (unsigned i = 0; i < 8; i++)
		pthread_join(id[i], NULL);
	if (wait)
		CHECK(soon(all_answers, &g));
	g.fs.engine = engine_stop(g.fs.engine);
	CHECK_EQ_INT(p.answers, 4000);
	CHECK_EQ_INT(node_count(g.fs.nodes), 1);
	node_table_free(g.fs.nodes);
}

TEST(eight_threads_of_everything)
{
	storm(true);
}

TEST(stopping_in_the_middle_of_everything)
{
	storm(false);
}
