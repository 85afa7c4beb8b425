"""Sealed blobs: models and vectors at rest, encrypted and authenticated in chunks, so that any part opens alone.

    header   magic (8) || version (1) || lp(key id) || u32 chunk size || salt (32) || u64 plaintext length
    chunk i  AES-256-GCM(plaintext of chunk i), 16 bytes longer than it; all chunks are full but the last

Key and nonce prefix of a blob come from HKDF-SHA256 over its salt and what it is for, so no nonce is ever used twice
under one key, and a blob made for one purpose, job or site does not open as another. The nonce of chunk i is
`prefix (7) || u32 i || last (1)` and the header is authenticated with every chunk: chunks that are cut off, added,
exchanged or taken from another blob do not open.

Source: Hoang, Reyhanitabar, Rogaway, Vizár 2015, "Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance" (STREAM), https://eprint.iacr.org/2015/189
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fl_runtime.transport.chunks import CHUNK_BYTES, Buffer
from fl_runtime.transport.errors import ChunkError, MalformedBlobError, SealedBlobError
from policies.encoding import domain, lp, u32, u64

MAGIC = b"CLSEALED"
VERSION = 1
SALT_SIZE = 32
TAG_SIZE = 16
PREFIX_SIZE = 7
MAX_KEY_ID_BYTES = 255
MAX_CHUNK_BYTES = 16 << 20  # what a reader allocates for one chunk
MAX_CHUNKS = 1 << 32  # of one blob: the counter in the nonce

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingKey:
    """A key that blobs are sealed under, and the name by which it is found again."""

    id: str  # at most 255 bytes of UTF-8; travels in the clear
    secret: bytes = field(repr=False)  # 32 bytes

    def __post_init__(self) -> None:
        if len(self.secret) != 32:
            raise ValueError(f"a sealing key has {len(self.secret)} bytes, expected 32")
        if len(self.id.encode()) > MAX_KEY_ID_BYTES:
            raise ValueError(f"the id of a sealing key has more than {MAX_KEY_ID_BYTES} bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What stands before the chunks of a blob: unauthenticated until the first of them opens."""

    key_id: str
    chunk_bytes: int  # plaintext of each chunk but the last
    salt: bytes  # 32 bytes, random
    length: int  # bytes of the whole plaintext

    def __post_init__(self) -> None:
        if not 0 < self.chunk_bytes <= MAX_CHUNK_BYTES or self.chunks > MAX_CHUNKS:
            raise MalformedBlobError(f"sealed blob of {self.length} bytes in chunks of {self.chunk_bytes}")

    @classmethod
    def parse(cls, raw: Buffer) -> Self:
        """Parse the header at the start of a blob.

        Raises:
            MalformedBlobError: It is not one, or of a version or size that is not read.
        """
        view = memoryview(raw).cast("B")
        if len(view) < 13 or bytes(view[:8]) != MAGIC:
            raise MalformedBlobError(f"found {bytes(view[:8])!r}, expected the magic {MAGIC!r} of a sealed blob")
        if view[8] != VERSION:
            raise MalformedBlobError(f"sealed blob of version {view[8]}, expected {VERSION}")
        id_size = int.from_bytes(view[9:13], "big")
        if id_size > MAX_KEY_ID_BYTES or len(view) < header_size(id_size):
            raise MalformedBlobError(f"sealed blob of {len(view)} bytes with a key id of {id_size}: it is cut off")
        rest = view[13 + id_size : header_size(id_size)]
        try:
            key_id = bytes(view[13 : 13 + id_size]).decode()
        except UnicodeDecodeError as error:
            raise MalformedBlobError(f"the key id of a sealed blob is not UTF-8: {error}") from error
        return cls(
            key_id=key_id,
            chunk_bytes=int.from_bytes(rest[:4], "big"),
            salt=bytes(rest[4 : 4 + SALT_SIZE]),
            length=int.from_bytes(rest[4 + SALT_SIZE :], "big"),
        )

    def encode(self) -> bytes:
        """Return the header as bytes."""
        return MAGIC + bytes([VERSION]) + lp(self.key_id) + u32(self.chunk_bytes) + self.salt + u64(self.length)

    @property
    def size(self) -> int:
        """Bytes of the header itself."""
        return header_size(len(self.key_id.encode()))

    @property
    def chunks(self) -> int:
        """How many chunks follow: at least one, so that an empty plaintext is authenticated too."""
        return max(1, -(-self.length // self.chunk_bytes))

    @property
    def sealed_size(self) -> int:
        """Bytes of the whole blob."""
        return self.size + self.length + self.chunks * TAG_SIZE

    def plain_span(self, index: int) -> range:
        """Return which bytes of the plaintext chunk `index` holds."""
        if not 0 <= index < self.chunks:
            raise ChunkError(f"chunk {index} of a sealed blob, expected 0 to {self.chunks - 1}")
        return range(index * self.chunk_bytes, min((index + 1) * self.chunk_bytes, self.length))

    def sealed_span(self, index: int) -> range:
        """Return which bytes after the header hold chunk `index`."""
        plain = self.plain_span(index)
        start = plain.start + index * TAG_SIZE
        return range(start, start + len(plain) + TAG_SIZE)


def header_size(key_id_size: int) -> int:
    """Bytes of a header whose key id has `key_id_size` bytes."""
    return len(MAGIC) + 1 + 4 + key_id_size + 4 + SALT_SIZE + 8


class ChunkCipher:
    """Seals and opens the chunks of one blob, between buffers of the caller.

    Whoever seals does so once for each chunk: the nonce is the chunk's place, and a second plaintext under it would
    betray both. `SealedWriter` and the spool hold to that.

    Args:
        key: The key that the header names.
        header: Salt, sizes and key id of the blob.
        purpose: What the blob is for, such as "model".
        context: What else it belongs to, such as the job's digest.
    """

    def __init__(self, key: SealingKey, header: Header, *, purpose: str, context: bytes) -> None:
        if key.id != header.key_id:
            raise SealedBlobError(f"sealed under the key {header.key_id!r}, found the key {key.id!r}")
        info = domain("sealed-blob") + lp(purpose) + lp(context)
        derived = HKDF(SHA256(), length=32 + PREFIX_SIZE, salt=header.salt, info=info).derive(key.secret)
        self._aead, self._prefix = AESGCM(derived[:32]), derived[32:]
        self._header, self._associated = header, header.encode()

    def seal_into(self, index: int, plain: Buffer, sealed: memoryview) -> None:
        """Encrypt chunk `index` into `sealed`, which is 16 bytes longer than it."""
        self._require_size(len(plain), self._header.plain_span(index))
        self._aead.encrypt_into(self._nonce(index), plain, self._associated, sealed)

    def open_into(self, index: int, sealed: Buffer, plain: memoryview) -> None:
        """Decrypt chunk `index` into `plain`, which is left zeroed if it does not open.

        Raises:
            SealedBlobError: The chunk, its place, the header, the purpose or the key is another.
        """
        self._require_size(len(sealed), self._header.sealed_span(index))
        try:
            self._aead.decrypt_into(self._nonce(index), sealed, self._associated, plain)
        except InvalidTag:
            plain[:] = bytes(len(plain))  # decrypted before its tag was found wrong: nobody may use it
            raise SealedBlobError(
                f"chunk {index} of {self._header.chunks} does not open under the key {self._header.key_id!r}",
                hint="the blob was changed, or sealed for another purpose; use another copy",
            ) from None

    def _nonce(self, index: int) -> bytes:
        return self._prefix + u32(index) + bytes([index == self._header.chunks - 1])

    def _require_size(self, found: int, span: range) -> None:
        if found != len(span):
            raise ChunkError(f"a chunk of a sealed blob has {found} bytes, expected {len(span)}")


# --- whole blobs in memory -------------------------------------------------------------------------------------------


def seal(
    plaintext: Buffer,
    key: SealingKey,
    *,
    purpose: str,
    context: bytes = b"",
    chunk_bytes: int = CHUNK_BYTES,
    random: Random = os.urandom,
) -> bytearray:
    """Seal a buffer. `hashlib.sha256` of the result names it by content.

    Args:
        plaintext: Contiguous, of any element type.
        key: Found again by its id.
        purpose: What it is for, such as "model"; whoever opens it says the same.
        context: What else it belongs to, such as the job's digest; likewise.
        chunk_bytes: Plaintext of one chunk, at most 16 MiB.
        random: Cryptographic source of the salt.
    """
    view = memoryview(plaintext).cast("B")
    header = Header(key_id=key.id, chunk_bytes=chunk_bytes, salt=random(SALT_SIZE), length=len(view))
    cipher = ChunkCipher(key, header, purpose=purpose, context=context)
    blob = bytearray(header.sealed_size)
    blob[: header.size] = header.encode()
    body = memoryview(blob)[header.size :]
    for index in range(header.chunks):
        cipher.seal_into(index, _part(view, header.plain_span(index)), _part(body, header.sealed_span(index)))
    return blob


def unseal(blob: Buffer, key: SealingKey, *, purpose: str, context: bytes = b"") -> bytearray:
    """Open a sealed buffer and return its plaintext; the counterpart of `seal`.

    Raises:
        MalformedBlobError: It is not a sealed blob, or longer or shorter than its header says.
        SealedBlobError: It does not open.
    """
    view = memoryview(blob).cast("B")
    header = Header.parse(view)
    require_size(header, len(view))
    cipher = ChunkCipher(key, header, purpose=purpose, context=context)
    plaintext = bytearray(header.length)
    for index in range(header.chunks):
        sealed = _part(view[header.size :], header.sealed_span(index))
        cipher.open_into(index, sealed, _part(memoryview(plaintext), header.plain_span(index)))
    return plaintext


def require_size(header: Header, found: int) -> None:
    """Raise `MalformedBlobError` unless a blob of `found` bytes is as long as its header says."""
    if found != header.sealed_size:
        raise MalformedBlobError(
            f"sealed blob has {found} bytes, expected {header.sealed_size}: it is cut off or extended"
        )


def _part(view: memoryview, span: range) -> memoryview:
    return view[span.start : span.stop]
