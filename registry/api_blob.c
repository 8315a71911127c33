/*
 * api_blob.c - blob ranges, continued after broken connections
 *
 * The transport retries until the first body byte; from then on this file is responsible, because
 * only it knows what the sink already has.  A continuation asks for the rest by Range.  It is
 * granted when API_RESUME_BYTES have arrived since the last one, or it is the first, or the retry
 * policy agrees to one more without progress; never more than API_RESUMES_MAX in all.
 *
 * gate() stands between transport and sink.  Before the first byte of each answer it decides from
 * the reply's head what that byte's offset is: where we asked (206), or 0 (200, Range ignored), and
 * refuses answers about a blob of another size.  The sink sees each byte once and in order.
 *
 * Whole blobs from mirrors are hashed here: the cache would notice wrong bytes as well, but not
 * that the registry itself may have better ones.  It is asked at once when no byte has been given
 * out, else at the next read, since what a mirror has spoilt is remembered.  Parts only the cache can
 * check; it says so (rg_blob_was_bad).
 */
#include "registry/api_priv.h"

#include <inttypes.h>
#include <stdio.h>

#include "util/stats.h"

#define IGNORED_RANGES_MAX 2	/* one can be a proxy's mood */

#define _cleanup_reply_ _cleanup_(rg_reply_done)

struct blob_read {
	struct rg_api *api;
	const char *what;
	const struct digest *digest;
	uint64_t size;		/* of the whole blob */
	uint64_t start, pos, end; /* where it began; next byte the sink wants; where it ends */
	rg_sink_fn sink;
	void *sink_ctx;
	struct rg_reply *reply;	/* of the attempt under way */
	bool begun;		/* gate() has judged this reply */
	bool no_mirrors;
	bool spoilt;		/* this reply is a mirror's, and wrong */
	struct digest_ctx *hash; /* of all that was given out, when a mirror began it */
	bool no_range; /* the server's ranged answers are unusable: ask for the whole blob */
	bool fatal;		/* the error is ours or the sink's: no continuation */
	bool cut;		/* we aborted a transfer that had given all we wanted */
	bool bad_range;		/* we aborted because of an unusable 206 */
	uint64_t stream;	/* offset in the blob of the next byte from the transport */
	unsigned resumes, idle_resumes;
	uint64_t pos_at_resume;
};

static errint_t fatal_integrity(struct blob_read *b, struct err *e, const char *problem)
{
	b->fatal = true;
	b->spoilt = b->reply->from_mirror;
	if (b->spoilt)
		api_remember(b->api, &b->api->bad_blobs, b->digest, sizeof(*b->digest));
	stat_inc(STAT_INTEGRITY_FAILURES);
	return err_set(e, EIO, ERR_INTEGRITY, "%s sent %s for %s", rg_host_name(b->api->host),
		       problem, b->what);
}

/* A full answer: from byte 0, as long as the blob. */
static errint_t begin_full(struct blob_read *b, struct err *e)
{
	int64_t n = b->reply->content_length;

	b->stream = 0;
	if (b->pos > 0 || b->end < b->size)
		(void)atomic_fetch_add(&b->api->ignored_ranges, 1);
	if (n >= 0 && (uint64_t)n != b->size)
		return fatal_integrity(b, e,
				       (uint64_t)n < b->size ? "too few bytes" : "too many bytes");
	return 0;
}

/* A part: it must start where we asked, of a blob as large as the descriptor says. */
static errint_t begin_part(struct blob_read *b, struct err *e)
{
	const struct rg_reply *r = b->reply;

	if (r->has_range && r->range_total != 0 && r->range_total != b->size)
		return fatal_integrity(b, e, "a range of a blob of another size");
	if (!r->has_range || r->range_start != b->pos) {
		b->bad_range = true;
		return err_set(e, EIO, ERR_INPUT, "%s sent a range that was not asked for, of %s",
			       rg_host_name(b->api->host), b->what);
	}
	b->stream = r->range_start;
	atomic_store(&b->api->ignored_ranges, 0);
	return 0;
}

