"""A training run that is killed: `python -m tests.faults.training LAKE OUT WORKERS`, started again until it is done.

It tells each batch as it is delivered, saves a checkpoint after each step, whole or not at all, and tells in the end
what it has learned: JSON lines on standard output.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset_catalog import Catalog, horizon
from dataset_catalog.loader import Loader

BATCH, EPOCHS = 16, 2


def jitter(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return sample | {"state": sample["state"] + rng.normal(size=sample["state"].shape).astype(np.float32) / 10}


def make_loader(lake: str, *, workers: int = 0) -> Loader:
    windows = (
        Catalog.open(lake)
        .dataset("pick", 2)
        .windows(
            {"state": [0.0], "head": [0.0]}, {"action": horizon(0.2, hz=10)}, image_size=(24, 32), transform=jitter
        )
    )
    return windows.loader(BATCH, seed=11, shuffle="blocks", block=5, pool_bytes=200_000, workers=workers)


def train(loader: Loader, out: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Linear(3, 4)
    step, saved = 0, out / "checkpoint.pt"
    if saved.exists():
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        loader.load_state_dict(state["feed"])
        step = state["step"]
    tell(resumed_at=step)
    while loader.epoch < EPOCHS:
        for batch in loader:
            step += 1
            tell(step=step, sample_ids=batch["sample_id"])
            loss = ((model(batch["state"][:, 0]) - batch["action"].flatten(1)) ** 2).mean()
            model.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.01 * parameter.grad  # type: ignore[operator]
            save(saved, {"model": model.state_dict(), "feed": loader.state_dict(), "step": step})
    tell(learned=[value for parameter in model.parameters() for value in parameter.flatten().tolist()])


def save(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def tell(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    train(make_loader(sys.argv[1], workers=int(sys.argv[3])), Path(sys.argv[2]))
