"""What the whole run shares: one embedded stack, and the folder with real recordings."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetfeed import stack as embedded
from fleetfeed.settings import StackSettings
from fleetfeed.stack import StackInfo


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the run (`pytest -n 3 --dist loadgroup`): one begins with whatever needs the
    stack, so that there is one stack; of the other tests, those of a file stay together."""
    for item in items:
        group = "stack" if _needs_stack(item) else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: not _needs_stack(item))


def _needs_stack(item: pytest.Item) -> bool:
    return "stack" in getattr(item, "fixturenames", ())


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
