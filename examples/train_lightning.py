"""Lightning, on any number of devices: its checkpoints hold the feed's position, and go on at the very next sample.

python examples/train_lightning.py s3://fleetfeed arm --out /tmp/run --devices 2
"""

import argparse
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from dataset_catalog import Catalog, horizon
from dataset_catalog.windows import Windows


class Policy(lightning.LightningModule):
    def __init__(self, windows: Windows, batch: int) -> None:
        super().__init__()
        self.windows, self.batch, shape = windows, batch, windows[0]["action"].shape
        self.decide = torch.nn.Linear(windows[0]["state"].size, shape[0] * shape[1])

    def train_dataloader(self):
        """`batch` samples make a step of all ranks together."""
        return self.windows.loader(
            self.batch, seed=7, rank=self.trainer.global_rank, world_size=self.trainer.world_size
        )

    def training_step(self, batch: dict, _: int) -> torch.Tensor:
        wanted = batch["action"]
        error = self.decide(batch["state"]).view_as(wanted) - wanted
        return error[~batch["action_is_pad"]].square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lake")
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000, help="to have taken in the end")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--devices", type=int, default=1)
    asked = parser.parse_args()
    windows = Catalog.open(asked.lake).dataset(asked.dataset).windows({"state": 0.0}, {"action": horizon(0.5, hz=20)})
    trainer = lightning.Trainer(
        max_steps=asked.steps,
        max_epochs=-1,
        devices=asked.devices,
        strategy="ddp" if asked.devices > 1 else "auto",
        use_distributed_sampler=False,  # the feed is shared out already
        default_root_dir=asked.out,
        callbacks=[ModelCheckpoint(asked.out, save_last=True, every_n_train_steps=min(100, asked.steps))],
        logger=False,
    )
    saved = asked.out / "last.ckpt"
    trainer.fit(Policy(windows, asked.batch), ckpt_path=saved if saved.exists() else None)


if __name__ == "__main__":
    main()
