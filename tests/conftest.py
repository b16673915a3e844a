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

OWN_CLUSTERS = ("/test_demo.py", "/test_three_raylets.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several processes share the run (`pytest -n 2`), the tests of a file stay together. So do those of files
    that need the stack, so that there is one stack, and of those that start a Ray cluster of their own beside it: two
    that start at once on two cores take longer than Ray waits."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "stack" if file.endswith(OWN_CLUSTERS) or _needs_stack(config.rootpath / file) else file

    return ByFile(config, log)


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
        try:
            yield info
        finally:
            embedded.down(run_dir)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """`FLEETFEED_REAL_DATA`: g1/ (LeRobot v2.1) and rosbag2/ (MCAP files of the ROS 2 recorder)."""
    folder = os.environ.get("FLEETFEED_REAL_DATA")
    if not folder:
        pytest.skip("FLEETFEED_REAL_DATA is not set: no folder with real recordings")
    return Path(folder)
