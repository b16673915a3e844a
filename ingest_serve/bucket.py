"""The bucket: reads and listings by obstore, whose errors are translated here only; create-once writes by `S3Put`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from dataset_catalog.errors import StorageError
from dataset_catalog.storage import Storage
from ingest_serve.chunks import Body
from ingest_serve.errors import StorageUnavailable
from ingest_serve.s3_put import S3Put

Value = TypeVar("Value")

CREATE_ATTEMPTS = 5
STREAM_CHUNK_BYTES = 1 << 20
_JSON = {"Content-Type": "application/json"}
_CLIENT = {"connect_timeout": "5s", "timeout": "30s"}
_RETRY = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=15),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}


@dataclass(frozen=True, slots=True)
class Head:
    """What the bucket knows of an object without reading it."""

    size: int
    attributes: dict[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """What a listing tells of an object; `name` is its key without the prefix that was listed."""

    name: str
    size: int
    modified_ns: int


class Bucket:
    """One lake's bucket. Safe to share between threads and tasks; pickles."""

    def __init__(self, store: Any, put: S3Put) -> None:
        self._store = store
        self._put = put

    @classmethod
    def open(cls, storage: Storage) -> Bucket:
        """Only S3: a folder keeps no metadata with its objects, so raw segments cannot live there."""
        if not storage.is_s3:
            raise StorageError(f"uploads need a lake at s3://bucket[/prefix], got the folder {storage.url}")
        bucket, _, prefix = storage.url.removeprefix("s3://").partition("/")
        return cls(S3Store(bucket, prefix=prefix or None, **_s3_config(storage)), S3Put(storage))

    async def create_async(self, key: str, body: Body, attributes: dict[str, str]) -> bool:
        """Write an object that must not exist yet. False: there is one, or somebody is writing it just now.

        `sha256` among the attributes is the body's, in hex: S3 refuses a body that is another one.
        """
        return await self._put.create(key, body, attributes)

    async def create_or_head(self, key: str, body: Body, attributes: dict[str, str]) -> Head | None:
        """Write an object once. None: it is new and durable; else what stands there: perhaps an earlier try of ours.

        `StorageUnavailable`: nothing is promised, the same call may be made again.
        """
        for attempt in range(CREATE_ATTEMPTS):
            if await self.create_async(key, body, attributes):
                return None
            # S3 answers 409 while another write of the key is under way, and obstore cannot tell it from 412
            head = await self.head_async(key)
            if head is not None:
                return head
            await asyncio.sleep(0.05 * 2**attempt)
        raise StorageUnavailable(f"{key} was neither created nor there, {CREATE_ATTEMPTS} times")

    def create(self, key: str, body: bytes) -> bool:
        """Write a small JSON object that must not exist yet. False: there is one."""
        with _storage_errors():
            try:
                obstore.put(self._store, key, body, mode="create", attributes=_JSON)
            except AlreadyExistsError:
                return False
        return True

    def overwrite(self, key: str, body: bytes) -> None:
        """Write a small JSON object, whatever was there."""
        with _storage_errors():
            obstore.put(self._store, key, body, attributes=_JSON)

    def delete(self, *keys: str) -> None:
        """For what nobody relies on (probes, pieces of uploads that are done or given up), and for what has been kept
        long enough. What is gone already is no error."""
        with _storage_errors():
            obstore.delete(self._store, list(keys))

    def read(self, key: str) -> tuple[Head, bytes] | None:
        """An object whole; None if there is none."""
        found = self._get(key, head=False)
        if found is None:
            return None
        with _storage_errors():
            return _head(found), bytes(found.bytes())

    async def read_async(self, key: str) -> bytes | None:
        """An object's bytes; None if there is none. A caller may give up waiting: the request is dropped with it."""
        with _storage_errors():
            try:
                return bytes(await (await obstore.get_async(self._store, key)).bytes_async())
            except FileNotFoundError:
                return None

    async def names_async(self, prefix: str) -> list[str]:
        """Names below a prefix, in order. A caller may give up waiting: the request is dropped with it."""
        return [entry.name for entry in await self.entries_async(prefix)]

    async def entries_async(self, prefix: str) -> list[Entry]:
        """The objects below a prefix, in the order of their names; for a caller who may give up waiting."""
        with _storage_errors():
            found = [_entry(prefix, meta) async for chunk in obstore.list(self._store, prefix) for meta in chunk]
        return sorted(found, key=lambda entry: entry.name)

    async def read_into(self, key: str, target: memoryview) -> bool:
        """Fill `target` with an object of just its size, chunk by chunk. False: there is none such."""
        with _storage_errors():
            try:
                found = await obstore.get_async(self._store, key)
            except FileNotFoundError:
                return False
            at = 0
            if found.meta["size"] != len(target):
                return False
            async for chunk in found.stream(min_chunk_size=STREAM_CHUNK_BYTES):
                target[at : at + len(chunk)] = chunk
                at += len(chunk)
        return True

    def head(self, key: str) -> Head | None:
        """None if there is no such object."""
        found = self._get(key, head=True)
        return None if found is None else _head(found)

    async def head_async(self, key: str) -> Head | None:
        """None if there is no such object. A caller may give up waiting: the request is dropped with it."""
        with _storage_errors():
            try:
                return _head(await obstore.get_async(self._store, key, options={"head": True}))
            except FileNotFoundError:
                return None

    def folders(self, prefix: str) -> list[str]:
        """Names directly below a prefix that have something below them, in order."""
        with _storage_errors():
            found = obstore.list_with_delimiter(self._store, prefix)["common_prefixes"]
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def names(self, prefix: str, *, after: str | None = None, limit: int | None = None) -> list[str]:
        """Names below a prefix, in order; only those after the name `after`, and only the first `limit`."""
        return [entry.name for entry in self.entries(prefix, after=after, limit=limit)]

    def entries(self, prefix: str, *, after: str | None = None, limit: int | None = None) -> list[Entry]:
        """The objects below a prefix, in the order of their names; only those after `after`, the first `limit`."""
        offset = None if after is None else f"{prefix}/{after}"
        with _storage_errors():
            listed = (meta for chunk in obstore.list(self._store, prefix, offset=offset) for meta in chunk)
            found = [_entry(prefix, meta) for meta in islice(listed, limit)]  # S3 lists in order
        return sorted(found, key=lambda entry: entry.name)

    def time_ns(self) -> int:
        """The bucket's own clock, to the second, as it stamps an object that is made now."""
        name = f"{secrets.token_hex(8)}.json"
        self.create(f"probes/{name}", b"{}")
        made = [entry.modified_ns for entry in self.entries("probes") if entry.name == name]
        self.delete(f"probes/{name}")
        if not made:
            raise StorageUnavailable("an object that was just made is not listed")
        return made[0]

    def _get(self, key: str, *, head: bool) -> Any:
        with _storage_errors():
            try:
                return obstore.get(self._store, key, options={"head": head})
            except FileNotFoundError:
                return None


