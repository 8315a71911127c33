/*
 * cmd_index.c - `registryfs index IMAGE`: a SOCI index, so that plain layers are read in parts
 *
 * Reads the command line, chooses the images, and says what was done; soci.h does it.  By default the
 * index has the image as its subject and the image stays as it is.  Only --v2 makes another image, and
 * only under the tag that is given: a tag never moves because somebody wanted an index.
 *
 * Threads: layers are done by several; one more shows the progress, on a terminal only.
 */
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>

#include "cache/ztoc_build.h"
#include "fs/cmd.h"
#include "fs/platforms.h"
#include "fs/soci.h"
#include "util/clock.h"

#define TICK_MS 250
#define IMAGES_MAX 256		/* of one index */
#define USAGE "index [-o OPTION,..] [--v2 TAG] [--all-platforms] IMAGE"

struct index_cmd {
	struct option_set *set;
	struct fs_config config;
	const char *v2_tag;		/* NULL: version 1 */
	bool all_platforms;
	char *source, *repo, *reference;
	struct rg_client *client;
	struct soci_job job;
	struct rg_manifest top;
	struct oci_manifest *m;
	struct soci_image *images;
	size_t n_images;
	uint64_t total;			/* bytes of layers that may be read */
	bool tty;
	atomic_bool done;
};

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
}

static void index_cmd_done(struct index_cmd *x)
{
	for (size_t i = 0; i < x->n_images; i++) {
		rg_manifest_done(&x->images[i].bytes);
		(void)oci_manifest_free(x->images[i].m);
	}
	free(x->images);
	rg_manifest_done(&x->top);
	(void)oci_manifest_free(x->m);
	(void)rg_close(x->job.reg);
	(void)rg_client_stop(x->client);
	(void)option_set_free(x->set);
	fs_config_done(&x->config);
	free(x->source);
	free(x->repo);
	free(x->reference);
}

/* ---- the command line ---- */

static errint_t parse_size(const char *what, const char *s, uint64_t min, uint64_t max, uint64_t *ret,
			   struct err *e)
{
	static const char units[] = "KMG";
	char *end = NULL;
	uint64_t v;

	errno = 0;
	v = strtoull(s, &end, 10);
	if (*s >= '0' && *s <= '9' && *end && strchr(units, *end) && !end[1])
		v = v > UINT64_MAX >> 30 ? UINT64_MAX : v << (10 * (strchr(units, *end) - units + 1));
	else if (*s < '0' || *s > '9' || *end)
		return err_set(e, EINVAL, ERR_INPUT, "--%s wants a size such as 4M or 512K, not \"%.40s\"", what, s);
	if (errno || v < min || v > max)
		return err_set(e, EINVAL, ERR_INPUT, "--%s is from %" PRIu64 " to %" PRIu64 " bytes", what, min, max);
	*ret = v;
	return 0;
}

enum { OPT_V2 = 256, OPT_ALL, OPT_PLATFORM_ARG, OPT_SPAN, OPT_MIN };

static const struct option long_options[] = {
	{ "v2", required_argument, NULL, OPT_V2 },
	{ "all-platforms", no_argument, NULL, OPT_ALL },
	{ "platform", required_argument, NULL, OPT_PLATFORM_ARG },
	{ "span-size", required_argument, NULL, OPT_SPAN },
	{ "min-layer-size", required_argument, NULL, OPT_MIN },
	{ 0 },
};

