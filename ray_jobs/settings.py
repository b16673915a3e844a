"""How much work the jobs do at once."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from dataset_catalog.settings import TableSettings


class JobsSettings(TableSettings):
    """Read from `FLEETFEED_JOBS_*` and the table `[jobs]`."""

    model_config = SettingsConfigDict(env_prefix="FLEETFEED_JOBS_")
    table: ClassVar[str] = "jobs"

    segments_per_task: int = Field(32, ge=1, description="Segments that one Ray task reads before it returns.")
    telemetry_per_task: int = Field(
        128, ge=1, description="The same for load_telemetry: a task writes few files, and large ones."
    )
    episodes_per_task: int = Field(16, ge=1, description="Episodes that one Ray task aligns before it returns.")
    segments_per_commit: int = Field(
        5_000, ge=1, description="A long run publishes about every so many segments; a killed run loses at most that."
    )
    episodes_per_commit: int = Field(200, ge=1, description="The same for align_frames, in episodes.")
    hole_grace_s: float = Field(
        86_400.0,
        ge=0,
        description="How long segments wait behind one that has not arrived, before index_segments names it as a gap "
        "and goes on, in s.",
    )
    examine_limit_s: float = Field(
        120.0, gt=0, description="How long one segment may take to decode, twice, before it is quarantined."
    )
    examine_memory_bytes: int = Field(
        2 << 30,
        ge=256 << 20,
        description="Memory that decoding one segment may take; each Ray worker has one such process.",
    )
    compact_fragments: int = Field(
        16, ge=2, description="`maintain` puts a table's small fragments together once there are so many."
    )
    keep_version_days: float = Field(
        7.0, ge=0, description="How long `maintain` keeps table versions that no dataset version needs, in days."
    )
    keep_raw_days: float | None = Field(
        None,
        gt=0,
        description="How long raw segments stay after the last one of their recording came, in days; unset: for ever. "
        "`maintain` marks them `expiring`, and removes them later; rows, thumbnails and datasets stay.",
    )
    keep_expiring_days: float = Field(
        1.0,
        ge=0,
        description="How long raw segments stay at least after `maintain` has marked them `expiring`, in days: until "
        "then a greater `keep_raw_days` takes it back.",
    )
    keep_telemetry_days: float | None = Field(
        None, gt=0, description="How long rows stay in telemetry tables, by their time, in days; unset: for ever."
    )
    keep_upload_days: float = Field(
        7.0, gt=0, description="How long it keeps the pieces of uploads that no robot goes on with, in days."
    )
    read_threads: int = Field(16, ge=1, description="Requests to the bucket that the driver has open at once.")
    local_cpus: int | None = Field(None, ge=1, description="CPUs of a local Ray; unset: all of the machine.")
    local_store_bytes: int = Field(
        256 << 20, ge=80 << 20, description="Object store of a local Ray; only lists of work pass through it."
    )
