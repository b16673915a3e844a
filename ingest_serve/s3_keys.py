"""Whose key signs what is sent to S3: that of the settings, or what AWS's own chain gives, renewed before it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError
from botocore.session import Session

from dataset_catalog.settings import StorageSettings
from ingest_serve.errors import StorageUnavailable


@dataclass(frozen=True, slots=True)
class S3Key:
    """A key id with its secret; `session` belongs to a role's key, which lasts for some hours."""

    id: str
    secret: str = field(repr=False)
    session: str | None = field(default=None, repr=False)


FindS3Key = Callable[[], Awaitable[S3Key]]


def s3_key_of(settings: StorageSettings) -> FindS3Key:
    """Where the key comes from whenever one is needed."""
    if settings.access_key_id and settings.secret_access_key:
        key = S3Key(settings.access_key_id, settings.secret_access_key.get_secret_value())

        async def static() -> S3Key:
            return key

        return static
    return ChainKey().current


class ChainKey:
    """botocore's chain: environment, profile, web identity, container, instance. Its own requests go to threads."""

    def __init__(self) -> None:
        self._found: Any = None

    async def current(self) -> S3Key:
        """`StorageUnavailable` where there is none now."""
        if self._found is None or _must_renew(self._found):
            return await asyncio.to_thread(self._look_up)
        return _frozen(self._found)

    def _look_up(self) -> S3Key:
        try:
            self._found = self._found or Session().get_credentials()
            if self._found is None:
                raise StorageUnavailable("no key for S3: neither in the settings nor in AWS's own chain")
            return _frozen(self._found)
        except BotoCoreError as error:
            raise StorageUnavailable(f"no key for S3: {error}") from error


def _must_renew(found: Any) -> bool:
    """Some minutes before it ends; a key without an end never."""
    ask = getattr(found, "refresh_needed", None)
    return ask is not None and bool(ask())


def _frozen(found: Any) -> S3Key:
    key = found.get_frozen_credentials()
    return S3Key(key.access_key, key.secret_key, key.token)
