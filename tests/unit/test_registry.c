/*
 * test_registry.c - names, manifests, configs: everything in registry/ that needs no backend
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "tests/unit/unit.h"

#include "registry/names.h"
#include "registry/oci_write.h"
#include "registry/registry.h"

#define D1 "sha256:1111111111111111111111111111111111111111111111111111111111111111"
#define D2 "sha256:2222222222222222222222222222222222222222222222222222222222222222"
#define B3 "blake3:3333333333333333333333333333333333333333333333333333333333333333"
#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

/* --- ref --- */

static bool repo(const char *s)
{
	return ref_is_repo(s, strlen(s));
}

static bool tag(const char *s)
{
	return ref_is_tag(s, strlen(s));
}

static bool host(const char *s)
{
	return ref_is_host(s, strlen(s));
}

TEST(ref_repo_grammar)
{
	static const char *const good[] = { "a",    "a/b/c", "a.b", "a_b",
					    "a__b", "a---b", "0",   "x86-64/a.b_c" };
	static const char *const bad[] = { "",	  "/",	    "a/",    "/a",	"a//b",
					   "A",	  "a..b",   "a___b", "a._b",	".a",
					   "a.",  "-a",	    "a-",    "a b",	"a:b",
					   "a@b", "a/../b", "a\n",   "\xc3\xa4" };
	char longest[REF_REPO_MAX + 2];

	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		if (!CHECK(repo(good[i])))
			printf("# %s\n", good[i]);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (!CHECK(!repo(bad[i])))
			printf("# %s\n", bad[i]);
	memset(longest, 'a', sizeof(longest));
	CHECK(ref_is_repo(longest, REF_REPO_MAX));
	CHECK(!ref_is_repo(longest, REF_REPO_MAX + 1));
	CHECK(!ref_is_repo("a\0b", 3));
	CHECK(!ref_is_repo_component("a/b", 3));
}

TEST(ref_tag_grammar)
{
	char longest[REF_TAG_MAX + 2];

	CHECK(tag("latest") && tag("1.0") && tag("_x") && tag("A-b.C_d") && tag("0"));
	CHECK(!tag("") && !tag(".x") && !tag("-x") && !tag("a:b") && !tag("a/b") && !tag("a+b"));
	memset(longest, 'x', sizeof(longest));
	CHECK(ref_is_tag(longest, REF_TAG_MAX));
	CHECK(!ref_is_tag(longest, REF_TAG_MAX + 1));
}

TEST(ref_digest_tags)
{
	static const char *const yes[] = { "sha256-" HEX64, "sha512-" HEX64, "sha256-" HEX64 ".sig",
					   "sha256-" HEX64 ".att", "sha256-" HEX64 ".sbom" };
	static const char *const no[] = { "latest", "sha256-", "sha256-" HEX64 "0",
					  "sha256-" HEX64 ".x", ("sha384-" HEX64) };

	for (size_t i = 0; i < ARRAY_SIZE(yes); i++)
		CHECK(ref_tag_is_digest_tag(yes[i], strlen(yes[i])));
	for (size_t i = 0; i < ARRAY_SIZE(no); i++)
		CHECK(!ref_tag_is_digest_tag(no[i], strlen(no[i])));
}

TEST(ref_host_grammar)
{
	CHECK(host("example.com") && host("a") && host("A-b.c:5000") && host("127.0.0.1:1"));
	CHECK(host("[::1]") && host("[fe80::1]:443") && host("x:65535"));
	CHECK(!host("") && !host(".") && !host("a.") && !host("a..b") && !host("-a") &&
	      !host("a_b"));
	CHECK(!host("a:") && !host("a:0") && !host("a:65536") && !host("a:5x") && !host("a:b:1"));
	CHECK(!host("[::1") && !host("[]") && !host("[::1]x") && !host("[::1]:") && !host("a/b"));
	CHECK(!host("user@host") && !host("a b"));
}

