/*
 * cmd_status.c - `registryfs status [MOUNTPOINT]`: which mounts there are, and how they are
 *
 * The list comes from the mount table; what is said of each comes from the mount's own control
 * files, read by a child process with a time limit, because a stuck mount must not stop this.
 */
#include <stdint.h>

#include "fs/cmd.h"
#include "fs/mountinfo.h"
#include "util/clock.h"
#include "util/json.h"

/* ---- numbers for people ---- */

static void add_bytes(struct buf *b, uint64_t n)
{
	static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB" };
	double v = (double)n;
	size_t u = 0;

	for (; v >= 1024 && u + 1 < ARRAY_SIZE(units); u++)
		v /= 1024;
	(void)buf_addf(b, u == 0 ? "%.0f %s" : "%.1f %s", v, units[u]);
}

static void add_span(struct buf *b, int64_t s)
{
	if (s < 120)
		(void)buf_addf(b, "%lld s", (long long)s);
	else if (s < 7200)
		(void)buf_addf(b, "%lld min", (long long)s / 60);
	else if (s < 48 * 3600)
		(void)buf_addf(b, "%lld h %lld min", (long long)s / 3600, (long long)s / 60 % 60);
	else
		(void)buf_addf(b, "%lld days", (long long)s / 86400);
}

/* "name value" lines; 0 when absent. */
static uint64_t stat_value(const char *stats, const char *name)
{
	size_t n = strlen(name);

	for (const char *p = stats; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
		if (strncmp(p, name, n) == 0 && p[n] == ' ')
			return strtoull(p + n, NULL, 10);
	return 0;
}

/* ---- one mount ---- */

static void add_process(struct buf *b, const struct json *info)
{
	const char *started = json_str(info, "started");
	int64_t since;

	(void)buf_addf(b, "  process   %lld", (long long)json_int(info, "pid", 0));
	if (started && clock_parse_rfc3339(started, &since, NULL)) {
		(void)buf_adds(b, ", up ");
		add_span(b, MAX_OF(clock_real_s() - since, (int64_t)0));
	}
	(void)buf_addf(b, ", version %s\n", json_str(info, "version") ? json_str(info, "version") : "?");
}

static void add_numbers(struct buf *b, const char *stats)
{
	(void)buf_addf(b, "  requests  %llu to registries, %llu failed, ",
		       (unsigned long long)stat_value(stats, "http_requests"),
		       (unsigned long long)stat_value(stats, "http_errors"));
	add_bytes(b, stat_value(stats, "http_received_bytes"));
	(void)buf_adds(b, " received\n  cache     ");
	add_bytes(b, stat_value(stats, "cache_bytes"));
	if (stat_value(stats, "prefetch_left_bytes") > 0) {
		(void)buf_adds(b, ", in the background ");
		add_bytes(b, stat_value(stats, "prefetch_left_bytes"));
		(void)buf_adds(b, " to come");
	}
	(void)buf_addf(b, "\n  waiting   %llu operations\n",
		       (unsigned long long)stat_value(stats, "fuse_parked"));
}

static void add_source(struct buf *b, const struct mount_entry *m)
{
	(void)buf_add_text(b, m->point, strlen(m->point));
	(void)buf_adds(b, "\n  source    ");
	(void)buf_add_text(b, m->source, strlen(m->source));
	(void)buf_adds(b, m->read_only ? " (ro)\n" : "\n");
}

/* Asks the mount itself. */
static errint_t add_details(struct buf *b, const char *point)
{
	_cleanup_buf_ struct buf text = BUF_INIT(1 << 20), stats = BUF_INIT(1 << 20);
	_cleanup_(json_freep) struct json *info = NULL;
	errint_t r = mount_read(point, ".control/info.json", &text);

	if (r == 0)
		r = json_parse(buf_str(&text), text.len, &info, NULL);
	if (r == 0)
		r = mount_read(point, ".control/stats", &stats);
	if (r < 0)
		return r;
	add_process(b, info);
	add_numbers(b, buf_str(&stats));
	return 0;
}

/* EXIT_DONE or EXIT_DEAD. */
static int describe(const struct mount_entry *m, struct buf *b)
{
	errint_t r = mount_probe(m->point);

	add_source(b, m);
	if (r == 0 && mount_is_rootfs(m)) {
		(void)buf_adds(b, m->part ? "  shows     " : "  shows     an image, as EROFS");
		(void)buf_add_text(b, m->part ? m->part : "", m->part ? strlen(m->part) : 0);
		(void)buf_adds(b, "\n");
		return EXIT_DONE;
	}
	if (r == 0)
		r = add_details(b, m->point);
	if (r == 0)
		return EXIT_DONE;
	if (r == -EACCES || r == -EPERM) {
		(void)buf_addf(b, "  process   of user %u, who alone may look inside\n", (unsigned)m->user);
		return EXIT_DONE;
	}
	if (r == -ENOTCONN)
		(void)buf_adds(b, "  process   DEAD: it has ended without unmounting; "
				  "`registryfs umount` clears it away\n");
	else if (r == -ETIMEDOUT)
		(void)buf_addf(b, "  process   STUCK: no answer within %d seconds\n", MOUNT_PROBE_MS / 1000);
	else
		(void)buf_addf(b, "  process   UNKNOWN: %s\n", strerror(-r));
	return EXIT_DEAD;
}

/* ---- the list ---- */

/* only NULL: all.  Prints one mount after the other, since each may take a while. */
static int print_mounts(const struct mount_list *l, const char *only, size_t *ret_n)
{
	int status = EXIT_DONE;

	for (size_t i = 0; i < l->n; i++) {
		_cleanup_buf_ struct buf b = BUF_INIT(65536);
		const struct mount_entry *m = &l->v[i];

		if ((strcmp(m->type, MOUNT_TYPE) != 0 && !mount_is_rootfs(m)) || (only && mount_at(l, only) != m))
			continue;
		if (describe(m, &b) != EXIT_DONE)
			status = EXIT_DEAD;
		fputs(buf_str(&b), stdout);
		(void)fflush(stdout);
		(*ret_n)++;
	}
	return status;
}

int cmd_status(int argc, char **argv)
{
	_cleanup_mounts_ struct mount_list l = { 0 };
	_cleanup_free_ char *only = NULL;
	struct err e = { 0 };
	size_t n = 0;
	int status;

	if (argc > 2 || (argc == 2 && *argv[1] == '-')) {
		complain("usage: registryfs status [MOUNTPOINT]");
		return EXIT_USAGE;
	}
	if (mount_list_read(&l, &e) < 0) {
		complain("%s", e.msg);
		return EXIT_FAILED;
	}
	if (argc == 2 && !(only = mount_point_path(argv[1]))) {
		complain("cannot look at %s: %s", argv[1], strerror(errno));
		return EXIT_NOT_MOUNTED;
	}
	status = print_mounts(&l, only, &n);
	if (n == 0 && only)
		complain("%s is not a mount of registryfs", only);
	else if (n == 0)
		puts("nothing is mounted");
	return n == 0 && only ? EXIT_NOT_MOUNTED : status;
}
