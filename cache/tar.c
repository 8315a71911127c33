/*
 * tar.c - a state machine over blocks
 *
 *	HEADER --entry--> SKIP (its data) --> HEADER ...
 *	   |--x g L K--> META (kept) --------> HEADER
 *	   |--'S', extended--> SPARSE_EXT ... --> SKIP
 *	   |--PAX sparse 1.0--> SPARSE_MAP ... --> SKIP
 *	   '--two zero blocks--> END
 *
 * Blocks are read where they lie when the pushed piece holds them whole; data is skipped by
 * arithmetic.  An entry is handed out as soon as its header (and map) is known, before its data.
 *
 * Where readers differ:
 *   - Links, directories, devices and FIFOs have no data, whatever their size field says: Go's
 *     archive/tar (so containerd, podman, umoci), and for hard links also GNU tar and libarchive's
 *     rule for modern archives.  POSIX pax may store data with the last hard link; no image tool
 *     writes or reads that.
 *   - A trailing slash makes a directory only of type '\0' (old archives), as in Go.
 *   - Where several sources give a name, GNU 'L' and 'K' win over PAX records over the header, and
 *     GNU.sparse.name over all; a second `x` in front of an entry replaces the first.
 *   - `g` headers give defaults for owners and times.  Their extended attributes are ignored: Go's
 *     archive/tar (containerd, umoci, podman) applies nothing of `g` to the entries, and attributes
 *     for all of them would be worked through again and again.
 *   - A single zero block must be followed by another one, or by the end of the stream.
 *   - Padding may be missing at the very end.
 */
#include "cache/tar.h"

#include <string.h>

#include "cache/tar_pax.h"
#include "cache/tar_sparse.h"

#define BLOCK 512u

/* Offsets and lengths of the header's fields. */
enum {
	H_NAME = 0, H_MODE = 100, H_UID = 108, H_GID = 116, H_SIZE = 124, H_MTIME = 136,
	H_CHKSUM = 148, H_TYPE = 156, H_LINK = 157, H_MAGIC = 257, H_MAJOR = 329, H_MINOR = 337,
	H_PREFIX = 345, H_STAR = 508,
	L_NAME = 100, L_ID = 8, L_NUM = 12, L_PREFIX = 155, L_STAR_PREFIX = 131,
};

enum state { ST_HEADER = 0, ST_META, ST_SKIP, ST_SPARSE_EXT, ST_SPARSE_MAP, ST_END };

/* The entry whose header has been read; strings stay valid until it is handed out. */
struct pending {
	struct tree_entry en;
	uint64_t stored;	/* bytes behind the header that belong to it */
	char name[L_PREFIX + 1 + L_NAME];
	char link[L_NAME];
};

struct tar_reader {
	tar_entry_fn fn;
	void *ctx;
	enum state state;
	uint64_t off;		/* of the next byte to come */
	uint64_t skip;		/* ST_SKIP: bytes, of which the last `pad` are padding */
	uint32_t pad;
	uint64_t meta_left;	/* ST_META */
	char meta_type;
	bool zero_seen;
	bool odd;
	const unsigned char *header;	/* of the entry, while it is handed out */
	bool dangling;		/* extension headers wait for their entry */
	size_t have;		/* bytes in block */
	unsigned char block[BLOCK];
	struct pax local, global;
	struct buf long_name, long_link;
	struct sparse sparse;
	struct pending cur;
	struct tree_xattr_in *xattrs;
	size_t cap_xattrs;
};

struct tar_reader *tar_reader_new(tar_entry_fn fn, void *ctx)
{
	struct tar_reader *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->fn = fn;
	t->ctx = ctx;
	pax_init(&t->local);
	pax_init(&t->global);
	t->global.global = true;
	buf_init(&t->long_name, TAR_META_MAX);
	buf_init(&t->long_link, TAR_META_MAX);
	return t;
}

