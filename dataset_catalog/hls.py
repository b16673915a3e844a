"""A playlist for a camera's video of any length: HTTP Live Streaming, video on demand, fragmented MP4 (RFC 8216).

Each entry is the part of one raw segment, so that no entry holds a change of the encoding. Presentation times count
from the playlist's start in all entries; a hole in them, or another encoding, is a discontinuity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

from dataset_catalog.cut import Cut, Piece
from dataset_catalog.raw_video import MP4_TYPE
from dataset_catalog.times import to_text

VERSION = 7  # EXT-X-MAP without EXT-X-I-FRAMES-ONLY (6) and floating-point durations
UriOf = Callable[[Piece], str]


def playlist(whole: Cut, *, segment_uri: UriOf, init_uri: UriOf) -> str:
    """The text of the playlist; `init_uri` of an entry leads to its initialization section."""
    lasts = [*(_duration_s(one, two) for one, two in pairwise(whole.pieces)), _own_duration_s(whole.pieces[-1])]
    head = ["#EXTM3U", f"#EXT-X-VERSION:{VERSION}", f"#EXT-X-TARGETDURATION:{math.ceil(max(lasts))}"]
    head += ["#EXT-X-PLAYLIST-TYPE:VOD", "#EXT-X-INDEPENDENT-SEGMENTS"]
    entries = zip([None, *whole.pieces[:-1]], whole.pieces, lasts, strict=True)
    lines = [
        line for before, piece, lasts_s in entries for line in _entry(before, piece, lasts_s, segment_uri, init_uri)
    ]
    return "\n".join([*head, *lines, "#EXT-X-ENDLIST", ""])


def _entry(before: Piece | None, piece: Piece, lasts_s: float, segment_uri: UriOf, init_uri: UriOf) -> Iterator[str]:
    anew = before is None or not _goes_on(before, piece)
    if before is not None and (anew or not _follows(before, piece)):
        yield "#EXT-X-DISCONTINUITY"
    if anew:
        yield f'#EXT-X-MAP:URI="{init_uri(piece)}"'
    yield f"#EXT-X-PROGRAM-DATE-TIME:{to_text(piece.start_ns)}"
    yield f"#EXTINF:{lasts_s:.6f},"
    yield segment_uri(piece)


def _goes_on(before: Piece, piece: Piece) -> bool:
    """Whether one initialization serves both. An mp4 has one of its own; H.264 in MCAP repeats it in each keyframe."""
    same = (before.recording, before.encoding) == (piece.recording, piece.encoding)
    return same and piece.content_type != MP4_TYPE


def _follows(before: Piece, piece: Piece) -> bool:
    """Whether no time is missing between them."""
    return piece.start_ns - before.end_ns <= 2 * before.frame_ns


def _duration_s(piece: Piece, following: Piece) -> float:
    return (following.start_ns - piece.start_ns) / 1e9 if _follows(piece, following) else _own_duration_s(piece)


def _own_duration_s(piece: Piece) -> float:
    lasts_ns = piece.end_ns - piece.start_ns
    return (lasts_ns if piece.stop < len(piece.gop_ns) else lasts_ns + piece.frame_ns) / 1e9
