"""Renditions at training resolution: near their source, published once, read where they fit, and nowhere else."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import simplejpeg

from dataset_catalog import materialize, versions
from dataset_catalog.catalog import Catalog
from dataset_catalog.encoding import Encoding
from dataset_catalog.errors import VersionConflict, WindowError
from dataset_catalog.storage import Storage
from tests.dataset_catalog import conftest as made


@pytest.fixture
def lake(tmp_path: Path) -> Catalog:
    storage = Storage.open(str(tmp_path))
    episodes = [
        made.make_episode("e0", "h1", "pour water", True, frames=40, skip=0, seed=0),
        made.make_episode("e1", "h2", "wave", True, frames=23, skip=4, seed=1),
    ]
    made.write_dataset(storage, "pick", [episodes])
    return Catalog(storage)


@pytest.mark.parametrize("codec", ["h264-g10", "h264-g2", "jpeg"])
def test_a_rendition_is_a_new_version_that_shows_the_same_pictures(lake: Catalog, codec: Any) -> None:
    before = lake.dataset("pick")
    after = before.materialize(image_size=(36, 44), codec=codec, quiet=True)
    assert (before.version, after.version, lake.dataset("pick").version) == (1, 2, 2)
    label = f"{codec}-36x44"
    assert set(after.cameras["head"].renditions) == {"original", "h264-small", label}
    assert after.cameras["head"].renditions[label] == (36, 44)
    places = [(name, step) for name in ("e0", "e1") for step in range(0, 20, 3)]
    spec: Any = {"head": [-0.1, 0.0]}
    fast, slow = (
        after.windows(spec, image_size=(36, 44)),
        after.windows(spec, image_size=(36, 44), rendition="original"),
    )
    assert fast.spec.cameras[0].renditions[0] == label
    found, expected = fast.at(places), slow.at(places)
    assert (found["head_age_ns"] == expected["head_age_ns"]).all()
    assert psnr(gray(found["head"]), gray(expected["head"])) > 36
    shifted = np.roll(gray(expected["head"]), 1, axis=0)
    assert psnr(gray(found["head"]), shifted) < 25
    assert (before.windows(spec, image_size=(36, 44)).at(places)["head"] == expected["head"]).all()


def test_a_jpeg_is_made_of_the_picture_scaled_to_rgb_in_one_pass() -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8), (0, 0), 3.0)
    frame = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format="yuv420p")
    encoding = Encoding("jpeg", (36, 44))
    scaled = frame.reformat(44, 36, "rgb24", interpolation="AREA").to_ndarray()
    expected = simplejpeg.encode_jpeg(scaled, 90, colorspace="RGB", colorsubsampling="420")
    assert encoding.jpeg(encoding.fitted(frame)) == expected


@pytest.mark.parametrize("codec", ["h264-g10", "jpeg"])
def test_how_near_a_rendition_is_to_its_source_is_told(lake: Catalog, codec: Any) -> None:
    here = materialize.newest_of(lake.dataset("pick"))
    made = materialize.materialize(here, Encoding(codec, (36, 44)), ["e0", "e1"], progress=lambda done, of: None)
    assert (made.videos, made.fidelity.frames) == (2, 65)
    assert 36 < made.fidelity.psnr_db < 60


def gray(images: np.ndarray) -> np.ndarray:
    """Luma of (…, 3, H, W): the bar's full saturation does not survive 4:2:0 in so small a picture."""
    return np.moveaxis(images, -3, -1) @ np.array([0.299, 0.587, 0.114])


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((found - expected) ** 2)))


def test_its_gops_are_as_long_as_the_codec_says_and_lead_to_the_raw_object(lake: Catalog) -> None:
    after = lake.dataset("pick").materialize(image_size=(36, 44), codec="h264-g2", quiet=True)
    rows = after.table("gops").to_table(filter="episode_id = 'e1'", columns=["rendition", "frame_t_ns", "source_key"])
    times: dict[str, list[int]] = {}
    for row in rows.to_pylist():
        times.setdefault(row["rendition"], []).extend(row["frame_t_ns"])
        assert row["source_key"].startswith("raw/h2/")
        assert len(row["frame_t_ns"]) <= (2 if row["rendition"] == "h264-g2-36x44" else 10)
    assert times["h264-g2-36x44"] == times["original"]


