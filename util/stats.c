/*
 * stats.c - the process-wide counters
 *
 * Relaxed atomics: each number is exact by itself, but a printed table is no snapshot.
 */
#include "util/stats.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "util/buf.h"

enum stat_kind { STAT_KIND_counter, STAT_KIND_gauge };

static const struct {
	const char *name, *help;
	enum stat_kind kind;
} rows[] = {
#define STATS_ROW(id, stat_name, stat_kind, stat_help) \
	[STAT_##id] = { stat_name, stat_help, STAT_KIND_##stat_kind },
	STATS_TABLE(STATS_ROW)
#undef STATS_ROW
};

static _Atomic int64_t values[STAT_COUNT];

void stat_add(enum stat_id s, int64_t n)
{
	(void)atomic_fetch_add_explicit(&values[s], n, memory_order_relaxed);
}

void stat_set(enum stat_id s, int64_t n)
{
	atomic_store_explicit(&values[s], n, memory_order_relaxed);
}

int64_t stat_get(enum stat_id s)
{
	return atomic_load_explicit(&values[s], memory_order_relaxed);
}

void stats_text(struct buf *out)
{
	for (unsigned i = 0; i < STAT_COUNT; i++)
		(void)buf_addf(out, "%s %" PRId64 "\n", rows[i].name, stat_get((enum stat_id)i));
}

static void add_prometheus_row(struct buf *out, enum stat_id s)
{
	bool counter = rows[s].kind == STAT_KIND_counter;
	const char *name = rows[s].name, *suffix = counter ? "_total" : "";

	(void)buf_addf(out, "# HELP registryfs_%s%s %s\n", name, suffix, rows[s].help);
	(void)buf_addf(out, "# TYPE registryfs_%s%s %s\n", name, suffix,
		       counter ? "counter" : "gauge");
	(void)buf_addf(out, "registryfs_%s%s %" PRId64 "\n", name, suffix, stat_get(s));
}

void stats_prometheus(struct buf *out)
{
	for (unsigned i = 0; i < STAT_COUNT; i++)
		add_prometheus_row(out, (enum stat_id)i);
}