struct tar_reader *tar_reader_free(struct tar_reader *t)
{
	if (!t)
		return NULL;
	pax_done(&t->local);
	pax_done(&t->global);
	buf_done(&t->long_name);
	buf_done(&t->long_link);
	sparse_done(&t->sparse);
	free(t->xattrs);
	free(t);
	return NULL;
}

static errint_t malformed(const struct tar_reader *t, struct err *e, const char *what)
{
	return err_set(e, EINVAL, ERR_INPUT, "tar archive near byte %llu: %s",
		       (unsigned long long)t->off, what);
}

static errint_t failure(const struct tar_reader *t, errint_t r, struct err *e, const char *what)
{
	if (r == -ENOMEM)
		return err_set(e, ENOMEM, ERR_LOCAL, "no memory for a tar header");
	if (r == -EFBIG)
		return err_set(e, EFBIG, ERR_LIMIT,
			       "tar archive near byte %llu: %s, limit %u bytes",
			       (unsigned long long)t->off, what, TAR_META_MAX);
	return malformed(t, e, what);
}

/* ---- what follows a header ------------------------------------------------------------------ */

static uint32_t padding(uint64_t len)
{
	return (uint32_t)(-len & (BLOCK - 1));
}

static void start_skip(struct tar_reader *t, uint64_t len, uint32_t pad)
{
	t->pad = pad;
	t->skip = len + pad;
	t->state = t->skip > 0 ? ST_SKIP : ST_HEADER;
}

static struct buf *meta_buf(struct tar_reader *t)
{
	switch (t->meta_type) {
	case 'g':
		return &t->global.text;
	case 'L':
		return &t->long_name;
	case 'K':
		return &t->long_link;
	default:
		return &t->local.text;
	}
}

/* Defaults come from `g`, but names, sizes and maps belong to one entry each: nothing of the text
 * is needed any more. */
static errint_t global_parse(struct tar_reader *t, struct err *e)
{
	struct pax *g = &t->global;
	errint_t r = pax_parse(g, e);

	g->has &= PAX_UID | PAX_GID | PAX_MTIME;
	g->n_map = 0;
	buf_clear(&g->text);
	return r;
}

static errint_t meta_done(struct tar_reader *t, struct err *e)
{
	struct buf *b = meta_buf(t);
	uint64_t len = b->len;

	switch (t->meta_type) {
	case 'g':
		start_skip(t, 0, padding(len));
		return global_parse(t, e);
	case 'L':
	case 'K':
		b->len = strnlen(buf_str(b), b->len);
		start_skip(t, 0, padding(len));
		return 0;
	default:
		start_skip(t, 0, padding(len));
		return pax_parse(&t->local, e);
	}
}

static errint_t meta_begin(struct tar_reader *t, char type, uint64_t len, struct err *e)
{
	if (len > TAR_META_MAX)
		return failure(t, -EFBIG, e, "extension header too long");
	t->meta_type = type;
	t->meta_left = len;
	t->state = ST_META;
	t->dangling = t->dangling || type != 'g';
	if (type == 'x')
		pax_clear(&t->local);
	else if (type != 'g')
		buf_clear(meta_buf(t));
	return len > 0 ? 0 : meta_done(t, e);
}

static errint_t meta_push(struct tar_reader *t, const unsigned char *p, size_t len, struct err *e)
{
	errint_t r = buf_add(meta_buf(t), p, len);

	if (r < 0)
		return failure(t, r, e, "extension headers too long");
	t->meta_left -= len;
	return t->meta_left > 0 ? 0 : meta_done(t, e);
}

/* ---- handing out ---------------------------------------------------------------------------- */

static errint_t give_xattrs(struct tar_reader *t)
{
	size_t n = t->local.n_xattrs;

	if (n > t->cap_xattrs) {
		struct tree_xattr_in *p = reallocarray(t->xattrs, n, sizeof(*p));

		if (!p)
			return -ENOMEM;
		t->xattrs = p;
		t->cap_xattrs = n;
	}
	pax_xattrs(&t->local, t->xattrs);
	t->cur.en.xattrs = t->xattrs;
	t->cur.en.n_xattrs = n;
	return 0;
}

