/*
 * ref.c - names, checked by hand-written scanners
 *
 * Every scanner takes a length, never reads past it, and refuses what it does not know; there is
 * no regular expression and no locale in it.  Addresses are judged by value, not by spelling:
 * 0x7f.1, 2130706433 and ::ffff:127.0.0.1 are all loopback, because the resolver reads them so.
 */
#include "registry/ref.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "util/cleanup.h"

#define REF_SOURCE_MAX 4096	/* bytes of a SOURCE argument */
#define REF_LABEL_MAX 63	/* bytes of one DNS label */
#define REF_HEX_TAG 64		/* hex digits in a digest tag, for every algorithm */

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_lower_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || is_digit(c);
}

static bool is_alnum(char c)
{
	return is_lower_alnum(c) || (c >= 'A' && c <= 'Z');
}

static char to_lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

char *ref_lower_dup(const char *s, size_t len)
{
	char *d = strndup(s, len);

	for (char *p = d; p && *p; p++)
		*p = to_lower(*p);
	return d;
}

/* Length of the separator at s: one '.', one or two '_', any number of '-'; 0 = not one. */
static size_t separator_len(const char *s, size_t len)
{
	size_t n = 0;

	if (len == 0)
		return 0;
	if (s[0] == '.')
		return 1;
	if (s[0] == '_')
		return len > 1 && s[1] == '_' ? 2 : 1;
	while (n < len && s[n] == '-')
		n++;
	return n;
}

bool ref_is_repo_component(const char *s, size_t len)
{
	size_t i = 0;

	if (len == 0 || len > REF_REPO_MAX || !is_lower_alnum(s[0]))
		return false;
	while (i < len) {
		size_t sep;

		while (i < len && is_lower_alnum(s[i]))
			i++;
		if (i == len)
			return true;
		sep = separator_len(s + i, len - i);
		i += sep;
		if (sep == 0 || i == len || !is_lower_alnum(s[i]))
			return false;
	}
	return true;
}

bool ref_is_repo(const char *s, size_t len)
{
	if (len > REF_REPO_MAX)
		return false;
	for (;;) {
		const char *slash = memchr(s, '/', len);
		size_t n = slash ? (size_t)(slash - s) : len;

		if (!ref_is_repo_component(s, n))
			return false;
		if (!slash)
			return true;
		s += n + 1;
		len -= n + 1;
	}
}

bool ref_is_tag(const char *s, size_t len)
{
	if (len == 0 || len > REF_TAG_MAX || s[0] == '.' || s[0] == '-')
		return false;
	for (size_t i = 0; i < len; i++)
		if (!is_alnum(s[i]) && s[i] != '.' && s[i] != '_' && s[i] != '-')
			return false;
	return true;
}

static bool is_hex(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!is_digit(s[i]) && !(s[i] >= 'a' && s[i] <= 'f'))
			return false;
	return true;
}

bool ref_tag_is_digest_tag(const char *s, size_t len)
{
	static const char *const suffixes[] = { "", ".sig", ".att", ".sbom" };

	if (len < 7 + REF_HEX_TAG)
		return false;
	if (memcmp(s, "sha256-", 7) != 0 && memcmp(s, "sha512-", 7) != 0)
		return false;
	if (!is_hex(s + 7, REF_HEX_TAG))
		return false;
	s += 7 + REF_HEX_TAG;
	len -= 7 + REF_HEX_TAG;
	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++)
		if (strlen(suffixes[i]) == len && memcmp(s, suffixes[i], len) == 0)
			return true;
	return false;
}

static bool is_port(const char *s, size_t len)
{
	unsigned port = 0;

	if (len == 0 || len > 5)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (!is_digit(s[i]))
			return false;
		port = port * 10 + (unsigned)(s[i] - '0');
	}
	return port >= 1 && port <= 65535;
}

static bool is_dns_label(const char *s, size_t len)
{
	if (len == 0 || len > REF_LABEL_MAX || !is_alnum(s[0]) || !is_alnum(s[len - 1]))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!is_alnum(s[i]) && s[i] != '-')
			return false;
	return true;
}

