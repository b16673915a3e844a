"""Episodes of a dataset as MCAP files, one a run of selected steps: readings at their own rates, and the video.

A column is a topic of JSON messages `{"data": […]}`, each number exact; a camera one of `foxglove.CompressedVideo`.
H.264, H.265 and AV1 are passed on packet by packet, in Annex B where that is what the schema wants; what it does not
know, and B-frames, is encoded anew (H.264, at least 38 dB). A metadata record says what the episode is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import merge
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from mcap.writer import Writer

from dataset_catalog.errors import FormatError
from dataset_catalog.export_film import StoredFilm, StoredGop
from dataset_catalog.mp4_file import describe
from dataset_catalog.selection import Run
from dataset_catalog.tables import contains

if TYPE_CHECKING:
    from dataset_catalog.dataset import Dataset

FORMATS = {"h264": "h264", "hevc": "h265", "av1": "av1", "libdav1d": "av1"}  # libav's name → CompressedVideo.format
_ANNEX_B = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
_JSON_SCHEMA = b'{"type": "object", "properties": {"data": {"type": "array", "items": {"type": "number"}}}}'

Message = tuple[int, str, bytes]  # time, topic, data


@dataclass(frozen=True, slots=True)
class ExportedMcap:
    """What came of it; `notes` are for people."""

    files: tuple[Path, ...]
    messages: int
    notes: tuple[str, ...] = ()


def export_mcap(
    dataset: Dataset, folder: str | Path, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> ExportedMcap:
    """Write `<episode>.mcap` for each selected episode; of several runs of one `<episode>-<first step>.mcap`.

    Raises `FormatError` for a file that is there already, and where no step is selected.
    """
    folder = Path(folder)
    runs, labels = dataset.selection.runs, {row["episode_id"]: row for row in dataset.episodes().to_pylist()}
    if not runs:
        raise FormatError("no step is selected")
    folder.mkdir(parents=True, exist_ok=True)
    files, messages, notes = [], 0, list[str]()
    for number, run in enumerate(runs):
        alone = sum(run.episode_id == other.episode_id for other in runs[max(0, number - 1) : number + 2]) == 1
        path = folder / (_file_name(run.episode_id) + ("" if alone else f"-{run.first}") + ".mcap")
        messages += _write(path, dataset, run, labels[run.episode_id], notes)
        files.append(path)
        progress(number + 1, len(runs))
    return ExportedMcap(tuple(files), messages, tuple(notes))


def _write(path: Path, dataset: Dataset, run: Run, label: dict[str, Any], notes: list[str]) -> int:
    """One file; the number of its messages."""
    start_ns, end_ns = _range(dataset, run, label)
    topics = {name: str(dataset.declared(name).get("topic") or f"/{name}") for name in dataset.columns}
    films = {name: f"/{name}" for name in dataset.cameras}
    parts: list[Iterator[Message]] = [_readings(dataset, run, name, topics[name], start_ns, end_ns) for name in topics]
    parts += [_pictures(dataset, run, name, films[name], start_ns, end_ns, notes) for name in films]
    part = path.with_name(f".{path.name}.part")
    if path.exists():
        raise FormatError(f"{path} is there already")
    try:
        with part.open("wb") as file:
            count = _write_messages(
                file, merge(*parts, key=lambda one: one[0]), set(films.values()), _about(dataset, label)
            )
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def _write_messages(file: Any, messages: Iterator[Message], films: set[str], about: dict[str, str]) -> int:
    writer, channels, count = Writer(file), dict[str, int](), dict[str, int]()
    writer.start(profile="", library="fleetfeed")
    numbers = writer.register_schema("fleetfeed.Reading", "jsonschema", _JSON_SCHEMA)
    video = writer.register_schema(CompressedVideo.DESCRIPTOR.full_name, "protobuf", _descriptors())
    for t_ns, topic, data in messages:
        if topic not in channels:
            encoding, schema = ("protobuf", video) if topic in films else ("json", numbers)
            channels[topic] = writer.register_channel(topic, encoding, schema)
        sequence = count.get(topic, 0)
        writer.add_message(channels[topic], t_ns, data, publish_time=t_ns, sequence=sequence)
        count[topic] = sequence + 1
    writer.add_metadata("fleetfeed.episode", about)
    writer.finish()
    return sum(count.values())


def _range(dataset: Dataset, run: Run, label: dict[str, Any]) -> tuple[int, int]:
    """From when to when the run is: the episode's own ends where it reaches them, else from step to step."""
    where = f"{contains('episode_id', [run.episode_id])} AND step IN ({run.first}, {run.end})"
    at = dataset.table("steps").to_table(columns=["step", "t_ns"], filter=where).to_pylist()
    times = {row["step"]: row["t_ns"] for row in at}
    return label["start_ns"] if run.first == 0 else times[run.first], times.get(run.end, label["end_ns"])


