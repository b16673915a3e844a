"""The robot's clock against the server's, from the exchanges that take place anyway.

A server that read its clock while a request was under way read it between sending and receiving: so each exchange
holds the truth in an interval of the robot's monotonic clock (Cristian, "Probabilistic clock synchronization", 1989),
and what all of them allow is narrower than any (Marzullo and Owicki, "Maintaining the time in a distributed system",
1983). The server's time is taken as a line over the monotonic clock, whose slope is what every pair of intervals
allows. So a step of the wall clock cannot spoil the drift.

Two things are taken for granted. The slope stays within a band of `WANDER_PPB` from the first sample used until now, as
that of a crystal does while its temperature changes little; where no such line passes through all intervals (a server's
clock was set, the machine slept, its frequency was corrected), only the newest samples that one does pass through are
used. And all servers show one time: what their clocks differ by is not in the uncertainty.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edge.wire import RobotClock

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
STRETCH_NS = 120_000_000_000
MAX_SAMPLES = 32
MIN_SPAN_NS = 10_000_000_000  # from samples that lie closer together no drift is told
MAX_DRIFT_PPB = 1_000_000  # twice what RFC 5905 lets a clock have
WANDER_PPB = 1_000
PPB = 1_000_000_000

Clock = Callable[[], int]


@dataclass(frozen=True, slots=True)
class ClockSample:
    """One exchange. `sent_mono_ns`, `received_mono_ns`: the robot's monotonic clock before and after it; `wall_ns`: the
    robot's wall clock in the middle; `server_ns`: what the server's clock showed at some time between.
    """

    sent_mono_ns: int
    received_mono_ns: int
    wall_ns: int
    server_ns: int

    def __post_init__(self) -> None:
        if self.received_mono_ns < self.sent_mono_ns:
            raise ValueError(f"an answer cannot be received before {self.sent_mono_ns}, got {self.received_mono_ns}")

    @classmethod
    def received(
        cls, *, sent_mono_ns: int, server_ns: int, wall: Clock = time.time_ns, mono: Clock = time.monotonic_ns
    ) -> ClockSample:
        """The sample of an answer that has come just now."""
        now = read_clocks(wall=wall, mono=mono)
        return cls(sent_mono_ns, now.mono_ns, now.wall_ns - (now.mono_ns - sent_mono_ns) // 2, server_ns)

    @property
    def width_ns(self) -> int:
        return self.received_mono_ns - self.sent_mono_ns

    @property
    def middle(self) -> Reading:
        return Reading(self.received_mono_ns - self.width_ns // 2, self.wall_ns)


@dataclass(frozen=True, slots=True)
class Reading:
    """The robot's two clocks at one moment."""

    mono_ns: int
    wall_ns: int


@dataclass(frozen=True, slots=True)
class ClockEstimate:
    """What the samples say of one moment, `at_mono_ns`.

    `offset_ns`: server's time minus the robot's wall clock. `drift_ppb`: how much faster the server's time runs than
    the robot's monotonic clock. Each with the half width of the interval that holds it.
    """

    offset_ns: int
    uncertainty_ns: int
    drift_ppb: int
    drift_uncertainty_ppb: int
    at_mono_ns: int


def read_clocks(*, wall: Clock = time.time_ns, mono: Clock = time.monotonic_ns, tries: int = 3) -> Reading:
    """Both clocks as if at once: the quickest of some tries, for a thread may be set aside in between."""
    tried = []
    for _ in range(tries):
        before_ns, wall_ns, after_ns = mono(), wall(), mono()
        tried.append((after_ns - before_ns, Reading(after_ns, wall_ns)))
    return min(tried, key=lambda one: one[0])[1]


def estimate(samples: Iterable[ClockSample], *, at: Reading | None = None) -> ClockEstimate | None:
    """The offset at a reading of the robot's clocks (that of the newest sample, where none is given), and the drift.

    None without a sample. The drift is 0 ± `MAX_DRIFT_PPB` where the samples span less than `MIN_SPAN_NS`.
    """
    newest_first = sorted(samples, key=lambda one: one.received_mono_ns, reverse=True)
    return _fit(newest_first).estimate(at or newest_first[0].middle) if newest_first else None


