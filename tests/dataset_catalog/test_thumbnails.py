"""Segments are looked at by small pictures, which no listing carries along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dataset_catalog import versions
from dataset_catalog.catalog import Catalog
from dataset_catalog.errors import NoVideo, QueryError
from dataset_catalog.sql import Bounds
from dataset_catalog.times import to_ns
from dataset_catalog.video_pages import VideoSearch, find_page

T0 = to_ns("2026-01-01")


def brightness(jpeg: bytes) -> float:
    return float(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).mean())


def test_each_segment_that_has_a_picture_gives_its_own(lake: Any) -> None:
    rows = lake.catalog.thumbnails().to_pylist()
    assert [(row["robot_id"], row["stream"], row["seq"]) for row in rows] == [("h1", "head", seq) for seq in range(3)]
    assert [round(brightness(row["thumbnail"]), -1) for row in rows] == [50, 100, 150]


def test_they_are_found_as_videos_are(lake: Any) -> None:
    found = lake.catalog.thumbnails("h1", start=T0 + 10 * 10**9, where="luma_mean < 70")
    assert found["seq"].to_pylist() == [1]
    assert lake.catalog.thumbnails("nobody").num_rows == 0


def test_of_too_many_evenly_chosen_ones_are_given(lake: Any) -> None:
    assert lake.catalog.thumbnails("h1", limit=2)["seq"].to_pylist() == [0, 2]
    with pytest.raises(QueryError, match="limit"):
        lake.catalog.thumbnails(limit=0)


def test_no_listing_carries_them(lake: Any) -> None:
    assert "thumbnail" not in lake.catalog.videos().schema.names
    assert "thumbnail" not in lake.catalog.sql("SELECT * FROM segments").schema.names
    manifest = versions.newest(lake.storage, versions.SEGMENTS)
    page, _ = find_page(lake.storage, manifest, VideoSearch(), after=None, limit=9, bounds=Bounds(9.0, 1 << 28))
    assert page
    assert not any(isinstance(value, bytes) for row in page for value in row.values())


def test_a_contact_sheet_shows_them_all(lake: Any, tmp_path: Path) -> None:
    page = cv2.imread(str(lake.catalog.contact_sheet(tmp_path / "sheet.png")))
    height, width = page.shape[:2]
    middles = [
        page[height // 4 - 15, width // 4],
        page[height // 4 - 15, 3 * width // 4],
        page[3 * height // 4 - 15, width // 4],
    ]
    assert [round(float(middle.mean()), -1) for middle in middles] == [50, 100, 150]


def test_nothing_to_show_is_said(lake: Any, empty: Catalog, tmp_path: Path) -> None:
    assert empty.thumbnails().num_rows == 0
    with pytest.raises(NoVideo):
        empty.contact_sheet(tmp_path / "sheet.png")
    with pytest.raises(NoVideo):
        lake.catalog.contact_sheet(tmp_path / "sheet.png", "h2")
