/*
 * layer_side.h - a second thread for part of the work on a stream (layer_fill.c only)
 *
 * Pieces are copied into a bounded queue and handled in order by one thread.  It exists only where
 * a core is likely to be idle: side_new answers NULL when as many fills run already as there are
 * pairs of cores, or when there is no thread to be had; the caller then does the work itself.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define SIDE_PIECES 4			/* of SIDE_PIECE_BYTES each */
#define SIDE_PIECE_BYTES (256u << 10)

/* `what` and `off` are the caller's. */
typedef void (*side_fn)(void *ctx, int what, uint64_t off, const void *data, size_t len);

struct side;
struct side *side_new(side_fn fn, void *ctx);
/* At most SIDE_PIECE_BYTES; waits for room. */
void side_push(struct side *s, int what, uint64_t off, const void *data, size_t len);
/* Handles what is queued, ends the thread, frees; what fn wrote can be read now.  Accepts NULL. */
struct side *side_end(struct side *s);
