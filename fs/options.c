/*
 * options.c - one table of options, four places they come from
 *
 * A value is kept as text with its origin until options_finish; it is checked when it is read, so
 * that the message can say where it stands.  Adding an option is one row here and one field in
 * struct fs_config: its -o name, its key in the configuration file, REGISTRYFS_<NAME> and its line
 * in help and `.control/config` all come from the row.
 */
#include "fs/options.h"

#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <strings.h>

#include "fs/options_priv.h"
#include "util/log.h"

#define WORD_MAX 32	/* bytes of an option name worth comparing */
#define FIELD(f) offsetof(struct fs_config, f)
#define TEBI (UINT64_C(1) << 40)

static const struct option_row rows[] = {
	{ "tag_ttl", OPT_DURATION, FIELD(tag_ttl_ns), "30", 0, 30 * 86400, "TIME",
	  "how long a tag is believed before it is asked for again" },
	{ "timeout", OPT_DURATION, FIELD(timeout_ns), "30", 1, 3600, "TIME",
	  "give up after this long without a byte from the registry" },
	{ "transfers", OPT_COUNT, FIELD(transfers), "8", 1, 64, "N",
	  "blob transfers at once per host" },
	{ "prefetch", OPT_FLAG, FIELD(prefetch), "yes", 0, 0, "yes|no",
	  "record which files of an image are used first, and fetch them first next time" },
	{ "complete", OPT_FLAG, FIELD(complete), "no", 0, 0, NULL,
	  "once an image is used, fetch the rest of it in the background" },
	{ "background_rate", OPT_SIZE, FIELD(background_rate), "auto", 0, 1024 * TEBI, "SIZE",
	  "bytes a second for prefetch and complete (auto: no limit)" },
	{ "platform", OPT_PLATFORM, FIELD(platform), NULL, 0, 0, "OS/ARCH[/VARIANT]",
	  "which image of an index stands for it (default: this machine's)" },
	{ "soci", OPT_SOCI, FIELD(soci), "auto", 0, 0, "auto|v2|off",
	  "which SOCI indexes are used: all, only those named by the image itself, none" },
	{ "registries", OPT_HOSTS, FIELD(registries), NULL, 0, 0, "HOST+HOST..",
	  "hosts (or http://HOST) to list in the root of a mount without SOURCE" },
	{ "raw_links", OPT_FLAG, FIELD(raw_links), "no", 0, 0, NULL,
	  "show symbolic links of images byte for byte" },
	{ "cache", OPT_PATH, FIELD(cache_dir), NULL, 0, 0, "DIR",
	  "where verified data is kept (default: ~/.cache/registryfs)" },
	{ "cache_size", OPT_SIZE, FIELD(cache_size), "10G", 16 << 20, 1024 * TEBI, "SIZE",
	  "the most the cache may use" },
	{ "cache_free", OPT_SIZE, FIELD(cache_free), "auto", 0, 1024 * TEBI, "SIZE",
	  "leave this much of the disk free (auto: 1G or 5 %, the smaller)" },
	{ "state", OPT_PATH, FIELD(state_dir), NULL, 0, 0, "DIR",
	  "where unfinished work is kept (default: ~/.local/state/registryfs)" },
	{ "local", OPT_PATH, FIELD(local_dir), NULL, 0, 0, "DIR",
	  "the embedded registry (default: ~/.local/share/registryfs/registry)" },
	{ "authfile", OPT_PATH, FIELD(authfile), NULL, 0, 0, "FILE",
	  "read credentials from this file alone" },
	{ "certs_dir", OPT_PATH, FIELD(certs_dir), NULL, 0, 0, "DIR",
	  "certificates per host, as in /etc/containers/certs.d" },
	{ "registries_conf", OPT_PATH, FIELD(registries_conf), NULL, 0, 0, "FILE",
	  "mirrors and blocked hosts, instead of /etc/containers/registries.conf" },
	{ "hosts_dir", OPT_PATH, FIELD(hosts_dir), NULL, 0, 0, "DIR",
	  "containerd's hosts.toml files, instead of /etc/containerd/certs.d" },
	{ "tls_verify", OPT_INVERSE, FIELD(tls_verify_off), "yes", 0, 0, "yes|no",
	  "check the certificates of registries" },
	{ "allow_other", OPT_FLAG, FIELD(allow_other), "no", 0, 0, NULL,
	  "other users may look into the mount" },
	{ "allow_root", OPT_FLAG, FIELD(allow_root), "no", 0, 0, NULL,
	  "root may look into the mount" },
	{ "ro", OPT_FLAG, FIELD(ro), "no", 0, 0, NULL, "refuse every change (opposite: rw)" },
	{ "suid", OPT_FLAG, FIELD(suid), "no", 0, 0, NULL,
	  "honour set-user-id bits of images; root only (opposite: nosuid)" },
	{ "dev", OPT_FLAG, FIELD(dev), "no", 0, 0, NULL,
	  "honour device nodes of images; root only (opposite: nodev)" },
	{ "noexec", OPT_FLAG, FIELD(noexec), "no", 0, 0, NULL, "run no programs from the mount (opposite: exec)" },
	{ "fsname", OPT_TEXT, FIELD(fsname), NULL, 0, 0, "NAME",
	  "name shown in the list of mounts (default: SOURCE)" },
	{ "log", OPT_PATH, FIELD(log_file), NULL, 0, 0, "FILE", "log to a file instead of syslog" },
	{ "log_level", OPT_LEVEL, FIELD(log_level), "info", 0, 0, "LEVEL",
	  "error, warning, info or debug" },
	{ "foreground", OPT_FLAG, FIELD(foreground), "no", 0, 0, NULL, "stay in the foreground, like -f" },
	{ "debug", OPT_FLAG, FIELD(debug), "no", 0, 0, NULL,
	  "foreground and every detail, like -d" },
};

