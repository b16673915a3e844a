"""Takes over closed MCAP files that another recorder (`ros2 bag record -s mcap`) leaves in a folder.

Files of one bag (`name_0.mcap`, `name_1.mcap`, …) become one recording. Their messages are kept byte for byte, in
segments of the usual age and size. What was adopted is remembered in `adopted/` of the spool, so that a crash at any
point adopts nothing twice: a file is marked when its last segment is sealed, and on a restart its segments up to then
are made again under the same names.
"""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

from ulid import ULID

from edge import checked, segment
from edge.chunks import MAGIC
from edge.errors import SegmentError, SpoolError
from edge.recording import write_closing, write_opening
from edge.segment import Message, SegmentFacts
from edge.settings import EdgeSettings
from edge.spool import Spool, stem_of
from edge.topics import AGENT_STREAM, TELEMETRY_STREAM
from edge.wire import MCAP_TYPE

SPLIT = re.compile(r"(?P<bag>.+?)_(?P<part>\d+)")


@dataclass(frozen=True, slots=True)
class Adopted:
    """One file that became segments, or the reason why it did not."""

    path: Path
    recording: str
    messages: int
    segments: int
    reason: str = ""


def adopt(spool: Spool, folder: Path, *, settings: EdgeSettings, more_to_come: bool = False) -> Iterator[Adopted]:
    """Adopt every finished MCAP file under `folder` that is new; yields each as it is done.

    A file that does not end as a finished MCAP file is still being written, or was torn: it is left for a later run.
    With `more_to_come` a bag's recording stays open until `metadata.yaml`, which `ros2 bag` writes last, is there.
    """
    if not folder.is_dir():
        raise SpoolError(f"{folder} is not a folder: nothing can be adopted from it")
    for bag, parts in sorted(_bags(folder).items()):
        close = not more_to_come or Path(bag).with_name("metadata.yaml").exists()
        yield from _adopt_bag(spool, bag, parts, settings, close=close)


def _bags(folder: Path) -> dict[str, list[Path]]:
    """Finished files by bag, parts in their order."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(folder.resolve().rglob("*.mcap")):
        split = SPLIT.fullmatch(path.stem)
        bag = str(path.with_name(split["bag"] if split else path.stem))
        found.setdefault(bag, []).append((int(split["part"]) if split else 0, path))
    return {bag: [path for _, path in sorted(parts)] for bag, parts in found.items()}


def _adopt_bag(spool: Spool, bag: str, parts: list[Path], settings: EdgeSettings, *, close: bool) -> Iterator[Adopted]:
    state = _BagState.load(spool, bag)
    for path in parts:
        if path.name in state.files or not _is_finished(path):
            continue
        if state.closed:
            state = _BagState.new(spool, bag, files=state.files)
        yield _adopt_file(spool, state, path, settings)
    if close and not state.closed and state.files:
        write_closing(spool, state.recording, time.time_ns(), dropped={}, recovered=False)
        state.closed = True
        state.save(spool)


def _adopt_file(spool: Spool, state: _BagState, path: Path, settings: EdgeSettings) -> Adopted:
    """Cut one file. Segments that an interrupted run has made already come out the same, byte for byte."""
    known = spool.items(state.recording)
    if stem_of(state.recording, AGENT_STREAM, 0) not in known:
        write_opening(spool, state.recording, time.time_ns(), software_version="adopted:" + path.name)
    seq, messages, reason = state.next_seq, 0, ""
    try:
        with path.open("rb") as file:
            for piece in _cut(segment.read_messages(file), settings):
                facts, body = cast(tuple[SegmentFacts, bytes], segment.build(piece))
                if stem_of(state.recording, TELEMETRY_STREAM, seq) not in known:
                    name = (state.recording, TELEMETRY_STREAM, seq)
                    spool.add(name, facts, body, kind="telemetry", content_type=MCAP_TYPE)
                seq, messages = seq + 1, messages + len(piece)
    except SegmentError as error:
        reason = f"damaged, adopted as far as it can be read: {error}"
    made = seq - state.next_seq
    state.next_seq, state.files[path.name] = seq, reason
    state.save(spool)
    return Adopted(path, state.recording, messages, made, reason)


def _cut(messages: Iterator[Message], settings: EdgeSettings) -> Iterator[list[Message]]:
    """Pieces of at most the segment's age (by the messages' own times) and size."""
    piece: list[Message] = []
    size = 0
    damage: SegmentError | None = None
    try:
        for message in messages:
            too_old = piece and message.t_ns - piece[0].t_ns >= settings.segment_s * 1e9
            if too_old or size >= settings.segment_bytes:
                yield piece
                piece, size = [], 0
            piece.append(message)
            size += len(message.data)
    except SegmentError as error:
        damage = error
    if piece:
        yield piece
    if damage:
        raise damage


def _is_finished(path: Path) -> bool:
    """Whether a file ends as a finished MCAP file does."""
    with path.open("rb") as file:
        if file.seek(0, io.SEEK_END) < 2 * len(MAGIC):
            return False
        file.seek(-len(MAGIC), io.SEEK_END)
        return file.read() == MAGIC


@dataclass
class _BagState:
    """What has been adopted of one bag; kept durably in `adopted/` of the spool."""

    bag: str
    recording: str
    next_seq: int = 0
    closed: bool = False
    files: dict[str, str] = field(default_factory=dict)  # file name → "", or why it is not whole

    @staticmethod
    def _path(spool: Spool, bag: str) -> Path:
        folder = spool.folder / "adopted"
        spool.disk.make_folder(folder)
        return folder / f"{hashlib.sha256(bag.encode()).hexdigest()[:16]}.json"

    @classmethod
    def load(cls, spool: Spool, bag: str) -> _BagState:
        """A damaged state is forgotten: adopting a bag twice is better than not at all."""
        fields = checked.read(cls._path(spool, bag))
        return cls.new(spool, bag, files={}) if fields is None else cls(**fields)

    @classmethod
    def new(cls, spool: Spool, bag: str, *, files: dict[str, str]) -> _BagState:
        """A new recording for a bag; saved before its first segment, so that a crash does not make a second one."""
        state = cls(bag, str(ULID()), files=files)
        state.save(spool)
        return state

    def save(self, spool: Spool) -> None:
        spool.disk.write_file(self._path(spool, self.bag), checked.dumps(asdict(self)).encode())
