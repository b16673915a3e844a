"""How alike a batch is, counted, and the pool of the block shuffle, printed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dataset_catalog.loader import Loader
from dataset_catalog.mixture import mix
from dataset_catalog.quality import quality
from dataset_catalog.windows import Windows

BATCH = 32
SAMPLE = 24 * 32 * 3 + 3 * 4  # a picture and a state


@pytest.fixture(scope="module")
def windows(lake: Any) -> Windows:
    return lake.catalog.dataset("pick").windows({"state": [0.0], "head": [0.0]}, image_size=(24, 32))  # type: ignore[no-any-return]


def slowly(loader: Loader) -> tuple[float, float]:
    """Distinct episodes and GOPs a batch of an epoch, by looking at each sample."""
    windows: Any = loader.samples
    episodes, gops = [], []
    for first in range(0, len(windows) - BATCH + 1, BATCH):
        numbers = loader.order.windows(0, np.arange(first, first + BATCH))
        episodes.append(len({name for name, _ in windows.dataset.selection.locate(numbers)}))
        gops.append(len({gop for number in numbers for gop in windows.gops(np.array([number]))}))
    return float(np.mean(episodes)), float(np.mean(gops))


def test_it_counts_the_episodes_and_gops_of_a_batch(windows: Windows) -> None:
    loader = windows.loader(BATCH, shuffle="blocks", block=4, pool_bytes=0)
    found = quality(loader, batches=1000)
    assert (found.episodes, found.gops) == slowly(loader)
    assert (found.uniform_episodes, found.uniform_gops) == slowly(windows.loader(BATCH))
    assert found.gops < 0.7 * found.uniform_gops, "blocks of neighbours share GOPs"
    assert str(found).startswith(f"{found.episodes:.1f} episodes and {found.gops:.1f} GOPs a batch; shuffled window by")


def test_a_window_shuffle_is_its_own_measure_and_evaluation_is_the_most_alike(windows: Windows) -> None:
    uniform = quality(windows.loader(BATCH, seed=3))
    assert (uniform.episodes, uniform.gops) == (uniform.uniform_episodes, uniform.uniform_gops)
    ordered = quality(windows.loader(BATCH, shuffle=False))
    assert ordered.gops < uniform.gops / 2
    assert ordered.episodes < 3


def test_a_larger_pool_is_less_alike(windows: Windows) -> None:
    small, large = (
        quality(windows.loader(BATCH, shuffle="blocks", block=8, pool_bytes=blocks * 8 * SAMPLE)) for blocks in (1, 12)
    )
    assert small.gops < large.gops <= large.uniform_gops


def test_the_pool_is_bounded_in_decoded_bytes_and_printed(windows: Windows) -> None:
    loader = windows.loader(BATCH, shuffle="blocks", block=8, pool_bytes=100_000)
    assert loader.pool is not None
    assert loader.pool.blocks == 100_000 // (8 * SAMPLE)
    assert loader.pool.decoded_bytes == loader.pool.windows * SAMPLE <= 100_000
    assert f"blocks of 8 windows, 5 mixed at a time: 40 windows, {40 * SAMPLE / 1e6:.1f} MB decoded" in repr(loader)
    assert windows.loader(BATCH).pool is None


def test_a_samples_bytes_are_those_of_its_tensors(windows: Windows) -> None:
    sample = windows[0]
    assert windows.sample_bytes == sample["head"].nbytes + sample["state"].nbytes == SAMPLE


def test_of_a_mix_each_dataset_has_its_share_of_the_pool(windows: Windows) -> None:
    other = Windows(windows.dataset.select(robots=["h1"]), windows.spec, frame_bytes=0)
    loader = mix({windows: 0.75, other: 0.25}).loader(BATCH, shuffle="blocks", block=8, pool_bytes=8 * 8 * SAMPLE)
    found = quality(loader)
    assert [order.pool for order in loader.order.orders] == [6, 2]  # type: ignore[attr-defined]
    assert found.gops < found.uniform_gops
