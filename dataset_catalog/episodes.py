"""What an episode's windows are read from, in memory: step times, series and where the frames are. No pixels.

An episode takes 8 bytes a step, 8 + 4 × size bytes a value, and 12 bytes a frame: a G1's hour at 30 Hz with 26-D state
and action 24 MB. Episodes are kept whole, in the order of their last use, up to a bound.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dataset_catalog.errors import DecodeError, NotFound, WindowError
from dataset_catalog.tables import contains, read

if TYPE_CHECKING:
    from dataset_catalog.dataset import Dataset

_AT_ONCE = 256  # episodes read by one scan
_GOP_COLUMNS = ["episode_id", "camera", "rendition", "gop", "codec", "extradata", "packet_bytes", "frame_t_ns"]


class Gop(NamedTuple):
    """Where a GOP's packets are and how to decode them: its row id in `gops`, and where that row lies in this version.

    `track` says in words whose it is.
    """

    row: int
    address: int
    track: str
    codec: str
    extradata: bytes
    packet_bytes: tuple[int, ...]

    def __str__(self) -> str:
        return f"GOP row {self.row} ({self.track})"


@dataclass(frozen=True, slots=True)
class Series:
    """`t_ns` (n,) int64 ascending, `values` (n, d) float32."""

    t_ns: NDArray[np.int64]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Track:
    """One camera's stored frames: `t_ns` (f,) ascending; GOP g holds frames `[starts[g], starts[g + 1])`.

    The first and the last may lie a little outside the episode: a step near its edge may be nearest to such a one.
    """

    t_ns: NDArray[np.int64]
    starts: NDArray[np.int64]
    rows: NDArray[np.uint64]
    addresses: NDArray[np.uint64]
    packet_bytes: NDArray[np.int32]
    codecs: tuple[tuple[str, bytes], ...]  # of each GOP; equal ones are one object
    name: str = ""  # in words

    def frame(self, number: int) -> tuple[Gop, int]:
        """The GOP of frame `number`, and which of its frames it is."""
        return self.frames(np.array([[number]]))[0][0]

    def frames(self, numbers: NDArray[np.int64]) -> list[list[tuple[Gop, int]]]:
        """The same of many frames (m, K)."""
        places = np.searchsorted(self.starts, numbers, side="right") - 1
        of_gop = {g: self._gop(g) for g in set(places.ravel().tolist())}
        within = (numbers - self.starts[places]).tolist()
        pairs = zip(places.tolist(), within, strict=True)
        return [[(of_gop[g], k) for g, k in zip(*row, strict=True)] for row in pairs]

    def _gop(self, g: int) -> Gop:
        a, b = self.starts[g : g + 2].tolist()
        codec, extradata = self.codecs[g]
        sizes = tuple(self.packet_bytes[a:b].tolist())
        return Gop(int(self.rows[g]), int(self.addresses[g]), self.name, codec, extradata, sizes)


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode; `t_ns` (steps,) are its steps' times."""

    episode_id: str
    task: str
    start_ns: int
    end_ns: int
    t_ns: NDArray[np.int64]
    series: Mapping[str, Series] = field(default_factory=dict)
    tracks: Mapping[str, Track] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        series = sum(s.t_ns.nbytes + s.values.nbytes for s in self.series.values())
        tracks = sum(t.t_ns.nbytes + t.packet_bytes.nbytes + 32 * len(t.rows) for t in self.tracks.values())
        return self.t_ns.nbytes + series + tracks


