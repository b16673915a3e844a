"""A LeRobot dataset becomes a lake's: every number, packet and frame, without a cluster."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_catalog.catalog import Catalog
from dataset_catalog.dataset import Dataset
from dataset_catalog.errors import FormatError
from dataset_catalog.import_lerobot import import_lerobot
from dataset_catalog.spec import horizon
from tests.dataset_catalog.lerobot_folders import (
    CHUNK,
    FPS,
    frames_of,
    original,
    packets_of,
    pictures,
    psnr_db,
    rows_of,
    write_folder,
)

HEAD = f"videos/{CHUNK}/observation.images.head"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("small") / "Small Set", [23, 31])


@pytest.fixture(scope="module")
def dataset(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    lake = tmp_path_factory.mktemp("lake")
    told: list[tuple[int, int]] = []
    done = import_lerobot(folder, lake, progress=lambda *counts: told.append(counts))
    assert (done.name, done.version, done.episodes, done.steps) == ("small_set", 1, 2, 54)
    assert told == [(1, 2), (2, 2)]
    (note,) = done.notes
    assert re.fullmatch(
        r"next.reward: 54 of 54 numbers are rounded to float32, by [1-9]\S*e-08 at most; an export has them rounded",
        note,
    )
    return Catalog.open(str(lake)).dataset("small_set")


def test_every_number_is_there_at_its_time(dataset: Dataset) -> None:
    assert {name: column.size for name, column in dataset.columns.items()} == {
        "state": 3,
        "action": 4,
        "reward": 1,
        "done": 1,
    }
    assert dataset.columns["state"].names == ("hip", "knee", "ankle")
    for n, length in enumerate([23, 31]):
        steps, rows = dataset.select(episodes=[f"small_set-{n:06d}"]).steps(), rows_of(n, length)
        since = np.array(steps["t_ns"]) - steps["t_ns"][0].as_py()
        assert since.tolist() == [i * 1_000_000_000 // FPS for i in range(length)]
        for column, feature in {"state": "observation.state", "action": "action", "done": "next.done"}.items():
            wanted = np.array(rows[feature].to_pylist(), np.float32).reshape(length, -1)
            assert np.array_equal(np.array(steps[column].to_pylist(), np.float32), wanted)
        assert set(steps["head_age_ns"].to_pylist()) == {0}
    assert dataset.episodes()["task"].to_pylist() == ["task 0", "task 1"]
    assert set(dataset.episodes()["robot_id"].to_pylist()) == {"small_robot"}


def test_packets_are_kept_and_frames_are_those_of_the_film(folder: Path, dataset: Dataset) -> None:
    for n in range(2):
        path, episode = folder / HEAD / f"episode_{n:06d}.mp4", f"small_set-{n:06d}"
        assert original(dataset, episode) == packets_of(path)
        wanted = frames_of(path)
        batch = dataset.windows({"head": [0.0]}).at([(episode, step) for step in range(len(wanted))])
        assert np.array_equal(batch["head"][:, 0].transpose(0, 2, 3, 1), np.stack(wanted))


def test_windows_come_from_what_was_imported(dataset: Dataset) -> None:
    windows = dataset.windows({"state": [-0.05, 0.0], "head": [0.0]}, {"action": horizon(0.2, hz=FPS)})
    sample, state = windows[30], rows_of(1, 31)["observation.state"].to_pylist()
    assert sample["state"].tolist() == np.array(state[6:8], np.float32).tolist()
    assert sample["task"] == "task 1"
    assert not sample["action_is_pad"].any()


def test_a_second_run_adds_only_what_is_new(folder: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    hidden = folder / f"data/{CHUNK}/episode_000001.parquet"
    hidden.rename(hidden.with_suffix(".away"))
    try:
        assert import_lerobot(folder, lake, name="x").episodes == 1
    finally:
        hidden.with_suffix(".away").rename(hidden)
    assert import_lerobot(folder, lake, name="x").version == 2
    assert import_lerobot(folder, lake, name="x").version is None
    assert len(Catalog.open(str(lake)).dataset("x").episodes()) == 2
    assert len(Catalog.open(str(lake)).dataset("x", 1).episodes()) == 1


@pytest.mark.parametrize(("codec", "gop", "b_frames"), [("libx264", 250, 0), ("libx264", 10, 2), ("mpeg4", 12, 0)])
def test_a_film_that_is_slow_to_train_from_gets_a_rendition(
    tmp_path: Path, codec: str, gop: int, b_frames: int
) -> None:
    folder = write_folder(tmp_path / "slow", [40], codec=codec, gop=gop, b_frames=b_frames)
    done = import_lerobot(folder, tmp_path / "lake")
    assert any(note.startswith("h264-g10: 40 frames") for note in done.notes)
    dataset = Catalog.open(str(tmp_path / "lake")).dataset("slow")
    assert set(dataset.cameras["head"].renditions) == {"original", "h264-g10"}
    path = folder / HEAD / "episode_000000.mp4"
    assert original(dataset, "slow-000000") == packets_of(path)
    wanted = np.stack(frames_of(path)).astype(np.float64)
    for rendition, least_db in (("original", 99.0), ("h264-g10", 30.0)):
        windows = dataset.windows({"head": [0.0]}, rendition=rendition)
        got = windows.batch(np.arange(40))["head"][:, 0].transpose(0, 2, 3, 1)
        error = np.square(got - wanted).mean()
        assert error == 0 or 10 * np.log10(255**2 / error) > least_db


def test_an_import_that_fails_publishes_nothing_and_the_next_goes_on(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "small", [5, 6])
    film = folder / HEAD / "episode_000001.mp4"
    whole = film.read_bytes()
    film.write_bytes(whole[:200])
    with pytest.raises(FormatError, match=r"episode_000001\.mp4"):
        import_lerobot(folder, tmp_path / "lake")
    assert len(Catalog.open(str(tmp_path / "lake")).datasets()) == 0
    film.write_bytes(whole)
    assert import_lerobot(folder, tmp_path / "lake").version == 1
    dataset = Catalog.open(str(tmp_path / "lake")).dataset("small")
    assert (len(dataset), dataset.table("gops").count_rows()) == (11, 2)


def test_pictures_in_the_rows_are_a_camera(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "small", [12])
    path = folder / f"data/{CHUNK}/episode_000000.parquet"
    taken = pictures(12, seed=3)
    stored = [
        {"bytes": cv2.imencode(".png", one[..., ::-1])[1].tobytes(), "path": f"{n}.png"} for n, one in enumerate(taken)
    ]
    rows = pq.read_table(path).append_column("observation.images.wrist", pa.array(stored))
    pq.write_table(rows, path)
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"]["observation.images.wrist"] = {"dtype": "image", "shape": [48, 64, 3], "names": None}
    info["features"]["note"] = {"dtype": "string", "shape": [1], "names": None}
    (folder / "meta/info.json").write_text(json.dumps(info))
    done = import_lerobot(folder, tmp_path / "lake")
    assert "left out, no numbers: note" in done.notes
    dataset = Catalog.open(str(tmp_path / "lake")).dataset("small")
    assert original(dataset, "small-000000", "wrist") == [one["bytes"] for one in stored]
    for rendition, least_db in (("original", float("inf")), ("h264-g10", 25.0)):
        batch = dataset.windows({"wrist": [0.0]}, rendition=rendition).batch(np.arange(12))
        assert psnr_db(list(batch["wrist"][:, 0].transpose(0, 2, 3, 1)), taken) >= least_db


def test_what_is_no_dataset_is_told_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is not a LeRobot dataset: FileNotFoundError"):
        import_lerobot(tmp_path, tmp_path / "lake")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text('{"codebase_version": "v1.6"}')
    with pytest.raises(FormatError, match=r"is LeRobot v1.6, expected v2.1 or v3"):
        import_lerobot(tmp_path, tmp_path / "lake")
    other = write_folder(tmp_path / "other", [3])
    info = json.loads((other / "meta/info.json").read_text())
    del info["features"]["next.done"]
    import_lerobot(folder, tmp_path / "lake", name="x")
    (other / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(FormatError, match="x is another dataset already"):
        import_lerobot(other, tmp_path / "lake", name="x")
    (other / HEAD / "episode_000000.mp4").write_bytes(b"nothing")
    with pytest.raises(FormatError, match=r"episode_000000.mp4 is not a video"):
        import_lerobot(other, tmp_path / "lake", name="y")
    assert Catalog.open(str(tmp_path / "lake")).datasets()["name"].to_pylist() == ["x"]


@pytest.mark.parametrize(
    ("told", "value", "sentence"),
    [
        ("video_path", "../small/videos/chunk-000/{video_key}/episode_000000.mp4", "leads out of"),
        ("video_path", "/{video_key}.mp4", "leads out of"),
        ("data_path", "data/../../x.parquet", "leads out of"),
        ("fps", 0, "fps must be a positive number, got 0"),
        ("fps", float("inf"), "fps must be a positive number, got inf"),
        ("chunks_size", 0, "is not a LeRobot dataset: ZeroDivisionError"),
    ],
)
def test_an_info_that_leads_astray_is_told_in_a_sentence(
    folder: Path, tmp_path: Path, told: str, value: object, sentence: str
) -> None:
    astray = tmp_path / "astray"
    shutil.copytree(folder, astray)
    info = json.loads((astray / "meta/info.json").read_text())
    (astray / "meta/info.json").write_text(json.dumps(info | {told: value}))
    with pytest.raises(FormatError, match=sentence):
        import_lerobot(astray, tmp_path / "lake")


def test_a_dataset_is_called_what_its_folder_is_called_though_that_is_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "my_dataset").symlink_to(folder)
    assert import_lerobot(tmp_path / "my_dataset" / "meta" / "..", tmp_path / "lake").name == "my_dataset"
