"""recorded = uploaded + waiting + quarantined, always."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import wire
from edge.spool import Spool
from edge.status import status

if TYPE_CHECKING:
    from tests.edge.conftest import SpoolView

RECORDING = "01J00000000000000000000000"
View = Callable[[Path], "SpoolView"]


def test_an_empty_spool_has_no_lines(tmp_path: Path) -> None:
    assert status(Spool(tmp_path)) == []


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("usq"), st.integers(1, 5)), max_size=8))
def test_the_sums_agree_wherever_the_segments_went(
    tmp_path_factory: pytest.TempPathFactory, view: View, went: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    seen, spool = view(folder), Spool(folder)
    for seq, (where, count) in enumerate(went):
        added = seen.add(seq, stream=("telemetry", "head")[seq % 2], messages=count)
        if where == "u":
            spool.acknowledge(added, wire.Receipt("k", added.sha256, added.bytes, 1, already_stored=False))
        if where == "q":
            spool.quarantine(added, "bad_body: x")
    lines = status(spool)
    assert sum(line.recorded for line in lines) == sum(count for _, count in went)
    for line in lines:
        assert line.recorded == line.uploaded + line.waiting + line.quarantined
    totals = {"u": "uploaded", "s": "waiting", "q": "quarantined"}
    for letter, name in totals.items():
        assert sum(getattr(line, name) for line in lines) == sum(n for where, n in went if where == letter)


def test_what_waits_is_told_with_its_bytes_and_its_age(tmp_path: Path, view: View) -> None:
    added = [view(tmp_path).add(seq) for seq in (4, 2, 3)]
    (line,) = status(Spool(tmp_path))
    assert line.as_json() == {
        "stream": "telemetry",
        "recorded": 9,
        "uploaded": 0,
        "waiting": 9,
        "quarantined": 0,
        "dropped": 0,
        "damaged": 0,
        "open": 0,
        "not_taken": 0,
        "waiting_segments": 3,
        "waiting_bytes": sum(one.bytes for one in added),
        "oldest_waiting_ns": added[1].start_ns,
    }


def test_streams_are_told_in_order_over_all_recordings(tmp_path: Path, view: View) -> None:
    for recording in (RECORDING, "01H" + RECORDING[3:]):
        for stream in ("telemetry", "head"):
            view(tmp_path).add(0, recording=recording, stream=stream)
    assert [(line.stream, line.recorded) for line in status(Spool(tmp_path))] == [("head", 6), ("telemetry", 6)]
