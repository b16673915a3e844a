"""How a lake URL and its S3 settings become an fsspec filesystem and Lance options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from botocore.exceptions import BotoCoreError

from dataset_catalog.errors import StorageError
from dataset_catalog.settings import StorageSettings


@dataclass(frozen=True)
class Storage:
    """One lake: its root, what opens its files, and the options that Lance needs for the same place.

    Pickles (no open handles are kept), so that workers get it as an argument.
    """

    url: str
    settings: StorageSettings

    @classmethod
    def open(cls, url: str | None = None, *, settings: StorageSettings | None = None) -> Storage:
        """`url` wins over `settings.url`. Raises `StorageError` for a scheme we do not serve."""
        settings = settings or StorageSettings()
        url = (url or settings.url).rstrip("/")
        if "://" not in url:
            url = str(Path(url).expanduser().resolve())
        elif not url.startswith("s3://"):
            raise StorageError(f"a lake is s3://bucket[/prefix] or a folder, got {url!r}")
        return cls(url, settings)

    @property
    def is_s3(self) -> bool:
        return self.url.startswith("s3://")

    def uri(self, path: str) -> str:
        """The full URI of a path inside the lake, as Lance takes it."""
        return f"{self.url}/{path}"

    def path(self, path: str) -> str:
        """The same as fsspec takes it: without a scheme."""
        return self.uri(path).removeprefix("s3://")

    def filesystem(self) -> Any:
        """An fsspec filesystem for this lake; listings are never cached, others write here too."""
        if not self.is_s3:
            return fsspec.filesystem("file", auto_mkdir=True)
        secret = self.settings.secret_access_key
        return fsspec.filesystem(
            "s3",
            key=self.settings.access_key_id,
            secret=secret.get_secret_value() if secret else None,
            endpoint_url=self.settings.endpoint_url,
            client_kwargs={"region_name": self.settings.region},
            use_listings_cache=False,
        )

    def lance_options(self) -> dict[str, str]:
        """`storage_options` for Lance (its Rust S3 client's names)."""
        if not self.is_s3:
            return {}
        options = {"aws_region": self.settings.region}
        if self.settings.endpoint_url:
            options["aws_endpoint"] = self.settings.endpoint_url
            options["allow_http"] = str(self.settings.endpoint_url.startswith("http://")).lower()
        if self.settings.access_key_id and self.settings.secret_access_key:
            options["aws_access_key_id"] = self.settings.access_key_id
            options["aws_secret_access_key"] = self.settings.secret_access_key.get_secret_value()
        return options

    @property
    def where(self) -> str:
        """The place in words, and what to do if it is the wrong one."""
        if not self.is_s3:
            return self.url
        if self.settings.endpoint_url is None and self.settings.access_key_id is None:
            return f'{self.url} on AWS (for another S3 set FLEETFEED_STORAGE_*; a local stack: eval "$(fleetfeed env)")'
        return f"{self.url} at {self.settings.endpoint_url or 'AWS'}"

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """Raises `StorageError` for what fsspec and botocore raise where the store cannot be reached or refuses us."""
        try:
            yield
        except (OSError, BotoCoreError) as error:
            raise StorageError(f"cannot reach {self.where}: {error}") from error
