"""SIGKILL again and again on one robot's folder: what was flushed is there, in order, once, here or at the server."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.recovery import recover
from edge.spool import Spool
from tests.edge.conftest import ScriptedServer
from tests.faults.campaign import run_trials
from tests.faults.killing import Life, agent_until, deliver, enrol, live_and_die
from tests.faults.recorded import check_whole, name_in, stored, waiting

LIVES = 6


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    one = ScriptedServer()
    yield one
    one.close()


def flushed_in(lives: list[Life]) -> dict[str, int]:
    """The rounds that each recording had flushed."""
    return {life.recording: life.rounds for life in lives if life.recording}


def test_a_recorder_killed_at_any_moment_keeps_what_was_flushed(tmp_path: Path) -> None:
    starts_s: list[float] = []

    def trial(seed: int, folder: Path) -> None:
        dice = random.Random(seed)
        lives = [live_and_die(folder, dice=dice) for _ in range(LIVES)]
        recover(Spool(folder))
        check_whole(waiting(folder), flushed=flushed_in(lives))
        assert not list((folder / "open").iterdir())
        starts_s.extend(life.start_s for life in lives if life.start_s is not None)

    run_trials(trial, tmp_path, test=4, soak=170)
    print(f"{len(starts_s)} recorders started after a kill, in {max(starts_s, default=0.0):.3f} s at most")


def test_a_recorder_and_its_agent_killed_at_any_moment_deliver_what_was_flushed_once(
    tmp_path: Path, server: ScriptedServer
) -> None:
    def trial(seed: int, folder: Path) -> None:
        server.stored.clear()
        server.requests.clear()
        dice = random.Random(seed)
        enrol(folder)
        lives = []
        for _ in range(LIVES):
            with agent_until(folder, server.url):
                lives += [live_and_die(folder, dice=dice) for _ in range(dice.randint(1, 2))]
        deliver(folder, server.url)
        check_whole(stored(server), flushed=flushed_in(lives))
        assert list(Spool(folder).waiting()) == []
        sent = {(name_in(request.target), request.headers["Content-Digest"]) for request in server.requests}
        assert len(sent) == len({name for name, _ in sent}), "one name, two contents"

    run_trials(trial, tmp_path, test=2, soak=60)
