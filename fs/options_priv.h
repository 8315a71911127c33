/*
 * options_priv.h - the table of options and what a value becomes (private to options*.c)
 */
#pragma once

#include "fs/options.h"

enum option_type {
	OPT_FLAG = 0,	/* bool; the name alone means yes */
	OPT_INVERSE,	/* yes or no, kept as its opposite in a bool */
	OPT_DURATION,	/* nanoseconds in a uint64_t; min and max in seconds */
	OPT_SIZE,	/* bytes in a uint64_t; "auto" is 0 when min is 0 */
	OPT_COUNT,	/* unsigned */
	OPT_PATH,	/* char *, absolute */
	OPT_TEXT,	/* char *, printable */
	OPT_PLATFORM,	/* char *, os/arch[/variant] */
	OPT_HOSTS,	/* registries, n_registries */
	OPT_LEVEL,	/* int: enum log_level */
	OPT_SOCI,	/* int: enum soci_mode */
};

struct option_row {
	const char *name;
	enum option_type type;
	size_t field;		/* offset in struct fs_config */
	const char *def;	/* as text; NULL: unset */
	uint64_t min, max;
	const char *arg;	/* what help calls the value; NULL for flags */
	const char *help;
};

/* Converts value and stores it in ret.  p NULL: only checks, relative paths pass. */
errint_t option_store(const struct option_row *row, const char *value, const struct option_places *p,
		      struct fs_config *ret, struct err *e) _must_check_;
