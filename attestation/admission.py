"""A Relying Party's own check of another node: evidence, grant and reference values, not only the service's word.

A service that was taken over can sign results, but not an organisation's grant nor a vendor's report: it cannot invent a node.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from attestation.appraisal import appraise
from attestation.binding import peer_nonces_digest, require_equal
from attestation.claims import Claims
from attestation.errors import AppraisalError, BindingMismatchError, UnattestedPeerError
from attestation.issue import issued_by, result_in
from attestation.keys import certificate_spki_sha256
from attestation.trust import TrustContext
from attestation.verifier import verify_attestation
from attestation.wire import decode_attestation
from policies.attestation_result import AttestationResult, verify_result
from policies.roster import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownIdentity:
    """What a node shows of itself, or the service of it: unverified."""

    attestation: bytes
    result: bytes  # JWT
    certificate: bytes  # PEM


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedNode:
    """A node whose evidence this reader has verified and appraised itself. Made by `admit` alone."""

    claims: Claims
    result: AttestationResult
    certificate_pem: bytes

    @property
    def organisation(self) -> str:
        """Whose node it is, by the roster."""
        return self.claims.member.organisation


def admit(
    shown: ShownIdentity, *, node: str, role: Role, trust: TrustContext, accept_mock: bool, now: datetime
) -> AdmittedNode:
    """Verify and appraise what a node shows, and return it as admitted.

    Args:
        shown: As it came.
        node: Whom it must be of.
        role: What that node must have attested as.
        trust: This reader's own documents.
        accept_mock: Whether this reader takes evidence of a mock TEE at all.
        now: The time to verify at.

    Raises:
        CloisterError: The narrowest class that says what does not hold.
    """
    result = verify_result(shown.result, trust.root.service.result_key)
    result.require_current(now)
    received = decode_attestation(shown.attestation)
    claims = verify_attestation(received, trust=trust, now=now)
    for what, found, expected in (
        ("node", claims.core.node, node),
        ("role", claims.core.role, role),
        ("node of the result", result.node, node),
        ("role of the result", result.role, role),
    ):
        if found != expected:
            raise UnattestedPeerError(f"{what} is {found}, expected {expected}")
    confirmed = result.cnf
    for what, raw, bound in (
        ("evidence of the result", result.evidence_sha256, received.sha256),
        ("TLS key of the result", confirmed.tls_spki, claims.core.tls_spki),
        ("signing key of the result", confirmed.sign_pk, claims.core.sign_pk),
        ("HPKE key of the result", confirmed.hpke_pk, claims.core.hpke_pk),
        ("boot of the result", result.boot, claims.core.boot),
    ):
        require_equal(what, raw, bound)
    appraisal = appraise(claims, trust.reference_values)
    if appraisal.status not in {"affirming", "warning"}:
        raise AppraisalError(f"{node} is not what the reference values expect", findings=appraisal.findings)
    if claims.mock and not accept_mock:
        raise UnattestedPeerError(f"{node} has mock evidence, which this policy does not accept")
    _check_certificate(shown.certificate, result, trust)
    return AdmittedNode(claims=claims, result=result, certificate_pem=shown.certificate)


def require_own_nonce(admitted: AdmittedNode, nonces: Iterable[bytes], *, own: bytes) -> None:
    """Check that the evidence was made after this reader gave its nonce.

    Args:
        admitted: Of `admit`.
        nonces: All nonces that the node says are in its evidence.
        own: This reader's, 32 bytes.

    Raises:
        BindingMismatchError: The list is not the one in the evidence, or the reader's own is not in it.
    """
    given = tuple(nonces)
    require_equal("digest of the peers' nonces", admitted.claims.core.peer_nonces, peer_nonces_digest(given))
    if own not in given:
        raise BindingMismatchError(
            f"the evidence of {admitted.result.node} does not hold this reader's nonce: it may be old",
            hint="greet the node again, so that it attests with a fresh nonce",
        )


def _check_certificate(pem: bytes, result: AttestationResult, trust: TrustContext) -> None:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise UnattestedPeerError(f"the certificate of {result.node} cannot be read: {error}") from error
    if not issued_by(certificate, trust.root.service.ca_certificate):
        raise UnattestedPeerError(
            f"the certificate of {result.node} was not issued by the authority that the root pins"
        )
    if result_in(certificate, trust.root.service.result_key) != result:
        raise UnattestedPeerError(f"the certificate of {result.node} carries another result than the one shown")
    require_equal("key of the certificate", certificate_spki_sha256(certificate), result.cnf.tls_spki)
