/*
 * creds.c - finding the credentials for a host
 *
 * Threads: lock guards the parsed files and the kept answers of helpers.  A helper runs without it;
 * `busy` lets one run for each host, so that a hundred requests that start together ask once and a
 * helper that hangs holds up its own host only.  Nothing here is ever logged, and messages name
 * files, users and programs only.
 */
#include "registry/creds.h"

#include <fcntl.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>

#include "util/clock.h"
#include "util/hmap.h"

#define SOURCES_MAX 8
#define HELPER_CACHE_MAX 256
#define PATH_LEN 4096
#define TURN_NS (20 * NSEC_PER_MSEC)

struct source {
	char *path;		/* NULL: $DOCKER_AUTH_CONFIG */
	bool legacy, explicit;
	bool loaded;		/* file is what stamp says */
	struct stat stamp;
	struct cred_file file;
};

/* What a helper said; kind NONE with err unset: nothing known. */
struct kept {
	struct cred cred;
	struct err err;
	uint64_t until_ns;
};

struct creds {
	pthread_mutex_t lock;
	struct source sources[SOURCES_MAX];
	size_t n;
	struct hmap *kept;	/* "suffix\nhost" -> struct kept */
	struct hmap *busy;	/* the same keys: a helper is running */
};

void cred_done(struct cred *c)
{
	free(c->user);
	cred_wipe(c->secret);
	*c = (struct cred){ 0 };
}

static errint_t cred_copy(const struct cred *from, struct cred *to)
{
	*to = *from;
	to->user = from->user ? strdup(from->user) : NULL;
	to->secret = from->secret ? strdup(from->secret) : NULL;
	if ((from->user && !to->user) || (from->secret && !to->secret)) {
		cred_done(to);
		return -ENOMEM;
	}
	return 0;
}

static void kept_free(void *v)
{
	struct kept *k = v;

	cred_done(&k->cred);
	free(k);
}

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "no memory for credentials");
}

/* ---- where to look ---- */

static void add_source(struct creds *cs, const char *dir, const char *rest, bool legacy)
{
	struct source *s = &cs->sources[cs->n];

	if (!dir || dir[0] != '/' || cs->n == SOURCES_MAX)
		return;
	if (asprintf(&s->path, "%s%s", dir, rest) < 0)
		s->path = NULL;
	else
		cs->n++;
	s->legacy = legacy;
}

static void add_explicit(struct creds *cs, const char *path)
{
	cs->sources[0].path = strdup(path);
	cs->sources[0].explicit = true;
	cs->n = cs->sources[0].path ? 1 : 0;
}

static void home_dir(char out[static PATH_LEN])
{
	const char *home = getenv("HOME");
	struct passwd pw, *found = NULL;
	char tmp[PATH_LEN];

	out[0] = '\0';
	if (home && home[0] == '/')
		(void)snprintf(out, PATH_LEN, "%s", home);
	else if (getpwuid_r(getuid(), &pw, tmp, sizeof(tmp), &found) == 0 && found)
		(void)snprintf(out, PATH_LEN, "%s", found->pw_dir);
}

static void add_search(struct creds *cs, const struct rg_opts *opts)
{
	const char *inline_json = getenv("DOCKER_AUTH_CONFIG"), *docker = getenv("DOCKER_CONFIG");
	const char *xdg = getenv("XDG_CONFIG_HOME");
	char home[PATH_LEN], config[PATH_LEN + 16];

	home_dir(home);
	if (inline_json && *inline_json)
		cs->n++;
	add_source(cs, getenv("XDG_RUNTIME_DIR"), "/containers/auth.json", false);
	(void)snprintf(config, sizeof(config), "%s/.config", home);
	add_source(cs, opts->config_home ? opts->config_home : xdg && xdg[0] == '/' ? xdg : config,
		   "/containers/auth.json", false);
	if (docker && *docker)
		add_source(cs, docker, "/config.json", false);
	else
		add_source(cs, home, "/.docker/config.json", false);
	add_source(cs, home, "/.dockercfg", true);
}

