"""A node's side of attestation: verify the service, prove itself, and hold the identity that comes of it.

Order matters: the service is verified before anything is sent to it, and every later channel to it believes only the
certificate whose key was in its evidence.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import grpc
from cryptography import x509

from attestation.admission import ShownIdentity
from attestation.attester import Attester
from attestation.binding import core_hash, device_nonce, peer_nonces_digest, report_data
from attestation.channel.credentials import TlsIdentity, open_channel, pem, service_dns_name
from attestation.channel.status import error_of
from attestation.core import HPKE_SUITE, Core, Purpose
from attestation.errors import BindingMismatchError, SignatureError
from attestation.evidence import Evidence
from attestation.issue import issued_by, result_in
from attestation.keys import BootKeys, spki_sha256
from attestation.release_context import release_info
from attestation.service import attestation_pb2 as pb
from attestation.service import attestation_pb2_grpc as rpc
from attestation.service_claims import ServiceClaims, appraise_pinned, verify_service
from attestation.snp.report import SnpReport
from attestation.trust import TrustContext, anchors_of
from attestation.trust_anchors import TrustAnchors
from attestation.wire import decode_cpu, encode_attestation
from policies.attestation_result import AttestationResult, verify_result
from policies.documents import Envelope
from policies.encoding import PROTOCOL
from policies.init_data import parse_init_data
from policies.job_manifest import job_digest

CALL_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAddress:
    """Where the attestation service listens."""

    enrol: str  # host:port
    attested: str  # host:port


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDocuments:
    """What a node holds of itself, as the bytes that travel."""

    trust: TrustContext
    init_data: bytes
    grant: bytes  # envelope
    site_policy: bytes | None  # envelope; None for a node that is no site


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An accepted attestation: the result, and the certificate that carries it."""

    result: AttestationResult
    token: bytes  # the result as it travels
    certificate_pem: bytes
    attestation: bytes  # as it travelled: peers verify it for themselves
    tls: TlsIdentity


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The size and root of this node's own log, bound into its evidence."""

    size: int
    root: bytes  # 32 bytes; zero for an empty log


