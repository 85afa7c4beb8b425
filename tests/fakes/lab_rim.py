"""Reference manifests of the tests' own NVIDIA, signed as NVIDIA signs them, with every attribute open to be made wrong.

Canonical form, digest and signature are computed here, independently of the library that verifies them.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from dataclasses import dataclass, field, replace
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from lxml import etree

from attestation.trust_anchors import TrustAnchor, TrustAnchors
from tests.fakes.lab_nvidia import measurement
from tests.fakes.lab_x509 import CA, certificate, ec_key, usage

NAMES = ("HCC RIM L4 Signer", "Reference Value L3 GH100", "Reference Value GH100 CA", "CoRIM signing Root CA")
DRIVER_ID = "NV_GPU_DRIVER_GH100_580.95.05"
VBIOS_ID = "NV_GPU_VBIOS_1010_0200_885_96009F0001"
SWITCH_ID = "NV_SWITCH_BIOS_5612_0002_890_9610550001"

C14N = "http://www.w3.org/2006/12/xml-c14n11"
SIGNED_INFO = (
    f'<ds:SignedInfo><ds:CanonicalizationMethod Algorithm="{C14N}"/>'
    '<ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"/>'
    '<ds:Reference URI=""><ds:Transforms>'
    '<ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>'
    f'<ds:Transform Algorithm="{C14N}"/></ds:Transforms>'
    '<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384"/>'
    "<ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
)
_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_HEAD = (
    f'<SoftwareIdentity xmlns="{_SWID}" xmlns:ns0="{_SWID}" xmlns:ns2="http://www.w3.org/2001/04/xmlenc#sha384" '
    'name="GH100" tagId="x" version="1.0">'
)


@cache
def rim_keys() -> tuple[ec.EllipticCurvePrivateKey, ...]:
    """Return the keys of the four certificates, signer first."""
    return tuple(ec_key() for _ in NAMES)


def rim_chain(*, names: tuple[str, ...] = NAMES, changes: dict[int, dict] | None = None) -> tuple[bytes, ...]:
    """Return four certificates, DER, signer first; `changes` are attributes of the certificate at that place."""
    ders = []
    for place, subject in enumerate(names):
        above = min(place + 1, len(names) - 1)
        attributes = {
            "key": rim_keys()[place],
            "signer": rim_keys()[above],
            "ca": CA if place else None,
            "key_usage": usage(sign=not place, certify=bool(place)),
            "serial": 100 + place,
        }
        ders.append(certificate(subject, names[above], **attributes | (changes or {}).get(place, {})))
    return tuple(ders)


@cache
def good_rim_chain() -> tuple[bytes, ...]:
    return rim_chain()


def rim_anchors(*, root: bytes | None = None, product: str = "CoRIM signing", mock: bool = True) -> TrustAnchors:
    fingerprint = hashlib.sha256(root if root is not None else good_rim_chain()[-1]).digest()
    return TrustAnchors((TrustAnchor(vendor="nvidia", product=product, sha256=fingerprint, mock=mock),))


def resource(index: int | str, *digests: bytes, active: str = "True", tag: str = "Resource", **attributes: str) -> str:
    """Return one entry of the payload; `attributes` replace those that follow from the digests."""
    hashes = {f"ns2:Hash{number}": digest.hex() for number, digest in enumerate(digests)}
    given = {"type": "Measurement", "index": str(index), "active": active, "alternatives": str(len(digests))}
    chosen = given | hashes | {"name": f"Measurement_{index}", "size": "48"} | attributes
    return f"<ns0:{tag} " + " ".join(f'{name}="{value}"' for name, value in chosen.items()) + "/>"


def unused(index: int) -> str:
    return resource(index, bytes(48), active="False")


@dataclass(frozen=True, kw_only=True)
class LabRim:
    """What one manifest says; the driver of the good lab report by default, which measures indices 20 to 40."""

    version: str = "580.95.05"
    edition: str = "GPU"
    product: str = "GH100"
    meta: str | None = None
    resources: tuple[str, ...] = (
        *(unused(index) for index in range(20)),
        *(resource(index, measurement(index + 1)) for index in range(20, 41)),
        *(unused(index) for index in range(41, 64)),
    )
    signed_info: str = SIGNED_INFO
    certificates: tuple[bytes, ...] = field(default_factory=good_rim_chain)
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: rim_keys()[0])

    def but(self, **changes) -> LabRim:
        return replace(self, **changes)

    def body(self) -> str:
        attributes = f'colloquialVersion="{self.version}" edition="{self.edition}" product="{self.product}"'
        meta = f"<ns0:Meta {attributes}/>" if self.meta is None else self.meta
        return f"{_HEAD}{meta}<ns0:Payload>{''.join(self.resources)}</ns0:Payload>"

    def encode(self) -> bytes:
        """Sign the whole document: digest of its canonical form, then the signature over SignedInfo's."""
        end = "</SoftwareIdentity>"
        digest = hashlib.sha384(_canonical(self.body() + end)).digest()
        info = self.signed_info.replace("{digest}", b64encode(digest).decode())
        unsigned = (
            f'{self.body()}<ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#">{info}</ds:Signature>{end}'
        )
        r, s = decode_dss_signature(self.key.sign(_canonical(unsigned, inner="SignedInfo"), ec.ECDSA(SHA384())))
        size = self.key.key_size // 8
        value = b64encode(r.to_bytes(size, "big") + s.to_bytes(size, "big")).decode()
        held = "".join(
            f"<ds:X509Certificate>{b64encode(der).decode()}</ds:X509Certificate>" for der in self.certificates
        )
        rest = (
            f"<ds:SignatureValue>{value}</ds:SignatureValue>"
            f"<ds:KeyInfo><ds:X509Data>{held}</ds:X509Data></ds:KeyInfo></ds:Signature>"
        )
        return unsigned.replace("</ds:Signature>", rest).encode()


VBIOS = LabRim(
    version="96.00.9F.00.01",
    resources=tuple(resource(index, measurement(index + 1)) for index in range(1, 13)),
)
SWITCH_BIOS = LabRim(
    version="96.10.55.00.01",
    edition="SWITCH",
    product="LS10",
    resources=tuple(resource(index, measurement(index + 1)) for index in range(31)),
)


def _canonical(text: str, *, inner: str | None = None) -> bytes:
    root = etree.fromstring(text)
    element = root if inner is None else root.find(f".//{{http://www.w3.org/2000/09/xmldsig#}}{inner}")
    return etree.tostring(element, method="c14n")
