/*
 * names.c - sorted unique name lists in one arena
 *
 * The text may move while it grows, so pointers into it are made only once, at the end.
 */
#include "registry/names.h"

#include <string.h>

#define NAMES_TEXT_MIN 4096

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory while collecting names");
}

static errint_t reserve(struct names_builder *b, size_t more, struct err *e)
{
	size_t cap = b->text_cap ? b->text_cap : NAMES_TEXT_MIN;
	char *text;

	if (more <= b->text_cap - b->text_len)
		return 0;
	while (cap - b->text_len < more)
		cap *= 2;
	text = realloc(b->text, cap);
	if (!text)
		return no_memory(e);
	b->text = text;
	b->text_cap = cap;
	return 0;
}

errint_t names_add(struct names_builder *b, const char *s, size_t len, struct err *e)
{
	errint_t r;

	if (b->n >= RG_TAGS_MAX)
		return err_set(e, EFBIG, ERR_LIMIT, "more than %d names in one listing",
			       RG_TAGS_MAX);
	r = reserve(b, len + 1, e);
	if (r < 0)
		return r;
	memcpy(b->text + b->text_len, s, len);
	b->text[b->text_len + len] = '\0';
	b->text_len += len + 1;
	b->n++;
	return 0;
}

void names_abort(struct names_builder *b)
{
	free(b->text);
	*b = (struct names_builder){ 0 };
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void make_pointers(char **names, char *text, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		names[i] = text;
		text += strlen(text) + 1;
	}
}

static bool is_sorted(char *const *names, size_t n)
{
	for (size_t i = 1; i < n; i++)
		if (strcmp(names[i - 1], names[i]) > 0)
			return false;
	return true;
}

static size_t drop_duplicates(char **names, size_t n)
{
	size_t kept = 0;

	for (size_t i = 0; i < n; i++)
		if (kept == 0 || strcmp(names[kept - 1], names[i]) != 0)
			names[kept++] = names[i];
	return kept;
}

errint_t names_finish(struct names_builder *b, struct rg_names *ret, struct err *e)
{
	char **names = calloc(b->n ? b->n : 1, sizeof(*names));

	if (!names) {
		names_abort(b);
		return no_memory(e);
	}
	make_pointers(names, b->text, b->n);
	if (!is_sorted(names, b->n))
		qsort(names, b->n, sizeof(*names), compare);
	*ret = (struct rg_names){
		.names = names,
		.n = drop_duplicates(names, b->n),
		.arena = steal_ptr(&b->text),
	};
	names_abort(b);
	return 0;
}

void rg_names_done(struct rg_names *n)
{
	free(n->names);
	free(n->arena);
	*n = (struct rg_names){ 0 };
}
