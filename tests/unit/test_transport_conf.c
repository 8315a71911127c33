/*
 * test_transport_conf.c - which credentials and which endpoints the files of a user's machine yield
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "registry/creds.h"
#include "registry/hosts_priv.h"
#include "tests/unit/unit.h"
#include "util/clock.h"

/* ---- files for tests ---- */

static char dir[] = "/tmp/test_transport.XXXXXX";

static void __attribute__((constructor)) make_dir(void)
{
	if (!mkdtemp(dir))
		abort();
	setenv("HOME", dir, 1);
	setenv("PATH", dir, 1);
	unsetenv("XDG_CONFIG_HOME");
	unsetenv("XDG_RUNTIME_DIR");
	unsetenv("DOCKER_CONFIG");
	unsetenv("DOCKER_AUTH_CONFIG");
	unsetenv("REGISTRY_AUTH_FILE");
	unsetenv("CONTAINERS_REGISTRIES_CONF");
}

static void __attribute__((destructor)) remove_dir(void)
{
	char cmd[256];

	(void)snprintf(cmd, sizeof(cmd), "/bin/rm -rf %s", dir);
	if (system(cmd) != 0)
		fprintf(stderr, "# %s stays\n", dir);
}

static const char *path_of(const char *name)
{
	static char paths[64][512];	/* each stays valid for the 63 calls after it */
	static unsigned turn;
	char *p = paths[turn++ % 64];

	(void)snprintf(p, sizeof(paths[0]), "%s/%s", dir, name);
	return p;
}

static void put_mode(const char *name, const char *text, mode_t mode)
{
	const char *path = path_of(name);
	char *parent = strdup(path);
	int fd;

	for (char *p = parent + 1; (p = strchr(p, '/')); *p++ = '/') {
		*p = '\0';
		(void)mkdir(parent, 0700);
	}
	free(parent);
	(void)unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		abort();
	(void)close(fd);
}

static void put(const char *name, const char *text)
{
	put_mode(name, text, 0600);
}

/* ---- credentials ---- */

/* "user:pass" in base64 */
#define AUTH_UP "dXNlcjpwYXNz"
#define AUTH_Q "cTpxcQ=="

static void check_cred(const struct rg_opts *o, const char *host, const char *repo,
		       enum cred_kind kind, const char *user, const char *secret)
{
	struct creds *cs = NULL;
	struct cred c = { 0 };
	struct err e = { 0 };

	CHECK_EQ_INT(creds_new(o, &cs, &e), 0);
	if (!CHECK_EQ_INT(creds_get(cs, host, repo, &c, NULL, &e), 0))
		printf("# %s\n", e.msg);
	CHECK_EQ_INT(c.kind, kind);
	if (kind != CRED_NONE) {
		CHECK_EQ_STR(c.user ? c.user : "", user);
		CHECK_EQ_STR(c.secret, secret);
		CHECK(c.origin[0] && !strstr(c.origin, secret));
	}
	cred_done(&c);
	creds_free(cs);
}

