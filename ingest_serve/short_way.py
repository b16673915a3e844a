"""The short way of an upload to its handler: past the routing and validation that cost more than the upload's own work.

It knows only requests that are spelt as robots spell them and says nothing but yes: whatever it does not know at a
glance goes on to FastAPI, which takes the same routes, and says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from edge.errors import BadName
from edge.wire import MAX_TIME_NS, SegmentId
from ingest_serve.declared import Target

Handler = Callable[[Request, Target], Awaitable[Response]]
Answer = Callable[[Request, Exception], Awaitable[Response]]

_NUMBER = re.compile("0|[1-9][0-9]{0,18}")
_NAMES = {b"recording", b"stream", b"seq", b"start_ns", b"end_ns"}


class ShortWay:
    """ASGI middleware before the router. `handlers`: by the last part of the path; `answer`: of what they refuse."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        handlers: Mapping[str, Handler],
        answer: Answer,
        answered: tuple[type[Exception], ...],
    ) -> None:
        self._app, self._handlers = app, handlers
        self._answer, self._answered = answer, answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(scope)
        if found is None:
            await self._app(scope, receive, send)
            return
        handle, target = found
        request = Request(scope, receive, send)
        try:
            response = await handle(request, target)
        except self._answered as error:
            response = await self._answer(request, error)
        await response(scope, receive, send)

    def _find(self, scope: Scope) -> tuple[Handler, Target] | None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope.get("root_path"):
            return None
        parts = scope["path"].split("/")
        if len(parts) != 5 or parts[:3] != ["", "v1", "robots"] or parts[4] not in self._handlers:
            return None
        target = plain_target(parts[3], scope["query_string"])
        return None if target is None else (self._handlers[parts[4]], target)


def plain_target(robot: str, query: bytes) -> Target | None:
    """The target of an upload whose query needs no decoding and has every parameter once; None for any other.

    What needs decoding holds a character that no name and no number does.
    """
    found: dict[bytes, str] = {}
    parts = query.split(b"&")
    for part in parts:
        name, _, value = part.partition(b"=")
        found[name] = value.decode("latin-1")
    if len(parts) != len(_NAMES) or found.keys() != _NAMES:
        return None
    numbers = found[b"seq"], found[b"start_ns"], found[b"end_ns"]
    if not all(map(_NUMBER.fullmatch, numbers)):
        return None
    seq, start_ns, end_ns = map(int, numbers)
    if not start_ns < end_ns <= MAX_TIME_NS:
        return None
    try:
        return Target(SegmentId(robot, found[b"recording"], found[b"stream"], seq), start_ns, end_ns)
    except BadName:
        return None
