"""Behaviour cloning: pictures and joints in, the next half second of actions out; goes on where it was stopped.

python examples/train_bc.py s3://fleetfeed arm --out /tmp/bc    (or a folder that `fleetfeed import-lerobot` filled)
"""

import argparse
from itertools import chain, repeat
from pathlib import Path

import torch
from torch import nn

from dataset_catalog import Catalog, horizon


class Policy(nn.Module):
    def __init__(self, cameras: list[str], state: int, chunk: int, action: int) -> None:
        super().__init__()
        self.cameras, self.shape = cameras, (chunk, action)
        self.look = nn.Sequential(
            nn.Conv2d(3, 16, 7, 4), nn.ReLU(), nn.Conv2d(16, 32, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        )
        self.decide = nn.Sequential(
            nn.Linear(state + 512 * len(cameras), 256), nn.ReLU(), nn.Linear(256, chunk * action)
        )

    def forward(self, batch: dict) -> torch.Tensor:
        seen = [self.look(batch[camera].float() / 255 - 0.5) for camera in self.cameras]
        return self.decide(torch.cat([batch["state"], *seen], 1)).unflatten(1, self.shape)


def loss_of(predicted: torch.Tensor, batch: dict) -> torch.Tensor:
    return (predicted - batch["action"])[~batch["action_is_pad"]].square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lake")
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=64)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    parts = Catalog.open(asked.lake).dataset(asked.dataset).split(train=0.9, val=0.1, seed=0)
    cameras = sorted(parts["train"].cameras)
    observations, actions = {"state": 0.0, **dict.fromkeys(cameras, 0.0)}, {"action": horizon(0.5, hz=20)}
    methods = {"state": "mean_std", "action": "mean_std"}  # by the statistics of the part `train`, for both parts
    training, held_out = (
        parts[part].windows(observations, actions, image_size=(96, 96), normalize=methods) for part in ("train", "val")
    )
    training.normalizer.save(asked.out / "normalizer.json")  # what the robot needs beside the weights
    loader, one = training.loader(min(asked.batch, len(training)), seed=7), training[0]
    policy = Policy(cameras, one["state"].size, *one["action"].shape)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    checkpoint, done = asked.out / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        policy.load_state_dict(saved["policy"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["feed"])  # the next batch is the one that a stopped run would have had
        done = saved["step"]
    batches = chain.from_iterable(repeat(loader))  # each time that it is iterated it gives the next epoch
    for step, batch in zip(range(done + 1, asked.steps + 1), batches, strict=False):
        loss = loss_of(policy(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step == asked.steps:
            state = {"policy": policy.state_dict(), "optimizer": optimizer.state_dict(), "feed": loader.state_dict()}
            torch.save(state | {"step": step}, checkpoint)
            print(f"step {step}: loss {loss.item():.4f}, {loader.stats.windows_per_s:.0f} windows/s")
    with torch.no_grad():
        losses = [loss_of(policy(b), b) for b in held_out.loader(asked.batch, shuffle=False, remainder="uneven")]
    print(f"held-out loss {torch.stack(losses).mean():.4f}" if losses else "no episode is held out: record more")


if __name__ == "__main__":
    main()
