"""ACT (Zhao et al., 2023): a transformer that decides on 100 actions at once, in a style that it learns to recognize.

python examples/train_act.py s3://fleetfeed arm --out /tmp/act   (or a folder that `fleetfeed import-lerobot` filled)
`train_bc.py` shows how a run goes on where it was stopped.
"""

import argparse
from itertools import chain, repeat
from pathlib import Path

import torch
from torch import Tensor, nn

from dataset_catalog import Catalog, horizon

W = 128  # width of a token


class ACT(nn.Module):
    def __init__(self, cameras: list[str], state: int, chunk: int, action: int) -> None:
        super().__init__()
        self.cameras = [f"observation.images.{camera}" for camera in cameras]
        convolutions = nn.Conv2d(3, 32, 7, 4), nn.ReLU(), nn.Conv2d(32, W, 5, 4), nn.ReLU()
        self.look = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(4), nn.Flatten(2))  # 16 tokens a picture
        self.state, self.action, self.decide = nn.Linear(state, W), nn.Linear(action, W), nn.Linear(W, action)
        self.places = nn.Parameter(torch.randn(2 + 16 * len(cameras), W) / 50)
        self.queries = nn.Parameter(torch.randn(chunk, W) / 50)
        self.recognize = nn.TransformerEncoder(nn.TransformerEncoderLayer(W, 4, 256, 0.0, batch_first=True), 1)
        self.posterior = nn.Linear(W, 2 * W)
        self.body = nn.Transformer(W, 4, 2, 1, 256, 0.0, batch_first=True)

    def style(self, state: Tensor, batch: dict) -> tuple[Tensor, Tensor]:
        """How these actions are done (B, 1, W), and how much that tells of them; for training only."""
        known = torch.cat([state, self.action(batch["action"]) + self.queries], 1)
        blank = nn.functional.pad(batch["action_is_pad"], (1, 0))
        mean, log_var = self.posterior(self.recognize(known, src_key_padding_mask=blank)[:, :1]).chunk(2, -1)
        divergence = (mean**2 + log_var.exp() - log_var - 1).sum(-1).mean() / 2
        return mean + (log_var / 2).exp() * torch.randn_like(mean), divergence

    def forward(self, batch: dict, state: Tensor, style: Tensor) -> Tensor:
        seen = [self.look(batch[camera].float() / 255 - 0.5).transpose(1, 2) for camera in self.cameras]
        missing = [batch[f"{camera}_is_pad"][:, None].expand(-1, 16) for camera in self.cameras]
        blank = nn.functional.pad(torch.cat(missing, 1), (2, 0))
        tokens, queries = torch.cat([style, state, *seen], 1) + self.places, self.queries.expand(len(state), -1, -1)
        return self.decide(self.body(tokens, queries, src_key_padding_mask=blank, memory_key_padding_mask=blank))


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("lake")
parser.add_argument("dataset")
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--steps", type=int, default=20_000)
parser.add_argument("--batch", type=int, default=32)


def main(lake: str, dataset: str, out: Path, steps: int, batch: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    train = Catalog.open(lake).dataset(dataset).split(train=0.9, val=0.1, seed=0)["train"]
    cameras, methods = sorted(train.cameras), {"state": "mean_std", "action": "mean_std"}
    observations, actions = {"state": 0.0, **dict.fromkeys(cameras, 0.0)}, {"action": horizon(2.0, hz=50)}
    windows = train.windows(observations, actions, image_size=(96, 96), normalize=methods, names="lerobot")
    windows.normalizer.save(out / "normalizer.json")
    loader, one = windows.loader(min(batch, len(windows)), seed=7), windows[0]
    policy = ACT(cameras, one["observation.state"].size, *one["action"].shape)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
    for step, one in zip(range(1, steps + 1), chain.from_iterable(repeat(loader)), strict=False):
        state = policy.state(one["observation.state"])[:, None]
        style, divergence = policy.style(state, one)
        error = (policy(one, state, style) - one["action"])[~one["action_is_pad"]].abs().mean()
        optimizer.zero_grad()
        (error + 10 * divergence).backward()
        optimizer.step()
        if step % 100 == 0 or step == steps:
            print(f"step {step}: L1 {error.item():.4f}, divergence {divergence.item():.4f}")
            torch.save(policy.state_dict(), out / "policy.pt")


if __name__ == "__main__":
    main(**vars(parser.parse_args()))