async def within(limit_s: float, awaited: Awaitable[Value]) -> Value:
    """What the bucket says; `StorageUnavailable` where it says nothing for so long: it may still be done, or not."""
    try:
        async with asyncio.timeout(limit_s):
            return await awaited
    except TimeoutError as error:
        raise StorageUnavailable(f"the bucket did not answer within {limit_s:g} s") from error


def _s3_config(storage: Storage) -> dict[str, Any]:
    settings = storage.settings
    secret = settings.secret_access_key
    client = {**_CLIENT, "allow_http": (settings.endpoint_url or "").startswith("http://")}
    config = {
        "endpoint": settings.endpoint_url,
        "region": settings.region,
        "access_key_id": settings.access_key_id,
        "secret_access_key": secret.get_secret_value() if secret else None,
        "checksum_algorithm": "SHA256",  # S3 itself then refuses a body that changed on the way to it
        "client_options": client,
        "retry_config": _RETRY,
    }
    return {name: value for name, value in config.items() if value is not None}


def _entry(prefix: str, meta: Any) -> Entry:
    modified_ns = int(meta["last_modified"].timestamp()) * 1_000_000_000
    return Entry(meta["path"].removeprefix(f"{prefix}/"), meta["size"], modified_ns)


def _head(found: Any) -> Head:
    return Head(found.meta["size"], dict(found.attributes))


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        raise StorageUnavailable(str(error).partition("\n")[0]) from error
