"""The HTTP application: two uploads, the enrolment, and two questions about its health.

A handler checks everything it can before it reads the body, and acknowledges only what the bucket holds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request, Response
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dataset_catalog.storage import Storage
from edge.wire import MAX_SEQ, MAX_TIME_NS, ROBOT_TIME_HEADER, SERVER_TIME_HEADER, Kind, Receipt, SegmentId, check_robot
from ingest_serve.body import BytesInFlight, check_form, declared_digest, declared_length, declared_type, read_body
from ingest_serve.bucket import Bucket
from ingest_serve.enrolment import MAX_ENROLMENT_BYTES, parse_enrolment
from ingest_serve.errors import Refused
from ingest_serve.openapi import enrol_docs, upload_docs
from ingest_serve.problems import ANSWERED, as_refused, problem_response
from ingest_serve.raw_store import AlreadyStored, Conflict, RawObject, RawStore, Stored
from ingest_serve.registry import KeyCache, Registry
from ingest_serve.settings import IngestSettings
from ingest_serve.signature import bearer_token, check_robot_signature, check_signature

log = logging.getLogger(__name__)

ENROLMENT_TIMEOUT_S = 5.0  # for a body of 4 KiB: whoever is slower holds one of the replica's places without a key

Clock = Callable[[], int]
Seq = Annotated[int, Query(ge=0, le=MAX_SEQ)]
TimeNs = Annotated[int, Query(ge=0, le=MAX_TIME_NS)]


@dataclass(frozen=True, slots=True)
class Target:
    """What an upload's path and query say."""

    segment: SegmentId
    start_ns: int
    end_ns: int


async def target_of(robot: str, recording: str, stream: str, seq: Seq, start_ns: TimeNs, end_ns: TimeNs) -> Target:
    if start_ns >= end_ns:
        raise Refused("bad_parameter", "end_ns: must be greater than start_ns", parameter="end_ns")
    return Target(SegmentId(robot, recording, stream, seq), start_ns, end_ns)


Upload = Annotated[Target, Depends(target_of)]


