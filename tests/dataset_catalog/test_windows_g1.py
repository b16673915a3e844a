"""Windows of real recordings: everything of the files decoded and read, then arrays indexed, is the same.

One episode of a Unitree G1 by default, in a soak all that are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from dataset_catalog.catalog import Catalog
from dataset_catalog.dataset import Dataset
from dataset_catalog.gather import find_frames, visits
from dataset_catalog.import_lerobot import import_lerobot
from dataset_catalog.relative import RelativeTo
from dataset_catalog.spec import horizon, steps
from dataset_catalog.video import decode_gop
from dataset_catalog.windows import Windows
from tests.dataset_catalog import slow
from tests.faults.campaign import is_soak

CAMERA = "cam_high"
DEFAULT = (2,)
HANDS = tuple(range(14, 26))


@dataclass(frozen=True)
class Files:
    """An episode as its files have it: values (n, 26), and the film, decoded from its start by one decoder."""

    state: np.ndarray
    action: np.ndarray
    film: Path

    def frames(self) -> Iterator[tuple[int, av.VideoFrame]]:
        with av.open(str(self.film)) as container:
            yield from enumerate(container.decode(video=0))


@pytest.fixture(scope="module")
def source(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The G1's files, of some episodes, by links."""
    folder = tmp_path_factory.mktemp("links") / "g1"
    (folder / "meta").mkdir(parents=True)
    for path in (real_data / "g1" / "meta").iterdir():
        (folder / "meta" / path.name).symlink_to(path)
    for path in [*(real_data / "g1").glob("data/*/*.parquet"), *(real_data / "g1").glob("videos/*/*/*.mp4")]:
        if is_soak() or int(path.stem.rsplit("_", 1)[1]) in DEFAULT:
            link = folder / path.relative_to(real_data / "g1")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def files(source: Path) -> dict[str, Files]:
    """By episode id."""
    found = {}
    for path in sorted(source.glob("data/*/*.parquet")):
        rows = pq.read_table(path)
        state, action = (np.array(rows[name].to_pylist(), np.float32) for name in ("observation.state", "action"))
        (film,) = source.glob(f"videos/*/*{CAMERA}/{path.stem}.mp4")
        found[path.stem.replace("episode_", "g1-")] = Files(state, action, film)
    return found


