"""How entries lie in a file: a big-endian 32-bit length, then that many bytes, one entry behind the other.

The stored bytes are what is hashed and parsed; they are never encoded a second time. With a length in front, no byte
inside an entry (a newline, a quote) can end it early and begin a forged one.
"""

from __future__ import annotations

from collections.abc import Iterator

from policies.encoding import u32
from policies.errors import MalformedRecordError

HEADER_SIZE = 4
MAX_ENTRY_SIZE = 64 * 1024


def frame(entry: bytes) -> bytes:
    """Return `entry` as it is stored.

    Raises:
        MalformedRecordError: It is empty or longer than 64 KiB.
    """
    _require_size(len(entry), offset=None)
    return u32(len(entry)) + entry


def read_frames(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each entry with the offset of its frame; everything before an error has been yielded.

    Raises:
        MalformedRecordError: A length out of range, or fewer bytes than it announces.
    """
    offset = 0
    while offset < len(raw):
        start = offset + HEADER_SIZE
        if start > len(raw):
            raise MalformedRecordError(f"frame at byte {offset}: {len(raw) - offset} bytes of a length, expected 4")
        size = int.from_bytes(raw[offset:start], "big")
        _require_size(size, offset=offset)
        if start + size > len(raw):
            raise MalformedRecordError(f"frame at byte {offset}: {len(raw) - start} bytes of an entry, expected {size}")
        yield offset, raw[start : start + size]
        offset = start + size


def frame_end(offset: int, entry: bytes) -> int:
    """Where the frame of `entry` that begins at `offset` ends."""
    return offset + HEADER_SIZE + len(entry)


def _require_size(size: int, *, offset: int | None) -> None:
    if not 0 < size <= MAX_ENTRY_SIZE:
        where = "entry" if offset is None else f"frame at byte {offset}: entry"
        raise MalformedRecordError(f"{where} has {size} bytes, expected 1 to {MAX_ENTRY_SIZE}")
