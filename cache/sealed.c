/*
 * sealed.c - writing and reading sealed files (format: sealed.h)
 *
 * The writer gathers one block, and writes it when the next byte comes: `flushed` is always a
 * multiple of SEALED_BLOCK until the end, and every write goes to an offset that follows from the
 * state.  So a write that failed can be repeated, and nothing is ever written twice to two places.
 *
 * The reader holds the table in memory (1/16384 of the data).  A read goes to the caller's memory
 * in one pread; then each block of it that has not been verified in this process is checked: from
 * the caller's memory when it is all there, else by reading that block into a scratch buffer.
 * The bitmap is relaxed: two threads may check the same block, none can skip the check.
 */
#include "cache/sealed.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/crc.h"

/* ---- system calls, with faults ------------------------------------------------------------- */

static _Atomic(const struct ca_faults *) faults;

void ca_store_set_faults(const struct ca_faults *f)
{
	atomic_store(&faults, f);
}

ssize_t ca_sys_pwrite(int fd, const void *p, size_t n, off_t off)
{
	const struct ca_faults *f = atomic_load_explicit(&faults, memory_order_acquire);

	return f && f->pwrite ? f->pwrite(fd, p, n, off) : pwrite(fd, p, n, off);
}

ssize_t ca_sys_pread(int fd, void *p, size_t n, off_t off)
{
	const struct ca_faults *f = atomic_load_explicit(&faults, memory_order_acquire);

	return f && f->pread ? f->pread(fd, p, n, off) : pread(fd, p, n, off);
}

int ca_sys_renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	const struct ca_faults *f = atomic_load_explicit(&faults, memory_order_acquire);

	return f && f->renameat ? f->renameat(from_dir, from, to_dir, to) :
				  renameat(from_dir, from, to_dir, to);
}

int ca_sys_unlinkat(int dir, const char *name)
{
	const struct ca_faults *f = atomic_load_explicit(&faults, memory_order_acquire);

	return f && f->unlinkat ? f->unlinkat(dir, name, 0) : unlinkat(dir, name, 0);
}

static errint_t write_all(int fd, const uint8_t *p, size_t n, uint64_t off, struct err *e)
{
	while (n > 0) {
		ssize_t k = ca_sys_pwrite(fd, p, n, (off_t)off);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return err_errno(e, k < 0 ? errno : EIO, "writing to the cache");
		p += k;
		n -= (size_t)k;
		off += (size_t)k;
	}
	return 0;
}

static errint_t corrupt(struct err *e, const char *what)
{
	return err_set(e, EBADMSG, ERR_INTEGRITY, "cache file is damaged: %s", what);
}

static errint_t read_all(int fd, void *dst, size_t n, uint64_t off, struct err *e)
{
	uint8_t *p = dst;

	while (n > 0) {
		ssize_t k = ca_sys_pread(fd, p, n, (off_t)off);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return err_errno(e, errno, "reading from the cache");
		if (k == 0)
			return corrupt(e, "it is too short");
		p += k;
		n -= (size_t)k;
		off += (size_t)k;
	}
	return 0;
}

static uint64_t block_count(uint64_t len)
{
	return (len + SEALED_BLOCK - 1) / SEALED_BLOCK;
}

uint64_t sealed_size(uint64_t len)
{
	return len + 4 * block_count(len) + SEALED_FOOTER;
}

/* ---- writing ------------------------------------------------------------------------------- */

struct sealed_writer {
	int fd;
	uint32_t ident;
	uint64_t flushed;	/* data bytes in the file */
	size_t fill;		/* data bytes in block */
	uint8_t *table;
	size_t n_blocks, cap_blocks;
	uint8_t block[SEALED_BLOCK];
};

struct sealed_writer *sealed_writer_new(int fd, uint32_t ident)
{
	struct sealed_writer *w = malloc(sizeof(*w));

	if (!w)
		return NULL;
	w->fd = fd;
	w->ident = ident;
	w->flushed = 0;
	w->fill = 0;
	w->table = NULL;
	w->n_blocks = 0;
	w->cap_blocks = 0;
	return w;
}

struct sealed_writer *sealed_writer_free(struct sealed_writer *w)
{
	if (w)
		free(w->table);
	free(w);
	return NULL;
}

uint64_t sealed_writer_len(const struct sealed_writer *w)
{
	return w->flushed + w->fill;
}

static errint_t table_grow(struct sealed_writer *w, struct err *e)
{
	size_t cap = w->cap_blocks ? 2 * w->cap_blocks : 64;
	uint8_t *p;

	if (w->n_blocks < w->cap_blocks)
		return 0;
	p = realloc(w->table, 4 * cap);
	if (!p)
		return err_errno(e, ENOMEM, "writing to the cache");
	w->table = p;
	w->cap_blocks = cap;
	return 0;
}

