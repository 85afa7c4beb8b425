"""`cloister attestation serve`: build the objects, open the ports, stop cleanly."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import grpc
from cryptography import x509

from attestation.attester import SocketAttester
from attestation.channel.caller import CallerPolicy
from attestation.channel.credentials import (
    SERVER_OPTIONS,
    RotatingServerCredentials,
    TlsIdentity,
    pem,
    service_dns_name,
)
from attestation.channel.interceptor import Edge, utc_now
from attestation.core import ServiceInitData
from attestation.keys import BootKeys
from attestation.program import bind, keep_log, until_stopped
from attestation.service import attestation_pb2_grpc as rpc
from attestation.service.broker import Broker
from attestation.service.desk import Desk
from attestation.service.edge import BrokerEdge, EnrolEdge
from attestation.service.genesis import Genesis
from attestation.service.keyring import Keyring, load_or_create
from attestation.service.limits import RateLimit
from attestation.service.register import MIGRATIONS, Register
from attestation.service.settings import AttestationSettings
from attestation.trust import TrustContext
from attestation.witnessing import Watched
from policies.audit.clock import SystemClock
from policies.audit.log import AuditLog
from policies.errors import UsageError
from policies.state import Store

logger = logging.getLogger(__name__)

TLS_LIFETIME = timedelta(days=30)  # of the service's own leaf; a restart makes a new one


async def serve(settings: AttestationSettings, *, say: Callable[[str], None]) -> None:
    """Run the service until it is told to stop.

    Args:
        settings: From the settings file.
        say: Tells the person at the terminal.
    """
    clock = utc_now
    async with AsyncExitStack() as stack:
        keyring = load_or_create(settings.state, name=settings.trust_domain, now=clock())
        keys = BootKeys.generate()
        store = Store.open(settings.state / "register.sqlite", owner=settings.name, clock=clock, migrations=MIGRATIONS)
        register = Register(store)
        stack.callback(register.close)
        log = _open_log(settings, keyring, keys)
        stack.push_async_callback(asyncio.to_thread, log.release)
        watched = Watched(log)

        tls_certificate = _own_certificate(settings, keyring, keys, now=clock())
        identity = TlsIdentity(keys.tls_key_pem(), tls_certificate)
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[TrustContext] = loop.create_future()

        def installed(trust: TrustContext) -> None:
            loop.call_soon_threadsafe(opened.set_result, trust)

        genesis = Genesis(
            name=settings.name,
            trust_domain=settings.trust_domain,
            keys=keys,
            keyring=keyring,
            tls_certificate=tls_certificate,
            init_data=_init_data(settings),
            attester=SocketAttester(settings.tee_socket),
            register=register,
            log=log,
            clock=clock,
            installed=installed,
        )
        await asyncio.to_thread(genesis.evidence, bytes(32))  # no TEE: say so now, not at the first call
        enrol = EnrolEdge(
            genesis,
            challenge_limit=RateLimit(
                "challenges", settings.limits.challenges_burst, settings.limits.challenges_per_minute, time.monotonic
            ),
            verify_queue=settings.limits.verify_queue,
        )
        await _open_enrol_port(stack, settings, identity, enrol)
        await stack.enter_async_context(keep_log(log, watched))

        documents = register.documents()
        if documents:
            opened.set_result(genesis.open(documents))
        else:
            say(f"attestation service at {settings.enrol_address} has no root yet: it proves itself and waits for one")
        stopped = asyncio.create_task(until_stopped())
        either: set[asyncio.Future[Any]] = {stopped, opened}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if opened.done():
            trust = opened.result()
            desk = _desk(settings, trust, keyring, register, log, clock)
            broker = Broker(
                name=settings.name,
                trust=trust,
                keyring=keyring,
                sealing=keys.sealing,
                register=register,
                log=log,
                clock=clock,
            )
            await _open_attested_port(stack, settings, identity, desk, broker, watched)
            enrol.open(desk)
            mock = " (mock TEE: nothing here is attested by hardware)" if trust.root.mock else ""
            say(f"attestation service ready at {settings.enrol_address} and {settings.attested_address}{mock}")
            if settings.limits != type(settings.limits)():
                say(f"limits differ from the defaults: {settings.limits}")
        await stopped
        await watched.close()  # while the ports are open: the witnesses cosign the last head


def _open_log(settings: AttestationSettings, keyring: Keyring, keys: BootKeys) -> AuditLog:
    return AuditLog.open(
        settings.audit,
        origin=f"{settings.trust_domain}/{settings.audit.name}",
        log=settings.audit.name,
        signing_key=keyring.log,
        boot_id=keys.boot,
        clock=SystemClock(),
        randomness=secrets.token_bytes,
        aside=settings.state / "audit",
        actor=settings.name,
        ear=None,
    )


def _own_certificate(settings: AttestationSettings, keyring: Keyring, keys: BootKeys, *, now: datetime) -> bytes:
    return keyring.authority.issue(
        keys.tls.public_key(),
        names=[x509.DNSName(service_dns_name(settings.trust_domain))],
        not_before=now,
        not_after=now + TLS_LIFETIME,
        server=True,
    )


def _init_data(settings: AttestationSettings) -> bytes:
    try:
        raw = settings.init_data.read_bytes()
    except OSError as error:
        raise UsageError(f"init_data {settings.init_data} cannot be read: {error.strerror}") from error
    launched = ServiceInitData.parse(raw)
    if launched.trust_domain != settings.trust_domain:
        raise UsageError(
            f"this machine was launched for {launched.trust_domain}, the settings say {settings.trust_domain}"
        )
    return raw


def _desk(
    settings: AttestationSettings,
    trust: TrustContext,
    keyring: Keyring,
    register: Register,
    log: AuditLog,
    clock: Callable[[], datetime],
) -> Desk:
    per_minute = settings.limits.attestations_per_minute
    return Desk(
        name=settings.name,
        trust=trust,
        keyring=keyring,
        register=register,
        log=log,
        clock=clock,
        result_lifetime=timedelta(seconds=settings.result_lifetime_seconds),
        challenge_lifetime=timedelta(seconds=settings.challenge_lifetime_seconds),
        attestation_limit=RateLimit("attestations of one machine", per_minute, per_minute, time.monotonic),
    )


async def _open_enrol_port(
    stack: AsyncExitStack, settings: AttestationSettings, identity: TlsIdentity, edge: EnrolEdge
) -> None:
    server = grpc.aio.server(interceptors=[Edge(None, clock=utc_now)], options=SERVER_OPTIONS)
    rpc.add_EnrolServicer_to_server(edge, server)
    bind(server, settings.enrol_address, RotatingServerCredentials(identity, client_roots_pem=None))
    await server.start()
    stack.push_async_callback(server.stop, 1)


async def _open_attested_port(
    stack: AsyncExitStack,
    settings: AttestationSettings,
    identity: TlsIdentity,
    desk: Desk,
    broker: Broker,
    watched: Watched,
) -> None:
    root = desk.trust.root
    policy = CallerPolicy(root=root, revocation_epoch=lambda: desk.revocation_epoch, accept_mock=root.mock)
    client_roots = pem(root.service.ca_certificate) + pem(root.admin_ca_certificate)
    server = grpc.aio.server(interceptors=[Edge(lambda: policy, clock=utc_now)], options=SERVER_OPTIONS)
    releases = settings.limits.releases_per_minute
    edge = BrokerEdge(
        desk, broker, watched, release_limit=RateLimit("key releases", releases, releases, time.monotonic)
    )
    rpc.add_BrokerServicer_to_server(edge, server)
    bind(server, settings.attested_address, RotatingServerCredentials(identity, client_roots_pem=client_roots))
    await server.start()
    stack.push_async_callback(server.stop, 1)
