"""What researchers say of episodes: versions of their own, applied wherever episodes are read, and pinned."""

from __future__ import annotations

import threading
from typing import Any

import lance
import pytest

from dataset_catalog import versions
from dataset_catalog.catalog import Catalog
from dataset_catalog.errors import NotFound, QueryError
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from ray_jobs import maintain
from ray_jobs.settings import JobsSettings


def ids(dataset: Any) -> list[str]:
    return list(dataset.selection.episode_ids)


def test_a_label_is_there_from_the_next_opening_on_and_can_be_taken_back(catalog: Catalog) -> None:
    before = catalog.dataset("pick")
    assert catalog.label(["e0", "e2"], author="Ada", grip="firm", score=0.5) == 1
    assert catalog.label("e2", author="Ada", grip=None) == 2
    assert (before.label_version, catalog.dataset("pick").label_version) == (0, 2)
    assert ids(before.select(where="labels['grip'] = 'firm'")) == []
    assert ids(catalog.dataset("pick").select(where="labels['grip'] = 'firm'")) == ["e0"]
    assert ids(catalog.dataset("pick").select(where="labels['score']::DOUBLE > 0.4")) == ["e0", "e2"]
    assert ids(catalog.dataset("pick", label_version=1).select(where="labels['grip'] = 'firm'")) == ["e0", "e2"]
    rows = catalog.labels().select(["episode_id", "robot_id", "label", "value", "author"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("e0", "h1", "grip", "firm", "Ada"),
        ("e0", "h1", "score", "0.5", "Ada"),
        ("e2", "h2", "score", "0.5", "Ada"),
    ]
    assert len(catalog.labels(1)) == 4


@pytest.mark.parametrize("text", ["a\x1b[31mb", "\x00", "\ud800", "x" * 4097, "a\x7f"])
def test_a_label_is_a_text_that_can_be_stored_and_shown(catalog: Catalog, text: str) -> None:
    for values in ({"grip": text}, {"task": text}):
        with pytest.raises(QueryError, match="at most 4096 characters, none of them for control"):
            catalog.label("e0", author="Ada", **values)
    with pytest.raises(QueryError, match="author is a text of"):
        catalog.label("e0", author=text, grip="firm")
    assert catalog.label("e0", author="Ádá", notes="two\nlines\tand a tab", grip="ж") == 1
    assert len(catalog.labels()) == 2


def test_task_success_and_notes_stand_in_for_what_the_robot_said(catalog: Catalog) -> None:
    catalog.label("e0", success=False, task="spill water", notes="the cup was full")
    dataset = catalog.dataset("pick", 1)
    rows = {row["episode_id"]: row for row in dataset.episodes().to_pylist()}
    assert [rows["e0"][name] for name in ("task", "success", "notes")] == ["spill water", False, "the cup was full"]
    assert (rows["e1"]["task"], rows["e1"]["success"]) == ("pour water", False)
    assert ids(dataset.select(where="success")) == []
    assert ids(dataset.select(tasks=["spill water"])) == ["e0"]
    assert ids(dataset.select(where="NOT success AND step < 2")) == ["e0", "e1"]
    assert dataset.windows({"state": [0.0]}).at([("e0", 0)])["task"] == ["spill water"]
    assert catalog.sql("SELECT task FROM pick.episodes WHERE episode_id = 'e0'")["task"].to_pylist() == ["pour water"]


def test_the_order_of_windows_does_not_depend_on_labels(catalog: Catalog) -> None:
    before = catalog.dataset("pick").selection.digest()
    catalog.label(catalog.dataset("pick").select(robots=["h2"]), seen=True)
    assert catalog.dataset("pick").selection.digest() == before
    assert ids(catalog.dataset("pick").select(where="labels['seen'] = 'true'")) == ["e2", "e3", "e4"]


def test_labels_are_found_by_their_words_and_in_sql(catalog: Catalog) -> None:
    catalog.label("e3", remark="the bottle stood on its head")
    (row,) = catalog.search("stood bottle").to_pylist()
    assert (row["robot_id"], row["table"], row["column"]) == ("h2", "labels", "value")
    assert catalog.sql("SELECT label FROM labels WHERE episode_id = 'e3'")["label"].to_pylist() == ["remark"]


def test_two_people_who_label_at_once_are_both_heard(catalog: Catalog) -> None:
    def label(author: str) -> None:
        for n in range(4):
            catalog.label("e1", author=author, **{f"{author}_{n}": n})

    threads = [threading.Thread(target=label, args=(author,)) for author in ("ada", "bob", "eve")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(catalog.labels()) == 12
    assert catalog.dataset("pick").label_version == 12
    assert sorted(catalog.labels()["label_version"].to_pylist()) == list(range(1, 13))


def test_a_label_that_cannot_be_is_refused_and_nothing_is_published(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="no dataset has an episode 'e9'"):
        catalog.label(["e0", "e9"], grip="firm")
    with pytest.raises(QueryError, match="success is True, False or None, got 'yes'"):
        catalog.label("e0", success="yes")
    with pytest.raises(QueryError, match="a label's name is of a-z, 0-9 and _, got 'Grip'"):
        catalog.label("e0", Grip="firm")
    with pytest.raises(QueryError, match="needs an episode and a value"):
        catalog.label("e0")
    with pytest.raises(NotFound, match="lake/labels has no version 4"):
        catalog.dataset("pick", label_version=4)
    assert len(catalog.labels()) == 0


def test_maintenance_makes_one_fragment_of_many_and_no_other_labels(catalog: Catalog) -> None:
    for n in range(4):
        catalog.label(["e0", "e1"], author="Ada", grip=f"firm {n}")
    before, pinned = catalog.labels(), catalog.dataset("pick").pin()
    done = maintain.run(catalog.storage, JobsSettings(compact_fragments=2))
    assert any(note.startswith("lake/labels labels: 4 small fragments") for note in done.notes)
    manifest = versions.newest(catalog.storage, versions.LABELS)
    assert manifest
    assert manifest.n == 5
    assert len(open_table(catalog.storage, versions.LABELS, manifest, "labels").get_fragments()) == 1
    assert catalog.labels().equals(before)
    assert catalog.dataset("pick").label_version == 4
    assert catalog.pinned(pinned.to_json()).label_version == 4
    assert catalog.label("e0", grip=None) == 6
    assert catalog.dataset("pick").label_version == 6


def test_a_reader_of_the_lake_finds_the_rows_at_the_version_that_the_manifest_names(catalog: Catalog) -> None:
    catalog.label(["e0", "e1"], grip="firm")
    storage: Storage = catalog.storage
    manifest = versions.newest(storage, versions.LABELS)
    assert manifest
    table = lance.dataset(f"{storage.url}/lake/labels/labels.lance", version=manifest.tables["labels"])
    assert table.count_rows() == 2
