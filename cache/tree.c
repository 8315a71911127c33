/*
 * tree.c - opening an image and reading it
 *
 * The format is described in tree_image.h and proven by tree_check.c; the accessors below rely on
 * that proof and check nothing again.
 *
 * tree_open_fd reads the image into an anonymous mapping instead of mapping the file.  A mapped
 * file raises SIGBUS when the disk fails or when somebody (another daemon's eviction cannot, but an
 * administrator can) truncates it under us, and what was proven at opening could be changed
 * afterwards.  The price is one copy; the kernel may still swap the pages out.
 */
#include "cache/tree_image.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "cache/tree_check.h"

#define READ_STEP (1u << 30)	/* one pread; Linux transfers at most 2 GiB - 4 KiB */

static pthread_mutex_t weak_lock = PTHREAD_MUTEX_INITIALIZER;	/* covers every weak, and what it points to; a leaf */

/* ---- opening -------------------------------------------------------------------------------- */

static errint_t place_sections(struct tree *t, struct err *e)
{
	const struct tree_head *h = t->image;
	const char *p = (const char *)t->image + sizeof(*h);

	if (t->len < sizeof(*h) || h->magic != TREE_MAGIC || h->zero != 0)
		return err_set(e, EBADMSG, ERR_INTEGRITY, "not a file tree of this version");
	if (h->nodes == 0 || h->nodes > TREE_NODES_MAX)
		return err_set(e, EBADMSG, ERR_INTEGRITY, "file tree with %u nodes", h->nodes);

	uint64_t need = sizeof(*h) + (uint64_t)h->nodes * sizeof(struct tree_node) +
			(uint64_t)h->extents * sizeof(struct tree_extent) +
			(uint64_t)h->xsets * sizeof(struct tree_xset) +
			(uint64_t)h->xattrs * sizeof(struct tree_xattr) + h->strings;

	if (need != t->len)
		return err_set(e, EBADMSG, ERR_INTEGRITY, "file tree of %zu bytes instead of %llu",
			       t->len, (unsigned long long)need);
	t->head = h;
	t->nodes = (const void *)p;
	t->extents = (const void *)(t->nodes + h->nodes);
	t->xsets = (const void *)(t->extents + h->extents);
	t->xattrs = (const void *)(t->xsets + h->xsets);
	t->strings = (const void *)(t->xattrs + h->xattrs);
	return 0;
}

/* Sparse files can claim any size; the sum stands still at its greatest value. */
static uint64_t sum_data(const struct tree *t)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < t->head->nodes; i++) {
		const struct tree_node *n = &t->nodes[i];

		if (n->type == TREE_REG && n->ino == i && __builtin_add_overflow(sum, n->u, &sum))
			return UINT64_MAX;
	}
	return sum;
}

bool tree_is_label(const char *name, size_t len)
{
	static const char acl[] = "system.posix_acl_", label[] = "security.selinux";

	return (len == sizeof(label) - 1 && memcmp(name, label, len) == 0) ||
	       (len > sizeof(acl) - 1 && memcmp(name, acl, sizeof(acl) - 1) == 0);
}

static bool find_labels(const struct tree *t)
{
	for (uint32_t i = 0; i < t->head->xattrs; i++)
		if (tree_is_label(t->strings + t->xattrs[i].name, t->xattrs[i].name_len))
			return true;
	return false;
}

static void image_free(struct tree *t)
{
	if (t->mapped)
		(void)munmap(t->image, t->len);
	else
		free(t->image);
	free(t);
}
DEFINE_CLEANUP(struct tree *, image_free)

