/*
 * main.c - finds the command and calls it
 *
 * The program is one binary under several names: as mount.registryfs or umount.registryfs (links
 * made by the installation) it speaks the language of mount(8) helpers.  systemd starts those with
 * neither HOME nor PATH, so both are supplied before anything looks for them.
 */
#include <fcntl.h>
#include <malloc.h>
#include <pwd.h>
#include <signal.h>

#include "fs/cmd.h"

static int cmd_help(int argc, char **argv);
static int cmd_version(int argc, char **argv);

static const struct command commands[] = {
	{ "mount", cmd_mount, "show a registry as a directory (the word may be left out)",
	  "[mount] [-f] [-d] [-o OPTION[=VALUE],..] [SOURCE] MOUNTPOINT",
	  "SOURCE is HOST[:PORT][/PREFIX], http://HOST.. for a registry without TLS, or dir:PATH for\n"
	  "OCI image layouts on disk.  Without SOURCE (or with the word none) the mount has one directory\n"
	  "per configured registry, `local` for the embedded one, and looks up any HOST that is named.\n"
	  "The command returns when the mount answers.\n"
	  "\n"
	  "  -f    stay in the foreground and log to the terminal\n"
	  "  -d    the same, with every detail\n"
	  "\n"
	  "Options (TIME: 30, 30s, 5m, 2h; SIZE: 512M, 10G; a comma in a value is written \\,):\n",
	  options_help },
	{ "umount", cmd_umount, "unmount and wait until the mount's process has ended",
	  "umount [-l] MOUNTPOINT",
	  "  -l    detach now, even when in use\n", NULL },
	{ "status", cmd_status, "list mounts and say whether they are well",
	  "status [MOUNTPOINT]",
	  "Ends with 0 when all is well, 3 when MOUNTPOINT is not a mount of registryfs, and 4 when the\n"
	  "process behind a mount is gone or does not answer.\n", NULL },
	{ "rootfs", cmd_rootfs, "mount an image's file tree as a file system of the kernel's (root)",
	  "rootfs [-o OPTION,..] IMAGE DIRECTORY",
	  "IMAGE is the directory of an image below a mount: ~/registries/ghcr.io/org/app/1.0.  Its tree is\n"
	  "mounted on DIRECTORY, read-only, with the kernel's EROFS, which is as fast as a disk for names and\n"
	  "attributes; contents are fetched when they are read, as ever.  Where that is not possible, it is the\n"
	  "image's rootfs directory that is shown there, and one sentence says why.  Symbolic links have the\n"
	  "image's own text.  `registryfs umount DIRECTORY` ends it.\n"
	  "\n"
	  "  -o suid, dev  honour set-user-id bits and device nodes\n"
	  "  -o noexec     run no programs from it\n"
	  "  -o erofs      EROFS or nothing\n"
	  "  -o fuse       show the rootfs directory in any case\n", NULL },
	{ "warm", cmd_warm, "fetch an image, or a part of it, for use offline",
	  "warm PATH..",
	  "PATH is the directory of an image below a mount (~/registries/ghcr.io/org/app/1.0), a directory or a\n"
	  "file below its rootfs or layers, or a blob.  All that is needed to read it is brought into the cache;\n"
	  "of layers that can be read in parts, only the parts.  The command ends with 0 when everything is\n"
	  "there, and says before it starts when the cache is too small.  Ctrl-C ends it at once, and what has\n"
	  "come stays.  A line on the terminal shows how far it is.\n", NULL },
	{ "index", cmd_index, "build a SOCI index, so that an image's layers can be read in parts",
	  "index [-o OPTION,..] [--v2 TAG] [--all-platforms] IMAGE",
	  "IMAGE is HOST[:PORT]/REPOSITORY[:TAG] (http://HOST.. for a registry without TLS) or dir:PATH[:TAG]\n"
	  "for an OCI image layout.  Each layer is read once; its index says what files it has and from which\n"
	  "places it can be unpacked, and is put beside the image, for registryfs and the SOCI snapshotter.\n"
	  "The image stays as it is, and the index is one of its referrers.\n"
	  "\n"
	  "  --v2 TAG              instead, make an image that names its index itself (SOCI version 2), and put it\n"
	  "                        under TAG; its layers are the same\n"
	  "  --platform OS/ARCH    which image of a multi-platform one (default: this machine's)\n"
	  "  --all-platforms       all of them\n"
	  "  --span-size SIZE      unpacked bytes between two such places (default: 4M)\n"
	  "  --min-layer-size SIZE leave out smaller layers (default: 10M)\n"
	  "  -o OPTION,..          as for mount: authfile, tls_verify, timeout ..\n", NULL },
	{ "version", cmd_version, "print the version", "version", "", NULL },
	{ "help", cmd_help, "explain a command", "help [COMMAND]", "", NULL },
};

void complain(const char *fmt, ...)
{
	_cleanup_buf_ struct buf text = BUF_INIT(8192), line = BUF_INIT(32768);
	va_list ap;

	va_start(ap, fmt);
	(void)buf_addv(&text, fmt, ap);
	va_end(ap);
	(void)buf_add_text(&line, buf_str(&text), text.len);
	fprintf(stderr, "registryfs: %s\n", buf_str(&line));
}

