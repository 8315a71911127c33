/*
 * api_memory.c - what a struct rg_api remembers for a while: a set whose members expire
 *
 * Nothing here is needed for a right answer, so a failure to remember costs a request later and is
 * no error.  A set that is full is emptied.
 */
#include "registry/api_priv.h"

#include "util/clock.h"

uint64_t api_remembered(struct rg_api *a, struct hmap *const *m, const void *key, size_t len)
{
	const uint64_t *until;
	LOCK_SCOPE(&a->lock);

	until = hmap_get(*m, key, len);
	return until && *until > clock_mono_ns() ? *until - API_MEMORY_NS : 0;
}

bool api_remembers(struct rg_api *a, struct hmap *const *m, const void *key, size_t len)
{
	return api_remembered(a, m, key, len) != 0;
}

void api_remember(struct rg_api *a, struct hmap **m, const void *key, size_t len)
{
	_cleanup_free_ uint64_t *until = malloc(sizeof(*until));
	struct hmap *fresh;
	LOCK_SCOPE(&a->lock);

	if (!until)
		return;
	if (hmap_count(*m) >= API_MEMORY_MAX) {
		fresh = hmap_new(free);
		if (!fresh)
			return;
		(void)hmap_free(*m);
		*m = fresh;
	}
	*until = clock_mono_ns() + API_MEMORY_NS;
	if (hmap_put(*m, key, len, until) == 0)
		(void)steal_ptr(&until);
}
