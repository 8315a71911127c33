/*
 * hostconf.c - the directories named after one host: certs.d and containerd's hosts.toml
 *
 * certs.d/<host>/: *.crt are trusted CAs, X.cert with X.key is a client pair
 * (containers-certs.d.5).
 * <dir>/<host>/hosts.toml: hosts that answer for this one (containerd docs/hosts.md).  A struct
 * host_conf is complete before it is shared and never changes afterwards.
 */
#include "registry/hosts_priv.h"

#include <dirent.h>
#include <string.h>

#define CONF_PATH_MAX 4096
#define DIAL_MAX_S 3600

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "no memory for the configuration of a host");
}

static void tls_done(struct tls_files *t)
{
	free(t->ca_pem);
	free(t->cert);
	free(t->key);
	*t = (struct tls_files){ 0 };
}

static void target_done(struct host_target *t)
{
	url_done(&t->url);
	tls_done(&t->tls);
	for (size_t i = 0; i < t->n_headers; i++)
		free(t->headers[i]);
}

void host_conf_free(struct host_conf *hc)
{
	if (!hc)
		return;
	tls_done(&hc->tls);
	target_done(&hc->server);
	for (size_t i = 0; i < hc->n_targets; i++)
		target_done(&hc->targets[i]);
	free(hc->ns);
	free(hc);
}

/* ---- certificates ---- */

static errint_t add_ca(struct tls_files *t, const char *path, struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(0);
	_cleanup_buf_ struct buf all = BUF_INIT(CA_PEM_MAX);
	errint_t r = conf_read_file(path, CA_PEM_MAX, &b, e);

	if (r == -ENOENT)
		return err_set(e, EINVAL, ERR_INPUT, "the CA certificate %s does not exist", path);
	if (r < 0)
		return r;
	(void)buf_adds(&all, t->ca_pem ? t->ca_pem : "");
	(void)buf_add(&all, buf_str(&b), b.len);
	r = buf_adds(&all, "\n");
	if (r < 0)
		return err_set(e, -r, ERR_LIMIT, "more than %u bytes of CA certificates",
			       CA_PEM_MAX);
	free(t->ca_pem);
	t->ca_pem = buf_take(&all, NULL);
	return t->ca_pem ? 0 : no_memory(e);
}

static errint_t set_pair(struct tls_files *t, const char *cert, const char *key, struct err *e)
{
	if (t->cert)
		return 0; /* libcurl presents one; the first in name order */
	t->cert = strdup(cert);
	t->key = key ? strdup(key) : NULL;
	return t->cert && (t->key || !key) ? 0 : no_memory(e);
}

static bool has_suffix(const char *name, const char *suffix)
{
	size_t n = strlen(name), m = strlen(suffix);

	return n > m && strcmp(name + n - m, suffix) == 0;
}

