"""The key that signed a report, traced to a pinned AMD root: VEK, then ASK or ASVK, then ARK.

A VCEK belongs to one chip at one TCB; a VLEK belongs to a cloud provider at one TCB. What the certificates say about
the key (chip, TCB, provider) becomes `VekClaims`; `verify` compares it with the report.

Source: AMD 57230 (VCEK certificate and KDS interface specification).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA384

from attestation.certificates import (
    common_name,
    extension_value,
    is_ca,
    read_der,
    verify_not_revoked,
    verify_path,
)
from attestation.errors import EndorsementError, SignatureError
from attestation.snp.tcb import Product, Tcb
from attestation.trust_anchors import TrustAnchor, TrustAnchors

VekKind = Literal["vcek", "vlek"]

CHIP_ID_SIZE = 64  # bytes, in a report
_HWID_SIZES: Mapping[Product, int] = {"Milan": 64, "Genoa": 64, "Turin": 8}  # bytes, in a certificate
_PRODUCTS: Mapping[str, Product] = {"Milan": "Milan", "Genoa": "Genoa", "Turin": "Turin"}

_OID = "1.3.6.1.4.1.3704.1"
_OID_STRUCT_VERSION, _OID_PRODUCT, _OID_HWID, _OID_CSP = f"{_OID}.1", f"{_OID}.2", f"{_OID}.4", f"{_OID}.5"
_OID_BOOTLOADER, _OID_TEE, _OID_SNP = f"{_OID}.3.1", f"{_OID}.3.2", f"{_OID}.3.3"
_OID_MICROCODE, _OID_FMC = f"{_OID}.3.8", f"{_OID}.3.9"
_OIDS_RESERVED = (f"{_OID}.3.4", f"{_OID}.3.5", f"{_OID}.3.6", f"{_OID}.3.7")

_DER_INTEGER, _DER_OCTET_STRING, _DER_IA5_STRING = 0x02, 0x04, 0x16

_CA_KEY_BITS = 4096
_CA_PADDING = padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=48)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpEndorsements:
    """AMD's certificates for one platform, unverified: the host supplies them. Each DER."""

    vek: bytes  # the VCEK or VLEK
    intermediate: bytes  # the ASK above a VCEK, the ASVK above a VLEK
    root: bytes  # the ARK
    crl: bytes | None  # the ARK's revocation list


@dataclass(frozen=True, slots=True, kw_only=True)
class VekClaims:
    """What AMD says about the key that signs a platform's reports."""

    anchor: TrustAnchor
    product: Product
    kind: VekKind
    public_key: ec.EllipticCurvePublicKey  # P-384
    tcb: Tcb  # the key exists at this TCB only
    chip_id: bytes | None  # VCEK: 64 bytes, padded with zeros on Turin; VLEK: None
    csp_id: str | None  # VLEK: the cloud provider, "CN=cc-us-east-2.amazonaws.com"; VCEK: None


def verify_chain(endorsements: SnpEndorsements, *, anchors: TrustAnchors, now: datetime) -> VekClaims:
    """Verify the certificates of one platform.

    1. The root is pinned, and is the ARK of the product line that it is pinned for.
    2. The three names belong together: a VCEK under an ASK, a VLEK under an ASVK, all of one product line.
    3. The signing key is an EC key on P-384 and not an authority.
    4. The path holds at `now`; every signature is RSASSA-PSS with SHA-384, salt 48, by a key of 4096 bits.
    5. Where a revocation list is given, it is in force and the intermediate is not on it.
    6. AMD's extensions are complete and of this product line.

    Args:
        endorsements: Certificates and, optionally, the revocation list.
        anchors: The pinned roots.
        now: The time to verify at, with a time zone.

    Raises:
        MalformedEvidenceError: A certificate or the list does not decode.
        SignatureError: Step 1 to 4.
        EndorsementError: Step 5 or 6.
        RevokedError: The intermediate is on the list.
    """
    # 1. The root.
    anchor = anchors.find("amd", endorsements.root)
    product = _PRODUCTS.get(anchor.product)
    root = read_der(endorsements.root, what="ARK")
    if product is None or common_name(root.subject) != f"ARK-{product}":
        raise SignatureError(
            f"root {common_name(root.subject)} is pinned as {anchor.product}, expected that ARK's name"
        )

    # 2. The names.
    vek = read_der(endorsements.vek, what="VEK")
    intermediate = read_der(endorsements.intermediate, what="ASK or ASVK")
    kind = _kind(vek, intermediate, product=product)

    # 3. The signing key.
    public_key = vek.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP384R1):
        raise SignatureError(f"{kind.upper()} key is not on P-384, expected ECDSA P-384")
    if is_ca(vek):
        raise SignatureError(f"{kind.upper()} is a certificate authority, expected an end entity")

    # 4. The path.
    verify_path((vek, intermediate, root), check_signature=_check_signature, now=now)

    # 5. Revocation. AMD revokes intermediates only; a VEK ends with the TCB it belongs to.
    if endorsements.crl is not None:
        verify_not_revoked(intermediate, root, crl_der=endorsements.crl, now=now)

    # 6. What AMD says about the key.
    _check_product(vek, product=product)
    return VekClaims(
        anchor=anchor,
        product=product,
        kind=kind,
        public_key=public_key,
        tcb=_tcb(vek, product=product),
        chip_id=_chip_id(vek, product=product) if kind == "vcek" else None,
        csp_id=_csp_id(vek) if kind == "vlek" else None,
    )


