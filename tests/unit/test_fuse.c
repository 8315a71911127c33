/*
 * test_fuse.c - the session over a socket, with a kernel made of a few functions
 *
 * Needs neither /dev/fuse nor privileges.  Each test serves toyfs.h on its own socket pair.
 */
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "fs/fuse_priv.h"
#include "fusewire.h"
#include "toyfs.h"
#include "unit.h"
#include "util/clock.h"

#define MSG_MAX (1u << 20)
#define WAIT_MS 5000

/* ---- both ends of the socket ---- */

static ssize_t sock_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	(void)userdata;
	return writev(fd, iov, count);
}

/* The end of the socket is what an unmount is for /dev/fuse. */
static ssize_t sock_read(int fd, void *buf, size_t len, void *userdata)
{
	ssize_t n = recv(fd, buf, len, 0);

	(void)userdata;
	if (n == 0)
		errno = ENODEV;
	return n > 0 ? n : -1;
}

static const struct fuse_custom_io sock_io = { .writev = sock_writev, .read = sock_read };

struct kernel {
	struct toy toy;
	struct fuse_mount *m;
	pthread_t server;
	int fd;
	uint64_t unique;
	atomic_int ready;
	errint_t served;
	/* the last reply */
	struct fuse_out_header head;
	char body[MSG_MAX];
	size_t len;
};

static void on_ready(void *arg)
{
	atomic_fetch_add((atomic_int *)arg, 1);
}

static void *serve(void *arg)
{
	struct kernel *k = arg;

	k->served = fuse_mount_serve(k->m, on_ready, &k->ready, NULL);
	return NULL;
}

static uint64_t post_as(struct kernel *k, uint32_t opcode, uint64_t nodeid, const void *arg,
			size_t len, uint32_t pid)
{
	struct fuse_in_header in = {
		.len = (uint32_t)(sizeof(in) + len),
		.opcode = opcode,
		.unique = ++k->unique,
		.nodeid = nodeid,
		.pid = pid,
	};
	struct iovec iov[] = { { &in, sizeof(in) }, { (void *)(uintptr_t)arg, len } };

	CHECK(writev(k->fd, iov, 2) == (ssize_t)in.len);
	return in.unique;
}

static uint64_t post(struct kernel *k, uint32_t opcode, uint64_t nodeid, const void *arg,
		     size_t len)
{
	return post_as(k, opcode, nodeid, arg, len, 0);
}

/* Takes the next reply; false when none comes within ms. */
static bool take(struct kernel *k, int ms)
{
	struct pollfd p = { .fd = k->fd, .events = POLLIN };
	struct iovec iov[] = { { &k->head, sizeof(k->head) }, { k->body, sizeof(k->body) } };
	ssize_t n = poll(&p, 1, ms) == 1 ? readv(k->fd, iov, 2) : -1;

	if (n < (ssize_t)sizeof(k->head))
		return false;
	k->len = (size_t)n - sizeof(k->head);
	CHECK_EQ_INT(k->head.len, n);
	return true;
}

/* Request and reply; the error of the reply. */
static int ask(struct kernel *k, uint32_t opcode, uint64_t nodeid, const void *arg, size_t len)
{
	uint64_t unique = post(k, opcode, nodeid, arg, len);

	if (!CHECK(take(k, WAIT_MS)))
		return -ENOMSG;
	CHECK_EQ_INT(k->head.unique, unique);
	return k->head.error;
}

static int greet(struct kernel *k)
{
	struct fuse_init_in in = {
		.major = 7,
		.minor = 36,
		.max_readahead = 131072,
		.flags = FUSE_ASYNC_READ | FUSE_PARALLEL_DIROPS | FUSE_ATOMIC_O_TRUNC |
			 FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_AUTO_INVAL_DATA |
			 FUSE_WRITEBACK_CACHE | FUSE_BIG_WRITES | FUSE_MAX_PAGES,
	};

	return ask(k, FUSE_INIT, 0, &in, sizeof(in));
}

static struct kernel *kernel_up(void)
{
	struct kernel *k = calloc(1, sizeof(*k));
	int fds[2], size = 4 << 20;

	atomic_store(&toy_gate_open, false);
	atomic_store(&toy_noted, 0);
	atomic_store(&toy_works, 0);
	toy_up(&k->toy);
	CHECK_OK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
	for (int i = 0; i < 2; i++)
		setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	k->fd = fds[0];
	CHECK_OK(fuse_mount_new_custom(&k->toy.fs, &sock_io, fds[1], &k->m, NULL));
	pthread_create(&k->server, NULL, serve, k);
	CHECK_OK(greet(k));
	return k;
}

