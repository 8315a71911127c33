/*
 * first_list.h - the files of an image that are used first: a text, one path to a line
 *
 * In the order of first use, from the image's root: "/usr/bin/python3".  Lines that begin with '#'
 * say nothing, nor do empty ones.  A list is kept by the digest of the image's manifest in the state
 * directory, as STATE/first/<digest>, where it outlives the cache and can be carried to another
 * machine.  One that was set by hand begins with FIRST_SET and is not replaced by what is recorded.
 *
 * No threads of its own; files are replaced by rename, so readers see the old list or the new one.
 */
#pragma once

#include "util/buf.h"
#include "util/digest.h"
#include "util/err.h"

#define FIRST_FILES_MAX 4096		/* paths in a list; what comes behind is not looked at */
#define FIRST_BYTES_MAX (1u << 20)	/* of its text */
#define FIRST_LISTS_MAX 1024		/* kept; the oldest goes */
#define FIRST_SET "# set by hand\n"

/* The next path of a text, without slashes in front; false at its end.  *at begins as the text. */
bool first_list_next(const char **at, const char *end, const char **ret, size_t *ret_len);
/* Can that be a list?  -EINVAL with a sentence: a NUL, or a path that cannot be one. */
errint_t first_list_check(const char *text, size_t len, struct err *e) _must_check_;
size_t first_list_count(const char *text, size_t len);
/* Adds a path's line; a path with a line feed in it is left out. */
errint_t first_list_add(struct buf *out, const char *path, size_t len);

/* ret is an initialised buffer.  -ENOENT: there is none (or it is no list). */
errint_t first_list_load(const char *state, const struct digest *manifest, struct buf *ret) _must_check_;
errint_t first_list_save(const char *state, const struct digest *manifest, const char *text, size_t len,
			 struct err *e) _must_check_;
errint_t first_list_remove(const char *state, const struct digest *manifest, struct err *e) _must_check_;
