"""What a researcher's request asks for: every function reads one thing from its query, and refuses what is wrong."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from dataset_catalog.errors import QueryError
from dataset_catalog.times import parse_ns
from edge.wire import check_recording, check_robot, check_stream
from ingest_serve.errors import Refused

MAX_TEXT = 4096  # characters of a parameter


@dataclass(frozen=True, slots=True)
class Query:
    """The parameters of a request. Which a route takes, and that each is given once, `strict` has checked."""

    robot: str
    given: dict[str, str]

    @classmethod
    def of(cls, request: Request) -> Query:
        """`robot` is the path's, empty where it has none. Raises `BadName`, or `Refused` for a value that is huge."""
        given = dict(request.query_params)
        for name, value in given.items():
            if len(value) > MAX_TEXT:
                raise bad(name, f"must have at most {MAX_TEXT} characters")
        robot = request.path_params.get("robot", "")
        return cls(check_robot(robot) if robot else "", given)

    def needed(self, name: str) -> str:
        value = self.given.get(name, "")
        if not value:
            raise bad(name, "is needed")
        return value

    def stream(self) -> str:
        return check_stream(self.needed("stream"))

    def recording(self) -> str | None:
        value = self.given.get("recording")
        return None if value is None else check_recording(value)

    def time_ns(self, name: str) -> int | None:
        """A time as `dataset_catalog.times` reads it; None if it is not given."""
        text = self.given.get(name)
        if text is None:
            return None
        try:
            return parse_ns(text)
        except (QueryError, OverflowError) as error:
            raise bad(name, f"{error} (in a URL a plus sign is %2B)") from error

    def range_ns(self) -> tuple[int, int]:
        """`start` and `end`, both given."""
        start_ns, end_ns = (self.needed(name) and self.time_ns(name) for name in ("start", "end"))
        return _ordered(start_ns, end_ns)  # type: ignore[arg-type]  # needed: neither is None

    def open_range_ns(self) -> tuple[int | None, int | None]:
        """`start` and `end`, of which each may be missing."""
        start_ns, end_ns = self.time_ns("start"), self.time_ns("end")
        if start_ns is not None and end_ns is not None:
            _ordered(start_ns, end_ns)
        return start_ns, end_ns

    def number(self, name: str, *, default: int, most: int) -> int:
        text = self.given.get(name, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
            raise bad(name, f"must be a whole number from 1 to {most}, got {text[:20]!r}")
        return int(text)

    def flag(self, name: str) -> bool:
        text = self.given.get(name, "0")
        if text not in ("0", "1"):
            raise bad(name, f"must be 0 or 1, got {text[:20]!r}")
        return text == "1"


def bad(name: str, what: str) -> Refused:
    return Refused("bad_parameter", f"{name}: {what}", parameter=name)


def _ordered(start_ns: int, end_ns: int) -> tuple[int, int]:
    if start_ns >= end_ns:
        raise bad("end", "must be later than start")
    return start_ns, end_ns