/* stop: by the daemon; else by closing the socket, as an unmount does. */
static void kernel_down(struct kernel *k, bool stop)
{
	if (stop)
		fuse_mount_stop(k->m);
	else
		close(k->fd);
	pthread_join(k->server, NULL);
	CHECK_OK(k->served);
	CHECK_EQ_INT(k->ready, 1);
	if (stop)
		close(k->fd);
	fuse_mount_free(k->m);
	toy_down(&k->toy);
	free(k);
}

/* ---- requests ---- */

static int lookup(struct kernel *k, uint64_t dir, const char *name, struct fuse_entry_out *ret)
{
	int r = ask(k, FUSE_LOOKUP, dir, name, strlen(name) + 1);

	if (r == 0)
		memcpy(ret, k->body, sizeof(*ret));
	return r;
}

static void forget(struct kernel *k, uint64_t id, uint64_t n)
{
	post(k, FUSE_FORGET, id, &(struct fuse_forget_in){ n }, sizeof(struct fuse_forget_in));
}

static int open_node(struct kernel *k, uint32_t opcode, uint64_t id, int flags,
		     struct fuse_open_out *ret)
{
	struct fuse_open_in in = { .flags = (uint32_t)flags };
	int r = ask(k, opcode, id, &in, sizeof(in));

	if (r == 0)
		memcpy(ret, k->body, sizeof(*ret));
	return r;
}

static struct fuse_read_in read_in(uint64_t fh, uint64_t off, uint32_t size)
{
	return (struct fuse_read_in){ .fh = fh, .offset = off, .size = size };
}

static void release(struct kernel *k, uint32_t opcode, uint64_t id, uint64_t fh)
{
	CHECK_OK(ask(k, opcode, id, &(struct fuse_release_in){ .fh = fh },
		     sizeof(struct fuse_release_in)));
}