TEST(ref_addresses_by_value)
{
	static const char *const local[] = {
		"169.254.169.254",
		"169.254.1.1:80",
		"0.0.0.0",
		"[fe80::1]",
		"[::]:80",
		"[fd00:ec2::254]",
		"0xa9fea9fe",
		"2852039166",
		"169.254.43518",
		"0251.0376.0251.0376",
		"[::ffff:169.254.169.254]",
		"[64:ff9b::a9fe:a9fe]",
		"100.100.100.200",
		"fe80::1%eth0",
		"169.254.169.254.",
		"0",
		"168.63.129.16",
	};
	static const char *const open[] = { "example.com", "10.0.0.1", "[2001:db8::1]", "127.0.0.1",
					    "169.example.org" };
	static const char *const loop[] = { "localhost",
					    "LOCALHOST:5000",
					    "x.localhost",
					    "127.0.0.1:5000",
					    "127.1",
					    "[::1]:5000",
					    "::1",
					    "0x7f000001",
					    "[::ffff:127.0.0.1]",
					    "localhost." };
	static const char *const not_loop[] = { "localhost.example.com", "notlocalhost",
						"128.0.0.1", "[::2]", "" };

	for (size_t i = 0; i < ARRAY_SIZE(local); i++)
		if (!CHECK(ref_host_is_link_local(local[i])))
			printf("# %s\n", local[i]);
	for (size_t i = 0; i < ARRAY_SIZE(open); i++)
		CHECK(!ref_host_is_link_local(open[i]));
	for (size_t i = 0; i < ARRAY_SIZE(loop); i++)
		if (!CHECK(ref_host_is_loopback(loop[i])))
			printf("# %s\n", loop[i]);
	for (size_t i = 0; i < ARRAY_SIZE(not_loop); i++)
		CHECK(!ref_host_is_loopback(not_loop[i]));
}

static enum addr_class class_of(const char *text)
{
	struct sockaddr_in6 a6 = { .sin6_family = AF_INET6 };
	struct sockaddr_in a4 = { .sin_family = AF_INET };

	if (inet_pton(AF_INET6, text, &a6.sin6_addr) == 1)
		return ref_addr_class((struct sockaddr *)&a6);
	CHECK_EQ_INT(inet_pton(AF_INET, text, &a4.sin_addr), 1);
	return ref_addr_class((struct sockaddr *)&a4);
}

TEST(ref_addresses_one_set_of_rules)
{
	static const char *const forbidden[] = {
		"169.254.169.254", "0.0.0.0", "0.1.2.3", "100.100.100.200", "168.63.129.16",
		"192.0.0.192", "::", "fe80::1", "febf::1", "fd00:ec2::254", "::ffff:169.254.1.1",
		"::a9fe:a9fe", "64:ff9b::168.63.129.16", "64:ff9b:1::169.254.169.254",
		"2002:a9fe:a9fe::1", "::ffff:0:169.254.169.254", "::ffff:100.100.100.200" };
	static const char *const loop[] = { "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1",
		"::7f00:1", "64:ff9b::7f00:1", "2002:7f00:1::" };
	static const char *const usual[] = { "10.0.0.1", "192.168.1.1", "8.8.8.8", "192.0.0.1",
		"fd00:ec3::1", "2001:db8::1", "::ffff:8.8.8.8", "fec0::1", "100.100.100.201" };
	struct sockaddr other = { .sa_family = AF_UNIX };
	char host[80];

	for (size_t i = 0; i < ARRAY_SIZE(forbidden); i++) {
		bool v6 = strchr(forbidden[i], ':');

		if (!CHECK_EQ_INT(class_of(forbidden[i]), ADDR_FORBIDDEN))
			printf("# %s\n", forbidden[i]);
		(void)snprintf(host, sizeof(host), "%s%s%s:5000", v6 ? "[" : "", forbidden[i],
			       v6 ? "]" : "");
		CHECK(ref_host_is_link_local(host) && !ref_host_is_loopback(host));
	}
	for (size_t i = 0; i < ARRAY_SIZE(loop); i++)
		if (!CHECK_EQ_INT(class_of(loop[i]), ADDR_LOOPBACK))
			printf("# %s\n", loop[i]);
	for (size_t i = 0; i < ARRAY_SIZE(usual); i++)
		if (!CHECK_EQ_INT(class_of(usual[i]), ADDR_USUAL))
			printf("# %s\n", usual[i]);
	CHECK_EQ_INT(ref_addr_class(&other), ADDR_FORBIDDEN);
}

