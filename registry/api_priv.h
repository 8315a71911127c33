/*
 * api_priv.h - what the api_*.c files share
 *
 * Lock order: rg_api.lock is a leaf; nothing is called under it but hmap.
 */
#pragma once

#define API_SMALL_BLOB (64u << 10) /* has a lane of its own */

#include <pthread.h>
#include <stdatomic.h>

#include "registry/api.h"
#include "util/hmap.h"

struct rg_api {
	struct rg_host *host;
	const struct rg_opts *opts;
	pthread_mutex_t lock;
	struct hmap *no_referrers;	/* repository -> uint64_t *, until when it is believed */
	struct hmap *bad_blobs;		/* struct digest -> the same: keep off the mirrors */
	atomic_bool no_one_request;	/* it does not take a blob with POST */
	atomic_uint ignored_ranges;	/* requests for parts that got the whole blob, in a row */
};

#define API_WHAT_MAX 512
#define API_ACCEPT_MANIFESTS                                                                       \
	OCI_TYPE_INDEX ", " OCI_TYPE_MANIFEST ", " OCI_TYPE_DOCKER_LIST                            \
		       ", " OCI_TYPE_DOCKER_MANIFEST

/* Is key in that set of a's?  (api_memory.c) */
/* m: &a->no_referrers or its like, which is looked at under the lock: a full set is replaced. */
bool api_remembers(struct rg_api *a, struct hmap *const *m, const void *key, size_t len);
/* Since when (clock_mono_ns); 0: it is not. */
uint64_t api_remembered(struct rg_api *a, struct hmap *const *m, const void *key, size_t len);
void api_remember(struct rg_api *a, struct hmap **m, const void *key, size_t len);

/* An answer that is not what the protocol says: turns r of a parser into -EIO, keeps the words. */
errint_t api_bad_answer(struct rg_api *a, const char *what, struct err *e);
/* "tag 1.0 of app" or "sha256:.. of app", for messages. */
const char *api_what(const char *repo, const char *reference, char out[static API_WHAT_MAX]);
/* A reference that is a digest is parsed to *ret; false: it is a tag. */
bool api_reference_digest(const char *reference, struct digest *ret);
