"""Runs in LeRobot's own environment: writes a dataset with its writer, and reads others with its reader.

`python lerobot_itself.py WRITE READ…`: three small episodes go to the new folder WRITE. Of each folder READ the first,
the middle and the last item go to READ.npz: every number, the task, and the pictures as floats (3, height, width).
"""

import sys
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": ["hip", "knee", "ankle"]},
    "observation.images.head": {"dtype": "video", "shape": (48, 64, 3), "names": ["height", "width", "channels"]},
}


def write(folder: str) -> None:
    made = LeRobotDataset.create(repo_id="x/y", fps=20, features=FEATURES, root=folder, vcodec="h264")
    for n, length in enumerate((23, 31, 5)):
        rng = np.random.default_rng(n)
        for i in range(length):
            picture = np.full((48, 64, 3), 40 + 20 * n, np.uint8)
            picture[:, (2 * i) % 64 : (2 * i) % 64 + 6] = (255, 4 * i % 256, 0)
            state = rng.normal(size=3).astype(np.float32)
            made.add_frame({"observation.state": state, "observation.images.head": picture, "task": f"task {n % 2}"})
        made.save_episode()
    made.finalize()


def read(folder: str) -> None:
    dataset = LeRobotDataset("x/y", root=folder, video_backend="pyav")
    found = {"length": np.array(len(dataset)), "episodes": np.array(dataset.num_episodes)}
    for item in (0, len(dataset) // 2, len(dataset) - 1):
        for name, value in dataset[item].items():
            found[f"{item}/{name}"] = np.array(value if isinstance(value, str) else value.numpy())
    np.savez(f"{folder}.npz", **found)


if __name__ == "__main__":
    write(sys.argv[1])
    for folder in sys.argv[2:]:
        read(str(Path(folder)))
