"""Runs in LeRobot's own environment: random windows by `LeRobotDataset` and PyTorch's DataLoader, in this process.

`python -m benchmarks.feed_lerobot_reader FOLDER BATCH FRAMES`
"""

import sys

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from benchmarks.feed_packets import FPS, HORIZON
from benchmarks.feed_protocol import serve

CAMERA = "observation.images.head"


def batches(folder: str, batch: int, frames: int):
    """Epoch after epoch."""
    ahead = [k / FPS for k in range(HORIZON)]
    wanted = {CAMERA: [-k / FPS for k in reversed(range(frames))], "observation.state": [0.0], "action": ahead}
    dataset = LeRobotDataset("benchmark/feed", root=folder, delta_timestamps=wanted, video_backend="torchcodec")
    order = torch.Generator().manual_seed(1)
    loader = torch.utils.data.DataLoader(dataset, batch, shuffle=True, generator=order, num_workers=0, drop_last=True)
    while True:
        yield from loader


def look(batch):
    image = batch[CAMERA] if batch[CAMERA].ndim == 5 else batch[CAMERA][:, None]
    state = batch["observation.state"].reshape(len(image), -1)
    found = {"image": image, "state": state, "action": batch["action"], "number": batch["index"]}
    return {name: np.asarray(value) for name, value in found.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(batches(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])), look)
