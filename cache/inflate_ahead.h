/*
 * inflate_ahead.h - members and frames of one stream inflated on several cores (private to cache/)
 *
 * Stands in front of a struct inflate.  While the stream turns out to have several gzip members or
 * zstd frames and cores are idle, runs of whole ones are decoded by other threads before the
 * stream comes to them; when it stands just where a run begins, it takes the run's output, else it
 * decodes the bytes itself.  So the outcome is that of the stream alone, whatever the guesses were
 * worth, damage and all; only checkpoints are fewer, there is none within a run.
 *
 * Bytes are held back for it, AHEAD_BYTES_MAX and what the threads are just making (some MiB each).
 * Streams of one member or frame pass through.
 *
 * Not thread-safe towards its user; the callbacks run on his thread.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cache/inflate.h"

#define AHEAD_BYTES_MAX (32u << 20)	/* compressed and inflated, of one stream */

struct ahead_ops {
	/* These bytes are next: push them. */
	errint_t (*push)(void *ctx, const void *data, size_t len, struct err *e);
	/* These are next, and inflate to out: take them (inflate_take). */
	errint_t (*take)(void *ctx, const void *data, size_t len, const void *out, size_t out_len,
			 struct err *e);
};

struct ahead;
/* z: what ops push to; outlives the result.  NULL: no memory. */
struct ahead *inflate_ahead_new(const struct inflate *z, const struct ahead_ops *ops, void *ctx);
struct ahead *inflate_ahead_free(struct ahead *a);	/* accepts NULL, returns NULL */
errint_t inflate_ahead_push(struct ahead *a, const void *data, size_t len, struct err *e) _must_check_;
/* No more comes: pushes what was held back. */
errint_t inflate_ahead_end(struct ahead *a, struct err *e) _must_check_;
size_t inflate_ahead_memory(struct ahead *a);

/* Tests set these: how many cores there are (0: ask), how large a run is worth a hand-over, and whether
 * runs are left to the threads even if the stream comes to them first. */
extern long inflate_ahead_cores;
extern size_t inflate_ahead_run_min;
extern bool inflate_ahead_patient;
