/*
 * machine.c - see machine.h
 *
 * A line of /proc/self/cgroup is ID:CONTROLLERS:PATH.  Version 2 has one, "0::PATH", and memory.max below the
 * top; of version 1 the one with "memory" among the controllers counts, below memory/.  What cannot be read
 * is no limit.
 */
#include "util/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"

#define TEXT_MAX 8192		/* of /proc/self/cgroup; what comes behind is not looked at */
#define CGROUPS "/sys/fs/cgroup"

static size_t read_text(const char *path, char *out, size_t size)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t n = 0;

	while (fd >= 0 && len < size - 1 && (n = read(fd, out + len, size - 1 - len)) > 0)
		len += (size_t)n;
	out[len] = '\0';
	return len;
}

/* "max", or a number of bytes. */
static uint64_t limit_at(const char *dir, const char *file)
{
	char path[PATH_MAX], text[32], *end;
	unsigned long long v;

	if (snprintf(path, sizeof(path), "%s/%s", dir, file) >= (int)sizeof(path) || !read_text(path, text, sizeof(text)))
		return UINT64_MAX;
	errno = 0;
	v = strtoull(text, &end, 10);
	return end == text || errno || text[0] == '-' ? UINT64_MAX : v;
}

/* Of top + path, and of what is above it up to top. */
static uint64_t limit_above(const char *top, const char *path, const char *file)
{
	char dir[PATH_MAX];
	uint64_t least = UINT64_MAX;
	size_t top_len = strlen(top);
	int len = snprintf(dir, sizeof(dir), "%s%s", top, path);

	for (bool more = len >= 0 && len < (int)sizeof(dir); more;) {
		char *slash = strrchr(dir + top_len, '/');
		uint64_t here = limit_at(dir, file);

		least = MIN_OF(least, here);
		more = slash != NULL;
		if (slash)
			*slash = '\0';
	}
	return least;
}

static bool among(const char *list, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = list; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
		if (strncmp(p, word, len) == 0 && (p[len] == ',' || p[len] == '\0'))
			return true;
	return false;
}

static uint64_t limit_by_line(const char *top, char *line)
{
	char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
	char v1[PATH_MAX];

	if (!path)
		return UINT64_MAX;
	*controllers++ = '\0';
	*path++ = '\0';
	if (strcmp(line, "0") == 0 && !*controllers)
		return limit_above(top, path, "memory.max");
	if (!among(controllers, "memory") || snprintf(v1, sizeof(v1), "%s/memory", top) >= (int)sizeof(v1))
		return UINT64_MAX;
	return limit_above(v1, path, "memory.limit_in_bytes");
}

uint64_t machine_cgroup_limit(const char *top, const char *self)
{
	_cleanup_free_ char *text = strdup(self);
	uint64_t least = UINT64_MAX;
	char *rest = text, *line;

	while (rest && (line = strsep(&rest, "\n"))) {
		uint64_t limit = limit_by_line(top, line);

		least = MIN_OF(least, limit);
	}
	return least;
}

static uint64_t memory;

static void look(void)
{
	uint64_t pages = (uint64_t)MAX_OF(sysconf(_SC_PHYS_PAGES), 0L), size = (uint64_t)MAX_OF(sysconf(_SC_PAGESIZE), 0L);
	char self[TEXT_MAX];
	uint64_t limit;

	(void)read_text("/proc/self/cgroup", self, sizeof(self));
	limit = machine_cgroup_limit(CGROUPS, self);
	memory = MIN_OF(pages * size, limit);
}

uint64_t machine_memory(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	(void)pthread_once(&once, look);
	return memory;
}