static errint_t begin(struct blob_read *b, struct err *e)
{
	b->begun = true;
	if (b->reply->from_mirror && b->pos == 0 && b->end == b->size && !b->hash)
		b->hash = digest_ctx_new((enum digest_alg)b->digest->alg);
	return b->reply->status == 206 ? begin_part(b, e) : begin_full(b, e);
}

static errint_t deliver(struct blob_read *b, const char *data, size_t len, struct err *e)
{
	errint_t r = b->sink(b->sink_ctx, data, len, e);

	if (r < 0) {
		b->fatal = true;
		return r;
	}
	if (b->hash)
		digest_ctx_add(b->hash, data, len);
	b->pos += len;
	return 0;
}

/* Is what arrives beyond the end a fault?  Of a part or of the whole blob yes; of a full answer to
 * a ranged request it is the rest of the blob, which nobody wants. */
static errint_t past_end(struct blob_read *b, struct err *e)
{
	if (b->reply->status == 206 || b->end == b->size)
		return fatal_integrity(b, e, "too many bytes");
	b->cut = true;
	return -ECANCELED;
}

static errint_t gate(void *ctx, const void *data, size_t len, struct err *e)
{
	struct blob_read *b = ctx;
	const char *p = data;
	uint64_t skip, n;
	errint_t r = b->begun ? 0 : begin(b, e);

	if (r < 0)
		return r;
	skip = b->stream < b->pos ? MIN_OF(b->pos - b->stream, (uint64_t)len) : 0;
	b->stream += len;
	p += skip;
	len -= skip;
	n = MIN_OF(b->end - b->pos, (uint64_t)len);
	if (n > 0)
		r = deliver(b, p, (size_t)n, e);
	if (r < 0)
		return r;
	return len > n ? past_end(b, e) : 0;
}

static errint_t attempt(struct blob_read *b, const char *repo, const struct digest *d,
			struct rg_reply *reply, struct cancel *c, struct err *e)
{
	char path[sizeof("blobs/") + DIGEST_TEXT_MAX], text[DIGEST_TEXT_MAX];
	bool ranged = !b->no_range && (b->pos > 0 || b->end < b->size);
	struct rg_call call = {
		.method = "GET",
		.repo = repo,
		.path = path,
		.lane = b->size <= API_SMALL_BLOB ? RG_LANE_SMALL_BLOB : RG_LANE_BLOB,
		.by_digest = true,
		.mirrors = !b->no_mirrors,
		.ranged = ranged,
		.off = ranged ? b->pos : 0,
		.len = ranged ? b->end - b->pos : 0,
		.sink = gate,
		.sink_ctx = b,
	};

	(void)snprintf(path, sizeof(path), "blobs/%s", digest_text(d, text));
	b->reply = reply;
	b->begun = b->cut = b->bad_range = b->spoilt = false;
	b->stream = 0;
	return rg_transport_call(b->api->host, &call, reply, c, e);
}

/* The transfer ended in good order, but did it bring everything?  0 = yes; a positive return = the
 * answer was a shorter part than asked for, which may be continued. */
static int judge_end(struct blob_read *b, struct err *e)
{
	struct digest have;

	if (b->pos == b->end && b->hash) {
		digest_ctx_end(b->hash, &have);
		if (!digest_eq(&have, b->digest))
			return fatal_integrity(b, e, "wrong bytes");
	}
	if (b->pos == b->end)
		return 0;
	if (b->reply->status == 206 && b->begun)
		return 1;
	return fatal_integrity(b, e, "too few bytes");
}

static int judge_status(struct blob_read *b, struct err *e)
{
	const struct rg_reply *r = b->reply;

	if (r->status == 200 || r->status == 206)
		return judge_end(b, e);
	b->fatal = true;
	if (r->status == 416)
		return err_set(e, EIO, ERR_INTEGRITY,
			       "%s has fewer bytes of %s than its manifest says (%" PRIu64 ")",
			       rg_host_name(b->api->host), b->what, b->size);
	return rg_errmap(r, rg_host_name(b->api->host), b->what, e);
}

static bool is_broken_connection(const struct err *e)
{
	return e->cls == ERR_NET || e->cls == ERR_TIMEOUT;
}

