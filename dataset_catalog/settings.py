"""Where the bucket is and how to reach it: the one storage setting that ingest, jobs and catalog share."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)


class StorageSettings(BaseSettings):
    """Read from `FLEETFEED_STORAGE_*` and from the table `[storage]` of the TOML file named by `FLEETFEED_CONFIG`."""

    model_config = SettingsConfigDict(env_prefix="FLEETFEED_STORAGE_", frozen=True, extra="forbid")

    url: str = Field(
        "s3://fleetfeed", description="The lake: `s3://bucket[/prefix]`, or a folder for a lake without S3."
    )
    endpoint_url: str | None = Field(None, description="S3 endpoint; unset means AWS.")
    region: str = Field("us-east-1", description="S3 region.")
    access_key_id: str | None = Field(None, description="S3 key id; unset means AWS's own chain (role, profile).")
    secret_access_key: SecretStr | None = Field(None, description="S3 secret key.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, toml_table(settings_cls, "storage"))


def toml_table(settings_cls: type[BaseSettings], table: str) -> PydanticBaseSettingsSource:
    """One table of the TOML file named by `FLEETFEED_CONFIG`, where that is set."""
    config = os.environ.get("FLEETFEED_CONFIG")
    values = tomllib.loads(Path(config).read_text()).get(table, {}) if config else {}
    return InitSettingsSource(settings_cls, init_kwargs=values)
