/*
 * machine.h - how much memory there is for this process
 *
 * The machine's, or less: what the memory cgroup of the process, or one above it, may use at most (MemoryMax=
 * of a unit, --memory of a container).  Both versions of cgroups.  Where the process sees only its own part
 * of the hierarchy, as in most containers, the limit is at the top of what it sees.
 */
#pragma once

#include <stdint.h>

/* Looked up at the first call; a limit that changes later is not noticed.  Any thread. */
uint64_t machine_memory(void);

/* The smallest limit of the cgroups that `self` names, a text as in /proc/self/cgroup, and of those above,
 * in the hierarchy mounted at `top`; UINT64_MAX: none. */
uint64_t machine_cgroup_limit(const char *top, const char *self);
