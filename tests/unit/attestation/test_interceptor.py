"""At the edge: every call is identified, on streams again and again, and nothing untyped leaks out."""

from datetime import timedelta
from types import SimpleNamespace

import grpc
import pytest
from cryptography import x509

from attestation.channel import interceptor
from attestation.channel.caller import Administrator, AttestedPeer, CallerPolicy
from attestation.channel.interceptor import RECHECK_SECONDS, Edge, administrator, attested_caller
from attestation.errors import ReattestError, UnattestedPeerError
from attestation.issue import admin_spiffe_id
from policies.errors import DeniedError, DocumentSignatureError
from tests.fakes.attestation_service import Clock, service
from tests.fakes.trust_domain import NOW, TRUST_DOMAIN, admin_authority, boot_keys, domain, draft_root


class AbortedError(Exception):
    """What gRPC raises when a handler aborts a call."""


class Call:
    """One call as a handler sees it; remembers how it was aborted."""

    def __init__(self, *certificates):
        self.certificates, self.status, self.trailer = list(certificates), None, None

    def auth_context(self):
        return {"x509_pem_cert": self.certificates} if self.certificates else {}

    async def abort(self, status, details, trailer=()):
        self.status, self.details, self.trailer = status, details, trailer
        raise AbortedError


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    with service(tmp_path_factory.mktemp("edge")) as running:
        found = {node: running.enrol(node).certificate for node in ("hospital-a", "server")}
    found["admin"] = admin_authority().issue(
        boot_keys("admin").tls.public_key(),
        names=[x509.UniformResourceIdentifier(admin_spiffe_id(TRUST_DOMAIN, "admin"))],
        not_before=NOW,
        not_after=NOW + timedelta(days=1),
        server=False,
    )
    return found


def edge(clock=None, *, checked=True):
    policy = CallerPolicy(root=domain().trust.root, revocation_epoch=lambda: 0, accept_mock=True)
    return Edge((lambda: policy) if checked else None, clock=clock or Clock())


async def wrapped(by, handler):
    """Return the handler of one method behind the edge."""

    async def continuation(_):
        return handler

    return await by.intercept_service(continuation, SimpleNamespace())


async def call(by, behaviour, context):
    handler = await wrapped(by, grpc.unary_unary_rpc_method_handler(behaviour))
    return await handler.unary_unary(b"request", context)


async def who(_request, _context):
    return attested_caller()


async def which_administrator(_request, _context):
    return administrator()


async def which_site(_request, _context):
    return attested_caller(role="site")


async def test_handler_knows_who_calls(certificates):
    peer = await call(edge(), who, Call(certificates["hospital-a"]))
    assert isinstance(peer, AttestedPeer)
    assert peer.name == "hospital-a"
    assert await call(edge(), which_administrator, Call(certificates["admin"])) == Administrator(name="admin")
    assert (await call(edge(), which_site, Call(certificates["hospital-a"]))).name == "hospital-a"


@pytest.mark.parametrize(
    ("name", "behaviour", "status"),
    [
        ("admin", who, grpc.StatusCode.UNAUTHENTICATED),
        ("hospital-a", which_administrator, grpc.StatusCode.PERMISSION_DENIED),
        ("server", which_site, grpc.StatusCode.PERMISSION_DENIED),
    ],
)
async def test_caller_of_another_kind_is_refused(certificates, name, behaviour, status):
    context = Call(certificates[name])
    with pytest.raises(AbortedError):
        await call(edge(), behaviour, context)
    assert context.status is status


@pytest.mark.parametrize("count", [0, 2])
async def test_caller_with_another_number_of_certificates_is_refused(certificates, count):
    context = Call(*[certificates["hospital-a"]] * count)
    with pytest.raises(AbortedError):
        await call(edge(), who, context)
    assert UnattestedPeerError.code in str(context.trailer)


