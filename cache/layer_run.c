/*
 * layer_run.c - a layer's data in pieces, for who wants to have many of them here
 *
 * Both flavours of a layer keep their data in pieces (spans, granules) that are numbered from 0 and
 * lie one behind the other.  What is here says which of them are in the cache, and fetches a run of
 * them with one request.
 */
#include "cache/layer_priv.h"

uint32_t ca_layer_pieces(const struct ca_layer *l)
{
	return l->toc ? l->toc->n_granules : l->file.n_spans;
}

/* As if all of the layer had been compressed equally well. */
static uint64_t packed_before(uint64_t out, uint64_t size, uint64_t packed)
{
	return size ? (uint64_t)((double)out / (double)size * (double)packed) : 0;
}

void ca_layer_piece(const struct ca_layer *l, uint32_t piece, struct ca_piece *ret)
{
	uint64_t size = ca_layer_size(l), packed = l->toc ? l->toc->packed : l->file.packed, start, end;

	if (l->toc) {
		start = l->toc->granules[piece].out;
		end = l->toc->granules[piece + 1].out;
	} else {
		start = (uint64_t)piece * CA_SPAN_BYTES;
		end = MIN_OF(start + CA_SPAN_BYTES, size);
	}
	*ret = (struct ca_piece){
		.off = start + (l->toc ? CA_TOC_DATA : 0),
		.len = end - start,
		.packed = packed_before(end, size, packed) - packed_before(start, size, packed),
	};
}

uint32_t ca_layer_piece_at(const struct ca_layer *l, uint64_t off)
{
	uint32_t n = ca_layer_pieces(l);

	if (l->toc ? off < CA_TOC_DATA || off - CA_TOC_DATA >= l->toc->size : off >= l->file.size)
		return n;
	return l->toc ? toc_file_granule(l->toc, off - CA_TOC_DATA) : (uint32_t)(off / CA_SPAN_BYTES);
}

bool ca_layer_piece_here(struct ca_layer *l, uint32_t piece)
{
	char key[CA_KEY_MAX];

	if (l->toc)
		return ca_object_exists(l->s, CA_SPAN, toc_granule_key(l, piece, key));
	return ca_object_exists(l->s, CA_SPAN, layer_span_key(&l->digest, piece, key));
}

errint_t ca_layer_fill_run(struct ca_layer *l, uint32_t first, uint32_t n, const struct ca_source *src,
			   struct cancel *c, struct err *e)
{
	uint32_t pieces = ca_layer_pieces(l);

	if (first >= pieces || n == 0)
		return err_set(e, EINVAL, ERR_BUG, "layer %s has no piece %u", l->key, first);
	n = MIN_OF(n, pieces - first);
	return l->toc ? toc_layer_fill_run(l, first, n, src, c, e) : layer_fill_spans(l, first, n, src, c, e);
}