/* The session works on several threads: a FORGET is done when the count says so. */
static bool lookups_become(struct kernel *k, uint64_t n)
{
	for (int i = 0; i < 2000 && node_lookups(k->toy.fs.nodes) != n; i++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	return node_lookups(k->toy.fs.nodes) == n;
}

/* An operation lets go of its node a moment after its reply. */
static bool nodes_become(struct kernel *k, size_t n)
{
	for (int i = 0; i < 2000 && node_count(k->toy.fs.nodes) != n; i++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	return node_count(k->toy.fs.nodes) == n;
}

/* ---- tests ---- */

TEST(init_asks_for_what_we_decided)
{
	struct kernel *k = kernel_up();
	struct fuse_init_out out;

	memcpy(&out, k->body, MIN_OF(k->len, sizeof(out)));
	CHECK(out.flags & FUSE_ASYNC_READ);
	CHECK(out.flags & FUSE_PARALLEL_DIROPS);
	CHECK(out.flags & FUSE_ATOMIC_O_TRUNC);
	CHECK(out.flags & FUSE_DO_READDIRPLUS);
	CHECK(!(out.flags & FUSE_READDIRPLUS_AUTO));
	CHECK(!(out.flags & FUSE_WRITEBACK_CACHE));
	CHECK(!(out.flags & FUSE_AUTO_INVAL_DATA));
	CHECK_EQ_INT(out.max_background, 64);
	CHECK_EQ_INT(out.congestion_threshold, 48);
	kernel_down(k, false);
}

TEST(lookup_counts_and_forget_undoes)
{
	struct kernel *k = kernel_up();
	struct fuse_entry_out e, again;

	CHECK_OK(lookup(k, 1, "hello", &e));
	CHECK_EQ_INT(e.attr.size, 12);
	CHECK_EQ_INT(e.generation, 0);
	CHECK(e.entry_valid > 1000 && e.attr_valid > 1000);
	CHECK_OK(lookup(k, 1, "hello", &again));
	CHECK_EQ_INT(e.nodeid, again.nodeid);
	CHECK_EQ_INT(e.attr.ino, again.attr.ino);
	CHECK(lookups_become(k, 2));
	forget(k, e.nodeid, 1);
	CHECK(lookups_become(k, 1));
	forget(k, e.nodeid, 1);
	CHECK(lookups_become(k, 0));
	CHECK(nodes_become(k, 1));
	CHECK_ERR(ask(k, FUSE_GETATTR, e.nodeid, &(struct fuse_getattr_in){ 0 },
		      sizeof(struct fuse_getattr_in)),
		  -ESTALE);
	kernel_down(k, false);
}

TEST(forget_multi_works)
{
	struct kernel *k = kernel_up();
	struct fuse_entry_out a, b;
	struct {
		struct fuse_batch_forget_in in;
		struct fuse_forget_one one[2];
	} batch = { .in = { .count = 2 } };

	CHECK_OK(lookup(k, 1, "hello", &a));
	CHECK_OK(lookup(k, 1, "dir", &b));
	batch.one[0] = (struct fuse_forget_one){ a.nodeid, 1 };
	batch.one[1] = (struct fuse_forget_one){ b.nodeid, 1 };
	post(k, FUSE_BATCH_FORGET, 0, &batch, sizeof(batch));
	CHECK(lookups_become(k, 0));
	kernel_down(k, false);
}

TEST(negative_entries_are_cached_when_the_kind_says_so)
{
	struct kernel *k = kernel_up();
	struct fuse_entry_out e;

	CHECK_OK(lookup(k, 1, "never", &e));
	CHECK_EQ_INT(e.nodeid, 0);
	CHECK(e.entry_valid > 1000);
	CHECK_ERR(lookup(k, 1, "absent", &e), -ENOENT);
	CHECK_EQ_INT(node_lookups(k->toy.fs.nodes), 0);
	kernel_down(k, false);
}

TEST(names_over_255_bytes_are_refused)
{
	struct kernel *k = kernel_up();
	struct fuse_entry_out e;
	char name[300] = { 0 };

	memset(name, 'x', 256);
	CHECK_ERR(lookup(k, 1, name, &e), -ENAMETOOLONG);
	CHECK_ERR(lookup(k, 1, "a/b", &e), -ENOENT);
	CHECK_ERR(lookup(k, 1, "..", &e), -ENOENT);
	kernel_down(k, false);
}

/* Reads a directory through a buffer of `size` bytes; gathers ids and counts names. */
static unsigned read_dir(struct kernel *k, uint64_t id, bool plus, uint32_t size, uint64_t *ids,
			 unsigned *ret_refs)
{
	struct fuse_open_out o;
	unsigned names = 0, refs = 0;
	uint64_t off = 0;

	if (!CHECK_OK(open_node(k, FUSE_OPENDIR, id, 0, &o)))
		return 0;
	for (;;) {
		struct fuse_read_in in = read_in(o.fh, off, size);
		size_t at = 0;

		if (!CHECK_OK(
			    ask(k, plus ? FUSE_READDIRPLUS : FUSE_READDIR, id, &in, sizeof(in))) ||
		    k->len == 0)
			break;
		while (at < k->len) {
			struct fuse_direntplus *p = (void *)(k->body + at);
			struct fuse_dirent *d = plus ? &p->dirent : (void *)(k->body + at);

			if (plus && p->entry_out.nodeid)
				ids[refs++] = p->entry_out.nodeid;
			CHECK(d->ino != 0);
			CHECK(d->off > off);
			off = d->off;
			names++;
			at += plus ? FUSE_DIRENTPLUS_SIZE(p) : FUSE_DIRENT_SIZE(d);
		}
		CHECK_EQ_INT(at, k->len);
	}
	release(k, FUSE_RELEASEDIR, id, o.fh);
	*ret_refs = refs;
	return names;
}

TEST(readdirplus_counts_exactly_with_tiny_buffers)
{
	struct kernel *k = kernel_up();
	uint64_t ids[2000];
	unsigned refs;

	for (uint32_t size = 170; size < 2000; size += 61) {
		/* ".", "..", eight names; "dark" is not known without waiting: no reference. */
		CHECK_EQ_INT(read_dir(k, 1, true, size, ids, &refs), 10);
		CHECK_EQ_INT(refs, 7);
		CHECK(lookups_become(k, 7));
		for (unsigned i = 0; i < refs; i++)
			forget(k, ids[i], 1);
		CHECK(lookups_become(k, 0));
	}
	CHECK_EQ_INT(atomic_load(&toy_works), 0);
	CHECK_EQ_INT(read_dir(k, 1, false, 100, ids, &refs), 10);
	CHECK_EQ_INT(refs, 0);
	CHECK_EQ_INT(node_lookups(k->toy.fs.nodes), 0);
	kernel_down(k, false);
}

TEST(a_tree_of_1000_files_is_one_node)
{
	struct kernel *k = kernel_up();
	struct fuse_entry_out tree;
	uint64_t ids[2000];
	unsigned refs = 0;

	CHECK_OK(lookup(k, 1, "tree", &tree));
	CHECK(tree.nodeid >> 63);
	CHECK_EQ_INT(read_dir(k, tree.nodeid, true, 4096, ids, &refs), 1002);
	CHECK_EQ_INT(refs, 1000);
	CHECK(nodes_become(k, 2));
	CHECK(lookups_become(k, 1001));
	for (unsigned i = 0; i < refs; i++)
		forget(k, ids[i], 1);
	forget(k, tree.nodeid, 1);
	CHECK(lookups_become(k, 0));
	CHECK(nodes_become(k, 1));
	kernel_down(k, false);
}

/* Names with attributes in the reply from *off on, which moves behind it. */
static unsigned read_some(struct kernel *k, uint64_t id, uint64_t fh, uint64_t *off, unsigned *ret_names)
{
	struct fuse_read_in in = read_in(fh, *off, 4096);
	unsigned refs = 0;

	*ret_names = 0;
	if (!CHECK_OK(ask(k, FUSE_READDIRPLUS, id, &in, sizeof(in))))
		return 0;
	for (size_t at = 0; at < k->len; (*ret_names)++) {
		struct fuse_direntplus *p = (void *)(k->body + at);

		refs += p->entry_out.nodeid != 0;
		*off = p->dirent.off;
		at += FUSE_DIRENTPLUS_SIZE(p);
	}
	return refs;
}

TEST(a_lean_listing_gives_attributes_to_those_who_look)
{
	struct kernel *k = kernel_up();
	struct fuse_entry_out tree, e;
	struct fuse_open_out o;
	uint64_t off = 0, lookups = 1;
	unsigned names, refs;

	atomic_store(&toy_lean, true);
	CHECK_OK(lookup(k, 1, "tree", &tree));
	CHECK_OK(open_node(k, FUSE_OPENDIR, tree.nodeid, 0, &o));
	refs = read_some(k, tree.nodeid, o.fh, &off, &names);	/* all but ".", ".." and the first */
	CHECK(names > 10);
	CHECK_EQ_INT(refs, names - 3);
	lookups += refs;
	CHECK_EQ_INT(read_some(k, tree.nodeid, o.fh, &off, &names), 0);
	CHECK(names > 10);
	CHECK_OK(lookup(k, tree.nodeid, "f500", &e));
	refs = read_some(k, tree.nodeid, o.fh, &off, &names);
	CHECK_EQ_INT(refs, names - 1);
	lookups += refs + 1;
	CHECK_EQ_INT(read_some(k, tree.nodeid, o.fh, &off, &names), 0);
	CHECK(lookups_become(k, lookups));
	release(k, FUSE_RELEASEDIR, tree.nodeid, o.fh);
	atomic_store(&toy_lean, false);
	kernel_down(k, false);
}

TEST(offsets_are_cookies_and_rewinding_lists_anew)
{
	struct kernel *k = kernel_up();
	struct fuse_open_out o;
	struct fuse_read_in in;
	struct fuse_dirent *d = (void *)k->body;

	CHECK_OK(open_node(k, FUSE_OPENDIR, 1, 0, &o));
	in = read_in(o.fh, 5, 4096);
	CHECK_OK(ask(k, FUSE_READDIR, 1, &in, sizeof(in)));
	CHECK(d->namelen == 3 && memcmp(d->name, "dir", 3) == 0);
	in = read_in(o.fh, 0, 4096);
	CHECK_OK(ask(k, FUSE_READDIR, 1, &in, sizeof(in)));
	CHECK(d->namelen == 1);
	CHECK_OK(ask(k, FUSE_READDIR, 1, &in, sizeof(in)));
	CHECK(d->namelen == 1);
	in = read_in(o.fh, UINT64_C(1) << 40, 4096);
	CHECK_OK(ask(k, FUSE_READDIR, 1, &in, sizeof(in)));
	CHECK_EQ_INT(k->len, 0);
	release(k, FUSE_RELEASEDIR, 1, o.fh);
	CHECK_ERR(ask(k, FUSE_READDIR, 1, &in, sizeof(in)), -EBADF);
	kernel_down(k, false);
}

TEST(files_are_read_at_offsets)
{
	struct kernel *k = kernel_up();
	struct fuse_entry_out e;
	struct fuse_open_out o;
	struct fuse_read_in in;

	CHECK_OK(lookup(k, 1, "hello", &e));
	CHECK_OK(open_node(k, FUSE_OPEN, e.nodeid, 0, &o));
	CHECK(o.open_flags & FOPEN_KEEP_CACHE);
	in = read_in(o.fh, 6, 4096);
	CHECK_OK(ask(k, FUSE_READ, e.nodeid, &in, sizeof(in)));
	CHECK(k->len == 6 && memcmp(k->body, "world\n", 6) == 0);
	in = read_in(o.fh, 100, 4096);
	CHECK_OK(ask(k, FUSE_READ, e.nodeid, &in, sizeof(in)));
	CHECK_EQ_INT(k->len, 0);
	in = read_in(o.fh, 0, 4096);
	CHECK_ERR(ask(k, FUSE_READ, 1, &in, sizeof(in)), -EBADF); /* a handle of another node */
	in = read_in(o.fh + 1, 0, 4096);
	CHECK_ERR(ask(k, FUSE_READ, e.nodeid, &in, sizeof(in)), -EBADF);
	CHECK_ERR(open_node(k, FUSE_OPEN, e.nodeid, O_RDWR, &o), -EROFS);
	release(k, FUSE_RELEASE, e.nodeid, read_in(o.fh, 0, 0).fh);
	CHECK_OK(lookup(k, 1, "link", &e));
	CHECK_OK(ask(k, FUSE_READLINK, e.nodeid, NULL, 0));
	CHECK(k->len == 5 && memcmp(k->body, "hello", 5) == 0);
	for (int i = 0; i < 2000 && handle_count(k->m->handles) > 0; i++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	CHECK_EQ_INT(handle_count(k->m->handles), 0);
	kernel_down(k, false);
}

TEST(what_is_listed_by_the_thousand_knows_no_acls_and_no_labels)
{
	static const struct {
		const char *name;
		int r, r_many;
	} q[] = {
		{ "system.posix_acl_access", -ENODATA, -EOPNOTSUPP },
		{ "security.selinux", -ENODATA, -EOPNOTSUPP },
		{ "security.capability", -ENODATA, -ENODATA },
	};
	struct kernel *k = kernel_up();
	struct fuse_entry_out e, tree, many;

	CHECK_OK(lookup(k, 1, "hello", &e));
	CHECK_OK(lookup(k, 1, "tree", &tree));
	CHECK_OK(lookup(k, 1, "dir", &many));
	for (size_t i = 0; i < ARRAY_SIZE(q); i++) {
		struct {
			struct fuse_getxattr_in in;
			char name[32];
		} x = { .in = { .size = 1000 } };

		memcpy(x.name, q[i].name, strlen(q[i].name) + 1);
		CHECK_ERR(ask(k, FUSE_GETXATTR, e.nodeid, &x, sizeof(x)), q[i].r);
		CHECK_ERR(ask(k, FUSE_GETXATTR, many.nodeid, &x, sizeof(x)), q[i].r_many);
		CHECK_ERR(ask(k, FUSE_GETXATTR, tree.nodeid, &x, sizeof(x)), -ENODATA);
	}
	kernel_down(k, false);
}

TEST(a_small_file_comes_along_with_its_open)
{
	struct kernel *k = kernel_up();
	struct fuse_open_in in = { 0 };
	struct fuse_notify_store_out out;
	struct fuse_entry_out e;
	struct fuse_open_out o;
	uint64_t tree, unique;

	CHECK_OK(lookup(k, 1, "tree", &e));
	tree = e.nodeid;
	CHECK_OK(lookup(k, tree, "f7", &e));
	unique = post(k, FUSE_OPEN, e.nodeid, &in, sizeof(in));
	CHECK(take(k, WAIT_MS));
	CHECK_EQ_INT(k->head.unique, 0);
	CHECK_EQ_INT(k->head.error, FUSE_NOTIFY_STORE);
	memcpy(&out, k->body, sizeof(out));
	CHECK(out.nodeid == e.nodeid && out.offset == 0 && out.size == 3);
	CHECK(k->len == sizeof(out) + 3 && memcmp(k->body + sizeof(out), "abc", 3) == 0);
	CHECK(take(k, WAIT_MS));
	CHECK_EQ_INT(k->head.unique, unique);
	CHECK_OK(k->head.error);
	memcpy(&o, k->body, sizeof(o));
	release(k, FUSE_RELEASE, e.nodeid, o.fh);
	/* Nothing but the answer: less than the whole is not sent, nor what nobody offers. */
	CHECK_OK(lookup(k, tree, "f8", &e));
	CHECK_OK(open_node(k, FUSE_OPEN, e.nodeid, 0, &o));
	CHECK_OK(lookup(k, tree, "f9", &e));
	CHECK_OK(open_node(k, FUSE_OPEN, e.nodeid, 0, &o));
	CHECK_EQ_INT(atomic_load(&k->m->pushing), 0);
	kernel_down(k, false);
}

TEST(a_directory_that_never_changes_is_listed_when_it_is_read)
{
	struct kernel *k = kernel_up();
	int lists = atomic_load(&toy_tree_lists);
	struct fuse_entry_out e;
	struct fuse_open_out o;
	struct fuse_read_in in;

	CHECK_OK(lookup(k, 1, "tree", &e));
	CHECK_OK(open_node(k, FUSE_OPENDIR, e.nodeid, 0, &o));
	CHECK_EQ_INT(atomic_load(&toy_tree_lists), lists);
	in = read_in(o.fh, 500, 4096);		/* the kernel has the rest, or somebody has seeked */
	CHECK_OK(ask(k, FUSE_READDIR, e.nodeid, &in, sizeof(in)));
	CHECK(k->len > 0);
	in = read_in(o.fh, 2 + TOY_TREE_FILES, 4096);
	CHECK_OK(ask(k, FUSE_READDIR, e.nodeid, &in, sizeof(in)));
	CHECK_EQ_INT(k->len, 0);
	CHECK_EQ_INT(atomic_load(&toy_tree_lists), lists + 1);
	release(k, FUSE_RELEASEDIR, e.nodeid, o.fh);
	kernel_down(k, false);
}

TEST(a_failure_says_why_in_an_xattr)
{
	struct kernel *k = kernel_up();
	struct fuse_entry_out e;
	struct fuse_open_out o;
	struct fuse_read_in in;
	struct {
		struct fuse_getxattr_in in;
		char name[32];
	} x = { .in = { .size = 1000 }, .name = "user.registryfs.error" };

	CHECK_OK(lookup(k, 1, "bad", &e));
	CHECK_ERR(ask(k, FUSE_GETXATTR, e.nodeid, &x, sizeof(x)), -ENODATA);
	CHECK_EQ_INT(atomic_load(&toy_noted), 0);
	CHECK_OK(open_node(k, FUSE_OPEN, e.nodeid, 0, &o));
	in = read_in(o.fh, 0, 4096);
	CHECK_ERR(ask(k, FUSE_READ, e.nodeid, &in, sizeof(in)), -EIO);
	CHECK_EQ_INT(atomic_load(&toy_noted), 1);
	CHECK_OK(ask(k, FUSE_GETXATTR, e.nodeid, &x, sizeof(x)));
	CHECK(k->len > 10 && memmem(k->body, k->len, "the registry is on fire", 23));
	x.in.size = 0;
	CHECK_OK(ask(k, FUSE_GETXATTR, e.nodeid, &x, sizeof(x)));
	x.in.size = 3;
	CHECK_ERR(ask(k, FUSE_GETXATTR, e.nodeid, &x, sizeof(x)), -ERANGE);
	x.in.size = 1000;
	CHECK_OK(ask(k, FUSE_LISTXATTR, e.nodeid, &x.in, sizeof(x.in)));
	CHECK(memmem(k->body, k->len, "user.toy", 9) && memmem(k->body, k->len, x.name, 22));
	kernel_down(k, false);
}

TEST(control_files_can_be_written)
{
	struct kernel *k = kernel_up();
	struct fuse_entry_out e;
	struct fuse_open_out o;
	struct {
		struct fuse_write_in in;
		char data[8];
	} w = { .in = { .size = 5 }, .data = "value" };
	struct fuse_setattr_in s = { .valid = FATTR_SIZE };

	CHECK_OK(lookup(k, 1, "ctl", &e));
	CHECK_OK(open_node(k, FUSE_OPEN, e.nodeid, O_WRONLY | O_TRUNC, &o));
	CHECK(o.open_flags & FOPEN_DIRECT_IO);
	w.in.fh = o.fh;
	CHECK_OK(ask(k, FUSE_WRITE, e.nodeid, &w, sizeof(w.in) + 5));
	CHECK_EQ_INT(((struct fuse_write_out *)k->body)->size, 5);
	w.in.offset = 5;
	memcpy(w.data, "bad!!", 5);
	CHECK_ERR(ask(k, FUSE_WRITE, e.nodeid, &w, sizeof(w.in) + 5), -EPERM);
	CHECK_OK(ask(k, FUSE_FLUSH, e.nodeid, &(struct fuse_flush_in){ .fh = o.fh },
		     sizeof(struct fuse_flush_in)));
	CHECK_OK(ask(k, FUSE_SETATTR, e.nodeid, &s, sizeof(s)));
	s.valid = FATTR_MODE;
	CHECK_ERR(ask(k, FUSE_SETATTR, e.nodeid, &s, sizeof(s)), -EROFS);
	release(k, FUSE_RELEASE, e.nodeid, o.fh);
	CHECK_OK(lookup(k, 1, "hello", &e));
	s.valid = FATTR_SIZE;
	CHECK_ERR(ask(k, FUSE_SETATTR, e.nodeid, &s, sizeof(s)), -EROFS);
	kernel_down(k, false);
}

TEST(the_rest_is_read_only_and_nothing_is_enosys)
{
	struct kernel *k = kernel_up();
	struct {
		char in[64], name[64];
	} a = { .in = "", .name = "" };

	memset(&a, 0, sizeof(a));
	CHECK_ERR(ask(k, FUSE_MKDIR, 1, &a, sizeof(a)), -EROFS);
	CHECK_ERR(ask(k, FUSE_MKNOD, 1, &a, sizeof(a)), -EROFS);
	CHECK_ERR(ask(k, FUSE_UNLINK, 1, "hello", 6), -EROFS);
	CHECK_ERR(ask(k, FUSE_RMDIR, 1, "dir", 4), -EROFS);
	CHECK_ERR(ask(k, FUSE_SYMLINK, 1, "a\0b", 4), -EROFS);
	CHECK_ERR(ask(k, FUSE_RENAME, 1, &a, sizeof(a)), -EROFS);
	CHECK_ERR(ask(k, FUSE_RENAME2, 1, &a, sizeof(a)), -EROFS);
	CHECK_ERR(ask(k, FUSE_LINK, 1, &a, sizeof(a)), -EROFS);
	CHECK_ERR(ask(k, FUSE_CREATE, 1, &a, sizeof(a)), -EROFS);
	CHECK_ERR(ask(k, FUSE_SETXATTR, 1, &a, sizeof(a)), -EROFS);
	CHECK_ERR(ask(k, FUSE_REMOVEXATTR, 1, "user.x", 7), -EROFS);
	CHECK_ERR(ask(k, FUSE_FALLOCATE, 1, &a, sizeof(a)), -EROFS);
	CHECK_OK(ask(k, FUSE_STATFS, 1, NULL, 0));
	CHECK(((struct fuse_statfs_out *)k->body)->st.blocks > 0);
	CHECK(((struct fuse_statfs_out *)k->body)->st.bsize > 0);
	kernel_down(k, false);
}

/* ---- waiting ---- */

static uint64_t open_slow(struct kernel *k, uint64_t *ret_fh)
{
	struct fuse_entry_out e = { 0 };
	struct fuse_open_out o = { 0 };

	CHECK_OK(lookup(k, 1, "slow", &e));
	CHECK_OK(open_node(k, FUSE_OPEN, e.nodeid, 0, &o));
	*ret_fh = o.fh;
	return e.nodeid;
}

static void read_slow(struct kernel *k, uint64_t id, uint64_t fh, uint32_t pid)
{
	struct fuse_read_in in = read_in(fh, 0, 4096);

	post_as(k, FUSE_READ, id, &in, sizeof(in), pid);
}

static bool parked_become(struct kernel *k, size_t n)
{
	for (int i = 0; i < 2000 && engine_parked(k->toy.fs.engine) != n; i++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	return engine_parked(k->toy.fs.engine) == n;
}

TEST(waiting_reads_do_not_hold_up_others)
{
	struct kernel *k = kernel_up();
	struct fuse_entry_out e;
	uint64_t fh, id = open_slow(k, &fh), before;

	for (int i = 0; i < 40; i++)
		read_slow(k, id, fh, 0);
	CHECK(parked_become(k, 40));
	before = clock_mono_ns();
	CHECK_OK(lookup(k, 1, "hello", &e));
	CHECK(clock_mono_ns() - before < 10 * NSEC_PER_MSEC);
	CHECK(!take(k, 50));
	CHECK_EQ_INT(atomic_load(&toy_works), 1);
	atomic_store(&toy_gate_open, true);
	for (int i = 0; i < 40; i++) {
		CHECK(take(k, WAIT_MS));
		CHECK_OK(k->head.error);
		CHECK_EQ_INT(k->len, 4);
	}
	CHECK(!take(k, 50)); /* each is answered once */
	kernel_down(k, false);
}

TEST(an_interrupt_of_an_invisible_caller_ends_its_read)
{
	struct kernel *k = kernel_up();
	uint64_t fh, id = open_slow(k, &fh), unique;
	struct fuse_interrupt_in in;

	read_slow(k, id, fh, 0);
	unique = k->unique;
	CHECK(parked_become(k, 1));
	in.unique = unique;
	post(k, FUSE_INTERRUPT, 0, &in, sizeof(in));
	CHECK(take(k, WAIT_MS));
	CHECK_EQ_INT(k->head.unique, unique);
	CHECK_ERR(k->head.error, -EINTR);
	CHECK(!take(k, 50));
	kernel_down(k, false);
}

TEST(an_interrupt_of_a_living_caller_ends_nothing)
{
	struct kernel *k = kernel_up();
	uint64_t fh, id = open_slow(k, &fh);
	struct fuse_interrupt_in in;

	read_slow(k, id, fh, (uint32_t)syscall(SYS_gettid));
	in.unique = k->unique;
	post(k, FUSE_INTERRUPT, 0, &in, sizeof(in));
	CHECK(!take(k, 700));
	atomic_store(&toy_gate_open, true);
	CHECK(take(k, WAIT_MS));
	CHECK_OK(k->head.error);
	kernel_down(k, false);
}

TEST(many_interrupts_and_answers_race)
{
	struct kernel *k = kernel_up();
	uint64_t fh, id = open_slow(k, &fh);
	unsigned answers = 0;

	for (int i = 0; i < 300; i++) {
		struct fuse_interrupt_in in;

		atomic_store(&toy_gate_open, i % 3 == 0);
		read_slow(k, id, fh, 0);
		in.unique = k->unique;
		post(k, FUSE_INTERRUPT, 0, &in, sizeof(in));
	}
	/* An INTERRUPT that was faster than its request is answered with EAGAIN: not counted. */
	atomic_store(&toy_gate_open, true);
	while (answers < 300 && take(k, WAIT_MS))
		answers += k->head.error != -EAGAIN;
	CHECK_EQ_INT(answers, 300);
	/* libfuse keeps late INTERRUPTs (and leaks them at the end); each request takes one away.
	 */
	for (int i = 0; i < 300; i++)
		post(k, FUSE_STATFS, 1, NULL, 0);
	while (take(k, 100))
		;
	kernel_down(k, false);
}

TEST(stopping_answers_what_waits)
{
	struct kernel *k = kernel_up();
	uint64_t fh, id = open_slow(k, &fh), before;

	for (int i = 0; i < 10; i++)
		read_slow(k, id, fh, 0);
	CHECK(parked_become(k, 10));
	before = clock_mono_ns();
	fuse_mount_stop(k->m);
	for (int i = 0; i < 10; i++) {
		CHECK(take(k, WAIT_MS));
		CHECK_ERR(k->head.error, -ENOTCONN);
	}
	kernel_down(k, true);
	CHECK(clock_mono_ns() - before < NSEC_PER_SEC);
}

TEST(an_unmount_with_waiting_reads_does_not_hang)
{
	struct kernel *k = kernel_up();
	uint64_t fh, id = open_slow(k, &fh);

	for (int i = 0; i < 10; i++)
		read_slow(k, id, fh, 0);
	CHECK(parked_become(k, 10));
	kernel_down(k, false);
}

TEST(stopping_an_idle_mount_is_prompt)
{
	struct kernel *k = kernel_up();
	uint64_t before = clock_mono_ns();

	kernel_down(k, true);
	CHECK(clock_mono_ns() - before < NSEC_PER_SEC);
}

/* ---- invalidations ---- */

TEST(an_answer_older_than_an_invalidation_is_not_cached)
{
	struct kernel *k = kernel_up();
	struct fuse_entry_out *e = (void *)k->body;
	struct fuse_notify_inval_entry_out *n = (void *)k->body;

	post(k, FUSE_LOOKUP, 1, "dark", 5);
	CHECK(parked_become(k, 1));
	notify_inval_entry(k->toy.fs.notifier, 1, "dark");
	CHECK(take(k, WAIT_MS));
	CHECK_EQ_INT(k->head.unique, 0);
	CHECK_EQ_INT(k->head.error, FUSE_NOTIFY_INVAL_ENTRY);
	CHECK_EQ_INT(n->parent, 1);
	CHECK_EQ_STR(k->body + sizeof(*n), "dark");
	atomic_store(&toy_gate_open, true);
	CHECK(take(k, WAIT_MS));
	CHECK_OK(k->head.error);
	CHECK_EQ_INT(e->entry_valid, 0);
	CHECK_EQ_INT(e->entry_valid_nsec, 0);
	CHECK_OK(lookup(k, 1, "dark", e));
	CHECK(e->entry_valid > 1000);
	notify_inval_node(k->toy.fs.notifier, e->nodeid);
	CHECK(take(k, WAIT_MS));
	CHECK_EQ_INT(k->head.error, FUSE_NOTIFY_INVAL_INODE);
	kernel_down(k, false);
}

/* ---- numbers ---- */

TEST(errors_are_clamped_for_the_kernel)
{
	CHECK_EQ_INT(fuse_errno(-ENOENT), ENOENT);
	CHECK_EQ_INT(fuse_errno(-ENOSYS), EOPNOTSUPP);
	CHECK_EQ_INT(fuse_errno(-EINPROGRESS), EIO);
	CHECK_EQ_INT(fuse_errno(-ECANCELED), EINTR);
	CHECK_EQ_INT(fuse_errno(-512), EIO);
	CHECK_EQ_INT(fuse_errno(-100000), EIO);
	CHECK_EQ_INT(fuse_errno(5), EIO);
	CHECK_EQ_INT(fuse_errno(-ESTALE), ESTALE);
}
