/*
 * stats.h - counters and gauges, one static table for the process
 *
 * A counter is an enum value and a row in STATS_TABLE: name, kind, help text.  `.control/stats`
 * prints "name value" lines, `.control/metrics` the same in Prometheus text format, with
 * "registryfs_" in front and "_total" after counters.  Adding costs one row; counting is one
 * relaxed atomic add.
 */
#pragma once

#include <stdint.h>

struct buf;

#define STATS_TABLE(X)                                                                            \
	X(FUSE_OPS, "fuse_ops", counter, "operations received from the kernel")                   \
	X(FUSE_ERRORS, "fuse_errors", counter, "operations answered with an error")               \
	X(FUSE_PARKED, "fuse_parked", gauge, "operations waiting for a fetch")                    \
	X(FUSE_INTERRUPTED, "fuse_interrupted", counter, "operations ended by a signal")          \
	X(FUSE_NODES, "fuse_nodes", gauge, "nodes the kernel or we refer to")                     \
	X(FUSE_READ_BYTES, "fuse_read_bytes", counter, "bytes handed to the kernel by reads")     \
	X(FLIGHTS, "fetches", counter, "shared fetches started")                                  \
	X(FLIGHTS_SHARED, "fetches_shared", counter, "waiters that joined a running fetch")       \
	X(HTTP_REQUESTS, "http_requests", counter, "requests sent to registries")                 \
	X(HTTP_MANIFESTS, "http_manifest_requests", counter, "manifest GET and HEAD requests")    \
	X(HTTP_BLOBS, "http_blob_requests", counter, "blob GET requests")                         \
	X(HTTP_LISTS, "http_list_requests", counter, "tag, catalog and referrer list requests")   \
	X(HTTP_TOKENS, "http_token_requests", counter, "token requests")                          \
	X(HTTP_PUSHES, "http_push_requests", counter, "requests that change a registry")          \
	X(HTTP_RETRIES, "http_retries", counter, "requests sent again after a failure")           \
	X(HTTP_ERRORS, "http_errors", counter, "requests that failed for good")                   \
	X(HTTP_BYTES, "http_received_bytes", counter, "body bytes received")                      \
	X(HTTP_SENT, "http_sent_bytes", counter, "body bytes sent")                               \
	X(HTTP_ACTIVE, "http_active", gauge, "transfers under way")                               \
	X(CACHE_HITS, "cache_hits", counter, "cache entries found")                               \
	X(CACHE_MISSES, "cache_misses", counter, "cache entries not found")                       \
	X(CACHE_BYTES, "cache_bytes", gauge, "bytes in the cache directory")                      \
	X(CACHE_EVICTED, "cache_evicted_bytes", counter, "bytes evicted to stay within limits")   \
	X(CACHE_CORRUPT, "cache_corrupt", counter, "corrupt cache entries dropped")               \
	X(CACHE_WRITE_ERRORS, "cache_write_errors", counter, "cache writes that failed")          \
	X(LAYERS_INDEXED, "layers_indexed", counter, "layers streamed and indexed")               \
	X(LAYER_BYTES_IN, "layer_bytes_compressed", counter, "compressed layer bytes inflated")   \
	X(LAYER_BYTES_OUT, "layer_bytes_inflated", counter, "layer bytes after inflating")        \
	X(INFLATED_AHEAD, "layer_bytes_ahead", counter, "of these, inflated by other threads")    \
	X(SPANS_REFILLED, "spans_refilled", counter, "evicted spans fetched again")               \
	X(TOC_LAYERS, "toc_layers", counter, "layers read by their table of contents")            \
	X(TOC_FALLBACKS, "toc_fallbacks", counter, "layers streamed as theirs was unusable")      \
	X(TOC_GRANULES, "toc_granules", counter, "groups of chunks fetched and verified")         \
	X(TOC_BYTES_IN, "toc_bytes_compressed", counter, "compressed bytes asked for chunks")     \
	X(TOC_BYTES_OUT, "toc_bytes_inflated", counter, "bytes of chunks after inflating")        \
	X(SOCI_INDEXES, "soci_indexes", counter, "images with a SOCI index")                      \
	X(SOCI_FAILURES, "soci_failures", counter, "look-ups of SOCI indexes that failed")        \
	X(READ_AHEAD, "read_ahead_spans", counter, "evicted spans fetched ahead of who reads on")  \
	X(PREFETCH_LISTS, "prefetch_lists", counter, "images whose recorded files went first")     \
	X(PREFETCH_REQUESTS, "prefetch_requests", counter, "requests for what nobody waited for")  \
	X(PREFETCH_BYTES, "prefetch_received_bytes", counter, "bytes of these")                    \
	X(PREFETCH_LEFT, "prefetch_left_bytes", gauge, "bytes still to come in the background")    \
	X(INTEGRITY_FAILURES, "integrity_failures", counter, "digest or size mismatches")

enum stat_id {
#define STATS_ENUM(id, name, kind, help) STAT_##id,
	STATS_TABLE(STATS_ENUM)
#undef STATS_ENUM
	STAT_COUNT
};

void stat_add(enum stat_id s, int64_t n);
void stat_set(enum stat_id s, int64_t n);
int64_t stat_get(enum stat_id s);
static inline void stat_inc(enum stat_id s)
{
	stat_add(s, 1);
}
static inline void stat_dec(enum stat_id s)
{
	stat_add(s, -1);
}

void stats_text(struct buf *out);		/* "name value\n" per row */
void stats_prometheus(struct buf *out);	/* text exposition format 0.0.4 */
