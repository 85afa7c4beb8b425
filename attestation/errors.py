"""Everything that can go wrong while a machine proves what it is.

AttestationError
├── MalformedEvidenceError        the bytes do not follow the vendor's format
├── SignatureError                a signature or certificate chain does not verify
├── BindingMismatchError          report data, or a nonce, is not the one this session expects
├── EndorsementError              vendor material about the platform is not usable
│   └── EndorsementUnavailableError   could not be fetched; a retry may help
├── AppraisalError                the evidence is genuine, and policy does not accept it; every finding is listed
├── ReplayError                   a nonce, challenge or result was used before
├── ReleaseDeniedError            the key service does not release to this machine
├── ReattestError                 the result ran out or a policy moved on; attest again
├── NotAttestedYetError           that node has not attested here; it may, and then a retry helps
├── RevokedError                  a machine, measurement or certificate that was accepted once is no longer
├── UnattestedPeerError           the other side of a channel has not proved what it is
├── AttesterUnavailableError      the device that makes evidence is absent or does not answer
└── MockTeeError                  the development vendor refuses or cannot serve

Catch the narrowest name. Exit statuses are in `policies.errors.EXIT_CODES`.
"""

from __future__ import annotations

from attestation.findings import Finding, worst_first
from policies.errors import CloisterError


class AttestationError(CloisterError):
    """A machine did not prove what it is."""

    code = "attestation"


class MalformedEvidenceError(AttestationError):
    """The bytes do not follow the vendor's format."""

    code = "attestation.malformed"


class SignatureError(AttestationError):
    """A signature or certificate chain does not verify."""

    code = "attestation.signature"


class BindingMismatchError(AttestationError):
    """Report data, or a nonce, is not the one this session expects: evidence made for somebody else."""

    code = "attestation.binding"


class EndorsementError(AttestationError):
    """Vendor material about the platform (certificates, revocation lists) is not usable."""

    code = "attestation.endorsement"


class EndorsementUnavailableError(EndorsementError):
    """Vendor material could not be fetched; a retry may help."""

    code = "attestation.endorsement.unavailable"
    retryable = True


class AppraisalError(AttestationError):
    """The evidence is genuine, and policy does not accept what it says.

    Args:
        message: What was appraised.
        findings: Everything that is wrong with it; the message lists them, worst first.
        hint: What to do about it; by default the repair of the worst finding.
    """

    code = "attestation.appraisal"

    def __init__(self, message: str, *, findings: tuple[Finding, ...], hint: str | None = None) -> None:
        self.findings = worst_first(findings)
        text = f"{message}: {'; '.join(map(str, self.findings))}" if findings else message
        super().__init__(text, hint=hint or (self.findings[0].repair if findings else None))


class ReplayError(AttestationError):
    """A nonce, challenge or result was used before."""

    code = "attestation.replay"


class ReleaseDeniedError(AttestationError):
    """The key service does not release to this machine."""

    code = "attestation.release"


class ReattestError(AttestationError):
    """The attestation result ran out, or a policy moved on: attest again."""

    code = "attestation.reattest"
    retryable = True


class NotAttestedYetError(AttestationError):
    """That node has not attested here; it may, and then a retry helps."""

    code = "attestation.not_yet"
    retryable = True


class RevokedError(AttestationError):
    """A machine, measurement or certificate that was accepted once is no longer."""

    code = "attestation.revoked"


class UnattestedPeerError(AttestationError):
    """The other side of a channel has not proved what it is."""

    code = "attestation.unattested_peer"


class AttesterUnavailableError(AttestationError):
    """The device that makes evidence is absent or does not answer."""

    code = "attestation.attester"


class MockTeeError(AttestationError):
    """The development vendor refuses or cannot serve."""

    code = "attestation.mock_tee"
