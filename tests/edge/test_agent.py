"""The agent does all of its work around the uploader: what a crash left, what others recorded, what has to go."""

from __future__ import annotations

import errno
import io
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge import segment
from edge.agent import Agent
from edge.asked import Asked, ask
from edge.chunks import MAGIC
from edge.disk import Disk
from edge.errors import AgentRuns, SpoolError
from edge.eviction import evict
from edge.policy import StreamPolicy
from edge.records import Topic
from edge.segment import Message, SegmentFacts, read_messages, sha256_of
from edge.settings import EdgeSettings
from edge.spool import Spool, Spooled
from edge.state_file import read_state
from edge.status import overview, status
from edge.stream_log import StreamLog
from edge.wire import GAP_TYPE, MCAP_TYPE, Gap, Kind
from tests.edge.conftest import SpoolView
from tests.edge.delivering import QuickDisk, enrol
from tests.edge.ingest_double import IngestDouble, on_a_socket
from tests.faults.failing_disk import FailingDisk, SmallDisk

if TYPE_CHECKING:
    from tests.edge.conftest import ScriptedServer


RECORDING = "01J00000000000000000000000"
OLDER = "01H00000000000000000000000"
Until = Callable[..., None]


@pytest.fixture
def settings(tmp_path: Path, key: Ed25519PrivateKey, server: ScriptedServer) -> EdgeSettings:
    """An enrolled robot's."""
    folder = tmp_path / "robot"
    enrol(folder, key)
    return EdgeSettings(folder=folder, url=server.url, scan_s=0.02)


def bag(folder: Path, name: str) -> None:
    """A finished MCAP file with two messages, put there whole."""
    built = segment.build(Message(Topic("/chatter", "json"), 10**18 + n, n, b"{}") for n in range(2))
    assert built is not None
    folder.mkdir(exist_ok=True)
    (folder / "part").write_bytes(built[1])
    (folder / "part").rename(folder / name)


def test_until_empty_delivers_what_other_recorders_left(
    settings: EdgeSettings, server: ScriptedServer, tmp_path: Path
) -> None:
    bag(tmp_path / "bags", "walk_0.mcap")
    Agent(settings, adopt_from=[tmp_path / "bags"]).run(threading.Event(), until_empty=True, report=print)
    assert sum("stream=telemetry" in target for target in server.stored) == 1
    assert list(Spool(settings.folder).waiting()) == []


def test_adoption_goes_on_after_a_disk_error_and_tells(
    settings: EdgeSettings,
    server: ScriptedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    until: Callable[..., None],
) -> None:
    from edge import adopt as module  # taken when it is needed

    said: list[str] = []
    adopt, failures = module.adopt, iter([False, True, True])

    def sometimes_full(*arguments: object, **named: object) -> object:
        if next(failures, False):
            raise OSError(28, "No space left on device")
        return adopt(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "adopt", sometimes_full)
    (tmp_path / "bags").mkdir()
    stop = threading.Event()
    agent = Agent(settings, adopt_from=[tmp_path / "bags"])
    working = threading.Thread(target=agent.run, args=(stop,), kwargs={"until_empty": False, "report": said.append})
    working.start()
    try:
        until(lambda: sum("No space left" in line for line in said) == 2)
        bag(tmp_path / "bags", "walk_0.mcap")
        until(lambda: any("stream=telemetry" in target for target in server.stored))
    finally:
        stop.set()
        working.join()


def test_a_folder_to_adopt_from_that_is_not_there_is_told_at_the_start(settings: EdgeSettings, tmp_path: Path) -> None:
    agent = Agent(settings, adopt_from=[tmp_path / "nowhere"])
    with pytest.raises(SpoolError, match="nowhere is not a folder"):
        agent.run(threading.Event(), until_empty=True, report=print)


# -- at work ---------------------------------------------------------------------------------------------------


@pytest.fixture
def ingest(key: Ed25519PrivateKey) -> IngestDouble:
    return IngestDouble(key.public_key())


@pytest.fixture
def url(ingest: IngestDouble) -> Iterator[str]:
    with on_a_socket(ingest) as url:
        yield url


