"""The lake's tables, column by column: the one home of their Arrow schemas.

Times are int64 nanoseconds since the Unix epoch, ranges half-open. Vectors in `steps` and `series` are float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lance
import pyarrow as pa

DATA_STORAGE_VERSION = "2.2"
NOT_IN_SQL = {"gops": "payload", "segments": "thumbnail"}  # columns of pictures, which only their readers fetch

TOPIC = pa.struct(
    [("name", pa.string()), ("encoding", pa.string()), ("schema_name", pa.string()), ("count", pa.int64())]
)
GOP = pa.struct([("start_ns", pa.int64()), ("frames", pa.int32()), ("bytes", pa.int64())])

# One row a segment that arrived: what it is, what is in it, whether it is whole. And one row a gap record: the robot's
# word that its seqs will never arrive; its times, messages and topics are of what is missing, its bytes those of the
# record. Only rows whose state is ok are data.
SEGMENTS = pa.schema(
    [
        ("robot_id", pa.string()),
        ("recording_id", pa.string()),
        ("stream", pa.string()),
        ("seq", pa.int64()),
        ("last_seq", pa.int64()),  # of a gap: it covers seq..last_seq, without what is stored inside; else null
        ("kind", pa.string()),  # telemetry | video
        ("content_type", pa.string()),
        ("start_ns", pa.int64()),
        ("end_ns", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("key", pa.string()),
        ("received_ns", pa.int64()),
        ("state", pa.string()),  # ok | gap | quarantined | expiring | expired
        ("reason", pa.string()),  # why it is quarantined; of a gap "<cause>: <reason>"; else null
        ("messages", pa.int64()),  # of every topic; for an mp4 its frames
        ("topics", pa.list_(TOPIC)),  # of a gap with empty encoding and schema_name
        ("frames", pa.int64()),  # decoded frames; null for telemetry and gaps
        ("codec", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps", pa.float64()),  # (frames - 1) / (last - first capture time)
        ("luma_mean", pa.float64()),  # over all frames, 0..255; this and the next ones: ray_jobs/picture_quality.py
        ("black_share", pa.float64()),  # of frames, 0..1
        ("frozen_share", pa.float64()),  # of frames that repeat the one before
        ("blurred_share", pa.float64()),
        ("sharpness", pa.float64()),  # mean variance of the Laplacian
        ("motion", pa.float64()),  # mean absolute difference of luma to the frame before, 0..255
        ("gops", pa.list_(GOP)),
        ("thumbnail", pa.binary()),  # a small JPEG of a sharp picture from its middle
        ("software_version", pa.string()),  # as the recording's opening record states it; null where it is not known
        ("clock_offset_ns", pa.int64()),  # server's time minus the robot's, as told with the upload
        ("clock_uncertainty_ns", pa.int64()),
        ("clock_drift_ppb", pa.int64()),
        ("index_version", pa.int64()),  # the version of lake/segments that published this row
    ]
)

# One row a labelled time range, or a whole unlabelled recording.
EPISODES = pa.schema(
    [
        ("episode_id", pa.string()),
        ("robot_id", pa.string()),
        ("recording_id", pa.string()),
        ("task", pa.string()),
        ("success", pa.bool_()),
        ("notes", pa.string()),
        ("start_ns", pa.int64()),
        ("end_ns", pa.int64()),
        ("steps", pa.int64()),
        # JSON: column → {"size": int, "names": […] | null, "policy": str, "tolerance_ns": int}, and
        # camera → {"camera": true, "tolerance_ns": int}; other keys are for people
        ("columns", pa.string()),
        ("sources", pa.list_(pa.struct([("key", pa.string()), ("sha256", pa.string())]))),
    ]
)

# Every declared numeric column at its own rate, sorted by (episode, column, time).
SERIES = pa.schema(
    [
        ("episode_id", pa.string()),
        ("column", pa.string()),
        ("t_ns", pa.int64()),
        ("value", pa.list_(pa.float32())),
    ]
)

# One row an episode and numeric column: what joins to the statistics of any selection, element by element.
STATISTICS = pa.schema(
    [
        ("episode_id", pa.string()),
        ("column", pa.string()),
        ("count", pa.list_(pa.int64())),  # finite values
        ("mean", pa.list_(pa.float64())),
        ("m2", pa.list_(pa.float64())),  # sum of squared deviations from the mean
        ("min", pa.list_(pa.float64())),
        ("max", pa.list_(pa.float64())),
        # histograms of logarithmic bins: dataset_catalog/statistics.py
        ("bins", pa.list_(pa.struct([("keys", pa.list_(pa.int32())), ("counts", pa.list_(pa.int64()))]))),
    ]
)

# What people say of episodes after the fact, in a chain of its own; of one episode and label the newest row counts.
LABELS = pa.schema(
    [
        ("episode_id", pa.string()),
        ("robot_id", pa.string()),
        ("recording_id", pa.string()),
        ("start_ns", pa.int64()),  # of the episode
        ("label", pa.string()),  # task, success and notes stand in for what the robot said
        ("value", pa.string()),  # null takes the label back
        ("author", pa.string()),
        ("written_ns", pa.int64()),
        ("label_version", pa.int64()),  # the version of lake/labels that published this row
    ]
)

# One row a GOP as it was encoded. Payload: the packets one after the other, cut by packet_bytes.
GOPS = pa.schema(
    [
        ("episode_id", pa.string()),
        ("robot_id", pa.string()),
        ("camera", pa.string()),
        ("rendition", pa.string()),  # "original", or "h264-g10" for a re-encoding
        ("gop", pa.int32()),  # number within (episode, camera, rendition), from 0
        ("start_ns", pa.int64()),
        ("codec", pa.string()),  # libav decoder name: h264, av1 …
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("extradata", pa.binary()),  # codec configuration outside the packets (mp4); empty for Annex B
        ("packet_bytes", pa.list_(pa.int32())),
        ("frame_t_ns", pa.list_(pa.int64())),  # capture time of each frame, in presentation order
        ("source_key", pa.string()),
        ("source_sha256", pa.string()),
        lance.blob_field("payload"),
    ]
)


def steps_schema(columns: Mapping[str, int], cameras: Sequence[str]) -> pa.Schema:
    """Schema of `steps` for numeric columns (name → vector size) and cameras.

    Each column `c` is a fixed-size float32 list with `c_age_ns` (step time minus the time of the value taken; null
    where the value is null). Each camera `v` has `v_gop` (its `gops.gop`, null where no frame is in tolerance) and
    `v_k` (which frame in it, presentation order), and `v_age_ns`.
    """
    fields: list[Any] = [
        ("robot_id", pa.string()),
        ("recording_id", pa.string()),
        ("episode_id", pa.string()),
        ("step", pa.int64()),
        ("t_ns", pa.int64()),
    ]
    for name, size in columns.items():
        fields += [(name, pa.list_(pa.float32(), size)), (f"{name}_age_ns", pa.int64())]
    for camera in cameras:
        fields += [(f"{camera}_gop", pa.int32()), (f"{camera}_k", pa.int32()), (f"{camera}_age_ns", pa.int64())]
    return pa.schema(fields)
