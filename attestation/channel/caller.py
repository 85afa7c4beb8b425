"""Who is calling: read from the certificate of each call, because a handshake is not the check.

A resumed TLS session accepts an expired certificate, and an open stream outlives one. So at every call, and every few seconds of
a stream, the certificate decides again: who issued it, whom it names and what its Attestation Result says, which its bytes
settle once for all (`holder_of`), and whether it counts now (`Holder.admit`).
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Whom a certificate names: what its signatures say, whatever the time and the policy. Made by `holder_of` alone."""

    caller: Caller
    not_after: datetime

    def admit(self, policy: CallerPolicy, *, now: datetime) -> Caller:
        """Return the caller if the certificate counts now.

        Raises:
            ReattestError: It has expired, or is of an earlier revocation epoch.
            UnattestedPeerError: Its evidence is of a kind that this program does not accept.
        """
        if now >= self.not_after:
            raise ReattestError(f"the certificate ended at {self.not_after:%H:%M:%S} UTC: attest again")
        if isinstance(self.caller, AttestedPeer):
            result = self.caller.result
            result.require_current(now)
            if result.mock and not policy.accept_mock:
                raise UnattestedPeerError(f"{result.node} has mock evidence, which this program does not accept")
            if result.revocation_epoch < policy.revocation_epoch():
                raise ReattestError(f"the result of {result.node} is of an earlier revocation epoch: attest again")
        return self.caller


def identify(certificate_pem: bytes, policy: CallerPolicy, *, now: datetime) -> Caller:
    """Return who holds this certificate. The TLS handshake has shown that they hold its key.

    Raises:
        ReattestError: It has expired, or is of an earlier revocation epoch.
        UnattestedPeerError: It was not issued for this purpose by who must issue it, or names someone else than its result.
    """
    return holder_of(certificate_pem, policy.root).admit(policy, now=now)


def holder_of(certificate_pem: bytes, root: Root) -> Holder:
    """Verify a certificate's signatures, and what it says of its holder: the same for as long as `root` is the root.

    Raises:
        UnattestedPeerError: It was not issued for this purpose by who must issue it, or names someone else than its result.
    """
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    uris = _uris(certificate)
    if len(uris) != 1:
        raise UnattestedPeerError(f"the certificate carries {len(uris)} SPIFFE ids, expected 1")
    if issued_by(certificate, root.service.ca_certificate):
        caller: Caller = _attested(certificate, uris[0], root)
    elif issued_by(certificate, root.admin_ca_certificate):
        caller = _administrator(uris[0], root)
    else:
        raise UnattestedPeerError(f"{uris[0]} was not issued by the attestation service or the project's authority")
    return Holder(caller=caller, not_after=certificate.not_valid_after_utc)


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _attested(certificate: x509.Certificate, uri: str, root: Root) -> AttestedPeer:
    result = result_in(certificate, root.service.result_key)
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or spki_sha256(key) != result.cnf.tls_spki:
        raise UnattestedPeerError("the certificate's key is not the one that its Attestation Result confirms")
    expected = spiffe_id(root.trust_domain, result.node, result.role, result.boot)
    if uri != expected:
        raise UnattestedPeerError(f"the certificate names {uri}, its Attestation Result {expected}")
    return AttestedPeer(result=result, tls_spki=result.cnf.tls_spki)


def _administrator(uri: str, root: Root) -> Administrator:
    prefix = admin_spiffe_id(root.trust_domain, "")
    if not uri.startswith(prefix) or not uri[len(prefix) :] or "/" in uri[len(prefix) :]:
        raise UnattestedPeerError(f"the project's authority may issue {prefix}NAME only, found {uri}")
    return Administrator(name=uri[len(prefix) :])