#define N_ROWS ARRAY_SIZE(rows)

/* Other spellings. */
static const struct {
	const char *alias, *name, *value;
} aliases[] = {
	{ "rw", "ro", "no" },
	{ "nosuid", "suid", "no" },
	{ "nodev", "dev", "no" },
	{ "exec", "noexec", "no" },
};

/* What mount(8), fstab and systemd pass to everyone and means nothing to a file system. */
static const char *const generic[] = {
	"auto", "noauto", "user", "nouser", "users", "nousers", "owner", "noowner", "group", "nogroup",
	"defaults", "_netdev", "nofail", "async", "sync", "dirsync", "atime", "noatime", "diratime",
	"nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime", "lazytime",
	"nolazytime", "iversion", "noiversion", "mand", "nomand", "silent", "loud", "comment", "helper",
	"default_permissions", NULL,
};

/* Known elsewhere, refused here, with the reason. */
static const struct {
	const char *name, *why;
} refused[] = {
	{ "remount", "a mount cannot be changed in place; unmount it and mount it again" },
	{ "auto_unmount", "after a crash the mount point would look like an empty directory, and a "
			  "backup tool would empty its copy" },
	{ "nonempty", "not needed: the mount point need not be empty" },
	{ "bind", "registryfs cannot be bound; use mount --bind on a mounted directory" },
};

struct given {
	char *text;		/* NULL: not given */
	char *where;		/* for people: "command line", "/etc/registryfs/config:3" */
	enum option_origin origin;
};

struct option_set {
	struct given given[N_ROWS];
	bool sloppy;
};

struct option_set *option_set_new(void)
{
	return calloc(1, sizeof(struct option_set));
}

struct option_set *option_set_free(struct option_set *s)
{
	if (!s)
		return NULL;
	for (size_t i = 0; i < N_ROWS; i++) {
		free(s->given[i].text);
		free(s->given[i].where);
	}
	free(s);
	return NULL;
}

void option_set_sloppy(struct option_set *s)
{
	s->sloppy = true;
}

/* ---- words that are nearly right ---- */

