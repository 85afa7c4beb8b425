"""An NVIDIA of the tests' own: a device, its certificates and its reports, with every attribute open to be made wrong.

Encodes reports piece by piece, independently of `attestation.nvidia_gpu.report`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from attestation.trust_anchors import TrustAnchor, TrustAnchors
from tests.fakes.lab_x509 import CA, certificate, ec_key, pem, usage

NONCE = bytes(range(32))
FWID = b"\xf1" * 48
FWID_ELEMENT = bytes.fromhex("303d06096086480165030402020430") + FWID
HOPPER_OID, BLACKWELL_OID = "2.23.133.5.4.1", "2.23.133.5.4.1.1"
HOPPER_FWID = bytes((0x30, 3 + len(FWID_ELEMENT))) + b"\x02\x01\x01" + FWID_ELEMENT
NAMES = ("GH100 A01 GSP FMC LF", "GH100 A01 GSP BROM", "Provisioner ICA 1", "GH100 Identity", "Device Identity CA")


def blackwell_fwid(first: bytes = FWID_ELEMENT) -> bytes:
    zeros = FWID_ELEMENT[:15] + bytes(48)
    name = b"\x80\x06NVIDIA"
    listed = bytes((0xA6, len(first + zeros))) + first + zeros
    return bytes((0x30, 0x81, len(name + listed))) + name + listed


@cache
def keys() -> tuple[ec.EllipticCurvePrivateKey, ...]:
    """Return the keys of the five certificates, leaf first."""
    return tuple(ec_key() for _ in NAMES)


def chain(
    *, names: tuple[str, ...] = NAMES, fwid: dict[str, bytes] | None = None, changes: dict[int, dict] | None = None
) -> tuple[bytes, ...]:
    """Return five certificates, DER, leaf first; `changes` are attributes of the certificate at that place."""
    ders = []
    for place, subject in enumerate(names):
        above = min(place + 1, len(names) - 1)
        attributes = {
            "key": keys()[place],
            "signer": keys()[above],
            "ca": CA if place else None,
            "key_usage": usage(sign=not place, certify=bool(place)),
            "extensions": ({HOPPER_OID: HOPPER_FWID} if fwid is None else fwid) if not place else None,
        }
        ders.append(certificate(subject, names[above], **attributes | (changes or {}).get(place, {})))
    return tuple(ders)


@cache
def good_chain() -> tuple[bytes, ...]:
    return chain()


@cache
def good_pem() -> bytes:
    return pem(*good_chain())


def anchors(*, root: bytes | None = None, mock: bool = True) -> TrustAnchors:
    fingerprint = hashlib.sha256(root if root is not None else good_chain()[-1]).digest()
    return TrustAnchors((TrustAnchor(vendor="nvidia", product="Device Identity", sha256=fingerprint, mock=mock),))


def block(index: int, value: bytes, *, specification: int = 1, kind: int = 1, size: int | None = None) -> bytes:
    inner = bytes((kind,)) + len(value).to_bytes(2, "little") + value
    length = len(inner) if size is None else size
    return bytes((index, specification)) + length.to_bytes(2, "little") + inner


def measurement(index: int) -> bytes:
    return hashlib.sha384(bytes((index,))).digest()


GPU_FIELDS: dict[int, bytes] = {
    6: bytes.fromhex("009f009601000000"),
    3: b"580.95.05\0",
    11: b"\x55",
    20: FWID,
    21: b"\x55",
    34: b"\x01\x00",
    36: b"\x00\x00",
}
SWITCH_FIELDS: dict[int, bytes] = {6: b"96.10.55.00.01", 22: b"\x20" * 8}


@dataclass(frozen=True, kw_only=True)
class LabReport:
    """What one report says; a good Hopper by default."""

    request: bytes = bytes.fromhex("11e001ff")
    nonce: bytes = NONCE
    slot: bytes = b"\0"
    response: bytes = bytes.fromhex("11600000")
    blocks: tuple[bytes, ...] = tuple(block(index, measurement(index)) for index in range(1, 65))
    block_count: int | None = None
    record_length: int | None = None
    fields: dict[int, bytes] = field(default_factory=lambda: dict(GPU_FIELDS))
    more_opaque: bytes = b""
    opaque_length: int | None = None

    def but(self, **changes) -> LabReport:
        return replace(self, **changes)

    def with_fields(self, **changes: bytes | None) -> LabReport:
        """Change opaque fields by type, "_36" for 36; None takes one away."""
        fields = dict(self.fields)
        for name, value in changes.items():
            fields.pop(int(name[1:]), None)
            if value is not None:
                fields[int(name[1:])] = value
        return self.but(fields=fields)

    def signed(self) -> bytes:
        record = b"".join(self.blocks)
        opaque = b"".join(opaque_field(kind, value) for kind, value in self.fields.items()) + self.more_opaque
        count = len(self.blocks) if self.block_count is None else self.block_count
        record_length = len(record) if self.record_length is None else self.record_length
        opaque_length = len(opaque) if self.opaque_length is None else self.opaque_length
        return (
            self.request
            + self.nonce
            + self.slot
            + self.response
            + bytes((count,))
            + record_length.to_bytes(3, "little")
            + record
            + b"\xee" * 32
            + opaque_length.to_bytes(2, "little")
            + opaque
        )

    def encode(self, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
        signed = self.signed()
        r, s = decode_dss_signature((key or keys()[0]).sign(signed, ec.ECDSA(SHA384())))
        return signed + r.to_bytes(48, "big") + s.to_bytes(48, "big")


def opaque_field(kind: int, value: bytes) -> bytes:
    return kind.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value


SWITCH = LabReport(blocks=tuple(block(index, measurement(index)) for index in range(1, 32)), fields=dict(SWITCH_FIELDS))
SWITCH_NAMES = ("LS_10 A01 FSP FMC LF", "LS_10 A01 FSP BROM", *NAMES[2:])
