/*
 * fuse_io.c - reading and writing the session's descriptor, and one repair
 *
 * libfuse before 3.17 asks the kernel whether it can do look-ups and listings of one directory in
 * parallel, but forgets to say that we want it (libfuse c9905341).  Without it the kernel lets one
 * request per directory through at a time: a look-up that waits for the network would hold up every
 * other one beside it, and `ls` too.  So the answer to INIT is amended on its way.
 */
#include "fs/fuse_priv.h"

#include <string.h>
#include <sys/uio.h>

#define PROTO_PARALLEL_DIROPS (UINT32_C(1) << 18)
#define INIT_OUT_FLAGS 12	/* offset of flags in the answer to INIT */
#define FIXED_IN_VERSION 317

static ssize_t device_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	(void)userdata;
	return writev(fd, iov, count);
}

static ssize_t device_read(int fd, void *buf, size_t len, void *userdata)
{
	(void)userdata;
	return read(fd, buf, len);
}

static const struct fuse_custom_io device_io = { .writev = device_writev, .read = device_read };

/* The answer to INIT is the first thing we write once the handler has been called. */
static void amend_greeting(const struct iovec *iov, int count)
{
	uint32_t flags;
	char *at;

	if (count < 2 || iov[1].iov_len < INIT_OUT_FLAGS + sizeof(flags))
		return;
	at = (char *)iov[1].iov_base + INIT_OUT_FLAGS;
	memcpy(&flags, at, sizeof(flags));
	flags |= PROTO_PARALLEL_DIROPS;
	memcpy(at, &flags, sizeof(flags));
}

static ssize_t session_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	struct fuse_mount *m = userdata;

	if (atomic_load_explicit(&m->amend_greeting, memory_order_relaxed) &&
	    atomic_exchange(&m->amend_greeting, false))
		amend_greeting(iov, count);
	return m->io->writev(fd, iov, count, userdata);
}

static ssize_t session_read(int fd, void *buf, size_t len, void *userdata)
{
	struct fuse_mount *m = userdata;

	return m->io->read(fd, buf, len, userdata);
}

errint_t fuse_io_attach(struct fuse_mount *m, const struct fuse_custom_io *io, int fd)
{
	static const struct fuse_custom_io session_io = { .writev = session_writev,
							  .read = session_read };

	if (!io && fuse_version() >= FIXED_IN_VERSION)
		return 0;
	m->io = io ? io : &device_io;
	return fuse_session_custom_io(m->se, &session_io, fd) == 0 ? 0 : -EINVAL;
}