async def test_port_that_anybody_may_call_asks_nobody():
    async def answer(_request, _context):
        return b"reply"

    assert await call(edge(checked=False), answer, Call()) == b"reply"


async def test_typed_error_becomes_a_status_with_its_code():
    async def refuse(_request, _context):
        raise DeniedError("x" * 2000)

    context = Call()
    with pytest.raises(AbortedError):
        await call(edge(checked=False), refuse, context)
    assert (context.status, len(context.details)) == (grpc.StatusCode.PERMISSION_DENIED, 1000)
    assert DeniedError.code in str(context.trailer)


async def _fails(_request, _context):
    raise OSError("a secret path")


async def _fails_in_a_stream(_request, _context):
    yield b"first"
    raise OSError("a secret path")


async def _call_a_stream(by, context):
    handler = await wrapped(by, grpc.unary_stream_rpc_method_handler(_fails_in_a_stream))
    return [item async for item in handler.unary_stream(b"request", context)]


@pytest.mark.parametrize("make_call", [lambda by, context: call(by, _fails, context), _call_a_stream])
async def test_fault_of_the_program_itself_tells_the_caller_nothing(make_call):
    context = Call()
    with pytest.raises(AbortedError):
        await make_call(edge(checked=False), context)
    assert context.status is grpc.StatusCode.INTERNAL
    assert "secret" not in context.details


async def test_certificate_that_was_verified_is_verified_again_under_another_root(certificates):
    roots = [domain().trust.root]
    by = Edge(lambda: CallerPolicy(root=roots[-1], revocation_epoch=lambda: 0, accept_mock=True), clock=Clock())
    assert await call(by, who, Call(certificates["hospital-a"]))
    pinned = roots[0].service.model_copy(update={"result_key": bytes(32)})
    roots.append(draft_root(service=pinned))
    context = Call(certificates["hospital-a"])
    with pytest.raises(AbortedError):
        await call(by, who, context)
    assert DocumentSignatureError.code in str(context.trailer)


async def test_only_so_many_certificates_are_remembered(certificates, monkeypatch):
    monkeypatch.setattr(interceptor, "MOST_HOLDERS", 1)
    by = edge()
    for name in ("hospital-a", "server", "hospital-a"):
        assert (await call(by, who, Call(certificates[name]))).name == name
        assert len(by._holders) == 1


async def test_method_that_is_not_served_stays_so():
    assert await wrapped(edge(), None) is None


async def test_stream_that_outlives_the_callers_certificate_is_ended(certificates):
    clock = Clock()

    async def items(_request, _context):
        for number in range(10):
            yield number
            clock.skip(minutes=10)

    handler = await wrapped(edge(clock), grpc.unary_stream_rpc_method_handler(items))
    context = Call(certificates["hospital-a"])
    stream = handler.unary_stream(b"request", context)
    assert [await anext(stream) for _ in range(3)] == [0, 1, 2]  # results last for 30 minutes
    with pytest.raises(AbortedError):
        await anext(stream)
    assert ReattestError.code in str(context.trailer)


async def test_stream_looks_at_the_certificate_again_after_some_seconds(certificates, monkeypatch):
    clock, looks = Clock(), []
    by = edge(clock)
    monkeypatch.setattr(by, "_identify", lambda _context: looks.append(clock.time))

    async def items(_request, _context):
        for _ in range(3):
            yield b""
            clock.skip(seconds=RECHECK_SECONDS)

    handler = await wrapped(by, grpc.unary_stream_rpc_method_handler(items))
    async for _ in handler.unary_stream(b"request", Call()):
        pass
    assert looks == [NOW + timedelta(seconds=RECHECK_SECONDS * number) for number in range(3)]


async def test_stream_of_an_unknown_caller_gives_nothing():
    async def items(_request, _context):
        yield b"secret"

    handler = await wrapped(edge(), grpc.unary_stream_rpc_method_handler(items))
    with pytest.raises(AbortedError):
        await anext(handler.unary_stream(b"request", Call()))