static bool is_dns_name(const char *s, size_t len)
{
	for (;;) {
		const char *dot = memchr(s, '.', len);
		size_t n = dot ? (size_t)(dot - s) : len;

		if (!is_dns_label(s, n))
			return false;
		if (!dot)
			return true;
		s += n + 1;
		len -= n + 1;
	}
}

static bool is_ipv6_text(const char *s, size_t len)
{
	char text[INET6_ADDRSTRLEN];
	struct in6_addr a;

	if (len == 0 || len >= sizeof(text) || memchr(s, '\0', len))
		return false;
	memcpy(text, s, len);
	text[len] = '\0';
	return inet_pton(AF_INET6, text, &a) == 1;
}

bool ref_is_host(const char *s, size_t len)
{
	const char *end = s + len, *colon;

	if (len == 0 || len > REF_HOST_MAX)
		return false;
	if (s[0] == '[') {
		const char *close = memchr(s, ']', len);

		if (!close || !is_ipv6_text(s + 1, (size_t)(close - s) - 1))
			return false;
		colon = close + 1;
		return colon == end ||
		       (*colon == ':' && is_port(colon + 1, (size_t)(end - colon) - 1));
	}
	colon = memchr(s, ':', len);
	if (!colon)
		return is_dns_name(s, len);
	return is_dns_name(s, (size_t)(colon - s)) && is_port(colon + 1, (size_t)(end - colon) - 1);
}

/* Copies the host without port, brackets, zone and final dot. */
static bool bare_host(const char *host, char *out, size_t out_len)
{
	size_t n;

	if (host[0] == '[') {
		host++;
		n = strcspn(host, "]%");
	} else {
		const char *colon = strchr(host, ':');

		/* two colons and no brackets: an address without a port */
		n = colon && !strchr(colon + 1, ':') ? (size_t)(colon - host) : strcspn(host, "%");
	}
	if (n > 0 && host[n - 1] == '.')
		n--;
	if (n == 0 || n >= out_len)
		return false;
	memcpy(out, host, n);
	out[n] = '\0';
	return true;
}

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static bool v4_is_forbidden(uint32_t a)
{
	static const uint32_t metadata[] = {
		0x646464c8, /* 100.100.100.200 */
		0xa83f8110, /* 168.63.129.16 */
		0xc00000c0, /* 192.0.0.192 */
	};

	for (size_t i = 0; i < ARRAY_SIZE(metadata); i++)
		if (a == metadata[i])
			return true;
	return a >> 16 == 0xa9fe || a >> 24 == 0;
}

/* a in host byte order */
static enum addr_class v4_class(uint32_t a)
{
	if (v4_is_forbidden(a))
		return ADDR_FORBIDDEN;
	return a >> 24 == 127 ? ADDR_LOOPBACK : ADDR_USUAL;
}

/* ::ffff:a.b.c.d, ::ffff:0:a.b.c.d, ::a.b.c.d, 64:ff9b::a.b.c.d, 64:ff9b:1:..:a.b.c.d and
 * 2002:aabb:ccdd:: reach the IPv4 address. */
static bool embedded_v4(const struct in6_addr *a, uint32_t *ret)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
	static const uint8_t translated[12] = { [8] = 0xff, [9] = 0xff };
	static const uint8_t compat[12] = { 0 };
	static const uint8_t nat64[12] = { 0, 0x64, 0xff, 0x9b };
	static const uint8_t local_nat64[6] = { 0, 0x64, 0xff, 0x9b, 0, 1 };
	const uint8_t *b = a->s6_addr;

	if (b[0] == 0x20 && b[1] == 0x02) {
		*ret = be32(b + 2);
		return true;
	}
	*ret = be32(b + 12);
	return memcmp(b, mapped, 12) == 0 || memcmp(b, nat64, 12) == 0 ||
	       memcmp(b, translated, 12) == 0 || memcmp(b, local_nat64, 6) == 0 ||
	       (memcmp(b, compat, 12) == 0 && *ret > 1);
}

