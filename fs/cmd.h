/*
 * cmd.h - the commands of the program
 *
 * Each command is a function with main's arguments, argv[0] being the command's name, that returns
 * the exit status.  Messages go to stderr as one sentence with "registryfs: " in front.
 */
#pragma once

#include <stdbool.h>

#include "fs/options.h"
#include "util/buf.h"
#include "util/err.h"

enum exit_status {
	EXIT_DONE = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,		/* a command, option or argument is wrong */
	EXIT_NOT_MOUNTED = 3,	/* umount, status: nothing of ours is mounted there */
	EXIT_DEAD = 4,		/* status: a mount whose process is gone or does not answer */
	EXIT_BUSY = 5,		/* umount: in use */
};

/* What mount(8) and umount(8) expect of a helper. */
enum helper_status { HELPER_USAGE = 1, HELPER_FAILED = 32 };

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary;		/* for the list of commands */
	const char *usage;		/* after "registryfs " */
	const char *text;		/* the rest of its help */
	void (*more)(struct buf *out);	/* appended; may be NULL */
};

const struct command *find_command(const char *name);
/* "unknown command" with the nearest known one. */
int unknown_command(const char *name);

/* argv[0]: "mount"; "" when the command was left out; anything else: called as mount.registryfs. */
int cmd_mount(int argc, char **argv);
/* argv[0]: "umount", or anything else: called as umount.registryfs. */
int cmd_umount(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_rootfs(int argc, char **argv);
int cmd_index(int argc, char **argv);
int cmd_warm(int argc, char **argv);

/* Prints "registryfs: sentence". */
void complain(const char *fmt, ...) _printf_(1, 2);
/* Fills what options need from the process's environment; strings are borrowed from it, cwd is owned
 * by the caller (free). */
void find_places(struct option_places *ret, char **ret_cwd);
