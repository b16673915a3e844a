"""The packets of GOPs straight out of the files of a table in a folder: a request to Lance costs ten times as much.

Where a blob lies Lance says itself, in the column's descriptions: in the data file, or packed with others or alone in a
file beside it. What such a file is called it does not say. So each file is compared with what Lance reads when it is
used for the first time, and whatever is not found here is for Lance to read, or to tell what is wrong with it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_COLUMN = "payload"
_INLINE, _DEDICATED = 0, 2  # of Lance's kinds of blobs; 1 is packed, those behind lie elsewhere
_OPEN_FILES = 128
_ROW = 0xFFFFFFFF  # of an address; above it stands the fragment


class _Fragment(NamedTuple):
    """A fragment's data file, and of each of its rows where the blob begins, or -1 where that cannot be told, how many
    bytes it has, and the number of the file beside the data file that holds it; 0 for the data file."""

    data_file: str
    starts: memoryview
    sizes: memoryview
    files: memoryview


class _File:
    """Open for as long as somebody holds it: it may be forgotten while another thread reads."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor).atexit = False


_UNKNOWN = _Fragment("", memoryview(b""), memoryview(b""), memoryview(b""))


class GopFiles:
    """Reads the table `gops` (a LanceDataset at one version) in a local folder. Serves any number of threads."""

    def __init__(self, table: Any) -> None:
        self._table, self._folder = table, Path(table.uri.removeprefix("file://")) / "data"
        self._fragments: dict[int, _Fragment] = {}
        self._open: OrderedDict[tuple[int, int], _File] = OrderedDict()
        self._is_sound: dict[tuple[int, int], bool] = {}
        self._lock = threading.Lock()

    def learn(self, addresses: Collection[int]) -> None:
        """Look, once, where the blobs of these rows' fragments lie."""
        if missing := {address >> 32 for address in addresses} - self._fragments.keys():
            with self._lock, suppress(OSError, pa.ArrowException):  # Lance tells what is wrong when it reads the rows
                self._describe(missing - self._fragments.keys())

    def read(self, address: int, start: int, length: int) -> bytes | None:
        """A part of a row's blob; None where it is not to be had here."""
        number, row = address >> 32, address & _ROW
        data_file, starts, sizes, files = self._fragments.get(number, _UNKNOWN)
        if row >= len(starts) or starts[row] < 0 or start + length > sizes[row]:
            return None
        key = number, files[row]
        with suppress(OSError):
            file = self._open.get(key) or self._opened(key, data_file)
            data = os.pread(file.descriptor, length, starts[row] + start)
            is_whole = len(data) == length > 0
            if is_whole and (self._is_sound.get(key) or self._check(key, (address, start, length), data)):
                return data
        return None

    def _opened(self, key: tuple[int, int], data_file: str) -> _File:
        file = _File(self._folder / (_beside(data_file, key[1]) if key[1] else data_file))
        with self._lock:
            self._open[key] = file
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
        return file

    def _check(self, key: tuple[int, int], asked: tuple[int, int, int], data: bytes) -> bool:
        """Whether the file holds what Lance reads."""
        if key not in self._is_sound:
            ((_, _, found),) = self._table.read_blob_ranges(_COLUMN, [asked], selector="addresses")
            self._is_sound[key] = found == data
        return self._is_sound[key]

    def _describe(self, numbers: Collection[int]) -> None:
        fragments = [self._table.get_fragment(number) for number in sorted(numbers)]
        options = {"with_row_address": True, "blob_handling": "all_descriptions"}
        rows = self._table.scanner(columns=[_COLUMN], fragments=fragments, **options).to_table()
        rows = rows.filter(rows[_COLUMN].is_valid())
        addresses, blobs = rows["_rowaddr"].to_numpy(), rows[_COLUMN].combine_chunks()
        for fragment in fragments:
            own = np.flatnonzero(addresses >> 32 == fragment.fragment_id)
            self._fragments[fragment.fragment_id] = _described(
                self._data_file(fragment), fragment.physical_rows, addresses[own] & _ROW, blobs.take(pa.array(own))
            )

    def _data_file(self, fragment: Any) -> str:
        """The one with the blobs; "" where it lies in another folder."""
        column = next(field.id() for field in self._table.lance_schema.fields() if field.name() == _COLUMN)
        files = [one for one in fragment.data_files() if column in one.fields and one.base_id is None]
        return files[0].path if files else ""


def _described(data_file: str, count: int, rows: NDArray[np.uint64], blobs: pa.StructArray) -> _Fragment:
    """Rows that are deleted or have no blob are not among those described."""
    kind, position, size, number = (blobs.field(i).to_numpy() for i in range(4))
    starts, sizes, files = np.full(count, -1, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64)
    starts[rows] = np.where((kind <= _DEDICATED) & bool(data_file), position.astype(np.int64), -1)
    sizes[rows], files[rows] = size, np.where(kind == _INLINE, 0, number)
    return _Fragment(data_file, starts.data, sizes.data, files.data)


def _beside(data_file: str, number: int) -> str:
    """A blob file's number stands in its name in binary, the last bit first."""
    return f"{data_file.removesuffix('.lance')}/{f'{number:032b}'[::-1]}.blob"