class ClockLog:
    """The samples of the last hour or so: the tightest of each stretch, and the newest. Any thread may use it."""

    def __init__(self, *, wall: Clock = time.time_ns, mono: Clock = time.monotonic_ns) -> None:
        self._wall, self._mono = wall, mono
        self._tightest: dict[int, ClockSample] = {}
        self._newest: ClockSample | None = None
        self._fit: _Fit | None = None
        self._lock = threading.Lock()

    def add(self, sample: ClockSample) -> None:
        stretch = sample.received_mono_ns // STRETCH_NS
        with self._lock:
            if self._newest is None or sample.received_mono_ns >= self._newest.received_mono_ns:
                self._newest = sample
            best = self._tightest.get(stretch, sample)
            self._tightest[stretch] = min(best, sample, key=lambda one: one.width_ns)
            if len(self._tightest) > MAX_SAMPLES - 1:
                del self._tightest[min(self._tightest)]
            kept = {*self._tightest.values(), self._newest}
            self._fit = _fit(sorted(kept, key=lambda one: one.received_mono_ns, reverse=True))

    def estimate(self) -> ClockEstimate | None:
        """What is known of the clocks as they are now: a step of the wall clock shows at once."""
        fit = self._fit
        return fit.estimate(read_clocks(wall=self._wall, mono=self._mono)) if fit else None

    def as_robot_clock(self, boot: str) -> RobotClock | None:
        """What is told to the server; None as long as nothing is known."""
        found = self.estimate()
        if found is None:
            return None
        return RobotClock(found.offset_ns, found.uncertainty_ns, found.drift_ppb, found.drift_uncertainty_ppb, boot)


class SteadyClock:
    """Wall time that never steps: the wall clock at the start, and what the monotonic clock has counted since."""

    def __init__(self, *, wall: Clock = time.time_ns, mono: Clock = time.monotonic_ns) -> None:
        self._mono = mono
        self._start_ns = wall() - mono()

    def steady_ns(self) -> int:
        return self._start_ns + self._mono()


@cache
def boot_id(path: Path = BOOT_ID) -> str:
    """The name of this run of the kernel, over which its monotonic clock goes on.

    Where the kernel gives none, a name for this process: true for a shorter time, and so still true.
    """
    try:
        return str(uuid.UUID(path.read_text().strip()))
    except (OSError, ValueError):
        return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class _Fit:
    """Samples through all of whose intervals a line passes, and the least and greatest drift (ppb) that it may have."""

    samples: tuple[ClockSample, ...]
    low: int
    high: int

    def estimate(self, at: Reading) -> ClockEstimate:
        low_ns, high_ns = self.server_time(at.mono_ns)
        offset, drift = _middle(low_ns - at.wall_ns, high_ns - at.wall_ns), _middle(self.low, self.high)
        return ClockEstimate(*offset, *drift, at.mono_ns)

    def server_time(self, mono_ns: int) -> tuple[int, int]:
        """What all samples together allow the server's clock to show at a moment of the monotonic clock."""
        lows = (one.server_ns + self._least(mono_ns - one.received_mono_ns) for one in self.samples)
        highs = (one.server_ns - self._least(one.sent_mono_ns - mono_ns) for one in self.samples)
        return max(lows), min(highs)

    def _least(self, passed_ns: int) -> int:
        """By how much the server's clock goes on at least, while the monotonic clock does by this much."""
        return passed_ns + min(passed_ns * self.low, passed_ns * self.high) // PPB


def _fit(newest_first: Sequence[ClockSample]) -> _Fit:
    """The line through the newest samples: as many as one passes through."""
    count, low, high = 0, -MAX_DRIFT_PPB, MAX_DRIFT_PPB
    for sample in newest_first:
        narrow_low, narrow_high = _narrowed(low, high, sample, newest_first[:count])
        if narrow_low > min(narrow_high + WANDER_PPB, MAX_DRIFT_PPB) or narrow_high < -MAX_DRIFT_PPB:
            break
        count, low, high = count + 1, narrow_low, narrow_high
    samples = tuple(newest_first[:count])
    if samples[0].sent_mono_ns - samples[-1].received_mono_ns < MIN_SPAN_NS:
        return _Fit(samples, -MAX_DRIFT_PPB, MAX_DRIFT_PPB)
    return _Fit(samples, max(low - WANDER_PPB, -MAX_DRIFT_PPB), min(high + WANDER_PPB, MAX_DRIFT_PPB))


def _narrowed(low: int, high: int, sample: ClockSample, others: Iterable[ClockSample]) -> tuple[int, int]:
    """The drifts (ppb) from `low` to `high` of the lines that also pass through `sample` and each of the others."""
    for other in others:
        for one, two in ((sample, other), (other, sample)):
            # the line is at least server_ns where an interval ends, and at most server_ns where one begins
            passed_ns = two.sent_mono_ns - one.received_mono_ns
            gained_ns = two.server_ns - one.server_ns - passed_ns
            if passed_ns > 0:
                high = min(high, -(-gained_ns * PPB // passed_ns))
            elif passed_ns < 0:
                low = max(low, gained_ns * PPB // passed_ns)
            elif gained_ns < 0:
                return MAX_DRIFT_PPB, -MAX_DRIFT_PPB  # none does
    return low, high


def _middle(low: int, high: int) -> tuple[int, int]:
    """The middle of an interval, and the half width with which it holds all of it."""
    middle = (low + high) // 2
    return middle, high - middle
