"""One simulated robot's own program: a control loop at 20 Hz that hands every reading to `edge.Recorder`.

Run as a process: `python -m fleetfeed.demo.robot --folder F --seed 1 --seconds 40`. Its last line on standard output
is JSON: what it recorded, by topic, and what it had to drop.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import cv2

from edge.recorder import Recorder
from edge.settings import EdgeSettings
from fleetfeed.demo.humanoid import TASKS, Humanoid, Reading

CONTROL_HZ = 20.0
EPISODE_S = 8.0
CAMERA = "head_camera"


def record(recorder: Recorder, robot: Humanoid, *, seconds: float, seed: int) -> None:
    """Live for `seconds`: one episode after the other, each of another task, 20 readings and pictures a second."""
    episodes = max(1, round(seconds / EPISODE_S))
    ticks = _ticks(1 / CONTROL_HZ)
    recorder.text("info", f"robot started, {len(robot.joint_names)} joints")
    for number in range(episodes):
        task = TASKS[(number + seed) % len(TASKS)]
        robot.start(task)
        with recorder.episode(task=task) as label:
            for _ in range(round(seconds / episodes * CONTROL_HZ)):
                t_ns = next(ticks)
                _log(recorder, t_ns, robot.step(), robot.joint_names)
                recorder.image(CAMERA, t_ns, robot.picture(), color="bgr")
            label.success = robot.head_height_m > 0.8
    recorder.text("info", "robot stopped")


def _log(recorder: Recorder, t_ns: int, reading: Reading, names: tuple[str, ...]) -> None:
    joints = {"name": names, "position": reading.joint_position, "velocity": reading.joint_velocity}
    recorder.log("/joint_states", t_ns, joints)
    recorder.log("/action", t_ns, {"position": reading.action})
    recorder.log("/imu", t_ns, {"orientation": reading.imu_quaternion, "angular_velocity": reading.imu_gyro})
    recorder.log("/battery", t_ns, {"percent": reading.battery_percent})


def _ticks(period_s: float) -> Iterator[int]:
    """Capture times in ns, one a period; a late tick is not made up for."""
    due_s = time.monotonic()
    while True:
        time.sleep(max(0.0, due_s - time.monotonic()))
        due_s = max(due_s + period_s, time.monotonic() - period_s)
        yield time.time_ns()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    robot = Humanoid(seed=asked.seed, control_hz=CONTROL_HZ)
    settings = EdgeSettings(folder=asked.folder)
    with Recorder(settings=settings, software_version="demo-1") as recorder:
        record(recorder, robot, seconds=asked.seconds, seed=asked.seed)
    told = {"recording": recorder.recording_id, "counts": recorder.counts, "dropped": recorder.dropped}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
