/*
 * cmd_mount.c - `registryfs [mount] [-o OPT,..] [SOURCE] MOUNTPOINT`, and mount.registryfs
 *
 * Parses, checks what can be checked without asking anyone, and hands over to daemon.c.  Everything
 * here runs before the fork, but for the four functions at the end, which are the daemon's work.
 *
 * The checks of the mount point go by /proc/self/mountinfo and touch no mount that may be dead.  An
 * automount trigger (type autofs) below the mount point is expected, any other mount is not.
 */
#include <fcntl.h>
#include <getopt.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "fs/cmd.h"
#include "fs/daemon.h"
#include "fs/fuse.h"
#include "fs/mountinfo.h"
#include "fs/kinds.h"
#include "util/log.h"

#define STALE_MOUNTS_MAX 16	/* dead mounts on one directory that are cleared away */

struct request {
	struct option_set *set;
	struct fs_config config;
	bool helper;		/* called as mount.registryfs */
	bool bare;		/* neither "mount" nor a helper: the first word may be a command */
	bool fake;		/* mount(8) -f: check only */
	bool usage;		/* the failure is one of usage */
};

/* ---- the command line ---- */

static const struct option long_options[] = {
	{ "options", required_argument, NULL, 'o' },
	{ "foreground", no_argument, NULL, 'F' },
	{ "debug", no_argument, NULL, 'd' },
	{ 0 },
};

/* word: the long option, if it was one.  -f means "foreground" to us and "fake" to mount(8). */
static errint_t take_letter(struct request *q, int letter, const char *word, struct err *e)
{
	char letter_word[4];

	switch (letter) {
	case 'o':
		return options_from_mount(q->set, optarg, strlen(optarg), e);
	case 'f':
		if (q->helper) {
			q->fake = true;
			return 0;
		}
		return options_set(q->set, "foreground", "yes", e);
	case 'F':
		return options_set(q->set, "foreground", "yes", e);
	case 'd':
		return options_set(q->set, "debug", "yes", e);
	case 's':
		option_set_sloppy(q->set);
		return 0;
	case 'n': case 'v': case 't': case 'N':
		return 0;
	case ':':
		return err_set(e, EINVAL, ERR_INPUT, "-o needs a value, as in -o tag_ttl=5m");
	default:
		(void)snprintf(letter_word, sizeof(letter_word), "-%c", optopt);
		return err_set(e, EINVAL, ERR_INPUT, "\"%s\" is not understood; see `registryfs help mount`",
			       optopt ? letter_word : word);
	}
}

/* `registryfs gc` is a command we do not have, not a mount point called gc. */
static bool looks_like_command(const char *word, bool alone)
{
	struct stat st;

	if (strcmp(word, "none") == 0 || strcmp(word, "localhost") == 0 ||
	    word[strspn(word, "abcdefghijklmnopqrstuvwxyz-")] != '\0')
		return false;
	return !alone || stat(word, &st) < 0;
}

static errint_t set_source(struct request *q, const char *source, struct err *e)
{
	struct ref_source src = { 0 };
	errint_t r;

	/* fstab needs a word there */
	if (strcmp(source, "none") == 0 || !*source)
		return 0;
	r = ref_source_parse(source, &src, e);
	if (r < 0)
		return r;
	/* The daemon's current directory is not ours. */
	q->config.source = strdup(src.kind == SOURCE_DIR ? src.name : source);
	if (!q->config.fsname)
		q->config.fsname = strdup(src.name);
	ref_source_done(&src);
	return q->config.source && q->config.fsname ? 0 : err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
}

static errint_t load_options(struct request *q, struct err *e)
{
	_cleanup_free_ char *cwd = NULL;
	struct option_places places;
	errint_t r;

	find_places(&places, &cwd);
	r = options_from_environment(q->set, environ, e);
	if (r == 0)
		r = options_load_files(q->set, &places, e);
	if (r == 0)
		r = options_finish(q->set, &places, &q->config, e);
	return r;
}

