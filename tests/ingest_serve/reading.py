"""A researcher who reads over HTTP, a lake with video and telemetry, and how tables are published by hand."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import lance
import numpy as np
import pyarrow as pa
import requests

from dataset_catalog import versions
from dataset_catalog.schema import DATA_STORAGE_VERSION
from dataset_catalog.storage import Storage
from dataset_catalog.versions import Manifest
from ingest_serve.bucket import Bucket
from ingest_serve.tokens import Tokens
from tests.dataset_catalog.filmed import FRAME_NS, T0, Filmed, gray_packets
from tests.ingest_serve.conftest import Server

S = 1_000_000_000


@dataclass
class Researcher:
    """Somebody with a token of the scope `read`."""

    server: Server
    scopes: tuple[str, ...] = ("read",)
    token: str = field(init=False)

    def __post_init__(self) -> None:
        tokens = Tokens(Bucket.open(self.server.storage))
        self.token = tokens.create("ada", scopes=self.scopes, now_ns=self.server.clock())[1]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def get(self, path: str, *, method: str = "GET", headers: dict[str, str] | None = None, **query: Any) -> Any:
        """The response; redirects are not followed."""
        return requests.request(
            method,
            f"{self.server.url}/v1/{path}",
            params=query,
            headers={**self.headers, **(headers or {})},
            timeout=30,
            allow_redirects=False,
        )

    def clip(self, start: Any = T0, end: Any = T0 + 100 * S, **more: Any) -> Any:
        return self.get("robots/h1/video", **({"stream": "head", "start": start, "end": end} | more))


@contextmanager
def lazy_reader(ada: Researcher, target: str) -> Iterator[socket.socket]:
    """A connection on which `target` was asked for, and of whose answer only the status is read."""
    address = urlsplit(ada.server.url)
    with socket.create_connection((address.hostname, address.port)) as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.settimeout(30)
        lazy.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ada.token}\r\n\r\n".encode())
        assert lazy.recv(12) == b"HTTP/1.1 200"
        yield lazy


def wide_rows(robot: str, *, rows: int, width: int) -> pa.Table:
    """Numbers that nobody can compress: `rows` × `width` × 20 bytes of JSON."""
    values = pa.array(np.random.default_rng(1).normal(size=rows * width))
    own = {"robot_id": [robot] * rows, "t_ns": T0 + np.arange(rows)}
    return pa.table({**own, "q": pa.FixedSizeListArray.from_arrays(values, width)})


def film(storage: Storage) -> Filmed:
    """75 frames in three segments of robot h1's `head`, without a break, published."""
    filmed = Filmed(storage)
    for seq in range(3):
        filmed.film(gray_packets(T0 + seq * 25 * FRAME_NS, 25), seq=seq)
    filmed.publish()
    return filmed


def publish_telemetry(storage: Storage, tables: dict[str, pa.Table], *, n: int = 1) -> None:
    """One version of lake/telemetry."""
    found = {}
    for name, rows in tables.items():
        uri = versions.table_uri(storage, versions.TELEMETRY, name)
        options = {"data_storage_version": DATA_STORAGE_VERSION, "storage_options": storage.lance_options()}
        found[name] = int(lance.write_dataset(rows, uri, mode="append", **options).version)  # type: ignore[arg-type]
    versions.publish(storage, versions.TELEMETRY, Manifest(n, found, created_ns=T0 + n))
