"""What is kept in memory between batches: bounded, and the same whether kept or read again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dataset_catalog.episodes import EpisodeReader
from dataset_catalog.errors import NotFound, WindowError

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
    tiny.warm(ALL, limit_s=60)
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


def test_reading_ahead_ends_in_time_and_the_rest_comes_as_needed(lake: Any) -> None:
    late = reader(lake)
    late.warm(ALL, limit_s=0)
    assert late._kept.keys() == set()
    assert late.get(["e3"])["e3"].t_ns.tolist() == lake.episodes["e3"].steps
    early = reader(lake)
    early.warm(ALL, limit_s=60)
    assert early._kept.keys() == set(ALL)
