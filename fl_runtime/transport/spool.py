"""Where masked vectors become one sum: each is spooled to scratch as it comes, and added when all of it has come.

A vector counts when its last chunk is here and its digest is the one its site announced; that defines who survived. A
site that is gone half-way has only scratch, which has no name on the disk, is sealed under a key of this boot, and
vanishes with its last user. Words are added modulo 2^32 or 2^64, so the sum does not depend on who came first. Memory
is one sum, and at most two chunks for each site that is sending.

Who may send, and what a sum means, is decided elsewhere: the caller hands in the name that its peer has proved.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fl_runtime.transport.chunks import CHUNK_BYTES, Buffer, is_repeated, require_digest
from fl_runtime.transport.errors import (
    ChunkError,
    ClosedError,
    ConflictError,
    MalformedBlobError,
    SealedBlobError,
    SpoolError,
    SumLostError,
)
from fl_runtime.transport.sealed import SALT_SIZE, TAG_SIZE, ChunkCipher, Header, Random, SealingKey
from fl_runtime.transport.sealed_file import SealedReader, SealedWriter
from policies.documents import MAX_DOCUMENT_BYTES, Document, Name
from policies.files import atomic_file

Word: TypeAlias = type[np.uint32] | type[np.uint64]
Words: TypeAlias = npt.NDArray[Any]  # of a `Word`, little-endian, one dimension


class Hash(Protocol):
    """A hash that is fed piece by piece, as `hashlib` makes them."""

    def update(self, data: Buffer, /) -> None:
        """Take in more bytes."""
        ...

    def digest(self) -> bytes:
        """The hash of all bytes so far."""
        ...


class Spool:
    """Collects one vector from each site into one sum. Different sites may be served from different threads.

    As a context manager it frees its scratch at the end of the block.

    Args:
        folder: Scratch disk; room for one vector of each site.
        key: 32 random bytes of this boot.
        word: Element of a vector, little-endian; sums are taken modulo 2^bits of it.
        length: Elements of every vector.
        chunk_bytes: Size of every chunk but a vector's last; a multiple of the word.
        random: Cryptographic source of salts.
        new_digest: Begins the hash that a vector is named by.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: bytes,
        word: Word,
        length: int,
        chunk_bytes: int = CHUNK_BYTES,
        random: Random = os.urandom,
        new_digest: Callable[[], Hash] = hashlib.sha256,
    ) -> None:
        self._new_digest = new_digest
        dtype = _little_endian(word)
        if length < 1 or chunk_bytes % dtype.itemsize:
            raise ValueError(f"a vector of {length} words of {dtype.itemsize} bytes, in chunks of {chunk_bytes}")
        self._folder, self._key, self._random = folder, SealingKey(id="boot", secret=key), random
        self._chunk_bytes, self._total = chunk_bytes, length * dtype.itemsize
        # Locks are taken in this order: an upload's own, `_adding`, `_table`.
        self._adding = threading.Lock()  # of the sum, its block, whether it is whole, and the closing
        self._sum, self._whole, self._closed = np.zeros(length, dtype), True, False
        self._block = np.zeros(min(chunk_bytes, self._total) // dtype.itemsize, dtype)
        self._table = threading.Lock()  # of the two dictionaries
        self._uploads: dict[str, _Upload] = {}
        self._counted: dict[str, bytes] = {}  # site -> digest of the vector that was added

    def received(self, site: str) -> int:
        """Return how many bytes of a site's vector are here: where it resumes."""
        with self._table:
            if site in self._counted:
                return self._total
            return self._uploads[site].received if site in self._uploads else 0

    def append(self, site: str, offset: int, body: Buffer) -> int:
        """Spool a site's next chunk, or one that is here already; return how many of its bytes are here.

        Raises:
            ChunkError: It leaves a gap or has the wrong size.
            ConflictError: It differs from the one that is here already.
            ClosedError: The site is counted, or the spool is closed.
            SpoolError: The scratch disk is full or fails; the site begins again.
        """
        with self._upload(site) as upload:
            try:
                return upload.append(offset, memoryview(body).cast("B"))
            except (OSError, SealedBlobError) as error:
                self._drop(site, upload)
                raise SpoolError(f"the vector of {site} cannot be spooled: {error}", hint="send it again") from error

    def finish(self, site: str, digest: bytes) -> None:
        """Add a site's vector to the sum: from here on it is a survivor. To say so again does no harm.

        Args:
            site: Whose vector.
            digest: Of the vector's bytes as its site announced it, 32 bytes.

        Raises:
            ChunkError: Bytes are missing; those that are here stay.
            DigestMismatchError: The bytes are not those that were announced; the site begins again.
            ConflictError: The site is counted with another vector.
            ClosedError: The spool is closed.
            SpoolError: The scratch disk fails; the sum is as it was, and the site begins again.
            SumLostError: It failed so that the sum cannot be put right.
        """
        with self._table:
            counted = self._counted.get(site)
        if counted is not None:
            if not hmac.compare_digest(counted, digest):
                raise ConflictError(f"{site} is counted with another vector")
            return
        with self._upload(site) as upload:
            upload.require_complete()
            try:
                require_digest(upload.digest.digest(), digest)
                self._count(site, upload, digest)
            except (OSError, SealedBlobError) as error:
                raise SpoolError(f"the vector of {site} cannot be read back: {error}", hint="send it again") from error
            finally:
                self._drop(site, upload)

    def discard(self, site: str) -> None:
        """Forget what a site has sent so far; it may begin again.

        Raises:
            ClosedError: The site is counted already, and a sum does not forget.
        """
        with self._table:
            if site in self._counted:
                raise ClosedError(f"{site} is counted already")
            upload = self._uploads.get(site)
        if upload is not None:
            with upload.lock:
                self._drop(site, upload)

    def close(self) -> SpooledSum:
        """End the collection: forget all who are not counted, and return the sum. To close again returns the same.

        Raises:
            SumLostError: The sum holds part of a vector.
        """
        with self._adding:  # an addition that has begun is still counted
            self._closed = True
            self._require_whole_sum()
        with self._table:
            sites = tuple(sorted(self._counted))
        self._drop_all()
        return SpooledSum(words=self._sum, sites=sites)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Take nothing more and free the scratch, whatever became of the round."""
        self._closed = True
        self._drop_all()

    @contextmanager
    def _upload(self, site: str) -> Iterator[_Upload]:
        """Hold the upload of a site, a new one if there is none."""
        with self._table:
            if self._closed or site in self._counted:
                raise ClosedError(f"{site} is counted already" if site in self._counted else f"{site} comes too late")
            if site not in self._uploads:
                self._uploads[site] = self._new_upload(site)
            upload = self._uploads[site]
        with upload.lock:
            if upload.file.closed:
                raise SpoolError(f"the vector of {site} was dropped meanwhile", hint="ask where to resume")
            yield upload

    def _new_upload(self, site: str) -> _Upload:
        header = Header(
            key_id=self._key.id, chunk_bytes=self._chunk_bytes, salt=self._random(SALT_SIZE), length=self._total
        )
        try:
            cipher = ChunkCipher(self._key, header, purpose="spool", context=site.encode())
            return _Upload(self._folder, header, cipher, self._new_digest())
        except OSError as error:
            raise SpoolError(f"no scratch for the vector of {site}: {error}", hint="send it again") from error

    def _drop(self, site: str, upload: _Upload) -> None:
        """Forget an upload; the caller holds its lock."""
        upload.file.close()
        with self._table:
            if self._uploads.get(site) is upload:
                del self._uploads[site]

    def _drop_all(self) -> None:
        with self._table:
            left = dict(self._uploads)
        for site, upload in left.items():
            with upload.lock:
                self._drop(site, upload)

    def _count(self, site: str, upload: _Upload, digest: bytes) -> None:
        with self._adding:
            if self._closed:
                raise ClosedError(f"{site} comes too late")
            self._require_whole_sum()
            try:
                self._add(upload)
            except (OSError, SealedBlobError):
                self._require_whole_sum()
                raise
            with self._table:
                self._counted[site] = digest

    def _require_whole_sum(self) -> None:
        if not self._whole:
            raise SumLostError("the sum holds part of a vector", hint="abandon the round; the model stays as it was")

    def _add(self, upload: _Upload) -> None:
        """Add a vector, or leave the sum as it was; where neither can be done, the sum stays marked as not whole."""
        self._whole, done = False, 0
        try:
            for index in range(upload.header.chunks):
                self._apply(np.add, upload, index)
                done += 1
        except (OSError, SealedBlobError):
            for index in range(done):
                self._apply(np.subtract, upload, index)
            self._whole = True
            raise
        self._whole = True

    def _apply(self, operation: np.ufunc, upload: _Upload, index: int) -> None:
        """Add or subtract one chunk, while it is in the processor's cache."""
        span = upload.header.plain_span(index)
        words = slice(span.start // self._sum.itemsize, span.stop // self._sum.itemsize)
        block = self._block[: words.stop - words.start]
        upload.read(index, block.data.cast("B"))
        operation(self._sum[words], block, out=self._sum[words])


class _Upload:
    """One site's vector on its way: its bytes so far, sealed in a scratch file that has no name."""

    def __init__(self, folder: Path, header: Header, cipher: ChunkCipher, digest: Hash) -> None:
        self.header, self._cipher = header, cipher
        self.lock = threading.Lock()
        self.file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - lives as long as the upload
        self.digest = digest
        self.received = 0
        self._sealed = memoryview(bytearray(min(header.chunk_bytes, header.length) + TAG_SIZE))

    def append(self, offset: int, body: memoryview) -> int:
        size, total = len(body), self.header.length
        index = offset // self.header.chunk_bytes
        if is_repeated(offset, size, received=self.received, total=total, chunk_bytes=self.header.chunk_bytes):
            known = bytearray(size)
            self.read(index, memoryview(known))
            if not hmac.compare_digest(known, body):
                raise ConflictError(f"the chunk at byte {offset} was sent twice, with different bytes")
            return self.received
        # A chunk is sealed once. If its write fails the whole upload is dropped, and the next has another salt.
        span = self.header.sealed_span(index)
        sealed = self._sealed[: len(span)]
        self._cipher.seal_into(index, body, sealed)
        _write_at(self.file.fileno(), sealed, span.start)
        self.digest.update(body)
        self.received = offset + size
        return self.received

    def read(self, index: int, into: memoryview) -> None:
        span = self.header.sealed_span(index)
        sealed = self._sealed[: len(span)]
        if (found := os.preadv(self.file.fileno(), [sealed], span.start)) != len(span):
            raise OSError(f"{found} bytes of scratch at {span.start}, expected {len(span)}")
        self._cipher.open_into(index, sealed, into)

    def require_complete(self) -> None:
        if self.received != self.header.length:
            raise ChunkError(f"{self.received} bytes were received, expected {self.header.length}")


def _write_at(descriptor: int, view: memoryview, offset: int) -> None:
    while len(view):  # a disk that is almost full takes a part
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _little_endian(word: Word) -> np.dtype[Any]:
    return np.dtype(word).newbyteorder("<")


# --- a closed sum ----------------------------------------------------------------------------------------------------


class _Sites(Document):
    sites: tuple[Name, ...] = Field(max_length=4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledSum:
    """A sum that is closed, still masked, and the sites whose vectors it holds: no more and no fewer."""

    words: Words  # masks are taken off in place
    sites: tuple[str, ...]  # sorted

    def save(self, path: Path, key: SealingKey, *, context: bytes) -> bytes:
        """Make it durable, sealed, before anybody is asked to unmask; return the SHA-256 of the file, 32 bytes.

        Args:
            path: Takes the place of what is there.
            key: One that outlives this boot.
            context: What it belongs to, such as the digest of job, round and attempt.

        Raises:
            OSError: The disk is full, or fails.
        """
        names = _Sites(sites=self.sites).encode()
        with atomic_file(path) as file:
            writer = SealedWriter(file, key, length=self.words.nbytes + len(names), purpose="sum", context=context)
            writer.write(self.words.data)
            writer.write(names)
            return writer.finish()

    @classmethod
    def load(cls, path: Path, key: SealingKey, *, context: bytes, word: Word, length: int) -> Self:
        """Read a sum of `length` words that was saved; the counterpart of `save`.

        Raises:
            MalformedBlobError: It is not a sealed blob, or of another size.
            SealedBlobError: It does not open.
            MalformedDocumentError: The list of sites is not one.
            OSError: The file cannot be read.
        """
        dtype = _little_endian(word)
        with path.open("rb") as file:
            reader = SealedReader(file, key, purpose="sum", context=context)
            names_size = reader.header.length - length * dtype.itemsize
            if not 0 < names_size <= MAX_DOCUMENT_BYTES:
                raise MalformedBlobError(
                    f"{path} holds {reader.header.length} bytes, expected {length} words and names"
                )
            words, names = np.empty(length, dtype), bytearray(names_size)
            reader.read_into(words.data)
            reader.read_into(names, offset=words.nbytes)
        return cls(words=words, sites=_Sites.parse(bytes(names)).sites)
