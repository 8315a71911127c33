/*
 * options_value.c - the text of one option becomes a field of struct fs_config
 *
 * One function per type.  Each says in a sentence what it would have accepted.
 */
#include "fs/options_priv.h"

#include <ctype.h>
#include <strings.h>

#include "registry/ref.h"
#include "util/clock.h"
#include "util/log.h"

#define PLATFORM_MAX 128

static errint_t bad(const struct option_row *row, const char *value, struct err *e, const char *want)
{
	return err_set(e, EINVAL, ERR_INPUT, "option %s: \"%s\" is not %s", row->name, value, want);
}

static errint_t no_memory(struct err *e)
{
	return err_set(e, ENOMEM, ERR_LOCAL, "out of memory");
}

static errint_t set_text(char **field, char *value, struct err *e)
{
	if (!value)
		return no_memory(e);
	free(*field);
	*field = value;
	return 0;
}

/* ---- flags ---- */

static bool parse_bool(const char *value, bool *ret)
{
	static const char *const yes[] = { "yes", "true", "on", "1" };
	static const char *const no[] = { "no", "false", "off", "0" };

	for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
		*ret = strcasecmp(value, yes[i]) == 0;
		if (*ret || strcasecmp(value, no[i]) == 0)
			return true;
	}
	return false;
}

static errint_t store_flag(const struct option_row *row, const char *value, bool inverse, bool *field,
			   struct err *e)
{
	bool on;

	if (!parse_bool(value, &on))
		return bad(row, value, e, "yes or no");
	*field = on != inverse;
	return 0;
}

/* ---- numbers ---- */

/* Decimal digits, then at most one unit letter; units are pairs of letter and factor. */
struct unit {
	char letter;
	uint64_t factor;
};

static bool find_unit(const char *s, const struct unit *units, size_t n, uint64_t *ret)
{
	if (!*s) {
		*ret = 1;
		return true;
	}
	for (size_t i = 0; i < n; i++) {
		if (tolower((unsigned char)s[0]) == units[i].letter && !s[1]) {
			*ret = units[i].factor;
			return true;
		}
	}
	return false;
}

static bool parse_number(const char *s, const struct unit *units, size_t n_units, uint64_t *ret)
{
	uint64_t v = 0, factor;

	if (*s < '0' || *s > '9')
		return false;
	for (; *s >= '0' && *s <= '9'; s++)
		if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
			return false;
	return find_unit(s, units, n_units, &factor) && !__builtin_mul_overflow(v, factor, ret);
}

static errint_t out_of_range(const struct option_row *row, const char *value, const char *unit,
			     struct err *e)
{
	return err_set(e, EINVAL, ERR_INPUT, "option %s: %s is outside %llu to %llu%s", row->name, value,
		       (unsigned long long)row->min, (unsigned long long)row->max, unit);
}

static errint_t store_duration(const struct option_row *row, const char *value, uint64_t *field,
			       struct err *e)
{
	static const struct unit units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 } };
	uint64_t v;

	if (!parse_number(value, units, ARRAY_SIZE(units), &v))
		return bad(row, value, e, "a time such as 30, 30s, 5m or 2h");
	if (v < row->min || v > row->max)
		return out_of_range(row, value, " seconds", e);
	*field = v * NSEC_PER_SEC;
	return 0;
}

static errint_t store_size(const struct option_row *row, const char *value, uint64_t *field,
			   struct err *e)
{
	static const struct unit units[] = {
		{ 'k', UINT64_C(1) << 10 }, { 'm', UINT64_C(1) << 20 },
		{ 'g', UINT64_C(1) << 30 }, { 't', UINT64_C(1) << 40 },
	};
	uint64_t v;

	if (row->min == 0 && strcmp(value, "auto") == 0)
		v = 0;
	else if (!parse_number(value, units, ARRAY_SIZE(units), &v))
		return bad(row, value, e, "a size such as 512M, 10G or 1T");
	else if (v == 0)
		v = 1;	/* 0 would mean auto */
	if (v < row->min || v > row->max)
		return out_of_range(row, value, " bytes", e);
	*field = v;
	return 0;
}

static errint_t store_count(const struct option_row *row, const char *value, unsigned *field,
			    struct err *e)
{
	uint64_t v;

	if (!parse_number(value, NULL, 0, &v))
		return bad(row, value, e, "a number");
	if (v < row->min || v > row->max)
		return out_of_range(row, value, "", e);
	*field = (unsigned)v;
	return 0;
}

/* ---- words ---- */

static errint_t store_level(const struct option_row *row, const char *value, int *field, struct err *e)
{
	static const struct {
		const char *name;
		enum log_level level;
	} levels[] = {
		{ "error", LOG_LVL_ERROR }, { "warning", LOG_LVL_WARN }, { "warn", LOG_LVL_WARN },
		{ "info", LOG_LVL_INFO }, { "debug", LOG_LVL_DEBUG },
	};

	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		if (strcmp(value, levels[i].name) == 0) {
			*field = levels[i].level;
			return 0;
		}
	}
	return bad(row, value, e, "error, warning, info or debug");
}

static errint_t store_soci(const struct option_row *row, const char *value, int *field, struct err *e)
{
	static const char *const modes[] = { [SOCI_AUTO] = "auto", [SOCI_V2] = "v2", [SOCI_OFF] = "off" };

	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		if (strcmp(value, modes[i]) == 0) {
			*field = (int)i;
			return 0;
		}
	}
	return bad(row, value, e, "auto, v2 or off");
}

