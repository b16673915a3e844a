"""How good a preview is: as good as its share of the camera's bytes allows, decided anew for every GOP.

The same crf gives a preview 2 % of the camera's bytes where there is much noise and 9 % where there is none, so that
only a look at both can keep to a share. Measured at 320x240 and 5 pictures a second, of 640x480 at 20.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

WORST_CRF = 51
WORSE_AT_FIRST = 22  # than the camera: 2 to 5 % of its bytes
ENOUGH, TOO_MUCH = 0.75, 0.95  # of the share: between them nothing is changed
AIM = 0.85
HALF_AS_MUCH = 10  # so much more crf
KEPT = 0.8  # of what earlier GOPs count
LONGEST_NS = 60_000_000_000  # from picture to picture; beyond it the clock has jumped


@dataclass(slots=True)
class Made:
    """What an encoder has made in all, and the time that its pictures span."""

    bytes: int = 0
    span_ns: int = 0
    last_ns: int = 0

    def count(self, t_ns: int, size: int) -> None:
        """Count a picture by its capture time and its bytes; 0 for one that was left out."""
        if 0 < t_ns - self.last_ns < LONGEST_NS:
            self.span_ns += t_ns - self.last_ns
        self.last_ns = t_ns
        self.bytes += size


class PreviewQuality:
    """`crf` is the rate factor for the preview's next GOP, of 51 (the worst) down to the camera's own.

    `preview` and `camera` are counted by two threads, each as far as it has come; so bytes a second are compared.
    """

    def __init__(self, preview: Made, camera: Made, *, camera_crf: int, share: float) -> None:
        self.crf = min(WORST_CRF, camera_crf + WORSE_AT_FIRST)
        self._preview, self._camera = _Lately(preview), _Lately(camera)
        self._best, self._share = camera_crf, share

    def has_changed(self) -> bool:
        """Decide on the next GOP; whether `crf` is another now."""
        before, used = self.crf, self._used()
        self._preview.end_gop()
        self._camera.end_gop()
        if used is not None:
            self.crf = max(self._best, min(WORST_CRF, self.crf + step(used)))
        return self.crf != before

    @property
    def is_spent(self) -> bool:
        """Whether even the worst pictures take more than the share: then some are left out."""
        return self.crf == WORST_CRF and (self._used() or 0) > 1

    def _used(self) -> float | None:
        """How much of the share was used lately; None where nothing can be said."""
        camera, preview = self._camera.bytes_per_ns(), self._preview.bytes_per_ns()
        return preview / (camera * self._share) if camera and preview is not None else None


def step(used: float) -> int:
    """By how much the crf changes where `used` of the share is used: quickly up, slowly down."""
    if ENOUGH <= used <= TOO_MUCH:
        return 0
    return max(-1, min(3, round(HALF_AS_MUCH * math.log2(max(used, 0.01) / AIM))))


class _Lately:
    """What was made lately: earlier GOPs count less and less."""

    def __init__(self, made: Made) -> None:
        self._made = made
        self._less_bytes = self._less_ns = 0.0  # so much of what was made in all counts no more

    def bytes_per_ns(self) -> float | None:
        span_ns = self._made.span_ns - self._less_ns
        return (self._made.bytes - self._less_bytes) / span_ns if span_ns > 0 else None

    def end_gop(self) -> None:
        self._less_bytes += (1 - KEPT) * (self._made.bytes - self._less_bytes)
        self._less_ns += (1 - KEPT) * (self._made.span_ns - self._less_ns)