class Ingest:
    """One replica's handlers and what they share."""

    def __init__(self, bucket: Bucket, settings: IngestSettings, clock: Clock) -> None:
        self._bucket = bucket
        self._store = RawStore(bucket)
        self._registry = Registry(bucket)
        self._keys = KeyCache(self._registry, lifetime_s=settings.key_cache_s)
        self._in_flight = BytesInFlight(settings.max_bytes_in_flight)
        self._settings = settings
        self._clock = clock

    async def telemetry(self, request: Request, target: Upload) -> Response:
        """Store one telemetry segment. 201: it is durable; 200: it was already."""
        return await self._upload(request, target, kind="telemetry", max_bytes=self._settings.max_telemetry_bytes)

    async def video(self, request: Request, target: Upload) -> Response:
        """Store one video segment. 201: it is durable; 200: it was already."""
        return await self._upload(request, target, kind="video", max_bytes=self._settings.max_video_bytes)

    async def _upload(self, request: Request, target: Target, *, kind: Kind, max_bytes: int) -> Response:
        length = declared_length(request, max_bytes=max_bytes)
        content_type = declared_type(request, kind=kind)
        digest, sha256 = declared_digest(request)
        robot_time_ns = _robot_time(request)
        kid = await check_robot_signature(
            request, self._keys, robot=target.segment.robot, digest=digest, now_ns=self._clock()
        )
        with self._in_flight.hold(length):
            body = await read_body(request, length=length, sha256=sha256, timeout_s=self._settings.body_timeout_s)
            check_form(body, content_type)
            raw = RawObject(
                segment=target.segment,
                kind=kind,
                content_type=content_type,
                bytes=length,
                sha256=sha256.hex(),
                start_ns=target.start_ns,
                end_ns=target.end_ns,
                robot_time_ns=robot_time_ns,
                key_id=kid,
                received_ns=self._clock(),
            )
            return self._receipt(await self._store.put_once(raw, body), raw)

    def _receipt(self, outcome: Stored | AlreadyStored | Conflict, raw: RawObject) -> Response:
        if isinstance(outcome, Conflict):
            log.warning("conflict: %s is stored as %s, now came %s", raw.key, outcome.stored_sha256, raw.sha256)
            detail = f"{raw.key} is stored with other bytes"
            raise Refused("conflict", detail, stored_sha256=outcome.stored_sha256)
        already = isinstance(outcome, AlreadyStored)
        receipt = Receipt(raw.key, raw.sha256, raw.bytes, self._clock(), already)
        return JSONResponse(receipt.as_json(), 200 if already else 201)

    async def enrol(self, request: Request, robot: str) -> Response:
        """Trade a one-time token for a known key. 201: the key counts from now on; 200: it was known."""
        check_robot(robot)
        length = declared_length(request, max_bytes=MAX_ENROLMENT_BYTES)
        digest, sha256 = declared_digest(request)
        bearer_token(request)  # nobody waits for a body that comes without one
        body = await read_body(request, length=length, sha256=sha256, timeout_s=ENROLMENT_TIMEOUT_S)
        asked = parse_enrolment(body)
        check_signature(request, asked.key, robot=robot, digest=digest, now_ns=self._clock())
        enrolled = await asyncio.to_thread(
            self._registry.enrol, asked.token, robot=robot, public_key=asked.public_key, now_ns=self._clock()
        )
        return JSONResponse({"robot": robot, "key_id": enrolled.key_id}, 201 if enrolled.is_new else 200)

    async def healthz(self) -> Response:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    async def readyz(self) -> Response:
        """The bucket answers too."""
        await asyncio.to_thread(self._bucket.names, "readyz")
        return JSONResponse({"status": "ok"})

    async def answer(self, request: Request, error: Exception) -> Response:
        response = problem_response(as_refused(error), retry_after_s=self._settings.retry_after_s)
        response.headers.update(getattr(error, "headers", None) or {})  # of a 405: what the route allows
        return response


class Envelope:
    """Stamps every response with the server's time, and answers what nobody foresaw without a traceback."""

    def __init__(self, app: ASGIApp, *, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        async def stamp(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                stamped = (SERVER_TIME_HEADER.lower().encode(), str(self._clock()).encode())
                message = {**message, "headers": [*message["headers"], stamped]}
            await send(message)

        try:
            await self._app(scope, receive, stamp)
        except Exception as error:
            log.exception("%s %r failed", scope["method"], scope["path"])
            if not started:
                await problem_response(as_refused(error), retry_after_s=1)(scope, receive, stamp)


def create_app(storage: Storage, settings: IngestSettings, clock: Clock = time.time_ns) -> FastAPI:
    """The whole server for one lake. Raises `StorageError` for a lake without S3."""
    ingest = Ingest(Bucket.open(storage), settings, clock)
    app = FastAPI(title="fleetfeed ingest", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_middleware(Envelope, clock=clock)
    for kind in ANSWERED:
        app.add_exception_handler(kind, ingest.answer)
    app.add_api_route("/v1/robots/{robot}/telemetry", ingest.telemetry, methods=["POST"], **upload_docs("telemetry"))
    app.add_api_route("/v1/robots/{robot}/video", ingest.video, methods=["POST"], **upload_docs("video"))
    app.add_api_route("/v1/robots/{robot}/enrol", ingest.enrol, methods=["POST"], **enrol_docs())
    app.add_api_route("/healthz", ingest.healthz, methods=["GET"])
    app.add_api_route("/readyz", ingest.readyz, methods=["GET"])
    return app


def _robot_time(request: Request) -> int | None:
    """The robot's own clock as it sent the request, if it told."""
    text = request.headers.get(ROBOT_TIME_HEADER)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= MAX_TIME_NS):
        detail = f"{ROBOT_TIME_HEADER}: must be ns since the Unix epoch"
        raise Refused("bad_parameter", detail, parameter=ROBOT_TIME_HEADER)
    return int(text)
