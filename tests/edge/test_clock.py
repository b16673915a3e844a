"""The truth lies within what is told of the clocks, whatever the delays; a step of the wall clock changes no drift."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge import clock, wire
from edge.clock import ClockEstimate, ClockLog, ClockSample, Reading, SteadyClock, boot_id, estimate, read_clocks

S = 1_000_000_000
MS = 1_000_000
YEAR = 365 * 24 * 3600 * S
START_NS = 1_760_000_000 * S
BOOT = "01234567-89ab-cdef-0123-456789abcdef"


@dataclass
class World:
    """A server and a robot whose true clocks are known; the robot's monotonic clock is the time of this world."""

    drift_ppb: Fraction = Fraction(0)
    mono_ns: int = 5 * S
    wall_offset_ns: int = 0  # the robot's wall clock minus START_NS and its monotonic clock
    server: Fraction = Fraction(START_NS)
    samples: list[ClockSample] = field(default_factory=list)

    def run(self, ns: int) -> None:
        self.mono_ns += ns
        self.server += ns * (1 + self.drift_ppb / 10**9)

    def wall_ns(self) -> int:
        return START_NS + self.mono_ns + self.wall_offset_ns

    def exchange(self, there_ns: int = 5 * MS, back_ns: int = 5 * MS) -> ClockSample:
        sent_ns = self.mono_ns
        self.run(there_ns)
        server_ns = floor(self.server)
        self.run(back_ns)
        sample = ClockSample.received(
            sent_mono_ns=sent_ns, server_ns=server_ns, wall=self.wall_ns, mono=lambda: self.mono_ns
        )
        self.samples.append(sample)
        return sample

    def exchanges(self, count: int, *, every_ns: int = 10 * S) -> None:
        for _ in range(count):
            self.run(every_ns)
            self.exchange()

    @property
    def now(self) -> Reading:
        return Reading(self.mono_ns, self.wall_ns())

    def log(self) -> ClockLog:
        return ClockLog(wall=self.wall_ns, mono=lambda: self.mono_ns)

    def holds(self, found: ClockEstimate | None) -> bool:
        """Whether an estimate for now is true."""
        assert found is not None
        assert found.at_mono_ns == self.mono_ns
        assert found.drift_uncertainty_ppb <= clock.MAX_DRIFT_PPB
        offset_is_true = abs(found.offset_ns - (self.server - self.wall_ns())) <= found.uncertainty_ns
        return offset_is_true and abs(found.drift_ppb - self.drift_ppb) <= found.drift_uncertainty_ppb


delays = st.integers(1000, 200 * MS) | st.integers(1000, 30 * S)
pauses = st.sampled_from([0, 1000]) | st.integers(0, 2 * S) | st.integers(0, 600 * S)
exchanges = st.lists(st.tuples(pauses, delays, delays, st.integers(0, clock.WANDER_PPB)), min_size=1, max_size=12)
drifts = st.integers(-500_000, 500_000) | st.just(0)
steps = st.sampled_from([0, 0, 10 * YEAR, -10 * YEAR, 3 * MS])


@given(exchanges, drifts, st.integers(-10 * YEAR, 10 * YEAR), steps, st.integers(0, 600 * S))
def test_the_truth_lies_within_what_is_told(
    exchanges: list[tuple[int, int, int, int]], drift_ppb: int, offset_ns: int, step_ns: int, later_ns: int
) -> None:
    world = World(wall_offset_ns=offset_ns)
    for pause_ns, there_ns, back_ns, wander_ppb in exchanges:
        world.drift_ppb = Fraction(drift_ppb + wander_ppb)
        world.run(pause_ns)
        world.exchange(there_ns, back_ns)
        world.wall_offset_ns += step_ns
    world.run(later_ns)
    assert world.holds(estimate(world.samples, at=world.now))


@given(exchanges, drifts)
def test_the_newest_sample_gives_the_moment_where_none_is_asked_for(
    exchanges: list[tuple[int, int, int, int]], drift_ppb: int
) -> None:
    world = World(drift_ppb=Fraction(drift_ppb))
    for pause_ns, there_ns, back_ns, _ in exchanges:
        world.run(pause_ns)
        world.exchange(there_ns, back_ns)
    newest = world.samples[-1]
    found = estimate(world.samples)
    world.run(newest.middle.mono_ns - world.mono_ns)  # back in time
    assert world.holds(found)
    assert found is not None
    assert found.uncertainty_ns <= newest.width_ns * 0.501 + 2  # no worse than the newest exchange by itself


