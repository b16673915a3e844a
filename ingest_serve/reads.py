"""The researchers' routes: who asks is checked here, what is asked is answered by the application of the reads.

The seam is ASGI itself: that application runs in this process, or in a deployment of its own (`ingest_serve.relay`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from edge.wire import check_robot
from ingest_serve import reads_docs as docs
from ingest_serve.relay import until_gone
from ingest_serve.replica import Replica

PASSED_ON = ("accept", "range", "if-range", "if-none-match", "host")  # headers that an answer may depend on


class Reads:
    """The handlers: they differ in their paths alone."""

    def __init__(self, replica: Replica, reader: ASGIApp) -> None:
        self._replica, self._reader = replica, reader

    async def of_lake(self, request: Request) -> Response:
        """Answered by the reader, for whoever has the scope `read`."""
        await self._replica.person(request, scope="read")
        return _Passed(self._reader)

    async def of_robot(self, request: Request, robot: str) -> Response:
        """The same of one robot."""
        check_robot(robot)
        return await self.of_lake(request)


class _Passed(Response):
    """The answer that another ASGI application gives to the same request."""

    def __init__(self, reader: ASGIApp) -> None:
        super().__init__()
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = asyncio.create_task(self._answer(plain_scope(scope), receive, send))
        await until_gone(answering, receive)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._reader(scope, receive, send)


def plain_scope(scope: Scope) -> dict[str, Any]:
    """What of a request the reads need, without its token; it pickles."""
    kept = ("type", "http_version", "method", "path", "raw_path", "query_string", "root_path", "scheme")
    headers = [(name, value) for name, value in scope["headers"] if name.decode("latin-1") in PASSED_ON]
    return {**{name: scope[name] for name in kept if name in scope}, "headers": headers, "server": scope.get("server")}


def add_routes(app: FastAPI, replica: Replica, reader: ASGIApp) -> None:
    """Each route answers GET and HEAD."""
    reads = Reads(replica, reader)
    robot = "/v1/robots/{robot}"
    media = f"{robot}/video"
    _add(app, "/v1/robots", reads.of_lake, docs.robots_docs())
    _add(app, "/v1/videos", reads.of_lake, docs.videos_docs())
    _add(app, f"{robot}/telemetry", reads.of_robot, docs.telemetry_docs())
    _add(app, media, reads.of_robot, docs.clip_docs())
    _add(app, f"{media}/playlist.m3u8", reads.of_robot, docs.playlist_docs())
    _add(app, f"{media}/init.mp4", reads.of_robot, docs.entry_docs("readEntryInit", "The initialization section."))
    _add(app, f"{media}/segment.m4s", reads.of_robot, docs.entry_docs("readEntry", "The entry's fragments."))


def _add(app: FastAPI, path: str, handler: Callable[..., Awaitable[Response]], about: dict[str, Any]) -> None:
    app.add_api_route(path, handler, methods=["GET"], **about)
    app.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False, openapi_extra=about["openapi_extra"])
