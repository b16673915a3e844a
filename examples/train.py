"""Researcher: find, look, pin, and iterate windows in PyTorch; the run goes on where it stopped.

python examples/train.py --url s3://fleetfeed --out /tmp/run      (FLEETFEED_STORAGE_* say how to reach the bucket)
"""

import argparse
from pathlib import Path

import torch

from dataset_catalog import Catalog, horizon


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)

    catalog = Catalog.open(asked.url)
    print(catalog.sql("SELECT robot_id, count(*) AS segments, sum(bytes) / 1e6 AS mb FROM segments GROUP BY ALL"))
    dataset = catalog.dataset("arm").select(where="success")
    dataset.contact_sheet(asked.out / "contact-sheet.png", camera="wrist_camera", columns=["state", "action"])

    windows = dataset.windows(
        observations={"state": [-0.1, 0.0], "wrist_camera": [0.0]},
        actions={"action": horizon(0.5, hz=20)},
        image_size=(96, 96),
    )
    loader = windows.loader(16, seed=7)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(64), torch.nn.ReLU(), torch.nn.LazyLinear(60))
    model(torch.zeros(1, 2, 6))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    checkpoint = asked.out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["feed"])  # the next batch is the one that the killed run would have had

    while loader.epoch < asked.epochs:
        loss = torch.tensor(float("nan"))  # of an epoch that had been finished when the checkpoint was made
        for batch in loader:
            predicted = model(batch["state"]).unflatten(1, (10, 6))
            inside = ~batch["action_is_pad"]
            loss = ((predicted - batch["action"])[inside] ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "feed": loader.state_dict()}
            torch.save(state, checkpoint)
        print(f"after epoch {loader.epoch}: loss {loss.item():.4f}, {loader.stats.windows_per_s:.0f} windows/s")
    print(f"trained for {asked.epochs} epochs")


if __name__ == "__main__":
    main()
