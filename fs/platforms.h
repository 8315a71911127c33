/*
 * platforms.h - the directory names of an index's images
 *
 * linux-arm64 is the first entry of that platform; further ones of the same name get ".2", ".3".
 * Attestations have no name.  Made once per image, in linear time, and kept with it.
 */
#pragma once

#include "fs/site.h"

#define PLATFORM_NAME_MAX 256

struct platforms;

/* NULL: no memory.  Borrowed from img. */
const struct platforms *platforms_of(struct image *img);
/* The child with this name, or SIZE_MAX. */
size_t platforms_find(const struct platforms *p, const char *name);
/* NULL: child i is no platform. */
const char *platforms_name(const struct platforms *p, size_t i);
void platforms_free(struct platforms *p);

/* need_platform.c: the child of an index that stands for it.  want: "os/arch[/variant]", NULL: this
 * host's.  NULL: there is none. */
const struct oci_descriptor *platform_choose(const struct oci_manifest *m, const char *want);