def _readings(dataset: Dataset, run: Run, name: str, topic: str, start_ns: int, end_ns: int) -> Iterator[Message]:
    where = f"{contains('episode_id', [run.episode_id])} AND {contains('column', [name])}"
    where += f" AND t_ns >= {start_ns} AND t_ns < {end_ns}"
    rows = dataset.table("series").to_table(columns=["t_ns", "value"], filter=where).sort_by("t_ns")
    for t_ns, value in zip(rows["t_ns"].to_pylist(), rows["value"].to_pylist(), strict=True):
        finite = [number if np.isfinite(number) else None for number in value]
        yield t_ns, topic, json.dumps({"data": finite}).encode()


def _pictures(
    dataset: Dataset, run: Run, name: str, topic: str, start_ns: int, end_ns: int, notes: list[str]
) -> Iterator[Message]:
    """Of whole GOPs: those that hold a picture of the run, from their keyframes on."""
    film = StoredFilm(dataset.table("gops"), run.episode_id, name)
    gops = [gop for gop in film.gops if gop.frame_t_ns[-1] >= start_ns and gop.frame_t_ns[0] < end_ns]
    if all(gop.codec in FORMATS and gop.order == list(range(len(gop.packets))) for gop in gops):
        for gop in gops:
            for t_ns, data in zip(gop.frame_t_ns, _as_stream(gop), strict=True):
                yield t_ns, topic, _compressed(t_ns, name, data, FORMATS[gop.codec])
        return
    wanted = np.array([t for gop in gops for t in gop.frame_t_ns if start_ns <= t < end_ns], np.int64)
    made = film.encoded(wanted)
    notes.append(f"{run.episode_id} {name} is encoded anew, PSNR {made.psnr_db:.1f} dB")
    for t_ns, data in zip(wanted.tolist(), made.packets, strict=True):
        yield t_ns, topic, _compressed(t_ns, name, data, "h264")


def _as_stream(gop: StoredGop) -> list[bytes]:
    """The packets as a stream has them: of an MP4's H.264 or H.265 with start codes and parameter sets."""
    if not gop.extradata or gop.codec not in _ANNEX_B:
        return list(gop.packets)
    found = []
    with describe(gop.packets[0], gop.codec, gop.extradata, gop.size) as described:
        to_annex_b = BitStreamFilterContext(_ANNEX_B[gop.codec], in_stream=described.streams.video[0])
        for number, data in enumerate(gop.packets):
            packet = av.Packet(len(data))
            packet.update(data)
            packet.pts = packet.dts = number
            packet.is_keyframe = number == 0
            found += [bytes(one) for one in to_annex_b.filter(packet)]
    return found


def _compressed(t_ns: int, frame_id: str, data: bytes, format_: str) -> bytes:
    message = CompressedVideo(frame_id=frame_id, data=data, format=format_)
    message.timestamp.FromNanoseconds(t_ns)
    return bytes(message.SerializeToString())


def _descriptors() -> bytes:
    """The schema, with all that it needs."""
    found: dict[str, Any] = {}

    def add(file: Any) -> None:
        for needed in file.dependencies:
            add(needed)
        found.setdefault(file.name, file)

    add(CompressedVideo.DESCRIPTOR.file)
    whole = FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(whole.file.add())
    return whole.SerializeToString()


def _about(dataset: Dataset, label: dict[str, Any]) -> dict[str, str]:
    told = {"dataset": dataset.uri, "version": dataset.version, "label_version": dataset.label_version}
    told |= {name: label[name] for name in ("episode_id", "robot_id", "recording_id", "task", "success", "notes")}
    return {
        name: json.dumps(value) if isinstance(value, bool) else str(value)
        for name, value in told.items()
        if value is not None
    }


def _file_name(episode_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", episode_id)
