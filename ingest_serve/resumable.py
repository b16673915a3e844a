"""Resumable uploads (draft-ietf-httpbis-resumable-upload): creation, offset, append, cancellation.

A profile without interim answers: the robot computes an upload's address itself, and a piece is taken only whole and
verified. Any replica can go on with what another began.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edge.wire import (
    UPLOAD_COMPLETE_HEADER,
    UPLOAD_LENGTH_HEADER,
    UPLOAD_LIMIT_HEADER,
    UPLOAD_OFFSET_HEADER,
    Kind,
    check_robot,
    resume_target,
    upload_id,
)
from ingest_serve.body import read_upload
from ingest_serve.bucket import within
from ingest_serve.declared import (
    Target,
    check_piece_type,
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
from ingest_serve.errors import Refused, StorageUnavailable
from ingest_serve.pieces import Creation, Unfinished
from ingest_serve.raw_store import RawObject
from ingest_serve.replica import Replica
from ingest_serve.revocations import LOOKUP_LIMIT_S
from ingest_serve.signature import signed_digest, signed_target

log = logging.getLogger(__name__)


class Resumable:
    """The handlers of unfinished uploads."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._pieces = replica.pieces

    async def create(self, request: Request, target: Target, *, kind: Kind) -> Response:
        """Begin an upload, or find it begun. 201: where it stands; 200: the whole is stored already."""
        creation, digest = self._declared_creation(request, target, kind=kind)
        length = declared_length(request, max_bytes=self._max_bytes(creation))
        robot_time_ns(request)  # checked, not kept: the raw object tells the time of the request that brings its end
        robot = target.segment.robot
        kid = await self._replica.signer(request, robot, digest=digest)
        _check_end(0, length, creation, complete=False)
        upload = upload_id(signed_target(request), creation.sha256)
        stored = await within(LOOKUP_LIMIT_S, self._replica.store.foresee(creation.segment, sha256=creation.sha256))
        if stored is not None:
            response = self._replica.receipt(stored, creation.segment, sha256=creation.sha256)
            await self._remove(robot, upload)  # what a replica that died after storing the whole has left
            return response
        found = await within(LOOKUP_LIMIT_S, self._pieces.find(robot, upload))
        if found is None or not found.offset:
            found = await self._begin(request, upload, creation, kid, length=length)
        if found.creation.length != creation.length:
            raise Refused("upload_length", f"the upload was created with {found.creation.length} bytes")
        body = {"upload": upload, "offset": found.offset}
        return JSONResponse(body, 201, {"Location": resume_target(robot, upload), **self._state(found)})

    def _declared_creation(self, request: Request, target: Target, *, kind: Kind) -> tuple[Creation, str]:
        """What the request says of the whole, and the `Content-Digest` field of its piece."""
        content_type = declared_type(request, kind=kind)
        digest, _ = declared_digest(request)
        creation = Creation(
            segment=target.segment,
            kind=kind,
            content_type=content_type,
            length=declared_number(request, UPLOAD_LENGTH_HEADER),
            sha256=declared_whole_sha256(request).hex(),
            start_ns=target.start_ns,
            end_ns=target.end_ns,
            robot_clock=robot_clock(request),
        )
        most = self._max_bytes(creation)
        if creation.length > most:
            raise Refused("too_large", f"an upload of this type has {most} bytes at most", max_bytes=most)
        return creation, digest

    async def _begin(self, request: Request, upload: str, creation: Creation, kid: str, *, length: int) -> Unfinished:
        """Nothing is left behind by a first piece that does not arrive whole."""
        robot, (_, sha256) = creation.segment.robot, declared_digest(request)
        with self._replica.in_flight.hold(robot, length) as place:
            body = await read_upload(request, self._replica.in_flight, place, sha256=sha256)
            await self._replica.keys.check(robot, kid)  # it may have been revoked while the body came
            await self._replica.stored(self._pieces.create(robot, upload, creation))
            if body:
                await self._replica.stored(self._pieces.add(robot, upload, body, offset=0, sha256=sha256.hex()))
        return await self._find(robot, upload)

    async def offset(self, request: Request, robot: str, upload: str) -> Response:
        """204: where an unfinished upload stands, in `Upload-Offset`."""
        check_robot(robot)
        await self._replica.signer(request, robot, digest=signed_digest(request))
        found = await self._find(robot, upload)
        length = {UPLOAD_LENGTH_HEADER: str(found.creation.length), "Cache-Control": "no-store"}
        return Response(status_code=204, headers={**self._state(found), **length})

    async def cancel(self, request: Request, robot: str, upload: str) -> Response:
        """204: the upload and its pieces are gone."""
        check_robot(robot)
        await self._replica.signer(request, robot, digest=signed_digest(request))
        await self._find(robot, upload)
        await within(LOOKUP_LIMIT_S, asyncio.to_thread(self._pieces.remove, robot, upload))
        return Response(status_code=204)

    async def append(self, request: Request, robot: str, upload: str) -> Response:
        """Store the next piece. 204: it is durable; after the last one, what a whole upload is answered."""
        check_robot(robot)
        offset, complete = declared_number(request, UPLOAD_OFFSET_HEADER), declared_complete(request)
        check_piece_type(request)
        settings = self._replica.settings
        length = declared_length(request, max_bytes=max(settings.max_telemetry_bytes, settings.max_video_bytes))
        digest, sha256 = declared_digest(request)
        time_ns, clock = robot_time_ns(request), robot_clock(request)
        kid = await self._replica.signer(request, robot, digest=digest)
        found = await self._find(robot, upload)
        _check_next(found, offset, length, complete=complete)
        with self._replica.in_flight.hold(robot, length) as place:
            body = await read_upload(request, self._replica.in_flight, place, sha256=sha256)
            await self._replica.keys.check(robot, kid)
            adding = self._pieces.add(robot, upload, body, offset=offset, sha256=sha256.hex()) if body else None
            if adding is not None and not await self._replica.stored(adding):
                raise _mismatch(offset, expected=(await self._find(robot, upload)).offset)
            del body, adding
        found = found.longer(length)
        if not complete:
            return Response(status_code=204, headers=self._state(found))
        raw = found.creation.raw(
            key_id=kid, robot_time_ns=time_ns, robot_clock=clock, received_ns=self._replica.clock()
        )
        return await self._finish(upload, found, raw)

    async def _finish(self, upload: str, found: Unfinished, raw: RawObject) -> Response:
        """Make one raw object of the pieces, which go once nobody needs them: it is stored, or will never be."""
        robot = raw.segment.robot
        try:
            response = await self._replica.stored(self._joined(upload, found, raw))
        except Refused as refused:
            if refused.headers.get(UPLOAD_COMPLETE_HEADER) == "?1":
                await self._remove(robot, upload)
            raise
        await self._remove(robot, upload)
        response.headers[UPLOAD_COMPLETE_HEADER] = "?1"
        return response

    async def _joined(self, upload: str, found: Unfinished, raw: RawObject) -> Response:
        """What storing the whole is answered; a refusal of the whole says that it is complete."""
        robot = raw.segment.robot
        async with self._replica.in_flight.join(robot, raw.bytes):
            whole = await self._pieces.join(robot, upload, found.sizes)
            if whole is None:
                raise _unknown(robot, upload)  # done or given up by another request meanwhile
            try:
                await _check_whole(whole, raw.sha256)
                return await self._replica.store_whole(raw, whole)
            except Refused as refused:
                refused.headers[UPLOAD_COMPLETE_HEADER] = "?1"
                raise

    async def _find(self, robot: str, upload: str) -> Unfinished:
        found = await within(LOOKUP_LIMIT_S, self._pieces.find(robot, upload))
        if found is None:
            raise _unknown(robot, upload)
        return found

    async def _remove(self, robot: str, upload: str) -> None:
        """Pieces that stay are only waste, which `fleetfeed ingest expire` clears: no reason for another answer."""
        try:
            await within(LOOKUP_LIMIT_S, asyncio.to_thread(self._pieces.remove, robot, upload))
        except StorageUnavailable as error:
            log.warning("pieces of upload %s of robot %s could not be removed: %s", upload, robot, error)

    def _max_bytes(self, creation: Creation) -> int:
        return max_bytes(self._replica.settings, kind=creation.kind, content_type=creation.content_type)

    def _state(self, found: Unfinished) -> dict[str, str]:
        """The header fields that say where an upload stands."""
        most = self._max_bytes(found.creation)
        return {
            UPLOAD_OFFSET_HEADER: str(found.offset),
            UPLOAD_COMPLETE_HEADER: "?0",
            UPLOAD_LIMIT_HEADER: f"max-size={most}, max-append-size={most}",
        }