/* Edits between a and b (insert, delete, replace, swap of neighbours), for short words. */
static unsigned word_distance(const char *a, const char *b)
{
	unsigned d[WORD_MAX + 1][WORD_MAX + 1];
	size_t n = strlen(a), m = strlen(b);

	if (n > WORD_MAX || m > WORD_MAX)
		return UINT_MAX;
	for (size_t i = 0; i <= n; i++) {
		for (size_t j = 0; j <= m; j++) {
			if (i == 0 || j == 0) {
				d[i][j] = (unsigned)(i + j);
				continue;
			}
			d[i][j] = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
			d[i][j] = MIN_OF(d[i][j], d[i - 1][j] + 1);
			d[i][j] = MIN_OF(d[i][j], d[i][j - 1] + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				d[i][j] = MIN_OF(d[i][j], d[i - 2][j - 2] + 1);
		}
	}
	return d[n][m];
}

const char *nearest_word(const char *s, const char *const *words)
{
	unsigned best = (unsigned)MAX_OF(strlen(s) / 3, (size_t)1) + 1;
	const char *ret = NULL;

	for (; *words; words++) {
		unsigned d = word_distance(s, *words);

		if (d < best) {
			best = d;
			ret = *words;
		}
	}
	return ret;
}

static const char *nearest_option(const char *name)
{
	const char *words[N_ROWS + ARRAY_SIZE(aliases) + 1];
	size_t n = 0;

	for (size_t i = 0; i < N_ROWS; i++)
		words[n++] = rows[i].name;
	for (size_t i = 0; i < ARRAY_SIZE(aliases); i++)
		words[n++] = aliases[i].alias;
	words[n] = NULL;
	return nearest_word(name, words);
}

static errint_t unknown_option(const char *name, struct err *e)
{
	const char *near = nearest_option(name);

	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		if (strcmp(name, refused[i].name) == 0)
			return err_set(e, EINVAL, ERR_INPUT, "option %s is refused: %s", name,
				       refused[i].why);
	if (near)
		return err_set(e, EINVAL, ERR_INPUT, "unknown option \"%s\"; the nearest is %s", name,
			       near);
	return err_set(e, EINVAL, ERR_INPUT,
		       "unknown option \"%s\"; `registryfs help mount` lists all", name);
}

/* ---- keeping one option ---- */

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
}

static const struct option_row *find_row(const char *name)
{
	for (size_t i = 0; i < N_ROWS; i++)
		if (strcmp(name, rows[i].name) == 0)
			return &rows[i];
	return NULL;
}

static bool is_known(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(aliases); i++)
		if (strcmp(name, aliases[i].alias) == 0)
			return true;
	return find_row(name) != NULL;
}

static bool is_generic(const char *name)
{
	if (strncasecmp(name, "x-", 2) == 0)
		return true;
	for (size_t i = 0; generic[i]; i++)
		if (strcmp(name, generic[i]) == 0)
			return true;
	return false;
}

static errint_t check_value(const struct option_row *row, const char *value, struct err *e)
{
	struct fs_config scratch = { 0 };
	errint_t r = option_store(row, value, NULL, &scratch, e);

	fs_config_done(&scratch);
	return r;
}

/* Lists given twice in one place are joined; `ro` and `rw` together are refused; else the last. */
static errint_t combine(const struct option_row *row, const struct given *old, const char *value,
			char **ret, struct err *e)
{
	bool again = old->text != NULL;

	if (again && row->type == OPT_HOSTS) {
		if (asprintf(ret, "%s+%s", old->text, value) < 0)
			*ret = NULL;
	} else if (again && strcmp(row->name, "ro") == 0 && strcmp(old->text, value) != 0) {
		return err_set(e, EINVAL, ERR_INPUT, "both ro and rw are given; keep one");
	} else {
		*ret = strdup(value);
	}
	return *ret ? 0 : no_memory(e);
}

/* origin and where say who speaks; a weaker place than before changes nothing. */
static errint_t keep(struct option_set *s, const struct option_row *row, const char *value,
		     enum option_origin origin, const char *where, struct err *e)
{
	struct given *g = &s->given[row - rows];
	struct given none = { 0 };
	_cleanup_free_ char *text = NULL, *from = NULL;
	errint_t r = check_value(row, value, e);

	if (r < 0)
		return r;
	if (g->text && g->origin < origin)
		return 0;
	r = combine(row, g->text && g->origin == origin ? g : &none, value, &text, e);
	if (r < 0)
		return r;
	from = strdup(where);
	if (!from)
		return no_memory(e);
	free(g->text);
	free(g->where);
	*g = (struct given){ .text = steal_ptr(&text), .where = steal_ptr(&from), .origin = origin };
	return 0;
}

/* value NULL: the name stood alone. */
static errint_t take(struct option_set *s, const char *name, const char *value,
		     enum option_origin origin, const char *where, struct err *e)
{
	const struct option_row *row = find_row(name);

