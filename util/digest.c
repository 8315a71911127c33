/*
 * digest.c - parsing, printing and computing digests; base64
 *
 * The algorithms are fetched from OpenSSL once per process (an implicit fetch per hash costs more
 * than hashing a small manifest), and one-shot hashing keeps a context per thread, so that we
 * allocate nothing per call.  (OpenSSL 3.0 itself renews about 100 bytes of state at every init.)
 *
 * Contexts of SHA-256 use the low-level functions, the only ones that let their state be seen.
 * OpenSSL calls them deprecated, for the providers' sake; their code is the same.
 */
#include "util/digest.h"

#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <string.h>

struct alg_info {
	const char *name;
	const char *evp_name;
	uint8_t len;
};

static const struct alg_info algs[] = {
	[DIGEST_UNSET] = { "unset", NULL, 0 },
	[DIGEST_SHA256] = { "sha256", "SHA256", 32 },
	[DIGEST_SHA512] = { "sha512", "SHA512", 64 },
};

static const char hex_digits[] = "0123456789abcdef";

static const struct alg_info *alg_of(unsigned alg)
{
	return &algs[alg < ARRAY_SIZE(algs) ? alg : DIGEST_UNSET];
}

/* ---- text ---- */

static bool is_lower_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* component (separator component)*, separator one of + . _ - */
static bool alg_grammar_ok(const char *s, size_t len)
{
	bool after_component = false;

	for (size_t i = 0; i < len; i++) {
		if (is_lower_alnum(s[i]))
			after_component = true;
		else if (after_component && s[i] && strchr("+._-", s[i]))
			after_component = false;
		else
			return false;
	}
	return after_component;
}

static bool encoded_grammar_ok(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!is_lower_alnum(s[i]) && !(s[i] >= 'A' && s[i] <= 'Z') && s[i] != '=' &&
		    s[i] != '_' && s[i] != '-')
			return false;
	return len > 0;
}

#define HEX_OK 0x10

static const uint8_t hex_value[256] = {	/* a digit's value and HEX_OK; else 0 */
	['0'] = 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19,
	['a'] = 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f,
};

/* Tables of contents have a digest or two for every file: no branch per digit. */
static bool hex_decode(const char *s, size_t bytes, uint8_t *out)
{
	unsigned ok = HEX_OK;

	for (size_t i = 0; i < bytes; i++) {
		unsigned hi = hex_value[(uint8_t)s[2 * i]], lo = hex_value[(uint8_t)s[2 * i + 1]];

		ok &= hi & lo;
		out[i] = (uint8_t)(hi << 4 | (lo & 0xf));
	}
	return ok;
}

static enum digest_alg alg_by_name(const char *s, size_t len)
{
	for (unsigned i = DIGEST_UNSET + 1; i < ARRAY_SIZE(algs); i++)
		if (strlen(algs[i].name) == len && memcmp(algs[i].name, s, len) == 0)
			return (enum digest_alg)i;
	return DIGEST_UNSET;
}

errint_t digest_parse(const char *s, size_t len, struct digest *ret)
{
	const char *colon = len > 0 ? memchr(s, ':', len) : NULL;
	struct digest d = { 0 };

	if (!colon)
		return -EINVAL;

	size_t alg_len = (size_t)(colon - s), enc_len = len - alg_len - 1;

	d.alg = (uint8_t)alg_by_name(s, alg_len);
	d.len = alg_of(d.alg)->len;
	if (d.alg == DIGEST_UNSET)
		return alg_grammar_ok(s, alg_len) && encoded_grammar_ok(colon + 1, enc_len) ? -EOPNOTSUPP : -EINVAL;
	if (enc_len != 2u * d.len || !hex_decode(colon + 1, d.len, d.raw))
		return -EINVAL;
	*ret = d;
	return 0;
}

static void hex_encode(const struct digest *d, char *out)
{
	size_t n = MIN_OF(d->len, DIGEST_RAW_MAX);

	for (size_t i = 0; i < n; i++) {
		*out++ = hex_digits[d->raw[i] >> 4];
		*out++ = hex_digits[d->raw[i] & 15];
	}
	*out = '\0';
}

