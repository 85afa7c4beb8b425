"""Which vendor roots are believed, by the fingerprint of the certificate.

A chain is only as good as its end, and every chain that arrives with evidence came from the machine that is to be
checked. A verifier therefore looks its root up here and accepts none that is not pinned. Whether a root is a vendor's
or the development vendor's is a label of the *anchor*: it is copied to the claims, and nothing in a verifier asks for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from attestation.errors import SignatureError
from policies.errors import UsageError

Vendor = Literal["amd", "intel", "nvidia"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustAnchor:
    """One root certificate that ends a chain."""

    vendor: Vendor
    # AMD: the processor line, "Milan", "Genoa" or "Turin". Intel: "SGX Root". NVIDIA: "Device Identity", "CoRIM signing".
    product: str
    sha256: bytes  # 32 bytes, SHA-256 of the root certificate's DER
    mock: bool  # signs nothing but development evidence


@dataclass(frozen=True, slots=True)
class TrustAnchors:
    """The pinned roots of one verifier.

    Raises:
        UsageError: A fingerprint has a wrong size or is pinned twice, so that its label would depend on order.
    """

    anchors: tuple[TrustAnchor, ...]

    def __post_init__(self) -> None:
        for anchor in self.anchors:
            if len(anchor.sha256) != hashlib.sha256().digest_size:
                raise UsageError(
                    f"trust anchor {anchor.product} has a fingerprint of {len(anchor.sha256)} bytes, expected 32"
                )
        if len({anchor.sha256 for anchor in self.anchors}) != len(self.anchors):
            raise UsageError("a trust anchor is pinned twice, expected each fingerprint once")

    def find(self, vendor: Vendor, der: bytes, *, product: str | None = None) -> TrustAnchor:
        """Return the anchor of `vendor` that pins this root certificate.

        Args:
            vendor: Whose evidence is being verified; a root of another vendor does not count.
            der: The root certificate, DER, exact bytes.
            product: What the root must stand for, where a vendor has roots for different purposes; None: any.

        Raises:
            SignatureError: The root is not pinned for this vendor and product.
        """
        fingerprint = hashlib.sha256(der).digest()
        usable = [anchor for anchor in self.anchors if anchor.vendor == vendor and product in (None, anchor.product)]
        for anchor in usable:
            if anchor.sha256 == fingerprint:
                return anchor
        pinned = ", ".join(sorted(anchor.product for anchor in usable)) or "none"
        raise SignatureError(
            f"root certificate has SHA-256 {fingerprint.hex()}, expected one of the pinned {vendor} roots ({pinned})",
            hint="verify the evidence against the vendor's own root; a root that comes with evidence proves nothing",
        )


def with_development(anchors: Iterable[TrustAnchor]) -> TrustAnchors:
    """Return the genuine roots and these of a development vendor.

    Raises:
        UsageError: One of them is not labelled `mock`, or pins what is pinned already.
    """
    development = tuple(anchors)
    if any(not anchor.mock for anchor in development):
        raise UsageError("a development trust anchor is not labelled mock, expected mock=True on each")
    return TrustAnchors((*GENUINE.anchors, *development))


def _genuine(vendor: Vendor, product: str, sha256_hex: str) -> TrustAnchor:
    return TrustAnchor(vendor=vendor, product=product, sha256=bytes.fromhex(sha256_hex), mock=False)


# AMD: https://kdsintf.amd.com/vcek/v1/{Milan,Genoa,Turin}/cert_chain, second certificate (the ARK).
# Intel: https://certificates.trustedservices.intel.com/IntelSGXRootCA.der, the root of TDX too.
# NVIDIA: "NVIDIA Device Identity CA", the last certificate of every GPU and NVSwitch chain; "NVIDIA CoRIM signing Root
# CA", the last certificate inside every reference integrity manifest (https://rim.attestation.nvidia.com).
GENUINE = TrustAnchors(
    (
        _genuine("amd", "Milan", "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"),
        _genuine("amd", "Genoa", "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"),
        _genuine("amd", "Turin", "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"),
        _genuine("intel", "SGX Root", "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"),
        _genuine("nvidia", "Device Identity", "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"),
        _genuine("nvidia", "CoRIM signing", "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"),
    )
)
