/*
 * fuzz_layerfile.c - any bytes as a layer object
 *
 * What loads must be sound: units in order and within the stream, states within their part, one CRC
 * for each span; and writing it again must give the same tables.
 *
 *	clang -fsanitize=fuzzer,address,undefined ... fuzz_layerfile.c cache/layer_file.c
 *util/{buf,err}.c
 */
#include <stdint.h>
#include <string.h>

#include "cache/layer_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct image {
	const uint8_t *data;
	size_t len;
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static errint_t read_image(void *ctx, uint64_t off, void *dst, size_t len, struct err *e)
{
	const struct image *m = ctx;

	(void)e;
	must(off <= m->len && len <= m->len - off);
	memcpy(dst, m->data + off, len);
	return 0;
}

static void check(const struct layer_file *f)
{
	must(f->n_units > 0 && f->units[0].in == 0 && f->units[0].out == 0 &&
	     f->units[0].has_state);
	for (uint32_t i = 0; i < f->n_units; i++) {
		const struct layer_unit *u = &f->units[i];

		must(u->in <= f->packed && u->out <= f->size && u->state_len <= INFLATE_STATE_MAX);
		must(u->state_off + u->state_len <= f->states_len);
		must(i == 0 || (u->in >= u[-1].in && u->out > u[-1].out));
	}
	must(f->n_spans == layer_spans(f->size));
	must(!f->n_spans ||
	     memchr(f->crcs, 0, f->n_spans * sizeof(*f->crcs)) != f->crcs - 1); /* touch all */
}

static void write_again(struct layer_file *f, const struct image *m)
{
	struct buf out = BUF_INIT(LAYER_IMAGE_MAX);
	struct buf states = { .data = (char *)m->data + f->states_off,
			      .len = (size_t)f->states_len };

	must(buf_add(&out, m->data, (size_t)f->tree_len) == 0);
	must(layer_file_finish(f, &states, &out) == 0);
	must(out.len == m->len && memcmp(out.data, m->data, m->len - LAYER_HEAD_BYTES) == 0);
	buf_done(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct image m = { data, len };
	struct layer_file f;
	errint_t r = layer_file_load(&f, len, read_image, &m, NULL);

	must(r == 0 || r == -EBADMSG);
	if (r == 0) {
		check(&f);
		write_again(&f, &m);
	}
	layer_file_done(&f);
	return 0;
}
