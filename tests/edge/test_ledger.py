"""What was delivered long ago is remembered as sums: nothing is folded too early, and nothing counts twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge import eviction
from edge.ledger import fold, folded
from edge.spool import Spool, Spooled
from edge.status import status
from edge.wire import Receipt
from tests.edge.cutting_disk import recorded_in

if TYPE_CHECKING:
    from tests.edge.conftest import SpoolView

RECORDING = "01J00000000000000000000000"
NEWER = "01K00000000000000000000000"
View = Callable[[Path], "SpoolView"]


def acknowledge(spool: Spool, item: Spooled) -> None:
    spool.acknowledge(item, Receipt("k", item.sha256, item.bytes, 1, already_stored=False))
    spool.tidy()


def age(folder: Path, recording: str, *, at_s: float) -> None:
    os.utime(folder / "ledger" / f"{recording}.jsonl", (at_s, at_s))


def test_what_was_delivered_long_ago_becomes_one_line_of_sums(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    for seq in range(3):
        acknowledge(seen.spool, seen.add(seq, messages=seq + 1))
    acknowledge(seen.spool, seen.add(0, stream="head"))
    (gap,) = eviction.evict(seen.spool, [seen.add(1, stream="head").stem])
    acknowledge(seen.spool, gap)
    before = status(seen.spool)
    assert fold(seen.spool, older_than_s=-1) == [RECORDING]
    sums = {"telemetry": {"uploaded": 6, "dropped": 0}, "head": {"uploaded": 3, "dropped": 3}}
    assert list(folded(seen.spool)) == [(RECORDING, sums)]
    assert not (tmp_path / "ledger" / f"{RECORDING}.jsonl").exists()
    assert status(seen.spool) == before
    assert RECORDING not in seen.spool.recordings()


def test_only_what_is_older_than_asked_is_folded(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    for recording, at_s in ((RECORDING, 1000.0), (NEWER, 1900.0)):
        acknowledge(seen.spool, seen.add(0, recording=recording))
        age(tmp_path, recording, at_s=at_s)
    assert fold(seen.spool, older_than_s=500, now_s=1499) == []
    assert fold(seen.spool, older_than_s=500, now_s=2000) == [RECORDING]
    assert fold(seen.spool, older_than_s=500, now_s=2000) == []
    assert recorded_in(tmp_path) == 6


@pytest.mark.parametrize("place", ["open", "sealed", "quarantine"])
def test_a_recording_of_which_anything_is_left_is_not_folded(tmp_path: Path, view: View, place: str) -> None:
    seen = view(tmp_path)
    acknowledge(seen.spool, seen.add(0))
    if place == "open":
        os.close(seen.spool.lock_recording(RECORDING))
    if place == "sealed":
        seen.add(1)
    if place == "quarantine":
        seen.spool.quarantine(seen.add(1), "conflict: x", leaves_gap=False)
    seen.spool.tidy()
    assert fold(seen.spool, older_than_s=-1) == []
    assert len(seen.spool.acknowledged(RECORDING)) == 1


def test_a_ledger_that_could_not_be_removed_counts_once(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    acknowledge(seen.spool, seen.add(0))
    path = tmp_path / "ledger" / f"{RECORDING}.jsonl"
    kept = path.read_bytes()
    fold(seen.spool, older_than_s=-1)
    path.write_bytes(kept)
    assert recorded_in(tmp_path) == 3
    assert fold(seen.spool, older_than_s=-1) == [RECORDING]
    assert len(list(folded(seen.spool))) == 1
    assert recorded_in(tmp_path) == 3
