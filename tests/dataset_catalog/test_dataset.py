"""Opening, narrowing and splitting a dataset, and looking at single frames of it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_catalog.contents import Camera, Column
from dataset_catalog.dataset import Dataset
from dataset_catalog.errors import CatalogError, NotFound, QueryError, WindowError
from dataset_catalog.selection import Run, Selection, part_of


@pytest.fixture(scope="module")
def pick(lake: Any) -> Dataset:
    return lake.catalog.dataset("pick")  # type: ignore[no-any-return]


def test_columns_and_cameras_say_what_they_are(pick: Dataset) -> None:
    assert pick.columns["state"] == Column(3, ("hip", "knee", "ankle"), "linear", 40_000_000)
    assert pick.columns["action"].names is None
    assert set(pick.columns) == {"state", "action", "torso"}
    assert pick.cameras == {"head": Camera(30_000_000, {"original": (48, 64), "h264-small": (24, 32)})}


def test_steps_come_in_the_order_of_the_windows(pick: Dataset) -> None:
    steps = pick.steps()
    located = pick.selection.locate(np.arange(len(pick)))
    assert list(zip(steps["episode_id"].to_pylist(), steps["step"].to_pylist(), strict=True)) == located


def episodes_of(dataset: Dataset) -> list[str]:
    return list(dataset.selection.episode_ids)


def test_episodes_are_selected_by_robot_id_task_and_predicate(pick: Dataset) -> None:
    assert episodes_of(pick.select(robots=["h2"])) == ["e2", "e3", "e4"]
    assert episodes_of(pick.select(tasks=["pour water"], where="success")) == ["e0"]
    assert episodes_of(pick.select(episodes=["e4", "e0"])) == ["e0", "e4"]
    assert episodes_of(pick.select(robots=["h1"]).select(where="NOT success")) == ["e1"]
    assert pick.select(robots=["h2"]).episodes()["episode_id"].to_pylist() == ["e2", "e3", "e4"]
    assert len(pick.select(where="false")) == 0
    assert pick.select(where="false").steps().schema.equals(pick.steps().schema)


def test_single_steps_are_selected_by_their_values(pick: Dataset) -> None:
    chosen = pick.select(where="state[1] > 0 AND task IS NOT NULL", robots=["h1"])
    expected = [
        row for row in pick.steps().to_pylist() if row["robot_id"] == "h1" and row["state"] and row["state"][0] > 0
    ]
    assert 0 < len(chosen) < len(pick.select(robots=["h1"]))
    assert chosen.steps().to_pylist() == expected
    assert len(chosen.windows({"state": [0]})) == len(expected)
    assert pick.select(where="step % 3 = 1").steps()["step"].to_pylist() == [
        row["step"] for row in pick.steps().to_pylist() if row["step"] % 3 == 1
    ]
    first_second = pick.select(where="t_ns - start_ns < 1000000000")
    assert [(run.episode_id, run.first) for run in first_second.selection.runs] == [
        (name, 0) for name in episodes_of(pick)
    ]


def test_names_that_are_not_there_and_predicates_that_do_not_run_are_errors(pick: Dataset) -> None:
    with pytest.raises(NotFound, match=r"pick v2 has no robot_id \['h7'\]"):
        pick.select(robots=["h1", "h7"])
    with pytest.raises(QueryError, match="nosuch"):
        pick.select(where="nosuch > 1")


def test_a_predicate_is_one_expression_whatever_closes_or_follows_it(pick: Dataset) -> None:
    for where in (
        "true) UNION ALL SELECT 'e0', 0, 99999 WHERE (true",
        "false)) OR ((true",
        "true) --",
        "true; SELECT 1",
        "true FROM steps",
        "",
    ):
        with pytest.raises(QueryError, match="predicate"):
            pick.select(where=where)
    assert len(pick.select(where="success -- the good ones")) == len(pick.select(where="success"))
    assert len(pick.select(where="episode_id IN (SELECT max(episode_id) FROM episodes)").selection.ids) == 1


def test_a_single_name_is_one_and_not_its_letters(pick: Dataset) -> None:
    assert pick.select(robots="h1").conditions == pick.select(robots=["h1"]).conditions
    assert len(pick.select(robots="h1", tasks="wave", episodes="e0")) == len(
        pick.select(robots=["h1"], tasks=["wave"], episodes=["e0"])
    )


def test_what_is_no_condition_no_share_and_no_row_is_an_error_of_ours(pick: Dataset) -> None:
    for time in (3, (1, 2, 3), (float("nan"), None), ("2026-01-01T00:00:00Z",)):
        with pytest.raises(QueryError, match="time"):
            pick.select(time=time)
    for share in (float("nan"), "x", None, -0.5):
        with pytest.raises(QueryError, match="shares must be"):
            pick.split(train=share, val=0.1)
    for row in ("x", 1.5, ("e0",), ("e0", "x"), None):
        with pytest.raises(NotFound, match="a row is a number"):
            pick.lineage(row)


def test_a_split_is_disjoint_complete_and_the_same_every_time(pick: Dataset) -> None:
    parts = pick.split(seed=3, train=0.5, val=0.5)
    train, val = (set(episodes_of(part)) for part in parts.values())
    assert not train & val
    assert train | val == set(episodes_of(pick))
    assert {name: episodes_of(part) for name, part in pick.split(seed=3, train=0.5, val=0.5).items()} == {
        name: episodes_of(part) for name, part in parts.items()
    }
    assert list(pick.split()) == ["train", "val"]
    with pytest.raises(QueryError, match="add up to at most 1"):
        pick.split(train=0.9, val=0.2)


def test_an_episode_stays_in_its_part_when_the_dataset_grows(lake: Any, pick: Dataset) -> None:
    older = lake.catalog.dataset("pick", 1).split(train=0.5, val=0.5)
    newer = pick.split(train=0.5, val=0.5)
    for name in older:
        assert set(episodes_of(older[name])) <= set(episodes_of(newer[name]))


def test_shares_are_about_as_asked() -> None:
    parts = [part_of(f"episode-{i}", shares={"train": 0.9, "val": 0.05}, seed=1) for i in range(20_000)]
    assert abs(parts.count("train") / 20_000 - 0.9) < 0.01
    assert abs(parts.count("val") / 20_000 - 0.05) < 0.01
    assert abs(parts.count(None) / 20_000 - 0.05) < 0.01


def test_a_frame_is_what_the_whole_decode_gives(lake: Any, pick: Dataset) -> None:
    for name, step in [("e0", 0), ("e1", 25), ("e3", 68)]:
        episode = lake.episodes[name]
        _, expected = min(episode.frames, key=lambda frame: abs(frame[0] - episode.steps[step]))
        assert (pick.frame(name, step, "head") == expected).all()


def test_a_frame_that_does_not_exist_is_not_found(pick: Dataset) -> None:
    with pytest.raises(NotFound, match="has the steps 0 to 13"):
        pick.frame("e4", 99, "head")
    with pytest.raises(NotFound, match="no episode 'e77'"):
        pick.frame("e77", 0, "head")
    lost = next(row["step"] for row in pick.select(episodes=["e0"]).steps().to_pylist() if row["head_gop"] is None)
    with pytest.raises(NotFound, match=f"head has no frame within its tolerance of step {lost} of episode e0"):
        pick.frame("e0", lost, "head")
    with pytest.raises(WindowError, match="no column or camera"):
        pick.frame("e4", 0, "tail")


def test_a_dataset_travels_as_its_address_and_selection(pick: Dataset) -> None:
    narrowed = pick.select(where="state[1] > 0")
    narrowed.steps()
    packed = pickle.dumps(narrowed)
    assert len(packed) < 6000
    assert pickle.loads(packed).steps().equals(narrowed.steps())  # noqa: S301


def test_a_contact_sheet_shows_the_frames(pick: Dataset, tmp_path: Path) -> None:
    path = pick.contact_sheet(tmp_path / "sheet.png", camera="head", columns=["state", "action"], rows=2, cols=3)
    page = cv2.imread(str(path))[..., ::-1]
    assert page.shape == (2 * (40 + 240 + 2 * 46 + 14) + 14, 3 * (320 + 14) + 14, 3)
    first = cv2.resize(pick.frame("e0", 0, "head"), (320, 240), interpolation=cv2.INTER_AREA)
    assert (page[14 + 40 : 14 + 40 + 240, 14 : 14 + 320] == first).all()


def test_a_contact_sheet_of_nothing_is_refused(pick: Dataset, tmp_path: Path) -> None:
    with pytest.raises(WindowError, match="got 0 steps"):
        pick.select(where="false").contact_sheet(tmp_path / "x.png", camera="head")
    for places in ({"rows": 0}, {"cols": 10**6}):
        with pytest.raises(WindowError, match="1 to 400 places"):
            pick.contact_sheet(tmp_path / "x.png", camera="head", **places)
    with pytest.raises(CatalogError, match=r"cannot write .*x\.png: No such file or directory"):
        pick.contact_sheet(tmp_path / "no" / "x.png", camera="head")


def test_a_contact_sheet_is_a_png_whatever_it_is_called(pick: Dataset, tmp_path: Path) -> None:
    path = pick.contact_sheet(tmp_path / "sheet.txt", camera="head", columns="state", rows=1, cols=1)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


RUNS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.integers(0, 10)), max_size=8)


def disjoint(runs: list[tuple[str, int, int]]) -> Selection:
    """Runs of one episode made disjoint and ascending, as selections are."""
    reached: dict[str, int] = {}
    out = []
    for name, gap, length in sorted(runs):
        first = reached.get(name, 0) + gap
        reached[name] = first + length + 1
        out.append(Run(name, first, first + length))
    return Selection.of(out)


def members(selection: Selection) -> list[tuple[str, int]]:
    return [(run.episode_id, step) for run in selection.runs for step in range(run.first, run.end)]


@given(RUNS, RUNS)
def test_selections_behave_like_lists_of_steps(a: list[Any], b: list[Any]) -> None:
    one, other = disjoint(a), disjoint(b)
    assert len(one) == len(members(one))
    assert one.locate(np.arange(len(one))) == members(one)
    assert members(one.intersect(other)) == [step for step in members(one) if step in members(other)]
    assert members(one.only({"b"})) == [step for step in members(one) if step[0] == "b"]
    assert (one.digest() == other.digest()) == (one.runs == other.runs)
    steps = np.arange(200)
    for place, name in enumerate(one.episode_ids):
        covered = steps[one.covers(np.full(200, place), steps)].tolist()
        assert covered == [step for ep, step in members(one) if ep == name]


def test_statistics_are_those_of_the_selected_episodes_alone(lake: Any, readings_of: Any) -> None:
    dataset = lake.catalog.dataset("pick", version=2)
    for chosen in (
        dataset,
        dataset.select(tasks=["wave"]),
        dataset.select(episodes=["e1"]),
        dataset.select(where="step < 3"),
    ):
        values = np.concatenate([readings_of(lake.episodes[one], "state") for one in chosen.selection.episode_ids])
        found = chosen.statistics("state")
        assert found.count.tolist() == [len(values)] * 3
        np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(found.std, values.std(axis=0), rtol=1e-5)
        true = np.sort(values, axis=0)[int(0.99 * (len(values) - 1))]
        np.testing.assert_allclose(found.quantile(0.99), true, rtol=0.0101)


def test_statistics_of_what_is_not_there_are_refused(lake: Any) -> None:
    dataset = lake.catalog.dataset("pick")
    with pytest.raises(NotFound, match=r"no column 'head'; it has \['action', 'state', 'torso'\]"):
        dataset.statistics("head")
    with pytest.raises(NotFound, match="0 of 0 episodes"):
        dataset.select(where="step > 1000").statistics("state")
