/*
 * test_options.c - options from four places, and the mount table
 */
#include "tests/unit/unit.h"

#include <sys/stat.h>
#include <unistd.h>

#include "fs/mountinfo.h"
#include "fs/options.h"
#include "util/clock.h"
#include "util/log.h"

static const struct option_places places = { .home = "/home/u", .cwd = "/cwd", .root = true };
static const struct option_places user_places = { .home = "/home/u", .cwd = "/cwd" };

/* Parses -o, environment, user file and system file (NULL: absent) and finishes. */
static errint_t build(const char *o, char *const *env, const char *user, const char *system,
		      const struct option_places *p, struct fs_config *c, struct err *e)
{
	_cleanup_(option_set_freep) struct option_set *s = option_set_new();
	errint_t r = 0;

	if (o)
		r = options_from_mount(s, o, strlen(o), e);
	if (r == 0 && env)
		r = options_from_environment(s, env, e);
	if (r == 0 && user)
		r = options_from_file(s, FROM_USER_FILE, "user", user, strlen(user), e);
	if (r == 0 && system)
		r = options_from_file(s, FROM_SYSTEM_FILE, "system", system, strlen(system), e);
	return r < 0 ? r : options_finish(s, p, c, e);
}

static void check_error(const char *o, const char *sentence)
{
	struct fs_config c = { 0 };
	struct err e = { 0 };

	CHECK(build(o, NULL, NULL, NULL, &places, &c, &e) < 0);
	CHECK_EQ_STR(e.msg, sentence);
	fs_config_done(&c);
}

TEST(defaults_are_those_of_the_manual)
{
	struct fs_config c = { 0 };

	CHECK_OK(build(NULL, NULL, NULL, NULL, &places, &c, NULL));
	CHECK_EQ_INT(c.tag_ttl_ns, 30 * NSEC_PER_SEC);
	CHECK_EQ_INT(c.timeout_ns, 30 * NSEC_PER_SEC);
	CHECK_EQ_INT(c.transfers, 8);
	CHECK_EQ_INT(c.cache_size, INT64_C(10) << 30);
	CHECK_EQ_INT(c.cache_free, 0);
	CHECK_EQ_INT(c.log_level, LOG_LVL_INFO);
	CHECK(!c.tls_verify_off && !c.allow_other && !c.allow_root && !c.ro && !c.suid && !c.dev);
	CHECK(!c.raw_links && !c.debug && !c.foreground);
	CHECK_EQ_STR(c.cache_dir, "/home/u/.cache/registryfs");
	CHECK_EQ_STR(c.state_dir, "/home/u/.local/state/registryfs");
	CHECK_EQ_STR(c.local_dir, "/home/u/.local/share/registryfs/registry");
	CHECK(!c.platform && !c.authfile && !c.registries && !c.fsname && !c.log_file);
	fs_config_done(&c);
}

TEST(xdg_directories_win_over_home)
{
	struct option_places p = { .home = "/home/u", .xdg_cache = "/c", .xdg_state = "/s", .xdg_data = "/d" };
	struct fs_config c = { 0 };

	CHECK_OK(build(NULL, NULL, NULL, NULL, &p, &c, NULL));
	CHECK_EQ_STR(c.cache_dir, "/c/registryfs");
	CHECK_EQ_STR(c.state_dir, "/s/registryfs");
	CHECK_EQ_STR(c.local_dir, "/d/registryfs/registry");
	fs_config_done(&c);
	/* the specification wants relative ones ignored */
	p.xdg_cache = "rel";
	CHECK_OK(build(NULL, NULL, NULL, NULL, &p, &c, NULL));
	CHECK_EQ_STR(c.cache_dir, "/home/u/.cache/registryfs");
	fs_config_done(&c);
}

