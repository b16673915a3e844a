"""Carries sealed items from the spool to the server: most valuable first, oldest first, until acknowledged.

The main thread decides (what next, when again, what must go); a few threads send. One try, one `Outcome`.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import requests

from edge import eviction, https, recovery, retry, wire
from edge.backlog import Backlog, Waiting
from edge.errors import EdgeError, SpoolError, UploadError
from edge.identity import Identity
from edge.link import Link, LinkState
from edge.segment import sha256_of
from edge.settings import EdgeSettings
from edge.spool import Spool, Spooled
from edge.transfer import carry, create
from edge.wire import Receipt

SMALLEST_PIECE = 1 << 16
STOP_POLL_S = 0.2
MAX_ALARMS = 20
ON_THE_WAY = (  # what these say is of a piece or of this try; it is of the item only where that is damaged here
    "digest_mismatch",
    "incomplete_body",
    "too_many_pieces",
    "upload_length",
)
NO_ROUTE = ("not_found", "method_not_allowed")  # the URL is wrong, or the server too old: nothing is said of the item


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one try came to: `done`, the item waits no more, and what lies under `now_waiting` does; or `again`, later.

    `is_link`: not this item, the way to the server is in trouble.
    """

    end: Literal["done", "again"]
    now_waiting: tuple[str, ...] = ()
    is_link: bool = False
    retry_after_s: float = 0.0


