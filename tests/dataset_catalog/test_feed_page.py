"""What docs/FEED.md says of order, mixes, resuming and other loops is what happens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataset_catalog import mix
from dataset_catalog.block_order import BlockShuffled
from dataset_catalog.catalog import Catalog
from dataset_catalog.order import Order, Shuffled
from dataset_catalog.quality import quality, spread
from dataset_catalog.spec import horizon
from dataset_catalog.storage import Storage
from dataset_catalog.windows import Windows
from tests.dataset_catalog.conftest import make_episode, write_dataset

PAGE = Path(__file__).parents[2] / "docs" / "FEED.md"


class Policy(torch.nn.Module):
    """Says nothing, in the shape of an action."""

    def forward(self, batch: Any) -> torch.Tensor:
        return torch.zeros_like(batch["action"])


@pytest.fixture
def given(lake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    pick = lake.catalog.dataset("pick")
    windows: Windows = pick.windows({"state": 0.0}, {"action": horizon(0.2, hz=10)})
    others: Windows = pick.select(robots=["h1"]).windows({"state": 0.0}, {"action": horizon(0.2, hz=10)})
    names: dict[str, Any] = {"windows": windows, "others": others, "held_out": others, "policy": Policy(), "mix": mix}
    return names | {"torch": torch, "quality": quality}


def run(heading: str, given: dict[str, Any]) -> dict[str, Any]:
    """All code of a section, and what it leaves behind."""
    section = re.search(rf"^#+ {heading}\n(.*?)(?=^#+ |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert section
    names = dict(given)
    for code in re.findall(r"```python\n(.*?)```", section[1], re.DOTALL):
        exec(code, names)  # noqa: S102  our own documentation
    return names


def test_two_epochs_and_an_evaluation_that_weighs_every_sample_once(given: dict[str, Any]) -> None:
    left = run("Order", given)
    assert left["loader"].epoch == 2
    assert left["total"][1] == len(given["held_out"])
    actions = torch.stack([torch.from_numpy(given["held_out"][i]["action"]) for i in range(len(given["held_out"]))])
    assert left["mean"].item() == pytest.approx(actions.square().mean().item(), rel=1e-5)


def test_a_block_shuffle_prints_its_pool_and_its_likeness(
    given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run("Blocks", given)
    pool, likeness = capsys.readouterr().out.splitlines()
    assert re.search(r"blocks of 10 windows, \d+ mixed at a time: \d+ windows, [\d.]+ MB decoded", pool)
    assert re.fullmatch(
        r"[\d.]+ episodes and [\d.]+ GOPs a batch; shuffled window by window [\d.]+ and [\d.]+", likeness
    )


def test_a_mix_comes_from_both(given: dict[str, Any]) -> None:
    assert set(run("A mix of datasets", given)["batch"]["source"].tolist()) == {0, 1}


def test_a_run_goes_on_with_the_very_next_batch(given: dict[str, Any]) -> None:
    left = run("Resume", given)
    batches = [batch["sample_id"] for batch in left["windows"].loader(64, seed=7)]
    assert left["batch"]["sample_id"] == batches[0]
    assert next(iter(left["again"]))["sample_id"] == batches[1]


def test_a_rendition_of_the_page_is_read_by_its_windows(tmp_path: Path) -> None:
    write_dataset(
        Storage.open(str(tmp_path)), "pick", [[make_episode("e0", "h1", "wave", True, frames=12, skip=0, seed=0)]]
    )
    left = run("Fast", {"dataset": Catalog.open(str(tmp_path)).dataset("pick")})
    assert left["small"].version == left["dataset"].version + 1
    assert left["windows"].spec.cameras[0].renditions[0] == "h264-g10-24x32"


def test_torchdata_saves_its_place(given: dict[str, Any]) -> None:
    pytest.importorskip("torchdata")
    left = run("Under other people's loops", given | {"loader": given["windows"].loader(64)})
    assert left["state"]


@pytest.mark.parametrize("row", re.findall(r"^\| (?:window by window|`block=.*) \|.*$", PAGE.read_text(), re.MULTILINE))
def test_the_table_of_likeness_is_what_the_orders_give(row: str) -> None:
    """A thousand episodes of 400 steps, GOPs of ten, a picture of 224×224 a sample, batches of 64."""
    what, blocks, *figures = (cell.strip() for cell in row.strip("|").split("|"))
    order: Order = Shuffled(400_000)
    if blocks:
        block, pool_bytes = (eval(text) for text in re.findall(r"=([\d* ]+)`", what))  # noqa: S307  our own page
        pool = max(1, pool_bytes // (block * 224 * 224 * 3))
        assert pool == int(blocks)
        order = BlockShuffled.of(np.full(1000, 400), block=block, pool=pool)
    batches = spread(order, size=64, batches=200, epoch=0)
    distinct = [f"{np.mean([len(set((batch // size).tolist())) for batch in batches]):.1f}" for size in (400, 10)]
    assert distinct == figures