static errint_t flush_block(struct sealed_writer *w, struct err *e)
{
	errint_t r = table_grow(w, e);

	if (r < 0)
		return r;
	r = write_all(w->fd, w->block, w->fill, w->flushed, e);
	if (r < 0)
		return r;
	le32_put(w->table + 4 * w->n_blocks++, crc32_add(0, w->block, w->fill));
	w->flushed += w->fill;
	w->fill = 0;
	return 0;
}

errint_t sealed_writer_add(struct sealed_writer *w, const void **data, size_t *len, struct err *e)
{
	if (*len > SEALED_LEN_MAX - sealed_writer_len(w))
		return err_set(e, EFBIG, ERR_LIMIT, "a cache file is limited to %llu bytes",
			       (unsigned long long)SEALED_LEN_MAX);
	while (*len > 0) {
		size_t n;

		if (w->fill == SEALED_BLOCK) {
			errint_t r = flush_block(w, e);

			if (r < 0)
				return r;
		}
		n = MIN_OF(*len, SEALED_BLOCK - w->fill);
		memcpy(w->block + w->fill, *data, n);
		w->fill += n;
		*data = (const uint8_t *)*data + n;
		*len -= n;
	}
	return 0;
}

static void footer_make(const struct sealed_writer *w, uint8_t out[static SEALED_FOOTER])
{
	memcpy(out, SEALED_MAGIC, 8);
	le32_put(out + SEALED_AT_VERSION, SEALED_VERSION);
	le32_put(out + SEALED_AT_BLOCK, SEALED_BLOCK);
	le64_put(out + SEALED_AT_LEN, w->flushed);
	le32_put(out + SEALED_AT_IDENT, w->ident);
	le32_put(out + SEALED_AT_TABLE_CRC,
		 w->n_blocks ? crc32_add(0, w->table, 4 * w->n_blocks) : 0);
	le32_put(out + SEALED_AT_CRC, crc32_add(0, out, SEALED_AT_CRC));
}

errint_t sealed_writer_end(struct sealed_writer *w, struct err *e)
{
	uint8_t footer[SEALED_FOOTER];
	errint_t r = 0;

	if (w->fill > 0)
		r = flush_block(w, e);
	if (r == 0 && w->n_blocks > 0)
		r = write_all(w->fd, w->table, 4 * w->n_blocks, w->flushed, e);
	if (r < 0)
		return r;
	footer_make(w, footer);
	return write_all(w->fd, footer, sizeof(footer), w->flushed + 4 * w->n_blocks, e);
}

/* ---- reading ------------------------------------------------------------------------------- */

struct sealed {
	int fd;
	uint64_t len;
	uint8_t *table;
	_Atomic uint64_t *verified;	/* a bit per block */
};

struct sealed *sealed_free(struct sealed *f)
{
	if (!f)
		return NULL;
	if (f->fd >= 0)
		(void)close(f->fd);
	free(f->table);
	free((void *)f->verified);
	free(f);
	return NULL;
}

uint64_t sealed_len(const struct sealed *f)
{
	return f->len;
}

int sealed_fd(const struct sealed *f)
{
	return f->fd;
}

static errint_t footer_check(const uint8_t p[static SEALED_FOOTER], uint64_t size, uint32_t ident,
			     uint64_t *ret_len, struct err *e)
{
	uint64_t len = le64_get(p + SEALED_AT_LEN);

	if (memcmp(p, SEALED_MAGIC, 8) != 0)
		return corrupt(e, "it does not end with a seal");
	if (crc32_add(0, p, SEALED_AT_CRC) != le32_get(p + SEALED_AT_CRC))
		return corrupt(e, "the checksum of its seal is wrong");
	if (le32_get(p + SEALED_AT_VERSION) != SEALED_VERSION ||
	    le32_get(p + SEALED_AT_BLOCK) != SEALED_BLOCK)
		return corrupt(e, "it was written by another version");
	if (len > SEALED_LEN_MAX || sealed_size(len) != size)
		return corrupt(e, "its length is wrong");
	if (le32_get(p + SEALED_AT_IDENT) != ident)
		return corrupt(e, "it belongs to another name");
	*ret_len = len;
	return 0;
}

static errint_t table_load(struct sealed *f, uint32_t want_crc, struct err *e)
{
	size_t n = (size_t)block_count(f->len);
	errint_t r;

	if (n == 0)
		return want_crc == 0 ? 0 : corrupt(e, "its checksum table is wrong");
	f->table = malloc(4 * n);
	f->verified = calloc((n + 63) / 64, sizeof(*f->verified));
	if (!f->table || !f->verified)
		return err_errno(e, ENOMEM, "opening a cache file");
	r = read_all(f->fd, f->table, 4 * n, f->len, e);
	if (r < 0)
		return r;
	if (crc32_add(0, f->table, 4 * n) != want_crc)
		return corrupt(e, "its checksum table is wrong");
	return 0;
}

