"""Video out of the store: tried again where it does not answer, past a cache that is broken, and never other bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_catalog.disk_cache import DiskCache
from dataset_catalog.episodes import EpisodeReader, Gop
from dataset_catalog.errors import DecodeError, StorageError
from dataset_catalog.gop_bytes import ATTEMPTS, GopBytes, Range, open_packets, whole
from dataset_catalog.settings import FeedSettings


class Table:
    """The table, but for what `answer` says of a request, numbered from 0: an error, or None for what is stored."""

    def __init__(self, lake: Any, answer: Callable[[int, Sequence[Any]], Exception | None] = lambda n, _: None) -> None:
        self._table, self._answer = lake.catalog.dataset("pick").table("gops"), answer
        self.requests: list[Sequence[Any]] = []

    def read_blob_ranges(self, column: str, requests: Sequence[Any], **options: Any) -> Any:
        self.requests.append(requests)
        error = self._answer(len(self.requests) - 1, requests)
        if error:
            raise error
        return self._table.read_blob_ranges(column, requests, **options)

    def get_fragments(self) -> Any:
        return self._table.get_fragments()


@pytest.fixture
def gops(lake: Any) -> list[Gop]:
    reader = EpisodeReader(lake.catalog.dataset("pick"), columns={}, cameras={"head": ["original"]}, max_bytes=2**30)
    track = reader.get(["e3"])["e3"].tracks["head"]
    return [track.frame(int(number))[0] for number in track.starts[:-1]]


@pytest.fixture
def payloads(lake: Any, gops: list[Gop]) -> list[bytes]:
    table = lake.catalog.dataset("pick").table("gops")
    return [data for _, data in table.read_blobs("payload", ids=[gop.row for gop in gops], preserve_order=True)]


def test_ranges_are_the_stored_bytes_by_one_request(lake: Any, gops: list[Gop], payloads: list[bytes]) -> None:
    table = Table(lake)
    found = GopBytes(table).read([Range(gops[2], 0, 50), Range(gops[0], 10, 20), whole(gops[1])])
    assert found == [payloads[2][:50], payloads[0][10:30], payloads[1]]
    assert len(table.requests) == 1


def test_a_store_that_answers_late_is_asked_again_after_longer_and_longer_waits(
    lake: Any, gops: list[Gop], payloads: list[bytes]
) -> None:
    waits: list[float] = []
    table = Table(lake, lambda n, _: OSError("503 Slow Down") if n < ATTEMPTS - 1 else None)
    assert GopBytes(table, sleep=waits.append).read([whole(gops[0])]) == [payloads[0]]
    assert len(waits) == ATTEMPTS - 1
    assert all(0.25 * 2**n <= wait <= 0.5 * 2**n for n, wait in enumerate(waits))


def test_a_row_that_cannot_be_read_is_named(lake: Any, gops: list[Gop]) -> None:
    def refuse(_: int, requests: Sequence[Any]) -> Exception | None:
        return OSError("connection refused") if any(at == gops[1].address for at, *_ in requests) else None

    reader = GopBytes(Table(lake, refuse), sleep=lambda _: None)
    with pytest.raises(StorageError, match=rf"GOP row {gops[1].row} \(head of episode e3\): connection refused"):
        reader.read([whole(gop) for gop in gops])


def test_what_is_gone_is_not_asked_for_again_and_again(lake: Any, gops: list[Gop]) -> None:
    table = Table(lake, lambda *_: OSError("LanceError(IO): Not found: data/x.lance"))
    with pytest.raises(StorageError, match="Not found"):
        GopBytes(table).read([whole(gops[0])])
    assert len(table.requests) == 2


def test_a_row_that_holds_less_than_its_packets_is_named(lake: Any, gops: list[Gop]) -> None:
    longer = gops[0]._replace(packet_bytes=(*gops[0].packet_bytes, 9_000_000))
    with pytest.raises(DecodeError, match=rf"GOP row {longer.row} \(head of episode e3\) does not hold the .* bytes"):
        GopBytes(Table(lake)).read([whole(gops[1]), whole(longer)])


def test_with_a_cache_a_gop_is_fetched_once_and_whole(
    lake: Any, gops: list[Gop], payloads: list[bytes], tmp_path: Path
) -> None:
    table, cache = Table(lake), DiskCache(tmp_path, max_bytes=1 << 20)
    for _ in range(2):
        reader = GopBytes(table, cache=cache)
        assert reader.read([Range(gops[0], 5, 9), Range(gops[0], 0, 3)]) == [payloads[0][5:14], payloads[0][:3]]
    assert [len(requests) for requests in table.requests] == [1]
    assert reader.read([Range(gops[1], 1, 2), whole(gops[0])]) == [payloads[1][1:3], payloads[0]]
    assert [len(requests) for requests in table.requests] == [1, 1]


def test_a_damaged_cache_file_is_fetched_again(
    lake: Any, gops: list[Gop], payloads: list[bytes], tmp_path: Path
) -> None:
    table = Table(lake)
    reader = GopBytes(table, cache=DiskCache(tmp_path, max_bytes=1 << 20))
    reader.read([whole(gop) for gop in gops])
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "count":
            damaged = bytearray(path.read_bytes())
            damaged[len(damaged) // 2] ^= 4
            path.write_bytes(damaged)
    assert reader.read([whole(gop) for gop in gops]) == payloads
    assert reader.read([whole(gop) for gop in gops]) == payloads
    assert [len(requests) for requests in table.requests] == [len(gops), len(gops)]


def test_without_room_for_a_cache_everything_is_read_past_it(
    lake: Any, gops: list[Gop], payloads: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "full").write_bytes(b"")
    reader = GopBytes(Table(lake), cache=DiskCache(tmp_path / "full", max_bytes=1 << 20))
    for _ in range(2):
        assert reader.read([whole(gop) for gop in gops]) == payloads


def test_windows_are_the_same_through_a_cache_that_rots(lake: Any, tmp_path: Path) -> None:
    dataset = lake.catalog.dataset("pick")
    settings = FeedSettings(cache_dir=tmp_path, cache_bytes=1 << 20)
    plain, cached = (dataset.windows({"head": [-0.1, 0.0]}, frame_bytes=0) for _ in range(2))
    packets = open_packets(dataset.table("gops"), uri="s3://bucket/datasets/pick", settings=settings)
    for reader in cached._frames.values():
        reader._packets = packets
    draw = np.random.default_rng(0)
    for _ in range(6):
        numbers = draw.integers(0, len(dataset), 16)
        assert (cached.batch(numbers)["head"] == plain.batch(numbers)["head"]).all()
        files = sorted(path for path in (tmp_path / "gops").rglob("*") if path.is_file() and path.name != "count")
        assert files
        for path in files[::3]:
            body = bytearray(path.read_bytes())
            body[int(draw.integers(len(body)))] ^= 1 << int(draw.integers(8))
            path.write_bytes(body)


def test_only_what_lies_in_s3_is_kept_on_the_disk(lake: Any, tmp_path: Path) -> None:
    table = lake.catalog.dataset("pick").table("gops")
    kept = FeedSettings(cache_dir=tmp_path, cache_bytes=5000)
    assert open_packets(table, uri=str(tmp_path), settings=kept)._cache is None
    assert open_packets(table, uri="s3://b/d", settings=FeedSettings(cache_bytes=0))._cache is None
    cache = open_packets(table, uri="s3://b/d", settings=kept)._cache
    assert cache is not None
    assert (cache.folder, cache.max_bytes) == (tmp_path / "gops", 5000)