async def fetch_service_evidence(
    address: str, *, trusted_pem: bytes, trust_domain: str, anchors: TrustAnchors, now: datetime
) -> ServiceClaims:
    """Ask the service to prove itself over a fresh nonce, and verify what it says.

    Args:
        address: Its enrol port.
        trusted_pem: What the channel believes while it asks; the evidence decides whether anything else is believed.
        trust_domain: Of this federation.
        anchors: The pinned vendor roots.
        now: The time to verify at.

    Raises:
        AttestationError: It did not prove what it is.
        UnreachableError: It cannot be reached.
    """
    nonce = secrets.token_bytes(32)
    async with open_channel(address, trusted_pem=trusted_pem, name=service_dns_name(trust_domain)) as channel:
        try:
            reply = await rpc.EnrolStub(channel).GetServiceEvidence(
                pb.ServiceEvidenceRequest(client_nonce=nonce), timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise error_of(error, what=f"the attestation service at {address}") from error
    return verify_service(
        core=reply.core,
        cpu=decode_cpu(reply.cpu),
        init_data=reply.init_data,
        tls_certificate=reply.tls_certificate,
        ca_certificate=reply.ca_certificate,
        nonce=nonce,
        anchors=anchors,
        now=now,
    )


class Enrolment:
    """One node, one boot: attests as often as it must, always with the same keys."""

    def __init__(
        self,
        documents: NodeDocuments,
        *,
        attester: Attester,
        service: ServiceAddress,
        keys: BootKeys,
        clock: Callable[[], datetime],
        audit_head: Callable[[], AuditHead],
    ) -> None:
        """Prepare; nothing is sent yet."""
        self._documents = documents
        self._attester = attester
        self._address = service
        self._clock = clock
        self._audit_head = audit_head
        self._service: ServiceClaims | None = None
        self._chain: str | None = None  # jti of the last result
        self._turn = asyncio.Lock()  # one attestation at a time: each names the one before
        self.keys = keys
        launched = parse_init_data(documents.init_data)
        self.node, self.role = launched.node, launched.role

    @property
    def trust(self) -> TrustContext:
        """What this node verifies others against."""
        return self._documents.trust

    async def attest(self, purpose: Purpose, *, peer_nonces: Sequence[bytes] = ()) -> Identity:
        """Prove what this node is, and return the identity that the service issues for it.

        Args:
            purpose: `issue` for an identity, `release` to be given keys with it.
            peer_nonces: Nonces (32 bytes each) that sites gave this node to see that its evidence is fresh.

        Raises:
            AttestationError: The service did not prove itself, the evidence could not be collected, or was refused.
            UnreachableError: The service cannot be reached; a retry may help.
        """
        async with self._turn:
            service = await self._verified_service()
            async with self._enrol_channel(service) as stub:
                identity = await self._attest(stub, service, purpose, peer_nonces)
            self._chain = identity.result.jti
            return identity

    @asynccontextmanager
    async def broker(self, identity: Identity) -> AsyncIterator[rpc.BrokerStub]:
        """Open a channel to the service's attested port; errors come out typed."""
        service = await self._verified_service()
        channel = open_channel(
            self._address.attested,
            trusted_pem=service.tls_certificate,
            name=service_dns_name(self.trust.root.trust_domain),
            identity=identity.tls,
        )
        async with channel:
            try:
                yield rpc.BrokerStub(channel)
            except grpc.aio.AioRpcError as error:
                self._service = None  # it may have been restarted with another key: verify it again next time
                raise error_of(error, what=f"the attestation service at {self._address.attested}") from error

    async def fetch_key(
        self, identity: Identity, *, key_id: str, job: Envelope, approvals: Sequence[bytes], purpose: str
    ) -> bytes:
        """Ask the broker for the key of a job, and open what it seals to this boot; 32 bytes.

        Args:
            identity: Of an attestation for release, at most two minutes old.
            key_id: The key's name.
            job: The job's manifest.
            approvals: Envelopes of the sites' approvals.
            purpose: "train" or "aggregate"; for the record.

        Raises:
            RemoteError: The broker refused; its reasons are in the message.
            SignatureError: What came was not sealed to this boot for this job.
        """
        release_id = secrets.token_bytes(16)
        async with self.broker(identity) as broker:
            reply = await broker.ReleaseKey(
                pb.ReleaseKeyRequest(
                    release_id=release_id,
                    attest_jti=identity.result.jti,
                    key_id=key_id,
                    job=job.encode(),
                    approvals=list(approvals),
                    purpose=purpose,
                ),
                timeout=CALL_SECONDS,
            )
        info = release_info(
            identity.result,
            key_id=key_id,
            version=reply.version,
            job_sha256=job_digest(job.payload),
            policy_sha256=reply.policy_sha256,
            release_id=release_id,
        )
        return self.keys.sealing.open(reply.sealed_key, info=info)

    async def fetch_attestation(self, identity: Identity, *, node: str, jti: str = "") -> ShownIdentity:
        """Fetch what the service has archived of another node: its newest attestation, or the one behind `jti`."""
        async with self.broker(identity) as broker:
            reply = await broker.GetAttestation(pb.GetAttestationRequest(node=node, jti=jti), timeout=CALL_SECONDS)
        return ShownIdentity(attestation=reply.attestation, result=reply.result, certificate=reply.certificate)

    # --- the service ---

    async def _verified_service(self) -> ServiceClaims:
        if self._service is None:
            root = self.trust.root
            claims = await fetch_service_evidence(
                self._address.enrol,
                trusted_pem=pem(root.service.ca_certificate),
                trust_domain=root.trust_domain,
                anchors=anchors_of(root),
                now=self._clock(),
            )
            appraise_pinned(claims, root)
            self._service = claims
        return self._service

    @asynccontextmanager
    async def _enrol_channel(self, service: ServiceClaims) -> AsyncIterator[rpc.EnrolStub]:
        channel = open_channel(
            self._address.enrol,
            trusted_pem=service.tls_certificate,
            name=service_dns_name(self.trust.root.trust_domain),
        )
        async with channel:
            try:
                yield rpc.EnrolStub(channel)
            except grpc.aio.AioRpcError as error:
                self._service = None  # it may have been restarted with another key: verify it again next time
                raise error_of(error, what=f"the attestation service at {self._address.enrol}") from error

    # --- one attestation ---

    async def _attest(
        self, stub: rpc.EnrolStub, service: ServiceClaims, purpose: Purpose, peer_nonces: Sequence[bytes]
    ) -> Identity:
        client_random = secrets.token_bytes(32)
        challenge = await stub.GetChallenge(
            pb.ChallengeRequest(
                protocol=PROTOCOL,
                trust_domain=self.trust.root.trust_domain,
                node=self.node,
                role=self.role,
                client_random=client_random,
            ),
            timeout=CALL_SECONDS,
        )
        csr = self.keys.csr()
        raw = await asyncio.to_thread(self._collect, challenge, client_random, csr, service, purpose, peer_nonces)
        reply = await stub.Attest(
            pb.AttestRequest(challenge_id=challenge.challenge_id, attestation=raw), timeout=CALL_SECONDS
        )
        return self._accept(reply, challenge, raw)

    def _collect(
        self,
        challenge: pb.Challenge,
        client_random: bytes,
        csr: bytes,
        service: ServiceClaims,
        purpose: Purpose,
        peer_nonces: Sequence[bytes],
    ) -> bytes:
        description = self._attester.describe()
        head = self._audit_head()
        documents = self._documents
        # The measurement of this machine is whatever its hardware says: ask for a report once to learn it.
        image = SnpReport.parse(self._attester.collect_cpu(bytes(64)).report).measurement
        core = Core(
            v=1,
            td=self.trust.root.trust_domain,
            node=self.node,
            role=self.role,
            tee=description.kind,
            boot=self.keys.boot,
            cid=challenge.challenge_id,
            nonce=challenge.nonce,
            crand=client_random,
            service_ca=service.core.ca_spki,
            tls_spki=self.keys.tls_spki,
            csr_sha256=hashlib.sha256(csr).digest(),
            hpke_suite=HPKE_SUITE,
            hpke_pk=self.keys.sealing.public,
            sign_pk=self.keys.sign_pk,
            image=image,
            root=self.trust.root_sha256,
            roster=self.trust.roster_sha256,
            site_policy=Envelope.parse(documents.site_policy).digest if documents.site_policy else None,
            grant=Envelope.parse(documents.grant).digest,
            purpose=purpose,
            prev_jti=self._chain,
            n_devices=len(description.devices),
            peer_nonces=peer_nonces_digest(peer_nonces),
            audit_size=head.size,
            audit_root=head.root,
        ).encode()
        digest, count = core_hash(core), len(description.devices)
        devices = tuple(
            self._attester.collect_device(index, device_nonce(digest, index, count)) for index in range(count)
        )
        cpu = self._attester.collect_cpu(report_data(description.kind, core, devices))
        return encode_attestation(
            core=core,
            evidence=Evidence(cpu=cpu, devices=devices),
            init_data=documents.init_data,
            grant=documents.grant,
            csr=csr,
        )

    def _accept(self, reply: pb.AttestReply, challenge: pb.Challenge, raw: bytes) -> Identity:
        """Check what the service issued before it is used: a wrong identity is refused here, not by a peer."""
        root = self.trust.root
        result = verify_result(reply.result, root.service.result_key)
        result.require_current(self._clock())
        certificate = x509.load_pem_x509_certificate(reply.certificate)
        if not issued_by(certificate, root.service.ca_certificate):
            raise SignatureError("the certificate was not issued by the authority that the root pins")
        if result_in(certificate, root.service.result_key) != result:
            raise BindingMismatchError("the certificate carries another result than the reply")
        confirmed = (result.cnf.tls_spki, result.cnf.sign_pk, result.cnf.hpke_pk, result.eat_nonce, result.node)
        expected = (
            spki_sha256(self.keys.tls.public_key()),
            self.keys.sign_pk,
            self.keys.sealing.public,
            challenge.nonce,
            self.node,
        )
        if confirmed != expected:
            raise BindingMismatchError("the result confirms other keys, another nonce or another node than this one")
        return Identity(
            result=result,
            token=reply.result,
            certificate_pem=reply.certificate,
            attestation=raw,
            tls=TlsIdentity(self.keys.tls_key_pem(), reply.certificate),
        )
