"""What the programs' ports let in: TLS 1.3 alone, certificates of the federation alone, and each caller its own calls."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import grpc
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from attestation.admission import ShownIdentity
from attestation.channel.caller import CallerPolicy
from attestation.channel.credentials import (
    MAX_MESSAGE_BYTES,
    SERVER_OPTIONS,
    RotatingServerCredentials,
    TlsIdentity,
    key_pem,
    new_tls_key,
    open_channel,
    pem,
    server_dns_name,
)
from attestation.channel.interceptor import Edge, attested_caller, utc_now
from attestation.channel.status import RemoteError, UnreachableError, error_of
from attestation.issue import CertificateAuthority, admin_spiffe_id
from attestation.node import load_kit
from attestation.program import bind
from attestation.service import attestation_pb2 as attestation_pb
from attestation.service import attestation_pb2_grpc as attestation_rpc
from fl_runtime.transport import federation_pb2 as pb
from fl_runtime.transport import federation_pb2_grpc as rpc
from policies.encoding import PROTOCOL
from tests.fakes.federation import TRUST_DOMAIN
from tests.fakes.running import federation

pytestmark = pytest.mark.asyncio(loop_scope="module")

EDGE_NAME = "edge.test"
OPENSSL = shutil.which("openssl")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fed(tmp_path_factory):
    """A server and the service; the sites of these tests are identities without a program."""
    async with federation(tmp_path_factory.mktemp("channel"), sites=1, start=["server"]) as running:
        yield running


@pytest.fixture(scope="module")
def addresses(fed):
    return fed.laboratory.layout.addresses


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(OPENSSL is None, reason="TLS versions are not proven here: there is no openssl command")
@pytest.mark.parametrize("port", ["enrol", "attested", "server"])
@pytest.mark.parametrize(("version", "accepted"), [("tls1_2", False), ("tls1_3", True)])
async def test_every_port_takes_tls_1_3_and_refuses_tls_1_2(addresses, port, version, accepted):
    command = [OPENSSL, "s_client", f"-{version}", "-connect", getattr(addresses, port), "-alpn", "h2"]
    done = await asyncio.to_thread(subprocess.run, command, input=b"", capture_output=True, timeout=20, check=False)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert ("New, TLSv1.3, Cipher is" in said) == accepted, said
    assert accepted or "alert" in said or "no protocols" in said.lower() or "Cipher is (NONE)" in said, said


# --- who calls -------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def call_server(fed, identity):
    """Open a channel to the server as `identity`."""
    enrolment = fed.lab.enrolment("hospital-a")
    shown: ShownIdentity = await enrolment.fetch_attestation(await enrolment.attest("issue"), node="server")
    channel = open_channel(
        fed.laboratory.layout.addresses.server,
        trusted_pem=shown.certificate,
        name=server_dns_name("server", TRUST_DOMAIN),
        identity=identity,
    )
    async with channel:
        yield channel


async def refusal(call):
    """Return the typed error that a call or the first answer of a stream ends with."""
    try:
        if isinstance(call, grpc.aio.UnaryStreamCall):
            await call.read()
            assert await call.code() is not grpc.StatusCode.OK
            return error_of(grpc.aio.AioRpcError(await call.code(), None, None), what="the server")
        await call
    except grpc.aio.AioRpcError as error:
        return error_of(error, what="the server")
    raise AssertionError("the call was answered")


def administrator(fed):
    kit = fed.laboratory.kit("admin")
    return TlsIdentity((kit / "admin.key").read_bytes(), (kit / "admin.pem").read_bytes())


async def site(fed):
    return (await fed.lab.enrolment("hospital-a").attest("issue")).tls


@pytest.mark.parametrize(
    "call",
    [
        lambda stub: stub.Greet(pb.Greeting(nonce=bytes(32)), timeout=10),
        lambda stub: stub.Join(pb.JoinRequest(boot=bytes(16)), timeout=10),
        lambda stub: stub.Answer(pb.SiteAnswer(job_id="x"), timeout=10),
        lambda stub: stub.Download(pb.DownloadRequest(job_id="x", sha256=bytes(32)), timeout=10),
        lambda stub: stub.Upload(iter([pb.UploadChunk(job_id="x")]), timeout=10),
        lambda stub: stub.WatchLog(pb.WatchLogRequest(old_size=0), timeout=10),
        lambda stub: stub.Cosign(pb.CosignRequest(size=1, cosignature=b""), timeout=10),
    ],
    ids=["Greet", "Join", "Answer", "Download", "Upload", "WatchLog", "Cosign"],
)
async def test_administrator_is_denied_every_call_of_a_site(fed, call):
    async with call_server(fed, administrator(fed)) as channel:
        error = await refusal(call(rpc.FederationStub(channel)))
    assert error.code == "attestation.unattested_peer"
    assert "admin is an administrator" in error.message


@pytest.mark.parametrize(
    "call",
    [
        lambda stub: stub.Submit(iter([pb.SubmitPart(manifest=b"{}")]), timeout=10),
        lambda stub: stub.Watch(pb.WatchRequest(job_id="x"), timeout=10),
        lambda stub: stub.Abort(pb.AbortRequest(job_id="x"), timeout=10),
        lambda stub: stub.List(pb.ListRequest(), timeout=10),
        lambda stub: stub.FetchModel(pb.FetchModelRequest(job_id="x"), timeout=10),
    ],
    ids=["Submit", "Watch", "Abort", "List", "FetchModel"],
)
async def test_site_is_denied_every_call_of_an_administrator(fed, call):
    async with call_server(fed, await site(fed)) as channel:
        error = await refusal(call(rpc.JobsStub(channel)))
    assert error.code == "policy.denied"
    assert "hospital-a is a node" in error.message


async def test_server_is_denied_the_calls_of_a_site(fed):
    identity = await fed.lab.enrolment("server").attest("issue")
    await fed.kill("server")  # its identity was displaced by the one above
    await fed.start_server()
    async with call_server(fed, identity.tls) as channel:
        error = await refusal(rpc.FederationStub(channel).Greet(pb.Greeting(nonce=bytes(32)), timeout=10))
    assert error.code == "policy.denied"
    assert "attested as server" in error.message


def issued_by_another_authority(name, *, server=False):
    """A certificate of an authority that this federation has never heard of."""
    now = datetime.now(UTC)
    authority, key = CertificateAuthority.create("another", now=now, lifetime=timedelta(days=1)), new_tls_key()
    names = [x509.DNSName(name) if server else x509.UniformResourceIdentifier(name)]
    certificate = authority.issue(
        key.public_key(), names=names, not_before=now, not_after=now + timedelta(hours=1), server=server
    )
    return TlsIdentity(key_pem(key), certificate)


@pytest.mark.parametrize("who", ["another authority", "nobody"])
async def test_caller_without_a_certificate_of_this_federation_is_refused_at_the_handshake(fed, who):
    stranger = issued_by_another_authority(admin_spiffe_id(TRUST_DOMAIN, "admin")) if who != "nobody" else None
    async with call_server(fed, stranger) as channel:
        error = await refusal(rpc.JobsStub(channel).List(pb.ListRequest(), timeout=10))
    assert isinstance(error, UnreachableError)


async def test_certificate_of_the_projects_authority_that_names_a_site_counts_as_nobody(fed):
    folder = fed.laboratory.administration
    now = datetime.now(UTC)
    authority = CertificateAuthority(
        key=load_pem_private_key((folder / "authority.key").read_bytes(), None),
        certificate=x509.load_pem_x509_certificate((folder / "authority.pem").read_bytes()),
    )
    key = new_tls_key()
    names = [x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/site/hospital-a/site/{bytes(16).hex()}")]
    certificate = authority.issue(
        key.public_key(), names=names, not_before=now, not_after=now + timedelta(hours=1), server=False
    )
    async with call_server(fed, TlsIdentity(key_pem(key), certificate)) as channel:
        error = await refusal(rpc.JobsStub(channel).List(pb.ListRequest(), timeout=10))
    assert error.code == "attestation.unattested_peer"


# --- time ------------------------------------------------------------------------------------------------------------


class Watching(rpc.FederationServicer):
    """Answers to whoever is let in; a stream goes on for as long as it is read."""

    async def Greet(self, request, context):
        attested_caller(role="site")
        return pb.ServerIdentity()

    async def Join(self, request, context):
        while True:
            yield pb.Instruction(heartbeat=pb.Heartbeat())
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def edge_at(fed, clock):
    """A server that is behind the product's own edge, on a clock of the test's."""
    identity = await fed.lab.enrolment("hospital-a").attest("issue")
    root = load_kit(fed.laboratory.kit("hospital-a"), now=datetime.now(UTC)).trust.root
    policy = CallerPolicy(root=root, revocation_epoch=lambda: 0, accept_mock=True)
    server = grpc.aio.server(interceptors=[Edge(lambda: policy, clock=clock)], options=SERVER_OPTIONS)
    rpc.add_FederationServicer_to_server(Watching(), server)
    roots = pem(root.service.ca_certificate)
    own = issued_by_another_authority(EDGE_NAME, server=True)
    port = bind(server, "127.0.0.1:0", RotatingServerCredentials(own, client_roots_pem=roots))
    await server.start()
    try:
        async with open_channel(
            f"127.0.0.1:{port}", trusted_pem=own.certificate_pem, name=EDGE_NAME, identity=identity.tls
        ) as channel:
            yield rpc.FederationStub(channel), identity.result
    finally:
        await server.stop(None)


async def exhausted(stream):
    while True:
        await stream.read()


class Clock:
    def __init__(self):
        self.ahead = timedelta()

    def __call__(self):
        return utc_now() + self.ahead


async def test_call_under_a_certificate_that_has_expired_since_the_handshake_must_attest_again(fed):
    clock = Clock()
    async with edge_at(fed, clock) as (stub, result):
        await stub.Greet(pb.Greeting(), timeout=10)
        clock.ahead = timedelta(seconds=result.exp - result.iat)
        error = await refusal(stub.Greet(pb.Greeting(), timeout=10))
    assert (error.code, error.retryable) == ("attestation.reattest", True)


async def test_open_stream_ends_when_its_certificate_has_expired(fed):
    clock = Clock()
    async with edge_at(fed, clock) as (stub, result):
        stream = stub.Join(pb.JoinRequest(), timeout=10)
        await stream.read()
        clock.ahead = timedelta(seconds=result.exp - result.iat)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await exhausted(stream)
    assert error_of(caught.value, what="the server").code == "attestation.reattest"


# --- messages --------------------------------------------------------------------------------------------------------


async def attest_bytes(fed, change):
    """Send an attestation that was changed on its way."""
    identity = await fed.lab.enrolment("hospital-a").attest("issue")
    async with fed.lab.enrol_stub() as stub:
        challenge = await stub.GetChallenge(
            attestation_pb.ChallengeRequest(
                protocol=PROTOCOL, trust_domain=TRUST_DOMAIN, node="hospital-a", role="site", client_random=bytes(32)
            )
        )
        request = attestation_pb.AttestRequest(
            challenge_id=challenge.challenge_id, attestation=change(identity.attestation)
        )
        return await refusal(stub.Attest(request, timeout=10))


def field_99(value):
    return b"\x9a\x06" + bytes([len(value)]) + value  # tag of field 99, length-delimited: 99 << 3 | 2 as a varint


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw + field_99(b"x"),
        lambda raw: field_99(b"x") + raw,
        lambda raw: raw[:-1],
        lambda raw: raw + b"\x00",
        lambda raw: b"",
    ],
    ids=["unknown field behind", "unknown field before", "truncated", "extended", "empty"],
)
async def test_attestation_that_is_not_exactly_a_message_of_the_format_is_refused(fed, change):
    error = await attest_bytes(fed, change)
    assert (type(error), error.code) == (RemoteError, "attestation.malformed")


async def test_attestation_above_four_mebibytes_is_refused_before_it_is_parsed(fed):
    error = await attest_bytes(fed, lambda raw: raw + bytes(4 << 20))
    assert error.code == "attestation.malformed"
    assert "4194304" in error.message or "4 MiB" in error.message


async def test_message_above_the_limit_of_the_channel_is_refused(fed):
    channel = grpc.aio.secure_channel(
        fed.laboratory.layout.addresses.enrol,
        grpc.ssl_channel_credentials(pem(fed.lab.documents("server").trust.root.service.ca_certificate)),
        options=[("grpc.ssl_target_name_override", f"attestation.{TRUST_DOMAIN}")],
    )
    async with channel:
        request = attestation_pb.AttestRequest(attestation=bytes(MAX_MESSAGE_BYTES + 1))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await attestation_rpc.EnrolStub(channel).Attest(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
