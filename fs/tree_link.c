/*
 * tree_link.c - symbolic links that never leave their tree (DESIGN.md 3.1)
 *
 * What is shown is the relative way from the directory of the link to the directory where the last
 * component of its target is looked up, and that component.  The way is found as chroot would find
 * it: component by component from the root of the tree, following links, `..` at the root staying
 * there.  So it consists of `..`, as many as lead to a common directory at most, and of real
 * directories: whoever follows it stays inside.  The last component may be a link again, which shows
 * its own safe text, relative to where it is itself.
 *
 * Targets that lead nowhere show what is left of them from the missing component on, but never a
 * `..`: that component exists for nobody (or is a dangling link), the rest is decoration, and a `..`
 * behind a name whose place is not known is what escapes are made of.  A target that cannot be
 * resolved at all - a loop, or one too long to be shown - becomes a link to itself.
 *
 * A hard link of a layer to a file of another layer (TREE_LINK) is shown as a symbolic link too; its
 * target is relative to the root.
 */
#include "fs/tree_link.h"

#include <string.h>

#define LINK_HOPS_MAX 40	/* symbolic links followed for one target, as the kernel does */

/* A walk inside the tree: cur is where it stands. */
struct walk {
	const struct tree *t;
	uint32_t cur;
	unsigned hops;
};

struct part {
	const char *s;
	size_t len;
};

static bool is_dotdot(struct part c)
{
	return c.len == 2 && c.s[0] == '.' && c.s[1] == '.';
}

static bool is_link(const struct tree_attr *a)
{
	return a->type == TREE_SYMLINK || a->type == TREE_LINK;
}

/* Takes the next component off p, passing over "." and empty ones. */
static bool next_part(struct part *p, struct part *ret)
{
	while (p->len) {
		const char *slash = memchr(p->s, '/', p->len);
		size_t n = slash ? (size_t)(slash - p->s) : p->len;

		*ret = (struct part){ p->s, n };
		p->s += n + (slash != NULL);
		p->len -= n + (slash != NULL);
		if (n && !(n == 1 && ret->s[0] == '.'))
			return true;
	}
	return false;
}

static bool is_last(struct part p)
{
	struct part c;

	return !next_part(&p, &c);
}

static errint_t walk_all(struct walk *w, const struct tree_attr *link);

static errint_t walk_step(struct walk *w, struct part c)
{
	struct tree_attr a;
	uint32_t next;

	tree_get(w->t, w->cur, &a);
	if (a.type != TREE_DIR)
		return -ENOTDIR;
	if (is_dotdot(c)) {
		w->cur = a.parent;
		return 0;
	}
	next = tree_lookup(w->t, w->cur, c.s, c.len);
	if (next == TREE_NONE)
		return -ENOENT;
	tree_get(w->t, next, &a);
	if (is_link(&a))
		return walk_all(w, &a);
	w->cur = next;
	return 0;
}

static void walk_begin(struct walk *w, const struct tree_attr *link)
{
	if (link->type == TREE_LINK || (link->target_len && link->target[0] == '/'))
		w->cur = TREE_ROOT;
}

/* To the very end of a link that is met in directory w->cur. */
static errint_t walk_all(struct walk *w, const struct tree_attr *link)
{
	struct part p = { link->target, link->target_len }, c;
	errint_t r = 0;

	if (++w->hops > LINK_HOPS_MAX)
		return -ELOOP;
	walk_begin(w, link);
	while (r == 0 && next_part(&p, &c))
		r = walk_step(w, c);
	return r;
}

/* To the directory of the last component, or of the first that is not there; *ret begins with it
 * (and is empty when the target ends with `..`). */
static errint_t walk_to_last(struct walk *w, const struct tree_attr *link, struct part *ret)
{
	struct part p = { link->target, link->target_len }, c;

	*ret = (struct part){ "", 0 };
	walk_begin(w, link);
	for (struct part here = p; next_part(&p, &c); here = p) {
		uint32_t before = w->cur;
		errint_t r = 0;

		if (!is_last(p) || is_dotdot(c))
			r = walk_step(w, c);
		else
			*ret = here;
		if (r == -ENOENT || r == -ENOTDIR) {
			w->cur = before;
			*ret = here;
			return 0;
		}
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- writing it ---- */

static unsigned depth_of(const struct tree *t, uint32_t n)
{
	unsigned d = 0;
	struct tree_attr a;

	for (; n != TREE_ROOT; n = a.parent, d++)
		tree_get(t, n, &a);
	return d;
}

static uint32_t up(const struct tree *t, uint32_t n)
{
	struct tree_attr a;

	tree_get(t, n, &a);
	return a.parent;
}

/* Appends the relative way from directory `from` to node `to`: "../../usr/lib", "" when equal. */
static errint_t add_way(const struct tree *t, uint32_t from, uint32_t to, struct buf *out)
{
	_cleanup_buf_ struct buf down = BUF_INIT(TREE_PATH_MAX);
	_cleanup_buf_ struct buf common = BUF_INIT(TREE_PATH_MAX);
	unsigned df = depth_of(t, from), dt = depth_of(t, to), ups = 0;
	uint32_t a = from, b = to;
	errint_t r;

	for (; df > dt; df--, ups++)
		a = up(t, a);
	for (; dt > df; dt--)
		b = up(t, b);
	for (; a != b; a = up(t, a), b = up(t, b))
		ups++;
	for (unsigned i = 0; i < ups; i++)
		buf_adds(out, i ? "/.." : "..");
	if (to == a)
		return buf_check(out);
	r = tree_path(t, to, &down);
	if (r == 0)
		r = tree_path(t, a, &common);
	if (r < 0)
		return r;
	if (ups)
		buf_addc(out, '/');
	return buf_adds(out, down.data + common.len + (common.len ? 1 : 0));
}

/* Appends what is left, up to the first `..`; a final slash, since it demands a directory. */
static void add_rest(struct part rest, struct buf *out)
{
	bool slash = rest.len && rest.s[rest.len - 1] == '/', dot = false;
	struct part p = rest, c;

	if (rest.len >= 2 && rest.s[rest.len - 1] == '.' && rest.s[rest.len - 2] == '/')
		dot = true;
	while (next_part(&p, &c)) {
		if (is_dotdot(c)) {
			slash = true;
			break;
		}
		if (out->len)
			buf_addc(out, '/');
		buf_add(out, c.s, c.len);
	}
	if (out->len && (slash || dot))
		buf_addc(out, '/');
}

static errint_t resolve(const struct tree *t, const struct tree_attr *a, struct buf *out)
{
	struct walk w = { .t = t, .cur = a->parent };
	struct part rest;
	errint_t r = walk_to_last(&w, a, &rest);

	if (r == 0)
		r = add_way(t, a->parent, w.cur, out);
	if (r < 0)
		return r;
	add_rest(rest, out);
	if (!out->len)
		buf_addc(out, '.');
	return buf_check(out);
}

errint_t tree_link_text(const struct tree *t, uint32_t n, struct buf *out)
{
	_cleanup_buf_ struct buf b = BUF_INIT(TREE_LINK_TEXT_MAX);
	struct tree_attr a;
	errint_t r;

	tree_get(t, n, &a);
	r = resolve(t, &a, &b);
	if (r == -ENOMEM)
		return r;
	/* No way, or none that can be said: a link to itself tells whoever follows. */
	return r < 0 ? buf_add(out, a.name, a.name_len) : buf_add(out, buf_str(&b), b.len);
}
