"""The robot's way to the server: signed requests over kept connections, and what each answer tells of the clocks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests

from edge import https, signing, wire
from edge import identity as identities
from edge.answer import read_answer
from edge.clock import ClockLog, ClockSample, boot_id
from edge.errors import EdgeError
from edge.identity import Identity
from edge.pacing import PacedBody, Pacer
from edge.settings import EdgeSettings

CLOCK_NS = 1_000_000_000
STEP_NS = 1_000_000


@dataclass
class LinkState:
    """What the agent knows of the way to the server, for `status`."""

    uploaded: int = 0
    uploaded_bytes: int = 0
    failures_in_a_row: int = 0
    last_error: str = ""
    clock_offset_ns: int = 0  # server's clock minus ours, used only after the server said that ours is wrong
    alarms: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Told:
    """What the server was told of our clock last, when, and the wall clock less the monotonic one then."""

    at_ns: int
    wall_ns: int
    field: str


class Link:
    """Sends requests in a robot's name. Safe to share between threads; each keeps a connection of its own."""

    def __init__(
        self,
        identity: Identity,
        settings: EdgeSettings,
        *,
        stop: threading.Event,
        session: Callable[[], requests.Session] = requests.Session,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.identity = identity
        self.clocks = ClockLog(wall=clock)
        self._settings, self._new_session, self._clock, self._stop = settings, session, clock, stop
        self._pacer = Pacer(settings.max_upload_rate)
        self._sessions = threading.local()
        self._boot = boot_id()
        self._server_minus_monotonic_ns: int | None = None
        self._told = _Told(0, 0, "")

    @property
    def clock_offset_ns(self) -> int:
        """Server's clock minus ours, where the server said that ours is wrong; else 0."""
        known = self._server_minus_monotonic_ns
        return 0 if known is None else known + time.monotonic_ns() - self._clock()

    def send(
        self,
        method: str,
        target: str,
        *,
        body: bytes = b"",
        digest: str = "",
        headers: Mapping[str, str] | None = None,
        upload: str = "",
    ) -> requests.Response:
        """One request; `upload`: see `signing.sign_request`. `requests.RequestException` where no answer came."""
        now_ns = self._clock()
        named = {wire.ROBOT_TIME_HEADER: str(now_ns), **(headers or {})}
        if digest:
            named["Content-Digest"] = digest
        if told := self._clock_field():
            named[wire.ROBOT_CLOCK_HEADER] = told
        named["Authorization"] = self.identity.authorization(
            method=method,
            target=target,
            digest=digest,
            now_ns=now_ns + self.clock_offset_ns,
            upload=upload,
            fields=signing.fields_claim(named),
        )
        sent_ns = time.monotonic_ns()
        response = self._session.request(
            method,
            self._settings.url + target,
            data=self._paced(body),
            headers=named,
            timeout=self._settings.timeout_s,
            allow_redirects=False,
            stream=True,
        )
        self._note_clocks(response, sent_ns)
        return read_answer(response, limit_s=self._settings.timeout_s)

    def take_server_time(self, response: requests.Response) -> None:
        """The server said that our clock is wrong: sign by its time, which our steps of the clock do not touch."""
        server_ns = _server_ns(response)
        if server_ns is not None:
            self._server_minus_monotonic_ns = server_ns - time.monotonic_ns()

    def reload_identity(self, *, refused: requests.Response) -> None:
        """Take the key that is in the folder now; where that is the one that was refused, the one before it."""
        token = str(refused.request.headers["Authorization"]).removeprefix("Bearer ")
        try:
            found = identities.load(self._settings.folder)
            if found.key_id == signing.token_key_id(token):
                found = identities.fall_back(self._settings.folder) or found
        except (EdgeError, OSError):
            return  # what we have is as good as it gets
        self.identity = found

    def _clock_field(self) -> str:
        """What is known of our clock, for the server; worked out anew once a second, and when the clock was stepped."""
        monotonic_ns = time.monotonic_ns()
        wall_ns = self._clock() - monotonic_ns
        told = self._told
        if not told.field or monotonic_ns - told.at_ns > CLOCK_NS or abs(wall_ns - told.wall_ns) > STEP_NS:
            known = self.clocks.as_robot_clock(self._boot)
            told = self._told = _Told(monotonic_ns, wall_ns, "" if known is None else known.as_field())
        return told.field

    def _paced(self, body: bytes) -> Any:
        if not self._settings.max_upload_rate:
            return body
        return PacedBody(body, pacer=self._pacer, stop=self._stop)

    def _note_clocks(self, response: requests.Response, sent_ns: int) -> None:
        """The server read its clock somewhere between our first byte and its answer."""
        server_ns = _server_ns(response)
        if server_ns is not None:
            self.clocks.add(ClockSample.received(sent_mono_ns=sent_ns, server_ns=server_ns, wall=self._clock))

    @property
    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._sessions, "session", None)
        if session is None:
            session = self._sessions.session = https.prepare(self._new_session(), ca_file=self._settings.ca_file)
            session.headers["Accept-Encoding"] = "identity"  # an answer is read as it comes
        return session


def _server_ns(response: requests.Response) -> int | None:
    text = response.headers.get(wire.SERVER_TIME_HEADER, "")
    is_time = text.isascii() and text.isdecimal() and len(text) < 20
    return int(text) if is_time and int(text) <= wire.MAX_TIME_NS else None
