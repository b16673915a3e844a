"""A body in chunks is the same bytes, and needs no more memory than it holds."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from ingest_serve.chunks import LEAST_BYTES, Chunks, ends_of, parts_of

sizes = st.lists(st.one_of(st.integers(0, 40), st.sampled_from([LEAST_BYTES - 1, LEAST_BYTES, 50_000])), max_size=12)


def filled(sizes: list[int]) -> tuple[Chunks, bytes]:
    """Chunks of these sizes, and the same bytes whole."""
    chunks, whole = Chunks(), bytes(n % 251 for n in range(sum(sizes)))
    at = 0
    for size in sizes:
        chunks.add(whole[at : at + size])
        at += size
    return chunks, whole


@given(sizes=sizes)
def test_the_bytes_are_those_that_came(sizes: list[int]) -> None:
    chunks, whole = filled(sizes)

    assert (len(chunks), bytes(chunks), b"".join(parts_of(chunks))) == (len(whole), whole, whole)


@given(sizes=sizes, most=st.integers(1, 64))
def test_its_ends_are_those_of_the_whole(sizes: list[int], most: int) -> None:
    chunks, whole = filled(sizes)
    expected = whole if len(whole) <= 2 * most else whole[:most] + whole[-most:]

    assert ends_of(chunks, most=most) == ends_of(whole, most=most) == ends_of(bytearray(whole), most=most) == expected


def test_tiny_chunks_are_put_together() -> None:
    chunks, _ = filled([1] * 100_000)

    assert all(len(part) >= LEAST_BYTES for part in chunks.parts[:-1])
    assert sum(map(sys.getsizeof, chunks.parts)) < 1.2 * 100_000


def test_large_chunks_are_kept_and_not_copied() -> None:
    chunks, chunk = Chunks(), bytes(LEAST_BYTES)
    chunks.add(chunk)
    chunks.add(chunk)

    assert all(part is chunk for part in parts_of(chunks))