errint_t creds_new(const struct rg_opts *opts, struct creds **ret, struct err *e)
{
	const char *env = getenv("REGISTRY_AUTH_FILE");
	struct creds *cs = calloc(1, sizeof(*cs));

	if (!cs)
		return no_memory(e);
	pthread_mutex_init(&cs->lock, NULL);
	cs->kept = hmap_new(kept_free);
	cs->busy = hmap_new(NULL);
	if (opts->authfile)
		add_explicit(cs, opts->authfile);
	else if (env && *env)
		add_explicit(cs, env);
	else
		add_search(cs, opts);
	if (!cs->kept || !cs->busy) {
		creds_free(cs);
		return no_memory(e);
	}
	*ret = cs;
	return 0;
}

struct creds *creds_free(struct creds *cs)
{
	if (!cs)
		return NULL;
	for (size_t i = 0; i < cs->n; i++) {
		free(cs->sources[i].path);
		cred_file_done(&cs->sources[i].file);
	}
	hmap_free(cs->kept);
	hmap_free(cs->busy);
	pthread_mutex_destroy(&cs->lock);
	free(cs);
	return NULL;
}

/* ---- files, under lock ---- */

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
	       a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static errint_t parse_into(struct source *s, const char *data, size_t len, const char *name,
			   struct err *e)
{
	errint_t r;

	cred_file_done(&s->file);
	r = cred_file_parse(data, len, s->legacy, &s->file);
	if (r == -ENOMEM)
		return no_memory(e);
	if (r < 0)
		return err_set(
			e, EACCES, ERR_AUTH,
			"the credential file %s is not valid JSON; log in again or repair it",
			name);
	s->loaded = true;
	return 0;
}

