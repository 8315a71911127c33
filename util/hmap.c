/*
 * hmap.c - open addressing with linear probing
 *
 * A slot is the full hash and a pointer to the entry (key and value in one allocation), so a probe
 * touches an entry only when all 64 bits agree.  Removal moves later entries of the run back
 * instead of leaving tombstones: a table that lives for weeks never degrades.
 *
 * The hash multiplies 64 x 64 bits and folds the product (the idea of wyhash) with constants drawn
 * at process start, so that nobody outside can choose names that collide.
 */
#include "util/hmap.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "util/cleanup.h"

#define HMAP_CAP_MIN 16

struct entry {
	void *value;
	size_t len;
	char key[];
};

struct slot {
	uint64_t hash;
	struct entry *entry; /* NULL = free */
};

struct hmap {
	struct slot *slots;
	size_t cap; /* a power of two */
	size_t count;
	hmap_free_fn free_value;
};

static uint64_t hash_secret[3];

static inline uint64_t fold_mul(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 p = (unsigned __int128)a * b;

	return (uint64_t)p ^ (uint64_t)(p >> 64);
}

/* A constructor and not pthread_once: the hash is on every path and then needs no check. */
static void __attribute__((constructor)) hash_seed(void)
{
	struct timespec ts = { 0 };
	uint64_t weak;

	if (getrandom(hash_secret, sizeof(hash_secret), 0) == (ssize_t)sizeof(hash_secret))
		return;
	/* Only seccomp can bring us here.  Weak seeds are still correct, just guessable. */
	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	weak = (uint64_t)ts.tv_nsec ^ (uint64_t)getpid() << 32 ^ (uint64_t)(uintptr_t)&ts;
	for (size_t i = 0; i < ARRAY_SIZE(hash_secret); i++)
		hash_secret[i] = weak = fold_mul(weak + i + 1, UINT64_C(0x9e3779b97f4a7c15)) | 1;
}

