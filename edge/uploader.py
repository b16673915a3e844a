"""Carries sealed segments from the spool to the server: telemetry before video, oldest first, until acknowledged."""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import requests

from edge import retry, wire
from edge.errors import SpoolError, UploadError
from edge.identity import Identity
from edge.settings import EdgeSettings
from edge.spool import Spool, Spooled
from edge.wire import Receipt

PRIORITY = {"telemetry": 0, "video": 1}


@dataclass
class LinkState:
    """What the agent knows of the way to the server, for `status`."""

    uploaded: int = 0
    uploaded_bytes: int = 0
    failures_in_a_row: int = 0
    last_error: str = ""
    clock_offset_ns: int = 0  # server's clock minus ours, used only after the server said that ours is wrong


@dataclass(order=True, slots=True)
class _Job:
    priority: tuple[int, str, int]
    spooled: Spooled = field(compare=False)


class Uploader:
    """Uploads everything that waits in a spool, and goes on as new segments are sealed."""

    def __init__(
        self,
        spool: Spool,
        identity: Identity,
        *,
        settings: EdgeSettings,
        session: Callable[[], requests.Session] = requests.Session,
        clock: Callable[[], int] = time.time_ns,
        random_: random.Random | None = None,
    ) -> None:
        self.state = LinkState()
        self._spool, self._identity, self._settings = spool, identity, settings
        self._clock, self._random = clock, random_ or random.Random()  # noqa: S311 - jitter
        self._sessions = threading.local()
        self._new_session = session
        self._queue: list[_Job] = []
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def run(self, stop: threading.Event, *, until_empty: bool = False) -> None:
        """Upload until `stop` is set, or, with `until_empty`, until nothing waits."""
        with ThreadPoolExecutor(self._settings.uploads_at_once, thread_name_prefix="upload") as pool:
            try:
                self._work(pool, stop, until_empty=until_empty)
            except BaseException:
                stop.set()  # the pool waits for its uploads, and they would go on trying
                raise

    def _work(self, pool: ThreadPoolExecutor, stop: threading.Event, *, until_empty: bool) -> None:
        running: set[Future[None]] = set()
        while not stop.is_set():
            running = {one for one in running if not _finished(one)}
            self._scan()
            while self._queue and len(running) < self._settings.uploads_at_once:
                running.add(pool.submit(self._upload, heapq.heappop(self._queue), stop))
            if until_empty and not running and not self._queue:
                return
            self._pause(running, stop)

    def _pause(self, running: set[Future[None]], stop: threading.Event) -> None:
        """Wait until an upload ends or it is time to look into the spool again."""
        deadline = time.monotonic() + self._settings.scan_s
        while time.monotonic() < deadline and not stop.is_set():
            if self._queue and any(one.done() for one in running):
                return
            stop.wait(0.01)

    def _scan(self) -> None:
        for spooled in self._spool.waiting(known=self._known):
            self._known.add(spooled.stem)
            heapq.heappush(self._queue, _Job(_priority(spooled), spooled))

    def _upload(self, job: _Job, stop: threading.Event) -> None:
        """Try until the segment is stored or refused for good, or we are told to stop."""
        failures = 0
        while not stop.is_set():
            try:
                retry_after_s = self._try(job.spooled)
            except (requests.RequestException, OSError) as error:
                if not self._spool.facts_path(job.spooled).exists():
                    return  # another agent on this folder has carried it
                retry_after_s = self._failed(f"{type(error).__name__}: {error}")
            if retry_after_s is None:
                return
            failures += 1
            stop.wait(
                retry.backoff_s(
                    failures, max_s=self._settings.max_backoff_s, retry_after_s=retry_after_s, random_=self._random
                )
            )

    def _try(self, spooled: Spooled) -> float | None:
        """One POST. None when the segment needs no further try, else the least wait in seconds."""
        response = self._post(spooled)
        problem = wire.problem(response.content)
        match retry.verdict(response.status_code, is_ours=problem.code != wire.UNKNOWN):
            case "stored":
                return self._stored(spooled, response)
            case "refused":
                self._refused(spooled, problem)
                return None
            case "identity":
                return self._not_let_in(response, problem)
            case "again":
                wait_s = retry.retry_after(response.headers.get("Retry-After"))
                return self._failed(f"{response.status_code} {problem.code}: {problem.detail}", wait_s or 0.0)

    def _post(self, spooled: Spooled) -> requests.Response:
        target = wire.upload_target(
            spooled.named(self._identity.robot), kind=spooled.kind, start_ns=spooled.start_ns, end_ns=spooled.end_ns
        )
        digest = wire.content_digest(bytes.fromhex(spooled.sha256))
        now_ns = self._clock()
        authorization = self._identity.authorization(
            method="POST", target=target, digest=digest, now_ns=now_ns + self.state.clock_offset_ns
        )
        headers = {
            "Authorization": authorization,
            "Content-Digest": digest,
            "Content-Type": spooled.content_type,
            wire.ROBOT_TIME_HEADER: str(now_ns),
        }
        body = self._spool.data_path(spooled).read_bytes()
        return self._session.post(
            self._settings.url + target, data=body, headers=headers, timeout=self._settings.timeout_s
        )

    @property
    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._sessions, "session", None)
        if session is None:
            session = self._sessions.session = self._new_session()
            session.trust_env = False
            if self._settings.ca_file:
                session.verify = str(self._settings.ca_file)
        return session

    def _stored(self, spooled: Spooled, response: requests.Response) -> float | None:
        try:
            self._spool.acknowledge(spooled, Receipt.from_json(response.json()))
        except (ValueError, KeyError, TypeError, SpoolError) as error:
            return self._failed(f"the server's receipt cannot be used: {error}")
        with self._lock:
            self.state.uploaded += 1
            self.state.uploaded_bytes += spooled.bytes
            self.state.failures_in_a_row, self.state.last_error = 0, ""
        self._known.discard(spooled.stem)
        return None

    def _refused(self, spooled: Spooled, problem: wire.Problem) -> None:
        self._spool.quarantine(spooled, str(UploadError(problem.code, problem.detail)))
        with self._lock:
            self.state.last_error = f"{spooled.stem} was refused: {problem.code}: {problem.detail}"

    def _not_let_in(self, response: requests.Response, problem: wire.Problem) -> float:
        """401 and 403 never cost data: take the server's time if ours is wrong, and keep trying."""
        server_ns = response.headers.get(wire.SERVER_TIME_HEADER, "")
        if problem.code == "clock" and server_ns.isdecimal():
            self.state.clock_offset_ns = int(server_ns) - self._clock()
        return self._failed(f"{response.status_code} {problem.code}: {problem.detail}")

    def _failed(self, error: str, wait_s: float = 0.0) -> float:
        with self._lock:
            self.state.failures_in_a_row += 1
            self.state.last_error = error
        return wait_s


def _priority(spooled: Spooled) -> tuple[int, str, int]:
    return PRIORITY[spooled.kind], spooled.recording, spooled.start_ns


def _finished(future: Future[None]) -> bool:
    """Whether an upload has ended; an error that `_upload` did not expect is raised here."""
    if not future.done():
        return False
    future.result()
    return True
