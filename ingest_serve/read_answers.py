"""Answers whose bytes are not held in memory: a file with its ranges, and a stream made batch by batch.

Nothing is read or made ahead of who reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncGenerator
from typing import IO

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ingest_serve.errors import Refused

CHUNK_BYTES = 256 << 10  # of one message; gRPC takes 4 MiB at most
_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


class FileAnswer(Response):
    """A file, or the one range of it that the request asks for (RFC 9110, 14). Closes the file."""

    def __init__(self, file: IO[bytes], request: Request, headers: dict[str, str]) -> None:
        super().__init__()
        self._file, self._size = file, os.fstat(file.fileno()).st_size
        self._method = request.method
        try:
            self._begin, self._end = wanted_range(request, self._size, etag=headers["ETag"])
        except BaseException:
            file.close()
            raise
        partial = _is_partial(request, headers["ETag"])
        self.status_code = 206 if partial else 200
        told = {"Accept-Ranges": "bytes", "Content-Length": str(self._end - self._begin), **headers}
        if partial:
            told["Content-Range"] = f"bytes {self._begin}-{self._end - 1}/{self._size}"
        self.init_headers(told)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            at = self._end if self._method == "HEAD" else self._begin
            while at < self._end:
                size = min(CHUNK_BYTES, self._end - at)
                chunk = await asyncio.to_thread(os.pread, self._file.fileno(), size, at)
                at += len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class StreamAnswer(Response):
    """Chunks as they are made; each is made when the one before has gone. Closes their generator.

    The first is there before the answer is: what goes wrong until then can still be told.
    """

    def __init__(
        self, first: bytes, rest: AsyncGenerator[bytes, None], request: Request, headers: dict[str, str]
    ) -> None:
        super().__init__()
        self._first, self._rest, self._method = first, rest, request.method
        self.init_headers(headers)
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._rest):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if self._method != "HEAD":
                await self._send_all(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Send) -> None:
        await _send_in_pieces(self._first, send)
        async for chunk in self._rest:
            await _send_in_pieces(chunk, send)


async def _send_in_pieces(chunk: bytes, send: Send) -> None:
    for begin in range(0, len(chunk), CHUNK_BYTES):
        await send({"type": "http.response.body", "body": chunk[begin : begin + CHUNK_BYTES], "more_body": True})


def wanted_range(request: Request, size: int, *, etag: str) -> tuple[int, int]:
    """`[begin, end)` of the bytes that are asked for; all where no range is, or where `If-Range` names other bytes.

    Raises `Refused("bad_range")` where none of the range is there. Several ranges at once are answered by the whole.
    """
    if not _is_partial(request, etag):
        return 0, size
    found = _RANGE.fullmatch(request.headers["range"].replace(" ", ""))
    assert found is not None  # noqa: S101  # _is_partial has looked
    first, last, suffix = found.groups()
    begin = max(0, size - int(suffix)) if suffix else int(first)
    end = min(size, int(last) + 1) if last else size
    if begin >= end:
        raise Refused("bad_range", f"there are {size} bytes", headers={"Content-Range": f"bytes */{size}"}, bytes=size)
    return begin, end


def is_known(request: Request, etag: str) -> bool:
    """Whether `If-None-Match` says that the client has just these bytes."""
    field = request.headers.get("if-none-match", "")
    tags = [tag.strip().removeprefix("W/") for tag in field.split(",")]
    return field.strip() == "*" or etag in tags


def _is_partial(request: Request, etag: str) -> bool:
    field, condition = request.headers.get("range", ""), request.headers.get("if-range", etag)
    found = _RANGE.fullmatch(field.replace(" ", ""))
    if request.method != "GET" or found is None or condition != etag:
        return False
    first, last, _ = found.groups()
    return not (first and last and int(last) < int(first))  # an invalid range is no range
