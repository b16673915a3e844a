"""recorded = uploaded + waiting + quarantined + dropped, always; and what is alive is seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import eviction, ledger, wire
from edge.disk import DISK
from edge.recorder import Recorder
from edge.spool import Spool, Spooled
from edge.state_file import write_state
from edge.status import overview, status
from tests.edge.conftest import SpoolView
from tests.edge.delivering import QuickDisk

RECORDING = "01J00000000000000000000000"
View = Callable[[Path], SpoolView]


def test_an_empty_spool_has_no_lines(tmp_path: Path) -> None:
    assert status(Spool(tmp_path)) == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("usqelcf"), st.integers(1, 5), st.booleans()), max_size=9))
def test_the_sums_agree_wherever_the_segments_went(
    tmp_path_factory: pytest.TempPathFactory, went: list[tuple[str, int, bool]]
) -> None:
    """u: uploaded, s: stays, q: quarantined, e: evicted, l: lost, c: conflict, f: in a recording that was folded. What
    is told by a gap record is delivered then, or waits."""
    seen = SpoolView(Spool(tmp_path_factory.mktemp("spool"), disk=QuickDisk()))
    spool = seen.spool
    for seq, (where, count, is_told) in enumerate(went):
        recording = "01H" + RECORDING[3:] if where == "f" else RECORDING
        added = seen.add(seq, recording=recording, stream=("telemetry", "head")[seq % 2], messages=count)
        gap = send(spool, added, where)
        if gap is not None and is_told:
            acknowledge(spool, gap)
    spool.tidy()
    folded = ledger.fold(spool, older_than_s=-1)
    assert folded == [] or any(where in "uelf" for where, *_ in went)
    lines = status(spool)
    assert sum(line.recorded for line in lines) == sum(count for _, count, _ in went)
    for line in lines:
        assert line.recorded == line.uploaded + line.waiting + line.quarantined + line.dropped
    places = {"uf": "uploaded", "s": "waiting", "qc": "quarantined", "el": "dropped"}
    for letters, name in places.items():
        assert sum(getattr(line, name) for line in lines) == sum(n for where, n, _ in went if where in letters)


def send(spool: Spool, item: Spooled, where: str) -> Spooled | None:
    """Where a segment goes; returns the gap record that it leaves."""
    if where in "uf":
        acknowledge(spool, item)
    elif where in "qc":
        return spool.quarantine(item, "bad_body: x", leaves_gap=where == "q")
    elif where == "e":
        (gap,) = eviction.evict(spool, [item.stem])
        return gap
    elif where == "l":
        spool.data_path(item).unlink()
        return eviction.lost(spool, item)
    return None


def acknowledge(spool: Spool, item: Spooled) -> None:
    spool.acknowledge(item, wire.Receipt("k", item.sha256, item.bytes, 1, already_stored=False))


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


# -- what can be seen from outside -----------------------------------------------------------------------------


def test_a_live_recorder_is_seen_with_what_it_has_not_sealed(tmp_path: Path, until: Callable[..., None]) -> None:
    spool = Spool(tmp_path)
    with Recorder(tmp_path) as recorder:
        recorder.log("/t", 1, {})
        recorder.cut()
        for n in range(4):
            recorder.log("/t", 2 + n, {})
        recorder.flush()
        until(
            lambda: overview(spool).recorders.get(recorder.recording_id, {}).get("recorded", {}).get("telemetry") == 5
        )
        lines = {line.stream: line for line in overview(spool).streams}
        assert (lines["telemetry"].recorded, lines["telemetry"].open) == (1, 4)
    seen = overview(spool)
    lines = {line.stream: line for line in seen.streams}
    assert (lines["telemetry"].recorded, lines["telemetry"].open, seen.recorders) == (5, 0, {})


def test_what_a_recorder_had_to_let_go_is_seen(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    lock = spool.lock_recording(RECORDING)
    state = {"recorded": {"telemetry": 7}, "dropped": {"telemetry": 3}, "last_seq": {}, "alarms": []}
    write_state(DISK, spool.recorder_state_path(RECORDING), state)
    (line,) = overview(spool).streams
    assert (line.recorded, line.open, line.not_taken) == (0, 7, 3)
    spool.release_recording(RECORDING, lock)
    assert overview(spool).streams == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"recorded": 1'])
def test_a_torn_state_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    spool = Spool(tmp_path)
    lock = spool.lock_recording(RECORDING)
    spool.recorder_state_path(RECORDING).write_bytes(content)
    spool.agent_state_path.write_bytes(content)
    seen = overview(spool)
    assert (seen.streams, seen.agent, seen.recorders) == ([], {}, {})
    spool.release_recording(RECORDING, lock)


def test_everything_is_told_to_programs(tmp_path: Path, view: View) -> None:
    view(tmp_path).add(0)
    told = json.loads(json.dumps(overview(Spool(tmp_path)).as_json()))
    assert told.keys() == {"streams", "agent", "recorders"}
    assert [line["stream"] for line in told["streams"]] == ["telemetry"]
