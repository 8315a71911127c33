/*
 * apiunit.h - what the tests of registry/api*.c share: a registry over the scripted transport
 *
 * One program is one .c file that includes this once.
 */
#pragma once

#include "registry/api.h"
#include "registry/registry.h"
#include "tests/unit/fake_transport.h"
#include "tests/unit/unit.h"
#include "util/clock.h"

#define MANIFEST "{\"schemaVersion\":2,\"layers\":[]}"
#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"

static struct rg_registry *open_source(const char *source)
{
	struct rg_registry *g = NULL;
	struct err e = { 0 };

	fake_reset();
	if (rg_open(NULL, source, &g, &e) != 0)
		printf("# %s\n", e.msg);
	return g;
}

static void reply(int status, const char *body)
{
	fake_push((struct fake_answer){ .status = status, .body = body });
}