static void forget_extensions(struct tar_reader *t)
{
	pax_clear(&t->local);
	buf_clear(&t->long_name);
	buf_clear(&t->long_link);
	t->dangling = false;
}

static errint_t give_entry(struct tar_reader *t, struct err *e)
{
	errint_t r = give_xattrs(t);

	t->cur.en.data_off = t->off;
	start_skip(t, t->cur.stored, padding(t->cur.stored));
	if (r < 0)
		return failure(t, r, e, "");
	r = t->fn(t->ctx, &t->cur.en, e);
	forget_extensions(t);
	return r;
}

static errint_t give_sparse(struct tar_reader *t, struct err *e)
{
	static const struct tree_extent hole = { 0 };
	errint_t r;

	t->header = NULL;
	r = sparse_place(&t->sparse, t->off, t->cur.stored);

	if (r < 0)
		return failure(t, r, e, "impossible sparse map");
	t->cur.en.size = t->sparse.size;
	t->cur.en.extents = t->sparse.n > 0 ? t->sparse.x : &hole; /* not NULL: that is no map */
	t->cur.en.n_extents = t->sparse.n;
	return give_entry(t, e);
}

static errint_t sparse_ext_block(struct tar_reader *t, const unsigned char *h, struct err *e)
{
	errint_t r = sparse_old_extension(&t->sparse, h);

	if (r < 0)
		return failure(t, r, e, "malformed sparse extension");
	return t->sparse.more ? 0 : give_sparse(t, e);
}

static errint_t sparse_map_block(struct tar_reader *t, const unsigned char *h, struct err *e)
{
	bool done;
	errint_t r = sparse_map10_block(&t->sparse, h, &done);

	if (r < 0 || t->cur.stored < BLOCK)
		return failure(t, r < 0 ? r : -EINVAL, e, "malformed sparse map");
	t->cur.stored -= BLOCK;
	return done ? give_sparse(t, e) : 0;
}

/* ---- headers -------------------------------------------------------------------------------- */

static bool is_zero(const unsigned char *h)
{
	return h[0] == 0 && memcmp(h, h + 1, BLOCK - 1) == 0;
}

/* Some old tars summed signed bytes. */
static bool checksum_ok(const unsigned char *h)
{
	int64_t want;
	unsigned sum = 8 * ' ';
	int sum_signed = 8 * ' ';

	if (!tar_number(h + H_CHKSUM, L_ID, &want))
		return false;
	for (size_t i = 0; i < BLOCK; i++)
		sum += h[i];
	for (size_t i = H_CHKSUM; i < H_CHKSUM + L_ID; i++)
		sum -= h[i];
	if (sum == want)
		return true;
	for (size_t i = 0; i < BLOCK; i++)
		sum_signed += i - H_CHKSUM < L_ID ? 0 : (signed char)h[i];
	return sum_signed == want;
}

static bool is_posix(const unsigned char *h)
{
	return memcmp(h + H_MAGIC, "ustar", 6) == 0;
}

static bool is_gnu(const unsigned char *h)
{
	return memcmp(h + H_MAGIC, "ustar  ", 8) == 0;
}

/* "prefix/name"; only POSIX archives have a prefix, GNU keeps other things there. */
static void header_name(struct pending *c, const unsigned char *h)
{
	size_t prefix_max = memcmp(h + H_STAR, "tar", 4) == 0 ? L_STAR_PREFIX : L_PREFIX;
	size_t prefix = is_posix(h) ? strnlen((const char *)h + H_PREFIX, prefix_max) : 0;
	size_t len = strnlen((const char *)h + H_NAME, L_NAME), at = 0;

	if (prefix > 0) {
		memcpy(c->name, h + H_PREFIX, prefix);
		c->name[prefix] = '/';
		at = prefix + 1;
	}
	memcpy(c->name + at, h + H_NAME, len);
	c->en.path = c->name;
	c->en.path_len = at + len;
	c->en.target_len = strnlen((const char *)h + H_LINK, L_NAME);
	memcpy(c->link, h + H_LINK, c->en.target_len);
	c->en.target = c->link;
}

