"""The application that answers what researchers read: ASGI, without people, tokens and headers of time.

It runs in the process of its caller (tests, one machine) or in a deployment of its own; who may ask is checked before,
by `ingest_serve.reads`.
"""

from __future__ import annotations

import logging
from typing import cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from dataset_catalog.errors import (
    CatalogError,
    ClipTooLong,
    CodecChanged,
    DamagedSegment,
    DecodeError,
    NotFound,
    NoVideo,
    Overlapping,
    QueryError,
    StorageError,
)
from dataset_catalog.sql import Bounds
from dataset_catalog.storage import Storage
from edge.errors import BadName
from ingest_serve.errors import CacheFull, IngestError, Refused
from ingest_serve.problems import as_refused, problem_response
from ingest_serve.read_catalog import ReadCatalog
from ingest_serve.read_index import Index
from ingest_serve.read_settings import ReadSettings
from ingest_serve.read_telemetry import ReadTelemetry
from ingest_serve.read_video import ReadVideo
from ingest_serve.read_work import Workers

log = logging.getLogger(__name__)

RETRY_AFTER_S = 2
ROBOT = "/v1/robots/{robot}"


def create_reads(storage: Storage, settings: ReadSettings) -> ASGIApp:
    """All the reads of one lake."""
    index = Index(storage, lifetime_s=settings.index_cache_s)
    workers = Workers(settings.at_once)
    bounds = Bounds(seconds=settings.query_s, memory_bytes=settings.query_memory_bytes)
    catalog = ReadCatalog(storage, index, workers, bounds=bounds)
    video = ReadVideo(storage, index, workers, settings)
    telemetry = ReadTelemetry(storage, index, workers)
    routes = {
        "/v1/robots": catalog.robots,
        "/v1/videos": catalog.videos,
        f"{ROBOT}/video": video.clip,
        f"{ROBOT}/video/playlist.m3u8": video.playlist,
        f"{ROBOT}/video/init.mp4": video.init,
        f"{ROBOT}/video/segment.m4s": video.segment,
        f"{ROBOT}/telemetry": telemetry.rows,
    }
    return Starlette(
        routes=[Route(path, handler, methods=["GET", "HEAD"]) for path, handler in routes.items()],
        exception_handlers=dict.fromkeys((CatalogError, IngestError, BadName), _answer),
    )


async def _answer(request: Request, error: Exception) -> Response:
    refused = _as_refused(request, error)
    response = problem_response(refused, retry_after_s=RETRY_AFTER_S)
    response.headers.update(refused.headers)
    return cast(Response, response)


def _as_refused(request: Request, error: Exception) -> Refused:
    """The problem that an error of the catalog, or one of ours, is answered with."""
    match error:
        case NoVideo():
            return Refused("no_video", str(error))
        case ClipTooLong():
            return Refused("clip_too_long", str(error), playlist=_playlist_of(request))
        case CodecChanged():
            return Refused("codec_changed", str(error), changed_at_ns=error.changed_at_ns)
        case Overlapping():
            recordings = sorted(set(error.recordings))
            return Refused("overlapping_video", str(error), at_ns=error.at_ns, recordings=recordings)
        case QueryError():
            return Refused("bad_query", str(error))
        case DamagedSegment() | DecodeError():
            log.error("%s: %s", request.url.path, error)
            return Refused("damaged_segment", str(error))
        case StorageError() | NotFound():  # also a version of the index that was replaced just now
            log.warning("%s: %s", request.url.path, error)
            return Refused("storage_unavailable", "the storage cannot be reached; ask again")
        case CacheFull():
            log.warning("%s: %s", request.url.path, error)
            return Refused("busy", str(error))
    refused = as_refused(error)
    if refused.code == "internal_error":
        log.error("%s failed: %s", request.url.path, error)
    return refused


def _playlist_of(request: Request) -> str:
    path = request.url.path.removesuffix("/video").partition("/video/")[0]
    return f"{path}/video/playlist.m3u8?{request.url.query}"
