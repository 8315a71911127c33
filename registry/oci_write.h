/*
 * oci_write.h - composing an OCI index from descriptors (private to registry/)
 *
 * Used for indexes that exist nowhere as bytes: referrers from several pages, or found in a layout.
 * Errors are sticky in the buffer; look at buf_check after index_end.  Indexes that others wrote are
 * edited as text, so that what we do not know stays in them.
 */
#pragma once

#include "registry/oci.h"
#include "util/buf.h"

void index_begin(struct buf *b);
/* first: no comma in front.  Writes what a client needs of a child: type, digest, size, platform,
 * artifact type and annotations. */
void index_add(struct buf *b, const struct oci_descriptor *d, bool first);
void index_end(struct buf *b);

/* An element of an index's `manifests`: keep it? */
typedef bool (*index_keep_fn)(void *ctx, size_t i);
/* Appends to out the index in json (which has passed json_parse), without the elements of its
 * `manifests` that keep refuses, and with add as the last one.  -EINVAL: it has no such list. */
errint_t index_edit(const char *json, size_t len, index_keep_fn keep, void *ctx, const char *add,
		    struct buf *out) _must_check_;
/* Appends to out the JSON object in json, with the string value at path (names from the outside in, NULL
 * at the end), which is made when it is not there.  All else stays.  -EINVAL: something on the path is
 * no object. */
errint_t oci_set(const char *json, size_t len, const char *const *path, const char *value,
		 struct buf *out) _must_check_;
/* The descriptor by which a referrers list names m; borrows everything from m. */
struct oci_descriptor index_referrer(const struct oci_manifest *m, const struct digest *d, uint64_t size);
