"""Two attackers without a machine: one replays evidence that was genuine once, one has certificates that nobody attested for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import grpc
from cryptography import x509
from cryptography.x509.oid import NameOID

from attestation.channel.credentials import (
    TlsIdentity,
    key_pem,
    new_tls_key,
    open_channel,
    pem,
    server_dns_name,
    service_dns_name,
)
from attestation.channel.interceptor import utc_now
from attestation.channel.status import error_of
from attestation.core import Core
from attestation.issue import CertificateAuthority, spiffe_id
from attestation.service import attestation_pb2 as pb
from attestation.service import attestation_pb2_grpc as rpc
from fl_runtime.demo.attacks.outcome import attempt, together
from fl_runtime.demo.ground import AttackOutcome, DemoGround
from fl_runtime.jobs.credentials import AdministratorSettings, Credentials, load_credentials
from fl_runtime.transport import federation_pb2 as federation_pb
from fl_runtime.transport import federation_pb2_grpc as federation_rpc
from policies.attestation_result import verify_result
from policies.encoding import PROTOCOL
from policies.roster import Role
from policies.settings import load_settings
from provisioning.layout import ADMINISTRATOR, SERVER

CALL_SECONDS = 10.0
NONCE = bytes(range(32))
LIFETIME = timedelta(days=1)  # of a forged certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Insider:
    """Somebody with an administrator's kit: may read every archived attestation, and reach every port."""

    ground: DemoGround
    credentials: Credentials

    @classmethod
    def of(cls, ground: DemoGround) -> Self:
        """Take the administrator's kit of the laboratory."""
        settings = load_settings(ground.laboratory.kit(ADMINISTRATOR) / "admin.toml", AdministratorSettings)
        return cls(ground=ground, credentials=load_credentials(settings, now=utc_now()))

    @property
    def trust_domain(self) -> str:
        """The federation's."""
        return self.credentials.trust.root.trust_domain

    @asynccontextmanager
    async def channel(
        self, address: str, name: str, identity: TlsIdentity | None = None
    ) -> AsyncIterator[grpc.aio.Channel]:
        """Open a channel; gRPC errors come out typed."""
        trusted = pem(self.credentials.trust.root.service.ca_certificate)
        async with open_channel(address, trusted_pem=trusted, name=name, identity=identity) as channel:
            try:
                yield channel
            except grpc.aio.AioRpcError as error:
                raise error_of(error, what=f"the port {address}") from error

    async def archived(self, node: str) -> pb.ArchivedAttestation:
        """Read the newest attestation of `node`, as any administrator may."""
        addresses = self.ground.laboratory.layout.addresses
        async with self.channel(
            addresses.attested, service_dns_name(self.trust_domain), self.credentials.tls
        ) as channel:
            request = pb.GetAttestationRequest(node=node)
            reply: pb.ArchivedAttestation = await rpc.BrokerStub(channel).GetAttestation(request, timeout=CALL_SECONDS)
        return reply


# --- evidence that was genuine once ----------------------------------------------------------------------------------


async def replay(ground: DemoGround, *, victim: str) -> AttackOutcome:
    """Send the very bytes with which `victim` proved itself: against a fresh challenge, and altered against their own."""
    name = "replayed evidence"
    insider = Insider.of(ground)
    member = ground.laboratory.member(victim)
    fresh = attempt(
        name,
        _against_fresh_challenge(insider, victim, member.role),
        code="attestation.binding",
        says="challenge id of the core",
        seconds=ground.timeout_seconds,
    )
    altered = attempt(
        name,
        _altered(insider, victim),
        code="attestation.replay",
        says="was used before",
        seconds=ground.timeout_seconds,
    )
    return together(name, await asyncio.gather(fresh, altered))


async def _against_fresh_challenge(insider: Insider, victim: str, role: Role) -> None:
    genuine = await insider.archived(victim)
    async with _enrol_port(insider) as stub:
        challenge = await stub.GetChallenge(
            pb.ChallengeRequest(
                protocol=PROTOCOL, trust_domain=insider.trust_domain, node=victim, role=role, client_random=NONCE
            ),
            timeout=CALL_SECONDS,
        )
        request = pb.AttestRequest(challenge_id=challenge.challenge_id, attestation=genuine.attestation)
        await stub.Attest(request, timeout=CALL_SECONDS)


