/*
 * url.h - http and https addresses, and who may send us where (private to registry/)
 *
 * A struct url has passed one strict reader: scheme http or https, a host of letters, digits, dots,
 * dashes and underscores (or a bracketed IPv6 address), no user part, no control characters, no
 * blanks.  Nothing else is ever given to the network.
 */
#pragma once

#include <stdbool.h>

#include "util/buf.h"
#include "util/cleanup.h"
#include "util/err.h"

#define URL_MAX 16384	/* bytes; signed URLs of clouds take a few thousand */

struct url {
	bool https;
	unsigned port;		/* effective: 443 and 80 are filled in */
	char *host;		/* lower case; IPv6 in brackets */
	char *target;		/* path and query, starts with '/' */
};

errint_t url_parse(const char *s, struct url *ret, struct err *e) _must_check_;
/* ref may be absolute, "//host/..", "/path", "path" or "?query", relative to base. */
errint_t url_resolve(const struct url *base, const char *ref, struct url *ret,
		     struct err *e) _must_check_;
void url_done(struct url *u);
#define _cleanup_url_ _cleanup_(url_done)

/* Appends "https://host[:port]", the port only when it is not the scheme's own. */
errint_t url_add_origin(struct buf *b, const struct url *u);
errint_t url_add(struct buf *b, const struct url *u);
bool url_same_origin(const struct url *a, const struct url *b);
/* Literal addresses in all the spellings that the resolver takes ("127.1", "0x7f000001"). */
bool url_is_loopback(const struct url *u);
bool url_is_link_local(const struct url *u);

/* May an answer from `from` send us to `to`?  Refuses https to http, link-local addresses always,
 * loopback unless from_loopback.  what: "redirect" or "token service".  -EACCES, class AUTH. */
errint_t url_guard(const struct url *from, bool from_loopback, const struct url *to,
		   const char *what, struct err *e) _must_check_;

/* Percent-encodes everything but unreserved characters and those in `keep`. */
errint_t url_escape(struct buf *b, const char *s, const char *keep);

/* The target of rel="next" in one Link header value, newly allocated, or NULL (RFC 8288). */
char *link_next(const char *value);
