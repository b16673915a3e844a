"""How much work the jobs do at once."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from dataset_catalog.settings import toml_table


class JobsSettings(BaseSettings):
    """Read from `FLEETFEED_JOBS_*` and from the table `[jobs]` of the TOML file named by `FLEETFEED_CONFIG`."""

    model_config = SettingsConfigDict(env_prefix="FLEETFEED_JOBS_", frozen=True, extra="forbid")

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

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, toml_table(settings_cls, "jobs"))
