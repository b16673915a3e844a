"""The laws of the order: an epoch is a permutation, ranks share it without loss, and any position is a good start."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_catalog.order import Order, Slice, count_slices, permute, slices

FROZEN = [8, 9, 4, 2, 3, 6, 5, 1, 0, 7]
FROZEN_LARGE = [1828416687134, 58473794323, 1011614107096]
ORDERS = st.builds(
    Order, st.integers(0, 300), seed=st.integers(0, 9), shuffle=st.booleans(), group=st.sampled_from([1, 2, 7, 400])
)
CUTS = st.fixed_dictionaries(
    {"batch_size": st.integers(1, 9), "world_size": st.integers(1, 5), "drop_last": st.booleans()}
)


@given(ORDERS, st.integers(0, 5))
def test_an_epoch_shows_every_window_once(order: Order, epoch: int) -> None:
    assert sorted(order.windows(epoch, 0, order.n).tolist()) == list(range(order.n))


@given(ORDERS, st.integers(0, 5), st.data())
def test_a_position_does_not_depend_on_how_it_is_reached(order: Order, epoch: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, order.n))
    stop = data.draw(st.integers(start, order.n))
    assert (order.windows(epoch, start, stop) == order.windows(epoch, 0, order.n)[start:stop]).all()


@given(st.integers(0, 300), CUTS)
def test_ranks_are_disjoint_and_together_complete(n: int, cut: dict[str, int]) -> None:
    ranks = [list(slices(n, start=0, rank=rank, **cut)) for rank in range(cut["world_size"])]  # type: ignore[arg-type]
    seen = sorted(position for rank in ranks for s in rank for position in range(s.start, s.stop))
    together = cut["batch_size"] * cut["world_size"]
    assert seen == list(range(n - n % together if cut["drop_last"] else n))
    counts = [count_slices(n, rank=rank, **cut) for rank in range(cut["world_size"])]  # type: ignore[arg-type]
    assert [len(rank) for rank in ranks] == counts


@given(st.integers(0, 300), CUTS, CUTS, st.data())
def test_another_world_goes_on_with_exactly_the_rest(
    n: int, before: dict[str, int], after: dict[str, int], data: st.DataObject
) -> None:
    before, after = before | {"drop_last": False}, after | {"drop_last": False}
    whole = list(slices(n, start=0, rank=0, **before))  # type: ignore[arg-type]
    stop = data.draw(st.sampled_from([Slice(0, 0, 0), *whole])).delivered
    rest = [slices(n, start=stop, rank=rank, **after) for rank in range(after["world_size"])]  # type: ignore[arg-type]
    assert sorted(p for rank in rest for s in rank for p in range(s.start, s.stop)) == list(range(stop, n))


def test_epochs_and_seeds_give_other_orders_and_the_same_give_the_same() -> None:
    orders = [Order(1000, seed=seed).windows(epoch, 0, 1000).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert Order(1000, seed=1).windows(1, 0, 1000).tolist() == orders[3]


def test_the_order_is_the_one_that_saved_states_count_on() -> None:
    assert Order(10, seed=0).windows(0, 0, 10).tolist() == FROZEN
    assert permute(np.array([0, 1, 2**40]), n=2**41, key="k").tolist() == FROZEN_LARGE


def test_without_shuffle_the_order_is_that_of_the_dataset() -> None:
    assert Order(9, shuffle=False).windows(3, 2, 6).tolist() == [2, 3, 4, 5]


def test_groups_stay_together_and_the_rest_comes_last() -> None:
    order = Order(11, seed=3, group=4).windows(0, 0, 11)
    assert sorted([order[:4].tolist(), order[4:8].tolist()]) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert order[8:].tolist() == [8, 9, 10]


@pytest.mark.parametrize("n", [2, 3, 5, 10, 100])
def test_every_place_is_about_equally_likely(n: int) -> None:
    """Chi-square over 4,000 epochs of where the first window goes; 1 in a million would fail by chance."""
    trials = 4000
    first = [int(Order(n, seed=7).windows(epoch, 0, 1)[0]) for epoch in range(trials)]
    counts = np.bincount(first, minlength=n)
    statistic = ((counts - trials / n) ** 2 / (trials / n)).sum()
    assert statistic < (n - 1) + 5 * np.sqrt(2 * (n - 1)) + 15


def test_neighbours_do_not_stay_neighbours() -> None:
    order = Order(100_000, seed=1).windows(0, 0, 100_000)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert (np.abs(np.diff(order)) == 1).mean() < 0.001