static inline uint64_t load64(const unsigned char *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint64_t load32(const unsigned char *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* Two words that together hold every byte of a key of at most 16 bytes (loads may overlap). */
static inline void load_short(const unsigned char *p, size_t len, uint64_t *a, uint64_t *b)
{
	if (len >= 8) {
		*a = load64(p);
		*b = load64(p + len - 8);
	} else if (len >= 4) {
		*a = load32(p);
		*b = load32(p + len - 4);
	} else if (len > 0) {
		*a = (uint64_t)p[0] << 16 | (uint64_t)p[len / 2] << 8 | p[len - 1];
		*b = 0;
	} else {
		*a = *b = 0;
	}
}

uint64_t hmap_hash(const void *key, size_t len)
{
	const unsigned char *p = key;
	uint64_t state = hash_secret[0], a, b;
	size_t left = len;

	if (len <= 16) {
		load_short(p, len, &a, &b);
	} else {
		for (; left > 16; left -= 16, p += 16)
			state = fold_mul(load64(p) ^ hash_secret[1], load64(p + 8) ^ state);
		a = load64(p + left - 16);
		b = load64(p + left - 8);
	}
	state = fold_mul(a ^ hash_secret[1], b ^ state);
	return fold_mul(state ^ hash_secret[2], hash_secret[0] ^ len);
}

struct hmap *hmap_new(hmap_free_fn free_value)
{
	struct hmap *m = calloc(1, sizeof(*m));

	if (m)
		m->free_value = free_value;
	return m;
}

static void value_free(const struct hmap *m, void *value)
{
	if (m->free_value)
		m->free_value(value);
}

struct hmap *hmap_free(struct hmap *m)
{
	if (!m)
		return NULL;
	for (size_t i = 0; i < m->cap; i++) {
		if (!m->slots[i].entry)
			continue;
		value_free(m, m->slots[i].entry->value);
		free(m->slots[i].entry);
	}
	free(m->slots);
	free(m);
	return NULL;
}

size_t hmap_count(const struct hmap *m)
{
	return m->count;
}

static bool slot_is(const struct slot *s, uint64_t hash, const void *key, size_t len)
{
	return s->hash == hash && s->entry->len == len &&
	       (len == 0 || memcmp(s->entry->key, key, len) == 0);
}

/* The slot that holds the key, or the free one where it belongs.  cap must not be 0. */
static struct slot *find_slot(const struct hmap *m, uint64_t hash, const void *key, size_t len)
{
	size_t i = hash & (m->cap - 1);

	while (m->slots[i].entry && !slot_is(&m->slots[i], hash, key, len))
		i = (i + 1) & (m->cap - 1);
	return &m->slots[i];
}

void *hmap_get(const struct hmap *m, const void *key, size_t len)
{
	if (m->count == 0)
		return NULL;

	const struct slot *s = find_slot(m, hmap_hash(key, len), key, len);

	return s->entry ? s->entry->value : NULL;
}

static errint_t resize(struct hmap *m, size_t cap)
{
	struct slot *slots = calloc(cap, sizeof(*slots));

	if (!slots)
		return -ENOMEM;
	for (size_t i = 0; i < m->cap; i++) {
		if (!m->slots[i].entry)
			continue;

		size_t at = m->slots[i].hash & (cap - 1);

		while (slots[at].entry)
			at = (at + 1) & (cap - 1);
		slots[at] = m->slots[i];
	}
	free(m->slots);
	m->slots = slots;
	m->cap = cap;
	return 0;
}

/* Room for one more at a load of at most 3/4. */
static errint_t grow(struct hmap *m)
{
	if (m->cap == 0)
		return resize(m, HMAP_CAP_MIN);
	if (m->count + 1 <= m->cap / 4 * 3)
		return 0;
	if (m->cap > SIZE_MAX / 2 / sizeof(struct slot))
		return -ENOMEM;
	return resize(m, m->cap * 2);
}

static struct entry *entry_new(const void *key, size_t len, void *value)
{
	struct entry *e = len < SIZE_MAX - sizeof(*e) ? malloc(sizeof(*e) + len) : NULL;

	if (!e)
		return NULL;
	e->value = value;
	e->len = len;
	if (len > 0)
		memcpy(e->key, key, len);
	return e;
}

static bool replace(struct hmap *m, uint64_t hash, const void *key, size_t len, void *value)
{
	struct slot *s = m->count ? find_slot(m, hash, key, len) : NULL;

	if (!s || !s->entry)
		return false;

	void *old = s->entry->value;

	s->entry->value = value;
	if (old != value)
		value_free(m, old);
	return true;
}

errint_t hmap_put(struct hmap *m, const void *key, size_t len, void *value)
{
	uint64_t hash = hmap_hash(key, len);

	if (!value)
		return -EINVAL;
	if (replace(m, hash, key, len, value))
		return 0;

	_cleanup_free_ struct entry *e = entry_new(key, len, value);

	if (!e || grow(m) < 0)
		return -ENOMEM;

	struct slot *s = find_slot(m, hash, key, len);

	s->hash = hash;
	s->entry = steal_ptr(&e);
	m->count++;
	return 0;
}

/* Frees slot `hole` and moves back every later entry of the run that may not lie behind a hole. */
static void close_hole(struct hmap *m, size_t hole)
{
	size_t mask = m->cap - 1;

	for (size_t i = (hole + 1) & mask; m->slots[i].entry; i = (i + 1) & mask) {
		size_t home = m->slots[i].hash & mask;

		if (((i - home) & mask) < ((i - hole) & mask))
			continue;
		m->slots[hole] = m->slots[i];
		hole = i;
	}
	m->slots[hole] = (struct slot){ 0 };
}

void *hmap_take(struct hmap *m, const void *key, size_t len)
{
	struct slot *s = m->count ? find_slot(m, hmap_hash(key, len), key, len) : NULL;

	if (!s || !s->entry)
		return NULL;

	void *value = s->entry->value;

	free(s->entry);
	close_hole(m, (size_t)(s - m->slots));
	m->count--;
	/* Give memory back after a burst; without memory to do so the table just stays large. */
	if (m->cap > HMAP_CAP_MIN && m->count < m->cap / 8)
		(void)resize(m, m->cap / 2);
	return value;
}

void *hmap_next(const struct hmap *m, size_t *it, const void **ret_key, size_t *ret_len)
{
	while (*it < m->cap) {
		const struct entry *e = m->slots[(*it)++].entry;

		if (!e)
			continue;
		if (ret_key)
			*ret_key = e->key;
		if (ret_len)
			*ret_len = e->len;
		return e->value;
	}
	return NULL;
}
