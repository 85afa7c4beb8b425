"""One node for the life of one boot: its kit, keys, log and identity, and the task that keeps the identity fresh."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from attestation.attester import SocketAttester
from attestation.core import Purpose
from attestation.enrolment import AuditHead, Enrolment, Identity, NodeDocuments, ServiceAddress
from attestation.errors import AttestationError
from attestation.keys import BootKeys
from attestation.trust import open_trust
from policies import grant as grant_document
from policies import site_policy as site_policy_document
from policies.audit.clock import SystemClock
from policies.audit.log import AuditLog
from policies.documents import Envelope, Versioned
from policies.errors import CloisterError, DocumentSignatureError, UsageError
from policies.grant import Grant
from policies.init_data import parse_init_data
from policies.site_policy import SitePolicy
from policies.version_floor import FloorFile, VersionFloor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What every node's settings file says, whatever its role."""

    kit: Path  # folder: root, roster, reference-values, grant, policy (.json, envelopes) and init-data.json
    service: ServiceAddress
    tee_socket: Path
    state: Path
    audit: Path  # folder of this node's log


def load_kit(folder: Path, *, now: datetime) -> NodeDocuments:
    """Open the documents of a start-up kit; the root must be the one that init_data pins.

    Raises:
        UsageError: A file is missing.
        PolicyError: A document does not open, or the root is another one.
    """
    init_data = _read(folder / "init-data.json")
    launched = parse_init_data(init_data)
    trust = open_trust(
        _read(folder / "root.json"),
        _read(folder / "roster.json"),
        _read(folder / "reference-values.json"),
        now=now,
        root_sha256=launched.root_sha256,
    )
    if trust.organisation_key(launched.node) != launched.organisation_key:
        raise DocumentSignatureError(f"init_data names another organisation for {launched.node} than the roster does")
    policy = _read(folder / "policy.json") if launched.role == "site" else None
    return NodeDocuments(trust=trust, init_data=init_data, grant=_read(folder / "grant.json"), site_policy=policy)


def open_site_policy(documents: NodeDocuments, *, now: datetime) -> SitePolicy:
    """Open this site's own policy: signed by its organisation, in force, and about this site.

    Raises:
        PolicyError: It is none of that.
    """
    site = parse_init_data(documents.init_data).node
    if documents.site_policy is None:
        raise UsageError(f"{site} has no policy")
    envelope = Envelope.parse(documents.site_policy)
    policy = envelope.open(SitePolicy, site_policy_document.KIND, [documents.trust.organisation_key(site)])
    policy.require_in_force(now)
    if (policy.site, policy.trust_domain) != (site, documents.trust.root.trust_domain):
        raise DocumentSignatureError(f"the policy is of {policy.site} in {policy.trust_domain}, this is {site}")
    return policy


def advance_floor(floor: VersionFloor, documents: NodeDocuments, *, now: datetime) -> VersionFloor:
    """Return the floor that knows the documents of this kit, each of which must be as new as any seen before.

    Raises:
        RollbackError: One is older than it was, or not the successor of what was there.
    """
    trust, node = documents.trust, parse_init_data(documents.init_data).node
    grant = Envelope.parse(documents.grant)
    opened: list[tuple[str, Versioned, bytes]] = [
        ("root", trust.root, trust.root_sha256),
        ("roster", trust.roster, trust.roster_sha256),
        ("reference values", trust.reference_values, trust.reference_values_sha256),
        ("grant", grant.open(Grant, grant_document.KIND, [trust.organisation_key(node)]), grant.digest),
    ]
    if documents.site_policy is not None:
        policy = open_site_policy(documents, now=now)
        opened.append(("site policy", policy, Envelope.parse(documents.site_policy).digest))
    for name, document, digest in opened:
        floor = floor.advance(name, document, digest)
    return floor