TEST(without_home_root_has_system_directories_and_others_a_sentence)
{
	struct option_places p = { .root = true };
	struct fs_config c = { 0 };
	struct err e = { 0 };

	CHECK_OK(build(NULL, NULL, NULL, NULL, &p, &c, NULL));
	CHECK_EQ_STR(c.cache_dir, "/var/cache/registryfs");
	CHECK_EQ_STR(c.local_dir, "/var/lib/registryfs/registry");
	fs_config_done(&c);
	p.root = false;
	CHECK_ERR(build(NULL, NULL, NULL, NULL, &p, &c, &e), -EINVAL);
	CHECK_EQ_STR(e.msg, "the home directory is not known; set HOME, or give cache=, state= and local=");
	fs_config_done(&c);
	CHECK_OK(build("cache=/a,state=/b,local=/c", NULL, NULL, NULL, &p, &c, NULL));
	fs_config_done(&c);
}

TEST(every_option_of_dash_o_arrives)
{
	struct fs_config c = { 0 };

	CHECK_OK(build("allow_other,raw_links,suid,dev,ro,tag_ttl=5m,timeout=1h,transfers=3,cache=/c,cache_size=2T,"
		       "cache_free=512m,state=/s,local=/l,authfile=/a,certs_dir=/cd,registries_conf=/rc,"
		       "hosts_dir=/hd,tls_verify=no,platform=linux/arm64/v8,registries=ghcr.io+[::1]:5000,log=/log,"
		       "log_level=error,fsname=x,foreground",
		       NULL, NULL, NULL, &places, &c, NULL));
	CHECK(c.allow_other && c.raw_links && c.suid && c.dev && c.ro && c.tls_verify_off && c.foreground);
	CHECK_EQ_INT(c.tag_ttl_ns, 300 * NSEC_PER_SEC);
	CHECK_EQ_INT(c.timeout_ns, 3600 * NSEC_PER_SEC);
	CHECK_EQ_INT(c.transfers, 3);
	CHECK_EQ_INT(c.cache_size, INT64_C(2) << 40);
	CHECK_EQ_INT(c.cache_free, INT64_C(512) << 20);
	CHECK_EQ_STR(c.cache_dir, "/c");
	CHECK_EQ_STR(c.state_dir, "/s");
	CHECK_EQ_STR(c.local_dir, "/l");
	CHECK_EQ_STR(c.authfile, "/a");
	CHECK_EQ_STR(c.certs_dir, "/cd");
	CHECK_EQ_STR(c.registries_conf, "/rc");
	CHECK_EQ_STR(c.hosts_dir, "/hd");
	CHECK_EQ_STR(c.platform, "linux/arm64/v8");
	CHECK_EQ_STR(c.log_file, "/log");
	CHECK_EQ_STR(c.fsname, "x");
	CHECK_EQ_INT(c.log_level, LOG_LVL_ERROR);
	REQUIRE(c.n_registries == 2);
	CHECK_EQ_STR(c.registries[0], "ghcr.io");
	CHECK_EQ_STR(c.registries[1], "[::1]:5000");
	fs_config_done(&c);
}

TEST(a_backslash_protects_a_comma)
{
	struct fs_config c = { 0 };

	CHECK_OK(build("cache=/a\\,b\\\\c,,fsname=x\\=y,", NULL, NULL, NULL, &places, &c, NULL));
	CHECK_EQ_STR(c.cache_dir, "/a,b\\c");
	CHECK_EQ_STR(c.fsname, "x=y");
	fs_config_done(&c);
	check_error("cache=/a\\", "-o ends with a backslash");
}