const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(name, commands[i].name) == 0)
			return &commands[i];
	return NULL;
}

int unknown_command(const char *name)
{
	const char *words[ARRAY_SIZE(commands) + 1] = { NULL };
	const char *near;

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		words[i] = commands[i].name;
	near = nearest_word(name, words);
	if (near)
		complain("unknown command '%s'; the nearest is %s", name, near);
	else
		complain("unknown command '%s'; `registryfs help` lists what there is", name);
	return EXIT_USAGE;
}

static int help_all(FILE *to)
{
	fprintf(to, "registryfs shows container registries as directories\n\n");
	fprintf(to, "  registryfs %s\n", commands[0].usage);
	for (size_t i = 1; i < ARRAY_SIZE(commands); i++)
		fprintf(to, "  registryfs %s\n", commands[i].usage);
	fprintf(to, "\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		fprintf(to, "  %-10s%s\n", commands[i].name, commands[i].summary);
	fprintf(to, "\n`registryfs help mount` lists the options; registryfs(1) explains it all.\n");
	return to == stdout ? EXIT_DONE : EXIT_USAGE;
}

static int cmd_help(int argc, char **argv)
{
	_cleanup_buf_ struct buf more = BUF_INIT(1 << 20);
	const struct command *c;

	if (argc < 2 || strcmp(argv[1], "--help") == 0)
		return help_all(stdout);
	c = find_command(argv[1]);
	if (!c)
		return unknown_command(argv[1]);
	if (c->more)
		c->more(&more);
	printf("usage: registryfs %s\n\n%s\n%s%s", c->usage, c->summary, *c->text ? "\n" : "", c->text);
	fputs(buf_str(&more), stdout);
	return EXIT_DONE;
}

static int cmd_version(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	printf("registryfs %s\n", REGISTRYFS_VERSION);
	return EXIT_DONE;
}

/* ---- surroundings ---- */

/* A descriptor opened later must not become 0, 1 or 2. */
static void fill_standard_files(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= 2);
	if (fd > 2)
		(void)close(fd);
}

static void supply_environment(void)
{
	const char *home = getenv("HOME"), *path = getenv("PATH");

	if (!home || *home != '/') {
		const struct passwd *pw = getpwuid(geteuid());

		if (pw && pw->pw_dir && *pw->pw_dir == '/')
			(void)setenv("HOME", pw->pw_dir, 1);
	}
	if (!path || !*path)
		(void)setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
}

void find_places(struct option_places *ret, char **ret_cwd)
{
	*ret_cwd = getcwd(NULL, 0);
	*ret = (struct option_places){
		.home = getenv("HOME"),
		.cwd = *ret_cwd,
		.xdg_config = getenv("XDG_CONFIG_HOME"),
		.xdg_cache = getenv("XDG_CACHE_HOME"),
		.xdg_state = getenv("XDG_STATE_HOME"),
		.xdg_data = getenv("XDG_DATA_HOME"),
		.root = geteuid() == 0,
	};
}

/* ---- dispatch ---- */

static bool wants_help(int argc, char **argv)
{
	return argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
}

static int run_command(const struct command *c, int argc, char **argv)
{
	char *help[] = { argv[0], argv[0], NULL };

	if (wants_help(argc, argv) && c->run != cmd_help)
		return cmd_help(2, help);
	return c->run(argc, argv);
}

static int dispatch(int argc, char **argv)
{
	static char no_name[] = "";
	const struct command *c;

	if (argc < 2)
		return help_all(stderr);
	c = find_command(argv[1]);
	if (c)
		return run_command(c, argc - 1, argv + 1);
	if (wants_help(argc, argv))
		return help_all(stdout);
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)
		return cmd_version(1, argv);
	argv[0] = no_name;
	return cmd_mount(argc, argv);
}

#define HEAPS_MIN 2
#define HEAPS_MAX 8

/* Buffers for parts of layers are made and freed on many threads, and each heap of glibc's keeps some
 * of what it had: so no more heaps than threads that can run. */
static void limit_heaps(void)
{
#ifdef __GLIBC__
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	(void)mallopt(M_ARENA_MAX, (int)MIN_OF(MAX_OF(cores, (long)HEAPS_MIN), (long)HEAPS_MAX));
#endif
}

int main(int argc, char **argv)
{
	const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
	const char *name = slash ? slash + 1 : argc > 0 ? argv[0] : "registryfs";
	int status;

	limit_heaps();
	fill_standard_files();
	(void)signal(SIGPIPE, SIG_IGN);
	supply_environment();
	if (strncmp(name, "mount.", 6) == 0)
		return cmd_mount(argc, argv);
	if (strncmp(name, "umount.", 7) == 0)
		return cmd_umount(argc, argv);
	status = dispatch(argc, argv);
	if (fflush(stdout) != 0 && status == EXIT_DONE)
		status = EXIT_FAILED;
	return status;
}
