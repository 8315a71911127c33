/*
 * ztoc_encode.c - a FlatBuffer from its end to its beginning
 *
 * The bytes made so far lie at the end of mem; places are counted from the end, so they hold when
 * mem grows.  A table is its fields, largest first, then the way to its vtable; the vtable says where
 * each field is.  Equal vtables are shared, and so are short strings that came lately.
 */
#include "cache/ztoc_encode.h"

#include <endian.h>
#include <string.h>
#include <time.h>

#define FIELDS_MAX 16
#define VTABLES_MAX 128		/* remembered; there are as many as combinations of absent fields */
#define SHARED_SLOTS 1024
#define SHARED_LEN 64
#define FIRST_BYTES (64u << 10)

struct vtable {
	uint16_t v[2 + FIELDS_MAX];	/* its bytes, the table's bytes, the fields' places */
	uint32_t at;
};

struct shared {
	char s[SHARED_LEN];
	uint8_t len;		/* 0: free */
	uint32_t at;
};

struct ztoc_encoder {
	uint8_t *mem;
	size_t cap, len;
	int failed;
	uint32_t *files;	/* their tables */
	size_t n_files, cap_files;
	struct vtable vtables[VTABLES_MAX];
	size_t n_vtables;
	struct shared shared[SHARED_SLOTS];
};

struct field {
	uint8_t slot, size;	/* 1, 4, 8 bytes */
	bool is_place;		/* value is one: written as the distance */
	uint64_t value;
};

struct table {
	struct field f[FIELDS_MAX];
	size_t n;
};

struct ztoc_encoder *ztoc_encoder_new(void)
{
	return calloc(1, sizeof(struct ztoc_encoder));
}

struct ztoc_encoder *ztoc_encoder_free(struct ztoc_encoder *x)
{
	if (x) {
		free(x->mem);
		free(x->files);
		free(x);
	}
	return NULL;
}

uint32_t ztoc_encode_n_files(const struct ztoc_encoder *x)
{
	return (uint32_t)x->n_files;
}

/* ---- bytes, from the end ---- */

static void grow(struct ztoc_encoder *x, size_t n)
{
	size_t cap = MAX_OF(x->cap, (size_t)FIRST_BYTES);
	uint8_t *mem;

	while (cap - x->len < n)
		cap *= 2;
	mem = malloc(cap);
	if (!mem) {
		x->failed = -ENOMEM;
		return;
	}
	if (x->len > 0)
		memcpy(mem + cap - x->len, x->mem + x->cap - x->len, x->len);
	free(x->mem);
	x->mem = mem;
	x->cap = cap;
}

/* Room for n bytes in front; NULL: failed. */
static uint8_t *front(struct ztoc_encoder *x, size_t n)
{
	if (!x->failed && n > ZTOC_MAX - x->len)
		x->failed = -EFBIG;
	if (!x->failed && x->cap - x->len < n)
		grow(x, n);
	if (x->failed)
		return NULL;
	x->len += n;
	return x->mem + x->cap - x->len;
}

static void put(struct ztoc_encoder *x, const void *data, size_t n)
{
	uint8_t *p = n > 0 ? front(x, n) : NULL;

	if (p)
		memcpy(p, data, n);
}

static void put_uint(struct ztoc_encoder *x, uint64_t v, size_t size)
{
	uint64_t le = htole64(v);

	put(x, &le, size);
}

/* Zeros, so that what ends n bytes further in front is aligned. */
static void align(struct ztoc_encoder *x, size_t n, size_t to)
{
	static const uint8_t zeros[8];

	put(x, zeros, -(x->len + n) & (to - 1));
}

static void put_distance(struct ztoc_encoder *x, uint32_t place)
{
	put_uint(x, x->len + 4 - place, 4);
}

/* ---- strings and vectors ---- */

static uint32_t bytes(struct ztoc_encoder *x, const void *s, size_t len, bool text)
{
	align(x, len + text, 4);
	put(x, "", text);
	put(x, s, len);
	put_uint(x, len, 4);
	return (uint32_t)x->len;
}

static uint32_t hash_of(const char *s, size_t len)
{
	uint32_t h = 2166136261u;

	for (size_t i = 0; i < len; i++)
		h = (h ^ (uint8_t)s[i]) * 16777619u;
	return h;
}

/* 0: the empty string, which is left out. */
static uint32_t string(struct ztoc_encoder *x, struct ztoc_str s)
{
	struct shared *known;
	uint32_t at;

	if (s.len == 0 || s.len > SHARED_LEN)
		return s.len == 0 ? 0 : bytes(x, s.s, s.len, true);
	known = &x->shared[hash_of(s.s, s.len) % SHARED_SLOTS];
	if (known->len == s.len && memcmp(known->s, s.s, s.len) == 0)
		return known->at;
	at = bytes(x, s.s, s.len, true);
	memcpy(known->s, s.s, s.len);
	known->len = (uint8_t)s.len;
	known->at = at;
	return at;
}

static uint32_t places(struct ztoc_encoder *x, const uint32_t *v, size_t n)
{
	align(x, 4 * n, 4);
	for (size_t i = n; i > 0; i--)
		put_distance(x, v[i - 1]);
	put_uint(x, n, 4);
	return (uint32_t)x->len;
}

