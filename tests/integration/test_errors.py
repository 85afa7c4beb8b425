"""Errors across a real channel: what one side raises the other side raises again, and nothing else gets through."""

from __future__ import annotations

import contextlib
import logging

import grpc
import pytest

from attestation.channel.interceptor import Edge, utc_now
from attestation.channel.status import STATUSES, TRAILER, RemoteError, UnreachableError, error_of
from attestation.errors import AppraisalError, NotAttestedYetError, ReattestError, UnattestedPeerError
from attestation.findings import Finding
from fl_runtime.errors import JobRefusedError
from fl_runtime.transport import federation_pb2 as pb
from fl_runtime.transport import federation_pb2_grpc as rpc
from policies.errors import AuditHaltedError, CloisterError, DeniedError, MalformedDocumentError, UsageError

FINDING = Finding(field="snp.policy.debug", found="1", expected="0", status="contraindicated", repair="launch it again")


class Raising(rpc.FederationServicer):
    """Raises the same error in every kind of call."""

    def __init__(self, error):
        self.error = error

    async def Greet(self, request, context):
        raise self.error

    async def Join(self, request, context):
        yield pb.Instruction()
        raise self.error

    async def Upload(self, requests, context):
        async for _ in requests:
            raise self.error


@contextlib.asynccontextmanager
async def serving(error):
    server = grpc.aio.server(interceptors=[Edge(None, clock=utc_now)])
    rpc.add_FederationServicer_to_server(Raising(error), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield rpc.FederationStub(channel)
    finally:
        await server.stop(None)


async def greet(stub):
    await stub.Greet(pb.Greeting(), timeout=10)


async def join(stub):
    async for _ in stub.Join(pb.JoinRequest(), timeout=10):
        pass


async def upload(stub):
    await stub.Upload(iter([pb.UploadChunk()]), timeout=10)


async def raised(stub, call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(stub)
    return caught.value


@pytest.mark.parametrize("call", [greet, join, upload])
@pytest.mark.parametrize(
    "error",
    [
        UsageError("a wrong argument", hint="another one"),
        MalformedDocumentError("not JSON"),
        DeniedError("not for you"),
        ReattestError("it ended", hint="attest again"),
        NotAttestedYetError("start it first"),
        UnattestedPeerError("who are you?"),
        AppraisalError("not what was expected", findings=(FINDING,)),
        AuditHaltedError("the disk is full"),
        JobRefusedError("not this job", hint="another one\nof two lines"),
    ],
    ids=lambda error: error.code,
)
async def test_typed_error_is_raised_again_at_the_caller_with_its_code_message_and_hint(error, call):
    async with serving(error) as stub:
        failed = await raised(stub, call)
    assert failed.code() is STATUSES.get(error.code, grpc.StatusCode.FAILED_PRECONDITION)
    again = error_of(failed, what="the server")
    assert isinstance(again, RemoteError)
    assert (again.code, again.message, again.hint, again.retryable) == (
        error.code,
        error.message,
        error.hint,
        error.retryable,
    )


@pytest.mark.parametrize("call", [greet, join, upload])
async def test_what_an_unexpected_exception_says_stays_in_the_program_s_own_log(call, caplog):
    with caplog.at_level(logging.ERROR):
        async with serving(ValueError("a patient's name")) as stub:
            failed = await raised(stub, call)
    assert failed.code() is grpc.StatusCode.INTERNAL
    assert "patient" not in str(failed)
    assert "patient" in caplog.text
    assert not error_of(failed, what="the server").retryable


async def test_message_of_any_length_does_not_break_the_trailer():
    async with serving(CloisterError("x" * 100_000, hint="y" * 100_000)) as stub:
        again = error_of(await raised(stub, greet), what="the server")
    assert again.message == "x" * 4000
    assert again.hint == "y" * 1000


async def test_call_to_nobody_is_unreachable_and_says_whom():
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        error = error_of(await raised(rpc.FederationStub(channel), greet), what="the server at 127.0.0.1:1")
    assert isinstance(error, UnreachableError)
    assert error.retryable
    assert error.message.startswith("the server at 127.0.0.1:1 cannot be reached")


async def test_trailer_that_is_not_ours_is_not_believed():
    class Forged(grpc.aio.AioRpcError):
        def trailing_metadata(self):
            return ((TRAILER, b'{"code": "x", "code": "y"}'),)

    metadata = grpc.aio.Metadata()
    forged = Forged(grpc.StatusCode.PERMISSION_DENIED, metadata, metadata, details="no")
    assert error_of(forged, what="the server").code == "channel"
