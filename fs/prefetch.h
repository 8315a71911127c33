/*
 * prefetch.h - what will be read soon, fetched before it is
 *
 * Which files of an image are used first is recorded, for a minute from the first one on, and kept
 * by the manifest's digest (first_list.h).  The next mount that looks into the image fetches their
 * data as soon as its tree is there; without a list, what the image's builder has marked (landmarks
 * of eStargz).  With the option `complete` everything else follows, slowly (pace.h).
 *
 * All of it happens beside the operations that cause it: they only start a task.
 */
#pragma once

#include "fs/kinds.h"

struct first_use;
struct first_use *first_use_free(struct first_use *u);	/* accepts and returns NULL */

/* The tree of a rootfs is there for the first time in this node's life. */
void prefetch_begin(struct op *op, struct node *n);
/* A file of the tree is opened. */
void prefetch_note(struct op *op, struct image *img, struct tree *t, uint32_t file);
/* The same before the tree is there; sub: the file's early number. */
void prefetch_note_early(struct op *op, struct image_at *at, uint32_t sub);
/* Keeps what was recorded of img, which is about to go. */
void prefetch_forget(struct image *img);

/* The row `prefetch` of an image's .control. */
errint_t prefetch_show(struct op *op, const struct subject *s, struct buf *out) _must_check_;
errint_t prefetch_store(struct op *op, const struct subject *s, const char *value, size_t len) _must_check_;
