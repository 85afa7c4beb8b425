"""The gRPC edge of the attestation service: messages in and out, blocking work in threads, nothing decided here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from attestation.channel.interceptor import administrator, attested_caller
from attestation.service import attestation_pb2 as pb
from attestation.service import attestation_pb2_grpc as rpc
from attestation.service.broker import Broker, WantedKey
from attestation.service.desk import Desk
from attestation.service.genesis import Genesis
from attestation.service.limits import RateLimit, TooManyRequestsError
from attestation.wire import encode_cpu
from attestation.witnessing import Watched, witness_name
from policies.errors import StateError

T = TypeVar("T")


class EnrolEdge(rpc.EnrolServicer):
    """The port that anybody may call."""

    def __init__(self, genesis: Genesis, *, challenge_limit: RateLimit, verify_queue: int) -> None:
        """Serve genesis at once, and challenges and attestations once `open` has been called."""
        self._genesis = genesis
        self._limit = challenge_limit
        self._free = verify_queue
        self._desk: Desk | None = None
        self._is_open = asyncio.Event()

    def open(self, desk: Desk) -> None:
        """Begin to take attestations."""
        self._desk = desk
        self._is_open.set()

    async def GetServiceEvidence(self, request: pb.ServiceEvidenceRequest, context: Any) -> pb.ServiceEvidence:  # noqa: ANN401, N802, ARG002
        """Prove what this service is."""
        evidence = await asyncio.to_thread(self._genesis.evidence, request.client_nonce)
        return pb.ServiceEvidence(
            core=evidence.core,
            cpu=encode_cpu(evidence.cpu),
            init_data=evidence.init_data,
            tls_certificate=evidence.tls_certificate,
            ca_certificate=evidence.ca_certificate,
        )

    async def InstallRoot(self, request: pb.InstallRootRequest, context: Any) -> pb.InstallRootReply:  # noqa: ANN401, N802, ARG002
        """Take the first root; answers once attestations are taken, so that its caller may begin at once."""
        digest = await asyncio.to_thread(
            self._genesis.install, root=request.root, roster=request.roster, reference_values=request.reference_values
        )
        await self._is_open.wait()
        return pb.InstallRootReply(root_sha256=digest)

    async def GetChallenge(self, request: pb.ChallengeRequest, context: Any) -> pb.Challenge:  # noqa: ANN401, N802
        """Give out a nonce."""
        desk = self._opened()
        self._limit.take((_host(context.peer()), request.node))
        challenge = await asyncio.to_thread(
            desk.challenge,
            protocol=request.protocol,
            trust_domain=request.trust_domain,
            node=request.node,
            role=request.role,
            client_random=request.client_random,
        )
        return pb.Challenge(
            challenge_id=challenge.challenge_id,
            nonce=challenge.nonce,
            ttl_seconds=int(desk.challenge_lifetime.total_seconds()),
            service_key_id=desk.keyring_id,
            revocation_epoch=desk.revocation_epoch,
            time=int(desk.clock().timestamp()),
        )

    async def Attest(self, request: pb.AttestRequest, context: Any) -> pb.AttestReply:  # noqa: ANN401, N802
        """Take evidence, give an identity."""
        desk = self._opened()
        self._limit.take((_host(context.peer()), "attest"))  # each refusal is recorded: nobody may fill the record
        async with self._place():
            archived = await asyncio.to_thread(desk.attest, request.challenge_id, request.attestation)
        return pb.AttestReply(
            result=archived.result, certificate=archived.certificate, ca_certificate=desk.keyring.authority.der
        )

    def _opened(self) -> Desk:
        if self._desk is None:
            raise StateError(
                "this service has no root yet: it proves itself and waits",
                hint="verify its evidence and sign the first root: `cloister provision genesis`",
            )
        return self._desk

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._free == 0:
            raise TooManyRequestsError("the queue of attestations is full", hint="try again in a second")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class BrokerEdge(rpc.BrokerServicer):
    """The port for attested nodes and administrators."""

    def __init__(self, desk: Desk, broker: Broker, watched: Watched, *, release_limit: RateLimit) -> None:
        """Serve what these hold."""
        self._desk = desk
        self._broker = broker
        self._watched = watched
        self._limit = release_limit

    async def GetAttestation(self, request: pb.GetAttestationRequest, context: Any) -> pb.ArchivedAttestation:  # noqa: ANN401, N802, ARG002
        """Show another node's attestation to an attested node, or to an administrator."""
        register = self._desk.register
        find: Callable[[], Any] = (
            (lambda: register.by_jti(request.jti)) if request.jti else (lambda: register.latest_of(request.node))
        )
        archived = await asyncio.to_thread(find)
        return pb.ArchivedAttestation(
            attestation=archived.attestation, result=archived.result, certificate=archived.certificate
        )

    async def ReleaseKey(self, request: pb.ReleaseKeyRequest, context: Any) -> pb.ReleaseKeyReply:  # noqa: ANN401, N802, ARG002
        """Release a key to the attested caller."""
        caller = attested_caller()
        self._limit.take(caller.name)
        wanted = WantedKey(
            release_id=request.release_id,
            attest_jti=request.attest_jti,
            key_id=request.key_id,
            job=request.job,
            approvals=tuple(request.approvals),
            purpose=request.purpose,
        )
        released = await asyncio.to_thread(self._broker.release, caller, wanted)
        return pb.ReleaseKeyReply(
            sealed_key=released.sealed, version=released.version, policy_sha256=released.policy_sha256
        )

    async def DepositKey(self, request: pb.DepositKeyRequest, context: Any) -> pb.DepositKeyReply:  # noqa: ANN401, N802, ARG002
        """Take a key from an administrator."""
        version = await asyncio.to_thread(
            self._broker.deposit,
            administrator(),
            key_id=request.key_id,
            sealed=request.sealed_key,
            policy=request.policy,
            job=request.job,
        )
        return pb.DepositKeyReply(version=version)

    async def WatchLog(self, request: pb.WatchLogRequest, context: Any) -> AsyncIterator[pb.LogHead]:  # noqa: ANN401, N802, ARG002
        """Show every head of the log to a witness."""
        attested_caller(role="site")
        async for head in self._watched.heads(request.old_size):
            yield pb.LogHead(checkpoint=head.checkpoint, consistency=list(head.consistency))

    async def Cosign(self, request: pb.CosignRequest, context: Any) -> pb.CosignReply:  # noqa: ANN401, N802, ARG002
        """Take a witness's cosignature; only a site's, and only its own."""
        caller = attested_caller(role="site")
        keys = [caller.result.cnf.sign_pk]
        await self._watched.take(
            witness_name(caller.result.trust_domain, caller.name), request.cosignature, size=request.size, keys=keys
        )
        return pb.CosignReply()


def _host(peer: str) -> str:
    """The address without its port: `ipv4:127.0.0.1:53412` -> `ipv4:127.0.0.1`."""
    return peer.rpartition(":")[0]
