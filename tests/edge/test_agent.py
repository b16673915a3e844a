"""The agent does all of its work around the uploader: what a crash left, what others recorded."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edge import segment
from edge.agent import Agent
from edge.errors import SpoolError
from edge.identity import KEY_FILE, ROBOT_FILE
from edge.segment import Message, Topic
from edge.settings import EdgeSettings
from edge.spool import Spool

if TYPE_CHECKING:
    from tests.edge.conftest import ScriptedServer


@pytest.fixture
def settings(tmp_path: Path, key: Ed25519PrivateKey, server: ScriptedServer) -> EdgeSettings:
    """An enrolled robot's."""
    folder = tmp_path / "robot"
    folder.mkdir()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / KEY_FILE).write_bytes(pem)
    (folder / ROBOT_FILE).write_text(json.dumps({"robot": "g1-007"}))
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
