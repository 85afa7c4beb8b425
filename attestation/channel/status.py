"""Errors across a channel: a typed error becomes a gRPC status with its code and hint, and becomes an error again."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from policies.documents import Document
from policies.errors import CloisterError, MalformedDocumentError

TRAILER = "cloister-error-bin"

STATUSES: Mapping[str, grpc.StatusCode] = {
    "usage": grpc.StatusCode.INVALID_ARGUMENT,
    "policy.malformed": grpc.StatusCode.INVALID_ARGUMENT,
    "policy.signature": grpc.StatusCode.PERMISSION_DENIED,
    "policy.expired": grpc.StatusCode.PERMISSION_DENIED,
    "policy.rollback": grpc.StatusCode.FAILED_PRECONDITION,
    "policy.denied": grpc.StatusCode.PERMISSION_DENIED,
    "attestation.malformed": grpc.StatusCode.INVALID_ARGUMENT,
    "attestation.signature": grpc.StatusCode.PERMISSION_DENIED,
    "attestation.binding": grpc.StatusCode.PERMISSION_DENIED,
    "attestation.endorsement": grpc.StatusCode.PERMISSION_DENIED,
    "attestation.endorsement.unavailable": grpc.StatusCode.UNAVAILABLE,
    "attestation.appraisal": grpc.StatusCode.PERMISSION_DENIED,
    "attestation.replay": grpc.StatusCode.PERMISSION_DENIED,
    "attestation.release": grpc.StatusCode.PERMISSION_DENIED,
    "attestation.reattest": grpc.StatusCode.UNAUTHENTICATED,
    "attestation.unattested_peer": grpc.StatusCode.UNAUTHENTICATED,
    "audit.halted": grpc.StatusCode.UNAVAILABLE,
}


class _Trailer(Document):
    code: str
    message: str
    hint: str | None
    retryable: bool


class RemoteError(CloisterError):
    """What the other side of a call found wrong; carries its code, message and hint."""

    def __init__(self, message: str, *, code: str, retryable: bool, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code  # type: ignore[misc]  # of this instance: the remote side's
        self.retryable = retryable  # type: ignore[misc]


class UnreachableError(CloisterError):
    """The other side of a call could not be reached, or the connection broke."""

    code = "channel.unreachable"
    retryable = True


def status_of(error: CloisterError) -> grpc.StatusCode:
    """The gRPC status for an error, by its code."""
    return STATUSES.get(error.code, grpc.StatusCode.FAILED_PRECONDITION)


def trailer_of(error: CloisterError) -> tuple[tuple[str, bytes]]:
    """The trailing metadata that lets the caller raise the error again."""
    trailer = _Trailer(
        code=error.code,
        message=error.message[:4000],
        hint=error.hint[:1000] if error.hint else None,
        retryable=error.retryable,
    )
    return ((TRAILER, trailer.encode()),)


def error_of(error: grpc.aio.AioRpcError, *, what: str) -> CloisterError:
    """Return the typed error behind a failed call.

    Args:
        error: As gRPC raised it.
        what: What was called, for a person: "the attestation service at 127.0.0.1:4000".
    """
    for key, value in error.trailing_metadata() or ():
        if key == TRAILER and isinstance(value, bytes):
            try:
                trailer = _Trailer.parse(value)
            except MalformedDocumentError:
                break
            return RemoteError(trailer.message, code=trailer.code, retryable=trailer.retryable, hint=trailer.hint)
    if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}:
        return UnreachableError(
            f"{what} cannot be reached: {error.details()}",
            hint="is it running, is the address right, and have both sides' certificates not expired?",
        )
    return RemoteError(f"{what} answered {error.code().name}: {error.details()}", code="channel", retryable=False)
