"""The job materialize gives what the catalog makes without Ray, and is one with it on the next run."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset_catalog.catalog import Catalog
from dataset_catalog.encoding import CODECS, Codec, Encoding
from dataset_catalog.errors import NotFound, WindowError
from dataset_catalog.storage import Storage
from ray_jobs import materialize
from ray_jobs.settings import JobsSettings
from tests.dataset_catalog.conftest import make_episode, write_dataset


def lake(folder: Path) -> Storage:
    storage = Storage.open(str(folder))
    episodes = [make_episode(f"e{n}", "h1", "wave", True, frames=30, skip=0, seed=n) for n in range(3)]
    write_dataset(storage, "pick", [episodes])
    return storage


def rows(storage: Storage, label: str) -> list[tuple[str, int, bytes]]:
    table = Catalog(storage).dataset("pick").table("gops")
    found = table.to_table(columns=["episode_id", "gop"], filter=f"rendition = '{label}'", with_row_id=True).to_pylist()
    payloads = table.read_blobs("payload", ids=[row["_rowid"] for row in found], preserve_order=True)
    return sorted((row["episode_id"], row["gop"], data) for row, (_, data) in zip(found, payloads, strict=True))


@pytest.mark.parametrize("codec", CODECS)
def test_the_job_makes_what_the_catalog_makes(tmp_path: Path, jobs: JobsSettings, codec: Codec) -> None:
    here, there, label = lake(tmp_path / "here"), lake(tmp_path / "there"), f"{codec}-36x44"
    Catalog(here).dataset("pick").materialize(image_size=(36, 44), codec=codec, quiet=True)
    summary = materialize.run(there, jobs, "pick", materialize.encoding("36x44", codec))
    made, expected = rows(there, label), rows(here, label)
    assert (summary.versions, summary.counts, summary.rows) == ((2,), {"videos": 3}, {"gops": len(expected)})
    assert f"{label}: 87 frames" in summary.notes[0]
    assert [(episode, gop) for episode, gop, _ in made] == [(episode, gop) for episode, gop, _ in expected]
    assert len(made) == (45 if codec == "h264-g2" else 9)
    same = sum(one == other for one, other in zip(made, expected, strict=True))
    # x264 looks ahead in memory that it has not cleared: of one GOP in hundreds it makes another
    assert same == len(made) if codec == "jpeg" else same > 0.6 * len(made)
    assert materialize.run(there, jobs, "pick", materialize.encoding("36x44", codec)).versions == ()
    assert Catalog(there).dataset("pick").materialize(image_size=(36, 44), codec=codec, quiet=True).version == 2


def test_a_dataset_that_is_not_there_is_told(tmp_path: Path, jobs: JobsSettings) -> None:
    with pytest.raises(NotFound, match="no dataset named 'place'"):
        materialize.run(lake(tmp_path), jobs, "place", materialize.encoding("36x44"))


@pytest.mark.parametrize("size", ["big", "36x44x3", "-1x4", ""])
def test_a_size_that_says_nothing_is_refused(size: str) -> None:
    with pytest.raises(WindowError, match="image size is HEIGHTxWIDTH"):
        materialize.encoding(size)


def test_one_number_is_a_square() -> None:
    assert materialize.encoding("224", "jpeg", "crop") == Encoding("jpeg", (224, 224), "crop")
