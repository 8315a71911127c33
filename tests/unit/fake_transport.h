/*
 * fake_transport.h - a scripted rg_transport_call, linked in place of the real one
 *
 * A test pushes answers, makes a call of api.h, and looks at the requests that were made.  Answers
 * are used up in order; a request without an answer fails with ERR_BUG.
 */
#pragma once

#include "registry/transport.h"

struct fake_answer {
	int status;
	const char *content_type, *digest, *link, *location, *subject, *upload_range;
	int64_t chunk_min;
	const char *body;		/* NULL = "" */
	size_t body_len;		/* 0 = strlen(body) */
	int64_t content_length;		/* 0 = as the body; -1 = unknown */
	bool has_range, from_mirror;
	uint64_t range_start, range_total;
	errint_t fail;			/* after the body (sink) or instead of an answer */
	enum err_class fail_cls;
};

struct fake_request {
	char method[8], path[256], query[512], next_url[512], repo[256], accept[400];
	char at[512], type[128], content_range[64], sent[1024], wanted[300];
	uint64_t sent_len;
	const char *scope;
	bool ranged, mirrors, by_digest;
	uint64_t off, len;
	enum rg_lane lane;
};

#define FAKE_MAX 256

void fake_reset(void);
void fake_push(struct fake_answer a);
size_t fake_n_requests(void);
const struct fake_request *fake_request(size_t i);
struct rg_host *fake_host(void);
