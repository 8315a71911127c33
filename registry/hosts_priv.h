/*
 * hosts_priv.h - what hosts.c gets from its two readers of files
 *
 * regconf.c: registries.conf and its drop-ins.  hostconf.c: certs.d and hosts.toml of one host.
 */
#pragma once

#include "registry/hosts.h"
#include "registry/toml.h"

#define CONF_DIRS_MAX 4
#define REG_ENTRIES_MAX 1024
#define HOST_TARGETS_MAX 16
#define HOST_HEADERS_MAX 32
#define CA_PEM_MAX (1u << 20)

/* ---- registries.conf ---- */

enum reg_pull { REG_PULL_ALL = 0, REG_PULL_DIGEST, REG_PULL_TAG };

struct reg_mirror {
	char *location;
	bool insecure;
	enum reg_pull pull;
};

struct reg_entry {
	char *prefix;
	char *location;		/* NULL with a wildcard prefix: the name stays as it is */
	bool insecure, blocked, digest_only;
	struct reg_mirror *mirrors;
	size_t n_mirrors;
};

struct regconf {
	struct reg_entry *v;
	size_t n;
};

errint_t regconf_load(const struct rg_opts *opts, struct regconf *ret, struct err *e) _must_check_;
void regconf_done(struct regconf *rc);
/* The entry with the longest prefix; *ret_len: how much of name it covers.  name: "host/repo". */
const struct reg_entry *regconf_find(const struct regconf *rc, const char *name, size_t *ret_len);

/* ---- one host's directories ---- */

struct tls_files {
	char *ca_pem;
	char *cert, *key;
	bool insecure;
};

struct host_target {
	struct url url;
	bool pull, resolve;
	struct tls_files tls;
	char *headers[HOST_HEADERS_MAX];
	size_t n_headers;
	uint64_t dial_ns;
};

struct host_conf {
	struct tls_files tls;			/* from certs.d */
	struct host_target targets[HOST_TARGETS_MAX];
	size_t n_targets;
	struct host_target server;		/* url.host == NULL: none was written */
	char *ns;				/* percent-encoded */
};

struct conf_dirs {
	char *certs[CONF_DIRS_MAX];
	char *hosts[CONF_DIRS_MAX];
};

errint_t host_conf_load(const struct conf_dirs *d, const char *host, struct host_conf **ret,
			struct err *e) _must_check_;
void host_conf_free(struct host_conf *hc);

/* ---- both ---- */

/* "$XDG_CONFIG_HOME", "~/.config" or opts->config_home; never fails but for memory (NULL). */
char *conf_home(const struct rg_opts *opts);
/* Reads and parses a file; -ENOENT without a message when it is not there. */
errint_t conf_read_toml(const char *path, struct toml **ret, struct err *e) _must_check_;
/* A regular file of at most max bytes. */
errint_t conf_read_file(const char *path, size_t max, struct buf *ret, struct err *e) _must_check_;