static errint_t read_file(struct source *s, int fd, struct err *e)
{
	size_t max = (size_t)s->stamp.st_size, n = 0;
	char *data = malloc(max + 1);
	errint_t r;

	if (!data)
		return no_memory(e);
	while (n < max) {
		ssize_t got = read(fd, data + n, max - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	r = parse_into(s, data, n, s->path, e);
	explicit_bzero(data, max);
	free(data);
	return r;
}

static errint_t absent(struct source *s, int eno, struct err *e)
{
	cred_file_done(&s->file);
	s->loaded = false;
	if (!s->explicit && (eno == ENOENT || eno == ENOTDIR || eno == EACCES))
		return 0;
	return err_set(e, EACCES, ERR_AUTH, "the credential file %s cannot be read: %s", s->path,
		       strerror(eno));
}

static errint_t refresh(struct source *s, struct err *e)
{
	_cleanup_close_ int fd = -1;
	const char *env = getenv("DOCKER_AUTH_CONFIG");
	struct stat st;

	if (!s->path)
		return s->loaded || !env
			       ? 0
			       : parse_into(s, env, strlen(env), "in $DOCKER_AUTH_CONFIG", e);
	fd = open(s->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0)
		return absent(s, errno, e);
	if (!S_ISREG(st.st_mode) || st.st_size > (off_t)CREDS_FILE_MAX)
		return err_set(e, EACCES, ERR_AUTH,
			       "the credential file %s is no regular file of at most %u bytes",
			       s->path, CREDS_FILE_MAX);
	if (s->loaded && same_file(&s->stamp, &st))
		return 0;
	s->stamp = st;
	s->loaded = false;
	return read_file(s, fd, e);
}

/* ---- helpers ---- */

static errint_t kept_result(const struct kept *k, struct cred *ret, struct err *e)
{
	if (k->err.eno && e)
		*e = k->err;
	if (k->err.eno)
		return -k->err.eno;
	return cred_copy(&k->cred, ret) < 0 ? no_memory(e) : 0;
}

static void keep(struct creds *cs, const char *key, const struct cred *cred, const struct err *why)
{
	struct kept *k = calloc(1, sizeof(*k));

	if (!k || cred_copy(cred, &k->cred) < 0) {
		free(k);
		return;
	}
	k->err = *why;
	k->until_ns = clock_mono_ns() +
		      (cred->kind != CRED_NONE ? CREDS_HELPER_KEEP_NS : CREDS_HELPER_RETRY_NS);
	if (hmap_count(cs->kept) >= HELPER_CACHE_MAX || hmap_puts(cs->kept, key, k) < 0)
		kept_free(k);
}

/* Under lock: 1 = *ret_r is the answer, 0 = it is our turn to run the helper, -1 = not yet. */
static int look_once(struct creds *cs, const char *key, struct cred *ret, errint_t *ret_r,
		     struct err *e)
{
	struct kept *k = hmap_gets(cs->kept, key);

	if (k && k->until_ns > clock_mono_ns()) {
		*ret_r = kept_result(k, ret, e);
		return 1;
	}
	if (hmap_gets(cs->busy, key) || hmap_count(cs->busy) >= CREDS_HELPERS_MAX)
		return -1;
	if (hmap_puts(cs->busy, key, cs) < 0) {
		*ret_r = no_memory(e);
		return 1;
	}
	k = hmap_takes(cs->kept, key);
	if (k)
		kept_free(k);
	return 0;
}

/* As look_once, after waiting. */
static int look_or_take_turn(struct creds *cs, const char *key, struct cred *ret, errint_t *ret_r,
			     struct cancel *c, struct err *e)
{
	for (;;) {
		int turn;

		{
			LOCK_SCOPE(&cs->lock);
			turn = look_once(cs, key, ret, ret_r, e);
		}
		if (turn >= 0)
			return turn;
		*ret_r = cancel_sleep_ns(c, TURN_NS, e);
		if (*ret_r < 0)
			return 1;
	}
}

static errint_t ask_helper(struct creds *cs, const char *suffix, const char *host, struct cred *ret,
			   struct cancel *c, struct err *e)
{
	_cleanup_free_ char *key = NULL;
	struct err why = { 0 };
	errint_t r;

	if (asprintf(&key, "%s\n%s", suffix, host) < 0) {
		key = NULL;
		return no_memory(e);
	}
	if (look_or_take_turn(cs, key, ret, &r, c, e))
		return r;
	r = cred_helper_run(suffix, host, ret, c, &why);
	if (e && r < 0)
		*e = why;
	LOCK_SCOPE(&cs->lock);
	(void)hmap_takes(cs->busy, key);
	if (why.cls != ERR_CANCELLED)
		keep(cs, key, ret, &why);
	return r;
}

void creds_refused(struct creds *cs, const char *host)
{
	const char *name = ref_is_docker_hub(host) ? "docker.io" : host;
	size_t it = 0, len, n = strlen(name);
	const void *key;
	struct kept *k;

	LOCK_SCOPE(&cs->lock);
	while ((k = hmap_next(cs->kept, &it, &key, &len)))
		if (len > n && memcmp((const char *)key + len - n, name, n) == 0 &&
		    ((const char *)key)[len - n - 1] == '\n')
			k->until_ns = 0;
}

/* ---- one source ---- */

static errint_t copy_entry(const struct cred_entry *en, const char *path, struct cred *ret)
{
	struct cred view = { .user = en->user };

	(void)snprintf(view.origin, sizeof(view.origin), "%s", path ? path : "$DOCKER_AUTH_CONFIG");
	view.kind = en->token ? CRED_REGISTRY_TOKEN : en->identity ? CRED_IDENTITY : CRED_BASIC;
	view.secret = en->token ? en->token : en->identity ? en->identity : en->secret;
	return cred_copy(&view, ret);
}

/* What the file itself says, or in *ret_helper (owned) which helper to ask; *ret_store: that helper
 * is the store for everything, and the next file may know more. */
static errint_t look_in(struct creds *cs, struct source *s, const char *host, const char *repo,
			struct cred *ret, char **ret_helper, struct err *e)
{
	const struct cred_entry *en;
	const char *suffix;
	errint_t r;

	LOCK_SCOPE(&cs->lock);
	r = refresh(s, e);
	if (r < 0)
		return r;
	suffix = cred_file_helper(&s->file, host);
	en = suffix ? NULL : cred_file_find(&s->file, host, repo);
	if (en)
		return copy_entry(en, s->path, ret) < 0 ? no_memory(e) : 0;
	if (!suffix)
		suffix = s->file.store;
	if (!suffix)
		return 0;
	*ret_helper = strdup(suffix);
	return *ret_helper ? 0 : no_memory(e);
}

errint_t creds_get(struct creds *cs, const char *host, const char *repo, struct cred *ret,
		   struct cancel *c, struct err *e)
{
	if (ref_is_docker_hub(host))
		host = "docker.io";
	*ret = (struct cred){ 0 };
	for (size_t i = 0; i < cs->n && ret->kind == CRED_NONE; i++) {
		_cleanup_free_ char *helper = NULL;
		errint_t r = look_in(cs, &cs->sources[i], host, repo, ret, &helper, e);

		if (r == 0 && helper)
			r = ask_helper(cs, helper, host, ret, c, e);
		if (r < 0)
			return r;
	}
	return 0;
}
