"""What is kept in memory between batches: bounded, and the same whether kept or read again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dataset_catalog.episodes import EpisodeReader
from dataset_catalog.errors import DecodeError, NotFound, WindowError
from dataset_catalog.frames import FrameReader
from dataset_catalog.video import decode_gop

ALL = ["e0", "e1", "e2", "e3", "e4"]


def reader(lake: Any, *, max_bytes: int = 2**30, cameras: dict[str, list[str]] | None = None) -> EpisodeReader:
    cameras = cameras or {"head": ["h264-small", "original"]}
    return EpisodeReader(lake.catalog.dataset("pick"), columns={"state": 3}, cameras=cameras, max_bytes=max_bytes)


def test_an_episode_holds_what_was_recorded(lake: Any) -> None:
    episode, truth = reader(lake).get(["e3"])["e3"], lake.episodes["e3"]
    assert episode.t_ns.tolist() == truth.steps
    assert episode.series["state"].t_ns.tolist() == [t for t, _ in truth.series["state"]]
    assert episode.series["state"].values.tobytes() == np.stack([v for _, v in truth.series["state"]]).tobytes()
    assert episode.tracks["head"].t_ns.tolist() == [t for t, _ in truth.frames]
    assert (episode.task, episode.start_ns, episode.end_ns) == ("wave", truth.start_ns, truth.end_ns)


def test_memory_is_bounded_and_the_longest_unused_episode_goes_first(lake: Any, monkeypatch: Any) -> None:
    sizes = {name: episode.nbytes for name, episode in reader(lake).get(ALL).items()}
    small = reader(lake, max_bytes=sizes["e0"] + sizes["e1"] + sizes["e2"])
    scans: list[list[str]] = []
    read = small._read

    def counted(names: list[str]) -> Iterator[Any]:
        scans.append(names)
        return read(names)

    monkeypatch.setattr(small, "_read", counted)
    for names in (["e0"], ["e1"], ["e2"], ["e0"], ["e4", "e3"], ["e0"], ["e1"]):
        assert list(small.get(names)) == names
        assert small._bytes == sum(episode.nbytes for episode in small._kept.values()) <= small._max_bytes
    assert scans[:4] == [["e0"], ["e1"], ["e2"], ["e4", "e3"]]
    assert ["e1"] in scans[4:]


def test_reading_ahead_stops_at_the_bound(lake: Any) -> None:
    tiny = reader(lake, max_bytes=1)
    tiny.warm(ALL)
    assert not tiny._kept


def test_the_first_rendition_an_episode_has_is_taken(lake: Any) -> None:
    found = reader(lake, cameras={"head": ["h265", "original"]}).get(["e0"])["e0"]
    whole = reader(lake, cameras={"head": ["original"]}).get(["e0"])["e0"]
    assert found.tracks["head"].rows.tolist() == whole.tracks["head"].rows.tolist()
    assert not reader(lake, cameras={"head": ["h265"]}).get(["e0"])["e0"].tracks


def test_tables_that_contradict_each_other_are_named(lake: Any) -> None:
    wrong = EpisodeReader(lake.catalog.dataset("pick"), columns={"state": 5}, cameras={}, max_bytes=10)
    with pytest.raises(WindowError, match="column state of episode e0 holds vectors that are not of size 5"):
        wrong.get(["e0"])
    with pytest.raises(NotFound, match="no episode 'e9'"):
        wrong.get(["e9"])


@pytest.mark.parametrize("max_bytes", [0, 10_000, 2**30])
@pytest.mark.parametrize("threads", [0, 3])
def test_frames_are_the_same_kept_or_decoded_again(lake: Any, max_bytes: int, threads: int) -> None:
    track = reader(lake).get(["e3"])["e3"].tracks["head"]
    frames = FrameReader(lake.catalog.dataset("pick").table("gops"), size=None, max_bytes=max_bytes)
    pool = ThreadPoolExecutor(threads) if threads else None
    for numbers in ([40, 3, 3, 12], [0, 55], [3, 40]):
        wanted = [track.frame(number) for number in numbers]
        pixels = frames.read(wanted, pool=pool)
        for number, (gop, k) in zip(numbers, wanted, strict=True):
            assert (pixels[gop.row, k] == lake.episodes["e3"].small[number][1]).all()
        assert frames._bytes == sum(image.nbytes for image in frames._kept.values()) <= max_bytes


def test_a_gop_is_decoded_once_for_a_batch_and_only_as_far_as_needed(lake: Any, monkeypatch: Any) -> None:
    depths: list[int | None] = []

    def counted(*arguments: Any, upto: int | None = None) -> Any:
        depths.append(upto)
        return decode_gop(*arguments, upto=upto)

    monkeypatch.setattr("dataset_catalog.frames.decode_gop", counted)
    windows = lake.catalog.dataset("pick").windows({"head": [-0.05, 0.0]})
    windows.at([("e0", 3), ("e0", 7), ("e0", 5), ("e2", 0)])  # 40 ms a step, 50 ms a frame
    assert sorted(depths) == [1, 7]
    windows.at([("e0", 7), ("e2", 0)])
    assert len(depths) == 2


def test_a_payload_that_its_packets_do_not_fill_is_refused(lake: Any) -> None:
    gop, k = reader(lake).get(["e0"])["e0"].tracks["head"].frame(0)
    frames = FrameReader(lake.catalog.dataset("pick").table("gops"), size=None, max_bytes=0)
    longer = gop._replace(packet_bytes=(*gop.packet_bytes, 9))
    with pytest.raises(DecodeError, match=f"GOP row {gop.row} holds .* bytes of video, its packets"):
        frames.read([(longer, k)])
