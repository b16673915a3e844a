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
    episodes_per_task: int = Field(4, ge=1, description="Episodes that one Ray task aligns before it returns.")
    segments_per_commit: int = Field(
        5_000, ge=1, description="A long run publishes about every so many segments; a killed run loses at most that."
    )
    episodes_per_commit: int = Field(200, ge=1, description="The same for align_frames, in episodes.")
    read_threads: int = Field(16, ge=1, description="Requests to the bucket that the driver has open at once.")
    local_cpus: int | None = Field(None, ge=1, description="CPUs of a local Ray; unset: all of the machine.")
    local_store_bytes: int = Field(
        256 << 20, ge=80 << 20, description="Object store of a local Ray; only lists of work pass through it."
    )
