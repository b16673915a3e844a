"""The laws of the order: an epoch is a permutation, and a position does not depend on how it is reached."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_catalog.block_order import Blocks, BlockShuffled
from dataset_catalog.errors import WindowError
from dataset_catalog.mix_order import STRETCH, MixOrder, shares_of
from dataset_catalog.order import Order, Sequential, Shuffled, permute, sample_seeds

FROZEN = [8, 9, 4, 2, 3, 6, 5, 1, 0, 7]
FROZEN_LARGE = [1828416687134, 58473794323, 1011614107096]
FROZEN_BLOCKS = [8, 9, 11, 6, 10, 7, 5, 4, 3, 0, 2, 1]
FROZEN_MIX = [11, 7, 5, 10, 3, 9, 8, 10, 0, 6]
FROZEN_SEEDS = [6507631630545685677, 14723798161678314491]

LENGTHS = st.lists(st.integers(1, 60), max_size=8)
SEEDS = st.integers(0, 9)
PLAIN = st.one_of(st.builds(Sequential, st.integers(0, 300)), st.builds(Shuffled, st.integers(0, 300), SEEDS))
BLOCKS = st.builds(
    lambda lengths, block, pool, seed: BlockShuffled.of(lengths, block=block, pool=pool, seed=seed),
    LENGTHS, st.sampled_from([1, 2, 7, 10, 400]), st.sampled_from([1, 2, 5, 1000]), SEEDS,
)  # fmt: skip
ORDERS = st.one_of(PLAIN, BLOCKS)
SOURCES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=4)


def whole(order: Order, epoch: int) -> list[int]:
    return order.windows(epoch, np.arange(order.n)).tolist()


def a_mix(sources: list[tuple[int, int]], seed: int = 0, n: int | None = None) -> MixOrder:
    orders = tuple(Shuffled(size, f"{seed}:{which}") for which, (size, _) in enumerate(sources))
    return MixOrder(orders, shares_of([weight for _, weight in sources]), n or sum(o.n for o in orders), seed)


@given(ORDERS, st.integers(0, 5))
def test_an_epoch_shows_every_window_once(order: Order, epoch: int) -> None:
    assert sorted(whole(order, epoch)) == list(range(order.n))


@given(st.one_of(ORDERS, st.builds(a_mix, SOURCES, SEEDS)), st.integers(0, 5), st.data())
def test_a_position_does_not_depend_on_how_it_is_reached(order: Order, epoch: int, data: st.DataObject) -> None:
    positions = np.array(data.draw(st.lists(st.integers(0, max(order.n - 1, 0)), max_size=order.n)), np.int64)
    everything = np.array(whole(order, epoch), np.int64)
    assert (order.windows(epoch, positions) == everything[positions]).all()


def test_epochs_and_seeds_give_other_orders_and_the_same_give_the_same() -> None:
    for make in (
        lambda seed: Shuffled(1000, seed),
        lambda seed: BlockShuffled.of([400, 600], block=10, pool=4, seed=seed),
        lambda seed: a_mix([(500, 1), (500, 1)], seed),
    ):
        orders = [whole(make(seed), epoch) for seed in (0, 1) for epoch in (0, 1)]
        assert len({tuple(order) for order in orders}) == 4
        assert whole(make(1), 1) == orders[3]


def test_the_order_is_the_one_that_saved_states_count_on() -> None:
    assert whole(Shuffled(10, 0), 0) == FROZEN
    assert permute(np.array([0, 1, 2**40]), n=2**41, key="k").tolist() == FROZEN_LARGE
    assert whole(BlockShuffled.of([7, 5], block=3, pool=2, seed=1), 0) == FROZEN_BLOCKS
    assert whole(a_mix([(10, 7), (2, 3)], n=10), 0) == FROZEN_MIX
    assert sample_seeds(np.array([0, 1]), seed=3, epoch=1).tolist() == FROZEN_SEEDS


@pytest.mark.parametrize("position", [-1, 10])
def test_a_position_outside_of_the_epoch_is_refused(position: int) -> None:
    with pytest.raises(IndexError, match=r"positions must be in \[0, 10\)"):
        Shuffled(10).windows(0, np.array([3, position]))


def test_evaluation_goes_through_the_dataset_in_its_order() -> None:
    assert Sequential(9).windows(3, np.arange(2, 6)).tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("n", [2, 3, 5, 10, 100])
def test_every_place_is_about_equally_likely(n: int) -> None:
    """Chi-square over 2,000 epochs of where the first window goes; 1 in a million would fail by chance."""
    first = [int(Shuffled(n, 7).windows(epoch, np.array([0]))[0]) for epoch in range(2000)]
    assert is_uniform(first, n)


def test_the_shorter_block_comes_anywhere_so_that_no_window_is_always_the_last() -> None:
    order = BlockShuffled.of([23], block=4, pool=2, seed=5)
    assert is_uniform([int(order.windows(epoch, np.array([22]))[0]) for epoch in range(2000)], 23)


def is_uniform(places: list[int], n: int) -> bool:
    expected = len(places) / n
    statistic = ((np.bincount(places, minlength=n) - expected) ** 2 / expected).sum()
    return bool(statistic < (n - 1) + 5 * np.sqrt(2 * (n - 1)) + 15)


def test_neighbours_do_not_stay_neighbours() -> None:
    order = np.array(whole(Shuffled(100_000, 1), 0))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert (np.abs(np.diff(order)) == 1).mean() < 0.001


@given(LENGTHS, st.integers(1, 9))
def test_a_block_lies_in_one_run_but_for_what_the_runs_have_left(lengths: list[int], size: int) -> None:
    blocks = Blocks(np.array(lengths, np.int64), size)
    run_of = np.repeat(np.arange(len(lengths)), lengths)
    whole_ones = sum(length // size for length in lengths)
    for block in range(whole_ones):
        windows = blocks.windows(np.full(size, block), np.arange(size))
        assert (np.diff(windows) == 1).all()
        assert len(set(run_of[windows].tolist())) == 1
    assert blocks.count == -(-sum(lengths) // size)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(1, 9), st.integers(1, 6), SEEDS)
def test_a_stretch_as_long_as_a_pool_touches_the_blocks_of_two_pools_at_most(
    lengths: list[int], size: int, pool: int, seed: int
) -> None:
    order = BlockShuffled.of(lengths, block=size, pool=pool, seed=seed)
    every = np.arange(order.n)
    block, within = (np.repeat(np.arange(order.blocks.count), size), np.tile(np.arange(size), order.blocks.count))
    block_of = np.empty(order.n, np.int64)
    block_of[order.blocks.windows(block[: order.n], within[: order.n])] = block[: order.n]
    sequence = block_of[order.windows(0, every)]
    live = {int(b): (int(np.flatnonzero(sequence == b)[0]), int(np.flatnonzero(sequence == b)[-1])) for b in sequence}
    for first, last in live.values():
        assert last - first < size * pool, "a block's windows all come within one pool"


def test_a_pool_of_one_block_gives_its_windows_one_after_the_other() -> None:
    order = whole(BlockShuffled.of([12], block=4, pool=1, seed=3), 0)
    assert sorted(sorted(order[i : i + 4]) for i in (0, 4, 8)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@given(SOURCES, SEEDS, st.integers(0, 3))
def test_a_stretch_of_a_mix_holds_exactly_each_datasets_share(
    sources: list[tuple[int, int]], seed: int, number: int
) -> None:
    order = a_mix(sources, seed, n=STRETCH)
    source, _ = order.turns(number, np.arange(STRETCH))
    assert np.bincount(source, minlength=len(sources)).tolist() == list(order.shares)


@given(SOURCES, SEEDS)
def test_a_dataset_of_a_mix_shows_none_of_its_windows_twice_before_all_have_come(
    sources: list[tuple[int, int]], seed: int
) -> None:
    assert_no_pass_has_a_window_twice(sources, seed, epochs=6)


def test_nor_over_several_stretches() -> None:
    assert_no_pass_has_a_window_twice([(9_000, 1), (15_000, 2)], 0, epochs=2)


def assert_no_pass_has_a_window_twice(sources: list[tuple[int, int]], seed: int, *, epochs: int) -> None:
    order = a_mix(sources, seed)
    seen = np.concatenate([whole(order, epoch) for epoch in range(epochs)])
    ends = np.cumsum([size for size, _ in sources])
    for size, end in zip((size for size, _ in sources), ends.tolist(), strict=True):
        own = seen[(seen >= end - size) & (seen < end)].tolist()
        for first in range(0, len(own), size):
            one_pass = own[first : first + size]
            assert len(set(one_pass)) == len(one_pass)


@pytest.mark.parametrize(
    ("weights", "shares"),
    [([0.7, 0.3], (7000, 3000)), ([1, 1, 1], (3334, 3333, 3333)), ([2], (10_000,)), ([1, 9999], (1, 9999))],
)
def test_weights_become_whole_samples(weights: list[float], shares: tuple[int, ...]) -> None:
    assert shares_of(weights) == shares


@pytest.mark.parametrize("weights", [[], [1, 0], [1, -1], [float("nan")], [float("inf"), 1], [1, 1e6]])
def test_weights_that_give_no_share_are_refused(weights: list[float]) -> None:
    with pytest.raises(WindowError, match="weight"):
        shares_of(weights)


def test_a_samples_randomness_is_its_positions_alone() -> None:
    seeds = sample_seeds(np.arange(1000), seed=1, epoch=2)
    assert len(set(seeds.tolist())) == 1000
    assert (sample_seeds(np.array([7, 3]), seed=1, epoch=2) == seeds[[7, 3]]).all()
    for other in (sample_seeds(np.arange(1000), seed=2, epoch=2), sample_seeds(np.arange(1000), seed=1, epoch=3)):
        assert not (other == seeds).any()


def test_an_order_of_ten_billion_windows_takes_no_memory_of_theirs() -> None:
    lengths = np.full(10_000, 1_000_000)
    order = BlockShuffled.of(lengths, block=10, pool=64, seed=0)
    windows = order.windows(0, np.arange(order.n - 64, order.n))
    assert order.n == 10**10
    assert len(set(windows.tolist())) == 64
