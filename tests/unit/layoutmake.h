/*
 * layoutmake.h - trees of OCI layouts in a directory of the test's own
 *
 *	layout_top();			makes the directory `top`
 *	put_layout("app", entry(put_blob("app", MANIFEST), strlen(MANIFEST), "1.0"));
 *	layout_remove();
 *
 * One program is one .c file that includes this once.
 */
#pragma once

#include <ftw.h>
#include <sys/stat.h>

#include "registry/oci.h"
#include "tests/unit/unit.h"
#include "util/cleanup.h"
#include "util/digest.h"

#define LAYOUT "{\"imageLayoutVersion\":\"1.0.0\"}"

static char top[64];

static void layout_top(void)
{
	(void)snprintf(top, sizeof(top), "/tmp/test-layout-XXXXXX");
	CHECK(mkdtemp(top) != NULL);
}

static int layout_remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
	(void)st;
	(void)type;
	(void)f;
	return remove(path);
}

static void layout_remove(void)
{
	(void)nftw(top, layout_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void put_bytes(const char *path, const void *data, size_t len)
{
	char full[512];
	FILE *f;

	(void)snprintf(full, sizeof(full), "%s/%s", top, path);
	for (char *p = full + strlen(top) + 1; (p = strchr(p, '/')); *p++ = '/') {
		*p = '\0';
		(void)mkdir(full, 0755);
	}
	f = fopen(full, "w");
	if (CHECK(f != NULL)) {
		CHECK_EQ_INT(fwrite(data, 1, len, f), len);
		(void)fclose(f);
	}
}

static _unused_ void put(const char *path, const char *text)
{
	put_bytes(path, text, strlen(text));
}

/* Stores a blob and returns its digest (four at once, in turn). */
static const char *put_blob_bytes(const char *repo, const void *data, size_t len)
{
	static char out[4][DIGEST_TEXT_MAX];
	static unsigned turn;
	char path[512], hex[DIGEST_TEXT_MAX];
	struct digest d;
	char *ret = out[turn++ % 4];

	digest_of(DIGEST_SHA256, data, len, &d);
	(void)snprintf(path, sizeof(path), "%s/blobs/sha256/%s", repo, digest_hex(&d, hex));
	put_bytes(path, data, len);
	digest_text(&d, ret);
	return ret;
}

static _unused_ const char *put_blob(const char *repo, const char *text)
{
	return put_blob_bytes(repo, text, strlen(text));
}

/* A layout whose index.json has these entries (the inside of the list). */
static void put_layout(const char *repo, const char *entries)
{
	char path[256], text[4096];

	(void)snprintf(path, sizeof(path), "%s/oci-layout", repo);
	put(path, LAYOUT);
	(void)snprintf(path, sizeof(path), "%s/index.json", repo);
	(void)snprintf(text, sizeof(text), "{\"schemaVersion\":2,\"manifests\":[%s]}", entries);
	put(path, text);
}

static const char *entry(const char *digest, size_t size, const char *name)
{
	static char out[4][512];
	static unsigned turn;
	char *ret = out[turn++ % 4];

	(void)snprintf(ret, sizeof(out[0]),
		       "{\"mediaType\":\"%s\",\"digest\":\"%s\",\"size\":%zu%s%s%s}",
		       OCI_TYPE_MANIFEST, digest, size,
		       name ? ",\"annotations\":{\"org.opencontainers.image.ref.name\":\"" : "",
		       name ? name : "", name ? "\"}" : "");
	return ret;
}
