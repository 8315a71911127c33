/*
 * daemon.h - from a command in a terminal to a process that serves
 *
 * daemon_run forks before any thread exists (threads do not survive a fork), lets the child do its
 * work, and returns in the parent only when the child has said how it went: the exit status and the
 * one sentence on stderr are true.  The child keeps the parent's process group and terminal until
 * it is ready: systemd's automount lets nobody but its own group touch a mount point that is being
 * mounted.
 *
 * One thread owns signals, the start's deadline and the talk with the parent and with systemd:
 *
 *	SIGINT SIGTERM	cancel the start, or unmount and end; once more after a while: end at once
 *	SIGHUP		open the log again, forget what may have changed
 *	SIGUSR1		next log level: warning, info, debug, and around again
 */
#pragma once

#include <stdbool.h>

#include "fs/fs.h"
#include "util/cancel.h"
#include "util/err.h"

#define DAEMON_START_MS 25000	/* then the start is cancelled */
#define DAEMON_WAIT_MS 29000	/* then the parent gives up */

struct daemon_work {
	/* Everything that may fail; ends soon after c fires. */
	errint_t (*start)(void *arg, struct cancel *c, struct err *e);
	/* Serves until stop is called or the mount ends; calls ready once. */
	errint_t (*serve)(void *arg, void (*ready)(void *ready_arg), void *ready_arg, struct err *e);
	/* Makes serve return, also when called before it; after start.  On the signal thread. */
	void (*stop)(void *arg);
	void (*refresh)(void *arg);	/* SIGHUP, while serve runs.  On the signal thread. */
	void (*done)(void *arg);	/* undoes start, also when start failed */
	void *arg;
};

/* Returns the exit status of this process: of the parent, or in the foreground (and in the child) of
 * the work itself. */
int daemon_run(const struct fs_config *c, const struct daemon_work *w);

/* sd_notify(3)'s protocol; nothing happens without a supervisor.  socket: $NOTIFY_SOCKET. */
void notify_supervisor(const char *socket, const char *state);
