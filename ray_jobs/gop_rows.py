"""One camera's video of an episode as rows of `gops`: packets as they were encoded, and a rendition where needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import lance
import pyarrow as pa

from dataset_catalog.schema import GOPS
from ray_jobs.align import Frames
from ray_jobs.episodes import Episode
from ray_jobs.errors import SpecError
from ray_jobs.media import Gop, Track
from ray_jobs.rendition import H264_G10, ORIGINAL, Fidelity, can_copy, encode

Segment = Mapping[str, Any]  # a row of lake/segments
ReadTrack = Callable[[Segment], Track]


def check_order(camera: str, segments: Sequence[Segment]) -> None:
    """`SpecError` where a later segment begins before the one before it ends: its frames have no order in time."""
    for earlier, later in pairwise(segments):
        if later["start_ns"] < earlier["end_ns"]:
            raise SpecError(f"{camera}: capture times of segment {later['seq']} go back behind {earlier['seq']}")


def camera_batches(
    episode: Episode,
    camera: str,
    segments: Sequence[Segment],
    *,
    read: ReadTrack,
    tolerance_ns: int,
    found: dict[str, Frames],
    fidelity: Fidelity,
) -> Iterator[pa.RecordBatch]:
    """Batches of `gops`, a segment each. When they are used up, `found[camera]` holds the frames that steps point to.

    A second pass over the segments makes the rendition, so that one segment at a time is in memory.
    """
    original, copied = Frames(ORIGINAL), True
    for segment in segments:
        track = read(segment)
        copied = copied and can_copy(track)
        gops = _near(track, episode, tolerance_ns)
        yield _batch(episode, camera, segment, track, gops, original)
    found[camera] = original
    if copied:
        return
    made = Frames(H264_G10)
    for segment in segments:
        track = read(segment)
        gops = encode(track, _near(track, episode, tolerance_ns), fidelity)
        yield _batch(episode, camera, segment, Track("h264", b"", (), ""), gops, made)
    found[camera] = made


def _near(track: Track, episode: Episode, tolerance_ns: int) -> list[Gop]:
    """GOPs with a frame that a step of the episode may take."""
    start_ns, end_ns = episode.start_ns - tolerance_ns, episode.end_ns + tolerance_ns
    return [gop for gop in track.gops if gop.frame_t_ns[-1] >= start_ns and gop.frame_t_ns[0] < end_ns]


def _batch(
    episode: Episode, camera: str, segment: Segment, track: Track, gops: Sequence[Gop], frames: Frames
) -> pa.RecordBatch:
    width, height = (segment["width"], segment["height"])
    if frames.rendition == H264_G10:
        width, height = width & ~1, height & ~1
    same = {
        "episode_id": episode.episode_id,
        "robot_id": episode.robot_id,
        "camera": camera,
        "rendition": frames.rendition,
        "codec": track.codec,
        "width": width,
        "height": height,
        "extradata": track.extradata,
        "source_key": segment["key"],
        "source_sha256": segment["sha256"],
    }
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
