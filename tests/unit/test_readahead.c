/*
 * test_readahead.c - who is given more than he asks for
 */
#include "policy/readahead.h"

#include "util/cleanup.h"
#include "unit.h"

#define PIECES 100

static bool read_at(struct po_readahead *ra, uint32_t at, uint32_t max, uint32_t *from, uint32_t *end)
{
	*from = *end = 0;
	return po_readahead(ra, at, PIECES, max, from, end);
}

TEST(the_window_grows_while_somebody_reads_on)
{
	struct po_readahead ra = { 0 };
	uint32_t from, end, ahead[8];

	CHECK(!read_at(&ra, 10, 8, &from, &end));	/* one piece is no direction */
	for (uint32_t i = 0; i < 8; i++) {
		(void)read_at(&ra, 11 + i, 8, &from, &end);
		ahead[i] = ra.readers[0].until - (11 + i) - 1;
	}
	CHECK_EQ_INT(ahead[0], 1);
	CHECK_EQ_INT(ahead[1], 2);
	CHECK_EQ_INT(ahead[2], 4);
	CHECK_EQ_INT(ahead[3], 8);
	CHECK_EQ_INT(ahead[7], 8);
}

TEST(no_piece_is_asked_for_twice)
{
	struct po_readahead ra = { 0 };
	bool asked[PIECES] = { false };
	uint32_t from, end;

	for (uint32_t at = 0; at < PIECES; at++) {
		for (int again = 0; again < 3; again++) {
			if (!read_at(&ra, at, 8, &from, &end))
				continue;
			CHECK(from > at && end <= PIECES);
			for (uint32_t i = from; i < end; i++) {
				CHECK(!asked[i]);
				asked[i] = true;
			}
		}
	}
	for (uint32_t i = 3; i < PIECES; i++)
		CHECK(asked[i]);
}

TEST(who_jumps_about_is_given_nothing)
{
	struct po_readahead ra = { 0 };
	uint32_t from, end, at = 7;

	for (int i = 0; i < 500; i++) {
		at = (at * 37 + 11) % PIECES;	/* never near the last eight */
		bool near = false;
		for (size_t k = 0; k < PO_READERS; k++)
			near |= ra.readers[k].used && at + 4 > ra.readers[k].at && at < ra.readers[k].at + 4;
		if (!near)
			CHECK(!read_at(&ra, at, 8, &from, &end));
	}
	for (uint32_t down = PIECES; down-- > 0;)	/* backwards is not on */
		CHECK(!po_readahead(&(struct po_readahead){ .readers = { { .at = down + 1, .until = down + 2, .used = 1 } } },
				    down, PIECES, 8, &from, &end));
}

TEST(readers_are_told_apart)
{
	struct po_readahead ra = { 0 };
	uint32_t from, end;
	int grown = 0;

	for (uint32_t i = 0; i < 10; i++)
		for (uint32_t reader = 0; reader < 8; reader++)
			grown += read_at(&ra, reader * 12 + i, 2, &from, &end);
	CHECK_EQ_INT(grown, 8 * 9);
}

TEST(little_disorder_is_no_change_of_mind)
{
	static const uint32_t order[] = { 4, 6, 5, 7, 9, 8, 10 };
	struct po_readahead ra = { 0 };
	uint32_t from, end;

	for (size_t i = 0; i < ARRAY_SIZE(order); i++)
		(void)read_at(&ra, order[i], 8, &from, &end);
	CHECK_EQ_INT(ra.readers[0].until, 19);
	CHECK_EQ_INT(ra.readers[1].used, 0);
}

TEST(who_reads_within_a_piece_is_not_forgotten)
{
	struct po_readahead ra = { 0 };
	uint32_t from, end;

	CHECK(!read_at(&ra, 2, 8, &from, &end));
	CHECK(read_at(&ra, 3, 8, &from, &end));
	for (uint32_t jump = 0; jump < PO_READERS; jump++) {
		CHECK(!read_at(&ra, 20 + 9 * jump, 8, &from, &end));
		CHECK(!read_at(&ra, 3, 8, &from, &end));
	}
	CHECK(read_at(&ra, 4, 8, &from, &end));
	CHECK_EQ_INT(end, 4 + 1 + 2);	/* the window grew: it is still the same reader */
}

TEST(the_end_and_the_clock)
{
	struct po_readahead ra = { .clock = UINT32_MAX - 1 };
	uint32_t from, end;

	CHECK(!read_at(&ra, PIECES - 2, 8, &from, &end));
	CHECK(!read_at(&ra, PIECES - 1, 8, &from, &end));
	CHECK(!po_readahead(&ra, 0, 1, 8, &from, &end));
	CHECK(!read_at(&ra, 50, 8, &from, &end));
	CHECK(read_at(&ra, 51, 8, &from, &end));
	CHECK(!read_at(&ra, UINT32_MAX, 8, &from, &end));	/* beyond the layer: harmless */
	CHECK(!read_at(&ra, 52, 0, &from, &end));
}
