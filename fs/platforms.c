/*
 * platforms.c - see platforms.h
 */
#include "fs/platforms.h"

#include <stdio.h>
#include <stdlib.h>

#include "util/hmap.h"

#define SUFFIX_MAX 24	/* "." and a number */

struct platforms {
	size_t n;
	struct hmap *by_name;	/* -> pointer into names */
	struct hmap *counts;	/* plain name -> how many so far, as a pointer; only while building */
	char **names;
};

void platforms_free(struct platforms *p)
{
	if (!p)
		return;
	for (size_t i = 0; p->names && i < p->n; i++)
		free(p->names[i]);
	free(p->names);
	hmap_free(p->by_name);
	hmap_free(p->counts);
	free(p);
}

static bool add_name(struct platforms *p, size_t i, const struct oci_descriptor *d)
{
	char name[PLATFORM_NAME_MAX];
	uintptr_t same;

	if (oci_is_attestation(d) || oci_platform_name(d, name, sizeof(name) - SUFFIX_MAX) < 0)
		return true;
	same = (uintptr_t)hmap_gets(p->counts, name) + 1;
	if (hmap_puts(p->counts, name, (void *)same) < 0)
		return false;
	if (same > 1)
		(void)snprintf(name + strlen(name), SUFFIX_MAX, ".%zu", (size_t)same);
	p->names[i] = strdup(name);
	return p->names[i] && hmap_puts(p->by_name, name, &p->names[i]) == 0;
}

static struct platforms *platforms_new(const struct oci_manifest *m)
{
	struct platforms *p = calloc(1, sizeof(*p));
	bool good;

	if (!p)
		return NULL;
	p->n = m->n_children;
	p->by_name = hmap_new(NULL);
	p->counts = hmap_new(NULL);
	p->names = calloc(p->n + 1, sizeof(*p->names));
	good = p->by_name && p->counts && p->names;
	for (size_t i = 0; good && i < p->n; i++)
		good = add_name(p, i, &m->children[i]);
	p->counts = hmap_free(p->counts);
	if (good)
		return p;
	platforms_free(p);
	return NULL;
}

const struct platforms *platforms_of(struct image *img)
{
	struct platforms *p = atomic_load(&img->platforms), *none = NULL;

	if (p)
		return p;
	p = platforms_new(img->m);
	if (p && !atomic_compare_exchange_strong(&img->platforms, &none, p)) {
		platforms_free(p);
		p = none;
	}
	return p;
}

size_t platforms_find(const struct platforms *p, const char *name)
{
	char **at = hmap_gets(p->by_name, name);

	return at ? (size_t)(at - p->names) : SIZE_MAX;
}

const char *platforms_name(const struct platforms *p, size_t i)
{
	return p->names[i];
}
