/*
 * facts.h - what a registry said, when, and what went wrong the last time it was asked
 *
 * A table of facts by name ("tags app", "tag app:1.0", "access app@sha256:..."), each with its
 * value, the time it was learnt, and the last failure.  A failure keeps an older good value (which
 * may be served when the registry cannot be reached) unless it says that the value is void: a parsed
 * "unknown", or refused access.  (private to site.c and need.c)
 *
 * Thread-safe; the lock is a leaf.  At most FACTS_MAX facts: beyond it, old ones are forgotten.
 */
#pragma once

#include "fs/site.h"

#define FACTS_MAX 200000

struct fact {
	uint64_t learnt_ns;		/* 0: no value */
	bool expired;			/* to be asked for again, however young */
	struct digest digest;		/* tag facts */
	struct name_list *list;		/* list facts; a ref */
	struct image_text {
		_Atomic unsigned refs;
		struct buf text;
	} *text;			/* referrers; a ref */
	uint64_t failed_ns;		/* 0: the last attempt succeeded */
	struct err err;
};

struct facts;
struct facts *facts_new(void);
struct facts *facts_free(struct facts *f);

/* A copy with references of its own; false: nothing is known.  fact_done gives them back. */
bool facts_get(struct facts *f, const char *name, struct fact *ret);
void fact_done(struct fact *fact);

/* Takes over the references in value; learnt now, no failure. */
void facts_set(struct facts *f, const char *name, struct fact *value);
void facts_fail(struct facts *f, const char *name, const struct err *err);
/* Forgets when each value was learnt (prefix "": all); values stay for a registry that is down. */
void facts_expire(struct facts *f, const char *prefix);
