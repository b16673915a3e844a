"""The HTTP application: which handler answers which route, and what goes around every answer.

A handler checks everything it can before it reads the body, and acknowledges only what the bucket holds.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import time

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dataset_catalog.storage import Storage
from edge.wire import REQUEST_ID_HEADER, SERVER_TIME_HEADER
from ingest_serve import admin, openapi, reads
from ingest_serve.bucket import within
from ingest_serve.errors import StorageUnavailable
from ingest_serve.gate import Gate
from ingest_serve.keys import Keys
from ingest_serve.problems import ANSWERED, as_refused, problem_response
from ingest_serve.read_settings import ReadSettings
from ingest_serve.reads_app import create_reads
from ingest_serve.replica import Clock, Replica
from ingest_serve.resumable import Resumable
from ingest_serve.revocations import LOOKUP_LIMIT_S
from ingest_serve.settings import IngestSettings
from ingest_serve.short_way import Answer, Handler, ShortWay
from ingest_serve.strict import StrictRoute
from ingest_serve.uploads import Uploads

log = logging.getLogger(__name__)

REQUEST_ID = "fleetfeed.request_id"  # where it is in the scope
_TIME_FIELD = SERVER_TIME_HEADER.lower().encode()
_ID_FIELD = REQUEST_ID_HEADER.lower().encode()


class Health:
    """Two questions about the replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def healthz(self) -> Response:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    async def readyz(self) -> Response:
        """The bucket answers too."""
        await within(LOOKUP_LIMIT_S, self._replica.bucket.names_async("readyz"))
        return JSONResponse({"status": "ok"})


class Envelope:
    """Stamps every response with the server's time and an id, and answers what nobody foresaw without a traceback.

    The id is in our log too, where there is something to say of the request.
    """

    def __init__(self, app: ASGIApp, *, clock: Clock) -> None:
        self._app = app
        self._clock = clock
        self._replica_id, self._count = secrets.token_hex(4), itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False
        request_id = scope[REQUEST_ID] = f"{self._replica_id}-{next(self._count)}"

        async def stamp(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                stamps = ((_TIME_FIELD, str(self._clock()).encode()), (_ID_FIELD, request_id.encode()))
                message = {**message, "headers": [*message["headers"], *stamps]}
            await send(message)

        try:
            await self._app(scope, receive, stamp)
        except Exception as error:
            log.exception("%s: %s %r failed", request_id, scope["method"], scope["path"])
            if not started:
                await problem_response(as_refused(error), retry_after_s=1)(scope, receive, stamp)


def create_app(
    storage: Storage, settings: IngestSettings, clock: Clock = time.time_ns, *, reader: ASGIApp | None = None
) -> FastAPI:
    """The whole server for one lake. Raises `StorageError` for a lake without S3.

    `reader`: what answers the reads, where that is not to run in this process.
    """
    replica = Replica(storage, settings, clock)
    app = FastAPI(title="fleetfeed ingest", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.router.route_class = StrictRoute
    answer, uploads = _answer_refusals(app, settings), _route_uploads(app, replica)
    app.add_middleware(ShortWay, handlers=uploads, answer=answer, answered=ANSWERED)
    app.add_middleware(Gate, retry_after_s=settings.retry_after_s)
    app.add_middleware(Envelope, clock=clock)
    _route_keys(app, replica)
    admin.add_routes(app, replica)
    reads.add_routes(app, replica, reader or create_reads(storage, ReadSettings()))
    health = Health(replica)
    app.add_api_route("/healthz", health.healthz, methods=["GET"], **openapi.alive_docs())
    app.add_api_route("/readyz", health.readyz, methods=["GET"], **openapi.ready_docs())
    return app


def _answer_refusals(app: FastAPI, settings: IngestSettings) -> Answer:
    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, StorageUnavailable):
            path = request.scope["path"]
            log.warning("%s: no storage for %s %.200r: %s", request.scope[REQUEST_ID], request.method, path, error)
        if isinstance(error, HTTPException) and error.status_code == 405:
            error.headers = {"Allow": _allowed(app, request.scope)}
        response = problem_response(as_refused(error), retry_after_s=settings.retry_after_s)
        response.headers.update(getattr(error, "headers", None) or {})
        return response

    for kind in ANSWERED:
        app.add_exception_handler(kind, answer)
    return answer


def _allowed(app: FastAPI, scope: Scope) -> str:
    """The methods of all routes of this path: Starlette names only those of the first."""
    routes = (route for route in app.routes if isinstance(route, Route) and route.matches(scope)[0] != Match.NONE)
    return ", ".join(sorted({method for route in routes for method in route.methods or ()}))


def _route_uploads(app: FastAPI, replica: Replica) -> dict[str, Handler]:
    resumable = Resumable(replica)
    uploads = Uploads(replica, resumable)
    robot = "/v1/robots/{robot}"
    one = f"{robot}/uploads/{{upload}}"
    app.add_api_route(f"{robot}/telemetry", uploads.telemetry, methods=["POST"], **openapi.upload_docs("telemetry"))
    app.add_api_route(f"{robot}/video", uploads.video, methods=["POST"], **openapi.upload_docs("video"))
    app.add_api_route(one, resumable.offset, methods=["HEAD"], **openapi.offset_docs())
    app.add_api_route(one, resumable.append, methods=["PATCH"], **openapi.append_docs())
    app.add_api_route(one, resumable.cancel, methods=["DELETE"], **openapi.cancel_docs())
    return {"telemetry": uploads.telemetry, "video": uploads.video}


def _route_keys(app: FastAPI, replica: Replica) -> None:
    keys = Keys(replica)
    robot = "/v1/robots/{robot}"
    app.add_api_route(f"{robot}/enrol", keys.enrol, methods=["POST"], **openapi.enrol_docs())
    app.add_api_route(f"{robot}/keys", keys.add, methods=["POST"], **openapi.new_key_docs())
    app.add_api_route(f"{robot}/keys/{{kid}}", keys.retire, methods=["DELETE"], **openapi.retire_docs())
