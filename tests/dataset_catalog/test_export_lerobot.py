"""Out of the lake again as LeRobot has it: numbers exact, packets as they are, and what is made anew near enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_catalog.catalog import Catalog
from dataset_catalog.dataset import Dataset
from dataset_catalog.errors import FormatError
from dataset_catalog.export_film import StoredFilm
from dataset_catalog.export_lerobot import Version, export_lerobot
from dataset_catalog.import_lerobot import import_lerobot
from dataset_catalog.video import decode_gop, to_rgb
from tests.dataset_catalog.lerobot_folders import (
    CHUNK,
    FEATURES,
    FPS,
    frames_of,
    original,
    packets_of,
    psnr_db,
    rows_of,
    same,
    write_folder,
)

LENGTHS = [23, 31]
DATA = {"v2.1": f"data/{CHUNK}/episode_{{:06d}}.parquet", "v3.0": f"data/{CHUNK}/file-{{:03d}}.parquet"}
HEAD = {
    "v2.1": f"videos/{CHUNK}/observation.images.head/episode_{{:06d}}.mp4",
    "v3.0": f"videos/observation.images.head/{CHUNK}/file-{{:03d}}.mp4",
}
VERSIONS: list[Version] = ["v2.1", "v3.0"]


def imported(folder: Path, lake: Path) -> Dataset:
    done = import_lerobot(folder, lake)
    return Catalog.open(str(lake)).dataset(done.name)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("source") / "small", LENGTHS)


@pytest.fixture(scope="module")
def dataset(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return imported(source, tmp_path_factory.mktemp("lake"))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_came_in_goes_out_the_same(source: Path, dataset: Dataset, tmp_path: Path, version: Version) -> None:
    out = tmp_path / "out"
    done = export_lerobot(dataset, out, version=version)
    assert (done.episodes, done.frames, done.notes) == (2, 54, ("2 films are copied packet by packet",))
    told = json.loads((out / "meta/info.json").read_text())
    assert (told["codebase_version"], told["fps"], told["total_frames"]) == (version, FPS, 54)
    for name, about in FEATURES.items():
        assert {key: told["features"][name][key] for key in about} == about
    before = 0
    for n, length in enumerate(LENGTHS):
        found, wanted = pq.read_table(out / DATA[version].format(n)), rows_of(n, length)
        for name in ("observation.state", "action", "next.done", "timestamp", "frame_index", "episode_index"):
            assert found[name].to_pylist() == wanted[name].to_pylist(), name
        assert found["next.reward"].type == wanted["next.reward"].type
        assert np.allclose(found["next.reward"].to_numpy(), wanted["next.reward"].to_numpy(), rtol=1e-7)
        assert found["index"].to_pylist() == list(range(before, before + length))
        before += length
        assert packets_of(out / HEAD[version].format(n)) == packets_of(source / HEAD["v2.1"].format(n))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_went_out_comes_in_the_same(dataset: Dataset, tmp_path: Path, version: Version) -> None:
    export_lerobot(dataset, tmp_path / "small", version=version)
    again = imported(tmp_path / "small", tmp_path / "lake")
    assert again.steps().equals(dataset.steps())
    assert again.columns == dataset.columns
    assert again.episodes()["task"].equals(dataset.episodes()["task"])
    for episode in dataset.selection.episode_ids:
        assert original(again, episode) == original(dataset, episode)


@pytest.mark.parametrize(
    ("type_", "exact", "rounded"),
    [
        (pa.float64(), [0.5, -3.0, 2.0**-140, float("inf"), float("nan")], [0.1, 1e300]),
        (pa.int64(), [0, -7, 2**24, 2**62], [2**24 + 1, 2**53 + 1]),
        (pa.int32(), [-(2**31), 12], [2**24 + 1]),
    ],
)
def test_numbers_that_float32_holds_go_out_as_they_came_in_and_a_feature_with_others_is_named(
    tmp_path: Path, type_: Any, exact: list[Any], rounded: list[Any]
) -> None:
    for name, numbers in {"good": exact, "bad": exact + rounded}.items():
        folder, length = write_folder(tmp_path / name, [8]), 8
        path, info = folder / DATA["v2.1"].format(0), json.loads((folder / "meta/info.json").read_text())
        info["features"]["next.reward"]["dtype"] = str(type_).replace("double", "float64")
        (folder / "meta/info.json").write_text(json.dumps(info))
        rows = pq.read_table(path)
        column = pa.array((numbers * length)[:length], type_)
        pq.write_table(rows.set_column(rows.schema.get_field_index("next.reward"), "next.reward", column), path)
        notes = import_lerobot(folder, tmp_path / "lake").notes
        of = sum(one in rounded for one in column.to_pylist())
        told = [note for note in notes if note.startswith(f"next.reward: {of} of 8 numbers are rounded to float32")]
        assert len(told) == (1 if name == "bad" else 0) == len(notes)
    export_lerobot(Catalog.open(str(tmp_path / "lake")).dataset("good"), tmp_path / "out")
    found, wanted = (
        pq.read_table(tmp_path / "out" / DATA["v3.0"].format(0)),
        pq.read_table(tmp_path / "good" / DATA["v2.1"].format(0)),
    )
    for name in ("next.reward", "timestamp", "frame_index", "episode_index", "index", "task_index"):
        assert found[name].type == wanted[name].type
        assert np.array_equal(found[name].to_numpy(), wanted[name].to_numpy(), equal_nan=True), name


def test_episodes_that_share_a_file_and_a_row_group_come_in_each_by_itself(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "small"
    export_lerobot(dataset, out)
    first, second = (out / DATA["v3.0"].format(n) for n in range(2))
    pq.write_table(pa.concat_tables([pq.read_table(one) for one in (first, second)]), first)
    second.unlink()
    path = out / "meta/episodes/chunk-000/file-000.parquet"
    told = [row | {"data/file_index": 0} for row in pq.read_table(path).to_pylist()]
    pq.write_table(pa.Table.from_pylist(told), path)
    assert pq.read_metadata(first).num_row_groups == 1
    assert imported(out, tmp_path / "lake").steps().equals(dataset.steps())


@pytest.mark.parametrize(("codec", "gop", "b_frames"), [("libx264", 12, 2), ("libx265", 10, 0)])
def test_packets_that_need_each_other_are_copied_with_their_order(
    tmp_path: Path, codec: str, gop: int, b_frames: int
) -> None:
    folder = write_folder(tmp_path / "small", [40], codec=codec, gop=gop, b_frames=b_frames)
    export_lerobot(imported(folder, tmp_path / "lake"), tmp_path / "out")
    found, wanted = (tmp_path / "out" / HEAD["v3.0"].format(0), folder / HEAD["v2.1"].format(0))
    assert packets_of(found) == packets_of(wanted)
    assert times_of(found) == times_of(wanted)
    assert psnr_db(frames_of(found), frames_of(wanted)) == float("inf")


def times_of(path: Path) -> list[float]:
    """When each packet's picture is shown, in decoding order, in seconds."""
    with av.open(str(path)) as container:
        return [float(packet.pts * packet.time_base) for packet in container.demux(video=0) if packet.size]