	for (size_t i = 0; i < ARRAY_SIZE(aliases) && !row; i++) {
		if (strcmp(name, aliases[i].alias) != 0)
			continue;
		if (value)
			return err_set(e, EINVAL, ERR_INPUT, "option %s takes no value", name);
		row = find_row(aliases[i].name);
		value = aliases[i].value;
	}
	if (!row)
		return unknown_option(name, e);
	if (!value && !row->arg)
		value = "yes";
	if (!value || !*value)
		return err_set(e, EINVAL, ERR_INPUT, "option %s needs a value: %s=%s", name, name,
			       row->arg ? row->arg : "yes|no");
	return keep(s, row, value, origin, where, e);
}

errint_t options_set(struct option_set *s, const char *name, const char *value, struct err *e)
{
	return take(s, name, value, FROM_COMMAND_LINE, "command line", e);
}

/* Splits "name=value" in place; NULL: no '='. */
static char *split_value(char *item)
{
	char *eq = strchr(item, '=');

	if (!eq)
		return NULL;
	*eq = '\0';
	return eq + 1;
}

/* ---- -o ---- */

static errint_t take_mount_item(struct option_set *s, char *item, struct err *e)
{
	char *value = split_value(item);

	if (is_generic(item) || (s->sloppy && !is_known(item)))
		return 0;
	return take(s, item, value, FROM_COMMAND_LINE, "command line", e);
}

/* Takes one item up to an unescaped comma; returns what follows, or NULL on failure. */
static const char *next_item(const char *p, const char *end, struct buf *item, struct err *e)
{
	for (; p < end && *p != ','; p++) {
		if (*p == '\\' && ++p == end) {
			(void)err_set(e, EINVAL, ERR_INPUT, "-o ends with a backslash");
			return NULL;
		}
		if (*p == '\0' || buf_addc(item, *p) < 0) {
			(void)err_set(e, EINVAL, ERR_LIMIT, "-o has a NUL or an option of more than %d bytes",
				      OPTIONS_VALUE_MAX);
			return NULL;
		}
	}
	return p < end ? p + 1 : p;
}

errint_t options_from_mount(struct option_set *s, const char *text, size_t len, struct err *e)
{
	const char *p = text, *end = text + len;
	errint_t r = 0;

	if (len > OPTIONS_TEXT_MAX)
		return err_set(e, EINVAL, ERR_LIMIT, "-o has more than %u bytes", OPTIONS_TEXT_MAX);
	while (r == 0 && p < end) {
		_cleanup_buf_ struct buf item = BUF_INIT(OPTIONS_VALUE_MAX);

		p = next_item(p, end, &item, e);
		if (!p)
			return -EINVAL;
		if (item.len > 0)
			r = take_mount_item(s, item.data, e);
	}
	return r;
}

/* ---- environment ---- */

static errint_t take_variable(struct option_set *s, const char *var, struct err *e)
{
	static const char prefix[] = "REGISTRYFS_";
	_cleanup_free_ char *copy = strdup(var), *where = NULL;
	char *value, *name;
	errint_t r;

	if (!copy)
		return no_memory(e);
	value = split_value(copy);
	if (!value || !*value)
		return 0;	/* empty is unset */
	if (asprintf(&where, "environment: %s", copy) < 0) {
		where = NULL;
		return no_memory(e);
	}
	name = copy + sizeof(prefix) - 1;
	for (char *c = name; *c; c++)
		*c = isupper((unsigned char)*c) ? (char)tolower((unsigned char)*c) : '_';
	r = take(s, name, value, FROM_ENVIRONMENT, where, e);
	return err_wrap(e, r, "%s", where);
}

errint_t options_from_environment(struct option_set *s, char *const *env, struct err *e)
{
	errint_t r = 0;

	for (; r == 0 && *env; env++)
		if (strncmp(*env, "REGISTRYFS_", 11) == 0 && strncmp(*env, "REGISTRYFS_TEST_", 16) != 0)
			r = take_variable(s, *env, e);
	return r;
}

/* ---- configuration files ---- */

static char *trim(char *s)
{
	char *end;

	s += strspn(s, " \t\r");
	end = s + strlen(s);
	while (end > s && strchr(" \t\r", end[-1]))
		end--;
	*end = '\0';
	return s;
}

