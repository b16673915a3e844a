"""Which GOPs of which raw segments a clip consists of, decided from rows of the index alone.

A clip begins with the GOP that holds its start and ends with the last GOP that begins before its end: no frame of the
range is left out, and nothing is encoded anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from dataset_catalog.errors import ClipTooLong, CodecChanged, NoVideo, Overlapping

FORMAT = 1  # of a clip's bytes: any change to what the same cut gives must change it
MAX_CLIP_NS = 600_000_000_000
MAX_CLIP_BYTES = 1 << 30

Row = Mapping[str, Any]  # of `segments`

COLUMNS = (
    *("recording_id", "seq", "state", "reason", "content_type", "key", "sha256", "bytes"),
    *("start_ns", "end_ns", "codec", "width", "height", "fps", "gops"),
)


@dataclass(frozen=True, slots=True)
class Piece:
    """GOPs `[first, stop)` of one raw segment, whose GOPs have `gop_frames` packets each and begin at `gop_ns`.

    `end_ns` is the end of the last of them, half-open; `frame_ns` a frame's usual duration.
    """

    recording: str
    seq: int
    key: str
    sha256: str
    content_type: str
    codec: str
    width: int
    height: int
    segment_start_ns: int
    gop_ns: tuple[int, ...]
    gop_frames: tuple[int, ...]
    first: int
    stop: int
    bytes: int
    end_ns: int
    frame_ns: int

    @property
    def start_ns(self) -> int:
        return self.gop_ns[self.first]

    @property
    def frames(self) -> int:
        return sum(self.gop_frames[self.first : self.stop])

    @property
    def encoding(self) -> tuple[object, ...]:
        """What the index knows of how it is encoded."""
        return (self.content_type, self.codec, self.width, self.height)


@dataclass(frozen=True, slots=True)
class Missing:
    """Time that is not in a clip: half-open, and whether the segment is a `gap` or `quarantined`."""

    start_ns: int
    end_ns: int
    state: str


@dataclass(frozen=True, slots=True)
class Cut:
    """Pieces in order of time, and what is missing between."""

    pieces: tuple[Piece, ...]
    missing: tuple[Missing, ...]

    @property
    def start_ns(self) -> int:
        return self.pieces[0].start_ns

    @property
    def end_ns(self) -> int:
        return self.pieces[-1].end_ns

    @property
    def frames(self) -> int:
        return sum(piece.frames for piece in self.pieces)

    @property
    def bytes(self) -> int:
        """Of the packets."""
        return sum(piece.bytes for piece in self.pieces)

    def digest(self, *, base_ns: int) -> str:
        """Names the bytes that this cut gives, in 32 hex digits: the same sources, cut and format give the same."""
        said = [[piece.sha256, piece.segment_start_ns, piece.first, piece.stop] for piece in self.pieces]
        text = json.dumps([FORMAT, base_ns, self.pieces[-1].end_ns, said], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def cut(rows: Iterable[Row], *, start_ns: int, end_ns: int) -> Cut:
    """The cut for `[start_ns, end_ns)` from the rows of one robot's stream that overlap it.

    Raises `NoVideo` where no video is in the range.
    """
    rows = list(rows)
    sound = [row for row in rows if row["state"] == "ok" and row["gops"]]
    found = [_piece(row, start_ns, end_ns) for row in sorted(sound, key=lambda row: (row["start_ns"], row["seq"]))]
    pieces = tuple(piece for piece in found if piece is not None)
    if not pieces:
        raise NoVideo(f"no video from {start_ns} to {end_ns} ns")
    return Cut(pieces, tuple(_missing(rows, start_ns, end_ns)))


def check_one_piece(whole: Cut, *, max_bytes: int = MAX_CLIP_BYTES) -> None:
    """Raises `ClipTooLong`, `Overlapping` or `CodecChanged` where the index tells already that it is no single clip."""
    if whole.bytes > max_bytes:
        raise ClipTooLong(f"the clip has {whole.bytes} bytes of video, {max_bytes} at most go into one")
    check_order(whole)
    for earlier, later in pairwise(whole.pieces):
        if later.encoding != earlier.encoding:
            raise CodecChanged(later.start_ns, f"{_words(earlier)} becomes {_words(later)}")


def check_order(whole: Cut) -> None:
    """Raises `Overlapping` where two pieces hold the same time."""
    for earlier, later in pairwise(whole.pieces):
        if later.start_ns < earlier.end_ns:
            raise Overlapping(later.start_ns, (earlier.recording, later.recording))


def check_length(start_ns: int, end_ns: int) -> None:
    """Raises `ClipTooLong` for more than ten minutes."""
    if end_ns - start_ns > MAX_CLIP_NS:
        raise ClipTooLong(f"a clip has at most {MAX_CLIP_NS // 10**9} s, got {(end_ns - start_ns) / 1e9:.0f} s")


def _piece(row: Row, start_ns: int, end_ns: int) -> Piece | None:
    begins = [gop["start_ns"] for gop in row["gops"]]
    ends = [*begins[1:], row["end_ns"]]
    first = next((n for n, end in enumerate(ends) if end > start_ns), len(ends))
    stop = next((n for n, begin in enumerate(begins) if begin >= end_ns), len(begins))
    if first >= stop:
        return None
    return Piece(
        recording=row["recording_id"],
        seq=row["seq"],
        key=row["key"],
        sha256=row["sha256"],
        content_type=row["content_type"],
        codec=row["codec"],
        width=row["width"],
        height=row["height"],
        segment_start_ns=row["start_ns"],
        gop_ns=tuple(begins),
        gop_frames=tuple(gop["frames"] for gop in row["gops"]),
        first=first,
        stop=stop,
        bytes=sum(gop["bytes"] for gop in row["gops"][first:stop]),
        end_ns=ends[stop - 1],
        frame_ns=round(1e9 / row["fps"]) if row["fps"] else 33_333_333,
    )


def _missing(rows: Iterable[Row], start_ns: int, end_ns: int) -> list[Missing]:
    lost = (row for row in rows if row["state"] != "ok" or not row["gops"])
    found = [Missing(max(row["start_ns"], start_ns), min(row["end_ns"], end_ns), row["state"]) for row in lost]
    return sorted(found, key=lambda one: (one.start_ns, one.end_ns))


def _words(piece: Piece) -> str:
    return f"{piece.codec} of {piece.width}x{piece.height} in {piece.content_type}"
