"""A Serve application that cannot be built."""

from __future__ import annotations

from ray import serve


def build() -> serve.Application:
    raise ValueError("no calibration of the left hand")
