/*
 * fuzz_link.c - Link headers and the URLs in them: what is accepted is clean and reads back equal
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "registry/url.h"
#include "util/cleanup.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(bool ok)
{
	if (!ok)
		abort();
}

static void check(const struct url *u)
{
	_cleanup_buf_ struct buf b = BUF_INIT(2 * URL_MAX);
	_cleanup_url_ struct url again = { 0 };
	struct err e = { 0 };

	expect(u->host[0] && !strpbrk(u->host, "/@?# \t\r\n") && u->port >= 1 && u->port <= 65535);
	expect(u->target[0] == '/' && !strpbrk(u->target, "# \t\r\n"));
	expect(url_add(&b, u) == 0);
	if (b.len > URL_MAX)
		return;
	expect(url_parse(buf_str(&b), &again, &e) == 0);
	expect(url_same_origin(u, &again) && strcmp(u->target, again.target) == 0);
	(void)url_is_loopback(u);
	if (url_is_link_local(u))
		expect(url_guard(u, true, u, "redirect", &e) < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = strndup((const char *)data, size);
	_cleanup_free_ char *next = text ? link_next(text) : NULL;
	_cleanup_url_ struct url base = { 0 };
	_cleanup_url_ struct url to = { 0 };
	struct err e = { 0 };

	if (!text || url_parse("https://r.example:5000/v2/app/tags/list?n=5", &base, &e) < 0)
		return 0;
	if (next)
		expect(strlen(next) <= size && !strchr(next, '>'));
	if (url_resolve(&base, next ? next : text, &to, &e) == 0)
		check(&to);
	else
		expect(e.eno > 0 && e.msg[0]);
	return 0;
}
