"""`cloister site start`: attest, verify the server, take part in the jobs that this site's policy allows."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import grpc

from attestation.channel.interceptor import utc_now
from attestation.channel.status import UnreachableError, error_of
from attestation.node import open_site_policy, start_node
from attestation.program import keep_log, unless_stopped, until_stopped
from attestation.retry import FIRST_WAIT_SECONDS, persistently
from attestation.service import attestation_pb2 as attestation_pb
from attestation.witnessing import Witness, witness_file, witness_name
from fl_runtime.site.job import SiteJob, clear_work
from fl_runtime.site.peers import Peers
from fl_runtime.site.server_link import ServerAddress, ServerGate, ServerLink
from fl_runtime.site.session import SavedMemory, Session, Uplink
from fl_runtime.site.settings import SiteSettings
from fl_runtime.site.trainer import TrainerLauncher
from fl_runtime.transport import federation_pb2 as pb
from policies.documents import Envelope
from policies.errors import CloisterError, UsageError

logger = logging.getLogger(__name__)

SERVICE_LOG = "service"  # the name of the attestation service's log


async def serve(settings: SiteSettings, *, say: Callable[[str], None]) -> None:
    """Run one site until it is told to stop.

    Args:
        settings: From the settings file.
        say: Tells the person at the terminal.
    """
    if not settings.data.exists():
        raise UsageError(f"data {settings.data} does not exist", hint="name the site's data in its settings file")
    async with AsyncExitStack() as stack:
        node = start_node(settings.node(), clock=utc_now)
        stack.callback(node.log.release)
        if node.enrolment.role != "site":
            raise UsageError(
                f"{settings.kit} is the kit of a {node.enrolment.role}, expected one of a site",
                hint="name this program's own kit in its settings file",
            )
        policy = open_site_policy(node.documents, now=utc_now())
        clear_work(settings.work, keep_logs=policy.persist.logs)
        launcher = TrainerLauncher.start(preload=settings.preload)  # imports torch while this site attests
        stack.push_async_callback(asyncio.to_thread, launcher.close)
        await stack.enter_async_context(keep_log(node.log))
        stopped = asyncio.create_task(until_stopped())
        uplink = Uplink(say=say)
        session = Session(
            node=node,
            policy=policy,
            policy_sha256=Envelope.parse(node.documents.site_policy or b"").digest,
            settings=settings,
            launcher=launcher,
            uplink=uplink,
            peers=Peers(node, policy),
            rounds=SavedMemory(settings.state / "rounds.json"),
            say=say,
        )
        site = Site(session, say=say)
        try:
            await unless_stopped(site.run(), stopped)  # it runs for ever: what ends it is an error
        finally:
            await site.stop()
            await asyncio.to_thread(node.log.close)


class Site:
    """Keeps a link to the server, hands instructions to jobs, and witnesses the logs of the service and the server."""

    def __init__(self, session: Session, *, say: Callable[[str], None]) -> None:
        """Run within `session`."""
        self._session = session
        self._node = session.node
        self._say = say
        self._jobs: dict[str, tuple[SiteJob, asyncio.Task[None]]] = {}
        settings = session.settings
        address = ServerAddress(node=settings.server_node, address=settings.server)
        self._gate = ServerGate(session.node, session.policy, address)
        self._server_boot: bytes | None = None  # whose jobs these are

    async def run(self) -> None:
        """Attest, then stay connected for as long as the program runs."""
        await persistently(self._node.attest, what="attestation", say=self._say)
        self._say(f"site {self._node.describe()}")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._node.keep_fresh())
            group.create_task(self._witness_service())
            group.create_task(self._stay_connected())

    async def stop(self) -> None:
        """End all jobs of this site."""
        tasks = [task for _, task in self._jobs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._jobs.clear()

    # --- the server ---

    async def _stay_connected(self) -> None:
        while True:
            await persistently(self._attend, what="the connection to the server", say=self._say)
            await asyncio.sleep(random.uniform(0, FIRST_WAIT_SECONDS))  # noqa: S311 - jitter: all sites lost it at once

    async def _attend(self) -> None:
        """Hold one link until it breaks. Only a link that never came up is an error: waits grow over those alone.

        Raises:
            CloisterError: No link came up, or the server ended it for a reason that will not pass.
        """
        async with self._gate.open() as link:
            server = link.server
            mock = " (mock TEE)" if server.claims.mock else ""
            self._say(f"server {server.result.node} verified by this site{mock}: channel open")
            await self._forget_jobs_of_another_boot(server.claims.core.boot)
            self._session.uplink.connect(link)
            watching = asyncio.create_task(self._witness_server(link))
            try:
                async for instruction in link.stub.Join(pb.JoinRequest(boot=self._node.keys.boot)):
                    self._dispatch(instruction)
            except grpc.aio.AioRpcError as error:
                broken = error_of(error, what="the server")
                if not broken.retryable:
                    raise broken from error
            finally:
                self._session.uplink.disconnect()
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    async def _forget_jobs_of_another_boot(self, boot: bytes) -> None:
        """A server that was restarted has marked its jobs as failed: nobody else tells this site that they are over."""
        if self._server_boot not in {None, boot}:
            await self.stop()
        self._server_boot = boot

    def _dispatch(self, instruction: pb.Instruction) -> None:
        what = instruction.WhichOneof("what")
        if what in {None, "heartbeat"}:
            return
        job_id = getattr(instruction, str(what)).job_id
        known = self._jobs.get(job_id)
        if known is None:
            if what != "offer":
                return  # of a job that this boot knows nothing of, or that is over here
            job = SiteJob(self._session, job_id)
            known = self._jobs[job_id] = job, asyncio.create_task(self._follow(job))
        known[0].tell(instruction)

    async def _follow(self, job: SiteJob) -> None:
        try:
            await job.run()
        except CloisterError as error:
            self._say(f"job {job.job_id}: {error.message}")
        finally:
            self._jobs.pop(job.job_id, None)  # its key and its model go with it

    # --- witnessing ---

    async def _witness_server(self, link: ServerLink) -> None:
        result = link.server.result
        log = result.node
        witness = self._witness(log, link.server.claims.core.sign_pk)
        request = pb.WatchLogRequest(old_size=witness.known_size)
        try:
            async for head in link.stub.WatchLog(request):
                size, line = await asyncio.to_thread(witness.cosign, head.checkpoint, head.consistency)
                await link.stub.Cosign(pb.CosignRequest(size=size, cosignature=line))
        except grpc.aio.AioRpcError as error:
            logger.info("the server's log is not watched", extra={"reason": error.details()})
        except CloisterError as error:
            self._say(f"the log of {log} is not cosigned by this site any more: {error.message}")

    async def _witness_service(self) -> None:
        witness = self._witness(SERVICE_LOG, self._node.documents.trust.root.service.log_key)
        while True:
            await persistently(lambda: self._watch_service(witness), what="watching the service's log", say=self._say)
            await asyncio.sleep(random.uniform(0, FIRST_WAIT_SECONDS))  # noqa: S311 - jitter: all sites lost it at once

    async def _watch_service(self, witness: Witness) -> None:
        """Cosign heads until the stream breaks. Only a stream that never gave one is an error."""
        came = False
        try:
            async with self._node.enrolment.broker(self._node.identity) as broker:
                request = attestation_pb.WatchLogRequest(old_size=witness.known_size)
                async for head in broker.WatchLog(request):
                    came = True
                    size, line = await asyncio.to_thread(witness.cosign, head.checkpoint, head.consistency)
                    await broker.Cosign(attestation_pb.CosignRequest(size=size, cosignature=line))
        except UnreachableError:
            if not came:
                raise

    def _witness(self, log: str, log_key: bytes) -> Witness:
        trust_domain = self._node.documents.trust.root.trust_domain
        return Witness(
            origin=f"{trust_domain}/{log}",
            log_key=log_key,
            site=self._node.name,
            name=witness_name(trust_domain, self._node.name),
            key=self._node.keys.sign,
            memory=witness_file(self._session.settings.state, log),
            own_log=self._node.log,
            seconds=lambda: int(time.time()),
        )