@dataclass
class AtWork:
    """An agent in a thread of its own, and what it said."""

    agent: Agent
    said: list[str]
    spool: Spool

    @property
    def alarms(self) -> list[str]:
        return self.agent.link.alarms

    def state(self) -> dict[str, Any]:
        return read_state(self.spool.agent_state_path)


@pytest.fixture
def at_work(tmp_path: Path, key: Ed25519PrivateKey, url: str) -> Callable[..., Any]:
    @contextmanager
    def run(*, disk: Disk | None = None, adopt_from: Iterable[Path] = (), **changed: Any) -> Iterator[AtWork]:
        folder = tmp_path / "robot"
        enrol(folder, key)
        quick = {"scan_s": 0.01, "max_backoff_s": 0.02, "min_free_bytes": 0}
        settings = EdgeSettings(folder=folder, url=url, **{**quick, **changed})
        spool = Spool(folder, disk=disk or QuickDisk())
        one, stop = AtWork(Agent(settings, spool=spool, adopt_from=adopt_from), [], spool), threading.Event()
        failed: list[BaseException] = []

        def work() -> None:
            try:
                one.agent.run(stop, until_empty=False, report=one.said.append)
            except BaseException as error:  # noqa: BLE001 - raised below
                failed.append(error)

        working = threading.Thread(target=work)
        working.start()
        try:
            yield one
        finally:
            stop.set()
            working.join(20)
        assert not working.is_alive()
        if failed:
            raise failed[0]

    return run


def seal(spool: Spool, seq: int, *, stream: str = "head", size: int = 100_000) -> Spooled:
    """A segment of so many bytes, of one message."""
    body = MAGIC + random.Random(seq).randbytes(size - 2 * len(MAGIC)) + MAGIC
    at_ns = 10**18 + seq
    facts = SegmentFacts(at_ns, at_ns + 1, size, sha256_of(body), {"/t": 1})
    kind: Kind = "telemetry" if stream == "telemetry" else "video"
    return spool.add((RECORDING, stream, seq), facts, body, kind=kind, content_type=MCAP_TYPE)


def test_a_second_agent_on_the_folder_is_refused_until_the_first_ends(
    at_work: Callable[..., Any], until: Until, settings: EdgeSettings
) -> None:
    other = Agent(settings)
    with at_work() as first:
        until(lambda: first.state().get("is_running"))
        with pytest.raises(AgentRuns, match="another agent runs on"):
            other.run(threading.Event(), until_empty=True, report=print)
        assert first.state()["is_running"], "who was refused tells nothing"
    other.run(threading.Event(), until_empty=True, report=print)


def test_a_lock_that_cannot_be_used_is_told_in_a_sentence(settings: EdgeSettings) -> None:
    spool = Spool(settings.folder)
    spool.agent_lock_path.mkdir()
    with pytest.raises(SpoolError, match=r"agent\.lock cannot be used: Is a directory"):
        Agent(settings).run(threading.Event(), until_empty=True, report=print)


def test_an_agent_that_was_killed_leaves_no_lock(settings: EdgeSettings, tmp_path: Path, until: Until) -> None:
    words = ["run", "--folder", str(settings.folder), "--url", settings.url]
    process = subprocess.Popen([sys.executable, "-m", "edge", *words])
    try:
        until(lambda: read_state(Spool(settings.folder).agent_state_path).get("pid") == process.pid)
        with pytest.raises(AgentRuns):
            Agent(settings).run(threading.Event(), until_empty=True, report=print)
    finally:
        process.kill()
        process.wait()
    Agent(settings).run(threading.Event(), until_empty=True, report=print)