class Node:
    """Holds the current identity and renews it before it ends."""

    def __init__(
        self, enrolment: Enrolment, documents: NodeDocuments, log: AuditLog, *, clock: Callable[[], datetime]
    ) -> None:
        """Wrap what `start_node` has built."""
        self.enrolment = enrolment
        self.documents = documents
        self.log = log
        self.clock = clock
        self._identity: Identity | None = None
        self._watchers: list[Callable[[Identity], None]] = []

    @property
    def name(self) -> str:
        """The node."""
        return self.enrolment.node

    @property
    def keys(self) -> BootKeys:
        """The keys of this boot."""
        return self.enrolment.keys

    @property
    def identity(self) -> Identity:
        """The newest identity.

        Raises:
            AttestationError: There is none yet.
        """
        if self._identity is None:
            raise AttestationError(f"{self.name} has not attested yet")
        return self._identity

    def on_renewal(self, watcher: Callable[[Identity], None]) -> None:
        """Call `watcher` with every new identity."""
        self._watchers.append(watcher)

    async def attest(self, *, purpose: Purpose = "issue", peer_nonces: Sequence[bytes] = ()) -> Identity:
        """Attest, and use the identity that comes of it from now on.

        Args:
            purpose: `issue`, or `release` where keys are wanted: then the identity is as good, and counts for both.
            peer_nonces: What sites gave this node, 32 bytes each.
        """
        return self._adopt(await self.enrolment.attest(purpose, peer_nonces=peer_nonces))

    def describe(self) -> str:
        """Say in words what this node has proved to be."""
        result = self.identity.result
        gpus = sum(1 for name in result.submods if name.startswith("gpu"))
        hardware = "mock TEE, nothing here is attested by hardware" if result.mock else "attested by hardware"
        return f"{result.node} admitted as {result.role} ({result.status}): snp, {gpus} gpu ({hardware})"

    def _adopt(self, identity: Identity) -> Identity:
        self._identity = identity
        for watcher in self._watchers:
            watcher(identity)
        return identity

    async def keep_fresh(self, renew: Callable[[], Awaitable[Identity]] | None = None) -> None:
        """Attest again at half life, with jitter, for as long as the program runs."""
        while True:
            result = self.identity.result
            half = (result.exp - result.iat) / 2
            left = result.iat + half * random.uniform(0.9, 1.1) - self.clock().timestamp()  # noqa: S311 - jitter
            await asyncio.sleep(max(1.0, left))
            try:
                await (renew() if renew else self.attest())
            except CloisterError as error:
                logger.warning("re-attestation failed; trying again", extra={"reason": error.message})
                await asyncio.sleep(10)


def start_node(settings: NodeSettings, *, clock: Callable[[], datetime]) -> Node:
    """Load the kit, make the keys of this boot, open the log. Nothing is sent yet.

    Raises:
        UsageError, PolicyError: The kit is not usable.
        AuditError: The log is not sound, or another process writes it.
    """
    documents = load_kit(settings.kit, now=clock())
    launched = parse_init_data(documents.init_data)
    keys = BootKeys.generate()
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    seen = FloorFile(settings.state / "versions.json")
    seen.save(advance_floor(seen.load(), documents, now=clock()))
    log = AuditLog.open(
        settings.audit,
        origin=f"{launched.trust_domain}/{settings.audit.name}",
        log=settings.audit.name,
        signing_key=keys.sign,
        boot_id=keys.boot,
        clock=SystemClock(),
        randomness=secrets.token_bytes,
        aside=settings.state / "audit",
        actor=launched.node,
        ear=None,
    )

    def head() -> AuditHead:
        checkpoint = log.checkpoint().checkpoint
        return AuditHead(checkpoint.size, checkpoint.root)

    enrolment = Enrolment(
        documents,
        attester=SocketAttester(settings.tee_socket),
        service=settings.service,
        keys=keys,
        clock=clock,
        audit_head=head,
    )
    return Node(enrolment, documents, log, clock=clock)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}",
            hint="a start-up kit has root, roster, reference-values, grant and init-data (.json); a site has policy.json too",
        ) from error