const char *digest_text(const struct digest *d, char out[static DIGEST_TEXT_MAX])
{
	const char *name = alg_of(d->alg)->name;
	size_t n = strlen(name);

	memcpy(out, name, n);
	out[n] = ':';
	hex_encode(d, out + n + 1);
	return out;
}

const char *digest_hex(const struct digest *d, char out[static DIGEST_TEXT_MAX])
{
	hex_encode(d, out);
	return out;
}

const char *digest_alg_name(const struct digest *d)
{
	return alg_of(d->alg)->name;
}

bool digest_eq(const struct digest *a, const struct digest *b)
{
	return a->alg != DIGEST_UNSET && memcmp(a, b, sizeof(*a)) == 0;
}

/* ---- hashing ---- */

struct digest_ctx {
	EVP_MD_CTX *evp;	/* not of SHA-256 */
	SHA256_CTX sha256;
	enum digest_alg alg;
	bool failed; /* sticky until reset; digest_ctx_end then gives an unset digest */
};

static EVP_MD *mds[ARRAY_SIZE(algs)]; /* NULL where OpenSSL has none (FIPS and the like) */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t thread_ctx_key;
static bool have_thread_key;
static __thread EVP_MD_CTX *thread_ctx;

static void thread_ctx_free(void *p)
{
	EVP_MD_CTX_free(p);
	thread_ctx = NULL;
}

static void load_algs(void)
{
	for (unsigned i = DIGEST_UNSET + 1; i < ARRAY_SIZE(algs); i++)
		mds[i] = EVP_MD_fetch(NULL, algs[i].evp_name, NULL);
	have_thread_key = pthread_key_create(&thread_ctx_key, thread_ctx_free) == 0;
}

static const EVP_MD *md_of(enum digest_alg alg)
{
	(void)pthread_once(&once, load_algs);
	return (unsigned)alg < ARRAY_SIZE(mds) ? mds[alg] : NULL;
}

static bool finish(EVP_MD_CTX *evp, enum digest_alg alg, struct digest *ret)
{
	*ret = (struct digest){ .alg = (uint8_t)alg, .len = alg_of(alg)->len };
	if (EVP_DigestFinal_ex(evp, ret->raw, NULL) == 1)
		return true;
	*ret = (struct digest){ 0 };
	return false;
}

/* This thread's context; the key is only there to free it when the thread ends. */
static EVP_MD_CTX *get_thread_ctx(void)
{
	if (thread_ctx || !have_thread_key)
		return thread_ctx;

	EVP_MD_CTX *evp = EVP_MD_CTX_new();

	if (evp && pthread_setspecific(thread_ctx_key, evp) != 0) {
		EVP_MD_CTX_free(evp);
		evp = NULL;
	}
	thread_ctx = evp;
	return evp;
}

void digest_of(enum digest_alg alg, const void *data, size_t len, struct digest *ret)
{
	const EVP_MD *md = md_of(alg);
	EVP_MD_CTX *evp = md ? get_thread_ctx() : NULL;

	*ret = (struct digest){ 0 };
	if (evp && EVP_DigestInit_ex2(evp, md, NULL) == 1 && EVP_DigestUpdate(evp, data, len) == 1)
		(void)finish(evp, alg, ret);
}

struct digest_ctx *digest_ctx_new(enum digest_alg alg)
{
	_cleanup_free_ struct digest_ctx *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->alg = alg;
	if (alg != DIGEST_SHA256 && !(c->evp = EVP_MD_CTX_new()))
		return NULL;
	digest_ctx_reset(c);
	return steal_ptr(&c);
}

void digest_ctx_reset(struct digest_ctx *c)
{
	if (c->evp) {
		const EVP_MD *md = md_of(c->alg);

		c->failed = !md || EVP_DigestInit_ex2(c->evp, md, NULL) != 1;
	} else {
		c->failed = SHA256_Init(&c->sha256) != 1;
	}
}