@given(exchanges, st.randoms())
def test_the_order_of_the_samples_changes_nothing(exchanges: list[tuple[int, int, int, int]], random_: object) -> None:
    world = World()
    for pause_ns, there_ns, back_ns, _ in exchanges:
        world.run(pause_ns)
        world.exchange(there_ns, back_ns)
    mixed = random_.sample(world.samples, len(world.samples))  # type: ignore[attr-defined]
    assert estimate(mixed, at=world.now) == estimate(world.samples, at=world.now)


samples = st.builds(
    lambda sent_ns, width_ns, wall_ns, server_ns: ClockSample(sent_ns, sent_ns + width_ns, wall_ns, server_ns),
    st.integers(0, 100),
    st.integers(0, 30),
    st.integers(0, 2**62),
    st.integers(0, 100) | st.integers(0, 2**62),
)


@given(st.lists(samples, min_size=1, max_size=8), st.integers(0, 10**12), st.integers(0, 2**62))
@example([ClockSample(0, 0, 0, 5), ClockSample(0, 0, 0, 3)], 0, 0)
def test_whatever_servers_say_an_estimate_is_an_interval(
    samples: list[ClockSample], mono_ns: int, wall_ns: int
) -> None:
    found = estimate(samples, at=Reading(mono_ns, wall_ns))
    assert found is not None
    assert found.uncertainty_ns >= 0
    assert 0 <= found.drift_uncertainty_ppb <= clock.MAX_DRIFT_PPB
    told = wire.RobotClock(found.offset_ns, found.uncertainty_ns, found.drift_ppb, found.drift_uncertainty_ppb, BOOT)
    assert wire.RobotClock.parse_field(told.as_field()) == told


def test_without_a_sample_nothing_is_known() -> None:
    assert estimate([]) is None
    assert ClockLog().estimate() is None
    assert ClockLog().as_robot_clock(BOOT) is None


def test_one_exchange_tells_the_offset_to_half_its_length_and_no_drift() -> None:
    world = World(wall_offset_ns=-10 * YEAR)
    world.exchange(there_ns=1 * MS, back_ns=19 * MS)
    found = estimate(world.samples)
    assert found is not None
    assert abs(found.uncertainty_ns - 10 * MS) < 20_000
    assert abs(found.offset_ns - (10 * YEAR - 5 * S)) <= found.uncertainty_ns
    assert (found.drift_ppb, found.drift_uncertainty_ppb) == (0, 1_000_000)


def test_a_drift_needs_ten_seconds() -> None:
    world = World(drift_ppb=Fraction(20_000))
    world.exchange()
    world.run(10 * S - 1)
    world.exchange()
    found = estimate(world.samples)
    assert found is not None
    assert (found.drift_ppb, found.drift_uncertainty_ppb) == (0, 1_000_000)
    world = World(drift_ppb=Fraction(20_000))
    world.exchange()
    world.run(10 * S)
    world.exchange()
    found = estimate(world.samples)
    assert found is not None
    assert found.drift_uncertainty_ppb < 1_000_000


def test_ten_minutes_of_exchanges_narrow_the_drift_to_a_few_parts_in_a_hundred_million() -> None:
    world = World(drift_ppb=Fraction(37_000))
    world.exchanges(60)
    found = estimate(world.samples, at=world.now)
    assert world.holds(found)
    assert found is not None
    assert found.drift_uncertainty_ppb <= 20 * MS * S // (590 * S) // 2 + 2 * clock.WANDER_PPB


def test_a_quick_exchange_makes_the_slow_ones_after_it_exact() -> None:
    world = World(drift_ppb=Fraction(-12_000))
    world.exchanges(30)
    world.exchange(50_000, 50_000)
    world.run(1 * S)
    world.exchange(8 * S, 3 * S)
    found = estimate(world.samples, at=world.now)
    assert world.holds(found)
    assert found is not None
    assert found.uncertainty_ns < 2 * MS


