"""Routes that take only the query parameters that they know, each once.

A parameter that nobody reads was meant to do something; of one that comes twice, a proxy may believe the other one.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from ingest_serve.errors import Refused


class StrictRoute(APIRoute):
    """A route whose query is what its handler's signature and its description (`openapi.parameter`) name."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle, known = super().get_route_handler(), frozenset(name.encode() for name in self._query_names())

        async def strict(request: Request) -> Response:
            check_query(request.scope["query_string"], known)
            return await handle(request)

        return strict

    def _query_names(self) -> set[str]:
        signature = {one.alias for one in get_flat_params(self.dependant) if isinstance(one.field_info, Query)}
        described = (self.openapi_extra or {}).get("parameters", [])
        return signature | {one["name"] for one in described if one.get("in") == "query"}


def check_query(query: bytes, known: frozenset[bytes]) -> None:
    """`Refused("bad_parameter")` for a name that is not known, or not spelt as it is, or there twice."""
    if not query:
        return
    seen = set()
    for part in query.split(b"&"):
        name = part.partition(b"=")[0]
        if name not in known:
            raise _bad(name, f"is no parameter of this route, which takes {_listed(known)}")
        if name in seen:
            raise _bad(name, "must not be sent twice")
        seen.add(name)


def _listed(known: frozenset[bytes]) -> str:
    return ", ".join(sorted(name.decode() for name in known)) or "none"


def _bad(name: bytes, what: str) -> Refused:
    text = name[:80].decode(errors="replace")
    return Refused("bad_parameter", f"{text!r} {what}", parameter=text)
