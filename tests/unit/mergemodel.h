/*
 * mergemodel.h - the merge rules once more, as slowly and plainly as possible
 *
 * A file system is a list of (path, object); a layer is one, too, made from its entries in archive
 * order.  model_apply puts a layer on top the way an extractor would, with the order that
 * image-spec asks for: whiteouts and opaque markers first, then the layer's own content.  Nothing
 * here is shared with cache/.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "cache/tree.h"

#define MODEL_PATHS 512
#define MODEL_PATH 64

struct model_obj {
	enum tree_type type;
	bool implicit;
	unsigned mode, id;		/* id: size of a file, number in a symlink's target */
	char target[MODEL_PATH];	/* LINK */
	struct model_obj *is;		/* LINK: what it was resolved to */
	bool busy;			/* LINK: being resolved */
};

struct model_fs {
	struct {
		char path[MODEL_PATH];
		struct model_obj *obj;
	} at[MODEL_PATHS];
	size_t n;
};

/* All objects ever made; freed together. */
void model_free_objects(void);
void model_init(struct model_fs *fs);
/* One archive entry with a clean path; target for links. */
void model_add(struct model_fs *layer, enum tree_type type, const char *path, const char *target,
	       unsigned mode, unsigned id);
void model_apply(struct model_fs *fs, const struct model_fs *layer);
struct model_obj *model_find(const struct model_fs *fs, const char *path);
