"""What bodies hold together is bounded: the slow make room for others, nobody takes all of it, and nothing leaks."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.uploader import SMALLEST_PIECE
from ingest_serve.errors import Refused
from ingest_serve.in_flight import (
    FIRST_WINDOW_BYTES,
    JOINS_PER_ROBOT,
    LOOK_S,
    SLOW_LOOKS,
    SLOW_WINDOW_BYTES,
    Bounds,
    InFlight,
    Place,
)
from ingest_serve.settings import IngestSettings

MB = 1 << 20


def bounds(**changes: Any) -> Bounds:
    right: dict[str, Any] = {
        "body_bytes": 10 * MB,
        "join_bytes": 4 * MB,
        "max_bodies": 8,
        "max_bodies_per_robot": 4,
        "max_bytes_per_robot": 10 * MB,
        "min_rate": 2000.0,
        "grace_s": 10.0,
    }
    return Bounds(**right | changes)


def in_a_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))  # type: ignore[arg-type]

    return run


def look(in_flight: InFlight, *, times: int = SLOW_LOOKS + 1) -> None:
    for _ in range(times):
        in_flight.look()


def refused(code: str) -> Any:
    return pytest.raises(Refused, check=lambda error: error.code == code)


class TestCounting:
    @in_a_loop
    async def test_a_body_counts_whole_once_it_has_filled_its_first_window(self) -> None:
        in_flight = InFlight(bounds())
        with in_flight.hold("a", 3 * MB) as place:
            assert in_flight.held_bytes == FIRST_WINDOW_BYTES
            in_flight.take(place, bytes(FIRST_WINDOW_BYTES))
            assert in_flight.held_bytes == FIRST_WINDOW_BYTES
            in_flight.take(place, b"x")
            assert in_flight.held_bytes == 3 * MB
        assert (in_flight.held_bytes, in_flight.bodies) == (0, 0)

    @in_a_loop
    async def test_a_slow_body_counts_with_what_has_come(self) -> None:
        in_flight = InFlight(bounds())
        with in_flight.hold("a", 3 * MB) as place:
            in_flight.take(place, bytes(MB))
            look(in_flight, times=2)
            assert in_flight.held_bytes == MB
            in_flight.take(place, b"x")
            assert in_flight.held_bytes == MB + 1 + SLOW_WINDOW_BYTES
            in_flight.take(place, bytes(MB))
            look(in_flight, times=1)
            in_flight.take(place, bytes(SLOW_WINDOW_BYTES + 1))  # it has become fast
            assert in_flight.held_bytes == 3 * MB

    @in_a_loop
    async def test_what_was_held_is_free_again_also_after_a_failure(self) -> None:
        in_flight = InFlight(bounds())
        with pytest.raises(ZeroDivisionError), in_flight.hold("a", 10 * MB):
            raise ZeroDivisionError
        assert (in_flight.held_bytes, in_flight.bodies) == (0, 0)
        with in_flight.hold("a", 10 * MB):
            pass

    @in_a_loop
    async def test_more_bytes_than_were_declared_are_refused_and_not_kept(self) -> None:
        in_flight = InFlight(bounds())
        with in_flight.hold("a", 10) as place:
            with refused("incomplete_body"):
                in_flight.take(place, bytes(11))
            assert len(place.body) == 0

    @given(st.integers(0, 2**32))
    def test_bodies_never_hold_more_than_is_counted_nor_more_than_there_is(self, seed: int) -> None:
        asyncio.run(chaos(random.Random(seed)))


async def chaos(rng: random.Random) -> None:
    """Bodies of all sizes come, go on, stop, are stored and go, in any order."""
    most = 4 * MB
    in_flight = InFlight(bounds(body_bytes=most, max_bodies=12, max_bytes_per_robot=3 * MB))
    under_way: dict[Place, ExitStack] = {}
    for _ in range(200):
        step = rng.random()
        try:
            if step < 0.25 or not under_way:
                stack = ExitStack()
                place = stack.enter_context(in_flight.hold(rng.choice("abcdef"), rng.randrange(2 * MB)))
                under_way[place] = stack
            elif step < 0.65:
                place = rng.choice(list(under_way))
                left = place.length - place.arrived
                if left:
                    in_flight.take(place, bytes(rng.randrange(1, min(left, 300_000) + 1)))
            elif step < 0.75:
                place = rng.choice(list(under_way))
                if place.arrived == place.length and not place.cut:
                    in_flight.received(place)
            elif step < 0.85:
                under_way.pop(rng.choice(list(under_way))).close()
            else:
                in_flight.look()
        except Refused:
            pass
        for place in [place for place in under_way if place.cut]:
            under_way.pop(place).close()
        held = sum(len(place.body) for place in under_way)
        assert held <= in_flight.held_bytes <= most
        assert in_flight.bodies == len(under_way) <= 12
    for stack in under_way.values():
        stack.close()
    assert (in_flight.held_bytes, in_flight.bodies) == (0, 0)


class TestSlow:
    @in_a_loop
    async def test_a_body_that_comes_too_slowly_is_cut_when_its_grace_is_used_up(self) -> None:
        in_flight = InFlight(bounds(grace_s=1.0, min_rate=100.0))
        with in_flight.hold("a", MB) as place:
            in_flight.take(place, bytes(100))  # worth one second, but no more than the grace is kept
            look(in_flight, times=int(1 / LOOK_S))
            assert place.cut is None
            in_flight.take(place, bytes(25))  # a quarter of a second
            look(in_flight, times=1)
            assert place.cut is None
            look(in_flight, times=2)
            assert place.cut is not None
            assert place.cut.code == "slow_body"
            assert in_flight.held_bytes == 0
            with refused("slow_body"):
                in_flight.take(place, b"x")

    @in_a_loop
    async def test_a_body_at_the_least_rate_is_never_cut_for_its_slowness(self) -> None:
        in_flight = InFlight(bounds(grace_s=1.0, min_rate=4000.0))
        with in_flight.hold("a", MB) as place:
            while place.arrived < MB:
                in_flight.take(place, bytes(min(1000, MB - place.arrived)))
                look(in_flight, times=1)
            assert place.cut is None

    @in_a_loop
    async def test_the_slowest_link_passes_by_what_is_set(self) -> None:
        """64 kbit/s for two uploads of the smallest pieces at once; TLS hands over 16 KiB at a time."""
        in_flight = InFlight(IngestSettings().bounds())
        with in_flight.hold("a", SMALLEST_PIECE) as place:
            for _ in range(4):
                look(in_flight, times=int(16384 / 3500 / LOOK_S))
                in_flight.take(place, bytes(16384))
            assert place.cut is None

    @in_a_loop
    async def test_a_body_that_came_fast_and_then_stops_has_only_its_grace(self) -> None:
        in_flight = InFlight(bounds(grace_s=1.0))
        with in_flight.hold("a", 3 * MB) as place:
            in_flight.take(place, bytes(3 * MB - 1))
            look(in_flight, times=int(1 / LOOK_S) + 2)
            assert place.cut is not None

    @in_a_loop
    async def test_a_body_that_is_being_stored_is_nobody_s_to_cut(self) -> None:
        in_flight = InFlight(bounds(grace_s=1.0))
        with in_flight.hold("a", 10 * MB) as place:
            in_flight.take(place, bytes(10 * MB))
            in_flight.received(place)
            look(in_flight, times=100)
            assert place.cut is None
            with refused("busy"), in_flight.hold("b", 1):
                pass

    @in_a_loop
    async def test_whoever_waits_for_the_rest_of_a_body_that_is_cut_is_woken(self) -> None:
        in_flight = InFlight(bounds(grace_s=0.1))
        with in_flight.hold("a", MB) as place, pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as place.timeout:
                await asyncio.Event().wait()
        assert place.cut is not None


class TestRoom:
    @in_a_loop
    async def test_where_room_runs_out_the_one_that_was_slow_for_longest_is_cut(self) -> None:
        in_flight = InFlight(bounds())
        with in_flight.hold("a", 5 * MB) as first, in_flight.hold("b", 5 * MB) as second:
            for place in (first, second):
                in_flight.take(place, bytes(4 * MB))
            look(in_flight, times=2)
            in_flight.take(second, bytes(MB // 2))
            look(in_flight)
            with in_flight.hold("c", 3 * MB) as third:
                in_flight.take(third, bytes(MB))
                assert [bool(place.cut) for place in (first, second, third)] == [True, False, False]
                assert in_flight.bodies == 2

    @in_a_loop
    async def test_a_healthy_body_is_not_cut_for_another_which_is_refused_before_it_is_read(self) -> None:
        in_flight = InFlight(bounds())
        with in_flight.hold("a", 8 * MB) as place:
            in_flight.take(place, bytes(MB))
            with refused("busy"), in_flight.hold("b", 3 * MB):
                pass
            assert place.cut is None

    @in_a_loop
    async def test_slow_bodies_keep_no_room_by_what_they_declare(self) -> None:
        in_flight = InFlight(bounds(max_bodies=100))
        with ExitStack() as stack:
            for number in range(90):
                stack.enter_context(in_flight.hold(f"slow-{number}", 3 * MB))
                look(in_flight, times=1)
            with in_flight.hold("healthy", 9 * MB) as place:
                in_flight.take(place, bytes(9 * MB))
                assert place.cut is None

    @in_a_loop
    async def test_where_places_run_out_the_slowest_makes_room_and_else_nobody(self) -> None:
        in_flight = InFlight(bounds(max_bodies=2))
        with in_flight.hold("a", MB) as slow, in_flight.hold("b", MB):
            with refused("busy"), in_flight.hold("c", MB):
                pass
            look(in_flight)
            with in_flight.hold("c", MB) as place:
                assert slow.cut is not None
                assert place.cut is None

    @in_a_loop
    async def test_a_slow_body_for_which_there_is_no_room_itself_is_cut(self) -> None:
        in_flight = InFlight(bounds())
        with in_flight.hold("a", 10 * MB) as slow:
            in_flight.take(slow, bytes(MB))
            look(in_flight)
            with in_flight.hold("b", 9 * MB) as other:
                in_flight.take(other, bytes(MB))
                with refused("slow_body"):
                    in_flight.take(slow, b"x")
                assert other.cut is None


class TestOneRobot:
    @in_a_loop
    async def test_one_robot_has_so_many_places_and_the_others_the_rest(self) -> None:
        in_flight = InFlight(bounds(max_bodies_per_robot=2))
        with in_flight.hold("a", 1), in_flight.hold("a", 1):
            with refused("robot_busy"), in_flight.hold("a", 1):
                pass
            with in_flight.hold("b", 1):
                pass
        with in_flight.hold("a", 1):
            pass

    @in_a_loop
    async def test_one_robot_has_so_many_bytes_but_always_one_body(self) -> None:
        in_flight = InFlight(bounds(max_bytes_per_robot=3 * MB))
        with in_flight.hold("a", 4 * MB):
            with refused("robot_busy"), in_flight.hold("a", 1):
                pass
            with in_flight.hold("b", MB), in_flight.hold("b", 2 * MB):
                pass


class TestJoins:
    @in_a_loop
    async def test_wholes_wait_for_their_turn_and_a_large_one_is_not_overtaken(self) -> None:
        in_flight, order = InFlight(bounds()), []

        async def join(robot: str, size: int) -> None:
            async with in_flight.join(robot, size):
                order.append(robot)
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group, in_flight.join("first", 3 * MB):
            for robot, size in (("large", 4 * MB), ("small", 1)):
                group.create_task(join(robot, size))
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            assert order == []
        assert order == ["large", "small"]
        assert in_flight.held_bytes == 0

    @in_a_loop
    async def test_a_whole_that_finds_no_room_in_time_is_told_to_come_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ingest_serve.in_flight.JOIN_WAIT_S", 0.05)
        in_flight = InFlight(bounds())
        async with in_flight.join("a", 4 * MB):
            with refused("busy"):
                async with in_flight.join("b", 1):
                    pass
        async with in_flight.join("b", 4 * MB):
            assert in_flight.held_bytes == 4 * MB
        assert in_flight.held_bytes == 0

    @in_a_loop
    async def test_whoever_stops_waiting_does_not_keep_the_others_waiting(self) -> None:
        in_flight, done = InFlight(bounds()), asyncio.Event()

        async def join(size: int) -> None:
            async with in_flight.join(f"robot-{size}", size):
                done.set()

        async with in_flight.join("a", 2 * MB):
            large = asyncio.create_task(join(4 * MB))
            await asyncio.sleep(0)
            small = asyncio.create_task(join(MB))
            await asyncio.sleep(0)
            large.cancel()
            async with asyncio.timeout(5):
                await done.wait()
            await small
        assert in_flight.held_bytes == 0

    @in_a_loop
    async def test_one_robot_does_not_take_all_turns(self) -> None:
        in_flight = InFlight(bounds())
        async with in_flight.join("a", 1), in_flight.join("a", 1):
            assert JOINS_PER_ROBOT == 2
            with refused("robot_busy"):
                async with in_flight.join("a", 1):
                    pass
            async with in_flight.join("b", 1):
                pass

    @in_a_loop
    async def test_a_whole_larger_than_all_the_room_is_refused_at_once(self) -> None:
        with refused("too_large"):
            async with InFlight(bounds()).join("a", 4 * MB + 1):
                pass

    @in_a_loop
    async def test_bodies_do_not_take_the_room_of_joins(self) -> None:
        in_flight = InFlight(bounds())
        with in_flight.hold("a", 10 * MB) as place:
            in_flight.take(place, bytes(10 * MB))
            async with in_flight.join("b", 4 * MB):
                assert in_flight.held_bytes == 14 * MB