static void source_ok(const char *s, bool plain, const char *h, const char *prefix,
		      const char *name)
{
	struct ref_source r = { 0 };
	struct err e = { 0 };

	if (!CHECK_OK(ref_source_parse(s, &r, &e)))
		printf("# %s: %s\n", s, e.msg);
	CHECK_EQ_INT(r.kind, SOURCE_OCI);
	CHECK_EQ_INT(r.plain_http, plain);
	CHECK_EQ_STR(r.host, h);
	CHECK_EQ_STR(r.prefix, prefix);
	CHECK_EQ_STR(r.name, name);
	ref_source_done(&r);
}

TEST(ref_sources)
{
	static const char *const bad[] = {
		"",
		"alpine",
		"docker.io/a:1",
		("docker.io/a@" D1),
		"http://",
		"ftp://x.org",
		"dir:",
		"a b.c",
		"x.org/A",
		"169.254.169.254/x",
		"http://[fe80::1]",
		"x.org:0",
		"user@x.org",
		"ecr://1.dkr.ecr.x.amazonaws.com",
	};
	struct ref_source r = { 0 };
	struct err e = { 0 };

	source_ok("Example.COM:5000/team/", false, "example.com:5000", "team",
		  "example.com:5000/team");
	source_ok("http://localhost:5000", true, "localhost:5000", "", "localhost:5000");
	source_ok("https://registry", false, "registry", "", "registry");
	source_ok("index.docker.io/library", false, "docker.io", "library", "docker.io/library");
	source_ok("[::1]:5000//a/b", false, "[::1]:5000", "a/b", "[::1]:5000/a/b");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		e = (struct err){ 0 };
		if (!CHECK(ref_source_parse(bad[i], &r, &e) < 0))
			ref_source_done(&r);
		CHECK(e.msg[0] && !strchr(e.msg, '\n'));
	}
	CHECK_OK(ref_source_parse("dir:/srv/x//", &r, &e));
	CHECK_EQ_INT(r.kind, SOURCE_DIR);
	CHECK_EQ_STR(r.path, "/srv/x");
	CHECK_EQ_STR(r.name, "dir:/srv/x");
	ref_source_done(&r);
	CHECK_OK(ref_source_parse("dir:x", &r, &e));
	CHECK(r.path[0] == '/' && strcmp(strrchr(r.path, '/'), "/x") == 0);
	ref_source_done(&r);
}

/* --- names --- */

TEST(names_sorted_and_unique)
{
	static const char *const in[] = { "b", "", "a", "b", "a.1", "B" };
	struct names_builder b = { 0 };
	struct rg_names n = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(in); i++)
		CHECK_OK(names_add(&b, in[i], strlen(in[i]), NULL));
	CHECK_OK(names_finish(&b, &n, NULL));
	CHECK_EQ_INT(n.n, 5);
	CHECK_EQ_STR(n.names[0], "");
	CHECK_EQ_STR(n.names[1], "B");
	CHECK_EQ_STR(n.names[4], "b");
	rg_names_done(&n);
	CHECK_OK(names_finish(&b, &n, NULL));
	CHECK_EQ_INT(n.n, 0);
	rg_names_done(&n);
}

