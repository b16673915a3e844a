"""A file is there whole or not at all, whoever else writes it, and what is no file is refused in a sentence."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from dataset_catalog.errors import CatalogError
from dataset_catalog.whole_file import whole_file, write_whole


def test_two_writers_of_one_file_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "pin.json"
    with whole_file(path) as one:
        one.write(b"one")
        with whole_file(path) as other:
            other.write(b"other")
        assert path.read_bytes() == b"other"
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "pin.json", "before")
    with suppress(KeyboardInterrupt), whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one_and_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_whole(tmp_path / "link", "through")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "through"
    for path in (tmp_path, Path("."), Path("/dev/null"), tmp_path / "nowhere" / "file"):
        with pytest.raises(CatalogError, match="cannot write"):
            write_whole(path, "x")
