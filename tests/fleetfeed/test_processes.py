from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fleetfeed.processes import end_marked, is_alive, mark, marked, wait_until

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
ORPHAN = "import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(600)"
RETITLED = (
    "import ray._raylet, time; ray._raylet.setproctitle('another ' * 50); print('done', flush=True); time.sleep(600)"
)


@pytest.fixture
def stack_id() -> Iterator[str]:
    made = secrets.token_hex(8)
    yield made
    end_marked(made, grace_s=0)


def start(code: str, stack_id: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **mark(stack_id)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


def test_a_process_that_ignores_the_request_is_killed(stack_id: str) -> None:
    deaf = start(DEAF, stack_id)
    assert deaf.stdout is not None
    deaf.stdout.readline()
    assert end_marked(stack_id, grace_s=0.2)
    assert deaf.wait(5) < 0


def test_a_process_whose_parent_is_gone_is_found(stack_id: str) -> None:
    start(ORPHAN, stack_id).wait(5)
    assert len(marked(stack_id)) == 1
    assert end_marked(stack_id)
    assert marked(stack_id) == []


def test_a_process_of_another_stack_is_left_alone(stack_id: str) -> None:
    other_id = secrets.token_hex(8)
    other = start("import time; time.sleep(600)", other_id)
    try:
        assert wait_until(lambda: bool(marked(other_id)), limit_s=5)
        assert end_marked(stack_id)
        assert is_alive(psutil.Process(other.pid))
    finally:
        end_marked(other_id, grace_s=0)
        other.wait(5)


def test_a_zombie_counts_as_ended(stack_id: str) -> None:
    zombie = start("pass", stack_id)
    process = psutil.Process(zombie.pid)
    assert wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE, limit_s=5)
    assert marked(stack_id) == []
    assert not is_alive(process)
    zombie.wait()


def test_a_new_process_title_does_not_wipe_out_the_mark(stack_id: str) -> None:
    retitled = start(RETITLED, stack_id)
    assert retitled.stdout is not None
    assert retitled.stdout.readline() == "done\n"
    assert [process.pid for process in marked(stack_id)] == [retitled.pid]


def test_the_reaper_ends_everything_once_its_pipe_is_closed(stack_id: str, tmp_path: Path) -> None:
    left_over = tmp_path / "socket"
    left_over.touch()
    start(ORPHAN, stack_id).wait(5)
    command = [sys.executable, "-m", "fleetfeed.reaper", stack_id, str(left_over), str(tmp_path / "absent")]
    reaper = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert len(marked(stack_id)) == 1
    reaper.communicate()
    assert reaper.returncode == 0
    assert marked(stack_id) == []
    assert not left_over.exists()
