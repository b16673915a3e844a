"""What the platform team may turn on what researchers read over HTTP."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from dataset_catalog.settings import TableSettings


class ReadSettings(TableSettings):
    """Read from `FLEETFEED_READS_*` and the table `[reads]`."""

    model_config = SettingsConfigDict(env_prefix="FLEETFEED_READS_")
    table: ClassVar[str] = "reads"

    at_once: int = Field(
        4, ge=1, description="Reads that one replica works on at once, each in a thread; above it: 503."
    )
    cache_dir: Path | None = Field(
        None,
        description="Where clips are kept, shared by the replicas of a machine; unset: below the temporary folder.",
    )
    cache_bytes: int = Field(
        4 << 30, ge=1 << 20, description="What all kept clips may take; one clip has a quarter of it at most."
    )
    index_cache_s: float = Field(1.0, ge=0, description="How long an answer may lag behind what is published.")
    query_s: float = Field(10.0, gt=0, description="Longest time that a reader's SQL predicate may take.")
    query_memory_bytes: int = Field(512 << 20, ge=1 << 20, description="Memory that a reader's SQL predicate may take.")
    presigned_s: int = Field(300, ge=1, le=604_800, description="How long the address of a raw segment is good.")
    replicas: int = Field(1, ge=1, description="Replicas of the reads, each one process.")
    replica_cpus: float = Field(0.1, ge=0, description="CPUs that Ray reserves for such a replica.")
    max_ongoing_requests: int = Field(
        64, ge=1, description="Answers that one replica sends at once, most of them from kept clips."
    )

    @property
    def max_clip_bytes(self) -> int:
        return self.cache_bytes // 4

    def clip_folder(self) -> Path:
        return self.cache_dir or Path(tempfile.gettempdir()) / f"fleetfeed-clips-{os.getuid()}"
