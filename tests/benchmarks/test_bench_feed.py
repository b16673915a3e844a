"""The feed's benchmark compares like with like, and ends with what programs read; figures are no test's business."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from benchmarks import feed_footage, feed_lake
from benchmarks.feed_check import check
from benchmarks.feed_lake import PICTURES, SMALL
from benchmarks.feed_latency import far
from benchmarks.feed_loops import Asked, Limit, look, numbers_of, ours
from benchmarks.feed_packets import ORIGINAL, Footage
from benchmarks.feed_page import BEGIN, END, PAGE, fill, plot
from benchmarks.measure import BenchmarkFailed
from dataset_catalog.storage import Storage

ROOT = Path(__file__).parents[2]
SHAPE = {"episodes": 2, "frames": 30}


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Footage:
    footage = Footage(tmp_path_factory.mktemp("footage"), **SHAPE)
    for episode in range(footage.episodes):
        feed_footage.make_one(footage, episode)
    return footage


@pytest.fixture(scope="module")
def asked(footage: Footage, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    lake = tmp_path_factory.mktemp("lake")
    feed_lake.write_footage(Storage.open(str(lake)), footage)
    return Asked(lake=str(lake), frames_each=footage.frames, rendition=SMALL, batch=8)


class Looked:
    """A side that was looked at already."""

    name = "a side"

    def __init__(self, batch: dict[str, Any]) -> None:
        self._batch = batch

    def look(self) -> dict[str, Any]:
        return self._batch


def looked(asked: Asked) -> dict[str, Any]:
    return {name: value.copy() for name, value in look(next(ours(asked)), frames_each=asked.frames_each).items()}


@pytest.mark.parametrize(("rendition", "frames"), [(SMALL, 3), (PICTURES, 1)])
def test_what_our_side_delivers_is_what_was_recorded(
    asked: Asked, footage: Footage, rendition: str, frames: int
) -> None:
    side = Looked(looked(replace(asked, rendition=rendition, frames=frames)))

    assert 35 < check(side, footage) < 60  # type: ignore[arg-type]


def test_another_frame_and_another_number_are_found(asked: Asked, footage: Footage) -> None:
    other_frame, other_number = looked(asked), looked(asked)
    other_frame["image"] = np.roll(other_frame["image"], 1, axis=0)
    other_number["action"][3, 15, 25] += 0.001

    with pytest.raises(BenchmarkFailed, match="another picture"):
        check(Looked(other_frame), footage)  # type: ignore[arg-type]
    with pytest.raises(BenchmarkFailed, match="other numbers of action"):
        check(Looked(other_number), footage)  # type: ignore[arg-type]


@pytest.mark.parametrize(("rendition", "order"), [(SMALL, "grouped"), (ORIGINAL, "random"), (ORIGINAL, "sequential")])
def test_the_limit_delivers_the_same_tensors_as_our_side(asked: Asked, rendition: str, order: Any) -> None:
    one = replace(asked, rendition=rendition, order=order)

    for found, batch in islice(zip(Limit(one).batches(), ours(one), strict=False), 3):
        np.testing.assert_array_equal(found["number"], numbers_of(batch, one.frames_each))
        np.testing.assert_array_equal(found["image"], batch[feed_lake.CAMERA])


def test_a_far_server_answers_the_same_and_later() -> None:
    with _echo() as server, far(server, delay_s=0.03) as url:
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname, parts.port), timeout=10) as client:
            started = time.monotonic()
            client.sendall(bytes(range(256)) * 1000)
            client.shutdown(socket.SHUT_WR)
            found = b"".join(iter(lambda: client.recv(1 << 16), b""))

    assert found == bytes(range(256)) * 1000
    assert time.monotonic() - started >= 0.06


class _echo:
    """A server that sends back what it gets, to one client."""

    def __enter__(self) -> str:
        self._listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def _serve(self) -> None:
        client, _ = self._listening.accept()
        with client:
            while piece := client.recv(1 << 16):
                client.sendall(piece)

    def __exit__(self, *_: object) -> None:
        self._listening.close()


def test_the_page_tells_what_was_met_missed_and_not_measured() -> None:
    about = {"unit": "of limit", "ran": "7 rounds", "seen": "8 | 10 windows/CPU-s"}
    rows: list[dict[str, Any]] = [
        {"name": "random224_vs_limit", "value": 0.8123, "goal": 0.8, "meets": True, **about},
        {"name": "open_1e7_vs_1e6", "value": 2.4, "goal": 1.2, "meets": False, **about},
        {"name": "k1_vs_lerobot", "value": None, "goal": 2.0, "meets": None, "unit": "of lerobot", "reason": "no pip"},
    ]

    page = fill(f"# Benchmarks\n{BEGIN}\nold\n{END}\nmore\n", rows, "2 cores")
    twice = fill(page, rows, "2 cores")

    assert page == twice
    assert "old" not in page
    assert "| `random224_vs_limit` | 0.812 of limit | ≥ 0.8 | met | 8 and 10 windows/CPU-s | 7 rounds |" in page
    assert "| `open_1e7_vs_1e6` | 2.4 of limit | ≤ 1.2 | **missed** |" in page
    assert "| `k1_vs_lerobot` | not measured | ≥ 2 | | | no pip |" in page
    widths = [float(one) for one in re.findall(r'<rect x="230".*? width="([\d.]+)"', plot(rows))]
    assert widths == pytest.approx([0.8123 / 0.8 * 520 / 3, 0.5 * 520 / 3], abs=0.1)


def test_the_page_in_the_docs_can_be_filled() -> None:
    assert "2 cores" in fill(PAGE.read_text(), [], "2 cores")


def test_a_quick_run_ends_with_one_line_of_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.bench_feed", "--quick", "--folder", str(tmp_path)]
    command += ["--only", "open_1e7_vs_1e6", "--only", "k1_vs_lerobot"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    lerobot, opened = told["results"]
    assert told["benchmark"] == "feed"
    assert (opened["name"], opened["goal"]) == ("open_1e7_vs_1e6", 1.2)
    assert opened["meets"] is (opened["value"] <= 1.2)
    assert (lerobot["name"], lerobot["value"], lerobot["meets"]) == ("k1_vs_lerobot", None, None)
    assert "LeRobot" in lerobot["reason"]
