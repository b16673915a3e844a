"""Ray Train, on any number of workers: each takes its part of every batch, and a run goes on where it was stopped.

python examples/train_ray.py s3://fleetfeed arm --out /shared/run --workers 2     (a folder that all nodes see)
"""

import argparse
import json
import tempfile
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from ray import train
from ray.train.torch import TorchTrainer, prepare_model
from torch import nn

from dataset_catalog import Catalog, horizon


class Policy(nn.Module):
    def __init__(self, camera: str, state: int, shape: tuple[int, int]) -> None:
        super().__init__()
        self.camera, self.shape = camera, shape
        self.look = nn.Sequential(nn.Conv2d(3, 16, 7, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.decide = nn.Linear(256 + state, shape[0] * shape[1])

    def forward(self, batch: dict) -> torch.Tensor:
        seen = self.look(batch[self.camera].float() / 255 - 0.5)
        return self.decide(torch.cat([batch["state"], seen], 1)).unflatten(1, self.shape)


def work(asked: dict) -> None:
    """On each worker. The dataset is opened here, by its address: none of it travels."""
    rank, world_size = train.get_context().get_world_rank(), train.get_context().get_world_size()
    dataset = Catalog.open(asked["lake"]).dataset(asked["dataset"])
    camera = sorted(dataset.cameras)[0]
    windows = dataset.windows({"state": 0.0, camera: 0.0}, {"action": horizon(0.5, hz=20)}, image_size=(96, 96))
    loader = windows.loader(asked["batch"], seed=7, rank=rank, world_size=world_size)
    torch.manual_seed(0)
    policy = Policy(camera, windows[0]["state"].size, windows[0]["action"].shape)
    optimizer, done = torch.optim.Adam(policy.parameters(), lr=1e-3), 0
    if (saved := train.get_checkpoint()) is not None:
        with saved.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt")
        policy.load_state_dict(state["policy"])
        optimizer.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["feed"])  # on another number of workers, too
        done = state["step"]
    parallel, seen = prepare_model(policy), (Path(asked["out"]) / f"samples-of-rank-{rank}").open("a", buffering=1)
    batches = islice(chain.from_iterable(repeat(loader)), asked["steps"] - done)
    for step, batch in enumerate(batches, done + 1):
        print(json.dumps(batch["sample_id"]), file=seen)
        loss = (parallel(batch) - batch["action"])[~batch["action_is_pad"]].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step == asked["steps"]:
            state = {"policy": policy.state_dict(), "optimizer": optimizer.state_dict(), "feed": loader.state_dict()}
            with tempfile.TemporaryDirectory() as folder:
                torch.save(state | {"step": step}, Path(folder) / "state.pt")
                saved = train.Checkpoint.from_directory(folder) if rank == 0 else None  # it is the same on all
                train.report({"loss": loss.item(), "step": step}, checkpoint=saved)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lake")
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, required=True)
    for name, number in {"steps": 1000, "batch": 64, "workers": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    run = train.RunConfig(name="feed", storage_path=str(asked.out.resolve()))  # the same again goes on
    scale = train.ScalingConfig(num_workers=asked.workers)
    print(TorchTrainer(work, train_loop_config=vars(asked), scaling_config=scale, run_config=run).fit().metrics)


if __name__ == "__main__":
    main()
