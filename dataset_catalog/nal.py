"""H.264 and H.265 as byte streams (Annex B) and as MP4 holds them: NAL units, parameter sets, decoder configurations.

ITU-T H.264 and H.265, annex B and 7.3; ISO/IEC 14496-15, 5.3.3.1 (`avcC`) and 8.3.3.1 (`hvcC`).
"""

from __future__ import annotations

import struct

from dataset_catalog.errors import DecodeError

_SETS = {"h264": (7, 8), "hevc": (32, 33, 34)}  # NAL types: SPS, PPS; VPS, SPS, PPS
_CHROMA_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
_HEVC_SPS = 33


def nal_units(access_unit: bytes) -> list[bytes]:
    """The NAL units of an Annex B access unit, without start codes and the zeros between them."""
    units = []
    start = access_unit.find(b"\0\0\1")
    while start >= 0:
        following = access_unit.find(b"\0\0\1", start + 3)
        unit = access_unit[start + 3 : following if following >= 0 else None].rstrip(b"\0")
        units += [unit] if unit else []
        start = following
    return units


def length_prefixed(access_unit: bytes) -> bytes:
    """The same access unit as MP4 holds it: each NAL unit behind its length in four bytes."""
    return b"".join(struct.pack(">I", len(unit)) + unit for unit in nal_units(access_unit))


def parameter_sets(codec: str, access_unit: bytes) -> tuple[bytes, ...]:
    """The parameter sets that stand in an access unit, in their order; empty where it has none."""
    return tuple(unit for unit in nal_units(access_unit) if _kind(codec, unit) in _SETS[codec])


def decoder_configuration(codec: str, sets: tuple[bytes, ...]) -> bytes:
    """The payload of `avcC` or `hvcC`. Raises `DecodeError` where the sets are not all there or cut off."""
    kinds = {_kind(codec, unit) for unit in sets}
    if kinds != set(_SETS[codec]):
        raise DecodeError(f"the first keyframe holds {codec} parameter sets {sorted(kinds)}, expected {_SETS[codec]}")
    try:
        return _avc_configuration(sets) if codec == "h264" else _hevc_configuration(sets)
    except IndexError as error:
        raise DecodeError(f"a {codec} parameter set is cut off") from error


def leading_sets(access_unit: bytes) -> tuple[bytes, ...]:
    """The H.264 parameter sets before the first slice of an Annex B access unit, as they stand there."""
    found = []
    start = access_unit.find(b"\0\0\1")
    while start >= 0 and start + 3 < len(access_unit) and access_unit[start + 3] & 31 not in (1, 5):
        following = access_unit.find(b"\0\0\1", start + 3)
        if access_unit[start + 3] & 31 in _SETS["h264"]:
            found.append(access_unit[start + 3 : following if following >= 0 else None])
        start = following
    return tuple(found)


def shows_as_coded(sets: tuple[bytes, ...]) -> bool:
    """Whether H.264 parameter sets say that pictures are shown in the order in which they are coded (7.4.2.1.1:
    `pic_order_cnt_type` 2). False also where that cannot be told."""
    sequences = [unit for unit in sets if _kind("h264", unit) == _SETS["h264"][0]]
    try:
        return bool(sequences) and all(_order_count_type(unit) == 2 for unit in sequences)
    except IndexError:
        return False


def _order_count_type(sps: bytes) -> int:
    """-1 behind a scaling matrix, which is not read."""
    bits = Bits(sps[4:])
    bits.ue()
    if sps[1] in _CHROMA_PROFILES:
        bits.take(bits.ue() == 3)
        bits.ue(), bits.ue(), bits.take(1)
        if bits.take(1):
            return -1
    bits.ue()
    return bits.ue()


def _kind(codec: str, unit: bytes) -> int:
    return unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63


def _avc_configuration(sets: tuple[bytes, ...]) -> bytes:
    sps, pps = ([unit for unit in sets if _kind("h264", unit) == kind] for kind in _SETS["h264"])
    listed = [bytes([0xE0 | len(sps)]), *map(_sized, sps), bytes([len(pps)]), *map(_sized, pps)]
    return bytes([1, sps[0][1], sps[0][2], sps[0][3], 0xFF]) + b"".join(listed) + _avc_chroma(sps[0])


def _avc_chroma(sps: bytes) -> bytes:
    """What profiles from High on tell beside: chroma format and bit depths."""
    if sps[1] not in _CHROMA_PROFILES:
        return b""
    bits = Bits(sps[4:])
    bits.ue()
    chroma = bits.ue()
    if chroma == 3:
        bits.take(1)
    return bytes([0xFC | chroma, 0xF8 | bits.ue(), 0xF8 | bits.ue(), 0])


def _hevc_configuration(sets: tuple[bytes, ...]) -> bytes:
    sps = next(unit for unit in sets if _kind("hevc", unit) == _HEVC_SPS)
    plain = sps.replace(b"\0\0\3", b"\0\0")
    general, layers, nested = plain[3:15], plain[2] >> 1 & 7, plain[2] & 1
    bits = Bits(plain[15:])
    _skip_sub_layers(bits, layers)
    bits.ue()
    chroma = bits.ue()
    if chroma == 3:
        bits.take(1)
    bits.ue(), bits.ue()  # width and height
    for _ in range(4 * bits.take(1)):
        bits.ue()  # the conformance window
    depths = bytes([0xFC | chroma, 0xF8 | bits.ue(), 0xF8 | bits.ue()])
    end = bytes([(layers + 1) << 3 | nested << 2 | 3, len(_SETS["hevc"])])
    arrays = b"".join(_hevc_array(kind, sets) for kind in _SETS["hevc"])
    return b"\1" + general + b"\xf0\0\xfc" + depths + b"\0\0" + end + arrays


def _skip_sub_layers(bits: Bits, layers: int) -> None:
    present = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    bits.take(2 * (8 - layers) if layers else 0)
    for profile, level in present:
        bits.take(88 * profile + 8 * level)


def _hevc_array(kind: int, sets: tuple[bytes, ...]) -> bytes:
    units = [unit for unit in sets if _kind("hevc", unit) == kind]
    return struct.pack(">BH", 0x80 | kind, len(units)) + b"".join(map(_sized, units))


def _sized(unit: bytes) -> bytes:
    return struct.pack(">H", len(unit)) + unit


class Bits:
    """Bits of a raw byte sequence payload, most significant first; `IndexError` past its end."""

    def __init__(self, payload: bytes) -> None:
        self._bytes = payload.replace(b"\0\0\3", b"\0\0")  # emulation prevention
        self._at = 0

    def take(self, count: int) -> int:
        value = 0
        for _ in range(count):
            value = value << 1 | (self._bytes[self._at >> 3] >> (7 - (self._at & 7))) & 1
            self._at += 1
        return value

    def ue(self) -> int:
        """An Exp-Golomb code (H.264, 9.1); of a signed one the code number, good enough to skip it."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)
