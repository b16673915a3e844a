"""The two upload routes: one request carries a whole segment or gap record, or begins a resumable upload of it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from edge.wire import (
    REPR_DIGEST_HEADER,
    UPLOAD_COMPLETE_HEADER,
    UPLOAD_LENGTH_HEADER,
    UPLOAD_OFFSET_HEADER,
    Kind,
)
from ingest_serve.body import read_upload
from ingest_serve.declared import (
    Target,
    Upload,
    bad_header,
    declared_complete,
    declared_digest,
    declared_length,
    declared_number,
    declared_type,
    declared_whole_sha256,
    max_bytes,
    robot_clock,
    robot_time_ns,
)
from ingest_serve.errors import Refused
from ingest_serve.raw_store import RawObject
from ingest_serve.replica import Replica
from ingest_serve.resumable import Resumable


class Uploads:
    """The handlers of POST telemetry and POST video."""

    def __init__(self, replica: Replica, resumable: Resumable) -> None:
        self._replica = replica
        self._resumable = resumable

    async def telemetry(self, request: Request, target: Upload) -> Response:
        """Store one telemetry segment or gap record. 201: it is durable; 200: it was already."""
        return await self._take(request, target, kind="telemetry")

    async def video(self, request: Request, target: Upload) -> Response:
        """Store one video segment or gap record. 201: it is durable; 200: it was already."""
        return await self._take(request, target, kind="video")

    async def _take(self, request: Request, target: Target, *, kind: Kind) -> Response:
        if UPLOAD_OFFSET_HEADER in request.headers:
            raise bad_header(UPLOAD_OFFSET_HEADER, "an upload begins at 0 and says no offset")
        if not {UPLOAD_COMPLETE_HEADER.lower(), UPLOAD_LENGTH_HEADER.lower()}.isdisjoint(request.headers):
            return await self._take_resumable(request, target, kind=kind)
        return await self._take_whole(request, target, kind=kind)

    async def _take_resumable(self, request: Request, target: Target, *, kind: Kind) -> Response:
        if not declared_complete(request):
            return await self._resumable.create(request, target, kind=kind)
        _check_one_piece(request)
        response = await self._take_whole(request, target, kind=kind)
        response.headers[UPLOAD_COMPLETE_HEADER] = "?1"
        return response

    async def _take_whole(self, request: Request, target: Target, *, kind: Kind) -> Response:
        content_type = declared_type(request, kind=kind)
        length = declared_length(
            request, max_bytes=max_bytes(self._replica.settings, kind=kind, content_type=content_type)
        )
        digest, sha256 = declared_digest(request)
        time_ns, clock = robot_time_ns(request), robot_clock(request)
        kid = await self._replica.signer(request, target.segment.robot, digest=digest)
        in_flight = self._replica.in_flight
        with in_flight.hold(target.segment.robot, length) as place:
            body = await read_upload(request, in_flight, place, sha256=sha256)
            raw = RawObject(
                segment=target.segment,
                kind=kind,
                content_type=content_type,
                bytes=length,
                sha256=sha256.hex(),
                start_ns=target.start_ns,
                end_ns=target.end_ns,
                robot_time_ns=time_ns,
                key_id=kid,
                received_ns=self._replica.clock(),
                robot_clock=clock,
            )
            return await self._replica.store_whole(raw, body)


def _check_one_piece(request: Request) -> None:
    """A whole upload that says so as resumable ones do must not contradict itself."""
    length = request.headers.get("content-length")
    if UPLOAD_LENGTH_HEADER in request.headers and str(declared_number(request, UPLOAD_LENGTH_HEADER)) != length:
        raise Refused("upload_length", f"{UPLOAD_LENGTH_HEADER} and Content-Length of a whole upload must be the same")
    if REPR_DIGEST_HEADER in request.headers and declared_whole_sha256(request) != declared_digest(request)[1]:
        raise Refused("digest_mismatch", f"{REPR_DIGEST_HEADER} and Content-Digest of a whole upload must be the same")
