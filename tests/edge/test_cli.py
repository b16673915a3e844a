"""The robot team's commands: they do what they say, and an error is one sentence and exit code 2."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge import __main__ as command
from edge import identity, signing
from edge.recorder import Recorder
from edge.spool import Spool, lock_file
from tests.edge.delivering import enrol
from tests.edge.ingest_double import IngestDouble, on_a_socket

if TYPE_CHECKING:
    from tests.edge.conftest import ScriptedServer, SpoolView

View = Callable[[Path], "SpoolView"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command in this process: exit code, standard output, standard error on one line."""
    monkeypatch.setattr(command.console, "_width", 1000)
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fleetfeed edge", *map(str, words)])
        monkeypatch.setattr(command.console, "_file", sys.stderr)
        try:
            command.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return code, out, " ".join(err.split())

    return call


@pytest.fixture
def enrolled(tmp_path: Path, server: ScriptedServer, run: Run) -> Path:
    server.script = [lambda _: server.json(201, {})]
    code, _, said = run("enrol", "g1-007", "--token", "t", "--folder", tmp_path / "robot", "--url", server.url)
    assert (code, "g1-007 is enrolled" in said) == (0, True)
    return tmp_path / "robot"


def _is_one_sentence(said: str) -> bool:
    return said.startswith("fleetfeed edge: ") and "Traceback" not in said and len(said) < 500