class EpisodeReader:
    """Reads episodes on demand, many by one scan, and keeps the most recently used up to `max_bytes`.

    columns  column → vector size
    cameras  camera → its renditions, the preferred first

    One reader serves any number of threads.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        columns: Mapping[str, int],
        cameras: Mapping[str, Sequence[str]],
        max_bytes: int,
    ) -> None:
        self._dataset, self._columns, self._cameras, self._max_bytes = dataset, columns, cameras, max_bytes
        self._kept: OrderedDict[str, Episode] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._rows = dataset.episodes().select(["episode_id", "task", "start_ns", "end_ns"])

    def get(self, episode_ids: Iterable[str]) -> dict[str, Episode]:
        """The episodes by id. Raises `NotFound` for one that is not selected, and `WindowError` or `DecodeError`
        where the tables contradict each other."""
        wanted = list(dict.fromkeys(episode_ids))
        with self._lock:
            found = {name: self._kept[name] for name in wanted if name in self._kept}
            missing = [name for name in wanted if name not in found]
            for first in range(0, len(missing), _AT_ONCE):
                for episode in self._read(missing[first : first + _AT_ONCE]):
                    found[episode.episode_id] = self._kept[episode.episode_id] = episode
                    self._bytes += episode.nbytes
            self._forget(wanted)
        return found

    def warm(self, episode_ids: Sequence[str], *, limit_s: float) -> None:
        """Read episodes ahead, in this order, as far as they fit and for about so long; the rest come as needed."""
        started = time.monotonic()
        for first in range(0, len(episode_ids), _AT_ONCE):
            if self._bytes < self._max_bytes and time.monotonic() - started < limit_s:
                self.get(episode_ids[first : first + _AT_ONCE])

    def _forget(self, used: list[str]) -> None:
        for name in used:
            self._kept.move_to_end(name)
        while self._bytes > self._max_bytes and self._kept:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def _read(self, episode_ids: list[str]) -> Iterator[Episode]:
        rows = self._described(episode_ids)
        steps, series, tracks = self._steps(episode_ids), self._series(episode_ids), self._tracks(episode_ids)
        for name, row in rows.items():
            yield Episode(
                name,
                row["task"] or "",
                row["start_ns"],
                row["end_ns"],
                steps[name],
                {column: series.get((name, column), _no_series(size)) for column, size in self._columns.items()},
                {camera: tracks[name, camera] for camera in self._cameras if (name, camera) in tracks},
            )

    def _described(self, episode_ids: list[str]) -> dict[str, dict[str, Any]]:
        """The episodes' own rows, in this order: as objects only those that are read."""
        places = pc.index_in(pa.array(episode_ids, pa.string()), self._rows["episode_id"].combine_chunks())
        if places.null_count:
            unknown = episode_ids[places.is_null().index(True).as_py()]
            raise NotFound(f"no episode {unknown!r} in this selection of {self._dataset.name}")
        return dict(zip(episode_ids, self._rows.take(places).to_pylist(), strict=True))

    def _steps(self, episode_ids: list[str]) -> dict[str, NDArray[np.int64]]:
        scan = self._scan("steps", ["episode_id", "step", "t_ns"], contains("episode_id", episode_ids))
        steps = {}
        for (name,), rows in _by(scan, "episode_id", order="step"):
            if not np.array_equal(rows["step"].to_numpy(), np.arange(len(rows))):
                raise WindowError(f"episode {name} does not have the steps 0 to {len(rows) - 1}, each once")
            steps[name] = rows["t_ns"].to_numpy().copy()
        return steps

    def _series(self, episode_ids: list[str]) -> dict[tuple[str, ...], Series]:
        if not self._columns:
            return {}
        rows = f"{contains('episode_id', episode_ids)} AND {contains('column', self._columns)}"
        scan = self._scan("series", ["episode_id", "column", "t_ns", "value"], rows)
        return {
            key: _to_series(key, part, self._columns[key[1]])
            for key, part in _by(scan, "episode_id", "column", order="t_ns")
        }

    def _tracks(self, episode_ids: list[str]) -> dict[tuple[str, str], Track]:
        """By (episode, camera), in the first of the camera's renditions that the episode has."""
        if not self._cameras:
            return {}
        rows = f"{contains('episode_id', episode_ids)} AND {contains('camera', self._cameras)}"
        found = dict(_by(self._scan("gops", _GOP_COLUMNS, rows), "episode_id", "camera", "rendition", order="gop"))
        return {
            (name, camera): _to_track(f"{camera} of episode {name}", found[name, camera, stored[0]])
            for name in episode_ids
            for camera, renditions in self._cameras.items()
            if (stored := [label for label in renditions if (name, camera, label) in found])
        }

    def _scan(self, table: str, columns: list[str], rows: str) -> pa.Table:
        is_gops = table == "gops"
        options = {"with_row_id": is_gops, "with_row_address": is_gops}
        return read(self._dataset.table(table), columns=columns, filter=rows, **options)


def _by(table: pa.Table, *keys: str, order: str) -> Iterator[tuple[tuple[str, ...], pa.Table]]:
    """The rows of each combination of keys, sorted by `order`."""
    if not len(table):
        return
    rows = table.sort_by([(name, "ascending") for name in (*keys, order)]).combine_chunks()
    codes = np.stack([_column(rows, key).dictionary_encode().indices.to_numpy() for key in keys])
    cuts = np.flatnonzero((np.diff(codes) != 0).any(axis=0)) + 1
    for a, b in pairwise([0, *cuts.tolist(), len(rows)]):
        yield tuple(rows[key][a].as_py() for key in keys), rows.slice(a, b - a)


def _column(table: pa.Table, name: str) -> Any:
    return table[name].combine_chunks()


def _no_series(size: int) -> Series:
    return Series(np.zeros(0, np.int64), np.zeros((0, size), np.float32))


def _to_series(key: tuple[str, ...], rows: pa.Table, size: int) -> Series:
    flat = _column(rows, "value").flatten().to_numpy()
    if len(flat) != len(rows) * size:
        raise WindowError(f"column {key[1]} of episode {key[0]} holds vectors that are not of size {size}")
    return Series(rows["t_ns"].to_numpy().copy(), flat.reshape(-1, size).copy())


def _to_track(name: str, rows: pa.Table) -> Track:
    frames, packets = _column(rows, "frame_t_ns"), _column(rows, "packet_bytes")
    if not frames.value_lengths().equals(packets.value_lengths()):
        raise DecodeError(f"{name} has GOPs whose packets are not one a frame")
    times = frames.flatten().to_numpy().copy()
    if (np.diff(times) < 0).any():
        raise DecodeError(f"{name} has frames whose times go back")
    interned: dict[tuple[str, bytes], tuple[str, bytes]] = {}
    pairs = zip(rows["codec"].to_pylist(), (data or b"" for data in rows["extradata"].to_pylist()), strict=True)
    return Track(
        times,
        np.concatenate([[0], np.cumsum(frames.value_lengths().to_numpy())]).astype(np.int64),
        rows["_rowid"].to_numpy().copy(),
        rows["_rowaddr"].to_numpy().copy(),
        packets.flatten().to_numpy().copy(),
        tuple(interned.setdefault(pair, pair) for pair in pairs),
        name,
    )
