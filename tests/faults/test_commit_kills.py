"""SIGKILL, sleep and races at every write of a commit: a version is there whole, or not at all, and once.

A moment is a write to the bucket, before S3 hears of it or after it was done: whatever a run does between two writes,
no other can see. The next run needs nothing but the bucket.
"""

from __future__ import annotations

import itertools
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataset_catalog.storage import Storage
from tests.faults.campaign import is_soak, run_trials
from tests.faults.committing import LIMIT_S, LOST, Chain, Driver, Kill, Pause, Writes, check_tags, run_once
from tests.faults.storage_proxy import Delay, StorageProxy, shares
from tests.ingest_serve.conftest import storage as storage

AFTER = (False, True)  # before S3 hears of the write; after it was done
NewLake = Callable[[], Storage]
_lakes = itertools.count()


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[StorageProxy]:
    with StorageProxy(s3_endpoint) as one:
        yield one


@pytest.fixture
def new_lake(storage: Storage) -> NewLake:
    return lambda: Storage.open(f"{storage.url}/trial-{next(_lakes)}", settings=storage.settings)


@pytest.fixture
def writes(proxy: StorageProxy, new_lake: NewLake) -> tuple[int, int]:
    """How many writes the run makes that publishes the first version, and how many the second."""
    lake, seen, counts = new_lake(), Writes(proxy), []
    chain = Chain(lake)
    for n in (1, 2):
        seen.names.clear()
        assert (Driver(lake, proxy.url).wait(), chain.check()) == (0, n)
        assert seen.names[-2].endswith(f"versions/{n:010d}.json"), "the manifest comes last, but for the tag"
        counts.append(len(seen.names))
    return counts[0], counts[1]


def moment(seed: int, writes: tuple[int, int]) -> tuple[int, int, bool]:
    """(versions before, number of the write, whether it is done): each of them as seeds go up, first the manifests."""
    every = [(n, number, after) for n in (0, 1) for number in range(writes[n]) for after in AFTER]
    random.Random(0).shuffle(every)
    every.sort(key=lambda one: one[1] != writes[one[0]] - 2)
    return every[seed % len(every)]


def test_a_run_killed_at_any_write_leaves_a_whole_version_or_none(
    tmp_path: Path, proxy: StorageProxy, new_lake: NewLake, writes: tuple[int, int]
) -> None:
    """In a soak the run after it is killed too."""

    def trial(seed: int, _: Path) -> None:
        dice, lake, moments = random.Random(seed), new_lake(), Writes(proxy)
        chain = Chain(lake)
        published, number, after = moment(seed, writes)
        for _ in range(published):
            run_once(lake)
        kills = [(number, after)]
        if is_soak():
            kills.append((dice.randrange(min(writes)), dice.choice(AFTER)))
        for number, after in kills:
            driver = Driver(lake, proxy.url)
            moments.at(number, Kill(lambda: driver.signal(signal.SIGKILL), after))  # noqa: B023 - of this kill
            assert driver.wait() == -signal.SIGKILL
            now = chain.check()
            assert now - published in (0, 1)
            published = now
        assert run_once(lake) == chain.check() == published + 1
        check_tags(lake)

    run_trials(trial, tmp_path, test=20, soak=max(200, 4 * sum(writes)))


def test_a_run_that_sleeps_while_another_publishes_publishes_nothing(
    tmp_path: Path, proxy: StorageProxy, new_lake: NewLake, writes: tuple[int, int]
) -> None:
    """Its write, or the answer, is under way all the while. What it had published before it slept is one version."""

    def trial(seed: int, _: Path) -> None:
        lake, moments, asleep = new_lake(), Writes(proxy), threading.Event()
        chain = Chain(lake)
        published, number, after = moment(seed, writes)
        for _ in range(published):
            run_once(lake)
        driver = Driver(lake, proxy.url)

        def stop() -> None:
            driver.signal(signal.SIGSTOP)
            asleep.set()

        moments.at(number, Pause(stop, after))
        assert asleep.wait(LIMIT_S)
        already = chain.check() - published
        assert run_once(lake) == chain.check() == published + already + 1
        proxy.heal()
        driver.signal(signal.SIGCONT)
        assert driver.wait() == (0 if already else LOST)
        assert chain.check() == published + already + 1
        assert run_once(lake) == chain.check() == published + already + 2

    run_trials(trial, tmp_path, test=3, soak=200)


def test_two_runs_that_race_publish_each_version_once(tmp_path: Path, proxy: StorageProxy, new_lake: NewLake) -> None:
    def trial(seed: int, _: Path) -> None:
        lake = new_lake()
        chain = Chain(lake)
        proxy.schedule = shares(seed, {Delay(0.02): 0.1, Delay(0.005): 0.3})
        drivers = [Driver(lake, proxy.url, times=3) for _ in range(2)]
        codes = [driver.wait() for driver in drivers]
        assert set(codes) <= {0, LOST}
        published = chain.check()
        assert 1 <= published <= 6
        assert run_once(lake) == chain.check() == published + 1
        check_tags(lake)

    run_trials(trial, tmp_path, test=1, soak=200)
