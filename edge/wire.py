"""What robot and server agree on: names, routes, headers, receipts, problems and the digest of a body."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args
from urllib.parse import urlencode

from edge.errors import BadName, GapError

Kind = Literal["telemetry", "video"]
Cause = Literal["evicted", "quarantined", "lost"]

MCAP_TYPE = "application/vnd.mcap"
MP4_TYPE = "video/mp4"
GAP_TYPE = "application/vnd.fleetfeed.gap+json"
PIECE_TYPE = "application/partial-upload"
PROBLEM_TYPE = "application/problem+json"
MAX_GAP_BYTES = 64 << 10
ROBOT_TIME_HEADER = "Fleetfeed-Robot-Time-Ns"
ROBOT_CLOCK_HEADER = "Fleetfeed-Robot-Clock"
SERVER_TIME_HEADER = "Fleetfeed-Server-Time-Ns"
REQUEST_ID_HEADER = "Fleetfeed-Request-Id"
UPLOAD_COMPLETE_HEADER = "Upload-Complete"  # ?1: this request carries the end of the upload; ?0: it does not
UPLOAD_LENGTH_HEADER = "Upload-Length"
UPLOAD_LIMIT_HEADER = "Upload-Limit"
UPLOAD_OFFSET_HEADER = "Upload-Offset"
REPR_DIGEST_HEADER = "Repr-Digest"  # of the whole upload, where Content-Digest is of the piece
UNKNOWN = "unknown"  # the code of an error answer that is not ours
MAX_SEQ = 10**10 - 1
MAX_TIME_NS = 2**63 - 1

_ROBOT_CLOCK = re.compile(
    r"offset-ns=(-?\d{1,19}), uncertainty-ns=(\d{1,19}), drift-ppb=(-?\d{1,19}), drift-uncertainty-ppb=(\d{1,19}), "
    r'boot="([0-9a-f-]{1,64})"'
)
_ROBOT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_STREAM = re.compile(r"[a-z0-9_][a-z0-9._-]{0,62}")
_RECORDING = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


@dataclass(frozen=True, slots=True)
class SegmentId:
    """The name of one segment in the whole fleet: (robot, recording, stream, seq)."""

    robot: str
    recording: str
    stream: str
    seq: int

    def __post_init__(self) -> None:
        check_robot(self.robot)
        check_recording(self.recording)
        check_stream(self.stream)
        if not 0 <= self.seq <= MAX_SEQ:
            raise BadName(f"seq must be within 0..{MAX_SEQ}, got {self.seq}")

    @property
    def key(self) -> str:
        """The object's key in the bucket."""
        return f"raw/{self.robot}/{self.recording}/{self.stream}/{self.seq:010d}"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The server's word that a segment is durable. `sha256` is in hex; the robot frees disk only when it matches."""

    key: str
    sha256: str
    bytes: int
    server_time_ns: int
    already_stored: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Receipt:
        return cls(**{name: body[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class Problem:
    """An error answer (RFC 9457): a stable `code`, and a sentence for people."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Seqs `first_seq..last_seq` of one stream that will never arrive. It takes the key of its first seq.

    `cause`: `evicted`, the robot's disk was full; `quarantined`, kept on the robot, since the server or nobody can read
    it; `lost`, the robot itself no longer has it. `counts`: messages by topic that were in it, as far as is known;
    `size_bytes`: of their segments. A segment that is stored inside the range wins.
    """

    first_seq: int
    last_seq: int
    start_ns: int
    end_ns: int
    cause: Cause
    reason: str
    size_bytes: int
    counts: dict[str, int]

    def __post_init__(self) -> None:
        if not 0 <= self.first_seq <= self.last_seq <= MAX_SEQ:
            raise GapError(f"seqs must be within 0..{MAX_SEQ} in order, got {self.first_seq}..{self.last_seq}")
        if not 0 <= self.start_ns < self.end_ns <= MAX_TIME_NS:
            raise GapError(f"times must be within 0..{MAX_TIME_NS} ns in order, got {self.start_ns}..{self.end_ns}")
        if self.cause not in get_args(Cause):
            raise GapError(f"cause must be one of {', '.join(get_args(Cause))}, got {self.cause!r}")

    def as_bytes(self) -> bytes:
        """The body of its upload: JSON, the same bytes for the same gap."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, body: bytes) -> Gap:
        """`GapError` unless it is a gap record."""
        try:
            fields = json.loads(body)
            kinds = {name: str if name in ("cause", "reason") else int for name in cls.__slots__}
            for name, kind in kinds.items():
                found = fields[name].values() if name == "counts" else [fields[name]]
                if any(type(value) is not kind for value in found):
                    raise GapError(f"{name} must be {kind.__name__}, got {fields[name]!r}")
            "".join([fields["reason"], *fields["counts"]]).encode()  # half of a surrogate pair is no text
            return cls(**{name: fields[name] for name in kinds})
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise GapError(f"a gap record is a JSON object with {', '.join(cls.__slots__)}: {error}") from error


@dataclass(frozen=True, slots=True)
class RobotClock:
    """What a robot knows of its clock: server's time minus the robot's wall clock, and how fast that changes.

    Both with the half width of the interval that holds the truth. `boot` names the run of the robot's kernel.
    """

    offset_ns: int
    uncertainty_ns: int
    drift_ppb: int
    drift_uncertainty_ppb: int
    boot: str

    def as_field(self) -> str:
        """The header's value: a dictionary of structured fields (RFC 9651)."""
        numbers = (f"{name.replace('_', '-')}={getattr(self, name)}" for name in self.__slots__[:-1])
        return f'{", ".join(numbers)}, boot="{self.boot}"'

    @classmethod
    def parse_field(cls, field: str) -> RobotClock:
        """`ValueError` unless it is such a value."""
        found = _ROBOT_CLOCK.fullmatch(field)
        if not found:
            raise ValueError(f'must be offset-ns=…, uncertainty-ns=…, drift-ppb=…, boot="…", got {field[:200]!r}')
        *numbers, boot = found.groups()
        offset, uncertainty, drift, drift_uncertainty = values = [int(number) for number in numbers]
        if not all(-MAX_TIME_NS - 1 <= value <= MAX_TIME_NS for value in values):  # what a column of the index holds
            raise ValueError(f"its numbers must be int64, at most {MAX_TIME_NS}, got {field[:200]!r}")
        return cls(offset, uncertainty, drift, drift_uncertainty, boot)


def problem(body: bytes) -> Problem:
    """Read an error answer; one that is not ours (a proxy's page) has the code `unknown`."""
    try:
        fields = json.loads(body)
        return Problem(str(fields["code"])[:80], str(fields["detail"])[:1000])
    except (ValueError, KeyError, TypeError, RecursionError):
        return Problem(UNKNOWN, body[:200].decode(errors="replace"))


def check_robot(name: str) -> str:
    return _checked("robot", name, _ROBOT)


def check_stream(name: str) -> str:
    return _checked("stream", name, _STREAM)


def check_recording(name: str) -> str:
    return _checked("recording", name, _RECORDING)


def _checked(what: str, name: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(name):
        raise BadName(f"{what} must match {pattern.pattern}, got {name[:80]!r}")
    return name


def upload_target(segment: SegmentId, *, kind: Kind, start_ns: int, end_ns: int) -> str:
    """Path and query of the POST that carries a segment."""
    query = {
        "recording": segment.recording,
        "stream": segment.stream,
        "seq": segment.seq,
        "start_ns": start_ns,
        "end_ns": end_ns,
    }
    return f"/v1/robots/{segment.robot}/{kind}?{urlencode(query)}"


def enrol_target(robot: str) -> str:
    return f"/v1/robots/{check_robot(robot)}/enrol"


def keys_target(robot: str, kid: str = "") -> str:
    """Where a robot makes a new key known, or (with `kid`) retires one of its own."""
    return f"/v1/robots/{check_robot(robot)}/keys" + (f"/{kid}" if kid else "")


def upload_id(target: str, sha256: str) -> str:
    """The id of a resumable upload: what goes where. So a robot that lost the answer still knows where to go on."""
    return hashlib.sha256(f"{target}\n{sha256}".encode()).hexdigest()[:32]


def resume_target(robot: str, upload: str) -> str:
    return f"/v1/robots/{check_robot(robot)}/uploads/{upload}"


def content_digest(sha256: bytes) -> str:
    """The `Content-Digest` field value (RFC 9530) of a raw 32-byte SHA-256."""
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


def parse_content_digest(field: str) -> bytes:
    """The raw SHA-256 of a `Content-Digest` field; `ValueError` when there is none in it."""
    found = re.search(r"(?:^|[,\s])sha-256=:([A-Za-z0-9+/=]{44}):", field)
    if not found:
        raise ValueError(f"Content-Digest must hold sha-256=:<base64>:, got {field[:80]!r}")
    return base64.b64decode(found.group(1), validate=True)
