"""Sealed blobs in files: written as the plaintext comes, read from any place, on buffers that are allocated once."""

from __future__ import annotations

import hashlib
import os
from typing import BinaryIO, Protocol

from fl_runtime.transport.chunks import CHUNK_BYTES, Buffer
from fl_runtime.transport.errors import ChunkError, MalformedBlobError
from fl_runtime.transport.sealed import (
    MAX_KEY_ID_BYTES,
    SALT_SIZE,
    TAG_SIZE,
    ChunkCipher,
    Header,
    Random,
    SealingKey,
    header_size,
    require_size,
)


class Readable(Protocol):
    """A file that is read from any place, such as `path.open("rb")`."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place and return it."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill a buffer and return how many bytes it holds."""


class SealedWriter:
    """Seals a plaintext whose length is known, as it comes, into a file; holds at most two chunks.

    Args:
        file: Written from where it stands; buffered, so that every write is whole.
        key: Found again by its id.
        length: Bytes of the plaintext.
        purpose: As of `seal`.
        context: As of `seal`.
        chunk_bytes: Plaintext of one chunk, at most 16 MiB.
        random: Cryptographic source of the salt.
    """

    def __init__(
        self,
        file: BinaryIO,
        key: SealingKey,
        *,
        length: int,
        purpose: str,
        context: bytes = b"",
        chunk_bytes: int = CHUNK_BYTES,
        random: Random = os.urandom,
    ) -> None:
        self._header = Header(key_id=key.id, chunk_bytes=chunk_bytes, salt=random(SALT_SIZE), length=length)
        self._cipher = ChunkCipher(key, self._header, purpose=purpose, context=context)
        self._file, self._name = file, hashlib.sha256()
        self._pending, self._filled = memoryview(bytearray(min(chunk_bytes, length))), 0
        self._sealed = memoryview(bytearray(min(chunk_bytes, length) + TAG_SIZE))
        self._index = 0
        self._put(self._header.encode())
        if length == 0:
            self._seal(b"")

    def write(self, plaintext: Buffer) -> None:
        """Take the next bytes, any number of them.

        Raises:
            ChunkError: More bytes than were announced.
            OSError: The file cannot be written; the blob is lost.
        """
        view = memoryview(plaintext).cast("B")
        while len(view):
            if self._index == self._header.chunks:
                raise ChunkError(f"more bytes than the {self._header.length} that were announced")
            wanted = len(self._header.plain_span(self._index)) - self._filled
            part, view = view[:wanted], view[wanted:]
            if len(part) == wanted and not self._filled:
                self._seal(part)  # a whole chunk: straight from the caller's buffer
                continue
            self._pending[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            if len(part) == wanted:
                self._seal(self._pending[: self._filled])
                self._filled = 0

    def finish(self) -> bytes:
        """Return the SHA-256 (32 bytes) of the blob, which names it by content. The caller syncs and closes the file.

        Raises:
            ChunkError: Bytes are missing.
        """
        if self._index != self._header.chunks:
            written = self._index * self._header.chunk_bytes + self._filled
            raise ChunkError(f"{written} bytes were written, expected {self._header.length}")
        return self._name.digest()

    def _seal(self, plain: Buffer) -> None:
        index, self._index = self._index, self._index + 1  # first: a chunk whose write fails is never sealed again
        sealed = self._sealed[: len(plain) + TAG_SIZE]
        self._cipher.seal_into(index, plain, sealed)
        self._put(sealed)

    def _put(self, part: Buffer) -> None:
        self._name.update(part)
        self._file.write(part)


class SealedReader:
    """Opens any part of a sealed blob in a file, chunk by chunk. One thread at a time.

    Args:
        file: The blob from its first byte to the file's last.
        key: The key that its header names.
        purpose: As of `seal`.
        context: As of `seal`.

    Raises:
        MalformedBlobError: It is not a sealed blob, or longer or shorter than its header says.
        SealedBlobError: It is sealed under another key.
    """

    def __init__(self, file: Readable, key: SealingKey, *, purpose: str, context: bytes = b"") -> None:
        self._file = file
        total = file.seek(0, os.SEEK_END)
        start = memoryview(bytearray(min(total, header_size(MAX_KEY_ID_BYTES))))
        self._read(0, start)
        self.header = Header.parse(start)
        require_size(self.header, total)
        self._cipher = ChunkCipher(key, self.header, purpose=purpose, context=context)
        largest = min(self.header.chunk_bytes, self.header.length)
        self._plain, self._sealed = memoryview(bytearray(largest)), memoryview(bytearray(largest + TAG_SIZE))
        self.open_chunk(self.header.chunks - 1)  # an empty or wrongly opened blob says so now, not when it is read

    def open_chunk(self, index: int) -> memoryview:
        """Return the plaintext of chunk `index`, in a buffer that the next call uses again.

        Raises:
            ChunkError: There is no such chunk.
            SealedBlobError: It does not open.
            OSError: The file cannot be read.
        """
        plain = self._plain[: len(self.header.plain_span(index))]
        self._open(index, plain)
        return plain

    def read_into(self, into: bytearray | memoryview, *, offset: int = 0) -> None:
        """Fill `into` with the plaintext from `offset` on; whole chunks are opened in place, without a copy.

        Raises:
            ChunkError: The plaintext ends before.
            SealedBlobError: A chunk does not open; nothing in `into` may be used.
        """
        view = memoryview(into).cast("B")
        if not 0 <= offset <= self.header.length - len(view):
            raise ChunkError(f"asked for {len(view)} bytes from {offset} on, of {self.header.length}")
        while len(view):
            index, skip = divmod(offset, self.header.chunk_bytes)
            size = min(len(self.header.plain_span(index)) - skip, len(view))
            if size == len(self.header.plain_span(index)):
                self._open(index, view[:size])
            else:
                view[:size] = self.open_chunk(index)[skip : skip + size]
            view, offset = view[size:], offset + size

    def _open(self, index: int, plain: memoryview) -> None:
        span = self.header.sealed_span(index)
        sealed = self._sealed[: len(span)]
        self._read(self.header.size + span.start, sealed)
        self._cipher.open_into(index, sealed, plain)

    def _read(self, offset: int, into: memoryview) -> None:
        self._file.seek(offset)
        if (found := self._file.readinto(into)) != len(into):
            raise MalformedBlobError(f"{found} bytes at byte {offset} of a sealed blob, expected {len(into)}")
