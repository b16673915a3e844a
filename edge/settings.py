"""The robot side's settings, from `FLEETFEED_EDGE_*` and the table `[edge]` of the file named by `FLEETFEED_CONFIG`."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from edge.policy import StreamPolicy

MeteredBy = Literal["no", "yes", "file", "command", "networkmanager"]
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
    hold_bytes: int = Field(
        4 << 20, ge=0, description="Of each stream so much waits in memory while the disk takes nothing; then it drops."
    )
    queue_messages: int = Field(10_000, ge=1, description="Messages that may wait to be written before one is dropped.")
    queue_frames: int = Field(20, ge=1, description="Pictures a camera may have waiting before one is dropped.")
    gop_frames: int = Field(10, ge=1, le=30, description="Frames from one keyframe to the next, at most.")
    crf: int = Field(21, ge=0, le=51, description="x264 quality (constant rate factor); lower is better and larger.")
    max_bit_rate: int = Field(2_500_000, ge=10_000, description="Upper bound of a camera's bit rate, bits per second.")
    preview_fps: float = Field(
        0.0, ge=0, le=30, description="Pictures a second of a camera's preview stream, `<camera>_preview`; 0: none."
    )
    preview_width: int = Field(320, ge=16, description="Width of the preview's pictures, in pixels.")
    preview_share: float = Field(
        0.05, gt=0, le=1, description="Bound of the preview's bytes, as a share of its camera's."
    )
    status_s: float = Field(60.0, gt=0, description="How often a recorder tells the server its state, in seconds.")
    max_bytes: int = Field(32 << 30, ge=1 << 20, description="The spool's budget; beyond it the least valuable goes.")
    min_free_bytes: int = Field(
        256 << 20, ge=0, description="Free space that is kept on the spool's disk, by the same means."
    )
    streams: dict[str, StreamPolicy] = Field(
        default_factory=dict,
        description='By stream or pattern: `priority` (smaller is more valuable) and `send` (`"always"`, '
        '`"unmetered"`, `"on_request"`).',
    )
    metered: MeteredBy = Field(
        "no", description="Whether the link costs: `no`, `yes`, or ask a `file`, a `command` or `networkmanager`."
    )
    metered_file: Path | None = Field(None, description="For `file`: it holds yes or no.")
    metered_command: str | None = Field(
        None, description="For `command`: it ends with 0 if the link is metered, 1 if not."
    )
    uploads_at_once: int = Field(2, ge=1, le=16, description="Segments uploaded at the same time.")
    max_upload_rate: int = Field(0, ge=0, description="Upper bound of the uploads' rate, bytes per second; 0: none.")
    piece_bytes: int = Field(
        4 << 20, ge=1 << 14, description="Larger segments go in resumable pieces; after a cut, in smaller ones."
    )
    timeout_s: float = Field(60.0, gt=0, description="How long one request may take before it is tried again, seconds.")
    max_backoff_s: float = Field(60.0, gt=0, description="Longest wait between two tries, seconds.")
    scan_s: float = Field(0.5, gt=0, description="How often the spool is looked through for new segments, seconds.")
    ledger_days: float = Field(
        7.0, ge=0, description="So long what was delivered is remembered segment by segment; then as sums."
    )

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
