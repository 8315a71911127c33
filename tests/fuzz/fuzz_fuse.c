/*
 * fuzz_fuse.c - any sequence of requests from a kernel that keeps to the protocol's framing
 *
 * (libfuse trusts the lengths inside requests, so those are right.)  Node ids and handles are
 * sometimes ones that were given out, sometimes not.  At the end of each input: every request has
 * been answered exactly once, and after forgetting all ids that were seen nothing is left.
 */
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fs/fuse_priv.h"
#include "tests/unit/fusewire.h"
#include "tests/unit/toyfs.h"

#define REQUESTS_MAX 200
#define REQUEST_SIZE 16384u
#define SEEN_MAX 4096
#define WAKERS_END_MS 5000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t ids[SEEN_MAX], fhs[SEEN_MAX];
static size_t n_ids, n_fhs;
#define UNIQUE_MAX (2 * REQUESTS_MAX + 2)	/* as many again to end with */
static uint8_t opcodes[UNIQUE_MAX], answers[UNIQUE_MAX];

static void expect(bool ok)
{
	if (!ok)
		abort();
}

static void saw_id(uint64_t id)
{
	expect(n_ids < SEEN_MAX);
	if (id)
		ids[n_ids++] = id;
}

static void saw_dir(const char *p, size_t len)
{
	for (size_t at = 0; at < len;) {
		const struct fuse_direntplus *d = (const void *)(p + at);

		saw_id(d->entry_out.nodeid);
		at += FUSE_DIRENTPLUS_SIZE(d);
	}
}