@pytest.fixture(scope="module")
def g1(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    lake = tmp_path_factory.mktemp("lake")
    import_lerobot(source, lake)
    return Catalog.open(str(lake)).dataset("g1")


def by_episode(windows: Windows) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    for run in windows.dataset.selection.runs:
        yield run.episode_id, [(run.episode_id, step) for step in range(run.first, run.end)]


def test_every_number_is_the_files_at_its_index(g1: Dataset, files: dict[str, Files]) -> None:
    seconds = g1.windows({"state": [-1 / 30, 0.0]}, {"action": horizon(16 / 30, hz=30)})
    ticks = g1.windows({"state": steps(-1, 0)}, {"action": steps(*range(16))})
    for windows in (seconds, ticks):
        for name, places in by_episode(windows):
            now, last = np.arange(len(places)), len(places) - 1
            assert last + 1 == len(files[name].state)
            batch = windows.at(places)
            for key, values, away in (("state", files[name].state, (-1, 0)), ("action", files[name].action, range(16))):
                index = now[:, None] + np.array(away)
                assert (batch[key] == values[index.clip(0, last)]).all()
                inside = (index >= 0) & (index <= last)
                valid = batch["state_mask"] if key == "state" else ~batch["action_is_pad"]
                assert (valid == inside).all()


def test_relative_and_normalized_actions_are_those_of_numpy(g1: Dataset, files: dict[str, Files]) -> None:
    arguments: Any = {"relative": {"action": RelativeTo("state", absolute=HANDS)}}
    windows = g1.windows({}, {"action": steps(*range(50))}, normalize={"action": "q01_q99"}, **arguments)
    wanted, inside = [], []
    for name, _ in by_episode(windows):
        index = np.arange(len(files[name].action))[:, None] + np.arange(50)
        inside.append(index < len(index))
        arms = np.where(np.isin(np.arange(26), HANDS), 0, files[name].state)[:, None]
        wanted.append(files[name].action[index.clip(0, len(index) - 1)] - arms)
    values, valid = np.concatenate(wanted), np.concatenate(inside)
    low, high = (np.quantile(values[valid].astype(float), q, axis=0) for q in (0.01, 0.99))
    normalizer = windows.normalizer
    scaling = normalizer.changes["action"].scaling
    assert scaling
    middle, width = np.array(scaling.middle), np.array(scaling.width)
    moves = high - low > 1e-5
    assert moves.sum() > 20
    np.testing.assert_allclose((middle - width)[moves], low[moves], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose((middle + width)[moves], high[moves], rtol=1e-6, atol=1e-7)
    batch = windows.batch(np.arange(len(windows)))
    assert (batch["action_is_pad"] == ~valid).all()
    np.testing.assert_allclose(batch["action"], (values - middle) / width, rtol=1e-5, atol=1e-5)
    state = np.concatenate([files[name].state for name, _ in by_episode(windows)])
    absolute = normalizer.undo("action", batch["action"], state=state)
    recorded = g1.windows({}, {"action": steps(*range(50))}).batch(np.arange(len(windows)))["action"]
    np.testing.assert_allclose(absolute, recorded, rtol=1e-5, atol=1e-5)


def test_every_frame_is_bit_for_bit_the_films_before_colour_and_equal_after(
    g1: Dataset, files: dict[str, Files]
) -> None:
    windows = g1.windows({CAMERA: 0.0}, rendition="original")
    for name, places in by_episode(windows):
        sights = find_frames(windows.spec.cameras[0], visits(places, windows._episodes))
        gops = {frame[0] for (frame,) in sights.frames if frame}
        decoded = {gop: decode_gop(gop.codec, gop.extradata, payload) for gop, payload in packets(g1, gops)}
        for step, frame in files[name].frames():
            (place,) = sights.frames[step]
            assert place
            stored = decoded[place[0]][place[1]]
            assert (stored.to_ndarray() == frame.to_ndarray()).all(), (name, step)
            if step % 15 == 0:
                rgb = windows.at([(name, step)])[CAMERA][0]
                assert (rgb.transpose(1, 2, 0) == frame.to_ndarray(format="rgb24")).all(), (name, step)
        assert step == len(places) - 1


def packets(g1: Dataset, gops: set[Any]) -> Iterator[tuple[Any, list[bytes]]]:
    """The stored packets of each GOP."""
    rows = g1.table("gops").to_table(columns=["payload"], with_row_id=True, blob_handling="all_binary")
    payloads = dict(zip(rows["_rowid"].to_pylist(), rows["payload"].to_pylist(), strict=True))
    for gop in gops:
        ends = np.cumsum(gop.packet_bytes)
        yield gop, [payloads[gop.row][end - size : end] for size, end in zip(gop.packet_bytes, ends, strict=True)]


@pytest.mark.parametrize("fit", ["stretch", "crop", "letterbox"])
def test_a_smaller_picture_is_the_mean_of_the_areas_within_one(g1: Dataset, files: dict[str, Files], fit: Any) -> None:
    windows = g1.windows({CAMERA: 0.0}, image_size=(224, 224), fit=fit, rendition="original")
    name = next(iter(files))
    for step, frame in files[name].frames():
        if step % 40 == 0:
            got = windows.at([(name, step)])[CAMERA][0].transpose(1, 2, 0)
            assert (got == slow.fitted(frame, (224, 224), fit)).all()
            mean = slow.fitted(frame, (224, 224), fit, slow.by_area_mean)
            assert np.abs(got.astype(int) - mean).max() <= 1


def test_the_re_encoding_that_is_decoded_by_default_shows_the_same_moments(
    g1: Dataset, files: dict[str, Files]
) -> None:
    windows = g1.windows({CAMERA: steps(-1, 0)}, image_size=(224, 224))
    assert windows.spec.cameras[0].renditions[0] != "original"
    name = next(iter(files))
    film = [slow.by_libswscale(frame, 224, 224) for _, frame in files[name].frames()]
    for step in range(1, len(film), 32):
        pair = windows.at([(name, step)])[CAMERA][0].transpose(0, 2, 3, 1).astype(float)
        for picture, own in zip(pair, (film[step - 1], film[step]), strict=True):
            assert 10 * np.log10(255**2 / np.square(picture - own).mean()) > 34
