/*
 * regconf.c - registries.conf version 2 and its drop-in files (containers-registries.conf.5)
 *
 * A user's file replaces the system's; drop-ins of both then add registries or change fields of
 * those with the same prefix, in name order.  Read once; immutable afterwards, so no locks.
 */
#include "registry/hosts_priv.h"

#include <dirent.h>
#include <fcntl.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>

#define CONF_FILE_MAX TOML_BYTES_MAX

/* ---- files ---- */

static char *join(const char *a, const char *b)
{
	char *s = NULL;

	return asprintf(&s, "%s%s", a, b) < 0 ? NULL : s;
}

char *conf_home(const struct rg_opts *opts)
{
	const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
	struct passwd pw, *found = NULL;
	char tmp[4096];

	if (opts->config_home)
		return strdup(opts->config_home);
	if (xdg && xdg[0] == '/')
		return strdup(xdg);
	if (home && home[0] == '/')
		return join(home, "/.config");
	if (getpwuid_r(getuid(), &pw, tmp, sizeof(tmp), &found) == 0 && found)
		return join(found->pw_dir, "/.config");
	return strdup("/nonexistent");
}

static errint_t read_all(int fd, const char *path, struct buf *b, struct err *e)
{
	char chunk[8192];

	for (;;) {
		ssize_t n = read(fd, chunk, sizeof(chunk));
		errint_t r;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(e, errno, "%s", path);
		if (n == 0)
			return 0;
		r = buf_add(b, chunk, (size_t)n);
		if (r < 0)
			return err_set(e, -r, ERR_LIMIT, "%s has more than %zu bytes", path,
				       b->max);
	}
}

errint_t conf_read_file(const char *path, size_t max, struct buf *ret, struct err *e)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;

	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
		return -ENOENT;
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, EINVAL, ERR_LOCAL, "%s is not a regular file", path);
	buf_init(ret, max);
	return read_all(fd, path, ret, e);
}

errint_t conf_read_toml(const char *path, struct toml **ret, struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(0);
	errint_t r = conf_read_file(path, CONF_FILE_MAX, &b, e);

	if (r < 0)
		return r;
	return err_wrap(e, toml_parse(buf_str(&b), b.len, ret, e), "%s", path);
}

/* ---- entries ---- */

static void mirrors_done(struct reg_entry *en)
{
	for (size_t i = 0; i < en->n_mirrors; i++)
		free(en->mirrors[i].location);
	free(en->mirrors);
	en->mirrors = NULL;
	en->n_mirrors = 0;
}

void regconf_done(struct regconf *rc)
{
	for (size_t i = 0; i < rc->n; i++) {
		free(rc->v[i].prefix);
		free(rc->v[i].location);
		mirrors_done(&rc->v[i]);
	}
	free(rc->v);
	*rc = (struct regconf){ 0 };
}

/* A copy without a scheme and without slashes at the end. */
static char *clean_location(const char *s)
{
	size_t n;

	if (strncmp(s, "https://", 8) == 0)
		s += 8;
	n = strlen(s);
	while (n > 0 && s[n - 1] == '/')
		n--;
	return strndup(s, n);
}

static enum reg_pull pull_of(const char *s)
{
	if (s && strcmp(s, "digest-only") == 0)
		return REG_PULL_DIGEST;
	return s && strcmp(s, "tag-only") == 0 ? REG_PULL_TAG : REG_PULL_ALL;
}

static errint_t set_mirrors(struct reg_entry *en, const struct toml *list)
{
	size_t n = MIN_OF(toml_len(list), (size_t)ENDPOINTS_MAX);

	mirrors_done(en);
	en->mirrors = calloc(n + 1, sizeof(*en->mirrors));
	if (!en->mirrors)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		const struct toml *t = toml_at(list, i);
		const char *location = toml_str(t, "location");
		struct reg_mirror *m = &en->mirrors[en->n_mirrors];

		if (!location)
			continue;
		m->location = clean_location(location);
		if (!m->location)
			return -ENOMEM;
		m->insecure = toml_bool(t, "insecure", false);
		m->pull = pull_of(toml_str(t, "pull-from-mirror"));
		en->n_mirrors++;
	}
	return 0;
}

static struct reg_entry *entry_for(struct regconf *rc, const char *prefix)
{
	struct reg_entry *v;

	for (size_t i = 0; i < rc->n; i++)
		if (strcmp(rc->v[i].prefix, prefix) == 0)
			return &rc->v[i];
	v = reallocarray(rc->v, rc->n + 1, sizeof(*v));
	if (!v)
		return NULL;
	rc->v = v;
	v[rc->n] = (struct reg_entry){ .prefix = strdup(prefix) };
	return v[rc->n].prefix ? &v[rc->n++] : NULL;
}

