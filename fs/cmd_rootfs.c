/*
 * cmd_rootfs.c - `registryfs rootfs IMAGE DIRECTORY`: an image's tree as a file system of the kernel's
 *
 * IMAGE/.image.erofs is mounted as it is: since Linux 6.12 EROFS reads a file wherever that is, also on
 * FUSE.  Where that cannot be done the same tree is shown by binding IMAGE/rootfs.
 *
 * The kernel trusts what it mounts further than what it reads through FUSE, so the file has to come
 * from a process of root's own: the mount that IMAGE leads into must be one that root has made.
 * Between that check and the mount nobody may exchange it: all happens relative to a descriptor of
 * that mount's root, whose identity is compared with the mount table's.
 */
#include <fcntl.h>
#include <getopt.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "fs/cmd.h"
#include "fs/mountinfo.h"

struct rootfs {
	unsigned long flags;		/* MS_* */
	bool no_erofs, no_fuse;
	char *image, *target;		/* absolute */
	char *below;			/* image, from the root of its mount */
};

static void rootfs_done(struct rootfs *r)
{
	free(r->image);
	free(r->target);
	free(r->below);
}

/* ---- the command line ---- */

static errint_t set_option(struct rootfs *r, const char *word, struct err *e)
{
	static const char *const words[] = { "suid", "dev", "noexec", "erofs", "fuse", NULL };
	const char *near;

	if (strcmp(word, "suid") == 0)
		r->flags &= ~(unsigned long)MS_NOSUID;
	else if (strcmp(word, "dev") == 0)
		r->flags &= ~(unsigned long)MS_NODEV;
	else if (strcmp(word, "noexec") == 0)
		r->flags |= MS_NOEXEC;
	else if (strcmp(word, "erofs") == 0)
		r->no_fuse = true;
	else if (strcmp(word, "fuse") == 0)
		r->no_erofs = true;
	else if (strcmp(word, "ro") != 0 && strcmp(word, "nosuid") != 0 && strcmp(word, "nodev") != 0) {
		near = nearest_word(word, words);
		return err_set(e, EINVAL, ERR_INPUT, "rootfs has no option '%s'%s%s; it knows suid, dev, noexec, erofs "
			       "and fuse", word, near ? ", the nearest is " : "", near ? near : "");
	}
	return 0;
}

static errint_t set_options(struct rootfs *r, char *list, struct err *e)
{
	char *save = NULL;
	errint_t err = 0;

	for (char *w = strtok_r(list, ",", &save); w && err == 0; w = strtok_r(NULL, ",", &save))
		err = set_option(r, w, e);
	if (err == 0 && r->no_erofs && r->no_fuse)
		err = err_set(e, EINVAL, ERR_INPUT, "of the options erofs and fuse there can be one");
	return err;
}

static errint_t parse(int argc, char **argv, struct rootfs *r, const char **ret_image, const char **ret_dir,
		      struct err *e)
{
	int c;

	opterr = 0;
	optind = 0;
	while ((c = getopt(argc, argv, "o:")) != -1) {
		if (c != 'o')
			return err_set(e, EINVAL, ERR_INPUT, "rootfs knows the option -o and no other");
		errint_t err = set_options(r, optarg, e);

		if (err < 0)
			return err;
	}
	if (argc - optind != 2)
		return err_set(e, EINVAL, ERR_INPUT, "usage: registryfs rootfs [-o OPTION,..] IMAGE DIRECTORY");
	*ret_image = argv[optind];
	*ret_dir = argv[optind + 1];
	return 0;
}

static errint_t find_target(struct rootfs *r, const char *word, struct err *e)
{
	struct stat st;

	r->target = realpath(word, NULL);
	if (!r->target || stat(r->target, &st) < 0)
		return err_errno(e, errno, "cannot mount on %s", word);
	return S_ISDIR(st.st_mode) ? 0 : err_set(e, ENOTDIR, ERR_INPUT, "%s is not a directory", word);
}

/* ---- the mount it is in ---- */

/* Is the directory behind fd the root of mount m? */
static bool is_mount(int fd, const struct mount_entry *m)
{
	struct statx sx;

	return statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &sx) == 0 && (sx.stx_mask & STATX_MNT_ID) &&
	       sx.stx_mnt_id == (uint64_t)m->id;
}

