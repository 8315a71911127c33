/*
 * reply.c - the head of an HTTP answer as a struct rg_reply
 *
 * Everything here comes from strangers: values are bounded by http.c, and what cannot be understood
 * counts as absent.  No threads, no state.
 */
#include "registry/reply.h"

#include <string.h>
#include <strings.h>

#include "registry/url.h"
#include "util/clock.h"

#define RETRY_AFTER_MAX_S (7 * 86400)

void rg_reply_done(struct rg_reply *r)
{
	free(r->content_type);
	free(r->digest);
	free(r->link_next);
	free(r->oci_filters);
	free(r->oci_subject);
	free(r->location);
	free(r->upload_range);
	buf_done(&r->body);
	*r = (struct rg_reply){ 0 };
}

/* Digits only, no sign, no blanks; moves *p behind them. */
static bool read_number(const char **p, uint64_t *ret)
{
	uint64_t v = 0;
	const char *s = *p;

	if (*s < '0' || *s > '9')
		return false;
	for (; *s >= '0' && *s <= '9'; s++)
		if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
			return false;
	*p = s;
	*ret = v;
	return true;
}

static bool whole_number(const char *s, uint64_t *ret)
{
	if (!s || !read_number(&s, ret))
		return false;
	s += strspn(s, " \t");
	return *s == '\0';
}

/* "bytes 0-99/1000", "bytes 0-99" followed by "/" and "*": total 0. */
static bool parse_content_range(const char *s, uint64_t *first, uint64_t *last, uint64_t *total)
{
	*total = 0;
	if (!s || strncasecmp(s, "bytes", 5) != 0)
		return false;
	s += 5;
	s += strspn(s, " =\t");
	if (!read_number(&s, first) || *s++ != '-' || !read_number(&s, last) || *s++ != '/')
		return false;
	if (strcmp(s, "*") == 0)
		return *first <= *last;
	return whole_number(s, total) && *first <= *last && *last < *total;
}

static char *media_type(const char *s)
{
	size_t n = s ? strcspn(s, "; \t,") : 0;
	char *d = n ? strndup(s, n) : NULL;

	for (char *p = d; p && *p; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p - 'A' + 'a');
	return d;
}

static char *dup_trimmed(const char *s)
{
	size_t n = s ? strlen(s) : 0;

	while (n > 0 && (s[n - 1] == ' ' || s[n - 1] == '\t'))
		n--;
	return n ? strndup(s, n) : NULL;
}

static char *next_link(const struct http_res *res)
{
	const char *value;
	size_t it = 0;

	while ((value = http_header_next(res, "Link", &it))) {
		char *url = link_next(value);

		if (url)
			return url;
	}
	return NULL;
}

static void read_range(const struct http_res *res, const struct rg_call *call, struct rg_reply *r)
{
	uint64_t first, last, total;

	if (r->status != 206 || !call->ranged ||
	    !parse_content_range(http_header(res, "Content-Range"), &first, &last, &total))
		return;
	if (first != call->off || (call->len > 0 && last - first >= call->len))
		return;
	r->has_range = true;
	r->range_start = first;
	r->range_total = total;
}

void reply_read_head(const struct http_res *res, const struct rg_call *call, struct rg_reply *r)
{
	uint64_t n;

	rg_reply_done(r);
	r->status = res->status;
	r->content_type = media_type(http_header(res, "Content-Type"));
	r->digest = dup_trimmed(http_header(res, "Docker-Content-Digest"));
	r->oci_filters = dup_trimmed(http_header(res, "OCI-Filters-Applied"));
	r->oci_subject = dup_trimmed(http_header(res, "OCI-Subject"));
	r->upload_range = dup_trimmed(http_header(res, "Range"));
	r->link_next = next_link(res);
	r->content_length = whole_number(http_header(res, "Content-Length"), &n) && n <= INT64_MAX ?
			    (int64_t)n : -1;
	r->chunk_min = whole_number(http_header(res, "OCI-Chunk-Min-Length"), &n) && n <= INT64_MAX ?
		       (int64_t)n : 0;
	r->retry_after_s = MAX_OF(reply_retry_after(res), INT64_C(0));
	read_range(res, call, r);
}

int64_t reply_retry_after(const struct http_res *res)
{
	const char *s = http_header(res, "Retry-After");
	uint64_t n;
	int64_t at, left;

	if (!s)
		return -1;
	if (whole_number(s, &n))
		return (int64_t)MIN_OF(n, (uint64_t)RETRY_AFTER_MAX_S);
	if (!clock_parse_http_date(s, &at))
		return -1;
	left = at - clock_real_s();
	return left < 0 ? 0 : MIN_OF(left, (int64_t)RETRY_AFTER_MAX_S);
}
