"""What Ray raises by itself is an error of ours; what the work raises stays what it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ray.exceptions import RayError

from ray_jobs.cluster import _told
from ray_jobs.errors import SpecError, WorkFailed


def rows(error: Exception) -> Iterator[int]:
    yield 1
    raise error


def test_rays_own_error_is_told_in_one_line_of_ours() -> None:
    told = _told(rows(RayError("the node died\nand much more")))
    assert next(told) == 1
    with pytest.raises(WorkFailed, match=r"^Ray could not do the work: the node died$"):
        next(told)


def test_what_the_work_raises_stays_what_it_is() -> None:
    with pytest.raises(SpecError, match="no such field"):
        list(_told(rows(SpecError("no such field"))))
