"""The researchers' routes as OpenAPI has them: arguments of `add_api_route`, one entry a route."""

from __future__ import annotations

from typing import Any

from ingest_serve.described import BINARY, Schema, one
from ingest_serve.openapi import answer, parameter, route
from ingest_serve.row_forms import FORMS

_TIME = one("Time")
_TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": 4096}
_FLAG: Schema = {"type": "string", "enum": ["0", "1"]}
_VIDEO_CODES = ("bad_name", "no_video", "overlapping_video", "damaged_segment", "busy", "storage_unavailable")
_CLIP_CODES = (*_VIDEO_CODES, "clip_too_long", "codec_changed", "bad_range")


def _start(*, required: bool = False) -> Schema:
    return parameter("start", "From this time on.", _TIME, required=required)


def _end(*, required: bool = False) -> Schema:
    return parameter("end", "Before this time.", _TIME, required=required)


_STREAM = parameter("stream", "The camera.", one("Stream"), required=True)
_RECORDING = parameter("recording", "Of which recording, where two overlap in time.", one("Recording"))
_BASE = parameter("base", "The start of the playlist that names this entry.", _TIME, required=True)
_CAMERA = (_STREAM, _start(required=True), _end(required=True), _RECORDING)


def _rows(name: str, *more: str) -> Schema:
    lists: dict[str, Schema] = {name: {"type": "array", "items": {"type": "object"}}}
    following: dict[str, Schema] = {one: {"type": ["string", "null"]} for one in more}
    return {"type": "object", "required": [name, *more], "properties": lists | following}


def _read(
    operation: str, answers: dict[int, Schema], query: tuple[Schema, ...], codes: tuple[str, ...]
) -> dict[str, Any]:
    return route(operation, "reads", who=["read"], answers=answers, query=query, codes=codes)


def _told(answers: dict[int, Schema], *codes: int) -> dict[int, Schema]:
    address = "With redirect=1: the address of the raw segment that holds `start`, good for minutes."
    told = {
        206: answer("The range of it that was asked for.", BINARY, media="video/mp4"),
        304: answer("The client has these bytes."),
        307: answer(address, headers=["Location"]),
    }
    return answers | {code: told[code] for code in codes}


def robots_docs() -> dict[str, Any]:
    """Every robot of the index."""
    answers = {
        200: answer("One entry a robot: recordings, segments, bytes, times, quarantined, gaps.", _rows("robots"))
    }
    return _read("listRobots", answers, (), ("busy", "storage_unavailable"))


def videos_docs() -> dict[str, Any]:
    """A search for video segments."""
    query = (
        parameter("robot", "Only this robot.", one("Robot")),
        parameter("stream", "Only this camera.", one("Stream")),
        _start(),
        _end(),
        parameter("where", "An SQL predicate on the columns of `segments`.", _TEXT),
        parameter("limit", "Rows at most.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
        parameter("cursor", "The `next` of the page before; the other parameters as then.", _TEXT),
    )
    answers = {200: answer("Rows of `segments`, all from one version of the index.", _rows("videos", "next"))}
    return _read("findVideos", answers, query, ("bad_name", "bad_query", "busy", "storage_unavailable"))


def clip_docs() -> dict[str, Any]:
    """A clip."""
    # with redirect=1 a clip's end may be left out
    query = (_STREAM, _start(required=True), _end(), _RECORDING, parameter("redirect", "1: to the raw segment.", _FLAG))
    answers = _told({200: answer("Fragmented MP4.", BINARY, media="video/mp4")}, 206, 304, 307)
    return _read("readClip", answers, query, _CLIP_CODES)


def playlist_docs() -> dict[str, Any]:
    """A playlist of clips."""
    text = answer("HTTP Live Streaming, RFC 8216.", {"type": "string"}, media="application/vnd.apple.mpegurl")
    return _read("readPlaylist", {200: text}, _CAMERA, (*_VIDEO_CODES, "clip_too_long"))


def entry_docs(operation: str, what: str) -> dict[str, Any]:
    """What a playlist leads to."""
    answers = _told({200: answer(what, BINARY, media="video/mp4")}, 206, 304)
    return _read(operation, answers, (*_CAMERA, _BASE), _CLIP_CODES)


def telemetry_docs() -> dict[str, Any]:
    """Rows of a topic."""
    topic = parameter("topic", "Such as /joint_states.", _TEXT, required=True)
    schemas: dict[str, Schema] = {form: {"schema": BINARY} for form in FORMS}
    answers: dict[int, Schema] = {
        200: {"description": "Rows, in the form that `Accept` likes best.", "content": schemas}
    }
    codes = ("bad_name", "unknown_topic", "not_acceptable", "busy", "storage_unavailable")
    return _read("readTelemetry", answers, (topic, _start(), _end()), codes)
