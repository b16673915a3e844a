"""GOPs as rows of the table `gops`: their packets one after the other, and what it takes to decode them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lance
import pyarrow as pa

from dataset_catalog.align import Frames
from dataset_catalog.rendition import ORIGINAL
from dataset_catalog.schema import GOPS
from dataset_catalog.tracks import Gop, Track

MADE = Track("h264", b"", (), "")  # what a rendition's GOPs are of: H.264 in Annex B


def gop_batch(about: Mapping[str, Any], track: Track, gops: Sequence[Gop], frames: Frames) -> pa.RecordBatch:
    """Rows of `gops`, numbered on from those of `frames`, which learns their frames' times.

    about  the columns that are the same for all: episode, robot, camera, width, height, source. Of a rendition in
           H.264 width and height are even.
    """
    same = {**about, "rendition": frames.rendition, "codec": track.codec, "extradata": track.extradata}
    if frames.rendition != ORIGINAL and track.codec == MADE.codec:
        same |= {"width": about["width"] & ~1, "height": about["height"] & ~1}
    rows = [{**same, **_row(gop, frames)} for gop in gops]
    arrays = [_array(name, [row[name] for row in rows]) for name in GOPS.names]
    return pa.RecordBatch.from_arrays(arrays, schema=GOPS)


def _row(gop: Gop, frames: Frames) -> dict[str, Any]:
    return {
        "gop": frames.add_gop(gop.frame_t_ns),
        "start_ns": gop.start_ns,
        "packet_bytes": [len(packet.data) for packet in gop.packets],
        "frame_t_ns": gop.frame_t_ns,
        "payload": b"".join(packet.data for packet in gop.packets),
    }


def _array(name: str, values: list[Any]) -> Any:
    return lance.blob_array(values) if name == "payload" else pa.array(values, GOPS.field(name).type)