TEST(creds_most_specific_key_wins)
{
	struct rg_opts o = { .authfile = path_of("auth.json") };

	put("auth.json", "{\"auths\":{\"r.example\":{\"auth\":\"" AUTH_UP "\"},"
			 "\"r.example/team/app\":{\"auth\":\"" AUTH_Q "\"},"
			 "\"r.example/team\":{\"identitytoken\":\"idt\"},"
			 "\"r.example/t\":{\"registrytoken\":\"rgt\"},"
			 "\"https://r2.example/v1/\":{\"auth\":\"" AUTH_UP "\"},"
			 "\"https://index.docker.io/v1/\":{\"auth\":\"" AUTH_Q "\"},"
			 "\"R3.Example:5000\":{\"username\":\"u3\",\"password\":\"p3\"},"
			 "\"broken.example\":{\"auth\":\"!!!\"}}}");
	check_cred(&o, "r.example", NULL, CRED_BASIC, "user", "pass");
	check_cred(&o, "r.example", "teams/x", CRED_BASIC, "user", "pass");
	check_cred(&o, "r.example", "team/app", CRED_BASIC, "q", "qq");
	check_cred(&o, "r.example", "team/app/sub", CRED_BASIC, "q", "qq");
	check_cred(&o, "r.example", "team/other", CRED_IDENTITY, "", "idt");
	check_cred(&o, "r.example", "t/x", CRED_REGISTRY_TOKEN, "", "rgt");
	check_cred(&o, "r2.example", "x", CRED_BASIC, "user", "pass");
	check_cred(&o, "docker.io", "library/alpine", CRED_BASIC, "q", "qq");
	check_cred(&o, "registry-1.docker.io", NULL, CRED_BASIC, "q", "qq");
	check_cred(&o, "r3.example:5000", NULL, CRED_BASIC, "u3", "p3");
	check_cred(&o, "r3.example", NULL, CRED_NONE, "", "");
	check_cred(&o, "broken.example", NULL, CRED_NONE, "", "");
}

TEST(creds_search_order)
{
	struct rg_opts o = { .authfile = NULL };

	put(".docker/config.json", "{\"auths\":{\"r.example\":{\"auth\":\"" AUTH_UP "\"}}}");
	put(".dockercfg", "{\"old.example\":{\"auth\":\"" AUTH_Q "\"}}");
	check_cred(&o, "r.example", NULL, CRED_BASIC, "user", "pass");
	check_cred(&o, "old.example", NULL, CRED_BASIC, "q", "qq");
	put(".config/containers/auth.json",
	    "{\"auths\":{\"r.example\":{\"auth\":\"" AUTH_Q "\"}}}");
	check_cred(&o, "r.example", NULL, CRED_BASIC, "q", "qq");
	setenv("DOCKER_AUTH_CONFIG", "{\"auths\":{\"r.example\":{\"identitytoken\":\"e\"}}}", 1);
	check_cred(&o, "r.example", NULL, CRED_IDENTITY, "", "e");
	unsetenv("DOCKER_AUTH_CONFIG");
	setenv("REGISTRY_AUTH_FILE", path_of(".dockercfg-none"), 1);
	put(".dockercfg-none", "{}");
	check_cred(&o, "r.example", NULL, CRED_NONE, "", "");
	unsetenv("REGISTRY_AUTH_FILE");
}

TEST(creds_file_is_read_again_when_it_changes)
{
	struct rg_opts o = { .authfile = path_of("change.json") };
	struct creds *cs = NULL;
	struct cred c = { 0 };
	struct err e = { 0 };

	put("change.json", "{\"auths\":{\"r.example\":{\"auth\":\"" AUTH_UP "\"}}}");
	CHECK_EQ_INT(creds_new(&o, &cs, &e), 0);
	CHECK_EQ_INT(creds_get(cs, "r.example", NULL, &c, NULL, &e), 0);
	CHECK_EQ_STR(c.user, "user");
	cred_done(&c);
	put("change.json", "{\"auths\":{\"r.example\":{\"auth\":\"" AUTH_Q "\"}}}");
	CHECK_EQ_INT(creds_get(cs, "r.example", NULL, &c, NULL, &e), 0);
	CHECK_EQ_STR(c.user, "q");
	cred_done(&c);
	(void)unlink(o.authfile);
	CHECK_EQ_INT(creds_get(cs, "r.example", NULL, &c, NULL, &e), -EACCES);
	creds_free(cs);
}

