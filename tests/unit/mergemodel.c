/*
 * mergemodel.c - see mergemodel.h
 */
#include "mergemodel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL_OBJECTS 4096

static struct model_obj *objects[MODEL_OBJECTS];
static size_t n_objects;

static struct model_obj *obj_new(enum tree_type type)
{
	struct model_obj *o = calloc(1, sizeof(*o));

	if (!o || n_objects == MODEL_OBJECTS)
		abort();
	o->type = type;
	objects[n_objects++] = o;
	return o;
}

static struct model_obj *obj_dir(bool implicit)
{
	struct model_obj *o = obj_new(TREE_DIR);

	o->implicit = implicit;
	o->mode = 0755;
	return o;
}

void model_free_objects(void)
{
	while (n_objects > 0)
		free(objects[--n_objects]);
}

static size_t find(const struct model_fs *fs, const char *path)
{
	size_t i = 0;

	while (i < fs->n && strcmp(fs->at[i].path, path) != 0)
		i++;
	return i;
}

struct model_obj *model_find(const struct model_fs *fs, const char *path)
{
	size_t i = find(fs, path);

	return i < fs->n ? fs->at[i].obj : NULL;
}

static void set(struct model_fs *fs, const char *path, struct model_obj *o)
{
	size_t i = find(fs, path);

	if (i == MODEL_PATHS)
		abort();
	(void)snprintf(fs->at[i].path, MODEL_PATH, "%s", path);
	fs->at[i].obj = o;
	fs->n += i == fs->n;
}

static bool below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	if (n == 0)
		return path[0] != '\0';
	return strncmp(path, dir, n) == 0 && path[n] == '/';
}

static void drop_at(struct model_fs *fs, size_t i)
{
	fs->at[i] = fs->at[--fs->n];
}

static void drop_below(struct model_fs *fs, const char *dir)
{
	for (size_t i = 0; i < fs->n;) {
		if (below(fs->at[i].path, dir))
			drop_at(fs, i);
		else
			i++;
	}
}

static void drop(struct model_fs *fs, const char *path)
{
	size_t i = find(fs, path);

	drop_below(fs, path);
	i = find(fs, path);
	if (i < fs->n)
		drop_at(fs, i);
}

void model_init(struct model_fs *fs)
{
	fs->n = 0;
	set(fs, "", obj_dir(true));
}

static const char *base(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static void dirname_of(const char *path, char *out)
{
	const char *slash = strrchr(path, '/');

	(void)snprintf(out, MODEL_PATH, "%.*s", slash ? (int)(slash - path) : 0, path);
}

static bool is_marker(const char *name)
{
	return strncmp(name, ".wh.", 4) == 0;
}

static bool marker_inside(const char *path)
{
	return is_marker(path) || strstr(path, "/.wh.");
}

/* ---- a layer -------------------------------------------------------------------------------- */

static void make_parents(struct model_fs *fs, const char *path)
{
	for (const char *p = strchr(path, '/'); p; p = strchr(p + 1, '/')) {
		char dir[MODEL_PATH];

		(void)snprintf(dir, sizeof(dir), "%.*s", (int)(p - path), path);

		struct model_obj *o = model_find(fs, dir);

		if (!o)
			set(fs, dir, obj_dir(true));
		else if (o->type != TREE_DIR)
			set(fs, dir, obj_dir(!is_marker(base(dir))));
	}
}

static void add_link(struct model_fs *layer, const char *path, const char *target)
{
	struct model_obj *o = model_find(layer, target);

	if (strcmp(path, target) == 0 || target[0] == '\0' || (o && o->type == TREE_DIR))
		return;
	if (!o) {
		o = obj_new(TREE_LINK);
		(void)snprintf(o->target, sizeof(o->target), "%s", target);
	}
	make_parents(layer, path);
	drop(layer, path);
	set(layer, path, o);
}

void model_add(struct model_fs *layer, enum tree_type type, const char *path, const char *target,
	       unsigned mode, unsigned id)
{
	struct model_obj *old, *o;

	if (type == TREE_LINK) {
		add_link(layer, path, target);
		return;
	}
	if (type != TREE_DIR && path[0] == '\0')
		return;
	make_parents(layer, path);
	old = model_find(layer, path);
	if (type != TREE_DIR || (old && old->type != TREE_DIR))
		drop(layer, path);
	o = obj_new(type);
	o->mode = mode;
	o->id = id;
	set(layer, path, o);
}

/* ---- merging -------------------------------------------------------------------------------- */

/* What a link means on top of `lower`; NULL: nothing. */
static struct model_obj *resolve(const struct model_fs *lower, const struct model_fs *layer,
				 struct model_obj *link)
{
	struct model_obj *o = marker_inside(link->target) ? NULL : model_find(lower, link->target);

	if (link->is || link->busy)
		return link->is;
	if (!o || o->type == TREE_DIR)
		o = model_find(layer, link->target);
	if (!o || o->type == TREE_DIR)
		return NULL;
	if (o->type == TREE_LINK) {
		link->busy = true;
		o = resolve(lower, layer, o);
		link->busy = false;
	}
	return link->is = o;
}

static void apply_marker(struct model_fs *fs, const char *path)
{
	char dir[MODEL_PATH], victim[2 * MODEL_PATH];
	const char *name = base(path);

	dirname_of(path, dir);
	if (marker_inside(dir))
		return;
	if (strcmp(name, ".wh..wh..opq") == 0)
		drop_below(fs, dir);
	else if (strncmp(name, ".wh..wh.", 8) != 0 && strcmp(name, ".wh.") != 0) {
		(void)snprintf(victim, sizeof(victim), "%s%s%s", dir, dir[0] ? "/" : "", name + 4);
		drop(fs, victim);
	}
}

static void apply_entry(struct model_fs *fs, const char *path, struct model_obj *o)
{
	struct model_obj *have = model_find(fs, path);

	if (o->type == TREE_DIR) {
		if (!have || have->type != TREE_DIR || !o->implicit)
			set(fs, path, o);
		return;
	}
	drop(fs, path);
	set(fs, path, o);
}

/* An implicit directory in which nothing but markers will ever be seen. */
static bool hollow(const struct model_fs *layer, size_t dir)
{
	const char *path = layer->at[dir].path;

	if (path[0] == '\0' || layer->at[dir].obj->type != TREE_DIR || !layer->at[dir].obj->implicit)
		return false;
	for (size_t i = 0; i < layer->n; i++) {
		const struct model_obj *o = layer->at[i].obj;

		if (below(layer->at[i].path, path) && !(o->type == TREE_DIR && o->implicit) &&
		    !marker_inside(layer->at[i].path + strlen(path) + 1))
			return false;
	}
	return true;
}

static int by_path(const void *a, const void *b)
{
	return strcmp(a, b); /* the path is the first member; parents come first */
}

void model_apply(struct model_fs *fs, const struct model_fs *layer)
{
	static struct model_fs lower, in;

	lower = *fs;
	in = *layer;
	qsort(in.at, in.n, sizeof(in.at[0]), by_path);
	for (size_t i = 0; i < in.n; i++) {
		struct model_obj *o = in.at[i].obj;

		if (is_marker(base(in.at[i].path)) && !(o->type == TREE_DIR && o->implicit))
			apply_marker(fs, in.at[i].path);
	}
	for (size_t i = 0; i < in.n; i++) {
		struct model_obj *o = in.at[i].obj;

		if (o->type == TREE_LINK)
			o = resolve(&lower, &in, o);
		if (o && !marker_inside(in.at[i].path) && !hollow(&in, i))
			apply_entry(fs, in.at[i].path, o);
	}
}