static enum addr_class v6_class(const struct in6_addr *a)
{
	static const uint8_t aws_metadata[8] = { 0xfd, 0x00, 0x0e, 0xc2 };
	uint32_t v4;

	if (IN6_IS_ADDR_LINKLOCAL(a) || IN6_IS_ADDR_UNSPECIFIED(a) ||
	    memcmp(a->s6_addr, aws_metadata, sizeof(aws_metadata)) == 0)
		return ADDR_FORBIDDEN;
	if (IN6_IS_ADDR_LOOPBACK(a))
		return ADDR_LOOPBACK;
	return embedded_v4(a, &v4) ? v4_class(v4) : ADDR_USUAL;
}

enum addr_class ref_addr_class(const struct sockaddr *sa)
{
	const void *p = sa;

	if (sa->sa_family == AF_INET)
		return v4_class(ntohl(((const struct sockaddr_in *)p)->sin_addr.s_addr));
	if (sa->sa_family == AF_INET6)
		return v6_class(&((const struct sockaddr_in6 *)p)->sin6_addr);
	return ADDR_FORBIDDEN;
}

/* Names are USUAL: what they stand for is seen when a socket is made. */
static enum addr_class literal_class(const char *bare)
{
	struct in6_addr v6;
	struct in_addr v4;

	if (inet_pton(AF_INET6, bare, &v6) == 1)
		return v6_class(&v6);
	/* the resolver's reading: also hex, octal, short */
	return inet_aton(bare, &v4) != 0 ? v4_class(ntohl(v4.s_addr)) : ADDR_USUAL;
}

bool ref_host_is_link_local(const char *host)
{
	char bare[REF_HOST_MAX + 1];

	return bare_host(host, bare, sizeof(bare)) && literal_class(bare) == ADDR_FORBIDDEN;
}

bool ref_host_is_loopback(const char *host)
{
	char bare[REF_HOST_MAX + 1];
	size_t n;

	if (!bare_host(host, bare, sizeof(bare)))
		return false;
	n = strlen(bare);
	if (strcasecmp(bare, "localhost") == 0 ||
	    (n > 10 && strcasecmp(bare + n - 10, ".localhost") == 0))
		return true;
	return literal_class(bare) == ADDR_LOOPBACK;
}

/* --- sources --- */

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
}

void ref_source_done(struct ref_source *s)
{
	free(s->host);
	free(s->prefix);
	free(s->path);
	free(s->name);
	*s = (struct ref_source){ 0 };
}

/* Cuts slashes at the end, but leaves "/" alone. */
static void strip_slashes(char *s)
{
	size_t n = strlen(s);

	while (n > 1 && s[n - 1] == '/')
		s[--n] = '\0';
}

static errint_t parse_dir(const char *path, struct ref_source *ret, struct err *e)
{
	_cleanup_free_ char *cwd = NULL;
	int r;

	if (!*path)
		return err_set(e, EINVAL, ERR_INPUT, "dir: needs a path, as in dir:/srv/registry");
	if (*path != '/') {
		cwd = getcwd(NULL, 0);
		if (!cwd)
			return err_errno(e, errno, "current directory, needed for dir:%s", path);
	}
	r = asprintf(&ret->path, "%s%s%s", cwd ? cwd : "", cwd ? "/" : "", path);
	if (r < 0) {
		ret->path = NULL;
		return no_memory(e);
	}
	strip_slashes(ret->path);
	ret->kind = SOURCE_DIR;
	if (asprintf(&ret->name, "dir:%s", ret->path) < 0) {
		ret->name = NULL;
		return no_memory(e);
	}
	return 0;
}

/* Takes off the scheme; what has no scheme is https. */
static errint_t take_scheme(const char **s, bool *ret_plain, struct err *e)
{
	const char *sep = strstr(*s, "://");
	size_t n;

	if (!sep)
		return 0;
	n = (size_t)(sep - *s);
	*ret_plain = n == 4 && strncasecmp(*s, "http", 4) == 0;
	if (!*ret_plain && !(n == 5 && strncasecmp(*s, "https", 5) == 0))
		return err_set(e, EOPNOTSUPP, ERR_UNSUPPORTED,
			       "%.*s:// is not a kind of registry known here; "
			       "write HOST[:PORT][/PREFIX], http://HOST or dir:PATH", (int)n, *s);
	*s = sep + 3;
	return 0;
}