static errint_t take(struct index_cmd *x, int letter, const char *word, struct err *e)
{
	switch (letter) {
	case 'o':
		return options_from_mount(x->set, optarg, strlen(optarg), e);
	case OPT_PLATFORM_ARG:
		return options_set(x->set, "platform", optarg, e);
	case OPT_ALL:
		x->all_platforms = true;
		return 0;
	case OPT_SPAN:
		return parse_size("span-size", optarg, ZTOC_SPAN_MIN, ZTOC_SPAN_MAX, &x->job.span, e);
	case OPT_MIN:
		return parse_size("min-layer-size", optarg, 0, UINT64_MAX, &x->job.min_layer, e);
	case OPT_V2:
		x->v2_tag = optarg;
		if (ref_is_tag(optarg, strlen(optarg)))
			return 0;
		return err_set(e, EINVAL, ERR_INPUT, "--v2 wants the tag to put the new image under, and \"%.100s\" is "
			       "not one", optarg);
	case ':':
		return err_set(e, EINVAL, ERR_INPUT, "%s needs a value", word);
	default:
		return err_set(e, EINVAL, ERR_INPUT, "\"%s\" is not understood; see `registryfs help index`", word);
	}
}

/* "HOST/repo:tag", "HOST/repo@sha256:..", "dir:PATH:tag".  Without a tag it is latest, as everywhere. */
static errint_t split_image(struct index_cmd *x, const char *word, struct err *e)
{
	bool dir = strncmp(word, "dir:", 4) == 0;
	const char *scheme = strstr(word, "://"), *name = dir ? word + 4 : scheme ? scheme + 3 : word;
	const char *slash = strrchr(name, '/'), *at = strchr(name, '@');
	const char *mark = at ? at : strrchr(slash ? slash : name, ':');
	size_t len = mark ? (size_t)(mark - word) : strlen(word);
	const char *first = dir ? NULL : memchr(name, '/', len - (size_t)(name - word));

	if (!dir && !first)
		return err_set(e, EINVAL, ERR_INPUT, "\"%.100s\" names no image; an IMAGE is HOST/REPOSITORY:TAG or "
			       "dir:PATH:TAG", word);
	x->source = strndup(word, dir ? len : (size_t)(first - word));
	x->repo = dir ? strdup("") : strndup(first + 1, len - (size_t)(first + 1 - word));
	x->reference = strdup(mark ? mark + 1 : "latest");
	if (!x->source || !x->repo || !x->reference)
		return no_memory(e);
	if (!dir && !ref_is_repo(x->repo, strlen(x->repo)))
		return err_set(e, EINVAL, ERR_INPUT, "\"%.100s\" is not the name of a repository", x->repo);
	return 0;
}

static errint_t load_options(struct index_cmd *x, struct err *e)
{
	_cleanup_free_ char *cwd = NULL;
	struct option_places places;
	errint_t r;

	find_places(&places, &cwd);
	r = options_from_environment(x->set, environ, e);
	if (r == 0)
		r = options_load_files(x->set, &places, e);
	return r < 0 ? r : options_finish(x->set, &places, &x->config, e);
}

static errint_t parse(struct index_cmd *x, int argc, char **argv, struct err *e)
{
	errint_t r = 0;
	int c;

	opterr = 0;
	optind = 0;
	while (r == 0 && (c = getopt_long(argc, argv, ":o:", long_options, NULL)) != -1)
		r = take(x, c, argv[optind - 1], e);
	if (r == 0 && argc - optind != 1)
		r = err_set(e, EINVAL, ERR_INPUT, "usage: registryfs " USAGE);
	if (r == 0)
		r = split_image(x, argv[optind], e);
	return r < 0 ? r : load_options(x, e);
}

/* ---- which images ---- */

static errint_t add_image(struct index_cmd *x, const struct oci_descriptor *at, struct err *e)
{
	struct soci_image *i = &x->images[x->n_images];
	char text[DIGEST_TEXT_MAX];
	errint_t r = rg_get_manifest(x->job.reg, x->repo, at ? digest_text(&at->digest, text) : x->reference,
				     &i->bytes, NULL, e);

	if (r < 0)
		return r;
	x->n_images++;
	if (at)
		i->at = *at;
	r = oci_manifest_parse(buf_str(&i->bytes.bytes), i->bytes.bytes.len, i->bytes.media_type, &i->m, e);
	if (r == 0 && (i->m->kind != OCI_IMAGE || !oci_is_container_image(i->m)))
		return err_set(e, EINVAL, ERR_INPUT, "%s is no image of files: its type is %.100s", x->reference,
			       oci_artifact_type(i->m));
	for (size_t k = 0; r == 0 && k < i->m->n_layers; k++)
		x->total += i->m->layers[k].size >= x->job.min_layer ? i->m->layers[k].size : 0;
	return r;
}

