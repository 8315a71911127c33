/*
 * errors.c - why something failed: the ring behind .control/errors, the node's xattr, the log
 *
 * One line in the log per failure, but at most ERRORS_LOGGED_PER_MIN a minute: a `find` over a dead
 * registry must not fill a disk.  The ring and the xattr always get it.
 */
#include <stdio.h>

#include "fs/fs.h"
#include "util/clock.h"
#include "util/log.h"

#define ERRORS_LOGGED_PER_MIN 60

/* Under errors_lock: may this one be logged?  *ret_dropped: how many were not since the last line. */
static bool may_log(uint64_t *ret_dropped)
{
	static uint64_t window_ns, logged, dropped;
	uint64_t now = clock_mono_ns();

	if (now - window_ns > 60 * NSEC_PER_SEC) {
		window_ns = now;
		logged = 0;
	}
	if (logged >= ERRORS_LOGGED_PER_MIN) {
		dropped++;
		return false;
	}
	logged++;
	*ret_dropped = dropped;
	dropped = 0;
	return true;
}

void fs_note_error(struct fs *fs, struct node *n, const struct err *e)
{
	_cleanup_buf_ struct buf path = BUF_INIT(4096);
	_cleanup_buf_ struct buf text = BUF_INIT(8192);
	uint64_t dropped = 0;
	bool log;

	if (n) {
		node_path(n, &path);
		node_set_error(n, e);
		/* A node that cannot even be stat'ed cannot show it. */
		if (n->parent)
			node_set_error(n->parent, e);
	}
	buf_add_text(&text, buf_str(&path), path.len);
	{
		LOCK_SCOPE(&fs->errors_lock);
		struct fs_error *slot = &fs->errors[fs->n_errors++ % FS_ERRORS_KEPT];

		slot->when_s = clock_real_s();
		slot->err = *e;
		(void)snprintf(slot->path, sizeof(slot->path), "%s", buf_str(&text));
		log = may_log(&dropped);
	}
	if (!log)
		return;
	if (dropped)
		log_warn("%llu failures were not logged", (unsigned long long)dropped);
	log_warn("/%s: %s: %s", buf_str(&text), err_class_name(e->cls), e->msg);
}

static void error_line(const struct fs_error *x, struct buf *out)
{
	char when[32];

	buf_addf(out, "%s /%s: ", clock_format_rfc3339(x->when_s, when, sizeof(when)), x->path);
	buf_add_text(out, x->err.msg, strlen(x->err.msg));
	buf_addf(out, " [%s", err_class_name(x->err.cls));
	if (x->err.http)
		buf_addf(out, ", HTTP %d", x->err.http);
	if (x->err.code[0])
		buf_addf(out, ", %s", x->err.code);
	buf_addf(out, ", %s]\n", strerrorname_np(x->err.eno) ? strerrorname_np(x->err.eno) : "errno");
}

void fs_errors_text(struct fs *fs, struct buf *out)
{
	LOCK_SCOPE(&fs->errors_lock);
	uint64_t first = fs->n_errors > FS_ERRORS_KEPT ? fs->n_errors - FS_ERRORS_KEPT : 0;

	for (uint64_t i = first; i < fs->n_errors; i++)
		error_line(&fs->errors[i % FS_ERRORS_KEPT], out);
}
