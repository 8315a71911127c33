/*
 * need_platform.c - the image of an index that stands for it: this host's, or -o platform= (see need.h)
 *
 * An index with one image is that image, whatever the platform.  Attestations are not images.
 */
#include "fs/need.h"

#include <stdio.h>

#include "fs/need_priv.h"
#include "fs/platforms.h"

#define INDEX_DEPTH_MAX 4

static const char *host_arch(void)
{
#if defined(__x86_64__)
	return "amd64";
#elif defined(__aarch64__)
	return "arm64";
#elif defined(__arm__)
	return "arm";
#elif defined(__i386__)
	return "386";
#elif defined(__powerpc64__)
	return "ppc64le";
#elif defined(__s390x__)
	return "s390x";
#elif defined(__riscv)
	return "riscv64";
#else
	return "unknown";
#endif
}

/* want: "os/arch[/variant]", NULL: this host. */
static bool platform_fits(const struct oci_descriptor *d, const char *want)
{
	char have[256], full[256];

	if (!d->os || !d->arch)
		return false;
	if (!want)
		return strcmp(d->os, "linux") == 0 && strcmp(d->arch, host_arch()) == 0;
	(void)snprintf(have, sizeof(have), "%s/%s", d->os, d->arch);
	(void)snprintf(full, sizeof(full), "%s/%s/%s", d->os, d->arch, d->variant ? d->variant : "");
	return strcmp(want, have) == 0 || strcmp(want, full) == 0;
}

const struct oci_descriptor *platform_choose(const struct oci_manifest *m, const char *want)
{
	const struct oci_descriptor *only = NULL;
	size_t n = 0;

	for (size_t i = 0; i < m->n_children; i++) {
		const struct oci_descriptor *d = &m->children[i];

		if (oci_is_attestation(d))
			continue;
		if (platform_fits(d, want))
			return d;
		only = d;
		n++;
	}
	return n == 1 ? only : NULL;
}

errint_t need_platform(struct op *op, struct image *img, struct image **ret)
{
	_cleanup_(image_unrefp) struct image *at = image_ref(img);

	for (unsigned depth = 0; at->m->kind == OCI_INDEX; depth++) {
		const struct oci_descriptor *d = platform_choose(at->m, op->fs->config->platform);
		struct image *next = NULL;
		errint_t r;

		if (!d)
			return -ENOENT;
		if (depth >= INDEX_DEPTH_MAX || digest_eq(&d->digest, &img->digest))
			return err_set(&op->err, ELOOP, ERR_INPUT, "an image index contains itself or nests too deep");
		r = need_image(op, at->site, at->repo, &d->digest, &next);
		if (r < 0)
			return r;
		image_unref(at);
		at = next;
	}
	*ret = steal_ptr(&at);
	return 0;
}
