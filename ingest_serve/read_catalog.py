"""`GET /v1/robots` and `GET /v1/videos`: what is in the published index, as JSON."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any, cast

import orjson
from starlette.requests import Request
from starlette.responses import Response

from dataset_catalog import versions
from dataset_catalog.catalog import Catalog
from dataset_catalog.sql import Bounds
from dataset_catalog.storage import Storage
from dataset_catalog.versions import Manifest
from dataset_catalog.video_pages import Place, VideoSearch, find_page
from edge.wire import check_robot, check_stream
from ingest_serve.read_index import Index, freshness
from ingest_serve.read_query import Query, bad
from ingest_serve.read_work import Workers

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000


class ReadCatalog:
    """The handlers."""

    def __init__(self, storage: Storage, index: Index, workers: Workers, *, bounds: Bounds) -> None:
        self._storage, self._index, self._workers, self._bounds = storage, index, workers, bounds

    async def robots(self, request: Request) -> Response:
        Query.of(request)
        return await self._workers.run(self._robots)

    def _robots(self) -> Response:
        manifest = self._index.newest(versions.SEGMENTS)
        robots = Catalog(self._storage, pinned={versions.SEGMENTS: manifest}).robots()
        return as_json({"robots": robots.to_pylist()}, manifest)

    async def videos(self, request: Request) -> Response:
        query = Query.of(request)
        start_ns, end_ns = query.open_range_ns()
        search = VideoSearch(
            robot=check_robot(query.given["robot"]) if "robot" in query.given else None,
            stream=check_stream(query.given["stream"]) if "stream" in query.given else None,
            start_ns=start_ns,
            end_ns=end_ns,
            where=query.given.get("where"),
        )
        limit = query.number("limit", default=DEFAULT_LIMIT, most=MAX_LIMIT)
        cursor = query.given.get("cursor")
        return await self._workers.run(lambda: self._videos(search, limit, cursor))

    def _videos(self, search: VideoSearch, limit: int, cursor: str | None) -> Response:
        manifest, after = self._begin(search, cursor)
        if manifest is None:
            return as_json({"videos": [], "next": None}, None)
        rows, place = find_page(self._storage, manifest, search, after=after, limit=limit, bounds=self._bounds)
        following = None if place is None else encode_cursor(manifest.n, search, place)
        return as_json({"videos": rows, "next": following}, manifest)

    def _begin(self, search: VideoSearch, cursor: str | None) -> tuple[Manifest | None, Place | None]:
        """The version to read, and the place behind which to go on: the newest and None where there is no cursor."""
        if cursor is None:
            return self._index.newest(versions.SEGMENTS), None
        n, place = decode_cursor(cursor, search)
        manifest = self._index.at(versions.SEGMENTS, n)
        if manifest is None:
            raise bad("cursor", f"it goes through version {n} of the index, which is no longer kept; begin anew")
        return manifest, place


def encode_cursor(n: int, search: VideoSearch, place: Place) -> str:
    """Opaque text that names a version of the index, a search, and the last row given."""
    return base64.urlsafe_b64encode(orjson.dumps([n, _name(search), *place])).decode().rstrip("=")


def decode_cursor(text: str, search: VideoSearch) -> tuple[int, Place]:
    """The version and the place. Raises `Refused` for a cursor that is not one of this search."""
    try:
        said = orjson.loads(base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)))
        n, name, robot, start_ns, stream, recording, seq = said
    except (ValueError, TypeError, binascii.Error) as error:
        raise bad("cursor", "must be the `next` of an earlier answer") from error
    kinds = [type(one) for one in said]
    if kinds != [int, str, str, int, str, str, int] or not 0 < n < 10**10:
        raise bad("cursor", "must be the `next` of an earlier answer")
    if name != _name(search):
        raise bad("cursor", "is of another search: give the same parameters as before")
    return n, cast(Place, (robot, start_ns, stream, recording, seq))


def as_json(body: dict[str, Any], manifest: Manifest | None) -> Response:
    headers = {"Cache-Control": "private, no-cache", "Vary": "Authorization", **freshness(manifest)}
    return Response(orjson.dumps(body), media_type="application/json", headers=headers)


def _name(search: VideoSearch) -> str:
    return hashlib.sha256(orjson.dumps(search)).hexdigest()[:16]
