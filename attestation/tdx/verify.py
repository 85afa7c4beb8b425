"""A quote and its collateral to claims: was this signed by Intel hardware, on which platform, at which firmware.

Cryptography and consistency only. Whether anybody wants such a trust domain is `appraise`; whether the quote was made for
this session is `appraise.verify_binding`. `dcap-qvl` does the larger part of the work and leaves some open: bytes behind
the quote, the roles of certificates, what each status means for us. That part is done here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from attestation.tdx.chain import verify_chains
from attestation.tdx.collateral import TdxCollateral
from attestation.tdx.dcap import TcbClaims, TdxPlatform, verify_quote
from attestation.tdx.quote import Quote
from attestation.tdx.report import TdReport
from attestation.trust_anchors import TrustAnchor, TrustAnchors


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxClaims:
    """Facts about one trust domain, signed under a pinned root; not yet compared with any policy.

    The bytes of a quote are no replay defence: ECDSA lets anyone turn `(r, s)` into `(r, n - s)`.
    """

    version: int  # of the quote: 4 or 5
    report: TdReport
    platform: TdxPlatform
    tcb: TcbClaims
    anchor: TrustAnchor

    @property
    def mock(self) -> bool:
        """Whether the chain ends in a development vendor's root, so that nothing here is attested by hardware."""
        return self.anchor.mock


def verify(quote: bytes, collateral: TdxCollateral, *, anchors: TrustAnchors, now: datetime) -> TdxClaims:
    """Verify one quote.

    1. The quote follows the format, and nothing but zeros is behind it.
    2. TCB info and QE identity are in force at `now`.
    3. The certificates lead to a pinned root at `now`, each in its role, none revoked; the PCK signed the QE report.
    4. The quoting enclave is Intel's and vouches for the key that signed the report; the collateral is signed and of this
       platform; the platform is at a TCB level that Intel lists.

    Args:
        quote: At most 32 KiB, as the platform gave it, padding included.
        collateral: What Intel says about the platform.
        anchors: The pinned roots.
        now: The time to verify at, with a time zone.

    Raises:
        MalformedEvidenceError: Step 1, or a part of the collateral does not decode.
        EndorsementError: Step 2, a revocation list is not usable, or the collateral is of another platform.
        RevokedError: Intel revoked a certificate.
        SignatureError: A chain, a role or a signature does not hold, or the quoting enclave is not Intel's.
        AppraisalError: The quote is genuine, of a trust domain or platform that no policy can want.
    """
    # 1. Format.
    parsed = Quote.parse(quote)

    # 2. Time, before any chain: certificates outlive collateral, and the collateral is what has to be fetched anew.
    collateral.check_in_force(now)

    # 3. Certificates.
    root = verify_chains(parsed, collateral, anchors=anchors, now=now)

    # 4. Signatures and TCB.
    platform, tcb = verify_quote(parsed.raw, collateral, root_der=root.der, now=now)
    return TdxClaims(version=parsed.version, report=parsed.report, platform=platform, tcb=tcb, anchor=root.anchor)