static errint_t take_line(struct option_set *s, char *line, enum option_origin origin,
			  const char *where, struct err *e)
{
	char *name, *value;
	errint_t r;

	name = trim(line);
	if (!*name || *name == '#')
		return 0;
	value = split_value(name);
	if (value)
		value = trim(value);
	r = take(s, trim(name), value, origin, where, e);
	return err_wrap(e, r, "%s", where);
}

errint_t options_from_file(struct option_set *s, enum option_origin origin, const char *file,
			   const char *text, size_t len, struct err *e)
{
	unsigned n = 1;
	errint_t r = 0;

	if (len > OPTIONS_TEXT_MAX || memchr(text, '\0', len))
		return err_set(e, EINVAL, ERR_INPUT, "%s is not a text of at most %u bytes", file,
			       OPTIONS_TEXT_MAX);
	for (const char *p = text, *end = text + len; r == 0 && p < end; n++) {
		const char *nl = memchr(p, '\n', (size_t)(end - p));
		size_t line_len = (size_t)((nl ? nl : end) - p);
		_cleanup_free_ char *line = strndup(p, line_len), *where = NULL;

		if (!line || asprintf(&where, "%s:%u", file, n) < 0) {
			where = NULL;
			return no_memory(e);
		}
		if (line_len > OPTIONS_VALUE_MAX)
			return err_set(e, EINVAL, ERR_LIMIT, "%s: the line is too long", where);
		r = take_line(s, line, origin, where, e);
		p += line_len + (nl != NULL);
	}
	return r;
}

static errint_t load_file(struct option_set *s, enum option_origin origin, const char *file,
			  struct err *e)
{
	_cleanup_free_ char *text = malloc(OPTIONS_TEXT_MAX + 1);
	_cleanup_close_ int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	size_t len = 0;
	ssize_t n = 1;

	if (!text)
		return no_memory(e);
	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == EACCES))
		return 0;
	while (fd >= 0 && len <= OPTIONS_TEXT_MAX && n > 0) {
		n = read(fd, text + len, OPTIONS_TEXT_MAX + 1 - len);
		len += n > 0 ? (size_t)n : 0;
	}
	if (fd < 0 || n < 0)
		return err_errno(e, errno, "cannot read %s", file);
	return options_from_file(s, origin, file, text, len, e);
}

errint_t options_load_files(struct option_set *s, const struct option_places *p, struct err *e)
{
	_cleanup_free_ char *user = NULL;
	bool xdg = p->xdg_config && *p->xdg_config == '/';
	errint_t r = 0;

	if (xdg || p->home) {
		if (asprintf(&user, "%s%s/registryfs/config", xdg ? p->xdg_config : p->home,
			     xdg ? "" : "/.config") < 0) {
			user = NULL;
			return no_memory(e);
		}
		r = load_file(s, FROM_USER_FILE, user, e);
	}
	return r < 0 ? r : load_file(s, FROM_SYSTEM_FILE, "/etc/registryfs/config", e);
}

/* ---- everything together ---- */

/* <xdg>/TAIL, ~/HOME_TAIL, or for root VAR. */
static errint_t default_dir(const struct option_places *p, const char *xdg, const char *tail,
			    const char *home_tail, const char *var, char **ret, struct err *e)
{
	int n;

	if (*ret)
		return 0;
	if (xdg && *xdg == '/')
		n = asprintf(ret, "%s/%s", xdg, tail);
	else if (p->home && *p->home == '/')
		n = asprintf(ret, "%s/%s", p->home, home_tail);
	else if (p->root)
		n = asprintf(ret, "%s", var);
	else
		return err_set(e, EINVAL, ERR_INPUT, "the home directory is not known; set HOME, or "
			       "give cache=, state= and local=");
	if (n < 0) {
		*ret = NULL;
		return no_memory(e);
	}
	return 0;
}

static errint_t default_dirs(const struct option_places *p, struct fs_config *c, struct err *e)
{
	errint_t r;

	r = default_dir(p, p->xdg_cache, "registryfs", ".cache/registryfs", "/var/cache/registryfs",
			&c->cache_dir, e);
	if (r == 0)
		r = default_dir(p, p->xdg_state, "registryfs", ".local/state/registryfs",
				"/var/lib/registryfs/state", &c->state_dir, e);
	if (r == 0)
		r = default_dir(p, p->xdg_data, "registryfs/registry", ".local/share/registryfs/registry",
				"/var/lib/registryfs/registry", &c->local_dir, e);
	return r;
}