/* ---- tables ---- */

static void add(struct table *t, unsigned slot, unsigned size, uint64_t value)
{
	if (value != 0)
		t->f[t->n++] = (struct field){ .slot = (uint8_t)slot, .size = (uint8_t)size, .value = value };
}

static void add_place(struct table *t, unsigned slot, uint32_t place)
{
	if (place == 0)
		return;
	t->f[t->n++] = (struct field){ .slot = (uint8_t)slot, .size = 4, .is_place = true, .value = place };
}

static void put_fields(struct ztoc_encoder *x, const struct table *t, size_t size, uint32_t at[FIELDS_MAX])
{
	for (size_t i = 0; i < t->n; i++) {
		const struct field *f = &t->f[i];

		if (f->size != size)
			continue;
		align(x, size, size);
		if (f->is_place)
			put_distance(x, (uint32_t)f->value);
		else
			put_uint(x, f->value, size);
		at[f->slot] = (uint32_t)x->len;
	}
}

static uint32_t known_vtable(const struct ztoc_encoder *x, const struct vtable *vt)
{
	for (size_t i = 0; i < x->n_vtables; i++)
		if (memcmp(x->vtables[i].v, vt->v, sizeof(vt->v)) == 0)
			return x->vtables[i].at;
	return 0;
}

/* The table's first word says how far in front of it its vtable is; negative: behind. */
static void link_vtable(struct ztoc_encoder *x, struct vtable *vt, uint32_t table)
{
	uint32_t le;

	vt->at = known_vtable(x, vt);
	if (vt->at == 0) {
		for (size_t i = vt->v[0] / 2; i > 0; i--)
			put_uint(x, vt->v[i - 1], 2);
		vt->at = (uint32_t)x->len;
		if (x->n_vtables < VTABLES_MAX)
			x->vtables[x->n_vtables++] = *vt;
	}
	if (x->failed)
		return;
	le = htole32(vt->at - table);
	memcpy(x->mem + x->cap - table, &le, sizeof(le));
}

static uint32_t put_table(struct ztoc_encoder *x, const struct table *t)
{
	uint32_t at[FIELDS_MAX] = { 0 }, table;
	struct vtable vt = { .at = 0 };
	size_t begin = x->len, n_slots = 0;

	put_fields(x, t, 1, at);
	put_fields(x, t, 4, at);
	put_fields(x, t, 8, at);
	align(x, 4, 4);
	put_uint(x, 0, 4);
	table = (uint32_t)x->len;
	for (size_t i = 0; i < FIELDS_MAX; i++) {
		vt.v[2 + i] = at[i] ? (uint16_t)(table - at[i]) : 0;
		n_slots = at[i] ? i + 1 : n_slots;
	}
	vt.v[0] = (uint16_t)(4 + 2 * n_slots);
	vt.v[1] = (uint16_t)(table - begin);
	link_vtable(x, &vt, table);
	return table;
}

/* ---- files ---- */

/* RFC 3339 with as many decimals as it takes, or nothing for years that it cannot say. */
static struct ztoc_str time_text(int64_t s, uint32_t ns, char out[static 40])
{
	time_t t = (time_t)s;
	struct tm tm;
	size_t n;

	if (!gmtime_r(&t, &tm) || tm.tm_year < -1900 || tm.tm_year > 8099)
		return (struct ztoc_str){ "", 0 };
	n = (size_t)snprintf(out, 40, "%04d-%02d-%02dT%02d:%02d:%02d", (tm.tm_year + 1900) % 10000,
			     (tm.tm_mon + 1) % 100, tm.tm_mday % 100, tm.tm_hour % 100,
			     tm.tm_min % 100, tm.tm_sec % 100);
	if (ns > 0) {
		n += (size_t)snprintf(out + n, 40 - n, ".%09u", ns % 1000000000);
		while (out[n - 1] == '0')
			n--;
	}
	out[n++] = 'Z';
	return (struct ztoc_str){ out, n };
}

static uint32_t put_pax(struct ztoc_encoder *x, const struct ztoc_pax *pax, size_t n)
{
	_cleanup_free_ uint32_t *v = n > 0 ? calloc(n, sizeof(*v)) : NULL;

	if (n == 0)
		return 0;
	if (!v) {
		x->failed = -ENOMEM;
		return 0;
	}
	for (size_t i = 0; i < n; i++) {
		struct table t = { .n = 0 };

		add_place(&t, ZTOC_PAX_KEY, string(x, pax[i].key));
		add_place(&t, ZTOC_PAX_VALUE, string(x, pax[i].value));
		v[i] = put_table(x, &t);
	}
	return places(x, v, n);
}

static bool room_for_file(struct ztoc_encoder *x)
{
	size_t cap = MAX_OF(2 * x->cap_files, (size_t)1024);
	uint32_t *v;

	if (x->n_files < x->cap_files)
		return true;
	v = reallocarray(x->files, cap, sizeof(*v));
	if (!v) {
		x->failed = -ENOMEM;
		return false;
	}
	x->files = v;
	x->cap_files = cap;
	return true;
}