TEST(the_command_line_wins_over_environment_over_files)
{
	char *env[] = { (char[]){ "REGISTRYFS_TAG_TTL=2" }, (char[]){ "REGISTRYFS_TRANSFERS=2" },
			(char[]){ "REGISTRYFS_TEST_CACHE=/x" }, (char[]){ "REGISTRYFS=/x" }, (char[]){ "OTHER=1" },
			(char[]){ "REGISTRYFS_TIMEOUT=" }, (char[]){ "REGISTRYFS_RAW_LINKS=no" }, NULL };
	struct fs_config c = { 0 };

	CHECK_OK(build("tag_ttl=1", env, "tag_ttl=3\ntransfers=3\n timeout = 3 \nraw_links\n",
		       "tag_ttl=4\ntransfers=4\ntimeout=4\n# comment\n\ncache_size=1G", &places, &c, NULL));
	CHECK_EQ_INT(c.tag_ttl_ns, 1 * NSEC_PER_SEC);
	CHECK_EQ_INT(c.transfers, 2);
	CHECK_EQ_INT(c.timeout_ns, 3 * NSEC_PER_SEC);
	CHECK_EQ_INT(c.cache_size, INT64_C(1) << 30);
	CHECK(!c.raw_links);
	CHECK(strstr(c.options_text, "tag_ttl=1  (command line)\n"));
	CHECK(strstr(c.options_text, "transfers=2  (environment: REGISTRYFS_TRANSFERS)\n"));
	CHECK(strstr(c.options_text, "timeout=3  (user:3)\n"));
	CHECK(strstr(c.options_text, "cache_size=1G  (system:6)\n"));
	CHECK(strstr(c.options_text, "tls_verify=yes  (default)\n"));
	CHECK(strstr(c.options_text, "cache=/home/u/.cache/registryfs  (default)\n"));
	fs_config_done(&c);
}

TEST(unknown_options_name_their_neighbour)
{
	check_error("tag_tll=1", "unknown option \"tag_tll\"; the nearest is tag_ttl");
	check_error("cachesize=1G", "unknown option \"cachesize\"; the nearest is cache_size");
	check_error("allowother", "unknown option \"allowother\"; the nearest is allow_other");
	check_error("quux", "unknown option \"quux\"; `registryfs help mount` lists all");
	check_error("remount,ro", "option remount is refused: a mount cannot be changed in place; unmount it and "
				  "mount it again");
	check_error("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
		    "unknown option \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"; `registryfs help mount` "
		    "lists all");
}

TEST(bad_values_get_a_sentence)
{
	check_error("tag_ttl=soon", "option tag_ttl: \"soon\" is not a time such as 30, 30s, 5m or 2h");
	check_error("tag_ttl=1d", "option tag_ttl: \"1d\" is not a time such as 30, 30s, 5m or 2h");
	check_error("tag_ttl=1mm", "option tag_ttl: \"1mm\" is not a time such as 30, 30s, 5m or 2h");
	check_error("tag_ttl=99999999999999999999", "option tag_ttl: \"99999999999999999999\" is not a time such as "
						    "30, 30s, 5m or 2h");
	check_error("timeout=0", "option timeout: 0 is outside 1 to 3600 seconds");
	check_error("timeout=-1", "option timeout: \"-1\" is not a time such as 30, 30s, 5m or 2h");
	check_error("transfers=65", "option transfers: 65 is outside 1 to 64");
	check_error("transfers=8x", "option transfers: \"8x\" is not a number");
	check_error("cache_size=10X", "option cache_size: \"10X\" is not a size such as 512M, 10G or 1T");
	check_error("cache_size=1K", "option cache_size: 1K is outside 16777216 to 1125899906842624 bytes");
	check_error("cache_size=auto", "option cache_size: \"auto\" is not a size such as 512M, 10G or 1T");
	check_error("tls_verify=maybe", "option tls_verify: \"maybe\" is not yes or no");
	check_error("tls_verify", "option tls_verify needs a value: tls_verify=yes|no");
	check_error("cache=", "option cache needs a value: cache=DIR");
	check_error("rw=yes", "option rw takes no value");
	check_error("platform=arm64", "option platform: \"arm64\" is not OS/ARCH or OS/ARCH/VARIANT, such as "
				      "linux/arm64/v8");
	check_error("platform=linux//v8", "option platform: \"linux//v8\" is not OS/ARCH or OS/ARCH/VARIANT, such as "
					  "linux/arm64/v8");
	check_error("log_level=loud", "option log_level: \"loud\" is not error, warning, info or debug");
	check_error("fsname=a\tb", "option fsname: \"a?b\" is not a name without control characters");
	check_error("registries=ghcr.io+https://x.y", "option registries: \"https://x.y\" is not a HOST, HOST:PORT or http://HOST; "
						      "hosts are joined by '+'");
	check_error("allow_other,allow_root", "allow_other and allow_root are both given; keep one");
	check_error("ro,rw", "both ro and rw are given; keep one");
}

