/*
 * oci_write.h - composing an OCI index from descriptors (private to registry/)
 *
 * Used for indexes that exist nowhere as bytes: referrers from several pages, or found in a layout.
 * Errors are sticky in the buffer; look at buf_check after index_end.
 */
#pragma once

#include "registry/oci.h"
#include "util/buf.h"

void index_begin(struct buf *b);
/* first: no comma in front.  Writes what a client needs of a child: type, digest, size, platform,
 * artifact type and annotations. */
void index_add(struct buf *b, const struct oci_descriptor *d, bool first);
void index_end(struct buf *b);
