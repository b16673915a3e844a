"""GOPs as rows of the table `gops`: their packets one after the other, and what it takes to decode them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dataset_catalog.align import Frames
from dataset_catalog.rendition import ORIGINAL
from dataset_catalog.schema import GOPS
from dataset_catalog.tracks import Gop, Track

PAYLOAD = "payload"
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
    columns = {name: [row[name] for row in rows] for name in GOPS.names if name != PAYLOAD}
    arrays = {name: pa.array(values, GOPS.field(name).type) for name, values in columns.items()}
    arrays[PAYLOAD] = _payloads(gops)
    return pa.RecordBatch.from_arrays([arrays[name] for name in GOPS.names], schema=GOPS)


def _row(gop: Gop, frames: Frames) -> dict[str, Any]:
    return {
        "gop": frames.add_gop(gop.frame_t_ns),
        "start_ns": gop.start_ns,
        "packet_bytes": [len(packet.data) for packet in gop.packets],
        "frame_t_ns": gop.frame_t_ns,
    }


def _payloads(gops: Sequence[Gop]) -> Any:
    """The packets as Lance's blobs, each copied once: `lance.blob_array` copies them twice more."""
    packets = pa.py_buffer(b"".join(packet.data for gop in gops for packet in gop.packets))
    ends = np.cumsum([0, *(gop.bytes for gop in gops)], dtype=np.int64)
    count = len(gops)
    payloads = pa.Array.from_buffers(pa.large_binary(), count, [None, pa.py_buffer(ends), packets])
    type_ = GOPS.field(PAYLOAD).type
    elsewhere = [pa.nulls(count, field.type) for field in list(type_.storage_type)[1:]]  # no uri, and no place there
    storage = pa.StructArray.from_arrays([payloads, *elsewhere], fields=list(type_.storage_type))
    return pa.ExtensionArray.from_storage(type_, storage)