void ztoc_encode_file(struct ztoc_encoder *x, const struct ztoc_entry *en)
{
	struct table t = { .n = 0 };
	char when[40];

	if (!room_for_file(x))
		return;
	add_place(&t, ZTOC_FILE_PAX, put_pax(x, en->pax, en->n_pax));
	add_place(&t, ZTOC_FILE_NAME, string(x, en->name));
	add_place(&t, ZTOC_FILE_TYPE, string(x, en->type));
	add_place(&t, ZTOC_FILE_LINK, string(x, en->linkname));
	add_place(&t, ZTOC_FILE_UNAME, string(x, en->uname));
	add_place(&t, ZTOC_FILE_GNAME, string(x, en->gname));
	add_place(&t, ZTOC_FILE_MTIME, string(x, time_text(en->mtime_s, en->mtime_ns, when)));
	add(&t, ZTOC_FILE_OFF, 8, en->off);
	add(&t, ZTOC_FILE_SIZE, 8, en->size);
	add(&t, ZTOC_FILE_MODE, 8, (uint64_t)en->mode);
	add(&t, ZTOC_FILE_UID, 4, en->uid);
	add(&t, ZTOC_FILE_GID, 4, en->gid);
	add(&t, ZTOC_FILE_MAJOR, 8, (uint64_t)en->major);
	add(&t, ZTOC_FILE_MINOR, 8, (uint64_t)en->minor);
	x->files[x->n_files++] = put_table(x, &t);
}

/* ---- the whole ---- */

static struct ztoc_str str(const char *s)
{
	return (struct ztoc_str){ s, strlen(s) };
}

/* The end: the way to the root, at a place that is a multiple of 8 from both ends. */
static errint_t give(struct ztoc_encoder *x, uint32_t root, struct buf *ret)
{
	align(x, 4, 8);
	put_distance(x, root);
	if (x->failed)
		return x->failed;
	return buf_add(ret, x->mem + x->cap - x->len, x->len);
}

/* A plain layer's checkpoints: span size and size, as a FlatBuffer of their own. */
static uint32_t put_plain_points(struct ztoc_encoder *x, const struct ztoc_frame *f)
{
	_cleanup_(ztoc_encoder_freep) struct ztoc_encoder *in = ztoc_encoder_new();
	_cleanup_buf_ struct buf b = BUF_INIT(4096);
	struct table t = { .n = 0 };
	errint_t r = in ? 0 : -ENOMEM;

	add(&t, ZTOC_TAR_VERSION, 4, 2);
	add(&t, ZTOC_TAR_SPAN_SIZE, 8, f->span_size);
	add(&t, ZTOC_TAR_SIZE, 8, f->packed);
	if (r == 0)
		r = give(in, put_table(in, &t), &b);
	if (r < 0) {
		x->failed = r;
		return 0;
	}
	return bytes(x, b.data, b.len, false);
}

static uint32_t put_digests(struct ztoc_encoder *x, const struct ztoc_frame *f)
{
	_cleanup_free_ uint32_t *v = calloc(f->n_spans + 1, sizeof(*v));
	char text[DIGEST_TEXT_MAX];

	if (!v) {
		x->failed = -ENOMEM;
		return 0;
	}
	for (size_t i = 0; i < f->n_spans; i++) {
		struct ztoc_str s = str(digest_text(&f->digests[i], text));

		v[i] = bytes(x, s.s, s.len, true);
	}
	return places(x, v, f->n_spans);
}

static uint32_t put_info(struct ztoc_encoder *x, const struct ztoc_frame *f)
{
	struct table t = { .n = 0 };

	add_place(&t, ZTOC_INFO_CHECKPOINTS, f->algorithm == ZTOC_GZIP ?
		  bytes(x, f->points, f->points_len, false) : put_plain_points(x, f));
	add_place(&t, ZTOC_INFO_DIGESTS, put_digests(x, f));
	add(&t, ZTOC_INFO_MAX_SPAN, 4, f->n_spans - 1);
	if (f->algorithm != ZTOC_GZIP)		/* which is the default */
		add(&t, ZTOC_INFO_ALGORITHM, 1, f->algorithm);
	return put_table(x, &t);
}

static uint32_t put_toc(struct ztoc_encoder *x)
{
	struct table t = { .n = 0 };

	add_place(&t, ZTOC_TOC_FILES, places(x, x->files, x->n_files));
	return put_table(x, &t);
}

errint_t ztoc_encode_finish(struct ztoc_encoder *x, const struct ztoc_frame *f, struct buf *ret)
{
	struct table t = { .n = 0 };

	add_place(&t, ZTOC_F_INFO, put_info(x, f));
	add_place(&t, ZTOC_F_TOC, put_toc(x));
	add_place(&t, ZTOC_F_TOOL, string(x, str(f->tool)));
	add_place(&t, ZTOC_F_VERSION, string(x, str(ZTOC_VERSION)));
	add(&t, ZTOC_F_PACKED, 8, f->packed);
	add(&t, ZTOC_F_SIZE, 8, f->size);
	return give(x, put_table(x, &t), ret);
}
