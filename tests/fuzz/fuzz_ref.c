/*
 * fuzz_ref.c - names and sources: what passes must keep its promises
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "registry/ref.h"
#include "util/cleanup.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(bool ok)
{
	if (!ok)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *s = (const char *)data;
	_cleanup_free_ char *text = strndup(s, size);
	struct ref_source source = { 0 };
	struct err e = { 0 };

	if (!text)
		return 0;
	if (ref_is_repo(s, size)) {
		expect(size > 0 && size <= REF_REPO_MAX && !memchr(s, '\0', size));
		expect(s[0] != '.' && s[0] != '/' && !strstr(text, "..") && !strstr(text, "//"));
	}
	if (ref_is_tag(s, size))
		expect(size <= REF_TAG_MAX && s[0] != '.' && !memchr(s, '/', size));
	if (ref_tag_is_digest_tag(s, size))
		expect(ref_is_tag(s, size));
	if (ref_is_host(s, size))
		expect(!memchr(s, '/', size) && !memchr(s, '@', size) && !memchr(s, '\0', size));
	(void)ref_host_is_link_local(text);
	(void)ref_host_is_loopback(text);
	if (ref_source_parse(text, &source, &e) == 0) {
		if (source.kind == SOURCE_OCI) {
			expect(ref_is_host(source.host, strlen(source.host)));
			expect(!*source.prefix ||
			       ref_is_repo(source.prefix, strlen(source.prefix)));
			expect(!ref_host_is_link_local(source.host));
		} else {
			expect(source.path[0] == '/');
		}
		ref_source_done(&source);
	} else {
		expect(e.eno > 0 && e.msg[0]);
	}
	return 0;
}