/* What our file system writes to the kernel. */
static ssize_t take_reply(int fd, struct iovec *iov, int count, void *userdata)
{
	static char text[2 << 20];
	const struct fuse_out_header *h = (const void *)text;
	const char *body = text + sizeof(*h);
	size_t len = 0;

	(void)fd, (void)userdata;
	LOCK_SCOPE(&lock);
	for (int i = 0; i < count; i++) {
		memcpy(text + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	expect(len >= sizeof(*h) && h->len == len && h->error <= 0 && h->error > -512);
	expect(h->unique < UNIQUE_MAX && h->error != -ENOSYS);
	answers[h->unique] += h->error != -EAGAIN; /* libfuse's own answer to an INTERRUPT */
	if (h->error == 0 && opcodes[h->unique] == FUSE_LOOKUP)
		saw_id(((const struct fuse_entry_out *)body)->nodeid);
	if (h->error == 0 && opcodes[h->unique] == FUSE_READDIRPLUS)
		saw_dir(body, len - sizeof(*h));
	if (h->error == 0 &&
	    (opcodes[h->unique] == FUSE_OPEN || opcodes[h->unique] == FUSE_OPENDIR))
		fhs[n_fhs++] = ((const struct fuse_open_out *)body)->fh;
	return (ssize_t)len;
}

static ssize_t read_nothing(int fd, void *buf, size_t len, void *userdata)
{
	(void)fd, (void)buf, (void)len, (void)userdata;
	errno = ENODEV;
	return -1;
}

/* ---- the input ---- */

struct input {
	const uint8_t *p;
	size_t left;
};

static uint8_t byte(struct input *in)
{
	if (in->left == 0)
		return 0;
	in->left--;
	return *in->p++;
}

static uint64_t number(struct input *in)
{
	uint64_t v = 0;

	for (unsigned n = byte(in) % 9; n > 0; n--)
		v = v << 8 | byte(in);
	return v;
}

static uint64_t pick(struct input *in, const uint64_t *seen, const size_t *n)
{
	uint8_t b = byte(in);

	LOCK_SCOPE(&lock);
	if (b & 1)
		return 1;
	return *n && b < 240 ? seen[b % *n] + (b & 2 ? 0 : b / 64) : number(in);
}

/* Room for every argument struct, then a name and the like. */
static size_t fill(struct input *in, uint32_t opcode, char *arg)
{
	static const char *const names[] = { "hello", "dir",  "tree", "f5",
					     "slow",  "dark", "ctl",  "bad" };
	uint8_t b = byte(in);
	uint64_t *n = (uint64_t *)(void *)arg;

	switch (opcode) {
	case FUSE_LOOKUP:
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_REMOVEXATTR:
		if (b < 200)
			return (size_t)snprintf(arg, 64, "%s", names[b % ARRAY_SIZE(names)]) + 1;
		for (unsigned i = 0; i < b; i++)
			arg[i] = (char)byte(in);
		return b + 1u;
	case FUSE_READ:
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
		*(struct fuse_read_in *)(void *)arg = (struct fuse_read_in){
			.fh = pick(in, fhs, &n_fhs),
			.offset = number(in),
			.size = (uint32_t)number(in) % 100000,
		};
		return sizeof(struct fuse_read_in);
	case FUSE_WRITE:
		*(struct fuse_write_in *)(void *)arg = (struct fuse_write_in){
			.fh = pick(in, fhs, &n_fhs), .offset = number(in), .size = b,
		};
		return sizeof(struct fuse_write_in) + b;
	case FUSE_BATCH_FORGET:
		*(struct fuse_batch_forget_in *)(void *)arg =
			(struct fuse_batch_forget_in){ .count = b % 4 };
		for (unsigned i = 1; i < 9; i++)
			n[i] = pick(in, ids, &n_ids);
		return sizeof(uint64_t) * 9;
	case FUSE_INTERRUPT:
		n[0] = number(in) % UNIQUE_MAX;
		return sizeof(uint64_t);
	default:
		n[0] = b & 1 ? pick(in, fhs, &n_fhs) : number(in);
		for (unsigned i = 1; i < 12; i++)
			n[i] = number(in);
		return 12 * sizeof(uint64_t);
	}
}

static void send_request(struct fuse_mount *m, uint64_t unique, uint32_t opcode, uint64_t nodeid,
			 const void *arg, size_t len)
{
	char *mem = calloc(1, REQUEST_SIZE);
	struct fuse_in_header h = {
		.len = (uint32_t)(sizeof(h) + len),
		.opcode = opcode,
		.unique = unique,
		.nodeid = nodeid,
	};
	struct fuse_buf buf = { .mem = mem, .size = h.len };

	memcpy(mem, &h, sizeof(h));
	memcpy(mem + sizeof(h), arg, len);
	opcodes[unique] = (uint8_t)opcode;
	fuse_session_process_buf(m->se, &buf);
	free(mem);
}

static bool has_answer(uint32_t opcode)
{
	return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT;
}

static uint64_t play(struct fuse_mount *m, struct input *in)
{
	static const uint8_t table[] = {
		FUSE_LOOKUP,	  FUSE_LOOKUP,	    FUSE_LOOKUP,      FUSE_FORGET,
		FUSE_GETATTR,	  FUSE_SETATTR,	    FUSE_READLINK,    FUSE_MKDIR,
		FUSE_UNLINK,	  FUSE_RMDIR,	    FUSE_OPEN,	      FUSE_OPEN,
		FUSE_READ,	  FUSE_READ,	    FUSE_WRITE,	      FUSE_STATFS,
		FUSE_RELEASE,	  FUSE_FSYNC,	    FUSE_GETXATTR,    FUSE_LISTXATTR,
		FUSE_REMOVEXATTR, FUSE_FLUSH,	    FUSE_OPENDIR,     FUSE_OPENDIR,
		FUSE_READDIR,	  FUSE_RELEASEDIR,  FUSE_INTERRUPT,   FUSE_BATCH_FORGET,
		FUSE_READDIRPLUS, FUSE_READDIRPLUS, FUSE_READDIRPLUS, FUSE_RENAME2,
	};
	uint64_t unique = 1;

	while (in->left > 0 && unique < REQUESTS_MAX) {
		_Alignas(8) char arg[4096] = { 0 };
		uint8_t b = byte(in);
		uint32_t opcode = table[b % sizeof(table)];
		uint64_t nodeid = pick(in, ids, &n_ids);

		if (b > 250)
			atomic_store(&toy_gate_open, true);
		size_t len = fill(in, opcode, arg);

		send_request(m, ++unique, opcode, nodeid, arg, len);
	}
	return unique;
}

/* libfuse keeps late INTERRUPTs, and leaks them at the end; each request takes one away. */
static uint64_t flush_interrupts(struct fuse_mount *m, uint64_t last)
{
	unsigned n = 0;

	for (uint64_t u = 2; u <= last; u++)
		n += opcodes[u] == FUSE_INTERRUPT;
	while (n-- > 0)
		send_request(m, ++last, FUSE_STATFS, 1, "", 0);
	return last;
}

/* Who completes a flight may hold an operation, and with it a node, a moment longer than its answer. */
static bool only_root_is_left(struct node_table *nodes)
{
	for (unsigned i = 0; i < WAKERS_END_MS && node_count(nodes) > 1; i++)
		(void)usleep(1000);
	return node_count(nodes) == 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct fuse_custom_io io = { .writev = take_reply, .read = read_nothing };
	struct fuse_init_in init = { .major = 7, .minor = 36, .flags = FUSE_DO_READDIRPLUS };
	struct input in = { data, size };
	struct fuse_mount *m;
	struct toy toy;
	uint64_t last;

	n_ids = n_fhs = 0;
	memset(answers, 0, sizeof(answers));
	atomic_store(&toy_gate_open, false);
	toy_up(&toy);
	if (fuse_mount_new_custom(&toy.fs, &io, open("/dev/null", O_RDWR | O_CLOEXEC), &m, NULL) <
	    0)
		abort();
	send_request(m, 1, FUSE_INIT, 0, &init, sizeof(init));
	last = flush_interrupts(m, play(m, &in));
	engine_drain(toy.fs.engine);
	for (uint64_t u = 2; u <= last; u++)
		expect(answers[u] == has_answer(opcodes[u]));
	for (size_t i = 0; i < n_ids; i++)
		node_forget(toy.fs.nodes, ids[i], UINT64_MAX);
	expect(node_lookups(toy.fs.nodes) == 0);
	(void)fuse_mount_free(m);
	expect(only_root_is_left(toy.fs.nodes));
	toy_down(&toy);
	return 0;
}