static errint_t load(struct sealed *f, uint32_t ident, struct err *e)
{
	uint8_t footer[SEALED_FOOTER];
	struct stat st;
	errint_t r;

	if (fstat(f->fd, &st) < 0)
		return err_errno(e, errno, "opening a cache file");
	if (!S_ISREG(st.st_mode) || st.st_size < (off_t)SEALED_FOOTER)
		return corrupt(e, "it is too short");
	r = read_all(f->fd, footer, sizeof(footer), (uint64_t)st.st_size - sizeof(footer), e);
	if (r == 0)
		r = footer_check(footer, (uint64_t)st.st_size, ident, &f->len, e);
	return r < 0 ? r : table_load(f, le32_get(footer + SEALED_AT_TABLE_CRC), e);
}

errint_t sealed_open(int fd, uint32_t ident, struct sealed **ret, struct err *e)
{
	_cleanup_(sealed_freep) struct sealed *f = calloc(1, sizeof(*f));
	errint_t r;

	if (!f)
		return err_errno(e, ENOMEM, "opening a cache file");
	f->fd = fd;
	r = load(f, ident, e);
	if (r < 0) {
		f->fd = -1; /* stays the caller's */
		return r;
	}
	*ret = steal_ptr(&f);
	return 0;
}

static bool is_verified(const struct sealed *f, uint64_t block)
{
	uint64_t word = atomic_load_explicit(&f->verified[block / 64], memory_order_relaxed);

	return word >> (block % 64) & 1;
}

static errint_t check_block(struct sealed *f, uint64_t block, const void *data, size_t len,
			    struct err *e)
{
	if (crc32_add(0, data, len) != le32_get(f->table + 4 * block))
		return corrupt(e, "a block's checksum is wrong");
	(void)atomic_fetch_or_explicit(&f->verified[block / 64], UINT64_C(1) << (block % 64),
				       memory_order_relaxed);
	return 0;
}

/* A block of which the caller wants only a part: read it whole, check it, hand out the part. */
static errint_t check_partly_wanted(struct sealed *f, uint64_t block, uint64_t off, void *dst,
				    size_t len, struct err *e)
{
	uint64_t start = block * SEALED_BLOCK, end = MIN_OF(start + SEALED_BLOCK, f->len);
	uint64_t from = MAX_OF(start, off), to = MIN_OF(end, off + len);
	_cleanup_free_ uint8_t *scratch = malloc(SEALED_BLOCK);
	errint_t r;

	if (!scratch)
		return err_errno(e, ENOMEM, "reading from the cache");
	r = read_all(f->fd, scratch, (size_t)(end - start), start, e);
	if (r == 0)
		r = check_block(f, block, scratch, (size_t)(end - start), e);
	if (r == 0)
		memcpy((uint8_t *)dst + (from - off), scratch + (from - start),
		       (size_t)(to - from));
	return r;
}

static errint_t check_read(struct sealed *f, uint64_t block, uint64_t off, void *dst, size_t len,
			   struct err *e)
{
	uint64_t start = block * SEALED_BLOCK, end = MIN_OF(start + SEALED_BLOCK, f->len);
	const uint8_t *p = dst;

	if (start >= off && end <= off + len)
		return check_block(f, block, p + (start - off), (size_t)(end - start), e);
	return check_partly_wanted(f, block, off, dst, len, e);
}

/* All within one block: read once, whole. */
static errint_t check_read_one(struct sealed *f, uint64_t block, uint64_t off, void *dst, size_t len,
			       struct err *e)
{
	uint64_t start = block * SEALED_BLOCK, end = MIN_OF(start + SEALED_BLOCK, f->len);
	errint_t r;

	if (off > start || off + len < end)
		return check_partly_wanted(f, block, off, dst, len, e);
	r = read_all(f->fd, dst, len, off, e);
	return r < 0 ? r : check_block(f, block, dst, len, e);
}

errint_t sealed_read(struct sealed *f, uint64_t off, void *dst, size_t len, struct err *e)
{
	uint64_t first = off / SEALED_BLOCK, last = (off + MAX_OF(len, (size_t)1) - 1) / SEALED_BLOCK;
	errint_t r;

	if (len > f->len || off > f->len - len)
		return err_set(e, EINVAL, ERR_BUG, "read beyond the end of a cache file");
	if (len == 0)
		return 0;
	if (first == last && !is_verified(f, first))
		return check_read_one(f, first, off, dst, len, e);
	r = read_all(f->fd, dst, len, off, e);
	for (uint64_t b = first; r == 0 && b <= last; b++)
		if (!is_verified(f, b))
			r = check_read(f, b, off, dst, len, e);
	return r;
}

errint_t sealed_verify(struct sealed *f, struct err *e)
{
	_cleanup_free_ uint8_t *scratch = malloc(SEALED_BLOCK);
	errint_t r = 0;

	if (!scratch)
		return err_errno(e, ENOMEM, "reading from the cache");
	for (uint64_t b = 0; r == 0 && b < block_count(f->len); b++) {
		uint64_t off = b * SEALED_BLOCK;

		if (!is_verified(f, b))
			r = sealed_read(f, off, scratch, MIN_OF(SEALED_BLOCK, f->len - off), e);
	}
	return r;
}
