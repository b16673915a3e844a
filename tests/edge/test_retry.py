"""What an answer means for the data, and how long the next try waits."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import retry


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *((status, "stored") for status in (200, 201)),
        *((status, "identity") for status in (401, 403)),
        *((status, "again") for status in (202, 204, 302, 408, 425, 429, 500, 502, 503, 504)),
        *((status, "refused") for status in (400, 404, 405, 409, 411, 413, 415, 422)),
    ],
)
def test_each_answer_of_our_server_has_one_meaning(status: int, expected: str) -> None:
    assert retry.verdict(status, is_ours=True) == expected


@given(st.integers(100, 599))
def test_nothing_but_our_servers_own_word_refuses_data_for_good(status: int) -> None:
    assert retry.verdict(status, is_ours=False) != "refused"


@given(st.integers(100, 599), st.booleans())
def test_only_200_and_201_count_as_stored(status: int, is_ours: bool) -> None:
    assert (retry.verdict(status, is_ours=is_ours) == "stored") == (status in (200, 201))


@given(st.integers(1, 10_000), st.floats(0.01, 600), st.none() | st.floats(0, 3600), st.integers())
def test_the_wait_is_within_its_bounds(failures: int, max_s: float, retry_after_s: float | None, seed: int) -> None:
    wait = retry.backoff_s(failures, max_s=max_s, retry_after_s=retry_after_s, random_=random.Random(seed))
    ceiling = min(max_s, retry.FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 30))
    assert wait >= max(ceiling / 2, retry_after_s or 0)
    assert wait <= max(ceiling, retry_after_s or 0)


def test_waits_grow_until_the_longest() -> None:
    waits = [retry.backoff_s(n, max_s=60, retry_after_s=None, random_=random.Random(1)) for n in range(1, 12)]
    assert waits == sorted(waits)
    assert waits[0] <= 0.5
    assert 30 <= waits[-1] <= 60


def test_two_robots_do_not_wait_alike() -> None:
    waits = {retry.backoff_s(5, max_s=60, retry_after_s=None, random_=random.Random(seed)) for seed in range(50)}
    assert len(waits) == 50


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        *((field, float(field)) for field in ("3", "0", "1.5", "3600")),
        *((field, None) for field in (None, "", "soon", "-1", "99999", "nan", "inf", "Wed, 21 Oct 2026 07:28:00 GMT")),
    ],
)
def test_retry_after_is_read_in_its_number_form_and_within_reason(field: str | None, expected: float | None) -> None:
    assert retry.retry_after(field) == expected
