"""How much a stream is worth, and over which link it may be sent: declared by the robot's settings, with defaults."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from edge.wire import Kind

Send = Literal["always", "unmetered", "on_request"]

OWN_PRIORITY = 0  # `_agent`, `_events`: few bytes, and what tells of all the others
TELEMETRY_PRIORITY = 10
PREVIEW_PRIORITY = 20
VIDEO_PRIORITY = 30


class StreamPolicy(BaseModel):
    """What the settings say of a stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    priority: int | None = Field(
        None, ge=0, description="The smaller, the more valuable; the largest is evicted first."
    )
    send: Send = Field("always", description="On any link, only where it is unmetered, or only what is asked for.")


class Policy(StreamPolicy):
    """The policy of one stream, with its priority."""

    priority: int


def policy_of(stream: str, kind: Kind, streams: Mapping[str, StreamPolicy]) -> Policy:
    """What counts for a stream; `streams` maps names and patterns (`*_camera`, `fnmatch`) to what was declared.

    The exact name wins, then the longest pattern (of equally long ones the first by alphabet). As with hidden files, a
    pattern matches fleetfeed's own streams only if it begins with `_` itself: `*` silences no `_agent`.
    """
    declared = streams.get(stream) or _by_pattern(stream, streams) or StreamPolicy()
    default = _default_priority(stream, kind)
    return Policy(priority=default if declared.priority is None else declared.priority, send=declared.send)


def may_send(policy: StreamPolicy, *, metered: bool, requested: bool) -> bool:
    """Whether a segment of such a stream may go over this link. What is `requested` always may."""
    return requested or policy.send == "always" or (policy.send == "unmetered" and not metered)


def _by_pattern(stream: str, streams: Mapping[str, StreamPolicy]) -> StreamPolicy | None:
    fitting = [one for one in streams if fnmatchcase(stream, one) and _is_own(one) >= _is_own(stream)]
    return streams[min(fitting, key=lambda pattern: (-len(pattern), pattern))] if fitting else None


def _is_own(name: str) -> bool:
    """Whether a stream, or all that a pattern matches, is fleetfeed's own."""
    return name.startswith("_")


def _default_priority(stream: str, kind: Kind) -> int:
    if _is_own(stream):
        return OWN_PRIORITY
    if kind == "telemetry":
        return TELEMETRY_PRIORITY
    return PREVIEW_PRIORITY if stream.endswith("_preview") else VIDEO_PRIORITY