/* A lone registry name where a directory is meant is the usual slip. */
static errint_t check_count(struct request *q, int n, char **word, struct err *e)
{
	struct ref_source src = { 0 };
	struct stat st;
	bool registry;

	if (n > 2)
		return err_set(e, EINVAL, ERR_INPUT, "too many words after MOUNTPOINT, from \"%s\" on",
			       word[2]);
	if (n == 0 || (q->helper && n < 2))
		return err_set(e, EINVAL, ERR_INPUT, "%s is missing; see `registryfs help mount`",
			       n == 0 ? "MOUNTPOINT" : "the directory to mount on");
	if (n == 2 || lstat(word[0], &st) == 0 || strchr("/.", *word[0]))
		return 0;
	registry = ref_source_parse(word[0], &src, NULL) == 0;
	ref_source_done(&src);
	return !registry ? 0 : err_set(e, EINVAL, ERR_INPUT, "MOUNTPOINT is missing: registryfs %s MOUNTPOINT",
				       word[0]);
}

static errint_t parse(struct request *q, int argc, char **argv, struct err *e)
{
	const char *letters = q->helper ? ":o:sfnvt:N:" : ":o:fdsnv";
	errint_t r = 0;
	int c;

	opterr = 0;
	optind = 0;
	while (r == 0 && (c = getopt_long(argc, argv, letters, long_options, NULL)) != -1)
		r = take_letter(q, c, argv[optind - 1], e);
	if (r == 0)
		r = check_count(q, argc - optind, argv + optind, e);
	if (r == 0)
		r = load_options(q, e);
	if (r == 0 && argc - optind == 2)
		r = set_source(q, argv[optind], e);
	if (r == 0 && q->helper && q->config.foreground)
		return err_set(e, EINVAL, ERR_INPUT, "foreground and debug have no place in fstab");
	if (r == 0 && !q->config.fsname && !(q->config.fsname = strdup("registryfs")))
		return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
	return r;
}

/* ---- the mount point ---- */

static errint_t check_directory(const char *path, struct err *e)
{
	struct stat st;

	if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
		return err_set(e, ENOTDIR, ERR_INPUT, "the mount point %s is not a directory; choose one, or "
			       "make one with mkdir", path);
	if (stat(path, &st) == 0 && geteuid() != 0 && access(path, W_OK) < 0)
		return err_set(e, EACCES, ERR_INPUT, "you may mount only on a directory that you can write "
			       "to, and %s is not one", path);
	if (stat(path, &st) == 0)
		return 0;
	if (errno == ENOENT)
		return err_set(e, ENOENT, ERR_INPUT,
			       "the mount point %s does not exist; make it first: mkdir -p %s", path, path);
	return err_errno(e, errno, "cannot use the mount point %s", path);
}

/* A mount of ours whose process is gone is taken away; everything else stays. */
static errint_t clear_dead(const struct mount_entry *m, struct err *e)
{
	errint_t r;

	if (strcmp(m->type, MOUNT_TYPE) != 0)
		return err_set(e, EBUSY, ERR_LOCAL, "%s is already a mount point (%s of type %s); "
			       "choose another directory", m->point, m->source, m->type);
	r = mount_probe(m->point);
	if (r == -ETIMEDOUT)
		return err_set(e, EBUSY, ERR_LOCAL, "%s is mounted already and its process does not answer; "
			       "see `registryfs status`", m->point);
	/* whatever it answered: the kernel speaks for a mount that we may not look into */
	if (r != -ENOTCONN && m->has_user && m->user != getuid())
		return err_set(e, EBUSY, ERR_LOCAL, "user %u has mounted %s on %s; choose another directory",
			       (unsigned)m->user, m->source, m->point);
	if (r != -ENOTCONN)
		return err_set(e, EBUSY, ERR_LOCAL, "%s is mounted on %s already; `registryfs umount` "
			       "ends that, or choose another directory", m->source, m->point);
	if (!m->has_user || m->user != getuid())
		return err_set(e, EBUSY, ERR_LOCAL, "a dead mount of user %u is in the way on %s; they, or "
			       "root, can take it away with `registryfs umount`", (unsigned)m->user, m->point);
	return mount_end(m->point, true, e);
}

