"""What the platform team may turn on the server side."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from dataset_catalog.settings import TableSettings
from ingest_serve.in_flight import Bounds


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
        256 << 20,
        ge=1,
        description="What one replica holds of bodies; a quarter of it, or one largest body, is for joining pieces.",
    )
    max_bodies: int = Field(512, ge=1, description="Bodies that one replica takes at once; above it robots get 503.")
    max_bodies_per_robot: int = Field(
        16, ge=1, description="Bodies of one robot that one replica takes at once; above it the robot gets 429."
    )
    min_body_rate: float = Field(
        2000.0, gt=0, description="Bytes a second with which a body must come; two at once on 64 kbit/s have 4,000."
    )
    body_grace_s: float = Field(
        10.0, gt=0, description="So far a body may fall behind `min_body_rate`, say for a pause of the link."
    )
    storage_timeout_s: float = Field(
        20.0, gt=0, description="Longest time that S3 may take to store one body; then the robot gets 503."
    )
    retry_after_s: int = Field(5, ge=1, description="What a 503 asks the robot to wait.")
    key_cache_s: float = Field(
        10.0,
        ge=0,
        le=3600,
        description="How old a replica's list of revoked keys and tokens may be; older, it lists first or answers 503.",
    )
    replicas: int = Field(1, ge=1, description="Ingest replicas; each is one process and fills about one core.")
    replica_cpus: float = Field(0.1, ge=0, description="CPUs that Ray reserves for a replica.")
    max_ongoing_requests: int = Field(
        1024, ge=1, description="Requests that one replica works on at once; more than `max_bodies`, which it bounds."
    )
    max_queued_requests: int = Field(
        64, ge=-1, description="Requests that wait for a replica before 503; -1: no limit."
    )
    graceful_shutdown_s: float = Field(
        90.0,
        ge=0,
        description="How long a replica may finish its requests when it is replaced: a piece of 64 KiB at "
        "`min_body_rate`, `body_grace_s`, `storage_timeout_s`, and room.",
    )

    @model_validator(mode="after")
    def _largest_body_fits(self) -> IngestSettings:
        if 2 * self.largest_body_bytes > self.max_bytes_in_flight:
            raise ValueError(
                f"max_bytes_in_flight must be >= {2 * self.largest_body_bytes}, room for the largest body to come"
                f" and to be joined, got {self.max_bytes_in_flight}"
            )
        if self.max_ongoing_requests <= self.max_bodies:
            raise ValueError(
                f"max_ongoing_requests must be > max_bodies ({self.max_bodies}): bodies leave room for the rest"
            )
        return self

    @property
    def largest_body_bytes(self) -> int:
        return max(self.max_telemetry_bytes, self.max_video_bytes)

    def bounds(self) -> Bounds:
        """How one replica divides its memory: joins have a quarter, one robot a third of what is left for bodies."""
        largest = self.largest_body_bytes
        join_bytes = max(largest, self.max_bytes_in_flight // 4)
        body_bytes = self.max_bytes_in_flight - join_bytes
        return Bounds(
            body_bytes=body_bytes,
            join_bytes=join_bytes,
            max_bodies=self.max_bodies,
            max_bodies_per_robot=self.max_bodies_per_robot,
            max_bytes_per_robot=max(largest, body_bytes // 3),
            min_rate=self.min_body_rate,
            grace_s=self.body_grace_s,
        )
