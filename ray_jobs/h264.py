"""As much of H.264 as is needed to see where a GOP begins and whether a picture is missing (ITU-T H.264, 7.3 and 7.4).

libav reports neither: a stream that lost a P picture decodes without an error, to wrong pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dataset_catalog.nal import Bits

IDR, SPS = 5, 7
MAX_FRAME_NUM_BITS = 16  # 7.4.2.1.1
_SLICES = (1, 5)
_HEADER_BYTES = 64  # more than any slice header's beginning or sequence parameter set needs here
_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}


@dataclass(frozen=True, slots=True)
class _Numbering:
    """How a sequence counts its pictures."""

    frame_num_bits: int
    separate_planes: bool


def nal_units(access_unit: bytes) -> Iterator[bytes]:
    """The NAL units of an Annex B access unit, without start codes."""
    start = access_unit.find(b"\0\0\1")
    while start >= 0:
        following = access_unit.find(b"\0\0\1", start + 3)
        yield access_unit[start + 3 : following if following >= 0 else None]
        start = following


def first_slice(access_unit: bytes) -> bytes | None:
    """The beginning of the first slice; None if there is no slice."""
    start = access_unit.find(b"\0\0\1")
    while start >= 0:
        if start + 3 < len(access_unit) and access_unit[start + 3] & 31 in _SLICES:
            return access_unit[start + 3 : start + 3 + _HEADER_BYTES]
        start = access_unit.find(b"\0\0\1", start + 3)
    return None


def is_keyframe(access_unit: bytes) -> bool:
    """Whether a closed GOP begins here: an IDR picture."""
    found = first_slice(access_unit)
    return found is not None and found[0] & 31 == IDR


def missing_before(access_units: Iterable[bytes]) -> int | None:
    """Index of the first picture before which `frame_num` jumps (one is missing there); None if the count is whole.

    Sequences that may jump by design (interlaced, or with gaps allowed) are not judged.
    """
    numbering: _Numbering | None = None
    last: int | None = None
    for index, unit in enumerate(access_units):
        begin = first_slice(unit)
        if begin is None:
            continue
        if begin[0] & 31 == IDR:
            numbering, last = _numbering(unit, numbering), 0
            continue
        if numbering is None or last is None:
            continue
        number = _frame_num(begin, numbering)
        if number != (last + 1) % (1 << numbering.frame_num_bits):
            return index
        last = number if begin[0] & 0x60 else last  # only reference pictures are counted
    return None


def _numbering(unit: bytes, known: _Numbering | None) -> _Numbering | None:
    for nal in nal_units(unit):
        kind = nal[0] & 31 if nal else 0
        if kind == SPS:
            return _read_sps(nal)
        if kind in _SLICES:
            break
    return known


def _read_sps(nal: bytes) -> _Numbering | None:
    """None where pictures may be missing by design, or the set is of a kind that we don't read (scaling matrices)."""
    bits = Bits(nal[1 : _HEADER_BYTES + 1])
    try:
        profile = bits.take(24) >> 16
        bits.ue()
        separate_planes = False
        if profile in _HIGH_PROFILES:
            separate_planes = bits.ue() == 3 and bool(bits.take(1))
            bits.ue(), bits.ue(), bits.take(1)
            if bits.take(1):
                return None
        frame_num_bits = bits.ue() + 4
        if frame_num_bits > MAX_FRAME_NUM_BITS:
            return None  # damaged: no encoder may write this
        _skip_order_count(bits)
        bits.ue()
        gaps_allowed = bits.take(1)
        bits.ue(), bits.ue()
        progressive = bits.take(1)
    except IndexError:
        return None
    return _Numbering(frame_num_bits, separate_planes) if progressive and not gaps_allowed else None


def _skip_order_count(bits: Bits) -> None:
    kind = bits.ue()
    if kind == 0:
        bits.ue()
    elif kind == 1:
        bits.take(1), bits.ue(), bits.ue()
        for _ in range(bits.ue()):
            bits.ue()


def _frame_num(begin: bytes, numbering: _Numbering) -> int | None:
    bits = Bits(begin[1:])
    try:
        bits.ue(), bits.ue(), bits.ue()
        if numbering.separate_planes:
            bits.take(2)
        return bits.take(numbering.frame_num_bits)
    except IndexError:
        return None
