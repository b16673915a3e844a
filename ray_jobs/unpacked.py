"""What an MCAP file unpacks to is bounded before a chunk of it is unpacked: a few kB can stand for gigabytes."""

from __future__ import annotations

import io
import struct

import lz4.frame
import zstandard
from mcap.exceptions import McapError
from mcap.records import Chunk
from mcap.stream_reader import StreamReader

from edge.errors import SegmentError

MAX_UNPACKED_BYTES = 256 << 20  # a recorder closes its segments at 8 MiB
MESSAGE_BYTES = 200  # what a message takes in memory beside its content, at least
_READ_ERRORS = (McapError, zstandard.ZstdError, RuntimeError, ValueError, struct.error, EOFError)  # RuntimeError: lz4


def check_unpacked_size(body: bytes, *, most: int = MAX_UNPACKED_BYTES) -> None:
    """`SegmentError` where the chunks of a file unpack to more than `most` bytes, or to more than they state.

    A file that cannot be read that far is not judged: whoever reads its messages says why.
    """
    size = 0
    try:
        for record in StreamReader(io.BytesIO(body), emit_chunks=True, record_size_limit=len(body)).records:
            if isinstance(record, Chunk):
                size += record.uncompressed_size
                check_memory(size, most=most)
                _check_stated(record)
    except _READ_ERRORS:
        return


def check_memory(size: int, *, most: int = MAX_UNPACKED_BYTES) -> None:
    if size > most:
        raise SegmentError(f"the segment unpacks to {size} bytes or more, {most} at most are taken")


def _check_stated(chunk: Chunk) -> None:
    """Both libraries unpack to what a frame says, or to whatever comes, and ask the chunk's own number little."""
    stated = chunk.uncompressed_size
    if chunk.compression == "zstd":
        inside = zstandard.frame_content_size(chunk.data)  # -1: it does not say, and then `stated` is the bound
    elif chunk.compression == "lz4":
        inside = len(lz4.frame.LZ4FrameDecompressor().decompress(chunk.data, max_length=stated + 1))
    else:
        inside = len(chunk.data)
    if inside > stated:
        raise SegmentError(f"a chunk states {stated} bytes and unpacks to more")