async def _altered(insider: Insider, victim: str) -> None:
    genuine = (await insider.archived(victim)).attestation
    challenge_id = Core.parse(pb.Attestation.FromString(genuine).core).cid
    altered = genuine[:-1] + bytes([genuine[-1] ^ 1])  # the last byte is of the certificate request
    async with _enrol_port(insider) as stub:
        await stub.Attest(pb.AttestRequest(challenge_id=challenge_id, attestation=altered), timeout=CALL_SECONDS)


@asynccontextmanager
async def _enrol_port(insider: Insider) -> AsyncIterator[rpc.EnrolStub]:
    address = insider.ground.laboratory.layout.addresses.enrol
    async with insider.channel(address, service_dns_name(insider.trust_domain)) as channel:
        yield rpc.EnrolStub(channel)


# --- certificates without attestation --------------------------------------------------------------------------------


async def unattested(ground: DemoGround, *, victim: str) -> AttackOutcome:
    """Call as a node, at server and attestation service, with two certificates that no evidence stands behind.

    One is an administrator's: valid, of the project's own authority. The other was issued by the attacker, whose authority
    bears the name of the service's; it carries the genuine Attestation Result of `victim`.
    """
    name, seconds = "certificate without attestation", ground.timeout_seconds
    insider = Insider.of(ground)
    ports = (_greet_server, _watch_service)
    administrator = insider.credentials.tls
    forged = _forged(insider, victim, (await insider.archived(victim)).result)
    as_administrator = [
        attempt(
            name,
            call(insider, administrator),
            code="attestation.unattested_peer",
            says="is an administrator, this call is for attested nodes",
            seconds=seconds,
        )
        for call in ports
    ]
    # Refused in the handshake: no more is said than that. The administrator's calls show that these very ports answer.
    as_stranger = [
        attempt(
            name,
            call(insider, forged),
            code="channel.unreachable",
            says="cannot be reached",
            seconds=seconds,
            told="a certificate by another authority, with a genuine result in it, ends in the TLS handshake",
        )
        for call in ports
    ]
    outcomes = await asyncio.gather(*as_administrator, *as_stranger)
    return together(name, outcomes)


async def _greet_server(insider: Insider, identity: TlsIdentity) -> None:
    """Ask the server for its evidence, as a site does before it joins."""
    address = insider.ground.laboratory.layout.addresses.server
    async with insider.channel(address, server_dns_name(SERVER, insider.trust_domain), identity) as channel:
        stub = federation_rpc.FederationStub(channel)
        await stub.Greet(federation_pb.Greeting(nonce=NONCE), timeout=CALL_SECONDS)


async def _watch_service(insider: Insider, identity: TlsIdentity) -> None:
    """Watch the service's log, as a site does."""
    address = insider.ground.laboratory.layout.addresses.attested
    async with insider.channel(address, service_dns_name(insider.trust_domain), identity) as channel:
        async for _ in rpc.BrokerStub(channel).WatchLog(pb.WatchLogRequest(old_size=0), timeout=CALL_SECONDS):
            return


def _forged(insider: Insider, victim: str, result: bytes) -> TlsIdentity:
    """A certificate that says everything the victim's own says, by an authority of the same name, for another key."""
    now, key = utc_now(), new_tls_key()
    genuine = x509.load_der_x509_certificate(insider.credentials.trust.root.service.ca_certificate)
    common_name = genuine.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    authority = CertificateAuthority.create(str(common_name), now=now, lifetime=LIFETIME)
    attested = verify_result(result, insider.credentials.trust.root.service.result_key)
    spiffe = spiffe_id(insider.trust_domain, victim, attested.role, attested.boot)
    certificate = authority.issue(
        key.public_key(),
        names=[x509.UniformResourceIdentifier(spiffe)],
        not_before=now,
        not_after=now + LIFETIME,
        result=result,
        server=False,
    )
    return TlsIdentity(key_pem(key), certificate)