def test_what_is_there_is_not_made_again_and_what_lacks_is(lake: Catalog) -> None:
    first = lake.dataset("pick").select(episodes=["e1"]).materialize(image_size=(36, 44), quiet=True)
    assert first.version == 2
    assert first.selection.episode_ids == ("e1",)
    assert first.materialize(image_size=(36, 44), quiet=True).version == 2
    whole = lake.dataset("pick").materialize(image_size=(36, 44), quiet=True)
    assert whole.version == 3
    rows = (
        whole.table("gops").to_table(filter="rendition = 'h264-g10-36x44'", columns=["episode_id", "gop"]).to_pylist()
    )
    assert len({(row["episode_id"], row["gop"]) for row in rows}) == len(rows)
    assert {row["episode_id"] for row in rows} == {"e0", "e1"}


def test_a_rendition_of_other_proportions_is_read_only_where_windows_ask_for_just_that(lake: Catalog) -> None:
    after = lake.dataset("pick").materialize(image_size=(40, 40), codec="jpeg", fit="letterbox", quiet=True)
    label = "jpeg-40x40-letterbox"

    def first(**options: Any) -> str:
        return after.windows({"head": [0.0]}, **options).spec.cameras[0].renditions[0]

    assert first(image_size=(40, 40), fit="letterbox") == label
    assert first(image_size=(40, 40)) != label
    assert first(image_size=(24, 24), fit="letterbox") != label
    assert first() == "original"
    black = after.windows({"head": [0.0]}, image_size=(40, 40), fit="letterbox").at([("e0", 3)])["head"][0, 0]
    assert (black[:, :4].mean(), black[:, 10:30].mean()) == (pytest.approx(0, abs=8), pytest.approx(60, abs=40))


def test_an_older_version_is_not_built_upon(lake: Catalog) -> None:
    old = lake.dataset("pick")
    old.materialize(image_size=(36, 44), quiet=True)
    with pytest.raises(VersionConflict, match="pick is at v2 now, this is v1"):
        old.materialize(image_size=(16, 16), quiet=True)


def test_a_writer_that_was_faster_leaves_this_run_with_nothing_published(lake: Catalog) -> None:
    here = materialize.newest_of(lake.dataset("pick"))
    encoding = Encoding("jpeg", (16, 16))
    written, _ = materialize.write_renditions(here, encoding, materialize.due(here, encoding, ["e0"]))
    lake.dataset("pick").materialize(image_size=(36, 44), quiet=True)
    with pytest.raises(VersionConflict):
        materialize.publish_renditions(here, written)
    assert "jpeg-16x16" not in lake.dataset("pick").cameras["head"].renditions


def test_a_run_that_dies_before_its_manifest_changes_nothing(lake: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(versions, "publish", die)
        with pytest.raises(KeyboardInterrupt):
            lake.dataset("pick").materialize(image_size=(36, 44), quiet=True)
    assert lake.dataset("pick").version == 1
    assert lake.dataset("pick").materialize(image_size=(36, 44), quiet=True).version == 2
    rows = lake.dataset("pick").table("gops").to_table(filter="rendition = 'h264-g10-36x44'", columns=["gop"])
    assert len(rows) == 4 + 3  # of 39 and 26 frames


def test_progress_counts_videos(lake: Catalog) -> None:
    told: list[tuple[int, int]] = []
    lock = threading.Lock()

    def progress(done: int, total: int) -> None:
        with lock:
            told.append((done, total))

    here = materialize.newest_of(lake.dataset("pick"))
    materialize.materialize(here, Encoding("jpeg", (16, 16)), ["e0", "e1"], progress=progress)
    assert sorted(told) == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "av1"}, "codec is one of"),
        ({"image_size": (35, 44)}, "even heights and widths, got image_size"),
        ({"image_size": (8, 8), "codec": "jpeg"}, "of at least 16"),
        ({"fit": "zoom"}, "fit one of"),
    ],
)
def test_what_cannot_be_encoded_is_refused(lake: Catalog, options: Any, message: str) -> None:
    with pytest.raises(WindowError, match=message):
        lake.dataset("pick").materialize(quiet=True, **options)
