"""Runs in LeRobot's own environment: episodes → LeRobot's dataset writer, and what that takes.

`python lerobot_writer.py EPISODES TARGET CODEC STREAMED`: EPISODES holds `n.mp4` and `n.npz` (one vector a frame and
name) for each episode. Pictures are decoded before the clock starts: a robot has them from its camera. Prints one line
of JSON: frames, and CPU seconds (user and system, of children too) of `add_frame`, `save_episode` and `finalize`.
"""

import json
import os
import sys
from pathlib import Path

import av
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

CAMERA, FPS = "observation.images.head_camera", 20


def main(source: Path, target: Path, codec: str, *, streamed: bool) -> None:
    episodes = sorted(source.glob("*.npz"))
    with np.load(episodes[0]) as first:
        features = {name: {"dtype": "float32", "shape": (first[name].shape[1],), "names": None} for name in first.files}
    features[CAMERA] = {"dtype": "video", "shape": (480, 640, 3), "names": ["height", "width", "channels"]}
    dataset = LeRobotDataset.create(
        repo_id="benchmark/episodes", fps=FPS, features=features, root=target, vcodec=codec, streaming_encoding=streamed
    )
    frames, spent = 0, 0.0
    for path in episodes:
        pictures, values = _pictures(path.with_suffix(".mp4")), dict(np.load(path))
        before = _cpu_s()
        for number, picture in enumerate(pictures):
            row = {name: column[number] for name, column in values.items()}
            dataset.add_frame({**row, CAMERA: picture, "task": "tidy the shelf"})
        dataset.save_episode()
        spent += _cpu_s() - before
        frames += len(pictures)
    before = _cpu_s()
    dataset.finalize()
    spent += _cpu_s() - before
    if dataset.meta.total_frames != frames:
        sys.exit(f"the writer wrote {dataset.meta.total_frames} of {frames} frames")
    print(json.dumps({"count": frames, "cpu_s": spent}), flush=True)


def _pictures(path: Path) -> list:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], streamed=sys.argv[4] == "streamed")
