"""Only a plain no makes a link unmetered; whatever else happens, it is taken as costly, with the reason in words."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edge import metered
from edge.metered import NETWORK_MANAGER, Link, Metered


def _answers(status: int, printed: str) -> Callable[[Sequence[str]], tuple[int, str]]:
    return lambda _: (status, printed)


def _raises(error: Exception) -> Callable[[Sequence[str]], tuple[int, str]]:
    def run(_words: Sequence[str]) -> tuple[int, str]:
        raise error

    return run


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not answer is given up soon."""
    monkeypatch.setattr(metered, "LIMIT_S", 0.2)


def _script(folder: Path, *lines: str) -> str:
    path = folder / "is metered"  # with a space, as a folder of a person may have one
    path.write_text("\n".join(["#!/bin/sh", *lines]))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return f"'{path}' --now"


def test_the_settings_can_say_it() -> None:
    assert Metered("yes").link() == Link(True, "by the settings")
    assert Metered("no").link() == Link(False, "by the settings")


@pytest.mark.parametrize(
    ("content", "is_metered"),
    [("yes", True), ("1\n", True), (" TRUE ", True), ("no\n", False), ("0", False), ("False\n", False)],
)
def test_a_file_says_it(tmp_path: Path, content: str, is_metered: bool) -> None:
    (tmp_path / "metered").write_text(content)
    link = Metered("file", path=tmp_path / "metered").link()
    assert link == Link(is_metered, f"{tmp_path / 'metered'} says {content.strip()}")


@pytest.mark.parametrize("content", [b"", b"perhaps", b"no way", b"\xff\xfe", b"no\nyes"])
def test_a_file_that_says_neither_is_doubt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metered").write_bytes(content)
    link = Metered("file", path=tmp_path / "metered").link()
    assert link.metered
    assert "must say yes or no" in link.reason


