"""Everything that can go wrong while bytes travel or rest.

TransportError
├── MalformedBlobError        the bytes are not a sealed blob: magic, version or size
├── SealedBlobError           a sealed blob does not open: other key or purpose, or bytes were changed
├── ChunkError                a chunk leaves a gap, overlaps, or has the wrong size
├── ConflictError             other bytes arrive for a place that is taken
├── DigestMismatchError       all bytes arrived, but they are not those that were announced
├── ClosedError               it came after the collection was closed
├── SpoolError                the scratch disk is full or fails; the site can send again
└── SumLostError              a sum can no longer be trusted; the round must be abandoned
"""

from __future__ import annotations

from policies.errors import CloisterError


class TransportError(CloisterError):
    """Bytes on their way, or at rest between two steps."""

    code = "transport"


class MalformedBlobError(TransportError):
    """The bytes are not a sealed blob: magic, version or size."""

    code = "transport.malformed"


class SealedBlobError(TransportError):
    """A sealed blob does not open: other key or purpose, or bytes were changed."""

    code = "transport.sealed"


class ChunkError(TransportError):
    """A chunk leaves a gap, overlaps, or has the wrong size."""

    code = "transport.chunk"


class ConflictError(TransportError):
    """Other bytes arrive for a place that is taken."""

    code = "transport.conflict"


class DigestMismatchError(TransportError):
    """All bytes arrived, but they are not those that were announced."""

    code = "transport.digest"
    retryable = True


class ClosedError(TransportError):
    """It came after the collection was closed."""

    code = "transport.closed"


class SpoolError(TransportError):
    """The scratch disk is full or fails; the site can send again."""

    code = "transport.spool"
    retryable = True


class SumLostError(TransportError):
    """A sum can no longer be trusted; the round must be abandoned."""

    code = "transport.sum_lost"
