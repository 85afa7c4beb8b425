"""The other direction: a node, an organisation or an administrator verifies the attestation service itself.

Nothing is sent to a service that has not been through here, and the channel that follows believes only the certificate whose
key was in the evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from attestation.appraisal import appraise_service
from attestation.binding import require_equal, service_report_data
from attestation.core import ServiceCore, ServiceInitData
from attestation.errors import AppraisalError, MalformedEvidenceError, SignatureError
from attestation.evidence import CpuEvidence
from attestation.issue import issued_by
from attestation.keys import certificate_spki_sha256
from attestation.snp.verify import SnpClaims
from attestation.trust_anchors import TrustAnchors
from attestation.verifier import verify_cpu
from policies.errors import MalformedDocumentError
from policies.init_data import init_data_digest
from policies.root import Root


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceClaims:
    """What the service's hardware says, bound to its keys. Not yet compared with a root."""

    core: ServiceCore
    cpu: SnpClaims
    launched_for: ServiceInitData
    tls_certificate: bytes  # PEM: its key was in the evidence
    ca_certificate: bytes  # DER: its key was in the evidence


def verify_service(
    *,
    core: bytes,
    cpu: CpuEvidence,
    init_data: bytes,
    tls_certificate: bytes,
    ca_certificate: bytes,
    nonce: bytes,
    anchors: TrustAnchors,
    now: datetime,
) -> ServiceClaims:
    """Verify the service's evidence: genuine, made for this nonce, and about these two certificates.

    Raises:
        AttestationError: The narrowest class that says what does not hold.
    """
    try:
        parsed = ServiceCore.parse(core)
        launched = ServiceInitData.parse(init_data)
        leaf = x509.load_pem_x509_certificate(tls_certificate)
        authority = x509.load_der_x509_certificate(ca_certificate)
        tls_spki, ca_spki = certificate_spki_sha256(leaf), certificate_spki_sha256(authority)
    except (MalformedDocumentError, ValueError, UnsupportedAlgorithm) as error:
        raise MalformedEvidenceError(f"the service's evidence: {error}") from error
    claims = verify_cpu(cpu, anchors=anchors, now=now)
    require_equal("the service's report data", claims.report.report_data, service_report_data(parsed.tee, core))
    require_equal("the service's HOST_DATA", claims.report.host_data, init_data_digest(init_data))
    require_equal("the service's nonce", parsed.client_nonce, nonce)
    require_equal("the service's image", parsed.image, claims.report.measurement)
    require_equal("the service's TLS key", tls_spki, parsed.tls_spki)
    require_equal("the service's node authority", ca_spki, parsed.ca_spki)
    if not issued_by(leaf, ca_certificate):
        raise SignatureError("the service's TLS certificate was not issued by its own authority")
    return ServiceClaims(
        core=parsed, cpu=claims, launched_for=launched, tls_certificate=tls_certificate, ca_certificate=ca_certificate
    )


def appraise_pinned(claims: ServiceClaims, root: Root) -> None:
    """Compare the service with the one that the organisations verified when they signed the root.

    Raises:
        BindingMismatchError: Another authority, result key or log key.
        AppraisalError: Another image, or a platform that is not accepted.
    """
    pinned = root.service
    require_equal("the service's node authority", claims.ca_certificate, pinned.ca_certificate)
    require_equal("the service's result key", claims.core.result_key, pinned.result_key)
    require_equal("the service's log key", claims.core.log_key, pinned.log_key)
    findings = appraise_service(claims.cpu, pinned.image)
    if any(finding.status == "contraindicated" for finding in findings):
        raise AppraisalError("the attestation service is not the one that the root names", findings=findings)
