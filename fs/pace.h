/*
 * pace.h - how fast bytes may come that nobody waits for
 *
 * What is fetched in the background shares the way to the registry with readers.  Its bytes pass
 * here one portion after the other: they keep to the option background_rate, and what nobody will
 * want soon waits while somebody waits for a fetch (for a while each time, so that a reader who is
 * stuck does not stop everything).  Waiting here fills the connection's buffers, and so holds the server back.
 *
 * Threads: any; one lock, a leaf.  Blocks: for works on the I/O pool.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "util/cancel.h"
#include "util/err.h"

struct engine;
struct pace;

struct pace *pace_new(struct engine *e, uint64_t bytes_per_s);	/* 0: no limit; NULL: no memory */
struct pace *pace_free(struct pace *p);	/* accepts and returns NULL */
/* len bytes have come; yields: to readers as well.  -ECANCELED: c has fired. */
errint_t pace_bytes(struct pace *p, size_t len, bool yields, struct cancel *c, struct err *e) _must_check_;
