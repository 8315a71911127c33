/*
 * http_proxy.c - does a proxy carry this request?
 *
 * libcurl would read the same variables by itself, but says only afterwards what it decided, and
 * the guards on addresses must be on or off before.  So the decision is made here, by libcurl's rules,
 * and libcurl is told the result.  Read for each request; no state.
 */
#include "registry/http_priv.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

#define HOST_MAX 256
#define NO_PROXY_MAX 256	/* bytes of one pattern; a longer one matches nothing */

static const char *variable(const char *name)
{
	const char *v = getenv(name);

	return v && *v ? v : NULL;
}

static const char *either(const char *lower, const char *upper)
{
	const char *v = variable(lower);

	return v ? v : variable(upper);
}

/* HTTP_PROXY in capitals is what a CGI script's client may set. */
static const char *configured(bool https)
{
	const char *v = https ? either("https_proxy", "HTTPS_PROXY") : variable("http_proxy");

	return v ? v : either("all_proxy", "ALL_PROXY");
}

/* The host of a URL from url_add, without brackets and final dot. */
static bool host_of(const char *url, char out[static HOST_MAX])
{
	const char *s = strstr(url, "://");
	size_t n;

	if (!s)
		return false;
	s += 3;
	if (*s == '[')
		n = strcspn(++s, "]");
	else
		n = strcspn(s, ":/?#");
	if (n > 0 && s[n - 1] == '.')
		n--;
	if (n == 0 || n >= HOST_MAX)
		return false;
	memcpy(out, s, n);
	out[n] = '\0';
	return true;
}

/* Do the first `bits` bits agree? */
static bool same_net(const uint8_t *a, const uint8_t *b, unsigned bits)
{
	unsigned bytes = bits / 8, rest = bits % 8;

	if (memcmp(a, b, bytes) != 0)
		return false;
	return rest == 0 || (a[bytes] ^ b[bytes]) >> (8 - rest) == 0;
}

static bool parse_bits(const char *s, unsigned max, unsigned *ret)
{
	char *end;
	unsigned long v = strtoul(s, &end, 10);

	*ret = (unsigned)v;
	return *s >= '0' && *s <= '9' && *end == '\0' && v <= max;
}

/* "10.0.0.0/8", "fd00::/8" or one address.  1 = matches, 0 = does not, -1: host is no address. */
static int match_address(const char *host, char *pattern)
{
	uint8_t a[16], b[16];
	char *slash = strchr(pattern, '/');
	int family = strchr(host, ':') ? AF_INET6 : AF_INET;
	unsigned all = family == AF_INET6 ? 128 : 32, bits = all;

	if (inet_pton(family, host, a) != 1)
		return -1;
	if (slash)
		*slash = '\0';
	if (slash && !parse_bits(slash + 1, all, &bits))
		return 0;
	return inet_pton(family, pattern, b) == 1 && same_net(a, b, bits);
}

/* "example.com" and ".example.com" both mean the name and everything below it. */
static bool match_name(const char *host, const char *pattern)
{
	size_t hl = strlen(host), pl;

	pattern += *pattern == '.';
	pl = strlen(pattern);
	if (pl > 0 && pattern[pl - 1] == '.')
		pl--;
	if (pl == 0 || pl > hl || strncasecmp(host + hl - pl, pattern, pl) != 0)
		return false;
	return pl == hl || host[hl - pl - 1] == '.';
}

static bool match_one(const char *host, const char *s, size_t n)
{
	char pattern[NO_PROXY_MAX];
	int r;

	if (n > 1 && s[0] == '[' && s[n - 1] == ']') {
		s++;
		n -= 2;
	}
	if (n >= sizeof(pattern))
		return false;
	memcpy(pattern, s, n);
	pattern[n] = '\0';
	r = match_address(host, pattern);
	return r < 0 ? match_name(host, pattern) : r > 0;
}

static bool is_excepted(const char *host)
{
	const char *s = either("no_proxy", "NO_PROXY");

	if (s && strcmp(s, "*") == 0)
		return true;
	while (s && *s) {
		size_t n = strcspn(s, ", \t");

		if (n > 0 && match_one(host, s, n))
			return true;
		s += n + (s[n] != '\0');
	}
	return false;
}

const char *http_proxy_for(const char *url)
{
	char host[HOST_MAX];
	const char *proxy = configured(strncasecmp(url, "https:", 6) == 0);

	return proxy && host_of(url, host) && !is_excepted(host) ? proxy : NULL;
}
