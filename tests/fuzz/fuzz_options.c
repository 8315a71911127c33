/*
 * fuzz_options.c - option strings, configuration files and the mount table
 *
 * The first byte chooses the parser; nothing here touches the disk.
 */
#include <string.h>

#include "fs/mountinfo.h"
#include "fs/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void finish(const struct option_set *s)
{
	static const struct option_places p = { .home = "/home/u", .cwd = "/", .root = true };
	struct fs_config c = { 0 };

	if (options_finish(s, &p, &c, NULL) == 0 && !c.options_text)
		__builtin_trap();
	fs_config_done(&c);
}

static void environment(struct option_set *s, const char *text, size_t len)
{
	_cleanup_free_ char *var = malloc(len + 1);
	struct err e = { 0 };

	if (!var)
		return;
	memcpy(var, text, len);
	var[len] = '\0';
	if (options_from_environment(s, (char *[]){ var, NULL }, &e) == 0)
		finish(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_(option_set_freep) struct option_set *s = option_set_new();
	_cleanup_mounts_ struct mount_list l = { 0 };
	const char *text = (const char *)data + 1;
	struct err e = { 0 };
	errint_t r = -1;

	if (size == 0 || !s)
		return 0;
	switch (data[0]) {
	case 'o':
		r = options_from_mount(s, text, size - 1, &e);
		break;
	case 'f':
		r = options_from_file(s, FROM_USER_FILE, "file", text, size - 1, &e);
		break;
	case 'e':
		environment(s, text, size - 1);
		return 0;
	default:
		(void)mount_list_parse(text, size - 1, &l, &e);
		return 0;
	}
	if (r == 0)
		finish(s);
	else if (!*e.msg)
		__builtin_trap();
	return 0;
}