TEST(names_a_million)
{
	struct names_builder b = { 0 };
	struct rg_names n = { 0 };
	struct err e = { 0 };
	char s[32];
	int len = 0;

	for (unsigned i = 0; i < RG_TAGS_MAX; i++) {
		len = snprintf(s, sizeof(s), "tag-%08x", i * 2654435761u);
		if (names_add(&b, s, (size_t)len, NULL) != 0)
			break;
	}
	CHECK_EQ_INT(b.n, RG_TAGS_MAX);
	CHECK_ERR(names_add(&b, s, (size_t)len, &e), -EFBIG);
	CHECK_EQ_INT(e.cls, ERR_LIMIT);
	CHECK_OK(names_finish(&b, &n, NULL));
	CHECK_EQ_INT(n.n, RG_TAGS_MAX);
	CHECK_EQ_STR(n.names[0], "tag-00000000");
	rg_names_done(&n);
}

/* --- manifests --- */

static struct oci_manifest *parse(const char *json, const char *type, errint_t want, struct err *e)
{
	struct oci_manifest *m = NULL;
	struct err mine = { 0 };
	errint_t r = oci_manifest_parse(json, strlen(json), type, &m, &mine);

	if (!CHECK_ERR(r, want))
		printf("# %s: %s\n", json, mine.msg);
	if (r < 0)
		CHECK(mine.msg[0] != '\0');
	if (e)
		*e = mine;
	return m;
}

static void refused(const char *json, const char *type, errint_t want)
{
	(void)oci_manifest_free(parse(json, type, want, NULL));
}

#define CONFIG "\"config\":{\"mediaType\":\"" OCI_TYPE_CONFIG "\",\"digest\":\"" D1 "\",\"size\":2}"
#define LAYER(type) "{\"mediaType\":\"" type "\",\"digest\":\"" D2 "\",\"size\":10}"

TEST(oci_image)
{
	struct oci_manifest *m = parse(
		"{\"schemaVersion\":2,\"x\":{\"y\":[1,2]},\"artifactType\":\"a/b\"," CONFIG
		",\"layers\":[" LAYER(
			"application/vnd.oci.image.layer.v1.tar+zstd") "],\"annotations\":{\"k\":"
								       "\"v\",\"n\":1},\"subject\":"
								       "{\"digest\":\"" D2
								       "\",\"size\":3}}",
		"Application/vnd.oci.image.manifest.v1+json; charset=utf-8", 0, NULL);

	REQUIRE(m);
	CHECK_EQ_INT(m->kind, OCI_IMAGE);
	CHECK_EQ_STR(m->media_type, OCI_TYPE_MANIFEST);
	CHECK_EQ_INT(m->n_layers, 1);
	CHECK_EQ_INT(m->layers[0].size, 10);
	CHECK(m->has_subject);
	CHECK_EQ_STR(m->subject.media_type, "");
	CHECK_EQ_STR(oci_annotation(m->annotations, m->n_annotations, "k"), "v");
	CHECK_EQ_STR(oci_annotation(m->annotations, m->n_annotations, "n"), NULL);
	CHECK_EQ_STR(oci_artifact_type(m), "a/b");
	CHECK(oci_is_container_image(m));
	CHECK_EQ_STR(oci_layer_suffix(m->layers[0].media_type), "tar.zst");
	(void)oci_manifest_free(m);
}

TEST(oci_docker_and_nulls)
{
	struct oci_manifest *m = parse(
		"{\"schemaVersion\":2,\"mediaType\":\"" OCI_TYPE_DOCKER_MANIFEST "\"," CONFIG
		",\"layers\":[" LAYER(
			"application/vnd.docker.image.rootfs.diff.tar.gzip") "],\"annotations\":"
									     "null,\"subject\":"
									     "null}",
		NULL, 0, NULL);

	REQUIRE(m);
	CHECK_EQ_STR(oci_layer_suffix(m->layers[0].media_type), "tar.gz");
	CHECK(!m->has_subject);
	(void)oci_manifest_free(m);
	m = parse("{\"schemaVersion\":2,\"mediaType\":\"" OCI_TYPE_DOCKER_LIST
		  "\",\"manifests\":null}",
		  NULL, 0, NULL);
	REQUIRE(m);
	CHECK_EQ_INT(m->kind, OCI_INDEX);
	CHECK_EQ_INT(m->n_children, 0);
	(void)oci_manifest_free(m);
	m = parse("{\"schemaVersion\":2," CONFIG ",\"layers\":null}", NULL, 0, NULL);
	REQUIRE(m);
	CHECK(oci_is_container_image(m));
	(void)oci_manifest_free(m);
}

