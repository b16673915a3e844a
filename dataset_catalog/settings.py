"""How settings are read, and the one setting that ingest, jobs and catalog share: where the bucket is."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from dataset_catalog.errors import SettingsError


class TableSettings(BaseSettings):
    """Frozen settings from the environment and from one table of the TOML file named by `FLEETFEED_CONFIG`.

    The environment wins; a name that is not known is an error.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid")
    table: ClassVar[str]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=_read_table(cls.table)))


def _read_table(name: str) -> dict[str, Any]:
    """One table of the TOML file; `SettingsError` where the file cannot be read."""
    config = os.environ.get("FLEETFEED_CONFIG")
    if not config:
        return {}
    try:
        found = tomllib.loads(Path(config).read_text()).get(name, {})
    except (OSError, ValueError) as error:
        raise SettingsError(f"FLEETFEED_CONFIG={config} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{name} in {config} must be a table: [{name}]")
    return found


def sentence_of(error: ValidationError) -> str | None:
    """Which settings are wrong: the variable, or the name in the file, and its value. None for what are no settings."""
    kinds = {kind.__name__: kind for kind in TableSettings.__subclasses__()}
    kind = kinds.get(error.title)
    if kind is None:
        return None
    return "; ".join(f"{_named(kind, one)}: {one['msg']}" for one in error.errors(include_url=False))


def _named(kind: type[TableSettings], wrong: Any) -> str:
    """`NAME='value'`, without the value of a secret."""
    name = ".".join(map(str, wrong["loc"]))
    variable = f"{kind.model_config['env_prefix']}{name}".upper()
    if variable not in os.environ:
        variable = f"{name} of [{kind.table}]"
    return variable if "secret" in name or not name else f"{variable}={wrong['input']!r}"


class StorageSettings(TableSettings):
    """Read from `FLEETFEED_STORAGE_*` and the table `[storage]`."""

    model_config = SettingsConfigDict(env_prefix="FLEETFEED_STORAGE_")
    table: ClassVar[str] = "storage"

    url: str = Field(
        "s3://fleetfeed", description="The lake: `s3://bucket[/prefix]`, or a folder for a lake without S3."
    )
    endpoint_url: str | None = Field(None, description="S3 endpoint; unset means AWS.")
    region: str = Field("us-east-1", description="S3 region.")
    access_key_id: str | None = Field(None, description="S3 key id; unset means AWS's own chain (role, profile).")
    secret_access_key: SecretStr | None = Field(None, description="S3 secret key.")


class FeedSettings(TableSettings):
    """Read from `FLEETFEED_FEED_*` and the table `[feed]`."""

    model_config = SettingsConfigDict(env_prefix="FLEETFEED_FEED_")
    table: ClassVar[str] = "feed"

    cache_dir: Path | None = Field(
        None,
        description="Where a training node keeps video that it has fetched from S3, for all its processes; unset: "
        "`$XDG_CACHE_HOME/fleetfeed`, else `~/.cache/fleetfeed`.",
    )
    cache_bytes: int = Field(
        20 << 30, ge=0, description="How much of it, at most; the oldest goes first. 0: nothing is kept."
    )
