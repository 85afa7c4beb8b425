"""An administrator's session: verify the service, verify the server, and only then say anything to either.

 1. the attestation service proves itself over a fresh nonce, and is the one that the root pins
 2. it shows the server's archived attestation, which is verified and appraised here
 3. the channel to the server believes only the certificate of that attestation
A server's certificate lives for minutes: when it rotates, or the server restarts, steps 2 and 3 are taken again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Self

import grpc

from attestation.admission import AdmittedNode, ShownIdentity, admit
from attestation.channel.credentials import open_channel, pem, server_dns_name, service_dns_name
from attestation.channel.interceptor import utc_now
from attestation.channel.status import UnreachableError, error_of
from attestation.enrolment import fetch_service_evidence
from attestation.release_context import deposit_info
from attestation.sealing import seal_to
from attestation.service import attestation_pb2 as pb
from attestation.service import attestation_pb2_grpc as rpc
from attestation.service_claims import ServiceClaims, appraise_pinned
from fl_runtime.jobs.client import CALL_SECONDS, JobsClient
from fl_runtime.jobs.compose import ComposedJob, compose
from fl_runtime.jobs.credentials import AdministratorSettings, Credentials, load_credentials
from fl_runtime.jobs.job_file import JobPackage
from fl_runtime.jobs.keystore import KEY_BYTES
from fl_runtime.jobs.narrate import has_ended
from fl_runtime.transport.federation_pb2 import JobEvent, JobSummary
from policies.errors import CloisterError, UsageError
from policies.files import write_atomically

__all__ = ["AdministratorSettings", "Session"]

Say = Callable[[str], None]
PATIENCE_SECONDS = 120.0  # how long a watcher looks for a server that has gone, since it last heard of it
PAUSE_SECONDS = 2.0
CONNECT_TIMES = 5  # a server that attests again answers with a newer certificate than the one that was verified
CONNECT_PAUSE_SECONDS = 0.3
CONNECT_SECONDS = 10.0


class Session:
    """What an administrator can do with a federation. Made by `Session.open`; nobody is called before they are verified."""

    def __init__(self, credentials: Credentials, *, clock: Callable[[], datetime], say: Say) -> None:
        """Prepare; nothing is sent yet."""
        self._credentials = credentials
        self._clock = clock
        self._say = say
        self._service: ServiceClaims | None = None
        self._described: set[str] = set()  # what was verified and told already

    @classmethod
    async def open(cls, settings: AdministratorSettings, *, say: Say, clock: Callable[[], datetime] = utc_now) -> Self:
        """Read the kit and verify the attestation service.

        Args:
            settings: From `admin.toml`.
            say: Tells the person at the terminal what was verified.
            clock: The time.

        Raises:
            UsageError: A part of the kit is missing or unusable.
            PolicyError: Its documents do not verify.
            AttestationError: The attestation service is not what the root says.
            UnreachableError: It cannot be reached.
        """
        session = cls(load_credentials(settings, now=clock()), clock=clock, say=say)
        await session._verified_service()
        return session

    # --- jobs ---

    async def submit(self, package: JobPackage) -> ComposedJob:
        """Sign a job, hand its key to the service, and send it to the server; returns what was sent.

        Its key and manifest are kept here first: whatever fails later, nothing is sealed under a key that nobody has.

        Raises:
            JobError: No site could accept the job as it is written.
            CloisterError: Service or server did not prove themselves, refuse the job, or cannot be reached.
        """
        settings, credentials = self._credentials.settings, self._credentials
        job = await asyncio.to_thread(
            compose,
            package,
            trust=credentials.trust,
            server_node=settings.server_node,
            submitter=credentials.submitter,
            key=secrets.token_bytes(KEY_BYTES),
            now=self._clock(),
        )
        async with self._server() as server:
            credentials.keystore.keep(job.job_id, key=job.key.secret, manifest=job.envelope)
            await self._deposit(job)
            await server.submit(job)
        self._say(f"job {job.job_id} submitted to {len(job.manifest.sites)} sites")
        return job

    async def watch(self, job_id: str) -> AsyncGenerator[JobEvent, None]:
        """Yield what happens with a job from its beginning until it has ended, across restarts of the server.

        Raises:
            CloisterError: There is no such job, or the server was away for more than two minutes.
        """
        loop = asyncio.get_running_loop()
        expected, lost = 0, None
        while True:
            try:
                async with self._server() as server:
                    async for event in server.watch(job_id):
                        lost = None
                        # Those before the expected one were told before the server was lost. A server that was restarted
                        # tells the end alone, as its first event.
                        if event.number == expected or has_ended(event):
                            expected += 1
                            yield event
            except CloisterError as error:
                lost = lost or loop.time()
                if not error.retryable or loop.time() - lost > PATIENCE_SECONDS:
                    raise
                self._say(f"lost the server, looking for it again: {error.message}")
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return

    async def abort(self, job_id: str) -> None:
        """End a job."""
        async with self._server() as server:
            await server.abort(job_id)

    async def list_jobs(self) -> tuple[JobSummary, ...]:
        """Return all jobs that the server knows."""
        async with self._server() as server:
            return await server.list_jobs()

    async def fetch_model(self, job_id: str, path: Path) -> int:
        """Write the final model of a job, submitted from here, to a safetensors file; returns its bytes.

        Raises:
            UsageError: The key of the job is not here, or the file cannot be written.
            CloisterError: There is no final model, it is not this job's, or the server cannot be reached.
        """
        keystore = self._credentials.keystore
        key, manifest = keystore.key(job_id), keystore.manifest(job_id)
        async with self._server() as server:
            model = await server.fetch_model(manifest, key)
        try:
            await asyncio.to_thread(write_atomically, path, model)
        except OSError as error:
            raise UsageError(f"the model cannot be written to {path}: {error.strerror}") from error
        return len(model)

    def sites_of(self, job_id: str) -> int | None:
        """How many sites a job has, where it was submitted from here."""
        keystore = self._credentials.keystore
        return len(keystore.manifest(job_id).sites) if keystore.knows(job_id) else None

    # --- who is at the other end ---

    @asynccontextmanager
    async def _server(self) -> AsyncIterator[JobsClient]:
        """Verify the server as it is now and open a channel to it alone."""
        address = self._credentials.settings.server
        async with await self._connected() as channel:
            yield JobsClient(channel, what=f"the server at {address}")

    async def _connected(self) -> grpc.aio.Channel:
        settings, trust = self._credentials.settings, self._credentials.trust
        for attempt in range(CONNECT_TIMES):
            if attempt:
                await asyncio.sleep(CONNECT_PAUSE_SECONDS)
            admitted = await self._admitted_server()
            self._tell(describe(admitted))
            channel = open_channel(
                settings.server,
                trusted_pem=admitted.certificate_pem,
                name=server_dns_name(settings.server_node, trust.root.trust_domain),
                identity=self._credentials.tls,
            )
            if await _is_ready(channel):
                return channel
            await channel.close()
        raise UnreachableError(
            f"the server at {settings.server} cannot be reached, or does not hold the key that it attested",
            hint="is it running, and is the address right?",
        )

    async def _admitted_server(self) -> AdmittedNode:
        node, trust = self._credentials.settings.server_node, self._credentials.trust
        async with self._broker() as broker:
            archived = await broker.GetAttestation(pb.GetAttestationRequest(node=node), timeout=CALL_SECONDS)
        shown = ShownIdentity(
            attestation=archived.attestation, result=archived.result, certificate=archived.certificate
        )
        return await asyncio.to_thread(
            admit, shown, node=node, role="server", trust=trust, accept_mock=trust.root.mock, now=self._clock()
        )

    async def _deposit(self, job: ComposedJob) -> None:
        service = await self._verified_service()
        info = deposit_info(job.manifest.trust_domain, job.key.id, job.digest)
        async with self._broker() as broker:
            await broker.DepositKey(
                pb.DepositKeyRequest(
                    key_id=job.key.id,
                    sealed_key=seal_to(service.core.hpke_pk, job.key.secret, info=info),
                    policy=job.release_policy,
                    job=job.envelope,
                ),
                timeout=CALL_SECONDS,
            )

    @asynccontextmanager
    async def _broker(self) -> AsyncIterator[rpc.BrokerStub]:
        address = self._credentials.settings.service_attested
        service = await self._verified_service()
        channel = open_channel(
            address,
            trusted_pem=service.tls_certificate,
            name=service_dns_name(self._credentials.trust.root.trust_domain),
            identity=self._credentials.tls,
        )
        async with channel:
            try:
                yield rpc.BrokerStub(channel)
            except grpc.aio.AioRpcError as error:
                self._service = None  # it may have been restarted with another key: verify it again next time
                raise error_of(error, what=f"the attestation service at {address}") from error

    async def _verified_service(self) -> ServiceClaims:
        if self._service is None:
            trust = self._credentials.trust
            service = await fetch_service_evidence(
                self._credentials.settings.service_enrol,
                trusted_pem=pem(trust.root.service.ca_certificate),
                trust_domain=trust.root.trust_domain,
                anchors=trust.anchors,
                now=self._clock(),
            )
            appraise_pinned(service, trust.root)
            self._service = service
            self._tell(
                f"attestation service of {trust.root.trust_domain} verified: {service.core.tee}, "
                f"image {service.core.image.hex()[:12]}, keys as in root version {trust.root.version}"
            )
        return self._service

    def _tell(self, description: str) -> None:
        if description not in self._described:
            self._described.add(description)
            self._say(description)


def describe(server: AdmittedNode) -> str:
    """Say in one line what was verified of a server."""
    gpus = len(server.claims.devices)
    parts = (
        f"{server.claims.core.tee} chip {server.claims.cpu.chip_id.hex()[:12]}",
        f"{gpus} gpu{'' if gpus == 1 else 's'}",
        f"image {server.result.image.hex()[:12]}",
        f"reference {server.result.reference}",
        server.result.status,
    )
    mock = " (mock TEE: nothing here is attested by hardware)" if server.claims.mock else ""
    return f"server {server.result.node} of {server.organisation} verified: {', '.join(parts)}{mock}"


async def _is_ready(channel: grpc.aio.Channel) -> bool:
    """Whether the channel comes up; its first failure counts, because a certificate that is not believed never will be."""
    state = channel.get_state(try_to_connect=True)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            while state not in {grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE}:
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    except TimeoutError:
        return False
    return state is grpc.ChannelConnectivity.READY