/* A word without dot and port is far more often a forgotten host than a host. */
static bool looks_like_host(const char *s, size_t len)
{
	return memchr(s, '.', len) || memchr(s, ':', len) ||
	       (len == 9 && strncasecmp(s, "localhost", 9) == 0);
}

static errint_t check_host(const char *host, bool had_scheme, struct err *e)
{
	size_t n = strlen(host);

	if (!ref_is_host(host, n))
		return err_set(e, EINVAL, ERR_INPUT,
			       "\"%s\" is not a host name with an optional port", host);
	if (!had_scheme && !looks_like_host(host, n))
		return err_set(
			e, EINVAL, ERR_INPUT,
			"\"%s\" has neither a dot nor a port, so it is not taken for a host; "
			"write https://%s, or docker.io/%s for a name on Docker Hub",
			host, host, host);
	if (ref_host_is_link_local(host))
		return err_set(
			e, EINVAL, ERR_INPUT,
			"%s is a link-local, unspecified or metadata address, never a registry",
			host);
	return 0;
}

bool ref_is_docker_hub(const char *host)
{
	return strcmp(host, "index.docker.io") == 0 || strcmp(host, "registry-1.docker.io") == 0 ||
	       strcmp(host, "docker.io") == 0;
}

/* host in lower case, as check_host lets it pass. */
static errint_t parse_host(const char *s, size_t len, bool had_scheme, struct ref_source *ret,
			   struct err *e)
{
	_cleanup_free_ char *host = ref_lower_dup(s, len);
	errint_t r;

	if (!host)
		return no_memory(e);
	r = check_host(host, had_scheme, e);
	if (r < 0)
		return r;
	ret->host = ref_is_docker_hub(host) ? strdup("docker.io") : steal_ptr(&host);
	return ret->host ? 0 : no_memory(e);
}

static errint_t parse_prefix(const char *s, struct ref_source *ret, struct err *e)
{
	size_t n;

	while (*s == '/')
		s++;
	n = strlen(s);
	while (n > 0 && s[n - 1] == '/')
		n--;
	if (n > 0 && !ref_is_repo(s, n))
		return err_set(
			e, EINVAL, ERR_INPUT,
			"\"%.*s\" is not a repository prefix (lower-case names joined by '/', "
			"no tag and no digest: they are directories below the mount)",
			(int)n, s);
	ret->prefix = strndup(s, n);
	return ret->prefix ? 0 : no_memory(e);
}

static errint_t parse_oci(const char *s, struct ref_source *ret, struct err *e)
{
	const char *start = s;
	size_t n;
	errint_t r;

	r = take_scheme(&s, &ret->plain_http, e);
	if (r < 0)
		return r;
	n = strcspn(s, "/");
	r = parse_host(s, n, s != start, ret, e);
	if (r < 0)
		return r;
	r = parse_prefix(s + n, ret, e);
	if (r < 0)
		return r;
	ret->kind = SOURCE_OCI;
	if (asprintf(&ret->name, "%s%s%s", ret->host, *ret->prefix ? "/" : "", ret->prefix) < 0) {
		ret->name = NULL;
		return no_memory(e);
	}
	return 0;
}

errint_t ref_source_parse(const char *s, struct ref_source *ret, struct err *e)
{
	struct ref_source out = { 0 };
	errint_t r;

	if (!*s || strnlen(s, REF_SOURCE_MAX + 1) > REF_SOURCE_MAX)
		return err_set(e, EINVAL, ERR_INPUT, "a source has 1 to %d bytes", REF_SOURCE_MAX);
	r = strncmp(s, "dir:", 4) == 0 ? parse_dir(s + 4, &out, e) : parse_oci(s, &out, e);
	if (r < 0) {
		ref_source_done(&out);
		return r;
	}
	*ret = out;
	return 0;
}
