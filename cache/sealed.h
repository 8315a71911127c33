/*
 * sealed.h - files that know whether they are whole (private to cache/)
 *
 *	data		len bytes, at offset 0
 *	table		CRC-32 of each SEALED_BLOCK of the data, 4 bytes each
 *	footer		SEALED_FOOTER bytes: magic, version, block size, len, ident, CRC of the
 *			table, CRC of the footer
 *
 * All numbers are little-endian.  The file's size follows from len, so anything cut off, appended
 * to or filled with zeros is found when it is opened; a flipped bit in the data is found when its
 * block is first read.  `ident` names what the file is meant to hold (a CRC of the object's path),
 * so that a sound file in the wrong place is corrupt too.
 *
 * Files are read with pread only: a disk error is an errno, never a SIGBUS.
 *
 * Threads: a sealed_writer has one owner; a struct sealed may be read from any thread (what has
 * been verified is an atomic bitmap, the rest is immutable).
 */
#pragma once

#include <stdint.h>
#include <stddef.h>
#include <sys/types.h>

#include "cache/le.h"
#include "util/cleanup.h"
#include "util/err.h"

#define SEALED_BLOCK (64u << 10)
#define SEALED_FOOTER 36u
#define SEALED_MAGIC "RGFSSEAL"
#define SEALED_VERSION 1u
#define SEALED_LEN_MAX (UINT64_C(1) << 40)	/* data of one file; its table then has 64 MiB */

/* Where the footer's fields are. */
enum {
	SEALED_AT_VERSION = 8,
	SEALED_AT_BLOCK = 12,
	SEALED_AT_LEN = 16,
	SEALED_AT_IDENT = 24,
	SEALED_AT_TABLE_CRC = 28,
	SEALED_AT_CRC = 32,
};

uint64_t sealed_size(uint64_t len);	/* of the file that holds len bytes of data */

/* ---- writing */
struct sealed_writer;
/* fd is borrowed, empty, and open for writing.  NULL: no memory. */
struct sealed_writer *sealed_writer_new(int fd, uint32_t ident);
struct sealed_writer *sealed_writer_free(struct sealed_writer *w);
DEFINE_CLEANUP(struct sealed_writer *, sealed_writer_free)
/* Advances *data and *len by what was taken; after an error the rest may be tried again. */
errint_t sealed_writer_add(struct sealed_writer *w, const void **data, size_t *len, struct err *e)
	_must_check_;
/* Writes what is left, the table and the footer; may be tried again after an error. */
errint_t sealed_writer_end(struct sealed_writer *w, struct err *e) _must_check_;
uint64_t sealed_writer_len(const struct sealed_writer *w);

/* ---- reading */
struct sealed;
/* Takes fd over when it returns 0.  -EBADMSG (INTEGRITY): not a whole sealed file of this ident;
 * -EIO and the like: the disk failed. */
errint_t sealed_open(int fd, uint32_t ident, struct sealed **ret, struct err *e) _must_check_;
struct sealed *sealed_free(struct sealed *f);
DEFINE_CLEANUP(struct sealed *, sealed_free)
uint64_t sealed_len(const struct sealed *f);
int sealed_fd(const struct sealed *f);
/* Exactly len bytes; off + len must not exceed sealed_len.  Errors as for sealed_open. */
errint_t sealed_read(struct sealed *f, uint64_t off, void *dst, size_t len, struct err *e)
	_must_check_;
/* Checks all blocks that have not been checked yet. */
errint_t sealed_verify(struct sealed *f, struct err *e) _must_check_;

/* ---- faults, for tests: what is not NULL replaces the system call in all of cache/ */
struct ca_faults {
	ssize_t (*pwrite)(int fd, const void *p, size_t n, off_t off);
	ssize_t (*pread)(int fd, void *p, size_t n, off_t off);
	int (*renameat)(int from_dir, const char *from, int to_dir, const char *to);
	int (*unlinkat)(int dir, const char *name, int flags);
};
void ca_store_set_faults(const struct ca_faults *f);	/* NULL: none */
ssize_t ca_sys_pwrite(int fd, const void *p, size_t n, off_t off);
ssize_t ca_sys_pread(int fd, void *p, size_t n, off_t off);
int ca_sys_renameat(int from_dir, const char *from, int to_dir, const char *to);
int ca_sys_unlinkat(int dir, const char *name);
