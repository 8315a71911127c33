/*
 * policy.h - decisions about values: how long, how often, how big, who
 *
 * Pure functions: no I/O, no clock, no threads, no pointers kept.  Inputs and outputs are plain
 * values, so that each rule is a table in a unit test.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "util/err.h"

/* ---- how long an answer may be used (nanoseconds) ---- */
enum po_fresh {
	PO_FRESH_UNSET = 0,
	PO_FRESH_IMMUTABLE,	/* named by digest */
	PO_FRESH_TAG,		/* tag -> digest */
	PO_FRESH_TAG_LIST,
	PO_FRESH_REPO_LIST,
	PO_FRESH_REFERRERS,
	PO_FRESH_ACCESS,	/* "this repository lets us read this digest" */
	PO_FRESH_ABSENT,	/* a parsed "unknown" */
	PO_FRESH_FAILURE,	/* an error other than "unknown" */
};
#define PO_FOREVER_NS UINT64_C(31536000000000000) /* a year */
/* tag_ttl_ns: the option; err: class of the failure for PO_FRESH_FAILURE, else ERR_UNSET. */
uint64_t po_ttl_ns(enum po_fresh what, uint64_t tag_ttl_ns, enum err_class err);

/* ---- whether and when to try a request again ---- */
#define PO_ATTEMPTS_MAX 4
#define PO_RETRY_AFTER_MAX_S 30
/* attempt counts from 1.  Honours retry_after_s (-1: none; longer than the maximum: give up, the
 * message says when to come back); otherwise 0.2 s doubling with jitter up to 5 s. */
bool po_retry(unsigned attempt, enum err_class cls, int http, int64_t retry_after_s, uint64_t *ret_delay_ns);

/* When the registry cannot be asked, may what is cached be served instead?  Never after AUTH. */
bool po_serve_stale(enum err_class cls);

/* ---- who may see what (modes of synthetic nodes) ---- */
enum po_access { PO_ACCESS_UNSET = 0, PO_ACCESS_PUBLIC, PO_ACCESS_OWNER };
uint32_t po_mode(enum po_access access, bool directory, bool writable, bool executable);

/* On-demand hosts below the root of a mount without SOURCE (DESIGN.md 2). */
bool po_host_on_demand(const char *host, bool allow_other);
