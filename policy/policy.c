/* policy.c - the tables behind policy.h */
#include "policy/policy.h"

#include <stdlib.h>
#include <string.h>

#define SEC UINT64_C(1000000000)

uint64_t po_ttl_ns(enum po_fresh what, uint64_t tag_ttl_ns, enum err_class err)
{
	switch (what) {
	case PO_FRESH_IMMUTABLE:
		return PO_FOREVER_NS;
	case PO_FRESH_TAG:
	case PO_FRESH_TAG_LIST:
		return tag_ttl_ns;
	case PO_FRESH_REPO_LIST:
	case PO_FRESH_REFERRERS:
		/* Rarely changes, expensive to ask. */
		return tag_ttl_ns < 60 * SEC && tag_ttl_ns ? 2 * tag_ttl_ns : tag_ttl_ns;
	case PO_FRESH_ACCESS:
		return 3600 * SEC;
	case PO_FRESH_ABSENT:
		return tag_ttl_ns < 5 * SEC ? tag_ttl_ns : 5 * SEC;
	case PO_FRESH_FAILURE:
		/* Long enough that a `find` over a dead registry does not hammer it. */
		return err == ERR_AUTH ? 5 * SEC : err == ERR_CANCELLED ? 0 : 2 * SEC;
	case PO_FRESH_UNSET:
		break;
	}
	return 0;
}

static bool retryable(enum err_class cls, int http)
{
	switch (http) {
	case 408: case 429: case 499: case 500: case 502: case 503: case 504: case 522:
		return true;
	case 0:
		return cls == ERR_NET;
	default:
		return false;
	}
}

bool po_retry(unsigned attempt, enum err_class cls, int http, int64_t retry_after_s, uint64_t *ret_delay_ns)
{
	uint64_t base = SEC / 5;

	if (attempt >= PO_ATTEMPTS_MAX || !retryable(cls, http))
		return false;
	if (retry_after_s > PO_RETRY_AFTER_MAX_S)
		return false;
	if (retry_after_s >= 0) {
		*ret_delay_ns = (uint64_t)retry_after_s * SEC;
		return true;
	}
	for (unsigned i = 1; i < attempt && base < 5 * SEC; i++)
		base *= 2;
	if (base > 5 * SEC)
		base = 5 * SEC;
	/* Half to all of it: clients that failed together do not come back together. */
	*ret_delay_ns = base / 2 + (uint64_t)random() % (base / 2);
	return true;
}

bool po_serve_stale(enum err_class cls)
{
	return cls == ERR_NET || cls == ERR_TIMEOUT || cls == ERR_RATE;
}

uint32_t po_mode(enum po_access access, bool directory, bool writable, bool executable)
{
	uint32_t m = 0444u | (writable ? 0200u : 0) | (executable || directory ? 0111u : 0);

	if (directory)
		m |= 0200u & (writable ? ~0u : 0u);
	if (access == PO_ACCESS_OWNER)
		m &= 0700u;
	return m;
}

bool po_host_on_demand(const char *host, bool allow_other)
{
	if (allow_other || host[0] == '.')
		return false;
	/* A port, or a dot: otherwise every typo would become a DNS lookup. */
	return strchr(host, ':') || strchr(host, '.');
}
