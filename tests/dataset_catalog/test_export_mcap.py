"""Out of the lake as MCAP: every reading at its own time, every packet, and the words about the episode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo
from mcap.reader import make_reader

from dataset_catalog import nal
from dataset_catalog.catalog import Catalog
from dataset_catalog.dataset import Dataset
from dataset_catalog.errors import FormatError
from dataset_catalog.export_mcap import export_mcap
from dataset_catalog.import_lerobot import import_lerobot
from dataset_catalog.video import decode_gop, to_rgb
from tests.dataset_catalog.lerobot_folders import CHUNK, frames_of, original, packets_of, psnr_db, write_folder


def messages(path: Path) -> dict[str, list[tuple[int, bytes]]]:
    """Topic → (time, data), in order of time."""
    found: dict[str, list[tuple[int, bytes]]] = {}
    with path.open("rb") as file:
        for _, channel, message in make_reader(file, validate_crcs=True).iter_messages():
            found.setdefault(channel.topic, []).append((message.log_time, message.data))
    return found


def metadata(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        (one,) = make_reader(file).iter_metadata()
    return dict(one.metadata)


def video(found: list[tuple[int, bytes]]) -> list[CompressedVideo]:
    return [CompressedVideo.FromString(data) for _, data in found]


def test_every_reading_and_packet_is_there_at_its_time(lake: Any, tmp_path: Path) -> None:
    dataset: Dataset = lake.catalog.dataset("pick")
    done = export_mcap(dataset.select(episodes=["e0", "e3"]), tmp_path / "out")
    assert [path.name for path in done.files] == ["e0.mcap", "e3.mcap"]
    for path, name in zip(done.files, ["e0", "e3"], strict=True):
        episode, found = lake.episodes[name], messages(path)
        assert set(found) == {"/state", "/action", "/torso", "/head"}
        for column in ("state", "action", "torso"):
            wanted = [(t, v) for t, v in episode.series[column] if episode.start_ns <= t < episode.end_ns]
            assert [t for t, _ in found[f"/{column}"]] == [t for t, _ in wanted]
            values = np.array([json.loads(data)["data"] for _, data in found[f"/{column}"]], np.float32)
            assert (values.view(np.uint32) == np.array([v for _, v in wanted], np.float32).view(np.uint32)).all()
        pictures = video(found["/head"])
        assert [one.data for one in pictures] == original(dataset, name)
        assert {(one.format, one.frame_id) for one in pictures} == {("h264", "head")}
        assert [one.timestamp.ToNanoseconds() for one in pictures] == [t for t, _ in episode.frames]
    assert done.messages == sum(len(one) for path in done.files for one in messages(path).values())
    told = metadata(done.files[0])
    assert (told["episode_id"], told["robot_id"], told["task"]) == ("e0", "h1", "pour water")
    assert (told["success"], told["version"]) == ("true", "2")


def test_a_part_has_its_readings_and_the_gops_that_it_needs(lake: Any, tmp_path: Path) -> None:
    part = lake.catalog.dataset("pick").select(
        episodes=["e3"], where="step BETWEEN 20 AND 29 OR step BETWEEN 40 AND 42"
    )
    done = export_mcap(part, tmp_path)
    assert [path.name for path in done.files] == ["e3-20.mcap", "e3-40.mcap"]
    episode, found = lake.episodes["e3"], messages(done.files[0])
    first, end = episode.steps[20], episode.steps[30]
    assert [t for t, _ in found["/state"]] == [t for t, _ in episode.series["state"] if first <= t < end]
    times = [t for t, _ in found["/head"]]
    assert times[0] <= first
    assert times[-1] >= episode.steps[29] - 60_000_000
    assert len(times) < len(episode.frames)


def test_h264_of_an_mp4_becomes_a_stream_that_says_itself_how_it_is_coded(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "small", [25])
    import_lerobot(folder, tmp_path / "lake")
    (path,) = export_mcap(Catalog.open(str(tmp_path / "lake")).dataset("small"), tmp_path / "out").files
    film = folder / f"videos/{CHUNK}/observation.images.head/episode_000000.mp4"
    pictures = video(messages(path)["/head"])
    sent = [[unit for unit in nal.nal_units(one.data) if unit[0] & 31 not in (7, 8)] for one in pictures]
    kept = [[unit for unit in length_prefixed(data) if unit[0] & 31 not in (7, 8)] for data in packets_of(film)]
    assert sent == kept
    keys = [n for n, one in enumerate(pictures) if any(unit[0] & 31 == 7 for unit in nal.nal_units(one.data))]
    frames = []
    for a, b in zip(keys, [*keys[1:], len(pictures)], strict=True):
        frames += decode_gop("h264", None, [one.data for one in pictures[a:b]])
    assert psnr_db([to_rgb(frame) for frame in frames], frames_of(film)) == float("inf")


def length_prefixed(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = int.from_bytes(data[:4], "big")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def test_what_the_schema_does_not_know_is_encoded_anew_and_near_enough(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "small", [30], codec="libx264", gop=10, b_frames=2)
    import_lerobot(folder, tmp_path / "lake")
    done = export_mcap(Catalog.open(str(tmp_path / "lake")).dataset("small"), tmp_path / "out")
    assert "is encoded anew, PSNR" in done.notes[0]
    packets = [one.data for one in video(messages(done.files[0])["/head"])]
    frames = [to_rgb(frame) for n in range(0, 30, 10) for frame in decode_gop("h264", None, packets[n : n + 10])]
    film = folder / f"videos/{CHUNK}/observation.images.head/episode_000000.mp4"
    assert psnr_db(frames, frames_of(film)) >= 38


def test_a_file_that_is_there_is_not_written_over(lake: Any, tmp_path: Path) -> None:
    one = lake.catalog.dataset("pick").select(episodes=["e0"])
    export_mcap(one, tmp_path)
    with pytest.raises(FormatError, match=r"e0\.mcap is there already"):
        export_mcap(one, tmp_path)
    with pytest.raises(FormatError, match="no step is selected"):
        export_mcap(one.select(where="false"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["e0.mcap"]