/* Asks the policy above; on yes waits as long as it wants. */
static bool may_resume(struct blob_read *b, const struct err *why, struct cancel *c)
{
	const struct rg_opts *o = b->api->opts;
	enum err_class cls = why->cls == ERR_UNSET ? ERR_NET : why->cls;
	uint64_t delay = 0;

	if (b->pos - b->pos_at_resume >= API_RESUME_BYTES)
		b->idle_resumes = 0;
	if (++b->resumes > API_RESUMES_MAX || !o || !o->retry)
		return false;
	if (!o->retry(++b->idle_resumes, cls, 0, -1, &delay))
		return false;
	b->pos_at_resume = b->pos;
	return cancel_sleep_ns(c, delay, NULL) == 0;
}

/* One round: 0 = complete, 1 = go on with another attempt, negative = failed. */
static int round_of(struct blob_read *b, const char *repo, const struct digest *d,
		    struct cancel *c, struct err *e)
{
	_cleanup_reply_ struct rg_reply reply = { 0 };
	int r = attempt(b, repo, d, &reply, c, e);
	bool arrived = b->begun;

	if (b->cut)
		return 0;
	if (b->bad_range && !b->no_range) {
		b->no_range = true;
		return 1;
	}
	if (r == 0)
		r = judge_status(b, e);
	if (b->spoilt && !b->no_mirrors && b->pos == b->start) {
		b->fatal = false;
		b->no_mirrors = true;
		return 1;
	}
	if (r < 0 && !b->fatal && arrived && is_broken_connection(e))
		r = 1;
	if (r <= 0)
		return r;
	if (may_resume(b, e, c))
		return 1;
	if (cancel_fired(c))
		return err_set(e, ECANCELED, ERR_CANCELLED, "cancelled");
	if (e->cls == ERR_TIMEOUT)
		return err_wrap(e, -e->eno, "%s at byte %" PRIu64 " of %" PRIu64, b->what, b->pos,
				b->size);
	return err_set(e, EIO, ERR_NET,
		       "%s broke off %s at byte %" PRIu64 " of %" PRIu64 " after %u continuations",
		       rg_host_name(b->api->host), b->what, b->pos, b->size, b->resumes - 1);
}

static errint_t check_range(uint64_t size, uint64_t off, uint64_t len, struct err *e)
{
	if (off <= size && len <= size - off)
		return 0;
	return err_set(e, EINVAL, ERR_BUG,
		       "%" PRIu64 " bytes at %" PRIu64 " are not inside a blob of %" PRIu64, len,
		       off, size);
}

errint_t rg_api_get_blob(struct rg_api *a, const char *repo, const struct digest *d, uint64_t size,
			 uint64_t off, uint64_t len, rg_sink_fn sink, void *ctx, struct cancel *c,
			 struct err *e)
{
	char what[API_WHAT_MAX], text[DIGEST_TEXT_MAX];
	struct blob_read b = {
		.api = a, .what = what, .size = size, .pos = off, .end = len ? off + len : size,
		.sink = sink, .sink_ctx = ctx, .pos_at_resume = off, .start = off, .digest = d,
		.no_mirrors = api_remembers(a, &a->bad_blobs, d, sizeof(*d)),
	};
	struct err mine;
	int r = check_range(size, off, len, e);

	if (r < 0 || b.pos == b.end)
		return r;
	(void)snprintf(what, sizeof(what), "blob %s of %s", digest_text(d, text), repo);
	do {
		mine = (struct err){ 0 };
		r = round_of(&b, repo, d, c, &mine);
	} while (r > 0);
	(void)digest_ctx_free(b.hash);
	if (r < 0 && e)
		*e = mine;
	return r;
}

bool rg_api_sends_parts(struct rg_api *a)
{
	return atomic_load(&a->ignored_ranges) < IGNORED_RANGES_MAX;
}

bool rg_api_blob_was_bad(struct rg_api *a, const struct digest *d, uint64_t began_ns)
{
	uint64_t since = api_remembered(a, &a->bad_blobs, d, sizeof(*d));

	if (since && since < began_ns)
		return false;
	if (!since)
		api_remember(a, &a->bad_blobs, d, sizeof(*d));
	return true;
}