void digest_ctx_add(struct digest_ctx *c, const void *data, size_t len)
{
	int r = 1;

	if (!c->failed)
		r = c->evp ? EVP_DigestUpdate(c->evp, data, len) : SHA256_Update(&c->sha256, data, len);
	if (r != 1)
		c->failed = true;
}

void digest_ctx_end(struct digest_ctx *c, struct digest *ret)
{
	*ret = (struct digest){ 0 };
	if (c->failed)
		return;
	c->failed = true; /* until the next reset */
	if (c->evp) {
		(void)finish(c->evp, c->alg, ret);
		return;
	}
	ret->alg = DIGEST_SHA256;
	ret->len = SHA256_DIGEST_LENGTH;
	if (SHA256_Final(ret->raw, &c->sha256) != 1)
		*ret = (struct digest){ 0 };
}

struct digest_ctx *digest_ctx_free(struct digest_ctx *c)
{
	if (c)
		EVP_MD_CTX_free(c->evp);
	free(c);
	return NULL;
}

/* ---- marks: the eight words of the state, big-endian, then the bytes of the block that is not full ---- */

#define MARK_WORDS 8
#define MARK_REST (4 * MARK_WORDS)

_Static_assert(MARK_REST + SHA256_CBLOCK == DIGEST_MARK_BYTES, "a state and a block");

void digest_ctx_mark(const struct digest_ctx *c, struct digest_mark *ret)
{
	*ret = (struct digest_mark){ 0 };
	for (size_t i = 0; i < MARK_WORDS; i++)
		for (size_t k = 0; k < 4; k++)
			ret->raw[4 * i + k] = (uint8_t)(c->sha256.h[i] >> (24 - 8 * k));
	memcpy(ret->raw + MARK_REST, c->sha256.data, c->sha256.num);
}

void digest_ctx_resume(struct digest_ctx *c, const struct digest_mark *m, uint64_t len)
{
	digest_ctx_reset(c);
	for (size_t i = 0; i < MARK_WORDS; i++) {
		c->sha256.h[i] = 0;
		for (size_t k = 0; k < 4; k++)
			c->sha256.h[i] = c->sha256.h[i] << 8 | m->raw[4 * i + k];
	}
	c->sha256.Nl = (SHA_LONG)(len << 3);
	c->sha256.Nh = (SHA_LONG)(len >> 29);
	c->sha256.num = (unsigned)(len % SHA256_CBLOCK);
	memcpy(c->sha256.data, m->raw + MARK_REST, c->sha256.num);
}

/* ---- base64 ---- */

static int base64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Padding may be missing; where there is some, it must complete the last group of four. */
static bool strip_padding(const char *s, size_t *len)
{
	size_t n = *len;

	while (n > 0 && *len - n < 2 && s[n - 1] == '=')
		n--;
	if (n != *len && *len % 4 != 0)
		return false;
	*len = n;
	return n % 4 != 1;
}

long base64_decode(const char *s, size_t len, void *out)
{
	uint8_t *p = out;
	uint32_t bits = 0;
	unsigned have = 0;

	if (!strip_padding(s, &len))
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		int v = base64_value(s[i]);

		if (v < 0)
			return -EINVAL;
		bits = bits << 6 | (uint32_t)v;
		have += 6;
		if (have >= 8) {
			have -= 8;
			*p++ = (uint8_t)(bits >> have);
		}
	}
	return p - (uint8_t *)out;
}

size_t base64_encode(const void *data, size_t len, char *out)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const uint8_t *p = data;
	char *o = out;

	for (; len > 0; p += 3) {
		size_t n = MIN_OF(len, (size_t)3);
		uint32_t v = (uint32_t)p[0] << 16 | (n > 1 ? (uint32_t)p[1] << 8 : 0) |
			     (n > 2 ? p[2] : 0u);

		*o++ = digits[v >> 18];
		*o++ = digits[v >> 12 & 63];
		*o++ = n > 1 ? digits[v >> 6 & 63] : '=';
		*o++ = n > 2 ? digits[v & 63] : '=';
		len -= n;
	}
	*o = '\0';
	return (size_t)(o - out);
}