def _kind(vek: x509.Certificate, intermediate: x509.Certificate, *, product: Product) -> VekKind:
    names = (common_name(vek.subject), common_name(intermediate.subject))
    if names == ("SEV-VCEK", f"SEV-{product}"):
        return "vcek"
    if names == ("SEV-VLEK", f"SEV-VLEK-{product}"):
        return "vlek"
    raise SignatureError(
        f"chain is {names[0] or '?'} under {names[1] or '?'}, "
        f"expected SEV-VCEK under SEV-{product} or SEV-VLEK under SEV-VLEK-{product}"
    )


def _check_signature(subject: x509.Certificate, issuer: x509.Certificate) -> None:
    """Verify one signature by AMD's scheme; raises `InvalidSignature` for every other scheme and key too."""
    key = issuer.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _CA_KEY_BITS:
        raise InvalidSignature
    key.verify(subject.signature, subject.tbs_certificate_bytes, _CA_PADDING, SHA384())


def _check_product(vek: x509.Certificate, *, product: Product) -> None:
    name = _der_value(vek, _OID_PRODUCT, tag=_DER_IA5_STRING, what="product name").decode("ascii", "replace")
    if name.partition("-")[0] != product:  # "Milan-B0": a stepping may follow
        raise EndorsementError(f"VEK is for product {name!r}, expected {product}")
    version, expected = _number(vek, _OID_STRUCT_VERSION, what="struct version"), 1 if product == "Turin" else 0
    if version != expected:
        raise EndorsementError(f"VEK has struct version {version}, expected {expected} on {product}")


def _tcb(vek: x509.Certificate, *, product: Product) -> Tcb:
    for oid in _OIDS_RESERVED:
        if extension_value(vek, oid) is not None and _number(vek, oid, what="reserved SPL"):
            raise EndorsementError(f"VEK has reserved SPL {oid} set, expected 0")
    if product != "Turin" and extension_value(vek, _OID_FMC) is not None:
        raise EndorsementError(f"VEK has an FMC SPL, expected none on {product}")
    return Tcb(
        bootloader=_number(vek, _OID_BOOTLOADER, what="bootloader SPL"),
        tee=_number(vek, _OID_TEE, what="TEE SPL"),
        snp=_number(vek, _OID_SNP, what="SNP SPL"),
        microcode=_number(vek, _OID_MICROCODE, what="microcode SPL"),
        fmc=_number(vek, _OID_FMC, what="FMC SPL") if product == "Turin" else None,
    )


def _chip_id(vek: x509.Certificate, *, product: Product) -> bytes:
    size = _HWID_SIZES[product]
    value = _required(vek, _OID_HWID, what="hwID")
    # Every genuine VCEK has the raw bytes; some other issuers' wrap them in an OCTET STRING.
    raw = value[2:] if value[:2] == bytes((_DER_OCTET_STRING, size)) and len(value) == size + 2 else value
    if len(raw) != size:
        raise EndorsementError(f"VCEK has a hwID of {len(raw)} bytes, expected {size} on {product}")
    return raw.ljust(CHIP_ID_SIZE, b"\0")


def _csp_id(vek: x509.Certificate) -> str:
    return _der_value(vek, _OID_CSP, tag=_DER_IA5_STRING, what="cspID").decode("ascii", "replace")


def _number(vek: x509.Certificate, oid: str, *, what: str) -> int:
    value = _der_value(vek, oid, tag=_DER_INTEGER, what=what)
    number = int.from_bytes(value, "big", signed=True)
    if number not in range(256) or len(value) != (1 if number < 128 else 2):  # 0xDB is 02 02 00 DB
        raise EndorsementError(f"VEK has {what} {value.hex()}, expected an INTEGER of 0 to 255")
    return number


def _der_value(vek: x509.Certificate, oid: str, *, tag: int, what: str) -> bytes:
    """Return the content of a short DER value (below 128 bytes) that fills its extension."""
    der = _required(vek, oid, what=what)
    if len(der) < 3 or der[0] != tag or der[1] != len(der) - 2 or der[1] > 127:
        raise EndorsementError(f"VEK has {what} {der.hex()}, expected one DER value with tag {tag:#04x}")
    return der[2:]


def _required(vek: x509.Certificate, oid: str, *, what: str) -> bytes:
    value = extension_value(vek, oid)
    if value is None:
        raise EndorsementError(f"VEK has no {what} (extension {oid}), expected one")
    return value
