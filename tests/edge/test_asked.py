"""A wish is kept durably, names what it is about, and a damaged one asks for nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import checked
from edge.asked import Asked, ask, read_asked
from edge.errors import SpoolError
from edge.spool import Spool

RECORDING = "01J00000000000000000000000"


def test_wishes_are_kept_in_order_and_survive_a_restart(tmp_path: Path) -> None:
    wishes = [Asked("lidar"), Asked("*_camera", RECORDING), Asked("lidar", "*", 5, 9)]
    for wish in wishes:
        ask(Spool(tmp_path), wish)
    assert sorted(map(str, read_asked(Spool(tmp_path)))) == sorted(map(str, wishes))


@pytest.mark.parametrize(
    ("wish", "recording", "stream", "fits"),
    [
        (Asked("lidar"), RECORDING, "lidar", True),
        (Asked("lidar"), RECORDING, "lidar_2", False),
        (Asked("*_camera"), RECORDING, "head_camera", True),
        (Asked("*_camera"), RECORDING, "Head_Camera", False),
        (Asked("*", "01K*"), RECORDING, "lidar", False),
        (Asked("*", "01J*"), RECORDING, "lidar", True),
    ],
)
def test_a_wish_names_streams_and_recordings_by_pattern(wish: Asked, recording: str, stream: str, fits: bool) -> None:
    assert wish.names(recording, stream) == fits


@given(*[st.integers(0, 3)] * 4)
def test_ranges_overlap_where_they_share_a_nanosecond(start: int, length: int, other: int, other_length: int) -> None:
    wish = Asked("*", "*", start, start + length + 1)
    shared = set(range(start, start + length + 1)) & set(range(other, other + other_length + 1))
    assert wish.overlaps(other, other + other_length + 1) == bool(shared)


@pytest.mark.parametrize(("start_ns", "end_ns"), [(5, 5), (6, 5)])
def test_an_empty_range_is_refused_and_nothing_is_kept(tmp_path: Path, start_ns: int, end_ns: int) -> None:
    with pytest.raises(SpoolError, match=rf"must not be empty, got {start_ns}\.\.{end_ns}"):
        ask(Spool(tmp_path), Asked("*", "*", start_ns, end_ns))
    assert read_asked(Spool(tmp_path)) == []


def test_a_damaged_wish_or_one_of_another_shape_asks_for_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    ask(spool, Asked("lidar"))
    (path,) = (tmp_path / "requests").iterdir()
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert read_asked(spool) in ([], [Asked("lidar")]), at
    path.write_bytes(whole)
    for name, fields in {"more": {**asdict(Asked("*")), "priority": 1}, "none": {}}.items():
        (tmp_path / "requests" / f"{name}.json").write_text(checked.dumps(fields))
    assert read_asked(spool) == [Asked("lidar")]
