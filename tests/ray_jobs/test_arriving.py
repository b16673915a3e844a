"""The frequent run looks where something came, and nothing is forgotten that no hint told of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from dataset_catalog import versions
from dataset_catalog.storage import Storage
from edge.wire import SegmentId
from ingest_serve.errors import StorageUnavailable
from ingest_serve.raw_store import RawStore
from ray_jobs.arriving import Arriving
from ray_jobs.settings import JobsSettings
from tests.ray_jobs.conftest import hint

T0 = 1_760_000_000_000_000_000
MINUTE_NS = 60_000_000_000


@dataclass
class Minutes:
    """A job that runs every minute of a clock that is moved by hand; how many streams each run listed."""

    storage: Storage
    settings: JobsSettings
    minute: int = 0
    listed: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.job = Arriving(
            self.storage, self.settings, clock_ns=lambda: self.now_ns, steady_s=lambda: 60.0 * self.minute
        )

    @property
    def now_ns(self) -> int:
        return T0 + self.minute * MINUTE_NS

    def hint(self, segment: SegmentId) -> None:
        hint(self.storage, segment, t_ns=self.now_ns)

    def next(self) -> int:
        """Run, and let a minute pass; how many segments were indexed."""
        self.listed.append(0)
        summary = self.job.run()
        self.minute += 1
        return summary.counts["segments"]


@pytest.fixture
def minutes(robot: Any, jobs: JobsSettings, monkeypatch: pytest.MonkeyPatch) -> Minutes:
    made = Minutes(robot.storage, jobs)
    times_after: Callable[..., Any] = RawStore.times_after

    def counting(*arguments: Any, **more: Any) -> Any:
        made.listed[-1] += 1
        return times_after(*arguments, **more)

    monkeypatch.setattr(RawStore, "times_after", counting)
    return made


def test_a_run_lists_the_streams_that_were_hinted_at_and_no_others(robot: Any, minutes: Minutes) -> None:
    for stream in ("a", "b", "c", "d"):
        robot.log(("/n", T0, {"n": 0}), stream=stream)
    assert minutes.next() == 4, "the first run looks everywhere"
    assert minutes.next() == 0
    minutes.hint(robot.log(("/n", T0 + 1, {"n": 1}), stream="b"))
    assert minutes.next() == 1
    assert minutes.next() == 0
    assert minutes.listed == [4, 0, 1, 1], "a hint is heard again while clocks may differ"
    minutes.minute += 20
    assert [minutes.next() for _ in range(2)] == [0, 0]
    assert minutes.listed[-1] == 0


def test_what_no_hint_told_of_is_found_within_the_hour(robot: Any, minutes: Minutes) -> None:
    robot.log(("/n", T0, {"n": 0}))
    assert minutes.next() == 1
    robot.log(("/n", T0 + 1, {"n": 1}))
    assert [minutes.next() for _ in range(3)] == [0, 0, 0]
    minutes.minute = 60
    assert minutes.next() == 1


def test_what_a_failed_run_was_told_is_looked_at_again(
    robot: Any, minutes: Minutes, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot.log(("/n", T0, {"n": 0}))
    minutes.next()
    minutes.hint(robot.log(("/n", T0 + 1, {"n": 1})))

    def fail(*_: Any, **__: Any) -> None:
        raise StorageUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr("ray_jobs.index_segments.find", fail)
        with pytest.raises(StorageUnavailable):
            minutes.next()
    minutes.minute += 30  # the hint is too old to be read again
    assert minutes.next() == 1


def test_a_segment_that_fills_a_hole_brings_those_behind_it(robot: Any, minutes: Minutes) -> None:
    robot.log(("/n", T0, {"n": 0}), seq=0)
    minutes.next()
    minutes.hint(robot.log(("/n", T0 + 2, {"n": 2}), seq=2))
    assert minutes.next() == 0
    minutes.minute += 20
    minutes.hint(robot.log(("/n", T0 + 1, {"n": 1}), seq=1))
    assert minutes.next() == 2
    manifest = versions.newest(robot.storage, versions.SEGMENTS)
    assert manifest
    assert list(manifest.positions.values()) == [2]