static errint_t check_free(const char *path, struct err *e)
{
	for (int i = 0; i < STALE_MOUNTS_MAX; i++) {
		_cleanup_mounts_ struct mount_list l = { 0 };
		errint_t r = mount_list_read(&l, e);
		const struct mount_entry *m;

		if (r < 0)
			return r;
		m = mount_at(&l, path);
		if (!m || strcmp(m->type, "autofs") == 0)
			return 0;
		r = clear_dead(m, e);
		if (r < 0)
			return r;
	}
	return err_set(e, EBUSY, ERR_LOCAL, "too many dead mounts on %s", path);
}

static errint_t check_mountpoint(struct request *q, const char *word, struct err *e)
{
	errint_t r;

	q->config.mountpoint = mount_point_path(word);
	if (!q->config.mountpoint)
		return errno == ENOENT ? check_directory(word, e) :
					 err_errno(e, errno, "cannot use the mount point %s", word);
	r = check_free(q->config.mountpoint, e);
	return r < 0 ? r : check_directory(q->config.mountpoint, e);
}

/* ---- the directories we need ---- */

/* mkdir -p, each level for the owner alone. */
static errint_t make_directory(const char *path, const char *what, struct err *e)
{
	_cleanup_free_ char *p = strdup(path);

	if (!p)
		return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
	for (char *s = p + 1;; s++) {
		char c = *s;

		if (c != '/' && c != '\0')
			continue;
		*s = '\0';
		if (mkdir(p, 0700) < 0 && errno != EEXIST && errno != EISDIR && (c == '\0' || errno != EROFS))
			return err_errno(e, errno, "cannot make %s for %s; give another place with -o %s=",
					 p, what, what);
		if (c == '\0')
			return 0;
		*s = c;
	}
}

static bool is_below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return path && strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* What the daemon reads must not be behind the daemon. */
static errint_t check_not_inside(const struct fs_config *c, const char *path, const char *what,
				 struct err *e)
{
	_cleanup_free_ char *real = path ? realpath(path, NULL) : NULL;

	if (!is_below(path, c->mountpoint) && !is_below(real, c->mountpoint))
		return 0;
	return err_set(e, EINVAL, ERR_INPUT, "%s (%s) lies inside the mount point %s and would be hidden by "
		       "the mount", what, path, c->mountpoint);
}

static errint_t prepare_directories(const struct fs_config *c, struct err *e)
{
	const struct {
		const char *path, *what;
		bool make;
	} dirs[] = {
		{ c->cache_dir, "cache", true }, { c->state_dir, "state", true },
		{ c->local_dir, "local", !c->source }, { c->log_file, "log", false },
		{ c->authfile, "authfile", false },
		{ c->source && strncmp(c->source, "dir:", 4) == 0 ? c->source + 4 : NULL, "SOURCE", false },
	};
	errint_t r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(dirs) && r == 0; i++) {
		r = check_not_inside(c, dirs[i].path, dirs[i].what, e);
		if (r == 0 && dirs[i].make)
			r = make_directory(dirs[i].path, dirs[i].what, e);
	}
	return r;
}

/* ---- the daemon's work ---- */

struct running {
	const struct request *q;
	struct fs *fs;
	struct fuse_mount *mount;
};

/* The registry's own sentence says what happened; here is what to do, unless it says that as well. */
static void advise(const struct fs_config *c, struct err *e)
{
	const char *what = NULL;
	char said[ERR_MSG_MAX];

	if (strchr(e->msg, ';') || !c->source)
		return;
	if (e->eno == EHOSTUNREACH || e->eno == ETIMEDOUT)
		what = "is the address right, and is the registry running?";
	else if (e->cls == ERR_NET && e->http == 0 && strncmp(c->source, "http:", 5) == 0)
		what = "if it speaks TLS, write it without http://";
	else if (e->http >= 500)
		what = "try again later, or ask whoever runs it";
	else if (e->cls == ERR_NET || e->cls == ERR_INPUT)
		what = "check the address";
	if (!what)
		return;
	memcpy(said, e->msg, sizeof(said));
	(void)err_set(e, e->eno, e->cls, "%s; %s", said, what);
}