def test_the_module_runs_and_tells_its_commands() -> None:
    words = [sys.executable, "-m", "edge", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0
    for name in ("enrol", "rotate-key", "run", "status", "ask", "adopt", "replay-lerobot"):
        assert name in done.stdout


def test_a_robot_that_is_not_enrolled_is_told_how(tmp_path: Path, run: Run) -> None:
    code, _, said = run("run", "--folder", tmp_path, "--until-empty")
    assert code == 2
    assert _is_one_sentence(said)
    assert "run `fleetfeed edge enrol ROBOT --token …`" in said


def test_a_refused_enrolment_says_why(tmp_path: Path, server: ScriptedServer, run: Run) -> None:
    server.script = [lambda _: server.problem(403, "bad_token", "this token was used already")]
    code, _, said = run("enrol", "g1", "--token", "t", "--folder", tmp_path, "--url", server.url)
    assert (code, _is_one_sentence(said)) == (2, True)
    assert "this token was used already" in said


def test_a_server_that_is_not_there_is_told_in_a_sentence(tmp_path: Path, server: ScriptedServer, run: Run) -> None:
    server.close()
    code, _, said = run("enrol", "g1", "--token", "t", "--folder", tmp_path, "--url", server.url)
    assert (code, _is_one_sentence(said)) == (2, True)
    assert "could not be reached" in said


@pytest.mark.parametrize("source", ["missing", "file"])
def test_adopting_from_what_is_no_folder_is_told(tmp_path: Path, run: Run, source: str) -> None:
    (tmp_path / "file").touch()
    code, _, said = run("adopt", tmp_path / source, "--folder", tmp_path / "robot")
    assert (code, said) == (2, f"fleetfeed edge: {tmp_path / source} is not a folder")


def test_a_robots_folder_that_is_a_file_is_told(tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").touch()
    code, _, said = run("status", "--folder", tmp_path / "file")
    assert (code, _is_one_sentence(said)) == (2, True)
    assert "cannot be used as a robot's folder" in said


@pytest.mark.parametrize(("name", "value"), [("SEGMENT_S", "soon"), ("GOP_FRAMES", "0"), ("URL", "robots.example")])
def test_a_bad_value_in_the_environment_is_named(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"FLEETFEED_EDGE_{name}", value)
    code, _, said = run("status", "--folder", tmp_path)
    assert (code, _is_one_sentence(said)) == (2, True)
    assert said.startswith(f"fleetfeed edge: settings: {name.lower()}: ")
    assert said.endswith(f"got {value!r}")


@pytest.mark.parametrize("content", [None, "[edge", "[edge]\nspeed = 3\n", "edge = 3\n"])
def test_a_bad_settings_file_is_told_in_a_sentence(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setenv("FLEETFEED_CONFIG", str(tmp_path / "fleetfeed.toml"))
    if content is not None:
        (tmp_path / "fleetfeed.toml").write_text(content)
    code, _, said = run("status", "--folder", tmp_path)
    assert (code, _is_one_sentence(said)) == (2, True)
    assert said.startswith("fleetfeed edge: settings: ")


@pytest.mark.parametrize("words", [(), ("--episodes", "1,two")])
def test_replaying_what_is_no_dataset_is_told(tmp_path: Path, run: Run, words: tuple[str, ...]) -> None:
    code, _, said = run("replay-lerobot", tmp_path, "--folder", tmp_path / "robot", *words)
    assert (code, _is_one_sentence(said)) == (2, True)


def test_status_tells_what_is_where(tmp_path: Path, run: Run) -> None:
    with Recorder(tmp_path) as recorder:
        recorder.log("/t", 1, {})
        recorder.log("/t", 2, {})
    code, out, _ = run("status", "--folder", tmp_path, "--json")
    lines: dict[str, Any] = {line["stream"]: line for line in json.loads(out)["streams"]}
    assert code == 0
    assert (lines["telemetry"]["recorded"], lines["telemetry"]["waiting"], lines["_agent"]["waiting"]) == (2, 2, 2)
    code, out, _ = run("status", "--folder", tmp_path)
    assert code == 0
    assert re.search(r"telemetry\W+2\W+0\W+2\W+0", out)


def test_the_agent_uploads_what_a_recorder_left_and_ends(enrolled: Path, server: ScriptedServer, run: Run) -> None:
    with Recorder(enrolled) as recorder:
        recorder.log("/t", 1, {})
    code, _, said = run("run", "--folder", enrolled, "--url", server.url, "--until-empty")
    assert (code, "uploaded 3 segments" in said) == (0, True)
    assert len(server.stored) == 3
    assert not list(Spool(enrolled).waiting())


def test_adopting_uploads_what_was_adopted(
    enrolled: Path, tmp_path: Path, server: ScriptedServer, run: Run, view: View
) -> None:
    other = view(tmp_path / "other")
    added = other.add(0)
    (tmp_path / "bags").mkdir()
    (tmp_path / "bags" / "walk_0.mcap").write_bytes(other.body(added))
    code, _, said = run("adopt", tmp_path / "bags", "--folder", enrolled, "--url", server.url)
    assert (code, "walk_0.mcap: 3 messages, 1 segments" in said) == (0, True)
    assert len(server.stored) == 3
    code, _, _ = run("adopt", tmp_path / "bags", "--folder", enrolled, "--url", server.url, "--no-upload")
    assert (code, len(server.stored)) == (0, 3)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_running_agent_adopts_recovers_uploads_and_ends_when_told(
    enrolled: Path, tmp_path: Path, server: ScriptedServer, view: View, until: Callable[..., None], how: signal.Signals
) -> None:
    other = view(tmp_path / "other")
    body = other.body(other.add(0))
    (tmp_path / "bags").mkdir()
    words = ["run", "--folder", str(enrolled), "--url", server.url, "--adopt", str(tmp_path / "bags")]
    environment = {**os.environ, "FLEETFEED_EDGE_SCAN_S": "0.05"}
    process = subprocess.Popen([sys.executable, "-m", "edge", *words], env=environment, stderr=subprocess.PIPE)
    try:
        with Recorder(enrolled) as recorder:
            recorder.log("/t", 1, {})
        until(lambda: len(server.stored) == 3)
        (tmp_path / "bags" / "walk_0.mcap").write_bytes(body)
        (tmp_path / "bags" / "metadata.yaml").touch()
        until(lambda: len(server.stored) == 6)
        process.send_signal(how)
        _, said = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert b"uploaded 6 segments" in said
    assert not list(Spool(enrolled).waiting())


def test_the_bar_ends_with_the_upload(enrolled: Path, server: ScriptedServer, run: Run, view: View) -> None:
    for seq in range(3):
        view(enrolled).add(seq)
    threads = threading.active_count()
    source = enrolled / "empty"
    source.mkdir()
    code, _, _ = run("adopt", source, "--folder", enrolled, "--url", server.url)
    assert (code, len(server.stored)) == (0, 3)
    assert threading.active_count() <= threads + 2


def test_status_fits_a_narrow_screen_and_says_what_is_wrong(
    enrolled: Path, server: ScriptedServer, run: Run, until: Callable[..., None]
) -> None:
    with Recorder(enrolled) as recorder:
        recorder.image("chest_camera_left_wide", 1, np.zeros((16, 16, 3), np.uint8))
    server.script = [lambda _: server.problem(401, "unknown_key", "no such key")] * 10_000
    words = ["run", "--folder", str(enrolled), "--url", server.url]
    process = subprocess.Popen([sys.executable, "-m", "edge", *words])
    try:
        until(lambda: "unknown_key" in json.dumps(_overview(enrolled, run)["agent"]), limit_s=30)
        code, out, _ = run("status", "--folder", enrolled)
    finally:
        process.kill()
        process.wait()
    assert code == 0
    assert all(len(line) <= 80 for line in out.splitlines())
    for word in (
        "chest_camera_left_wide",
        "recorded",
        "quarantine",
        f"running (pid {process.pid})",
        "failures in a row",
    ):
        assert word in out
    assert "alarm: the server does not let this robot in: unknown_key: no such key" in " ".join(out.split())
    assert "last error: 401 unknown_key: no such key" in out


def _overview(folder: Path, run: Run) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(run("status", "--folder", folder, "--json")[1])
    assert told.keys() == {"streams", "agent", "recorders"}
    return told


def test_asking_has_the_agent_send_what_it_keeps(
    enrolled: Path, server: ScriptedServer, run: Run, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETFEED_CONFIG", str(enrolled / "fleetfeed.toml"))
    (enrolled / "fleetfeed.toml").write_text('[edge.streams.lidar]\nsend = "on_request"\n')
    added = [view(enrolled).add(seq, stream="lidar") for seq in range(4)]

    def sent() -> list[int]:
        assert run("run", "--folder", enrolled, "--url", server.url, "--until-empty")[0] == 0
        return sorted(int(key.rpartition("seq=")[2]) for key in server.stored)

    assert sent() == []
    times = ("--from", added[1].start_ns, "--to", added[2].start_ns + 1)
    code, _, said = run("ask", "lid*", "--folder", enrolled, "--recording", added[0].recording, *times)
    assert (code, said) == (0, "the agent uploads lid* as it finds the time")
    assert sent() == [1, 2]
    run("ask", "lidar", "--folder", enrolled)
    assert sent() == [0, 1, 2, 3]


def test_asking_for_an_empty_range_is_an_error(tmp_path: Path, run: Run) -> None:
    code, _, said = run("ask", "lidar", "--folder", tmp_path, "--from", 5, "--to", 5)
    assert (code, said) == (2, "fleetfeed edge: a request's range must not be empty, got 5..5")


def test_a_key_is_replaced_and_the_old_one_retired(
    tmp_path: Path, key: Ed25519PrivateKey, run: Run, view: View
) -> None:
    folder = tmp_path / "robot"
    enrol(folder, key)
    ingest = IngestDouble(key.public_key())
    view(folder).add(0)
    with on_a_socket(ingest) as url:
        code, _, said = run("rotate-key", "--folder", folder, "--url", url)
        assert (code, said) == (0, "g1-007 signs with a new key; the old one counts no longer")
        assert run("run", "--folder", folder, "--url", url, "--until-empty")[0] == 0
    now = identity.load(folder)
    assert [signing.public_bytes(one) for one in ingest.keys] == [now.public_key]
    assert now.key_id != signing.key_id(signing.public_bytes(key.public_key()))
    assert len(ingest.objects) == 1
    assert sorted(path.name for path in folder.glob("robot.key*")) == ["robot.key"]


def test_a_key_that_the_server_does_not_take_stays_as_it_was(tmp_path: Path, key: Ed25519PrivateKey, run: Run) -> None:
    folder = tmp_path / "robot"
    enrol(folder, key)
    ingest = IngestDouble(key.public_key())
    ingest.script = [ingest.refuse(503, "busy")]
    with on_a_socket(ingest) as url:
        code, _, said = run("rotate-key", "--folder", folder, "--url", url)
    assert (code, _is_one_sentence(said)) == (2, True)
    assert identity.load(folder).key_id == signing.key_id(signing.public_bytes(key.public_key()))


def test_a_second_agent_is_refused_in_a_sentence(enrolled: Path, server: ScriptedServer, run: Run) -> None:
    lock = lock_file(Spool(enrolled).agent_lock_path)
    assert lock is not None
    code, _, said = run("run", "--folder", enrolled, "--url", server.url, "--until-empty")
    assert (code, _is_one_sentence(said)) == (2, True)
    assert "another agent runs on" in said
    source = enrolled / "bags"
    source.mkdir()
    code, _, said = run("adopt", source, "--folder", enrolled, "--url", server.url)
    assert (code, "another agent runs on" in said) == (0, True), "it uploads what was adopted"
    os.close(lock)