def _check_next(found: Unfinished, offset: int, length: int, *, complete: bool) -> None:
    if offset != found.offset:
        raise _mismatch(offset, expected=found.offset)
    _check_end(offset, length, found.creation, complete=complete)
    if length and len(found.sizes) >= found.max_pieces:
        raise Refused("too_many_pieces", f"an upload of {offset} bytes has {found.max_pieces} pieces at most")


def _check_end(offset: int, length: int, creation: Creation, *, complete: bool) -> None:
    """A piece may not reach beyond the upload's end, and the last one must reach it."""
    end = offset + length
    if end > creation.length or (complete and end < creation.length):
        what = "the last piece" if complete else "the piece"
        raise Refused("upload_length", f"{what} ends at {end}, the upload has {creation.length} bytes")


async def _check_whole(whole: bytearray, sha256: str) -> None:
    came = (await asyncio.to_thread(hashlib.sha256, whole)).hexdigest()
    if came != sha256:
        raise Refused("digest_mismatch", f"the joined pieces have sha-256 {came}, the upload was created with {sha256}")


def _mismatch(offset: int, *, expected: int) -> Refused:
    detail = f"the upload has {expected} bytes, the piece begins at {offset}"
    headers = {UPLOAD_OFFSET_HEADER: str(expected), UPLOAD_COMPLETE_HEADER: "?0"}
    return Refused("offset_mismatch", detail, headers=headers, expected_offset=expected)


def _unknown(robot: str, upload: str) -> Refused:
    return Refused("upload_unknown", f"robot {robot!r} has no unfinished upload {upload[:80]!r}")