/* A registry without credentials to refuse says only "unauthorized". */
static void ask_for_login(const struct fs *fs, struct err *e)
{
	_cleanup_buf_ struct buf who = BUF_INIT(4096);
	const char *anonymous;
	int n;

	if (!fs->single || e->http != 401 || !*e->code)
		return;
	rg_describe_auth(site_registry(fs->single), &who);
	anonymous = strstr(buf_str(&who), ": anonymous");
	if (!anonymous)
		return;
	n = (int)(anonymous - who.data);
	(void)err_set(e, EACCES, ERR_AUTH, "%.*s wants credentials; log in with `podman login %.*s` or `docker login "
		      "%.*s`", n, who.data, n, who.data, n, who.data);
}

static errint_t start(void *arg, struct cancel *c, struct err *e)
{
	struct running *m = arg;
	errint_t r = fs_new(&m->q->config, &m->fs, e);

	if (r == 0)
		r = fs_check_source(m->fs, c, e);
	if (r < 0 && m->fs) {
		ask_for_login(m->fs, e);
		advise(&m->q->config, e);
	}
	if (r == 0 && cancel_fired(c))
		r = err_set(e, ECANCELED, ERR_CANCELLED, "interrupted");
	if (r == 0)
		r = fuse_mount_new(m->fs, &m->mount, e);
	return r;
}

static errint_t serve(void *arg, void (*ready)(void *ready_arg), void *ready_arg, struct err *e)
{
	struct running *m = arg;

	return fuse_mount_serve(m->mount, ready, ready_arg, e);
}

static void stop(void *arg)
{
	struct running *m = arg;

	fuse_mount_stop(m->mount);
}

static void refresh(void *arg)
{
	struct running *m = arg;

	fs_refresh(m->fs, NULL, NULL);
}

static void done(void *arg)
{
	struct running *m = arg;

	if (m->mount)
		m->mount = fuse_mount_free(m->mount);
	m->fs = fs_free(m->fs);
}

/* ---- everything together ---- */

static int run(struct request *q)
{
	struct running m = { .q = q };
	const struct daemon_work w = {
		.start = start, .serve = serve, .stop = stop, .refresh = refresh, .done = done, .arg = &m,
	};

	return q->fake ? EXIT_DONE : daemon_run(&q->config, &w);
}

static int exit_status(const struct request *q, int status)
{
	if (!q->helper || status == EXIT_DONE)
		return status;
	return status == EXIT_USAGE ? HELPER_USAGE : HELPER_FAILED;
}

static int mount_it(struct request *q, int argc, char **argv)
{
	struct err e = { 0 };

	if (parse(q, argc, argv, &e) < 0) {
		complain("%s", e.msg);
		return EXIT_USAGE;
	}
	if (check_mountpoint(q, argv[argc - 1], &e) < 0 || prepare_directories(&q->config, &e) < 0) {
		complain("%s", e.msg);
		return EXIT_FAILED;
	}
	return run(q);
}

int cmd_mount(int argc, char **argv)
{
	struct request q = {
		.set = option_set_new(),
		.bare = !*argv[0],
		.helper = *argv[0] && strcmp(argv[0], "mount") != 0,
	};
	int status = EXIT_FAILED;

	if (q.bare && *argv[1] != '-' && looks_like_command(argv[1], argc == 2))
		status = unknown_command(argv[1]);
	else if (q.set)
		status = mount_it(&q, argc, argv);
	(void)option_set_free(q.set);
	fs_config_done(&q.config);
	return exit_status(&q, status);
}
