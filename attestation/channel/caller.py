"""Who is calling: read from the certificate of each call, because a handshake is not the check.

A resumed TLS session accepts an expired certificate, and an open stream outlives one. So every call, and every few seconds of a
stream, the certificate is parsed again: who issued it, when it ends, whom it names, what its Attestation Result says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.errors import ReattestError, UnattestedPeerError
from attestation.issue import admin_spiffe_id, issued_by, result_in, spiffe_id
from attestation.keys import spki_sha256
from policies.attestation_result import AttestationResult
from policies.root import Root


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestedPeer:
    """A node whose TLS key is the one that its Attestation Result confirms. Made by `identify` alone."""

    result: AttestationResult
    tls_spki: bytes  # 32 bytes

    @property
    def name(self) -> str:
        """The node."""
        return self.result.node


@dataclass(frozen=True, slots=True, kw_only=True)
class Administrator:
    """A person with a certificate of the project's authority; never counts as attested."""

    name: str


Caller = AttestedPeer | Administrator


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerPolicy:
    """What makes a caller acceptable to one program."""

    root: Root
    revocation_epoch: Callable[[], int]
    accept_mock: bool  # a field of its own: a policy that tolerates an advisory never lets a mock in


def identify(certificate_pem: bytes, policy: CallerPolicy, *, now: datetime) -> Caller:
    """Return who holds this certificate. The TLS handshake has shown that they hold its key.

    Raises:
        ReattestError: It has expired, or is of an earlier revocation epoch.
        UnattestedPeerError: It was not issued for this purpose by who must issue it, or names someone else than its result.
    """
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    if now >= certificate.not_valid_after_utc:
        raise ReattestError(f"the certificate ended at {certificate.not_valid_after_utc:%H:%M:%S} UTC: attest again")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise UnattestedPeerError(f"the certificate carries {len(uris)} SPIFFE ids, expected 1")
    if issued_by(certificate, policy.root.service.ca_certificate):
        return _attested(certificate, uris[0], policy, now=now)
    if issued_by(certificate, policy.root.admin_ca_certificate):
        return _administrator(uris[0], policy)
    raise UnattestedPeerError(f"{uris[0]} was not issued by the attestation service or the project's authority")


def _attested(certificate: x509.Certificate, uri: str, policy: CallerPolicy, *, now: datetime) -> AttestedPeer:
    result = result_in(certificate, policy.root.service.result_key)
    result.require_current(now)
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or spki_sha256(key) != result.cnf.tls_spki:
        raise UnattestedPeerError("the certificate's key is not the one that its Attestation Result confirms")
    expected = spiffe_id(policy.root.trust_domain, result.node, result.role, result.boot)
    if uri != expected:
        raise UnattestedPeerError(f"the certificate names {uri}, its Attestation Result {expected}")
    if result.mock and not policy.accept_mock:
        raise UnattestedPeerError(f"{result.node} has mock evidence, which this program does not accept")
    if result.revocation_epoch < policy.revocation_epoch():
        raise ReattestError(f"the result of {result.node} is of an earlier revocation epoch: attest again")
    return AttestedPeer(result=result, tls_spki=result.cnf.tls_spki)


def _administrator(uri: str, policy: CallerPolicy) -> Administrator:
    prefix = admin_spiffe_id(policy.root.trust_domain, "")
    if not uri.startswith(prefix) or not uri[len(prefix) :] or "/" in uri[len(prefix) :]:
        raise UnattestedPeerError(f"the project's authority may issue {prefix}NAME only, found {uri}")
    return Administrator(name=uri[len(prefix) :])
