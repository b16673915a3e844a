"""One camera's video of an episode as rows of `gops`: packets as they were encoded, and a rendition where needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa

from dataset_catalog.align import Frames
from dataset_catalog.gop_rows import MADE, gop_batch
from dataset_catalog.rendition import H264_G10, ORIGINAL, Fidelity, can_copy, encode
from dataset_catalog.tracks import Gop, Track
from ray_jobs.episodes import Episode
from ray_jobs.errors import SpecError

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
        yield gop_batch(_about(episode, camera, segment), track, gops, original)
    found[camera] = original
    if copied:
        return
    made = Frames(H264_G10)
    for segment in segments:
        track = read(segment)
        gops = encode(track, _near(track, episode, tolerance_ns), fidelity)
        yield gop_batch(_about(episode, camera, segment), MADE, gops, made)
    found[camera] = made


def _near(track: Track, episode: Episode, tolerance_ns: int) -> list[Gop]:
    """GOPs with a frame that a step of the episode may take."""
    start_ns, end_ns = episode.start_ns - tolerance_ns, episode.end_ns + tolerance_ns
    return [gop for gop in track.gops if gop.frame_t_ns[-1] >= start_ns and gop.frame_t_ns[0] < end_ns]


def _about(episode: Episode, camera: str, segment: Segment) -> dict[str, Any]:
    """What every GOP of a segment says."""
    return {
        "episode_id": episode.episode_id,
        "robot_id": episode.robot_id,
        "camera": camera,
        "width": segment["width"],
        "height": segment["height"],
        "source_key": segment["key"],
        "source_sha256": segment["sha256"],
    }