static bool is_soci(const struct oci_descriptor *d)
{
	return d->artifact_type && (strcmp(d->artifact_type, OCI_TYPE_SOCI_V1) == 0 ||
				    strcmp(d->artifact_type, OCI_TYPE_SOCI_V2) == 0);
}

static errint_t add_all(struct index_cmd *x, struct err *e)
{
	errint_t r = 0;

	for (size_t i = 0; r == 0 && i < x->m->n_children; i++) {
		const struct oci_descriptor *d = &x->m->children[i];

		if (!oci_is_attestation(d) && !is_soci(d))
			r = add_image(x, d, e);
	}
	return r;
}

static errint_t add_chosen(struct index_cmd *x, struct err *e)
{
	const struct oci_descriptor *d = platform_choose(x->m, x->config.platform);

	if (d)
		return add_image(x, d, e);
	return err_set(e, ENOENT, ERR_INPUT, "%s has no image for %s; choose with --platform OS/ARCH, or take "
		       "--all-platforms", x->reference, x->config.platform ? x->config.platform : "this machine");
}

static errint_t find_images(struct index_cmd *x, struct err *e)
{
	errint_t r = rg_get_manifest(x->job.reg, x->repo, x->reference, &x->top, NULL, e);

	if (r == 0)
		r = oci_manifest_parse(buf_str(&x->top.bytes), x->top.bytes.len, x->top.media_type, &x->m, e);
	if (r < 0)
		return r;
	if (x->m->n_children > IMAGES_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "the index has more than %d images", IMAGES_MAX);
	x->images = calloc(x->m->n_children + 1, sizeof(*x->images));
	if (!x->images)
		return no_memory(e);
	if (x->m->kind != OCI_INDEX)
		return add_image(x, NULL, e);
	return x->all_platforms ? add_all(x, e) : add_chosen(x, e);
}

/* ---- what is said ---- */

static void clear_line(const struct index_cmd *x)
{
	if (x->tty)
		fputs("\r\033[K", stderr);
}

static void *show_progress(void *arg)
{
	struct index_cmd *x = arg;

	while (!atomic_load(&x->done)) {
		fprintf(stderr, "\r\033[K%.1f of %.1f MiB of layers read", (double)atomic_load(&x->job.moved) / (1 << 20),
			(double)x->total / (1 << 20));
		(void)fflush(stderr);
		(void)poll(NULL, 0, TICK_MS);
	}
	clear_line(x);
	return NULL;
}

static void tell(struct soci_job *j, size_t i, size_t n, const struct soci_layer *l)
{
	char text[DIGEST_TEXT_MAX];

	clear_line(j->ctx);
	printf("layer %zu of %zu  %.19s  %.1f MiB  ", i + 1, n, digest_text(&l->desc->digest, text),
	       (double)l->desc->size / (1 << 20));
	if (l->indexed)
		printf("%" PRIu32 " spans, %" PRIu32 " files, zTOC of %.1f MiB\n", l->n_spans, l->n_files,
		       (double)l->ztoc_size / (1 << 20));
	else
		printf("left out: %s\n", l->why);
	(void)fflush(stdout);
}

static void tell_index(const struct index_cmd *x, const struct soci_image *i)
{
	char text[DIGEST_TEXT_MAX], image[DIGEST_TEXT_MAX];

	printf("index %s of %s: %zu of %zu layers, zTOCs of %.1f MiB\n", digest_text(&i->index.digest, text),
	       digest_text(&i->bytes.digest, image), i->index.n_layers, i->m->n_layers,
	       (double)i->index.ztoc_bytes / (1 << 20));
	if (!x->v2_tag)
		printf("put into %s%s%s as a referrer of the image\n", rg_name(x->job.reg), *x->repo ? "/" : "", x->repo);
}