@pytest.mark.parametrize(("path", "why"), [("missing", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_doubt(tmp_path: Path, path: str, why: str) -> None:
    link = Metered("file", path=tmp_path / path).link()
    assert link.metered
    assert f"{tmp_path / path} cannot be read: {why}" in link.reason


def test_a_file_that_never_opens_keeps_nobody_waiting(tmp_path: Path, soon: None, until: Callable[..., None]) -> None:
    path = tmp_path / "metered"
    os.mkfifo(path)
    now_s = 0.0
    link = Metered("file", path=path, clock=lambda: now_s)
    threads = threading.active_count()
    for now_s in (0.0, 20.0, 40.0):  # noqa: B007 - the clock reads it
        assert link.link() == Link(True, "there was no answer within 0.2 s")
    assert threading.active_count() <= threads + 1
    with path.open("wb"):  # lets the reader go on
        path.unlink()
        path.write_text("no")
    until(lambda: not link.link().metered)


@pytest.mark.parametrize(
    ("line", "is_metered", "reason"),
    [
        ("exit 0", True, "ended with 0"),
        ("exit 1", False, "ended with 1"),
        ("exit 2", True, "ended with 2, which means nothing"),
        ("kill -9 $$", True, "ended with -9, which means nothing"),
        ('test "$1" = --now', True, "ended with 0"),
        ("echo a word; sleep 60 & exit 1", False, "ended with 1"),
    ],
)
def test_a_command_says_it_by_its_exit_status(tmp_path: Path, line: str, is_metered: bool, reason: str) -> None:
    link = Metered("command", command=_script(tmp_path, line)).link()
    assert link.metered is is_metered
    assert link.reason.endswith(f"is metered {reason}")


@pytest.mark.parametrize("line", ["sleep 60", "sleep 60 & wait", "exec >&-; sleep 60", "yes", "trap '' TERM; sleep 60"])
def test_a_command_that_does_not_end_is_doubt_and_is_ended(tmp_path: Path, soon: None, line: str) -> None:
    script = _script(tmp_path, f"exec 9>'{tmp_path}/alive'", "flock 9", line)
    link = Metered("command", command=script).link()
    assert link.metered
    assert "within 0.2 s" in link.reason
    # the lock is free once all of it has ended
    assert subprocess.run(["timeout", "20", "flock", tmp_path / "alive", "true"], check=False).returncode == 0


@pytest.mark.parametrize(("command", "why"), [("/no/such/command", "No such file"), ("/etc", "Permission denied")])
def test_a_command_that_cannot_be_run_is_doubt(command: str, why: str) -> None:
    link = Metered("command", command=command).link()
    assert link.metered
    assert f"{command} gave no answer" in link.reason
    assert why in link.reason


@pytest.mark.parametrize(
    ("printed", "link"),
    [
        ("u 1\n", Link(True, "NetworkManager says yes")),
        ("u 2\n", Link(False, "NetworkManager says no")),
        ("u 3\n", Link(True, "NetworkManager says guessed yes")),
        ("u 4\n", Link(False, "NetworkManager says guessed no")),
        ("u 0\n", Link(True, "NetworkManager does not know: 'u 0', exit status 0")),
        ("u 5\n", Link(True, "NetworkManager does not know: 'u 5', exit status 0")),
        ("", Link(True, "NetworkManager does not know: '', exit status 0")),
    ],
)
def test_network_manager_says_or_guesses_it(printed: str, link: Link) -> None:
    assert Metered("networkmanager", run=_answers(0, printed)).link() == link


def test_network_manager_that_fails_is_doubt_whatever_it_prints() -> None:
    link = Metered("networkmanager", run=_answers(1, "u 2\n")).link()
    assert link == Link(True, "NetworkManager does not know: 'u 2', exit status 1")


@pytest.mark.parametrize("error", [FileNotFoundError("no busctl"), TimeoutError("it did not end")])
def test_a_robot_without_network_manager_is_doubt(error: Exception) -> None:
    link = Metered("networkmanager", run=_raises(error)).link()
    assert link == Link(True, f"NetworkManager gave no answer: {error}")


def test_network_manager_is_asked_over_its_bus() -> None:
    asked: list[list[str]] = []
    Metered("networkmanager", run=lambda words: (asked.append(list(words)), (0, "u 2"))[1]).link()
    assert asked == [NETWORK_MANAGER.split()]
    assert asked[0][:2] == ["busctl", "get-property"]


def test_an_error_nobody_thought_of_is_doubt() -> None:
    assert Metered("networkmanager", run=_raises(KeyError("surprise"))).link() == Link(True, "KeyError: 'surprise'")


def test_the_output_of_a_command_comes_with_its_status(tmp_path: Path) -> None:
    assert metered.run_command(["sh", "-c", "echo u 4; exit 3"]) == (3, "u 4\n")
    assert metered.run_command(["sh", "-c", "echo wrong >&2"]) == (0, "wrong\n")
    assert metered.run_command(["sh", "-c", "sleep 5 & exit 0"]) == (0, "")
    status, printed = metered.run_command(["head", "-c", "60000", "/dev/zero"])
    assert (status, len(printed)) == (0, metered.MAX_OUTPUT_BYTES)


def test_the_answer_is_kept_for_a_while(tmp_path: Path) -> None:
    path, now_s = tmp_path / "metered", 100.0
    path.write_text("yes")
    link = Metered("file", path=path, check_every_s=10.0, clock=lambda: now_s)
    assert link.link().metered
    path.write_text("no")
    now_s = 109.9
    assert link.link().metered
    now_s = 110.0
    assert not link.link().metered


def test_many_threads_share_one_check() -> None:
    gate, asked, found = threading.Event(), [], []

    def run(words: Sequence[str]) -> tuple[int, str]:
        asked.append(words)
        gate.wait(20)
        return 0, "u 2"

    link = Metered("networkmanager", run=run, clock=lambda: 0.0)
    threads = [threading.Thread(target=lambda: found.append(link.link())) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(20)
    assert found == [Link(False, "NetworkManager says no")] * 8
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"how": "file"}, "metered by file needs a path"),
        ({"how": "command", "command": " "}, "metered by command needs a command"),
        ({"how": "command", "command": "'open"}, "No closing quotation"),
        ({"how": "wifi"}, "metered must be one of no, yes, file, command, networkmanager, got 'wifi'"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_at_once(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Metered(**wrong)
