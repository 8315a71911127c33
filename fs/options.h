/*
 * options.h - what the user asked for, from four places
 *
 * Options come from the command line (-o, -f, -d), REGISTRYFS_<OPTION> in the environment, the
 * user's configuration file and the system's, in this order: the first place that names an option
 * decides.  What is unknown or malformed is an error wherever it stands, also when a stronger
 * place would overrule it.
 *
 * The from_* functions are pure: they read the text they are given, nothing else.  Only
 * options_load_files touches the disk.  No threads.
 *
 *	struct option_set *s = option_set_new();
 *	r = options_from_mount(s, "ro,tag_ttl=5m", 13, e);
 *	r = options_from_environment(s, environ, e);
 *	r = options_load_files(s, &places, e);
 *	r = options_finish(s, &places, &config, e);
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "fs/fs.h"
#include "util/buf.h"
#include "util/cleanup.h"
#include "util/err.h"

#define OPTIONS_TEXT_MAX (64u << 10)	/* bytes of one option string or configuration file */
#define OPTIONS_VALUE_MAX 4096		/* bytes of one value */
#define OPTIONS_HOSTS_MAX 256		/* in registries= */

enum option_origin {
	FROM_COMMAND_LINE = 0,
	FROM_ENVIRONMENT,
	FROM_USER_FILE,
	FROM_SYSTEM_FILE,
	FROM_DEFAULT,
};

/* Where relative and default paths begin.  Members may be NULL; then what needs them is an error,
 * except that root falls back to /var/cache and /var/lib.  Borrowed. */
struct option_places {
	const char *home, *cwd;
	const char *xdg_config, *xdg_cache, *xdg_state, *xdg_data;
	bool root;
};

struct option_set;

struct option_set *option_set_new(void);	/* NULL: no memory */
struct option_set *option_set_free(struct option_set *s);
DEFINE_CLEANUP(struct option_set *, option_set_free)

/* mount(8)'s `-s`: unknown options of -o are passed over. */
void option_set_sloppy(struct option_set *s);

/* A -o argument: "a,b=c"; a backslash takes the next character as it is ("cache=/x\,y").  Generic
 * options of mount(8) are accepted. */
errint_t options_from_mount(struct option_set *s, const char *text, size_t len, struct err *e) _must_check_;
/* Everything called REGISTRYFS_* but REGISTRYFS_TEST_*. */
errint_t options_from_environment(struct option_set *s, char *const *env, struct err *e) _must_check_;
/* "key = value" lines, '#' starts a comment line; file is for messages. */
errint_t options_from_file(struct option_set *s, enum option_origin origin, const char *file,
			   const char *text, size_t len, struct err *e) _must_check_;
/* One option as if -o said so. */
errint_t options_set(struct option_set *s, const char *name, const char *value, struct err *e) _must_check_;
/* Reads the files that exist: <config home>/registryfs/config and /etc/registryfs/config. */
errint_t options_load_files(struct option_set *s, const struct option_places *p, struct err *e) _must_check_;

/* Fills ret, but for source and mountpoint; to be freed with fs_config_done, also after an error. */
errint_t options_finish(const struct option_set *s, const struct option_places *p,
			struct fs_config *ret, struct err *e) _must_check_;
void fs_config_done(struct fs_config *c);

/* The table for `registryfs help mount`. */
void options_help(struct buf *out);

/* The known word nearest to s, or NULL when none is near; words ends with NULL. */
const char *nearest_word(const char *s, const char *const *words);
