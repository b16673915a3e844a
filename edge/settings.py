"""The robot side's settings, from `FLEETFEED_EDGE_*` and the table `[edge]` of the file named by `FLEETFEED_CONFIG`."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

Url = Annotated[str, Field(pattern=r"^https?://[^/]"), AfterValidator(lambda url: url.rstrip("/"))]


class EdgeSettings(BaseSettings):
    """What the recorder and the agent of one robot need to know."""

    model_config = SettingsConfigDict(env_prefix="FLEETFEED_EDGE_", frozen=True, extra="forbid")

    folder: Path = Field(Path("/var/lib/fleetfeed"), description="The robot's folder: its spool, key and ledger.")
    url: Url = Field("http://127.0.0.1:8000", description="Where the ingest service listens.")
    ca_file: Path | None = Field(None, description="CA certificate that the service's certificate is checked against.")
    segment_s: float = Field(10.0, gt=0, le=600, description="A segment is sealed when it is this old, in seconds.")
    segment_bytes: int = Field(8 << 20, ge=1 << 16, description="A segment is sealed when it is this large, in bytes.")
    sync_s: float = Field(0.5, gt=0, le=1, description="How often the open segment is made durable, in seconds.")
    queue_messages: int = Field(10_000, ge=1, description="Messages that may wait to be written before one is dropped.")
    queue_frames: int = Field(20, ge=1, description="Pictures a camera may have waiting before one is dropped.")
    gop_frames: int = Field(10, ge=1, le=30, description="Frames from one keyframe to the next, at most.")
    crf: int = Field(21, ge=0, le=51, description="x264 quality (constant rate factor); lower is better and larger.")
    max_bit_rate: int = Field(2_500_000, ge=10_000, description="Upper bound of a camera's bit rate, bits per second.")
    uploads_at_once: int = Field(2, ge=1, le=16, description="Segments uploaded at the same time.")
    timeout_s: float = Field(60.0, gt=0, description="How long one request may take before it is tried again, seconds.")
    max_backoff_s: float = Field(60.0, gt=0, description="Longest wait between two tries, seconds.")
    scan_s: float = Field(0.5, gt=0, description="How often the spool is looked through for new segments, seconds.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, toml_table(settings_cls, "edge"))


def toml_table(settings_cls: type[BaseSettings], table: str) -> PydanticBaseSettingsSource:
    """One table of the TOML file named by `FLEETFEED_CONFIG`, where that is set."""
    config = os.environ.get("FLEETFEED_CONFIG")
    values = tomllib.loads(Path(config).read_text()).get(table, {}) if config else {}
    if not isinstance(values, dict):
        raise ValueError(f"{config}: {table} must be a table, got {values!r}")  # noqa: TRY004 - said as one of settings
    return InitSettingsSource(settings_cls, init_kwargs=values)