static void override(const char **s, size_t *len, const struct pax *p, struct pax_span span)
{
	*s = p->text.data + span.at;
	*len = span.len;
}

static void names(struct tar_reader *t, const unsigned char *h)
{
	struct tree_entry *en = &t->cur.en;

	header_name(&t->cur, h);
	if (t->local.has & PAX_PATH)
		override(&en->path, &en->path_len, &t->local, t->local.path);
	if (t->local.has & PAX_LINKPATH)
		override(&en->target, &en->target_len, &t->local, t->local.linkpath);
	if (t->long_name.len > 0) {
		en->path = t->long_name.data;
		en->path_len = t->long_name.len;
	}
	if (t->long_link.len > 0) {
		en->target = t->long_link.data;
		en->target_len = t->long_link.len;
	}
}

/* Who decides about this attribute: the entry's records, the global ones, or (NULL) the header. */
static const struct pax *who(const struct tar_reader *t, unsigned bit)
{
	if ((t->local.has | t->local.reset) & bit)
		return t->local.has & bit ? &t->local : NULL;
	return t->global.has & bit ? &t->global : NULL;
}

/* User and group numbers have 32 bits; -2 ("nobody") is how some write 4294967294. */
static bool owner(const unsigned char *h, int64_t v, bool from_header, uint32_t *ret)
{
	if (from_header && !tar_number(h, L_ID, &v))
		return false;
	*ret = (uint32_t)v;
	return v >= INT32_MIN && v <= UINT32_MAX;
}

static bool owners(struct tar_reader *t, const unsigned char *h)
{
	const struct pax *u = who(t, PAX_UID), *g = who(t, PAX_GID);

	return owner(h + H_UID, u ? u->uid : 0, !u, &t->cur.en.uid) &&
	       owner(h + H_GID, g ? g->gid : 0, !g, &t->cur.en.gid);
}

static bool mode_and_time(struct tar_reader *t, const unsigned char *h)
{
	const struct pax *p = who(t, PAX_MTIME);
	struct tree_entry *en = &t->cur.en;
	int64_t mode;

	if (!tar_number(h + H_MODE, L_ID, &mode))
		return false;
	en->mode = (uint32_t)mode & 07777;
	if (!p)
		return tar_number(h + H_MTIME, L_NUM, &en->mtime_s);
	en->mtime_s = p->mtime_s;
	en->mtime_ns = p->mtime_ns;
	return true;
}

static bool device(struct tar_reader *t, const unsigned char *h)
{
	int64_t major, minor;

	if (t->cur.en.type != TREE_CHR && t->cur.en.type != TREE_BLK)
		return true;
	if (!tar_number(h + H_MAJOR, L_ID, &major) || !tar_number(h + H_MINOR, L_ID, &minor))
		return false;
	t->cur.en.rdev_major = (uint32_t)major;
	t->cur.en.rdev_minor = (uint32_t)minor;
	return major >= 0 && major <= UINT32_MAX && minor >= 0 && minor <= UINT32_MAX;
}

/* Unknown types are regular files (POSIX). */
static enum tree_type entry_type(const struct tar_reader *t, unsigned char type)
{
	const struct tree_entry *en = &t->cur.en;