@pytest.mark.parametrize("step_ns", [10 * YEAR, -10 * YEAR, 1 * MS])
def test_a_step_of_the_wall_clock_shows_in_the_offset_at_once_and_not_in_the_drift(step_ns: int) -> None:
    world = World(drift_ppb=Fraction(37_000))
    log = world.log()
    world.exchanges(30)
    for sample in world.samples:
        log.add(sample)
    before = log.estimate()
    world.wall_offset_ns += step_ns
    after = log.estimate()
    assert world.holds(after)
    assert before is not None
    assert after is not None
    assert after.offset_ns - before.offset_ns == -step_ns
    assert (after.drift_ppb, after.drift_uncertainty_ppb) == (before.drift_ppb, before.drift_uncertainty_ppb)


@pytest.mark.parametrize("step_ns", [3600 * S, -3600 * S, 100 * MS])
def test_a_step_of_the_servers_clock_leaves_what_was_measured_since(step_ns: int) -> None:
    world = World(drift_ppb=Fraction(5_000))
    world.exchanges(30)
    world.server += step_ns
    world.exchange()
    found = estimate(world.samples, at=world.now)
    assert world.holds(found)
    assert found is not None
    assert found.drift_uncertainty_ppb == 1_000_000
    world.exchanges(30)
    found = estimate(world.samples, at=world.now)
    assert world.holds(found)
    assert found is not None
    assert found.drift_uncertainty_ppb < 100_000


def test_a_crystal_that_warms_up_keeps_its_samples() -> None:
    world = World()
    for drift_ppb in (0, 300, 600, 900):
        world.drift_ppb = Fraction(drift_ppb)
        world.run(600 * S)
        world.exchange(1000, 1000)
    found = estimate(world.samples, at=world.now)
    assert world.holds(found)
    assert found is not None
    assert found.drift_uncertainty_ppb <= clock.WANDER_PPB


@pytest.mark.parametrize("drift_ppb", [5_000_000, 1_000_500, -1_000_500, -5_000_000])
def test_no_crystal_runs_more_than_a_part_in_a_thousand_off(drift_ppb: int) -> None:
    world = World(drift_ppb=Fraction(drift_ppb))
    for _ in range(3):
        world.run(60 * S)
        world.exchange(1000, 1000)
    found = estimate(world.samples, at=world.now)
    assert found == estimate(world.samples[-1:], at=world.now)
    assert found is not None
    assert abs(found.offset_ns - (world.server - world.wall_ns())) <= found.uncertainty_ns


def test_two_exchanges_that_only_touch_tell_the_time_exactly() -> None:
    touching = [ClockSample(0, 10 * MS, 0, START_NS), ClockSample(10 * MS, 20 * MS, 0, START_NS)]
    found = estimate(touching, at=Reading(10 * MS, 0))
    assert found is not None
    assert (found.offset_ns, found.uncertainty_ns) == (START_NS, 0)


def test_an_answer_before_its_request_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be received before 10, got 9"):
        ClockSample(10, 9, 0, 0)


def test_a_thread_that_is_set_aside_between_two_clocks_reads_them_again() -> None:
    late = iter([0, 500, 500, 501, 501, 900])
    assert read_clocks(wall=lambda: 7, mono=lambda: next(late)) == Reading(501, 7)


# -- the log ---------------------------------------------------------------------------------------------------


def test_the_log_knows_all_that_its_samples_tell() -> None:
    world = World(drift_ppb=Fraction(37_000))
    log = world.log()
    for back_ns in (30 * MS, 5 * MS, 20 * MS, 5 * MS):  # the tightest of each stretch, and the newest
        world.run(clock.STRETCH_NS - world.mono_ns % clock.STRETCH_NS)
        log.add(world.exchange(back_ns=back_ns))
    assert log.estimate() == estimate(world.samples, at=world.now)


def test_a_slower_exchange_of_the_same_stretch_takes_nothing_away() -> None:
    world = World(drift_ppb=Fraction(37_000))
    log = world.log()
    world.exchange(there_ns=10_000, back_ns=10_000)
    log.add(world.samples[0])
    log.add(world.exchange(there_ns=20 * MS, back_ns=900 * MS))
    found = log.estimate()
    assert world.holds(found)
    assert found is not None
    assert found.uncertainty_ns < 1 * MS