def test_what_the_agent_knows_is_told_while_it_runs_and_after(
    at_work: Callable[..., Any], ingest: IngestDouble, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.agent.TELL_S", 0.0)
    with at_work(metered="yes") as one:
        with recorder_of(one.spool):
            added = seal(one.spool, 0)
        until(lambda: one.state().get("link", {}).get("uploaded_bytes", 0) >= added.bytes)
        state = one.state()
        assert (state["is_running"], state["pid"], state["alarms"]) == (True, os.getpid(), [])
        assert state["link"]["uploaded"] >= 1
        assert (state["link"]["metered"], state["link"]["failures_in_a_row"]) == (True, 0)
        assert abs(state["told_ns"] - time.time_ns()) < 60 * 10**9
        until(lambda: (one.state()["clock"] or {}).get("uncertainty_ns"))
        ingest.script = [ingest.cut] * 10_000
        with recorder_of(one.spool):
            waits = seal(one.spool, 1)
        until(lambda: one.state()["spool"]["waiting_bytes"] >= waits.bytes and one.state()["link"]["failures_in_a_row"])
        assert "ConnectionError" in one.state()["link"]["last_error"]
        ingest.script.clear()
        until(lambda: not list(one.spool.waiting()))
    assert one.state()["is_running"] is False
    assert overview(one.spool).agent == one.state()


@pytest.mark.parametrize("kind", ["create", "rename", "sync", "sync_folder", "unlink", "open_append", "mkdir"])
def test_a_disk_that_refuses_anything_ends_no_agent(
    at_work: Callable[..., Any], until: Until, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    """While it lasts nothing is lost, and after it everything is delivered."""
    for name in ("RECOVER_S", "TIDY_S", "TELL_S"):
        monkeypatch.setattr(f"edge.agent.{name}", 0.0)
    disk = FailingDisk()
    with at_work(disk=disk, max_bytes=1 << 20, ledger_days=0.0) as one:
        kept = Spool(one.spool.folder)
        _dead_recording(kept)
        fault = disk.fail(kind, error=errno.EIO)
        with recorder_of(kept):
            for seq in range(15):
                seal(kept, seq)
        until(lambda: fault.fired >= 20 or kind == "mkdir")
        disk.heal()
        until(lambda: not list(kept.waiting()))
        until(lambda: not list((kept.folder / "open").iterdir()))
        until(lambda: not list(kept.waiting()))
    lines = {line.stream: line for line in status(kept)}
    assert lines["head"].recorded == lines["head"].uploaded + lines["head"].dropped == 15
    assert lines["telemetry"].uploaded == 3
    assert not list((kept.folder / "sealed").rglob("*.*"))


@contextmanager
def recorder_of(spool: Spool) -> Iterator[None]:
    """What is sealed here is sealed by a live recorder."""
    lock = _lock(spool, RECORDING)
    yield
    spool.release_recording(RECORDING, lock)


def _lock(spool: Spool, recording: str) -> int:
    """A recorder's lock; whoever looks for the dead may hold it for a moment."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(SpoolError):
            return spool.lock_recording(recording)
    raise TimeoutError


def _dead_recording(spool: Spool) -> None:
    """A journal of three messages whose recorder is gone."""
    recorder = _lock(spool, OLDER)
    log = StreamLog(spool, OLDER, "telemetry", kind="telemetry", settings=EdgeSettings(folder=spool.folder))
    for n in range(3):
        log.append(Topic("/t", "json"), 5 + n, n, b"{}")
    log.sync(now=True)
    os.close(recorder)


def test_a_recorder_that_dies_while_the_agent_runs_is_recovered_by_it(
    at_work: Callable[..., Any], ingest: IngestDouble, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.agent.RECOVER_S", 0.05)
    with at_work() as one:
        code = (
            "import sys, time; from edge.recorder import Recorder; recorder = Recorder(sys.argv[1]);"
            "[recorder.log('/t', 1 + n, {}) for n in range(5)]; recorder.flush();"
            "print(recorder.recording_id, flush=True); time.sleep(60)"
        )
        words = [sys.executable, "-c", code, str(one.spool.folder)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as recorder:
            assert recorder.stdout is not None
            recording = recorder.stdout.readline().strip()
            until(lambda: any(recording in key for key in ingest.objects), limit_s=30)
            assert not any("/telemetry/" in key for key in ingest.objects), "a live recorder is left alone"
            recorder.kill()
        until(lambda: ingest.stored(recording, "telemetry"))
        until(lambda: not list(one.spool.waiting()))
        until(lambda: not (one.spool.folder / "open" / recording).exists())
    messages = list(read_messages(io.BytesIO(ingest.stored(recording, "telemetry")[0].body)))
    assert [one.t_ns for one in messages] == [1, 2, 3, 4, 5]
    assert f"{recording}: closed after a crash" in one.said


def test_over_its_budget_the_least_valuable_goes_and_is_told(
    at_work: Callable[..., Any], ingest: IngestDouble, until: Until
) -> None:
    ingest.script = [ingest.cut] * 100_000
    with at_work(max_bytes=1 << 20) as one:
        with recorder_of(one.spool):
            for seq in range(4):
                seal(one.spool, seq, stream="telemetry")
            for seq in range(12):
                seal(one.spool, seq)
        until(lambda: any("had to go" in line for line in one.said))
        until(lambda: sum(path.stat().st_size for path in one.spool.folder.rglob("*.mcap")) <= 1 << 20)
        assert any("had to go" in text for text in one.alarms)
        ingest.script.clear()
        until(lambda: not list(one.spool.waiting()))
    assert sorted(ingest.stored(RECORDING, "telemetry")) == [0, 1, 2, 3]
    head = ingest.stored(RECORDING, "head")
    gaps = [Gap.parse(stored.body) for stored in head.values() if stored.content_type == GAP_TYPE]
    gone = [seq for gap in gaps for seq in range(gap.first_seq, gap.last_seq + 1)]
    arrived = [seq for seq, stored in head.items() if stored.content_type == MCAP_TYPE]
    assert gone == list(range(len(gone))), "the oldest of them"
    assert sorted(gone + arrived) == list(range(12))
    assert 4 <= len(gone) <= 8, "and no more than needed, and a little room"
    lines = {line.stream: line for line in status(one.spool)}
    assert (lines["head"].dropped, lines["head"].uploaded) == (len(gone), len(arrived))


def test_a_disk_that_others_fill_is_kept_free(
    at_work: Callable[..., Any], tmp_path: Path, ingest: IngestDouble, until: Until
) -> None:
    ingest.script = [ingest.cut] * 100_000
    disk = SmallDisk(tmp_path, 4 << 20)
    with at_work(disk=disk, min_free_bytes=1 << 20) as one:
        with recorder_of(one.spool):
            for seq in range(10):
                seal(one.spool, seq)
        assert not any("had to go" in line for line in one.said)
        disk.capacity_bytes = disk.used_bytes + (1 << 19)
        until(lambda: any("had to go" in line for line in one.said))
        until(lambda: disk.free_bytes(tmp_path) >= 1 << 20)
        ingest.script.clear()
        until(lambda: not list(one.spool.waiting()))
    assert [line.recorded for line in status(one.spool)] == [10]


def test_an_eviction_that_left_no_room_for_its_record_tells_it_later(
    at_work: Callable[..., Any], ingest: IngestDouble, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others take each byte that becomes free; then they are gone."""
    monkeypatch.setattr("edge.agent.RECOVER_S", 0.05)
    ingest.script = [ingest.cut] * 100_000
    disk = FailingDisk()
    with at_work(disk=disk, max_bytes=1 << 20) as one:
        fault = disk.fail("create", where=lambda path: path.suffix == ".tmp" and path.stem.endswith((".gap", ".parts")))
        kept = Spool(one.spool.folder)
        with recorder_of(kept):
            for seq in range(12):
                seal(kept, seq)
        until(lambda: fault.fired >= 2)
        assert [line.recorded for line in status(kept)] == [12]
        disk.heal()
        until(lambda: any(item.is_gap for item in kept.waiting()))
        ingest.script.clear()
        until(lambda: not list(kept.waiting()))
    (line,) = status(kept)
    assert line.uploaded + line.dropped == 12
    assert not list(kept.folder.rglob("*.evicted"))


def test_a_full_disk_at_the_start_keeps_nothing_from_being_uploaded(
    at_work: Callable[..., Any], tmp_path: Path, until: Until
) -> None:
    bag(tmp_path / "bags", "walk_0.mcap")
    disk = FailingDisk()
    kept = Spool(tmp_path / "robot")
    _dead_recording(kept)
    added = seal(kept, 0)
    disk.fail("create", "mkdir", where=lambda path: RECORDING not in str(path))
    with at_work(disk=disk, adopt_from=[tmp_path / "bags"]) as one:
        until(lambda: kept.acknowledged(RECORDING) == [added])
        assert any("adopting: [Errno 28] No space left" in line for line in one.said)
        assert any("cannot be recovered now" in line for line in one.said)
        disk.heal()
        until(lambda: any("walk_0.mcap: 2 messages" in line for line in one.said))
        until(lambda: not list(kept.waiting()))


def test_what_is_kept_on_the_robot_does_not_keep_an_agent_from_ending(
    tmp_path: Path, key: Ed25519PrivateKey, url: str, ingest: IngestDouble
) -> None:
    folder = tmp_path / "robot"
    enrol(folder, key)
    policies = {"head": StreamPolicy(send="unmetered"), "lidar": StreamPolicy(send="on_request")}
    settings = EdgeSettings(folder=folder, url=url, scan_s=0.01, metered="yes", streams=policies)
    spool = Spool(folder)
    for stream in ("head", "lidar", "telemetry"):
        for seq in range(2):
            seal(spool, seq, stream=stream)

    def run(**changed: Any) -> list[str]:
        agent = Agent(settings.model_copy(update=changed))
        agent.run(threading.Event(), until_empty=True, report=print)
        return sorted({item.stream for item in spool.waiting()})

    assert run() == ["head", "lidar"]
    assert run(metered="no") == ["lidar"]
    ask(spool, Asked("lidar", "*", 10**18, 10**18 + 1))
    assert run() == ["lidar"]
    assert sorted(ingest.stored(RECORDING, "lidar")) == [0]


def test_an_agent_starts_on_a_folder_in_which_much_is_damaged(
    at_work: Callable[..., Any], tmp_path: Path, ingest: IngestDouble, until: Until
) -> None:
    seen = SpoolView(Spool(tmp_path / "robot", disk=QuickDisk()))
    spool = seen.spool
    added = [seen.add(seq) for seq in range(4)]
    spool.remember(seen.add(4), key="k", server_time_ns=1)
    spool.quarantine(seen.add(5), "bad_body: x", leaves_gap=False)
    (gap,) = evict(spool, [seen.add(seq).stem for seq in (6, 7)])
    ask(spool, Asked("*"))
    (request,) = (spool.folder / "requests").iterdir()
    damaged = {
        spool.facts_path(added[1]): b"\0" * 100,
        spool.facts_path(added[2]): b"",
        spool.data_path(added[3]): b"what was it",
        spool.data_path(gap): b"",
        spool.data_path(gap).with_suffix(".parts"): b"{",
        spool.folder / "ledger" / f"{RECORDING}.jsonl": b"\xff{}\n\n\0",
        spool.folder / "ledger" / "folded.jsonl": b'{"recording": 7}\n',
        spool.folder / "quarantine" / RECORDING / "telemetry" / "0000000005.json": b"x" * 50,
        request: b"[]",
        spool.agent_state_path: b"{",
    }
    for path, content in damaged.items():
        path.write_bytes(content)
    with at_work() as one:
        until(lambda: not list(one.spool.waiting()))
    stored = ingest.stored(RECORDING, "telemetry")
    assert sorted(stored) == [0, 1, 2, 3, 4, 6]
    assert {seq for seq, item in stored.items() if item.content_type == GAP_TYPE} == {3, 6}
    told = Gap.parse(stored[6].body)
    assert (told.first_seq, told.last_seq, told.counts) == (6, 7, {"/t": 6})
    kept = spool.folder / "quarantine" / RECORDING / "telemetry"
    assert (kept / "0000000003.mcap").read_bytes() == b"what was it"
    assert (kept / "0000000005.mcap").exists(), "what was set aside stays, also without its reason"
