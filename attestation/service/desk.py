"""The desk where nodes prove what they are: a challenge out, evidence in, an identity out.

Each step has its place, and the order matters:
 1. sizes and shape
 2. the challenge is consumed, before any cryptography
 3. the core answers that challenge and names this service
 4. evidence, init_data and grant verify (`attestation.verifier`)
 5. the grant is not older than one accepted before; the boot's chain of results is unbroken
 6. one compound reference entry matches as a whole (`attestation.appraisal`)
 7. the decision is in the record, durably
 8. the result is signed, the certificate issued, both archived
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from attestation.appraisal import appraise
from attestation.binding import require_equal
from attestation.channel.credentials import server_dns_name
from attestation.claims import Claims
from attestation.core import Core
from attestation.errors import BindingMismatchError, MalformedEvidenceError, ReattestError
from attestation.issue import IssuingContext, build_result, issue_certificate
from attestation.keys import certificate_spki_sha256
from attestation.service.keyring import Keyring
from attestation.service.limits import RateLimit
from attestation.service.register import Archived, IssuedChallenge, Register
from attestation.trust import TrustContext
from attestation.verifier import parse_core, verify_attestation
from attestation.wire import ReceivedAttestation, decode_attestation
from policies.attestation_result import AttestationResult
from policies.audit.log import AuditLog
from policies.audit.record import Event, printable
from policies.documents import key_id, raw_public_key
from policies.encoding import PROTOCOL
from policies.errors import CloisterError, DeniedError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Issues challenges and answers them. Synchronous: the edge calls it in a thread."""

    name: str
    trust: TrustContext
    keyring: Keyring
    register: Register
    log: AuditLog
    clock: Callable[[], datetime]
    result_lifetime: timedelta
    challenge_lifetime: timedelta
    attestation_limit: RateLimit  # for each hardware id

    @property
    def revocation_epoch(self) -> int:
        """The epoch of the current revocation list. There is none yet: it stays 0."""
        return 0

    @property
    def keyring_id(self) -> str:
        """Names the key that signs Attestation Results."""
        return key_id(raw_public_key(self.keyring.result))

    def challenge(
        self, *, protocol: str, trust_domain: str, node: str, role: str, client_random: bytes
    ) -> IssuedChallenge:
        """Give out a fresh nonce for one attestation.

        Raises:
            UsageError: Another protocol or trust domain, or a client random of another size.
            DeniedError: The roster does not know this node in this role.
        """
        if protocol != PROTOCOL or trust_domain != self.trust.root.trust_domain:
            raise UsageError(
                f"asked for {protocol!r:.40} of {trust_domain!r:.80}, this service speaks {PROTOCOL} for "
                f"{self.trust.root.trust_domain}"
            )
        if len(client_random) != 32:
            raise UsageError(f"client random has {len(client_random)} bytes, expected 32")
        member = self.trust.roster.member(node)
        if member.role != role:
            raise DeniedError(f"{node} asked for the role {role!r:.20}, the roster names it as {member.role}")
        now = int(self.clock().timestamp())
        challenge = IssuedChallenge(
            challenge_id=secrets.token_bytes(16),
            nonce=secrets.token_bytes(32),
            node=node,
            role=role,
            client_random=client_random,
        )
        self.register.give_out(challenge, expires_at=now + int(self.challenge_lifetime.total_seconds()), now=now)
        return challenge

    def attest(self, challenge_id: bytes, raw: bytes) -> Archived:
        """Verify one attestation and issue an identity for it; repeating identical bytes repeats the answer.

        Raises:
            CloisterError: The narrowest class that says what does not hold; the refusal is in the record.
        """
        received = decode_attestation(raw)  # 1
        try:
            consumed = self.register.consume(challenge_id, received.sha256, now=int(self.clock().timestamp()))  # 2
            return consumed if isinstance(consumed, Archived) else self._answer(consumed, received)
        except CloisterError as error:
            self._record_refusal(received, error)
            raise

    def _answer(self, challenge: IssuedChallenge, received: ReceivedAttestation) -> Archived:
        now = self.clock()
        self._check_core(parse_core(received.core), challenge)  # 3
        claims = verify_attestation(received, trust=self.trust, now=now)  # 4
        self.attestation_limit.take(claims.cpu.chip_id)
        node = claims.core.node
        self.register.advance_version(f"grant of {node}", claims.grant, claims.core.grant)  # 5
        self._check_chain(claims.core)
        appraisal = appraise(claims, self.trust.reference_values)  # 6
        context = IssuingContext(
            issuer=f"{self.name}.{self.trust.root.trust_domain}",
            now=now,
            lifetime=self.result_lifetime,
            revocation_epoch=self.revocation_epoch,
        )
        result = build_result(claims, appraisal, context, jti=secrets.token_hex(16), purpose=claims.core.purpose)
        self._record_acceptance(claims, result)  # 7
        return self._issue(challenge, received, result)  # 8

    def _check_core(self, core: Core, challenge: IssuedChallenge) -> None:
        for field, found, expected in (
            ("challenge id", core.cid, challenge.challenge_id),
            ("nonce", core.nonce, challenge.nonce),
            ("client random", core.crand, challenge.client_random),
            ("service authority", core.service_ca, certificate_spki_sha256(self.keyring.authority.certificate)),
        ):
            require_equal(f"{field} of the core", found, expected)
        for field, name, expected_name in (("node", core.node, challenge.node), ("role", core.role, challenge.role)):
            if name != expected_name:
                raise BindingMismatchError(f"the core names {field} {name}, the challenge was given to {expected_name}")
        if (core.role == "site") != (core.site_policy is not None):
            raise MalformedEvidenceError("a site names the digest of its policy, and nobody else does")

    def _check_chain(self, core: Core) -> None:
        chain = self.register.chain_of(core.node, core.boot)
        # The last but one as well: the reply that named the last may have been lost on its way.
        expected: set[str | None] = {*chain[:2], *([None] if len(chain) <= 1 else [])}
        if core.prev_jti not in expected:
            raise ReattestError(
                f"{core.node} names {core.prev_jti} as the result before this one, which is not of this boot's last two",
                hint="restart the node: a new boot makes new keys",
            )

    def _issue(self, challenge: IssuedChallenge, received: ReceivedAttestation, result: AttestationResult) -> Archived:
        is_server = result.role == "server"
        token, certificate = issue_certificate(
            self.keyring.authority,
            result,
            csr=received.csr,
            result_key=self.keyring.result,
            dns_name=server_dns_name(result.node, result.trust_domain) if is_server else None,
        )
        archived = Archived(attestation=received.raw, result=token, certificate=certificate)
        self.register.archive(challenge.challenge_id, result, archived)
        return archived

    def _record_acceptance(self, claims: Claims, result: AttestationResult) -> None:
        self.log.append_critical(
            Event(
                action="attestation.decision",
                actor=self.name,
                object=result.node,
                via="Attest",
                decision="allow",
                reasons=tuple(
                    printable(f"{name}: {note}")[:500]
                    for name, part in result.submods.items()
                    for note in part.advisories
                )[:16],
                digests={
                    "evidence": result.evidence_sha256,
                    "image": result.image,
                    "tls": result.cnf.tls_spki,
                    "sign": result.cnf.sign_pk,
                    "boot": result.boot,
                    "grant": claims.core.grant,
                },
                jti=result.jti,
                next=result.status,
            )
        )

    def _record_refusal(self, received: ReceivedAttestation, error: CloisterError) -> None:
        try:
            node = parse_core(received.core).node  # claimed, unverified: the record says who was refused as whom
        except MalformedEvidenceError:
            node = "unknown"
        self.log.append_critical(
            Event(
                action="attestation.decision",
                actor=self.name,
                object=node,
                via="Attest",
                decision="deny",
                reasons=(printable(f"{error.code}: {error.message}")[:500],),
                digests={"evidence": received.sha256},
            )
        )
