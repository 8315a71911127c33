/*
 * reply.h - from HTTP headers to struct rg_reply (private to transport.c and reply.c)
 */
#pragma once

#include "registry/http.h"

/* Fills everything but sunk and body. */
void reply_read_head(const struct http_res *res, const struct rg_call *call, struct rg_reply *r);
/* Seconds to wait, at most a week; -1 when the server names none. */
int64_t reply_retry_after(const struct http_res *res);
