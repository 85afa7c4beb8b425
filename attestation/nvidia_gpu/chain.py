"""The key that signed a report, traced to the pinned NVIDIA device root.

Five certificates, leaf first: the key of the firmware that runs (FMC, made anew when the firmware changes), the key in
the chip's boot ROM (BROM, one for each chip), the provisioner, the product identity, the root.

Source: NVIDIA nvtrust, certificate chain of the attestation report; TCG DICE Attestation Architecture for the FWID.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.certificates import common_name, extension_value, is_ca, read_der, split_pem, verify_path
from attestation.errors import EndorsementError, SignatureError
from attestation.trust_anchors import TrustAnchor, TrustAnchors

DEVICE_ROOT = "Device Identity"  # product of the trust anchor: NVIDIA signs manifests under another root
CHAIN_LENGTH = 5
MAX_CHAIN_SIZE = 64 * 1024  # bytes of PEM; genuine chains are below 8 KiB

DeviceClass = Literal["gpu", "switch"]

_NAMES = ("leaf", "BROM", "provisioner", "identity", "root")
_LEAF_NAME = re.compile(r"(?:.* )?(?P<model>[A-Z][A-Z0-9_]+) \S+ [GF]SP FMC LF")  # "GH100 A01 GSP FMC LF"

_OID_TCB_INFO, _OID_MULTI_TCB_INFO = "2.23.133.5.4.1", "2.23.133.5.4.1.1"
_TAG_SEQUENCE = 0x30
_TAG_FWIDS = 0xA6  # [6] FWIDLIST
# SEQUENCE { OID sha384, OCTET STRING of 48 bytes }; the digest follows.
_FWID_HEAD = bytes.fromhex("303d0609608648016503040202") + bytes((0x04, 48))
_FWID_SIZE = len(_FWID_HEAD) + 48


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKeyClaims:
    """What NVIDIA's chain says about the key that signs a device's reports."""

    anchor: TrustAnchor
    chain: tuple[x509.Certificate, ...]  # leaf first, the root last
    device_class: DeviceClass
    hwmodel: str  # "GH100"
    ueid: bytes  # 32 bytes, SHA-256 of the BROM key's SubjectPublicKeyInfo: one for each chip, whatever its firmware
    public_key: ec.EllipticCurvePublicKey  # P-384
    fwid: bytes | None  # 48 bytes, digest of the firmware that holds the key


def verify_chain(chain_pem: bytes, *, anchors: TrustAnchors, now: datetime) -> DeviceKeyClaims:
    """Verify the certificates of one device.

    1. There are five, and nothing else in the file.
    2. The last is pinned.
    3. The first is a leaf: a firmware key by its name, an end entity, allowed to sign.
    4. The path holds at `now`; every key is on P-384 and every signature ECDSA with SHA-384.
    5. The leaf names a GPU or a switch, and at most one firmware.

    Args:
        chain_pem: PEM, leaf first, the root included.
        anchors: The pinned roots.
        now: The time to verify at, with a time zone.

    Raises:
        MalformedEvidenceError: A certificate does not decode.
        SignatureError: Step 1 to 4.
        EndorsementError: Step 5.
    """
    # 1. Five certificates.
    if len(chain_pem) > MAX_CHAIN_SIZE:
        raise SignatureError(f"chain has {len(chain_pem)} bytes, expected at most {MAX_CHAIN_SIZE}")
    ders = split_pem(chain_pem, what="device chain")
    if len(ders) != CHAIN_LENGTH:
        raise SignatureError(f"chain has {len(ders)} certificates, expected {CHAIN_LENGTH}, leaf first, with the root")

    # 2. The root, by fingerprint: a look-alike has the right names.
    anchor = anchors.find("nvidia", ders[-1], product=DEVICE_ROOT)
    chain = tuple(read_der(der, what=name) for der, name in zip(ders, _NAMES, strict=True))

    # 3. The leaf.
    leaf, brom = chain[0], chain[1]
    name = _LEAF_NAME.fullmatch(common_name(leaf.subject))
    if name is None or is_ca(leaf) or not may_sign(leaf):
        raise SignatureError(f"leaf is {common_name(leaf.subject)!r}, expected a firmware key (FMC LF) that may sign")
    public_key = leaf.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP384R1):
        raise SignatureError("leaf key is not on P-384, expected ECDSA P-384")

    # 4. The path.
    verify_path(chain, check_signature=check_signature, now=now)

    # 5. The device.
    spki = brom.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return DeviceKeyClaims(
        anchor=anchor,
        chain=chain,
        device_class=_device_class(name["model"]),
        hwmodel=name["model"],
        ueid=hashlib.sha256(spki).digest(),
        public_key=public_key,
        fwid=_fwid(leaf),
    )


def check_signature(subject: x509.Certificate, issuer: x509.Certificate) -> None:
    """Verify one signature by NVIDIA's scheme; raises `InvalidSignature` for every other scheme and key too."""
    key = issuer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise InvalidSignature
    key.verify(subject.signature, subject.tbs_certificate_bytes, ec.ECDSA(SHA384()))


def may_sign(leaf: x509.Certificate) -> bool:
    """Whether the certificate's key is for signing data, and not for signing certificates."""
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return usage.digital_signature and not usage.key_cert_sign


def _device_class(model: str) -> DeviceClass:
    if model.startswith("LS"):
        return "switch"
    if model.startswith("G"):
        return "gpu"
    raise EndorsementError(f"leaf is of a {model}, expected a GPU (G...) or an NVSwitch (LS...)")


def _fwid(leaf: x509.Certificate) -> bytes | None:
    """Return the first firmware digest of the leaf, or None where it has none.

    Hopper writes a structure whose last element is the FWID; Blackwell writes a DiceTcbInfo with a list of two under
    tag [6], of which the first counts and the second is zero.
    """
    values = [
        value for oid in (_OID_TCB_INFO, _OID_MULTI_TCB_INFO) if (value := extension_value(leaf, oid)) is not None
    ]
    if len(values) > 1:
        raise EndorsementError("leaf has both kinds of firmware id, expected at most one")
    if not values:
        return None
    tag, sequence, rest = _read_element(values[0])
    if tag != _TAG_SEQUENCE or rest:
        raise EndorsementError("leaf has a firmware id that is not one SEQUENCE")
    for tag, element, content in _elements(sequence):
        fwid = _elements(content)[0][1] if tag == _TAG_FWIDS and content else element
        if fwid.startswith(_FWID_HEAD) and len(fwid) == _FWID_SIZE:
            return fwid[len(_FWID_HEAD) :]
    raise EndorsementError("leaf has a firmware id that does not decode, expected a SHA-384 FWID")


def _elements(der: bytes) -> tuple[tuple[int, bytes, bytes], ...]:
    """Return (tag, element, content) of each DER element, to the end of the bytes."""
    found = []
    while der:
        tag, content, rest = _read_element(der)
        found.append((tag, der[: len(der) - len(rest)], content))
        der = rest
    return tuple(found)


def _read_element(der: bytes) -> tuple[int, bytes, bytes]:
    """Return tag, content and what follows; lengths up to 255 bytes, which is more than a firmware id needs."""
    if len(der) < 2 or der[1] > 0x81 or der[1] == 0x80 or (der[1] == 0x81 and len(der) < 3):
        raise EndorsementError("leaf has a firmware id whose DER does not decode")
    start, length = (3, der[2]) if der[1] == 0x81 else (2, der[1])
    if len(der) < start + length:
        raise EndorsementError(f"leaf has a firmware id element of {length} bytes, found {len(der) - start}")
    return der[0], der[start : start + length], der[start + length :]
