"""A report and its certificates to claims: was this signed by AMD hardware, by which chip, at which firmware.

Cryptography and consistency only. Whether anybody wants such a machine is `appraise`; whether the report was made for
this session is `appraise.verify_binding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from attestation.errors import EndorsementError, MalformedEvidenceError, SignatureError
from attestation.snp.chain import SnpEndorsements, VekKind, verify_chain
from attestation.snp.report import SnpReport
from attestation.snp.tcb import Product
from attestation.trust_anchors import TrustAnchor, TrustAnchors

P384_ORDER = int(  # n of P-384; NIST SP 800-186, section 3.2.1.4
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpClaims:
    """Facts about one guest, signed by the platform's key under a pinned root; not yet compared with any policy.

    The bytes of a report are no replay defence: ECDSA lets anyone turn `(r, s)` into `(r, n - s)`.
    """

    report: SnpReport
    product: Product
    anchor: TrustAnchor
    signing_key: VekKind
    chip_id: bytes  # 64 bytes; zero under a VLEK whose provider masks it
    csp_id: str | None  # VLEK: the cloud provider; VCEK: None

    @property
    def mock(self) -> bool:
        """Whether the chain ends in a development vendor's root, so that nothing here is attested by hardware."""
        return self.anchor.mock


def verify(report: bytes, endorsements: SnpEndorsements, *, anchors: TrustAnchors, now: datetime) -> SnpClaims:
    """Verify one attestation report.

    1. The report follows the format.
    2. The certificates lead to a pinned root at `now`.
    3. The signing key belongs to the TCB that the report states.
    4. It belongs to the chip that the report names.
    5. It is of the kind that the report names.
    6. CPUID, certificates and root are of one product line.
    7. The signature verifies.
    8. Reported TCB <= committed TCB <= current TCB.

    Args:
        report: 1184 bytes, as the firmware gave them.
        endorsements: The certificates, DER.
        anchors: The pinned roots.
        now: The time to verify at, with a time zone.

    Raises:
        MalformedEvidenceError: Step 1 or 8, or a certificate does not decode.
        EndorsementError: Steps 2 to 6: the certificates are not of this platform, or their list is not usable.
        RevokedError: AMD revoked the intermediate.
        SignatureError: Step 2 or 7.
    """
    # 1. Format.
    parsed = SnpReport.parse(report)

    # 2. Chain.
    vek = verify_chain(endorsements, anchors=anchors, now=now)

    # 3. TCB. A host can set the reported TCB low; this key then proves that firmware, and appraisal sees it.
    if vek.tcb != parsed.reported_tcb:
        raise EndorsementError(f"VEK is for TCB ({vek.tcb}), expected the reported TCB ({parsed.reported_tcb})")

    # 4. Chip. A masked (zero) chip id cannot be tied to a VCEK; a VLEK is not tied to a chip.
    if vek.chip_id is not None and vek.chip_id != parsed.chip_id:
        raise EndorsementError(f"VCEK is for chip {vek.chip_id.hex()}, expected chip {parsed.chip_id.hex()}")

    # 5. Kind of key.
    if parsed.signing_key != vek.kind:
        raise EndorsementError(f"report is signed by key kind {parsed.signing_key}, expected {vek.kind}")

    # 6. Product line. Version 2 names none; step 3 has kept it away from Turin, whose TCB has one component more.
    if parsed.product not in (None, vek.product):
        raise EndorsementError(f"certificates are for {vek.product}, expected {parsed.product} as CPUID says")

    # 7. Signature.
    _check_signature(parsed, vek.public_key)

    # 8. Firmware keeps this order, so another one is not firmware's.
    if not (parsed.committed_tcb.at_least(parsed.reported_tcb) and parsed.current_tcb.at_least(parsed.committed_tcb)):
        raise MalformedEvidenceError(
            f"TCB is reported ({parsed.reported_tcb}), committed ({parsed.committed_tcb}), "
            f"current ({parsed.current_tcb}), expected reported <= committed <= current"
        )
    return SnpClaims(
        report=parsed,
        product=vek.product,
        anchor=vek.anchor,
        signing_key=vek.kind,
        chip_id=parsed.chip_id,
        csp_id=vek.csp_id,
    )


def _check_signature(report: SnpReport, key: ec.EllipticCurvePublicKey) -> None:
    # All zero is what unsigned reports carry; r + n is the same signature to a careless verifier.
    if not (0 < report.r < P384_ORDER and 0 < report.s < P384_ORDER):
        raise SignatureError("report signature has r or s outside 1 to n-1, expected an ECDSA P-384 signature")
    try:
        key.verify(encode_dss_signature(report.r, report.s), report.signed, ec.ECDSA(SHA384()))
    except InvalidSignature as error:
        raise SignatureError("report signature does not verify with the platform's key") from error