TEST(creds_errors_never_quote_the_file)
{
	struct rg_opts o = { .authfile = path_of("bad.json") };
	struct creds *cs = NULL;
	struct cred c = { 0 };
	struct err e = { 0 };

	put("bad.json", "{\"auths\":{\"r.example\":{\"auth\":\"" AUTH_UP "\" oops");
	CHECK_EQ_INT(creds_new(&o, &cs, &e), 0);
	CHECK_EQ_INT(creds_get(cs, "r.example", NULL, &c, NULL, &e), -EACCES);
	CHECK(!strstr(e.msg, "dXNl") && !strstr(e.msg, "oops") && strstr(e.msg, "bad.json"));
	creds_free(cs);
}

static struct err helper_error(const char *suffix)
{
	struct rg_opts o = { .authfile = path_of("store.json") };
	struct creds *cs = NULL;
	struct cred c = { 0 };
	struct err e = { 0 };
	char text[256];

	(void)snprintf(text, sizeof(text), "{\"credsStore\":\"%s\"}", suffix);
	put("store.json", text);
	CHECK_EQ_INT(creds_new(&o, &cs, &e), 0);
	CHECK_EQ_INT(creds_get(cs, "r.example", NULL, &c, NULL, &e), -EACCES);
	CHECK_EQ_INT(c.kind, CRED_NONE);
	CHECK(!strstr(e.msg, "hunter2"));
	cred_done(&c);
	creds_free(cs);
	return e;
}

TEST(creds_helpers_are_run_and_their_failures_named)
{
	struct rg_opts o = { .authfile = path_of("helpers.json") };
	struct err e;

	put_mode("docker-credential-good",
		 "#!/bin/sh\nread h\n[ \"$1\" = get ] && echo '{\"Username\":\"'$h'\","
		 "\"Secret\":\"sekrit\"}'\n",
		 0700);
	put_mode("docker-credential-token",
		 "#!/bin/sh\necho '{\"Username\":\"<token>\",\"Secret\":\"tooken\"}'\n", 0700);
	put_mode("docker-credential-none",
		 "#!/bin/sh\necho credentials not found in native keychain\nexit 1\n", 0700);
	put_mode("docker-credential-fail", "#!/bin/sh\necho hunter2\nexit 2\n", 0700);
	put_mode("docker-credential-junk", "#!/bin/sh\necho hunter2\n", 0700);
	put_mode("docker-credential-much",
		 "#!/bin/sh\nwhile :; do echo hunter2hunter2hunter2; done\n", 0700);
	put("helpers.json",
	    "{\"credHelpers\":{\"good.example\":\"good\",\"token.example\":\"token\","
	    "\"docker.io\":\"good\",\"none.example\":\"none\"}}");
	check_cred(&o, "good.example", NULL, CRED_BASIC, "good.example", "sekrit");
	check_cred(&o, "docker.io", NULL, CRED_BASIC, "https://index.docker.io/v1/", "sekrit");
	check_cred(&o, "token.example", NULL, CRED_IDENTITY, "<token>", "tooken");
	check_cred(&o, "none.example", NULL, CRED_NONE, "", "");
	e = helper_error("fail");
	CHECK(strstr(e.msg, "docker-credential-fail") != NULL);
	e = helper_error("junk");
	e = helper_error("much");
	e = helper_error("missing");
	e = helper_error("../../bin/sh");
	CHECK(!strstr(e.msg, "/bin/sh"));
}

/* ---- endpoints ---- */

static struct hosts *open_hosts(const char *conf)
{
	struct rg_opts o = {.registries_conf = path_of("registries.conf"),
			    .certs_dir = path_of("certs"),
			    .hosts_dir = path_of("hosts")};
	struct hosts *h = NULL;
	struct err e = { 0 };

	put("registries.conf", conf);
	if (hosts_new(&o, &h, &e) < 0)
		printf("# %s\n", e.msg);
	return h;
}

