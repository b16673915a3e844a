"""Packets that become blobs in one step are those that Lance makes of them one by one."""

from __future__ import annotations

from pathlib import Path

import lance
import pytest

from dataset_catalog.align import Frames
from dataset_catalog.gop_rows import PAYLOAD, gop_batch
from dataset_catalog.rendition import ORIGINAL
from dataset_catalog.schema import DATA_STORAGE_VERSION, GOPS
from dataset_catalog.tracks import Gop, Packet, Track

ABOUT = {"episode_id": "e", "robot_id": "r", "camera": "c", "width": 3, "height": 2} | {
    "source_key": "k",
    "source_sha256": "s",
}


@pytest.mark.parametrize("sizes", [[], [[7]], [[1, 70_000], [3], [0, 2, 5]]])
def test_payloads_are_the_packets_one_after_the_other(sizes: list[list[int]], tmp_path: Path) -> None:
    packets = [[Packet(n, bytes([n + 1]) * size, n == 0) for n, size in enumerate(each)] for each in sizes]
    gops = [Gop(tuple(each)) for each in packets]
    expected = [b"".join(packet.data for packet in each) for each in packets]

    batch = gop_batch(ABOUT, Track("h264", b"x", (), "/c"), gops, Frames(ORIGINAL))

    batch.validate(full=True)
    assert batch.schema == GOPS
    assert batch[PAYLOAD].equals(lance.blob_array(expected))
    assert batch["packet_bytes"].to_pylist() == sizes
    written = lance.write_dataset(
        [batch], tmp_path / "gops.lance", schema=GOPS, data_storage_version=DATA_STORAGE_VERSION
    )
    if expected:
        found = written.read_blobs(PAYLOAD, indices=list(range(len(expected))))
        assert [bytes(data) for _, data in found] == expected
