"""Hugging Face Accelerate, on any number of processes: it prepares the policy; the feed is shared out already.

accelerate launch --num_processes 2 examples/train_accelerate.py s3://fleetfeed arm --out /tmp/run
"""

import argparse
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device

from dataset_catalog import Catalog, horizon


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lake")
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000, help="to take in this run")
    parser.add_argument("--batch", type=int, default=64, help="samples of a step, of all processes together")
    asked = parser.parse_args()
    accelerator = Accelerator()
    windows = Catalog.open(asked.lake).dataset(asked.dataset).windows({"state": 0.0}, {"action": horizon(0.5, hz=20)})
    loader = windows.loader(
        asked.batch, seed=7, rank=accelerator.process_index, world_size=accelerator.num_processes
    )  # not prepared: Accelerate would share it out once more, and read a batch ahead of what the state counts
    chunk, size = windows[0]["action"].shape
    torch.manual_seed(0)
    policy = torch.nn.Sequential(
        torch.nn.Linear(windows[0]["state"].size, chunk * size), torch.nn.Unflatten(1, (chunk, size))
    )
    policy, optimizer = accelerator.prepare(policy, torch.optim.Adam(policy.parameters(), lr=1e-3))
    accelerator.register_for_checkpointing(loader)  # the same state on every rank
    checkpoint = asked.out / "checkpoint"
    if checkpoint.exists():
        accelerator.load_state(str(checkpoint))
    for step, batch in enumerate(islice(chain.from_iterable(repeat(loader)), asked.steps), 1):
        batch = send_to_device(batch, accelerator.device)
        loss = (policy(batch["state"]) - batch["action"])[~batch["action_is_pad"]].square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == asked.steps:
            accelerator.save_state(str(checkpoint))
            accelerator.print(f"step {step}: loss {loss.item():.4f}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