def test_steps_that_leave_pictures_out_are_not_given_those_between(lake: Any) -> None:
    film = StoredFilm(lake.catalog.dataset("pick").table("gops"), "e0", "head")
    out = film.out(film.frame_t_ns[::2])
    assert not out.copied
    wanted = [picture for _, picture in lake.episodes["e0"].frames[::2]]
    frames = [to_rgb(frame) for frame in decode_gops(out.packets)]
    assert psnr_db(frames, wanted) >= 38
    assert film.out(film.frame_t_ns).copied
    assert not film.out(film.frame_t_ns[::-1].copy()).copied


def decode_gops(packets: list[bytes]) -> list[Any]:
    return [frame for n in range(0, len(packets), 10) for frame in decode_gop("h264", None, packets[n : n + 10])]


def test_a_part_of_an_episode_is_an_episode_whose_film_is_near_enough(
    source: Path, dataset: Dataset, tmp_path: Path
) -> None:
    part = dataset.select(where="step BETWEEN 3 AND 17", episodes=["small-000001"])
    done = export_lerobot(part, tmp_path / "out")
    assert done.frames == 15
    assert any("encoded anew, PSNR at least" in note for note in done.notes)
    wanted = frames_of(source / HEAD["v2.1"].format(1))[3:18]
    assert psnr_db(frames_of(tmp_path / "out" / HEAD["v3.0"].format(0)), wanted) >= 38
    rows = pq.read_table(tmp_path / "out" / DATA["v3.0"].format(0))
    assert same(rows["observation.state"], rows_of(1, 31)["observation.state"].slice(3, 15))
    assert rows["frame_index"].to_pylist() == list(range(15))


