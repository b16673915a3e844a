"""What the whole run shares: one embedded stack, and the folder with real recordings."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fleetfeed import stack as embedded
from fleetfeed.settings import StackSettings
from fleetfeed.stack import StackInfo

OWN_CLUSTERS = ("/test_demo.py", "/test_three_raylets.py", "/test_stack.py")
_running: list[Path] = []


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several processes share the run (`pytest -n 2`), the tests of a file stay together. So do those of files
    that need the stack, so that there is one stack, and of those that start a cluster of their own: two that start at
    once on two cores take longer than Ray waits."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file.endswith(OWN_CLUSTERS):
                return "clusters"
            return "stack" if _needs_stack(config.rootpath / file) else file

    return ByFile(config, log)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Where the tests that need the stack come one after the other, it ends with the last of them: idle, it takes a
    quarter of two cores."""
    shared = hasattr(item.config, "workerinput")
    if shared and _running and (nextitem is None or not _needs_stack(nextitem.path)):
        embedded.down(_running.pop())


@cache
def _needs_stack(file: Path) -> bool:
    return "stack: StackInfo" in file.read_text()


@pytest.fixture(scope="session")
def stack() -> Iterator[StackInfo]:
    """SeaweedFS, Ray, Serve and the TLS front on loopback, started once; ended with the run."""
    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
        run_dir = Path(folder) / "run"
        info = embedded.up(
            StackSettings(run_dir=run_dir, http_port=0, s3_port=0, dashboard_port=0, tls=True), report=print
        )
        _running.append(run_dir)
        try:
            yield info
        finally:
            if _running:
                embedded.down(_running.pop())


@pytest.fixture(scope="session")
def real_data() -> Path:
    """`FLEETFEED_REAL_DATA`: g1/ (LeRobot v2.1) and rosbag2/ (MCAP files of the ROS 2 recorder)."""
    folder = os.environ.get("FLEETFEED_REAL_DATA")
    if not folder:
        pytest.skip("FLEETFEED_REAL_DATA is not set: no folder with real recordings")
    return Path(folder)
