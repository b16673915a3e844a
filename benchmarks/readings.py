"""The messages that the benchmarks' robots record: joint states of about 500 bytes as JSON."""

from __future__ import annotations

import json
import random
from typing import Any

JOINTS = ("left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist")
DIFFERENT = 4_000  # more than one chunk of MCAP holds, so that no compressor finds the same one again

Reading = dict[str, Any]


def joint_states(count: int = DIFFERENT, *, seed: int = 1) -> list[Reading]:
    """Messages that differ in every number, as measured ones do."""
    numbers = random.Random(seed)
    return [_joint_state(numbers) for _ in range(count)]


def mean_json_bytes(readings: list[Reading]) -> float:
    """Their size as compact JSON."""
    return sum(len(json.dumps(reading, separators=(",", ":"))) for reading in readings) / len(readings)


def _joint_state(numbers: random.Random) -> Reading:
    return {
        "frame_id": "base",
        "name": list(JOINTS),
        "position": [numbers.uniform(-1.5, 1.5) for _ in JOINTS],
        "velocity": [numbers.gauss(0, 0.4) for _ in JOINTS],
        "effort": [numbers.gauss(0, 9.0) for _ in JOINTS],
    }
