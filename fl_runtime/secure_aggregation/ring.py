"""Vectors of words modulo 2^32 or 2^64: making, adding and naming them."""

from __future__ import annotations

import hashlib
from typing import Any, Literal, cast

import numpy as np

from fl_runtime.secure_aggregation.errors import MalformedUpdateError
from fl_runtime.secure_aggregation.parameters import Parameters
from fl_runtime.secure_aggregation.stages import RingVector
from policies.encoding import domain


def ring_dtype(ring_bits: Literal[32, 64]) -> np.dtype[Any]:
    """Return the element type of the ring: little-endian, as it travels."""
    return np.dtype("<u4" if ring_bits == 32 else "<u8")


def new_vector(parameters: Parameters) -> RingVector:
    """Return a vector of zeros: an accumulator, or a buffer that a site keeps for all rounds of a job."""
    return cast("RingVector", np.zeros(parameters.words, dtype=ring_dtype(parameters.ring_bits)))


def require_vector(vector: RingVector, parameters: Parameters) -> None:
    """Refuse a vector of another ring or length.

    Raises:
        MalformedUpdateError: Says what was found and expected.
    """
    dtype = ring_dtype(parameters.ring_bits)
    if vector.dtype != dtype or vector.shape != (parameters.words,) or not vector.flags.c_contiguous:
        raise MalformedUpdateError(
            f"found a vector of shape {vector.shape} and type {vector.dtype}, expected ({parameters.words},) and {dtype}"
        )


def accumulate(accumulator: RingVector, vector: RingVector) -> None:
    """Add `vector`, or a chunk of it, to the same words of `accumulator`, in place and modulo the ring.

    Addition in the ring commutes exactly, so the order in which updates arrive never shows. One pass, no scratch.

    Raises:
        MalformedUpdateError: The two differ in length or ring; nothing was added.
    """
    if accumulator.dtype != vector.dtype or accumulator.shape != vector.shape:
        raise MalformedUpdateError(
            f"found {vector.shape} words of type {vector.dtype}, expected {accumulator.shape} of {accumulator.dtype}"
        )
    np.add(accumulator, vector, out=accumulator)


def new_vector_digest() -> hashlib._Hash:
    """Begin the hash that names a masked vector; fed with its bytes as they travel, its digest is `vector_digest`."""
    return hashlib.sha256(domain("masked-vector"))


def vector_digest(*chunks: bytes | memoryview | RingVector) -> bytes:
    """Name a masked vector by the bytes that travel: SHA-256, 32 bytes, however it was cut into chunks."""
    digest = new_vector_digest()
    for chunk in chunks:
        digest.update(chunk.data if isinstance(chunk, np.ndarray) else chunk)
    return digest.digest()