/* "https://a.example/v2|app mirror, ..." */
static const char *endpoints_text(struct hosts *h, const struct hosts_query *q)
{
	static char text[2048];
	struct endpoints eps = { .n = 0 };
	struct err e = { 0 };
	struct buf b = BUF_INIT(sizeof(text) - 1);

	if (hosts_resolve(h, q, &eps, &e) < 0)
		(void)buf_addf(&b, "error %d: %s", e.eno, e.msg);
	for (size_t i = 0; i < eps.n; i++) {
		const struct endpoint *ep = &eps.v[i];

		(void)buf_adds(&b, i ? ", " : "");
		(void)url_add(&b, &ep->url);
		(void)buf_addf(&b, "|%s%s%s%s%s%s", ep->repo ? ep->repo : "-",
			       ep->is_mirror ? " mirror" : "", ep->tls.insecure ? " insecure" : "",
			       ep->plain_fallback ? " http-too" : "", ep->ns ? " ns=" : "",
			       ep->ns ? ep->ns : "");
	}
	(void)snprintf(text, sizeof(text), "%s", buf_str(&b));
	buf_done(&b);
	endpoints_done(&eps);
	return text;
}

TEST(hosts_without_configuration)
{
	struct hosts *h = open_hosts("");

	REQUIRE(h != NULL);
	CHECK_EQ_STR(endpoints_text(h,
				    &(struct hosts_query){.host = "r.example:5000", .repo = "a/b"}),
		     "https://r.example:5000/v2|a/b");
	CHECK_EQ_STR(
		endpoints_text(h, &(struct hosts_query){.host = "docker.io", .repo = "library/x"}),
		"https://registry-1.docker.io/v2|library/x");
	CHECK_EQ_STR(endpoints_text(h,
				    &(struct hosts_query){.host = "127.0.0.1:5000", .plain = true}),
		     "http://127.0.0.1:5000/v2|-");
	hosts_free(h);
}

static const char registries[] =
	"[[registry]]\nlocation = \"r.example\"\nmirror-by-digest-only = true\n"
	"[[registry.mirror]]\nlocation = \"m1.example/cache\"\n"
	"[[registry]]\nprefix = \"r.example/team\"\nlocation = \"inner.example/moved\"\n"
	"[[registry.mirror]]\nlocation = \"m2.example\"\ninsecure = true\npull-from-mirror = "
	"\"tag-only\"\n"
	"[[registry.mirror]]\nlocation = \"m3.example\"\npull-from-mirror = \"digest-only\"\n"
	"[[registry]]\nprefix = \"*.wild.example\"\nblocked = true\n"
	"[[registry]]\nprefix = \"ok.wild.example\"\nlocation = \"ok.wild.example\"\n";

TEST(hosts_mirrors_of_registries_conf)
{
	struct hosts *h = open_hosts(registries);
	struct hosts_query q = {
		.host = "r.example", .repo = "app", .mirrors = true, .by_digest = true};

	REQUIRE(h != NULL);
	CHECK_EQ_STR(endpoints_text(h, &q),
		     "https://m1.example/v2|cache/app mirror, https://r.example/v2|app");
	q.by_digest = false;
	CHECK_EQ_STR(endpoints_text(h, &q), "https://r.example/v2|app");
	q.repo = "team/app";
	CHECK_EQ_STR(endpoints_text(h, &q), "https://m2.example/v2|app mirror insecure http-too, "
					    "https://inner.example/v2|moved/app");
	q.by_digest = true;
	CHECK_EQ_STR(endpoints_text(h, &q),
		     "https://m3.example/v2|app mirror, https://inner.example/v2|moved/app");
	q.mirrors = false;
	q.repo = "teams";
	CHECK_EQ_STR(endpoints_text(h, &q), "https://r.example/v2|teams");
	q.host = "x.wild.example";
	CHECK_EQ_STR(endpoints_text(h, &q),
		     "error 13: registries.conf blocks x.wild.example/teams");
	q.host = "ok.wild.example";
	CHECK_EQ_STR(endpoints_text(h, &q), "https://ok.wild.example/v2|teams");
	q.host = "wild.example";
	CHECK_EQ_STR(endpoints_text(h, &q), "https://wild.example/v2|teams");
	hosts_free(h);
}