static errint_t add_cert_file(struct tls_files *t, const char *dir, const char *name, struct err *e)
{
	char path[CONF_PATH_MAX], key[CONF_PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s/%s", dir, name);

	if (n < 0 || (size_t)n >= sizeof(path))
		return 0;
	if (has_suffix(name, ".crt"))
		return add_ca(t, path, e);
	if (!has_suffix(name, ".cert"))
		return 0;
	(void)snprintf(key, sizeof(key), "%.*s.key", n - 5, path);
	if (access(key, R_OK) < 0)
		return err_set(e, EINVAL, ERR_INPUT, "%s has no readable key %s beside it", path,
			       key);
	return set_pair(t, path, key, e);
}

static int not_hidden(const struct dirent *d)
{
	return d->d_name[0] != '.';
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* -ENOENT: no such directory (and nothing else). */
static errint_t read_certs(struct tls_files *t, const char *dir, struct err *e)
{
	struct dirent **names = NULL;
	int n = scandir(dir, &names, not_hidden, by_bytes);
	errint_t r = 0;

	if (n < 0)
		return -ENOENT;
	for (int i = 0; i < n; i++) {
		if (r == 0)
			r = add_cert_file(t, dir, names[i]->d_name, e);
		free(names[i]);
	}
	free(names);
	return r;
}

static errint_t load_certs(const struct conf_dirs *d, const char *host, struct tls_files *t,
			   struct err *e)
{
	for (size_t i = 0; i < CONF_DIRS_MAX && d->certs[i]; i++) {
		char dir[CONF_PATH_MAX];
		errint_t r;

		if (snprintf(dir, sizeof(dir), "%s/%s", d->certs[i], host) >= (int)sizeof(dir))
			continue;
		r = read_certs(t, dir, e);
		if (r != -ENOENT || t->ca_pem)
			return r;
	}
	return 0;
}

/* ---- hosts.toml ---- */

struct reader {
	const char *dir;
	struct err *e;
};

static const char *absolute(const struct reader *rd, const char *p, char out[static CONF_PATH_MAX])
{
	(void)snprintf(out, CONF_PATH_MAX, "%s%s%s", p[0] == '/' ? "" : rd->dir,
		       p[0] == '/' ? "" : "/", p);
	return out;
}

/* A string, or a list of strings. */
static const char *string_at(const struct toml *v, size_t i)
{
	if (toml_kind(v) == TOML_STRING)
		return i == 0 ? toml_string(v) : NULL;
	return toml_string(toml_at(v, i));
}

static errint_t read_ca(const struct reader *rd, const struct toml *v, struct tls_files *t)
{
	char path[CONF_PATH_MAX];
	const char *s;
	errint_t r = 0;

	for (size_t i = 0; r == 0 && (s = string_at(v, i)); i++)
		r = add_ca(t, absolute(rd, s, path), rd->e);
	return r;
}

/* "file", ["file", ..] or [["cert", "key"], ..]; the first is used. */
static errint_t read_client(const struct reader *rd, const struct toml *v, struct tls_files *t)
{
	char cert[CONF_PATH_MAX], key[CONF_PATH_MAX];
	const struct toml *first = toml_kind(v) == TOML_ARRAY ? toml_at(v, 0) : v;
	const char *c = string_at(first, 0);
	const char *k = toml_kind(first) == TOML_ARRAY ? string_at(first, 1) : NULL;

	if (!c)
		return 0;
	return set_pair(t, absolute(rd, c, cert), k && *k ? absolute(rd, k, key) : NULL, rd->e);
}

static bool header_ok(const char *name, const char *value)
{
	for (const char *p = name; *p; p++)
		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", *p))
			return false;
	for (const char *p = value; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			return false;
	return *name != '\0' && *value != '\0';
}

static errint_t add_header(const struct reader *rd, struct host_target *t, const char *name,
			   const char *value)
{
	char *line = NULL;

	if (!header_ok(name, value))
		return err_set(rd->e, EINVAL, ERR_INPUT, "the header \"%.60s\" is malformed", name);
	if (t->n_headers == HOST_HEADERS_MAX)
		return err_set(rd->e, EFBIG, ERR_LIMIT, "more than %d headers", HOST_HEADERS_MAX);
	if (asprintf(&line, "%s: %s", name, value) < 0)
		return no_memory(rd->e);
	t->headers[t->n_headers++] = line;
	return 0;
}

static errint_t read_headers(const struct reader *rd, const struct toml *table,
			     struct host_target *t)
{
	for (size_t i = 0; i < toml_len(table); i++) {
		const struct toml *v = toml_at(table, i);
		const char *s;
		errint_t r;

		for (size_t j = 0; (s = string_at(v, j)); j++) {
			r = add_header(rd, t, toml_key_at(table, i), s);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

/* "1m30s", "500ms" and other Go durations; plain numbers are nanoseconds. */
static uint64_t parse_duration(const char *s)
{
	double total = 0;

	while (*s) {
		char *end;
		double v = strtod(s, &end), unit = 1e-9;

		if (end == s || v < 0)
			return 0;
		if (strncmp(end, "ms", 2) == 0)
			unit = 1e-3, end += 2;
		else if (*end == 's')
			unit = 1, end++;
		else if (*end == 'm')
			unit = 60, end++;
		else if (*end == 'h')
			unit = 3600, end++;
		else if (*end)
			return 0;
		total += v * unit;
		s = end;
	}
	return total > 0 && total < DIAL_MAX_S ? (uint64_t)(total * 1e9) : 0;
}

static void read_capabilities(const struct toml *list, struct host_target *t)
{
	t->pull = t->resolve = list == NULL;
	for (size_t i = 0; i < toml_len(list); i++) {
		const char *s = toml_string(toml_at(list, i));

		t->pull |= s && strcmp(s, "pull") == 0;
		t->resolve |= s && strcmp(s, "resolve") == 0;
	}
}

/* The API root: "/v2" is appended unless it is there or override_path says not to. */
static errint_t set_url(const struct reader *rd, const char *s, bool override_path,
			struct host_target *t)
{
	_cleanup_buf_ struct buf b = BUF_INIT(URL_MAX);
	size_t n = strlen(s);

	while (n > 0 && s[n - 1] == '/')
		n--;
	if (!strstr(s, "://"))
		(void)buf_adds(&b, "https://");
	(void)buf_add(&b, s, n);
	if (!override_path && (n < 3 || strncmp(s + n - 3, "/v2", 3) != 0))
		(void)buf_adds(&b, "/v2");
	if (buf_check(&b) < 0)
		return no_memory(rd->e);
	return url_parse(buf_str(&b), &t->url, rd->e);
}

static errint_t read_target(const struct reader *rd, const char *url, const struct toml *v,
			    struct host_target *t)
{
	const char *dial = toml_str(v, "dial_timeout");
	errint_t r = set_url(rd, url, toml_bool(v, "override_path", false), t);

	if (r < 0)
		return r;
	read_capabilities(toml_get(v, "capabilities"), t);
	t->tls.insecure = toml_bool(v, "skip_verify", false);
	t->dial_ns = dial ? parse_duration(dial) : 0;
	r = read_ca(rd, toml_get(v, "ca"), &t->tls);
	if (r == 0)
		r = read_client(rd, toml_get(v, "client"), &t->tls);
	return r < 0 ? r : read_headers(rd, toml_get(v, "header"), t);
}

static errint_t read_hosts(const struct reader *rd, const struct toml *doc, struct host_conf *hc)
{
	const struct toml *hosts = toml_get(doc, "host");
	const char *server = toml_str(doc, "server");
	errint_t r;

	if (toml_len(hosts) > HOST_TARGETS_MAX)
		return err_set(rd->e, EFBIG, ERR_LIMIT, "more than %d hosts", HOST_TARGETS_MAX);
	for (size_t i = 0; i < toml_len(hosts); i++) {
		/* counted first, so that a half-read one is freed */
		r = read_target(rd, toml_key_at(hosts, i), toml_at(hosts, i),
				&hc->targets[hc->n_targets++]);
		if (r < 0)
			return r;
	}
	return server ? read_target(rd, server, doc, &hc->server) : 0;
}

/* -ENOENT: no file there. */
static errint_t load_hosts_in(const char *dir, struct host_conf *hc, struct err *e)
{
	_cleanup_(toml_freep) struct toml *doc = NULL;
	struct reader rd = { .dir = dir, .e = e };
	char path[CONF_PATH_MAX];
	errint_t r;

	if (snprintf(path, sizeof(path), "%s/hosts.toml", dir) >= (int)sizeof(path))
		return -ENOENT;
	r = conf_read_toml(path, &doc, e);
	if (r < 0)
		return r;
	return err_wrap(e, read_hosts(&rd, doc, hc), "%s", path);
}

/* containerd's spellings of the directory: "host_port_", "host:port", then "_default". */
static errint_t load_hosts(const char *top, const char *host, struct host_conf *hc, struct err *e)
{
	const char *port = strrchr(host, ':');
	bool has_port = port && !strchr(port, ']');
	char dir[3][CONF_PATH_MAX];
	errint_t r = -ENOENT;

	(void)snprintf(dir[0], sizeof(dir[0]), "%s/%.*s_%s_", top,
		       has_port ? (int)(port - host) : 0, host, has_port ? port + 1 : "");
	(void)snprintf(dir[1], sizeof(dir[1]), "%s/%s", top, host);
	(void)snprintf(dir[2], sizeof(dir[2]), "%s/_default", top);
	for (size_t i = has_port ? 0 : 1; i < 3 && r == -ENOENT; i++)
		r = load_hosts_in(dir[i], hc, e);
	return r;
}

errint_t host_conf_load(const struct conf_dirs *d, const char *host, struct host_conf **ret,
			struct err *e)
{
	_cleanup_buf_ struct buf ns = BUF_INIT(4 * REF_HOST_MAX);
	struct host_conf *hc = calloc(1, sizeof(*hc));
	errint_t r;

	if (!hc)
		return no_memory(e);
	r = load_certs(d, host, &hc->tls, e);
	for (size_t i = 0; r == 0 && i < CONF_DIRS_MAX && d->hosts[i]; i++) {
		r = load_hosts(d->hosts[i], host, hc, e);
		if (r != -ENOENT)
			break;
		r = 0;
	}
	(void)url_escape(&ns, host, "");
	if (r == 0) {
		hc->ns = buf_take(&ns, NULL);
		r = hc->ns ? 0 : no_memory(e);
	}
	if (r < 0) {
		host_conf_free(hc);
		return r;
	}
	*ret = hc;
	return 0;
}
