/* tree_check.h - validation of an image whose sections have been placed (private to cache/) */
#pragma once

#include "cache/tree_image.h"

/* -EBADMSG (INTEGRITY) unless every accessor is safe on t and all invariants of tree.h hold. */
errint_t tree_check(const struct tree *t, struct err *e) _must_check_;