TEST(hosts_insecure_hosts_may_speak_http)
{
	struct hosts *h = open_hosts("[[registry]]\nlocation = \"i.example\"\ninsecure = true\n");
	struct hosts_query q = { .host = "i.example", .repo = "a" };

	REQUIRE(h != NULL);
	CHECK_EQ_STR(endpoints_text(h, &q), "https://i.example/v2|a insecure http-too");
	hosts_note_plain(h, "i.example");
	CHECK_EQ_STR(endpoints_text(h, &q), "http://i.example/v2|a insecure");
	hosts_free(h);
}

TEST(hosts_toml_of_containerd)
{
	struct hosts *h;
	struct hosts_query q = { .host = "up.example:5000", .repo = "a", .mirrors = true };
	struct endpoints eps = { .n = 0 };

	put("certs/m.crt", "");
	put("hosts/up.example_5000_/hosts.toml",
	    "server = \"https://real.example\"\n[host.\"https://m.example/v2/proxy\"]\n"
	    "capabilities = [\"pull\"]\noverride_path = true\ndial_timeout = \"1m500ms\"\n"
	    "[host.\"https://m.example/v2/proxy\".header]\nx-a = [\"1\", \"2\"]\n"
	    "[host.\"http://n.example:8080\"]\nskip_verify = true\n");
	h = open_hosts("");
	REQUIRE(h != NULL);
	CHECK_EQ_STR(endpoints_text(h, &q),
		     "http://n.example:8080/v2|a mirror insecure ns=up.example%3A5000, "
		     "https://real.example/v2|a ns=up.example%3A5000");
	q.by_digest = true;
	CHECK_EQ_INT(hosts_resolve(h, &q, &eps, NULL), 0);
	REQUIRE(eps.n == 3);
	CHECK_EQ_STR(eps.v[0].url.target, "/v2/proxy");
	CHECK_EQ_INT(eps.v[0].n_headers, 2);
	CHECK_EQ_STR(eps.v[0].headers[1], "x-a: 2");
	CHECK_EQ_INT((intmax_t)eps.v[0].connect_timeout_ns,
		     (intmax_t)(60 * NSEC_PER_SEC + 500 * NSEC_PER_MSEC));
	endpoints_done(&eps);
	hosts_note_down(h, "m.example");
	CHECK_EQ_INT(hosts_resolve(h, &q, &eps, NULL), 0);
	CHECK_EQ_INT(eps.n, 2);
	endpoints_done(&eps);
	hosts_free(h);
}

TEST(hosts_certificates)
{
	struct hosts *h;
	struct hosts_query q = { .host = "c.example", .repo = "a" };
	struct endpoints eps = { .n = 0 };
	struct err e = { 0 };

	put("certs/c.example/a.crt", "CA-A");
	put("certs/c.example/b.crt", "CA-B");
	put("certs/c.example/x.cert", "C");
	put("certs/c.example/x.key", "K");
	put("certs/d.example/x.cert", "C");
	h = open_hosts("");
	REQUIRE(h != NULL);
	CHECK_EQ_INT(hosts_resolve(h, &q, &eps, &e), 0);
	REQUIRE(eps.n == 1);
	CHECK_EQ_STR(eps.v[0].tls.ca_pem, "CA-A\nCA-B\n");
	CHECK_EQ_STR(eps.v[0].tls.cert, path_of("certs/c.example/x.cert"));
	CHECK_EQ_STR(eps.v[0].tls.key, path_of("certs/c.example/x.key"));
	endpoints_done(&eps);
	q.host = "d.example";
	CHECK(hosts_resolve(h, &q, &eps, &e) < 0);
	CHECK(strstr(e.msg, "d.example/x.key") != NULL);
	hosts_free(h);
}

