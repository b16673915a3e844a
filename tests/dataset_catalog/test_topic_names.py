"""A topic's table leads back to the topic."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dataset_catalog.topic_names import table_name, topic_name


@given(st.text(max_size=40).filter(lambda text: text.isprintable()) | st.sampled_from(["/", "", "~", "/~", "/a/b.c"]))
def test_every_topic_comes_back_from_its_table(topic: str) -> None:
    assert topic_name(table_name(topic)) == topic
