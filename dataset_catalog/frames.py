"""Frames out of GOP rows: every GOP of a batch fetched at once, each decoded once, as far as it is needed."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.episodes import Gop
from dataset_catalog.errors import DecodeError
from dataset_catalog.fit import Fit, Size
from dataset_catalog.video import decode_gop, to_rgb

Frame = tuple[Gop, int]  # the k-th of a GOP, in presentation order
Image = NDArray[np.uint8]  # (height, width, 3) RGB


class FrameReader:
    """Decodes frames at one size and keeps the most recently used, up to `max_bytes`. Serves any number of threads.

    gops  the table `gops`, a LanceDataset
    size  (height, width); None leaves frames as they are
    fit   how a frame of other proportions becomes one of that size
    """

    def __init__(self, gops: Any, *, size: Size | None, max_bytes: int, fit: Fit = "stretch") -> None:
        self._gops, self._size, self._fit, self._max_bytes = gops, size, fit, max_bytes
        self._kept: OrderedDict[tuple[int, int], Image] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def read(self, frames: Iterable[Frame], *, pool: Executor | None = None) -> dict[tuple[int, int], Image]:
        """(row id of the GOP, k) → pixels. Raises `DecodeError`; `pool` decodes several GOPs at a time."""
        found: dict[tuple[int, int], Image] = {}
        missing: dict[Gop, set[int]] = defaultdict(set)
        with self._lock:
            for gop, k in frames:
                kept = self._kept.get((gop.row, k))
                if kept is None:
                    missing[gop].add(k)
                else:
                    found[gop.row, k] = kept
                    self._kept.move_to_end((gop.row, k))
        found.update(self._decode(missing, pool))
        return found

    def _decode(self, wanted: dict[Gop, set[int]], pool: Executor | None) -> dict[tuple[int, int], Image]:
        if not wanted:
            return {}
        blobs = self._gops.read_blobs("payload", ids=[gop.row for gop in wanted], preserve_order=True)
        jobs = [
            (gop, blob, ks, self._size, self._fit) for (gop, ks), (_, blob) in zip(wanted.items(), blobs, strict=True)
        ]
        decoded: dict[tuple[int, int], Image] = {}
        for frames in (pool.map if pool else map)(_decode_some, jobs):
            decoded.update(frames)
        self._keep(decoded)
        return decoded

    def _keep(self, decoded: dict[tuple[int, int], Image]) -> None:
        with self._lock:
            for key, image in decoded.items():
                if key not in self._kept:
                    self._kept[key] = image
                    self._bytes += image.nbytes
            while self._bytes > self._max_bytes:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes


def _decode_some(job: tuple[Gop, bytes | None, set[int], Size | None, Fit]) -> dict[tuple[int, int], Image]:
    gop, payload, ks, size, fit = job
    ends = np.cumsum(gop.packet_bytes).tolist()
    if payload is None or len(payload) != ends[-1]:
        raise DecodeError(f"GOP row {gop.row} holds {len(payload or b'')} bytes of video, its packets {ends[-1]}")
    packets = [payload[end - length : end] for length, end in zip(gop.packet_bytes, ends, strict=True)]
    frames = decode_gop(gop.codec, gop.extradata, packets, upto=max(ks) + 1)
    return {(gop.row, k): to_rgb(frames[k], size, fit) for k in ks}