TEST(hosts_broken_files_are_errors_with_name_and_line)
{
	struct rg_opts o = { .registries_conf = path_of("broken.conf") };
	struct hosts *h = NULL;
	struct err e = { 0 };

	put("broken.conf", "[[registry]]\nlocation = \"x\"\ninsecure = yes\n");
	CHECK(hosts_new(&o, &h, &e) < 0);
	CHECK(strstr(e.msg, "broken.conf") && strstr(e.msg, "line 3"));
	(void)unlink(o.registries_conf);
	CHECK(hosts_new(&o, &h, &e) < 0);
}

struct asker {
	struct creds *cs;
	int r;
};

static void *ask_slow(void *arg)
{
	struct asker *a = arg;
	struct cred c = { 0 };

	a->r = creds_get(a->cs, "slow.example", NULL, &c, NULL, NULL);
	cred_done(&c);
	return NULL;
}

TEST(creds_a_slow_helper_holds_up_its_own_host_only)
{
	struct rg_opts o = { .authfile = path_of("slow.json") };
	struct asker a = { 0 };
	struct cred c = { 0 };
	uint64_t start;
	pthread_t t;

	put_mode("docker-credential-mixed",
		 "#!/bin/sh\nread h\n[ $h = slow.example ] && /bin/sleep 3\n"
		 "echo '{\"Username\":\"'$h'\",\"Secret\":\"s\"}'\n", 0700);
	put("slow.json", "{\"credsStore\":\"mixed\"}");
	REQUIRE(creds_new(&o, &a.cs, NULL) == 0);
	pthread_create(&t, NULL, ask_slow, &a);
	usleep(300000);
	start = clock_mono_ns();
	CHECK_OK(creds_get(a.cs, "fast.example", NULL, &c, NULL, NULL));
	CHECK(clock_mono_ns() - start < 2 * NSEC_PER_SEC);
	CHECK_EQ_STR(c.user, "fast.example");
	cred_done(&c);
	pthread_join(t, NULL);
	CHECK_EQ_INT(a.r, 0);
	creds_free(a.cs);
}

TEST(creds_helpers_work_without_standard_descriptors)
{
	int status = -1;
	pid_t pid;

	put_mode("docker-credential-plain", "#!/bin/sh\nread h\n"
		 "echo '{\"Username\":\"'$h'\",\"Secret\":\"s\"}'\n", 0700);
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		struct cred c = { 0 };

		for (int fd = 0; fd < 3; fd++)
			(void)close(fd);
		if (cred_helper_run("plain", "r.example", &c, NULL, NULL) < 0)
			_exit(1);
		_exit(c.kind == CRED_BASIC && strcmp(c.user, "r.example") == 0 ? 0 : 2);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK_EQ_INT(WEXITSTATUS(status), 0);
}

TEST(hosts_memory_of_hosts_is_bounded)
{
	struct rg_opts o = { .config_home = path_of("none"), .registries_conf = path_of("no.conf"),
			     .certs_dir = path_of("many-certs"), .hosts_dir = path_of("many-hosts") };
	struct hosts *h = NULL;
	struct endpoints eps = { .n = 0 };
	struct err e = { 0 };
	char host[64];

	put("no.conf", "");
	put("many-hosts/own.example/hosts.toml", "server = \"https://elsewhere.example\"\n");
	REQUIRE(hosts_new(&o, &h, &e) == 0);
	for (int i = 0; i < 2000; i++) {
		struct hosts_query q = { .host = host };

		(void)snprintf(host, sizeof(host), "h%d.example", i);
		CHECK_OK(hosts_resolve(h, &q, &eps, &e));
		CHECK_EQ_INT(eps.n, 1);
		endpoints_done(&eps);
	}
	CHECK_ERR(hosts_resolve(h, &(struct hosts_query){ .host = "own.example" }, &eps, &e),
		  -EFBIG);
	CHECK_EQ_INT(e.cls, ERR_LIMIT);
	hosts_free(h);
}
