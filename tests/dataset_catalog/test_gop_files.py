"""Packets straight out of a local table's files: the bytes that Lance reads, for every way in which it stores them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from dataset_catalog.episodes import Gop
from dataset_catalog.errors import DecodeError, StorageError
from dataset_catalog.gop_bytes import GopBytes, Range, open_packets
from dataset_catalog.gop_files import GopFiles

INLINE, PACKED, DEDICATED = 1_000, 3_000, 9_000  # bytes of a blob that is stored that way
FIELD = lance.blob_field("payload", inline_size_threshold=2_000, dedicated_size_threshold=5_000)


def payload(row: int, size: int) -> bytes:
    return np.random.default_rng(row).bytes(size)


def write(folder: Path, sizes: list[int | None], *, mode: str = "create") -> Any:
    blobs = lance.blob_array([None if size is None else payload(row, size) for row, size in enumerate(sizes)])
    rows = pa.table([pa.array(range(len(sizes))), blobs], schema=pa.schema([("row", pa.int64()), FIELD]))
    return lance.write_dataset(rows, str(folder), mode=mode, data_storage_version="2.2")


def gops_of(table: Any) -> dict[int, Gop]:
    """By row number."""
    found = table.scanner(columns=["row"], with_row_id=True, with_row_address=True).to_table().to_pylist()
    return {one["row"]: Gop(one["_rowid"], one["_rowaddr"], "film", "h264", b"", (1,)) for one in found}


class Watched:
    """A table, and the requests that Lance gets."""

    def __init__(self, table: Any) -> None:
        self._table, self.requests = table, list[Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def read_blob_ranges(self, column: str, requests: Any, **options: Any) -> Any:
        self.requests.append(requests)
        return self._table.read_blob_ranges(column, requests, **options)


def straight(table: Any) -> GopBytes:
    return GopBytes(table, files=GopFiles(table), sleep=lambda _: None)


@pytest.mark.parametrize("size", [INLINE, PACKED, DEDICATED])
def test_blobs_of_every_kind_are_read_without_lance_but_for_the_first_of_a_file(tmp_path: Path, size: int) -> None:
    table = Watched(write(tmp_path / "gops", [size] * 20))
    reader, gops = straight(table), gops_of(table)
    ranges = [Range(gops[row], row * 7, 100 + row) for row in (3, 0, 19, 3)]
    for _ in range(2):
        found = reader.read(ranges)
        assert found == [payload(one.gop.row, size)[one.start : one.start + one.length] for one in ranges]
    files = {INLINE: 1, PACKED: 1, DEDICATED: 3}[size]
    assert len(table.requests) == files


def test_fragments_and_deleted_rows_are_told_apart(tmp_path: Path) -> None:
    sizes = [INLINE, PACKED, DEDICATED, INLINE, PACKED]
    write(tmp_path / "gops", sizes)
    table = write(tmp_path / "gops", sizes, mode="append")
    table.delete("row = 1 OR row = 3")
    reader = straight(table)
    addresses = table.scanner(columns=["row"], with_row_address=True).to_table().to_pylist()
    assert len({one["_rowaddr"] >> 32 for one in addresses}) == 2
    for one in addresses:
        gop = Gop(0, one["_rowaddr"], "film", "h264", b"", (1,))
        assert reader.read([Range(gop, 5, 900)]) == [payload(one["row"], sizes[one["row"]])[5:905]]


def test_after_compaction_blobs_are_found_where_they_are_now(tmp_path: Path) -> None:
    sizes = [INLINE, PACKED, DEDICATED]
    write(tmp_path / "gops", sizes)
    table = write(tmp_path / "gops", sizes, mode="append")
    table.optimize.compact_files()
    assert len(table.get_fragments()) == 1
    found = table.scanner(columns=["row"], with_row_address=True).to_table().to_pylist()
    gops = [Gop(0, one["_rowaddr"], "film", "h264", b"", (1,)) for one in found]
    got = straight(table).read([Range(gop, 0, INLINE) for gop in gops])
    assert got == [payload(one["row"], sizes[one["row"]])[:INLINE] for one in found]


@pytest.mark.parametrize("size", [INLINE, PACKED, DEDICATED])
def test_a_row_with_less_than_its_packets_is_named_and_its_neighbours_bytes_are_not_taken(
    tmp_path: Path, size: int
) -> None:
    table = write(tmp_path / "gops", [size] * 5)
    gop = gops_of(table)[1]
    with pytest.raises(DecodeError, match=rf"GOP row {gop.row} \(film\) does not hold the {size + 1} bytes"):
        straight(table).read([Range(gop, 0, size + 1)])


def test_a_row_without_video_is_named(tmp_path: Path) -> None:
    table = write(tmp_path / "gops", [INLINE, None, INLINE])
    with pytest.raises((DecodeError, StorageError), match=r"GOP row 1 \(film\)"):
        straight(table).read([Range(gops_of(table)[1], 0, 1)])


@pytest.mark.parametrize("size", [INLINE, PACKED, DEDICATED])
def test_a_file_that_is_gone_or_cut_off_is_an_error_that_names_the_row(tmp_path: Path, size: int) -> None:
    table = write(tmp_path / "gops", [size] * 3)
    gops = gops_of(table)
    files = list((tmp_path / "gops/data").rglob("*.blob")) or list((tmp_path / "gops/data").glob("*.lance"))
    reader = straight(table)
    reader._files.learn([gops[0].address])  # type: ignore[union-attr]
    for path in files:
        path.write_bytes(path.read_bytes()[:10])
    with pytest.raises((DecodeError, StorageError), match=r"GOP row 0 \(film\)"):
        reader.read([Range(gops[0], 0, size)])
    for path in files:
        path.unlink()
    with pytest.raises((DecodeError, StorageError), match=r"GOP row 0 \(film\).*(?i:not found)"):
        straight_again(table, reader).read([Range(gops[0], 0, size)])


def test_a_data_file_that_is_gone_before_anybody_looked_is_an_error_that_names_the_row(tmp_path: Path) -> None:
    table = write(tmp_path / "gops", [INLINE] * 3)
    gop = gops_of(table)[0]
    for path in (tmp_path / "gops/data").glob("*.lance"):
        path.unlink()
    with pytest.raises(StorageError, match=r"GOP row 0 \(film\)"):
        straight(table).read([Range(gop, 0, INLINE)])


def straight_again(table: Any, reader: GopBytes) -> GopBytes:
    """With files that are not open yet, at places that are known."""
    files, known = GopFiles(table), reader._files
    assert known is not None
    files._fragments = known._fragments
    return GopBytes(table, files=files, sleep=lambda _: None)


def test_a_file_that_does_not_hold_what_lance_reads_is_left_to_lance(tmp_path: Path, monkeypatch: Any) -> None:
    table = write(tmp_path / "gops", [PACKED, DEDICATED, PACKED])
    gops = gops_of(table)
    other = next((tmp_path / "gops/data").glob("*.lance"))
    (tmp_path / "gops/data/wrong").write_bytes(b"another table's bytes, as many as it takes" * 500)
    monkeypatch.setattr("dataset_catalog.gop_files._beside", lambda *_: "wrong")
    assert other.exists()
    reader = straight(table)
    for _ in range(2):
        assert reader.read([Range(gops[0], 0, 99), Range(gops[1], 1, 99)]) == [
            payload(0, PACKED)[:99],
            payload(1, DEDICATED)[1:100],
        ]


def test_a_table_in_a_folder_is_read_straight_and_one_in_s3_is_not(lake: Any) -> None:
    table = lake.catalog.dataset("pick").table("gops")
    assert open_packets(table, uri=str(lake.catalog.dataset("pick").uri))._files is not None
    assert open_packets(table, uri="s3://bucket/datasets/pick")._files is None


def test_more_files_than_are_kept_open_are_read_in_turn(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("dataset_catalog.gop_files._OPEN_FILES", 2)
    table = Watched(write(tmp_path / "gops", [DEDICATED] * 6))
    reader, gops = straight(table), gops_of(table)
    for _ in range(3):
        for row in range(6):
            assert reader.read([Range(gops[row], 0, 50)]) == [payload(row, DEDICATED)[:50]]
    assert len(reader._files._open) == 2  # type: ignore[union-attr]
    assert len(table.requests) == 6, "a file is compared with what Lance reads once"