/* ---- doing it ---- */

/* Of an image that is in no index: what its config says. */
static errint_t find_platform(struct index_cmd *x, struct soci_image *i, struct oci_config **ret, struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(OCI_CONFIG_MAX);
	const struct oci_descriptor *d = &i->m->config;
	errint_t r;

	if (d->size > OCI_CONFIG_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "the image's config is too large");
	r = soci_read_blob(&x->job, d, &b, e);
	if (r == 0)
		r = oci_config_parse(buf_str(&b), b.len, ret, e);
	if (r < 0)
		return r;
	i->at.os = (*ret)->os;
	i->at.arch = (*ret)->arch;
	i->at.variant = (*ret)->variant;
	return 0;
}

static errint_t convert(struct index_cmd *x, struct err *e)
{
	_cleanup_(oci_config_freep) struct oci_config *config = NULL;
	char text[DIGEST_TEXT_MAX];
	struct digest d;
	errint_t r = x->m->kind == OCI_INDEX ? 0 : find_platform(x, &x->images[0], &config, e);

	if (r == 0)
		r = soci_convert(&x->job, &x->top, x->m, x->images, x->n_images, x->v2_tag, &d, e);
	if (r == 0)
		printf("put into %s%s%s as %s, %s\n", rg_name(x->job.reg), *x->repo ? "/" : "", x->repo, x->v2_tag,
		       digest_text(&d, text));
	return r;
}

/* Images without a layer that can be indexed are passed over as long as there is another. */
static errint_t index_all(struct index_cmd *x, struct err *e)
{
	size_t n = 0;

	for (size_t i = 0; i < x->n_images; i++) {
		struct soci_image *s = &x->images[i];
		errint_t r = soci_index(&x->job, x->v2_tag ? 2 : 1, &s->bytes, s->m, &s->index, e);

		if (r < 0 && (r != -ENODATA || e->cls != ERR_INPUT))
			return r;
		if (r < 0)
			continue;
		clear_line(x);
		tell_index(x, s);
		if (n != i) {
			struct soci_image other = x->images[n];

			x->images[n] = *s;
			*s = other;
		}
		n++;
	}
	if (n == 0)
		return -ENODATA;
	for (; x->n_images > n; x->n_images--) {
		rg_manifest_done(&x->images[x->n_images - 1].bytes);
		(void)oci_manifest_free(x->images[x->n_images - 1].m);
	}
	return x->v2_tag ? convert(x, e) : 0;
}

static errint_t run(struct index_cmd *x, struct err *e)
{
	pthread_t t;
	errint_t r = wire_client(&x->config, &x->client, e);

	if (r == 0)
		r = rg_open(x->client, x->source, &x->job.reg, e);
	if (r == 0)
		r = find_images(x, e);
	if (r < 0)
		return r;
	x->tty = isatty(STDERR_FILENO) && pthread_create(&t, NULL, show_progress, x) == 0;
	r = index_all(x, e);
	atomic_store(&x->done, true);
	if (x->tty)
		(void)pthread_join(t, NULL);
	return r;
}

int cmd_index(int argc, char **argv)
{
	_cleanup_(index_cmd_done) struct index_cmd x = { .set = option_set_new() };
	struct err e = { 0 };
	errint_t r;

	x.job = (struct soci_job){ .span = ZTOC_SPAN_DEFAULT, .min_layer = SOCI_MIN_LAYER, .tell = tell, .ctx = &x };
	r = x.set ? parse(&x, argc, argv, &e) : no_memory(&e);
	if (r < 0) {
		complain("%s", e.msg);
		return EXIT_USAGE;
	}
	x.job.repo = x.repo;
	r = run(&x, &e);
	if (r < 0)
		complain("%s: %s", argv[optind], e.msg);
	return r < 0 ? EXIT_FAILED : EXIT_DONE;
}
