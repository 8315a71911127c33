/*
 * api.h - the OCI distribution protocol (private to registry/)
 *
 * Which requests to make and what the answers mean; how a request gets there is transport.h.
 * One struct rg_api per registry; all calls from any thread.  Repository names are full names that
 * have passed ref_is_repo; references are tags or digests that have passed their checks.  The calls
 * mean what their namesakes in registry.h say.
 *
 * It remembers two things for API_MEMORY_NS: repositories without a referrers API, and blobs of
 * which a mirror sent wrong bytes (or may have: a part that turned out wrong later), which are then
 * asked of the registry itself.
 */
#pragma once

#include "registry/registry.h"
#include "registry/transport.h"
#include "util/clock.h"

#define API_PAGE 1000				/* n= of a listing; ECR refuses more */
/* For servers without paging: RG_TAGS_MAX tags of REF_TAG_MAX bytes, their quotes and commas, on
 * one page.  Of JSON values the names, and some for what stands around them. */
#define API_LIST_BODY_MAX (128u << 20)
#define API_LIST_VALUES_MAX (RG_TAGS_MAX + 100000)
#define API_RESUME_BYTES (UINT64_C(1) << 20)	/* progress that earns another continuation */
#define API_RESUMES_MAX 64			/* continuations of one blob range */
#define API_MEMORY_NS (300 * NSEC_PER_SEC)
#define API_MEMORY_MAX 4096			/* of each sort */

struct rg_api;

/* opts (only retry is used) must outlive the api.  host: a reference is taken over on success. */
errint_t rg_api_new(struct rg_host *host, const struct rg_opts *opts, struct rg_api **ret,
		    struct err *e) _must_check_;
struct rg_api *rg_api_free(struct rg_api *a);
DEFINE_CLEANUP(struct rg_api *, rg_api_free)
struct rg_host *rg_api_host(struct rg_api *a);	/* borrowed */

errint_t rg_api_ping(struct rg_api *a, struct cancel *c, struct err *e) _must_check_;
/* Names below prefix ("" = all), relative to it; "" when the prefix itself is listed. */
errint_t rg_api_list_repos(struct rg_api *a, const char *prefix, struct rg_names *ret,
			   struct cancel *c, struct err *e) _must_check_;
errint_t rg_api_list_tags(struct rg_api *a, const char *repo, struct rg_names *ret,
			  struct cancel *c, struct err *e) _must_check_;
errint_t rg_api_resolve(struct rg_api *a, const char *repo, const char *reference,
			struct digest *ret, struct cancel *c, struct err *e) _must_check_;
errint_t rg_api_get_manifest(struct rg_api *a, const char *repo, const char *reference,
			     struct rg_manifest *ret, struct cancel *c, struct err *e) _must_check_;
/* The same, never from a mirror: for who is going to change what it finds. */
errint_t rg_api_origin_manifest(struct rg_api *a, const char *repo, const char *reference,
				struct rg_manifest *ret, struct cancel *c, struct err *e) _must_check_;
errint_t rg_api_get_blob(struct rg_api *a, const char *repo, const struct digest *d, uint64_t size,
			 uint64_t off, uint64_t len, rg_sink_fn sink, void *ctx, struct cancel *c,
			 struct err *e) _must_check_;
bool rg_api_blob_was_bad(struct rg_api *a, const struct digest *d, uint64_t began_ns);
bool rg_api_sends_parts(struct rg_api *a);
errint_t rg_api_list_referrers(struct rg_api *a, const char *repo, const struct digest *d,
			       struct buf *ret_index, struct cancel *c, struct err *e) _must_check_;
