/*
 * facts.c - see facts.h
 */
#include "fs/facts.h"

#include "util/clock.h"
#include "util/hmap.h"

struct facts {
	pthread_mutex_t lock;
	struct hmap *map;
};

static void text_unref(struct image_text *t)
{
	if (t && atomic_fetch_sub(&t->refs, 1) == 1) {
		buf_done(&t->text);
		free(t);
	}
}

void fact_done(struct fact *fact)
{
	name_list_unref(fact->list);
	text_unref(fact->text);
	*fact = (struct fact){ 0 };
}

static void fact_free(void *p)
{
	fact_done(p);
	free(p);
}

struct facts *facts_new(void)
{
	struct facts *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->map = hmap_new(fact_free);
	if (!f->map) {
		free(f);
		return NULL;
	}
	pthread_mutex_init(&f->lock, NULL);
	return f;
}

struct facts *facts_free(struct facts *f)
{
	if (!f)
		return NULL;
	hmap_free(f->map);
	pthread_mutex_destroy(&f->lock);
	free(f);
	return NULL;
}

static void copy_value(const struct fact *from, struct fact *to)
{
	*to = *from;
	if (to->list)
		name_list_ref(to->list);
	if (to->text)
		atomic_fetch_add(&to->text->refs, 1);
}

bool facts_get(struct facts *f, const char *name, struct fact *ret)
{
	LOCK_SCOPE(&f->lock);
	const struct fact *have = hmap_gets(f->map, name);

	if (!have)
		return false;
	copy_value(have, ret);
	return true;
}

/* Everything goes when the table is full: rare, and asking again is only slower. */
static struct fact *slot_of(struct facts *f, const char *name)
{
	struct fact *have = hmap_gets(f->map, name);

	if (have)
		return have;
	if (hmap_count(f->map) >= FACTS_MAX) {
		struct hmap *fresh = hmap_new(fact_free);

		if (!fresh)
			return NULL;
		hmap_free(f->map);
		f->map = fresh;
	}
	have = calloc(1, sizeof(*have));
	if (have && hmap_puts(f->map, name, have) < 0) {
		free(have);
		have = NULL;
	}
	return have;
}

void facts_set(struct facts *f, const char *name, struct fact *value)
{
	struct fact old = { 0 };
	struct fact *have;

	value->learnt_ns = clock_mono_ns();
	{
		LOCK_SCOPE(&f->lock);
		have = slot_of(f, name);
		if (have) {
			old = *have;
			*have = *value;
			have->failed_ns = 0;
			have->expired = false;
			err_clear(&have->err);
			*value = (struct fact){ 0 };
		}
	}
	fact_done(&old);
	fact_done(value);
}

void facts_fail(struct facts *f, const char *name, const struct err *err)
{
	bool is_void = err->cls == ERR_NOTFOUND || err->cls == ERR_AUTH;
	struct fact old = { 0 };
	struct fact *have;

	if (err->cls == ERR_CANCELLED)
		return;
	{
		LOCK_SCOPE(&f->lock);
		have = slot_of(f, name);
		if (have && is_void) {
			old = *have;
			*have = (struct fact){ 0 };
		}
		if (have) {
			have->failed_ns = clock_mono_ns();
			have->err = *err;
		}
	}
	fact_done(&old);
}

void facts_expire(struct facts *f, const char *prefix)
{
	size_t it = 0, len, plen = strlen(prefix);
	const void *key;
	struct fact *fact;
	LOCK_SCOPE(&f->lock);

	while ((fact = hmap_next(f->map, &it, &key, &len))) {
		if (len < plen || memcmp(key, prefix, plen) != 0)
			continue;
		fact->expired = true;
		fact->failed_ns = 0;
		err_clear(&fact->err);
	}
}
