/*
 * test_machine.c - limits of memory, in made-up hierarchies of cgroups
 */
#include "tests/unit/unit.h"

#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/machine.h"

static char top[64];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
	(void)st, (void)type, (void)f;
	return remove(path);
}

static void begin(void)
{
	(void)snprintf(top, sizeof(top), "/tmp/test-machine-XXXXXX");
	REQUIRE(mkdtemp(top) != NULL);
}

static void end(void)
{
	(void)nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Makes the directories on the way, too. */
static void limit(const char *at, const char *text)
{
	char path[256];

	(void)snprintf(path, sizeof(path), "%s/%s", top, at);
	for (char *p = path + strlen(top) + 1; (p = strchr(p, '/')); *p++ = '/') {
		*p = '\0';
		(void)mkdir(path, 0700);
	}
	FILE *f = fopen(path, "w");
	REQUIRE(f != NULL);
	(void)fputs(text, f);
	(void)fclose(f);
}

TEST(the_smallest_limit_on_the_way_up_counts)
{
	begin();
	limit("a/b/c/memory.max", "max\n");
	CHECK_EQ_INT(machine_cgroup_limit(top, "0::/a/b/c\n"), UINT64_MAX);
	limit("a/b/c/memory.max", "900000000\n");
	limit("a/b/memory.max", "max\n");
	limit("a/memory.max", "536870912\n");
	limit("other/memory.max", "1\n");
	CHECK_EQ_INT(machine_cgroup_limit(top, "0::/a/b/c\n"), 536870912);
	limit("a/b/c/memory.max", "100\n");
	CHECK_EQ_INT(machine_cgroup_limit(top, "0::/a/b/c\n"), 100);
	CHECK_EQ_INT(machine_cgroup_limit(top, "0::/a\n"), 536870912);
	CHECK_EQ_INT(machine_cgroup_limit(top, "0::/ab\n"), UINT64_MAX);
	end();
}

/* Its own cgroup is "/" there, or has a name that is not to be seen. */
TEST(a_container_sees_its_limit_at_the_top)
{
	begin();
	limit("memory.max", "1000\n");
	CHECK_EQ_INT(machine_cgroup_limit(top, "0::/\n"), 1000);
	CHECK_EQ_INT(machine_cgroup_limit(top, "0::/docker/not/here"), 1000);
	end();
}

TEST(version_1_has_a_line_of_its_own_for_memory)
{
	static const char self[] = "9:name=systemd:/s\n5:cpu,memory:/m/n\n3:memoryless:/x\n0::/\n";

	begin();
	limit("memory/m/memory.limit_in_bytes", "2000\n");
	limit("memory/m/n/memory.limit_in_bytes", "9223372036854771712\n");
	limit("memory/x/memory.limit_in_bytes", "1\n");
	limit("memory/s/memory.limit_in_bytes", "1\n");
	CHECK_EQ_INT(machine_cgroup_limit(top, self), 2000);
	end();
}

TEST(what_makes_no_sense_is_no_limit)
{
	static const char *const bad[] = { "", "x", "-5", "99999999999999999999999\n" };
	static char name[2 * 4096];

	begin();
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		limit("memory.max", bad[i]);
		CHECK_EQ_INT(machine_cgroup_limit(top, "0::/\n"), UINT64_MAX);
	}
	limit("memory.max", "7\n");
	CHECK_EQ_INT(machine_cgroup_limit(top, ""), UINT64_MAX);
	CHECK_EQ_INT(machine_cgroup_limit(top, "nothing\n0:\n::\n"), UINT64_MAX);
	(void)memset(name, '/', sizeof(name) - 1);
	(void)memcpy(name, "0::", 3);
	CHECK_EQ_INT(machine_cgroup_limit(top, name), UINT64_MAX);
	end();
}

TEST(this_machine_has_some_memory)
{
	uint64_t all = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);

	CHECK(machine_memory() > 0 && machine_memory() <= all);
	CHECK_EQ_INT(machine_memory(), machine_memory());
}
