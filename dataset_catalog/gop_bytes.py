"""The packets of many GOPs at once, by exact byte ranges: out of a local table's files, or the node's cache, or else by
Lance."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from dataset_catalog.disk_cache import DiskCache
from dataset_catalog.episodes import Gop
from dataset_catalog.errors import DecodeError, StorageError
from dataset_catalog.gop_files import GopFiles
from dataset_catalog.settings import FeedSettings

ATTEMPTS = 6  # of a read that fails: over about half a minute, and Lance itself tries again before it fails
FIRST_WAIT_S = 0.5


class Range(NamedTuple):
    """`length` bytes of a GOP's payload from `start` on."""

    gop: Gop
    start: int
    length: int


class GopBytes:
    """Reads the table `gops` (a LanceDataset at one version). Serves any number of threads.

    files  of a table in a local folder
    cache  holds whole GOPs; with it a GOP is fetched whole, as an epoch comes back for its other frames
    """

    def __init__(
        self,
        table: Any,
        *,
        files: GopFiles | None = None,
        cache: DiskCache | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._table, self._files, self._cache, self._sleep = table, files, cache, sleep

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of each range. Raises `StorageError` if the store does not give them, `DecodeError` if a row
        does not hold what its packets are said to be; both name the row."""
        if self._files is not None:
            return self._straight(self._files, ranges)
        if self._cache is None:
            return self._fetch(ranges)
        cache, name = self._cache, self._name
        found = {one.gop.row: cache.get(name(one.gop)) for one in ranges}
        missing = {one.gop.row: whole(one.gop) for one in ranges if found[one.gop.row] is None}
        for row, payload in zip(missing, self._fetch(list(missing.values())), strict=True):
            cache.put(name(missing[row].gop), payload)
            found[row] = payload
        return [(found[one.gop.row] or b"")[one.start : one.start + one.length] for one in ranges]

    def _straight(self, files: GopFiles, ranges: Sequence[Range]) -> list[bytes]:
        files.learn([one.gop.address for one in ranges])
        found = [files.read(one.gop.address, one.start, one.length) for one in ranges]
        left = [one for one, data in zip(ranges, found, strict=True) if data is None]
        fetched = iter(self._fetch(left) if left else ())
        return [next(fetched) if data is None else data for data in found]

    def _fetch(self, ranges: Sequence[Range]) -> list[bytes]:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._request(ranges)
            except OSError as error:
                if attempt == ATTEMPTS or "not found" in str(error).lower():
                    raise self._blamed(ranges, error) from error
                self._sleep(FIRST_WAIT_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))  # noqa: S311 (jitter)
            except ValueError as error:  # a range behind the end of what is stored
                raise self._blamed(ranges, error) from error
        raise AssertionError

    def _request(self, ranges: Sequence[Range]) -> list[bytes]:
        if not ranges:
            return []
        requests = [(one.gop.address, one.start, one.length) for one in ranges]
        rows = self._table.read_blob_ranges("payload", requests, selector="addresses", preserve_order=True)
        for one, (_, _, data) in zip(ranges, rows, strict=True):
            if data is None or len(data) != one.length:
                raise DecodeError(f"{one.gop} holds {len(data or b'')} bytes of video, {one.length} were asked for")
        return [data for _, _, data in rows]

    def _blamed(self, ranges: Sequence[Range], error: Exception) -> Exception:
        """The error of the first range that cannot be read, tried one by one."""
        for one in ranges:
            try:
                self._request([one])
            except ValueError as own:
                return DecodeError(f"{one.gop} does not hold the {one.start + one.length} bytes of its packets: {own}")
            except OSError as own:
                return StorageError(f"cannot read the video of {one.gop}: {own}")
        return StorageError(f"cannot read the video of {ranges[0].gop} and {len(ranges) - 1} more at once: {error}")

    def _name(self, gop: Gop) -> str:
        """What no other GOP of any table is called: Lance names each data file by a random id and never changes it."""
        return f"{self._data_files[gop.address >> 32]}/{gop.address & 0xFFFFFFFF}"

    @cached_property
    def _data_files(self) -> dict[int, str]:
        return {one.fragment_id: one.data_files()[0].path for one in self._table.get_fragments()}


def open_packets(table: Any, *, uri: str, settings: FeedSettings | None = None) -> GopBytes:
    """The reader for a table `gops` at `uri`: through the node's cache where it lies in S3, straight from a folder."""
    settings = settings or FeedSettings()
    if not uri.startswith("s3://"):
        return GopBytes(table, files=GopFiles(table))
    if not settings.cache_bytes:
        return GopBytes(table)
    folder = Path(settings.cache_dir or _default_folder()).expanduser()
    return GopBytes(table, cache=DiskCache(folder / "gops", max_bytes=settings.cache_bytes))


def _default_folder() -> Path:
    """As the XDG base directory specification has it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fleetfeed"


def whole(gop: Gop) -> Range:
    """All of a GOP."""
    return Range(gop, 0, sum(gop.packet_bytes))
