/*
 * test_util_threads.c - cancel tokens, pools, flights, log and counters: what threads do at once
 *
 * Many are races: small machines of counters that are checked afterwards.  They find more under
 * -fsanitize=thread than by themselves.
 */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/buf.h"
#include "util/cancel.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/deadline.h"
#include "util/digest.h"
#include "util/err.h"
#include "util/flight.h"
#include "util/log.h"
#include "util/pool.h"
#include "util/stats.h"

#define SHA256_ABC "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define SHA256_EMPTY "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define SHA512_ABC                                                                  \
	"sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a" \
	"2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"

static uint64_t xorshift(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* ---- cancel ---- */

static void *fire_soon(void *c)
{
	(void)cancel_sleep_ns(NULL, 20 * NSEC_PER_MSEC, NULL);
	cancel_fire(c);
	return NULL;
}

TEST(a_deadline_fires_its_own_token)
{
	struct cancel c = CANCEL_INIT;
	struct deadline d;

	REQUIRE(CHECK_OK(deadline_start(&d, &c, 10 * NSEC_PER_MSEC, NULL)));
	CHECK_ERR(cancel_sleep_ns(&d.token, 60 * NSEC_PER_SEC, NULL), -ECANCELED);
	CHECK(deadline_stop(&d) && !cancel_fired(&c));
	REQUIRE(CHECK_OK(deadline_start(&d, NULL, 3600 * NSEC_PER_SEC, NULL)));
	CHECK(!cancel_fired(&d.token));
	CHECK(!deadline_stop(&d));
	REQUIRE(CHECK_OK(deadline_start(&d, &c, 3600 * NSEC_PER_SEC, NULL)));
	cancel_fire(&c);
	CHECK_ERR(cancel_sleep_ns(&d.token, 60 * NSEC_PER_SEC, NULL), -ECANCELED);
	CHECK(!deadline_stop(&d));
	REQUIRE(CHECK_OK(deadline_start(&d, &c, 3600 * NSEC_PER_SEC, NULL)));	/* it has fired before */
	CHECK_ERR(cancel_sleep_ns(&d.token, 60 * NSEC_PER_SEC, NULL), -ECANCELED);
	CHECK(!deadline_stop(&d));
	cancel_done(&c);
}

TEST(cancel_ends_a_sleep)
{
	struct cancel c = CANCEL_INIT;
	struct err e = { 0 };
	uint64_t start = clock_mono_ns();
	pthread_t thread;

	CHECK_OK(cancel_sleep_ns(&c, 10 * NSEC_PER_MSEC, &e));
	CHECK(clock_mono_ns() - start >= 10 * NSEC_PER_MSEC);
	CHECK_OK(cancel_sleep_ns(&c, 0, &e));
	REQUIRE(pthread_create(&thread, NULL, fire_soon, &c) == 0);
	CHECK_ERR(cancel_sleep_ns(&c, UINT64_MAX, &e), -ECANCELED);
	CHECK_EQ_INT(e.cls, ERR_CANCELLED);
	CHECK(clock_mono_ns() - start < 10 * NSEC_PER_SEC);
	pthread_join(thread, NULL);
	CHECK_ERR(cancel_sleep_ns(&c, UINT64_MAX, NULL), -ECANCELED);
	CHECK(cancel_fired(&c) && !cancel_fired(NULL));
	cancel_done(&c);
}

static void count_wake(void *n)
{
	(*(int *)n)++;
}

TEST(cancel_wakes)
{
	struct cancel c;
	int n = 0;

	cancel_init(&c);
	cancel_set_wake(&c, count_wake, &n);
	cancel_fire(&c);
	CHECK_EQ_INT(n, 1);
	cancel_set_wake(&c, NULL, NULL);
	cancel_fire(&c);
	CHECK_EQ_INT(n, 1);
	cancel_done(&c);
}

/* ---- threads ---- */

#define RACE_THREADS 8

static void run_threads(void *(*fn)(void *), void *arg)
{
	pthread_t threads[RACE_THREADS];

	for (size_t i = 0; i < RACE_THREADS; i++)
		if (pthread_create(&threads[i], NULL, fn, arg) != 0)
			abort();
	for (size_t i = 0; i < RACE_THREADS; i++)
		pthread_join(threads[i], NULL);
}

static void *digest_race(void *arg)
{
	char text[DIGEST_TEXT_MAX];
	struct digest d;

	(void)arg;
	for (int i = 0; i < 2000; i++) {
		digest_of(i % 2 ? DIGEST_SHA256 : DIGEST_SHA512, "abc", 3, &d);
		CHECK_EQ_STR(digest_text(&d, text), i % 2 ? SHA256_ABC : SHA512_ABC);
	}
	return NULL;
}

TEST(digest_threads)
{
	run_threads(digest_race, NULL);
}

/* ---- pool ---- */

static atomic_uint ran;

static void count_job(void *arg)
{
	(void)arg;
	atomic_fetch_add(&ran, 1);
}

static void *submit_many(void *pool)
{
	for (int i = 0; i < 20000; i++)
		CHECK_OK(pool_submit(pool, (enum pool_prio)(i % POOL_PRIOS), count_job, NULL));
	return NULL;
}

TEST(pool_stress)
{
	struct pool *p = pool_new("stress", 1, 4);

	REQUIRE(p);
	CHECK_EQ_INT(pool_threads(p), 0);
	ran = 0;
	run_threads(submit_many, p);
	CHECK(pool_threads(p) >= 1 && pool_threads(p) <= 4);
	CHECK(!pool_stop(p)); /* runs the rest */
	CHECK_EQ_INT(ran, RACE_THREADS * 20000);
	CHECK(!pool_stop(NULL));
}

TEST(pool_start_stop)
{
	uint64_t start = clock_mono_ns();

	for (int i = 0; i < 500; i++) {
		struct pool *p = pool_new("a name that is too long", 0, 3);

		REQUIRE(p);
		ran = 0;
		for (int j = 0; j < i % 7; j++)
			CHECK_OK(pool_submit(p, POOL_NORMAL, count_job, NULL));
		(void)pool_stop(p);
		CHECK_EQ_INT(ran, i % 7);
	}
	CHECK(clock_mono_ns() - start < 5 * NSEC_PER_SEC); /* no stop waited for an idle worker */
}

struct gate {
	pthread_mutex_t lock;
	struct pool *pool;
	char order[8];
	size_t n;
	errint_t late;
};

static void gate_job(void *arg)
{
	struct gate *g = arg;
	sigset_t set;
	char name[16];

	LOCK_SCOPE(&g->lock);
	pthread_sigmask(SIG_SETMASK, NULL, &set);
	CHECK(sigismember(&set, SIGTERM) == 1 && sigismember(&set, SIGSEGV) == 0);
	pthread_getname_np(pthread_self(), name, sizeof(name));
	CHECK_EQ_STR(name, "gate");
}

#define ORDER_JOB(letter)                           \
	static void order_##letter(void *arg)       \
	{                                           \
		struct gate *g = arg;               \
						    \
		g->order[g->n++] = #letter[0];      \
	}
ORDER_JOB(h)
ORDER_JOB(n)
ORDER_JOB(l)

static void late_job(void *arg)
{
	struct gate *g = arg;

	/* pool_stop has begun before this job is let through */
	LOCK_SCOPE(&g->lock);
	while ((g->late = pool_submit(g->pool, POOL_HIGH, count_job, NULL)) == 0)
		(void)cancel_sleep_ns(NULL, NSEC_PER_MSEC, NULL);
}

TEST(pool_order_and_shutdown)
{
	struct gate g = { .lock = PTHREAD_MUTEX_INITIALIZER, .pool = pool_new("gate", 1, 1) };

	REQUIRE(g.pool);
	pthread_mutex_lock(&g.lock);
	CHECK_OK(pool_submit(g.pool, POOL_NORMAL, gate_job, &g));
	while (pool_queued(g.pool) > 0)
		(void)cancel_sleep_ns(NULL, NSEC_PER_MSEC, NULL);
	CHECK_OK(pool_submit(g.pool, POOL_LOW, order_l, &g));
	CHECK_OK(pool_submit(g.pool, POOL_NORMAL, order_n, &g));
	CHECK_OK(pool_submit(g.pool, POOL_HIGH, order_h, &g));
	CHECK_OK(pool_submit(g.pool, POOL_NORMAL, order_n, &g));
	CHECK_OK(pool_submit(g.pool, POOL_LOW, late_job, &g));
	CHECK_EQ_INT(pool_queued(g.pool), 5);
	pthread_mutex_unlock(&g.lock);
	(void)pool_stop(g.pool);
	CHECK_EQ_STR(g.order, "hnnl");
	CHECK_ERR(g.late, -ESHUTDOWN);
}

/* ---- flight ---- */

struct trip { /* what the tests know about flights started through trip_start */
	struct flight *flight;
	int starts, args_freed;
};

static void trip_start(struct flight *f, void *arg)
{
	struct trip *t = arg;

	t->flight = f;
	t->starts++;
}

static void trip_free(void *arg)
{
	((struct trip *)arg)->args_freed++;
}

struct passenger {
	int wakes;
	errint_t r;
	char msg[32];
};

static void passenger_wake(void *waiter, errint_t r, const struct err *e)
{
	struct passenger *p = waiter;

	p->wakes++;
	p->r = r;
	(void)snprintf(p->msg, sizeof(p->msg), "%.31s", e ? e->msg : "");
}

static errint_t join(struct flight_table *t, const char *key, struct passenger *p,
		     struct trip *trip)
{
	return flight_join(t, key, passenger_wake, p, trip_start, trip, trip_free);
}

TEST(flight_is_shared)
{
	struct flight_table *t = flight_table_new();
	struct passenger p[10] = { 0 }, other = { 0 };
	struct trip trip = { 0 }, second = { 0 };
	int64_t started = stat_get(STAT_FLIGHTS), shared = stat_get(STAT_FLIGHTS_SHARED);
	struct err e;

	REQUIRE(t);
	for (size_t i = 0; i < ARRAY_SIZE(p); i++)
		CHECK_OK(join(t, "k", &p[i], &trip));
	CHECK_OK(join(t, "other", &other, &second));
	CHECK_EQ_INT(trip.starts, 1);
	CHECK_EQ_INT(trip.args_freed, 9);
	CHECK_EQ_INT(flight_count(t), 2);
	CHECK_EQ_STR(flight_key(trip.flight), "k");
	CHECK(flight_leave(t, "k", &p[9])); /* the last in the list: its tail must follow */
	CHECK(!flight_leave(t, "k", &p[9]));
	CHECK(!flight_leave(t, "nowhere", &p[8]));
	CHECK_OK(join(t, "k", &p[9], &trip));
	CHECK(!cancel_fired(flight_cancel(trip.flight)));
	(void)err_set(&e, EIO, ERR_NET, "why");
	flight_complete(trip.flight, -EIO, &e);
	for (size_t i = 0; i < ARRAY_SIZE(p); i++) {
		CHECK_EQ_INT(p[i].wakes, 1);
		CHECK_ERR(p[i].r, -EIO);
		CHECK_EQ_STR(p[i].msg, "why");
		CHECK(!flight_leave(t, "k", &p[i]));
	}
	CHECK_EQ_INT(other.wakes, 0);
	flight_complete(second.flight, 0, NULL);
	CHECK_EQ_INT(other.wakes, 1);
	CHECK_EQ_INT(flight_count(t), 0);
	CHECK_EQ_INT(stat_get(STAT_FLIGHTS) - started, 2);
	CHECK_EQ_INT(stat_get(STAT_FLIGHTS_SHARED) - shared, 10);
	CHECK(!flight_table_free(t));
	CHECK(!flight_table_free(NULL));
}

TEST(flight_abandoned_is_replaced)
{
	struct flight_table *t = flight_table_new();
	struct trip first = { 0 }, second = { 0 };
	struct passenger a = { 0 }, b = { 0 };
	int fires = 0;

	REQUIRE(t);
	CHECK_OK(join(t, "k", &a, &first));
	cancel_set_wake(flight_cancel(first.flight), count_wake, &fires);
	CHECK_OK(join(t, "k", &b, &first));
	CHECK(flight_leave(t, "k", &a));
	CHECK_EQ_INT(fires, 0);
	CHECK(flight_leave(t, "k", &b));
	CHECK_EQ_INT(fires, 1);
	CHECK(cancel_fired(flight_cancel(first.flight)));
	CHECK_OK(join(t, "k", &a, &second));
	CHECK_EQ_INT(second.starts, 1);
	CHECK(second.flight != first.flight);
	CHECK_EQ_INT(flight_count(t), 2);
	flight_cancel_all(t);
	CHECK_EQ_INT(fires, 1);
	CHECK(cancel_fired(flight_cancel(second.flight)));
	flight_complete(first.flight, -ECANCELED, NULL); /* must leave the second one its key */
	CHECK_EQ_INT(a.wakes, 0);
	CHECK_OK(join(t, "k", &b, &second));
	CHECK_EQ_INT(second.starts, 1);
	flight_complete(second.flight, -ECANCELED, NULL);
	CHECK_EQ_INT(a.wakes, 1);
	CHECK_EQ_INT(b.wakes, 1);
	CHECK_EQ_INT(flight_count(t), 0);
	(void)flight_table_free(t);
}

static void complete_at_once(struct flight *f, void *arg)
{
	(void)arg;
	flight_complete(f, 0, NULL);
}

TEST(flight_may_complete_in_start)
{
	struct flight_table *t = flight_table_new();
	struct passenger p = { 0 };

	REQUIRE(t);
	CHECK_OK(flight_join(t, "k", passenger_wake, &p, complete_at_once, NULL, NULL));
	CHECK_EQ_INT(p.wakes, 1);
	(void)flight_table_free(t);
}

#define RACE_OPS 20000
#define RACE_KEYS 5

/* Each thread joins and then leaves (half of the time) or waits; the work runs on a pool, sometimes
 * until it is cancelled. */
struct race {
	struct flight_table *table;
	struct pool *pool;
	atomic_uint seed, starts, completions, wakes, waits, left;
	atomic_int running[RACE_KEYS]; /* flights under way and not cancelled: 0 or 1 */
};

struct racer {
	struct race *race;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool woken;
};

struct race_job {
	struct race *race;
	struct flight *flight;
	uint64_t rng;
};

static void racer_wake(void *waiter, errint_t r, const struct err *e)
{
	struct racer *me = waiter;

	(void)e;
	CHECK(r == 0 || r == -ECANCELED);
	atomic_fetch_add(&me->race->wakes, 1);
	LOCK_SCOPE(&me->lock);
	CHECK(!me->woken);
	me->woken = true;
	pthread_cond_signal(&me->cond);
}

static void race_work(void *arg)
{
	_cleanup_free_ struct race_job *job = arg;
	struct cancel *c = flight_cancel(job->flight);
	errint_t r = 0;

	if (job->rng % 4 == 0)
		r = cancel_sleep_ns(c, job->rng % 64 * 1000, NULL);
	else if (cancel_fired(c))
		r = -ECANCELED;
	atomic_fetch_add(&job->race->completions, 1);
	flight_complete(job->flight, r, NULL);
}

static void race_start(struct flight *f, void *arg)
{
	struct race_job *job = arg;

	job->flight = f;
	atomic_fetch_add(&job->race->starts, 1);
	if (pool_submit(job->race->pool, POOL_NORMAL, race_work, job) < 0)
		abort();
}

static void race_once(struct racer *me, uint64_t *rng)
{
	struct race_job *job = malloc(sizeof(*job));
	char key[16];

	if (!job)
		abort();
	*job = (struct race_job){ .race = me->race, .rng = xorshift(rng) };
	(void)snprintf(key, sizeof(key), "key-%u", (unsigned)(xorshift(rng) % RACE_KEYS));
	me->woken = false;
	CHECK_OK(flight_join(me->race->table, key, racer_wake, me, race_start, job, free));
	if (xorshift(rng) % 2 && flight_leave(me->race->table, key, me)) {
		atomic_fetch_add(&me->race->left, 1);
		return;
	}
	atomic_fetch_add(&me->race->waits, 1);
	LOCK_SCOPE(&me->lock);
	while (!me->woken)
		pthread_cond_wait(&me->cond, &me->lock);
}

static void *race_thread(void *arg)
{
	struct racer me = { .race = arg, .lock = PTHREAD_MUTEX_INITIALIZER,
			    .cond = PTHREAD_COND_INITIALIZER };
	uint64_t rng = 0x9e3779b97f4a7c15u * (atomic_fetch_add(&me.race->seed, 1) + 1);

	for (int i = 0; i < RACE_OPS; i++) {
		race_once(&me, &rng);
		if (i % 4096 == 0)
			flight_cancel_all(me.race->table);
	}
	/* The waker may still hold the lock that its signal went out under. */
	pthread_mutex_lock(&me.lock);
	pthread_mutex_unlock(&me.lock);
	pthread_cond_destroy(&me.cond);
	pthread_mutex_destroy(&me.lock);
	return NULL;
}

TEST(flight_races)
{
	struct race race = { .table = flight_table_new(), .pool = pool_new("race", 0, 4) };

	REQUIRE(race.table && race.pool);
	run_threads(race_thread, &race);
	(void)pool_stop(race.pool);
	CHECK_EQ_INT(flight_count(race.table), 0);
	CHECK_EQ_INT(race.starts, race.completions);
	CHECK_EQ_INT(race.wakes, race.waits);
	CHECK_EQ_INT(race.left + race.waits, RACE_THREADS * RACE_OPS);
	printf("# %u flights, %u woken, %u left\n", race.starts, race.wakes, race.left);
	(void)flight_table_free(race.table);
}

/* Many threads that ask for one key before anything completes: one start. */
static struct trip single;
static struct flight_table *single_table;
static atomic_uint single_wakes;

static void single_wake(void *waiter, errint_t r, const struct err *e)
{
	(void)waiter;
	(void)r;
	(void)e;
	atomic_fetch_add(&single_wakes, 1);
}

static void *single_thread(void *arg)
{
	(void)arg;
	for (size_t i = 0; i < 1000; i++)
		CHECK_OK(flight_join(single_table, "one", single_wake, &single, trip_start, &single,
				     NULL));
	return NULL;
}

TEST(flight_single_start)
{
	single_table = flight_table_new();
	REQUIRE(single_table);
	run_threads(single_thread, NULL);
	CHECK_EQ_INT(single.starts, 1);
	flight_complete(single.flight, 0, NULL);
	CHECK_EQ_INT(single_wakes, RACE_THREADS * 1000);
	(void)flight_table_free(single_table);
}

/* ---- log and stats ---- */

static void *log_lines(void *arg)
{
	(void)arg;
	for (int i = 0; i < 200; i++)
		log_info("line of a thread %s", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
	return NULL;
}

/* Reads at most cap - 1 bytes. */
static void slurp(const char *path, char *out, size_t cap)
{
	_cleanup_fclose_ FILE *f = fopen(path, "r");

	out[f ? fread(out, 1, cap - 1, f) : 0] = '\0';
}

TEST(log_writes_lines)
{
	char path[] = "/tmp/test-util-log-XXXXXX", moved[64];
	_cleanup_close_ int fd = mkstemp(path);
	static char text[400000];
	size_t lines = 0;

	REQUIRE(fd >= 0);
	CHECK_OK(log_open(LOG_TO_FILE, path, NULL));
	clock_set_fake(1, 1767323045);
	log_debug("not at this level");
	errno = ENXIO;
	log_warn("two\nlines %d", 7);
	CHECK_EQ_INT(errno, ENXIO);
	slurp(path, text, sizeof(text));
	CHECK_EQ_STR(text, "2026-01-02T03:04:05Z warning: two\\x0alines 7\n");

	(void)snprintf(moved, sizeof(moved), "%s.1", path);
	CHECK_OK(rename(path, moved));
	CHECK_OK(log_open(LOG_TO_FILE, path, NULL)); /* rotation */
	log_set_level(LOG_LVL_DEBUG);
	CHECK_EQ_INT(log_get_level(), LOG_LVL_DEBUG);
	log_debug("%s", "now it is");
	slurp(path, text, sizeof(text));
	CHECK_EQ_STR(text, "2026-01-02T03:04:05Z debug: now it is\n");
	log_set_level(LOG_LVL_INFO);

	run_threads(log_lines, NULL);
	slurp(path, text, sizeof(text));
	for (char *p = text, *end; (end = strchr(p, '\n')); p = end + 1, lines++)
		CHECK(lines == 0 || strncmp(p, "2026-01-02T03:04:05Z info: line of a thread xxx",
					    47) == 0);
	CHECK_EQ_INT(lines, 1 + RACE_THREADS * 200);
	clock_set_fake(0, 0);
	CHECK_OK(log_open(LOG_TO_STDERR, NULL, NULL));
	(void)unlink(path);
	(void)unlink(moved);
}

TEST(log_reports_what_it_cannot_open)
{
	struct err e = { 0 };

	CHECK_ERR(log_open(LOG_TO_FILE, "/nonexistent/dir/log", &e), -ENOENT);
	CHECK_EQ_STR(e.msg,
		     "cannot open the log file /nonexistent/dir/log: No such file or directory");
}

TEST(stats_print)
{
	_cleanup_buf_ struct buf b = BUF_INIT(1 << 16);

	stat_set(STAT_FUSE_OPS, 41);
	stat_inc(STAT_FUSE_OPS);
	stat_add(STAT_FUSE_NODES, 3);
	stat_dec(STAT_FUSE_NODES);
	CHECK_EQ_INT(stat_get(STAT_FUSE_OPS), 42);
	stats_text(&b);
	CHECK_OK(buf_check(&b));
	CHECK(strncmp(buf_str(&b), "fuse_ops 42\n", 12) == 0);
	CHECK(strstr(buf_str(&b), "\nfuse_nodes 2\n"));
	buf_clear(&b);
	stats_prometheus(&b);
	CHECK(strstr(buf_str(&b), "# HELP registryfs_fuse_ops_total operations received from the "
				  "kernel\n# TYPE registryfs_fuse_ops_total counter\n"
				  "registryfs_fuse_ops_total 42\n"));
	CHECK(strstr(buf_str(&b), "# TYPE registryfs_fuse_nodes gauge\nregistryfs_fuse_nodes 2\n"));
}