/* Owns image from here on, whatever happens. */
static errint_t open_image(void *image, size_t len, bool mapped, struct tree **ret, struct err *e)
{
	_cleanup_(image_freep) struct tree *t = calloc(1, sizeof(*t));

	if (!t) {
		struct tree lost = { .image = image, .len = len, .mapped = mapped };

		if (lost.mapped)
			(void)munmap(lost.image, lost.len);
		else
			free(lost.image);
		return err_set(e, ENOMEM, ERR_LOCAL, "no memory for a file tree");
	}
	*t = (struct tree){ .image = image, .len = len, .mapped = mapped, .refs = 1 };

	errint_t r = place_sections(t, e);

	if (r == 0)
		r = tree_check(t, e);
	if (r < 0)
		return r;
	t->data_bytes = sum_data(t);
	t->labels = find_labels(t);
	*ret = steal_ptr(&t);
	return 0;
}

errint_t tree_open_mem(void *image, size_t len, struct tree **ret, struct err *e)
{
	return open_image(image, len, false, ret, e);
}

static errint_t read_all(int fd, char *dst, size_t len, struct err *e)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = pread(fd, dst + done, MIN_OF(len - done, (size_t)READ_STEP),
				  (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(e, errno, "cannot read a file tree");
		if (n == 0)
			return err_set(e, EBADMSG, ERR_INTEGRITY,
				       "file tree cut off after %zu bytes", done);
		done += (size_t)n;
	}
	return 0;
}

errint_t tree_open_fd(int fd, size_t len, struct tree **ret, struct err *e)
{
	if (len < sizeof(struct tree_head))
		return err_set(e, EBADMSG, ERR_INTEGRITY, "file tree of %zu bytes", len);

	void *image = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (image == MAP_FAILED)
		return err_errno(e, errno, "no memory for a file tree of %zu bytes", len);

	errint_t r = read_all(fd, image, len, e);

	if (r < 0) {
		(void)munmap(image, len);
		return r;
	}
	(void)mprotect(image, len, PROT_READ);
	return open_image(image, len, true, ret, e);
}

struct tree *tree_ref(struct tree *t)
{
	(void)__atomic_add_fetch(&t->refs, 1, __ATOMIC_RELAXED);
	return t;
}

struct tree *tree_unref(struct tree *t)
{
	if (!t || __atomic_sub_fetch(&t->refs, 1, __ATOMIC_ACQ_REL) > 0)
		return NULL;
	{
		LOCK_SCOPE(&weak_lock);
		if (t->weak)
			*t->weak = NULL;
	}
	image_free(t);
	return NULL;
}

static void forget_locked(struct tree **slot)
{
	if (*slot)
		(*slot)->weak = NULL;
	*slot = NULL;
}

void tree_weak_set(struct tree **slot, struct tree *t)
{
	LOCK_SCOPE(&weak_lock);
	forget_locked(slot);
	t->weak = slot;
	*slot = t;
}

void tree_weak_forget(struct tree **slot)
{
	LOCK_SCOPE(&weak_lock);
	forget_locked(slot);
}

/* Who has let go of the last reference comes for the lock next: what is at 0 is as good as gone. */
struct tree *tree_weak_get(struct tree **slot)
{
	LOCK_SCOPE(&weak_lock);
	struct tree *t = *slot;
	unsigned refs = t ? __atomic_load_n(&t->refs, __ATOMIC_RELAXED) : 0;