TEST(the_last_of_a_repeated_option_counts_and_lists_grow)
{
	struct fs_config c = { 0 };

	CHECK_OK(build("tag_ttl=1,tag_ttl=2,suid,nosuid,rw,rw,registries=a.b+c.d,registries=a.b+e.f", NULL,
		       "ro\nregistries=g.h", NULL, &places, &c, NULL));
	CHECK_EQ_INT(c.tag_ttl_ns, 2 * NSEC_PER_SEC);
	CHECK(!c.suid && !c.ro);
	REQUIRE(c.n_registries == 3);
	CHECK_EQ_STR(c.registries[2], "e.f");
	fs_config_done(&c);
}

TEST(options_of_mount_8_are_accepted)
{
	struct fs_config c = { 0 };

	CHECK_OK(build("auto,noauto,user=me,nouser,users,_netdev,nofail,rw,nodev,nosuid,exec,relatime,noatime,defaults,"
		       "x-systemd.automount,x-systemd.idle-timeout=1min,X-mount.mkdir=0755,comment=a b",
		       NULL, NULL, NULL, &places, &c, NULL));
	CHECK(!c.suid && !c.dev && !c.ro);
	fs_config_done(&c);
	/* but not in a configuration file */
	CHECK_ERR(build(NULL, NULL, "nofail\n", NULL, &places, &c, NULL), -EINVAL);
	fs_config_done(&c);
}

TEST(sloppy_passes_over_unknown_options_only)
{
	struct fs_config c = { 0 };
	_cleanup_(option_set_freep) struct option_set *s = option_set_new();

	option_set_sloppy(s);
	CHECK_OK(options_from_mount(s, "tag_tll=1,noexec", 16, NULL));
	CHECK_ERR(options_from_mount(s, "tag_ttl=x", 9, NULL), -EINVAL);
	CHECK_OK(options_finish(s, &user_places, &c, NULL));
	CHECK(c.noexec);
	fs_config_done(&c);
	CHECK_OK(options_from_mount(s, "exec", 4, NULL));
	CHECK_OK(options_finish(s, &user_places, &c, NULL));
	CHECK(!c.noexec);
	fs_config_done(&c);
}

TEST(suid_and_dev_are_roots)
{
	struct fs_config c = { 0 };

	CHECK_OK(build("suid,dev", NULL, NULL, NULL, &user_places, &c, NULL));
	CHECK(!c.suid && !c.dev);
	CHECK(strstr(c.options_text, "suid=yes  (command line; ignored, only root may)\n"));
	fs_config_done(&c);
}

TEST(debug_means_foreground_and_every_detail)
{
	struct fs_config c = { 0 };

	CHECK_OK(build("debug", NULL, NULL, NULL, &places, &c, NULL));
	CHECK(c.foreground && c.log_level == LOG_LVL_DEBUG);
	fs_config_done(&c);
}

TEST(relative_paths_are_for_the_command_line)
{
	struct fs_config c = { 0 };
	struct err e = { 0 };

	CHECK_OK(build("cache=x/y,state=~/s", NULL, NULL, NULL, &places, &c, NULL));
	CHECK_EQ_STR(c.cache_dir, "/cwd/x/y");
	CHECK_EQ_STR(c.state_dir, "/home/u/s");
	fs_config_done(&c);
	CHECK_ERR(build(NULL, NULL, "cache=x/y\n", NULL, &places, &c, &e), -EINVAL);
	CHECK_EQ_STR(e.msg, "user:1: option cache: a relative path has no meaning here; give an absolute path");
	fs_config_done(&c);
}

