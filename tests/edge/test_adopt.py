"""Another recorder's files become segments message for message, once, whatever interrupts it."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer

from edge import adopt as module
from edge import segment, wire
from edge.adopt import Adopted, adopt
from edge.chunks import MAGIC
from edge.segment import Message
from edge.settings import EdgeSettings
from edge.spool import Spool
from tests.faults.failing_disk import FailingDisk, Kind

if TYPE_CHECKING:
    from tests.edge.conftest import SpoolView

START_NS = 1_760_000_000_000_000_000
View = Callable[[Path], "SpoolView"]


def _write(
    path: Path, times: list[int], *, size: int = 20, compression: CompressionType = CompressionType.ZSTD
) -> None:
    with path.open("wb") as file:
        writer = Writer(file, compression=compression, chunk_size=4096)
        writer.start(profile="ros2")
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data")
        channel = writer.register_channel("/chatter", "cdr", schema)
        for n, t_ns in enumerate(times):
            data = f"{path.name} {n}".encode().ljust(size, b".")
            writer.add_message(channel, log_time=t_ns, publish_time=t_ns + 7, data=data, sequence=n)
        writer.finish()


def _seconds(first: int, count: int) -> list[int]:
    return [START_NS + (first + n) * 1_000_000_000 for n in range(count)]


def _read(path: Path) -> list[Message]:
    with path.open("rb") as file:
        return list(segment.read_messages(file))


def _adopt(folder: Path, bags: Path, *, more_to_come: bool = False, **changed: Any) -> list[Adopted]:
    settings = EdgeSettings(folder=folder, **changed)
    return list(adopt(Spool(folder), bags, settings=settings, more_to_come=more_to_come))


@pytest.fixture
def bags(tmp_path: Path) -> Path:
    folder = tmp_path / "bags" / "walk"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def robot_folder(tmp_path: Path) -> Path:
    return tmp_path / "robot"


def test_files_of_one_bag_are_one_recording_in_the_order_of_their_parts(
    bags: Path, robot_folder: Path, view: View
) -> None:
    for part in (10, 2, 0, 1):
        _write(bags / f"walk_{part}.mcap", _seconds(part * 100, 5))
    done = _adopt(robot_folder, bags)
    assert [one.path.name for one in done] == [f"walk_{part}.mcap" for part in (0, 1, 2, 10)]
    assert len({one.recording for one in done}) == 1
    expected = [message for part in (0, 1, 2, 10) for message in _read(bags / f"walk_{part}.mcap")]
    assert view(robot_folder).messages("telemetry") == expected
    seqs = [one.seq for one in view(robot_folder).segments("telemetry")]
    assert seqs == list(range(len(seqs)))
    assert [one["last_seq"]["telemetry"] for one in view(robot_folder).closing()] == [seqs[-1]]


def test_bags_of_one_name_in_different_folders_are_different_recordings(
    tmp_path: Path, robot_folder: Path, view: View
) -> None:
    for day in ("monday", "tuesday"):
        (tmp_path / "bags" / day).mkdir(parents=True)
        _write(tmp_path / "bags" / day / "walk_0.mcap", _seconds(0, 3))
    done = _adopt(robot_folder, tmp_path / "bags")
    assert len({one.recording for one in done}) == 2
    assert len(view(robot_folder).closing()) == 2


def test_segments_are_cut_by_the_messages_own_time_and_by_size(bags: Path, robot_folder: Path, view: View) -> None:
    _write(bags / "walk_0.mcap", _seconds(0, 25))
    _write(bags / "walk_1.mcap", [START_NS + n for n in range(20)], size=20_000)
    _adopt(robot_folder, bags, segment_s=10, segment_bytes=1 << 16)
    counts = [one.counts["/chatter"] for one in view(robot_folder).segments("telemetry")]
    assert counts == [10, 10, 5, 4, 4, 4, 4, 4]


def test_an_unfinished_file_is_left_alone_and_adopted_when_it_is_finished(
    bags: Path, robot_folder: Path, view: View
) -> None:
    _write(bags / "walk_0.mcap", _seconds(0, 5))
    _write(bags / "walk_1.mcap", _seconds(5, 5))
    whole = (bags / "walk_1.mcap").read_bytes()
    for content in (b"", MAGIC, whole[:-1], whole[: len(whole) // 2]):
        (bags / "walk_1.mcap").write_bytes(content)
        _adopt(robot_folder, bags, more_to_come=True)
        assert len(view(robot_folder).messages("telemetry")) == 5
    assert view(robot_folder).closing() == []
    (bags / "walk_1.mcap").write_bytes(whole)
    (bags / "metadata.yaml").touch()
    assert [one.path.name for one in _adopt(robot_folder, bags, more_to_come=True)] == ["walk_1.mcap"]
    expected = _read(bags / "walk_0.mcap") + _read(bags / "walk_1.mcap")
    assert view(robot_folder).messages("telemetry") == expected
    assert len(view(robot_folder).closing()) == 1


def test_adopting_again_adopts_nothing(bags: Path, robot_folder: Path, view: View) -> None:
    _write(bags / "walk_0.mcap", _seconds(0, 25))
    assert len(_adopt(robot_folder, bags)) == 1
    before = view(robot_folder).files()
    assert _adopt(robot_folder, bags) == []
    assert view(robot_folder).files() == before


def test_a_part_that_comes_after_its_bag_was_closed_begins_a_recording(
    bags: Path, robot_folder: Path, view: View
) -> None:
    _write(bags / "walk_0.mcap", _seconds(0, 5))
    (first,) = _adopt(robot_folder, bags)
    _write(bags / "walk_1.mcap", _seconds(5, 5))
    (second,) = _adopt(robot_folder, bags)
    assert first.recording != second.recording
    assert len(view(robot_folder).closing()) == 2
    assert len(view(robot_folder).messages("telemetry")) == 10


def test_a_bag_without_messages_is_opened_and_closed_once(bags: Path, robot_folder: Path, view: View) -> None:
    _write(bags / "walk_0.mcap", [])
    (one,) = _adopt(robot_folder, bags, more_to_come=True)
    opened = view(robot_folder).segments("_agent")
    _write(bags / "walk_1.mcap", _seconds(0, 3))
    (bags / "metadata.yaml").touch()
    _adopt(robot_folder, bags, more_to_come=True)
    assert (one.messages, one.segments, one.reason) == (0, 0, "")
    assert view(robot_folder).segments("_agent")[:1] == opened
    assert len(view(robot_folder).messages("telemetry")) == 3
    assert len(view(robot_folder).closing()) == 1


class Interrupted(BaseException):
    """As a kill: nothing handles it."""


def _interrupt(monkeypatch: pytest.MonkeyPatch, *, after: int, then_upload: bool) -> None:
    """Let `after` segments be sealed, and, where asked, uploaded at once; then stop."""
    add, left = Spool.add, [after]

    def counting(spool: Spool, *args: Any, **kwargs: Any) -> Any:
        if not left[0]:
            raise Interrupted
        left[0] -= 1
        spooled = add(spool, *args, **kwargs)
        if then_upload:
            spool.acknowledge(spooled, wire.Receipt("k", spooled.sha256, spooled.bytes, 1, already_stored=False))
        return spooled

    monkeypatch.setattr(Spool, "add", counting)


@pytest.mark.parametrize("then_upload", [False, True])
def test_an_interrupted_run_makes_the_same_segments_again(
    tmp_path: Path, bags: Path, view: View, then_upload: bool
) -> None:
    _write(bags / "walk_0.mcap", _seconds(0, 25))
    _write(bags / "walk_1.mcap", _seconds(25, 15))
    expected = _read(bags / "walk_0.mcap") + _read(bags / "walk_1.mcap")
    for after in range(7):  # opening, three and two of telemetry, closing
        folder = tmp_path / f"robot{after}"
        with pytest.MonkeyPatch.context() as patch:
            _interrupt(patch, after=after, then_upload=then_upload)
            stopped = None
            try:
                _adopt(folder, bags)
            except Interrupted as error:
                stopped = error
            assert (stopped is not None) == (after < 7)
        before = {name: data for name, data in view(folder).files().items() if name.startswith("sealed/")}
        _adopt(folder, bags)
        files = view(folder).files()
        assert all(files[name] == data for name, data in before.items()), after
        (recording,) = Spool(folder).recordings()
        known = Spool(folder).items(recording)
        assert sorted(known) == [
            *(f"{recording}/_agent/{seq:010d}" for seq in (0, 1)),
            *(f"{recording}/telemetry/{seq:010d}" for seq in range(5)),
        ]
        if not then_upload:
            assert view(folder).messages("telemetry") == expected
            assert len(view(folder).closing()) == 1
        else:
            assert len(Spool(folder).acknowledged(recording)) == after


@pytest.mark.parametrize("kind", ["create", "write", "sync", "rename", "sync_folder", "mkdir"])
def test_a_disk_that_fails_at_any_step_only_delays_an_adoption(
    tmp_path: Path, bags: Path, view: View, kind: Kind
) -> None:
    _write(bags / "walk_0.mcap", _seconds(0, 25))
    _write(bags / "walk_1.mcap", _seconds(25, 15))
    expected = _read(bags / "walk_0.mcap") + _read(bags / "walk_1.mcap")
    fired = 0
    for after in range(100):
        folder, disk = tmp_path / f"robot{after}", FailingDisk()
        spool = Spool(folder, disk=disk)
        fault = disk.fail(kind, error=errno.ENOSPC, after=after, times=1)
        with contextlib.suppress(OSError):
            list(adopt(spool, bags, settings=EdgeSettings(folder=folder)))
        list(adopt(Spool(folder), bags, settings=EdgeSettings(folder=folder)))
        assert view(folder).messages("telemetry") == expected, after
        assert [one.seq for one in view(folder).segments("telemetry")] == list(range(5))
        assert len(view(folder).closing()) == 1
        assert [one.seq for one in view(folder).segments("_agent")] == [0, 1]
        fired += fault.fired
        if not fault.fired:
            break
    else:
        raise AssertionError("there are more steps than were tried")
    assert fired > 0


def test_a_damaged_note_of_what_was_adopted_adopts_again_rather_than_not_at_all(
    bags: Path, robot_folder: Path, view: View
) -> None:
    _write(bags / "walk_0.mcap", _seconds(0, 5))
    _adopt(robot_folder, bags)
    (note,) = (robot_folder / "adopted").iterdir()
    damaged = bytearray(note.read_bytes())
    damaged[damaged.index(b"walk_0.mcap")] ^= 1
    note.write_bytes(damaged)
    assert [one.messages for one in _adopt(robot_folder, bags)] == [5]
    assert len(view(robot_folder).closing()) == 2
    assert _adopt(robot_folder, bags) == []


def test_an_interruption_after_the_last_word_says_it_once(
    bags: Path, robot_folder: Path, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(bags / "walk_0.mcap", _seconds(0, 5))
    write = module.write_closing

    def interrupted(*args: Any, **kwargs: Any) -> None:
        write(*args, **kwargs)
        raise Interrupted

    monkeypatch.setattr(module, "write_closing", interrupted)
    with pytest.raises(Interrupted):
        _adopt(robot_folder, bags)
    monkeypatch.setattr(module, "write_closing", write)
    _adopt(robot_folder, bags)
    assert len(view(robot_folder).closing()) == 1


def test_a_segment_that_was_refused_is_not_made_again(bags: Path, robot_folder: Path, view: View) -> None:
    _write(bags / "walk_0.mcap", _seconds(0, 25))
    with pytest.MonkeyPatch.context() as patch:
        _interrupt(patch, after=3, then_upload=False)
        with pytest.raises(Interrupted):
            _adopt(robot_folder, bags)
    refused = view(robot_folder).segments("telemetry")[1]
    Spool(robot_folder).quarantine(refused, "bad_body: x")
    _adopt(robot_folder, bags)
    waiting = [(one.seq, one.cause) for one in view(robot_folder).segments("telemetry")]
    assert waiting == [(0, ""), (1, "quarantined"), (2, "")]


def test_a_damaged_file_is_adopted_as_far_as_it_can_be_read(bags: Path, robot_folder: Path, view: View) -> None:
    _write(bags / "walk_0.mcap", _seconds(0, 2000), compression=CompressionType.NONE)
    body = bytearray((bags / "walk_0.mcap").read_bytes())
    body[len(body) // 2 - 8000] ^= 0xFF
    (bags / "walk_0.mcap").write_bytes(body)
    _write(bags / "walk_1.mcap", _seconds(2000, 5))
    damaged, whole = _adopt(robot_folder, bags, segment_s=100)
    assert "damaged, adopted as far as it can be read" in damaged.reason
    assert whole.reason == ""
    found = view(robot_folder).messages("telemetry")
    assert 0 < damaged.messages < 2000
    assert [one.t_ns for one in found] == _seconds(0, damaged.messages) + _seconds(2000, 5)
    assert _adopt(robot_folder, bags) == []


def test_a_file_with_damaged_compression_does_not_stop_the_others(bags: Path, robot_folder: Path) -> None:
    _write(bags / "run_0.mcap", _seconds(0, 50))
    body = bytearray((bags / "run_0.mcap").read_bytes())
    at = body.index(b"\x28\xb5\x2f\xfd")  # the magic of a zstd frame
    body[at + 8 : at + 40] = b"\xff" * 32
    (bags / "run_0.mcap").write_bytes(body)
    _write(bags / "walk_0.mcap", _seconds(0, 5))
    damaged, whole = _adopt(robot_folder, bags)
    assert damaged.reason
    assert whole.messages == 5


def test_real_rosbag2_files_keep_every_message(tmp_path: Path, robot_folder: Path, view: View, real_data: Path) -> None:
    bags = tmp_path / "bags"
    shutil.copytree(real_data / "rosbag2", bags)
    stated: dict[str, int] = {}
    for path in bags.glob("*.mcap"):
        with path.open("rb") as file:
            summary = make_reader(file).get_summary()
        assert summary is not None
        assert summary.statistics is not None
        stated[path.name] = summary.statistics.message_count
    done = _adopt(robot_folder, bags)
    assert {one.path.name: (one.messages, one.reason) for one in done} == {
        name: (count, "") for name, count in stated.items()
    }
    waves = [one for one in done if one.path.name.startswith("wbag_")]
    assert [one.path.name for one in waves] == [f"wbag_{part}.mcap" for part in range(5)]
    (recording,) = {one.recording for one in waves}
    expected = [message for one in waves for message in _read(one.path)]
    assert view(robot_folder).messages("telemetry", recording=recording) == expected
    closings = view(robot_folder).closing()
    assert len(closings) == len({one.recording for one in done})


def test_what_is_adopted_can_be_read_by_any_mcap_reader(bags: Path, robot_folder: Path, view: View) -> None:
    _write(bags / "walk_0.mcap", _seconds(0, 5))
    _adopt(robot_folder, bags)
    (one,) = view(robot_folder).segments("telemetry")
    found = list(make_reader(io.BytesIO(view(robot_folder).body(one))).iter_messages())
    assert [(s.name, s.data, c.message_encoding) for s, c, _ in found if s] == [
        ("std_msgs/msg/String", b"string data", "cdr")
    ] * 5
    opened = view(robot_folder).messages("_agent")[0]
    assert json.loads(opened.data)["software_version"] == "adopted:walk_0.mcap"
