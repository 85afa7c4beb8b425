"""`cloister server start`: attest, open the port, conduct jobs, stop cleanly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import grpc

from attestation.channel.caller import CallerPolicy
from attestation.channel.credentials import SERVER_OPTIONS, RotatingServerCredentials, pem
from attestation.channel.interceptor import Edge, utc_now
from attestation.node import Node, start_node
from attestation.program import bind, keep_log, require_free, unless_stopped, until_stopped
from attestation.retry import persistently
from attestation.witnessing import Watched
from fl_runtime.server.blobs import Blobs
from fl_runtime.server.edge import FederationEdge, JobsEdge
from fl_runtime.server.greeter import Greeter
from fl_runtime.server.jobs import Jobs
from fl_runtime.server.register import MIGRATIONS, JobRegister
from fl_runtime.server.settings import ServerSettings
from fl_runtime.server.sites import Sites
from fl_runtime.server.surroundings import Surroundings
from fl_runtime.transport import federation_pb2_grpc as rpc
from policies.errors import UsageError
from policies.state import Store


async def serve(settings: ServerSettings, *, say: Callable[[str], None]) -> None:
    """Run the FL server until it is told to stop.

    Args:
        settings: From the settings file.
        say: Tells the person at the terminal.
    """
    require_free(settings.listen)
    async with AsyncExitStack() as stack:
        node = start_node(settings.node(), clock=utc_now)
        stack.callback(node.log.release)
        if node.enrolment.role != "server":
            raise UsageError(
                f"{settings.kit} is the kit of a {node.enrolment.role}, expected one of a server",
                hint="name this program's own kit in its settings file",
            )
        watched = Watched(node.log)
        await stack.enter_async_context(keep_log(node.log, watched))
        stopped = asyncio.create_task(until_stopped())
        if not await unless_stopped(persistently(node.attest, what="attestation", say=say), stopped):
            await asyncio.to_thread(node.log.close)
            return

        register = JobRegister(
            Store.open(settings.state / "jobs.sqlite", owner=node.name, clock=utc_now, migrations=MIGRATIONS)
        )
        stack.callback(register.close)
        scratch = settings.state / "scratch"
        scratch.mkdir(exist_ok=True, mode=0o700)
        blobs = Blobs(settings.state / "blobs")
        sites = Sites(grace_seconds=settings.return_grace_seconds)
        greeter = Greeter(node)
        jobs = Jobs(
            Surroundings(
                node=node,
                greeter=greeter,
                sites=sites,
                watched=watched,
                register=register,
                blobs=blobs,
                scratch=scratch,
                park_after_seconds=settings.park_after_seconds,
            )
        )
        for job_id in await jobs.settle():
            say(f"job {job_id} was interrupted when this server stopped: it is marked as failed, submit it again")

        server = _open_port(
            settings,
            node,
            FederationEdge(greeter=greeter, sites=sites, jobs=jobs, blobs=blobs, watched=watched),
            JobsEdge(jobs=jobs, blobs=blobs, max_job_bytes=settings.max_job_bytes),
        )
        await server.start()
        stack.push_async_callback(server.stop, 1)
        say(f"server ready at {settings.listen}: {node.describe()}")
        fresh = asyncio.create_task(node.keep_fresh(greeter.renew))
        stack.callback(fresh.cancel)
        await stopped
        await jobs.stop()
        majority = len(node.documents.trust.roster.sites) // 2 + 1
        await watched.close(expected=majority)  # while the port is open: the witnesses cosign the last head
        sites.close()


def _open_port(
    settings: ServerSettings, node: Node, federation: FederationEdge, administration: JobsEdge
) -> grpc.aio.Server:
    root = node.documents.trust.root
    policy = CallerPolicy(root=root, revocation_epoch=lambda: 0, accept_mock=root.mock)
    client_roots = pem(root.service.ca_certificate) + pem(root.admin_ca_certificate)
    credentials = RotatingServerCredentials(node.identity.tls, client_roots_pem=client_roots)
    node.on_renewal(lambda identity: credentials.rotate(identity.tls))
    server = grpc.aio.server(interceptors=[Edge(lambda: policy, clock=utc_now)], options=SERVER_OPTIONS)
    rpc.add_FederationServicer_to_server(federation, server)
    rpc.add_JobsServicer_to_server(administration, server)
    bind(server, settings.listen, credentials)
    return server