TEST(messages_say_where_the_mistake_is)
{
	char *env[] = { (char[]){ "REGISTRYFS_TAGTTL=1" }, NULL };
	struct fs_config c = { 0 };
	struct err e = { 0 };

	CHECK_ERR(build(NULL, env, NULL, NULL, &places, &c, &e), -EINVAL);
	CHECK_EQ_STR(e.msg, "environment: REGISTRYFS_TAGTTL: unknown option \"tagttl\"; the nearest is tag_ttl");
	fs_config_done(&c);
	/* a mistake in a weak place counts even when a stronger one overrules it */
	CHECK_ERR(build("tag_ttl=1", NULL, NULL, "\n\ntag_ttl = x\n", &places, &c, &e), -EINVAL);
	CHECK_EQ_STR(e.msg, "system:3: option tag_ttl: \"x\" is not a time such as 30, 30s, 5m or 2h");
	fs_config_done(&c);
}

TEST(texts_that_are_no_texts_are_refused)
{
	_cleanup_(option_set_freep) struct option_set *s = option_set_new();
	static char big[OPTIONS_TEXT_MAX + 1];

	CHECK_ERR(options_from_file(s, FROM_USER_FILE, "f", "a\0b", 3, NULL), -EINVAL);
	CHECK_ERR(options_from_mount(s, "a\0b", 3, NULL), -EINVAL);
	memset(big, ' ', sizeof(big));
	CHECK_ERR(options_from_file(s, FROM_USER_FILE, "f", big, sizeof(big), NULL), -EINVAL);
	CHECK_ERR(options_from_mount(s, big, sizeof(big), NULL), -EINVAL);
	CHECK_ERR(options_from_mount(s, big, OPTIONS_VALUE_MAX + 1, NULL), -EINVAL);
}

TEST(files_are_found_by_xdg_and_home)
{
	char dir[] = "/tmp/registryfs-options.XXXXXX", path[256];
	struct option_places p = { .root = true };
	_cleanup_(option_set_freep) struct option_set *s = option_set_new();
	struct fs_config c = { 0 };
	FILE *f;

	REQUIRE(mkdtemp(dir) != NULL);
	p.xdg_config = p.home = dir;
	(void)snprintf(path, sizeof(path), "%s/registryfs", dir);
	CHECK_EQ_INT(mkdir(path, 0700), 0);
	(void)snprintf(path, sizeof(path), "%s/registryfs/config", dir);
	f = fopen(path, "w");
	REQUIRE(f != NULL);
	fputs("# mine\ntransfers = 5\n", f);
	fclose(f);
	CHECK_OK(options_load_files(s, &p, NULL));
	CHECK_OK(options_finish(s, &p, &c, NULL));
	CHECK_EQ_INT(c.transfers, 5);
	CHECK(strstr(c.options_text, "transfers=5  (/tmp/registryfs-options."));
	fs_config_done(&c);
	(void)unlink(path);
	(void)snprintf(path, sizeof(path), "%s/registryfs", dir);
	(void)rmdir(path);
	(void)rmdir(dir);
}

TEST(help_has_a_line_per_option)
{
	_cleanup_buf_ struct buf b = BUF_INIT(65536);

	options_help(&b);
	CHECK_OK(buf_check(&b));
	CHECK(strstr(buf_str(&b), "  tag_ttl=TIME "));
	CHECK(strstr(buf_str(&b), "(default: 10G)\n"));
	CHECK(strstr(buf_str(&b), "  raw_links "));
}

TEST(nearest_words)
{
	static const char *const words[] = { "mount", "umount", "status", NULL };

	CHECK_EQ_STR(nearest_word("stauts", words), "status");
	CHECK_EQ_STR(nearest_word("unmount", words), "umount");
	CHECK_EQ_STR(nearest_word("gc", words), NULL);
}

/* ---- mountinfo ---- */