class Uploader:
    """Uploads everything that waits in a spool and may be sent, and goes on as new segments are sealed."""

    def __init__(
        self,
        spool: Spool,
        identity: Identity,
        *,
        settings: EdgeSettings,
        session: Callable[[], requests.Session] = requests.Session,
        clock: Callable[[], int] = time.time_ns,
        random_: random.Random | None = None,
        is_metered: Callable[[], bool] = lambda: False,
    ) -> None:
        self.state = LinkState()
        self.backlog = Backlog(spool, settings.streams)
        self._stop = threading.Event()
        self.link = Link(identity, settings, stop=self._stop, session=session, clock=clock)
        self._spool, self._settings, self._is_metered = spool, settings, is_metered
        self._random = random_ or random.Random()  # noqa: S311 - jitter
        self._piece_bytes = settings.piece_bytes
        self._running: dict[Future[Outcome], Waiting] = {}
        self._delayed: list[tuple[float, Waiting]] = []
        self._failures: dict[str, int] = {}
        self._link_free_s = self._looked_s = float("-inf")
        self._wake = threading.Event()
        self._lock = threading.Lock()

    @property
    def busy(self) -> set[str]:
        """Stems of what is on its way just now."""
        return {item.stem for item in self._running.values()}

    def run(
        self, stop: threading.Event, *, until_empty: bool = False, housekeeping: Callable[[], None] = lambda: None
    ) -> None:
        """Upload until `stop` is set, or, with `until_empty`, until nothing waits that may be sent.

        `housekeeping` is called after each look into the spool, on this thread.
        """
        with ThreadPoolExecutor(self._settings.uploads_at_once, thread_name_prefix="upload") as pool:
            try:
                while not stop.is_set():
                    self._reap()
                    if time.monotonic() - self._looked_s >= self._settings.scan_s:
                        self._look()
                        housekeeping()
                        self._looked_s = time.monotonic()
                    self._start(pool)
                    if until_empty and not self._running and not self._delayed and self._is_drained():
                        return
                    self._wake.wait(min(self._settings.scan_s, STOP_POLL_S))
                    self._wake.clear()
            finally:
                self._stop.set()  # the pool waits for its uploads: a paced one ends soon

    def alarm(self, text: str) -> None:
        """Keep a sentence for `status` and the server."""
        with self._lock:
            if text not in self.state.alarms:
                self.state.alarms.append(text)
                del self.state.alarms[:-MAX_ALARMS]

    # -- deciding, on the main thread --------------------------------------------------------------------------

    def _look(self) -> None:
        """Find what is new; where the disk does not let us, at a later time."""
        try:
            self.backlog.look()
        except OSError as error:
            self.alarm(f"disk: {error}")

    def _start(self, pool: ThreadPoolExecutor) -> None:
        now_s = time.monotonic()
        while self._delayed and self._delayed[0][0] <= now_s:
            self.backlog.put_back(heapq.heappop(self._delayed)[1])
        while now_s >= self._link_free_s and len(self._running) < self._settings.uploads_at_once:
            item = self.backlog.take(metered=self._is_metered())
            if item is None:
                return
            future = pool.submit(self._try, item.stem)
            self._running[future] = item
            future.add_done_callback(lambda _: self._wake.set())

    def _reap(self) -> None:
        """Take in what has ended; an error that a try did not expect is raised here."""
        for future in [one for one in self._running if one.done()]:
            item = self._running.pop(future)
            outcome = future.result()
            if outcome.end == "again":
                self._again(item, outcome)
            else:
                self._failures.pop(item.stem, None)
                self.backlog.forget(item.stem)
                for stem in outcome.now_waiting:
                    self.backlog.refresh(stem)

    def _again(self, item: Waiting, outcome: Outcome) -> None:
        """Everything waits a little; where the trouble may be the item's own, it waits longer and others go first."""
        now_s = time.monotonic()
        if now_s >= self._link_free_s:  # else it was on its way when the first of them failed
            self.state.failures_in_a_row += 1
        free_s = now_s + self._backoff_s(self.state.failures_in_a_row, outcome)
        self._link_free_s = max(self._link_free_s, free_s)  # a longer wait may have been asked for
        if outcome.is_link:
            self.backlog.put_back(item)
        else:
            failures = self._failures[item.stem] = self._failures.get(item.stem, 0) + 1
            heapq.heappush(self._delayed, (self._link_free_s + self._backoff_s(failures, outcome), item))

    def _backoff_s(self, failures: int, outcome: Outcome) -> float:
        return retry.backoff_s(
            failures,
            max_s=self._settings.max_backoff_s,
            retry_after_s=outcome.retry_after_s,
            random_=self._random,
        )

    def _is_drained(self) -> bool:
        """Whether nothing may be sent now; looked up once more, since a segment may have been sealed meanwhile."""
        self._look()
        item = self.backlog.take(metered=self._is_metered())
        if item is not None:
            self.backlog.put_back(item)
        return item is None

    # -- one try, on a thread of the pool ----------------------------------------------------------------------

    def _try(self, stem: str) -> Outcome:
        try:
            return self._send(stem)
        except requests.RequestException as error:
            if (why := https.distrust(error)) is not None:
                self.alarm(f"{self._settings.url} shows a certificate that is not to be trusted: {why}")
            elif not self._stop.is_set():  # else a paced body was told to end
                self._piece_bytes = max(SMALLEST_PIECE, self._piece_bytes // 2)
            return self._later(f"{type(error).__name__}: {error}", is_link=True)
        except OSError as error:
            self.alarm(f"disk: {error}")
            return self._later(f"{type(error).__name__}: {error}")
        except EdgeError as error:
            self.alarm(f"{stem}: {error}")
            return self._later(f"{stem}: {error}")
        except (ValueError, RecursionError) as error:  # an answer that no library takes: this item waits, others go on
            self.alarm(f"{stem}: {type(error).__name__}: {error}")
            return self._later(f"{type(error).__name__}: {error}")

    def _send(self, stem: str) -> Outcome:
        item = self._spool.read(stem)
        if item is None:
            return self._without_facts(stem)
        try:
            response = self._carry(item)
            if _is_refusal(response):  # or a bit that changed on the way: only the same words again count
                first, response = response, self._carry(item)
                if _is_refusal(response) and wire.problem(response.content) != wire.problem(first.content):
                    return self._later(f"{stem} was refused in two ways: {first.text[:200]} {response.text[:200]}")
        except FileNotFoundError:
            return self._without_bytes(item)
        return self._judge(item, response)

    def _carry(self, item: Spooled) -> requests.Response:
        return carry(self.link, self._spool, item, piece_bytes=self._piece_bytes)

    def _judge(self, item: Spooled, response: requests.Response) -> Outcome:
        problem = wire.problem(response.content)
        match _verdict(response):
            case "stored":
                return self._stored(item, response)
            case "refused":
                return self._refused(item, problem, response)
            case "identity":
                return self._not_let_in(response, problem)
            case "again":
                wait_s = retry.retry_after(response.headers.get("Retry-After")) or 0.0
                said = f"{response.status_code} {problem.code}: {problem.detail}"
                return self._later(said, is_link=response.status_code in (408, 425, 429, 503), wait_s=wait_s)

    def _stored(self, item: Spooled, response: requests.Response) -> Outcome:
        try:
            receipt = Receipt.from_json(response.json())
            if receipt.key != (key := item.named(self.link.identity.robot).key):
                raise ValueError(f"it is for {receipt.key!r}, not for {key}")  # noqa: TRY301 - as any bad receipt
            self._spool.acknowledge(item, receipt)
        except (ValueError, KeyError, TypeError, SpoolError) as error:
            return self._later(f"the server's receipt cannot be used: {error}")
        self._piece_bytes = min(self._settings.piece_bytes, self._piece_bytes * 2)
        with self._lock:
            self.state.uploaded += 1
            self.state.uploaded_bytes += item.bytes
            self.state.failures_in_a_row, self.state.last_error = 0, ""
        return Outcome("done")

    def _refused(self, item: Spooled, problem: wire.Problem, response: requests.Response) -> Outcome:
        """The server will never take it. What it stands for is told by a gap record, if nothing of ours is there."""
        if problem.code in NO_ROUTE:
            self.alarm(f"{self._settings.url} takes no uploads: {problem.code}: {problem.detail}")
            return self._later(f"{problem.code}: {problem.detail}", is_link=True)
        if problem.code in ON_THE_WAY:
            if self._is_whole(item):
                return self._later(f"{item.stem} did not arrive whole: {problem.code}: {problem.detail}")
            self.alarm(f"{item.stem}: its bytes are damaged on the disk")
            if item.is_gap:
                eviction.repair_gap(self._spool, item)
                return Outcome("done", (item.stem,))
        self._say(f"{item.stem} was refused: {problem.code}: {problem.detail}")
        is_taken = problem.code == "conflict"
        if item.is_gap and is_taken:
            stored_sha256 = str(_extra(response, "stored_sha256"))
            rest = eviction.arrived_after_all(self._spool, item, stored_sha256=stored_sha256)
            return Outcome("done", () if rest is None else (rest.stem,))
        reason = str(UploadError(problem.code, problem.detail))
        gap = self._spool.quarantine(item, reason, leaves_gap=not is_taken)
        return Outcome("done", () if gap is None else (gap.stem,))

    def _not_let_in(self, response: requests.Response, problem: wire.Problem) -> Outcome:
        """401 and 403 never cost data: take the server's time, or our newest key, and keep trying."""
        if problem.code == "clock":
            self.link.take_server_time(response)
        elif problem.code == "unknown_key":
            self.link.reload_identity(refused=response)
        if problem.code != "clock":
            self.alarm(f"the server does not let this robot in: {problem.code}: {problem.detail}")
        self.state.clock_offset_ns = self.link.clock_offset_ns
        return self._later(f"{response.status_code} {problem.code}: {problem.detail}", is_link=True)

    def _without_facts(self, stem: str) -> Outcome:
        """Another agent has carried it, or its facts are damaged: then they are made again from its bytes."""
        if not (self._spool.folder / "sealed" / (stem + ".json")).exists():
            return Outcome("done")
        recovery.repair(self._spool, stem)
        self.alarm(f"{stem}: its facts were damaged on the disk")
        return Outcome("done", (stem,))

    def _without_bytes(self, item: Spooled) -> Outcome:
        """Only the facts are left. The server may have it all the same, the receipt being what was lost."""
        if not self._spool.facts_path(item).exists():
            return Outcome("done")
        if item.is_gap:
            eviction.repair_gap(self._spool, item)
            return Outcome("done", (item.stem,))
        if (why := self._spool.quarantine_reason(item)) is not None:  # the disk took no more of its quarantine
            self._spool.finish_quarantine(item, why[0], leaves_gap=why[1])
            return Outcome("done", (item.stem,) if why[1] else ())
        response = create(self.link, item)
        if response.status_code != 201 and wire.problem(response.content).code != "conflict":
            return self._judge(item, response)
        eviction.lost(self._spool, item)
        self.alarm(f"{item.stem}: its bytes are missing on the disk")
        return Outcome("done", (item.stem,))

    def _is_whole(self, item: Spooled) -> bool:
        """Whether the bytes on the disk are still those that were sealed."""
        try:
            return sha256_of(self._spool.data_path(item).read_bytes()) == item.sha256
        except FileNotFoundError:
            return False

    def _later(self, error: str, *, is_link: bool = False, wait_s: float = 0.0) -> Outcome:
        self._say(error)
        return Outcome("again", is_link=is_link, retry_after_s=wait_s)

    def _say(self, error: str) -> None:
        with self._lock:
            self.state.last_error = error


def _verdict(response: requests.Response) -> retry.Verdict:
    code = wire.problem(response.content).code
    return retry.verdict(response.status_code, is_ours=code != wire.UNKNOWN, code=code)


def _is_refusal(response: requests.Response) -> bool:
    """Whether the server would never take the item, if this answer is to be believed."""
    return _verdict(response) == "refused" and wire.problem(response.content).code not in ON_THE_WAY + NO_ROUTE


def _extra(response: requests.Response, name: str) -> object:
    try:
        return response.json().get(name)
    except (ValueError, AttributeError):
        return None
