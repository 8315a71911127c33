/*
 * toc_index.c - the checks and the table behind toc_index.h
 *
 * A chunk's compressed bytes end where the next member begins, at the file's endOffset where that is
 * said, or at the latest where they would if nothing could be compressed: a TOC cannot make us fetch
 * much more than the chunk is long.
 */
#include "cache/toc_index.h"

#include <string.h>

#include "cache/tree_write.h"

#define LANDMARK ".prefetch.landmark"
#define NO_LANDMARK ".no.prefetch.landmark"
#define LANDMARK_BYTES 1

static errint_t bad(const struct toc_index *x, struct err *e, const char *what)
{
	return err_set(e, EBADMSG, ERR_INPUT, "the table of contents: file \"%.200s\": %s",
		       x->file.name ? x->file.name : "", what);
}

static errint_t over(struct err *e, const char *what, unsigned long long max)
{
	return err_set(e, EBADMSG, ERR_LIMIT, "the table of contents: more than %llu %s", max, what);
}

errint_t toc_index_init(struct toc_index *x, enum toc_format format, uint64_t limit, struct err *e)
{
	*x = (struct toc_index){ .limit = limit, .estargz = format == TOC_ESTARGZ, .tree = tree_builder_new() };
	return x->tree ? 0 : err_errno(e, ENOMEM, "reading a table of contents");
}

void toc_index_done(struct toc_index *x)
{
	toc_entry_done(&x->file);
	free(x->chunks);
	free(x->extents);
	(void)tree_builder_free(x->tree);
	*x = (struct toc_index){ 0 };
}

uint64_t toc_index_bytes(const struct toc_index *x)
{
	return tree_builder_bytes(x->tree) + x->cap_chunks * sizeof(*x->chunks) +
	       x->cap_extents * sizeof(*x->extents);
}

/* ---- chunks */

/* Not less than what n bytes can be in any of the formats, with the flushes between small files. */
static uint64_t packed_max(uint64_t n)
{
	return n + n / 64 + 4096;
}

/* The members before `in` end there. */
static void end_members(struct toc_index *x, uint64_t in)
{
	for (size_t i = x->member; i < x->n_chunks; i++)
		x->chunks[i].in_end = MIN_OF(x->chunks[i].in_end, in);
	x->member = x->n_chunks;
}

/* Does a piece at that place come behind what is there? */
static errint_t check_place(struct toc_index *x, const struct toc_entry *en, struct err *e)
{
	const struct toc_chunk *p = x->n_chunks ? &x->chunks[x->n_chunks - 1] : NULL;

	if (en->offset >= x->limit)
		return bad(x, e, "a chunk lies outside of the data");
	if (en->inner > TOC_INNER_MAX)
		return bad(x, e, "a chunk lies too deep in its gzip member");
	if (!p)
		return 0;
	if (en->offset < p->in || (en->offset == p->in && en->inner < (uint64_t)p->inner + p->len))
		return bad(x, e, "its chunks are not in the order of the blob");
	return 0;
}

/* One chunk that is the whole file needs no digest of its own. */
static const struct digest *digest_of_piece(const struct toc_index *x, const struct toc_entry *en, uint64_t len)
{
	if (en->chunk.alg != DIGEST_UNSET)
		return &en->chunk;
	return len == x->file.en.size ? &x->file.file : &en->chunk;
}

static errint_t add_chunk(struct toc_index *x, const struct toc_entry *en, uint64_t len, struct err *e)
{
	const struct digest *d = digest_of_piece(x, en, len);
	errint_t r = check_place(x, en, e);

	if (r < 0)
		return r;
	if (d->alg == DIGEST_UNSET)
		return bad(x, e, "a chunk has no digest");
	if (len > TOC_CHUNK_MAX)
		return bad(x, e, "a chunk is too long");
	r = tree_vec_grow(&x->chunks, &x->cap_chunks, x->n_chunks, TOC_CHUNKS_MAX, sizeof(*x->chunks));
	if (r == -EFBIG)
		return over(e, "chunks", TOC_CHUNKS_MAX);
	if (r < 0)
		return err_errno(e, -r, "reading a table of contents");
	if (x->n_chunks && en->offset > x->chunks[x->n_chunks - 1].in)
		end_members(x, en->offset);
	struct toc_chunk *c = &x->chunks[x->n_chunks++];
	*c = (struct toc_chunk){
		.in = en->offset, .out = x->out, .inner = (uint32_t)en->inner, .len = (uint32_t)len,
		.in_end = MIN_OF(x->limit, en->offset + packed_max(en->inner + len)),
	};
	memcpy(c->sha256, d->raw, sizeof(c->sha256));
	return 0;
}

/* ---- files */

/* Data at the present place; touching pieces become one extent. */
static errint_t add_extent(struct toc_index *x, uint64_t len, struct err *e)
{
	struct tree_extent *last = x->n_extents ? &x->extents[x->n_extents - 1] : NULL;

	if (last && last->off + last->len == x->covered) {
		last->len += len;
		return 0;
	}
	errint_t r = tree_vec_grow(&x->extents, &x->cap_extents, x->n_extents, TOC_CHUNKS_MAX, sizeof(*x->extents));
	if (r == -EFBIG)
		return over(e, "pieces of a file", TOC_CHUNKS_MAX);
	if (r < 0)
		return err_errno(e, -r, "reading a table of contents");
	x->extents[x->n_extents++] = (struct tree_extent){ x->covered, len, CA_TOC_DATA + x->out };
	return 0;
}