static bool is_printable(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			return false;
	return true;
}

static errint_t store_text(const struct option_row *row, const char *value, char **field, struct err *e)
{
	if (!*value || !is_printable(value))
		return bad(row, value, e, "a name without control characters");
	return set_text(field, strdup(value), e);
}

static bool is_platform(const char *s)
{
	unsigned parts = 1;
	size_t n = 0;

	if (strlen(s) > PLATFORM_MAX)
		return false;
	for (; *s; s++) {
		if (*s == '/') {
			if (n == 0)
				return false;
			parts++;
			n = 0;
		} else if (islower((unsigned char)*s) || isdigit((unsigned char)*s) || strchr("._-", *s)) {
			n++;
		} else {
			return false;
		}
	}
	return n > 0 && (parts == 2 || parts == 3);
}

static errint_t store_platform(const struct option_row *row, const char *value, char **field,
			       struct err *e)
{
	if (!is_platform(value))
		return bad(row, value, e, "OS/ARCH or OS/ARCH/VARIANT, such as linux/arm64/v8");
	return set_text(field, strdup(value), e);
}

/* ---- paths ---- */

/* base may be NULL: then the path cannot be made absolute. */
static errint_t join(const struct option_row *row, const char *base, const char *rest,
		     const char *missing, char **field, struct err *e)
{
	char *path = NULL;

	if (!base || *base != '/')
		return err_set(e, EINVAL, ERR_INPUT, "option %s: %s; give an absolute path", row->name,
			       missing);
	if (asprintf(&path, "%s/%s", base, rest) < 0)
		path = NULL;
	return set_text(field, path, e);
}

static errint_t store_path(const struct option_row *row, const char *value,
			   const struct option_places *p, char **field, struct err *e)
{
	if (!*value || !is_printable(value))
		return bad(row, value, e, "a path");
	if (*value == '/' || !p)
		return set_text(field, strdup(value), e);
	if (strncmp(value, "~/", 2) == 0)
		return join(row, p->home, value + 2, "the home directory is not known", field, e);
	return join(row, p->cwd, value, "a relative path has no meaning here", field, e);
}

/* ---- lists of hosts ---- */

/* "http://HOST" is a host that speaks no TLS. */
static const char *host_part(const char *host)
{
	return strncmp(host, "http://", 7) == 0 ? host + 7 : host;
}

static errint_t check_host(const struct option_row *row, const char *host, struct err *e)
{
	struct ref_source src = { 0 };
	errint_t r;

	if (strchr(host_part(host), '/') || strncmp(host, "dir:", 4) == 0)
		return err_set(e, EINVAL, ERR_INPUT,
			       "option %s: \"%s\" is not a HOST, HOST:PORT or http://HOST; hosts are joined by '+'",
			       row->name, host);
	r = ref_source_parse(host, &src, e);
	ref_source_done(&src);
	return err_wrap(e, r, "option %s", row->name);
}

static errint_t add_host(const struct option_row *row, char *host, struct fs_config *ret, struct err *e)
{
	_cleanup_free_ char *guard = host;
	char **more;
	errint_t r;

	if (!host)
		return no_memory(e);
	r = check_host(row, host, e);
	if (r < 0)
		return r;
	for (size_t i = 0; i < ret->n_registries; i++)
		if (strcmp(host_part(ret->registries[i]), host_part(host)) == 0)
			return 0;
	if (ret->n_registries == OPTIONS_HOSTS_MAX)
		return err_set(e, EINVAL, ERR_LIMIT, "option %s: more than %d hosts", row->name,
			       OPTIONS_HOSTS_MAX);
	more = realloc(ret->registries, (ret->n_registries + 1) * sizeof(*more));
	if (!more)
		return no_memory(e);
	ret->registries = more;
	ret->registries[ret->n_registries++] = steal_ptr(&guard);
	return 0;
}

static errint_t store_hosts(const struct option_row *row, const char *value, struct fs_config *ret,
			    struct err *e)
{
	static const char separators[] = "+, \t";
	errint_t r = 0;

	while (r == 0 && *(value += strspn(value, separators))) {
		size_t n = strcspn(value, separators);

		r = add_host(row, strndup(value, n), ret, e);
		value += n;
	}
	return r;
}

errint_t option_store(const struct option_row *row, const char *value, const struct option_places *p,
		      struct fs_config *ret, struct err *e)
{
	void *field = (char *)ret + row->field;

	switch (row->type) {
	case OPT_FLAG:
		return store_flag(row, value, false, field, e);
	case OPT_INVERSE:
		return store_flag(row, value, true, field, e);
	case OPT_DURATION:
		return store_duration(row, value, field, e);
	case OPT_SIZE:
		return store_size(row, value, field, e);
	case OPT_COUNT:
		return store_count(row, value, field, e);
	case OPT_PATH:
		return store_path(row, value, p, field, e);
	case OPT_TEXT:
		return store_text(row, value, field, e);
	case OPT_PLATFORM:
		return store_platform(row, value, field, e);
	case OPT_HOSTS:
		return store_hosts(row, value, ret, e);
	case OPT_LEVEL:
		return store_level(row, value, field, e);
	case OPT_SOCI:
		return store_soci(row, value, field, e);
	}
	return err_set(e, EINVAL, ERR_BUG, "option %s has no type", row->name);
}
