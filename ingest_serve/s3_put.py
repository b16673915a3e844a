"""Create-once PUTs of bodies whose SHA-256 is known, over kept connections: all that an upload asks of S3.

S3 is held to the digest that the robot signed: it is the payload's hash in the signature and the object's own checksum,
so that a body that changed on the way is refused, and nothing of it is visible. `obstore` would hash every body again
and hand it over to other threads, which is most of what a PUT costs (docs/adr/0011); all else goes through it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import re
import ssl
import time
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from dataset_catalog.storage import Storage
from ingest_serve.chunks import Body, parts_of
from ingest_serve.errors import StorageUnavailable
from ingest_serve.kept_connection import Answer, KeptConnection
from ingest_serve.s3_keys import S3Key, s3_key_of
from ingest_serve.sigv4 import sign

CONNECT_S = 5.0
ANSWER_S = 60.0
KEEP_S = 20.0  # servers close what is idle for longer
PAUSES_S = (0.1, 0.3, 1.0)  # before the second, third and fourth try, each up to half longer
_STANDS = (409, 412)  # somebody is writing it just now; it is there
_AGAIN = (429, 500, 502, 503, 504)
_CODE = re.compile(rb"<Code>([\w.]{1,80})</Code>")
_PORTS = {"http": 80, "https": 443}


class S3Put:
    """One bucket's writer. Safe to share between the tasks of one event loop; pickles, without its connections."""

    def __init__(self, storage: Storage) -> None:
        """A lake at s3://bucket[/prefix]; without an endpoint it is AWS's."""
        settings = storage.settings
        bucket, _, prefix = storage.url.removeprefix("s3://").partition("/")
        endpoint = urlsplit(settings.endpoint_url or f"https://s3.{settings.region}.amazonaws.com")
        self._host, self._port = endpoint.hostname or "", endpoint.port or _PORTS[endpoint.scheme]
        self._netloc = endpoint.netloc.rpartition("@")[2]
        self._tls = ssl.create_default_context() if endpoint.scheme == "https" else None
        parts = (endpoint.path.strip("/"), bucket, prefix.strip("/"))
        self._root = "/".join(("", *(_quoted(part) for part in parts if part)))
        self._storage, self._region, self._find_key = storage, settings.region, s3_key_of(settings)
        self._idle: list[tuple[float, KeptConnection]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def __reduce__(self) -> tuple[type[S3Put], tuple[Storage]]:
        return S3Put, (self._storage,)

    async def create(self, key: str, body: Body, attributes: Mapping[str, str]) -> bool:
        """Write an object that must not exist yet; False: there is one, or somebody is writing it just now.

        `attributes` as `obstore` takes them; `sha256` among them, in hex, is the body's, and S3 is held to it.
        `StorageUnavailable`: it is not known what stands there.
        """
        sha256 = attributes.get("sha256") or _sha256(body)
        path, fields = f"{self._root}/{_quoted(key)}", _fields(attributes, sha256)
        for pause_s in (*PAUSES_S, None):
            try:
                answer = await self._put(path, fields, body, sha256)
            except OSError as error:
                failure = str(error) or type(error).__name__
            else:
                if answer.status // 100 == 2 or answer.status in _STANDS:
                    return answer.status not in _STANDS
                failure = f"S3 answered {answer.status} {_code(answer)}"
                if answer.status not in _AGAIN:
                    break
            if pause_s is not None:
                await asyncio.sleep(pause_s * random.uniform(1, 1.5))  # noqa: S311 - it only spreads the tries
        raise StorageUnavailable(f"{key} was not written: {failure}")

    async def _put(self, path: str, fields: dict[str, str], body: Body, sha256: str) -> Answer:
        """One try; an idle connection that the server has closed meanwhile is none."""
        async with asyncio.timeout(ANSWER_S):
            head = self._head(path, fields, sha256, len(body), await self._find_key())
            if idle := self._take_idle():
                try:
                    return await self._over(idle, head, body)
                except ConnectionError:
                    pass
            async with asyncio.timeout(CONNECT_S):
                fresh = await KeptConnection.open(self._host, self._port, tls=self._tls)
            return await self._over(fresh, head, body)

    async def _over(self, connection: KeptConnection, head: bytes, body: Body) -> Answer:
        try:
            answer = await connection.exchange([head, *parts_of(body)])
        except BaseException:  # also when nobody waits any longer: an answer may still be on its way
            connection.close()
            raise
        if not connection.is_closing:
            self._idle.append((time.monotonic(), connection))
        return answer

    def _take_idle(self) -> KeptConnection | None:
        """The one that was used last; those that are idle for long are closed."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # a test's: what belongs to another loop is of no use
            self._idle, self._loop = [], loop
        while self._idle:
            since_s, connection = self._idle.pop()
            if time.monotonic() - since_s < KEEP_S and not connection.is_closing:
                return connection
            connection.close()
        return None

    def _head(self, path: str, fields: dict[str, str], sha256: str, length: int, key: S3Key) -> bytes:
        asked = {**fields, "host": self._netloc}
        signed = sign("PUT", path, asked, key=key, region=self._region, body_sha256=sha256, now_s=time.time())
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
        return f"PUT {path} HTTP/1.1\r\n{lines}content-length: {length}\r\n\r\n".encode("ascii")


def _sha256(body: Body) -> str:
    hasher = hashlib.sha256()
    for part in parts_of(body):
        hasher.update(part)
    return hasher.hexdigest()


def _quoted(path: str) -> str:
    """As it is sent, and as it is signed."""
    return quote(path, safe="/-_.~")


def _fields(attributes: Mapping[str, str], sha256: str) -> dict[str, str]:
    """The fields of a create-once PUT: our metadata, and what S3 is to hold the body to."""
    named = {
        "content-type" if name == "Content-Type" else f"x-amz-meta-{name}": attributes[name] for name in attributes
    }
    checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
    return {**named, "if-none-match": "*", "x-amz-checksum-sha256": checksum}


def _code(answer: Answer) -> str:
    found = _CODE.search(answer.body)
    return found.group(1).decode() if found else ""