static errint_t store_all(const struct option_set *s, const struct option_places *p,
			  struct fs_config *ret, struct err *e)
{
	errint_t r = 0;

	for (size_t i = 0; i < N_ROWS && r == 0; i++) {
		const struct given *g = &s->given[i];
		/* a relative path means the directory the command was given in */
		struct option_places here = *p;

		if (g->text && g->origin != FROM_COMMAND_LINE)
			here.cwd = NULL;
		if (g->text)
			r = err_wrap(e, option_store(&rows[i], g->text, &here, ret, e), "%s", g->where);
		else if (rows[i].def)
			r = option_store(&rows[i], rows[i].def, &here, ret, e);
	}
	return r;
}

static errint_t check_together(const struct option_places *p, struct fs_config *c, struct err *e)
{
	if (c->allow_other && c->allow_root)
		return err_set(e, EINVAL, ERR_INPUT, "allow_other and allow_root are both given; keep one");
	if (!p->root)
		c->suid = c->dev = false;
	if (c->debug) {
		c->foreground = true;
		c->log_level = LOG_LVL_DEBUG;
	}
	return 0;
}

/* The paths whose defaults come from the environment are shown as they came out. */
static const char *effective_path(const struct option_row *row, const struct fs_config *c)
{
	const char *const *field = (const void *)((const char *)c + row->field);

	return row->type == OPT_PATH ? *field : NULL;
}

static errint_t describe(const struct option_set *s, bool root, struct fs_config *ret, struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(4 * OPTIONS_TEXT_MAX);

	for (size_t i = 0; i < N_ROWS; i++) {
		const struct given *g = &s->given[i];
		const char *value = effective_path(&rows[i], ret);
		bool root_only = strcmp(rows[i].name, "suid") == 0 || strcmp(rows[i].name, "dev") == 0;

		if (!value)
			value = g->text ? g->text : rows[i].def ? rows[i].def : "";
		buf_addf(&b, "%s=", rows[i].name);
		buf_add_text(&b, value, strlen(value));
		buf_adds(&b, "  (");
		buf_adds(&b, g->text ? g->where : "default");
		buf_adds(&b, g->text && root_only && !root ? "; ignored, only root may)\n" : ")\n");
	}
	if (buf_check(&b) < 0)
		return err_set(e, -buf_check(&b), ERR_LOCAL, "the options are too long to be shown");
	free(ret->options_text);
	ret->options_text = buf_take(&b, NULL);
	return ret->options_text ? 0 : no_memory(e);
}

errint_t options_finish(const struct option_set *s, const struct option_places *p,
			struct fs_config *ret, struct err *e)
{
	errint_t r = store_all(s, p, ret, e);

	if (r == 0)
		r = default_dirs(p, ret, e);
	if (r == 0)
		r = check_together(p, ret, e);
	if (r == 0)
		r = describe(s, p->root, ret, e);
	return r;
}

void fs_config_done(struct fs_config *c)
{
	char *const owned[] = {
		c->source, c->mountpoint, c->cache_dir, c->state_dir, c->local_dir, c->authfile,
		c->certs_dir, c->registries_conf, c->hosts_dir, c->platform, c->log_file, c->fsname,
		c->options_text,
	};

	for (size_t i = 0; i < ARRAY_SIZE(owned); i++)
		free(owned[i]);
	for (size_t i = 0; i < c->n_registries; i++)
		free(c->registries[i]);
	free(c->registries);
	*c = (struct fs_config){ 0 };
}

void options_help(struct buf *out)
{
	for (size_t i = 0; i < N_ROWS; i++) {
		const struct option_row *row = &rows[i];
		_cleanup_buf_ struct buf left = BUF_INIT(256);

		buf_addf(&left, "%s%s%s", row->name, row->arg ? "=" : "", row->arg ? row->arg : "");
		buf_addf(out, "  %-30s %s", buf_str(&left), row->help);
		if (row->def && row->arg && strcmp(row->def, "auto") != 0)
			buf_addf(out, " (default: %s)", row->def);
		buf_addc(out, '\n');
	}
}