TEST(oci_media_type_conflicts)
{
	refused("{\"schemaVersion\":2,\"mediaType\":\"" OCI_TYPE_INDEX "\",\"manifests\":[]}",
		OCI_TYPE_MANIFEST, -EINVAL);
	refused("{\"schemaVersion\":2,\"mediaType\":\"" OCI_TYPE_MANIFEST "\",\"layers\":[]}",
		OCI_TYPE_DOCKER_MANIFEST, -EINVAL);
	refused("{\"schemaVersion\":2,\"manifests\":[],\"layers\":[]}", NULL, -EINVAL);
	refused("{\"schemaVersion\":2,\"manifests\":[]}", OCI_TYPE_MANIFEST, -EINVAL);
	refused("{\"schemaVersion\":1,\"name\":\"x\",\"fsLayers\":[]}", NULL, -EOPNOTSUPP);
	refused("{\"schemaVersion\":2,\"mediaType\":\"x/y\"}", "text/html", -EOPNOTSUPP);
	(void)oci_manifest_free(
		parse("{\"schemaVersion\":2,\"manifests\":[]}", "application/json", 0, NULL));
}

TEST(oci_malformed)
{
	struct err e = { 0 };

	refused("", NULL, -EINVAL);
	refused("[]", NULL, -EINVAL);
	refused("{\"schemaVersion\":2,\"layers\":{}}", NULL, -EINVAL);
	refused("{\"schemaVersion\":2,\"layers\":[null]}", NULL, -EINVAL);
	refused("{\"schemaVersion\":2,\"layers\":[{\"size\":1}]}", NULL, -EINVAL);
	refused("{\"schemaVersion\":2,\"layers\":[{\"digest\":\"" D1 "\"}]}", NULL, -EINVAL);
	refused("{\"schemaVersion\":2,\"layers\":[{\"digest\":\"" D1 "\",\"size\":-1}]}", NULL,
		-EINVAL);
	refused("{\"schemaVersion\":2,\"layers\":[{\"digest\":\"sha256:../../x\",\"size\":1}]}",
		NULL, -EINVAL);
	refused("{\"schemaVersion\":2,\"layers\":[],\"layers\":[]}", NULL, -EINVAL);
	(void)parse("{\"schemaVersion\":2,\"layers\":[{\"digest\":\"" B3 "\",\"size\":1}]}", NULL,
		    -EOPNOTSUPP, &e);
	CHECK_EQ_INT(e.cls, ERR_UNSUPPORTED);
}

static char *many(const char *head, const char *item, size_t n, const char *tail)
{
	struct buf b = BUF_INIT(64u << 20);

	(void)buf_adds(&b, head);
	for (size_t i = 0; i < n; i++) {
		(void)buf_adds(&b, i ? "," : "");
		(void)buf_adds(&b, item);
	}
	(void)buf_adds(&b, tail);
	return buf_take(&b, NULL);
}

