/*
 * tree_link.h - what the symbolic links of a tree show
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "cache/tree.h"
#include "util/buf.h"
#include "util/err.h"

#define TREE_LINK_TEXT_MAX 4095u	/* what readlink can return */

/* Appends the text of node n, a TREE_SYMLINK or TREE_LINK, as seen from the directory that n itself
 * is in: two names of one link may show different texts. */
errint_t tree_link_text(const struct tree *t, uint32_t n, struct buf *out) _must_check_;
