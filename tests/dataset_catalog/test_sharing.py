"""The laws of sharing: ranks are disjoint and together complete, and from any step on there is exactly the rest.

Exhaustive over world sizes 1 to 8, each remainder mode and every step to be restored at; the sizes are drawn.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_catalog.errors import WindowError
from dataset_catalog.sharing import Part, Remainder, Sharing

WORLDS = range(1, 9)
MODES: tuple[Remainder, ...] = get_args(Remainder)
COMMON = 840  # the least batch that every world size divides

SIZES = st.integers(0, 5000)


def world(batch_size: int, size: int, mode: Remainder) -> list[Sharing]:
    return [Sharing(batch_size, rank, size, mode) for rank in range(size)]


def steps_of(ranks: list[Sharing], n: int, *, start: int = 0) -> list[list[Part]]:
    """Step by step, the parts of all ranks that have one."""
    columns = zip_longest(*(rank.parts(n, start=start) for rank in ranks))
    return [[part for part in column if part is not None] for column in columns]


def samples_of(step: list[Part]) -> list[int]:
    """The positions of a step, without padding, as the ranks have them one after the other."""
    return [p for part in step for p, weight in zip(part.positions.tolist(), part.weight, strict=True) if weight]


@given(SIZES)
def test_ranks_are_disjoint_and_together_complete_whatever_their_number(n: int) -> None:
    for mode in MODES:
        expected = list(range(n - n % COMMON if mode == "drop" else n))
        for size in WORLDS:
            seen = [p for step in steps_of(world(COMMON, size, mode), n) for p in samples_of(step)]
            assert seen == expected, (mode, size)


@given(SIZES)
def test_a_batch_is_the_same_whatever_the_number_of_ranks(n: int) -> None:
    for mode in MODES:
        alone = [samples_of(step) for step in steps_of(world(COMMON, 1, mode), n)]
        for size in WORLDS:
            assert [samples_of(step) for step in steps_of(world(COMMON, size, mode), n)] == alone


@given(SIZES)
def test_every_rank_has_as_many_batches_of_the_same_size_but_under_uneven(n: int) -> None:
    for mode in ("drop", "pad"):
        for size in WORLDS:
            ranks = [list(rank.parts(n)) for rank in world(COMMON, size, mode)]
            assert len({len(parts) for parts in ranks}) == 1
            assert {part.stop - part.start for parts in ranks for part in parts} <= {COMMON // size}


@given(SIZES)
def test_under_uneven_ranks_differ_by_a_sample_at_most(n: int) -> None:
    for size in WORLDS:
        totals = [sum(p.stop - p.start for p in rank.parts(n)) for rank in world(COMMON, size, "uneven")]
        assert max(totals) - min(totals) <= 1


@given(SIZES)
def test_a_count_is_the_number_of_parts(n: int) -> None:
    for mode in MODES:
        for size in WORLDS:
            for rank in world(COMMON, size, mode):
                assert rank.count(n) == len(list(rank.parts(n)))


@given(st.integers(0, 60), st.sampled_from([8, 12, 24]))
def test_restored_at_every_step_another_world_gives_exactly_the_rest(n: int, batch_size: int) -> None:
    worlds = [size for size in WORLDS if batch_size % size == 0]
    for mode in MODES:
        whole = [samples_of(step) for step in steps_of(world(batch_size, 1, mode), n)]
        for before in worlds:
            done = steps_of(world(batch_size, before, mode), n)
            for step in range(len(done) + 1):
                delivered = {part.delivered for part in done[step - 1]} if step else {0}
                assert len(delivered) == 1, "every rank saves the same"
                for after in worlds:
                    rest = steps_of(world(batch_size, after, mode), n, start=max(delivered))
                    assert [samples_of(one) for one in rest] == whole[step:]


@given(st.integers(1, 300), st.data())
def test_another_batch_size_goes_on_with_the_rest_too(n: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, n))
    batch_size = data.draw(st.integers(1, 20))
    for mode in ("pad", "uneven"):
        rest = steps_of(world(batch_size, 1, mode), n, start=start)
        assert [p for step in rest for p in samples_of(step)] == list(range(start, n))


def test_padding_weighs_nothing_and_repeats_the_last_sample() -> None:
    (part,) = Sharing(8, 1, 2, "pad").parts(6)
    assert part.positions.tolist() == [4, 5, 5, 5]
    assert part.weight.tolist() == [1, 1, 0, 0]
    assert part.weight.dtype == np.float32
    assert part.delivered == 6


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((10, 0, 4), "world_size must divide it: got 10 for 4"),
        ((0, 0, 1), "batch_size must be >= 1, got 0"),
        ((4, 0, 0), "world_size must be >= 1, got 0"),
        ((4, 2, 2), r"rank must be in \[0, 2\), got 2"),
        ((4, 0, 1, "keep"), "remainder must be one of drop, pad, uneven, got 'keep'"),
    ],
)
def test_what_cannot_be_shared_is_refused(arguments: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(WindowError, match=sentence):
        Sharing(*arguments)