/* Makes that mount's root the working directory.  Says why EROFS cannot be used, if so. */
static errint_t enter_mount(struct rootfs *r, const char *word, struct err *why, struct err *e)
{
	_cleanup_mounts_ struct mount_list l = { 0 };
	const struct mount_entry *m;

	r->image = realpath(word, NULL);
	if (!r->image)
		return err_errno(e, errno, "cannot look at %s", word);
	if (mount_list_read(&l, e) < 0)
		return -e->eno;
	m = mount_above(&l, r->image);
	if (!m || strcmp(m->type, MOUNT_TYPE) != 0)
		return err_set(e, EINVAL, ERR_INPUT, "%s is not below a mount of registryfs; `registryfs status` lists "
			       "mounts", word);

	_cleanup_close_ int root = open(m->point, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (root < 0 || !is_mount(root, m) || fchdir(root) < 0)
		return err_set(e, EBUSY, ERR_LOCAL, "%s is being mounted or unmounted just now", m->point);
	r->below = strdup(r->image + strlen(m->point) + (r->image[strlen(m->point)] == '/'));
	if (!r->below)
		return err_errno(e, ENOMEM, "rootfs");
	if (!m->has_user || m->user != geteuid())
		(void)err_set(why, EPERM, ERR_LOCAL, "%s was mounted by user %u, and the kernel is to trust nobody but root",
			      m->point, (unsigned)m->user);
	return 0;
}

static char *in_image(const struct rootfs *r, const char *name)
{
	char *path;

	return asprintf(&path, "%s%s%s", r->below, *r->below ? "/" : "", name) < 0 ? NULL : path;
}

/* ---- mounting ---- */

static const char *why_not(int eno)
{
	switch (eno) {
	case ENODEV: return "this kernel has no EROFS";
	case ENOTBLK: return "this kernel cannot mount EROFS from a file, as Linux 6.12 and later can";
	case EPERM: return "mounting EROFS is not permitted here";
	default: return strerror(eno);
	}
}

/* Makes the image, which may take as long as its layers take to arrive. */
static errint_t prepare(const struct rootfs *r, const char *file, struct err *why, struct err *e)
{
	_cleanup_close_ int fd = open(file, O_RDONLY | O_CLOEXEC);

	if (fd >= 0)
		return 0;
	if (errno == ENOENT)
		return err_set(e, ENOENT, ERR_INPUT, "%s is not the directory of an image that has a file tree", r->image);
	if (errno == EFBIG || errno == ENOSPC)
		return err_set(why, errno, ERR_LIMIT, "its tree cannot be made an EROFS image (%s); .control/errors of the "
			       "mount says why", strerror(errno));
	return err_set(e, errno, ERR_LOCAL, "cannot have the tree of %s: %s; .control/errors of the mount says why", r->image,
		       strerror(errno));
}

/* 0: mounted.  *why is set: not this way.  *e: not at all. */
static errint_t mount_erofs(const struct rootfs *r, struct err *why, struct err *e)
{
	_cleanup_free_ char *file = in_image(r, MOUNT_EROFS_FILE);
	errint_t err;

	if (!file)
		return err_errno(e, ENOMEM, "rootfs");
	err = prepare(r, file, why, e);
	if (err == 0 && mount(file, r->target, "erofs", r->flags, NULL) < 0)
		err = err_set(why, errno, ERR_LOCAL, "%s", why_not(errno));
	return err;
}

static errint_t bind_rootfs(const struct rootfs *r, struct err *e)
{
	_cleanup_free_ char *tree = in_image(r, "rootfs");

	if (!tree)
		return err_errno(e, ENOMEM, "rootfs");
	if (mount(tree, r->target, NULL, MS_BIND, NULL) < 0)
		return errno == ENOENT ?
		       err_set(e, ENOENT, ERR_INPUT, "%s is not the directory of an image that has a file tree", r->image) :
		       err_errno(e, errno, "cannot mount %s/rootfs on %s", r->image, r->target);
	if (mount(NULL, r->target, NULL, MS_BIND | MS_REMOUNT | r->flags, NULL) < 0) {
		errint_t err = err_errno(e, errno, "cannot mount %s/rootfs on %s", r->image, r->target);

		(void)umount2(r->target, MNT_DETACH);
		return err;
	}
	return 0;
}

static errint_t mount_it(const struct rootfs *r, struct err *why, struct err *e)
{
	errint_t err = why->eno ? -why->eno : r->no_erofs ? -EOPNOTSUPP : mount_erofs(r, why, e);

	if (err == 0 || e->eno)
		return err;
	if (r->no_fuse) {
		*e = *why;
		return err_wrap(e, err, "cannot mount %s on %s", r->image, r->target);
	}
	err = bind_rootfs(r, e);
	if (err == 0 && !r->no_erofs)
		complain("%s shows %s/rootfs through FUSE instead: %s", r->target, r->image, why->msg);
	return err;
}

static int rootfs(int argc, char **argv, struct err *e)
{
	_cleanup_(rootfs_done) struct rootfs r = { .flags = MS_RDONLY | MS_NOSUID | MS_NODEV };
	struct err why = { 0 };
	const char *image = NULL, *dir = NULL;

	if (parse(argc, argv, &r, &image, &dir, e) < 0)
		return EXIT_USAGE;
	if (geteuid() != 0) {
		(void)err_set(e, EPERM, ERR_INPUT, "only root may mount an image's tree; %s/rootfs shows the same one", image);
		return EXIT_FAILED;
	}
	if (find_target(&r, dir, e) < 0 || enter_mount(&r, image, &why, e) < 0 || mount_it(&r, &why, e) < 0)
		return EXIT_FAILED;
	return EXIT_DONE;
}

int cmd_rootfs(int argc, char **argv)
{
	struct err e = { 0 };
	int status = rootfs(argc, argv, &e);

	if (e.eno)
		complain("%s", e.msg);
	return status;
}