static const char table[] =
	"22 28 0:21 / /proc rw,nosuid - proc proc rw\n"
	"40 28 0:40 / /mnt rw,relatime shared:1 - autofs systemd-1 rw,fd=5\n"
	"41 40 0:41 / /mnt ro,nosuid,nodev shared:2 master:3 - fuse.registryfs ghcr.io/a,b rw,user_id=1000,group_id=7\n"
	"42 28 0:42 / /a\\040b\\134\\011c rw - fuse.registryfs dir:/x\\040y rw,user_id=0\n"
	"broken line\n"
	"43 28 0:43 / /z rw - fuse.sshfs\n"
	"45 28 0:42 /app/1.0/root\\040fs /b rw - fuse.registryfs dir:/x rw,user_id=0\n"
	"46 45 0:45 / /b/e ro - erofs app/1.0/.image.erofs ro\n"
	"47 28 0:46 / /be ro - erofs /dev/sda1.image.erofs ro\n"
	"44 28 0:44 / /last rw - tmpfs tmpfs rw";

TEST(the_mount_table_is_understood)
{
	_cleanup_mounts_ struct mount_list l = { 0 };
	const struct mount_entry *m;

	CHECK_OK(mount_list_parse(table, sizeof(table) - 1, &l, NULL));
	CHECK_EQ_INT(l.n, 8);
	m = mount_at(&l, "/mnt");
	REQUIRE(m != NULL);
	CHECK_EQ_STR(m->type, "fuse.registryfs");	/* the topmost */
	CHECK_EQ_STR(m->source, "ghcr.io/a,b");
	CHECK(m->has_user && m->user == 1000 && m->read_only);
	m = mount_at(&l, "/a b\\\tc");
	REQUIRE(m != NULL);
	CHECK_EQ_STR(m->source, "dir:/x y");
	CHECK(m->has_user && m->user == 0 && !m->read_only);
	CHECK(mount_at(&l, "/last") && !mount_at(&l, "/last")->has_user);
	CHECK(!mount_at(&l, "/z") && !mount_at(&l, "/nowhere"));
}

TEST(what_rootfs_has_mounted_is_known_from_the_mount_table)
{
	_cleanup_mounts_ struct mount_list l = { 0 };

	CHECK_OK(mount_list_parse(table, sizeof(table) - 1, &l, NULL));
	CHECK(!mount_is_rootfs(mount_at(&l, "/mnt")) && !mount_at(&l, "/mnt")->part);
	CHECK(mount_is_rootfs(mount_at(&l, "/b")));
	CHECK_EQ_STR(mount_at(&l, "/b")->part, "/app/1.0/root fs");
	CHECK_EQ_INT(mount_at(&l, "/b")->id, 45);
	CHECK(mount_is_rootfs(mount_at(&l, "/b/e")));
	CHECK(!mount_is_rootfs(mount_at(&l, "/be")));
	CHECK(mount_above(&l, "/mnt/x") == mount_at(&l, "/mnt"));
	CHECK(mount_above(&l, "/b/e/x") == mount_at(&l, "/b/e"));
	CHECK(mount_above(&l, "/b/ex") == mount_at(&l, "/b"));
	CHECK(mount_above(&l, "/be") == mount_at(&l, "/be"));
	CHECK(!mount_above(&l, "/mntx"));
}

TEST(the_real_mount_table_can_be_read)
{
	_cleanup_mounts_ struct mount_list l = { 0 };

	CHECK_OK(mount_list_read(&l, NULL));
	CHECK(mount_at(&l, "/") != NULL);
}

TEST(paths_of_mount_points)
{
	char dir[] = "/tmp/registryfs-path.XXXXXX", path[256];
	_cleanup_free_ char *a = NULL, *b = NULL, *c = NULL;

	REQUIRE(mkdtemp(dir) != NULL);
	(void)snprintf(path, sizeof(path), "%s/link", dir);
	CHECK_EQ_INT(symlink(dir, path), 0);
	a = mount_point_path(path);
	CHECK_EQ_STR(a, dir);
	(void)unlink(path);
	(void)snprintf(path, sizeof(path), "%s/../%s///", dir, dir + 5);
	b = mount_point_path(path);
	CHECK_EQ_STR(b, dir);
	c = mount_point_path("/proc/");
	CHECK_EQ_STR(c, "/proc");
	CHECK(mount_point_path("/nonexistent/x") == NULL && errno == ENOENT);
	(void)rmdir(dir);
}
