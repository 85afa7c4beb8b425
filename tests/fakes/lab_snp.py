"""An AMD of the tests' own: a chip, its certificates and its reports, with every attribute open to be made wrong.

Encodes reports by offset, independently of `attestation.snp.report`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.snp.chain import SnpEndorsements
from attestation.trust_anchors import TrustAnchor, TrustAnchors
from tests.fakes.lab_x509 import CA, PSS_48, certificate, ec_key, load_rsa_key, name

OID = "1.3.6.1.4.1.3704.1"
CHIP_ID = bytes(range(1, 65))
CSP = "CN=cloud.example"
ASK_SERIAL = 0x10002
CRL_LAST = datetime(2026, 5, 1, tzinfo=UTC)
CRL_UNTIL = datetime(2026, 7, 1, tzinfo=UTC)

CPUID = {"Milan": (0x19, 0x01), "Genoa": (0x19, 0x11), "Turin": (0x1A, 0x02)}
TCB = {"Milan": "04000000000018db", "Genoa": "0a00000000001754", "Turin": "0101010400000051"}


@cache
def ark_key() -> rsa.RSAPrivateKey:
    return load_rsa_key("snp_ark")


@cache
def ask_key() -> rsa.RSAPrivateKey:
    return load_rsa_key("snp_ask")


@cache
def vek_key() -> ec.EllipticCurvePrivateKey:
    return ec_key()


@cache
def ark(product: str = "Milan") -> bytes:
    subject = f"ARK-{product}"
    return certificate(subject, subject, key=ark_key(), signer=ark_key(), ca=CA, serial=0x10001)


@cache
def ask(product: str = "Milan", role: str = "SEV") -> bytes:
    return certificate(f"{role}-{product}", f"ARK-{product}", key=ask_key(), signer=ark_key(), ca=CA, serial=ASK_SERIAL)


def anchors(product: str = "Milan", *, root: bytes | None = None, mock: bool = True) -> TrustAnchors:
    fingerprint = hashlib.sha256(root if root is not None else ark(product)).digest()
    return TrustAnchors((TrustAnchor(vendor="amd", product=product, sha256=fingerprint, mock=mock),))


def integer(number: int) -> bytes:
    size = number.bit_length() // 8 + 1
    return bytes((2, size)) + number.to_bytes(size, "big")


def text(value: str) -> bytes:
    return bytes((0x16, len(value))) + value.encode()


def vek_extensions(product: str = "Milan", *, kind: str = "vcek", tcb: str | None = None) -> dict[str, bytes]:
    raw = bytes.fromhex(tcb or TCB[product])
    turin = product == "Turin"
    numbers = {"3.8": raw[7]}
    numbers |= {"3.9": raw[0], "3.1": raw[1], "3.2": raw[2], "3.3": raw[3]} if turin else {}
    numbers |= {"3.1": raw[0], "3.2": raw[1], "3.3": raw[6], "3.4": 0} if not turin else {}
    numbers |= {"1": int(turin), "3.5": 0, "3.6": 0, "3.7": 0}
    extensions = {f"{OID}.{suffix}": integer(number) for suffix, number in numbers.items()}
    extensions[f"{OID}.2"] = text("Milan-B0" if (product, kind) == ("Milan", "vcek") else product)
    if kind == "vcek":
        extensions[f"{OID}.4"] = CHIP_ID[:8] if turin else CHIP_ID
    else:
        extensions[f"{OID}.5"] = text(CSP)
    return extensions


def vek(product: str = "Milan", *, kind: str = "vcek", extensions: dict[str, bytes] | None = None, **changes) -> bytes:
    issuer = f"SEV-{product}" if kind == "vcek" else f"SEV-VLEK-{product}"
    attributes = {"key": vek_key(), "signer": ask_key(), "serial": 1} | changes
    chosen = vek_extensions(product, kind=kind) if extensions is None else extensions
    return certificate(f"SEV-{kind.upper()}", issuer, extensions=chosen, **attributes)


@cache
def endorsements(product: str = "Milan", kind: str = "vcek") -> SnpEndorsements:
    role = "SEV" if kind == "vcek" else "SEV-VLEK"
    return SnpEndorsements(vek=vek(product, kind=kind), intermediate=ask(product, role), root=ark(product), crl=None)


def crl(
    *,
    revoked: tuple[int, ...] = (),
    signer: rsa.RSAPrivateKey | None = None,
    last: datetime = CRL_LAST,
    until: datetime = CRL_UNTIL,
) -> bytes:
    builder = x509.CertificateRevocationListBuilder().issuer_name(name("ARK-Milan")).last_update(last)
    builder = builder.next_update(until)
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(last).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(signer or ark_key(), SHA384(), rsa_padding=PSS_48).public_bytes(Encoding.DER)


def crl_without_end() -> bytes:
    """Return a revocation list, signed, that has no nextUpdate."""
    whole = x509.load_der_x509_crl(crl())
    tbs = whole.tbs_certlist_bytes
    header = 2 + (tbs[1] & 0x7F) * (tbs[1] >> 7)
    content = tbs[header:].replace(b"\x17\x0d260701000000Z", b"")
    algorithm = whole.public_bytes(Encoding.DER).partition(tbs)[2].rpartition(b"\x03\x82")[0]
    edited = sequence(content)
    signature = ark_key().sign(edited, PSS_48, SHA384())
    return sequence(edited + algorithm + b"\x03\x82" + (len(signature) + 1).to_bytes(2, "big") + b"\0" + signature)


def sequence(content: bytes) -> bytes:
    size = len(content)
    return b"\x30" + (bytes((size,)) if size < 128 else b"\x82" + size.to_bytes(2, "big")) + content


@dataclass(frozen=True, kw_only=True)
class LabReport:
    """What one report says; a good Milan guest by default."""

    product: str = "Milan"
    version: int = 5
    guest_svn: int = 3
    policy: int = 0x30000
    vmpl: int = 0
    algorithm: int = 1
    platform_info: int = 0x25
    key_info: int = 0
    report_data: bytes = bytes(range(64))
    measurement: bytes = b"\x4d" * 48
    host_data: bytes = b"\x48" * 32
    id_key_digest: bytes = bytes(48)
    author_key_digest: bytes = bytes(48)
    report_id_ma: bytes = b"\xff" * 32
    chip_id: bytes | None = None
    current_tcb: str | None = None
    reported_tcb: str | None = None
    committed_tcb: str | None = None
    launch_tcb: str | None = None
    launch_mitigations: int = 0x0B
    current_mitigations: int = 0x0B
    patches: dict[int, bytes] = field(default_factory=dict)  # offset to bytes, written last, before signing

    def but(self, **changes) -> LabReport:
        return replace(self, **changes)

    def body(self) -> bytes:
        tcb = TCB[self.product]
        family, model = CPUID[self.product]
        chip_id = CHIP_ID[: 8 if self.product == "Turin" else 64] if self.chip_id is None else self.chip_id
        fields = {
            0x000: self.version.to_bytes(4, "little"),
            0x004: self.guest_svn.to_bytes(4, "little"),
            0x008: self.policy.to_bytes(8, "little"),
            0x010: b"\xfa" * 16,
            0x020: b"\x1a" * 16,
            0x030: self.vmpl.to_bytes(4, "little"),
            0x034: self.algorithm.to_bytes(4, "little"),
            0x038: bytes.fromhex(self.current_tcb or tcb),
            0x040: self.platform_info.to_bytes(8, "little"),
            0x048: self.key_info.to_bytes(4, "little"),
            0x050: self.report_data,
            0x090: self.measurement,
            0x0C0: self.host_data,
            0x0E0: self.id_key_digest,
            0x110: self.author_key_digest,
            0x140: b"\x1d" * 32,
            0x160: self.report_id_ma,
            0x180: bytes.fromhex(self.reported_tcb or tcb),
            0x188: bytes((family, model, 1)) if self.version >= 3 else bytes(3),
            0x1A0: chip_id,
            0x1E0: bytes.fromhex(self.committed_tcb or tcb),
            0x1E8: bytes((29, 55, 1, 0, 28, 54, 1, 0)),
            0x1F0: bytes.fromhex(self.launch_tcb or tcb),
        }
        if self.version >= 5:
            fields[0x1F8] = self.launch_mitigations.to_bytes(8, "little")
            fields[0x200] = self.current_mitigations.to_bytes(8, "little")
        raw = bytearray(0x2A0)
        for offset, value in (fields | self.patches).items():
            if offset + len(value) <= len(raw):
                raw[offset : offset + len(value)] = value
        return bytes(raw)

    def encode(self, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
        """Return the signed report, 1184 bytes."""
        body = self.body()
        r, s = decode_dss_signature((key or vek_key()).sign(body, ec.ECDSA(SHA384())))
        raw = bytearray(with_signature(body, r=r, s=s))
        for offset, value in self.patches.items():
            if offset >= 0x2A0:
                raw[offset : offset + len(value)] = value
        return bytes(raw)


def with_signature(report: bytes, *, r: int, s: int) -> bytes:
    return report[:0x2A0] + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368)