	switch (type) {
	case '1':
		return TREE_LINK;
	case '2':
		return TREE_SYMLINK;
	case '3':
		return TREE_CHR;
	case '4':
		return TREE_BLK;
	case '5':
	case 'D': /* GNU: a directory, its listing as data */
		return TREE_DIR;
	case '6':
		return TREE_FIFO;
	case '\0':
		return en->path_len > 0 && en->path[en->path_len - 1] == '/' ? TREE_DIR : TREE_REG;
	default:
		return TREE_REG;
	}
}

static bool is_pax_sparse(const struct pax *p)
{
	return p->has & (PAX_SPARSE_MAJOR | PAX_SPARSE_MINOR | PAX_SPARSE_MAP | PAX_SPARSE_BLOCKS);
}

static errint_t pax_sparse(struct tar_reader *t, struct err *e)
{
	const struct pax *p = &t->local;
	uint64_t major = p->has & PAX_SPARSE_MAJOR ? p->sparse_major : 0;
	uint64_t minor = p->has & PAX_SPARSE_MINOR ? p->sparse_minor : 0;
	errint_t r;

	if (major > 1 || minor > 1 || (major == 1 && minor == 1))
		return err_set(e, EOPNOTSUPP, ERR_UNSUPPORTED, "sparse format %llu.%llu of tar",
			       (unsigned long long)major, (unsigned long long)minor);
	if (p->has & PAX_SPARSE_NAME)
		override(&t->cur.en.path, &t->cur.en.path_len, p, p->sparse_name);
	if (major == 1) {
		if (!(p->has & PAX_SPARSE_SIZE))
			return malformed(t, e, "sparse file without its size");
		sparse_map10_begin(&t->sparse, p->sparse_size);
		t->state = ST_SPARSE_MAP;
		return 0;
	}
	r = sparse_from_pax(&t->sparse, p);
	return r < 0 ? failure(t, r, e, "malformed sparse map") : give_sparse(t, e);
}

static errint_t old_sparse(struct tar_reader *t, const unsigned char *h, struct err *e)
{
	errint_t r = sparse_old_header(&t->sparse, h);

	if (r < 0)
		return failure(t, r, e, "malformed sparse map");
	t->state = ST_SPARSE_EXT;
	return t->sparse.more ? 0 : give_sparse(t, e);
}

static errint_t regular(struct tar_reader *t, const unsigned char *h, struct err *e)
{
	t->cur.en.size = t->cur.stored;
	if (h[H_TYPE] == 'S' && is_gnu(h))
		return old_sparse(t, h, e);
	if (is_pax_sparse(&t->local))
		return pax_sparse(t, e);
	return give_entry(t, e);
}

static errint_t entry(struct tar_reader *t, const unsigned char *h, uint64_t size, struct err *e)
{
	t->cur.en = (struct tree_entry){ 0 };
	t->header = h;
	names(t, h);
	t->cur.en.type = entry_type(t, h[H_TYPE]);
	if (!owners(t, h) || !mode_and_time(t, h) || !device(t, h))
		return malformed(t, e, "bad number in a header");
	if (t->local.has & PAX_SIZE)
		size = t->local.size;
	if (size > TREE_SIZE_MAX - 2 * BLOCK - t->off)
		return malformed(t, e, "impossible size");
	t->cur.stored = h[H_TYPE] == 'D' || t->cur.en.type == TREE_REG ? size : 0;
	return t->cur.en.type == TREE_REG ? regular(t, h, e) : give_entry(t, e);
}

static errint_t zero_block(struct tar_reader *t)
{
	if (t->zero_seen)
		t->state = ST_END;
	t->zero_seen = true;
	return 0;
}