/* The next piece of the present file. */
static errint_t add_piece(struct toc_index *x, const struct toc_entry *en, struct err *e)
{
	uint64_t left = x->file.en.size - x->covered;
	uint64_t len = en->chunk_size ? en->chunk_size : left;

	if (en->chunk_offset != x->covered || len > left || len == 0)
		return bad(x, e, "its chunks do not cover it");
	if (x->out + len > TOC_SIZE_MAX)
		return over(e, "bytes", TOC_SIZE_MAX);
	errint_t r = en->zeros ? 0 : add_extent(x, len, e);
	if (r == 0 && !en->zeros)
		r = add_chunk(x, en, len, e);
	if (r < 0)
		return r;
	x->covered += len;
	x->holes |= en->zeros;
	x->out += en->zeros ? 0 : len;
	return 0;
}

static errint_t check_end(struct toc_index *x, struct err *e)
{
	uint64_t end = x->file.end_offset;
	struct toc_chunk *last = x->n_chunks > x->first ? &x->chunks[x->n_chunks - 1] : NULL;

	if (x->covered != x->file.en.size)
		return bad(x, e, "its chunks do not cover it");
	if (!end || !last)
		return 0;
	if (end <= last->in || end > x->limit)
		return bad(x, e, "it ends where it cannot");
	last->in_end = MIN_OF(last->in_end, end);
	return 0;
}

static errint_t insert(struct toc_index *x, const struct tree_entry *en, struct err *e)
{
	errint_t r = tree_builder_add(x->tree, en, e);

	if (r == -EINVAL || r == -EFBIG)
		return err_set(e, EBADMSG, r == -EFBIG ? ERR_LIMIT : ERR_INPUT,
			       "the table of contents: file \"%.200s\" cannot be shown", x->file.name);
	return r;
}

static bool is_landmark(const struct toc_entry *en)
{
	const char *p = en->name;
	size_t len = en->name_len;

	while (len > 0 && (*p == '/' || (*p == '.' && len > 1 && p[1] == '/'))) {
		p++;
		len--;
	}
	return en->en.size == LANDMARK_BYTES && len == strlen(LANDMARK) && memcmp(p, LANDMARK, len) == 0;
}

/* The present file is complete. */
static errint_t end_file(struct toc_index *x, struct err *e)
{
	static const struct tree_extent none;
	struct tree_entry *en = &x->file.en;

	if (!x->has_file)
		return 0;
	errint_t r = check_end(x, e);
	if (r < 0)
		return r;
	if (x->holes) {
		en->extents = x->n_extents ? x->extents : &none;
		en->n_extents = x->n_extents;
	} else if (en->size) {
		en->data_off = x->extents[0].data_off;
	}
	if (!x->holes && is_landmark(&x->file))
		x->landmark = x->out - LANDMARK_BYTES;
	r = insert(x, en, e);
	toc_entry_done(&x->file);
	x->has_file = false;
	return r;
}

static errint_t begin_file(struct toc_index *x, struct toc_entry *en, struct err *e)
{
	x->file = *en;
	*en = (struct toc_entry){ 0 };
	x->has_file = true;
	x->first = x->n_chunks;
	x->covered = 0;
	x->holes = false;
	x->n_extents = 0;
	return x->file.en.size ? add_piece(x, &x->file, e) : 0;
}

static errint_t further_chunk(struct toc_index *x, const struct toc_entry *en, struct err *e)
{
	if (!x->has_file)
		return bad(x, e, "a chunk belongs to no file");
	if (en->name_len && (en->name_len != x->file.name_len ||
			     memcmp(en->name, x->file.name, en->name_len) != 0))
		return bad(x, e, "a chunk belongs to another file");
	return add_piece(x, en, e);
}

static errint_t other_entry(struct toc_index *x, struct toc_entry *en, struct err *e)
{
	errint_t r = end_file(x, e);

	if (r < 0)
		return r;
	x->toc_last = en->en.type == TREE_REG && en->name_len == strlen(TOC_NAME) &&
		      memcmp(en->name, TOC_NAME, en->name_len) == 0;
	if (en->en.type == TREE_REG)
		return begin_file(x, en, e);
	en->en.size = 0;
	x->file = *en;	/* for what is said about it */
	*en = (struct toc_entry){ 0 };
	r = insert(x, &x->file.en, e);
	toc_entry_done(&x->file);
	return r;
}

errint_t toc_index_add(struct toc_index *x, struct toc_entry *en, struct err *e)
{
	errint_t r = ++x->n_entries > TREE_NODES_MAX ? over(e, "entries", TREE_NODES_MAX) :
		     en->is_chunk		     ? further_chunk(x, en, e) :
						       other_entry(x, en, e);

	toc_entry_done(en);
	return r;
}

errint_t toc_index_end(struct toc_index *x, struct err *e)
{
	errint_t r = end_file(x, e);

	end_members(x, x->limit);
	if (r == 0)
		toc_hide(x->tree, x->estargz || x->toc_last);
	return r;
}

/* ---- files of the formats */

void toc_hide(struct tree_builder *b, bool toc_last)
{
	tree_builder_hide(b, LANDMARK, LANDMARK_BYTES);
	tree_builder_hide(b, NO_LANDMARK, LANDMARK_BYTES);
	if (toc_last)
		tree_builder_hide(b, TOC_NAME, UINT64_MAX);
}
