"""Behaviour cloning from Lance windows: a small network learns to command the joints from what the robot saw.

Run as a process: `python -m fleetfeed.demo.train --dataset D --episodes A B --held-out C --out F`. It writes a
checkpoint every few batches and goes on from the last one when it is started again. Each line on standard output is
JSON: a batch with its sample ids as it is delivered, and at the end the result.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dataset_catalog import Catalog, Dataset, horizon
from dataset_catalog.windows import Windows

CAMERA = "head_camera"
IMAGE = (64, 64)
BATCH = 64
CHECKPOINT_EVERY = 10


class Policy(nn.Module):
    """State, velocity and picture in, a chunk of joint commands out, all normalized: (B, horizon, joints)."""

    def __init__(self, joints: int, steps: int, statistics: dict[str, Tensor]) -> None:
        super().__init__()
        self.shape = (steps, joints)
        for name, value in statistics.items():
            self.register_buffer(name, value)
        self.look = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.LazyLinear(32),
        )
        self.decide = nn.Sequential(nn.Linear(2 * joints + 32, 256), nn.ReLU(), nn.Linear(256, steps * joints))

    def forward(self, batch: dict[str, Any]) -> Tensor:
        state = (batch["state"][:, -1] - self.state_mean) / self.state_std
        velocity = (batch["velocity"][:, -1] - self.velocity_mean) / self.velocity_std
        seen = self.look(batch[CAMERA][:, -1].float() / 255 - 0.5)
        decided: Tensor = self.decide(torch.cat([state, velocity, seen], dim=1))
        return decided.reshape(-1, *self.shape)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        return self._error(self(batch), batch)

    def baseline(self, batch: dict[str, Any]) -> Tensor:
        """The loss of always predicting the training set's mean action."""
        return self._error(torch.zeros(len(batch["action"]), *self.shape), batch)

    def _error(self, predicted: Tensor, batch: dict[str, Any]) -> Tensor:
        wanted = (batch["action"] - self.action_mean) / self.action_std
        inside = (~batch["action_is_pad"]).unsqueeze(-1).expand_as(wanted)
        error: Tensor = ((predicted - wanted) ** 2)[inside].mean()
        return error


def windows_of(dataset: Dataset) -> Windows:
    """What one training sample is: the picture and joints of now, and the commands of the next 0.4 s."""
    return dataset.windows(
        observations={"state": [0.0], "velocity": [0.0], CAMERA: [0.0]},
        actions={"action": horizon(0.4, hz=10)},
        image_size=IMAGE,
    )


def train(dataset: Dataset, episodes: list[str], *, held_out: str, out: Path, epochs: int) -> dict[str, Any]:
    """Train, or go on from the checkpoint in `out`; returns the result that `main` prints."""
    training = dataset.select(episodes=episodes)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    loader = windows_of(training).loader(BATCH, seed=0)
    first = next(iter(windows_of(training).loader(BATCH, seed=0)))
    policy = Policy(first["action"].shape[2], first["action"].shape[1], _statistics(training))
    policy(first)  # gives the lazy layer its size
    optimizer = torch.optim.Adam(policy.parameters(), lr=2e-3)
    saved = out / "checkpoint.pt"
    batch_number = _restore(saved, policy, optimizer, loader)
    resumed_at, total = batch_number, epochs * len(loader)
    while batch_number < total:
        for batch in loader:
            batch_number += 1
            loss = policy.loss(batch)
            _say(
                batch=batch_number, of=total, epoch_batches=len(loader), sample_ids=batch["sample_id"], loss=loss.item()
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if batch_number % CHECKPOINT_EVERY == 0:
                _save(saved, policy, optimizer, loader, batch_number)
    return {
        "resumed_at": resumed_at,
        **_evaluate(policy, dataset.select(episodes=[held_out])),
        "windows_per_s": loader.stats.windows_per_s,
        "wait_share": loader.stats.wait_share,
    }


def _statistics(dataset: Dataset) -> dict[str, Tensor]:
    """Mean and standard deviation of each numeric column, from the training episodes only."""
    steps, found = dataset.steps(), {}
    for name in ("state", "velocity", "action"):
        values = torch.tensor(steps[name].drop_null().to_pylist())
        found[f"{name}_mean"], found[f"{name}_std"] = values.mean(0), values.std(0).clamp(min=0.02)
    return found


@torch.no_grad()
def _evaluate(policy: Policy, dataset: Dataset) -> dict[str, float]:
    loader = windows_of(dataset).loader(BATCH, shuffle=False, remainder="uneven")
    losses = torch.tensor([[policy.loss(batch), policy.baseline(batch)] for batch in loader])
    loss, baseline = losses.mean(0).tolist()
    return {"held_out_loss": loss, "baseline_loss": baseline}


def _save(path: Path, policy: Policy, optimizer: torch.optim.Optimizer, loader: Any, batch_number: int) -> None:
    state = {"policy": policy.state_dict(), "optimizer": optimizer.state_dict(), "feed": loader.state_dict()}
    temporary = path.with_suffix(".tmp")
    torch.save({**state, "batch": batch_number}, temporary)
    temporary.replace(path)


def _restore(path: Path, policy: Policy, optimizer: torch.optim.Optimizer, loader: Any) -> int:
    if not path.exists():
        return 0
    state = torch.load(path)
    policy.load_state_dict(state["policy"])
    optimizer.load_state_dict(state["optimizer"])
    loader.load_state_dict(state["feed"])
    return int(state["batch"])


def _say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--episodes", nargs="+", required=True, help="episode ids to learn from")
    parser.add_argument("--held-out", required=True, help="episode id to test on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    dataset = Catalog.open().dataset(asked.dataset)
    _say(result=train(dataset, asked.episodes, held_out=asked.held_out, out=asked.out, epochs=asked.epochs))


if __name__ == "__main__":
    main()
