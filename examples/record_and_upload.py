"""Robot team: record telemetry, a camera and an episode, then have the agent deliver them.

Start a server with `fleetfeed up`, then: eval "$(fleetfeed env)"; TOKEN=$(fleetfeed ingest invite my-robot);
python examples/record_and_upload.py --token $TOKEN --url $FLEETFEED_EDGE_URL --folder /tmp/my-robot
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from edge.recorder import Recorder


def arm(t_s: float) -> np.ndarray:
    return np.sin(t_s + np.arange(6, dtype=np.float32))


def picture(t_s: float) -> np.ndarray:
    image = np.full((240, 320, 3), 235, np.uint8)
    middle = int(160 + 120 * np.sin(t_s))
    image[100:140, middle - 20 : middle + 20] = (200, 60, 40)
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--robot", default="my-robot")
    parser.add_argument("--token", required=True, help="from: fleetfeed ingest invite ROBOT")
    parser.add_argument("--url", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=6.0)
    asked = parser.parse_args()

    with Recorder(asked.folder, software_version="1.4.2") as recorder:
        recorder.text("info", "arm ready")
        with recorder.episode(task="follow the red square") as episode:
            for tick in range(int(asked.seconds * 20)):
                t_s, t_ns = tick / 20, time.time_ns()
                recorder.log("/joint_states", t_ns, {"position": arm(t_s), "velocity": arm(t_s + np.pi / 2)})
                recorder.log("/action", t_ns, {"position": arm(t_s + 0.05)})
                recorder.image("wrist_camera", t_ns, picture(t_s), color="rgb")
                time.sleep(0.05)
            episode.success = True
    print(f"recorded {recorder.counts}")

    # On a robot the agent is a service of its own that always runs; here it delivers what waits, and ends.
    agent = [sys.executable, "-m", "edge"]
    where = ["--folder", str(asked.folder), "--url", asked.url]
    subprocess.run([*agent, "enrol", asked.robot, "--token", asked.token, *where], check=True)
    subprocess.run([*agent, "run", "--until-empty", *where], check=True)
    subprocess.run([*agent, "status", "--folder", str(asked.folder)], check=True)


if __name__ == "__main__":
    main()
