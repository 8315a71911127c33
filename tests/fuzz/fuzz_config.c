/*
 * fuzz_config.c - image configs: layer numbers ascend and stay below the number of diff ids
 */
#include <stdint.h>
#include <stdlib.h>

#include "registry/oci.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct oci_config *c)
{
	int next = 0;

	for (size_t i = 0; i < c->n_history; i++) {
		int layer = c->history[i].layer;

		if (layer < 0)
			continue;
		if (layer != next || (size_t)layer >= c->n_diff_ids)
			abort();
		next++;
	}
	if (c->created_s < 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_(oci_config_freep) struct oci_config *c = NULL;
	struct err e = { 0 };

	if (oci_config_parse((const char *)data, size, &c, &e) == 0)
		check(c);
	else if (e.eno <= 0 || !e.msg[0])
		abort();
	return 0;
}