TEST(oci_ceilings)
{
	static const char item[] = "{\"digest\":\"" D1 "\",\"size\":1}";
	char *s = many("{\"schemaVersion\":2,\"layers\":[", item, OCI_LAYERS_MAX, "]}");
	struct err e = { 0 };

	(void)oci_manifest_free(parse(s, NULL, 0, NULL));
	free(s);
	s = many("{\"schemaVersion\":2,\"layers\":[", item, OCI_LAYERS_MAX + 1, "]}");
	CHECK(!parse(s, NULL, -EFBIG, &e));
	CHECK_EQ_INT(e.cls, ERR_LIMIT);
	free(s);
	s = many("{\"schemaVersion\":2,\"manifests\":[", item, OCI_CHILDREN_MAX + 1, "]}");
	refused(s, NULL, -EFBIG);
	free(s);
	s = many("{\"schemaVersion\":2,\"x\":[", "\"0123456789abcdef\"", OCI_MANIFEST_MAX / 16,
		 "]}");
	refused(s, NULL, -EFBIG);
	free(s);
	s = many("{\"rootfs\":{\"diff_ids\":[", "\"" D1 "\"", OCI_LAYERS_MAX + 1, "]}}");
	struct oci_config *c = NULL;
	CHECK_ERR(oci_config_parse(s, strlen(s), &c, NULL), -EFBIG);
	free(s);
}

TEST(oci_data_member)
{
	struct oci_manifest *m = parse("{\"schemaVersion\":2,\"layers\":["
				       "{\"digest\":\"" D1 "\",\"size\":2,\"data\":\"e30=\"},"
				       "{\"digest\":\"" D1 "\",\"size\":3,\"data\":\"e30=\"},"
				       "{\"digest\":\"" D1 "\",\"size\":2,\"data\":\"**\"}]}",
				       NULL, 0, NULL);

	REQUIRE(m);
	CHECK_EQ_INT(m->layers[0].data_len, 2);
	CHECK(m->layers[0].data && memcmp(m->layers[0].data, "{}", 2) == 0);
	CHECK(!m->layers[1].data && !m->layers[2].data);
	(void)oci_manifest_free(m);
}

static const char *platform(const char *os, const char *arch, const char *variant,
			    const char *version)
{
	static char out[64];
	struct oci_descriptor d = { .os = (char *)(uintptr_t)os,
				    .arch = (char *)(uintptr_t)arch,
				    .variant = (char *)(uintptr_t)variant,
				    .os_version = (char *)(uintptr_t)version };

	return oci_platform_name(&d, out, sizeof(out)) == 0 ? out : "ERROR";
}

TEST(oci_platforms)
{
	CHECK_EQ_STR(platform("linux", "amd64", NULL, NULL), "linux-amd64");
	CHECK_EQ_STR(platform("linux", "arm64", "v8", NULL), "linux-arm64");
	CHECK_EQ_STR(platform("linux", "arm", "v7", NULL), "linux-arm-v7");
	CHECK_EQ_STR(platform("windows", "amd64", NULL, "10.0.17763.1"),
		     "windows-amd64-10.0.17763.1");
	CHECK_EQ_STR(platform(NULL, NULL, NULL, NULL), "unknown-unknown");
	CHECK_EQ_STR(platform("..", "../../x\n", "", NULL), "_.-.._.._x_");
	CHECK_EQ_STR(platform("a234567890123456789012345678901234567890",
			      "b2345678901234567890123456789", NULL, NULL),
		     "ERROR");
}

TEST(oci_index_children)
{
	struct oci_manifest *m = parse(
		"{\"schemaVersion\":2,\"manifests\":["
		"{\"digest\":\"" B3 "\",\"size\":1},"
		"{\"digest\":\"" D1 "\",\"size\":1,\"platform\":{\"os\":\"linux\",\"architecture\":"
				    "\"arm\",\"variant\":\"v7\"}},"
		"{\"digest\":\"" D2
		"\",\"size\":1,\"platform\":{\"os\":\"unknown\",\"architecture\":\"unknown\"},"
		"\"annotations\":{\"vnd.docker.reference.type\":\"attestation-manifest\"}}]}",
		OCI_TYPE_INDEX, 0, NULL);

	REQUIRE(m);
	CHECK_EQ_INT(m->n_children, 2);
	CHECK_EQ_STR(m->children[0].variant, "v7");
	CHECK(!oci_is_attestation(&m->children[0]));
	CHECK(oci_is_attestation(&m->children[1]));

	struct buf b = BUF_INIT(4096);

	index_begin(&b);
	for (size_t i = 0; i < m->n_children; i++)
		index_add(&b, &m->children[i], i == 0);
	index_end(&b);
	CHECK_OK(buf_check(&b));
	(void)oci_manifest_free(m);
	m = parse(buf_str(&b), OCI_TYPE_INDEX, 0, NULL);
	REQUIRE(m);
	CHECK_EQ_INT(m->n_children, 2);
	CHECK_EQ_STR(m->children[0].arch, "arm");
	CHECK(oci_is_attestation(&m->children[1]));
	(void)oci_manifest_free(m);
	buf_done(&b);
}

