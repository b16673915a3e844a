"""A fact on the disk is what was written there, or it is not believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import checked

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
facts = st.dictionaries(st.text().filter(lambda name: name != "crc32"), values, max_size=6)
FACTS: dict[str, Any] = {
    "recording": "01J00000000000000000000000",
    "seq": 7,
    "counts": {"/joints": 200, "/größe": 1},
    "reason": "the robot's disk was full",
    "share": 0.05,
    "nothing": None,
}


@given(facts)
def test_what_is_written_is_read_back(fields: dict[str, Any]) -> None:
    text = checked.dumps(fields)
    assert checked.loads(text) == fields
    assert "\n" not in text


@given(facts, st.data())
def test_the_order_of_members_and_white_space_do_not_matter(fields: dict[str, Any], data: st.DataObject) -> None:
    members = list(json.loads(checked.dumps(fields)).items())
    shuffled = dict(data.draw(st.permutations(members)))
    assert checked.loads(json.dumps(shuffled, indent=data.draw(st.sampled_from([None, 2])))) == fields


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_is_noticed_or_changes_nothing(bit: int, tmp_path: Path) -> None:
    text = checked.dumps(FACTS).encode()
    path = tmp_path / "facts.json"
    for at in range(len(text)):
        damaged = bytearray(text)
        damaged[at] ^= 1 << bit
        path.write_bytes(damaged)
        assert checked.read(path) in (None, FACTS), f"bit {bit} of byte {at}: {bytes(damaged)!r}"


def test_a_text_cut_short_anywhere_is_not_believed(tmp_path: Path) -> None:
    text = checked.dumps(FACTS)
    assert checked.loads(text) == FACTS
    assert [end for end in range(len(text)) if checked.loads(text[:end]) is not None] == []


@given(st.text() | values.map(json.dumps))
def test_a_text_without_its_checksum_is_not_believed(text: str) -> None:
    assert checked.loads(text) is None


def test_members_of_two_facts_are_not_mixed() -> None:
    one, other = json.loads(checked.dumps({"seq": 1})), json.loads(checked.dumps({"seq": 2}))
    assert checked.loads(json.dumps({**one, "seq": other["seq"]})) is None


def test_a_json_that_is_nested_without_end_is_not_believed() -> None:
    assert checked.loads('{"a":' * 100_000) is None


def test_a_file_that_is_not_there_holds_no_facts(tmp_path: Path) -> None:
    assert checked.read(tmp_path / "none.json") is None
    (tmp_path / "facts.json").write_text(checked.dumps(FACTS))
    assert checked.read(tmp_path / "facts.json") == FACTS
