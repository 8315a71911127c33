/*
 * layer_gate.c - the counts behind layer_gate.h
 *
 * Waiting is polling: it is rare, and a cancel's wake function may be taken by the source whose
 * sink is the one that waits.
 */
#include "cache/layer_gate.h"

#include <pthread.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/clock.h"

#define POLL_NS (20 * NSEC_PER_MSEC)
#define LEVELS 3

static const uint64_t level_bytes[LEVELS] = { GATE_HEAVY_BYTES, GATE_HUGE_BYTES, GATE_ONE_BYTES };
static pthread_mutex_t gate_lock = PTHREAD_MUTEX_INITIALIZER;	/* a leaf */
static unsigned busy[LEVELS];

static unsigned level_max(unsigned level)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	if (level > 0)
		return level == 1 ? GATE_HUGE : 1;
	return (unsigned)MIN_OF(MAX_OF(2 * cores, (long)GATE_HEAVY_MIN), (long)GATE_HEAVY_MAX);
}

static bool try_enter(unsigned level)
{
	LOCK_SCOPE(&gate_lock);
	if (busy[level] >= level_max(level))
		return false;
	busy[level]++;
	return true;
}

errint_t layer_gate_grow(struct layer_gate *g, uint64_t bytes, struct cancel *c, struct err *e)
{
	while (g->level < LEVELS && bytes > level_bytes[g->level]) {
		while (!try_enter(g->level)) {
			if (cancel_fired(c))
				return err_set(e, ECANCELED, ERR_CANCELLED,
					       "nobody waits for it any more");
			(void)cancel_sleep_ns(NULL, POLL_NS, NULL);
		}
		g->level++;
	}
	return 0;
}

void layer_gate_done(struct layer_gate *g)
{
	LOCK_SCOPE(&gate_lock);
	while (g->level > 0)
		busy[--g->level]--;
}