def test_the_log_holds_32_samples_of_the_last_hour() -> None:
    world = World(drift_ppb=Fraction(37_000))
    log = world.log()
    world.exchange(1000, 1000)  # so tight that it would be seen in the estimate
    log.add(world.samples[0])
    while world.mono_ns < clock.STRETCH_NS * (clock.MAX_SAMPLES + 10):
        world.run(clock.STRETCH_NS // 3)
        log.add(world.exchange())
    last_hour = [
        one for one in world.samples if world.mono_ns - one.sent_mono_ns < clock.STRETCH_NS * clock.MAX_SAMPLES
    ]
    found = log.estimate()
    assert world.holds(found)
    assert found is not None
    everything = estimate(world.samples, at=world.now)
    assert everything is not None
    assert everything.uncertainty_ns < found.uncertainty_ns
    recent = estimate(last_hour, at=world.now)
    assert recent is not None
    assert found.drift_uncertainty_ppb <= recent.drift_uncertainty_ppb * 1.1


def test_a_sample_that_comes_late_to_the_log_is_not_the_newest() -> None:
    world = World(mono_ns=0)
    log = world.log()
    slow, quick = world.exchange(30 * MS), world.exchange(10 * MS)
    newest = world.exchange(20 * MS)
    for sample in (newest, quick, slow):
        log.add(sample)
    assert log.estimate() == estimate([quick, newest], at=world.now)


@given(st.lists(st.tuples(pauses, delays, delays), min_size=1, max_size=12), drifts)
def test_what_the_log_forgets_makes_nothing_untrue(exchanges: list[tuple[int, int, int]], drift_ppb: int) -> None:
    world = World(drift_ppb=Fraction(drift_ppb))
    log = world.log()
    for pause_ns, there_ns, back_ns in exchanges:
        world.run(pause_ns)
        log.add(world.exchange(there_ns, back_ns))
        assert world.holds(log.estimate())


def test_what_is_told_to_the_server_is_the_estimate_for_now() -> None:
    world = World(wall_offset_ns=3 * S, drift_ppb=Fraction(37_000))
    log = world.log()
    log.add(world.exchange())
    world.run(3600 * S)
    told, found = log.as_robot_clock(BOOT), log.estimate()
    assert world.holds(found)
    assert found is not None
    assert told == wire.RobotClock(found.offset_ns, found.uncertainty_ns, 0, 1_000_000, BOOT)
    assert wire.RobotClock.parse_field(told.as_field()) == told


def test_threads_add_to_one_log() -> None:
    newest_ns = 3999 * clock.STRETCH_NS // 4
    log = ClockLog(wall=lambda: newest_ns, mono=lambda: newest_ns)

    def add(first: int) -> None:
        for number in range(first, 4000, 4):
            at_ns = number * clock.STRETCH_NS // 4
            log.add(ClockSample(at_ns, at_ns + 1000 + number % 7, at_ns, at_ns))
            assert log.estimate() is not None

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    found = log.estimate()
    assert found is not None
    assert abs(found.offset_ns) <= found.uncertainty_ns < 1100


# -- the steady clock, the boot --------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 10 * S), st.integers(-10 * YEAR, 10 * YEAR)), max_size=10))
def test_the_steady_clock_neither_steps_nor_goes_back(runs: list[tuple[int, int]]) -> None:
    world = World()
    steady = SteadyClock(wall=world.wall_ns, mono=lambda: world.mono_ns)
    expected_ns = world.wall_ns()
    for run_ns, step_ns in runs:
        world.run(run_ns)
        world.wall_offset_ns += step_ns
        expected_ns += run_ns
        assert steady.steady_ns() == expected_ns


def test_the_boot_is_what_the_kernel_calls_it(tmp_path: Path) -> None:
    (tmp_path / "boot_id").write_text(f"{BOOT}\n")
    assert boot_id(tmp_path / "boot_id") == BOOT
    if clock.BOOT_ID.exists():
        assert boot_id() == clock.BOOT_ID.read_text().strip()


@pytest.mark.parametrize("content", [None, "", 'a"b', "0" * 200])
def test_without_a_name_of_the_kernel_the_process_gets_one(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "boot_id").write_text(content)
    found = boot_id(tmp_path / "boot_id")
    assert uuid.UUID(found)
    assert boot_id(tmp_path / "boot_id") == found