static errint_t header_block(struct tar_reader *t, const unsigned char *h, struct err *e)
{
	int64_t size;

	if (is_zero(h))
		return zero_block(t);
	if (t->zero_seen)
		return malformed(t, e, "a zero block in the middle");
	if (!checksum_ok(h))
		return malformed(t, e, "bad checksum");
	if (!tar_number(h + H_SIZE, L_NUM, &size) || size < 0)
		return malformed(t, e, "bad size");
	t->odd = t->odd || (h[H_TYPE] && strchr("gXV", h[H_TYPE]));
	switch (h[H_TYPE]) {
	case 'x':
	case 'X': /* Solaris */
		return meta_begin(t, 'x', (uint64_t)size, e);
	case 'g':
	case 'L':
	case 'K':
		return meta_begin(t, (char)h[H_TYPE], (uint64_t)size, e);
	case 'M':
		return malformed(t, e, "part of a multi-volume archive");
	case 'V': /* GNU: volume label */
		if ((uint64_t)size > TREE_SIZE_MAX - 2 * BLOCK - t->off)
			return malformed(t, e, "impossible size");
		start_skip(t, (uint64_t)size, padding((uint64_t)size));
		return 0;
	default:
		return entry(t, h, (uint64_t)size, e);
	}
}

/* ---- bytes ---------------------------------------------------------------------------------- */

static errint_t one_block(struct tar_reader *t, const unsigned char *h, struct err *e)
{
	switch (t->state) {
	case ST_SPARSE_EXT:
		return sparse_ext_block(t, h, e);
	case ST_SPARSE_MAP:
		return sparse_map_block(t, h, e);
	default:
		return header_block(t, h, e);
	}
}

/* Takes bytes up to the end of a block; *ret_used says how many. */
static errint_t block_push(struct tar_reader *t, const unsigned char *p, size_t len,
			   size_t *ret_used, struct err *e)
{
	size_t n = MIN_OF(len, BLOCK - t->have);

	*ret_used = n;
	t->off += n;
	if (n == BLOCK)
		return one_block(t, p, e);
	memcpy(t->block + t->have, p, n);
	t->have += n;
	if (t->have < BLOCK)
		return 0;
	t->have = 0;
	return one_block(t, t->block, e);
}

static void skip_push(struct tar_reader *t, size_t len, size_t *ret_used)
{
	*ret_used = (size_t)MIN_OF((uint64_t)len, t->skip);
	t->off += *ret_used;
	t->skip -= *ret_used;
	if (t->skip == 0)
		t->state = ST_HEADER;
}

errint_t tar_reader_push(struct tar_reader *t, const void *data, size_t len, struct err *e)
{
	const unsigned char *p = data;
	errint_t r = 0;

	while (r == 0 && len > 0 && t->state != ST_END) {
		size_t used = 0;

		if (t->state == ST_SKIP) {
			skip_push(t, len, &used);
		} else if (t->state == ST_META) {
			used = (size_t)MIN_OF((uint64_t)len, t->meta_left);
			t->off += used;
			r = meta_push(t, p, used, e);
		} else {
			r = block_push(t, p, len, &used, e);
		}
		p += used;
		len -= used;
	}
	return r;
}

size_t tar_reader_bytes(const struct tar_reader *t)
{
	return pax_bytes(&t->local) + pax_bytes(&t->global) + t->long_name.cap + t->long_link.cap +
	       t->sparse.cap * sizeof(*t->sparse.x) + t->cap_xattrs * sizeof(*t->xattrs);
}

uint64_t tar_reader_offset(const struct tar_reader *t)
{
	return t->off;
}

void tar_reader_raw(const struct tar_reader *t, struct tar_raw *ret)
{
	*ret = (struct tar_raw){ .header = t->header, .pax = buf_str(&t->local.text),
				 .pax_len = t->local.text.len, .sparse = t->cur.en.extents != NULL,
				 .odd = t->odd };
}

errint_t tar_reader_end(struct tar_reader *t, struct err *e)
{
	if (t->state == ST_END)
		return 0;
	if (t->state == ST_SKIP && t->skip > t->pad)
		return malformed(t, e, "the data of the last file is cut off");
	if (t->state > ST_SKIP || t->state == ST_META || t->have > 0 || t->dangling)
		return malformed(t, e, "the last header is cut off");
	return 0;
}
