/*
 * test_registry_dir.c - layout trees in a temporary directory
 */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>

#include "registry/dir_priv.h"
#include "tests/unit/layoutmake.h"

#define IMAGE "{\"schemaVersion\":2,\"mediaType\":\"" OCI_TYPE_MANIFEST "\",\"layers\":[]}"
#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"

static struct rg_registry *reg;

static void begin(void)
{
	char source[128];

	layout_top();
	(void)snprintf(source, sizeof(source), "dir:%s", top);
	CHECK_OK(rg_open(NULL, source, &reg, NULL));
}

static void end(void)
{
	reg = rg_close(reg);
	layout_remove();
}

/* The names joined by spaces. */
static const char *joined(struct rg_names *n)
{
	static char out[1024];
	size_t len = 0;

	out[0] = '\0';
	for (size_t i = 0; i < n->n; i++)
		len += (size_t)snprintf(out + len, sizeof(out) - len, "%s%s", i ? " " : "",
					n->names[i]);
	rg_names_done(n);
	return out;
}

TEST(dir_paths)
{
	char out[DIR_PATH_MAX];

	CHECK_OK(dir_path("", NULL, out, NULL));
	CHECK_EQ_STR(out, ".");
	CHECK_OK(dir_path("", "index.json", out, NULL));
	CHECK_EQ_STR(out, "index.json");
	CHECK_OK(dir_path("a/blobs/oci-layout/x", "index.json", out, NULL));
	CHECK_EQ_STR(out, "a/%blobs/%oci-layout/x/index.json");
	CHECK_EQ_STR(dir_component_of("%blobs"), "blobs");
	CHECK_EQ_STR(dir_component_of("app"), "app");
	CHECK_EQ_STR(dir_component_of("blobs"), NULL);
	CHECK_EQ_STR(dir_component_of("%app"), NULL);
	CHECK_EQ_STR(dir_component_of("App"), NULL);
}

TEST(dir_repositories)
{
	struct rg_names n = { 0 };
	struct err e = { 0 };
	char path[128];

	begin();
	CHECK_OK(rg_ping(reg, NULL, &e));
	CHECK_OK(rg_list_repos(reg, &n, NULL, &e));
	CHECK_EQ_STR(joined(&n), "");
	put_layout("a", "");
	put_layout("a/b/c", "");
	put_layout("a/%blobs", "");
	put_layout("a/blobs/hidden", "");
	put_layout(".hidden", "");
	put_layout("BAD", "");
	put_layout("x/y", "");
	put("notes.txt", "x");
	(void)snprintf(path, sizeof(path), "%s/x/loop", top);
	CHECK_EQ_INT(symlink("..", path), 0);
	CHECK_OK(rg_list_repos(reg, &n, NULL, &e));
	CHECK_EQ_STR(joined(&n), "a a/b/c a/blobs x/y");
	CHECK_OK(rg_list_tags(reg, "a/blobs", &n, NULL, &e));
	CHECK_EQ_STR(joined(&n), "");
	put_layout(".", "");
	CHECK_OK(rg_list_repos(reg, &n, NULL, &e));
	CHECK_EQ_STR(joined(&n), " a a/b/c a/blobs x/y");
	CHECK_OK(rg_list_tags(reg, "", &n, NULL, &e));
	rg_names_done(&n);
	end();
	CHECK_OK(rg_open(NULL, "dir:/nonexistent/x", &reg, &e));
	CHECK_ERR(rg_ping(reg, NULL, &e), -ENOENT);
	CHECK_EQ_INT(e.cls, ERR_NOTFOUND);
	reg = rg_close(reg);
}

TEST(dir_too_deep_is_an_error)
{
	char path[512] = "";
	struct rg_names n = { 0 };
	struct err e = { 0 };

	begin();
	for (size_t i = 0; i < DIR_DEPTH_MAX + 2; i++) {
		(void)snprintf(path + 2 * i, sizeof(path) - 2 * i, "d/");
	}
	(void)snprintf(path + strlen(path), sizeof(path) - strlen(path), "x");
	put(path, "x");
	CHECK_ERR(rg_list_repos(reg, &n, NULL, &e), -EFBIG);
	CHECK_EQ_INT(e.cls, ERR_LIMIT);
	end();
}

