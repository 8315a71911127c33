/*
 * pushtool.c - push.h by hand, for test_push.py
 *
 *	pushtool SOURCE REPO blob FILE [FROM]		puts FILE's bytes, perhaps from another repository
 *	pushtool SOURCE REPO manifest FILE TYPE [TAG]	puts FILE as a manifest
 *
 * Prints the digest; or "CLASS: message" on standard error, and ends with the errno.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "policy/policy.h"
#include "registry/push.h"
#include "util/stats.h"

#define USAGE "usage: pushtool SOURCE REPO {blob FILE [FROM] | manifest FILE TYPE [TAG]}\n"

static errint_t read_file(void *ctx, uint64_t off, void *dst, size_t len, struct err *e)
{
	const int *fd = ctx;
	ssize_t n = pread(*fd, dst, len, (off_t)off);

	return n == (ssize_t)len ? 0 : err_errno(e, n < 0 ? errno : EIO, "reading the file");
}

static errint_t hash_file(int fd, struct rg_body *b, struct err *e)
{
	_cleanup_(digest_ctx_freep) struct digest_ctx *h = digest_ctx_new(DIGEST_SHA256);
	static char piece[1 << 16];
	ssize_t n;

	while ((n = pread(fd, piece, sizeof(piece), (off_t)b->size)) > 0) {
		digest_ctx_add(h, piece, (size_t)n);
		b->size += (uint64_t)n;
	}
	digest_ctx_end(h, &b->digest);
	return n < 0 ? err_errno(e, errno, "reading the file") : 0;
}

static errint_t run(struct rg_registry *g, char **a, int n, struct digest *ret, struct err *e)
{
	_cleanup_close_ int fd = open(a[4], O_RDONLY | O_CLOEXEC);
	struct rg_body b = { .read = read_file, .ctx = &fd };
	_cleanup_free_ char *bytes = NULL;
	errint_t r = fd < 0 ? err_errno(e, errno, "%s", a[4]) : hash_file(fd, &b, e);

	if (r < 0)
		return r;
	*ret = b.digest;
	if (strcmp(a[3], "blob") == 0)
		return rg_put_blob(g, a[2], &b, n > 5 ? a[5] : NULL, NULL, e);
	bytes = malloc(b.size + 1);
	r = bytes ? read_file(&fd, 0, bytes, b.size, e) : -ENOMEM;
	if (r < 0)
		return r;
	return rg_put_manifest(g, a[2], &(struct rg_put){ .reference = n > 6 ? a[6] : NULL, .bytes = bytes,
			       .len = b.size, .media_type = a[5] }, ret, NULL, e);
}

int main(int argc, char **argv)
{
	struct rg_opts o = { .retry = po_retry };
	struct rg_registry *g = NULL;
	struct rg_client *c = NULL;
	struct digest d = { 0 };
	struct err e = { 0 };
	char text[DIGEST_TEXT_MAX];
	errint_t r;

	if (argc < 5 || (strcmp(argv[3], "manifest") == 0 && argc < 6)) {
		fputs(USAGE, stderr);
		return 255;
	}
	r = rg_client_new(&o, &c, &e);
	if (r == 0)
		r = rg_open(c, argv[1], &g, &e);
	if (r == 0)
		r = run(g, argv, argc, &d, &e);
	if (r < 0)
		fprintf(stderr, "%s: %s\n", err_class_name(e.cls), e.msg);
	else
		printf("%s sent=%" PRId64 " requests=%" PRId64 "\n", digest_text(&d, text),
		       stat_get(STAT_HTTP_SENT), stat_get(STAT_HTTP_REQUESTS));
	(void)rg_close(g);
	(void)rg_client_stop(c);
	return -r;
}
