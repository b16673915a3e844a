"""LeRobot's dataset writer over episodes of the same lake, in an environment of its own.

LeRobot 0.4.4 wants torch < 2.11 and other releases of half of what we use: it never shares our environment. Making its
own takes gigabytes, minutes and a C compiler, and happens once.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import jobs_footage as footage
from benchmarks.environments import python_of
from benchmarks.jobs_lake import Put
from benchmarks.jobs_peers import Loop
from benchmarks.jobs_read_videos import as_mp4, packets_of
from benchmarks.measure import BenchmarkFailed
from edge.segment import read_messages
from ray_jobs.messages import decode

PINS = ("lerobot==0.4.4", "torch<2.11", "torchvision<0.26")
WRITER = Path(__file__).with_name("lerobot_writer.py")
COLUMNS = {"observation.state": (footage.STATES, "position"), "observation.velocity": (footage.STATES, "velocity")}
COLUMNS |= {"observation.effort": (footage.STATES, "effort"), "action": (footage.COMMANDS, "position")}
COLUMNS |= {"action.velocity": (footage.COMMANDS, "velocity")}
WRITE_S = 1800
CONFIGURATIONS = {"as it comes (AV1, by way of PNG)": ("libsvtav1", "files"), "at its fastest": ("h264", "streamed")}


def lerobot_python(folder: Path, *, build: bool) -> Path:
    """The interpreter of LeRobot's environment in `folder`, made if it is not there and may be.

    `BenchmarkFailed` says in words why there is none.
    """
    return python_of(folder, name="LeRobot", pins=PINS, build=build)


def store_episodes(folder: Path, puts: Sequence[Put], *, episodes: int) -> None:
    """The first episodes of a lake as the writer's program takes them: their video as mp4, their values as arrays."""
    folder.mkdir(parents=True)
    for number, recording in enumerate(sorted({one.segment.recording for one in puts})[:episodes]):
        own = [one for one in puts if one.segment.recording == recording]
        pictures = [packet for one in own if one.kind == "video" for packet in packets_of(one)]
        (folder / f"{number}.mp4").write_bytes(as_mp4(pictures))
        with (folder / f"{number}.npz").open("wb") as file:
            np.savez(file, **_values(own))  # type: ignore[arg-type]


def _values(puts: Sequence[Put]) -> dict[str, NDArray[np.float32]]:
    found: dict[str, list[list[float]]] = {name: [] for name in COLUMNS}
    for one in puts:
        if one.segment.stream == footage.CAMERA or one.segment.stream.startswith("_"):
            continue
        for message in read_messages(io.BytesIO(one.body)):
            value = decode(message)
            for name, (topic, field) in COLUMNS.items():
                if message.topic.name == topic:
                    found[name].append(list(value[field]))
    return {name: np.array(rows, np.float32) for name, rows in found.items()}


def write(python: Path, episodes: Path, target: Path, configuration: str) -> Loop:
    """One run of LeRobot's writer. `BenchmarkFailed` with its last words where it fails."""
    codec, way = CONFIGURATIONS[configuration]
    shutil.rmtree(target, ignore_errors=True)
    command = [str(python), str(WRITER), str(episodes), str(target), codec, way]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment = outside | {"HF_HUB_OFFLINE": "1", "HF_LEROBOT_HOME": str(target.parent / "home"), "SVT_LOG": "1"}
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=WRITE_S, cwd=target.parent, env=environment
    )
    if ran.returncode:
        raise BenchmarkFailed(f"LeRobot's writer failed: {' '.join(ran.stderr.split()[-30:])}")
    return Loop(**json.loads(ran.stdout.splitlines()[-1]))
