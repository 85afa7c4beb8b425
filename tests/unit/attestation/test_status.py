"""A typed error crosses a channel and is the same error on the other side."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.channel.status import STATUSES, TRAILER, RemoteError, UnreachableError, error_of, status_of, trailer_of
from attestation.errors import NotAttestedYetError, ReattestError, UnattestedPeerError
from policies.errors import CloisterError, DeniedError


def failed(status=grpc.StatusCode.PERMISSION_DENIED, trailer=()):
    metadata = grpc.aio.Metadata(*trailer)
    return grpc.aio.AioRpcError(status, grpc.aio.Metadata(), metadata, details="details")


@pytest.mark.parametrize(
    "error", [DeniedError("no", reasons=("a", "b"), hint="ask"), NotAttestedYetError("not yet"), ReattestError("again")]
)
def test_error_keeps_its_code_message_hint_and_whether_to_retry(error):
    came = error_of(failed(trailer=trailer_of(error)), what="the service")
    assert isinstance(came, RemoteError)
    assert (came.code, came.message, came.hint, came.retryable) == (
        error.code,
        error.message,
        error.hint,
        error.retryable,
    )


def test_long_message_is_cut_and_still_travels():
    came = error_of(failed(trailer=trailer_of(DeniedError("x" * 9000, hint="y" * 9000))), what="the service")
    assert (len(came.message), len(came.hint)) == (4000, 1000)


def test_other_metadata_is_passed_over():
    (ours,) = trailer_of(DeniedError("no"))
    for other in (("other-bin", b"{}"), ("other", "text")):
        assert error_of(failed(trailer=(other, ours)), what="the service").code == DeniedError.code
        assert error_of(failed(trailer=(other,)), what="the service").code == "channel"
    renamed = error_of(failed(trailer=(("other-bin", ours[1]),)), what="the service")
    assert renamed.code == "channel"


@given(st.binary(max_size=40))
def test_trailer_that_is_none_is_not_believed(raw):
    came = error_of(failed(trailer=((TRAILER, raw),)), what="the service")
    assert (came.code, came.retryable) == ("channel", False)
    assert came.message == "the service answered PERMISSION_DENIED: details"


@pytest.mark.parametrize("status", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"])
def test_broken_connection_may_be_tried_again(status):
    came = error_of(failed(grpc.StatusCode[status]), what="the service")
    assert isinstance(came, UnreachableError)
    assert came.retryable


def test_status_follows_the_code_and_is_never_ok():
    assert status_of(UnattestedPeerError("x")) is grpc.StatusCode.UNAUTHENTICATED
    assert status_of(DeniedError("x")) is grpc.StatusCode.PERMISSION_DENIED
    assert status_of(CloisterError("x")) is grpc.StatusCode.FAILED_PRECONDITION
    assert grpc.StatusCode.OK not in STATUSES.values()
