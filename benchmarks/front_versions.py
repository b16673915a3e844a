"""`python -m benchmarks.front_versions`: why the TLS front speaks HTTP/1.1 alone, and connects to Serve anew each time.

    upload_s        seconds for one 3 MB upload by curl, over HTTP/1.1 and HTTP/2, at a round trip of 0 and of 50 ms
    request_us      median time of a small request on a kept connection, with a new connection to the server behind for
                    each, and with one that is used again

Fronts are deploy/tls/haproxy.cfg with a line or two changed; behind them is a server that only takes what comes. The
round trip is made by a relay on 127.0.0.1. Needs a curl with HTTP/2.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import shutil
import socket
import ssl
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fleetfeed import tls
from fleetfeed.certificates import ensure_server_certificate
from fleetfeed.processes import wait_until

UPLOAD_BYTES = 3_000_000
ROUND_TRIP_S = 0.05
ROUNDS = 5
REQUESTS = 2_000
HTTP2_TOO = {"alpn http/1.1 proto h1": "alpn h2,http/1.1", "req.ver 1.0 1.1": "req.ver 1.0 1.1 2.0"}
AS_IT_IS: dict[str, str] = {}
USED_AGAIN = {"option http-server-close": "http-reuse always"}

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@contextmanager
def served(handler: Handler) -> Iterator[int]:
    """An asyncio server in a thread, on a free port."""
    loop, started = asyncio.new_event_loop(), threading.Event()
    ports: list[int] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError):
            await handler(reader, writer)

    async def start() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        ports.append(int(server.sockets[0].getsockname()[1]))
        started.set()

    loop.create_task(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    started.wait()
    try:
        yield ports[0]
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read each request whole and say 200."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"content-length:")[2].split(b"\r\n")[0]
            await _drop(reader, int(length or 0))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError):
        writer.close()


async def _drop(reader: asyncio.StreamReader, size: int) -> None:
    while size > 0:
        size -= len(await reader.read(min(size, 1 << 18))) or size


def relay(port: int, *, delay_s: float) -> Handler:
    """Pass bytes on to `port`, each way `delay_s` later."""

    async def later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def send() -> None:
            while True:
                due_s, data = await queue.get()
                await asyncio.sleep(due_s - time.monotonic())
                if not data:
                    return writer.close()
                writer.write(data)

        sending = asyncio.ensure_future(send())
        while data := await reader.read(1 << 16):
            queue.put_nowait((time.monotonic() + delay_s, data))
        queue.put_nowait((time.monotonic() + delay_s, b""))
        await sending

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(later(reader, back), later(there, writer), return_exceptions=True)

    return handle


@contextmanager
def front(backend_port: int, folder: Path, *, changes: dict[str, str]) -> Iterator[int]:
    """A front with these changes of its configuration, old text → new; its port."""
    shutil.copytree(tls.find_config().parent, folder / "tls")
    ensure_server_certificate(folder)
    config = folder / "tls" / tls.find_config().name
    for old, new in changes.items():
        if old not in config.read_text():
            raise ValueError(f"{config} has no {old!r}")
        config.write_text(config.read_text().replace(old, new))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    told = tls.environment(
        listen=f"127.0.0.1:{port}", backend=f"127.0.0.1:{backend_port}", certificate=folder / "server.pem"
    )
    limits = {"FLEETFEED_FRONT_REQUESTS_PER_SOURCE": "1000000"}
    with (folder / "log").open("wb") as log:
        command = [*tls.command()[:-1], str(config)]
        process = subprocess.Popen(command, env={**os.environ, **told, **limits}, stdout=log, stderr=log)
    try:
        wait_until(lambda: tls.answers(f"https://127.0.0.1:{port}", ca_file=folder / "ca.pem"), limit_s=10)
        yield port
    finally:
        process.terminate()
        process.wait()


def upload_s(port: int, file: Path, *, version: str, ca_file: Path) -> float:
    words = ["curl", "--silent", "--fail", f"--{version}", "--cacert", str(ca_file), "--header", "Expect:"]
    words += ["--write-out", "%{time_total}", "--data-binary", f"@{file}", f"https://127.0.0.1:{port}/v1"]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def request_us(port: int, *, ca_file: Path) -> float:
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=ssl.create_default_context(cafile=ca_file))
    times = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        connection.request("GET", "/v1")
        connection.getresponse().read()
        times.append(time.perf_counter() - began)
    connection.close()
    return statistics.median(times) * 1e6


def measure_uploads(sink: int, folder: Path) -> None:
    file, ca_file = folder / "segment", folder / "both" / "ca.pem"
    file.write_bytes(os.urandom(UPLOAD_BYTES))
    with (
        front(sink, folder / "both", changes=HTTP2_TOO) as port,
        served(relay(port, delay_s=ROUND_TRIP_S / 2)) as far,
    ):
        for name, where in (("0 ms", port), (f"{ROUND_TRIP_S * 1000:.0f} ms", far)):
            for version in ("http1.1", "http2"):
                took = sorted(upload_s(where, file, version=version, ca_file=ca_file) for _ in range(ROUNDS))
                print(f"upload_s    {version:8} round trip {name:6}", *(f"{one:.2f}" for one in took))


def measure_requests(sink: int, folder: Path) -> None:
    for name, changes in (("a new connection for each", AS_IT_IS), ("one connection used again", USED_AGAIN)):
        own = folder / name.replace(" ", "-")
        with front(sink, own, changes=changes) as port:
            took = sorted(request_us(port, ca_file=own / "ca.pem") for _ in range(3))
            print(f"request_us  {name:26}", *(f"{one:.0f}" for one in took))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, served(take) as sink:
        measure_uploads(sink, Path(folder))
        measure_requests(sink, Path(folder))


if __name__ == "__main__":
    main()
