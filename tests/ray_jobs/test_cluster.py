"""Work handed out: every piece once and in order, and errors that stay what they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import ObjectLostError, RayError, RayTaskError

from ray_jobs.cluster import Item, Part, _shares, _told, fan_out
from ray_jobs.errors import SpecError, WorkFailed
from ray_jobs.settings import JobsSettings

LIMIT_S = 60.0


def wait_until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline_s, f"not within {LIMIT_S} s"
        time.sleep(0.01)


def told(folder: Path, items: list[Item]) -> Part:
    """The numbers of the items; the first share is done when the driver has the last."""
    numbers = [item["number"] for item in items]
    if 0 in numbers:
        wait_until((folder / "last").exists)
    return Part({}, {"numbers": numbers})


def fail(items: list[Item]) -> Part:
    raise SpecError("no such field")


def numbered(count: int) -> list[Item]:
    return [{"number": number} for number in range(count)]


@given(count=st.integers(1, 200), per_task=st.integers(1, 40), cpus=st.integers(0, 16))
def test_shares_hold_every_item_once_in_order_and_are_of_one_size(count: int, per_task: int, cpus: int) -> None:
    shares = _shares(numbered(count), per_task=per_task, cpus=cpus)
    assert [item for share in shares for item in share] == numbered(count)
    sizes = [len(share) for share in shares]
    assert max(sizes) <= per_task
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) >= min(count, cpus), "a CPU has nothing to do"


def test_parts_come_in_the_order_of_the_items_whichever_is_done_first(jobs: JobsSettings, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        if done:
            (tmp_path / "last").touch()

    parts = fan_out(numbered(5), partial(told, tmp_path), per_task=3, settings=jobs, progress=progress)
    assert [number for part in parts for number in part.report["numbers"]] == list(range(5))
    assert seen == [(0, 5), (3, 5), (5, 5)]


def test_what_the_work_raises_is_raised_in_the_driver(jobs: JobsSettings) -> None:
    with pytest.raises(SpecError, match=r"^no such field") as raised:
        fan_out(numbered(2), fail, per_task=1, settings=jobs)
    assert type(raised.value) is SpecError


def test_rays_own_error_is_told_in_one_line_of_ours() -> None:
    def rows() -> Iterator[int]:
        yield 1
        raise RayError("the node died\nand much more")

    told_rows = _told(rows())
    assert next(told_rows) == 1
    with pytest.raises(WorkFailed, match=r"^Ray could not do the work: the node died$"):
        next(told_rows)


def test_rays_own_error_inside_of_a_task_is_one_of_ours_too() -> None:
    def rows() -> Iterator[int]:
        raise RayTaskError("work", "…", ObjectLostError("0" * 56, None, ""))
        yield

    with pytest.raises(WorkFailed, match=r"^Ray could not do the work: [^\n]+$"):
        list(_told(rows()))


def test_no_items_are_no_work() -> None:
    assert fan_out([], fail, per_task=1, settings=JobsSettings()) == []
