"""The platform team's routes: who is let in and out, what did not get through, who did what. Scope `admin`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edge.wire import check_robot
from ingest_serve import admin_docs
from ingest_serve.asked import (
    Cursor,
    Limit,
    bad_cursor,
    check_no_wishes,
    invitation_lifetime_s,
    read_object,
    time_range,
    token_wish,
)
from ingest_serve.audit import Audit, is_cursor
from ingest_serve.errors import Refused
from ingest_serve.people import Person
from ingest_serve.quarantine import is_place, list_all
from ingest_serve.replica import Replica
from ingest_serve.tokens import is_token_id

PAGE = 100


class Admin:
    """The handlers. Each first asks whose request it is: a token as it is now, not as it was a moment ago."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._registry = replica.registry
        self._tokens = replica.tokens
        self._audit = Audit(replica.bucket)

    async def invite(self, request: Request, robot: str) -> Response:
        """Make a one-time token with which the robot may enrol. 201: nobody can tell it again."""
        check_robot(robot)
        person = await self._admin(request)
        lifetime_s, now_ns = invitation_lifetime_s(await read_object(request)), self._replica.clock()
        made = await asyncio.to_thread(
            self._registry.invite, robot, now_ns=now_ns, lifetime_s=lifetime_s, actor=person.as_actor()
        )
        await self._still_admin(request, undo=lambda: self._registry.withdraw(robot, made.token, now_ns=now_ns))
        return JSONResponse({"robot": robot, "token": made.token, "expires_ns": made.expires_ns}, 201)

    async def revoke_robot(self, request: Request, robot: str) -> Response:
        """End every key and every unused invitation of the robot. 200: none counts, perhaps since before."""
        check_robot(robot)
        person = await self._admin(request)
        check_no_wishes(await read_object(request))
        ended = await asyncio.to_thread(
            self._registry.revoke_robot, robot, now_ns=self._replica.clock(), actor=person.as_actor()
        )
        if ended is None:
            raise Refused("unknown_robot", f"the registry knows no robot {robot!r}")
        return JSONResponse({"robot": robot, "key_ids": list(ended.key_ids), "invitations": ended.invitations})

    async def robots(self, request: Request, cursor: Cursor = "", limit: Limit = PAGE) -> Response:
        """The robots that ever enrolled, in order, and the keys of theirs that count."""
        await self._admin(request)
        found = await asyncio.to_thread(self._registry.robots, after=cursor, limit=limit)
        rows = [{"robot": robot, "key_ids": kids} for robot, kids in found.items()]
        return _page("robots", rows, limit=limit, place=lambda row: str(row["robot"]))

    async def make_token(self, request: Request) -> Response:
        """Make a person's token. 201: nobody can tell it again."""
        person = await self._admin(request)
        wish, now_ns = token_wish(await read_object(request)), self._replica.clock()
        token, text = await asyncio.to_thread(
            self._tokens.create,
            wish.name,
            scopes=wish.scopes,
            days=wish.days,
            now_ns=now_ns,
            actor=person.as_actor(),
        )
        await self._still_admin(request, undo=lambda: self._tokens.revoke(token.token_id, now_ns=now_ns))
        return JSONResponse({"token": text, **token.as_json()}, 201)

    async def tokens(self, request: Request, cursor: Cursor = "", limit: Limit = PAGE) -> Response:
        """Every token that ever was, without what opens it."""
        await self._admin(request)
        if cursor and not is_token_id(cursor):
            raise bad_cursor()
        found = await asyncio.to_thread(self._tokens.list, after=cursor, limit=limit)
        rows = [token.as_json() for token in found]
        return _page("tokens", rows, limit=limit, place=lambda row: str(row["token_id"]))

    async def revoke_token(self, request: Request, token_id: str) -> Response:
        """Let a person's token count no longer. 204: it does not, perhaps since before."""
        person = await self._admin(request)
        now_ns = self._replica.clock()
        if not await asyncio.to_thread(self._tokens.revoke, token_id, now_ns=now_ns, actor=person.as_actor()):
            raise Refused("unknown_token_id", f"there never was a token {token_id[:80]!r}")
        return Response(status_code=204)

    async def quarantine(self, request: Request, cursor: Cursor = "", limit: Limit = PAGE) -> Response:
        """Bytes that came for a stored segment and differ from it; then segments that the index has set aside."""
        await self._admin(request)
        replica = self._replica
        if cursor and not is_place(cursor):
            raise bad_cursor()
        rows = await asyncio.to_thread(list_all, replica.storage, replica.bucket, after=cursor, limit=limit)
        return _page("items", rows, limit=limit, place=lambda row: str(row["key"]))

    async def audit(
        self,
        request: Request,
        start: str | None = None,
        end: str | None = None,
        cursor: Cursor = "",
        limit: Limit = PAGE,
    ) -> Response:
        """Every administrative act of a time, in order."""
        await self._admin(request)
        start_ns, end_ns = time_range(start, end)
        if cursor and not is_cursor(cursor):
            raise bad_cursor()
        entries = await asyncio.to_thread(
            self._audit.read, start_ns=start_ns, end_ns=end_ns, after=cursor or None, limit=limit
        )
        following = entries[-1].cursor if len(entries) == limit else None
        return JSONResponse({"entries": [entry.as_json() for entry in entries], "next": following})

    async def _admin(self, request: Request) -> Person:
        return await self._replica.person(request, scope="admin")

    async def _still_admin(self, request: Request, *, undo: Callable[[], object]) -> None:
        """A token that was revoked while it let somebody in has let nobody in."""
        try:
            await self._admin(request)
        except Refused:
            await asyncio.to_thread(undo)
            raise


def _page(name: str, rows: list[dict[str, Any]], *, limit: int, place: Callable[[dict[str, Any]], str]) -> Response:
    """The rows, and the cursor of those that may follow; null after the last one."""
    return JSONResponse({name: rows, "next": place(rows[-1]) if len(rows) == limit else None})


def add_routes(app: FastAPI, replica: Replica) -> None:
    admin, robot = Admin(replica), "/v1/robots/{robot}"
    app.add_api_route(f"{robot}/invitations", admin.invite, methods=["POST"], **admin_docs.invite_docs())
    app.add_api_route(f"{robot}/revoke", admin.revoke_robot, methods=["POST"], **admin_docs.revoke_robot_docs())
    app.add_api_route("/v1/registry/robots", admin.robots, methods=["GET"], **admin_docs.registry_docs())
    app.add_api_route("/v1/tokens", admin.make_token, methods=["POST"], **admin_docs.make_token_docs())
    app.add_api_route("/v1/tokens", admin.tokens, methods=["GET"], **admin_docs.tokens_docs())
    app.add_api_route("/v1/tokens/{token_id}", admin.revoke_token, methods=["DELETE"], **admin_docs.revoke_token_docs())
    app.add_api_route("/v1/quarantine", admin.quarantine, methods=["GET"], **admin_docs.quarantine_docs())
    app.add_api_route("/v1/audit", admin.audit, methods=["GET"], **admin_docs.audit_docs())
