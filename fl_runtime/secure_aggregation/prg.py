"""Masks: AES-256-CTR keystreams, added to a vector modulo 2^32 or 2^64.

A seed is 32 bytes, used whole, and makes one keystream: IV 0, so one seed must never be used for two vectors. The
callers see to that. The keystream is read as little-endian words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from fl_runtime.secure_aggregation.stages import RingVector

SEED_SIZE = 32  # an AES-256 key
BLOCK_BYTES = 256 * 1024  # a block of the vector, its keystream and the zeros that are enciphered stay in L2
AES_BLOCK = 16
_ZEROS = memoryview(bytes(BLOCK_BYTES))


@dataclass(frozen=True, slots=True)
class Mask:
    """A keystream to be added to a vector, or taken from it."""

    seed: bytes = field(repr=False)  # 32 bytes
    sign: Literal[1, -1]

    def inverse(self) -> Mask:
        """The mask that undoes this one."""
        return Mask(self.seed, -1 if self.sign > 0 else 1)


class Keystream:
    """The words of one seed's keystream, in order, a block at a time."""

    def __init__(self, seed: bytes, *, dtype: np.dtype[Any], first_word: int = 0) -> None:
        """Start at `first_word`, which lies on an AES block: a multiple of 4 (32 bits) or 2 (64 bits)."""
        counter = first_word * dtype.itemsize // AES_BLOCK
        self._dtype = dtype
        self._encryptor = Cipher(AES256(seed), CTR(counter.to_bytes(AES_BLOCK, "big"))).encryptor()

    def read_into(self, scratch: bytearray, words: int) -> npt.NDArray[Any]:
        """Write the next `words` words (at most `BLOCK_BYTES`) to the start of `scratch` and return a view of them."""
        self._encryptor.update_into(_ZEROS[: words * self._dtype.itemsize], scratch)
        return np.frombuffer(scratch, dtype=self._dtype, count=words)


def new_scratch() -> bytearray:
    """Return room for one block of keystream; `update_into` wants 15 bytes more than it writes."""
    return bytearray(BLOCK_BYTES + AES_BLOCK - 1)


def add_masks(vector: RingVector, masks: Sequence[Mask], *, threads: int = 1) -> None:
    """Add or subtract every mask, in place and modulo the ring.

    Blocks are the outer loop and masks the inner one, so that a block is read from memory once for all masks. Each
    thread takes a contiguous part and seeks in the keystreams; OpenSSL and NumPy let go of the interpreter's lock.

    Args:
        vector: `<u4` or `<u8`, contiguous.
        masks: Each seed once.
        threads: How many parts to work on at the same time.
    """
    parts = list(_parts(vector, threads))
    if len(parts) <= 1:
        _add_part(vector, masks, 0)
        return
    with ThreadPoolExecutor(max_workers=len(parts)) as pool:
        for done in [pool.submit(_add_part, part, masks, first_word) for first_word, part in parts]:
            done.result()


def _parts(vector: RingVector, threads: int) -> Iterator[tuple[int, RingVector]]:
    block = BLOCK_BYTES // vector.dtype.itemsize
    blocks_each = -(-len(vector) // (block * threads)) or 1
    for first in range(0, len(vector), blocks_each * block):
        yield first, vector[first : first + blocks_each * block]


def _add_part(part: RingVector, masks: Sequence[Mask], first_word: int) -> None:
    words, scratch = BLOCK_BYTES // part.dtype.itemsize, new_scratch()
    streams = [
        (Keystream(mask.seed, dtype=part.dtype, first_word=first_word), np.add if mask.sign > 0 else np.subtract)
        for mask in masks
    ]
    for start in range(0, len(part), words):
        block = part[start : start + words]
        for stream, combine in streams:
            combine(block, stream.read_into(scratch, len(block)), out=block)
