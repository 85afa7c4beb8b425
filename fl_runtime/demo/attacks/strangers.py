"""Two attackers without a machine: one replays evidence that was genuine once, one has certificates that nobody attested for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
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
from attestation.issue import CertificateAuthority
from attestation.service import attestation_pb2 as pb
from attestation.service import attestation_pb2_grpc as rpc
from fl_runtime.demo.attacks.outcome import attempt, together
from fl_runtime.demo.ground import AttackOutcome, DemoGround
from fl_runtime.jobs.credentials import AdministratorSettings, Credentials, load_credentials
from fl_runtime.transport import federation_pb2 as federation_pb
from fl_runtime.transport import federation_pb2_grpc as federation_rpc
from policies.encoding import PROTOCOL
from policies.roster import Role
from policies.settings import load_settings
from provisioning.layout import ADMINISTRATOR, SERVER, SERVICE_LOG

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
            return await rpc.BrokerStub(channel).GetAttestation(request, timeout=CALL_SECONDS)


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
    """Call as a node, at the server and at the attestation service, with two certificates that no evidence stands behind.

    One is an administrator's, valid and of the project's own authority. The other was issued by the attacker, whose authority
    bears the name of the service's; it even carries the genuine Attestation Result of `victim`.
    """
    name = "certificate without attestation"
    insider = Insider.of(ground)
    forged = _forged(insider, victim, (await insider.archived(victim)).result)
    calls: tuple[Callable[[Insider, TlsIdentity], Awaitable[None]], ...] = (_greet_server, _watch_service)
    attempts = [
        *(
            attempt(
                name,
                call(insider, insider.credentials.tls),
                code="attestation.unattested_peer",
                says="is an administrator, this call is for attested nodes",
                seconds=ground.timeout_seconds,
            )
            for call in calls[:1]
        )
    ]
    return together(name, await asyncio.gather(*attempts))
