/*
 * toc_scan.h - a table of contents as JSON, cut into its entries while it streams (private to cache/)
 *
 *	{"version":1,"entries":[{...},{...},...], other members}
 *
 * A TOC can be hundreds of megabytes; one parsed document of it would take ten times that.  So the
 * text is only cut here: each element of `entries` is handed on as it is, to be parsed alone, and
 * memory is that of one entry.  What is not about cutting (is the element sound JSON?) is left to
 * who parses it; what would make two readers see different entries is refused: `entries` or
 * `version` twice, or written in another way (other case, escapes), text after the end.
 */
#pragma once

#include <stddef.h>

#include "util/cleanup.h"
#include "util/err.h"

#define TOC_ENTRY_MAX (4u << 20)	/* text of one entry; its attributes may be large */
#define TOC_KEY_MAX 64u			/* of the members beside entries; longer ones are not ours */

/* One element of entries; valid during the call. */
typedef errint_t (*toc_element_fn)(void *ctx, const char *json, size_t len, struct err *e);

struct toc_scan;
struct toc_scan *toc_scan_new(toc_element_fn fn, void *ctx);
struct toc_scan *toc_scan_free(struct toc_scan *s);
DEFINE_CLEANUP(struct toc_scan *, toc_scan_free)
/* -EBADMSG (INPUT, LIMIT) when it is not such a document; else what fn returned. */
errint_t toc_scan_push(struct toc_scan *s, const void *data, size_t len, struct err *e) _must_check_;
errint_t toc_scan_end(struct toc_scan *s, struct err *e) _must_check_;
