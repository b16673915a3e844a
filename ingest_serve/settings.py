"""What the platform team may turn on the server side."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from dataset_catalog.settings import TableSettings


class IngestSettings(TableSettings):
    """Read from `FLEETFEED_INGEST_*` and the table `[ingest]`."""

    model_config = SettingsConfigDict(env_prefix="FLEETFEED_INGEST_")
    table: ClassVar[str] = "ingest"

    max_telemetry_bytes: int = Field(
        16 << 20, ge=1, description="Largest telemetry body; a recorder closes its segments at 8 MiB."
    )
    max_video_bytes: int = Field(
        64 << 20, ge=1, description="Largest video body; 10 s at 2.5 Mbit/s are 3 MB, a dropped-in mp4 may be longer."
    )
    max_bytes_in_flight: int = Field(
        256 << 20, ge=1, description="Sum of the bodies that one replica takes at once; above it robots get 503."
    )
    retry_after_s: int = Field(5, ge=1, description="What a 503 asks the robot to wait.")
    body_timeout_s: float = Field(120.0, gt=0, description="Longest time that one body may take to arrive.")
    key_cache_s: float = Field(
        10.0, ge=0, description="How long a replica trusts a key it has looked up; a revoked key works no longer."
    )
    replicas: int = Field(1, ge=1, description="Ingest replicas; each is one process and fills about one core.")
    replica_cpus: float = Field(0.1, ge=0, description="CPUs that Ray reserves for a replica.")
    max_ongoing_requests: int = Field(64, ge=1, description="Requests that one replica works on at once.")
    max_queued_requests: int = Field(
        64, ge=-1, description="Requests that wait for a replica before 503; -1: no limit."
    )
    graceful_shutdown_s: float = Field(
        30.0, ge=0, description="How long a replica may finish its requests when it is replaced."
    )

    @model_validator(mode="after")
    def _largest_body_fits(self) -> IngestSettings:
        largest = max(self.max_telemetry_bytes, self.max_video_bytes)
        if largest > self.max_bytes_in_flight:
            raise ValueError(
                f"max_bytes_in_flight must be >= {largest}, the largest body, got {self.max_bytes_in_flight}"
            )
        return self
