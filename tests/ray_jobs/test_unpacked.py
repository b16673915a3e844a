"""What would unpack to too much is refused before it is unpacked; what cannot be read is left to who reads it."""

from __future__ import annotations

import pytest

from edge.errors import SegmentError
from ray_jobs.unpacked import check_unpacked_size
from tests.faults import hostile_mcap


@pytest.mark.parametrize(
    "name", [name for name in hostile_mcap.telemetry_by_hand() if "bomb" in name or "2^62" in name]
)
def test_a_bomb_is_refused_unopened(name: str) -> None:
    with pytest.raises(SegmentError, match="unpacks to"):
        check_unpacked_size(hostile_mcap.telemetry_by_hand()[name])


@pytest.mark.parametrize(
    "body", [b"", b"no MCAP", hostile_mcap.sound_telemetry()[:-300], hostile_mcap.sound_telemetry()]
)
def test_what_is_sound_or_torn_passes(body: bytes) -> None:
    check_unpacked_size(body)


def test_the_bound_is_the_callers() -> None:
    with pytest.raises(SegmentError, match="1000 at most"):
        check_unpacked_size(hostile_mcap.sound_telemetry(), most=1000)
