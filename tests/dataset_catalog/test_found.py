"""What is found shows itself: with pictures, and with every text escaped, for it comes from robots."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import cv2
import duckdb
import numpy as np
import pyarrow as pa
import pytest

from dataset_catalog.catalog import Catalog
from dataset_catalog.errors import NotFound, NoVideo, QueryError
from dataset_catalog.versions import SEGMENTS

EVIL = '<script>alert("x")</script>'


def pictures(page: str) -> list[Any]:
    """The images of an HTML page, decoded."""
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)">', page)
    return [cv2.imdecode(np.frombuffer(base64.b64decode(one), np.uint8), cv2.IMREAD_COLOR) for one in found]


def test_videos_show_the_pictures_that_the_index_kept(catalog: Catalog) -> None:
    found = catalog.videos("h1")
    assert [round(float(one.mean()), -1) for one in pictures(found._repr_html_())] == [50, 100, 150]
    assert len(pictures(catalog.videos()._repr_html_())) == 3


def test_episodes_show_what_the_camera_saw_in_their_middle(catalog: Catalog, lake: Any) -> None:
    shown = pictures(catalog.episodes("h1")._repr_html_())
    assert [one.shape for one in shown] == [(120, 160, 3)] * 2
    for name, picture in zip(["e0", "e1"], shown, strict=True):
        episode = lake.episodes[name]
        middle = episode.steps[len(episode.steps) // 2]
        _, frame = min(episode.frames, key=lambda one: abs(one[0] - middle))
        wanted = cv2.resize(frame, (160, 120), interpolation=cv2.INTER_LINEAR)[..., ::-1].astype(float)
        assert np.abs(picture - wanted).mean() < 6


def test_texts_are_escaped(catalog: Catalog) -> None:
    catalog.label("e0", task=EVIL, notes="a & b", remark=EVIL)
    for found in (catalog.episodes("h1"), catalog.search("alert"), catalog.dataset("pick")):
        page = found._repr_html_()
        assert "<script" not in page
        assert "&lt;script&gt;" in page
    assert "a &amp; b" in catalog.episodes("h1")._repr_html_()
    assert "<script" not in catalog.search(EVIL)._repr_html_()


def test_a_find_shows_what_a_camera_saw_then(catalog: Catalog) -> None:
    (shown, *_) = pictures(catalog.search("slipped")._repr_html_())
    assert round(float(shown.mean()), -1) == 50  # of the segment in which the words were said


def test_a_find_in_a_lake_without_segments_shows_its_episode(catalog: Catalog) -> None:
    catalog.label("e1", remark="a wave too")
    bare = Catalog(catalog.storage, pinned={SEGMENTS: None})
    assert len(bare.search("wave")) == 3
    ours, theirs = pictures(bare.search("wave")._repr_html_()), pictures(bare.episodes()._repr_html_())
    assert len(ours) == 3
    assert np.array_equal(ours[0], theirs[1])


def test_a_catalog_says_which_lake_it_is(catalog: Catalog) -> None:
    assert repr(catalog) == f"<Catalog {catalog.storage.url}>"


def test_a_long_list_shows_its_beginning(catalog: Catalog) -> None:
    found = catalog.episodes()
    many = type(found)(pa.concat_tables([found.table] * 10), found._pictures)
    page = many._repr_html_()
    assert "the first 24 of 50 rows" in page
    assert page.count("<tr>") == 25


def test_a_find_is_a_table_for_whoever_wants_one(catalog: Catalog) -> None:
    found = catalog.episodes(task="wave")
    assert (len(found), found["episode_id"].to_pylist(), found.num_rows) == (2, ["e3", "e4"], 2)
    assert found.to_pandas()["task"].tolist() == ["wave", "wave"]
    assert pa.table(found).equals(found.table)
    assert duckdb.sql("SELECT count(*) FROM found").fetchall() == [(2,)]
    assert "episode_id: string" in repr(found)


def test_episodes_are_found_by_robot_time_task_and_label(catalog: Catalog, empty: Catalog) -> None:
    def ids(**asked: Any) -> list[str]:
        found: list[str] = catalog.episodes(**asked)["episode_id"].to_pylist()
        return found

    assert ids() == ["e0", "e1", "e2", "e3", "e4"]
    assert ids(robot="h2", end="2026-01-01T03:00:00Z") == ["e2"]
    assert ids(start="2026-01-01T03:00:00Z", where="success") == ["e3"]
    catalog.label("e4", grip="firm")
    assert ids(where="labels['grip'] = 'firm' AND dataset = 'pick' AND version = 2") == ["e4"]
    assert empty.episodes().schema.names == catalog.episodes().schema.names
    assert "0 rows" in empty.episodes()._repr_html_()
    with pytest.raises(QueryError):
        catalog.episodes(where="nosuch = 1")


def test_telemetry_comes_by_topic_robot_and_time(catalog: Catalog) -> None:
    t0 = 1_767_225_600_000_000_000
    rows = catalog.telemetry("/joint_states", robot="h1", start=t0 + 1, end=t0 + 3)
    assert rows["t_ns"].to_pylist() == [t0 + 1, t0 + 2]
    assert rows.to_pandas()["position"].tolist()[0].tolist() == [0.5, 1.0]
    assert catalog.telemetry("/log", columns=["message"]).schema.names == ["robot_id", "t_ns", "message"]
    assert len(catalog.telemetry("/log", robot="o'brien")) == 0
    with pytest.raises(NotFound, match=r"/log has no column \['nosuch'\]"):
        catalog.telemetry("/log", columns=["nosuch"])


def test_a_sheet_of_what_was_found_has_its_pictures(catalog: Catalog, tmp_path: Path) -> None:
    page = cv2.imread(str(catalog.episodes().contact_sheet(tmp_path / "sheet.png")))
    assert page.shape == (2 * 206, 3 * 176, 3)
    assert page.std() > 10
    with pytest.raises(NoVideo, match="nothing has a picture to show"):
        catalog.videos("h2").contact_sheet(tmp_path / "none.png")