def test_whole_gops_from_the_middle_are_copied(source: Path, dataset: Dataset, tmp_path: Path) -> None:
    part = dataset.select(where="step BETWEEN 10 AND 24", episodes=["small-000001"])
    assert export_lerobot(part, tmp_path / "out").notes == ("1 films are copied packet by packet",)
    wanted = packets_of(source / HEAD["v2.1"].format(1))[10:25]
    assert packets_of(tmp_path / "out" / HEAD["v3.0"].format(0)) == wanted


def test_what_a_step_does_not_have_is_told_and_never_invented(lake: Any, tmp_path: Path) -> None:
    dataset = lake.catalog.dataset("pick").select(episodes=["e0"])
    done = export_lerobot(dataset, tmp_path / "out", version="v2.1")
    steps, rows = dataset.steps(), pq.read_table(tmp_path / "out" / DATA["v2.1"].format(0))
    for column, feature in {"state": "observation.state", "action": "action", "torso": "observation.torso"}.items():
        told, found = steps[column].to_pylist(), rows[feature].to_pylist()
        assert all(np.isnan(b).all() if a is None else a == b for a, b in zip(told, found, strict=True))
    missing = {name: steps[name].null_count for name in ("state", "action", "torso", "head_age_ns")}
    assert missing["state"] > 0
    assert missing["head_age_ns"] > 0
    assert f"{missing['state']} steps without state have NaN" in done.notes
    assert f"{missing['head_age_ns']} steps without a picture have the one before" in done.notes
    wanted = [one for step in range(len(steps)) for one in seen(dataset, steps, step)]
    assert psnr_db(frames_of(tmp_path / "out" / HEAD["v2.1"].format(0)), wanted) >= 38


def seen(dataset: Dataset, steps: Any, step: int) -> list[np.ndarray]:
    """What the step's camera saw; of a step without a picture what the one before saw."""
    while steps["head_gop"][step].as_py() is None:
        step -= 1
    return [dataset.frame("e0", step, "head")]


def test_statistics_are_those_of_the_numbers(dataset: Dataset, tmp_path: Path) -> None:
    export_lerobot(dataset, tmp_path / "out")
    told = json.loads((tmp_path / "out/meta/stats.json").read_text())
    values = np.concatenate([np.array(rows_of(n, k)["action"].to_pylist()) for n, k in enumerate(LENGTHS)])
    assert np.allclose(told["action"]["mean"], values.mean(axis=0), rtol=1e-5)
    assert np.allclose(told["action"]["max"], values.max(axis=0))
    assert told["action"]["count"] == [54]
    assert np.shape(told["observation.images.head"]["mean"]) == (3, 1, 1)
    assert 0 < told["observation.images.head"]["mean"][0][0][0] < 1
    episodes = pq.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["length"] for row in episodes] == LENGTHS
    first = np.array(rows_of(0, LENGTHS[0])["observation.state"].to_pylist())
    assert np.allclose(episodes[0]["stats/observation.state/min"], first.min(axis=0))


def test_what_the_format_cannot_hold_is_refused(lake: Any, dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(FormatError, match="full is not empty"):
        export_lerobot(dataset, tmp_path / "full")
    with pytest.raises(FormatError, match="no step is selected"):
        export_lerobot(dataset.select(where="false"), tmp_path / "out")
    wrong: Any = "v1"
    with pytest.raises(FormatError, match=r"version is one of v2\.1, v3\.0, got 'v1'"):
        export_lerobot(dataset, tmp_path / "out", version=wrong)
    assert not (tmp_path / "out").exists()
