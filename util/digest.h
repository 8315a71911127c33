/*
 * digest.h - content digests (image-spec descriptor.md: algorithm ":" encoded)
 *
 * We verify what we use, so only algorithms that can be verified here are accepted: sha256 and
 * sha512, with lower-case hex of exactly the right length.  The only file that includes OpenSSL's
 * hashing is digest.c.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/cleanup.h"
#include "util/err.h"

enum digest_alg { DIGEST_UNSET = 0, DIGEST_SHA256, DIGEST_SHA512 };

#define DIGEST_RAW_MAX 64
#define DIGEST_TEXT_MAX (7 + 2 * DIGEST_RAW_MAX + 1) /* "sha512:" + hex + NUL */

struct digest {
	uint8_t alg;			/* enum digest_alg */
	uint8_t len;			/* bytes used in raw; the rest is zero: memcmp compares */
	uint8_t raw[DIGEST_RAW_MAX];
};

/* Grammar errors are -EINVAL; a well-formed unknown algorithm is -EOPNOTSUPP.  Not NUL-bound. */
errint_t digest_parse(const char *s, size_t len, struct digest *ret) _must_check_;
/* Writes "sha256:<hex>" and returns out. */
const char *digest_text(const struct digest *d, char out[static DIGEST_TEXT_MAX]);
/* Only the hex part. */
const char *digest_hex(const struct digest *d, char out[static DIGEST_TEXT_MAX]);
const char *digest_alg_name(const struct digest *d); /* "sha256" */
bool digest_eq(const struct digest *a, const struct digest *b); /* false when one is unset */

/* One-shot.  Should hashing itself fail (no memory, no provider), *ret is unset, here and in
 * digest_ctx_end: it then equals no digest, and the content counts as not verified. */
void digest_of(enum digest_alg alg, const void *data, size_t len, struct digest *ret);

/* Incremental.  new returns NULL when out of memory. */
struct digest_ctx;
struct digest_ctx *digest_ctx_new(enum digest_alg alg);
void digest_ctx_reset(struct digest_ctx *c);
void digest_ctx_add(struct digest_ctx *c, const void *data, size_t len);
void digest_ctx_end(struct digest_ctx *c, struct digest *ret);
struct digest_ctx *digest_ctx_free(struct digest_ctx *c);
DEFINE_CLEANUP(struct digest_ctx *, digest_ctx_free)

/* How far a SHA-256 has come: it can be gone on with from there, and two ways to a place be compared.
 * Who goes on from a mark of his own and comes to an expected one over as many bytes has seen the
 * bytes that were expected: finding others is finding a collision.  So one hash over a whole vouches
 * for each part of it, too. */
#define DIGEST_MARK_BYTES 96
struct digest_mark {
	uint8_t raw[DIGEST_MARK_BYTES];	/* can be kept; the same on all machines */
};
/* Contexts of SHA-256 only. */
void digest_ctx_mark(const struct digest_ctx *c, struct digest_mark *ret);
void digest_ctx_resume(struct digest_ctx *c, const struct digest_mark *m, uint64_t len);	/* after len bytes */

/* Base64 (RFC 4648, padding optional on input).  Decode returns the length or -EINVAL; out must
 * hold len / 4 * 3 + 3 bytes.  Encode writes a NUL and needs (len + 2) / 3 * 4 + 1 bytes. */
long base64_decode(const char *s, size_t len, void *out);
size_t base64_encode(const void *data, size_t len, char *out);
