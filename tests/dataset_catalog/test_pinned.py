"""Tags name versions; a pinned set gives the very same steps again, or says why it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dataset_catalog.catalog import Catalog
from dataset_catalog.errors import NotFound, PinError, QueryError, VersionConflict
from dataset_catalog.selection import Run, Selection


def ids(dataset: Any) -> list[str]:
    return list(dataset.selection.episode_ids)


def test_a_tag_opens_the_version_it_names_until_it_is_deleted(catalog: Catalog) -> None:
    assert catalog.tag("pick", "paper", "v1") == 1
    assert catalog.tag("pick", "newest") == 2
    assert catalog.tag("pick", "paper", 1) == 1  # said twice
    assert catalog.tags("pick") == {"newest": 2, "paper": 1}
    assert catalog.dataset("pick", "paper").version == 1
    with pytest.raises(VersionConflict, match="has the tag paper already, of version 1"):
        catalog.tag("pick", "paper", 2)
    catalog.untag("pick", "paper")
    assert catalog.tags("pick") == {"newest": 2}
    with pytest.raises(NotFound, match=r"or a tag of datasets/pick \(newest\), got 'paper'"):
        catalog.dataset("pick", "paper")
    with pytest.raises(NotFound, match=r"has no tag 'paper'; it has \['newest'\]"):
        catalog.untag("pick", "paper")


@pytest.mark.parametrize("tag", ["v7", "7", "a/b", "", "Paper", "../x"])
def test_what_could_be_mistaken_for_a_version_or_a_path_is_no_tag(catalog: Catalog, tag: str) -> None:
    with pytest.raises(QueryError, match="a tag is of"):
        catalog.tag("pick", tag)


def test_steps_are_selected_by_time(catalog: Catalog, lake: Any) -> None:
    dataset, one = catalog.dataset("pick"), lake.episodes["e1"]
    middle = one.steps[10]
    after = dataset.select(time=(middle, None))
    assert after.selection.runs[0] == Run("e1", 10, len(one.steps))
    assert ids(after) == ["e1", "e2", "e3", "e4"]
    assert dataset.select(time=(None, middle)).selection.runs[-1] == Run("e1", 0, 10)
    assert dataset.select(time=(middle, middle + 1)).selection.runs == (Run("e1", 10, 11),)
    assert dataset.select(time=("2026-01-01T02:00:00Z", "2026-01-01T03:00:00Z")).selection.runs == tuple(
        Run("e2", i, j) for i, j in [_within(lake.episodes["e2"].steps, 2, 3)]
    )
    assert len(dataset.select(time=(0, 1))) == 0


def _within(steps: list[int], first_h: int, last_h: int) -> tuple[int, int]:
    start = 1_767_225_600_000_000_000
    inside = [i for i, t in enumerate(steps) if start + first_h * 3600 * 10**9 <= t < start + last_h * 3600 * 10**9]
    return inside[0], inside[-1] + 1


def test_a_pinned_set_gives_the_same_steps_again_though_dataset_and_labels_have_grown(catalog: Catalog) -> None:
    catalog.label(["e0", "e1", "e2"], good=True)
    chosen = catalog.dataset("pick", 1).select(where="labels['good'] = 'true'", robots=["h1"])
    train = chosen.split(train=0.5, val=0.5, seed=3)["train"].select(where="state[1] > 0", time=(0, 2**62))
    pinned = train.pin()
    catalog.label(["e0", "e1", "e2"], good=None)
    again = catalog.pinned(json.loads(pinned.to_json()))
    assert len(again) > 0
    assert again.selection.runs == train.selection.runs
    assert (again.version, again.label_version) == (1, 1)
    assert again.pin() == pinned
    assert len(pinned.to_json()) < 1500


def test_a_pinned_set_is_a_short_file(catalog: Catalog, tmp_path: Path) -> None:
    path = catalog.dataset("pick").select(tasks=["wave"]).pin().save(tmp_path / "set.json")
    told = json.loads(path.read_text())
    assert told["dataset"] == f"{catalog.storage.url}/datasets/pick"
    assert (told["version"], told["label_version"], told["episodes"]) == (2, 0, 2)
    assert told["selection"] == [{"tasks": ["wave"]}]
    assert ids(catalog.pinned(path)) == ids(catalog.pinned(path.read_text())) == ["e3", "e4"]


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("version", 7, "cannot be had: datasets/pick has no version 7"),
        ("label_version", 3, "cannot be had: lake/labels has no version 3"),
        ("dataset", "s3://other/datasets/pick", "dataset was s3://other/datasets/pick, is"),
        ("published", "0" * 64, "published was 000"),
        ("episodes", 5, "episodes was 5, is 2"),
        ("digest", "0" * 64, "digest was 000"),
        ("selection", [{"tasks": ["pour water"]}], "steps was 84, is 90"),
        ("format", "other/1", "expected a pinned set of the format fleetfeed/pinned/1"),
        ("surplus", 1, "this is no pinned set: TypeError"),
        ("label_version", "x", "this is no pinned set: label_version is 'x'"),
        ("version", None, "this is no pinned set: version is None"),
        ("selection", ["x"], r"its selection is \['x'\]"),
        ("selection", [{"nosuch": 1}], "unexpected keyword argument 'nosuch'"),
        ("selection", [{"time": 3}], "a range of time is"),
        ("selection", [{"where": "true) OR (SELECT"}], "cannot be parsed"),
        ("selection", [{"part": "train"}], "condition {'part': 'train'} cannot be had"),
        ("selection", [{"part": "x", "by": "episode", "seed": 0, "shares": {"y": 1.0}}], "cannot be had"),
        ("selection", [{"part": "y", "by": [], "seed": 0, "shares": {"y": 1.0}}], "cannot be had"),
        ("selection", [{"part": "y", "by": "robot", "seed": 0, "shares": {"y": "z"}}], "shares must be"),
    ],
)
def test_what_is_not_as_it_was_pinned_is_refused_by_name(
    catalog: Catalog, field: str, value: object, sentence: str
) -> None:
    pinned = json.loads(catalog.dataset("pick").select(tasks=["wave"]).pin().to_json())
    with pytest.raises(PinError, match=sentence):
        catalog.pinned(pinned | {field: value})


def test_a_lake_built_anew_with_other_episodes_under_the_same_version_is_refused(
    catalog: Catalog, tmp_path: Path
) -> None:
    pinned = catalog.dataset("pick").pin()
    manifest = Path(catalog.storage.url) / "datasets/pick/versions/0000000002.json"
    first = json.loads((manifest.parent / "0000000001.json").read_text())
    manifest.write_text(json.dumps(first | {"n": 2}))
    with pytest.raises(PinError, match="published was"):
        catalog.pinned(pinned.to_json())
    with pytest.raises(PinError, match="this is no pinned set: FileNotFoundError"):
        catalog.pinned(tmp_path / "none.json")


def test_a_split_by_robot_keeps_a_robots_episodes_together(catalog: Catalog) -> None:
    for seed in range(6):
        parts = catalog.dataset("pick").split(by="robot", train=0.5, val=0.5, seed=seed)
        robots = [set(part.episodes()["robot_id"].to_pylist()) for part in parts.values()]
        assert not robots[0] & robots[1]
        assert robots[0] | robots[1] == {"h1", "h2"}
        again = catalog.pinned(parts["val"].pin().to_json())
        assert again.selection.runs == parts["val"].selection.runs
    with pytest.raises(QueryError, match="a split is by one of episode, robot, got 'task'"):
        catalog.dataset("pick").split(by="task")


def test_a_hundred_thousand_episodes_are_located_narrowed_and_told_apart_by_their_columns() -> None:
    count, steps = 100_000, 100
    first = np.zeros(count, np.int64)
    ids = pa.array([f"episode-{n:06d}" for n in range(count)])
    whole = Selection.from_columns(ids, first, first + steps)
    assert len(whole) == count * steps
    asked = np.random.default_rng(0).integers(0, len(whole), 1000)
    assert whole.locate(asked) == [(f"episode-{n // steps:06d}", n % steps) for n in asked.tolist()]
    half = Selection.from_columns(ids.slice(0, count // 2), first[: count // 2] + 50, first[: count // 2] + 200)
    both = whole.intersect(half)
    assert (len(both), len(both.ids)) == (count // 2 * 50, count // 2)
    assert both.digest() == half.intersect(whole).digest()
    assert "runs" not in vars(whole) | vars(both)