	while (refs > 0)
		if (__atomic_compare_exchange_n(&t->refs, &refs, refs + 1, true, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			return t;
	return NULL;
}

/* ---- reading -------------------------------------------------------------------------------- */

uint32_t tree_count(const struct tree *t)
{
	return t->head->nodes;
}

uint64_t tree_data_bytes(const struct tree *t)
{
	return t->data_bytes;
}

bool tree_has_labels(const struct tree *t)
{
	return t->labels;
}

const void *tree_image(const struct tree *t, size_t *ret_len)
{
	*ret_len = t->len;
	return t->image;
}

/* What u and v hold for this type. */
static void get_typed(const struct tree *t, const struct tree_node *f, struct tree_attr *ret)
{
	switch ((enum tree_type)f->type) {
	case TREE_DIR:
		ret->first_child = lo32(f->u);
		ret->n_children = hi32(f->u);
		break;
	case TREE_REG:
		ret->size = f->u;
		ret->data_off = f->flags & TREE_F_SPARSE ? 0 : f->v;
		break;
	case TREE_SYMLINK:
	case TREE_LINK:
		ret->target = t->strings + lo32(f->u);
		ret->target_len = hi32(f->u);
		ret->size = f->type == TREE_SYMLINK ? ret->target_len : 0;
		break;
	case TREE_CHR:
	case TREE_BLK:
		ret->rdev_major = lo32(f->u);
		ret->rdev_minor = hi32(f->u);
		break;
	case TREE_FIFO:
	case TREE_UNSET:
		break;
	}
}

void tree_get(const struct tree *t, uint32_t n, struct tree_attr *ret)
{
	const struct tree_node *d = &t->nodes[n], *f = &t->nodes[d->ino];

	*ret = (struct tree_attr){
		.type = (enum tree_type)f->type,
		.mode = f->mode,
		.uid = f->uid,
		.gid = f->gid,
		.mtime_s = f->mtime_s,
		.mtime_ns = f->mtime_ns,
		.nlink = f->nlink,
		.flags = f->flags | (f->xset ? TREE_F_XATTRS : 0u),
		.ino = d->ino,
		.parent = d->parent,
		.layer = f->layer,
		.name = node_name(t, d),
		.name_len = d->name_len,
	};
	get_typed(t, f, ret);
}

uint32_t tree_lookup(const struct tree *t, uint32_t dir, const char *name, size_t len)
{
	const struct tree_node *d = &t->nodes[dir];

	if (d->type != TREE_DIR)
		return TREE_NONE;

	uint32_t lo = lo32(d->u), hi = lo + hi32(d->u);

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		const struct tree_node *n = &t->nodes[mid];
		int c = name_cmp(node_name(t, n), n->name_len, name, len);

		if (c == 0)
			return mid;
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return TREE_NONE;
}

uint32_t tree_lookup_path(const struct tree *t, const char *path, size_t len)
{
	const char *p = path, *end = path + len;
	uint32_t n = TREE_ROOT;

	while (n != TREE_NONE && p < end) {
		const char *slash = memchr(p, '/', (size_t)(end - p));
		const char *stop = slash ? slash : end;

		if (stop > p)
			n = tree_lookup(t, n, p, (size_t)(stop - p));
		p = slash ? slash + 1 : end;
	}
	return n;
}

errint_t tree_path(const struct tree *t, uint32_t n, struct buf *ret)
{
	uint32_t up[TREE_DEPTH_MAX];
	size_t depth = 0, len = 0;

	for (; n != TREE_ROOT; n = t->nodes[n].parent) {
		up[depth++] = n;
		len += t->nodes[n].name_len + 1u;
	}
	if (len > TREE_PATH_MAX + 1u)
		return -ENAMETOOLONG;
	for (size_t i = depth; i-- > 0;) {
		const struct tree_node *c = &t->nodes[up[i]];

		(void)buf_add(ret, node_name(t, c), c->name_len);
		if (i > 0)
			(void)buf_addc(ret, '/');
	}
	return buf_check(ret);
}

bool tree_xattr(const struct tree *t, uint32_t n, size_t i, const char **ret_name,
		size_t *ret_name_len, const void **ret_value, size_t *ret_value_len)
{
	const struct tree_node *f = &t->nodes[t->nodes[n].ino];

	if (f->xset == 0 || i >= t->xsets[f->xset - 1].count)
		return false;

	const struct tree_xattr *x = &t->xattrs[t->xsets[f->xset - 1].first + i];

	*ret_name = t->strings + x->name;
	*ret_name_len = x->name_len;
	*ret_value = t->strings + x->value;
	*ret_value_len = x->value_len;
	return true;
}

bool tree_extent(const struct tree *t, uint32_t n, size_t i, struct tree_extent *ret)
{
	const struct tree_node *f = &t->nodes[t->nodes[n].ino];

	if (!(f->flags & TREE_F_SPARSE) || i >= hi32(f->v))
		return false;
	*ret = t->extents[lo32(f->v) + i];
	return true;
}