TEST(dir_tags)
{
	struct rg_names n = { 0 };
	char entries[4096] = "";
	static const char *const names[] = { "1.0",
					     "docker.io/library/app:2.0",
					     "host:5000/app:3.0@sha256:" ZEROS,
					     "app:4.0",
					     "host/app",
					     "not a tag",
					     "1.0",
					     NULL };

	begin();
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		(void)snprintf(entries + strlen(entries), sizeof(entries) - strlen(entries), "%s%s",
			       i ? "," : "", entry("sha256:" ZEROS, 1, names[i]));
	put_layout("app", entries);
	CHECK_OK(rg_list_tags(reg, "app", &n, NULL, NULL));
	CHECK_EQ_STR(joined(&n), "1.0 2.0 3.0 4.0");
	end();
}

TEST(dir_manifests)
{
	struct rg_manifest m = { 0 };
	struct digest d = { 0 };
	struct err e = { 0 };
	char text[DIGEST_TEXT_MAX], entries[2048], wrong[128];
	const char *image, *other;

	begin();
	image = put_blob("app", IMAGE);
	other = put_blob("app", "not a manifest");
	(void)snprintf(entries, sizeof(entries), "%s,%s,%s", entry(image, strlen(IMAGE), "first"),
		       entry("sha256:" ZEROS, 5, "first"), entry("sha256:" ZEROS, 5, "gone"));
	(void)snprintf(entries + strlen(entries), sizeof(entries) - strlen(entries), ",%s",
		       entry(image, strlen(IMAGE) + 1, "size"));
	put_layout("app", entries);
	CHECK_OK(rg_resolve(reg, "app", "first", &d, NULL, &e));
	CHECK_EQ_STR(digest_text(&d, text), image);
	CHECK_OK(rg_get_manifest(reg, "app", "first", &m, NULL, &e));
	CHECK_EQ_STR(buf_str(&m.bytes), IMAGE);
	CHECK_EQ_STR(m.media_type, OCI_TYPE_MANIFEST);
	rg_manifest_done(&m);
	CHECK_OK(rg_get_manifest(reg, "app", image, &m, NULL, &e));
	rg_manifest_done(&m);
	CHECK_ERR(rg_get_manifest(reg, "app", "gone", &m, NULL, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	CHECK_ERR(rg_get_manifest(reg, "app", "size", &m, NULL, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	CHECK_ERR(rg_get_manifest(reg, "app", "nope", &m, NULL, &e), -ENOENT);
	CHECK_EQ_INT(e.cls, ERR_NOTFOUND);
	CHECK_ERR(rg_get_manifest(reg, "app", other, &m, NULL, &e), -ENOENT);
	CHECK_ERR(rg_get_manifest(reg, "app", "sha256:" ZEROS, &m, NULL, &e), -ENOENT);
	CHECK_ERR(rg_resolve(reg, "app", "sha256:" ZEROS, &d, NULL, &e), -ENOENT);
	CHECK_ERR(rg_resolve(reg, "none", "first", &d, NULL, &e), -ENOENT);
	(void)snprintf(wrong, sizeof(wrong), "app/blobs/sha256/%s", image + 7);
	put(wrong, "{\"schemaVersion\":2,\"mediaType\":\"" OCI_TYPE_MANIFEST "\",\"layers\":{}}");
	CHECK_ERR(rg_get_manifest(reg, "app", image, &m, NULL, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	end();
}

TEST(dir_broken_layouts)
{
	struct rg_names n = { 0 };
	struct err e = { 0 };

	begin();
	put("a/index.json", "{\"manifests\":[]}");
	CHECK_ERR(rg_list_tags(reg, "a", &n, NULL, &e), -EIO);
	CHECK(strstr(e.msg, "oci-layout"));
	put("b/oci-layout", LAYOUT);
	CHECK_ERR(rg_list_tags(reg, "b", &n, NULL, &e), -EIO);
	CHECK(strstr(e.msg, "index.json"));
	put("c/oci-layout", "{\"imageLayoutVersion\":\"2.0\"}");
	CHECK_ERR(rg_list_tags(reg, "c", &n, NULL, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_UNSUPPORTED);
	put("d/oci-layout", LAYOUT);
	put("d/index.json", "{\"manifests\":");
	CHECK_ERR(rg_list_tags(reg, "d", &n, NULL, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INPUT);
	put("e/oci-layout", LAYOUT);
	put("e/index.json", "{\"manifests\":null}");
	CHECK_OK(rg_list_tags(reg, "e", &n, NULL, &e));
	rg_names_done(&n);
	CHECK_OK(rg_list_repos(reg, &n, NULL, &e));
	CHECK_EQ_STR(joined(&n), "a b c d e");
	end();
}

static errint_t collect(void *ctx, const void *data, size_t len, struct err *e)
{
	(void)e;
	return buf_add(ctx, data, len);
}

TEST(dir_blobs)
{
	struct buf out = BUF_INIT(4096);
	struct digest d = { 0 };
	struct err e = { 0 };
	const char *text;

	begin();
	text = put_blob("app", "0123456789");
	CHECK_OK(digest_parse(text, strlen(text), &d));
	CHECK_OK(rg_get_blob(reg, "app", &d, 10, 0, 0, collect, &out, NULL, &e));
	CHECK_EQ_STR(buf_str(&out), "0123456789");
	buf_clear(&out);
	CHECK_OK(rg_get_blob(reg, "app", &d, 10, 3, 4, collect, &out, NULL, &e));
	CHECK_EQ_STR(buf_str(&out), "3456");
	CHECK_ERR(rg_get_blob(reg, "app", &d, 11, 0, 0, collect, &out, NULL, &e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	CHECK_ERR(rg_get_blob(reg, "app", &d, 10, 8, 3, collect, &out, NULL, &e), -EINVAL);
	d.raw[0] ^= 1;
	CHECK_ERR(rg_get_blob(reg, "app", &d, 10, 0, 0, collect, &out, NULL, &e), -ENOENT);
	buf_done(&out);
	end();
}

static void check_links(const char *repo, errint_t inside, errint_t outside)
{
	struct rg_names n = { 0 };
	struct err e = { 0 };
	char path[128];

	CHECK_ERR(rg_list_tags(reg, repo, &n, NULL, &e), inside);
	rg_names_done(&n);
	(void)snprintf(path, sizeof(path), "%s/out", top);
	(void)unlink(path);
	CHECK_EQ_INT(symlink("/", path), 0);
	CHECK_ERR(rg_list_tags(reg, "out/etc", &n, NULL, &e), outside);
}

TEST(dir_links_stay_inside)
{
	struct rg_dir *d = NULL;
	struct rg_names n = { 0 };
	struct err e = { 0 };
	char path[128];

	begin();
	put_layout("real", "");
	(void)snprintf(path, sizeof(path), "%s/link", top);
	CHECK_EQ_INT(symlink("real", path), 0);
	check_links("link", 0, -EACCES);

	/* without openat2 no link is followed at all */
	CHECK_OK(rg_dir_open(top, &d, NULL));
	atomic_store(&d->no_openat2, true);
	CHECK_OK(rg_dir_list_tags(d, "real", &n, &e));
	rg_names_done(&n);
	CHECK(rg_dir_list_tags(d, "link", &n, &e) < 0);
	CHECK(rg_dir_list_tags(d, "out/etc", &n, &e) < 0);
	(void)rg_dir_close(d);

	(void)snprintf(path, sizeof(path), "%s/fifo", top);
	put("fifo/oci-layout", LAYOUT);
	(void)snprintf(path, sizeof(path), "%s/fifo/index.json", top);
	CHECK_EQ_INT(mkfifo(path, 0600), 0);
	CHECK_ERR(rg_list_tags(reg, "fifo", &n, NULL, &e), -EIO);
	end();
}

TEST(dir_referrers)
{
	char text[1024], entries[4096], index[1024];
	struct buf out = { 0 };
	struct oci_manifest *m = NULL;
	struct digest d = { 0 };
	const char *image, *sbom, *nested, *fallback;

	begin();
	image = put_blob("app", IMAGE);
	CHECK_OK(digest_parse(image, strlen(image), &d));
	(void)snprintf(text, sizeof(text),
		       "{\"schemaVersion\":2,\"artifactType\":\"x/"
		       "sbom\",\"layers\":[],\"annotations\":{\"k\":\"v\"},"
		       "\"subject\":{\"digest\":\"%s\",\"size\":%zu}}",
		       image, strlen(IMAGE));
	sbom = put_blob("app", text);
	(void)snprintf(index, sizeof(index), "{\"schemaVersion\":2,\"manifests\":[%s]}",
		       entry(sbom, strlen(text), NULL));
	nested = put_blob("app", index);
	(void)snprintf(entries, sizeof(entries), "%s,%s", entry(image, strlen(IMAGE), "1.0"),
		       entry(nested, strlen(index), NULL));
	(void)snprintf(index, sizeof(index), "{\"schemaVersion\":2,\"manifests\":[%s]}",
		       entry("sha256:" ZEROS, 3, NULL));
	fallback = put_blob("app", index);
	(void)snprintf(text, sizeof(text), "sha256-%s", image + 7);
	(void)snprintf(entries + strlen(entries), sizeof(entries) - strlen(entries), ",%s",
		       entry(fallback, strlen(index), text));
	put_layout("app", entries);
	CHECK_OK(rg_list_referrers(reg, "app", &d, &out, NULL, NULL));
	REQUIRE(oci_manifest_parse(out.data, out.len, OCI_TYPE_INDEX, &m, NULL) == 0);
	REQUIRE(m->n_children == 2);
	CHECK_EQ_STR(m->children[1].artifact_type, "x/sbom");
	CHECK_EQ_STR(oci_annotation(m->children[1].annotations, m->children[1].n_annotations, "k"),
		     "v");
	m = oci_manifest_free(m);
	CHECK_OK(rg_list_untagged(reg, "app", &out, NULL, NULL));
	REQUIRE(oci_manifest_parse(out.data, out.len, NULL, &m, NULL) == 0);
	CHECK_EQ_INT(m->n_children, 1); /* the nested index; the others have names */
	(void)oci_manifest_free(m);
	buf_done(&out);
	end();
}

/* An artifact about IMAGE, in a layout with `broken` beside it; gives its path. */
static void put_pair(const char *broken, char path[static 256])
{
	char text[512], entries[2048], hex[DIGEST_TEXT_MAX];
	struct digest d;
	const char *image = put_blob("app", IMAGE), *sbom;

	(void)snprintf(text, sizeof(text), "{\"schemaVersion\":2,\"layers\":[],\"subject\":{\"digest\":"
		       "\"%s\",\"size\":%zu}}", image, strlen(IMAGE));
	sbom = put_blob("app", text);
	(void)snprintf(entries, sizeof(entries), "%s,%s,%s", entry(image, strlen(IMAGE), "1.0"),
		       entry(put_blob("app", broken), strlen(broken), NULL),
		       entry(sbom, strlen(text), NULL));
	put_layout("app", entries);
	digest_of(DIGEST_SHA256, broken, strlen(broken), &d);
	(void)snprintf(path, 256, "%s/app/blobs/sha256/%s", top, digest_hex(&d, hex));
}

static errint_t referrers_of_image(struct err *e)
{
	struct buf out = { 0 };
	struct digest d;
	errint_t r;

	digest_of(DIGEST_SHA256, IMAGE, strlen(IMAGE), &d);
	r = rg_list_referrers(reg, "app", &d, &out, NULL, e);
	if (r == 0)
		CHECK(strstr(buf_str(&out), "\"digest\""));
	buf_done(&out);
	return r;
}

TEST(dir_referrers_are_all_of_them_or_an_error)
{
	char path[256], loop[300];
	struct err e = { 0 };

	begin();
	put_pair("{\"schemaVersion\":2,\"layers\":[],\"annotations\":{}}", path);
	CHECK_OK(referrers_of_image(&e));
	CHECK_EQ_INT(unlink(path), 0);
	CHECK_OK(referrers_of_image(&e)); /* missing: refers to nothing */
	(void)snprintf(loop, sizeof(loop), "%s", strrchr(path, '/') + 1);
	CHECK_EQ_INT(symlink(loop, path), 0); /* cannot be read: who knows */
	CHECK(referrers_of_image(&e) < 0);
	CHECK_EQ_INT(unlink(path), 0);
	CHECK_EQ_INT(mkdir(path, 0755), 0);
	CHECK_ERR(referrers_of_image(&e), -EIO);
	CHECK_EQ_INT(rmdir(path), 0);
	put(path + strlen(top) + 1, "rotten");
	CHECK_ERR(referrers_of_image(&e), -EIO);
	CHECK_EQ_INT(e.cls, ERR_INTEGRITY);
	end();
}
