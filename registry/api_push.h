/*
 * api_push.h - writing by the OCI distribution protocol (private to registry/)
 *
 * The calls mean what their namesakes in push.h say.
 */
#pragma once

#include "registry/api_priv.h"
#include "registry/push.h"
#include "registry/url.h"

errint_t rg_api_has_blob(struct rg_api *a, const char *repo, const struct digest *d, bool *ret,
			 struct cancel *c, struct err *e) _must_check_;
errint_t rg_api_put_blob(struct rg_api *a, const char *repo, const struct rg_body *b, const char *from,
			 struct cancel *c, struct err *e) _must_check_;
/* m: what p's bytes say. */
errint_t rg_api_put_manifest(struct rg_api *a, const char *repo, const struct rg_put *p,
			     const struct oci_manifest *m, const struct digest *d, struct cancel *c,
			     struct err *e) _must_check_;

/* One PUT.  *ret_listed: the registry has put it among its subject's referrers. */
errint_t api_put_manifest(struct rg_api *a, const char *repo, const struct rg_put *p,
			  const struct digest *d, bool *ret_listed, struct cancel *c,
			  struct err *e) _must_check_;
/* The tag under which a digest's referrers are where there is no API. */
void api_referrers_tag(const struct digest *d, char out[static REF_TAG_MAX + 1]);
