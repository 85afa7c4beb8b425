"""Verify before you send: a site's channel to the server, opened only to the machine it has appraised itself.

1. what the attestation service has archived of the server is verified and appraised: certificate, result, evidence, grant
2. over a channel that believes that very certificate alone, the server is given a nonce
3. the evidence that holds the nonce is verified and appraised by this site's own policy, and the decision recorded
4. the working channel believes the certificate of that evidence alone
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from attestation.admission import AdmittedNode, ShownIdentity, admit, require_own_nonce
from attestation.channel.credentials import open_channel, server_dns_name
from attestation.channel.status import error_of
from attestation.errors import AppraisalError
from attestation.findings import Finding
from attestation.node import Node
from fl_runtime.transport import federation_pb2 as pb
from fl_runtime.transport import federation_pb2_grpc as rpc
from policies.audit.record import Event, printable
from policies.errors import CloisterError
from policies.site_policy import SitePolicy

GREET_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """Which server, and where."""

    node: str  # its name in the roster
    address: str  # host:port

    def __str__(self) -> str:
        """For messages to people."""
        return f"the server {self.node} at {self.address}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLink:
    """An open channel to a server that this site has admitted."""

    server: AdmittedNode
    stub: rpc.FederationStub


class ServerGate:
    """Opens links to one server. A nonce serves one boot of this site: a broken connection greets with it again."""

    def __init__(self, node: Node, policy: SitePolicy, server: ServerAddress) -> None:
        """Admit `server` for `node` under `policy`."""
        self._node = node
        self._policy = policy
        self._server = server
        self._nonce = secrets.token_bytes(32)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ServerLink]:
        """Verify the server and open a channel to it; gRPC errors come out typed.

        Raises:
            CloisterError: The server is not what this site accepts, or cannot be reached.
        """
        archived = await self._node.enrolment.fetch_attestation(self._node.identity, node=self._server.node)
        try:
            self._admit(archived)  # 1
            async with self._channel(archived.certificate) as stub:  # 2
                reply = await stub.Greet(pb.Greeting(nonce=self._nonce), timeout=GREET_SECONDS)
            shown = ShownIdentity(attestation=reply.attestation, result=reply.result, certificate=reply.certificate)
            admitted = self._admit(shown)  # 3
            require_own_nonce(admitted, reply.nonces, own=self._nonce)
        except CloisterError as error:
            if not error.retryable:
                self._record(None, error)
            raise
        self._record(admitted, None)
        async with self._channel(admitted.certificate_pem) as stub:  # 4
            yield ServerLink(server=admitted, stub=stub)

    def _admit(self, shown: ShownIdentity) -> AdmittedNode:
        receive = self._policy.receive
        admitted = admit(
            shown,
            node=self._server.node,
            role="server",
            trust=self._node.documents.trust,
            accept_mock=receive.accept_mock,
            now=self._node.clock(),
        )
        image = admitted.claims.core.image
        if image not in receive.server_images:
            finding = Finding(
                field="receive.server_images",
                found=image.hex()[:16] + "…",
                expected=f"one of {', '.join(sorted(item.hex()[:16] for item in receive.server_images))}",
                status="contraindicated",
                repair="run the server image that this site's policy allows, or sign a policy that allows this one",
            )
            raise AppraisalError(f"{self._server} runs an image that this site does not accept", findings=(finding,))
        return admitted

    @asynccontextmanager
    async def _channel(self, certificate_pem: bytes) -> AsyncIterator[rpc.FederationStub]:
        channel = open_channel(
            self._server.address,
            trusted_pem=certificate_pem,
            name=server_dns_name(self._server.node, self._node.documents.trust.root.trust_domain),
            identity=self._node.identity.tls,
        )
        async with channel:
            try:
                yield rpc.FederationStub(channel)
            except grpc.aio.AioRpcError as error:
                raise error_of(error, what=str(self._server)) from error

    def _record(self, admitted: AdmittedNode | None, error: CloisterError | None) -> None:
        digests = {}
        if admitted is not None:
            digests = {"evidence": admitted.claims.evidence_sha256, "image": admitted.claims.core.image}
        self._node.log.append_critical(
            Event(
                action="server.appraise",
                actor=self._node.name,
                object=self._server.node,
                decision="allow" if error is None else "deny",
                reasons=() if error is None else (printable(f"{error.code}: {error.message}")[:500],),
                digests=digests,
                jti=admitted.result.jti if admitted is not None else None,
            )
        )
