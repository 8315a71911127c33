/*
 * layer_gate.h - how many run at once that need much memory (private to cache/)
 *
 * What a layer or a tree costs while it is indexed or merged depends on its contents, that is, on
 * strangers; each has a ceiling (tree_bytes_max, ...), but there are many I/O threads.  So
 * who grows over GATE_HEAVY_BYTES goes on only while few others are that heavy, over GATE_HUGE_BYTES
 * only while GATE_HUGE are, and over GATE_ONE_BYTES alone.  Small ones, nearly all, never wait: a slow registry with a layer of
 * ordinary size holds up nobody.
 *
 * Who waits for a higher level keeps the lower one; those above need nothing more, so there is no
 * deadlock.  One gate belongs to one thread; at its end it gives back what it has.
 */
#pragma once

#include <stdint.h>

#include "util/cancel.h"
#include "util/err.h"

#define GATE_HEAVY_BYTES (16u << 20)
#define GATE_HEAVY_MIN 2u		/* twice as many as cores, within these */
#define GATE_HEAVY_MAX 16u
#define GATE_HUGE_BYTES (64u << 20)
#define GATE_HUGE 2u
#define GATE_ONE_BYTES (256u << 20)

struct layer_gate {
	unsigned level;		/* 0: not heavy (yet) */
};

/* Says what is in use now, waits for its turn when that is a lot.  -ECANCELED: c has fired. */
errint_t layer_gate_grow(struct layer_gate *g, uint64_t bytes, struct cancel *c, struct err *e)
	_must_check_;
void layer_gate_done(struct layer_gate *g);
