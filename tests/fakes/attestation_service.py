"""The attestation service in process: desk and broker, with a register and a log on disk, for a trust domain in memory.

with service(tmp_path) as running:
    archived = running.enrol("hospital-a")
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.admission import ShownIdentity
from attestation.channel.caller import AttestedPeer, CallerPolicy, identify
from attestation.service.broker import Broker
from attestation.service.desk import Desk
from attestation.service.limits import RateLimit
from attestation.service.register import MIGRATIONS, Archived, IssuedChallenge, Register
from attestation.wire import ReceivedAttestation
from policies.audit.frames import read_frames
from policies.audit.log import AuditLog
from policies.audit.record import Record
from policies.encoding import PROTOCOL
from policies.state import Store
from tests.fakes.trust_domain import CHANGES, NODES, NOW, TRUST_DOMAIN, TrustDomain, boot_keys, domain, keyring


@dataclass
class Clock:
    """Stands still until it is moved; stands for the time of programs and of their logs."""

    time: datetime = NOW
    ticks: Iterator[int] = field(default_factory=lambda: itertools.count(step=1_000_000))

    def __call__(self) -> datetime:
        return self.time

    def now(self) -> datetime:
        return self.time

    def monotonic_ns(self) -> int:
        return next(self.ticks)

    def skip(self, **time: float) -> None:
        self.time += timedelta(**time)


@dataclass(frozen=True, kw_only=True)
class Service:
    """Desk and broker of one attestation service, with a register and a log on disk."""

    folder: Path
    domain: TrustDomain
    clock: Clock
    register: Register
    log: AuditLog
    desk: Desk
    broker: Broker

    def challenge(self, node: str) -> IssuedChallenge:
        return self.desk.challenge(
            protocol=PROTOCOL, trust_domain=TRUST_DOMAIN, node=node, role=NODES[node].role, client_random=bytes(32)
        )

    def answer(self, node: str, *, core: Mapping[str, Any] = CHANGES, **how: Any) -> tuple[bytes, ReceivedAttestation]:
        """Take a challenge and attest to it; returns its id and what would be sent."""
        given = self.challenge(node)
        bound = {"cid": given.challenge_id, "nonce": given.nonce, "crand": given.client_random}
        return given.challenge_id, self.domain.attestation(node, core=bound | core, **how)

    def enrol(self, node: str, **how: Any) -> Archived:
        """Let a node attest and be given an identity; `how` as for `TrustDomain.attestation`."""
        challenge_id, received = self.answer(node, **how)
        return self.desk.attest(challenge_id, received.raw)

    def shown(self, node: str, **how: Any) -> ShownIdentity:
        archived = self.enrol(node, **how)
        return ShownIdentity(attestation=archived.attestation, result=archived.result, certificate=archived.certificate)

    def peer(self, archived: Archived) -> AttestedPeer:
        """Who calls with this certificate."""
        policy = CallerPolicy(root=self.domain.trust.root, revocation_epoch=lambda: 0, accept_mock=True)
        caller = identify(archived.certificate, policy, now=self.clock())
        assert isinstance(caller, AttestedPeer)
        return caller

    def records(self, action: str) -> list[Record]:
        """What the log tells of one action."""
        self.log.checkpoint()
        entries = (
            Record.parse(entry) for _, entry in read_frames((self.folder / "audit/service/records").read_bytes())
        )
        return [record for record in entries if record.action == action]


@contextlib.contextmanager
def service(folder: Path, *, trust_domain: TrustDomain | None = None, attestations: int = 1000) -> Iterator[Service]:
    """Open a service in `folder`; it takes so many attestations of one machine in a minute."""
    within, clock = trust_domain or domain(), Clock()
    store = Store.open(folder / "register.sqlite", owner="attestation", clock=clock, migrations=MIGRATIONS)
    with contextlib.ExitStack() as stack:
        register = Register(store)
        stack.callback(register.close)
        log = stack.enter_context(open_log(folder, clock=clock))
        shared: dict[str, Any] = {
            "name": "attestation",
            "trust": within.trust,
            "keyring": keyring(),
            "register": register,
            "log": log,
            "clock": clock,
        }
        desk = Desk(
            **shared,
            result_lifetime=timedelta(minutes=30),
            challenge_lifetime=timedelta(seconds=60),
            attestation_limit=RateLimit("attestations of one machine", attestations, attestations, lambda: 0.0),
        )
        broker = Broker(**shared, sealing=boot_keys("attestation").sealing)
        yield Service(folder=folder, domain=within, clock=clock, register=register, log=log, desk=desk, broker=broker)


def open_log(folder: Path, *, clock: Clock, name: str = "service", key: Ed25519PrivateKey | None = None) -> AuditLog:
    """Open the log `name` in `folder/audit`."""
    return AuditLog.open(
        folder / "audit" / name,
        origin=f"{TRUST_DOMAIN}/{name}",
        log=name,
        signing_key=key or keyring().log,
        boot_id=b"\x05" * 16,
        clock=clock,
        randomness=secrets.token_bytes,
        aside=folder / "aside",
        actor=name,
        ear=None,
    )