static errint_t add_entry(struct regconf *rc, const struct toml *t, struct err *e)
{
	const char *prefix = toml_str(t, "prefix"), *location = toml_str(t, "location");
	_cleanup_free_ char *p = NULL;
	struct reg_entry *en;
	errint_t r = 0;

	if (!prefix && !location)
		return err_set(e, EINVAL, ERR_INPUT,
			       "a [[registry]] has neither prefix nor location");
	if (rc->n >= REG_ENTRIES_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "more than %d [[registry]] tables",
			       REG_ENTRIES_MAX);
	p = clean_location(prefix && *prefix ? prefix : location ? location : "");
	en = p ? entry_for(rc, p) : NULL;
	if (!en)
		return err_set(e, ENOMEM, ERR_LOCAL, "no memory for registries.conf");
	if (location) {
		free(en->location);
		en->location = clean_location(location);
		r = en->location ? 0 : -ENOMEM;
	}
	en->insecure = toml_bool(t, "insecure", en->insecure);
	en->blocked = toml_bool(t, "blocked", en->blocked);
	en->digest_only = toml_bool(t, "mirror-by-digest-only", en->digest_only);
	if (r == 0 && toml_get(t, "mirror"))
		r = set_mirrors(en, toml_get(t, "mirror"));
	return r < 0 ? err_set(e, -r, ERR_LOCAL, "no memory for registries.conf") : 0;
}

/* -ENOENT: no such file. */
static errint_t read_conf(struct regconf *rc, const char *path, struct err *e)
{
	_cleanup_(toml_freep) struct toml *doc = NULL;
	const struct toml *list;
	errint_t r = conf_read_toml(path, &doc, e);

	if (r < 0)
		return r;
	list = toml_get(doc, "registry");
	for (size_t i = 0; i < toml_len(list); i++) {
		r = add_entry(rc, toml_at(list, i), e);
		if (r < 0)
			return err_wrap(e, r, "%s", path);
	}
	return 0;
}

static int is_conf(const struct dirent *d)
{
	size_t n = strlen(d->d_name);

	return d->d_name[0] != '.' && n > 5 && strcmp(d->d_name + n - 5, ".conf") == 0;
}

/* The system's locale must not decide about precedence. */
static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static errint_t read_dropins(struct regconf *rc, const char *dir, struct err *e)
{
	struct dirent **names = NULL;
	int n = scandir(dir, &names, is_conf, by_bytes);
	errint_t r = 0;

	for (int i = 0; i < n; i++) {
		char path[4096];

		if (r == 0 && snprintf(path, sizeof(path), "%s/%s", dir, names[i]->d_name) <
				      (int)sizeof(path))
			r = read_conf(rc, path, e);
		if (r == -ENOENT)
			r = 0;
		free(names[i]);
	}
	free(names);
	return r;
}

static errint_t read_explicit(struct regconf *rc, const char *path, struct err *e)
{
	_cleanup_free_ char *dir = join(path, ".d");
	errint_t r = read_conf(rc, path, e);

	if (r == -ENOENT)
		return err_set(e, ENOENT, ERR_LOCAL, "%s does not exist", path);
	return r < 0 || !dir ? r : read_dropins(rc, dir, e);
}

static errint_t read_search(struct regconf *rc, const struct rg_opts *opts, struct err *e)
{
	_cleanup_free_ char *home = conf_home(opts);
	_cleanup_free_ char *user = home ? join(home, "/containers/registries.conf") : NULL;
	_cleanup_free_ char *user_d = home ? join(home, "/containers/registries.conf.d") : NULL;
	errint_t r;

	if (!user || !user_d)
		return err_set(e, ENOMEM, ERR_LOCAL, "no memory for registries.conf");
	r = read_conf(rc, user, e);
	if (r == -ENOENT)
		r = read_conf(rc, "/etc/containers/registries.conf", e);
	if (r == 0 || r == -ENOENT)
		r = read_dropins(rc, "/etc/containers/registries.conf.d", e);
	return r < 0 ? r : read_dropins(rc, user_d, e);
}

errint_t regconf_load(const struct rg_opts *opts, struct regconf *ret, struct err *e)
{
	const char *env = getenv("CONTAINERS_REGISTRIES_CONF");
	struct regconf rc = { 0 };
	errint_t r;

	if (opts->registries_conf)
		r = read_explicit(&rc, opts->registries_conf, e);
	else if (env && *env)
		r = read_explicit(&rc, env, e);
	else
		r = read_search(&rc, opts, e);
	if (r < 0)
		regconf_done(&rc);
	*ret = rc;
	return r;
}

/* ---- looking up ---- */

static bool ends_part(char c)
{
	return c == '\0' || c == '/';
}

/* How many bytes of name the prefix covers; 0 = it does not match. */
static size_t covers(const char *prefix, const char *name)
{
	size_t n = strlen(prefix), host = strcspn(name, "/"), p = strcspn(prefix, "/");

	if (strncmp(prefix, "*.", 2) != 0)
		return n > 0 && strncmp(name, prefix, n) == 0 && ends_part(name[n]) ? n : 0;
	if (host <= p - 1 || strncmp(name + host - (p - 1), prefix + 1, p - 1) != 0)
		return 0;
	if (strncmp(name + host, prefix + p, n - p) != 0 || !ends_part(name[host + n - p]))
		return 0;
	return host + n - p;
}

const struct reg_entry *regconf_find(const struct regconf *rc, const char *name, size_t *ret_len)
{
	const struct reg_entry *best = NULL;

	*ret_len = 0;
	for (size_t i = 0; i < rc->n; i++) {
		size_t n = covers(rc->v[i].prefix, name);

		/* of two that cover the same, the one without a wildcard is meant */
		if (n > *ret_len || (n == *ret_len && n > 0 && rc->v[i].prefix[0] != '*')) {
			*ret_len = n;
			best = &rc->v[i];
		}
	}
	return best;
}
