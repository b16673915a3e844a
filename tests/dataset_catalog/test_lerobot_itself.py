"""What LeRobot's own writer writes comes in, what goes out its own reader opens; and a real robot's way there and back.

LeRobot has an environment of its own, .bench/lerobot, which `make bench-jobs` makes: without it these are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataset_catalog.catalog import Catalog
from dataset_catalog.dataset import Dataset
from dataset_catalog.export_lerobot import export_lerobot
from dataset_catalog.import_lerobot import import_lerobot
from tests.dataset_catalog.lerobot_folders import frames_of, original, packets_of, psnr_db, same, write_folder

PYTHON = Path(__file__).parents[2] / ".bench/lerobot/bin/python"
EPISODE = "000002"
CAMERA = "observation.images.cam_high"


@pytest.fixture(scope="module")
def recorded(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real episode, with what describes it, as links."""
    folder = tmp_path_factory.mktemp("real") / "g1"
    for path in (real_data / "g1").rglob("*"):
        if path.is_file() and (path.parent.name == "meta" or EPISODE in path.name):
            target = folder / path.relative_to(real_data / "g1")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def g1(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    lake = tmp_path_factory.mktemp("lake")
    import_lerobot(recorded, lake)
    return Catalog.open(str(lake)).dataset("g1")


def test_a_real_robots_episode_comes_in_as_it_is(recorded: Path, g1: Dataset) -> None:
    rows, film = pq.read_table(next(recorded.glob("data/*/*.parquet"))), next(recorded.glob("videos/*/*/*.mp4"))
    steps = g1.steps()
    for column, feature in {"state": "observation.state", "action": "action"}.items():
        assert same(steps[column], rows[feature])
    assert original(g1, f"g1-{EPISODE}", "cam_high") == packets_of(film)
    assert g1.columns["state"].names is not None
    assert set(g1.cameras["cam_high"].renditions) == {"original", "h264-g10"}
    assert g1.lineage(7)["key"].to_pylist()[0] == f"lerobot/g1/{film.relative_to(recorded)}"


def test_a_real_robots_episode_goes_out_as_it_came(recorded: Path, g1: Dataset, tmp_path: Path) -> None:
    done = export_lerobot(g1, tmp_path / "out", version="v2.1")
    assert done.notes == ("1 films are copied packet by packet",)
    found, wanted = (pq.read_table(next(one.glob("data/*/*.parquet"))) for one in (tmp_path / "out", recorded))
    assert set(found.schema.names) == set(wanted.schema.names)
    for name in ("observation.state", "action"):
        assert same(found[name], wanted[name])
    for name in ("timestamp", "frame_index", "task_index"):
        assert found[name].to_pylist() == wanted[name].to_pylist()
    films = [next(one.glob(f"videos/*/{CAMERA}/*.mp4")) for one in (tmp_path / "out", recorded)]
    assert packets_of(films[0]) == packets_of(films[1])
    told, before = (json.loads((one / "meta/info.json").read_text()) for one in (tmp_path / "out", recorded))
    assert told["fps"] == before["fps"]
    for name, about in before["features"].items():
        assert {key: told["features"][name][key] for key in ("dtype", "shape")} == {
            key: about[key] for key in ("dtype", "shape")
        }
    assert told["features"]["action"]["names"] == before["features"]["action"]["names"]


@pytest.fixture(scope="module")
def itself(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder in which LeRobot wrote `theirs` and read `ours`, and `g1` where there is one; one process for all."""
    if not PYTHON.exists():
        pytest.skip("LeRobot is not installed in .bench/lerobot (`make bench-jobs` does it)")
    folder = tmp_path_factory.mktemp("itself")
    small = write_folder(folder / "source" / "small", [23, 31])
    import_lerobot(small, folder / "lake")
    export_lerobot(Catalog.open(str(folder / "lake")).dataset("small"), folder / "ours")
    read = [folder / "ours"]
    if os.environ.get("FLEETFEED_REAL_DATA"):
        export_lerobot(request.getfixturevalue("g1"), folder / "g1")
        read.append(folder / "g1")
    program = Path(__file__).with_name("lerobot_itself.py")
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment = outside | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "HF_LEROBOT_HOME": str(folder)}
    command = [str(PYTHON), str(program), str(folder / "theirs"), *map(str, read)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_what_lerobots_writer_wrote_comes_in_whole(itself: Path, tmp_path: Path) -> None:
    """v3: three episodes in one Parquet file and one mp4."""
    films = list((itself / "theirs").glob("videos/**/*.mp4"))
    done = import_lerobot(itself / "theirs", tmp_path / "lake")
    assert (done.episodes, done.steps, len(films)) == (3, 59, 1)
    dataset = Catalog.open(str(tmp_path / "lake")).dataset("theirs")
    rows = pq.read_table(next((itself / "theirs").glob("data/**/*.parquet")))
    assert same(dataset.steps()["state"], rows["observation.state"])
    assert dataset.episodes()["task"].to_pylist() == ["task 0", "task 1", "task 0"]
    wanted, at = frames_of(films[0]), 0
    for episode in dataset.selection.episode_ids:
        length = len(dataset.select(episodes=[episode]))
        batch = dataset.windows({"head": [0.0]}, rendition="original").at([(episode, i) for i in range(length)])
        assert np.array_equal(batch["head"][:, 0].transpose(0, 2, 3, 1), np.stack(wanted[at : at + length]))
        assert set(batch["head_age_ns"].ravel().tolist()) == {0}
        at += length
    assert [packet for one in dataset.selection.episode_ids for packet in original(dataset, one)] == packets_of(
        films[0]
    )


@pytest.mark.parametrize("name", ["ours", "g1"])
def test_lerobots_reader_opens_what_went_out(itself: Path, name: str, request: pytest.FixtureRequest) -> None:
    if name == "g1":
        request.getfixturevalue("real_data")
        dataset, camera = request.getfixturevalue("g1"), "cam_high"
    else:
        dataset, camera = Catalog.open(str(itself / "lake")).dataset("small"), "head"
    found: Mapping[str, Any] = np.load(f"{itself / name}.npz")
    steps = dataset.steps()
    assert (int(found["length"]), int(found["episodes"])) == (len(steps), len(dataset.episodes()))
    for item in (0, len(steps) // 2, len(steps) - 1):
        (episode, step), told = dataset.selection.locate(np.array([item]))[0], steps.slice(item, 1).to_pylist()[0]
        assert found[f"{item}/observation.state"].tolist() == told["state"]
        assert found[f"{item}/action"].ravel().tolist() == told["action"]
        assert str(found[f"{item}/task"]) == dataset.select(episodes=[episode]).episodes()["task"][0].as_py()
        picture = found[f"{item}/observation.images.{camera}"].transpose(1, 2, 0) * 255
        batch = dataset.windows({camera: [0.0]}, rendition="original").at([(episode, step)])
        ours = batch[camera][0, 0].transpose(1, 2, 0)
        assert psnr_db([picture], [ours]) > 40  # its conversion to RGB is another
