"""A report and its certificates to claims: was this signed by NVIDIA hardware, for this session.

What this does not prove: that the measured firmware is firmware NVIDIA released, which `rim_match` decides, and that
NVIDIA has not revoked a certificate since, which `ocsp` decides.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from attestation.errors import BindingMismatchError, EndorsementError, SignatureError
from attestation.nvidia_gpu.chain import DeviceClass, verify_chain
from attestation.nvidia_gpu.report import Feature, GpuReport
from attestation.trust_anchors import TrustAnchor, TrustAnchors


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuClaims:
    """Facts about one GPU or NVSwitch, signed by the device under a pinned root for one nonce.

    The measurements are authentic and say what this device measured, not that it is what NVIDIA released.
    """

    report: GpuReport
    anchor: TrustAnchor
    chain: tuple[x509.Certificate, ...]  # leaf first, the root last
    device_class: DeviceClass
    hwmodel: str  # "GH100"
    ueid: bytes  # 32 bytes, SHA-256 of the SubjectPublicKeyInfo of the chip's boot ROM key
    fwid: bytes | None  # 48 bytes, in report and certificate alike; None where the report has none

    @property
    def mock(self) -> bool:
        """Whether the chain ends in a development vendor's root, so that nothing here is attested by hardware."""
        return self.anchor.mock

    @property
    def measurements(self) -> Mapping[int, bytes]:
        """SPDM block index, from 1, to SHA-384 of 48 bytes: authentic, not compared with reference manifests."""
        return self.report.measurements

    @property
    def driver_version(self) -> str | None:
        """`550.90.07`; None on a switch."""
        return self.report.driver_version

    @property
    def vbios_version(self) -> str:
        """`96.00.9f.00.01`, lower case."""
        return self.report.vbios_version

    @property
    def feature(self) -> Feature | None:
        """How the device is shared; None where the driver does not say."""
        return self.report.feature


def verify(report: bytes, chain_pem: bytes, *, nonce: bytes, anchors: TrustAnchors, now: datetime) -> GpuClaims:
    """Verify one measurement report.

    1. The report follows the format.
    2. The nonce of the request is this session's.
    3. The certificates lead to a pinned root at `now`.
    4. The signature verifies.
    5. The firmware id of the report, where it has one, is that of the certificate.

    Args:
        report: SPDM request and response, as the driver gave them.
        chain_pem: Five certificates, PEM, leaf first.
        nonce: 32 bytes, what this session expects; compared in constant time.
        anchors: The pinned roots.
        now: The time to verify at, with a time zone.

    Raises:
        MalformedEvidenceError: Step 1, or a certificate does not decode.
        BindingMismatchError: Step 2.
        SignatureError: Step 3 or 4.
        EndorsementError: Step 5, or the leaf does not name a device.
    """
    # 1. Format.
    parsed = GpuReport.parse(report)

    # 2. Nonce: the request's. The responder chooses its own, so that one is no proof of freshness to us.
    if not hmac.compare_digest(parsed.nonce, nonce):
        raise BindingMismatchError(
            f"GPU report has request nonce {parsed.nonce.hex()}, expected {nonce.hex()}",
            hint="the report was made for another session; collect it again with this session's nonce",
        )

    # 3. Chain.
    device = verify_chain(chain_pem, anchors=anchors, now=now)

    # 4. Signature.
    try:
        device.public_key.verify(encode_dss_signature(parsed.r, parsed.s), parsed.signed, ec.ECDSA(SHA384()))
    except InvalidSignature as error:
        raise SignatureError("GPU report signature does not verify with the device's key") from error

    # 5. Firmware id: the key belongs to the firmware that wrote the report.
    if parsed.fwid is not None and parsed.fwid != device.fwid:
        found = device.fwid.hex() if device.fwid is not None else "none"
        raise EndorsementError(f"leaf certificate has firmware id {found}, expected {parsed.fwid.hex()} as reported")
    return GpuClaims(
        report=parsed,
        anchor=device.anchor,
        chain=device.chain,
        device_class=device.device_class,
        hwmodel=device.hwmodel,
        ueid=device.ueid,
        fwid=parsed.fwid,
    )