TEST(oci_layer_types)
{
	CHECK(oci_is_tree_layer("application/vnd.oci.image.layer.v1.tar"));
	CHECK(oci_is_tree_layer("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"));
	CHECK(oci_is_tree_layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"));
	CHECK(oci_is_tree_layer("application/x-TAR"));
	CHECK(!oci_is_tree_layer("application/vnd.in-toto+json") && !oci_is_tree_layer("x/avatar"));
	CHECK(!oci_is_tree_layer("") && !oci_is_tree_layer(NULL) &&
	      !oci_is_tree_layer("application/gzip"));
	CHECK_EQ_STR(oci_layer_suffix("application/vnd.oci.image.layer.v1.tar"), "tar");
	CHECK_EQ_STR(oci_layer_suffix(NULL), "blob");
}

/* --- configs --- */

TEST(config_history_and_layers)
{
	static const char json[] = "{\"created\":\"2024-05-06T07:08:09.5Z\",\"os\":\"linux\","
				   "\"architecture\":\"arm64\",\"variant\":null,"
				   "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" D1 "\",\"" B3
				   "\"]},\"history\":["
				   "{\"created_by\":\"one\"},{\"created_by\":\"env\",\"empty_"
				   "layer\":true},{\"created_by\":\"two\"},"
				   "{\"created_by\":\"too many\"},null]}";
	struct oci_config *c = NULL;

	REQUIRE(oci_config_parse(json, strlen(json), &c, NULL) == 0);
	CHECK_EQ_INT(c->created_s, 1714979289);
	CHECK_EQ_INT(c->n_diff_ids, 2);
	CHECK_EQ_INT(c->diff_ids[0].alg, DIGEST_SHA256);
	CHECK_EQ_INT(c->diff_ids[1].alg, DIGEST_UNSET);
	CHECK_EQ_INT(c->n_history, 5);
	CHECK_EQ_INT(c->history[0].layer, 0);
	CHECK_EQ_INT(c->history[1].layer, -1);
	CHECK_EQ_INT(c->history[2].layer, 1);
	CHECK_EQ_INT(c->history[3].layer, -1);
	CHECK_EQ_STR(c->variant, NULL);
	(void)oci_config_free(c);
}

TEST(config_odd)
{
	static const char *const fine[] = {
		"{}", "{\"created\":\"0001-01-01T00:00:00Z\",\"history\":null,\"rootfs\":null}",
		"{\"created\":17,\"os\":[],\"history\":{}}"
	};
	static const char *const bad[] = { "", "[]", "{\"rootfs\":{\"diff_ids\":[null]}}",
					   "{\"rootfs\":{\"diff_ids\":[\"sha256:00\"]}}" };
	struct oci_config *c = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(fine); i++) {
		REQUIRE(oci_config_parse(fine[i], strlen(fine[i]), &c, NULL) == 0);
		CHECK_EQ_INT(c->created_s, 0);
		CHECK_EQ_INT(c->n_diff_ids + c->n_history, 0);
		(void)oci_config_free(c);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		CHECK_ERR(oci_config_parse(bad[i], strlen(bad[i]), &c, NULL), -EINVAL);
}
