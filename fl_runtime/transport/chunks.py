"""Long buffers in pieces: how they are cut, which place each piece has, and how they are put together again.

All pieces but the last have `CHUNK_BYTES`, and they come in order; a piece that is sent again, because its acknowledgement
was lost, does no harm. Sizes are agreed beforehand, so that a receiver allocates what it expects and nothing a sender says.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from fl_runtime.transport.errors import ChunkError, ConflictError, DigestMismatchError

Buffer: TypeAlias = bytes | bytearray | memoryview

CHUNK_BYTES = 1 << 20
MAX_CALL_BYTES = 64 << 20  # of one RPC: a call must not outlive the certificate it was made under


class Digest(Protocol):
    """A running hash, such as `hashlib.sha256()`."""

    def update(self, data: Buffer, /) -> None:
        """Hash these bytes too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a buffer and the place it has there."""

    offset: int  # bytes from the start of the buffer
    body: memoryview  # a view of the buffer, never a copy


def cut(
    buffer: Buffer, *, start: int = 0, chunk_bytes: int = CHUNK_BYTES, digest: Digest | None = None
) -> Iterator[Chunk]:
    """Cut a buffer into chunks, from `start`, where a receiver says it stopped, to its end.

    Args:
        buffer: Contiguous, of any element type.
        start: Bytes that the receiver has; a multiple of `chunk_bytes`, or the end.
        chunk_bytes: Size of all chunks but the last.
        digest: Is fed every byte of the buffer in order, those before `start` first.

    Raises:
        ChunkError: `start` is no place where a chunk begins.
    """
    view = memoryview(buffer).cast("B")
    if not 0 <= start <= len(view) or (start % chunk_bytes and start != len(view)):
        raise ChunkError(f"asked to start at byte {start} of {len(view)}, expected a multiple of {chunk_bytes}")
    if digest is not None:
        digest.update(view[:start])
    for offset in range(start, len(view), chunk_bytes):
        chunk = Chunk(offset=offset, body=view[offset : offset + chunk_bytes])
        if digest is not None:
            digest.update(chunk.body)
        yield chunk


def calls(total: int, *, start: int = 0, call_bytes: int = MAX_CALL_BYTES) -> Iterator[range]:
    """Divide the bytes from `start` to `total` among calls of at most `call_bytes`; each range is one call's bytes."""
    for offset in range(start, total, call_bytes):
        yield range(offset, min(offset + call_bytes, total))


def is_repeated(offset: int, size: int, *, received: int, total: int, chunk_bytes: int = CHUNK_BYTES) -> bool:
    """Say whether a chunk has been received before (True) or is the next one (False).

    Args:
        offset: Where it says it belongs, in bytes.
        size: Its bytes.
        received: Bytes received so far, all from the start on.
        total: Bytes of the whole.
        chunk_bytes: Size of all chunks but the last.

    Raises:
        ChunkError: It is neither: it leaves a gap, lies across a boundary, or has the wrong size.
    """
    if not 0 <= offset < total or offset % chunk_bytes:
        raise ChunkError(f"a chunk for byte {offset} of {total}, expected a multiple of {chunk_bytes} below the end")
    expected = min(chunk_bytes, total - offset)
    if size != expected:
        raise ChunkError(f"the chunk at byte {offset} has {size} bytes, expected {expected}")
    if offset > received:
        raise ChunkError(
            f"a chunk for byte {offset}, expected byte {received} next", hint=f"go on from byte {received}"
        )
    return offset < received


class Reassembly:
    """Puts chunks together in a buffer that was allocated for the agreed size; hashes them on the way.

    Args:
        into: Contiguous and writable, as long as the whole is agreed to be.
        chunk_bytes: Size of all chunks but the last.
    """

    def __init__(self, into: bytearray | memoryview, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._view = memoryview(into).cast("B")
        self._chunk_bytes = chunk_bytes
        self._digest = hashlib.sha256()
        self.received = 0  # bytes, all from the start on: where a sender resumes

    def accept(self, offset: int, body: Buffer) -> int:
        """Take the next chunk, or one that is here already; return how many bytes have been received.

        Raises:
            ChunkError: It leaves a gap or has the wrong size.
            ConflictError: It differs from the one that is here already.
        """
        end = offset + len(body)
        place = self._view[offset:end]
        if is_repeated(offset, len(body), received=self.received, total=len(self._view), chunk_bytes=self._chunk_bytes):
            if not hmac.compare_digest(place, body):
                raise ConflictError(f"the chunk at byte {offset} was sent twice, with different bytes")
            return self.received
        place[:] = body
        self._digest.update(place)
        self.received = end
        return end

    def finish(self, expected: bytes) -> memoryview:
        """Return the whole, once it is complete and its SHA-256 (32 bytes) is the one that was announced.

        Raises:
            ChunkError: Bytes are missing.
            DigestMismatchError: The bytes are not those that were announced.
        """
        if self.received != len(self._view):
            raise ChunkError(f"{self.received} bytes were received, expected {len(self._view)}")
        require_digest(self._digest.digest(), expected)
        return self._view.toreadonly()


def require_digest(found: bytes, expected: bytes) -> None:
    """Raise `DigestMismatchError` unless both digests are the same."""
    if not hmac.compare_digest(found, expected):
        raise DigestMismatchError(
            f"the bytes have SHA-256 {found.hex()}, expected {expected.hex()}", hint="send them again from the start"
        )
