/*
 * cmd_umount.c - `registryfs umount MOUNTPOINT`, and umount.registryfs
 *
 * Unmounts and waits until the mount's process has ended, so that what follows may rely on it.  The
 * process is found by asking the mount itself (`.control/info.json`) before it goes; where that is
 * not allowed (another user's mount) there is nothing to wait on and the unmounted mount must do.
 * What `registryfs rootfs` has mounted is unmounted, too; it has no process of its own.
 */
#include <getopt.h>
#include <poll.h>
#include <sys/pidfd.h>

#include "fs/cmd.h"
#include "fs/mountinfo.h"
#include "util/clock.h"
#include "util/json.h"

#define NOTE_AFTER_MS 5000	/* then we say what we wait for */
#define GIVE_UP_AFTER_MS 120000

static errint_t parse(int argc, char **argv, bool *ret_lazy, const char **ret_point, struct err *e)
{
	static const struct option long_options[] = { { "lazy", no_argument, NULL, 'l' }, { 0 } };
	bool helper = strcmp(argv[0], "umount") != 0;
	int c;

	opterr = 0;
	optind = 0;
	while ((c = getopt_long(argc, argv, helper ? "lfvnrsN:t:" : "l", long_options, NULL)) != -1) {
		if (c == '?')
			return err_set(e, EINVAL, ERR_INPUT, "umount knows the option -l and no other");
		*ret_lazy |= c == 'l';
	}
	if (argc - optind != 1)
		return err_set(e, EINVAL, ERR_INPUT, "usage: registryfs umount [-l] MOUNTPOINT");
	*ret_point = argv[optind];
	return 0;
}

/* Is there a mount of ours, that we may end? */
static int check(const char *point, bool *ret_rootfs, struct err *e)
{
	_cleanup_mounts_ struct mount_list l = { 0 };
	const struct mount_entry *m;

	if (mount_list_read(&l, e) < 0)
		return EXIT_FAILED;
	m = mount_at(&l, point);
	if (!m) {
		(void)err_set(e, EINVAL, ERR_INPUT, "nothing is mounted on %s; `registryfs status` lists mounts",
			      point);
		return EXIT_NOT_MOUNTED;
	}
	*ret_rootfs = mount_is_rootfs(m);
	if (strcmp(m->type, MOUNT_TYPE) != 0 && !*ret_rootfs) {
		(void)err_set(e, EINVAL, ERR_INPUT, "%s is not a mount of registryfs but of %s, type %s; use "
			      "umount(8)", point, m->source, m->type);
		return EXIT_NOT_MOUNTED;
	}
	if (*ret_rootfs && geteuid() != 0) {
		(void)err_set(e, EPERM, ERR_INPUT, "%s was mounted by root, who alone may unmount it", point);
		return EXIT_FAILED;
	}
	if (!*ret_rootfs && !mount_is_ours(m)) {
		(void)err_set(e, EPERM, ERR_INPUT, "%s was mounted by user %u; only they or root may unmount it",
			      point, (unsigned)m->user);
		return EXIT_FAILED;
	}
	return EXIT_DONE;
}

/* A handle on the mount's process, or -1. */
static int open_process(const char *point)
{
	_cleanup_buf_ struct buf text = BUF_INIT(1 << 20);
	_cleanup_(json_freep) struct json *doc = NULL;
	int64_t pid;

	if (mount_read(point, ".control/info.json", &text) < 0 ||
	    json_parse(buf_str(&text), text.len, &doc, NULL) < 0)
		return -1;
	pid = json_int(doc, "pid", 0);
	return pid > 0 ? pidfd_open((pid_t)pid, 0) : -1;
}

/* A pidfd becomes readable when the process ends. */
static bool wait_for_end(int process, int ms)
{
	struct pollfd pf = { .fd = process, .events = POLLIN };
	int n;

	do
		n = poll(&pf, 1, ms);
	while (n < 0 && errno == EINTR);
	return n != 0;
}

static int await_process(int process, const char *point)
{
	if (wait_for_end(process, NOTE_AFTER_MS))
		return EXIT_DONE;
	complain("%s is unmounted; waiting for its process to finish", point);
	if (wait_for_end(process, GIVE_UP_AFTER_MS - NOTE_AFTER_MS))
		return EXIT_DONE;
	complain("the process of %s has still not ended after %d seconds", point, GIVE_UP_AFTER_MS / 1000);
	return EXIT_FAILED;
}

static int unmount(const char *point, bool rootfs, bool lazy, struct err *e)
{
	errint_t alive = mount_probe(point);
	/* what an image has under that name is not to be asked, and no process ends with it */
	_cleanup_close_ int process = alive == 0 && !rootfs ? open_process(point) : -1;
	/* nothing is lost by detaching what is dead */
	errint_t r = mount_end(point, lazy || alive == -ENOTCONN, e);

	if (r < 0)
		return r == -EBUSY ? EXIT_BUSY : EXIT_FAILED;
	return process < 0 || lazy ? EXIT_DONE : await_process(process, point);
}

static int umount_it(int argc, char **argv, struct err *e)
{
	_cleanup_free_ char *point = NULL;
	const char *word = NULL;
	bool lazy = false, rootfs = false;
	int status;

	if (parse(argc, argv, &lazy, &word, e) < 0)
		return EXIT_USAGE;
	point = mount_point_path(word);
	if (!point) {
		(void)err_errno(e, errno, "cannot unmount %s", word);
		return EXIT_NOT_MOUNTED;
	}
	(void)!chdir("/");	/* so that it is not us who use it */
	status = check(point, &rootfs, e);
	return status == EXIT_DONE ? unmount(point, rootfs, lazy, e) : status;
}

int cmd_umount(int argc, char **argv)
{
	struct err e = { 0 };
	int status = umount_it(argc, argv, &e);

	if (e.eno)
		complain("%s", e.msg);
	if (strcmp(argv[0], "umount") == 0 || status == EXIT_DONE)
		return status;
	return status == EXIT_USAGE ? HELPER_USAGE : HELPER_FAILED;
}
