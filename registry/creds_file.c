/*
 * creds_file.c - the JSON of auth.json, config.json and .dockercfg as a table of entries
 *
 * Keys are cleaned once: scheme and (for URLs and for Docker's "/v1/", "/v2/") path go, the host
 * is in lower case, all of Docker Hub's names become docker.io.  Errors are numbers only, because
 * the text is secret.  No threads, no state.
 */
#include "registry/creds.h"

#include <string.h>
#include <strings.h>

#include "util/json.h"

void cred_wipe(char *s)
{
	if (s)
		explicit_bzero(s, strlen(s));
	free(s);
}

static void entry_done(struct cred_entry *en)
{
	free(en->key);
	free(en->user);
	cred_wipe(en->secret);
	cred_wipe(en->identity);
	cred_wipe(en->token);
}

void cred_file_done(struct cred_file *f)
{
	for (size_t i = 0; i < f->n; i++)
		entry_done(&f->v[i]);
	for (size_t i = 0; i < f->n_helpers; i++)
		entry_done(&f->helpers[i]);
	free(f->v);
	free(f->helpers);
	free(f->store);
	*f = (struct cred_file){ 0 };
}

/* Docker writes URLs, Podman writes host/path. */
static char *clean_key(const char *key)
{
	bool url = false;
	size_t n, host;
	char *s;

	if (strncasecmp(key, "https://", 8) == 0 || strncasecmp(key, "http://", 7) == 0) {
		url = true;
		key = strstr(key, "://") + 3;
	}
	host = strcspn(key, "/");
	n = strlen(key);
	while (n > host && key[n - 1] == '/')
		n--;
	if (url || (n == host + 3 && (memcmp(key + host, "/v1", 3) == 0 ||
				      memcmp(key + host, "/v2", 3) == 0)))
		n = host;
	s = strndup(key, n);
	for (size_t i = 0; s && i < host; i++)
		if (s[i] >= 'A' && s[i] <= 'Z')
			s[i] = (char)(s[i] - 'A' + 'a');
	if (s && ref_is_docker_hub(s)) {
		free(s);
		s = strdup("docker.io");
	}
	return s;
}

/* "auth": base64 of user:secret; NULs at its end are padding that old clients wrote. */
static errint_t decode_auth(const char *text, struct cred_entry *en)
{
	size_t len = strlen(text);
	char *raw = malloc(len / 4 * 3 + 4);
	char *colon;
	long n;
	errint_t r = 0;

	if (!raw)
		return -ENOMEM;
	n = base64_decode(text, len, raw);
	raw[n > 0 ? n : 0] = '\0';
	colon = strchr(raw, ':');
	if (n <= 0 || !colon) {
		r = -EINVAL;
	} else {
		en->user = strndup(raw, (size_t)(colon - raw));
		en->secret = strdup(colon + 1);
		r = en->user && en->secret ? 0 : -ENOMEM;
	}
	explicit_bzero(raw, len / 4 * 3 + 4);
	free(raw);
	return r;
}

static char *dup_member(const struct json *v, const char *name, errint_t *r)
{
	const char *s = json_str(v, name);
	char *d;

	if (!s || !*s)
		return NULL;
	d = strdup(s);
	if (!d)
		*r = -ENOMEM;
	return d;
}

/* An unreadable "auth" makes an empty entry: the others must stay usable. */
static errint_t fill_entry(struct cred_entry *en, const char *key, const struct json *v)
{
	const char *auth = json_str(v, "auth");
	errint_t r = 0;

	en->key = clean_key(key);
	if (!en->key)
		return -ENOMEM;
	en->identity = dup_member(v, "identitytoken", &r);
	en->token = dup_member(v, "registrytoken", &r);
	if (r == 0 && auth && *auth)
		r = decode_auth(auth, en);
	if (r == 0 && !en->secret && json_str(v, "username")) {
		en->user = dup_member(v, "username", &r);
		en->secret = dup_member(v, "password", &r);
	}
	return r == -EINVAL ? 0 : r;
}

static errint_t read_auths(struct cred_file *f, const struct json *auths)
{
	size_t max = MIN_OF(json_len(auths), (size_t)CREDS_ENTRIES_MAX);
	const struct json *v;
	const char *key;
	void *it = NULL;

	if (!json_is_object(auths) || max == 0)
		return 0;
	f->v = calloc(max, sizeof(*f->v));
	if (!f->v)
		return -ENOMEM;
	while (f->n < max && (v = json_next(auths, &it, &key))) {
		errint_t r = fill_entry(&f->v[f->n++], key, v);

		if (r < 0)
			return r;
	}
	return 0;
}

static errint_t read_helpers(struct cred_file *f, const struct json *helpers)
{
	size_t max = MIN_OF(json_len(helpers), (size_t)CREDS_ENTRIES_MAX);
	const struct json *v;
	const char *key;
	void *it = NULL;

	if (!json_is_object(helpers) || max == 0)
		return 0;
	f->helpers = calloc(max, sizeof(*f->helpers));
	if (!f->helpers)
		return -ENOMEM;
	while (f->n_helpers < max && (v = json_next(helpers, &it, &key))) {
		const char *suffix = json_text(v, NULL);
		struct cred_entry *en = &f->helpers[f->n_helpers];

		if (!suffix || !*suffix)
			continue;
		f->n_helpers++;
		en->key = clean_key(key);
		en->user = strdup(suffix);
		if (!en->key || !en->user)
			return -ENOMEM;
	}
	return 0;
}

errint_t cred_file_parse(const char *data, size_t len, bool legacy, struct cred_file *ret)
{
	_cleanup_(json_freep) struct json *doc = NULL;
	struct cred_file f = { 0 };
	errint_t r = json_parse(data, len, &doc, NULL);

	if (r == 0 && !json_is_object(doc))
		r = -EINVAL;
	if (r == 0)
		r = read_auths(&f, legacy ? doc : json_get(doc, "auths"));
	if (r == 0 && !legacy)
		r = read_helpers(&f, json_get(doc, "credHelpers"));
	if (r == 0 && !legacy)
		f.store = dup_member(doc, "credsStore", &r);
	if (r < 0)
		cred_file_done(&f);
	*ret = f;
	return r;
}

static bool has_content(const struct cred_entry *en)
{
	return en->secret || en->identity || en->token;
}

const struct cred_entry *cred_file_find(const struct cred_file *f, const char *host,
					const char *repo)
{
	const struct cred_entry *best = NULL;
	size_t hl = strlen(host), best_len = 0;

	for (size_t i = 0; i < f->n; i++) {
		const char *key = f->v[i].key, *path = key + hl + 1;
		size_t n = strlen(key);

		if (!has_content(&f->v[i]) || n <= best_len || strncmp(key, host, hl) != 0)
			continue;
		if (n > hl) {
			size_t pl = n - hl - 1;

			if (key[hl] != '/' || !repo || strncmp(repo, path, pl) != 0 ||
			    (repo[pl] != '/' && repo[pl] != '\0'))
				continue;
		}
		best = &f->v[i];
		best_len = n;
	}
	return best;
}

const char *cred_file_helper(const struct cred_file *f, const char *host)
{
	for (size_t i = 0; i < f->n_helpers; i++)
		if (strcmp(f->helpers[i].key, host) == 0)
			return f->helpers[i].user;
	return NULL;
}
