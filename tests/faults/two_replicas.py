"""Two replicas over one lake, and requests that reach both at once: in this process, or over real sockets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote

import requests
from starlette.types import ASGIApp, Message

from dataset_catalog.storage import Storage
from ingest_serve.app import create_app
from ingest_serve.settings import IngestSettings
from tests.ingest_serve.conftest import Upload, serve
from tests.ingest_serve.resuming import half_sent

LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, header fields by their names in lower case, and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def said(self) -> dict[str, Any]:
        """The JSON of the body; empty where there is none."""
        return dict(json.loads(self.body)) if self.body else {}


class TwoReplicas(Protocol):
    """Where requests go. `at` is 0 or 1."""

    def send(self, *sent: tuple[int, Upload]) -> list[Answer]:
        """All of them at the same moment, each to the replica that is named; the answers in the same order."""

    def break_off(self, at: int, upload: Upload, *, arrived: int) -> None:
        """Send a request's head and the first bytes of its body, and go."""


# -- in this process: cheap, and the two interleave wherever one of them waits -----------------------------------------


class InProcess:
    """Two applications on one event loop, in a thread of its own; no sockets."""

    def __init__(self, storage: Storage) -> None:
        self._apps = [create_app(storage, IngestSettings()) for _ in range(2)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="two-replicas", daemon=True)
        self._thread.start()

    def send(self, *sent: tuple[int, Upload]) -> list[Answer]:
        return self._run(asyncio.gather, *(_call(self._apps[at], upload) for at, upload in sent))

    def break_off(self, at: int, upload: Upload, *, arrived: int) -> None:
        self._run(asyncio.gather, _call(self._apps[at], upload, arrived=arrived))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def _run(self, gather: Callable[..., Any], *calls: Any) -> list[Answer]:
        async def together() -> list[Answer]:
            return list(await gather(*calls))

        return asyncio.run_coroutine_threadsafe(together(), self._loop).result(LIMIT_S)


async def _call(app: ASGIApp, upload: Upload, *, arrived: int | None = None) -> Answer:
    """One request to an ASGI application; with `arrived` the client goes after so many bytes of its body."""
    coming: list[Message] = [{"type": "http.request", "body": upload.body[:arrived], "more_body": arrived is not None}]
    parts: list[Message] = []
    done = asyncio.Event()

    async def receive() -> Message:
        if coming:
            return coming.pop(0)
        if arrived is None:
            await done.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        parts.append(message)

    await app(_scope(upload), receive, send)
    done.set()
    headers = {name.decode(): value.decode() for name, value in parts[0]["headers"]}
    body = b"".join(part.get("body", b"") for part in parts[1:])
    return Answer(parts[0]["status"], headers, b"" if upload.method == "HEAD" else body)  # as a server sends it


def _scope(upload: Upload) -> dict[str, Any]:
    path, _, query = upload.target.partition("?")
    headers = {"Host": "replica", "Content-Length": str(len(upload.body)), **upload.headers}
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": upload.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }


# -- over real sockets -------------------------------------------------------------------------------------------------


class OverSockets:
    """Two servers, each with a thread and an event loop of its own."""

    def __init__(self, servers: Sequence[Any]) -> None:
        self._servers = servers
        self._pool = ThreadPoolExecutor(4)

    def send(self, *sent: tuple[int, Upload]) -> list[Answer]:
        released = threading.Barrier(len(sent))
        return list(self._pool.map(lambda one: self._send(one[0], one[1], released), sent))

    def break_off(self, at: int, upload: Upload, *, arrived: int) -> None:
        with half_sent(upload, self._servers[at], sent=arrived):
            pass

    def close(self) -> None:
        self._pool.shutdown()

    def _send(self, at: int, upload: Upload, released: threading.Barrier) -> Answer:
        released.wait(LIMIT_S)
        url = self._servers[at].url + upload.target
        response = requests.request(upload.method, url, data=upload.body, headers=upload.headers, timeout=LIMIT_S)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, headers, response.content)


@contextmanager
def in_process(storage: Storage) -> Iterator[TwoReplicas]:
    replicas = InProcess(storage)
    try:
        yield replicas
    finally:
        replicas.close()


@contextmanager
def over_sockets(storage: Storage) -> Iterator[TwoReplicas]:
    with serve(storage) as first, serve(storage) as second:
        replicas = OverSockets([first, second])
        try:
            yield replicas
        finally:
            replicas.close()
